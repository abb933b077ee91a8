//! Operators that multiply by a stored matrix, and telling operators apart.

use super::proto::NodeProto;

/// Whether `node` is the standard operator `op`.
pub(crate) fn is_standard(node: &NodeProto, op: &str) -> bool {
    node.op_type() == op && matches!(node.domain(), "" | "ai.onnx")
}

/// Whether `node` is the operator `op` of ONNX Runtime's own set.
pub(crate) fn is_microsoft(node: &NodeProto, op: &str) -> bool {
    node.op_type() == op && node.domain() == "com.microsoft"
}

/// Whether `node` is an operator whose stored matrix can be adapted.
pub(crate) fn is_linear(node: &NodeProto) -> bool {
    ["MatMul", "Gemm", "MatMulInteger"].iter().any(|op| is_standard(node, op))
        || ["MatMulNBits", "DynamicQuantizeMatMul"].iter().any(|op| is_microsoft(node, op))
}

/// Whether `node` may be a linear layer whose matrix is not looked for: what it computes is said by an
/// equation, by a function of the model, or nowhere.
pub(crate) fn is_hidden_linear(node: &NodeProto) -> bool {
    let known = matches!(node.domain(), "" | "ai.onnx" | "com.microsoft");
    !known || ["Einsum", "Conv"].iter().any(|op| is_standard(node, op))
}

/// Operators that multiply by a stored matrix but are none of those that can be adapted.
pub(crate) fn is_other_linear(node: &NodeProto) -> bool {
    const OTHERS: [&str; 6] = [
        "FusedGemm",
        "FusedMatMul",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulIntegerToFloat",
        "QLinearMatMul",
    ];
    OTHERS.contains(&node.op_type())
}
