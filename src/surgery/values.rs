//! From the input v to M of every module, as nodes.
//!
//! | projection | nodes |
//! |---|---|
//! | seeded, one group | v times α·Pᵀ of every module `[u, modules · r²]` |
//! | seeded | v as `[rows, groups, 1, u]`, the groups of the modules, times α·Pᵀ `[modules, u, r²]` |
//! | unit | v as `[rows, groups, r, r]`, the groups of the modules, transposed, times α |
//!
//! Each way `[rows, modules · r, r]` is cut into `[rows, r, r]` for each module. Transposed and
//! scaled is the projection, so that no node does it when the model runs; a unit projection would
//! be larger than all it does. With one group a single product is several times as fast as one for
//! each module.

use super::{GraftError, VALUES, mixing_of};
use crate::{
    format::Projection,
    model::{
        MAX_FILE,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{NodeProto, TensorProto},
    },
    projection::{Geometry, Selection, projections},
};

/// Nodes that make [`mixing_of`] every module from [`VALUES`], and the constants they read.
pub(super) struct Mixing {
    pub initializers: Vec<TensorProto>,
    pub nodes: Vec<NodeProto>,
}

/// Plans M of every selected module.
pub(super) fn mixing_of_all(selection: &Selection) -> Result<Mixing, GraftError> {
    let Geometry { rank, width, groups, .. } = *selection.geometry();
    let [modules, rank, width] = [selection.modules().len(), rank, width].map(|n| n as i64);
    let mut mixing = Mixing { initializers: Vec::new(), nodes: Vec::new() };
    let mixings = match (selection.geometry().projection, groups) {
        (Projection::Seeded, 1) => {
            mixing.projected(VALUES, &[width, modules * rank * rank], &projection(selection)?)
        }
        (Projection::Seeded, _) => {
            let values = mixing.of_modules(selection, [1, width]);
            mixing.projected(values, &[modules, width, rank * rank], &projection(selection)?)
        }
        (Projection::Unit, _) => {
            let values = mixing.of_modules(selection, [rank, rank]);
            let turn = Attribute::Ints(vec![0, 1, 3, 2]);
            let turned = mixing.then("Transpose", "tla/turned", &[values], Some(("perm", turn)));
            mixing.initializers.push(tensor_f32("tla/scale", &[1], &[selection.geometry().scale]));
            mixing.then("Mul", "tla/mixings", &[turned, "tla/scale"], None)
        }
    };
    let stacked = mixing.reshaped(mixings, "tla/stacked", &[-1, modules * rank, rank]);
    let sizes = vec![rank; selection.modules().len()];
    mixing.initializers.push(tensor_i64("tla/sizes", &[modules], &sizes));
    let outputs: Vec<String> = selection.modules().iter().copied().map(mixing_of).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let cut = node("Split", "tla/split", &[stacked, "tla/sizes"], &outputs);
    mixing.nodes.push(with_attribute(cut, "axis", Attribute::Int(1)));
    Ok(mixing)
}

impl Mixing {
    /// The values of each module's group, `[rows, modules, …]`, each of the shape `inner`.
    fn of_modules(&mut self, selection: &Selection, inner: [i64; 2]) -> &'static str {
        let shape = [-1, selection.geometry().groups as i64, inner[0], inner[1]];
        let values = self.reshaped(VALUES, "tla/values", &shape);
        let each: Vec<i64> = selection.groups().iter().map(|&group| group as i64).collect();
        self.initializers.push(tensor_i64("tla/groups", &[each.len() as i64], &each));
        let axis = Some(("axis", Attribute::Int(1)));
        self.then("Gather", "tla/grouped", &[values, "tla/groups"], axis)
    }

    fn projected(&mut self, values: &str, dims: &[i64], projection: &[f32]) -> &'static str {
        self.initializers.push(tensor_f32("tla/projection", dims, projection));
        self.then("MatMul", "tla/mixings", &[values, "tla/projection"], None)
    }

    fn reshaped<'a>(&mut self, value: &str, name: &'a str, shape: &[i64]) -> &'a str {
        let constant = format!("{name}_shape");
        self.initializers.push(tensor_i64(&constant, &[shape.len() as i64], shape));
        self.nodes.push(node("Reshape", name, &[value, &constant], &[name]));
        name
    }

    fn then<'a>(
        &mut self,
        op_type: &str,
        name: &'a str,
        inputs: &[&str],
        attribute: Option<(&str, Attribute)>,
    ) -> &'a str {
        let made = node(op_type, name, inputs, &[name]);
        self.nodes.push(match attribute {
            Some((key, value)) => with_attribute(made, key, value),
            None => made,
        });
        name
    }
}

/// α·Pᵢᵀ of every module and i: `[modules, u, r²]`, or `[u, modules, r²]` with one group.
fn projection(selection: &Selection) -> Result<Vec<f32>, GraftError> {
    let Geometry { rank, width, groups, scale, .. } = *selection.geometry();
    let (modules, square) = (selection.modules().len(), rank * rank);
    let most = MAX_FILE / size_of::<f32>() as u64;
    // A rank fits a byte, a width and a number of modules sixteen bits and little more.
    let numbers = modules as u64 * width as u64 * square as u64;
    if numbers > most {
        return Err(GraftError::TooLarge { numbers, most });
    }
    let mut flat = vec![0.0; numbers as usize];
    for (module, &id) in selection.modules().iter().enumerate() {
        let each = projections(selection.geometry(), id);
        for (i, p) in each.chunks_exact(square).enumerate() {
            let place = if groups == 1 { i * modules + module } else { module * width + i };
            for (k, out) in flat[place * square..][..square].iter_mut().enumerate() {
                let value = f64::from(scale) * p[(k % rank) * rank + k / rank];
                *out = value as f32;
                if !out.is_finite() {
                    return Err(GraftError::Scale { scale, value });
                }
            }
        }
    }
    Ok(flat)
}
