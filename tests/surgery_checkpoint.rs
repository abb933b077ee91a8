//! Merging into a checkpoint writes round(W + ΔW) in each weight's own type and leaves every other
//! byte of the files as it was.
#![cfg(feature = "std")]

mod checkpoint;

use checkpoint::*;
use half::{bf16, f16};
use ndarray::Array2;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tla::{
    format::{Header, Role, RoleSet, Split, Tying},
    model::{Checkpoint, CheckpointError, Container, Model, ModelError, Targets, base_digest},
    projection::{Factors, delta, factors_digest, merged_f32, rebuild, select},
    surgery::{
        Addend, CheckpointMerge, SurgeryError, Survival, merge, rebuild_from, to_bf16, to_f16,
        verify_checkpoint, verify_model,
    },
};

const ALL: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

fn header(roles: &[Role]) -> Header {
    let roles = RoleSet::from_roles(roles.iter().copied()).unwrap();
    Header { roles, scale: 0.5, ..Header::default() }
}

/// Factors of the selected modules with entries in ±`size`, from a small generator.
fn factors(targets: &Targets, header: &Header, size: f64) -> Vec<Factors> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * size
    };
    let known: Vec<_> = targets.targets.iter().map(|t| t.module).collect();
    let mut make = |module| {
        let target = targets.get(module).unwrap();
        let l = Array2::from_shape_simple_fn((target.rows, 2), &mut next);
        let v = Array2::from_shape_simple_fn((target.cols, 2), &mut next);
        Factors { module, l, v }
    };
    select(header, &known).unwrap().into_iter().map(&mut make).collect()
}

/// A base in a folder, an adapter's factors, and what they are merged with.
struct Case {
    folder: TempDir,
    base: Checkpoint,
    targets: Targets,
    header: Header,
    factors: Vec<Factors>,
}

impl Case {
    fn new(tensors: &[Stored], sharded: bool, roles: &[Role], size: f64) -> Self {
        let folder = TempDir::new().unwrap();
        match sharded {
            true => write_sharded(folder.path(), tensors),
            false => write_single(folder.path(), tensors),
        };
        let base = load(folder.path()).unwrap();
        let (targets, header) = (base.targets().unwrap(), header(roles));
        let factors = factors(&targets, &header, size);
        Self { folder, base, targets, header, factors }
    }

    /// Writes every file of the merged checkpoint to a new folder.
    fn merge(&self, threads: usize) -> Result<(TempDir, Survival), SurgeryError> {
        let Self { base, targets, header, factors, .. } = self;
        let out = TempDir::new().unwrap();
        let mut merge =
            CheckpointMerge::new(base, targets, &[Addend::whole(header, factors)], threads)?;
        for shard in base.shards() {
            let path = out.path().join(&shard.name);
            merge.write(shard, &mut File::create(&path).unwrap(), &path)?;
        }
        if let Some(index) = base.index() {
            fs::write(out.path().join("model.safetensors.index.json"), index).unwrap();
        }
        Ok((out, merge.survival()))
    }

    fn verify(&self, merged: &Checkpoint) -> Vec<tla::surgery::Mismatch> {
        let Self { base, targets, header, factors, .. } = self;
        verify_checkpoint(base, targets, header, factors, merged, 2).unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    all.sort();
    all
}

/// W' as the spec has it, in the order of the file.
fn expected(case: &Case, before: &Stored) -> Option<Vec<u8>> {
    let target = case.targets.targets.iter().find(|t| t.initializer == before.name)?;
    let factors = case.factors.iter().find(|f| f.module == target.module)?;
    let weight = case.base.weight(target).unwrap();
    let delta = delta(factors, case.header.scale);
    let sums = weight.iter().zip(&delta);
    Some(match before.dtype {
        Dtype::F32 => sums.flat_map(|(&w, &d)| merged_f32(w, d).to_le_bytes()).collect(),
        Dtype::F16 => sums.flat_map(|(&w, d)| to_f16(f64::from(w) + d).to_le_bytes()).collect(),
        _ => sums.flat_map(|(&w, d)| to_bf16(f64::from(w) + d).to_le_bytes()).collect(),
    })
}

#[test]
fn selected_weights_are_the_sum_rounded_once_and_every_other_byte_stays() {
    for name in FIXTURES {
        for dtype in FLOATS {
            for sharded in [false, true] {
                let tensors = tensors(name, dtype);
                let case = Case::new(&tensors, sharded, &[Role::V, Role::Down], 0.1);
                let (out, _) = case.merge(2).unwrap();
                let (mut changed, mut kept) = (0, 0);
                let pairs = files(case.folder.path()).into_iter().zip(files(out.path()));
                for (old, new) in pairs {
                    let (before, after) = (fs::read(&old).unwrap(), fs::read(&new).unwrap());
                    let length = u64::from_le_bytes(*before.first_chunk().unwrap()) as usize + 8;
                    assert!(before[..length] == after[..length], "the header changed");
                    for (was, is) in read(&old).iter().zip(read(&new)) {
                        let bytes = expected(&case, was);
                        match &bytes {
                            Some(bytes) => changed += usize::from(*bytes != was.bytes),
                            None => kept += 1,
                        }
                        let bytes = bytes.unwrap_or_else(|| was.bytes.clone());
                        assert!(bytes == is.bytes, "{name} {dtype:?} {}", was.name);
                    }
                }
                assert_eq!((changed, kept), (4, tensors.len() - 4));
            }
        }
    }
}

#[test]
fn an_fp32_checkpoint_and_its_export_merge_to_the_same_weights_with_the_same_survival() {
    for name in FIXTURES {
        let case = Case::new(&tensors(name, Dtype::F32), false, &ALL, 1e-4);
        let (out, survival) = case.merge(0).unwrap();
        let export = onnx(name);
        let found = export.targets().unwrap();
        let merged = merge(&export, &found, &case.header, &case.factors, 0).unwrap();
        assert_eq!(survival, merged.survival);
        let graph = tla::model::OnnxModel::from_proto(merged.proto, export.path).unwrap();
        let checkpoint = load(out.path()).unwrap();
        let digest = |model: &dyn Container| base_digest(model, &model.targets().unwrap()).unwrap();
        assert_eq!(digest(&checkpoint), digest(&graph));
    }
}

#[test]
fn survival_is_that_of_the_type_the_weights_are_stored_in() {
    let survival = |dtype, size| {
        let case = Case::new(&tensors("qwen2-tied", dtype), false, &ALL, size);
        let (out, survival) = case.merge(0).unwrap();
        // ⟨W' − W, ΔW⟩ ÷ ⟨ΔW, ΔW⟩ from the files alone.
        let (before, after) = (&case.base, load(out.path()).unwrap());
        for (left, factors) in survival.modules.iter().zip(&case.factors) {
            let target = case.targets.get(left.module).unwrap();
            let change = (&after.weight(target).unwrap().mapv(f64::from))
                - &before.weight(target).unwrap().mapv(f64::from);
            let delta = delta(factors, case.header.scale);
            let measured = (&change * &delta).sum() / (&delta * &delta).sum();
            assert!((measured - left.fraction()).abs() < 1e-9, "{dtype:?} {}", left.module);
        }
        assert_eq!(survival.modules.len(), 14);
        survival.fraction()
    };
    for dtype in FLOATS {
        assert!((survival(dtype, 0.3) - 1.0).abs() < 0.01, "{dtype:?}");
    }
    let small = [Dtype::F32, Dtype::F16, Dtype::BF16].map(|dtype| survival(dtype, 3e-3));
    assert!(small[0] > 0.99 && small[0] > small[2] && small[1] > small[2], "{small:?}");
    assert!(survival(Dtype::BF16, 1e-5) < 0.1);
}

#[test]
fn threads_do_not_show() {
    for dtype in FLOATS {
        let case = Case::new(&tensors("llama-untied", dtype), true, &ALL, 0.02);
        let (one, survival) = case.merge(1).unwrap();
        for threads in [0, 2, 7] {
            let (many, other) = case.merge(threads).unwrap();
            assert_eq!(other, survival);
            for (a, b) in files(one.path()).iter().zip(files(many.path())) {
                assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
            }
        }
    }
}

/// One layer whose `up` has more rows than are merged at once, the last piece shorter.
fn tall(dtype: Dtype) -> Vec<Stored> {
    let matrix = |block: &str, role: &str, rows: usize, cols: usize| {
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37) % 1009) as f32 - 504.0).collect();
        stored(&format!("model.layers.0.{block}.{role}_proj.weight"), dtype, &[rows, cols], &values)
    };
    let attention = ["q", "k", "v", "o"].map(|role| matrix("self_attn", role, 8, 8));
    let mlp = [("gate", 8, 8), ("up", 2_500, 1_024), ("down", 8, 8)];
    let mlp = mlp.map(|(role, rows, cols)| matrix("mlp", role, rows, cols));
    attention.into_iter().chain(mlp).collect()
}

#[test]
fn a_weight_merged_in_several_pieces_is_the_weight_merged_at_once() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        let case = Case::new(&tall(dtype), false, &[Role::Up, Role::Q], 2.0);
        let (out, survival) = case.merge(2).unwrap();
        let before = read(&case.folder.path().join("model.safetensors"));
        let after = read(&out.path().join("model.safetensors"));
        for (was, is) in before.iter().zip(&after) {
            assert!(is.bytes == expected(&case, was).unwrap_or(was.bytes.clone()), "{}", was.name);
        }
        assert_eq!(survival.modules.len(), 2);
        assert_eq!(case.verify(&load(out.path()).unwrap()), []);
    }
}

#[test]
fn the_factors_read_one_by_one_are_those_rebuilt_together() {
    let headers = [
        Header::default(),
        Header { groups: 5, width: 2, tying: Tying::Structured, rank: 3, ..header(&ALL) },
        Header { groups: 3, width: 4, split: Split::Peft, ..header(&[Role::Down, Role::K]) },
        Header { first_layer: 1, layers: 1, seed: 9, ..header(&[Role::Up]) },
    ];
    for name in FIXTURES {
        let graph = onnx_of(name, Dtype::BF16);
        let case = Case::new(&tensors(name, Dtype::BF16), true, &ALL, 0.1);
        let weights: Vec<_> =
            case.targets.targets.iter().map(|t| (t.module, case.base.weight(t).unwrap())).collect();
        let views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
        for header in &headers {
            let v: Vec<f32> = (0..header.parameters()).map(|i| i as f32 * 0.1 - 0.5).collect();
            let together = rebuild(header, &v, &views, 2).unwrap();
            let one_by_one = rebuild_from(&case.base, &case.targets, header, &v, 2).unwrap();
            assert_eq!(factors_digest(&one_by_one), factors_digest(&together));
            let of_graph = rebuild_from(&graph, &graph.targets().unwrap(), header, &v, 1).unwrap();
            assert_eq!(of_graph, one_by_one);
        }
        let refused = |v: &[f32]| {
            rebuild_from(&case.base, &case.targets, &headers[0], v, 1).unwrap_err().to_string()
        };
        assert!(refused(&[0.0; 12]).contains("12 values"));
        assert!(refused(&[f32::NAN; 13]).contains("value 0 is NaN"));
    }
}

#[test]
fn a_merged_checkpoint_verifies_however_it_is_cut_into_files() {
    for dtype in FLOATS {
        let all = tensors("llama-untied", dtype);
        let case = Case::new(&all, true, &ALL, 0.1);
        let (out, _) = case.merge(0).unwrap();
        assert_eq!(case.verify(&load(out.path()).unwrap()), []);
        let mut joined: Vec<_> = files(out.path()).iter().flat_map(|path| read(path)).collect();
        joined.reverse();
        let single = TempDir::new().unwrap();
        write_single(single.path(), &joined);
        assert_eq!(case.verify(&load(single.path()).unwrap()), []);
        // The base itself is another model, in every selected weight.
        let found = case.verify(&case.base);
        assert_eq!(found.len(), 14, "{found:?}");
        assert!(found.iter().all(|m| m.what.ends_with("_proj.weight\"")));
    }
}

#[test]
fn every_tampering_is_found() {
    let case = Case::new(&tensors("qwen2-tied", Dtype::BF16), false, &[Role::Down], 0.1);
    let (out, _) = case.merge(0).unwrap();
    let intact = read(&out.path().join("model.safetensors"));
    let check = |what: &str, count: usize, change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = intact.clone();
        change(&mut tensors);
        let folder = TempDir::new().unwrap();
        write_single(folder.path(), &tensors);
        let found = case.verify(&load(folder.path()).unwrap());
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert_eq!((found[0].what.as_str(), found[0].count), (what, count), "{found:?}");
    };
    for name in [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.embed_tokens.weight",
    ] {
        let what = format!("tensor {name:?}");
        let at = |tensors: &[Stored]| tensors.iter().position(|t| t.name == name).unwrap();
        check(&what, 2, &|tensors| {
            let at = at(tensors);
            tensors[at].bytes[4] ^= 1;
            tensors[at].bytes[63] ^= 0x80;
        });
        check(&what, 1, &|tensors| drop(tensors.remove(at(tensors))));
        check(&what, 1, &|tensors| {
            let at = at(tensors);
            tensors[at].dtype = Dtype::F16;
        });
        check(&what, 1, &|tensors| {
            let at = at(tensors);
            tensors[at].shape.reverse();
            tensors[at].shape.push(1);
        });
    }
    check("tensor \"extra\"", 1, &|tensors| {
        tensors.push(stored("extra", Dtype::F32, &[1], &[0.0]));
    });

    let bytes = fs::read(out.path().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 8;
    let json = str::from_utf8(&bytes[8..length]).unwrap().replace("\"pt\"", "\"np\"");
    fs::write(out.path().join("model.safetensors"), raw(&json, &bytes[length..])).unwrap();
    let found = case.verify(&load(out.path()).unwrap());
    assert_eq!((found.len(), found[0].what.as_str()), (1, "metadata"));
}

#[test]
fn a_model_of_the_other_container_is_not_the_merged_one() {
    let folder = TempDir::new().unwrap();
    write_single(folder.path(), &tensors("qwen2-tied", Dtype::F32));
    let checkpoint = Model::load(folder.path()).unwrap();
    let graph = Model::Onnx(onnx("qwen2-tied"));
    for (base, merged) in [(&checkpoint, &graph), (&graph, &checkpoint)] {
        let targets = base.container().targets().unwrap();
        let header = header(&ALL);
        let factors = factors(&targets, &header, 0.1);
        let found = verify_model(base, &targets, &header, &factors, merged, 1).unwrap();
        assert_eq!((found.len(), found[0].what.as_str()), (1, "container"));
    }
}

#[test]
fn unknown_fields_and_padding_of_the_header_are_kept() {
    let folder = TempDir::new().unwrap();
    let path = write_single(folder.path(), &tensors("qwen2-tied", Dtype::F16));
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 8;
    let json = str::from_utf8(&bytes[8..length]).unwrap();
    let json = json.trim_end().replace("\"shape\"", "\"note\": [1, {\"x\": null}],  \"shape\"");
    fs::write(&path, raw(&format!("{json}     "), &bytes[length..])).unwrap();
    let base = Checkpoint::load(&path).unwrap();
    let targets = base.targets().unwrap();
    let header = header(&[Role::Q]);
    let factors = factors(&targets, &header, 0.1);
    let case = Case { folder, base, targets, header, factors };
    let (out, _) = case.merge(1).unwrap();
    let after = fs::read(out.path().join("model.safetensors")).unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after.starts_with(&before[..json.len() + 13]) && after != before);
    assert_eq!(case.verify(&load(out.path()).unwrap()), []);
}

#[test]
fn factors_that_are_not_the_adapters_are_refused() {
    let case = Case::new(&tensors("qwen2-tied", Dtype::BF16), false, &[Role::Q, Role::Up], 0.1);
    let refused = |factors: &[Factors]| {
        let addends = [Addend::whole(&case.header, factors)];
        CheckpointMerge::new(&case.base, &case.targets, &addends, 1).unwrap_err()
    };
    assert!(matches!(refused(&case.factors[..3]), SurgeryError::OtherFactors { .. }));
    let mut short = case.factors.clone();
    short[1].l = Array2::zeros((3, 2));
    assert!(matches!(refused(&short), SurgeryError::FactorShape { .. }));
}

#[test]
fn sums_beyond_the_type_and_nan_weights_are_named_by_row_and_column() {
    let not_finite = |dtype, value: f32, size: f64| {
        let mut all = tensors("qwen2-tied", dtype);
        let q = all.iter_mut().find(|t| t.name.contains("0.self_attn.q_proj.weight")).unwrap();
        let bytes = stored("", dtype, &[1], &[value]).bytes;
        let at = (5 * 64 + 7) * bytes.len();
        q.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        Case::new(&all, false, &[Role::Q], size).merge(2).map(drop)
    };
    // 65504 is the largest f16, and f32 has room for far more.
    for (dtype, value) in [
        (Dtype::F16, f32::NAN),
        (Dtype::BF16, f32::NAN),
        (Dtype::F32, f32::NAN),
        (Dtype::BF16, f32::INFINITY),
    ] {
        match not_finite(dtype, value, 0.1) {
            Err(SurgeryError::NotFinite { row: 5, col: 7, .. }) => {}
            other => panic!("{dtype:?} {value}: {other:?}"),
        }
    }
    let large = not_finite(Dtype::F16, 1.0, 1e4);
    assert!(matches!(large, Err(SurgeryError::NotFinite { .. })), "{large:?}");
    assert!(not_finite(Dtype::BF16, 1.0, 1e4).is_ok());
    assert_eq!((f16::MAX.to_f32(), bf16::MAX.to_f32() > 3e38), (65504.0, true));
}

#[test]
fn a_file_cut_after_loading_is_not_merged() {
    let case = Case::new(&tensors("qwen2-tied", Dtype::BF16), false, &[Role::Q], 0.1);
    let path = case.folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
    match case.merge(1) {
        Err(SurgeryError::Model(ModelError::Checkpoint(CheckpointError::Changed { .. }))) => {}
        other => panic!("{:?}", other.map(drop)),
    }
}
