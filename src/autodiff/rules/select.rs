//! Operators that pick elements.

use super::{Inputs, only};
use crate::{
    autodiff::{
        AutodiffError,
        backward::{Backward, form},
    },
    model::{
        node::{Attribute, int_attribute},
        proto::{NodeProto, tensor_proto::DataType},
    },
};

/// `Where(condition, x, y)`.
pub(super) fn choose(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let dy = only(dy);
    let zero = b.scalar(0.0, &node.output[0])?;
    let mut gradients = Vec::new();
    if b.wants(node, 1) {
        let chosen = b.emit("Where", &[&node.input[0], &dy, &zero]);
        gradients.push((1, b.unbroadcast(chosen, &node.output[0], &node.input[1])?));
    }
    if b.wants(node, 2) {
        let chosen = b.emit("Where", &[&node.input[0], &zero, &dy]);
        gradients.push((2, b.unbroadcast(chosen, &node.output[0], &node.input[2])?));
    }
    Ok(gradients)
}

/// Rows picked along the first axis: each gradient row is added back where it came from.
///
/// Rows of more than one dimension are large and few, and may be picked many times: theirs are
/// summed by a product with zeros and ones, in a fixed order, where a scatter is in none.
pub(super) fn gather(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let axis = int_attribute(node, "axis").unwrap_or(0);
    if axis != 0 {
        return Err(form(node, format!("axis {axis}, the rule covers 0")));
    }
    if b.measured(&node.input[0])?.rank() > 2 && b.measured(&node.input[1])?.rank() == 1 {
        return Ok(vec![(0, sum_by_row(b, &node.input[0], &node.input[1], &only(dy))?)]);
    }
    let last = b.list(&[-1]);
    let rows = b.emit("Unsqueeze", &[&node.input[1], &last]);
    Ok(vec![(0, scatter(b, "ScatterND", &node.input[0], &rows, &only(dy), &[])?)])
}

/// For each row of `like` the sum of those `updates` that `at` says were picked from it.
fn sum_by_row(
    b: &mut Backward<'_>,
    like: &str,
    at: &str,
    updates: &str,
) -> Result<String, AutodiffError> {
    let kind = b.measured(like)?.kind;
    let (first, second) = (b.list(&[0]), b.list(&[1]));
    let shape = b.emit("Shape", &[like]);
    let count = b.emit("Gather", &[&shape, &first]);
    let count = b.emit("Squeeze", &[&count, &first]);
    let (from, step) = (b.integer(0), b.integer(1));
    let places = b.emit("Range", &[&from, &count, &step]);
    let places = b.emit("Unsqueeze", &[&places, &second]);
    let picked = b.emit("Equal", &[&places, at]);
    let picked = b.emit_with("Cast", &[&picked], &[("to", Attribute::Int(kind as i64))]);
    let wide = b.list(&[0, -1]);
    let flat = b.emit("Reshape", &[updates, &wide]);
    let sum = b.emit("MatMul", &[&picked, &flat]);
    b.reshape_to(&sum, like)
}

/// Elements picked along an axis, each added back where it came from.
pub(super) fn gather_elements(
    b: &mut Backward<'_>,
    node: &NodeProto,
    dy: &[Option<String>],
) -> Inputs {
    let axis = Attribute::Int(int_attribute(node, "axis").unwrap_or(0));
    let (x, at) = (&node.input[0], &node.input[1]);
    Ok(vec![(0, scatter(b, "ScatterElements", x, at, &only(dy), &[("axis", axis)])?)])
}

/// Adds `updates` into zeros shaped like `like`, 16 bits in 32: the CPU provider adds no halves.
fn scatter(
    b: &mut Backward<'_>,
    op: &str,
    like: &str,
    at: &str,
    updates: &str,
    attributes: &[(&str, Attribute)],
) -> Result<String, AutodiffError> {
    let half = matches!(b.measured(like)?.kind, DataType::Float16 | DataType::Bfloat16);
    let shape = b.emit("Shape", &[like]);
    let mut attributes = attributes.to_vec();
    attributes.push(("reduction", Attribute::Text("add".into())));
    if !half {
        let zero = b.scalar(0.0, like)?;
        let zeros = b.emit("Expand", &[&zero, &shape]);
        return Ok(b.emit_with(op, &[&zeros, at, updates], &attributes));
    }
    let wide = [("to", Attribute::Int(DataType::Float as i64))];
    let updates = b.emit_with("Cast", &[updates], &wide);
    // Without a value, zeros in 32 bits.
    let zeros = b.emit("ConstantOfShape", &[&shape]);
    let sum = b.emit_with(op, &[&zeros, at, &updates], &attributes);
    Ok(b.emit("CastLike", &[&sum, like]))
}
