//! The modules of every style of export, and one base digest for one set of values.
#![cfg(feature = "std")]

use ndarray::{Array2, ArrayView1, s};
use std::path::{Path, PathBuf};
use tla::{
    format::{ModuleId, Role},
    model::{Model, Targets, base_digest},
};

const ROLES: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

fn export(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports").join(name)
}

fn load(name: &str) -> (Model, Targets) {
    let model = Model::load(&export(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let targets = model.container().targets().unwrap_or_else(|e| panic!("{name}: {e}"));
    (model, targets)
}

fn digest(name: &str) -> [u8; 32] {
    let (model, targets) = load(name);
    base_digest(model.container(), &targets).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn weight(name: &str, module: ModuleId) -> Array2<f32> {
    let (model, targets) = load(name);
    model.container().weight(targets.get(module).unwrap()).unwrap()
}

const QWEN: [&str; 9] = [
    "hf-qwen2-tied",
    "optimum-fp32/qwen2-tied",
    "optimum-fp16/qwen2-tied",
    "dynamo-tf5-cache-fp32/qwen2-tied",
    "dynamo-cache-fp32-op23/qwen2-tied",
    "genai-fp32-cpu/qwen2-tied",
    "genai-fp16-cuda/qwen2-tied",
    "genai-int4-cpu/qwen2-tied",
    "transformers.js/model_fp16.onnx",
];

#[test]
fn every_style_has_the_fourteen_modules_in_the_right_shapes() {
    for name in QWEN.iter().chain(&["transformers.js/model_q4.onnx", "genai-fp32-cpu/llama-untied"])
    {
        let (model, targets) = load(name);
        let all = (0..2).flat_map(|layer| ROLES.map(|role| ModuleId { layer, role }));
        // A checkpoint stores no second matrix for a head that is tied.
        let head = Some(ModuleId::LM_HEAD).filter(|_| name != &"hf-qwen2-tied");
        let found = targets.targets.iter().map(|t| t.module);
        assert!(found.eq(all.chain(head)), "{name}: {:?}", targets.skipped);
        for target in &targets.targets {
            let shape = match target.module.role {
                Role::Q | Role::O => (64, 64),
                Role::K | Role::V => (32, 64),
                Role::Gate | Role::Up => (128, 64),
                Role::LmHead => (256, 64),
                _ => (64, 128),
            };
            assert_eq!((target.rows, target.cols), shape, "{name}: {}", target.module);
            assert_eq!(model.container().weight(target).unwrap().dim(), shape);
        }
    }
}

#[test]
fn one_model_has_one_digest_in_every_fp32_export_and_its_checkpoint() {
    for (checkpoint, exports) in [
        (
            "hf-qwen2-tied",
            &[
                "optimum-fp32/qwen2-tied",
                "dynamo-tf5-cache-fp32/qwen2-tied",
                "dynamo-cache-fp32-op23/qwen2-tied",
                "genai-fp32-cpu/qwen2-tied",
            ][..],
        ),
        ("hf-llama-untied", &["optimum-fp32/llama-untied", "genai-fp32-cpu/llama-untied"]),
    ] {
        let expected = digest(checkpoint);
        for name in exports {
            assert_eq!(digest(name), expected, "{name}");
        }
    }
}

#[test]
fn half_precision_exports_hold_the_rounded_values() {
    let names = [
        "optimum-fp16/qwen2-tied",
        "genai-fp16-cuda/qwen2-tied",
        "transformers.js/model_fp16.onnx",
    ];
    for name in names {
        let (model, targets) = load(name);
        for target in targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD) {
            let exact = weight("hf-qwen2-tied", target.module);
            // Optimum stores some of the rounded values in 32 bits.
            let rounded = exact.mapv(|x| half::f16::from_f32(x).to_f32());
            let found = model.container().weight(target).unwrap();
            assert_eq!(found, rounded, "{name}: {}", target.module);
        }
    }
}

#[test]
fn blocks_of_four_bits_stand_for_values_within_half_a_step() {
    for name in ["genai-int4-cpu/qwen2-tied", "transformers.js/model_q4.onnx"] {
        let (model, targets) = load(name);
        for target in targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD) {
            let exact = weight("hf-qwen2-tied", target.module);
            let found = model.container().weight(target).unwrap();
            for (exact, found) in exact.rows().into_iter().zip(found.rows()) {
                for start in (0..exact.len()).step_by(32) {
                    let run = |row: &ArrayView1<f32>| row.slice(s![start..start + 32]).to_owned();
                    let (exact, found) = (run(&exact), run(&found));
                    let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
                    // A scale is an eighth of the largest value, or a fifteenth of the range.
                    let step = largest / 7.0;
                    let worst = (&exact - &found).iter().fold(0f32, |m, x| m.max(x.abs()));
                    assert!(worst <= step, "{name}: {}: {worst} of {step}", target.module);
                }
            }
        }
        assert_ne!(digest(name), digest("hf-qwen2-tied"));
    }
}
