//! Adapters from and to PEFT and ONNX Runtime: the update is the same.
#![cfg(feature = "std")]

mod logits;

use logits::{Tokens, apart, root};
use ndarray::Array2;
use safetensors::SafeTensors;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tla::{
    exchange::{ExchangeError, TinyLora, lora, onnx_adapter},
    format::{Header, Projection, Role, RoleSet, Split},
    model::{Container, Model, Naming, OnnxModel, Targets, find_targets, write_model},
    projection::delta,
    surgery::{VALUES, graft, rebuild_from},
};

fn export(name: &str) -> PathBuf {
    root().join("fixtures/exports").join(name)
}

fn load(name: &str) -> (Model, Targets) {
    let model = Model::load(&export(name)).unwrap();
    let targets = model.container().targets().unwrap();
    (model, targets)
}

const PEFT: &str = "peft/tinylora-fp32-projTrue";

fn matrix(file: &SafeTensors, name: &str) -> Array2<f64> {
    let tensor = file.tensor(name).unwrap();
    let [rows, cols] = tensor.shape()[..] else { panic!("{name}") };
    let values = tensor.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
    Array2::from_shape_vec((rows, cols), values.collect()).unwrap()
}

#[test]
fn an_update_that_peft_trained_is_the_same_in_our_basis() {
    let theirs = TinyLora::load(&export(PEFT), &Naming::default()).unwrap();
    let bytes = fs::read(export(PEFT).join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let v = file.tensor("base_model.tinylora_v.0").unwrap();
    let v: Vec<f64> =
        v.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    for base in ["hf-qwen2-tied", "genai-fp32-cpu/qwen2-tied"] {
        let (model, targets) = load(base);
        let imported = theirs.import(model.container(), &targets, 2).unwrap();
        assert_eq!(imported.header.projection, Projection::Unit);
        assert_eq!((imported.v.len(), imported.header.encoded_len()), (56, 96 + 4 * 56 + 32));
        assert!(imported.fits.iter().all(|fit| fit.share() < 1e-4), "{:?}", imported.fits);
        let factors =
            rebuild_from(model.container(), &targets, &imported.header, &imported.v, 2).unwrap();
        for factors in factors {
            let path = lora_path(&factors.module.to_string());
            let of = |part: &str| format!("base_model.model.{path}.tinylora_{part}");
            let p = file.tensor(&of("P")).unwrap();
            let p: Vec<f64> =
                p.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
            let r = Array2::from_shape_fn((2, 2), |(a, b)| {
                (0..13).map(|i| v[i] * p[4 * i + 2 * a + b]).sum::<f64>()
            });
            let expected = matrix(&file, &of("B")).dot(&r).dot(&matrix(&file, &of("A")));
            let found = delta(&factors, imported.header.scale);
            let worst = (&expected - &found).iter().fold(0f64, |m, x| m.max(x.abs()));
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            assert!(worst < 1e-4 * largest, "{path}: {worst:e} of {largest:e}");
        }
    }
}

/// layers.0.q → model.layers.0.self_attn.q_proj
fn lora_path(module: &str) -> String {
    let (layer, role) = module.rsplit_once('.').unwrap();
    let block = if ["q", "k", "v", "o"].contains(&role) { "self_attn" } else { "mlp" };
    format!("model.{layer}.{block}.{role}_proj")
}

#[test]
fn another_base_is_refused() {
    let theirs = TinyLora::load(&export(PEFT), &Naming::default()).unwrap();
    let (model, targets) = load("hf-llama-untied");
    let error = theirs.import(model.container(), &targets, 2).unwrap_err();
    assert!(matches!(error, ExchangeError::OtherBasis { .. }), "{error}");
}

#[test]
fn what_peft_did_not_save_so_is_refused() {
    let folder = TempDir::new().unwrap();
    let fail = |config: &str, change: &dyn Fn(&str) -> Option<String>| {
        fs::write(folder.path().join("adapter_config.json"), config).unwrap();
        let bytes = fs::read(export(PEFT).join("adapter_model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let kept = file.tensors().into_iter().filter_map(|(name, t)| Some((change(&name)?, t)));
        let bytes = safetensors::serialize(kept, None).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
        let theirs = match TinyLora::load(folder.path(), &Naming::default()) {
            Ok(theirs) => theirs,
            Err(error) => return error,
        };
        let (model, targets) = load("hf-qwen2-tied");
        theirs.import(model.container(), &targets, 2).unwrap_err()
    };
    let good = r#"{"peft_type": "TINYLORA", "r": 2, "u": 13}"#;
    let same = |name: &str| Some(name.to_owned());
    let without =
        |part: &'static str| move |name: &str| (!name.contains(part)).then(|| name.to_owned());
    use ExchangeError as E;
    assert!(matches!(fail("{", &same), E::Config { .. }));
    assert!(matches!(fail(r#"{"peft_type": "LORA", "r": 2}"#, &same), E::Method { .. }));
    assert!(matches!(fail(&good.replace("13", "0"), &same), E::Config { .. }));
    assert!(matches!(fail(&good.replace("13", "12"), &same), E::Shape { .. }));
    assert!(matches!(fail(&good.replace("2,", "3,"), &same), E::Shape { .. }));
    assert!(matches!(fail(&good.replace("2,", "65,"), &same), E::TooMany { .. }));
    assert!(matches!(fail(good, &without("tinylora_P")), E::NoProjection { .. }));
    assert!(matches!(fail(good, &without("q_proj.tinylora_P")), E::Missing { .. }));
    assert!(matches!(fail(good, &without("tinylora_v")), E::Missing { .. }));
    assert!(matches!(fail(good, &without("tinylora_A")), E::Missing { .. }));
    assert!(matches!(fail(good, &without("layers.1.mlp.up_proj")), E::Gaps { .. }));
    let renamed = |name: &str| Some(name.replace("q_proj", "x_proj"));
    assert!(matches!(fail(good, &renamed), E::UnknownModule { .. }));
}

#[test]
fn factors_for_peft_multiply_to_the_update() {
    let roles = RoleSet::from_roles([Role::K, Role::Up]).unwrap();
    let header = Header { roles, scale: 0.375, split: Split::Peft, rank: 3, ..Header::default() };
    let header = Header { first_layer: 1, layers: 1, ..header };
    let v: Vec<f32> = (0..13).map(|i| 0.1 * i as f32 - 0.5).collect();
    for base in ["hf-qwen2-tied", "genai-fp32-cpu/qwen2-tied"] {
        let (model, targets) = load(base);
        let factors = rebuild_from(model.container(), &targets, &header, &v, 2).unwrap();
        let lora = lora(&targets, &header, &factors, Some("org/model")).unwrap();
        let config: Value = serde_json::from_slice(&lora.config).unwrap();
        assert_eq!(config["target_modules"], serde_json::json!(["k_proj", "up_proj"]));
        assert_eq!(config["layers_to_transform"], serde_json::json!([1]));
        assert_eq!((&config["r"], &config["lora_alpha"]), (&3.into(), &3.into()));
        let file = SafeTensors::deserialize(&lora.tensors).unwrap();
        assert_eq!(file.len(), 4);
        for factors in &factors {
            let path = lora_path(&factors.module.to_string());
            let of =
                |factor: &str| matrix(&file, &format!("base_model.model.{path}.{factor}.weight"));
            let found = of("lora_B").dot(&of("lora_A"));
            let expected = delta(factors, header.scale);
            let worst = (&expected - &found).iter().fold(0f64, |m, x| m.max(x.abs()));
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            assert!(worst < 1e-6 * largest, "{path}: {worst:e} of {largest:e}");
        }
    }
}

#[test]
fn the_head_is_no_layer_for_peft() {
    let roles = RoleSet::from_roles([Role::K, Role::LmHead]).unwrap();
    let (model, targets) = load("optimum-fp32/qwen2-tied");
    let whole = serde_json::json!(["k_proj", "lm_head"]);
    let paths = serde_json::json!(["lm_head", "model.layers.1.self_attn.k_proj"]);
    for (first_layer, expected) in [(0, whole), (1, paths)] {
        let header = Header { roles, first_layer, layers: first_layer, ..Header::default() };
        let mut factors =
            rebuild_from(model.container(), &targets, &header, &[0.1; 13], 2).unwrap();
        factors.retain(|f| f.module.layer >= first_layer);
        let lora = lora(&targets, &header, &factors, None).unwrap();
        let config: Value = serde_json::from_slice(&lora.config).unwrap();
        assert_eq!(config["target_modules"], expected);
        assert_eq!(config["layers_to_transform"], Value::Null);
    }
}

#[test]
fn an_adapter_file_of_onnx_runtime_is_the_values_fed() {
    let model = OnnxModel::load(&export("optimum-fp32/qwen2-tied")).unwrap();
    let targets = find_targets(&model).unwrap();
    let header = Header::default();
    let v: Vec<f32> = (0..13).map(|i| 0.07 * i as f32 - 0.4).collect();
    let folder = TempDir::new().unwrap();
    let [out, file] = ["grafted.onnx", "v.onnx_adapter"].map(|name| folder.path().join(name));
    let zero = vec![0.0; 13];
    let grafted = graft(&model, &targets, &header, &zero, 2).unwrap();
    write_model(&model, &grafted.proto, &out).unwrap();
    fs::write(&file, onnx_adapter(VALUES, &v)).unwrap();
    let tokens = Tokens::of(&Container::home(&model));
    let fed = tokens.grafted(&out, &[&[&v]]);
    let adapted = tokens.with_adapter(&out, Path::new(&file));
    assert_eq!(adapted, fed[1]);
    assert!(apart(&adapted, &fed[0], &tokens.mask) > 1e-2);
}
