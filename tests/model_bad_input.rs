//! Files that are no model, or a broken one, are refused with an error, never a panic.
#![cfg(feature = "std")]

use proptest::prelude::*;
use prost::Message;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::TempDir;
use tla::model::{
    ModelError, OnnxModel, base_digest, f32_tensor, find_targets, proto::*, summarize, write_model,
};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/exports/optimum-fp32/qwen2-tied/model.onnx")
}

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(fixture()).unwrap());

fn tiny() -> ModelProto {
    ModelProto::decode(&BYTES[..]).unwrap()
}

/// Writes bytes under a model's name and loads them.
fn load(bytes: &[u8]) -> Result<OnnxModel, ModelError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).unwrap();
    // With all its weights, which the folder takes along.
    let model = OnnxModel::load(&path)?;
    OnnxModel::from_proto(model.inlined()?, model.path)
}

fn load_changed(change: impl FnOnce(&mut GraphProto)) -> Result<OnnxModel, ModelError> {
    let mut proto = tiny();
    change(proto.graph.as_mut().unwrap());
    load(&proto.encode_to_vec())
}

fn weight(graph: &mut GraphProto) -> &mut TensorProto {
    graph.initializer.iter_mut().find(|t| t.name() == "onnx::MatMul_744").unwrap()
}

macro_rules! assert_refused {
    ($result:expr, $variant:ident) => {
        match $result {
            Err(ModelError::$variant { .. }) => {}
            other => panic!("{:?}", other.map(drop)),
        }
    };
}

#[test]
fn paths_that_lead_to_no_model_are_refused() {
    let folder = TempDir::new().unwrap();
    assert_refused!(OnnxModel::load(&folder.path().join("nothing.onnx")), Missing);
    assert_refused!(OnnxModel::load(folder.path()), NoModelInFolder);
    fs::create_dir(folder.path().join("model.onnx")).unwrap();
    assert_refused!(OnnxModel::load(folder.path()), NotAFile);
}

#[test]
fn files_that_are_no_model_are_refused() {
    assert_refused!(load(b""), Empty);
    assert_refused!(load(b"This is a plain text file.\n"), NotOnnx);
    assert_refused!(load(b"{\"model\": \"qwen2\"}"), NotOnnx);
    assert_refused!(
        load(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        LfsPointer
    );
    assert_refused!(load(&ModelProto::default().encode_to_vec()), Empty);
    assert_refused!(load(&[0x08, 0x08]), Incomplete);
    assert_refused!(load(&[0xff; 64]), NotOnnx);
}

#[test]
fn models_that_lack_a_part_are_refused() {
    assert_refused!(load(&ModelProto { graph: None, ..tiny() }.encode_to_vec()), Incomplete);
    assert_refused!(
        load(&ModelProto { opset_import: vec![], ..tiny() }.encode_to_vec()),
        Incomplete
    );
    assert_refused!(load_changed(|g| g.node.clear()), Incomplete);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let size = BYTES.len();
    for end in (1..400).chain((400..size).step_by(5003)).chain(size - 40..size) {
        assert!(load(&BYTES[..end]).is_err(), "cut at {end} of {size}");
    }
}

#[test]
fn a_model_without_adaptable_modules_says_what_to_export() {
    let model = load_changed(|g| g.node.truncate(100)).unwrap();
    let error = find_targets(&model).unwrap_err();
    assert!(matches!(error, ModelError::NothingToAdapt { .. }));
    assert!(error.to_string().contains("optimum-onnx"), "{error}");
}

#[test]
fn names_that_are_missing_or_defined_twice_are_refused() {
    let twice = |g: &mut GraphProto| g.initializer.push(g.initializer[0].clone());
    assert_refused!(load_changed(twice), DuplicateName);
    assert_refused!(load_changed(|g| weight(g).name = None), UnnamedInitializer);
    let made = |g: &mut GraphProto| weight(g).name = Some(g.node[0].output[0].clone());
    assert_refused!(load_changed(made), DuplicateName);
    let output = |g: &mut GraphProto| g.node[1].output[0] = g.node[0].output[0].clone();
    assert_refused!(load_changed(output), DuplicateName);
}

#[test]
fn impossible_shapes_are_refused() {
    for dims in [
        &[-64i64, -64][..],
        &[i64::MAX, i64::MAX],
        &[1 << 32, 1 << 32],
        &[i64::MIN],
        &[0, i64::MAX, 9],
    ] {
        assert_refused!(load_changed(|g| weight(g).dims = dims.into()), BadShape);
    }
    for dims in [&[64i64, 63][..], &[1 << 40, 4], &[], &[0, 64]] {
        assert_refused!(load_changed(|g| weight(g).dims = dims.into()), WrongLength);
    }
}

#[test]
fn data_that_do_not_fill_the_shape_are_refused() {
    for len in [0, 1, 16383, 16385] {
        let change = |g: &mut GraphProto| weight(g).raw_data = Some(vec![0; len].into());
        assert_refused!(load_changed(change), WrongLength);
    }
    assert_refused!(load_changed(|g| weight(g).raw_data = None), WrongLength);
    let typed = |g: &mut GraphProto| {
        weight(g).raw_data = None;
        weight(g).float_data = vec![0.0; 4095];
    };
    assert_refused!(load_changed(typed), WrongLength);
}

#[test]
fn weights_in_the_typed_field_are_read() {
    let plain = load(&BYTES).unwrap();
    let typed = load_changed(|g| {
        let raw = weight(g).raw_data.take().unwrap();
        weight(g).float_data =
            raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    })
    .unwrap();
    let digest = |model: &OnnxModel| base_digest(model, &find_targets(model).unwrap()).unwrap();
    assert_eq!(digest(&plain), digest(&typed));
}

#[test]
fn matrices_of_an_unexpected_rank_are_skipped() {
    let model = load_changed(|g| weight(g).dims = vec![64, 8, 8]).unwrap();
    let skipped = find_targets(&model).unwrap().skipped;
    assert!(skipped[0].reason.contains("[64, 8, 8]"), "{skipped:?}");
}

/// A folder with a model whose first weight lies in `model.onnx.data`, from byte 4096 on, and a
/// secret beside the folder.
struct External {
    root: TempDir,
}

impl External {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let raw = weight(tiny().graph.as_mut().unwrap()).raw_data.clone().unwrap();
        let folder = root.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(root.path().join("secret"), vec![7; 65536]).unwrap();
        fs::write(folder.join("model.onnx.data"), [&vec![0; 4096], &raw[..]].concat()).unwrap();
        Self { root }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("model")
    }

    fn proto(&self, entries: &[(&str, &str)]) -> ModelProto {
        let mut proto = tiny();
        let tensor = weight(proto.graph.as_mut().unwrap());
        tensor.raw_data = None;
        tensor.data_location = Some(tensor_proto::DataLocation::External as i32);
        let entry = |&(k, v): &(&str, &str)| StringStringEntryProto {
            key: Some(k.into()),
            value: Some(v.into()),
        };
        tensor.external_data = entries.iter().map(entry).collect();
        proto
    }

    fn load(&self, entries: &[(&str, &str)]) -> Result<OnnxModel, ModelError> {
        fs::write(self.folder().join("model.onnx"), self.proto(entries).encode_to_vec()).unwrap();
        OnnxModel::load(&self.folder())
    }
}

const GOOD: [(&str, &str); 3] =
    [("location", "model.onnx.data"), ("offset", "4096"), ("length", "16384")];

#[test]
fn external_data_beside_the_model_are_read() {
    let model = External::new();
    let loaded = model.load(&GOOD).unwrap();
    let plain = load(&BYTES).unwrap();
    let digest = |model: &OnnxModel| base_digest(model, &find_targets(model).unwrap()).unwrap();
    assert_eq!(digest(&loaded), digest(&plain));
    assert!(loaded.has_external_data() && !plain.has_external_data());
    assert!(model.load(&GOOD[..2]).is_ok(), "the length may be left out");
}

#[test]
fn external_data_outside_the_folder_are_refused() {
    let model = External::new();
    let absolute = model.root.path().join("secret").display().to_string();
    for location in [
        "../secret",
        "./../secret",
        "a/../../secret",
        &absolute,
        "..\\secret",
        "C:secret",
        "/",
        "..",
    ] {
        assert_refused!(model.load(&[("location", location), GOOD[1], GOOD[2]]), ExternalEscapes);
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_and_one_inside_is_followed() {
    use std::os::unix::fs::symlink;
    let model = External::new();
    symlink("../secret", model.folder().join("link")).unwrap();
    symlink("..", model.folder().join("up")).unwrap();
    symlink("model.onnx.data", model.folder().join("inside")).unwrap();
    for location in ["link", "up/secret"] {
        assert_refused!(model.load(&[("location", location), GOOD[1], GOOD[2]]), ExternalEscapes);
    }
    assert!(model.load(&[("location", "inside"), GOOD[1], GOOD[2]]).is_ok());
}

#[test]
fn external_data_of_a_constant_are_refused_wherever_it_hides() {
    let outside = || TensorProto {
        name: Some("hidden".into()),
        data_location: Some(tensor_proto::DataLocation::External as i32),
        ..f32_tensor("hidden", &[1], vec![0; 4].into())
    };
    let constant = |t: TensorProto| AttributeProto {
        name: Some("value".into()),
        t: Some(t),
        ..AttributeProto::default()
    };
    let inside = |attribute| NodeProto {
        op_type: Some("Constant".into()),
        attribute: vec![attribute],
        ..NodeProto::default()
    };
    let body = || GraphProto {
        node: vec![inside(constant(outside()))],
        initializer: vec![f32_tensor("near", &[1], vec![0; 4].into())],
        ..GraphProto::default()
    };
    let branch = AttributeProto { g: Some(body()), ..AttributeProto::default() };
    let places = [inside(constant(outside())), inside(branch)];
    for node in places {
        assert_refused!(load_changed(|graph| graph.node.push(node)), ExternalConstant);
    }
    let mut proto = tiny();
    proto.functions.push(FunctionProto { node: body().node, ..FunctionProto::default() });
    assert_refused!(load(&proto.encode_to_vec()), ExternalConstant);
}

#[test]
fn values_in_two_places_and_data_in_the_model_itself_are_refused() {
    let model = External::new();
    let own = [("location", "model.onnx"), ("offset", "0"), ("length", "16384")];
    assert_refused!(model.load(&own), OwnFile);
    let marked = [("location", "\0self"), ("offset", "0"), ("length", "16384")];
    assert_refused!(model.load(&marked), BadExternalEntry);
    assert_refused!(model.load(&[]), BadExternalEntry);
    for size in [1, 16384] {
        let mut proto = model.proto(&GOOD);
        weight(proto.graph.as_mut().unwrap()).raw_data = Some(vec![0; size].into());
        fs::write(model.folder().join("model.onnx"), proto.encode_to_vec()).unwrap();
        assert_refused!(OnnxModel::load(&model.folder()), TwoPlaces);
    }
}

#[cfg(unix)]
#[test]
fn a_model_file_that_is_a_link_or_has_an_odd_name_is_read() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("blob"), &*BYTES).unwrap();
    fs::create_dir(root.path().join("snapshot")).unwrap();
    let plain = OnnxModel::load(&fixture()).unwrap();
    let digest = |model: &OnnxModel| base_digest(model, &find_targets(model).unwrap()).unwrap();
    for name in ["model.onnx", "a:b\\c.onnx"] {
        let link = root.path().join("snapshot").join(name);
        std::os::unix::fs::symlink("../blob", &link).unwrap();
        assert_eq!(digest(&OnnxModel::load(&link).unwrap()), digest(&plain));
    }
}

#[test]
fn a_model_that_changes_after_loading_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, &*BYTES).unwrap();
    let model = OnnxModel::load(&path).unwrap();
    let targets = find_targets(&model).unwrap();
    fs::write(&path, &BYTES[..BYTES.len() - 1]).unwrap();
    assert_refused!(model.weight(&targets.targets[0]), Changed);
    assert_refused!(write_model(&model, &model.proto, &folder.path().join("out.onnx")), Changed);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn external_data_that_are_not_there_are_refused() {
    let model = External::new();
    let with = |offset, length| [GOOD[0], ("offset", offset), ("length", length)];
    assert_refused!(model.load(&with("4097", "16384")), ExternalOutOfRange);
    assert_refused!(model.load(&with("18446744073709551615", "16384")), ExternalOutOfRange);
    assert_refused!(model.load(&with("4096", "16380")), WrongLength);
    assert_refused!(model.load(&with("4096", "18446744073709551615")), WrongLength);
    for bad in ["-1", "x", "", "18446744073709551616", "0x10"] {
        assert_refused!(model.load(&with(bad, "16384")), BadExternalEntry);
        assert_refused!(model.load(&with("4096", bad)), BadExternalEntry);
    }
    assert_refused!(model.load(&GOOD[1..]), BadExternalEntry);
    assert_refused!(model.load(&[("location", "absent"), GOOD[1], GOOD[2]]), Io);
    assert_refused!(model.load(&[("location", "."), GOOD[1], GOOD[2]]), NotAFile);
}

#[test]
fn a_data_file_cut_after_loading_is_an_error() {
    let model = External::new();
    let loaded = model.load(&GOOD).unwrap();
    let targets = find_targets(&loaded).unwrap();
    fs::write(model.folder().join("model.onnx.data"), b"short").unwrap();
    assert_refused!(loaded.weight(&targets.targets[0]), ExternalOutOfRange);
}

#[test]
fn a_model_is_never_written_over_its_input() {
    let model = External::new();
    let loaded = model.load(&GOOD).unwrap();
    let write = |out: &Path| write_model(&loaded, &loaded.proto, out);
    let folder = model.folder();
    assert_refused!(write(&loaded.path), WouldOverwriteInput);
    assert_refused!(write(&folder.join("../model/model.onnx")), WouldOverwriteInput);
    assert_refused!(write(&folder.join("model.onnx.data")), WouldOverwriteInput);
    assert_refused!(write(&folder), NotAFile);
    assert_refused!(write(&folder.join("no/such/folder.onnx")), Io);
    write(&folder.join("copy.onnx")).unwrap();
    assert!(OnnxModel::load(&folder.join("copy.onnx")).is_ok());
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn an_untouched_model_is_written_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out.onnx");
    let model = OnnxModel::load(&fixture()).unwrap();
    let bytes = write_model(&model, &model.proto, &out).unwrap();
    assert_eq!(bytes, BYTES.len() as u64);
    assert!(fs::read(&out).unwrap() == *BYTES);
}

/// Everything that reads a model from outside.
fn use_up(bytes: &[u8]) {
    if let Ok(model) = load(bytes)
        && let Ok(targets) = find_targets(&model)
    {
        let _ = summarize(&model, &targets);
    }
}

/// The fixture without the bulk of its weights, so that mutations hit structure.
static SKELETON: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut proto = tiny();
    let graph = proto.graph.as_mut().unwrap();
    for tensor in graph.initializer.iter_mut().filter(|t| t.dims.len() == 2) {
        *tensor = f32_tensor(tensor.name(), &[2, 2], vec![1; 16].into());
    }
    proto.encode_to_vec()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        use_up(&bytes);
    }

    #[test]
    fn mutated_models_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whether in prop::bool::weighted(0.2),
    ) {
        let mut bytes = SKELETON.clone();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if whether {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_up(&bytes);
    }

    #[test]
    fn weights_of_any_shape_and_type_never_panic(
        dims in prop::collection::vec(prop_oneof![0i64..70, any::<i64>()], 0..4),
        data_type in prop_oneof![0i32..30, any::<i32>()],
        length in 0usize..20_000,
    ) {
        let mut proto = tiny();
        let tensor = weight(proto.graph.as_mut().unwrap());
        tensor.dims = dims;
        tensor.data_type = Some(data_type);
        tensor.raw_data = Some(vec![3; length].into());
        use_up(&proto.encode_to_vec());
    }
}
