//! A model with data files can be written anywhere, with its data, and nothing is left behind when
//! it cannot.
#![cfg(feature = "std")]

use ndarray::Array2;
use prost::Message;
use std::{collections::BTreeMap, fs};
use tempfile::TempDir;
use tla::{
    format::{Header, Role, RoleSet},
    model::{
        ModelError, OnnxModel, Targets, find_targets, node, proto::*, stage_model, write_model,
    },
    projection::{Factors, select},
    surgery::{Addend, OnnxMerge, SurgeryError, verify_merged},
};

/// The cache of the hub keeps files under their digests and links to them from snapshots.
#[cfg(unix)]
#[test]
fn data_files_in_the_blobs_of_a_hub_cache_are_followed_and_no_others() {
    use std::{os::unix::fs::symlink, path::Path};
    let root = TempDir::new().unwrap();
    let export =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/genai-fp32-cpu/qwen2-tied");
    let linked = |repository: &str, snapshots: &str, blobs: &str, below: &str| {
        let repository = root.path().join(repository);
        let folder = repository.join(snapshots).join("0123").join(below);
        let up = if below.is_empty() { "../.." } else { "../../.." };
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(repository.join(blobs)).unwrap();
        for (name, blob) in [("model.onnx", "b0"), ("model.onnx.data", "b1")] {
            fs::copy(export.join(name), repository.join(blobs).join(blob)).unwrap();
            symlink(Path::new(up).join(blobs).join(blob), folder.join(name)).unwrap();
        }
        OnnxModel::load(&folder.join("model.onnx"))
    };
    for (repository, below) in [("models--a--b", ""), ("models--b--c", "onnx")] {
        let model = linked(repository, "snapshots", "blobs", below).unwrap();
        let targets = find_targets(&model).unwrap();
        assert!(model.weight(&targets.targets[0]).is_ok());
        let out = root.path().join(format!("{repository}.out"));
        fs::create_dir(&out).unwrap();
        write_model(&model, &model.proto, &out.join("model.onnx")).unwrap();
        for name in ["model.onnx", "model.onnx.data"] {
            assert!(fs::read(out.join(name)).unwrap() == fs::read(export.join(name)).unwrap());
        }
    }
    for (repository, snapshots, blobs) in [
        ("a", "snapshots", "blobs"),
        ("models--c", "revisions", "blobs"),
        ("models--d", "snapshots", "private"),
        ("models--e", "snapshots", "blobs/deeper"),
    ] {
        let refused = linked(repository, snapshots, blobs, "").unwrap_err();
        assert!(matches!(refused, ModelError::ExternalEscapes { .. }), "{refused}");
    }
}

const SIZE: usize = 6;
const BYTES: usize = 4 * SIZE * SIZE;

/// Where the weights of q, k and v lie.
type Places<'a> = [(&'a str, usize); 3];

/// q and k in one file, v in a subfolder; odd offsets, and bytes that no tensor has.
const USUAL: Places = [("model.onnx.data", 100), ("model.onnx.data", 300), ("sub/more.bin", 8)];

struct Place {
    root: TempDir,
    model: OnnxModel,
    targets: Targets,
}

impl Place {
    fn new(places: Places) -> Self {
        Self::with_constant(places, None)
    }

    /// With a node whose value lies at an offset of this file.
    fn with_constant(places: Places, constant: Option<(&str, usize)>) -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("in/sub")).unwrap();
        let mut graph = GraphProto {
            input: vec![node::untyped_value("x")],
            output: vec![node::untyped_value("q out")],
            ..GraphProto::default()
        };
        let entry =
            |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
        for (name, (location, offset)) in ["q", "k", "v"].into_iter().zip(places) {
            let path = format!("/model/layers.0/self_attn/{name}_proj/MatMul");
            graph.node.push(node::node("MatMul", &path, &["x", name], &[&format!("{name} out")]));
            let mut tensor = node::tensor_f32(name, &[SIZE as i64; 2], &[]);
            tensor.raw_data = None;
            tensor.data_location = Some(tensor_proto::DataLocation::External as i32);
            tensor.external_data = vec![
                entry("location", location.into()),
                entry("offset", offset.to_string()),
                entry("length", BYTES.to_string()),
            ];
            graph.initializer.push(tensor);
            // Bytes that are numbers of a weight's size.
            let file = root.path().join("in").join(location);
            let bytes: Vec<u8> = (0..200).flat_map(|i| (i as f32 / 64.0).to_le_bytes()).collect();
            fs::write(file, bytes).unwrap();
        }
        if let Some((location, offset)) = constant {
            let mut value = node::tensor_f32("a value", &[2], &[]);
            value.raw_data = None;
            value.data_location = Some(tensor_proto::DataLocation::External as i32);
            value.external_data =
                vec![entry("location", location.into()), entry("offset", offset.to_string())];
            let mut made = node::node("Constant", "constant", &[], &["c"]);
            made.attribute.push(AttributeProto {
                name: Some("value".into()),
                r#type: Some(attribute_proto::AttributeType::Tensor as i32),
                t: Some(value),
                ..AttributeProto::default()
            });
            graph.node.push(made);
        }
        let proto = ModelProto {
            ir_version: Some(9),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
            graph: Some(graph),
            ..ModelProto::default()
        };
        let path = root.path().join("in/model.onnx");
        fs::write(&path, proto.encode_to_vec()).unwrap();
        let model = OnnxModel::load(&path).unwrap();
        let targets = find_targets(&model).unwrap();
        Self { root, model, targets }
    }

    fn update(&self, role: Role) -> (Header, Vec<Factors>) {
        let roles = RoleSet::from_roles([role]).unwrap();
        let header = Header { roles, scale: 1.0, ..Header::default() };
        let known: Vec<_> = self.targets.targets.iter().map(|t| t.module).collect();
        let make = |module| Factors {
            module,
            l: Array2::from_elem((SIZE, 1), 0.25),
            v: Array2::ones((SIZE, 1)),
        };
        (header, select(&header, &known).unwrap().into_iter().map(make).collect())
    }

    /// Merges into the weights of a role.
    fn merge(&self, role: Role, out: &str) -> Result<OnnxModel, SurgeryError> {
        let out = self.root.path().join(out);
        let (header, factors) = self.update(role);
        let addends = [Addend::whole(&header, &factors)];
        let mut merge = OnnxMerge::new(&self.model, &self.targets, &addends, 1)?;
        let proto = merge.proto().clone();
        stage_model(&self.model, &proto, &out, &mut merge)?.1.place()?;
        let merged = OnnxModel::load(&out).unwrap();
        let found = verify_merged(&self.model, &self.targets, &header, &factors, &merged, 1);
        assert_eq!(found.unwrap(), []);
        Ok(merged)
    }

    /// Every file and folder below a folder, with its contents.
    fn contents(&self, folder: &str) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root.path().join(folder)];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(&next).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.root.path().join(folder)).unwrap();
                let name = name.to_str().unwrap().to_owned();
                let is_file = path.is_file();
                found.insert(name, is_file.then(|| fs::read(&path).unwrap()));
                if !is_file {
                    open.push(path);
                }
            }
        }
        found
    }

    fn mkdir(&self, name: &str) {
        fs::create_dir(self.root.path().join(name)).unwrap();
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.root.path().join(name), bytes).unwrap();
    }

    /// Nothing changes anywhere.
    #[track_caller]
    fn refused(&self, role: Role, out: &str) -> ModelError {
        let before = self.contents(".");
        let error = match self.merge(role, out) {
            Err(SurgeryError::Model(error)) => error,
            other => panic!("{:?}", other.map(drop)),
        };
        assert!(self.contents(".") == before, "{out}");
        error
    }
}

fn names(contents: &BTreeMap<String, Option<Vec<u8>>>) -> Vec<&str> {
    contents.keys().map(String::as_str).collect()
}

#[test]
fn in_another_folder_data_files_keep_their_names_and_all_but_the_merged_bytes() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    place.merge(Role::K, "out/merged.onnx").unwrap();
    let (before, after) = (place.contents("in"), place.contents("out"));
    assert_eq!(names(&after), ["merged.onnx", "model.onnx.data", "sub", "sub/more.bin"]);
    // The graph says nothing of the values, so it is the same file.
    assert_eq!(after["merged.onnx"], before["model.onnx"]);
    assert_eq!(after["sub/more.bin"], before["sub/more.bin"]);
    let [old, new] = [&before, &after].map(|c| c["model.onnx.data"].clone().unwrap());
    assert_eq!(old.len(), new.len());
    assert_eq!((&old[..300], &old[300 + BYTES..]), (&new[..300], &new[300 + BYTES..]));
    assert_ne!(old[300..300 + BYTES], new[300..300 + BYTES]);
    // Once more over the same model, whose data they are.
    place.merge(Role::Q, "out/merged.onnx").unwrap();
    assert_ne!(place.contents("out")["model.onnx.data"], after["model.onnx.data"]);
    assert_eq!(place.contents("in"), before);
}

#[test]
fn in_its_own_folder_only_changed_data_files_are_written_under_the_outputs_name() {
    let place = Place::new(USUAL);
    let before = place.contents("in");
    place.merge(Role::Q, "in/merged.onnx").unwrap();
    place.merge(Role::V, "in/other.onnx").unwrap();
    let after = place.contents("in");
    let new: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(new, ["merged.onnx", "merged.onnx.data", "other.onnx", "sub/other.more.bin"]);
    before.iter().for_each(|(name, bytes)| assert_eq!(after[name], *bytes, "{name}"));
}

#[test]
fn without_a_change_the_data_are_shared_in_their_folder_and_copied_to_another() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    let mut proto = place.model.proto.clone();
    proto.producer_name = Some("someone".into());
    for out in ["in/copy.onnx", "out/model.onnx"] {
        write_model(&place.model, &proto, &place.root.path().join(out)).unwrap();
    }
    let (old, new) = (place.contents("in"), place.contents("out"));
    assert_eq!(names(&old), ["copy.onnx", "model.onnx", "model.onnx.data", "sub", "sub/more.bin"]);
    assert_eq!(old["model.onnx.data"], new["model.onnx.data"]);
    assert_eq!(names(&new), ["model.onnx", "model.onnx.data", "sub", "sub/more.bin"]);
}

#[test]
fn bytes_that_others_read_too_stay_and_the_merged_weight_gets_its_own() {
    for places in [
        [("a", 16), ("a", 16), ("b", 0)],
        [("a", 16), ("a", 16 + BYTES - 4), ("b", 0)],
        [("a", 16), ("./a", 20), ("b", 0)],
    ] {
        let place = Place::new(places);
        place.mkdir("out");
        let merged = place.merge(Role::Q, "out/model.onnx").unwrap();
        let (before, after) = (place.contents("in"), place.contents("out"));
        let [old, new] = [&before, &after].map(|c| c["a"].clone().unwrap());
        assert_eq!((old[..] == new[..old.len()], new.len()), (true, 4096 + BYTES));
        assert!(new[old.len()..4096].iter().all(|byte| *byte == 0));
        let inline = |t: &&TensorProto| t.raw_data.is_some();
        assert_eq!(merged.graph().initializer.iter().find(inline), None);
    }
}

#[test]
fn outputs_that_would_destroy_something_are_refused_and_leave_no_trace() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    let of = |out| place.refused(Role::Q, out);
    assert!(matches!(of("in/model.onnx"), ModelError::WouldOverwriteInput { .. }));
    assert!(matches!(of("in/model.onnx.data"), ModelError::WouldOverwriteInput { .. }));
    assert!(matches!(of("out/model.onnx.data"), ModelError::OnePlace { .. }));
    assert!(matches!(of("none/out.onnx"), ModelError::Io { .. }));
    assert!(matches!(of("out"), ModelError::NotAFile { .. }));
    place.mkdir("out/model.onnx.data");
    assert!(matches!(of("out/model.onnx"), ModelError::NotAFile { .. }));
}

#[test]
fn data_of_a_model_that_is_not_replaced_stay_and_the_outputs_get_its_name() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    let weights = |model: &OnnxModel| model.whole().unwrap().encode_to_vec();
    let first = weights(&place.merge(Role::Q, "out/a.onnx").unwrap());
    for (role, out) in [(Role::K, "out/b.onnx"), (Role::K, "out/b.onnx"), (Role::Q, "out/a.onnx")] {
        place.merge(role, out).unwrap();
    }
    let of = |out: &str| OnnxModel::load(&place.root.path().join(out)).unwrap();
    assert!(weights(&of("out/a.onnx")) == first);
    let data = |out: &str| place.root.path().join("out").join(out).exists();
    assert!(data("model.onnx.data") && data("b.onnx.data") && !data("b-2.onnx.data"));
    // What lost its model is perhaps another's: it stays too.
    fs::remove_file(place.root.path().join("out/b.onnx")).unwrap();
    let old = place.contents("out")["b.onnx.data"].clone();
    place.merge(Role::V, "out/b.onnx").unwrap();
    assert!(place.contents("out")["b.onnx.data"] == old && data("b-2.onnx.data"));
    assert!(weights(&of("out/a.onnx")) == first);
}

#[test]
fn data_that_a_replaced_output_shares_with_another_model_stay() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    let weights = |model: &OnnxModel| model.whole().unwrap().encode_to_vec();
    let first = weights(&place.merge(Role::Q, "out/model.onnx").unwrap());
    let at = |name: &str| place.root.path().join("out").join(name);
    fs::copy(at("model.onnx"), at("a.onnx")).unwrap();
    place.merge(Role::K, "out/a.onnx").unwrap();
    assert!(at("a.onnx.data").exists());
    assert!(weights(&OnnxModel::load(&at("model.onnx")).unwrap()) == first);
    // Of a model that cannot be read nobody knows what it has.
    place.write("out/broken.onnx", b"no model");
    let before = place.contents("out");
    place.merge(Role::V, "out/a.onnx").unwrap();
    let after = place.contents("out");
    let own = |name: &str| name.rsplit('/').next().is_some_and(|name| name.starts_with("a."));
    assert!(before.iter().all(|(name, bytes)| own(name) || after[name] == *bytes));
    assert_eq!(names(&before), names(&after), "and nothing is left over");
}

#[test]
fn a_failure_half_way_leaves_no_file_and_no_folder() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    // q and k are merged into the first file; v, in the second, overflows.
    let (header, mut factors) = place.update(Role::V);
    factors[0].l.fill(1e300);
    let addends = [Addend::whole(&header, &factors)];
    let mut merge = OnnxMerge::new(&place.model, &place.targets, &addends, 1).unwrap();
    let proto = merge.proto().clone();
    let out = place.root.path().join("out/model.onnx");
    let failed = stage_model(&place.model, &proto, &out, &mut merge);
    assert!(matches!(failed, Err(SurgeryError::NotFinite { .. })));
    assert_eq!(names(&place.contents("out")), [""; 0]);
    // What was staged vanishes too if it is not wanted.
    let (header, factors) = place.update(Role::V);
    let addends = [Addend::whole(&header, &factors)];
    let mut merge = OnnxMerge::new(&place.model, &place.targets, &addends, 1).unwrap();
    let (_, staged) = stage_model(&place.model, &proto, &out, &mut merge).unwrap();
    assert!(!names(&place.contents("out")).is_empty());
    drop(staged);
    assert_eq!(names(&place.contents("out")), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_out_of_the_outputs_folder_is_not_followed() {
    let place = Place::new(USUAL);
    place.mkdir("out");
    place.mkdir("elsewhere");
    std::os::unix::fs::symlink("../elsewhere", place.root.path().join("out/sub")).unwrap();
    let error = place.refused(Role::V, "out/model.onnx");
    assert!(matches!(error, ModelError::ExternalEscapes { .. }), "{error}");
    assert_eq!(names(&place.contents("elsewhere")), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_data_file_is_written_as_a_file_of_its_own() {
    let place = Place::new(USUAL);
    let folder = place.root.path().join("in");
    fs::rename(folder.join("model.onnx.data"), folder.join("blob")).unwrap();
    std::os::unix::fs::symlink("blob", folder.join("model.onnx.data")).unwrap();
    place.mkdir("out");
    place.merge(Role::Q, "out/model.onnx").unwrap();
    let written = place.root.path().join("out/model.onnx.data");
    assert!(fs::symlink_metadata(&written).unwrap().is_file());
}

fn constant_of(proto: &ModelProto) -> &TensorProto {
    let nodes = &proto.graph.as_ref().unwrap().node;
    let constant = nodes.iter().find(|n| n.op_type() == "Constant").unwrap();
    constant.attribute[0].t.as_ref().unwrap()
}

#[test]
fn a_constant_in_a_data_file_of_weights_is_read_and_goes_where_the_file_goes() {
    let place = Place::with_constant(USUAL, Some(("model.onnx.data", 20)));
    let values = |model: &OnnxModel| {
        let whole = model.whole().unwrap();
        let weights = &whole.graph.as_ref().unwrap().initializer;
        assert!(weights.iter().all(|t| t.raw_data.is_some() && t.data_location.is_none()));
        node::floats(constant_of(&whole)).unwrap()
    };
    assert_eq!(values(&place.model), [5.0 / 64.0, 6.0 / 64.0]);
    place.mkdir("out");
    let merged = place.merge(Role::Q, "out/model.onnx").unwrap();
    assert_eq!(values(&merged), [5.0 / 64.0, 6.0 / 64.0]);
    // Beside the old model the data file takes another name, which the constant would not follow.
    let refused = place.refused(Role::Q, "in/new.onnx");
    assert!(matches!(refused, ModelError::ExternalConstant { .. }), "{refused}");
}

#[test]
fn a_constant_in_a_file_of_its_own_or_past_its_end_is_refused() {
    let place = Place::with_constant(USUAL, Some(("model.onnx.data", 20)));
    let load = |location: &str, offset: usize| {
        let mut proto = place.model.proto.clone();
        let nodes = &mut proto.graph.as_mut().unwrap().node;
        let value = nodes.last_mut().unwrap().attribute[0].t.as_mut().unwrap();
        value.external_data[0].value = Some(location.into());
        value.external_data[1].value = Some(offset.to_string());
        OnnxModel::from_proto(proto, place.model.path.clone())
    };
    place.write("in/alone.bin", &[0; 64]);
    assert!(load("sub/more.bin", 792).is_ok());
    let own = load("alone.bin", 0).unwrap_err();
    assert!(matches!(own, ModelError::ExternalConstant { .. }), "{own}");
    let past = load("sub/more.bin", 796).unwrap_err();
    assert!(matches!(past, ModelError::ExternalOutOfRange { .. }), "{past}");
}
