//! The paths of a model that ships, with fewer operators: modules that read the same value, such as
//! query, key and value, share `X·V` and the product with M.
//!
//! V of the modules stand beside each other, `[in, modules · r]`; M is one block of each module on
//! the diagonal; L of a module has rows of zeros for the others. A sum gains terms that are zero.

use super::{
    Edit, GraftError, LowRank, Patch,
    lowrank::{Site, by_row, sites, tensor},
};
use crate::{
    format::ModuleId,
    model::{node::node, proto::GraphProto},
};
use ndarray::{Array2, s};

/// Nodes that read one value, and the paths beside them.
pub(super) struct Fan<'a, 'b> {
    sites: Vec<Site<'a, 'b>>,
}

/// The paths by what they read, in the order of the first of each.
pub(super) fn fans<'a, 'b>(paths: &'b [LowRank<'a>]) -> Result<Vec<Fan<'a, 'b>>, GraftError> {
    let mut fans = Vec::<Fan<'_, '_>>::new();
    for site in sites(paths)? {
        let same = |fan: &&mut Fan<'_, '_>| fan.sites.iter().any(|s| s.at.input == site.at.input);
        match fans.iter_mut().find(same) {
            Some(fan) => fan.sites.push(site),
            None => fans.push(Fan { sites: vec![site] }),
        }
    }
    // What the first makes, the others read.
    fans.iter_mut().for_each(|fan| fan.sites.sort_by_key(|site| site.at.sum));
    Ok(fans)
}

impl Fan<'_, '_> {
    fn paths(&self) -> impl Iterator<Item = &LowRank<'_>> {
        self.sites.iter().flat_map(|site| site.paths.iter().copied())
    }

    /// The modules, in the order of their columns.
    pub fn modules(&self) -> Vec<ModuleId> {
        self.paths().map(|path| path.target.module).collect()
    }

    /// The tensor that holds M of all modules: `[rows, modules · r, columns]`.
    pub fn mixing(&self) -> Option<String> {
        self.sites.first().map(|first| first.name("mixing"))
    }

    /// Plans the paths; so many `columns` has M.
    pub fn extend(
        &self,
        graph: &GraphProto,
        patch: &mut Patch,
        rank: usize,
        columns: usize,
    ) -> Result<(), GraftError> {
        let (Some(first), Some(mixing)) = (self.sites.first(), self.mixing()) else {
            return Ok(());
        };
        let (target, count) = (first.target, self.paths().count());
        let mut whole = Array2::zeros((target.cols, count * rank));
        for (index, path) in self.paths().enumerate() {
            let (found, expected) = (path.right.shape().to_vec(), [target.cols, rank]);
            if found != expected {
                let module = path.target.module;
                return Err(GraftError::FactorShape { module, found, expected });
            }
            whole.slice_mut(s![.., index * rank..(index + 1) * rank]).assign(&path.right);
        }
        let [right, narrow, mixed] = ["right", "narrow", "mixed"].map(|part| first.name(part));
        let shape = [whole.nrows(), whole.ncols()];
        let v = tensor(target.module, &right, whole.view(), shape)?;
        patch.edits.push(Edit::AddInitializer(v));
        let mut nodes = Vec::new();
        let wide = first.wide(&mut nodes);
        nodes.push(node("MatMul", &narrow, &[&wide, &right], &[&narrow]));
        let batched = self.sites.iter().all(|site| site.at.batched);
        let narrow = match batched {
            true => narrow,
            false => by_row(patch, &mut nodes, &narrow, &mixing, count * rank),
        };
        nodes.push(node("MatMul", &mixed, &[&narrow, &mixing], &[&mixed]));
        let mut offset = 0;
        for site in &self.sites {
            let nodes = std::mem::take(&mut nodes);
            site.add(graph, patch, nodes, &mixed, [columns, offset], batched)?;
            offset += site.paths.len() * rank;
        }
        Ok(())
    }
}
