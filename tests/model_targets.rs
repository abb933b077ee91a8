//! Which matrix of a real export is which module, and what the base digest covers.
#![cfg(feature = "std")]

use std::path::{Path, PathBuf};
use tla::{
    format::{ModuleId, Role},
    model::{
        Kind, ModelError, Naming, OnnxModel, base_digest, f32_tensor, find_targets,
        find_targets_by, proto, summarize,
    },
};

const ROLES: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

fn fixture(name: &str) -> OnnxModel {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/optimum-fp32");
    OnnxModel::load(&exports.join(name)).unwrap()
}

/// Builds the model again after `change`.
fn changed(name: &str, change: impl FnOnce(&mut proto::GraphProto)) -> OnnxModel {
    let model = fixture(name);
    let (mut proto, path) = (model.inlined().unwrap(), model.path);
    change(proto.graph.as_mut().unwrap());
    OnnxModel::from_proto(proto, path).unwrap()
}

fn node<'a>(graph: &'a mut proto::GraphProto, name: &str) -> &'a mut proto::NodeProto {
    graph.node.iter_mut().find(|n| n.name() == name).unwrap()
}

fn op(op_type: &str, input: &str, output: &str) -> proto::NodeProto {
    proto::NodeProto {
        op_type: Some(op_type.into()),
        name: Some(format!("made for {output}")),
        input: vec![input.into()],
        output: vec![output.into()],
        ..Default::default()
    }
}

const Q0: &str = "/model/layers.0/self_attn/q_proj/MatMul";
const K0: &str = "/model/layers.0/self_attn/k_proj/MatMul";
const V0: &str = "/model/layers.0/self_attn/v_proj/MatMul";

fn digest(model: &OnnxModel) -> [u8; 32] {
    base_digest(model, &find_targets(model).unwrap()).unwrap()
}

#[test]
fn both_exports_have_fourteen_modules_of_the_right_shapes() {
    for name in ["qwen2-tied", "llama-untied"] {
        let model = fixture(name);
        let targets = find_targets(&model).unwrap();
        assert_eq!(targets.layers, 2);
        let modules: Vec<_> = targets.targets.iter().map(|t| t.module).collect();
        let all = (0..2).flat_map(|layer| ROLES.map(|role| ModuleId { layer, role }));
        assert_eq!(modules, all.chain([ModuleId::LM_HEAD]).collect::<Vec<_>>());
        for target in &targets.targets {
            let shape = match target.module.role {
                Role::Q | Role::O => (64, 64),
                Role::K | Role::V => (32, 64),
                Role::Gate | Role::Up => (128, 64),
                Role::LmHead => (256, 64),
                _ => (64, 128),
            };
            assert_eq!((target.rows, target.cols), shape, "{}", target.module);
            let node = target.node.as_ref().unwrap();
            let tied = target.module == ModuleId::LM_HEAD && name == "qwen2-tied";
            assert_eq!((target.stored_transposed, target.shared), (!tied, tied));
            assert_eq!(node.weight_slot, 1);
            assert_eq!(model.weight(target).unwrap().dim(), shape);
            assert_eq!(model.graph().node[node.index].name(), node.name);
        }
    }
}

#[test]
fn a_head_without_its_name_is_skipped_and_said_to_be_tied_only_when_it_is() {
    let reason = |name| {
        let model = changed(name, |graph| {
            node(graph, "/lm_head/MatMul").name = Some("/score/MatMul".into());
        });
        let skipped = find_targets(&model).unwrap().skipped;
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert_eq!(skipped[0].name, "/score/MatMul");
        skipped[0].reason.clone()
    };
    assert!(reason("qwen2-tied").contains("embedding"));
    assert!(!reason("llama-untied").contains("embedding"));
}

#[test]
fn the_weight_is_the_transpose_of_what_the_file_holds() {
    let model = fixture("qwen2-tied");
    let targets = find_targets(&model).unwrap();
    let target = targets.get(ModuleId { layer: 1, role: Role::Down }).unwrap();
    let stored = model.tensor_f32(model.initializer(&target.initializer).unwrap()).unwrap();
    let weight = model.weight(target).unwrap();
    assert_eq!(weight[[3, 100]], stored[[100, 3]]);
    assert!(weight.is_standard_layout());
}

#[test]
fn a_weight_behind_identity_and_transpose_is_the_same_module() {
    let plain = fixture("qwen2-tied");
    let routed = changed("qwen2-tied", |graph| {
        let weight = node(graph, Q0).input[1].clone();
        node(graph, Q0).input[1] = "turned back".into();
        let chain = [
            op("Identity", &weight, "routed"),
            op("Transpose", "routed", "turned"),
            op("Transpose", "turned", "turned back"),
        ];
        graph.node.splice(0..0, chain);
    });
    assert_eq!(digest(&plain), digest(&routed));
    let targets = find_targets(&routed).unwrap();
    assert!(targets.targets[0].stored_transposed && !targets.targets[0].shared);

    let turned = changed("qwen2-tied", |graph| {
        let name = node(graph, V0).input[1].clone();
        node(graph, V0).input[1] = "turned".into();
        let weight = plain.weight(&find_targets(&plain).unwrap().targets[2]).unwrap();
        let bytes: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = graph.initializer.iter_mut().find(|t| t.name() == name).unwrap();
        *tensor = f32_tensor(&name, &[32, 64], bytes.into());
        graph.node.insert(0, op("Transpose", &name, "turned"));
    });
    assert_eq!(digest(&plain), digest(&turned));
    assert!(!find_targets(&turned).unwrap().targets[2].stored_transposed);
}

#[test]
fn a_matrix_two_modules_read_is_recorded_as_shared() {
    let model = changed("qwen2-tied", |graph| {
        let weight = node(graph, K0).input[1].clone();
        node(graph, V0).input[1] = "shared".into();
        graph.node.insert(0, op("Identity", &weight, "shared"));
    });
    let targets = find_targets(&model).unwrap().targets;
    let shared: Vec<_> = targets.iter().filter(|t| t.shared).map(|t| t.module.role).collect();
    assert_eq!(shared, [Role::K, Role::V, Role::LmHead]);
    assert_eq!(targets[1].initializer, targets[2].initializer);
}

#[test]
fn the_digest_depends_on_linear_weights_alone() {
    let plain = digest(&fixture("qwen2-tied"));
    let flip = |name: &str| {
        changed("qwen2-tied", |graph| {
            let tensor = graph.initializer.iter_mut().find(|t| t.name() == name).unwrap();
            let mut bytes = tensor.raw_data.clone().unwrap().to_vec();
            bytes[0] ^= 1;
            tensor.raw_data = Some(bytes.into());
        })
    };
    assert_ne!(digest(&flip("onnx::MatMul_778")), plain);
    assert_eq!(digest(&flip("model.embed_tokens.weight")), plain);
    assert_ne!(digest(&fixture("llama-untied")), plain);
}

/// The values were computed in Python from the safetensors checkpoints behind these exports.
#[test]
fn the_digest_of_an_export_is_that_of_its_checkpoint() {
    for (name, expected) in [
        ("qwen2-tied", "41847746f9ed0170a34e5ada1015c9cec149a7bda5d3514c7502a7dc0568b62d"),
        ("llama-untied", "24fc17f5a90d2e8fa4594392f5a4cab896184a557a248296c685e9a219ffb42b"),
    ] {
        let hex: String = digest(&fixture(name)).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected);
    }
}

#[test]
fn the_digest_is_the_documented_one() {
    use sha2::{Digest, Sha256};
    let model = fixture("llama-untied");
    let mut outer = Sha256::new_with_prefix(b"tla-base-v1\0\0\0\0\0");
    let targets = find_targets(&model).unwrap().targets;
    for target in targets.into_iter().filter(|t| t.module != ModuleId::LM_HEAD) {
        let weight = model.weight(&target).unwrap();
        let values: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
        outer.update(target.module.layer.to_le_bytes());
        outer.update([target.module.role.code()]);
        outer.update((target.rows as u32).to_le_bytes());
        outer.update((target.cols as u32).to_le_bytes());
        outer.update(Sha256::digest(&values));
    }
    assert_eq!(digest(&model)[..], outer.finalize()[..]);
}

#[test]
fn an_incomplete_model_has_targets_but_no_digest() {
    let model = changed("qwen2-tied", |graph| {
        node(graph, Q0).name = Some("/model/layers.0/self_attn/w_proj/MatMul".into());
    });
    let targets = find_targets(&model).unwrap();
    assert_eq!(targets.targets.len(), 14);
    let names: Vec<_> = targets.skipped.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["/model/layers.0/self_attn/w_proj/MatMul", "layers.0"]);
    let missing = ModuleId { layer: 0, role: Role::Q };
    match base_digest(&model, &targets) {
        Err(ModelError::NoDigest { module }) => assert_eq!(module, missing),
        other => panic!("{other:?}"),
    }
    assert_eq!(summarize(&model, &targets).unwrap().base_digest, None);
}

#[test]
fn an_integer_weight_without_a_scale_is_skipped_and_says_so() {
    let model = changed("qwen2-tied", |graph| {
        let name = node(graph, Q0).input[1].clone();
        let tensor = graph.initializer.iter_mut().find(|t| t.name() == name).unwrap();
        tensor.data_type = Some(proto::tensor_proto::DataType::Int32 as i32);
    });
    let skipped = find_targets(&model).unwrap().skipped;
    assert!(skipped[0].name == Q0 && skipped[0].reason.contains("int32"), "{skipped:?}");
}

/// The reason why the query of layer 0 is left out, and what a rule that names it is told.
fn left_out(change: impl Fn(&mut proto::GraphProto)) -> [String; 2] {
    let model = changed("qwen2-tied", change);
    let skipped = find_targets(&model).unwrap().skipped;
    let reason = skipped.iter().find(|s| s.name == Q0).map(|s| s.reason.clone());
    let naming = Naming::new(vec![format!("{Q0}=q").parse().unwrap()]);
    let refused = find_targets_by(&model, &naming).unwrap_err();
    assert!(matches!(refused, ModelError::NamedInVain { .. }), "{refused}");
    [reason.unwrap_or_default(), refused.to_string()]
}

#[test]
fn a_layer_in_a_form_that_is_not_followed_is_named_with_its_reason() {
    let of_einsum = left_out(|graph| {
        let query = node(graph, Q0);
        query.op_type = Some("Einsum".into());
        query.attribute.push(proto::AttributeProto {
            name: Some("equation".into()),
            s: Some(b"bsh,ho->bso".to_vec()),
            r#type: Some(proto::attribute_proto::AttributeType::String as i32),
            ..Default::default()
        });
    });
    let of_function = left_out(|graph| {
        let query = node(graph, Q0);
        (query.op_type, query.domain) = (Some("Linear".into()), Some("local".into()));
    });
    let of_constant = left_out(|graph| {
        let name = node(graph, Q0).input[1].clone();
        let place = graph.initializer.iter().position(|t| t.name() == name).unwrap();
        let tensor = graph.initializer.remove(place);
        let mut constant = op("Constant", "", &name);
        constant.input.clear();
        constant.attribute.push(proto::AttributeProto {
            name: Some("value".into()),
            t: Some(tensor),
            r#type: Some(proto::attribute_proto::AttributeType::Tensor as i32),
            ..Default::default()
        });
        graph.node.insert(0, constant);
    });
    for (told, words) in [
        (of_einsum, "operator Einsum is not adapted"),
        (of_function, "Linear of \"local\" is a function"),
        (of_constant, "comes out of Constant"),
    ] {
        let [reason, refused] = told;
        assert!(reason.contains(words), "{reason}");
        assert!(refused.contains(words) && refused.contains(Q0), "{refused}");
    }
}

#[test]
fn an_operator_beside_the_product_of_its_module_is_not_told_of() {
    let model = changed("qwen2-tied", |graph| {
        let mut rounded = op("Rounding", "", "rounded");
        rounded.input = vec![std::mem::replace(&mut node(graph, Q0).input[0], "rounded".into())];
        rounded.name = Some(Q0.replace("MatMul", "Rounding"));
        rounded.domain = Some("local".into());
        let place = graph.node.iter().position(|n| n.name() == Q0).unwrap();
        graph.node.insert(place, rounded);
    });
    let targets = find_targets(&model).unwrap();
    assert_eq!((targets.targets.len(), targets.skipped), (15, Vec::new()));
}

#[test]
fn two_nodes_that_claim_one_module_are_refused() {
    let model = changed("qwen2-tied", |graph| node(graph, K0).name = Some(Q0.into()));
    assert!(matches!(find_targets(&model), Err(ModelError::ClaimedTwice { .. })));
}

#[test]
fn a_model_without_modules_is_refused() {
    let model = changed("qwen2-tied", |graph| {
        graph.node.iter_mut().for_each(|n| n.name = None);
    });
    assert!(matches!(find_targets(&model), Err(ModelError::NothingToAdapt { .. })));
}

#[test]
fn a_file_and_its_folder_are_the_same_model() {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/optimum-fp32/qwen2-tied");
    let file = OnnxModel::load(&folder.join("model.onnx")).unwrap();
    assert_eq!(file.proto, OnnxModel::load(&folder).unwrap().proto);
    let summary = summarize(&file, &find_targets(&file).unwrap()).unwrap();
    assert_eq!((summary.layers, summary.targets.len()), (2, 15));
    assert!(matches!(summary.kind, Kind::Onnx { opset: 18, .. }), "{:?}", summary.kind);
}
