//! What a name says about the module it belongs to: of a node of a graph, and of a tensor of a
//! checkpoint.

use super::proto::NodeProto;
use crate::format::{ModuleId, Role};

/// The roles by block and projection, as transformers names them.
const PATHS: [(&str, &str, Role); 7] = [
    ("self_attn", "q_proj", Role::Q),
    ("self_attn", "k_proj", Role::K),
    ("self_attn", "v_proj", Role::V),
    ("self_attn", "o_proj", Role::O),
    ("mlp", "gate_proj", Role::Gate),
    ("mlp", "up_proj", Role::Up),
    ("mlp", "down_proj", Role::Down),
];

/// The module of a node named `/model/layers.<N>/{self_attn,mlp}/<x>_proj/MatMul`.
///
/// The prefix is matched whole, so that the layers of a vision tower or a draft model beside
/// the language model are not taken for its own.
pub(crate) fn module_of(node_name: &str) -> Option<ModuleId> {
    let (layer, rest) = layer_of(node_name)?;
    let (block, rest) = rest.split_once('/')?;
    let (projection, operator) = rest.split_once('/')?;
    let role = role_of(block, projection)?;
    (operator == "MatMul").then_some(ModuleId { layer, role })
}

/// The role of a projection in a block.
pub(crate) fn role_of(block: &str, projection: &str) -> Option<Role> {
    Some(PATHS.iter().find(|p| p.0 == block && p.1 == projection)?.2)
}

/// The layer of a node inside a layer, and the rest of its name.
pub(crate) fn layer_of(node_name: &str) -> Option<(u16, &str)> {
    let (digits, rest) = node_name.strip_prefix("/model/layers.")?.split_once('/')?;
    Some((layer_number(digits)?, rest))
}

/// The layer of a tensor of a checkpoint inside an attention or MLP block, named like
/// `model.layers.<N>.mlp.up_proj.weight`, and the rest of its name.
pub(crate) fn tensor_layer(name: &str) -> Option<(u16, &str)> {
    let (digits, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (block, _) = rest.split_once('.')?;
    let layer = layer_number(digits)?;
    matches!(block, "self_attn" | "mlp").then_some((layer, rest))
}

fn layer_number(digits: &str) -> Option<u16> {
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let layer = digits.parse().ok().filter(|_| plain)?;
    // The format counts layers in a u16, so the last number has no count.
    (layer != u16::MAX).then_some(layer)
}

/// Whether a node lies in a block that holds linear modules.
pub(crate) fn in_block(rest: &str) -> bool {
    ["self_attn/", "mlp/"].iter().any(|block| rest.starts_with(block))
}

/// Whether `node` is the standard operator `op`.
pub(crate) fn is_standard(node: &NodeProto, op: &str) -> bool {
    node.op_type() == op && matches!(node.domain(), "" | "ai.onnx")
}

/// Operators that multiply by a stored matrix but are not the `MatMul` that can be adapted.
pub(crate) fn is_other_linear(node: &NodeProto) -> bool {
    const OTHERS: [&str; 10] = [
        "DynamicQuantizeMatMul",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QLinearMatMul",
    ];
    OTHERS.contains(&node.op_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_seven_roles_are_read() {
        for (block, projection, role) in PATHS {
            let name = format!("/model/layers.12/{block}/{projection}/MatMul");
            assert_eq!(module_of(&name), Some(ModuleId { layer: 12, role }));
        }
    }

    #[test]
    fn names_of_tensors_are_read_and_those_that_look_alike_are_not() {
        assert_eq!(
            tensor_layer("model.layers.12.mlp.up_proj.weight"),
            Some((12, "mlp.up_proj.weight"))
        );
        for name in [
            "",
            "model.layers.12",
            "model.layers.12.input_layernorm.weight",
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.65535.mlp.up_proj.weight",
            "vision.model.layers.0.mlp.up_proj.weight",
            "/model/layers.0/mlp/up_proj/MatMul",
        ] {
            assert_eq!(tensor_layer(name), None, "{name}");
        }
    }

    #[test]
    fn names_that_only_look_alike_are_not_modules() {
        for name in [
            "",
            "/model/layers./self_attn/q_proj/MatMul",
            "/model/layers.01/self_attn/q_proj/MatMul",
            "/model/layers.+1/self_attn/q_proj/MatMul",
            "/model/layers.65535/self_attn/q_proj/MatMul",
            "/model/layers.65536/self_attn/q_proj/MatMul",
            "/model/layers.0/self_attn/q_proj/MatMul_1",
            "/model/layers.0/self_attn/q_proj/x/MatMul",
            "/model/layers.0/mlp/q_proj/MatMul",
            "/model/layers.0/self_attn/MatMul",
            "/vision/model/layers.0/self_attn/q_proj/MatMul",
        ] {
            assert_eq!(module_of(name), None, "{name}");
        }
    }
}
