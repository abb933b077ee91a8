//! Logits of the last position only, for rollouts.

use super::{Edit, Patch};
use crate::model::{
    node::{node, tensor_i64},
    proto::GraphProto,
};

/// Plans a cut of the hidden states to their last position before the product that makes
/// `logits`: `[batch, length, …]` becomes `[batch, 1, …]`, and a prompt costs one row of the
/// vocabulary's product in place of its length. `None` where no matrix product makes them.
pub fn last_token_patch(graph: &GraphProto, logits: &str) -> Option<Patch> {
    let made_at =
        |tensor: &str| graph.node.iter().position(|n| n.output.iter().any(|o| o == tensor));
    let head = made_at(logits)?;
    let product = graph.node.get(head).filter(|n| n.op_type() == "MatMul")?;
    let hidden = product.input.first()?;
    let producer = made_at(hidden)?;
    let cut = "tla/last_position";
    let bounds = [("tla/last_start", -1), ("tla/last_end", i64::MAX), ("tla/last_axis", 1)];
    let mut edits: Vec<Edit> =
        bounds.iter().map(|(n, v)| Edit::AddInitializer(tensor_i64(n, &[1], &[*v]))).collect();
    let names = [hidden.as_str(), bounds[0].0, bounds[1].0, bounds[2].0];
    edits.push(Edit::InsertAfter {
        node_index: producer,
        nodes: vec![node("Slice", cut, &names, &[cut])],
    });
    edits.push(Edit::RewireInput {
        node_index: head,
        slot: 0,
        from: hidden.clone(),
        to: cut.to_owned(),
    });
    Some(Patch { edits })
}
