//! A head that is tied to the embedding, and copied before it is written: beside the other weights if they
//! lie in a data file, and refused where the file would have more bytes than any runtime reads.
#![cfg(feature = "std")]

mod logits;

use logits::{Tokens, apart, root};
use ndarray::Array2;
use prost::Message;
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{
        ModelError, OnnxModel, Targets, find_targets,
        node::{self, node},
        proto::{
            GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
            tensor_proto::DataLocation,
        },
        stage_model, write_model,
    },
    projection::Factors,
    surgery::{Addend, OnnxMerge, SurgeryError, merge, rebuild_from, verify_merged},
};

const V: [f32; 13] = [0.3, -0.2, 0.25, 0.1, -0.35, 0.2, 0.15, -0.3, 0.4, 0.05, -0.1, 0.3, 0.2];

/// Initializers that the data file takes have at least so many bytes.
const LARGE: usize = 1024;

const DATA: &str = "model.onnx.data";

fn plain() -> OnnxModel {
    OnnxModel::load(&root().join("fixtures/exports/optimum-fp32/qwen2-tied")).unwrap()
}

/// The Qwen2 with its large weights in a data file, one behind the other.
fn external(folder: &Path) -> (OnnxModel, Targets) {
    let mut proto = plain().inlined().unwrap();
    let mut data = Vec::new();
    for tensor in &mut proto.graph.as_mut().unwrap().initializer {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= LARGE) else { continue };
        let entry =
            |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.external_data = vec![
            entry("location", DATA.into()),
            entry("offset", data.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        data.extend_from_slice(&raw);
    }
    fs::write(folder.join(DATA), data).unwrap();
    fs::write(folder.join("model.onnx"), proto.encode_to_vec()).unwrap();
    let model = OnnxModel::load(folder).unwrap();
    let targets = find_targets(&model).unwrap();
    (model, targets)
}

fn adapter(roles: &[Role]) -> Header {
    let roles = RoleSet::from_roles(roles.iter().copied()).unwrap();
    Header { seed: 5, scale: 0.5, roles, ..Header::default() }
}

/// Where the bytes of each initializer lie in this data file.
fn places(model: &OnnxModel, file: &str) -> BTreeMap<String, [usize; 2]> {
    let entry = |tensor: &TensorProto, key: &str| {
        let entry = tensor.external_data.iter().find(|e| e.key() == key);
        entry.map(|entry| entry.value().to_owned())
    };
    let number = |tensor: &TensorProto, key: &str| entry(tensor, key).unwrap().parse().unwrap();
    let tensors = model.graph().initializer.iter();
    let inside = tensors.filter(|t| entry(t, "location").is_some_and(|location| location == file));
    inside.map(|t| (t.name().to_owned(), [number(t, "offset"), number(t, "length")])).collect()
}

#[test]
fn the_copy_of_a_tied_head_lies_behind_the_other_weights_in_their_data_file() {
    let every =
        [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::LmHead];
    for (roles, out) in [
        (&every[..], "out/model.onnx"),
        (&every[..], "in/merged.onnx"),
        (&[Role::LmHead][..], "out/model.onnx"),
        (&[Role::LmHead][..], "in/merged.onnx"),
    ] {
        let root = TempDir::new().unwrap();
        let [inside, out] = ["in", out].map(|name| root.path().join(name));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let (model, targets) = external(&inside);
        let head = targets.get(ModuleId::LM_HEAD).unwrap();
        assert!(head.shared);
        let header = adapter(roles);
        let factors = rebuild_from(&model, &targets, &header, &V, 2).unwrap();
        let addends = [Addend::whole(&header, &factors)];
        let mut streamed = OnnxMerge::new(&model, &targets, &addends, 2).unwrap();
        let proto = streamed.proto().clone();
        stage_model(&model, &proto, &out, &mut streamed).unwrap().1.place().unwrap();

        let merged = OnnxModel::load(&out).unwrap();
        let found = verify_merged(&model, &targets, &header, &factors, &merged, 2);
        assert_eq!(found.unwrap(), []);
        let inline = |t: &&TensorProto| t.raw_data.as_ref().is_some_and(|raw| raw.len() >= LARGE);
        assert_eq!(merged.inlined().unwrap().graph.unwrap().initializer.iter().find(inline), None);
        // All that the adapter does not change is where it was; the copy comes on a page of its own.
        let name = out.file_name().unwrap().to_str().unwrap().to_owned() + ".data";
        let data = out.with_file_name(&name);
        let [before, after] = [&inside.join(DATA), &data].map(|path| fs::read(path).unwrap());
        let (old, mut new) = (places(&model, DATA), places(&merged, &name));
        let copy: Vec<String> =
            new.keys().filter(|name| !old.contains_key(*name)).cloned().collect();
        let [copy] = &copy[..] else { panic!("{copy:?}") };
        let [start, length] = new.remove(copy).unwrap();
        assert_eq!((new, length), (old.clone(), 4 * 256 * 64));
        assert_eq!((start, after.len()), (before.len().next_multiple_of(4096), start + length));
        let changed = |name: &str| {
            let linear = targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
            roles.len() > 1 && linear.map(|t| &t.initializer).any(|other| other == name)
        };
        for (name, [start, length]) in old {
            let same = before[start..start + length] == after[start..start + length];
            assert_eq!(same, !changed(&name), "{name}");
        }

        let tokens = Tokens::of(plain().folder());
        let in_memory = merge(&model, &targets, &header, &factors, 2).unwrap();
        let beside = inside.join("in-memory.onnx");
        write_model(&model, &in_memory.proto, &beside).unwrap();
        let [expected, found] = [&beside, &out].map(|path| tokens.logits(path));
        assert_eq!(apart(&found, &expected, &tokens.mask), 0.0);
    }
}

/// Writes a graph whose first initializer has zeros as raw data, which take no room on disk.
fn write_sparse(path: &Path, mut proto: ModelProto, length: u64) {
    let varint = |value: u64, to: &mut Vec<u8>| prost::encoding::encode_varint(value, to);
    let mut graph = proto.graph.take().unwrap();
    let tensor = graph.initializer.remove(0).encode_to_vec();
    let mut raw = vec![0x4a];
    varint(length, &mut raw);
    let graph = graph.encode_to_vec();
    let mut initializer = vec![0x2a];
    varint((tensor.len() + raw.len()) as u64 + length, &mut initializer);
    let mut bytes = proto.encode_to_vec();
    bytes.push(0x3a);
    let parts = [graph, initializer, tensor, raw];
    varint(parts.iter().map(|part| part.len() as u64).sum::<u64>() + length, &mut bytes);
    bytes.extend(parts.concat());
    fs::write(path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + length).unwrap();
}

#[test]
fn a_copy_that_takes_an_inline_model_beyond_two_gigabytes_is_refused_before_it_is_written() {
    const SIZE: usize = 1 << 14;
    let mut tied = node::tensor_f32("tied", &[SIZE as i64; 2], &[]);
    tied.raw_data = None;
    let graph = GraphProto {
        node: vec![
            node("Gather", "/model/embed_tokens/Gather", &["tied", "ids"], &["x"]),
            node("MatMul", "/lm_head/MatMul", &["x", "tied"], &["logits"]),
        ],
        initializer: vec![tied],
        input: vec![node::untyped_value("ids")],
        output: vec![node::untyped_value("logits")],
        ..GraphProto::default()
    };
    let proto = ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let folder = TempDir::new().unwrap();
    write_sparse(&folder.path().join("model.onnx"), proto, 4 * (SIZE * SIZE) as u64);
    let model = OnnxModel::load(folder.path()).unwrap();
    let targets = find_targets(&model).unwrap();
    assert!(targets.get(ModuleId::LM_HEAD).unwrap().shared);
    let header = adapter(&[Role::LmHead]);
    let ones = || Array2::ones((SIZE, 1));
    let factors = [Factors { module: ModuleId::LM_HEAD, l: ones(), v: ones() }];
    let addends = [Addend::whole(&header, &factors)];
    let mut merge = OnnxMerge::new(&model, &targets, &addends, 1).unwrap();
    let proto = merge.proto().clone();
    let failed = stage_model(&model, &proto, &folder.path().join("out.onnx"), &mut merge);
    let error = failed.map(drop).unwrap_err();
    let SurgeryError::Model(ModelError::TooLarge { bytes, .. }) = &error else { panic!("{error}") };
    assert!(*bytes > 8 * (SIZE * SIZE) as u64);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
