//! Merging writes round(W + ΔW) into the selected weights and touches nothing else.
#![cfg(feature = "std")]

use ndarray::Array2;
use std::path::Path;
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{OnnxModel, Targets, base_digest, f32_tensor, find_targets, proto::*, write_model},
    projection::{Factors, delta, merged_f32, select},
    surgery::{Merged, SurgeryError, merge, verify_merged},
};

fn fixture(name: &str) -> OnnxModel {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports/optimum-fp32");
    let path = exports.join(name).join("model.onnx");
    let proto = prost::Message::decode(&std::fs::read(&path).unwrap()[..]).unwrap();
    OnnxModel::from_proto(proto, path).unwrap()
}

fn header(roles: &[Role]) -> Header {
    Header {
        roles: RoleSet::from_roles(roles.iter().copied()).unwrap(),
        scale: 0.5,
        ..Header::default()
    }
}

/// Factors of the selected modules with entries in ±`size`, from a small generator.
fn factors(targets: &Targets, header: &Header, size: f64) -> Vec<Factors> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * size
    };
    let known: Vec<_> = targets.targets.iter().map(|t| t.module).collect();
    let selected = select(header, &known).unwrap();
    let mut make = |module| {
        let target = targets.get(module).unwrap();
        let l = Array2::from_shape_simple_fn((target.rows, 2), &mut next);
        let v = Array2::from_shape_simple_fn((target.cols, 2), &mut next);
        Factors { module, l, v }
    };
    selected.into_iter().map(&mut make).collect()
}

fn reloaded(merged: &Merged) -> OnnxModel {
    OnnxModel::from_proto(merged.proto.clone(), "merged.onnx".into()).unwrap()
}

const ALL: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

#[test]
fn selected_weights_are_the_rounded_sum_and_all_else_stays() {
    for name in ["qwen2-tied", "llama-untied"] {
        let base = fixture(name);
        let targets = find_targets(&base).unwrap();
        let header = header(&[Role::V, Role::Down]);
        let factors = factors(&targets, &header, 0.1);
        let merged = merge(&base, &targets, &header, &factors, 1).unwrap();
        let after = reloaded(&merged);
        assert_eq!(find_targets(&after).unwrap(), targets);
        for target in &targets.targets {
            let mut expected = base.weight(target).unwrap();
            if let Some(factors) = factors.iter().find(|f| f.module == target.module) {
                let delta = delta(factors, header.scale);
                expected.zip_mut_with(&delta, |w, &d| *w = merged_f32(*w, d));
                assert_ne!(expected, base.weight(target).unwrap());
            }
            assert_eq!(after.weight(target).unwrap(), expected, "{}", target.module);
        }
        let selected: Vec<_> = factors.iter().map(|f| f.module).collect();
        for (old, new) in base.graph().initializer.iter().zip(&after.graph().initializer) {
            let target = targets.targets.iter().find(|t| t.initializer == old.name());
            if target.is_none_or(|t| !selected.contains(&t.module)) {
                assert_eq!(old, new);
            }
        }
        let bare = |model: &OnnxModel| {
            let mut proto = model.proto.clone();
            proto.graph.as_mut().unwrap().initializer.clear();
            proto
        };
        assert_eq!(bare(&base), bare(&after));
        assert_ne!(base_digest(&base, &targets).unwrap(), base_digest(&after, &targets).unwrap());
    }
}

#[test]
fn threads_do_not_show() {
    let base = fixture("qwen2-tied");
    let targets = find_targets(&base).unwrap();
    let header = header(&ALL);
    let factors = factors(&targets, &header, 0.01);
    let one = merge(&base, &targets, &header, &factors, 1).unwrap();
    for threads in [0, 2, 7] {
        let many = merge(&base, &targets, &header, &factors, threads).unwrap();
        assert_eq!(many.proto, one.proto);
        assert_eq!(many.survival, one.survival);
    }
}

#[test]
fn survival_says_how_much_of_the_update_is_left() {
    let base = fixture("qwen2-tied");
    let targets = find_targets(&base).unwrap();
    let header = header(&ALL);
    let survival = |size| {
        let factors = factors(&targets, &header, size);
        merge(&base, &targets, &header, &factors, 0).unwrap().survival
    };
    let whole = survival(0.1);
    assert_eq!(whole.modules.len(), 14);
    assert!((whole.fraction() - 1.0).abs() < 1e-4, "{}", whole.fraction());
    assert!(whole.modules.iter().all(|m| (m.fraction() - 1.0).abs() < 1e-4));
    let gone = survival(1e-8);
    assert!(gone.lost_most(), "{}", gone.fraction());
    assert_eq!(survival(0.0).fraction(), 1.0);
}

#[test]
fn a_merged_file_verifies_against_base_and_adapter() {
    let base = fixture("llama-untied");
    let targets = find_targets(&base).unwrap();
    let header = header(&ALL);
    let factors = factors(&targets, &header, 0.1);
    let merged = merge(&base, &targets, &header, &factors, 0).unwrap();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("merged.onnx");
    write_model(&base, &merged.proto, &out).unwrap();
    let file = OnnxModel::load(&out).unwrap();
    assert_eq!(verify_merged(&base, &targets, &header, &factors, &file, 0).unwrap(), []);
    // The base itself is another model, in every selected weight.
    let found = verify_merged(&base, &targets, &header, &factors, &base, 0).unwrap();
    assert_eq!(found.len(), 14, "{found:?}");
}

fn graph(proto: &mut ModelProto) -> &mut GraphProto {
    proto.graph.as_mut().unwrap()
}

#[test]
fn every_tampering_is_found() {
    let base = fixture("qwen2-tied");
    let targets = find_targets(&base).unwrap();
    let header = header(&[Role::Down]);
    let factors = factors(&targets, &header, 0.1);
    let merged = merge(&base, &targets, &header, &factors, 0).unwrap();
    let check = |what: &str, count: usize, change: &dyn Fn(&mut ModelProto)| {
        let mut proto = merged.proto.clone();
        change(&mut proto);
        let model = OnnxModel::from_proto(proto, "tampered.onnx".into()).unwrap();
        let found = verify_merged(&base, &targets, &header, &factors, &model, 0).unwrap();
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert!(found[0].what.starts_with(what), "{what}: {found:?}");
        assert_eq!(found[0].count, count, "{what}: {found:?}");
    };
    for name in ["onnx::MatMul_778", "onnx::MatMul_744", "model.embed_tokens.weight"] {
        check(&format!("initializer {name:?}"), 2, &|p| {
            let list = &mut graph(p).initializer;
            let tensor = list.iter_mut().find(|t| t.name() == name).unwrap();
            let mut raw = tensor.raw_data.clone().unwrap().to_vec();
            raw[4] ^= 1;
            raw[403] ^= 0x80;
            tensor.raw_data = Some(raw.into());
        });
    }
    check("initializer \"extra\"", 1, &|p| {
        graph(p).initializer.push(f32_tensor("extra", &[1], vec![0; 4].into()));
    });
    check("node 0", 1, &|p| graph(p).node[0].domain = Some("x".into()));
    check("nodes", 1, &|p| drop(graph(p).node.pop()));
    check("inputs", 1, &|p| drop(graph(p).input.pop()));
    check("outputs", 2, &|p| graph(p).output.swap(0, 1));
    check("opset", 1, &|p| p.opset_import[0].version = Some(17));
    check("model properties", 1, &|p| p.ir_version = Some(9));
    check("graph properties", 1, &|p| graph(p).doc_string = Some("x".into()));
}

#[test]
fn a_shared_matrix_is_copied_for_the_selected_module_only() {
    let mut base = fixture("qwen2-tied");
    let graph = graph(&mut base.proto);
    let index =
        |graph: &GraphProto, name: &str| graph.node.iter().position(|n| n.name() == name).unwrap();
    let k = index(graph, "/model/layers.0/self_attn/k_proj/MatMul");
    let v = index(graph, "/model/layers.0/self_attn/v_proj/MatMul");
    let weight = graph.node[k].input[1].clone();
    graph.node[v].input[1] = "shared".into();
    let identity = NodeProto {
        op_type: Some("Identity".into()),
        input: vec![weight],
        output: vec!["shared".into()],
        ..Default::default()
    };
    graph.node.insert(0, identity);

    let targets = find_targets(&base).unwrap();
    let header = header(&[Role::V]);
    let factors = factors(&targets, &header, 0.1);
    let merged = merge(&base, &targets, &header, &factors, 0).unwrap();
    let after = reloaded(&merged);
    let found = find_targets(&after).unwrap();
    let module = |role| ModuleId { layer: 0, role };
    let (k, v) = (module(Role::K), module(Role::V));
    let read =
        |model: &OnnxModel, targets: &Targets, m| model.weight(targets.get(m).unwrap()).unwrap();
    assert_eq!(read(&after, &found, k), read(&base, &targets, k));
    let mut expected = read(&base, &targets, v);
    expected.zip_mut_with(&delta(&factors[0], header.scale), |w, &d| *w = merged_f32(*w, d));
    assert_eq!(read(&after, &found, v), expected);
    assert!(!found.get(v).unwrap().shared);
    assert_eq!(after.graph().initializer.len(), base.graph().initializer.len() + 1);
    assert_eq!(verify_merged(&base, &targets, &header, &factors, &after, 0).unwrap(), []);
}

#[test]
fn factors_that_are_not_the_adapters_are_refused() {
    let base = fixture("qwen2-tied");
    let targets = find_targets(&base).unwrap();
    let header = header(&[Role::Q, Role::Up]);
    let good = factors(&targets, &header, 0.1);
    let refused = |factors: &[Factors]| merge(&base, &targets, &header, factors, 0).unwrap_err();
    assert!(matches!(refused(&good[..3]), SurgeryError::OtherFactors { .. }));
    assert!(matches!(refused(&[]), SurgeryError::OtherFactors { .. }));
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    assert!(matches!(refused(&swapped), SurgeryError::OtherFactors { .. }));
    let extra = [&good[..], &good[..1]].concat();
    assert!(matches!(refused(&extra), SurgeryError::OtherFactors { .. }));
    let mut short = good.clone();
    short[1].l = Array2::zeros((3, 2));
    assert!(matches!(refused(&short), SurgeryError::FactorShape { .. }));
    let mut huge = good.clone();
    huge[0].l.fill(1e300);
    huge[0].v.fill(1e300);
    assert!(matches!(refused(&huge), SurgeryError::NotFinite { row: 0, col: 0, .. }));
}

#[test]
fn an_adapter_for_modules_the_model_lacks_is_refused() {
    let base = fixture("qwen2-tied");
    let targets = find_targets(&base).unwrap();
    let header = Header { first_layer: 1, layers: 3, ..header(&[Role::Q]) };
    let refused = merge(&base, &targets, &header, &[], 0).unwrap_err();
    assert!(matches!(refused, SurgeryError::Projection(_)), "{refused}");
}
