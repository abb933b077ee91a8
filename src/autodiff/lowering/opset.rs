//! Raising a model's operator set to what the rules write.
//!
//! Between opsets 13 and 21 few operators changed their meaning or their form: reductions took
//! their axes as an attribute below 18, and Split could leave the number of parts to its outputs.

use super::super::{AutodiffError, backward::form};
use crate::model::{
    node::{Attribute, int_attribute, ints_attribute, tensor_i64, with_attribute},
    proto::{ModelProto, NodeProto},
};

/// The oldest operator set that can be raised.
const OLDEST: i64 = 13;
/// The operator set the rules are written in.
pub const RULES: i64 = 18;
/// The operator set in which four-bit blocks are dequantised by a standard operator.
pub const BLOCKS: i64 = 21;

/// Reductions whose axes became an input in opset 18.
const REDUCTIONS: &[&str] = &[
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
];
/// Operators that mean something else from an opset on.
const CHANGED: &[(&str, i64)] = &[("Resize", 18), ("GroupNormalization", 21)];

/// The version of the standard operator set `model` uses, 0 if it names none.
pub fn of(model: &ModelProto) -> i64 {
    let standard = model.opset_import.iter().find(|o| is_standard(o.domain()));
    standard.map_or(0, |o| o.version())
}

/// Raises `model` to operator set `to` at least. A newer one stays.
///
/// # Errors
/// If it is too old, or holds an operator that would mean something else.
pub fn raise(model: &mut ModelProto, to: i64) -> Result<(), AutodiffError> {
    let from = of(model);
    if from < OLDEST {
        return Err(AutodiffError::Opset(from));
    }
    if from >= to {
        return Ok(());
    }
    if let Some(graph) = model.graph.as_mut() {
        let mut axes = Vec::new();
        for node in graph.node.iter_mut().filter(|n| is_standard(n.domain())) {
            if from < RULES {
                modernise(node, &mut axes);
            }
            let changed =
                |(op, at): &&(&str, i64)| *op == node.op_type() && from < *at && *at <= to;
            if let Some((_, at)) = CHANGED.iter().find(changed) {
                return Err(form(node, format!("its meaning changed in opset {at}")));
            }
        }
        graph.initializer.extend(axes);
    }
    let standard = model.opset_import.iter_mut().filter(|o| is_standard(o.domain()));
    standard.for_each(|o| o.version = Some(to));
    let format = if to >= BLOCKS { 10 } else { 8 };
    model.ir_version = Some(model.ir_version().max(format));
    Ok(())
}

fn modernise(node: &mut NodeProto, added: &mut Vec<crate::model::proto::TensorProto>) {
    if REDUCTIONS.contains(&node.op_type()) {
        let Some(axes) = ints_attribute(node, "axes").map(<[i64]>::to_vec) else { return };
        let name = format!("tla_opset/axes_{}", added.len());
        added.push(tensor_i64(&name, &[axes.len() as i64], &axes));
        node.attribute.retain(|a| a.name() != "axes");
        node.input.truncate(1);
        node.input.push(name);
    }
    let unstated = node.op_type() == "Split"
        && node.input.get(1).is_none_or(String::is_empty)
        && int_attribute(node, "num_outputs").is_none();
    if unstated {
        let parts = Attribute::Int(node.output.len() as i64);
        *node = with_attribute(std::mem::take(node), "num_outputs", parts);
    }
}

fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        node::node,
        proto::{GraphProto, OperatorSetIdProto},
    };

    fn model(version: i64, nodes: Vec<NodeProto>) -> ModelProto {
        let standard = OperatorSetIdProto { version: Some(version), ..Default::default() };
        ModelProto {
            ir_version: Some(7),
            opset_import: vec![standard],
            graph: Some(GraphProto { node: nodes, ..GraphProto::default() }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn axes_become_an_input_and_parts_are_counted() {
        let axes = Attribute::Ints(vec![-1]);
        let mean = with_attribute(node("ReduceMean", "mean", &["x"], &["y"]), "axes", axes);
        let split = node("Split", "split", &["x"], &["a", "b"]);
        let mut raised = model(14, vec![mean, split]);
        raise(&mut raised, RULES).unwrap();
        assert_eq!((of(&raised), raised.ir_version()), (18, 8));
        let graph = raised.graph.unwrap();
        assert_eq!(graph.node[0].input, ["x", graph.initializer[0].name()]);
        assert!(graph.node[0].attribute.is_empty());
        assert_eq!(int_attribute(&graph.node[1], "num_outputs"), Some(2));
    }

    #[test]
    fn what_would_mean_something_else_is_refused_and_what_is_new_stays() {
        let old = raise(&mut model(12, vec![]), RULES);
        assert_eq!(old, Err(AutodiffError::Opset(12)));
        let norm = || vec![node("GroupNormalization", "norm", &["x"], &["y"])];
        let refused = raise(&mut model(18, norm()), BLOCKS).unwrap_err().to_string();
        assert!(refused.contains("'norm' (GroupNormalization)"), "{refused}");
        let mut new = model(23, norm());
        raise(&mut new, BLOCKS).unwrap();
        assert_eq!((of(&new), new.ir_version()), (23, 7));
    }
}
