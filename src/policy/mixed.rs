//! Several adapters in one batch: the input of a grafted graph with a row for each row of the batch.

use super::{PolicyError, live::Live};
use crate::{format::ModuleId, runtime::Tensor};

/// Adapters of one rank on the modules of one graft, each with `M = α·Rᵀ` of every module.
///
/// Where an adapter has no update its M is zero, so adapters of different placements, seeds and
/// widths share a graph: the bases depend on weight, module and rank only.
#[derive(Debug, Clone)]
pub struct Mixed {
    modules: Vec<ModuleId>,
    rank: usize,
    /// Of each adapter, `[modules, r, r]`.
    adapters: Vec<Vec<f32>>,
}

impl Mixed {
    /// No adapter yet; `modules` in the order of the graph's input.
    pub fn new(modules: Vec<ModuleId>, rank: usize) -> Self {
        Self { modules, rank, adapters: Vec::new() }
    }

    /// Adds the model without an adapter.
    pub fn push_base(&mut self) {
        self.adapters.push(vec![0.0; self.modules.len() * self.rank * self.rank]);
    }

    /// Adds an adapter.
    ///
    /// # Errors
    /// If it has another rank, or a module that is not in the graph.
    pub fn push(&mut self, live: &Live, v: &[f32]) -> Result<(), PolicyError> {
        if live.rank() != self.rank {
            return Err(PolicyError::OtherRank { graph: self.rank, adapter: live.rank() });
        }
        let square = self.rank * self.rank;
        let own = live.mixing(v)?;
        let own = own.as_f32("mixing")?;
        let mut all = vec![0.0; self.modules.len() * square];
        for (module, values) in live.modules().iter().zip(own.chunks_exact(square)) {
            let at = self.modules.iter().position(|known| known == module);
            let at = at.ok_or(PolicyError::NotGrafted { module: *module })?;
            all[at * square..][..square].copy_from_slice(values);
        }
        self.adapters.push(all);
        Ok(())
    }

    /// How many adapters there are, the base included.
    pub fn len(&self) -> usize {
        self.adapters.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// The value of [`crate::surgery::MIXING`] for a batch whose rows have these adapters:
    /// `[modules, rows, r, r]`. One row serves a batch of any size.
    ///
    /// # Errors
    /// If the runtime refuses the tensor.
    pub fn rows(&self, adapters: &[usize]) -> Result<Tensor, PolicyError> {
        let square = self.rank * self.rank;
        let mut data = Vec::with_capacity(self.modules.len() * adapters.len() * square);
        for module in 0..self.modules.len() {
            for adapter in adapters {
                data.extend_from_slice(&self.adapters[*adapter][module * square..][..square]);
            }
        }
        let dims = [self.modules.len(), adapters.len(), self.rank, self.rank];
        Ok(Tensor::f32(&dims, data)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{Header, Role},
        projection::Geometry,
    };

    fn live(modules: &[ModuleId], seed: u64) -> Live {
        let header = Header { seed, width: 3, ..Header::default() };
        Live::new(Geometry::from(&header), modules).unwrap()
    }

    #[test]
    fn each_row_has_its_adapter_and_zeros_where_that_has_no_module() {
        let modules = [Role::Gate, Role::Up, Role::Down].map(|role| ModuleId::new(0, role));
        let (wide, narrow) = (live(&modules, 1), live(&modules[1..2], 2));
        let v = [0.5, -1.0, 2.0];
        let mut mixed = Mixed::new(modules.to_vec(), 2);
        mixed.push_base();
        mixed.push(&wide, &v).unwrap();
        mixed.push(&narrow, &v).unwrap();
        let rows = mixed.rows(&[2, 0, 1, 1]).unwrap();
        assert_eq!(rows.dims(), [3, 4, 2, 2]);
        let rows = rows.as_f32("rows").unwrap();
        let [wide, narrow] = [wide, narrow].map(|l| l.mixing(&v).unwrap());
        let wide = wide.as_f32("wide").unwrap();
        for (module, found) in rows.chunks_exact(16).enumerate() {
            let own = &wide[4 * module..][..4];
            let of_narrow = if module == 1 { narrow.as_f32("narrow").unwrap() } else { &[0.0; 4] };
            assert_eq!(found, [of_narrow, &[0.0; 4], own, own].concat());
        }
    }

    #[test]
    fn an_adapter_that_does_not_fit_the_graph_is_refused() {
        let modules = [Role::Gate, Role::Up].map(|role| ModuleId::new(0, role));
        let mut mixed = Mixed::new(modules[..1].to_vec(), 2);
        let error = mixed.push(&live(&modules, 1), &[0.0; 3]).unwrap_err();
        assert!(matches!(error, PolicyError::NotGrafted { module } if module == modules[1]));
        let mut mixed = Mixed::new(modules.to_vec(), 3);
        let error = mixed.push(&live(&modules, 1), &[0.0; 3]).unwrap_err();
        assert!(matches!(error, PolicyError::OtherRank { graph: 3, adapter: 2 }));
    }
}
