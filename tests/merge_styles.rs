//! A merged model of every style of export: it runs like the plain fp32 export with the same
//! adapter, is proved, and leaves alone what is not its.
#![cfg(feature = "std")]

mod logits;

use logits::{Tokens, apart, root};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{OnnxModel, Targets, find_targets, stage_model},
    projection::Factors,
    surgery::{Addend, OnnxMerge, Survival, rebuild_from, verify_merged},
};

fn load(path: &Path) -> (OnnxModel, Targets) {
    let model = OnnxModel::load(path).unwrap();
    let targets = find_targets(&model).unwrap();
    (model, targets)
}

fn export(name: &str) -> (OnnxModel, Targets) {
    load(&root().join("fixtures/exports").join(name))
}

const V: [f32; 13] = [0.3, -0.2, 0.25, 0.1, -0.35, 0.2, 0.15, -0.3, 0.4, 0.05, -0.1, 0.3, 0.2];

fn adapter() -> Header {
    Header { seed: 5, scale: 0.5, ..Header::default() }
}

struct Merged {
    path: PathBuf,
    factors: Vec<Factors>,
    survival: Survival,
    _folder: TempDir,
}

fn merged(
    (model, targets): &(OnnxModel, Targets),
    header: &Header,
    v: &[f32],
    fit: bool,
) -> Merged {
    let factors = rebuild_from(model, targets, header, v, 2).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("merged.onnx");
    let addends = [Addend::whole(header, &factors)];
    let mut merge = OnnxMerge::new(model, targets, &addends, 2).unwrap();
    if fit {
        merge = merge.with_fitted_grids().unwrap();
    }
    let proto = merge.proto().clone();
    let (_, staged) = stage_model(model, &proto, &path, &mut merge).unwrap();
    staged.place().unwrap();
    let survival = merge.survival();
    drop(merge);
    Merged { path, factors, survival, _folder: folder }
}

fn agrees(name: &str, near: f32) {
    let header = adapter();
    let tokens = Tokens::of(&root().join("fixtures/exports/hf-qwen2-tied"));
    let expected =
        tokens.logits(&merged(&export("optimum-fp32/qwen2-tied"), &header, &V, false).path);
    let base = export(name);
    let merged = merged(&base, &header, &V, false);
    let gap = apart(&tokens.logits(&merged.path), &expected, &tokens.mask);
    println!("{name}: {gap:.1e}, {:.4} survives", merged.survival.fraction());
    assert!(gap < near, "{name}: {gap:e}");
    assert!(merged.survival.fraction() > 0.99);
    let (found, _) = load(&merged.path);
    let mismatches = verify_merged(&base.0, &base.1, &header, &merged.factors, &found, 2).unwrap();
    assert_eq!(mismatches, []);
}

#[test]
fn exports_in_fp32_run_like_the_plain_one() {
    for name in [
        "dynamo-tf5-cache-fp32/qwen2-tied",
        "dynamo-cache-fp32-op23/qwen2-tied",
        "genai-fp32-cpu/qwen2-tied",
    ] {
        agrees(name, 1e-4);
    }
}

#[test]
fn exports_in_half_precision_run_nearly_like_the_plain_one() {
    for name in
        ["optimum-fp16/qwen2-tied", "genai-fp16-cuda/qwen2-tied", "transformers.js/model_fp16.onnx"]
    {
        agrees(name, 3e-2);
    }
}

#[test]
fn one_module_of_a_packed_matrix_changes_and_the_others_keep_every_bit() {
    let base = export("genai-fp32-cpu/llama-untied");
    let key = RoleSet::from_roles([Role::K]).unwrap();
    let header = Header { roles: key, first_layer: 1, layers: 1, ..adapter() };
    let merged = merged(&base, &header, &V, false);
    let (found, targets) = load(&merged.path);
    for target in &targets.targets {
        let same = found.weight(target).unwrap().map(|x| x.to_bits())
            == base.0.weight(base.1.get(target.module).unwrap()).unwrap().map(|x| x.to_bits());
        assert_eq!(same, target.module != ModuleId::new(1, Role::K), "{}", target.module);
    }
    let plain = export("optimum-fp32/llama-untied");
    let expected = self::merged(&plain, &header, &V, false);
    let (expected, plain_targets) = load(&expected.path);
    let of = |model: &OnnxModel, targets: &Targets| {
        model.weight(targets.get(ModuleId::new(1, Role::K)).unwrap()).unwrap()
    };
    assert_eq!(of(&found, &targets), of(&expected, &plain_targets));
}

#[test]
fn integers_move_to_the_nearest_of_their_grid_or_of_one_that_fits() {
    for name in ["genai-int4-cpu/qwen2-tied", "transformers.js/model_q4.onnx"] {
        let base = export(name);
        let header = adapter();
        let tokens = Tokens::of(&root().join("fixtures/exports/hf-qwen2-tied"));
        let before = tokens.logits(&base.0.path);
        let [kept, fitted] = [false, true].map(|fit| merged(&base, &header, &V, fit));
        for merged in [&kept, &fitted] {
            let (found, targets) = load(&merged.path);
            println!("{name}: {:.3} survives", merged.survival.fraction());
            assert!((0.7..1.1).contains(&merged.survival.fraction()));
            assert!(apart(&tokens.logits(&merged.path), &before, &tokens.mask) > 1e-2);
            assert_eq!(targets.targets.len(), base.1.targets.len());
            assert_eq!(found.graph().node, base.0.graph().node);
        }
        let (found, _) = load(&kept.path);
        let none = verify_merged(&base.0, &base.1, &header, &kept.factors, &found, 2).unwrap();
        assert_eq!(none, []);
        let (found, _) = load(&fitted.path);
        let other = verify_merged(&base.0, &base.1, &header, &kept.factors, &found, 2).unwrap();
        assert!(!other.is_empty());
    }
}

#[test]
fn a_small_update_is_lost_on_a_coarse_grid_and_the_survival_says_so() {
    let base = export("genai-int4-cpu/qwen2-tied");
    let small = V.map(|v| v * 0.01);
    let merged = merged(&base, &adapter(), &small, false);
    assert!(merged.survival.fraction() < 0.01 && merged.survival.lost_most());
    let tokens = Tokens::of(&root().join("fixtures/exports/hf-qwen2-tied"));
    let (now, before) = (tokens.logits(&merged.path), tokens.logits(&base.0.path));
    println!("{} survives", merged.survival.fraction());
    assert!(apart(&now, &before, &tokens.mask) < 0.5);
}
