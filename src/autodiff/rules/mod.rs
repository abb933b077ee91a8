//! One operator, one rule, one table entry.
//!
//! A rule gets the gradients of a node's outputs (absent where the loss does not use them) and
//! emits the gradients of those inputs that want one.

mod elementwise;
mod layout;
mod matmul;
mod quantised;
mod reduce;
mod select;

use super::{AutodiffError, backward::Backward};
use crate::model::proto::NodeProto;

/// Gradients by input slot.
pub(super) type Inputs = Result<Vec<(usize, String)>, AutodiffError>;
/// From the gradients of a node's outputs to those of its inputs.
pub(super) type Rule = fn(&mut Backward<'_>, &NodeProto, &[Option<String>]) -> Inputs;

const TABLE: &[(&str, Rule)] = &[
    ("Add", elementwise::add),
    ("Cast", elementwise::cast),
    ("Clip", elementwise::clip),
    ("Concat", layout::concat),
    ("Div", elementwise::div),
    ("Erf", elementwise::erf),
    ("Exp", elementwise::exp),
    ("Expand", layout::expand),
    ("Flatten", layout::reshape),
    ("Gather", select::gather),
    ("GatherElements", select::gather_elements),
    ("Gemm", matmul::gemm),
    ("Identity", elementwise::identity),
    ("Log", elementwise::log),
    ("LogSoftmax", reduce::log_softmax),
    ("MatMul", matmul::matmul),
    ("Min", elementwise::min),
    ("Mul", elementwise::mul),
    ("Neg", elementwise::neg),
    ("Pow", elementwise::pow),
    ("Reciprocal", elementwise::reciprocal),
    ("ReduceMean", reduce::mean),
    ("ReduceSum", reduce::sum),
    ("Relu", elementwise::relu),
    ("Reshape", layout::reshape),
    ("Sigmoid", elementwise::sigmoid),
    ("Slice", layout::slice),
    ("Softmax", reduce::softmax),
    ("Split", layout::split),
    ("Sqrt", elementwise::sqrt),
    ("Squeeze", layout::reshape),
    ("Sub", elementwise::sub),
    ("Tanh", elementwise::tanh),
    ("Transpose", layout::transpose),
    ("Unsqueeze", layout::reshape),
    ("Where", select::choose),
];

/// Operators of ONNX Runtime whose kernel stays in the forward pass.
const MICROSOFT: &[(&str, Rule)] = &[("MatMulNBits", quantised::matmul_n_bits)];

/// The rule for a node's operator.
pub(super) fn find(node: &NodeProto) -> Result<Rule, AutodiffError> {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let table = match node.domain() {
        "com.microsoft" => MICROSOFT,
        _ if standard => TABLE,
        _ => &[],
    };
    table.iter().find(|(op, _)| *op == node.op_type()).map(|(_, rule)| *rule).ok_or_else(|| {
        AutodiffError::NoRule {
            op: node.op_type().to_owned(),
            domain: if standard { String::new() } else { format!("{}::", node.domain()) },
            node: node.name().to_owned(),
        }
    })
}

/// The gradient of a node's only output.
fn only(outputs: &[Option<String>]) -> String {
    outputs.iter().flatten().next().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_each_operator_once() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn an_operator_of_another_domain_is_named_with_it() {
        let node = NodeProto {
            op_type: Some("MatMul".into()),
            domain: Some("com.example".into()),
            ..NodeProto::default()
        };
        let error = find(&node).unwrap_err();
        assert!(error.to_string().contains("com.example::MatMul"), "{error}");
    }
}
