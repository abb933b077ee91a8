//! Checkpoints that are broken or mean harm are refused with an error, never a panic, and nothing
//! is accepted that the format's reference implementation refuses.
#![cfg(feature = "std")]

mod checkpoint;

use checkpoint::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::{fs, path::Path, sync::LazyLock};
use tempfile::TempDir;
use tla::model::{
    Checkpoint, CheckpointError, Container, Model, ModelError, base_digest, summarize,
};

fn load_bytes(bytes: &[u8]) -> Result<Checkpoint, ModelError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Checkpoint::load(&path)
}

macro_rules! assert_refused {
    ($result:expr, $variant:ident) => {
        match $result {
            Err(ModelError::Checkpoint(CheckpointError::$variant { .. })) => {}
            other => panic!("{:?}", other.map(drop)),
        }
    };
}

#[test]
fn paths_that_lead_to_no_checkpoint_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("model.safetensors");
    assert!(matches!(Model::load(&file), Err(ModelError::Missing { .. })));
    assert!(matches!(Model::load(folder.path()), Err(ModelError::NoModelInFolder { .. })));
    fs::create_dir(&file).unwrap();
    assert!(matches!(Model::load(folder.path()), Err(ModelError::NotAFile { .. })));
}

#[test]
fn files_that_are_no_safetensors_are_refused() {
    assert!(matches!(load_bytes(b""), Err(ModelError::Empty { .. })));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    assert!(matches!(load_bytes(pointer), Err(ModelError::LfsPointer { .. })));
    assert_refused!(load_bytes(b"{}"), NotSafetensors);
    assert_refused!(load_bytes(b"This is a plain text file.\n"), NotSafetensors);
    assert_refused!(load_bytes(&fs::read(onnx("qwen2-tied").path).unwrap()), NotSafetensors);
    assert_refused!(load_bytes(&raw("[1, 2]", b"")), NotSafetensors);
    for header in [
        "{",
        "{\"a\": 1}",
        "{} {}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]}}",
        "{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":[]}",
    ] {
        assert_refused!(load_bytes(&raw(header, &[0; 4])), BadHeader);
    }
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_refused!(load_bytes(&raw(&deep, b"")), BadHeader);
    assert_refused!(load_bytes(&[&2u64.to_le_bytes()[..], b"{\xff"].concat()), BadHeader);
}

#[test]
fn a_header_beyond_the_file_or_the_cap_is_refused_before_it_is_read() {
    let with = |length: u64| load_bytes(&[&length.to_le_bytes()[..], b"{}"].concat());
    assert_refused!(with(3), HeaderBeyondFile);
    assert_refused!(with(100_000_000), HeaderBeyondFile);
    assert_refused!(with(100_000_001), HeaderTooLarge);
    assert_refused!(with(u64::MAX), HeaderTooLarge);
    assert_refused!(with(u64::MAX - 7), HeaderTooLarge);
    assert!(with(2).is_ok());
}

/// A header of F32 tensors by name, shape and offsets, over `data` bytes.
fn header(tensors: &[(&str, Value, [u64; 2])], data: usize) -> Result<Checkpoint, ModelError> {
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape, offsets)| {
            format!("{name:?}:{}", json!({"dtype":"F32","shape":shape,"data_offsets":offsets}))
        })
        .collect();
    load_bytes(&raw(&format!("{{{}}}", entries.join(",")), &vec![0; data]))
}

#[test]
fn tensors_that_overlap_leave_gaps_or_lie_outside_are_refused() {
    let one = |offsets| header(&[("a", json!([2]), offsets)], 8);
    assert!(one([0, 8]).is_ok());
    assert_refused!(one([0, 9]), OutOfRange);
    assert_refused!(one([8, 0]), OutOfRange);
    assert_refused!(one([u64::MAX - 7, u64::MAX]), OutOfRange);
    assert_refused!(one([0, 4]), WrongLength);
    let two =
        |first, second, data| header(&[("a", json!([1]), first), ("b", json!([1]), second)], data);
    assert!(two([4, 8], [0, 4], 8).is_ok(), "the order in the header is free");
    assert_refused!(two([0, 4], [0, 4], 4), Overlap);
    assert_refused!(two([0, 4], [2, 6], 6), Overlap);
    assert_refused!(two([0, 4], [6, 10], 10), Unclaimed);
    assert_refused!(two([2, 6], [6, 10], 10), Unclaimed);
    assert_refused!(two([0, 4], [4, 8], 9), Unclaimed);
    assert_refused!(two([0, 4], [4, 8], 7), OutOfRange);
    assert!(header(&[("e", json!([0]), [4, 4]), ("a", json!([1]), [0, 4])], 4).is_ok());
    assert_refused!(header(&[("e", json!([0]), [2, 2]), ("a", json!([1]), [0, 4])], 4), Overlap);
}

#[test]
fn shapes_that_overflow_or_do_not_fit_the_data_are_refused() {
    for shape in [
        json!([u64::MAX]),
        json!([u64::MAX, u64::MAX]),
        json!([1u64 << 32, 1u64 << 32]),
        json!([0, u64::MAX, 9]),
        json!([1u64 << 62, 4]),
    ] {
        assert_refused!(header(&[("a", shape, [0, 8])], 8), BadShape);
    }
    for shape in [json!([3]), json!([1u64 << 40]), json!([]), json!([0, 2])] {
        assert_refused!(header(&[("a", shape, [0, 8])], 8), WrongLength);
    }
    let odd = "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}";
    assert_refused!(load_bytes(&raw(odd, &[0; 2])), BadShape);
}

#[test]
fn names_that_come_twice_are_refused() {
    let twice = header(&[("a", json!([1]), [0, 4]), ("a", json!([1]), [4, 8])], 8);
    assert_refused!(twice, DuplicateName);
    let same = header(&[("a", json!([1]), [0, 4]), ("a", json!([1]), [0, 4])], 4);
    assert_refused!(same, DuplicateName);
    assert_refused!(
        load_bytes(&raw("{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", b"")),
        DuplicateName
    );
}

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| file(&tensors("qwen2-tied", Dtype::BF16)));

#[test]
fn a_file_cut_anywhere_is_refused() {
    let size = BYTES.len();
    for end in (1..400).chain((400..size).step_by(5003)).chain(size - 40..size) {
        assert!(load_bytes(&BYTES[..end]).is_err(), "cut at {end} of {size}");
    }
    assert_refused!(load_bytes(&[&BYTES[..], &[0]].concat()), Unclaimed);
}

#[test]
fn a_checkpoint_without_adaptable_modules_says_what_is_looked_for() {
    let all: Vec<_> = tensors("qwen2-tied", Dtype::F32);
    let bare: Vec<_> = all.into_iter().filter(|t| !t.name.contains("_proj.weight")).collect();
    let refused = load_bytes(&file(&bare)).unwrap().targets().unwrap_err();
    assert!(refused.to_string().contains("model.layers.0.self_attn.q_proj.weight"), "{refused}");
}

#[test]
fn a_file_changed_after_loading_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = write_single(folder.path(), &tensors("qwen2-tied", Dtype::BF16));
    let checkpoint = Checkpoint::load(&path).unwrap();
    let targets = checkpoint.targets().unwrap();
    fs::write(&path, b"short").unwrap();
    assert_refused!(checkpoint.weight(&targets.targets[0]), Changed);
    assert_refused!(base_digest(&checkpoint, &targets), Changed);
    fs::remove_file(&path).unwrap();
    assert!(matches!(checkpoint.weight(&targets.targets[0]), Err(ModelError::Io { .. })));
}

/// A folder with a checkpoint in two files, and a third beside the folder.
struct Sharded {
    root: TempDir,
    map: Map<String, Value>,
}

impl Sharded {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let folder = root.path().join("model");
        fs::create_dir(&folder).unwrap();
        let index = write_sharded(&folder, &tensors("qwen2-tied", Dtype::BF16));
        let json: Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
        let map = json["weight_map"].as_object().unwrap().clone();
        fs::copy(folder.join(FIRST), root.path().join("secret.safetensors")).unwrap();
        Self { root, map }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.root.path().join("model")
    }

    /// Loads with another name for the first file.
    fn with_first(&self, name: &str) -> Result<Checkpoint, ModelError> {
        let mut map = self.map.clone();
        for file in map.values_mut().filter(|file| **file == json!(FIRST)) {
            *file = json!(name);
        }
        write_index(&self.folder(), &Value::Object(map));
        load(&self.folder())
    }

    fn with_index(&self, text: &str) -> Result<Checkpoint, ModelError> {
        fs::write(self.folder().join("model.safetensors.index.json"), text).unwrap();
        load(&self.folder())
    }
}

const FIRST: &str = "model-00001-of-00002.safetensors";

#[test]
fn an_index_that_names_files_outside_its_folder_is_refused() {
    let model = Sharded::new();
    assert!(model.with_first(FIRST).is_ok());
    let absolute = model.root.path().join("secret.safetensors").display().to_string();
    for name in [
        "../secret.safetensors",
        "./../secret.safetensors",
        "a/../../secret.safetensors",
        &absolute,
        "..\\secret.safetensors",
        "C:secret.safetensors",
        "sub/secret.safetensors",
        "./secret.safetensors",
        "/",
        "..",
        ".",
        "",
        "model.safetensors\0",
        "model.bin",
    ] {
        assert_refused!(model.with_first(name), Escapes);
    }
    assert_refused!(model.with_first("absent.safetensors"), MissingFile);
    fs::create_dir(model.folder().join("a.safetensors")).unwrap();
    assert!(matches!(model.with_first("a.safetensors"), Err(ModelError::NotAFile { .. })));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_and_one_inside_is_followed() {
    use std::os::unix::fs::symlink;
    let model = Sharded::new();
    let link = |to: &str, name: &str| symlink(to, model.folder().join(name)).unwrap();
    link("../secret.safetensors", "out.safetensors");
    link("out.safetensors", "twice.safetensors");
    link(FIRST, "in.safetensors");
    assert_refused!(model.with_first("out.safetensors"), Escapes);
    assert_refused!(model.with_first("twice.safetensors"), Escapes);
    assert!(model.with_first("in.safetensors").is_ok());
}

#[test]
fn an_index_that_disagrees_with_its_files_is_refused() {
    let model = Sharded::new();
    let with = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut map = model.map.clone();
        change(&mut map);
        write_index(&model.folder(), &Value::Object(map));
        load(&model.folder())
    };
    let q = "model.layers.0.self_attn.q_proj.weight";
    assert_refused!(with(&|map| drop(map.remove(q))), Disagree);
    assert_refused!(with(&|map| drop(map.insert("more".into(), json!(FIRST)))), Disagree);
    let second = "model-00002-of-00002.safetensors";
    assert_refused!(with(&|map| drop(map.insert(q.into(), json!(second)))), Disagree);
    assert_refused!(with(&|map| map.values_mut().for_each(|f| *f = json!(FIRST))), Disagree);
    fs::copy(model.folder().join(FIRST), model.folder().join("z.safetensors")).unwrap();
    let entries = model.map.iter().map(|(name, file)| format!("{name:?}:{file}"));
    let again = model.map.iter().filter(|(_, file)| **file == json!(FIRST));
    let again = again.map(|(name, _)| format!("{name:?}:\"z.safetensors\""));
    let both: Vec<_> = entries.chain(again).collect();
    let twice = format!("{{\"weight_map\":{{{}}}}}", both.join(","));
    assert_refused!(model.with_index(&twice), DuplicateName);
}

#[test]
fn an_index_that_is_no_index_is_refused() {
    let model = Sharded::new();
    for text in
        ["", "[]", "{}", "{\"weight_map\":3}", "{\"weight_map\":{\"a\":1}}", "{\"weight_map"]
    {
        assert_refused!(model.with_index(text), BadIndex);
    }
    let empty = model.with_index("{\"weight_map\":{}}").unwrap();
    assert_refused!(empty.targets(), NothingToAdapt);
    let index = fs::File::create(model.folder().join("model.safetensors.index.json")).unwrap();
    index.set_len(100_000_001).unwrap();
    assert_refused!(load(&model.folder()), IndexTooLarge);
}

#[test]
fn a_broken_file_of_several_is_named() {
    let model = Sharded::new();
    let path = model.folder().join(FIRST);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert_refused!(load(&model.folder()), OutOfRange);
    fs::write(&path, "This is a plain text file.").unwrap();
    let refused = load(&model.folder()).unwrap_err().to_string();
    assert!(refused.contains(FIRST), "{refused}");
}

/// Everything that reads a checkpoint from outside. What is accepted, the reference
/// implementation accepts and reads as the same tensors.
fn use_up(bytes: &[u8]) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::load(&path) else { return };
    if let Ok(targets) = checkpoint.targets() {
        let _ = summarize(&checkpoint, &targets);
    }
    // A type the reference does not know is its own reason to refuse the file.
    let known = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64";
    if checkpoint.tensors().all(|t| known.split(' ').any(|k| k == t.dtype)) {
        agrees(&path, &checkpoint);
    }
}

fn agrees(path: &Path, checkpoint: &Checkpoint) {
    let expected = read(path);
    let found: Vec<_> = checkpoint.tensors().collect();
    assert_eq!(found.len(), expected.len());
    for (ours, theirs) in found.iter().zip(&expected) {
        assert_eq!((&ours.name, &ours.shape), (&theirs.name, &theirs.shape));
        let mut bytes = vec![0; ours.bytes as usize];
        checkpoint.reader(&ours.name).unwrap().read(&mut bytes).unwrap();
        assert_eq!(bytes, theirs.bytes);
    }
}

/// The modules of one layer with little data, so that mutations hit the header.
static SKELETON: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let all = tensors("qwen2-tied", Dtype::BF16).into_iter().take(7);
    file(&all.map(|t| stored(&t.name, Dtype::BF16, &[2, 2], &[1.0; 4])).collect::<Vec<_>>())
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        use_up(&bytes);
        use_up(&raw("{", &bytes));
    }

    #[test]
    fn mutated_files_never_panic_and_are_read_like_the_reference_does(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9', b' '..=b'~']),
            1..4,
        ),
    ) {
        let mut bytes = SKELETON.clone();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        use_up(&bytes);
    }

    #[test]
    fn any_shape_type_and_offsets_never_panic_and_are_read_like_the_reference_does(
        tensors in prop::collection::vec(
            (
                prop::collection::vec(prop_oneof![0u64..5, 0u64..5, any::<u64>()], 0..3),
                prop::sample::select(vec!["F32", "BF16", "F16", "I8", "F64", "BOOL", "X9"]),
                prop_oneof![0u64..40, any::<u64>()],
                prop_oneof![0u64..40, any::<u64>()],
            ),
            0..3,
        ),
        data in 0usize..64,
    ) {
        let entries: Vec<_> = tensors.iter().enumerate().map(|(n, (shape, dtype, start, end))| {
            format!("\"t{n}\":{}", json!({"dtype":dtype,"shape":shape,"data_offsets":[start,end]}))
        }).collect();
        use_up(&raw(&format!("{{{}}}", entries.join(",")), &vec![3; data]));
    }

    #[test]
    fn files_of_the_reference_are_all_accepted(
        shapes in prop::collection::vec(prop::collection::vec(0usize..4, 0..4), 0..6),
        pick in any::<u8>(),
    ) {
        let tensors: Vec<_> = shapes.iter().enumerate().map(|(n, shape)| {
            let dtype = FLOATS[(usize::from(pick) + n) % 3];
            stored(&format!("t{n}"), dtype, shape, &vec![n as f32; shape.iter().product()])
        }).collect();
        let folder = TempDir::new().unwrap();
        let path = write_single(folder.path(), &tensors);
        agrees(&path, &Checkpoint::load(&path).unwrap());
    }
}
