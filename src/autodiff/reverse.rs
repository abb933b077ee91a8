//! The reverse sweep.

use super::{
    AutodiffError, Path,
    backward::{Backward, PREFIX},
    index::Index,
    lowering::opset::RULES,
    rules,
    shapes::Shapes,
};
use crate::model::{
    node::tensor_f32,
    proto::{GraphProto, NodeProto, TensorProto},
};

/// What to add to a graph so that it also computes a gradient.
#[derive(Debug, Clone)]
pub struct Gradient {
    /// Nodes to append, in order.
    pub nodes: Vec<NodeProto>,
    /// Constants those nodes read.
    pub initializers: Vec<TensorProto>,
    /// For each tensor of [`Path::wrt`], in that order, the tensor holding its gradient.
    pub adjoints: Vec<String>,
}

/// Differentiates the path's loss by the path's tensors. `seed` names a float32 scalar that
/// multiplies every gradient; without it that is 1.
///
/// # Errors
/// If an operator on the path has no rule, or a form of it that its rule does not cover.
pub fn differentiate(
    graph: &GraphProto,
    opset: i64,
    path: &Path,
    shapes: &Shapes,
    seed: Option<&str>,
) -> Result<Gradient, AutodiffError> {
    if opset < RULES {
        return Err(AutodiffError::Opset(opset));
    }
    let index = Index::new(graph);
    let mut backward = Backward::new(&index, path, shapes);
    let seed = seed.map_or_else(
        || {
            let one = format!("{PREFIX}seed");
            backward.initializers.push(tensor_f32(&one, &[], &[1.0]));
            one
        },
        str::to_owned,
    );
    backward.accumulate(&path.loss, seed);
    for position in path.nodes.iter().rev() {
        let node = index.node(*position);
        let outputs: Vec<Option<String>> =
            node.output.iter().map(|o| backward.adjoint(o).map(str::to_owned)).collect();
        if outputs.iter().all(Option::is_none) {
            continue;
        }
        let rule = rules::find(node)?;
        for (slot, gradient) in rule(&mut backward, node, &outputs)? {
            backward.accumulate(&node.input[slot], gradient);
        }
    }
    let adjoints = path
        .wrt
        .iter()
        .map(|w| {
            let adjoint = backward.adjoint(w).map(str::to_owned);
            adjoint.ok_or_else(|| AutodiffError::Independent(w.clone()))
        })
        .collect::<Result<_, _>>()?;
    let Backward { nodes, initializers, .. } = backward;
    Ok(Gradient { nodes, initializers, adjoints })
}
