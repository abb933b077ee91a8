//! The reference in Python and the library give the same bits for models of a size that trains.
#![cfg(feature = "std")]

mod spec;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use spec::{hex, python, reference, tensor_name};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tla::{
    format::{
        Header, ModuleId, Role, RoleSet, Scalar, Split, Tying, encode_to_vec, round_to_scalar,
    },
    model::{OnnxModel, Targets, base_digest, find_targets, module_digest},
    projection::{factors_digest, rebuild},
    surgery::merge,
};

/// A fixture, what of it can be adapted, and its weights as a checkpoint with other tensors.
struct Fixture {
    model: OnnxModel,
    targets: Targets,
    checkpoint: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/optimum-fp32");
        let model = OnnxModel::load(&exports.join(name)).unwrap();
        let targets = find_targets(&model).unwrap();
        let mut checkpoint = BTreeMap::new();
        for target in targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD) {
            let bytes =
                model.weight(target).unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
            checkpoint.insert(tensor_name(target.module), (vec![target.rows, target.cols], bytes));
        }
        checkpoint.insert("model.embed_tokens.weight".into(), (vec![3, 2], vec![1; 24]));
        Self { model, targets, checkpoint }
    }

    /// An adapter bound to the model, and the digest of each merged weight.
    fn pack(&self, header: Header) -> (Vec<u8>, Header, BTreeMap<ModuleId, String>) {
        let numbers = (0..header.parameters()).map(|i| 0.37 * ((i * 5 % 11) as f32 - 5.2));
        let v: Vec<_> = numbers.map(|x| round_to_scalar(header.scalar, x)).collect();
        let weight = |t| self.model.weight(t).unwrap();
        let weights: Vec<_> = self.targets.targets.iter().map(|t| (t.module, weight(t))).collect();
        let views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
        let factors = rebuild(&header, &v, &views, 0).unwrap();
        let header = Header {
            base_digest: base_digest(&self.model, &self.targets).unwrap(),
            factors_digest: factors_digest(&factors),
            ..header
        };
        let merged = merge(&self.model, &self.targets, &header, &factors, 0).unwrap();
        let merged = OnnxModel::from_proto(merged.proto, "merged.onnx".into()).unwrap();
        let targets = find_targets(&merged).unwrap();
        let digest = |m| module_digest(merged.weight(targets.get(m).unwrap()).unwrap().view());
        let digests = factors.iter().map(|f| (f.module, hex(&digest(f.module)))).collect();
        (encode_to_vec(&header, &v).unwrap(), header, digests)
    }

    /// The tensors from a place on, up to another, as a file.
    fn save(&self, path: &Path, from: usize, to: usize) -> Vec<String> {
        let part: Vec<_> = self.checkpoint.iter().skip(from).take(to - from).collect();
        let views = part.iter().map(|(name, (shape, bytes))| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        part.into_iter().map(|(name, _)| name.clone()).collect()
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

/// The base digest, the factors digest and every merged weight are those of the library.
#[track_caller]
fn agree(fixture: &Fixture, header: Header, module: ModuleId) {
    let place = Place::new();
    let (bytes, header, merged) = fixture.pack(header);
    let (file, base) = (place.write("a.tla", &bytes), place.path("model.safetensors"));
    fixture.save(&base, 0, usize::MAX);
    let (base, module_name) = (base.to_str().unwrap(), module.to_string());
    let said = &reference("merge", &["--base", base, "--module", &module_name], &[&file])[&file];
    assert_eq!(said["valid"], true, "{said}");
    assert_eq!(said["base_digest"], hex(&header.base_digest), "{said}");
    assert_eq!(said["factors_digest"], hex(&header.factors_digest), "{said}");
    assert_eq!(said["merged"], json!({ module_name: merged[&module] }), "{said}");
}

#[test]
fn the_reference_rebuilds_and_merges_a_qwen2_to_the_bits_of_the_library() {
    let header = Header { seed: 11, ..Header::default() };
    agree(&Fixture::new("qwen2-tied"), header, ModuleId::new(1, Role::V));
}

#[test]
fn the_reference_rebuilds_and_merges_a_llama_to_the_bits_of_the_library() {
    let header = Header {
        rank: 3,
        width: 5,
        groups: 4,
        scale: 0.7,
        scalar: Scalar::F16,
        split: Split::Peft,
        tying: Tying::Structured,
        ..Header::default()
    };
    agree(&Fixture::new("llama-untied"), header, ModuleId::new(0, Role::Down));
}

#[test]
fn the_reference_reads_folders_and_refuses_what_is_not_bound_unless_told() {
    let (place, fixture) = (Place::new(), Fixture::new("llama-untied"));
    let parts = [(0, 9, "a.safetensors"), (9, usize::MAX, "b.safetensors")];
    let named = parts.iter().flat_map(|&(from, to, file)| {
        let names = fixture.save(&place.path(file), from, to);
        names.into_iter().map(move |name| (name, json!(file)))
    });
    let index = json!({ "weight_map": Value::Object(named.collect()) }).to_string();
    place.write("model.safetensors.index.json", index.as_bytes());
    let folder = place.path("");
    let folder = folder.to_str().unwrap();
    let whole = place.path("model.safetensors");
    fixture.save(&whole, 0, usize::MAX);
    let digest = hex(&base_digest(&fixture.model, &fixture.targets).unwrap());
    for (_, said) in reference("digest", &[], &[Path::new(folder), &whole]) {
        assert_eq!(said["base_digest"], digest, "{said}");
    }

    let roles = RoleSet::from_roles([Role::K]).unwrap();
    let (bytes, header, merged) = fixture.pack(Header { roles, ..Header::default() });
    let v: Vec<_> = tla::format::Adapter::decode(&bytes).unwrap().values().collect();
    let free = Header { base_digest: [0; 32], factors_digest: [0; 32], ..header };
    let file = place.write("free.tla", &encode_to_vec(&free, &v).unwrap());
    let said = &reference("merge", &["--base", folder], &[&file])[&file];
    assert_eq!(said["failure"], "unbound", "{said}");
    let said = &reference("merge", &["--base", folder, "--unbound"], &[&file])[&file];
    let expected: BTreeMap<_, _> = merged.iter().map(|(m, hex)| (m.to_string(), hex)).collect();
    assert_eq!(said["merged"], json!(expected), "{said}");
    let half = Header { base_digest: [1; 32], ..free };
    let file = place.write("half.tla", &encode_to_vec(&half, &v).unwrap());
    let said = &reference("merge", &["--base", folder, "--unbound"], &[&file])[&file];
    assert_eq!(said["failure"], "other-base", "{said}");
}

/// A safetensors file with this header and so many bytes of data.
fn container(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn the_reference_refuses_a_damaged_checkpoint_without_a_verdict() {
    let place = Place::new();
    let entry = |dtype: &str, shape: &str, place: &str| {
        container(
            &format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{place}}}}}"#),
            8,
        )
    };
    let good = entry(r#""F32""#, "[1,2]", "[0,8]");
    let twice = r#"{"dtype":"U8","shape":[8],"data_offsets":[0,8]}"#;
    let cases: &[(&str, Vec<u8>)] = &[
        ("empty", vec![]),
        ("no header", vec![0; 7]),
        ("a header beyond the file", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("trailing", [&good[..], b"\0"].concat()),
        ("not JSON", container("{", 0)),
        ("a list", container("[]", 0)),
        ("nested too deep", container(&"[".repeat(200_000), 0)),
        ("not UTF-8", [&1u64.to_le_bytes()[..], b"\xff"].concat()),
        ("a name twice", container(&format!(r#"{{"a":{twice},"a":{twice}}}"#), 8)),
        ("an overlap", container(&format!(r#"{{"a":{twice},"b":{twice}}}"#), 8)),
        ("a hole", entry(r#""U8""#, "[4]", "[4,8]")),
        ("another size", entry(r#""F32""#, "[3]", "[0,8]")),
        ("negative", entry(r#""F32""#, "[-1,-2]", "[0,8]")),
        ("a fraction", entry(r#""F32""#, "[1.0,2]", "[0,8]")),
        ("true", entry(r#""F32""#, "[true,2]", "[0,8]")),
        ("backwards", entry(r#""U8""#, "[8]", "[8,0]")),
        ("huge", entry(r#""F32""#, "[4611686018427387904,4]", "[0,8]")),
        ("no list", entry(r#""F32""#, "2", "[0,8]")),
        ("one offset", entry(r#""F32""#, "[2]", "[0]")),
        ("no type", entry("4", "[2]", "[0,8]")),
        ("lower case", entry(r#""f32""#, "[2]", "[0,8]")),
    ];
    let mut files = Vec::new();
    for (number, (_, bytes)) in cases.iter().enumerate() {
        files.push(place.write(&format!("{number}.safetensors"), bytes));
    }
    let paths: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    let said = reference("digest", &[], &paths);
    for ((what, _), file) in cases.iter().zip(&files) {
        assert_eq!(said[file]["valid"], Value::Null, "{what}: {}", said[file]);
    }
    let good = place.write("good.safetensors", &good);
    assert_eq!(reference("digest", &[], &[&good])[&good]["failure"], "no-base-digest");
    for index in
        ["", "{}", r#"{"weight_map":{"a":"../a"}}"#, r#"{"weight_map":{"b":"good.safetensors"}}"#]
    {
        place.write("model.safetensors.index.json", index.as_bytes());
        let folder = place.path("");
        assert_eq!(reference("digest", &[], &[&folder])[&folder]["valid"], Value::Null, "{index}");
    }
    let absent = place.path("absent");
    let (status, _) = python("reference.py", &["verify", absent.to_str().unwrap()]);
    assert_eq!(status, Some(2));
}
