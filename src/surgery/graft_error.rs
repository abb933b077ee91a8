//! Everything a graft can be refused for.

use crate::format::ModuleId;

/// Why the low-rank path was not put beside the weights. The graph is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraftError {
    /// The node of a target is not where the target says.
    #[error("{module} was not found in this graph. Find the targets of the model again")]
    NotTheGraph {
        /// The module.
        module: ModuleId,
    },
    /// A module that only branches of the graph multiply by.
    #[error(
        "{module} lies inside a branch of the graph, where nothing can be put beside it. Merge the \
         adapter into the weights, or export the model without branches"
    )]
    InBranch {
        /// The module.
        module: ModuleId,
    },
    /// A factor of another shape than the weight.
    #[error(
        "a factor of {module} is {found:?}, its weight asks for {expected:?}. Rebuild the adapter from this base"
    )]
    FactorShape {
        /// The module.
        module: ModuleId,
        /// Shape of the factor.
        found: Vec<usize>,
        /// Shape the weight asks for.
        expected: [usize; 2],
    },
    /// A factor beyond the largest f32.
    #[error(
        "a factor of {module} is {value}, which no f32 can hold. Use a base with smaller weights"
    )]
    Factor {
        /// The module.
        module: ModuleId,
        /// The factor.
        value: f64,
    },
    /// A model that takes an adapter already.
    #[error(
        "the model is grafted already: it takes an adapter from its input {input:?}. \
         Use the model it was grafted from"
    )]
    Grafted {
        /// The input.
        input: &'static str,
    },
    /// A value of the graph that has the name of the input.
    #[error(
        "the model has a value named {name:?}, as the input with the adapter's values is to be. Rename it \
         in the model wherever it is made and read, or merge the adapter"
    )]
    NameTaken {
        /// The name.
        name: &'static str,
    },
    /// Before version 4 an input with a default was the only kind of initializer.
    #[error(
        "IR version {version} has no inputs that can be left out. \
         Convert the model to IR version 4 or newer"
    )]
    OldIr {
        /// The model's IR version.
        version: i64,
    },
    /// Operators of another form.
    #[error("the model uses operator set {version}, and a graft needs {least}. Export it anew")]
    OldOpset {
        /// The model's operator set.
        version: i64,
        /// The first that will do.
        least: i64,
    },
    /// A projection beyond the largest f32.
    #[error("the scale {scale:e} makes a projection of {value:e}. Use a smaller scale")]
    Scale {
        /// The adapter's scale.
        scale: f32,
        /// The projection, scaled.
        value: f64,
    },
    /// A projection that no file can hold.
    #[error(
        "the projection has {numbers} numbers, more than the {most} a file can hold. \
         Use fewer modules, values or a lower rank"
    )]
    TooLarge {
        /// Numbers of P, of all modules.
        numbers: u64,
        /// The most there can be.
        most: u64,
    },
}
