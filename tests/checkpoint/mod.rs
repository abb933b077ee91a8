#![allow(dead_code, reason = "each test program uses a part of it")]
//! Checkpoints made from the ONNX fixtures, written by the format's reference implementation.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use tla::{
    format::ModuleId,
    model::{
        Checkpoint, Container, ModelError, OnnxModel,
        proto::{GraphProto, TensorProto},
    },
};

pub use safetensors::Dtype;

pub const FIXTURES: [&str; 2] = ["qwen2-tied", "llama-untied"];
pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// A tensor as its checkpoint holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn stored(name: &str, dtype: Dtype, shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|&x| encoded(dtype, x)).collect();
    Stored { name: name.into(), dtype, shape: shape.into(), bytes }
}

fn encoded(dtype: Dtype, x: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => x.to_le_bytes().into(),
        Dtype::F16 => f16::from_f32(x).to_le_bytes().into(),
        Dtype::BF16 => bf16::from_f32(x).to_le_bytes().into(),
        other => panic!("{other:?} is not written here"),
    }
}

/// The nearest value of the type.
pub fn nearest(dtype: Dtype, x: f32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

pub fn onnx(name: &str) -> OnnxModel {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/optimum-fp32");
    let model = OnnxModel::load(&exports.join(name)).unwrap();
    OnnxModel::from_proto(model.inlined().unwrap(), model.path).unwrap()
}

/// The export of a checkpoint of the type: its modules hold values of the type, as fp32.
pub fn onnx_of(name: &str, dtype: Dtype) -> OnnxModel {
    let OnnxModel { mut proto, path, .. } = onnx(name);
    let targets = onnx(name).targets().unwrap();
    let linear = targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
    let names: Vec<_> = linear.map(|t| t.initializer.as_str()).collect();
    let graph: &mut GraphProto = proto.graph.as_mut().unwrap();
    for tensor in &mut graph.initializer {
        if names.contains(&tensor.name()) {
            let rounded = floats(tensor).into_iter().flat_map(|x| nearest(dtype, x).to_le_bytes());
            tensor.raw_data = Some(rounded.collect::<Vec<_>>().into());
        }
    }
    OnnxModel::from_proto(proto, path).unwrap()
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    let raw = tensor.raw_data.clone().unwrap();
    raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// What transformers saved before it was exported: modules, embedding, norms, biases and an untied
/// head, with `dtype` for all.
pub fn tensors(name: &str, dtype: Dtype) -> Vec<Stored> {
    let model = onnx(name);
    let mut all = Vec::new();
    let targets = model.targets().unwrap().targets;
    for target in targets.into_iter().filter(|t| t.module != ModuleId::LM_HEAD) {
        let node = &target.node.as_ref().unwrap().name;
        let path = node.trim_start_matches('/').trim_end_matches("/MatMul").replace('/', ".");
        let weight = model.weight(&target).unwrap();
        let values: Vec<f32> = weight.iter().copied().collect();
        all.push(stored(&format!("{path}.weight"), dtype, weight.shape(), &values));
    }
    for tensor in &model.graph().initializer {
        if tensor.name().starts_with("model.") {
            let shape: Vec<_> = tensor.dims.iter().map(|&d| d as usize).collect();
            all.push(stored(tensor.name(), dtype, &shape, &floats(tensor)));
        }
    }
    if name == "llama-untied" {
        let head =
            model.targets().unwrap().get(ModuleId::LM_HEAD).map(|t| model.weight(t).unwrap());
        let head: Vec<f32> = head.unwrap().iter().copied().collect();
        all.push(stored("lm_head.weight", dtype, &[256, 64], &head));
    }
    all
}

/// A file as the reference implementation writes it.
pub fn file(tensors: &[Stored]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A header and data as they are given, whatever they say.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// `folder/model.safetensors`.
pub fn write_single(folder: &Path, tensors: &[Stored]) -> PathBuf {
    let path = folder.join("model.safetensors");
    fs::write(&path, file(tensors)).unwrap();
    path
}

/// Two files and their index; tensors go to them in turn.
pub fn write_sharded(folder: &Path, tensors: &[Stored]) -> PathBuf {
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = Map::new();
    for (turn, name) in names.iter().enumerate() {
        let own: Vec<_> = tensors.iter().skip(turn).step_by(2).cloned().collect();
        map.extend(own.iter().map(|t| (t.name.clone(), json!(name))));
        fs::write(folder.join(name), file(&own)).unwrap();
    }
    write_index(folder, &Value::Object(map))
}

/// `folder/model.safetensors.index.json`.
pub fn write_index(folder: &Path, weight_map: &Value) -> PathBuf {
    let path = folder.join("model.safetensors.index.json");
    let index = json!({"metadata": {"total_size": 1, "note": "kept"}, "weight_map": weight_map});
    fs::write(&path, format!("{index:#}\n")).unwrap();
    path
}

pub fn load(folder: &Path) -> Result<Checkpoint, ModelError> {
    match tla::model::Model::load(folder)? {
        tla::model::Model::Safetensors(checkpoint) => Ok(checkpoint),
        other => panic!("{other:?}"),
    }
}

/// Name, type, shape and bytes of every tensor, as the reference implementation reads them.
pub fn read(path: &Path) -> Vec<Stored> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .iter()
        .map(|(name, t)| Stored {
            name: name.into(),
            dtype: t.dtype(),
            shape: t.shape().into(),
            bytes: t.data().into(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
