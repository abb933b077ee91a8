//! Every operator that rollouts and gradients use has a kernel of ONNX Runtime's CUDA provider for
//! the types it is used with, by the list in `tests/cuda/kernels.txt` (see `tools/cuda-kernels`).
#![cfg(feature = "train")]

mod cuda;
mod grafted;

use std::collections::BTreeSet;

use cuda::{Kernels, Missing};
use grafted::{Grafted, RANK, grafted};
use tla::{
    model::{
        node::{node, tensor_value},
        proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType},
    },
    runtime::{Cuda, OF_SHAPES, Provider, SessionOptions},
    train::{batch::Layout, gradient_model::gradient_model, student::for_rollouts},
};

/// The graphs of an export with all modules adapted: rollouts, and gradients of rows that hold
/// their prompt and, where the model allows it, of rows that share one.
fn graphs(name: &str) -> Vec<(&'static str, ModelProto)> {
    let Grafted { model, modules, proto, layout: best } = grafted(name);
    let options = SessionOptions::cpu(2);
    let gradients = |layout| {
        gradient_model(&proto, &model.path, &modules, RANK, layout, options).expect("gradients")
    };
    let mut graphs = vec![("gradients", gradients(Layout::Whole))];
    if best == Layout::Shared {
        graphs.push(("gradients behind shared prompts", gradients(Layout::Shared)));
    }
    graphs.push(("rollouts", for_rollouts(proto, Provider::Cuda(Cuda::default())).expect("a cut")));
    graphs
}

/// Whether the CPU may run such a node beside CUDA: one that computes shapes, indices or a scalar
/// made of them, and touches no 16-bit number.
fn is_of_shapes(missing: &Missing) -> bool {
    OF_SHAPES.contains(&missing.operator.as_str())
        && missing.kinds.iter().all(|k| ["int64", "int32", "bool"].contains(&k.as_str()))
}

fn computing(kernels: &Kernels, graph: &ModelProto, half: DataType) -> BTreeSet<String> {
    let missing = kernels.missing(graph, half).into_iter().filter(|m| !is_of_shapes(m));
    missing.map(|m| format!("{} {}", m.operator, m.kinds.join(" "))).collect()
}

/// Exports for CUDA: in 32 bits, in 16, and with blocks of four bits beside 32.
const EXPORTS: [&str; 9] = [
    "wordmath",
    "exports/optimum-fp32/qwen2-tied",
    "exports/optimum-fp32/llama-untied",
    "exports/optimum-fp16/qwen2-tied",
    "exports/dynamo-tf5-cache-fp32/qwen2-tied",
    "exports/dynamo-cache-fp32-op23/qwen2-tied",
    "exports/genai-fp16-cuda/qwen2-tied",
    "exports/transformers.js/model_q4.onnx",
    "exports/transformers.js/model_fp16.onnx",
];

#[test]
fn every_operator_of_every_export_has_a_cuda_kernel() {
    let kernels = Kernels::listed();
    for name in EXPORTS {
        for (what, graph) in graphs(name) {
            let missing = computing(&kernels, &graph, DataType::Float16);
            assert!(missing.is_empty(), "{name}, {what}: {missing:#?}");
        }
    }
}

/// No export in bfloat16 is among the fixtures, as none runs on a CPU: these are the graphs of
/// float16 with the other type in its place.
#[test]
fn every_operator_of_exports_in_bfloat16_has_a_cuda_kernel() {
    let kernels = Kernels::listed();
    for name in ["exports/optimum-fp16/qwen2-tied", "exports/genai-fp16-cuda/qwen2-tied"] {
        for (what, graph) in graphs(name) {
            let missing = computing(&kernels, &graph, DataType::Bfloat16);
            assert!(missing.is_empty(), "{name}, {what}: {missing:#?}");
        }
    }
}

/// What the runtime would run on the CPU, and `tla` refuses.
#[test]
fn exports_for_the_cpu_lack_one_kernel_for_rollouts_and_none_for_gradients() {
    let kernels = Kernels::listed();
    for name in ["exports/genai-fp32-cpu/qwen2-tied", "exports/genai-int4-cpu/qwen2-tied"] {
        for (what, graph) in graphs(name) {
            let missing = computing(&kernels, &graph, DataType::Float16);
            let words: Vec<&str> = missing.iter().filter_map(|m| m.split(' ').next()).collect();
            let expected =
                if what.starts_with("gradients") { &[][..] } else { &["GroupQueryAttention"] };
            assert_eq!(words, expected, "{name}, {what}: {missing:#?}");
        }
    }
}

#[test]
fn the_list_knows_what_the_provider_lacks() {
    let kernels = Kernels::listed();
    let found = |op: &str, kind: DataType| {
        let model = ModelProto {
            opset_import: vec![OperatorSetIdProto { version: Some(18), ..Default::default() }],
            graph: Some(GraphProto {
                node: vec![node(op, op, &["x"], &["y"])],
                input: vec![tensor_value("x", kind, &[])],
                ..Default::default()
            }),
            ..Default::default()
        };
        computing(&kernels, &model, DataType::Float16).is_empty()
    };
    for op in ["Log", "LogSoftmax"] {
        assert!(found(op, DataType::Float) && found(op, DataType::Float16), "{op}");
        assert!(!found(op, DataType::Bfloat16), "{op}");
    }
    assert!(found("Softmax", DataType::Bfloat16) && !found("Softmax", DataType::Int32));
}
