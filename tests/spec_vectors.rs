//! The vectors of the spec: the library, the program and the reference in Python agree on each.
#![cfg(feature = "std")]

mod spec;

use ndarray::Array2;
use sha2::{Digest, Sha256};
use spec::{Base, Vector, hex, python, reference, unhex, vectors};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use tla::format::{Adapter, Header, ModuleId, Projection, Role, RoleSet, Split, encode_to_vec};

/// The bases that vectors name, each read once.
struct Bases(BTreeMap<String, Base>);

impl Bases {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn get(&mut self, name: &str) -> &Base {
        self.0.entry(name.into()).or_insert_with(|| Base::load(name))
    }
}

/// Models that a bound adapter is accepted with, and their merged modules.
fn merged_with(vector: &Vector) -> impl Iterator<Item = (&String, &serde_json::Value)> {
    vector.expected.get("merged").into_iter().flat_map(|m| m.as_object().unwrap())
}

#[test]
fn every_accepted_file_has_its_fields_and_encodes_to_itself() {
    for vector in vectors("accept") {
        let adapter =
            Adapter::decode(&vector.bytes).unwrap_or_else(|e| panic!("{}: {e}", vector.name));
        let (h, show) = (adapter.header(), &vector.expected["show"]);
        let roles: Vec<_> = h.roles.iter().map(|role| role.name()).collect();
        // Values are compared as f32, in which what JSON readers round is exact again.
        let v: Vec<_> =
            show["v"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let fields = [
            (show["scalar"] == h.scalar.name(), "scalar"),
            (show["split"] == h.split.name(), "split"),
            (show["tying"] == h.tying.name(), "tying"),
            (show["rank"] == h.rank, "rank"),
            (show["projection"] == h.projection.name(), "projection"),
            (show["width"] == h.width, "width"),
            (show["groups"] == h.groups, "groups"),
            (show["roles"] == serde_json::json!(roles), "roles"),
            (show["seed"] == h.seed, "seed"),
            (show["scale"].as_f64().unwrap() as f32 == h.scale, "scale"),
            (show["first_layer"] == h.first_layer, "first_layer"),
            (show["layers"] == h.layers, "layers"),
            (show["base_digest"] == hex(&h.base_digest), "base_digest"),
            (show["factors_digest"] == hex(&h.factors_digest), "factors_digest"),
            (v == adapter.values().collect::<Vec<_>>(), "v"),
            (show["checksum"] == hex(&adapter.checksum()), "checksum"),
            (show["bytes"] == vector.bytes.len(), "bytes"),
            (show["parameters"] == h.parameters(), "parameters"),
            (show["bound"] == h.is_bound(), "bound"),
        ];
        for (same, field) in fields {
            assert!(same, "{}: {field} of {h:?}", vector.name);
        }
        assert!(encode_to_vec(h, &v).unwrap() == vector.bytes, "{}", vector.name);
    }
}

#[test]
fn every_bound_file_verifies_and_merges_to_its_digests() {
    let (mut bases, mut checked) = (Bases::new(), 0);
    for vector in vectors("accept") {
        for (base, digests) in merged_with(&vector) {
            let (name, base) = (format!("{} with {base}", vector.name), bases.get(base));
            let adapter = Adapter::decode(&vector.bytes).unwrap();
            let factors = base.verify(&adapter).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (module, digest) in digests.as_object().unwrap() {
                let factors = factors.iter().find(|f| f.module.to_string() == *module).unwrap();
                let bytes = base.merged(factors, adapter.header().scale).unwrap();
                assert_eq!(hex(&Sha256::digest(bytes)), *digest, "{name}: {module}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn every_rejected_file_is_refused_by_its_name() {
    let (vectors, mut bases) = (vectors("reject"), Bases::new());
    assert!(vectors.len() >= 40);
    for vector in vectors {
        let decoded = Adapter::decode(&vector.bytes);
        let found = match (vector.text("use"), decoded) {
            (None, decoded) => decoded.err().map(|e| e.name()),
            (Some(_), Err(error)) => panic!("{}: {error}", vector.name),
            (Some(purpose), Ok(adapter)) => {
                let base = bases.get(vector.text("base").unwrap());
                let scale = adapter.header().scale;
                let verified = base.verify(&adapter);
                match purpose {
                    "verify" => verified.err(),
                    "merge" => verified
                        .and_then(|all| {
                            all.iter().try_for_each(|f| base.merged(f, scale).map(drop))
                        })
                        .err(),
                    other => panic!("{}: {other}", vector.name),
                }
            }
        };
        assert_eq!(found, vector.text("failure"), "{}", vector.name);
        assert!(vector.name.starts_with(found.unwrap()), "{}", vector.name);
    }
}

#[test]
fn every_refusal_the_spec_names_has_a_vector_and_every_vector_a_refusal() {
    let text = fs::read_to_string(spec::spec("format.md")).unwrap();
    let tables =
        text.split("\n## ").filter(|part| part.starts_with("Refusals")).collect::<String>();
    let names: BTreeSet<_> = tables
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.split('`').nth(1))
        .map(str::to_owned)
        .filter(|name| name != "name")
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let shown: BTreeSet<_> =
        vectors("reject").iter().map(|v| v.text("failure").unwrap().to_owned()).collect();
    assert_eq!(names, shown);
}

#[test]
fn the_sample_in_the_spec_is_the_accepted_vector() {
    let text = fs::read_to_string(spec::spec("format.md")).unwrap();
    let block = text.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    let digits: String = block.lines().map(|line| line.split('|').next().unwrap()).collect();
    let name = text.split("## A sample").nth(1).unwrap().split('`').nth(1).unwrap();
    assert_eq!(hex(&unhex(&digits)), hex(&fs::read(spec::spec(name)).unwrap()));
}

#[test]
fn every_single_matrix_has_its_factors_digest() {
    let folder = spec::spec("vectors/basis");
    let names = spec::stems(&folder, ".json");
    assert!(names.len() >= 12);
    for name in names {
        let matrix = spec::json(&folder.join(format!("{name}.json")));
        let size = |key: &str| matrix[key].as_u64().unwrap() as usize;
        let bytes = unhex(matrix["f32"].as_str().unwrap());
        let w: Vec<_> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let w = Array2::from_shape_vec((size("rows"), size("cols")), w).unwrap();
        let role = Role::from_name(matrix["role"].as_str().unwrap()).unwrap();
        let module = ModuleId::new(size("layer") as u16, role);
        for (rank, expected) in matrix["ranks"].as_object().unwrap() {
            let rank: u8 = rank.parse().unwrap();
            let one: Vec<f32> = Array2::eye(usize::from(rank)).into_iter().collect();
            for &split in Split::ALL {
                let header = Header {
                    rank,
                    split,
                    width: u16::from(rank) * u16::from(rank),
                    projection: Projection::Unit,
                    roles: RoleSet::from_roles([role]).unwrap(),
                    ..Header::default()
                };
                let factors =
                    tla::projection::rebuild(&header, &one, &[(module, w.view())], 1).unwrap();
                let digest = hex(&tla::projection::factors_digest(&factors));
                assert_eq!(expected[split.name()], digest, "{name}, rank {rank}, {split}");
            }
        }
    }
}

#[test]
fn the_reference_sees_what_the_vectors_say() {
    let accepted = vectors("accept");
    let files: Vec<_> = accepted.iter().map(|v| v.file.as_path()).collect();
    let shown = reference("show", &[], &files);
    let mut with_base =
        BTreeMap::<(&str, String), Vec<(&Vector, Option<&serde_json::Value>)>>::new();
    for vector in &accepted {
        let said = &shown[&vector.file];
        assert_eq!(said["valid"], true, "{said}");
        for (key, value) in vector.expected["show"].as_object().unwrap() {
            assert_eq!(said[key], *value, "{}: {key}", vector.name);
        }
        for (base, merged) in merged_with(vector) {
            with_base.entry(("merge", base.clone())).or_default().push((vector, Some(merged)));
        }
    }
    let rejected = vectors("reject");
    let (at_use, at_sight): (Vec<_>, Vec<_>) =
        rejected.iter().partition(|v| v.text("use").is_some());
    let files: Vec<_> = at_sight.iter().map(|v| v.file.as_path()).collect();
    let shown = reference("verify", &[], &files);
    for vector in at_sight {
        let said = &shown[&vector.file];
        assert_eq!(said["failure"].as_str(), vector.text("failure"), "{}: {said}", vector.name);
    }
    for vector in at_use {
        let key = (vector.text("use").unwrap(), vector.text("base").unwrap().to_owned());
        with_base.entry(key).or_default().push((vector, None));
    }
    for ((command, base), cases) in &with_base {
        let base = spec::spec("vectors").join(base);
        let files: Vec<_> = cases.iter().map(|(v, _)| v.file.as_path()).collect();
        let found = reference(command, &["--base", base.to_str().unwrap()], &files);
        for (vector, merged) in cases {
            let said = &found[&vector.file];
            assert_eq!(said["failure"].as_str(), vector.text("failure"), "{}: {said}", vector.name);
            for (module, digest) in merged.iter().flat_map(|m| m.as_object().unwrap()) {
                assert_eq!(said["merged"][module], *digest, "{}: {module}", vector.name);
            }
        }
    }
}

/// `tla` itself.
#[cfg(feature = "cli")]
#[test]
fn the_program_gives_the_same_verdicts_by_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let tla = |args: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tla"));
        let output = command.args(args).arg("--json").output().unwrap();
        let said = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said)
    };
    let (mut yes, mut no) = (0, 0);
    for vector in vectors("accept").iter().chain(&vectors("reject")) {
        let (file, name) = (vector.file.as_os_str(), &vector.name);
        let base =
            vector.text("base").or(merged_with(vector).next().map(|(base, _)| base.as_str()));
        let failure = vector.text("failure");
        let Some(base) = base.map(|name| spec::spec("vectors").join(name)) else {
            let (status, said) = tla(&["show".as_ref(), file]);
            let expected = vector.expected.get("show");
            assert_eq!((status == 0).then_some(&said), expected, "{name}");
            let (status, said) = tla(&["verify".as_ref(), file]);
            assert_eq!((status, refusal(&said)), (i32::from(failure.is_some()), failure), "{name}");
            continue;
        };
        let merged = folder.path().join("merged.safetensors");
        let out = if base.is_dir() { folder.path().join("merged/") } else { merged };
        if vector.text("use") == Some("merge") {
            let (status, said) =
                tla(&["merge".as_ref(), base.as_ref(), file, "-o".as_ref(), out.as_ref()]);
            assert_eq!(status, 2, "{name}: {said}");
            assert!(!out.exists(), "{name} was merged");
        } else {
            let (status, said) = tla(&["verify".as_ref(), file, "--base".as_ref(), base.as_ref()]);
            assert_eq!(
                (status, refusal(&said)),
                (i32::from(failure.is_some()), failure),
                "{name}: {said}"
            );
            assert_eq!(said["valid"], failure.is_none(), "{name}: {said}");
        }
        *(if failure.is_none() { &mut yes } else { &mut no }) += 1;
    }
    assert!(yes >= 15 && no >= 20, "{yes}, {no}");
}

/// The first name of a refusal in a report of `verify`.
#[cfg(feature = "cli")]
fn refusal(report: &serde_json::Value) -> Option<&str> {
    report["checks"].as_array()?.iter().find_map(|check| check["refusal"].as_str())
}

#[test]
fn the_generator_writes_the_vectors_that_are_here() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = python("vectors.py", &[folder.path().to_str().unwrap()]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let (new, old) = (contents(folder.path()), contents(&spec::spec("vectors")));
    assert!(new.keys().eq(old.keys()), "other files. Run `make vectors`.");
    for (name, bytes) in &new {
        assert!(old[name] == *bytes, "{name} differs. Run `make vectors`.");
    }
}

/// Every file below a folder by its path from there.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}
