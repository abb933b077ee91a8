//! Operators that move elements without changing them.

use super::{Inputs, only};
use crate::{
    autodiff::{
        AutodiffError,
        backward::{Backward, form},
    },
    model::{
        node::{Attribute, int_attribute, ints_attribute},
        proto::{NodeProto, tensor_proto::DataType},
    },
};

/// Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the input's shape, read from the input
/// itself because the forward shape may hold 0 or −1.
pub(super) fn reshape(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, b.reshape_to(&only(dy), &node.input[0])?)])
}

pub(super) fn transpose(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let rank = b.measured(&node.input[0])?.rank();
    let perm = match ints_attribute(node, "perm") {
        Some(perm) => perm.to_vec(),
        None => (0..rank as i64).rev().collect(),
    };
    let mut inverse = vec![0; rank];
    for (to, from) in perm.iter().enumerate() {
        let slot = usize::try_from(*from).ok().and_then(|f| inverse.get_mut(f));
        *slot.ok_or_else(|| form(node, format!("perm {perm:?} for rank {rank}")))? = to as i64;
    }
    let dx = b.emit_with("Transpose", &[&only(dy)], &[("perm", Attribute::Ints(inverse))]);
    Ok(vec![(0, dx)])
}

pub(super) fn expand(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, b.unbroadcast(only(dy), &node.output[0], &node.input[0])?)])
}

/// Each part takes its own stretch of the gradient, found from the sizes of those before it.
pub(super) fn concat(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let axis = int_attribute(node, "axis").unwrap_or(0);
    let axis = b
        .measured(&node.output[0])?
        .axis(axis)
        .ok_or_else(|| form(node, format!("axis {axis} out of range")))?;
    let axis_list = b.list(&[axis as i64]);
    let dy = only(dy);
    let mut gradients = Vec::new();
    let mut start = b.list(&[0]);
    for (slot, name) in node.input.iter().enumerate() {
        let size = size_along(b, name, axis, &axis_list)?;
        let end = b.emit("Add", &[&start, &size]);
        if b.wants(node, slot) {
            gradients.push((slot, b.emit("Slice", &[&dy, &start, &end, &axis_list])));
        }
        start = end;
    }
    Ok(gradients)
}

/// The parts' gradients side by side, zeros for parts the loss does not use.
pub(super) fn split(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let axis = int_attribute(node, "axis").unwrap_or(0);
    let mut parts = Vec::new();
    for (slot, name) in node.output.iter().enumerate() {
        parts.push(match &dy[slot] {
            Some(gradient) => gradient.clone(),
            None => {
                let shape = b.emit("Shape", &[name]);
                let zero = b.scalar(0.0, &node.input[0])?;
                b.emit("Expand", &[&zero, &shape])
            }
        });
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(vec![(0, b.emit_with("Concat", &parts, &[("axis", Attribute::Int(axis))]))])
}

/// The gradient padded with zeros to where it was cut out, 16 bits in 32. Covers one axis and step 1; bounds
/// may be computed, negative or past the end.
pub(super) fn slice(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let measured = b.measured(&node.input[0])?;
    let axes = match node.input.get(3).filter(|name| !name.is_empty()) {
        Some(name) => b.index.integers(name),
        None => Some(vec![0]),
    };
    let axis = match axes.as_deref() {
        Some([one]) => measured.axis(*one),
        _ => None,
    };
    let axis = axis.ok_or_else(|| form(node, format!("axes {axes:?}, the rule covers one")))?;
    if let Some(steps) = node.input.get(4).filter(|name| !name.is_empty()) {
        let steps = b.index.integers(steps);
        if steps.as_deref() != Some(&[1]) {
            return Err(form(node, format!("steps {steps:?}, the rule covers 1")));
        }
    }
    let dy = only(dy);
    let axis_list = b.list(&[axis as i64]);
    let whole = size_along(b, &node.input[0], axis, &axis_list)?;
    let part = size_along(b, &node.output[0], axis, &axis_list)?;
    let zero = b.list(&[0]);
    let negative = b.emit("Less", &[&node.input[1], &zero]);
    let wrapped = b.emit("Add", &[&node.input[1], &whole]);
    let start = b.emit("Where", &[&negative, &wrapped, &node.input[1]]);
    let start = b.emit("Max", &[&start, &zero]);
    let before = b.emit("Min", &[&start, &whole]);
    let after = b.emit("Sub", &[&whole, &before]);
    let after = b.emit("Sub", &[&after, &part]);
    let pads = b.emit_with("Concat", &[&before, &after], &[("axis", Attribute::Int(0))]);
    if matches!(measured.kind, DataType::Float16 | DataType::Bfloat16) {
        // Of the two the CUDA provider pads but one.
        let wide = b.emit_with("Cast", &[&dy], &[("to", Attribute::Int(DataType::Float as i64))]);
        let padded = b.emit("Pad", &[&wide, &pads, "", &axis_list]);
        return Ok(vec![(0, b.emit("CastLike", &[&padded, &node.input[0]]))]);
    }
    let nothing = b.scalar(0.0, &node.input[0])?;
    Ok(vec![(0, b.emit("Pad", &[&dy, &pads, &nothing, &axis_list]))])
}

/// The size of `tensor` along `axis` as a list of one.
fn size_along(
    b: &mut Backward<'_>,
    tensor: &str,
    axis: usize,
    axis_list: &str,
) -> Result<String, AutodiffError> {
    if let Some(fixed) = b.measured(tensor)?.fixed(axis) {
        return Ok(b.list(&[fixed]));
    }
    let shape = b.emit("Shape", &[tensor]);
    Ok(b.emit_with("Gather", &[&shape, axis_list], &[("axis", Attribute::Int(0))]))
}
