//! The size of a cached head where the graph's inputs leave it open.

use crate::model::{
    node::int_attribute,
    proto::{GraphProto, NodeProto, TensorProto},
};

/// How far back the width of a tensor is looked for.
const DEPTH: usize = 8;

/// The head size of the fused attention that reads the cache `past`, from the width of the
/// stored weight or bias its values come from.
pub(super) fn head_size(graph: &GraphProto, past: &str) -> Option<usize> {
    let node = graph.node.iter().find(|n| n.input.iter().any(|input| input == past))?;
    let count = |name| int_attribute(node, name).filter(|n| *n > 0);
    let apart = node.input.get(1).is_some_and(|key| !key.is_empty());
    let (source, heads) = match node.op_type() {
        "GroupQueryAttention" if apart => (2, count("kv_num_heads")?),
        "GroupQueryAttention" => {
            (0, count("num_heads")?.checked_add(count("kv_num_heads")?.checked_mul(2)?)?)
        }
        "MultiHeadAttention" if apart => (2, count("num_heads")?),
        _ => return None,
    };
    let width = width(graph, node.input.get(source)?, DEPTH)?;
    let whole = width % heads == 0;
    usize::try_from(width / heads).ok().filter(|size| whole && *size > 0)
}

fn width(graph: &GraphProto, tensor: &str, depth: usize) -> Option<i64> {
    let deeper = depth.checked_sub(1)?;
    if let Some(stored) = stored(graph, tensor) {
        return (stored.dims.len() == 1).then(|| stored.dims[0]);
    }
    let node: &NodeProto =
        graph.node.iter().find(|n| n.output.iter().any(|output| output == tensor))?;
    match node.op_type() {
        "MatMulNBits" => int_attribute(node, "N"),
        "MatMul" => match stored(graph, node.input.get(1)?)?.dims[..] {
            [_, columns] => Some(columns),
            _ => None,
        },
        "Add" | "Cast" => node.input.iter().find_map(|input| width(graph, input, deeper)),
        _ => None,
    }
}

fn stored<'a>(graph: &'a GraphProto, tensor: &str) -> Option<&'a TensorProto> {
    graph.initializer.iter().find(|t| t.name() == tensor)
}
