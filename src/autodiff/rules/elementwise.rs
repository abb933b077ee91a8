//! Operators that act on each element by itself, with broadcasting.

use super::{Inputs, only};
use crate::{
    autodiff::backward::{Backward, form},
    model::{node::float_attribute, proto::NodeProto},
};

pub(super) fn identity(_: &mut Backward<'_>, _: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, only(dy))])
}

pub(super) fn cast(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let same = b.measured(&node.input[0])?.kind == b.measured(&node.output[0])?.kind;
    let dy = only(dy);
    Ok(vec![(0, if same { dy } else { b.emit("CastLike", &[&dy, &node.input[0]]) })])
}

pub(super) fn add(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    signed_sum(b, node, dy, false)
}

pub(super) fn sub(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    signed_sum(b, node, dy, true)
}

fn signed_sum(
    b: &mut Backward<'_>,
    node: &NodeProto,
    dy: &[Option<String>],
    minus: bool,
) -> Inputs {
    let dy = only(dy);
    let mut gradients = Vec::new();
    for slot in (0..2).filter(|s| b.wants(node, *s)).collect::<Vec<_>>() {
        let signed = if minus && slot == 1 { b.emit("Neg", &[&dy]) } else { dy.clone() };
        gradients.push((slot, b.unbroadcast(signed, &node.output[0], &node.input[slot])?));
    }
    Ok(gradients)
}

pub(super) fn mul(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let dy = only(dy);
    let mut gradients = Vec::new();
    for slot in (0..2).filter(|s| b.wants(node, *s)).collect::<Vec<_>>() {
        let scaled = b.emit("Mul", &[&dy, &node.input[1 - slot]]);
        gradients.push((slot, b.unbroadcast(scaled, &node.output[0], &node.input[slot])?));
    }
    Ok(gradients)
}

pub(super) fn div(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let over = b.emit("Div", &[&only(dy), &node.input[1]]);
    let mut gradients = Vec::new();
    if b.wants(node, 0) {
        let dx = b.unbroadcast(over.clone(), &node.output[0], &node.input[0])?;
        gradients.push((0, dx));
    }
    if b.wants(node, 1) {
        let scaled = b.emit("Mul", &[&over, &node.output[0]]);
        let negated = b.emit("Neg", &[&scaled]);
        gradients.push((1, b.unbroadcast(negated, &node.output[0], &node.input[1])?));
    }
    Ok(gradients)
}

pub(super) fn neg(b: &mut Backward<'_>, _: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, b.emit("Neg", &[&only(dy)]))])
}

pub(super) fn exp(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, b.emit("Mul", &[&only(dy), &node.output[0]]))])
}

pub(super) fn log(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    Ok(vec![(0, b.emit("Div", &[&only(dy), &node.input[0]]))])
}

pub(super) fn sqrt(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let half = b.scalar(0.5, &node.input[0])?;
    let halved = b.emit("Mul", &[&only(dy), &half]);
    Ok(vec![(0, b.emit("Div", &[&halved, &node.output[0]]))])
}

pub(super) fn reciprocal(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let once = b.emit("Mul", &[&only(dy), &node.output[0]]);
    let twice = b.emit("Mul", &[&once, &node.output[0]]);
    Ok(vec![(0, b.emit("Neg", &[&twice]))])
}

pub(super) fn sigmoid(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let y = &node.output[0];
    let one = b.scalar(1.0, &node.input[0])?;
    let rest = b.emit("Sub", &[&one, y]);
    let slope = b.emit("Mul", &[y, &rest]);
    Ok(vec![(0, b.emit("Mul", &[&only(dy), &slope]))])
}

pub(super) fn relu(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let zero = b.scalar(0.0, &node.input[0])?;
    let on = b.emit("Greater", &[&node.input[0], &zero]);
    Ok(vec![(0, b.emit("Where", &[&on, &only(dy), &zero]))])
}

/// `dx = dy · 2/√π · exp(−x²)`.
pub(super) fn erf(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let x = &node.input[0];
    let factor = b.scalar(std::f32::consts::FRAC_2_SQRT_PI, x)?;
    let square = b.emit("Mul", &[x, x]);
    let negative = b.emit("Neg", &[&square]);
    let bell = b.emit("Exp", &[&negative]);
    let slope = b.emit("Mul", &[&bell, &factor]);
    Ok(vec![(0, b.emit("Mul", &[&only(dy), &slope]))])
}

pub(super) fn tanh(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let y = &node.output[0];
    let one = b.scalar(1.0, &node.input[0])?;
    let square = b.emit("Mul", &[y, y]);
    let slope = b.emit("Sub", &[&one, &square]);
    Ok(vec![(0, b.emit("Mul", &[&only(dy), &slope]))])
}

/// `x^p` with a constant scalar p.
pub(super) fn pow(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let exponent = b.index.scalar(&node.input[1]);
    let p = exponent.ok_or_else(|| form(node, "the exponent is not a constant number"))?;
    let factor = b.scalar(p, &node.input[0])?;
    let scaled = b.emit("Mul", &[&only(dy), &factor]);
    if p == 2.0 {
        return Ok(vec![(0, b.emit("Mul", &[&scaled, &node.input[0]]))]);
    }
    let lower = b.scalar(p - 1.0, &node.input[0])?;
    let power = b.emit("Pow", &[&node.input[0], &lower]);
    Ok(vec![(0, b.emit("Mul", &[&scaled, &power]))])
}

/// The smaller of two: the gradient goes to the first where they are equal.
pub(super) fn min(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    if node.input.len() != 2 {
        return Err(form(node, format!("{} inputs, the rule covers 2", node.input.len())));
    }
    let (dy, zero) = (only(dy), b.scalar(0.0, &node.input[0])?);
    let first = b.emit("LessOrEqual", &[&node.input[0], &node.input[1]]);
    let mut gradients = Vec::new();
    if b.wants(node, 0) {
        let chosen = b.emit("Where", &[&first, &dy, &zero]);
        gradients.push((0, b.unbroadcast(chosen, &node.output[0], &node.input[0])?));
    }
    if b.wants(node, 1) {
        let chosen = b.emit("Where", &[&first, &zero, &dy]);
        gradients.push((1, b.unbroadcast(chosen, &node.output[0], &node.input[1])?));
    }
    Ok(gradients)
}

/// Zero outside the bounds, the gradient itself inside and on them.
pub(super) fn clip(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    if float_attribute(node, "min").is_some() || float_attribute(node, "max").is_some() {
        return Err(form(node, "bounds are attributes, as before opset 11"));
    }
    let zero = b.scalar(0.0, &node.input[0])?;
    let mut dx = only(dy);
    for (slot, inside) in [(1, "GreaterOrEqual"), (2, "LessOrEqual")] {
        if let Some(bound) = node.input.get(slot).filter(|name| !name.is_empty()) {
            let mask = b.emit(inside, &[&node.input[0], bound]);
            dx = b.emit("Where", &[&mask, &dx, &zero]);
        }
    }
    Ok(vec![(0, dx)])
}
