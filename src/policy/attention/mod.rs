//! Attention as one operator, for rollouts.
//!
//! Exporters that spell attention out join a token's keys and values to all before it, copy them for
//! every head and turn them round, token by token. One operator does the same sums where the keys
//! and values lie. It counts the tokens of a row in place of looking at which are masked, so rows
//! are padded on the right from then on.

mod found;
mod makers;

use found::{Attention, Heads, attentions};

use crate::{
    autodiff::prune,
    model::{
        node::{Attribute, node, node_with, tensor_i64, with_attribute},
        proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, tensor_proto::DataType},
    },
    runtime::MASK,
    surgery::{Edit, Patch, PatchError},
};

const CONTRIB: &str = "com.microsoft";
const IDS: &str = "input_ids";

/// Puts one operator in place of the attention of every layer. A model is left as it is unless all
/// of its layers have the same causal attention in single precision, over the whole of a text.
///
/// # Errors
/// If the operators do not fit the graph.
pub fn attend_by_one_operator(model: &mut ModelProto) -> Result<(), PatchError> {
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    let Some(patch) = patch(graph) else { return Ok(()) };
    patch.apply(graph)?;
    prune(graph);
    // What exporters said of shapes names tensors that are gone.
    graph.value_info.clear();
    if !model.opset_import.iter().any(|o| o.domain() == CONTRIB) {
        let domain = Some(CONTRIB.to_owned());
        model.opset_import.push(OperatorSetIdProto { domain, version: Some(1) });
    }
    Ok(())
}

fn name(part: &str) -> String {
    format!("tla/attention/{part}")
}

fn patch(graph: &GraphProto) -> Option<Patch> {
    let found = attentions(graph)?;
    let first = found.first()?;
    let mut edits: Vec<Edit> = [("one", 1), ("two", 2), ("half", first.size / 2), ("zero", 0)]
        .iter()
        .map(|(part, value)| Edit::AddInitializer(tensor_i64(&name(part), &[1], &[*value])))
        .collect();
    for (part, value) in [("none", 0), ("first", 1)] {
        edits.push(Edit::AddInitializer(tensor_i64(&name(part), &[], &[value])));
    }
    for (part, shape) in [("by_place", &[-1, first.size / 2][..]), ("flat", &[0, 0, -1])] {
        edits.push(Edit::AddInitializer(tensor_i64(&name(part), &[shape.len() as i64], shape)));
    }
    let counted = counted(first);
    edits.push(Edit::InsertAfter { node_index: first.turned, nodes: counted });
    for (layer, attention) in found.iter().enumerate() {
        let out = name(&format!("{layer}"));
        let nodes = operators(attention, layer, &out);
        edits.push(Edit::InsertAfter { node_index: attention.joined, nodes });
        for (join, present) in attention.joins.iter().zip(attention.presents) {
            let (from, to) = (present.to_owned(), name(&format!("{layer}/unread/{present}")));
            edits.push(Edit::RenameOutput { node_index: *join, slot: 0, from, to });
        }
        for (reader, slot) in &attention.readers {
            let (node_index, slot, from) = (*reader, *slot, attention.out.to_owned());
            edits.push(Edit::RewireInput { node_index, slot, from, to: out.clone() });
        }
    }
    Some(Patch { edits })
}

/// What all layers share: how many tokens each row has, and the angles of each token's place, the
/// tokens of a batch counted one after another.
fn counted(first: &Attention<'_>) -> Vec<NodeProto> {
    let int = Attribute::Int;
    let made = |op: &str, part: &str, inputs: &[&str], attributes: &[(&str, Attribute)]| {
        node_with(op, &name(part), inputs, attributes)
    };
    let [one, two, zero, half, none, first_one, by_place] =
        ["one", "two", "zero", "half", "none", "first", "by_place"].map(name);
    let to_int32 = [("to", int(DataType::Int32 as i64))];
    let [tokens, before, width, total] = ["tokens", "before", "width", "total"].map(name);
    let [ids, size, places] = ["ids", "size", "places"].map(name);
    let mut nodes = vec![
        made("ReduceSum", "tokens", &[MASK, &one], &[("keepdims", int(0))]),
        made("Sub", "before", &[&tokens, &one], &[]),
        made("Cast", "lengths", &[&before], &to_int32),
        made("Shape", "width", &[MASK], &[]),
        made("Gather", "total", &[&width, &first_one], &[("axis", int(0))]),
        made("Cast", "longest", &[&total], &to_int32),
        made("Shape", "ids", &[IDS], &[]),
        made("ReduceProd", "size", &[&ids], &[("keepdims", int(0))]),
        made("Range", "places", &[&none, &size, &first_one], &[]),
        made("Reshape", "place", &[&places, &ids], &[]),
    ];
    for (part, angles) in [("cos", first.cos), ("sin", first.sin)] {
        let (cut, halves) = (format!("{part}/half"), name(&format!("{part}/half")));
        nodes.push(made("Slice", &cut, &[angles, &zero, &half, &two], &[]));
        nodes.push(made("Reshape", part, &[&halves, &by_place], &[]));
    }
    nodes
}

fn operators(attention: &Attention<'_>, layer: usize, out: &str) -> Vec<NodeProto> {
    let own = |part: &str| name(&format!("{layer}/{part}"));
    let mut nodes = Vec::new();
    let mut flat = |heads: &Heads<'_>, part: &str| match heads {
        Heads::Flat(tensor) => (*tensor).to_owned(),
        Heads::Apart(tensor) => {
            nodes.push(node_with("Reshape", &own(part), &[tensor, &name("flat")], &[]));
            own(part)
        }
    };
    let [query, key, value] =
        [(&attention.query, "q"), (&attention.key, "k"), (&attention.value, "v")]
            .map(|(heads, part)| flat(heads, part));
    let [place, cos, sin] = ["place", "cos", "sin"].map(name);
    let turned = [(query, "q/turned", attention.heads), (key, "k/turned", attention.kv_heads)].map(
        |(tensor, part, heads)| {
            let inputs = [&tensor, &place, &cos, &sin].map(String::as_str);
            let mut turn = node_with("RotaryEmbedding", &own(part), &inputs, &[]);
            turn.domain = Some(CONTRIB.to_owned());
            nodes.push(with_attribute(turn, "num_heads", Attribute::Int(heads)));
            own(part)
        },
    );
    let [past_key, past_value] = attention.pasts;
    let [lengths, longest] = ["lengths", "longest"].map(name);
    let inputs = [&turned[0], &turned[1], &value, past_key, past_value, &lengths, &longest];
    let [present_key, present_value] = attention.presents;
    let mut attend = node("GroupQueryAttention", out, &inputs, &[out, present_key, present_value]);
    attend.domain = Some(CONTRIB.to_owned());
    for (key, value) in [
        ("num_heads", Attribute::Int(attention.heads)),
        ("kv_num_heads", Attribute::Int(attention.kv_heads)),
        ("scale", Attribute::Float(attention.scale)),
    ] {
        attend = with_attribute(attend, key, value);
    }
    nodes.push(attend);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::OnnxModel,
        runtime::{CausalGraph, Rows, SessionOptions},
    };
    use std::path::{Path, PathBuf};

    const SPELLED_OUT: [&str; 3] =
        ["wordmath", "exports/optimum-fp32/qwen2-tied", "exports/optimum-fp32/llama-untied"];

    fn model(name: &str) -> (ModelProto, PathBuf) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let model = OnnxModel::load(&folder).unwrap();
        (model.whole().unwrap(), model.path)
    }

    fn count(model: &ModelProto, op: &str) -> usize {
        model.graph.as_ref().unwrap().node.iter().filter(|n| n.op_type() == op).count()
    }

    /// Logits of three prompts of 7, 2 and 5 tokens, padded on the right, and of 12 tokens more.
    fn logits(model: &ModelProto, path: &Path) -> Vec<Vec<f32>> {
        let mut graph = CausalGraph::load(model, path, SessionOptions::cpu(2)).unwrap();
        let (own, width) = ([7usize, 2, 5], 7usize);
        let mut cache = graph.empty_cache(3).unwrap();
        let mut masks = own.map(|own| (0..width).map(|k| i64::from(k < own)).collect::<Vec<_>>());
        let mut ids: Vec<i64> = (0..21).map(|k| (k * 29 % 200) as i64).collect();
        let mut positions: Vec<i64> = (0..21).map(|k| (k % 7) as i64).collect();
        let mut found = Vec::new();
        for token in 0..=12 {
            let mask = masks.concat();
            let rows = Rows { batch: 3, ids: &ids, mask: &mask, positions: &positions };
            let (made, longer) = graph.step(&rows, cache, &[]).unwrap();
            cache = longer;
            let (length, vocabulary) = (made.dims()[1], made.dims()[2]);
            let values = made.to_f32("logits").unwrap();
            for (row, own) in own.iter().enumerate() {
                let place = row * length + if token == 0 { own - 1 } else { 0 };
                found.push(values[place * vocabulary..][..vocabulary].to_vec());
            }
            masks.iter_mut().for_each(|mask| mask.push(1));
            ids = (0..3).map(|row| ((row * 53 + token * 31) % 200) as i64).collect();
            positions = own.map(|own| (own + token) as i64).to_vec();
        }
        found
    }

    #[test]
    fn one_operator_gives_the_logits_of_attention_that_is_spelled_out() {
        for name in SPELLED_OUT {
            let (spelled_out, path) = model(name);
            let mut fused = spelled_out.clone();
            attend_by_one_operator(&mut fused).unwrap();
            let layers = count(&spelled_out, "Softmax");
            assert_eq!(count(&fused, "GroupQueryAttention"), layers, "{name}");
            assert_eq!(count(&fused, "Softmax") + count(&fused, "IsNaN"), 0, "{name}");
            let (found, expected) = (logits(&fused, &path), logits(&spelled_out, &path));
            let apart = found.iter().flatten().zip(expected.iter().flatten());
            let most = apart.map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            let largest = expected.iter().flatten().fold(0.0, |m: f32, x| m.max(x.abs()));
            println!("{name}: {most:.1e} of {largest:.1}");
            assert!(most < 1e-5 * largest, "{name}: {most} of {largest}");
        }
    }

    #[test]
    fn attention_of_another_kind_is_left_as_it_is() {
        let changed = |from: &str, to: &str| {
            let (mut model, _) = model(SPELLED_OUT[1]);
            let graph = model.graph.as_mut().unwrap();
            let node = graph.node.iter_mut().find(|n| n.op_type() == from).unwrap();
            node.op_type = Some(to.to_owned());
            model
        };
        let windowed = || {
            let (mut model, _) = model(SPELLED_OUT[1]);
            let graph = model.graph.as_mut().unwrap();
            let place = graph.node.iter().position(|n| n.op_type() == "LessOrEqual").unwrap();
            let earlier = graph.node[place].clone();
            let (inputs, output) = (&earlier.input, &earlier.output[0]);
            graph.node[place].output[0] = "not later".to_owned();
            let near = node("LessOrEqual", "near", &[&inputs[1], &inputs[0]], &["near"]);
            let both = node("And", "both", &["not later", "near"], &[output]);
            graph.node.insert(place + 1, near);
            graph.node.insert(place + 2, both);
            model
        };
        // The angles of one row for all: places are counted, and not given.
        let counted = || {
            let (mut model, _) = model(SPELLED_OUT[1]);
            let graph = model.graph.as_mut().unwrap();
            let readers = graph.node.iter_mut().flat_map(|node| &mut node.input);
            readers.filter(|name| *name == "position_ids").for_each(|n| *n = "counted".into());
            model
        };
        let others = ["exports/genai-fp32-cpu/qwen2-tied", "exports/optimum-fp16/qwen2-tied"]
            .map(|name| model(name).0);
        let mut models = vec![
            changed("LessOrEqual", "Less"),
            changed("And", "Or"),
            changed("Neg", "Identity"),
            changed("Cos", "Cosh"),
            changed("IsNaN", "IsInf"),
            windowed(),
            counted(),
        ];
        models.extend(others);
        for (at, model) in models.iter_mut().enumerate() {
            let before = model.clone();
            attend_by_one_operator(model).unwrap();
            assert_eq!(*model, before, "{at}");
        }
    }
}
