//! Whether a graph makes every value once and before it is read.

use super::PatchError;
use crate::model::{
    ModelError, OnnxModel,
    proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto},
};
use std::collections::HashSet;

/// Refuses a model as it came that could not be changed, in words for those who did not plan the change.
pub(super) fn check_base(model: &OnnxModel) -> Result<(), ModelError> {
    let graph = model.graph();
    let path = || model.path.clone();
    match check(&graph.node, &graph.input, &graph.output, &tensor_names(graph)) {
        Err(PatchError::NotAvailable { reader, value }) => {
            Err(ModelError::Disorder { path: path(), reader, value })
        }
        Err(PatchError::NameTaken { name }) => Err(ModelError::DuplicateName { name }),
        // Nothing else is checked.
        _ => Ok(()),
    }
}

/// The names of all initializers.
pub(super) fn tensor_names(graph: &GraphProto) -> Vec<&str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    graph.initializer.iter().chain(sparse).map(|tensor| tensor.name()).collect()
}

/// Checks a graph given by its parts; `tensors` are the names of all initializers.
///
/// Values made in nested graphs may not have the name of a value around them (ONNX IR, "names
/// within a graph"), and what nested graphs read counts as read by the node that holds them.
pub(super) fn check(
    nodes: &[NodeProto],
    inputs: &[ValueInfoProto],
    outputs: &[ValueInfoProto],
    tensors: &[&str],
) -> Result<(), PatchError> {
    let mut made = HashSet::new();
    distinct(tensors.iter().copied(), &mut made)?;
    // An input may share its name with an initializer, which is then its default.
    distinct(inputs.iter().map(|i| i.name()), &mut HashSet::new())?;
    made.extend(inputs.iter().map(|i| i.name()));

    let mut node_names = HashSet::new();
    for node in nodes {
        for value in node.input.iter().filter(|v| !v.is_empty()) {
            available(&made, value, || describe(node))?;
        }
        for graph in nested(&node.attribute) {
            check_nested(graph, &made, node)?;
        }
        distinct(node.output.iter().map(String::as_str).filter(|o| !o.is_empty()), &mut made)?;
        distinct(Some(node.name()).filter(|n| !n.is_empty()).into_iter(), &mut node_names)?;
    }

    distinct(outputs.iter().map(|o| o.name()), &mut HashSet::new())?;
    for output in outputs {
        available(&made, output.name(), || "the list of outputs".into())?;
    }
    let mut inner = HashSet::new();
    nodes.iter().flat_map(|n| nested(&n.attribute)).for_each(|g| made_inside(g, &mut inner));
    // The smallest, so that the message does not depend on the order of a set.
    match made.intersection(&inner).min() {
        Some(&name) => Err(PatchError::NameTaken { name: name.into() }),
        None => Ok(()),
    }
}

fn distinct<'a>(
    mut names: impl Iterator<Item = &'a str>,
    seen: &mut HashSet<&'a str>,
) -> Result<(), PatchError> {
    match names.find(|name| !seen.insert(name)) {
        Some(name) => Err(PatchError::NameTaken { name: name.into() }),
        None => Ok(()),
    }
}

fn available(
    made: &HashSet<&str>,
    value: &str,
    reader: impl Fn() -> String,
) -> Result<(), PatchError> {
    match made.contains(value) {
        true => Ok(()),
        false => Err(PatchError::NotAvailable { reader: reader(), value: value.into() }),
    }
}

fn describe(node: &NodeProto) -> String {
    format!("node {:?} ({})", node.name(), node.op_type())
}

fn nested(attributes: &[AttributeProto]) -> impl Iterator<Item = &GraphProto> {
    attributes.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

fn check_nested(
    graph: &GraphProto,
    around: &HashSet<&str>,
    holder: &NodeProto,
) -> Result<(), PatchError> {
    let mut made = around.clone();
    made.extend(graph.initializer.iter().map(|t| t.name()));
    made.extend(graph.input.iter().map(|i| i.name()));
    for node in &graph.node {
        for value in node.input.iter().filter(|v| !v.is_empty()) {
            available(&made, value, || describe(holder))?;
        }
        for inner in nested(&node.attribute) {
            check_nested(inner, &made, holder)?;
        }
        made.extend(node.output.iter().map(String::as_str));
    }
    Ok(())
}

fn made_inside<'a>(graph: &'a GraphProto, names: &mut HashSet<&'a str>) {
    names.extend(graph.initializer.iter().map(|t| t.name()));
    names.extend(graph.input.iter().map(|i| i.name()));
    for node in &graph.node {
        names.extend(node.output.iter().map(String::as_str).filter(|o| !o.is_empty()));
        nested(&node.attribute).for_each(|g| made_inside(g, names));
    }
}

/// Whether the graph has a value of this name, nested graphs included.
pub(super) fn is_made(graph: &GraphProto, name: &str) -> bool {
    let mut made = HashSet::new();
    made_inside(graph, &mut made);
    made.contains(name)
}

/// `wish`, lengthened until nothing in the graph, nested graphs included, has that name.
pub fn free_name(graph: &GraphProto, wish: &str) -> String {
    let mut taken = HashSet::new();
    made_inside(graph, &mut taken);
    taken.extend(graph.node.iter().map(|n| n.name()));
    taken
        .extend(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()?.name.as_deref()));
    let mut name = wish.to_owned();
    while taken.contains(name.as_str()) {
        name.push('_');
    }
    name
}
