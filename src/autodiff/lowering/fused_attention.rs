//! The fused attention operators: which inputs and attributes they have, and what is covered.

use super::{
    attention::{Attention, Mask, heads, unheads},
    emitter::{Emitter, input, required},
    rotary::Rotation,
};
use crate::{
    autodiff::{AutodiffError, backward::form},
    model::{
        node::{float_attribute, int_attribute},
        proto::{NodeProto, tensor_proto::DataType},
    },
};

/// ONNX Runtime's GroupQueryAttention, its queries, keys and values packed or apart.
pub(super) fn grouped_query(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    let flag = |name| int_attribute(node, name).unwrap_or(0);
    for name in ["smooth_softmax", "sliding_window_cache", "qk_output"] {
        if flag(name) > 0 {
            return Err(form(node, format!("{name} is set")));
        }
    }
    let uncovered =
        [(11, "head_sink"), (12, "k_scale"), (14, "q_norm_weight"), (15, "k_norm_weight")];
    e.without(node, &uncovered)?;
    e.only_outputs(node, &[0, 1, 2])?;
    let (count, shared) = (positive(node, "num_heads")?, positive(node, "kv_num_heads")?);
    let query = required(node, 0)?;
    let width = e.width(node, query)?;
    let packed = input(node, 1).is_none();
    let size = share(node, width, if packed { count + 2 * shared } else { count })?;
    let parts = match packed {
        true => e.split(query, 2, &[count * size, shared * size, shared * size]),
        false => {
            [query, required(node, 1)?, required(node, 2)?].iter().map(|s| s.to_string()).collect()
        }
    };
    let counts = [count, shared, shared];
    let [mut q, mut k, v] = std::array::from_fn(|i| heads(e, &parts[i], counts[i], size));
    let kind = e.measured(query)?.kind;
    if flag("do_rotary") != 0 {
        let tables = [required(node, 7)?, required(node, 8)?];
        let turned = 2 * e.width(node, tables[0])?;
        if turned > size {
            return Err(form(node, format!("{turned} angles for heads of {size}")));
        }
        let interleaved = flag("rotary_interleaved") != 0;
        let rotation = Rotation { interleaved, size, turned };
        let own = e.past.map(|past| past.places);
        let places = own.map_or_else(|| e.places(&q, 2), str::to_owned);
        let stored = e.measured(tables[0])?.kind;
        let [cos, sin] = tables.map(|table| {
            let rows = e.emit("Gather", &[table, &places]);
            let angles = e.cast(&rows, stored, kind);
            if own.is_some() { e.unsqueeze(&angles, 1) } else { angles }
        });
        q = rotation.emit(e, &q, &cos, &sin);
        k = rotation.emit(e, &k, &cos, &sin);
    }
    let window = int_attribute(node, "local_window_size").filter(|w| *w >= 0);
    if e.past.is_some() && window.is_some() {
        return Err(form(node, "local_window_size is set and tokens behind a prompt are masked"));
    }
    let seen = e.past.map(|past| unmasked(e, past.mask));
    let [k, v] = continued(e, node, [k, v], 3);
    let mask = input(node, 10).map(|bias| added(e, bias)).transpose()?;
    let attention = Attention {
        heads: count,
        shared,
        size,
        value_size: size,
        kind,
        scale: scale(node, size),
        softcap: float_attribute(node, "softcap").unwrap_or(0.0),
        causal: int_attribute(node, "causal") != Some(0),
        window,
        seen,
        mask,
    };
    finish(e, node, &attention, [&q, &k, &v], true);
    Ok(())
}

/// ONNX Runtime's MultiHeadAttention on separate queries, keys and values.
pub(super) fn multi_head(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    e.without(node, &[(3, "bias"), (4, "key_padding_mask"), (9, "cache_indirection")])?;
    e.only_outputs(node, &[0, 1, 2])?;
    let count = positive(node, "num_heads")?;
    let parts = [required(node, 0)?, required(node, 1)?, required(node, 2)?];
    if parts.iter().any(|part| e.measured(part).map(|m| m.rank()) != Ok(3)) {
        return Err(form(node, "queries, keys and values are packed or split by head"));
    }
    let (width, value_width) = (e.width(node, parts[0])?, e.width(node, parts[2])?);
    let (size, value_size) = (share(node, width, count)?, share(node, value_width, count)?);
    let sizes = [size, size, value_size];
    let [q, k, v] = std::array::from_fn(|i| heads(e, parts[i], count, sizes[i]));
    let [k, v] = continued(e, node, [k, v], 6);
    let mask = input(node, 5).map(|bias| added(e, bias)).transpose()?;
    let attention = Attention {
        heads: count,
        shared: count,
        size,
        value_size,
        kind: e.measured(parts[0])?.kind,
        scale: scale(node, size),
        softcap: 0.0,
        causal: int_attribute(node, "unidirectional") == Some(1),
        window: None,
        seen: None,
        mask,
    };
    finish(e, node, &attention, [&q, &k, &v], true);
    Ok(())
}

/// Attention of the standard operator set, on three or four dimensions.
pub(super) fn standard(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    e.without(node, &[(6, "nonpad_kv_seqlen")])?;
    e.only_outputs(node, &[0, 1, 2])?;
    let parts = [required(node, 0)?, required(node, 1)?, required(node, 2)?];
    let measured = e.measured(parts[0])?;
    let flat = measured.rank() == 3;
    let widths = [e.width(node, parts[0])?, e.width(node, parts[2])?];
    let (count, shared) = match flat {
        true => (positive(node, "q_num_heads")?, positive(node, "kv_num_heads")?),
        false => {
            let fixed = |part| e.measured(part).map(|m| m.fixed(1));
            let both = (fixed(parts[0])?, fixed(parts[1])?);
            let (Some(count), Some(shared)) = both else {
                return Err(form(node, "the number of heads varies"));
            };
            (count, shared)
        }
    };
    let [size, value_size] = match flat {
        true => [share(node, widths[0], count)?, share(node, widths[1], shared)?],
        false => widths,
    };
    let (counts, sizes) = ([count, shared, shared], [size, size, value_size]);
    let [q, k, v] = std::array::from_fn(|i| match flat {
        true => heads(e, parts[i], counts[i], sizes[i]),
        false => parts[i].to_owned(),
    });
    let [k, v] = continued(e, node, [k, v], 4);
    let mask = match input(node, 3) {
        Some(mask) if e.measured(mask)?.kind == DataType::Bool => {
            Some(Mask::Allowed(mask.to_owned()))
        }
        Some(mask) => Some(added(e, mask)?),
        None => None,
    };
    let attention = Attention {
        heads: count,
        shared,
        size,
        value_size,
        kind: measured.kind,
        scale: scale(node, size),
        softcap: float_attribute(node, "softcap").unwrap_or(0.0),
        causal: int_attribute(node, "is_causal") == Some(1),
        window: None,
        seen: None,
        mask,
    };
    finish(e, node, &attention, [&q, &k, &v], flat);
    Ok(())
}

/// Keys and values behind those cached in the inputs from `slot` on, which are what the node's
/// outputs 1 and 2 hold.
fn continued(e: &mut Emitter<'_>, node: &NodeProto, new: [String; 2], slot: usize) -> [String; 2] {
    let mut added = 0;
    new.map(|new| {
        let cached = input(node, slot + added).filter(|_| e.past.is_some());
        added += 1;
        let all = cached.map_or_else(|| new.clone(), |cached| e.concat(&[cached, &new], 2));
        e.output(node, added, &all);
        all
    })
}

/// Which keys are not masked, to be broadcast over heads and queries.
fn unmasked(e: &mut Emitter<'_>, mask: &str) -> String {
    let allowed = e.cast(mask, DataType::Int64, DataType::Bool);
    let heads = e.unsqueeze(&allowed, 1);
    e.unsqueeze(&heads, 1)
}

fn finish(
    e: &mut Emitter<'_>,
    node: &NodeProto,
    attention: &Attention,
    [q, k, v]: [&str; 3],
    flat: bool,
) {
    let mut y = attention.emit(e, q, k, v);
    if flat {
        y = unheads(e, &y, attention.heads * attention.value_size);
    }
    e.output(node, 0, &y);
}

fn added(e: &Emitter<'_>, bias: &str) -> Result<Mask, AutodiffError> {
    Ok(Mask::Added(bias.to_owned(), e.measured(bias)?.kind))
}

/// The stated scale, or 1/√size; ONNX Runtime's operators take 0 for unstated.
fn scale(node: &NodeProto, size: i64) -> f32 {
    let stated = float_attribute(node, "scale").filter(|s| *s != 0.0);
    stated.unwrap_or(1.0 / (size as f32).sqrt())
}

fn positive(node: &NodeProto, name: &str) -> Result<i64, AutodiffError> {
    let found = int_attribute(node, name);
    found.filter(|n| *n > 0).ok_or_else(|| form(node, format!("{name} is {found:?}")))
}

/// `width` divided among `count` heads.
fn share(node: &NodeProto, width: i64, count: i64) -> Result<i64, AutodiffError> {
    match width.checked_rem(count) {
        Some(0) if width >= count => Ok(width / count),
        _ => Err(form(node, format!("a width of {width} for {count} heads"))),
    }
}
