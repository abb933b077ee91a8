//! Operators that pick elements.

use super::{Inputs, only};
use crate::{
    autodiff::backward::{Backward, form},
    model::{
        node::{Attribute, int_attribute},
        proto::NodeProto,
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
pub(super) fn gather(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let axis = int_attribute(node, "axis").unwrap_or(0);
    if axis != 0 {
        return Err(form(node, format!("axis {axis}, the rule covers 0")));
    }
    let zeros = zeros_like(b, &node.input[0])?;
    let last = b.list(&[-1]);
    let rows = b.emit("Unsqueeze", &[&node.input[1], &last]);
    let reduction = [("reduction", Attribute::Text("add".into()))];
    Ok(vec![(0, b.emit_with("ScatterND", &[&zeros, &rows, &only(dy)], &reduction))])
}

/// Elements picked along an axis, each added back where it came from.
pub(super) fn gather_elements(
    b: &mut Backward<'_>,
    node: &NodeProto,
    dy: &[Option<String>],
) -> Inputs {
    let axis = Attribute::Int(int_attribute(node, "axis").unwrap_or(0));
    let zeros = zeros_like(b, &node.input[0])?;
    let attributes = [("axis", axis), ("reduction", Attribute::Text("add".into()))];
    let dx = b.emit_with("ScatterElements", &[&zeros, &node.input[1], &only(dy)], &attributes);
    Ok(vec![(0, dx)])
}

fn zeros_like(
    b: &mut Backward<'_>,
    tensor: &str,
) -> Result<String, crate::autodiff::AutodiffError> {
    let zero = b.scalar(0.0, tensor)?;
    let shape = b.emit("Shape", &[tensor]);
    Ok(b.emit("Expand", &[&zero, &shape]))
}
