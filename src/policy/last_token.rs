//! Logits of each row's own last token only, where rows are padded on the right.

use crate::{
    model::{
        node::{Attribute, node, tensor_i64, with_attribute},
        proto::GraphProto,
    },
    runtime::MASK,
    surgery::{Edit, Patch},
};

/// Plans a cut of the hidden states before the product that makes `logits` to each row's last
/// unmasked position: `[batch, length, …]` becomes `[batch, 1, …]`. A run of one token has only
/// that. `None` where no product with a stored matrix makes the logits.
pub fn own_last_token_patch(graph: &GraphProto, logits: &str) -> Option<Patch> {
    let made_at =
        |tensor: &str| graph.node.iter().position(|n| n.output.iter().any(|o| o == tensor));
    let mut head = made_at(logits)?;
    if graph.node[head].op_type() == "Cast" {
        head = made_at(graph.node[head].input.first()?)?;
    }
    let is_product = |op: &str| matches!(op, "MatMul" | "MatMulNBits");
    let product = graph.node.get(head).filter(|n| is_product(n.op_type()))?;
    let hidden = product.input.first()?;
    let producer = made_at(hidden)?;
    let name = |part: &str| format!("tla/last_token/{part}");
    let mut nodes = Vec::new();
    let mut add = |op: &str, part: &str, inputs: &[&str], attributes: &[(&str, i64)]| {
        let output = name(part);
        let mut made = node(op, &output, inputs, &[&output]);
        for (attribute, value) in attributes {
            made = with_attribute(made, attribute, Attribute::Int(*value));
        }
        nodes.push(made);
        output
    };
    let (one, axes) = (name("one"), name("axes"));
    let tokens = add("ReduceSum", "tokens", &[MASK, &one], &[("keepdims", 0)]);
    let length = add("Shape", "length", &[hidden], &[("start", 1), ("end", 2)]);
    let within = add("Min", "within", &[&tokens, &length], &[]);
    let last = add("Sub", "last", &[&within, &one], &[]);
    let index = add("Unsqueeze", "index", &[&last, &axes], &[]);
    let cut = add("GatherND", "cut", &[hidden, &index], &[("batch_dims", 1)]);
    Some(Patch {
        edits: vec![
            Edit::AddInitializer(tensor_i64(&one, &[1], &[1])),
            Edit::AddInitializer(tensor_i64(&axes, &[2], &[1, 2])),
            Edit::InsertAfter { node_index: producer, nodes },
            Edit::RewireInput { node_index: head, slot: 0, from: hidden.clone(), to: cut },
        ],
    })
}
