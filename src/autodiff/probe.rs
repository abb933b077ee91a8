//! A graph that shows the tensors on a path, so that their shapes can be measured.

use std::collections::HashSet;

use super::{Path, index::Index, shapes::Measured};
use crate::model::{
    node::{ints_attribute, untyped_value},
    proto::{GraphProto, ModelProto, tensor_proto::DataType},
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

/// What the graph itself says of `name`, if that is a transposed weight. As an output of the probe it
/// would be a copy of the weight.
pub fn transposed_weight(graph: &GraphProto, name: &str) -> Option<Measured> {
    let made = graph.node.iter().find(|n| n.output.iter().any(|output| output == name))?;
    let stored = made.input.first().filter(|_| made.op_type() == "Transpose")?;
    let weight = graph.initializer.iter().find(|t| t.name() == stored)?;
    let kind = DataType::try_from(weight.data_type()).ok()?;
    let dim = |axis: &i64| weight.dims.get(usize::try_from(*axis).ok()?).copied();
    let dims: Vec<i64> = match ints_attribute(made, "perm") {
        Some(order) => order.iter().map(dim).collect::<Option<_>>()?,
        None => weight.dims.iter().rev().copied().collect(),
    };
    Some(Measured::constant(kind, &dims))
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
