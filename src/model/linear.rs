//! What a node's name and operator say about the module it computes.

use super::proto::NodeProto;
use crate::format::{ModuleId, Role};

/// The roles by the path optimum-onnx writes between layer and operator.
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
    let role = PATHS.iter().find(|p| p.0 == block && p.1 == projection)?.2;
    (operator == "MatMul").then_some(ModuleId { layer, role })
}

/// The layer of a node inside an attention or MLP block, and the rest of its name.
pub(crate) fn layer_of(node_name: &str) -> Option<(u16, &str)> {
    let (digits, rest) = node_name.strip_prefix("/model/layers.")?.split_once('/')?;
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let layer = digits.parse().ok().filter(|_| plain)?;
    // The format counts layers in a u16, so the last number has no count.
    (layer != u16::MAX).then_some((layer, rest))
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
