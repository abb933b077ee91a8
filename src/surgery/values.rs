//! From the input v to M of every module, as nodes.
//!
//! | projection | nodes |
//! |---|---|
//! | seeded | v as `[rows, groups, 1, u]`, the groups of the modules, times α·Pᵀ `[modules, u, r²]` |
//! | unit | v as `[rows, groups, r, r]`, the groups of the modules, transposed, times α |
//!
//! Either way `[rows, modules · r, r]` is cut into `[rows, r, r]` for each module. Transposed and
//! scaled is the projection, so that no node does it when the model runs; a unit projection would
//! be larger than all it does.

use super::{GraftError, VALUES, mixing_of, rebuild::Selection};
use crate::{
    format::Projection,
    model::{
        MAX_FILE,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{NodeProto, TensorProto},
    },
    projection::{Geometry, projections},
};

/// Nodes that make [`mixing_of`] every module from [`VALUES`], and the constants they read.
pub(super) struct Mixing {
    pub initializers: Vec<TensorProto>,
    pub nodes: Vec<NodeProto>,
}

/// Plans M of every selected module.
pub(super) fn mixing_of_all(selection: &Selection<'_>) -> Result<Mixing, GraftError> {
    let geometry = &selection.geometry;
    let modules = selection.each.len() as i64;
    let (rank, groups) = (geometry.rank as i64, geometry.groups as i64);
    let mut mixing = Mixing { initializers: Vec::new(), nodes: Vec::new() };
    let (inner, shared) = match geometry.projection {
        Projection::Seeded => ([1, geometry.width as i64], groups == 1),
        Projection::Unit => ([rank, rank], false),
    };
    let shape = [-1, groups, inner[0], inner[1]];
    let mut of_modules = mixing.reshaped(VALUES, "tla/values", &shape);
    // A product spreads the one group over the modules by itself.
    if !shared {
        let each: Vec<i64> = selection.each.iter().map(|s| s.group as i64).collect();
        mixing.initializers.push(tensor_i64("tla/groups", &[modules], &each));
        let axis = Attribute::Int(1);
        of_modules =
            mixing.then("Gather", "tla/grouped", &[of_modules, "tla/groups"], "axis", axis);
    }
    let flat = match geometry.projection {
        Projection::Seeded => {
            let dims = [modules, inner[1], rank * rank];
            mixing.initializers.push(tensor_f32("tla/projection", &dims, &projection(selection)?));
            let product =
                node("MatMul", "tla/mixings", &[of_modules, "tla/projection"], &["tla/mixings"]);
            mixing.nodes.push(product);
            "tla/mixings"
        }
        Projection::Unit => {
            let turn = Attribute::Ints(vec![0, 1, 3, 2]);
            let turned = mixing.then("Transpose", "tla/turned", &[of_modules], "perm", turn);
            mixing.initializers.push(tensor_f32("tla/scale", &[1], &[geometry.scale]));
            mixing.nodes.push(node("Mul", "tla/mixings", &[turned, "tla/scale"], &["tla/mixings"]));
            "tla/mixings"
        }
    };
    let stacked = mixing.reshaped(flat, "tla/stacked", &[-1, modules * rank, rank]);
    let sizes = vec![rank; selection.each.len()];
    mixing.initializers.push(tensor_i64("tla/sizes", &[modules], &sizes));
    let outputs: Vec<String> = selection.each.iter().map(|s| mixing_of(s.target.module)).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let cut = node("Split", "tla/split", &[stacked, "tla/sizes"], &outputs);
    mixing.nodes.push(with_attribute(cut, "axis", Attribute::Int(1)));
    Ok(mixing)
}

impl Mixing {
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
        key: &str,
        value: Attribute,
    ) -> &'a str {
        self.nodes.push(with_attribute(node(op_type, name, inputs, &[name]), key, value));
        name
    }
}

/// α·Pᵢᵀ of every module and i, `[modules, u, r²]`.
fn projection(selection: &Selection<'_>) -> Result<Vec<f32>, GraftError> {
    let Geometry { rank, width, scale, .. } = selection.geometry;
    let most = MAX_FILE / size_of::<f32>() as u64;
    // A rank fits a byte, a width and a number of modules sixteen bits and little more.
    let numbers = selection.each.len() as u64 * width as u64 * (rank * rank) as u64;
    if numbers > most {
        return Err(GraftError::TooLarge { numbers, most });
    }
    let mut flat = Vec::with_capacity(numbers as usize);
    for selected in &selection.each {
        let each = projections(&selection.geometry, selected.target.module);
        for p in each.chunks_exact(rank * rank) {
            for k in 0..rank * rank {
                let value = f64::from(scale) * p[(k % rank) * rank + k / rank];
                if !(value as f32).is_finite() {
                    return Err(GraftError::Scale { scale, value });
                }
                flat.push(value as f32);
            }
        }
    }
    Ok(flat)
}
