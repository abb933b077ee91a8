//! Which rows of a packed matrix belong to which module: read off what follows its node.

use super::{
    folded::Measured,
    naming::Claim,
    node::{int_attribute, ints_attribute},
    operators::{is_microsoft, is_standard},
    proto::NodeProto,
    reader::Reader,
};
use crate::format::{ModuleId, Role};

/// The rows of one module in a stored matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first of them.
    pub first: usize,
    /// Rows of the whole canonical matrix.
    pub of: usize,
}

/// Operators that a gate goes through and an up projection does not.
const ACTIVATIONS: [&str; 12] = [
    "Sigmoid",
    "Gelu",
    "QuickGelu",
    "FastGelu",
    "BiasGelu",
    "Relu",
    "Tanh",
    "Silu",
    "Swish",
    "HardSwish",
    "Elu",
    "Erf",
];

/// The modules of a claim with their first row and number of rows; `rows` is the whole. Activations
/// are `[tokens, features]` if `flat`, else `[batch, sequence, features]`.
pub(super) fn parts(
    reader: &Reader<'_>,
    node: &NodeProto,
    claim: Claim,
    rows: usize,
    flat: bool,
) -> Result<Vec<(ModuleId, usize, usize)>, String> {
    let modules: Vec<ModuleId> = claim.modules().collect();
    if let [module] = modules[..] {
        return Ok(vec![(module, 0, rows)]);
    }
    let output = node.output.first().map(String::as_str).unwrap_or_default();
    let last = if flat { 1 } else { 2 };
    let sizes = cut(reader, output, [rows, modules.len()], last)?;
    let order: Vec<usize> = match claim.roles {
        [Role::Gate, Role::Up] => gate_first(reader, &sizes)?,
        _ => (0..modules.len()).collect(),
    };
    let mut first = 0;
    let mut placed = Vec::with_capacity(modules.len());
    for (cut, place) in sizes.iter().zip(order) {
        placed.push((modules[place], first, cut.rows));
        first += cut.rows;
    }
    Ok(placed)
}

/// One piece of the output of a packed node.
struct Cut<'a> {
    rows: usize,
    /// What the piece is called; empty inside an attention operator.
    name: &'a str,
}

fn cut<'a>(
    reader: &Reader<'a>,
    output: &'a str,
    [rows, pieces]: [usize; 2],
    last: i64,
) -> Result<Vec<Cut<'a>>, String> {
    let mut value = output;
    // A bias is added to all pieces at once.
    while let [follower] = reader.readers(value) {
        match is_standard(follower, "Add") {
            true => value = follower.output.first().map(String::as_str).unwrap_or_default(),
            false => break,
        }
    }
    let takes_data = |node: &&&NodeProto| !is_standard(node, "Shape");
    let followers: Vec<&NodeProto> =
        reader.readers(value).iter().filter(takes_data).copied().collect();
    let found = match followers[..] {
        [one] if is_microsoft(one, "GroupQueryAttention") => heads(one, value, rows),
        [one] if is_standard(one, "Split") => split(reader, one, rows, last),
        [_, ..] if followers.iter().all(|n| is_standard(n, "Slice")) => {
            slices(&Measured { reader, value, size: rows, last }, &followers)
        }
        _ => None,
    };
    let fits = |cuts: &Vec<Cut<'_>>| {
        cuts.len() == pieces
            && cuts.iter().all(|cut| cut.rows > 0)
            && cuts.iter().map(|cut| cut.rows).sum::<usize>() == rows
    };
    found.filter(fits).ok_or_else(|| {
        format!(
            "a packed projection of {pieces} modules, and what follows it does not say where they \
             end; export it with separate projections"
        )
    })
}

/// Query, key and value in one input of an attention operator.
fn heads<'a>(node: &NodeProto, value: &str, rows: usize) -> Option<Vec<Cut<'a>>> {
    let empty = |slot: usize| node.input.get(slot).is_none_or(|name| name.is_empty());
    if node.input.first().map(String::as_str) != Some(value) || !empty(1) || !empty(2) {
        return None;
    }
    let number = |name| usize::try_from(int_attribute(node, name)?).ok();
    let (queries, keys) = (number("num_heads")?, number("kv_num_heads")?);
    let heads = keys.checked_mul(2)?.checked_add(queries).filter(|&heads| heads > 0)?;
    if !rows.is_multiple_of(heads) {
        return None;
    }
    let size = rows / heads;
    Some([queries, keys, keys].map(|n| Cut { rows: n * size, name: "" }).into())
}

fn split<'a>(
    reader: &Reader<'a>,
    node: &'a NodeProto,
    rows: usize,
    last: i64,
) -> Option<Vec<Cut<'a>>> {
    is_last_axis(int_attribute(node, "axis").unwrap_or(0), last)?;
    let pieces = node.output.len();
    let sizes = match node.input.get(1).filter(|name| !name.is_empty()) {
        Some(sizes) => reader.integers(sizes)?,
        None => match ints_attribute(node, "split") {
            Some(sizes) => sizes.to_vec(),
            None if pieces > 0 && rows.is_multiple_of(pieces) => {
                vec![(rows / pieces) as i64; pieces]
            }
            None => return None,
        },
    };
    let cuts = sizes
        .iter()
        .zip(&node.output)
        .map(|(&rows, name)| Some(Cut { rows: usize::try_from(rows).ok()?, name }));
    cuts.collect::<Option<Vec<_>>>().filter(|cuts| cuts.len() == pieces)
}

/// Slices that follow each other without a gap.
fn slices<'a>(packed: &Measured<'a, '_>, nodes: &[&'a NodeProto]) -> Option<Vec<Cut<'a>>> {
    let one = |node: &'a NodeProto, slot: usize| packed.number(node.input.get(slot)?);
    let mut cuts = Vec::with_capacity(nodes.len());
    for node in nodes {
        is_last_axis(one(node, 3)?, packed.last)?;
        if node.input.get(4).is_some_and(|step| !step.is_empty()) && one(node, 4)? != 1 {
            return None;
        }
        let (start, end) = (usize::try_from(one(node, 1)?).ok()?, usize::try_from(one(node, 2)?));
        // The end may be any large number.
        cuts.push((start, end.ok()?.min(packed.size), node.output.first()?.as_str()));
    }
    cuts.sort_unstable();
    let mut at = 0;
    let cuts = cuts.into_iter().map(|(start, end, name)| {
        let rows = end.checked_sub(start).filter(|_| start == at)?;
        at = end;
        Some(Cut { rows, name })
    });
    cuts.collect()
}

fn is_last_axis(axis: i64, last: i64) -> Option<()> {
    (axis == -1 || axis == last).then_some(())
}

/// The places of gate and up, by which piece goes through the activation.
fn gate_first(reader: &Reader<'_>, cuts: &[Cut<'_>]) -> Result<Vec<usize>, String> {
    let activated = |cut: &Cut<'_>| {
        reader.readers(cut.name).iter().any(|node| ACTIVATIONS.contains(&node.op_type()))
    };
    match cuts.iter().map(activated).collect::<Vec<_>>()[..] {
        [true, false] => Ok(vec![0, 1]),
        [false, true] => Ok(vec![1, 0]),
        _ => Err("a packed gate and up projection, and what follows it does not say which half \
                  is the gate; export it with separate projections"
            .into()),
    }
}
