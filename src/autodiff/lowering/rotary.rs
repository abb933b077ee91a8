//! Rotary position embeddings.

use super::{
    attention::{heads, unheads},
    emitter::{Emitter, input, required},
};
use crate::{
    autodiff::{AutodiffError, backward::form},
    model::{
        node::{float_attribute, int_attribute},
        proto::NodeProto,
    },
};

/// How the halves of a head are paired, and how much of it turns.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    /// Elements 2k and 2k+1 are a pair; else k and k + half.
    pub(super) interleaved: bool,
    /// Size of a head.
    pub(super) size: i64,
    /// How many of its first elements turn.
    pub(super) turned: i64,
}

impl Rotation {
    /// Turns `x`, `[batch, heads, length, size]`, by angles that broadcast to
    /// `[batch, heads, length, turned / 2]`.
    pub(super) fn emit(&self, e: &mut Emitter<'_>, x: &str, cos: &str, sin: &str) -> String {
        let half = self.turned / 2;
        let rest = self.size - self.turned;
        let mut sizes = if self.interleaved { vec![self.turned] } else { vec![half, half] };
        sizes.extend(Some(rest).filter(|rest| *rest > 0));
        let mut parts = match sizes.len() {
            1 => vec![x.to_owned()],
            _ => e.split(x, 3, &sizes),
        };
        let kept = if rest > 0 { parts.pop() } else { None };
        let pair = if self.interleaved {
            let pairs = e.reshape(&parts[0], &[0, 0, -1, half, 2]);
            let last = e.list(&[4]);
            let both = e.split(&pairs, 4, &[1, 1]);
            [e.emit("Squeeze", &[&both[0], &last]), e.emit("Squeeze", &[&both[1], &last])]
        } else {
            [parts[0].clone(), parts[1].clone()]
        };
        let [a, b] = &pair;
        let (ac, bs) = (e.emit("Mul", &[a, cos]), e.emit("Mul", &[b, sin]));
        let (bc, as_) = (e.emit("Mul", &[b, cos]), e.emit("Mul", &[a, sin]));
        let (first, second) = (e.emit("Sub", &[&ac, &bs]), e.emit("Add", &[&bc, &as_]));
        let turned = if self.interleaved {
            let (first, second) = (e.unsqueeze(&first, 4), e.unsqueeze(&second, 4));
            let pairs = e.concat(&[&first, &second], 4);
            vec![e.reshape(&pairs, &[0, 0, -1, self.turned])]
        } else {
            vec![first, second]
        };
        let parts: Vec<&str> = turned.iter().chain(&kept).map(String::as_str).collect();
        match parts[..] {
            [one] => one.to_owned(),
            _ => e.concat(&parts, 3),
        }
    }
}

/// RotaryEmbedding of the standard operator set: angles given row by row, or looked up.
pub(super) fn standard(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    let tables = [required(node, 1)?, required(node, 2)?];
    let angles = match input(node, 3) {
        Some(positions) => tables.map(|table| e.emit("Gather", &[table, positions])),
        None => tables.map(str::to_owned),
    };
    embed(e, node, angles, tables[0])
}

/// RotaryEmbedding of ONNX Runtime: one offset for all rows, or a position for each token.
pub(super) fn microsoft(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    if int_attribute(node, "is_packed_batching").unwrap_or(0) != 0 {
        return Err(form(node, "is_packed_batching is set"));
    }
    if float_attribute(node, "scale").unwrap_or(1.0) != 1.0 {
        return Err(form(node, "scale is not 1"));
    }
    let (x, positions) = (required(node, 0)?, required(node, 1)?);
    let tables = [required(node, 2)?, required(node, 3)?];
    let mut positions = positions.to_owned();
    if e.measured(&positions)?.rank() == 1 {
        let along = if e.measured(x)?.rank() == 4 { 2 } else { 1 };
        let places = e.places(x, along);
        let all = e.emit("Add", &[&places, &positions]);
        positions = e.unsqueeze(&all, 0);
    }
    let angles = tables.map(|table| e.emit("Gather", &[table, &positions]));
    embed(e, node, angles, tables[0])
}

/// `angles` are cos and sin, `[batch, length, turned / 2]`, cut from tables of the same width.
fn embed(
    e: &mut Emitter<'_>,
    node: &NodeProto,
    angles: [String; 2],
    table: &str,
) -> Result<(), AutodiffError> {
    let x = required(node, 0)?;
    let measured = e.measured(x)?;
    let turned = 2 * e.width(node, table)?;
    let stated = int_attribute(node, "rotary_embedding_dim").unwrap_or(0);
    if stated != 0 && stated != turned {
        return Err(form(node, format!("rotary_embedding_dim {stated} with {turned} angles")));
    }
    let width = e.width(node, x)?;
    let (flat, size) = match (measured.rank(), int_attribute(node, "num_heads").unwrap_or(0)) {
        (4, _) => (false, width),
        (3, 0) if stated == 0 => (true, turned),
        (3, count) if count > 0 && width % count == 0 => (true, width / count),
        (rank, count) => return Err(form(node, format!("rank {rank} with num_heads {count}"))),
    };
    if size < turned {
        return Err(form(node, format!("{turned} angles for heads of {size}")));
    }
    let kinds = (e.measured(table)?.kind, measured.kind);
    let [cos, sin] = angles.map(|a| {
        let a = e.cast(&a, kinds.0, kinds.1);
        e.unsqueeze(&a, 1)
    });
    let interleaved = int_attribute(node, "interleaved").unwrap_or(0) != 0;
    let rotation = Rotation { interleaved, size, turned };
    let split = if flat { heads(e, x, width / size, size) } else { x.to_owned() };
    let mut y = rotation.emit(e, &split, &cos, &sin);
    if flat {
        y = unheads(e, &y, width);
    }
    e.output(node, 0, &y);
    Ok(())
}
