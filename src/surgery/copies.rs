//! A matrix of its own for a module whose matrix others read too, so that they keep theirs.

use super::{Edit, Patch, SurgeryError, free_name};
use crate::model::{
    ModelError, OnnxModel, Target, promised,
    proto::{GraphProto, NodeProto, TensorProto},
};

/// Whether the node of a target reads its weight as `[out, in]`.
pub(super) fn reads_canonical(target: &Target) -> bool {
    target.node.as_ref().is_some_and(|site| site.reads_canonical)
}

/// Whether a copy is stored like the original: integers, and floats that become others on their way
/// to the node.
pub(super) fn copied_as_stored(target: &Target) -> bool {
    target.quantisation.is_some() || target.computed_in != target.dtype
}

/// The name of a matrix of the target's own, which the edits put in the place of the shared one.
///
/// Of floats it is stored as the node reads it and read directly, whatever Identity or Transpose led to
/// the original. Of integers, and of floats behind a Cast, it is stored like the original, and what led
/// to it is made again.
pub(super) fn copy_for(
    base: &OnnxModel,
    target: &Target,
    patch: &mut Patch,
) -> Result<String, SurgeryError> {
    let name = &target.initializer;
    let none = || ModelError::NoInitializer { name: name.clone() };
    let version = base.proto.ir_version();
    if version < 4 {
        return Err(SurgeryError::OldIr { module: target.module, version });
    }
    let old = base.initializer(name).ok_or_else(none)?;
    let graph = base.graph();
    let own = free_name(graph, &format!("{name}.{}", target.module));
    let site = target.node.as_ref().ok_or_else(none)?;
    let (node_index, slot) = (site.index, site.weight_slot);
    let node = graph.node.get(node_index);
    let from = node.and_then(|n| n.input.get(slot)).cloned().unwrap_or_default();
    let (rows, cols) = (target.stored_rows() as i64, target.cols as i64);
    let as_stored = copied_as_stored(target);
    let dims = match (as_stored, site.reads_canonical) {
        (true, _) => old.dims.clone(),
        (false, true) => vec![rows, cols],
        (false, false) => vec![cols, rows],
    };
    let data_type = old.data_type;
    patch.edits.push(Edit::AddInitializer(promised(TensorProto {
        name: Some(own.clone()),
        dims,
        data_type,
        ..TensorProto::default()
    })));
    let to = match as_stored {
        true => way(graph, target, &from, &own, patch).ok_or_else(none)?,
        false => own.clone(),
    };
    patch.edits.push(Edit::RewireInput { node_index, slot, from, to });
    Ok(own)
}

/// Makes the nodes that lead from the target's initializer to `operand` again, from `own` on. What
/// comes out of the last.
fn way(
    graph: &GraphProto,
    target: &Target,
    operand: &str,
    own: &str,
    patch: &mut Patch,
) -> Option<String> {
    let mut nodes = Vec::<(usize, &NodeProto)>::new();
    let mut value = operand;
    while value != target.initializer {
        let made = |n: &NodeProto| n.output.first().is_some_and(|output| output == value);
        // A way that is longer than the graph leads round in it.
        let next = graph.node.iter().enumerate().find(|(_, n)| made(n));
        let (index, node) = next.filter(|_| nodes.len() < graph.node.len())?;
        nodes.push((index, node));
        value = node.input.first()?;
    }
    // The last one comes behind all that it reads.
    let Some(&(node_index, _)) = nodes.first() else { return Some(own.into()) };
    let mut value = own.to_owned();
    let mut made = Vec::with_capacity(nodes.len());
    for (_, node) in nodes.into_iter().rev() {
        let mut copy = node.clone();
        *copy.input.first_mut()? = value;
        value = free_name(graph, &format!("{}.{}", node.output.first()?, target.module));
        copy.output = vec![value.clone()];
        copy.name = Some(free_name(graph, &format!("{}.{}", node.name(), target.module)));
        made.push(copy);
    }
    patch.edits.push(Edit::InsertAfter { node_index, nodes: made });
    Some(value)
}
