//! Fused operators rewritten as standard ones, in the gradient graph only.
//!
//! One fused operator, one lowering, one table entry. Only nodes on the path to the loss are
//! rewritten; everything else, and every rollout graph, keeps the runtime's fused kernels. The
//! rules then differentiate what a lowering emits, so a lowering states the forward pass alone.
//!
//! Without a [`Past`], key-value caches are fed empty and read by nothing, and rows are padded on the
//! right, so that a token at place s is at position s.

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
pub use emitter::Past;

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

/// The fused operators to rewrite: those on the path, and with a past those that read it, whose
/// kernels may not take several rows of several tokens behind one.
fn fused(graph: &GraphProto, path: &Path, past: Option<Past<'_>>) -> HashSet<usize> {
    let caches = past.map_or(&[][..], |p| p.caches);
    let reads = |node: &NodeProto| node.input.iter().any(|i| caches.contains(&i.as_str()));
    let on_path: HashSet<usize> = path.nodes.iter().copied().collect();
    let nodes = graph.node.iter().enumerate();
    nodes
        .filter(|(at, node)| find(node).is_some() && (on_path.contains(at) || reads(node)))
        .map(|(at, _)| at)
        .collect()
}

/// The tensors whose shapes [`lower`] asks for, each once, in graph order; none where there is no
/// fused operator to rewrite.
pub fn tensors(graph: &GraphProto, path: &Path, past: Option<Past<'_>>) -> Vec<String> {
    let index = Index::new(graph);
    let mut seen = HashSet::new();
    let chosen = fused(graph, path, past);
    let nodes = graph.node.iter().enumerate().filter(|(at, _)| chosen.contains(at));
    nodes
        .map(|(_, node)| node)
        .flat_map(|node| &node.input)
        .filter(|name| !name.is_empty() && index.constant(name).is_none())
        .filter(|name| seen.insert(name.as_str()))
        .cloned()
        .collect()
}

/// Rewrites the fused operators of `path`, which is to be found again afterwards, and with a past
/// those that read it, so that they take any number of tokens behind it, some of them masked.
/// `shapes` holds the tensors of [`tensors`].
///
/// # Errors
/// If a fused operator is used in a form its lowering does not cover.
pub fn lower(
    graph: &mut GraphProto,
    path: &Path,
    shapes: &Shapes,
    past: Option<Past<'_>>,
) -> Result<(), AutodiffError> {
    let chosen = fused(graph, path, past);
    let index = Index::new(graph);
    let mut emitter = Emitter::new(&index, shapes, past);
    for (position, node) in graph.node.iter().enumerate() {
        match find(node).filter(|_| chosen.contains(&position)) {
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
