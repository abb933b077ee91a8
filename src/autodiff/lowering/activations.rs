//! Fused activations.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use super::emitter::{Emitter, input, required};
use crate::{
    autodiff::AutodiffError,
    model::{node::float_attribute, proto::NodeProto},
};

/// QuickGelu of ONNX Runtime and Swish: `x · σ(αx)`.
pub(super) fn quick_gelu(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    let unstated = if node.op_type() == "Swish" { 1.0 } else { 1.702 };
    let alpha = float_attribute(node, "alpha").unwrap_or(unstated);
    let x = required(node, 0)?;
    let mut inner = x.to_owned();
    if alpha != 1.0 {
        let alpha = e.number(alpha, e.measured(x)?.kind);
        inner = e.emit("Mul", &[x, &alpha]);
    }
    let gate = e.emit("Sigmoid", &[&inner]);
    let y = e.emit("Mul", &[x, &gate]);
    e.output(node, 0, &y);
    Ok(())
}

/// Gelu, and with a bias on its input BiasGelu: `x · (1 + erf(x / √2)) / 2`, or the approximation
/// the attribute asks for.
pub(super) fn gelu(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    let approximate = node.attribute.iter().find(|a| a.name() == "approximate");
    if approximate.is_some_and(|a| a.s() == b"tanh") {
        return fast_gelu(e, node);
    }
    let x = shifted(e, node)?;
    let kind = e.measured(required(node, 0)?)?.kind;
    let root = e.number(FRAC_1_SQRT_2, kind);
    let inner = e.emit("Mul", &[&x, &root]);
    let outer = e.emit("Erf", &[&inner]);
    halve(e, node, &x, &outer)
}

/// `x · (1 + tanh(√(2/π) · (x + 0.044715·x³))) / 2`.
pub(super) fn fast_gelu(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    let x = shifted(e, node)?;
    let kind = e.measured(required(node, 0)?)?.kind;
    let (cubic, root) = (e.number(0.044_715, kind), e.number((2.0 / PI).sqrt(), kind));
    let one = e.number(1.0, kind);
    let square = e.emit("Mul", &[&x, &x]);
    let bent = e.emit("Mul", &[&square, &cubic]);
    let slope = e.emit("Add", &[&bent, &one]);
    let inner = e.emit("Mul", &[&x, &slope]);
    let inner = e.emit("Mul", &[&inner, &root]);
    let outer = e.emit("Tanh", &[&inner]);
    halve(e, node, &x, &outer)
}

fn shifted(e: &mut Emitter<'_>, node: &NodeProto) -> Result<String, AutodiffError> {
    let x = required(node, 0)?;
    Ok(match input(node, 1) {
        Some(bias) => e.emit("Add", &[x, bias]),
        None => x.to_owned(),
    })
}

/// `x · (1 + outer) / 2`.
fn halve(e: &mut Emitter<'_>, node: &NodeProto, x: &str, outer: &str) -> Result<(), AutodiffError> {
    let kind = e.measured(required(node, 0)?)?.kind;
    let (one, half) = (e.number(1.0, kind), e.number(0.5, kind));
    let gate = e.emit("Add", &[outer, &one]);
    let product = e.emit("Mul", &[x, &gate]);
    let y = e.emit("Mul", &[&product, &half]);
    e.output(node, 0, &y);
    Ok(())
}
