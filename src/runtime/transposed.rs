//! Products with a transposed weight, without the transposed copy.
//!
//! While it loads a graph, ONNX Runtime computes `Transpose(W)` of a weight W and keeps the result
//! beside W. The same product with a flag in its place reads W as it lies.

use std::collections::{HashMap, HashSet};

use super::{Provider, weights::is_lent};
use crate::model::{
    node::{Attribute, int_attribute, ints_attribute, node, with_attribute},
    proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, tensor_proto::DataType},
};

const CONTRIB: &str = "com.microsoft";
/// The tokens, `[batch, length]`: what a table of embeddings is looked up with.
const TOKENS: &str = "input_ids";

/// Puts a flag in place of each transposition of a lent weight, where all that use it can do so.
pub(super) fn flag(model: &mut ModelProto, provider: Provider) {
    let Some(graph) = model.graph.as_mut() else { return };
    let mut users: HashMap<&str, Vec<usize>> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        for input in &node.input {
            users.entry(input).or_default().push(position);
        }
    }
    let shown: HashSet<&str> = graph.output.iter().map(|o| o.name()).collect();
    let mut replaced: HashMap<usize, Vec<NodeProto>> = HashMap::new();
    for (position, transpose) in graph.node.iter().enumerate() {
        let Some(weight) = turned(graph, transpose, provider) else { continue };
        let result = transpose.output[0].as_str();
        let Some(users) = users.get(result).filter(|_| !shown.contains(result)) else { continue };
        let flagged: Option<Vec<_>> =
            users.iter().map(|user| flagged(&graph.node[*user], result, weight)).collect();
        // A node that uses two such weights is rewritten for one of them alone.
        let free = users.iter().all(|user| !replaced.contains_key(user));
        if let Some(flagged) = flagged.filter(|_| free) {
            replaced.insert(position, Vec::new());
            replaced.extend(users.iter().copied().zip(flagged));
        }
    }
    if replaced.is_empty() {
        return;
    }
    let nodes = std::mem::take(&mut graph.node).into_iter().enumerate();
    graph.node = nodes
        .flat_map(|(position, node)| replaced.remove(&position).unwrap_or_else(|| vec![node]))
        .collect();
    if !model.opset_import.iter().any(|o| o.domain() == CONTRIB) {
        let domain = Some(CONTRIB.to_owned());
        model.opset_import.push(OperatorSetIdProto { domain, version: Some(1) });
    }
}

/// The lent matrix that `node` transposes, of a type the flagged product takes.
fn turned<'a>(graph: &GraphProto, node: &'a NodeProto, provider: Provider) -> Option<&'a str> {
    let weight = node.input.first().filter(|_| node.op_type() == "Transpose")?;
    let tensor = graph.initializer.iter().find(|t| t.name() == weight)?;
    let swaps = matches!(ints_attribute(node, "perm"), None | Some([1, 0]));
    let kind = tensor.data_type();
    let known = match provider {
        Provider::Cpu => kind == DataType::Float as i32,
        Provider::Cuda(_) => [DataType::Float, DataType::Float16, DataType::Bfloat16]
            .into_iter()
            .any(|known| kind == known as i32),
    };
    let plain = swaps && tensor.dims.len() == 2 && node.output.len() == 1;
    (plain && known && is_lent(graph, weight)).then_some(weight)
}

/// `user` reading `weight` in place of its transposition `result`.
fn flagged(user: &NodeProto, result: &str, weight: &str) -> Option<Vec<NodeProto>> {
    let inputs: Vec<&str> = user.input.iter().map(String::as_str).collect();
    let output = user.output.first()?;
    match (user.op_type(), &inputs[..]) {
        ("MatMul", [left, right]) if *left != result && *right == result => {
            let mut product = node("FusedMatMul", user.name(), &[left, weight], &[output]);
            product.domain = Some(CONTRIB.to_owned());
            Some(vec![with_attribute(product, "transB", Attribute::Int(1))])
        }
        ("Gemm", [left, right, ..]) if *left != result && *right == result => {
            let mut product = user.clone();
            product.input[1] = weight.to_owned();
            let turned = int_attribute(user, "transB").unwrap_or(0) == 0;
            product.attribute.retain(|attribute| attribute.name() != "transB");
            Some(vec![with_attribute(product, "transB", Attribute::Int(turned.into()))])
        }
        ("Gather", [table, tokens]) if *table == result && *tokens == TOKENS => {
            let axis = int_attribute(user, "axis").unwrap_or(0);
            let columns = format!("{output}/columns");
            let gather = node("Gather", user.name(), &[weight, tokens], &[&columns]);
            let turn = node("Transpose", &columns, &[&columns], &[output]);
            (axis == 0).then(|| {
                vec![
                    with_attribute(gather, "axis", Attribute::Int(1)),
                    with_attribute(turn, "perm", Attribute::Ints(vec![1, 2, 0])),
                ]
            })
        }
        _ => None,
    }
}
