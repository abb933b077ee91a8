//! The nodes between the loss and the tensors it is differentiated by.

use std::collections::HashSet;

use super::{AutodiffError, index::Index};
use crate::model::{
    node::int_attribute,
    proto::{GraphProto, NodeProto, tensor_proto::DataType},
};

/// Operators whose result carries no gradient: sizes, comparisons, positions.
const WITHOUT_GRADIENT: &[&str] = &[
    "And",
    "ArgMax",
    "ArgMin",
    "Ceil",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "Range",
    "Round",
    "Shape",
    "Sign",
    "Size",
];

/// The part of a graph a gradient flows through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The scalar to differentiate.
    pub loss: String,
    /// The tensors to differentiate it by.
    pub wrt: Vec<String>,
    /// Positions of the nodes on the path, in the graph's order.
    pub(super) nodes: Vec<usize>,
    pub(super) tensors: HashSet<String>,
}

impl Path {
    /// Finds the nodes of `graph` through which `loss` depends on `wrt`.
    ///
    /// # Errors
    /// If a name is missing or the loss does not depend on one of `wrt`.
    pub fn find(graph: &GraphProto, loss: &str, wrt: &[String]) -> Result<Self, AutodiffError> {
        let index = Index::new(graph);
        for name in wrt.iter().map(String::as_str).chain([loss]) {
            if !index.exists(name) {
                return Err(AutodiffError::Missing(name.to_owned()));
            }
        }
        let mut downstream: HashSet<&str> = wrt.iter().map(String::as_str).collect();
        for node in graph.node.iter().filter(|n| carries_gradient(n)) {
            if node.input.iter().any(|i| downstream.contains(i.as_str())) {
                downstream.extend(node.output.iter().map(String::as_str));
            }
        }
        let mut upstream: HashSet<&str> = HashSet::from([loss]);
        let mut nodes = Vec::new();
        for (position, node) in graph.node.iter().enumerate().rev() {
            let reaches_loss = node.output.iter().any(|o| upstream.contains(o.as_str()));
            let depends = node.input.iter().any(|i| downstream.contains(i.as_str()));
            if reaches_loss && depends && carries_gradient(node) {
                nodes.push(position);
                upstream.extend(node.input.iter().map(String::as_str));
            }
        }
        nodes.reverse();
        if let Some(name) = wrt.iter().find(|w| !upstream.contains(w.as_str())) {
            return Err(AutodiffError::Independent(name.clone()));
        }
        let tensors = downstream
            .intersection(&upstream)
            .filter(|t| !t.is_empty())
            .map(|t| (*t).to_owned())
            .collect();
        Ok(Self { loss: loss.to_owned(), wrt: wrt.to_vec(), nodes, tensors })
    }

    /// Whether a gradient flows through `tensor`.
    pub(super) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains(tensor)
    }
}

fn carries_gradient(node: &NodeProto) -> bool {
    if WITHOUT_GRADIENT.contains(&node.op_type()) {
        return false;
    }
    if node.op_type() == "Cast" {
        let to = int_attribute(node, "to").and_then(|t| i32::try_from(t).ok());
        return matches!(
            to.and_then(|t| DataType::try_from(t).ok()),
            Some(DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
        );
    }
    true
}
