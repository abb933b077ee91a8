//! What was trained is what is deployed: a merged model in plain Python onnxruntime gives the
//! logits of the live adapter.
#![cfg(feature = "train")]

mod logits;

use logits::{ROWS, Tokens, apart, root};
use std::path::Path;
use tla::{
    format::{Header, RoleSet, Scalar, Split, Tying, round_to_scalar},
    model::{OnnxModel, Targets, find_targets, write_model},
    policy::live::Live,
    projection::{Geometry, rebuild, select},
    runtime::{CausalGraph, Rows, SessionOptions, Tensor},
    surgery::{MIXING, merge},
    train::student::{freeze, graft},
};

const TOLERANCE: f32 = 1e-4;

/// 13 numbers of about ±0.3 over all linear modules.
fn adapter(split: Split, tying: Tying, groups: u16) -> (Header, Vec<f32>) {
    let header = Header {
        roles: RoleSet::LINEAR,
        width: 13 / groups,
        groups,
        split,
        tying,
        seed: 5,
        ..Header::default()
    };
    let v = (0..header.parameters()).map(|i| {
        let size = 0.25 + 0.01 * i as f32;
        round_to_scalar(Scalar::Bf16, if i % 3 == 1 { -size } else { size })
    });
    (header, v.collect())
}

/// From the grafted graph in this program's own runtime.
fn live(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    v: &[f32],
    tokens: &Tokens,
) -> Vec<f32> {
    let known: Vec<_> = targets.targets.iter().map(|t| t.module).collect();
    let modules = select(header, &known).unwrap();
    let rank = usize::from(header.rank);
    let frozen = freeze(model, targets, &modules, rank, 2, &mut |_| {}).unwrap();
    let grafted = graft(model, targets, &frozen, header.split).unwrap();
    let mut graph = CausalGraph::load(&grafted, &model.path, SessionOptions::cpu(1)).unwrap();
    let mixing: Tensor = Live::new(Geometry::from(header), &modules).unwrap().mixing(v).unwrap();
    let rows =
        Rows { batch: ROWS, ids: &tokens.ids, mask: &tokens.mask, positions: &tokens.positions };
    let empty = graph.empty_cache(ROWS).unwrap();
    let (logits, _) = graph.step(&rows, empty, &[(MIXING, &mixing)]).unwrap();
    logits.as_f32("logits").unwrap().to_vec()
}

fn merged(model: &OnnxModel, targets: &Targets, header: &Header, v: &[f32], out: &Path) {
    let weights: Vec<_> =
        targets.targets.iter().map(|t| (t.module, model.weight(t).unwrap())).collect();
    let views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
    let factors = rebuild(header, v, &views, 2).unwrap();
    let merged = merge(model, targets, header, &factors, 2).unwrap();
    write_model(model, &merged.proto, out).unwrap();
}

fn agrees(fixture: &str, split: Split, tying: Tying, groups: u16) {
    let model = OnnxModel::load(&root().join("fixtures").join(fixture)).unwrap();
    let targets = find_targets(&model).unwrap();
    let (header, v) = adapter(split, tying, groups);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged.onnx");
    merged(&model, &targets, &header, &v, &out);

    let tokens = Tokens::of(model.folder());
    let base = tokens.logits(&model.path);
    let deployed = tokens.logits(&out);
    let live = live(&model, &targets, &header, &v, &tokens);
    let gap = apart(&deployed, &live, &tokens.mask);
    let effect = apart(&deployed, &base, &tokens.mask);
    println!("{fixture}: merged against live {gap:.1e}, against the base {effect:.1e}");
    assert!(gap < TOLERANCE, "{fixture}: merged and live logits are {gap:e} apart");
    assert!(effect > 100.0 * TOLERANCE, "{fixture}: the adapter moves the logits by {effect:e}");
}

#[test]
fn a_merged_wordmath_model_gives_the_live_logits_in_plain_onnxruntime() {
    agrees("wordmath", Split::Paper, Tying::Tiled, 1);
}

#[test]
fn a_merged_qwen2_gives_the_live_logits_in_plain_onnxruntime() {
    agrees("exports/optimum-fp32/qwen2-tied", Split::Peft, Tying::Structured, 13);
}

#[test]
fn a_merged_llama_gives_the_live_logits_in_plain_onnxruntime() {
    agrees("exports/optimum-fp32/llama-untied", Split::Paper, Tying::Tiled, 1);
}
