//! From the input v to M of every fan, as nodes.
//!
//! | projection | nodes |
//! |---|---|
//! | seeded, one group | v times α·Pᵀ of every module `[u, modules · r · c]` |
//! | seeded | v as `[rows, groups, 1, u]`, the groups of the modules, times α·Pᵀ `[modules, u, r · c]` |
//! | unit | v as `[rows, groups, r, r]`, the groups of the modules, transposed, times α·E `[modules, r, c]` |
//!
//! Each way `[rows, modules · r, c]` is cut into `[rows, modules of the fan · r, c]` for each fan. The
//! columns of a module are those at its place in the fan, the others zero; E puts them there. Transposed
//! and scaled is the projection, so that no node does it when the model runs; a unit projection would be
//! larger than all it does. With one group a single product is several times as fast as one for each
//! module.

use super::{GraftError, VALUES, fans::Fan};
use crate::{
    format::{ModuleId, Projection},
    model::{
        MAX_FILE,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{NodeProto, TensorProto},
    },
    projection::{Geometry, Selection, projections},
};

/// Nodes that make [`Fan::mixing`] of every fan from [`VALUES`], and the constants they read.
pub(super) struct Mixing {
    pub initializers: Vec<TensorProto>,
    pub nodes: Vec<NodeProto>,
}

/// A module in the order of the fans.
struct Place {
    /// Among the selected modules.
    index: usize,
    /// Its first column.
    column: usize,
}

/// Plans M of every fan, of so many `columns`.
pub(super) fn mixing_of_all(
    selection: &Selection,
    fans: &[Fan<'_, '_>],
    columns: usize,
) -> Result<Mixing, GraftError> {
    let Geometry { rank, width, groups, .. } = *selection.geometry();
    let places = places(selection, fans)?;
    let mut mixing = Mixing { initializers: Vec::new(), nodes: Vec::new() };
    let [modules, r, u, c] = [places.len(), rank, width, columns].map(|n| n as i64);
    let mixings = match (selection.geometry().projection, groups) {
        (Projection::Seeded, 1) => {
            let projection = projection(selection, &places, columns)?;
            mixing.constant(VALUES, "tla/projection", &[u, modules * r * c], &projection)
        }
        (Projection::Seeded, _) => {
            let projection = projection(selection, &places, columns)?;
            let values = mixing.of_modules(selection, &places, [1, u]);
            mixing.constant(values, "tla/projection", &[modules, u, r * c], &projection)
        }
        (Projection::Unit, _) => {
            let values = mixing.of_modules(selection, &places, [r, r]);
            let turn = Attribute::Ints(vec![0, 1, 3, 2]);
            let turned = mixing.then("Transpose", "tla/turned", &[values], Some(("perm", turn)));
            let scaled = scaled(&places, rank, columns, selection.geometry().scale);
            mixing.constant(turned, "tla/scale", &[modules, r, c], &scaled)
        }
    };
    let stacked = mixing.reshaped(mixings, "tla/stacked", &[-1, modules * r, c]);
    let sizes: Vec<i64> = fans.iter().map(|fan| r * fan.modules().len() as i64).collect();
    mixing.initializers.push(tensor_i64("tla/sizes", &[sizes.len() as i64], &sizes));
    let outputs: Vec<String> = fans.iter().filter_map(Fan::mixing).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let cut = node("Split", "tla/split", &[stacked, "tla/sizes"], &outputs);
    mixing.nodes.push(with_attribute(cut, "axis", Attribute::Int(1)));
    Ok(mixing)
}

fn places(selection: &Selection, fans: &[Fan<'_, '_>]) -> Result<Vec<Place>, GraftError> {
    let rank = selection.geometry().rank;
    let of_fan = |fan: &Fan<'_, '_>| {
        let place = |(place, module): (usize, ModuleId)| {
            let index = selection.modules().binary_search(&module);
            let index = index.map_err(|_| GraftError::NotTheGraph { module })?;
            Ok(Place { index, column: place * rank })
        };
        fan.modules().into_iter().enumerate().map(place).collect::<Vec<_>>()
    };
    fans.iter().flat_map(of_fan).collect()
}

/// α in the columns of each module.
fn scaled(places: &[Place], rank: usize, columns: usize, scale: f32) -> Vec<f32> {
    let mut flat = vec![0.0; places.len() * rank * columns];
    for (matrix, place) in flat.chunks_exact_mut(rank * columns).zip(places) {
        for k in 0..rank {
            matrix[k * columns + place.column + k] = scale;
        }
    }
    flat
}

impl Mixing {
    /// The values of each module's group, `[rows, modules, …]`, each of the shape `inner`.
    fn of_modules(
        &mut self,
        selection: &Selection,
        places: &[Place],
        inner: [i64; 2],
    ) -> &'static str {
        let shape = [-1, selection.geometry().groups as i64, inner[0], inner[1]];
        let values = self.reshaped(VALUES, "tla/values", &shape);
        let groups = selection.groups();
        let each: Vec<i64> = places.iter().map(|place| groups[place.index] as i64).collect();
        self.initializers.push(tensor_i64("tla/groups", &[each.len() as i64], &each));
        let axis = Some(("axis", Attribute::Int(1)));
        self.then("Gather", "tla/grouped", &[values, "tla/groups"], axis)
    }

    /// The product of a value and a constant.
    fn constant(&mut self, value: &str, name: &str, dims: &[i64], numbers: &[f32]) -> &'static str {
        self.initializers.push(tensor_f32(name, dims, numbers));
        self.then("MatMul", "tla/mixings", &[value, name], None)
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

/// α·Pᵢᵀ of every module and i in the module's columns: `[modules, u, r · c]`, or
/// `[u, modules, r · c]` with one group.
fn projection(
    selection: &Selection,
    places: &[Place],
    columns: usize,
) -> Result<Vec<f32>, GraftError> {
    let Geometry { rank, width, groups, scale, .. } = *selection.geometry();
    let (modules, square) = (places.len(), rank * rank);
    let most = MAX_FILE / size_of::<f32>() as u64;
    // A rank fits a byte, a width and a number of modules sixteen bits and little more.
    let (each, numbers) = (rank * columns, modules as u64 * width as u64);
    let numbers = numbers.saturating_mul(each as u64);
    if numbers > most {
        return Err(GraftError::TooLarge { numbers, most });
    }
    let mut flat = vec![0.0; numbers as usize];
    for (module, place) in places.iter().enumerate() {
        let known = projections(selection.geometry(), selection.modules()[place.index]);
        for (i, p) in known.chunks_exact(square).enumerate() {
            let matrix = if groups == 1 { i * modules + module } else { module * width + i };
            let matrix = &mut flat[matrix * each..][..each];
            for k in 0..square {
                let value = f64::from(scale) * p[(k % rank) * rank + k / rank];
                if !(value as f32).is_finite() {
                    return Err(GraftError::Scale { scale, value });
                }
                matrix[k / rank * columns + place.column + k % rank] = value as f32;
            }
        }
    }
    Ok(flat)
}
