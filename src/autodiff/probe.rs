//! A graph that shows the tensors on a path, so that their shapes can be measured.

use std::collections::{HashMap, HashSet};

use super::{Path, index::Index, shapes::Measured};
use crate::model::{
    node::{ints_attribute, untyped_value},
    proto::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType},
};

/// The tensors whose shape a differentiation along `path` may ask for, each once, in graph order.
pub fn tensors(graph: &GraphProto, path: &Path) -> Vec<String> {
    let index = Index::new(graph);
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for position in &path.nodes {
        let node = index.node(*position);
        for name in node.input.iter().chain(&node.output) {
            let measurable = !name.is_empty() && index.constant(name).is_none();
            if measurable && seen.insert(name.as_str()) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// Transposed weights, of which the graph itself says what they look like. As an output of the probe
/// each would be a copy of the weight.
pub fn transposed_weights(graph: &GraphProto) -> HashMap<&str, Measured> {
    let weights: HashMap<&str, _> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let shown = |made: &NodeProto| {
        let weight = weights.get(made.input.first()?.as_str())?;
        let kind = DataType::try_from(weight.data_type()).ok()?;
        let dim = |axis: &i64| weight.dims.get(usize::try_from(*axis).ok()?).copied();
        let dims: Vec<i64> = match ints_attribute(made, "perm") {
            Some(order) => order.iter().map(dim).collect::<Option<_>>()?,
            None => weight.dims.iter().rev().copied().collect(),
        };
        Some(Measured::constant(kind, &dims))
    };
    let transposes = graph.node.iter().filter(|n| n.op_type() == "Transpose");
    transposes.filter_map(|n| Some((n.output.first()?.as_str(), shown(n)?))).collect()
}

/// `model` with every tensor of [`tensors`] as an output, in that order, and no other.
/// Inputs pass through an Identity, because a runtime may refuse an input as an output.
pub fn graph(model: &ModelProto, names: &[String]) -> ModelProto {
    let mut probe = model.clone();
    let Some(graph) = probe.graph.as_mut() else { return probe };
    let inputs: HashSet<String> = graph.input.iter().map(|i| i.name().to_owned()).collect();
    graph.output = names
        .iter()
        .map(|name| {
            if !inputs.contains(name) {
                return untyped_value(name);
            }
            let copy = format!("{name}/tla_probe");
            graph.node.push(crate::model::node::node("Identity", &copy, &[name], &[&copy]));
            untyped_value(&copy)
        })
        .collect();
    probe
}
