#![allow(dead_code, reason = "each test program uses a part of it")]
//! The folders of `spec/vectors`, the bases in them, and the reference in Python.

use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tla::{
    format::{Adapter, Header, ModuleId, Role, Scalar, round_to_scalar},
    model::{OnnxModel, base_digest, f32_tensor, find_targets, proto::*},
    projection::{Factors, ProjectionError, delta, factors_digest, rebuild},
};

/// A folder or file of `spec`.
pub fn spec(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec").join(name)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().filter(|b| !b.is_ascii_whitespace()).map(|b| nibble(b as char)).collect();
    assert_eq!(digits.len() % 2, 0, "{text}");
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn nibble(digit: char) -> u8 {
    digit.to_digit(16).unwrap_or_else(|| panic!("{digit:?} is no hex digit")) as u8
}

/// Names of the files with this ending, sorted, without the ending.
pub fn stems(folder: &Path, ending: &str) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// One adapter with what is expected of it.
pub struct Vector {
    pub name: String,
    pub file: PathBuf,
    pub bytes: Vec<u8>,
    pub expected: Value,
}

impl Vector {
    /// The string under a key of the expectation.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.expected.get(key).map(|value| value.as_str().unwrap())
    }
}

/// Every vector of `accept` or `reject`. Each file must have its expectation, and nothing else
/// may lie there.
pub fn vectors(kind: &str) -> Vec<Vector> {
    let folder = spec("vectors").join(kind);
    let names = stems(&folder, ".tla");
    assert_eq!(names, stems(&folder, ".json"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2 * names.len());
    let read = |name: String| {
        let file = folder.join(format!("{name}.tla"));
        let bytes = fs::read(&file).unwrap();
        let expected = json(&folder.join(format!("{name}.json")));
        Vector { name, file, bytes, expected }
    };
    names.into_iter().map(read).collect()
}

/// A checkpoint: its modules as they are stored, and what an fp32 export of it would be.
pub struct Base {
    pub types: BTreeMap<ModuleId, Dtype>,
    pub weights: Vec<(ModuleId, Array2<f32>)>,
    pub export: OnnxModel,
}

impl Base {
    /// A file or sharded folder below `spec/vectors`.
    pub fn load(name: &str) -> Self {
        let path = spec("vectors").join(name);
        let (mut types, mut weights) = (BTreeMap::new(), Vec::new());
        let files = match path.is_dir() {
            true => stems(&path, ".safetensors")
                .iter()
                .map(|stem| path.join(format!("{stem}.safetensors")))
                .collect(),
            false => vec![path],
        };
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                let Some(module) = module_of(&name) else { continue };
                let [rows, cols] = tensor.shape()[..] else { panic!("{name}") };
                let values = widened(tensor.dtype(), tensor.data());
                types.insert(module, tensor.dtype());
                weights.push((module, Array2::from_shape_vec((rows, cols), values).unwrap()));
            }
        }
        let export = export(&weights);
        Self { types, weights, export }
    }

    pub fn digest(&self) -> Option<[u8; 32]> {
        let targets = find_targets(&self.export).unwrap();
        base_digest(&self.export, &targets).ok()
    }

    pub fn factors(&self, header: &Header, v: &[f32]) -> Result<Vec<Factors>, ProjectionError> {
        let views: Vec<_> = self.weights.iter().map(|(module, w)| (*module, w.view())).collect();
        rebuild(header, v, &views, 0)
    }

    /// What `tla verify --base` answers, by the names of spec/format.md.
    pub fn verify(&self, adapter: &Adapter) -> Result<Vec<Factors>, &'static str> {
        let header = adapter.header();
        if !header.is_bound() {
            return Err("unbound");
        }
        if self.digest().ok_or("no-base-digest")? != header.base_digest {
            return Err("other-base");
        }
        let v: Vec<f32> = adapter.values().collect();
        let factors = self
            .factors(header, &v)
            .map_err(|error| error.name().unwrap_or_else(|| panic!("{error}")))?;
        match factors_digest(&factors) == header.factors_digest {
            true => Ok(factors),
            false => Err("other-factors"),
        }
    }

    /// The merged weight of one module as the container stores it.
    pub fn merged(&self, factors: &Factors, scale: f32) -> Result<Vec<u8>, &'static str> {
        let (_, w) = self.weights.iter().find(|(module, _)| *module == factors.module).unwrap();
        let mut bytes = Vec::new();
        for (&w, &d) in w.iter().zip(&delta(factors, scale)) {
            let sum = f64::from(w) + d;
            let (value, stored) = match self.types[&factors.module] {
                Dtype::F32 => (sum as f32, (sum as f32).to_le_bytes().to_vec()),
                Dtype::BF16 => {
                    let value = round_to_scalar(Scalar::Bf16, to_odd(sum));
                    (value, value.to_le_bytes()[2..].to_vec())
                }
                _ => {
                    let value = round_to_scalar(Scalar::F16, to_odd(sum));
                    (value, half::f16::from_f32(value).to_le_bytes().to_vec())
                }
            };
            if !value.is_finite() {
                return Err("merged-not-finite");
            }
            bytes.extend(stored);
        }
        Ok(bytes)
    }
}

/// To f32, inexact values to the neighbour with an odd last bit: a second rounding to a type of
/// half the bits then gives what one rounding from f64 gives.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) == x || near.is_nan() {
        return near;
    }
    let beyond = f64::from(near).abs() > x.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        Dtype::F16 => pairs().map(|b| half::f16::from_bits(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| half::bf16::from_bits(b).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

const PATHS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The name of a module's tensor in a checkpoint.
pub fn tensor_name(module: ModuleId) -> String {
    match module {
        ModuleId::LM_HEAD => "lm_head.weight".into(),
        ModuleId { layer, role } => {
            format!("model.layers.{layer}.{}.weight", PATHS[usize::from(role.code())])
        }
    }
}

fn module_of(name: &str) -> Option<ModuleId> {
    let layers = (0..8).flat_map(|layer| Role::ALL[..7].iter().map(move |&r| (layer, r)));
    let linear = layers.map(|(layer, role)| ModuleId::new(layer, role));
    linear.chain([ModuleId::LM_HEAD]).find(|&module| tensor_name(module) == name)
}

/// An fp32 export with a `MatMul` per module, named as optimum-onnx does.
fn export(weights: &[(ModuleId, Array2<f32>)]) -> OnnxModel {
    let mut graph = GraphProto::default();
    for (module, w) in weights {
        let name = format!("W{module}");
        let raw: Vec<u8> = w.t().iter().flat_map(|x| x.to_le_bytes()).collect();
        graph.initializer.push(f32_tensor(&name, &[w.ncols(), w.nrows()], raw.into()));
        let path = match *module {
            ModuleId::LM_HEAD => "/lm_head/MatMul".into(),
            ModuleId { layer, role } => {
                let place = PATHS[usize::from(role.code())].replace('.', "/");
                format!("/model/layers.{layer}/{place}/MatMul")
            }
        };
        graph.node.push(NodeProto {
            name: Some(path),
            op_type: Some("MatMul".into()),
            input: vec![format!("x{module}"), name],
            output: vec![format!("y{module}")],
            ..Default::default()
        });
    }
    let opset = OperatorSetIdProto { version: Some(18), ..Default::default() };
    let proto = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![opset],
        ..Default::default()
    };
    OnnxModel::from_proto(proto, "export.onnx".into()).unwrap()
}

/// Runs a program of `spec` and returns its standard output.
#[track_caller]
pub fn python(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("python3");
    // Neither a cache beside the sources nor what a user's environment adds.
    command.args(["-E", "-s", "-B"]).arg(spec(program)).args(args);
    let output = command.output().unwrap_or_else(|e| panic!("python3: {e}. Install Python 3.11."));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{program} {args:?}: {errors}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// What the reference says of each file, by its path.
#[track_caller]
pub fn reference(command: &str, options: &[&str], files: &[&Path]) -> BTreeMap<PathBuf, Value> {
    let files = files.iter().map(|f| f.to_str().unwrap());
    let args = [command, "--json"].into_iter().chain(options.iter().copied()).chain(files);
    let (_, lines) = python("reference.py", &args.collect::<Vec<_>>());
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["file"].as_str().unwrap().into(), line)).collect()
}
