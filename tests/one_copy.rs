//! However many graphs run a model, its weights are in memory once.
#![cfg(all(feature = "train", target_os = "linux"))]

use std::{fs, path::Path};

use tempfile::TempDir;
use tla::{
    model::{
        OnnxModel,
        node::{Attribute, Dim, node, tensor_value, with_attribute},
        proto::{
            GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
            tensor_proto::{DataLocation, DataType},
        },
        write_model,
    },
    runtime::{Session, SessionOptions, Tensor},
};

const VOCABULARY: usize = 24_000;
const WIDTH: usize = 1_000;
const MIB: usize = 1 << 20;
/// Of the table of embeddings, in 32 bits.
const WEIGHTS: usize = VOCABULARY * WIDTH * 4 / MIB;

/// A table looked up by `input_ids`, and the products of a tied head and of its gradient with it.
fn tied(table: TensorProto) -> ModelProto {
    let wide = |name: &str, size| {
        tensor_value(name, DataType::Float, &[Dim::Named("rows".into()), Dim::Fixed(size as i64)])
    };
    let ids = [Dim::Named("texts".into()), Dim::Named("length".into())];
    let back = node("Gemm", "back", &["logits", "turned"], &["back"]);
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(18), ..Default::default() }],
        graph: Some(GraphProto {
            name: Some("tied".into()),
            node: vec![
                node("Gather", "rows", &["table", "input_ids"], &["found"]),
                node("Transpose", "turned", &["table"], &["turned"]),
                node("MatMul", "logits", &["hidden", "turned"], &["logits"]),
                with_attribute(back, "transB", Attribute::Int(1)),
            ],
            input: vec![wide("hidden", WIDTH), tensor_value("input_ids", DataType::Int64, &ids)],
            output: vec![
                wide("logits", VOCABULARY),
                wide("back", WIDTH),
                tensor_value("found", DataType::Float, &[]),
            ],
            initializer: vec![table],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn table() -> TensorProto {
    TensorProto {
        name: Some("table".into()),
        dims: vec![VOCABULARY as i64, WIDTH as i64],
        data_type: Some(DataType::Float as i32),
        ..Default::default()
    }
}

/// Bytes of 0x3e are floats of about 0.19, whatever the alignment.
fn beside(folder: &Path) -> OnnxModel {
    fs::write(folder.join("weights.bin"), vec![0x3e; WEIGHTS * MIB + MIB]).unwrap();
    let pair = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    };
    let place = [("location", "weights.bin".into()), ("offset", "4096".into())];
    let table = TensorProto {
        data_location: Some(DataLocation::External as i32),
        external_data: place.map(|(key, value)| pair(key, value)).to_vec(),
        ..table()
    };
    let size = pair("length", (VOCABULARY * WIDTH * 4).to_string());
    let mut proto = tied(table);
    proto.graph.as_mut().unwrap().initializer[0].external_data.push(size);
    written(proto, folder)
}

fn inline(folder: &Path) -> OnnxModel {
    let raw = vec![0x3e; VOCABULARY * WIDTH * 4];
    written(tied(TensorProto { raw_data: Some(raw.into()), ..table() }), folder)
}

fn written(proto: ModelProto, folder: &Path) -> OnnxModel {
    let path = folder.join("model.onnx");
    let model = OnnxModel::from_proto(proto, path.clone()).unwrap();
    write_model(&model, &model.proto, &path).unwrap();
    OnnxModel::load(&path).unwrap()
}

/// Of this process, in MiB: what it holds now and the most it ever held.
fn resident() -> [usize; 2] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
    })
}

/// What was held at most from now on is counted from now on.
fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn loads_without_a_copy(model: &OnnxModel) {
    let whole = model.whole().unwrap();
    forget_peak();
    let [before, _] = resident();
    let load = || Session::load("tied", &whole, &model.path, SessionOptions::cpu(1)).unwrap();
    let mut sessions = [load(), load(), load()];
    let [after, peak] = resident();
    println!(
        "{WEIGHTS} MiB of weights: {before} MiB, {after} MiB with three sessions, {peak} MiB at most"
    );
    assert!(after < before + WEIGHTS / 2, "{before} MiB became {after} MiB");
    assert!(peak < before + WEIGHTS / 2, "{before} MiB became {peak} MiB for a while");
    let hidden = Tensor::f32(&[1, WIDTH], vec![1.0; WIDTH]).unwrap();
    let ids = Tensor::i64(&[1, 2], vec![0, VOCABULARY as i64 - 1]).unwrap();
    let value = f32::from_ne_bytes([0x3e; 4]);
    for session in &mut sessions {
        let made = session.run(&[("hidden", &hidden), ("input_ids", &ids)]).unwrap();
        let near = |found: &[f32], expected: f32| {
            found.iter().all(|x| (x - expected).abs() < 1e-3 * expected)
        };
        let logit = value * WIDTH as f32;
        assert!(near(made[0].as_f32("logits").unwrap(), logit));
        assert!(near(made[1].as_f32("back").unwrap(), logit * value * VOCABULARY as f32));
        assert_eq!(made[2].as_f32("found").unwrap(), [value; 2 * WIDTH]);
    }
}

/// One test, because what a process holds is counted.
#[test]
fn three_sessions_hold_no_copy_of_the_weights_of_a_data_file_or_of_the_model_file() {
    for made in [beside, inline] {
        let folder = TempDir::new().unwrap();
        loads_without_a_copy(&made(folder.path()));
    }
}
