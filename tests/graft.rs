//! A grafted model in plain Python onnxruntime: the base at v = 0, the merged model by default, and
//! an adapter of its own for every row of a batch.
#![cfg(feature = "std")]

mod logits;

use logits::{ROWS, Tokens, apart, root};
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Projection, Role, RoleSet, Split, Tying},
    model::{OnnxModel, Targets, base_digest, find_targets, proto::GraphProto, write_model},
    projection::{Factors, factors_digest},
    surgery::{
        GraftError, Grafted, SurgeryError, VALUES, graft, lowrank_patch, merge, rebuild_from,
    },
};

fn fixture(name: &str) -> (OnnxModel, Targets) {
    let model = OnnxModel::load(&root().join("fixtures").join(name)).unwrap();
    let targets = find_targets(&model).unwrap();
    (model, targets)
}

const QWEN: &str = "exports/optimum-fp32/qwen2-tied";
const LLAMA: &str = "exports/optimum-fp32/llama-untied";

/// Values that make α·v about 0.3, whatever α.
fn values(header: &Header) -> Vec<f32> {
    let value = |i: usize| {
        let size = (0.25 + 0.01 * (i % 16) as f32) / header.scale;
        if i % 3 == 1 { -size } else { size }
    };
    (0..header.parameters()).map(value).collect()
}

fn rebuilt(model: &OnnxModel, targets: &Targets, header: &Header, v: &[f32]) -> Vec<Factors> {
    rebuild_from(model, targets, header, v, 2).unwrap()
}

fn written(grafted: &Grafted, model: &OnnxModel, folder: &TempDir) -> std::path::PathBuf {
    let out = folder.path().join("grafted.onnx");
    write_model(model, &grafted.proto, &out).unwrap();
    out
}

/// Base, merged and grafted model of one adapter agree where they must.
fn agree(name: &str, header: &Header) {
    let (model, targets) = fixture(name);
    let v = values(header);
    let factors = rebuilt(&model, &targets, header, &v);
    let folder = TempDir::new().unwrap();
    let merged_out = folder.path().join("merged.onnx");
    let merged = merge(&model, &targets, header, &factors, 2).unwrap();
    write_model(&model, &merged.proto, &merged_out).unwrap();
    let grafted = graft(&model, &targets, header, &v, 2).unwrap();
    assert_eq!(grafted.factors_digest, factors_digest(&factors));
    let out = written(&grafted, &model, &folder);

    let tokens = Tokens::of(model.folder());
    let (base, merged) = (tokens.logits(&model.path), tokens.logits(&merged_out));
    let zero = vec![0.0; v.len()];
    let other: Vec<f32> = v.iter().rev().map(|x| -0.5 * x).collect();
    let each = [&v[..], &zero, &other];
    let runs = tokens.grafted(&out, &[&[each[0]], &[each[1]], &[each[2]], &each]);
    let [default, fed, at_zero, at_other, by_row] = &runs[..] else { panic!("five runs") };

    let gap = apart(default, &merged, &tokens.mask);
    let effect = apart(default, &base, &tokens.mask);
    let rest = apart(at_zero, &base, &tokens.mask);
    println!("{name}: merged {gap:.1e}, base at v = 0 {rest:.1e}, effect {effect:.1e}");
    assert!(gap < 1e-4, "{name}: the default is {gap:e} from the merged model");
    assert!(effect > 1e-2, "{name}: the adapter moves the logits by {effect:e}");
    assert!(rest < 1e-6, "{name}: v = 0 is {rest:e} from the base");
    assert_eq!(fed, default, "{name}: the default and the same values fed");
    assert!(apart(at_other, default, &tokens.mask) > 1e-2, "{name}: other values change nothing");
    let row = by_row.len() / ROWS;
    for (k, alone) in [fed, at_zero, at_other].into_iter().enumerate() {
        let of = |logits: &Vec<f32>| logits[k * row..][..row].to_vec();
        let gap = apart(&of(by_row), &of(alone), &tokens.row(k).mask);
        assert!(gap < 1e-6, "{name}: row {k} is {gap:e} from its adapter fed to all rows");
    }
}

fn header(roles: &[Role]) -> Header {
    let roles = RoleSet::from_roles(roles.iter().copied()).unwrap();
    Header { roles, seed: 5, ..Header::default() }
}

#[test]
fn all_modules_of_a_qwen2_with_one_group() {
    agree("wordmath", &Header::default());
}

#[test]
fn some_layers_of_a_qwen2_in_structured_groups_with_both_singular_values_split() {
    let groups = Header {
        groups: 4,
        width: 3,
        tying: Tying::Structured,
        split: Split::Peft,
        ..header(&ALL)
    };
    agree("wordmath", &Header { first_layer: 1, layers: 2, scale: 0.125, ..groups });
}

#[test]
fn a_value_for_each_module_of_a_qwen2() {
    let each = Header { groups: 14, width: 1, split: Split::Peft, scale: 0.5, ..header(&ALL) };
    agree(QWEN, &each);
}

#[test]
fn one_layer_of_a_llama_in_tiled_groups_at_rank_three() {
    let three =
        Header { rank: 3, groups: 2, width: 4, scale: 2.5, ..header(&[Role::O, Role::Down]) };
    agree(LLAMA, &Header { first_layer: 1, layers: 1, ..three });
}

#[test]
fn all_of_r_as_values_of_a_llama() {
    let unit = Header { projection: Projection::Unit, rank: 3, width: 9, ..header(&ALL) };
    agree(LLAMA, &Header { groups: 14, tying: Tying::Structured, scale: 2.0, ..unit });
}

#[test]
fn one_r_for_all_modules_of_a_llama() {
    let unit = Header { projection: Projection::Unit, width: 4, ..header(&[Role::V, Role::Up]) };
    agree(LLAMA, &Header { split: Split::Peft, ..unit });
}

#[test]
fn a_row_alone_has_the_logits_it_has_in_the_batch() {
    let (model, targets) = fixture(QWEN);
    let header = Header::default();
    let v = values(&header);
    let folder = TempDir::new().unwrap();
    let out = written(&graft(&model, &targets, &header, &v, 2).unwrap(), &model, &folder);
    let tokens = Tokens::of(model.folder());
    let other: Vec<f32> = v.iter().map(|x| -x).collect();
    let together = tokens.grafted(&out, &[&[&other, &v, &other]]).remove(1);
    let row = together.len() / ROWS;
    let second = tokens.row(1);
    let alone = second.grafted(&out, &[]).remove(0);
    assert!(apart(&together[row..2 * row], &alone, &second.mask) < 1e-5);
}

const ALL: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

/// The graph without what a graft adds; a renamed product has its name back.
fn without_graft(graph: &GraphProto) -> GraphProto {
    let mut bare = graph.clone();
    bare.input.retain(|i| i.name() != VALUES);
    bare.initializer.retain(|t| t.name() != VALUES && !t.name().starts_with("tla/"));
    let sums: Vec<_> = graph.node.iter().filter(|n| n.name().ends_with("/sum")).collect();
    bare.node.retain(|n| !n.name().starts_with("tla/"));
    for node in &mut bare.node {
        let renamed = sums.iter().find(|sum| sum.input[0] == node.output[0]);
        if let Some(sum) = renamed {
            node.output[0].clone_from(&sum.output[0]);
        }
    }
    bare
}

#[test]
fn weights_and_nodes_of_the_base_stay_as_they_are() {
    for name in [QWEN, LLAMA] {
        let (model, targets) = fixture(name);
        let header = header(&[Role::K, Role::Gate]);
        let grafted = graft(&model, &targets, &header, &values(&header), 1).unwrap();
        let mut bare = grafted.proto.clone();
        bare.graph = Some(without_graft(bare.graph.as_ref().unwrap()));
        assert_eq!(bare, model.proto);
        let added = grafted.proto.graph.as_ref().unwrap().node.len() - model.graph().node.len();
        assert_eq!((grafted.modules.len(), added), (4, 4 * 4 + 3));

        let after = OnnxModel::from_proto(grafted.proto, model.path.clone()).unwrap();
        let found = find_targets(&after).unwrap();
        let base = base_digest(&model, &targets).unwrap();
        assert_eq!(base_digest(&after, &found).unwrap(), base);
        let paths = found.skipped.iter().filter(|s| s.name.starts_with("tla/"));
        assert!(paths.clone().count() > 0);
        assert!(paths.clone().all(|s| s.reason.contains("grafted")));
    }
}

#[test]
fn threads_do_not_show() {
    let (model, targets) = fixture(QWEN);
    let header = Header::default();
    let with = |threads| graft(&model, &targets, &header, &values(&header), threads).unwrap().proto;
    let one = with(1);
    for threads in [0, 2, 3, 8] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_grafted_model_takes_no_second_adapter() {
    let (model, targets) = fixture(QWEN);
    let header = Header::default();
    let v = values(&header);
    let factors = rebuilt(&model, &targets, &header, &v);
    let proto = graft(&model, &targets, &header, &v, 2).unwrap().proto;
    let grafted = OnnxModel::from_proto(proto, model.path.clone()).unwrap();
    let found = find_targets(&grafted).unwrap();
    let refused = |error: &SurgeryError| {
        assert!(matches!(error, SurgeryError::Graft(GraftError::Grafted { input: VALUES })));
    };
    refused(&graft(&grafted, &found, &header, &v, 2).unwrap_err());
    refused(&merge(&grafted, &found, &header, &factors, 2).unwrap_err());
    let target = found.get(ModuleId::new(0, Role::Q)).unwrap();
    let (left, right) = ([target.rows, 2], [target.cols, 2]);
    let path = tla::surgery::LowRank {
        target,
        left: ndarray::Array2::zeros(left),
        right: ndarray::Array2::zeros(right),
    };
    let trained = lowrank_patch(grafted.graph(), &[path], 2).unwrap_err();
    assert_eq!(trained, GraftError::Grafted { input: VALUES });
}

#[test]
fn what_no_runtime_would_take_is_refused() {
    let (mut model, targets) = fixture(QWEN);
    let header = Header::default();
    let refused = |model: &OnnxModel, header: &Header| match graft(
        model,
        &targets,
        header,
        &vec![0.0; header.parameters()],
        1,
    )
    .unwrap_err()
    {
        SurgeryError::Graft(error) => error,
        other => panic!("{other}"),
    };
    let huge = Header { scale: 3e38, ..header };
    assert!(matches!(refused(&model, &huge), GraftError::Scale { scale: 3e38, .. }));
    let wide = Header { rank: 64, width: 16384, ..header };
    // q, k and v share the columns of one product.
    let numbers = 14 * 16384 * 64 * (3 * 64);
    assert!(
        matches!(refused(&model, &wide), GraftError::TooLarge { numbers: n, .. } if n == numbers)
    );

    let opset = model.proto.opset_import.clone();
    model.proto.opset_import[0].version = Some(12);
    let old = GraftError::OldOpset { version: 12, least: 13 };
    assert_eq!(refused(&model, &header), old);
    model.proto.opset_import = opset;
    model.proto.ir_version = Some(3);
    assert_eq!(refused(&model, &header), GraftError::OldIr { version: 3 });
}

#[test]
fn values_that_are_not_the_headers_are_refused() {
    let (model, targets) = fixture(QWEN);
    let header = Header::default();
    for v in [vec![0.0; 12], vec![f32::NAN; 13]] {
        let error = graft(&model, &targets, &header, &v, 1).unwrap_err();
        assert!(matches!(error, SurgeryError::Projection(_)), "{error}");
    }
}
