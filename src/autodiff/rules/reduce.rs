//! Sums, means and the softmax family.

use super::{Inputs, only};
use crate::{
    autodiff::{
        AutodiffError,
        backward::{Backward, form},
    },
    model::{
        node::{int_attribute, ints_attribute},
        proto::NodeProto,
    },
};

pub(super) fn sum(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let spread = spread(b, node, &only(dy))?;
    Ok(vec![(0, spread)])
}

pub(super) fn mean(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let (x, y) = (&node.input[0], &node.output[0]);
    let sizes = (b.emit("Size", &[x]), b.emit("Size", &[y]));
    let count = b.emit("Div", &[&sizes.0, &sizes.1]);
    let count = b.emit("CastLike", &[&count, x]);
    let share = b.emit("Div", &[&only(dy), &count]);
    let spread = spread(b, node, &share)?;
    Ok(vec![(0, spread)])
}

/// Repeats the gradient of a reduced tensor along the reduced axes.
fn spread(b: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Result<String, AutodiffError> {
    let measured = b.measured(&node.input[0])?;
    let axes = match ints_attribute(node, "axes") {
        Some(axes) => axes.to_vec(),
        None => match node.input.get(1).filter(|name| !name.is_empty()) {
            Some(name) => {
                b.index.integers(name).ok_or_else(|| form(node, "axes are not constant"))?
            }
            None if int_attribute(node, "noop_with_empty_axes") == Some(1) => {
                return Ok(dy.to_owned());
            }
            None => (0..measured.rank() as i64).collect(),
        },
    };
    let mut kept = dy.to_owned();
    if int_attribute(node, "keepdims").unwrap_or(1) == 0 {
        let axes = b.list(&axes);
        kept = b.emit("Unsqueeze", &[dy, &axes]);
    }
    let shape = b.emit("Shape", &[&node.input[0]]);
    Ok(b.emit("Expand", &[&kept, &shape]))
}

/// `dx = y·(dy − Σ dy·y)`. Where the exporter repairs NaN rows (fully masked ones) behind the
/// Softmax, the repaired tensor is used: the raw one would poison every row's gradient.
pub(super) fn softmax(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let dy = only(dy);
    let y = repaired(b, &node.output[0]);
    let product = b.emit("Mul", &[&dy, &y]);
    let axes = softmax_axis(b, node)?;
    let total = b.emit("ReduceSum", &[&product, &axes]);
    let scaled = b.emit("Mul", &[&y, &total]);
    Ok(vec![(0, b.emit("Sub", &[&product, &scaled]))])
}

/// `dx = dy − exp(y)·Σ dy`.
pub(super) fn log_softmax(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let dy = only(dy);
    let axes = softmax_axis(b, node)?;
    let total = b.emit("ReduceSum", &[&dy, &axes]);
    let p = b.emit("Exp", &[&node.output[0]]);
    let scaled = b.emit("Mul", &[&p, &total]);
    Ok(vec![(0, b.emit("Sub", &[&dy, &scaled]))])
}

fn softmax_axis(b: &mut Backward<'_>, node: &NodeProto) -> Result<String, AutodiffError> {
    let axis = int_attribute(node, "axis").unwrap_or(-1);
    let found = b.measured(&node.input[0])?.axis(axis);
    let axis = found.ok_or_else(|| form(node, format!("axis {axis} out of range")))?;
    Ok(b.list(&[axis as i64]))
}

/// `Where(IsNaN(y), 0, y)` if the graph has it, else `y`.
fn repaired(b: &Backward<'_>, y: &str) -> String {
    let is_nan: Vec<&str> = b
        .index
        .consumers(y)
        .filter(|n| n.op_type() == "IsNaN")
        .map(|n| n.output[0].as_str())
        .collect();
    let repair = b.index.consumers(y).find(|n| {
        n.op_type() == "Where" && is_nan.contains(&n.input[0].as_str()) && n.input[2] == y
    });
    repair.map_or_else(|| y.to_owned(), |n| n.output[0].clone())
}
