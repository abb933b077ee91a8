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
