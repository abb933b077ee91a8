//! A prompt computed once for all rows that go on from it.
//!
//! A language model exported with a cache is composed with itself: the first instance runs the
//! prompts with an empty cache, the second takes the cache rows it names by [`ROWS`] as its past
//! and runs what follows. Weights, and all that depends on the adapter alone, exist once, so a
//! gradient by the adapter sums over both instances.

use std::collections::HashSet;

use super::{AutodiffError, backward::form, index::Index};
use crate::model::{
    node::{Attribute, Dim, node, tensor_type, tensor_value, untyped_value, with_attribute},
    proto::{GraphProto, NodeProto, ValueInfoProto, tensor_proto::DataType},
};

/// What the names of the first instance start with, its inputs' too.
pub const PROMPT: &str = "tla_prompt/";
/// int64 `[rows]`: the prompt each row goes on from.
pub const ROWS: &str = "tla_prompt_of_row";

/// Whether every node of `graph` can be given a second instance: none holds a graph of its own.
pub fn composable(graph: &GraphProto) -> bool {
    graph.node.iter().all(|n| n.attribute.iter().all(|a| a.g.is_none() && a.graphs.is_empty()))
}

/// Composes `graph` with itself. `caches` pairs each past input with the present output it is made
/// of; the inputs in `both` are read by both instances. All others, under [`PROMPT`] and their
/// name, become inputs of the first instance too, but the second's past is no longer one. The
/// outputs are the second's.
///
/// # Errors
/// If a name is missing, or a node holds a graph of its own.
pub fn share_prompts(
    graph: &mut GraphProto,
    caches: &[(&str, &str)],
    both: &[&str],
) -> Result<(), AutodiffError> {
    if let Some(node) = graph.node.iter().find(|n| n.attribute.iter().any(|a| a.g.is_some())) {
        return Err(form(node, "it holds a graph of its own"));
    }
    let index = Index::new(graph);
    for (past, present) in caches {
        if let Some(missing) = [past, present].into_iter().find(|name| !index.exists(name)) {
            return Err(AutodiffError::Missing((*missing).to_owned()));
        }
    }
    let apart = apart(graph, both);
    let needed = needed(graph, caches.iter().map(|(_, present)| *present));
    let pasts: HashSet<&str> = caches.iter().map(|(past, _)| *past).collect();
    let own = |node: &NodeProto| node.output.iter().any(|o| apart.contains(o.as_str()));
    let mut nodes = Vec::with_capacity(2 * graph.node.len());
    for node in &graph.node {
        match own(node) {
            true if node.output.iter().any(|o| needed.contains(o.as_str())) => {
                nodes.push(first_instance(node, &apart, &pasts));
            }
            true => {}
            false => nodes.push(node.clone()),
        }
    }
    for (past, present) in caches {
        let seen = format!("{PROMPT}{present}");
        let gather = node("Gather", past, &[&seen, ROWS], &[past]);
        nodes.push(with_attribute(gather, "axis", Attribute::Int(0)));
    }
    nodes.extend(graph.node.iter().filter(|n| own(n)).cloned());

    let mut inputs = Vec::with_capacity(2 * graph.input.len());
    for input in &graph.input {
        if apart.contains(input.name()) {
            inputs.push(first_input(input));
        }
        if !pasts.contains(input.name()) {
            inputs.push(input.clone());
        }
    }
    inputs.push(tensor_value(ROWS, DataType::Int64, &[Dim::Named("tla_prompt_rows".to_owned())]));
    // What exporters said of shapes holds for neither instance.
    graph.value_info.clear();
    (graph.node, graph.input) = (nodes, inputs);
    Ok(())
}

/// The tensors that differ between the instances: all that depends on an input beside `both`.
fn apart<'g>(graph: &'g GraphProto, both: &[&str]) -> HashSet<&'g str> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let inputs = graph.input.iter().map(|i| i.name());
    let mut apart: HashSet<&str> =
        inputs.filter(|name| !both.contains(name) && !constants.contains(name)).collect();
    for node in &graph.node {
        if node.input.iter().any(|i| apart.contains(i.as_str())) {
            apart.extend(node.output.iter().filter(|o| !o.is_empty()).map(String::as_str));
        }
    }
    apart
}

/// The tensors any of `wanted` depends on, themselves included.
fn needed<'g>(graph: &'g GraphProto, wanted: impl Iterator<Item = &'g str>) -> HashSet<&'g str> {
    let mut needed: HashSet<&str> = wanted.collect();
    for node in graph.node.iter().rev() {
        if node.output.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(node.input.iter().filter(|i| !i.is_empty()).map(String::as_str));
        }
    }
    needed
}

/// An input of the first instance, whose sizes are its own.
fn first_input(input: &ValueInfoProto) -> ValueInfoProto {
    let name = format!("{PROMPT}{}", input.name());
    let Some((kind, mut dims)) = tensor_type(input) else { return untyped_value(&name) };
    for dim in &mut dims {
        if let Dim::Named(size) = dim {
            *size = format!("{PROMPT}{size}");
        }
    }
    let kind = DataType::try_from(kind).unwrap_or(DataType::Undefined);
    tensor_value(&name, kind, &dims)
}

/// `node` on the first instance's tensors. Where it would append to the past, which is empty, it
/// does not read it.
fn first_instance(node: &NodeProto, apart: &HashSet<&str>, pasts: &HashSet<&str>) -> NodeProto {
    let mut made = node.clone();
    if node.op_type() == "Concat" {
        made.input.retain(|i| !pasts.contains(i.as_str()));
    }
    made.name = Some(format!("{PROMPT}{}", node.name()));
    for name in made.input.iter_mut().chain(&mut made.output) {
        if apart.contains(name.as_str()) {
            *name = format!("{PROMPT}{name}");
        }
    }
    made
}
