//! The time of a merge beside that of `cp`, and the memory it takes: `merge_cost FOLDER LAYERS RUNS
//! THREADS` (`make merge-cost`).
//!
//! Models of the shapes of Qwen2.5-0.5B with so many layers (24: 2 GB in fp32) are made in FOLDER:
//! ONNX with a data file, ONNX in one file where that is under 2 GB, safetensors in fp32 and bf16.
//! `cp`, a merge of one role and a merge of all take turns, each until the disk has it; a merge's
//! bases are not part of it. Medians of the seconds, and of the ratios to the `cp` of the same turn.

use std::{
    env, fs,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use ndarray::Array2;
use prost::{Message, bytes::Bytes};
use tla::{
    format::{Header, Role, RoleSet},
    model::{
        Checkpoint, ElementType, Model, OnnxModel, Staged, Targets,
        node::{Dim, node, tensor_value},
        proto::{
            GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
            tensor_proto::{DataLocation, DataType},
        },
        stage_model,
    },
    projection::Factors,
    surgery::{Addend, CheckpointMerge, OnnxMerge},
};

type Failure = Box<dyn std::error::Error>;

const HIDDEN: usize = 896;
const INNER: usize = 4864;
const VOCABULARY: usize = 151_936;

/// Path of the module, rows, columns.
const MODULES: [(&str, usize, usize); 7] = [
    ("self_attn/q_proj", HIDDEN, HIDDEN),
    ("self_attn/k_proj", 128, HIDDEN),
    ("self_attn/v_proj", 128, HIDDEN),
    ("self_attn/o_proj", HIDDEN, HIDDEN),
    ("mlp/gate_proj", INNER, HIDDEN),
    ("mlp/up_proj", INNER, HIDDEN),
    ("mlp/down_proj", HIDDEN, INNER),
];

/// A matrix of the model: its name, the path of its module, rows and columns as stored.
struct Matrix {
    name: String,
    module: Option<String>,
    shape: [usize; 2],
}

/// The matrices of a model; a graph stores `[in, out]`.
fn matrices(layers: usize, turned: bool) -> Vec<Matrix> {
    let embedding = "model.embed_tokens.weight".to_owned();
    let mut all = vec![Matrix { name: embedding, module: None, shape: [VOCABULARY, HIDDEN] }];
    for layer in 0..layers {
        for (path, rows, columns) in MODULES {
            let module = format!("/model/layers.{layer}/{path}/MatMul");
            let name = format!("model.layers.{layer}.{}.weight", path.replace('/', "."));
            let shape = if turned { [columns, rows] } else { [rows, columns] };
            all.push(Matrix { name, module: Some(module), shape });
        }
    }
    all
}

/// So many numbers of mean zero, as stored.
fn numbers(element: ElementType, count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::new();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1;
        match element {
            ElementType::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

fn graph(layers: usize, tensor: impl Fn(&Matrix) -> TensorProto) -> ModelProto {
    let matrices = matrices(layers, true);
    let product = |(index, matrix): (usize, &Matrix)| {
        let made = format!("y{index}");
        Some(node("MatMul", matrix.module.as_ref()?, &["x", &matrix.name], &[&made]))
    };
    let any = [Dim::Named("rows".into()), Dim::Named("columns".into())];
    let graph = GraphProto {
        node: matrices.iter().enumerate().filter_map(product).collect(),
        initializer: matrices.iter().map(tensor).collect(),
        input: vec![tensor_value("x", DataType::Float, &any)],
        output: vec![tensor_value("y1", DataType::Float, &any)],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(18), ..OperatorSetIdProto::default() };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn bare(matrix: &Matrix) -> TensorProto {
    TensorProto {
        name: Some(matrix.name.clone()),
        dims: matrix.shape.iter().map(|&size| size as i64).collect(),
        data_type: Some(DataType::Float as i32),
        ..TensorProto::default()
    }
}

fn inline(path: &Path, layers: usize) -> Result<(), Failure> {
    let values = Bytes::from(numbers(ElementType::F32, VOCABULARY * HIDDEN));
    let model = graph(layers, |matrix| TensorProto {
        raw_data: Some(values.slice(..4 * matrix.shape[0] * matrix.shape[1])),
        ..bare(matrix)
    });
    Ok(fs::write(path, model.encode_to_vec())?)
}

fn with_data(path: &Path, layers: usize) -> Result<(), Failure> {
    let values = numbers(ElementType::F32, VOCABULARY * HIDDEN);
    let place = path.with_extension("onnx.data");
    let mut data = BufWriter::new(File::create(&place)?);
    let mut offsets = std::collections::HashMap::new();
    let mut offset = 0;
    for matrix in matrices(layers, true) {
        let length = 4 * matrix.shape[0] * matrix.shape[1];
        data.write_all(&values[..length])?;
        offsets.insert(matrix.name, (offset, length));
        offset += length;
    }
    data.flush()?;
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let model = graph(layers, |matrix| {
        let (offset, length) = offsets[&matrix.name];
        let entries = [
            ("location", name.clone()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ];
        let entries = entries.map(|(key, value)| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value),
        });
        TensorProto {
            data_location: Some(DataLocation::External as i32),
            external_data: entries.into(),
            ..bare(matrix)
        }
    });
    Ok(fs::write(path, model.encode_to_vec())?)
}

fn checkpoint(path: &Path, layers: usize, element: ElementType) -> Result<(), Failure> {
    let values = numbers(element, VOCABULARY * HIDDEN);
    let size = element.size().unwrap_or(4) as usize;
    let dtype = if element == ElementType::Bf16 { "BF16" } else { "F32" };
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    let matrices = matrices(layers, false);
    for matrix in &matrices {
        let end = offset + size * matrix.shape[0] * matrix.shape[1];
        let entry = serde_json::json!(
            {"dtype": dtype, "shape": matrix.shape, "data_offsets": [offset, end]});
        header.insert(matrix.name.clone(), entry);
        offset = end;
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for matrix in &matrices {
        file.write_all(&values[..size * matrix.shape[0] * matrix.shape[1]])?;
    }
    Ok(file.flush()?)
}

/// Factors of a small update, as large as an adapter's.
fn factors(targets: &Targets, header: &Header) -> Vec<Factors> {
    let selected = targets.targets.iter().filter(|target| header.selects(target.module));
    let wave = |size: usize| {
        Array2::from_shape_fn((size, 2), |(i, k)| 0.02 * ((i * (k + 3)) as f64 * 0.7).sin())
    };
    let each = selected.map(|target| Factors {
        module: target.module,
        l: wave(target.rows),
        v: wave(target.cols),
    });
    each.collect()
}

struct Case {
    model: Model,
    targets: Targets,
    out: PathBuf,
    threads: usize,
}

impl Case {
    fn copy(&self) -> Result<(), Failure> {
        for source in self.model.container().files() {
            let name = source.file_name().unwrap_or_default();
            let place = self.out.with_file_name(name);
            let copied = Command::new("cp").arg(&source).arg(&place).status()?;
            assert!(copied.success(), "cp {source:?} {place:?}");
            File::open(&place)?.sync_all()?;
        }
        Ok(())
    }

    fn merge(&self, roles: RoleSet) -> Result<(), Failure> {
        let header = Header { roles, ..Header::default() };
        let factors = factors(&self.targets, &header);
        let addends = [Addend::whole(&header, &factors)];
        match &self.model {
            Model::Onnx(model) => self.graph(model, &addends),
            Model::Safetensors(checkpoint) => self.checkpoint(checkpoint, &addends),
        }
    }

    fn graph(&self, model: &OnnxModel, addends: &[Addend<'_>]) -> Result<(), Failure> {
        let mut merge = OnnxMerge::new(model, &self.targets, addends, self.threads)?;
        let proto = merge.proto().clone();
        let (_, staged) = stage_model(model, &proto, &self.out, &mut merge)?;
        Ok(staged.place()?)
    }

    fn checkpoint(&self, base: &Checkpoint, addends: &[Addend<'_>]) -> Result<(), Failure> {
        let mut merge = CheckpointMerge::new(base, &self.targets, addends, self.threads)?;
        let mut staged = Staged::default();
        for shard in base.shards() {
            let mut file = Staged::new_file(&self.out)?;
            merge.write(shard, file.as_file_mut(), &self.out)?;
            staged.push(file, self.out.clone())?;
        }
        Ok(staged.place()?)
    }

    /// Seconds of `work`, on a place where nothing is.
    fn time(&self, work: impl Fn(&Self) -> Result<(), Failure>) -> Result<f64, Failure> {
        let folder = self.out.parent().unwrap_or(Path::new("."));
        drop(fs::remove_dir_all(folder));
        fs::create_dir_all(folder)?;
        let started = Instant::now();
        work(self)?;
        Ok(started.elapsed().as_secs_f64())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The most memory this program had, in bytes; 0 where the system does not say.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// Counts the most memory from now on, where the system can.
fn forget_peak() {
    drop(fs::write("/proc/self/clear_refs", "5"));
}

fn measure(name: &str, path: &Path, runs: usize, threads: usize) -> Result<(), Failure> {
    let model = Model::load(path)?;
    let targets = model.container().targets()?;
    let folder = path.with_file_name("out");
    let out = folder.join(path.file_name().unwrap_or_default());
    let case = Case { model, targets, out, threads };
    let bytes: u64 =
        case.model.container().files().iter().map(|f| fs::metadata(f).map_or(0, |m| m.len())).sum();
    let one = RoleSet::from_roles([Role::Down])?;
    // The first copy also brings the model into memory.
    case.time(Case::copy)?;
    forget_peak();
    let mut turns = Vec::new();
    for _ in 0..runs {
        let copy = case.time(Case::copy)?;
        let one = case.time(|case| case.merge(one))?;
        let all = case.time(|case| case.merge(RoleSet::LINEAR))?;
        turns.push([copy, one, all]);
    }
    fs::remove_dir_all(&folder)?;
    let seconds = |i: usize| median(turns.iter().map(|turn| turn[i]));
    let ratio = |i: usize| median(turns.iter().map(|turn| turn[i] / turn[0]));
    let [copy, one, all] = [0, 1, 2].map(seconds);
    println!(
        "| {name}, {:.2} GB | {copy:.2} | {one:.2} = {:.2} × | {all:.2} = {:.2} × | {:.0} MB |",
        bytes as f64 / 1e9,
        ratio(1),
        ratio(2),
        peak() as f64 / 1e6,
    );
    Ok(io::stdout().flush()?)
}

fn main() -> Result<(), Failure> {
    let given: Vec<String> = env::args().skip(1).collect();
    let [folder, layers, runs, threads, only @ ..] = &given[..] else {
        return Err("merge_cost FOLDER LAYERS RUNS THREADS".into());
    };
    let (folder, layers) = (Path::new(folder), layers.parse()?);
    let (runs, threads) = (runs.parse()?, threads.parse()?);
    println!("| model | cp | one role | all roles | most memory |\n|---|---|---|---|---|");
    type Maker = fn(&Path, usize) -> Result<(), Failure>;
    let cases: [(&str, &str, Maker); 4] = [
        ("ONNX, data file", "model.onnx", with_data),
        ("ONNX, inline", "model.onnx", inline),
        ("safetensors, fp32", "model.safetensors", |p, l| checkpoint(p, l, ElementType::F32)),
        ("safetensors, bf16", "model.safetensors", |p, l| checkpoint(p, l, ElementType::Bf16)),
    ];
    for (index, (name, file, make)) in cases.into_iter().enumerate() {
        if !only.is_empty() && !only.iter().any(|o| name.contains(o.as_str())) {
            continue;
        }
        let own = folder.join(index.to_string());
        fs::create_dir_all(&own)?;
        make(&own.join(file), layers)?;
        measure(name, &own.join(file), runs, threads)?;
        fs::remove_dir_all(&own)?;
    }
    Ok(())
}
