//! A graph that shows the tensors on a path, so that their shapes can be measured.

use std::collections::HashSet;

use super::{Path, index::Index};
use crate::model::{
    node::untyped_value,
    proto::{GraphProto, ModelProto},
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
