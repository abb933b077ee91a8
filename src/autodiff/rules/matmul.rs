//! Matrix products.

use super::{Inputs, only};
use crate::{
    autodiff::{
        AutodiffError,
        backward::{Backward, form},
    },
    model::{
        node::{Attribute, float_attribute, int_attribute},
        proto::NodeProto,
    },
};

/// `Y = A·B` with NumPy broadcasting of the leading dimensions: `dA = dY·Bᵀ`, `dB = Aᵀ·dY`.
pub(super) fn matmul(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let (left, right) = (b.measured(&node.input[0])?, b.measured(&node.input[1])?);
    if left.rank() < 2 || right.rank() < 2 {
        return Err(form(node, "an operand is a vector"));
    }
    let dy = only(dy);
    let from = b.measured(&node.output[0])?;
    let mut gradients = Vec::new();
    if b.wants(node, 0) {
        let frozen = !b.wants(node, 1) && right.rank() == 2;
        let dx = if frozen {
            by_transposed_weight(b, &dy, &node.input[1], &node.input[0])?
        } else {
            let transposed = b.transpose_last(&node.input[1], right.rank());
            let product = b.emit("MatMul", &[&dy, &transposed]);
            let mut shape = from.clone();
            *last(&mut shape.first) = *last(&mut left.first.clone());
            *last(&mut shape.second) = *last(&mut left.second.clone());
            b.sum_to(product, &shape, &left)?
        };
        gradients.push((0, dx));
    }
    if b.wants(node, 1) {
        let transposed = b.transpose_last(&node.input[0], left.rank());
        let product = b.emit("MatMul", &[&transposed, &dy]);
        let mut shape = from;
        let rows = shape.first.len() - 2;
        shape.first[rows] = *last(&mut left.first.clone());
        shape.second[rows] = *last(&mut left.second.clone());
        gradients.push((1, b.sum_to(product, &shape, &right)?));
    }
    Ok(gradients)
}

/// `dY·Wᵀ` for a frozen weight, through Gemm with a transpose flag: a Transpose node would be
/// folded by the runtime into a second copy of the weight.
fn by_transposed_weight(
    b: &mut Backward<'_>,
    dy: &str,
    weight: &str,
    input: &str,
) -> Result<String, AutodiffError> {
    let columns = b.measured(weight)?.fixed(1).unwrap_or(-1);
    let flat = b.list(&[-1, columns]);
    let rows = b.emit("Reshape", &[dy, &flat]);
    let weight = b.weight(weight);
    let product = b.emit_with("Gemm", &[&rows, &weight], &[("transB", Attribute::Int(1))]);
    if b.measured(input)?.rank() == 2 {
        return Ok(product);
    }
    b.reshape_to(&product, input)
}

/// `Y = α·A'·B' + β·C`, gradients of A and C only: the second operand is a frozen weight.
pub(super) fn gemm(b: &mut Backward<'_>, node: &NodeProto, dy: &[Option<String>]) -> Inputs {
    let flag = |name| int_attribute(node, name).unwrap_or(0);
    if b.wants(node, 1) || flag("transA") != 0 {
        return Err(form(node, "the first operand is transposed or the second carries gradient"));
    }
    let dy = only(dy);
    let mut gradients = Vec::new();
    if b.wants(node, 0) {
        let alpha = Attribute::Float(float_attribute(node, "alpha").unwrap_or(1.0));
        let flipped = Attribute::Int(1 - flag("transB"));
        let attributes = [("alpha", alpha), ("transB", flipped)];
        gradients.push((0, b.emit_with("Gemm", &[&dy, &node.input[1]], &attributes)));
    }
    if b.wants(node, 2) {
        let beta = b.scalar(float_attribute(node, "beta").unwrap_or(1.0), &node.input[2])?;
        let scaled = b.emit("Mul", &[&dy, &beta]);
        gradients.push((2, b.unbroadcast(scaled, &node.output[0], &node.input[2])?));
    }
    Ok(gradients)
}

fn last(dims: &mut [i64]) -> &mut i64 {
    let end = dims.len() - 1;
    &mut dims[end]
}
