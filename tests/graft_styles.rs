//! A grafted model of every style of export in plain Python onnxruntime: the base at v = 0, and by
//! default what the same adapter does to the plain fp32 export, or to the weights that blocks of
//! four bits stand for.
#![cfg(feature = "std")]

mod logits;

use logits::{Tokens, apart, root};
use ndarray::{Array2, s};
use std::path::PathBuf;
use tempfile::TempDir;
use tla::{
    format::{Header, Role, RoleSet, Split, Tying},
    model::{
        OnnxModel, Quantisation, Target, Targets, find_targets,
        node::{node, tensor_f32},
        proto::ModelProto,
        write_model,
    },
    projection::{delta, rebuild},
    surgery::graft,
};

fn export(name: &str) -> (OnnxModel, Targets) {
    let model = OnnxModel::load(&root().join("fixtures/exports").join(name)).unwrap();
    let targets = find_targets(&model).unwrap();
    (model, targets)
}

fn tokens(architecture: &str) -> Tokens {
    Tokens::of(&root().join("fixtures/exports").join(format!("hf-{architecture}")))
}

/// Beside the model, where its external data are.
struct Written(PathBuf);

impl Written {
    fn new(proto: &ModelProto, model: &OnnxModel, folder: &TempDir, name: &str) -> Self {
        let out = folder.path().join(name);
        write_model(model, proto, &out).unwrap();
        Self(out)
    }
}

/// A copy of the export, so that what is made of it can lie beside its data.
fn copied(name: &str, folder: &TempDir) -> (OnnxModel, Targets) {
    let source = root().join("fixtures/exports").join(name);
    let file = match source.is_dir() {
        true => source.join("model.onnx"),
        false => source,
    };
    let data = file.with_extension("onnx.data");
    for file in [&file, &data].into_iter().filter(|file| file.exists()) {
        std::fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let model = OnnxModel::load(&folder.path().join(file.file_name().unwrap())).unwrap();
    let targets = find_targets(&model).unwrap();
    (model, targets)
}

const V: [f32; 13] = [0.3, -0.2, 0.25, 0.1, -0.35, 0.2, 0.15, -0.3, 0.4, 0.05, -0.1, 0.3, 0.2];

fn adapter() -> Header {
    Header { seed: 5, scale: 0.5, ..Header::default() }
}

/// Logits of the model at v = 0 and with the values.
fn grafted(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    v: &[f32],
    tokens: &Tokens,
    folder: &TempDir,
) -> [Vec<f32>; 2] {
    let grafted = graft(model, targets, header, v, 2).unwrap();
    let Written(out) = Written::new(&grafted.proto, model, folder, "grafted.onnx");
    let zero = vec![0.0; v.len()];
    let mut runs = tokens.grafted(&out, &[&[&zero]]);
    let at_zero = runs.remove(1);
    [at_zero, runs.remove(0)]
}

/// The export against the plain fp32 one with the same adapter.
fn agrees(name: &str, architecture: &str, header: &Header, v: &[f32], near: f32) {
    let tokens = tokens(architecture);
    let folder = TempDir::new().unwrap();
    let (plain, plain_targets) = export(&format!("optimum-fp32/{architecture}"));
    let plain_folder = TempDir::new().unwrap();
    let [_, expected] = grafted(&plain, &plain_targets, header, v, &tokens, &plain_folder);
    let (model, targets) = copied(name, &folder);
    let base = tokens.logits(&model.path);
    let [at_zero, found] = grafted(&model, &targets, header, v, &tokens, &folder);
    let gap = apart(&found, &expected, &tokens.mask);
    let effect = apart(&found, &base, &tokens.mask);
    let rest = apart(&at_zero, &base, &tokens.mask);
    println!("{name}: plain fp32 {gap:.1e}, base at v = 0 {rest:.1e}, effect {effect:.1e}");
    assert!(effect > 20.0 * near, "{name}: the adapter moves the logits by {effect:e}");
    assert!(gap < near, "{name}: the default is {gap:e} from the plain export's");
    assert_eq!(rest, 0.0, "{name}: v = 0 is not the base");
}

/// Every export of the fixtures, and the tokens of its architecture.
const STYLES: [(&str, &str); 11] = [
    ("optimum-fp32/qwen2-tied", "qwen2-tied"),
    ("optimum-fp32/llama-untied", "llama-untied"),
    ("optimum-fp16/qwen2-tied", "qwen2-tied"),
    ("dynamo-tf5-cache-fp32/qwen2-tied", "qwen2-tied"),
    ("dynamo-cache-fp32-op23/qwen2-tied", "qwen2-tied"),
    ("genai-fp32-cpu/qwen2-tied", "qwen2-tied"),
    ("genai-fp32-cpu/llama-untied", "llama-untied"),
    ("genai-fp16-cuda/qwen2-tied", "qwen2-tied"),
    ("genai-int4-cpu/qwen2-tied", "qwen2-tied"),
    ("transformers.js/model_fp16.onnx", "qwen2-tied"),
    ("transformers.js/model_q4.onnx", "qwen2-tied"),
];

/// The builder's blocks say in which accuracy they are multiplied, and here they say it as shipped.
#[test]
fn at_zero_every_style_as_it_ships_is_its_base_to_the_bit_whichever_modules_have_a_path() {
    let single = |role| Header { roles: RoleSet::from_roles([role]).unwrap(), ..adapter() };
    let headers = [adapter(), Header { groups: 2, split: Split::Peft, ..single(Role::V) }];
    for (name, architecture) in STYLES {
        let tokens = tokens(architecture);
        let folder = TempDir::new().unwrap();
        let (model, targets) = copied(name, &folder);
        let base = tokens.logits(&model.path);
        for header in &headers {
            let v: Vec<f32> = V.iter().cycle().take(header.parameters()).copied().collect();
            let [at_zero, default] = grafted(&model, &targets, header, &v, &tokens, &folder);
            let gap = apart(&at_zero, &base, &tokens.mask);
            assert_eq!(gap, 0.0, "{name}, {:?}", header.roles);
            assert!(apart(&default, &base, &tokens.mask) > 1e-4, "{name}, {:?}", header.roles);
        }
    }
}

#[test]
fn every_style_is_known_to_have_three_dimensions_and_its_sums_to_stand_behind_the_biases() {
    for (name, _) in STYLES {
        let (model, targets) = export(name);
        for target in &targets.targets {
            let site = target.node.as_ref().unwrap();
            assert!(site.batched, "{name}: {}", target.module);
            // Query, key and value of a Qwen2 have biases.
            let biased = matches!(target.module.role, Role::Q | Role::K | Role::V);
            let found = model.graph().node[site.sum].op_type() == "Add";
            assert_eq!(found, biased && !name.contains("llama"), "{name}: {}", target.module);
        }
    }
}

#[test]
fn exports_of_a_qwen2_in_fp32_do_what_the_plain_one_does() {
    for name in [
        "dynamo-tf5-cache-fp32/qwen2-tied",
        "dynamo-cache-fp32-op23/qwen2-tied",
        "genai-fp32-cpu/qwen2-tied",
    ] {
        agrees(name, "qwen2-tied", &adapter(), &V, 1e-4);
    }
}

#[test]
fn exports_of_a_qwen2_in_half_precision_do_what_the_plain_one_does() {
    for name in
        ["optimum-fp16/qwen2-tied", "genai-fp16-cuda/qwen2-tied", "transformers.js/model_fp16.onnx"]
    {
        agrees(name, "qwen2-tied", &adapter(), &V, 2e-2);
    }
}

#[test]
fn some_modules_of_a_packed_projection_in_a_llama() {
    let roles = RoleSet::from_roles([Role::K, Role::V, Role::Up]).unwrap();
    let header = Header { roles, groups: 2, width: 3, tying: Tying::Structured, ..adapter() };
    let header = Header { split: Split::Peft, first_layer: 1, layers: 1, ..header };
    agrees(
        "genai-fp32-cpu/llama-untied",
        "llama-untied",
        &header,
        &[1.5, -1.0, 0.8, -2.0, 0.9, 1.2],
        1e-4,
    );
    let key = Header { roles: RoleSet::from_roles([Role::K]).unwrap(), groups: 1, ..header };
    agrees("genai-fp32-cpu/llama-untied", "llama-untied", &key, &[4.5, -3.0, 3.8], 1e-4);
}

/// The values that the blocks of a model stand for, plus ΔW, as plain `MatMul`s.
fn dense(model: &OnnxModel, targets: &Targets, header: &Header, v: &[f32]) -> ModelProto {
    let weights: Vec<_> =
        targets.targets.iter().map(|t| (t.module, model.weight(t).unwrap())).collect();
    let views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
    let factors = rebuild(header, v, &views, 2).unwrap();
    let mut proto = model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    let mut by_node = std::collections::BTreeMap::<usize, Vec<&Target>>::new();
    for target in targets.targets.iter().filter(|t| header.selects(t.module)) {
        by_node.entry(target.node.as_ref().unwrap().index).or_default().push(target);
    }
    for (index, parts) in by_node {
        let (rows, cols) = (parts[0].stored_rows(), parts[0].cols);
        let mut whole = Array2::<f32>::zeros((rows, cols));
        for target in parts {
            let place = targets.targets.iter().position(|t| t.module == target.module).unwrap();
            let first = target.part.map_or(0, |part| part.first);
            let update = delta(&factors[place], header.scale);
            let merged = Array2::from_shape_fn((target.rows, cols), |at| {
                (f64::from(weights[place].1[at]) + update[at]) as f32
            });
            whole.slice_mut(s![first..first + target.rows, ..]).assign(&merged);
        }
        let old = graph.node[index].clone();
        let name = format!("dense.{index}");
        let flat: Vec<f32> = whole.t().iter().copied().collect();
        graph.initializer.push(tensor_f32(&name, &[cols as i64, rows as i64], &flat));
        graph.node[index] = node("MatMul", old.name(), &[&old.input[0], &name], &[&old.output[0]]);
    }
    proto
}

#[test]
fn blocks_of_four_bits_do_what_the_values_they_stand_for_do() {
    let tokens = tokens("qwen2-tied");
    for name in ["genai-int4-cpu/qwen2-tied", "transformers.js/model_q4.onnx"] {
        let folder = TempDir::new().unwrap();
        let (copy, targets) = copied(name, &folder);
        let linear = |t: &&Target| adapter().selects(t.module);
        assert!(targets.targets.iter().filter(linear).all(|t| matches!(
            t.quantisation,
            Some(Quantisation::Blocks { bits: 4, block: 32, .. })
        )));
        // A level of accuracy above 0 rounds activations too.
        let mut proto = copy.proto.clone();
        let attributes =
            proto.graph.as_mut().unwrap().node.iter_mut().flat_map(|n| &mut n.attribute);
        attributes.filter(|a| a.name() == "accuracy_level").for_each(|a| a.i = Some(0));
        let exact = Written::new(&proto, &copy, &folder, "exact.onnx");
        let model = OnnxModel::load(&exact.0).unwrap();
        let (header, v) = (adapter(), V);
        let dense = dense(&model, &targets, &header, &v);
        let Written(dense) = Written::new(&dense, &model, &folder, "dense.onnx");
        let (expected, base) = (tokens.logits(&dense), tokens.logits(&model.path));
        let [at_zero, found] = grafted(&model, &targets, &header, &v, &tokens, &folder);
        let (gap, rest) =
            (apart(&found, &expected, &tokens.mask), apart(&at_zero, &base, &tokens.mask));
        let effect = apart(&found, &base, &tokens.mask);
        println!("{name}: dense {gap:.1e}, base at v = 0 {rest:.1e}, effect {effect:.1e}");
        assert!(effect > 1e-2 && gap < 1e-4 && rest < 1e-6, "{name}: {effect:e} {gap:e} {rest:e}");
    }
}
