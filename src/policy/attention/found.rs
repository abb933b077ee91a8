//! Finding attention that is spelled out.
//!
//! What is looked for is what optimum writes; whatever differs from it is not found, and the graph
//! then stays as it is.

use std::collections::HashSet;

use super::makers::{Makers, along, is};
use crate::{
    model::{
        node::{Dim, tensor_type},
        proto::{GraphProto, tensor_proto::DataType},
    },
    runtime::{MASK, POSITIONS},
};

/// The operator refuses heads of other sizes.
const HEAD_MULTIPLE: i64 = 16;

/// Queries, keys or values of all heads.
pub(super) enum Heads<'g> {
    /// `[batch, length, heads·size]`
    Flat(&'g str),
    /// `[batch, length, heads, size]`
    Apart(&'g str),
}

/// The attention of one layer.
pub(super) struct Attention<'g> {
    pub query: Heads<'g>,
    pub key: Heads<'g>,
    pub value: Heads<'g>,
    /// Of the place of each token, `[batch, length, size]`, both halves the same.
    pub cos: &'g str,
    pub sin: &'g str,
    pub pasts: [&'g str; 2],
    pub presents: [&'g str; 2],
    /// The nodes that make the presents, and the later one of them.
    pub joins: [usize; 2],
    pub joined: usize,
    /// The node after which both cosines and sines are there.
    pub turned: usize,
    pub heads: i64,
    pub kv_heads: i64,
    pub size: i64,
    pub scale: f32,
    /// The result, `[batch, length, heads·size]`, and who reads it.
    pub out: &'g str,
    pub readers: Vec<(usize, usize)>,
}

/// The attention of every layer that has a cache; none if one layer's is of another kind.
pub(super) fn attentions(graph: &GraphProto) -> Option<Vec<Attention<'_>>> {
    let makers = Makers::new(graph);
    let slots: Vec<(&str, &str)> =
        graph.input.iter().filter_map(|i| slot(graph, i.name())).collect();
    let softmaxes = graph.node.iter().filter(|node| is(node, "Softmax"));
    let found: Option<Vec<_>> = softmaxes
        .map(|softmax| Spelled::out(&makers, softmax.output.first()?)?.whole(&makers, &slots))
        .collect();
    let found = found.filter(|found| 2 * found.len() == slots.len())?;
    let pasts: HashSet<&str> = found.iter().flat_map(|a| a.pasts).collect();
    let first = found.first()?;
    let alike = found.iter().all(|a| (a.cos, a.sin, a.size) == (first.cos, first.sin, first.size));
    let after = found.iter().all(|a| a.joined > first.turned);
    // Else the angles are those of one row for all.
    let by_row = [first.cos, first.sin].iter().all(|angles| makers.follows(angles, POSITIONS));
    (pasts.len() == slots.len() && alike && after && by_row).then_some(found)
}

/// A cached tensor as it goes in, and as it comes out longer.
fn slot<'g>(graph: &'g GraphProto, past: &'g str) -> Option<(&'g str, &'g str)> {
    let own = past.strip_prefix("past_key_values.")?;
    let mut outputs = graph.output.iter().map(|o| o.name());
    let present = outputs.find(|present| present.strip_prefix("present.") == Some(own))?;
    Some((past, present))
}

/// What surrounds a Softmax.
struct Spelled<'g> {
    query: &'g str,
    keys: &'g str,
    values: &'g str,
    /// Query heads for every head of keys and values.
    times: i64,
    scale: f32,
    out: &'g str,
}

impl<'g> Spelled<'g> {
    fn out(makers: &Makers<'g>, softmax: &'g str) -> Option<Self> {
        let node = makers.maker(softmax).filter(|node| along(node, 3))?;
        let scores = makers.pairs("Add", &node.input[0])?;
        let (products, mask) = scores
            .into_iter()
            .find(|(products, _)| makers.made_by("MatMul", products).is_some())?;
        only_causal(makers, mask)?;
        let products = makers.made_by("MatMul", products)?;
        let (of_query, query) = scaled(makers, &products.input[0]);
        let (of_keys, keys) = scaled(makers, &products.input[1]);
        let (times, keys) = repeated(makers, makers.turned(keys, [0, 1, 3, 2])?)?;
        let weights = repaired(makers, softmax);
        let sums = makers.only_reader("MatMul", weights).filter(|n| n.input[0] == weights)?;
        let (again, values) = repeated(makers, &sums.input[1])?;
        let turned = makers.only_reader("Transpose", sums.output.first()?)?.output.first()?;
        makers.turned(turned, [0, 2, 1, 3])?;
        let out = makers.only_reader("Reshape", turned)?;
        let shape = makers.made_by("Concat", &out.input[1])?;
        let joins_heads = shape.input.len() == 3 && makers.integer(&shape.input[2]) == Some(-1);
        (times == again && joins_heads).then_some(Self {
            query,
            keys,
            values,
            times,
            scale: of_query * of_keys,
            out: out.output.first()?,
        })
    }

    fn whole(self, makers: &Makers<'g>, slots: &[(&'g str, &'g str)]) -> Option<Attention<'g>> {
        let slot = |present: &str| slots.iter().find(|(_, other)| *other == present);
        let presents = [self.keys, self.values];
        let pasts = [slot(presents[0])?.0, slot(presents[1])?.0];
        let (kv_heads, size) = heads(makers.graph, pasts[0])?;
        if heads(makers.graph, pasts[1])? != (kv_heads, size) || size % HEAD_MULTIPLE != 0 {
            return None;
        }
        // A single head of keys may serve any number of queries without being repeated.
        if kv_heads == 1 && self.times == 1 {
            return None;
        }
        let joins = [makers.place(presents[0])?, makers.place(presents[1])?];
        let [keys, values] = [0, 1].map(|k| {
            let join = &makers.graph.node[joins[k]];
            let [past, new] = &join.input[..] else { return None };
            (is(join, "Concat") && along(join, 2) && past == pasts[k]).then_some(new.as_str())
        });
        let query = turn(makers, self.query, size)?;
        let key = turn(makers, keys?, size)?;
        let halves = [(query.cos, "Cos"), (query.sin, "Sin")];
        let same = (query.cos, query.sin) == (key.cos, key.sin)
            && halves.iter().all(|(angles, op)| has_halves(makers, angles, op));
        let turned = makers.place(query.cos)?.max(makers.place(query.sin)?);
        same.then_some(Attention {
            query: flat(makers, query.heads)?,
            key: flat(makers, key.heads)?,
            value: flat(makers, values?)?,
            cos: query.cos,
            sin: query.sin,
            pasts,
            presents,
            joins,
            joined: joins[0].max(joins[1]),
            turned,
            heads: kv_heads.checked_mul(self.times)?,
            kv_heads,
            size,
            scale: self.scale,
            out: self.out,
            readers: makers.readers(self.out).to_vec(),
        })
    }
}

/// Heads and their size, if the cached tensor holds numbers of single precision.
fn heads(graph: &GraphProto, past: &str) -> Option<(i64, i64)> {
    let input = graph.input.iter().find(|i| i.name() == past)?;
    let (kind, dims) = tensor_type(input)?;
    match &dims[..] {
        [_, Dim::Fixed(heads), _, Dim::Fixed(size)] if kind == DataType::Float as i32 => {
            Some((*heads, *size))
        }
        _ => None,
    }
}

/// `tensor` without factors that are constants, and those multiplied.
fn scaled<'g>(makers: &Makers<'g>, mut tensor: &'g str) -> (f32, &'g str) {
    let mut scale = 1.0;
    while let Some(pairs) = makers.pairs("Mul", tensor) {
        let factor = |(rest, factor)| makers.number(factor).map(|factor| (factor, rest));
        let Some((factor, rest)) = pairs.into_iter().find_map(factor) else { break };
        (scale, tensor) = (scale * factor, rest);
    }
    (scale, tensor)
}

/// How often each head of `tensor` comes, side by side, and the tensor where each comes once.
fn repeated<'g>(makers: &Makers<'g>, tensor: &'g str) -> Option<(i64, &'g str)> {
    let Some(joined) = makers.made_by("Reshape", tensor) else { return Some((1, tensor)) };
    let copied = makers.made_by("Expand", &joined.input[0])?;
    let apart = makers.made_by("Unsqueeze", &copied.input[0])?;
    if makers.integer(&apart.input[1])? != 2 {
        return None;
    }
    // A length of −1 in the shape is one that stays; what it is replaced by is not looked at.
    let mut shape = copied.input[1].as_str();
    if let Some(chosen) = makers.made_by("Where", shape) {
        shape = makers.before(&["Reshape"], &chosen.input[2]);
    }
    let shape = makers.made_by("Concat", shape).filter(|shape| shape.input.len() == 5)?;
    let times = makers.integer(&shape.input[2]).filter(|times| *times > 0)?;
    Some((times, &apart.input[0]))
}

/// The weights of attention, rows of padding repaired.
fn repaired<'g>(makers: &Makers<'g>, softmax: &'g str) -> &'g str {
    let readers = makers.readers(softmax).iter().map(|(place, _)| &makers.graph.node[*place]);
    let mut repairs = readers.filter(|node| {
        is(node, "Where")
            && node.input[2] == softmax
            && makers.number(&node.input[1]) == Some(0.0)
            && makers.made_by("IsNaN", &node.input[0]).is_some_and(|n| n.input[0] == softmax)
    });
    match (repairs.next().and_then(|repair| repair.output.first()), makers.readers(softmax).len()) {
        (Some(repaired), 2) => repaired,
        _ => softmax,
    }
}

/// What is turned by its place.
struct Turned<'g> {
    heads: &'g str,
    cos: &'g str,
    sin: &'g str,
}

/// `x·cos + rotated(x)·sin`, where the rotated x has its second half, negated, before its first.
fn turn<'g>(makers: &Makers<'g>, tensor: &str, size: i64) -> Option<Turned<'g>> {
    let (plain, rotated) = makers.pairs("Add", tensor)?.into_iter().find_map(|(a, b)| {
        let rotated = makers.pairs("Mul", b)?;
        let found = rotated.into_iter().find(|(x, _)| makers.made_by("Concat", x).is_some());
        found.map(|rotated| (a, rotated))
    })?;
    let (swapped, sin) = rotated;
    let swapped = makers.made_by("Concat", swapped).filter(|node| along(node, 3))?;
    let [second, first] = &swapped.input[..] else { return None };
    let second = makers.made_by("Slice", &makers.made_by("Neg", second)?.input[0])?;
    let first = makers.made_by("Slice", first)?;
    let x = first.input[0].as_str();
    let [_, start, middle, axis, ..] = &first.input[..] else { return None };
    let [other, from, end, other_axis, ..] = &second.input[..] else { return None };
    let last = |axis: &str| matches!(makers.integer(axis), Some(3 | -1));
    let halves = other == x
        && makers.integer(start) == Some(0)
        && makers.integer(end).is_some_and(|end| end >= size)
        && is_half(makers, middle, x, size)
        && is_half(makers, from, x, size)
        && last(axis)
        && last(other_axis)
        && [first, second]
            .iter()
            .all(|s| s.input.get(4).is_none_or(|s| makers.integer(s) == Some(1)));
    let (_, cos) = makers.pairs("Mul", plain)?.into_iter().find(|(heads, _)| *heads == x)?;
    let over_heads = |angles: &str| {
        let node = makers.made_by("Unsqueeze", angles)?;
        (makers.integer(&node.input[1]) == Some(1)).then(|| node.input[0].as_str())
    };
    halves.then_some(Turned { heads: x, cos: over_heads(cos)?, sin: over_heads(sin)? })
}

/// Whether `tensor` is half of the size of the heads `x`.
fn is_half<'g>(makers: &Makers<'g>, tensor: &'g str, x: &str, size: i64) -> bool {
    if let Some(number) = makers.integer(tensor) {
        return number == size / 2;
    }
    let halved = || {
        let halved = makers.made_by("Div", makers.before(&["Unsqueeze", "Cast"], tensor))?;
        let length = makers.made_by("Gather", &halved.input[0])?;
        let shape = makers.made_by("Shape", &length.input[0])?;
        let last = matches!(makers.integer(&length.input[1]), Some(3 | -1));
        Some(makers.integer(&halved.input[1]) == Some(2) && last && shape.input[0] == x)
    };
    halved().unwrap_or(false)
}

/// Whether both halves of the angles are the same ones, before anything that is done to all alike.
fn has_halves<'g>(makers: &Makers<'g>, angles: &'g str, op: &str) -> bool {
    let found = || {
        let (_, angles) = scaled(makers, makers.before(&["Cast"], angles));
        let both = makers.made_by(op, makers.before(&["Cast"], angles))?;
        let both = makers.made_by("Concat", &both.input[0])?;
        Some(both.input.len() == 2 && both.input[0] == both.input[1])
    };
    found().unwrap_or(false)
}

/// All heads of a token side by side, from `[batch, heads, length, size]`. A projection has them so,
/// because what the heads are joined into after attention has three axes too.
fn flat<'g>(makers: &Makers<'g>, heads: &'g str) -> Option<Heads<'g>> {
    let apart = makers.turned(heads, [0, 2, 1, 3])?;
    let projected = makers.made_by("Reshape", apart).and_then(|node| {
        let projected = node.input[0].as_str();
        let maker = makers.maker(projected)?;
        ["Add", "MatMul"].iter().any(|op| is(maker, op)).then_some(projected)
    });
    Some(projected.map_or(Heads::Apart(apart), Heads::Flat))
}

/// Nothing if `mask` hides more than what comes later and what is padding. A window would take a
/// second comparison, or arithmetic that is not among these.
fn only_causal(makers: &Makers<'_>, mask: &str) -> Option<()> {
    let hidden = makers.made_by("Where", mask)?;
    let shown = makers.number(&hidden.input[1])? == 0.0;
    let hides = makers.number(&hidden.input[2])? <= f32::MIN / 2.0;
    let plumbing = [
        "Add",
        "And",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Equal",
        "Expand",
        "Flatten",
        "Gather",
        "Mul",
        "Range",
        "Reshape",
        "Slice",
        "Unsqueeze",
        "Where",
    ];
    let (mut comparisons, mut masked) = (0, false);
    let (mut seen, mut next) = (HashSet::new(), vec![hidden.input[0].as_str()]);
    while let Some(tensor) = next.pop() {
        if !seen.insert(tensor) || makers.integers(tensor).is_some() {
            continue;
        }
        let Some(node) = makers.maker(tensor) else {
            if tensor != MASK {
                return None;
            }
            masked = true;
            continue;
        };
        match node.op_type() {
            "Shape" => continue,
            "LessOrEqual" => comparisons += 1,
            op if plumbing.contains(&op) && is(node, op) => {}
            _ => return None,
        }
        next.extend(node.input.iter().map(String::as_str));
    }
    (shown && hides && comparisons == 1 && masked).then_some(())
}
