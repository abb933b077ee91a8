//! Everything an edit of a graph can be refused for.

use crate::model::ModelError;

/// Why a patch was refused. The graph is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// A node that is not there.
    #[error(
        "the graph has {nodes} nodes, so there is no node {node_index}. Find the targets again"
    )]
    NoSuchNode {
        /// The index in the edit.
        node_index: usize,
        /// Nodes in the graph.
        nodes: usize,
    },
    /// An input or output that is not there.
    #[error(
        "the node {node:?} has {slots} of these slots, so there is no slot {slot}. Find the targets again"
    )]
    NoSuchSlot {
        /// The node.
        node: String,
        /// The slot in the edit.
        slot: usize,
        /// Slots of the node.
        slots: usize,
    },
    /// The slot holds another value than the edit was made for.
    #[error(
        "slot {slot} of node {node:?} holds {found:?}, not {expected:?}. The graph changed after the edit was planned; plan it again"
    )]
    NotAsPlanned {
        /// The node.
        node: String,
        /// The slot.
        slot: usize,
        /// What the edit expects.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value needs a name.
    #[error("a {what} without a name cannot be added. Give it one")]
    Unnamed {
        /// "initializer", "input", "output".
        what: &'static str,
    },
    /// A node without an operator.
    #[error("the inserted node {node:?} names no operator. Set its op_type")]
    NoOperator {
        /// The node.
        node: String,
    },
    /// A name that is already in use.
    #[error("the name {name:?} is already taken in the graph. Choose another")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A value that nobody makes, or that is made later in the list.
    #[error("{reader} reads {value:?}, which nothing before it makes. Add its producer, earlier")]
    NotAvailable {
        /// "node …" or "output …".
        reader: String,
        /// The value.
        value: String,
    },
    /// No initializer to replace.
    #[error("the graph has no initializer {name:?}. Add it, or replace another")]
    NoSuchTensor {
        /// The name.
        name: String,
    },
    /// A replacement of another name, type or shape.
    #[error(
        "the replacement of {name:?} differs in {part}: {found} instead of {expected}. Only values may change"
    )]
    NotAlike {
        /// The tensor to be replaced.
        name: String,
        /// "name", "type" or "shape".
        part: &'static str,
        /// Of the tensor in the graph.
        expected: String,
        /// Of the replacement.
        found: String,
    },
    /// A tensor that breaks its own shape.
    #[error(transparent)]
    BadTensor(#[from] ModelError),
    /// Two edits of one place.
    #[error("two edits change {place}. Join them into one")]
    Conflict {
        /// The place.
        place: String,
    },
    /// An edit that changes nothing.
    #[error("the edit of {place} changes nothing. Leave it out")]
    NoChange {
        /// The place.
        place: String,
    },
}
