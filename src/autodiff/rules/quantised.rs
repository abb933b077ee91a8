//! Products with weights stored in blocks of a few bits.

use prost::bytes::Bytes;

use super::{Inputs, only};
use crate::{
    autodiff::{
        AutodiffError,
        backward::{Backward, form},
    },
    model::{
        node::{Attribute, int_attribute},
        proto::{NodeProto, TensorProto, tensor_proto::DataType},
    },
};

/// A weight `[rows, columns]` in blocks along its rows.
struct Blocks {
    bits: i64,
    rows: i64,
    columns: i64,
    block: i64,
}

impl Blocks {
    fn per_row(&self) -> i64 {
        (self.columns + self.block - 1) / self.block
    }

    fn kind(&self) -> DataType {
        if self.bits == 4 { DataType::Uint4 } else { DataType::Uint8 }
    }
}

/// ONNX Runtime's MatMulNBits, `Y = A·Wᵀ (+ bias)`: `dA = dY·W`. The forward product keeps its
/// kernel; the gradient dequantises the same bytes, one weight at a time, through a second name
/// of the stored tensor, and takes `A` as if it had not been quantised on the way.
pub(super) fn matmul_n_bits(
    b: &mut Backward<'_>,
    node: &NodeProto,
    dy: &[Option<String>],
) -> Inputs {
    let mut gradients = Vec::new();
    if (1..node.input.len()).any(|slot| slot != 5 && b.wants(node, slot)) {
        return Err(form(node, "the weight carries gradient"));
    }
    if b.wants(node, 0) {
        let weight = dequantised(b, node)?;
        gradients.push((0, b.emit("MatMul", &[&only(dy), &weight])));
    }
    if b.wants(node, 5) {
        gradients.push((5, b.unbroadcast(only(dy), &node.output[0], &node.input[5])?));
    }
    Ok(gradients)
}

/// The weight, `[N, K]`.
fn dequantised(b: &mut Backward<'_>, node: &NodeProto) -> Result<String, AutodiffError> {
    let stated = |name: &str| {
        let found = int_attribute(node, name);
        found.filter(|n| *n > 0).ok_or_else(|| form(node, format!("{name} is {found:?}")))
    };
    let bits = int_attribute(node, "bits").unwrap_or(4);
    if bits != 4 && bits != 8 {
        return Err(form(node, format!("{bits} bits, the rule covers 4 and 8")));
    }
    if int_attribute(node, "weight_prepacked").unwrap_or(0) != 0 {
        return Err(form(node, "the weight is laid out for one device"));
    }
    if node.input.get(4).is_some_and(|name| !name.is_empty()) {
        return Err(form(node, "the weight has group indices"));
    }
    let (rows, columns, block) = (stated("N")?, stated("K")?, stated("block_size")?);
    let shape = Blocks { bits, rows, columns, block };
    let per_row = shape.per_row();
    let stored = constant(b, node, 1)?;
    let bytes = b.alias(stored, shape.kind(), &[shape.rows, per_row * block]);
    let scales = constant(b, node, 2)?;
    let kind = DataType::try_from(scales.data_type()).unwrap_or(DataType::Undefined);
    let scales = b.alias(scales, kind, &[shape.rows, per_row]);
    let zero = zero_points(b, node, &shape)?;
    let attributes = [("axis", Attribute::Int(1)), ("block_size", Attribute::Int(block))];
    let weight = b.emit_with("DequantizeLinear", &[&bytes, &scales, &zero], &attributes);
    if per_row * block == columns {
        return Ok(weight);
    }
    let (zero, end, one) = (b.list(&[0]), b.list(&[columns]), b.list(&[1]));
    Ok(b.emit("Slice", &[&weight, &zero, &end, &one]))
}

/// The zero points as the type of the blocks, `[N, blocks]`. Rows of nibbles end on a whole byte.
fn zero_points(
    b: &mut Backward<'_>,
    node: &NodeProto,
    shape: &Blocks,
) -> Result<String, AutodiffError> {
    let per_row = shape.per_row();
    if node.input.get(3).is_none_or(String::is_empty) {
        let (count, byte) = match shape.bits {
            4 => ((shape.rows * per_row + 1) / 2, 0x88),
            _ => (shape.rows * per_row, 0x80),
        };
        let name = b.fresh_constant();
        b.initializers.push(TensorProto {
            name: Some(name.clone()),
            dims: vec![shape.rows, per_row],
            data_type: Some(shape.kind() as i32),
            raw_data: Some(Bytes::from(vec![byte; count as usize])),
            ..TensorProto::default()
        });
        return Ok(name);
    }
    let stored = constant(b, node, 3)?;
    if stored.data_type() != DataType::Uint8 as i32 {
        return Err(form(node, "zero points are not bytes"));
    }
    if shape.bits == 8 || per_row % 2 == 0 {
        return Ok(b.alias(stored, shape.kind(), &[shape.rows, per_row]));
    }
    let padded = b.alias(stored, shape.kind(), &[shape.rows, per_row + 1]);
    let to = |kind: DataType| [("to", Attribute::Int(kind as i64))];
    let bytes = b.emit_with("Cast", &[&padded], &to(DataType::Uint8));
    let (zero, end, one) = (b.list(&[0]), b.list(&[per_row]), b.list(&[1]));
    let own = b.emit("Slice", &[&bytes, &zero, &end, &one]);
    Ok(b.emit_with("Cast", &[&own], &to(DataType::Uint4)))
}

fn constant(b: &Backward<'_>, node: &NodeProto, slot: usize) -> Result<TensorProto, AutodiffError> {
    let found = node.input.get(slot).and_then(|name| b.index.constant(name));
    found.cloned().ok_or_else(|| form(node, format!("input {slot} is not stored in the model")))
}
