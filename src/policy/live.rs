//! An adapter as the input of a grafted graph, and the way back for its gradient.

use super::PolicyError;
use crate::{
    format::ModuleId,
    projection::{Geometry, ProjectionError, group_of, projections},
    runtime::Tensor,
};

/// How v reaches the modules of a graph: `R = Σᵢ vᵢ·Pᵢ` of each module's group (paper, section 3).
#[derive(Debug, Clone)]
pub struct Live {
    modules: Vec<ModuleId>,
    geometry: Geometry,
    groups: Vec<usize>,
    projections: Vec<Vec<f64>>,
}

impl Live {
    /// For `modules`, sorted by layer and role, under a geometry.
    ///
    /// # Errors
    /// If the geometry does not fit the modules.
    pub fn new(geometry: Geometry, modules: &[ModuleId]) -> Result<Self, ProjectionError> {
        let wide = u16::try_from(geometry.groups).unwrap_or(u16::MAX);
        if geometry.groups == 0 || geometry.groups > modules.len() {
            return Err(ProjectionError::TooManyGroups { groups: wide, modules: modules.len() });
        }
        let groups = (0..modules.len())
            .map(|index| group_of(geometry.tying, wide, modules, index))
            .collect();
        let projections = modules.iter().map(|m| projections(&geometry, *m)).collect();
        Ok(Self { modules: modules.to_vec(), geometry, groups, projections })
    }

    /// The modules, in the order of the graph's input.
    pub fn modules(&self) -> &[ModuleId] {
        &self.modules
    }

    /// Rank r.
    pub fn rank(&self) -> usize {
        self.geometry.rank
    }

    /// The number of values in v.
    pub fn parameters(&self) -> usize {
        self.geometry.width * self.geometry.groups
    }

    /// `M = α·Rᵀ` of each module, `[modules, 1, r, r]`: the value of
    /// [`crate::surgery::MIXING`].
    ///
    /// # Errors
    /// If the runtime refuses the tensor.
    pub fn mixing(&self, v: &[f32]) -> Result<Tensor, PolicyError> {
        let rank = self.geometry.rank;
        let alpha = f64::from(self.geometry.scale);
        let mut data = Vec::with_capacity(self.modules.len() * rank * rank);
        for (module, projections) in self.projections.iter().enumerate() {
            let mut r = vec![0f64; rank * rank];
            for (i, p) in projections.chunks_exact(rank * rank).enumerate() {
                let value = f64::from(v[self.slot(module, i)]);
                r.iter_mut().zip(p).for_each(|(r, p)| *r += value * p);
            }
            data.extend((0..rank * rank).map(|k| (alpha * r[(k % rank) * rank + k / rank]) as f32));
        }
        Ok(Tensor::f32(&[self.modules.len(), 1, rank, rank], data)?)
    }

    /// From dL/dM of each module, `[modules, r, r]`, to dL/dR of each, in f64.
    pub fn by_mixing(&self, gradient: &[f32]) -> Vec<Vec<f64>> {
        let rank = self.geometry.rank;
        let alpha = f64::from(self.geometry.scale);
        let transposed = |m: &[f32]| {
            let entry = |k: usize| alpha * f64::from(m[(k % rank) * rank + k / rank]);
            (0..rank * rank).map(entry).collect()
        };
        gradient.chunks_exact(rank * rank).map(transposed).collect()
    }

    /// From dL/dR of each module to dL/dv: sums over modules in order.
    pub fn pull_back(&self, by_mixing: &[Vec<f64>]) -> Vec<f64> {
        let square = self.geometry.rank.pow(2);
        let mut gradient = vec![0f64; self.parameters()];
        for (module, dr) in by_mixing.iter().enumerate() {
            for (i, p) in self.projections[module].chunks_exact(square).enumerate() {
                let inner: f64 = p.iter().zip(dr).map(|(p, d)| p * d).sum();
                gradient[self.slot(module, i)] += inner;
            }
        }
        gradient
    }

    fn slot(&self, module: usize, i: usize) -> usize {
        self.groups[module] * self.geometry.width + i
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{Header, Role, Tying},
        projection::mixing,
    };

    fn lives() -> Vec<(Geometry, Live)> {
        let modules: Vec<ModuleId> =
            (0..3).flat_map(|l| [Role::Gate, Role::Down].map(|r| ModuleId::new(l, r))).collect();
        let kinds = [(1, Tying::Tiled, 1.0), (2, Tying::Tiled, 0.5), (2, Tying::Structured, 3.0)];
        let of = |(groups, tying, scale)| {
            let header = Header { groups, tying, scale, width: 5, ..Header::default() };
            let geometry = Geometry::from(&header);
            (geometry, Live::new(geometry, &modules).unwrap())
        };
        kinds.into_iter().map(of).collect()
    }

    fn values(live: &Live) -> Vec<f32> {
        (0..live.parameters()).map(|i| (i as f32 - 3.0) / 8.0).collect()
    }

    #[test]
    fn the_graph_is_fed_alpha_times_r_transposed() {
        for (geometry, live) in lives() {
            let v = values(&live);
            let fed = live.mixing(&v).unwrap();
            let fed = fed.as_f32("mixing").unwrap();
            for (index, (module, m)) in live.modules().iter().zip(fed.chunks_exact(4)).enumerate() {
                let group = group_of(geometry.tying, geometry.groups as u16, live.modules(), index);
                let own: Vec<f64> = v[5 * group..][..5].iter().map(|x| f64::from(*x)).collect();
                let r = mixing(&geometry, *module, &own);
                let alpha = f64::from(geometry.scale);
                let expected = [r[0], r[2], r[1], r[3]].map(|x| (alpha * x) as f32);
                assert_eq!(m, expected, "{module}");
            }
        }
    }

    #[test]
    fn the_pull_back_is_the_gradient_of_any_linear_loss() {
        for (_, live) in lives() {
            // L = Σ wₖ·Mₖ, so dL/dM = w and dL/dvᵢ is L at the i-th unit vector.
            let weights: Vec<f32> =
                (0..live.modules().len() * 4).map(|k| (k % 7) as f32 - 2.5).collect();
            let gradient = live.pull_back(&live.by_mixing(&weights));
            for (i, found) in gradient.iter().enumerate() {
                let mut unit = vec![0.0; live.parameters()];
                unit[i] = 1.0;
                let fed = live.mixing(&unit).unwrap();
                let loss: f64 = fed
                    .as_f32("mixing")
                    .unwrap()
                    .iter()
                    .zip(&weights)
                    .map(|(m, w)| f64::from(*m) * f64::from(*w))
                    .sum();
                assert!((found - loss).abs() < 1e-5, "{found} {loss}");
            }
        }
    }
}
