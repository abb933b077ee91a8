//! Where a graph is known to have its tokens in three dimensions, the first of them the rows of the batch:
//! by its inputs and operators, and by nothing that is only claimed.
#![cfg(feature = "std")]

use std::path::PathBuf;
use tla::model::{
    OnnxModel, find_targets,
    node::{Attribute, Dim, node, tensor_f32, tensor_value, with_attribute},
    proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
        tensor_proto::DataType,
    },
};

fn value(name: &str, dimensions: usize) -> ValueInfoProto {
    let dims: Vec<Dim> = (0..dimensions).map(|n| Dim::Named(format!("d{n}"))).collect();
    tensor_value(name, DataType::Float, &dims)
}

/// Whether a query that multiplies `hidden` is known to be batched, where `before` makes that of x, of
/// so many dimensions, and of the vector.
fn batched(dimensions: usize, before: NodeProto, claimed: &[ValueInfoProto]) -> bool {
    let query = "/model/layers.0/self_attn/q_proj/MatMul";
    let graph = GraphProto {
        input: vec![value("x", dimensions)],
        output: vec![value("y", 3)],
        node: vec![before, node("MatMul", query, &["hidden", "w"], &["y"])],
        initializer: vec![
            tensor_f32("w", &[4, 4], &[0.5; 16]),
            tensor_f32("matrix", &[4, 4], &[0.5; 16]),
            tensor_f32("vector", &[4], &[0.5; 4]),
        ],
        value_info: claimed.to_vec(),
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(18), ..OperatorSetIdProto::default() };
    let proto =
        ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    let model = OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap();
    let targets = find_targets(&model).unwrap();
    targets.targets[0].node.as_ref().unwrap().batched
}

fn product(left: &str, right: &str) -> NodeProto {
    node("MatMul", "before", &[left, right], &["hidden"])
}

#[test]
fn a_product_with_a_vector_has_a_dimension_less() {
    assert!(batched(3, product("x", "matrix"), &[]));
    assert!(!batched(3, product("x", "vector"), &[]));
    assert!(!batched(3, product("vector", "x"), &[]));
    assert!(batched(4, product("x", "vector"), &[]));
    assert!(batched(4, product("vector", "x"), &[]));
    assert!(!batched(3, product("x", "nobody's"), &[]), "of what is multiplied nothing is known");
}

#[test]
fn what_an_exporter_notes_of_a_value_between_is_not_believed() {
    let same = || {
        let equation = Attribute::Text("ij->ij".into());
        with_attribute(node("Einsum", "before", &["x"], &["hidden"]), "equation", equation)
    };
    assert!(!batched(2, same(), &[]));
    assert!(!batched(2, same(), &[value("hidden", 3)]));
}

#[test]
fn a_function_of_the_model_is_not_the_operator_it_is_named_like() {
    let named = |domain: &str| NodeProto {
        domain: Some(domain.into()),
        ..node("Relu", "before", &["x"], &["hidden"])
    };
    assert!(batched(3, named(""), &[]));
    assert!(!batched(3, named("local"), &[]));
}
