//! Why a graph has no gradient.

use thiserror::Error;

/// A graph that cannot be differentiated, and what stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AutodiffError {
    /// An operator on the path has no rule.
    #[error(
        "operator {domain}{op} (node '{node}') lies between the adapter and the loss and has no \
         gradient rule. Export the model without that fusion, or leave the layers below it out \
         of the adapter"
    )]
    NoRule {
        /// The operator's type.
        op: String,
        /// Its domain with `::`, empty for the default one.
        domain: String,
        /// The node's name.
        node: String,
    },
    /// A rule exists but not for this form of the operator.
    #[error("node '{node}' ({op}): {detail}. Export the model with a current exporter")]
    Form {
        /// The operator's type.
        op: String,
        /// The node's name.
        node: String,
        /// What the rule does not cover.
        detail: String,
    },
    /// A tensor on the path was not measured.
    #[error("the shape of tensor '{0}' was not measured. This is a fault of tla: report it")]
    NotMeasured(String),
    /// The loss does not depend on a tensor it should be differentiated by.
    #[error(
        "the loss does not depend on '{0}'. The module it belongs to is not connected to the \
         model's logits: leave it out of the adapter"
    )]
    Independent(String),
    /// A name the graph lacks.
    #[error("the graph has no tensor '{0}'. Export the model as text-generation-with-past")]
    Missing(String),
    /// The operator set is too old for the rules.
    #[error("the model uses opset {0}; gradients need 13 or newer. Export it with --opset 18")]
    Opset(i64),
}
