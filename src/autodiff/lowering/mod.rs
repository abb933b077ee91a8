//! Fused operators rewritten as standard ones, in the gradient graph only.
//!
//! One fused operator, one lowering, one table entry. Only nodes on the path to the loss are
//! rewritten; everything else, and every rollout graph, keeps the runtime's fused kernels. The
//! rules then differentiate what a lowering emits, so a lowering states the forward pass alone.
//!
//! A gradient graph has no past: key-value caches are fed empty and read by nothing, and rows are
//! padded on the right, so that a token at place s is at position s.

mod activations;
mod attention;
mod emitter;
mod fused_attention;
mod norms;
pub mod opset;
mod rotary;

use std::collections::HashSet;

use super::{AutodiffError, Path, index::Index, shapes::Shapes};
use crate::model::proto::{GraphProto, NodeProto};
use emitter::Emitter;

/// Emits what computes the outputs of a node from its inputs.
type Lowering = fn(&mut Emitter<'_>, &NodeProto) -> Result<(), AutodiffError>;

const STANDARD: &[(&str, Lowering)] = &[
    ("Attention", fused_attention::standard),
    ("Gelu", activations::gelu),
    ("LayerNormalization", norms::layer),
    ("RMSNormalization", norms::root_mean_square),
    ("RotaryEmbedding", rotary::standard),
    // ONNX Runtime's own, which its exporters write without its domain.
    ("SimplifiedLayerNormalization", norms::root_mean_square),
    ("Swish", activations::quick_gelu),
];

const MICROSOFT: &[(&str, Lowering)] = &[
    ("BiasGelu", activations::gelu),
    ("FastGelu", activations::fast_gelu),
    ("Gelu", activations::gelu),
    ("GroupQueryAttention", fused_attention::grouped_query),
    ("MultiHeadAttention", fused_attention::multi_head),
    ("QuickGelu", activations::quick_gelu),
    ("RotaryEmbedding", rotary::microsoft),
    ("SimplifiedLayerNormalization", norms::root_mean_square),
    ("SkipLayerNormalization", norms::skip_layer),
    ("SkipSimplifiedLayerNormalization", norms::skip_root_mean_square),
];

fn find(node: &NodeProto) -> Option<Lowering> {
    let table = match node.domain() {
        "" | "ai.onnx" => STANDARD,
        "com.microsoft" => MICROSOFT,
        _ => return None,
    };
    table.iter().find(|(op, _)| *op == node.op_type()).map(|(_, lowering)| *lowering)
}

/// The tensors whose shapes [`lower`] asks for, each once, in graph order; none where the path
/// holds no fused operator.
pub fn tensors(graph: &GraphProto, path: &Path) -> Vec<String> {
    let index = Index::new(graph);
    let mut seen = HashSet::new();
    let fused = path.nodes.iter().map(|p| index.node(*p)).filter(|n| find(n).is_some());
    fused
        .flat_map(|node| &node.input)
        .filter(|name| !name.is_empty() && index.constant(name).is_none())
        .filter(|name| seen.insert(name.as_str()))
        .cloned()
        .collect()
}

/// Rewrites the fused operators of `path`, which is to be found again afterwards. `shapes` holds
/// the tensors of [`tensors`].
///
/// # Errors
/// If a fused operator is used in a form its lowering does not cover.
pub fn lower(graph: &mut GraphProto, path: &Path, shapes: &Shapes) -> Result<(), AutodiffError> {
    let index = Index::new(graph);
    let mut emitter = Emitter::new(&index, shapes);
    let on_path: HashSet<usize> = path.nodes.iter().copied().collect();
    for (position, node) in graph.node.iter().enumerate() {
        match find(node).filter(|_| on_path.contains(&position)) {
            Some(lowering) => lowering(&mut emitter, node)?,
            None => emitter.nodes.push(node.clone()),
        }
    }
    let Emitter { nodes, initializers, .. } = emitter;
    graph.node = nodes;
    graph.initializer.extend(initializers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_name_each_operator_once() {
        for table in [STANDARD, MICROSOFT] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
