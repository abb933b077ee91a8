//! The policy-gradient loss appended to a language model.
//!
//! For token n of a batch, with log-probability ℓ under softmax(logits / temperature):
//!
//! ```text
//! ρ = exp(ℓ − ℓ_old)      k = exp(ℓ_base − ℓ) − (ℓ_base − ℓ) − 1
//! loss = − Σₙ weightₙ · ( (1 − λ)·min(ρ·A, clip(ρ, low, high)·A) + λ·A·ℓ − kl·k )
//! ```
//!
//! λ = 0 is reinforcement learning, λ = 1 with A = 1 the likelihood of given answers (SFT), so that
//! both are the same graph. GRPO's clipped objective with the non-negative estimate of the divergence from the base
//! (paper, section 4; `kl` = 0 leaves it out). The head runs in float32 and only on the positions
//! that predict a completion's tokens: hidden states are gathered before the last matrix product.

use super::{AutodiffError, index::Index};
use crate::{
    model::{
        node::{
            Attribute, Dim, node, tensor_f32, tensor_i64, tensor_value, untyped_value,
            with_attribute,
        },
        proto::{GraphProto, NodeProto, tensor_proto::DataType},
    },
    surgery::{Edit, Patch},
};

/// int64 `[tokens]`: row·length + column of the position whose logits predict the token.
pub const POSITIONS: &str = "tla_positions";
/// int64 `[tokens]`: the tokens that were sampled.
pub const LABELS: &str = "tla_labels";
/// float32 `[tokens]`: A, the advantage of the token's completion.
pub const ADVANTAGES: &str = "tla_advantages";
/// float32 `[tokens]`: ℓ_old, the log-probability when the token was sampled.
pub const OLD: &str = "tla_old_logprobs";
/// float32 `[tokens]`: ℓ_base, the log-probability under the base.
pub const BASE: &str = "tla_base_logprobs";
/// float32 `[tokens]`: the token's share of the loss.
pub const WEIGHTS: &str = "tla_weights";
/// float32 scalar: 1 / temperature.
pub const SHARPNESS: &str = "tla_inverse_temperature";
/// float32 scalar: the smallest ratio that still counts.
pub const LOW: &str = "tla_ratio_low";
/// float32 scalar: the largest ratio that still counts.
pub const HIGH: &str = "tla_ratio_high";
/// float32 scalar: λ, how much of the objective is the plain log-likelihood, 0 or 1.
pub const LIKELIHOOD: &str = "tla_likelihood";
/// float32 scalar: weight of the divergence from the base.
pub const KL: &str = "tla_kl_weight";

/// float32 scalar output: the loss.
pub const LOSS: &str = "tla_loss";
/// float32 `[tokens]` output: ℓ.
pub const LOGPROBS: &str = "tla_logprobs";

/// Plans the loss behind the output `logits` of `graph`, which becomes a graph with the outputs
/// [`LOSS`] and [`LOGPROBS`].
///
/// # Errors
/// If no node makes `logits`.
pub fn loss_patch(graph: &GraphProto, logits: &str) -> Result<Patch, AutodiffError> {
    let index = Index::new(graph);
    let made_at =
        |tensor: &str| graph.node.iter().position(|n| n.output.iter().any(|o| o == tensor));
    let head = made_at(logits).ok_or_else(|| AutodiffError::Missing(logits.to_owned()))?;
    let mut patch = Patch::default();
    for name in [POSITIONS, LABELS] {
        patch.edits.push(Edit::AddInput(per_token(name, DataType::Int64)));
    }
    for name in [ADVANTAGES, OLD, BASE, WEIGHTS] {
        patch.edits.push(Edit::AddInput(per_token(name, DataType::Float)));
    }
    for name in [SHARPNESS, LOW, HIGH, LIKELIHOOD, KL] {
        patch.edits.push(Edit::AddInput(tensor_value(name, DataType::Float, &[])));
    }
    patch.edits.push(Edit::AddInitializer(tensor_i64("tla_loss/last", &[1], &[1])));
    patch.edits.push(Edit::AddInitializer(tensor_f32("tla_loss/one", &[], &[1.0])));

    let last = index.node(head);
    let through = |node: &NodeProto| match node.op_type() {
        // Half-precision exports widen their logits.
        "Cast" => node.input.first().and_then(|x| made_at(x)),
        _ => None,
    };
    let at_product = through(last).unwrap_or(head);
    let product = index.node(at_product);
    let hidden = product.input.first().and_then(|h| made_at(h).map(|at| (h, at)));
    let mut scores = logits.to_owned();
    let mut tail = Vec::new();
    match hidden.filter(|_| matches!(product.op_type(), "MatMul" | "MatMulNBits")) {
        Some((hidden, at)) => {
            patch.edits.push(Edit::InsertAfter { node_index: at, nodes: pick(hidden) });
            patch.edits.push(Edit::RewireInput {
                node_index: at_product,
                slot: 0,
                from: hidden.clone(),
                to: PICKED.to_owned(),
            });
        }
        None => {
            tail = pick(logits);
            scores = PICKED.to_owned();
        }
    }
    tail.extend(objective(&scores));
    patch.edits.push(Edit::InsertAfter { node_index: head, nodes: tail });
    patch.edits.push(Edit::ReplaceOutputs(vec![untyped_value(LOSS), untyped_value(LOGPROBS)]));
    Ok(patch)
}

const PICKED: &str = "tla_loss/picked";

/// `[batch, length, n]` → `[tokens, n]` at the wanted positions.
fn pick(tensor: &str) -> Vec<NodeProto> {
    let flat = "tla_loss/flat";
    let flatten = node("Flatten", flat, &[tensor], &[flat]);
    let gather = node("Gather", PICKED, &[flat, POSITIONS], &[PICKED]);
    vec![
        with_attribute(flatten, "axis", Attribute::Int(2)),
        with_attribute(gather, "axis", Attribute::Int(0)),
    ]
}

fn objective(scores: &str) -> Vec<NodeProto> {
    let mut nodes = Vec::new();
    let mut add = |op: &str, output: &str, inputs: &[&str], attribute: Option<(&str, i64)>| {
        let full = |name: &str| match name.strip_prefix('.') {
            Some(own) => format!("tla_loss/{own}"),
            None => name.to_owned(),
        };
        let inputs: Vec<String> = inputs.iter().map(|i| full(i)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let output = full(output);
        let mut made = node(op, &output, &inputs, &[&output]);
        if let Some((name, value)) = attribute {
            made = with_attribute(made, name, Attribute::Int(value));
        }
        nodes.push(made);
    };
    add("Cast", ".scores", &[scores], Some(("to", DataType::Float as i64)));
    add("Mul", ".sharpened", &[".scores", SHARPNESS], None);
    add("LogSoftmax", ".logprobs", &[".sharpened"], Some(("axis", -1)));
    add("Unsqueeze", ".labels", &[LABELS, ".last"], None);
    add("GatherElements", ".chosen", &[".logprobs", ".labels"], Some(("axis", 1)));
    add("Squeeze", LOGPROBS, &[".chosen", ".last"], None);
    add("Sub", ".gain", &[LOGPROBS, OLD], None);
    add("Exp", ".ratio", &[".gain"], None);
    add("Mul", ".plain", &[".ratio", ADVANTAGES], None);
    add("Clip", ".bounded", &[".ratio", LOW, HIGH], None);
    add("Mul", ".clipped", &[".bounded", ADVANTAGES], None);
    add("Min", ".surrogate", &[".plain", ".clipped"], None);
    add("Sub", ".drift", &[BASE, LOGPROBS], None);
    add("Exp", ".drifted", &[".drift"], None);
    add("Sub", ".excess", &[".drifted", ".drift"], None);
    add("Sub", ".divergence", &[".excess", ".one"], None);
    add("Mul", ".penalty", &[".divergence", KL], None);
    add("Sub", ".rest", &[".one", LIKELIHOOD], None);
    add("Mul", ".reinforced", &[".surrogate", ".rest"], None);
    add("Mul", ".pull", &[ADVANTAGES, LIKELIHOOD], None);
    add("Mul", ".likelihood", &[LOGPROBS, ".pull"], None);
    add("Add", ".reward", &[".reinforced", ".likelihood"], None);
    add("Sub", ".objective", &[".reward", ".penalty"], None);
    add("Mul", ".weighted", &[".objective", WEIGHTS], None);
    add("ReduceSum", ".total", &[".weighted"], Some(("keepdims", 0)));
    add("Neg", LOSS, &[".total"], None);
    nodes
}

fn per_token(name: &str, kind: DataType) -> crate::model::proto::ValueInfoProto {
    tensor_value(name, kind, &[Dim::Named("tla_tokens".to_owned())])
}
