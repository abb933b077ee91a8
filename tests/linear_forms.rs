//! Forms of a linear layer beside the plain product: Gemm, integers that are multiplied as such, a head that
//! is tied to the embedding, integers that two modules share. Each is found, grafted and merged, and runs
//! in plain Python onnxruntime as it must.
#![cfg(feature = "std")]

mod logits;

use logits::{Tokens, apart, root};
use ndarray::Array2;
use prost::bytes::Bytes;
use std::path::PathBuf;
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{
        OnnxModel, Targets, base_digest, find_targets,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{
            AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto,
            attribute_proto::AttributeType, tensor_proto::DataType,
        },
        write_model,
    },
    surgery::{graft, merge, rebuild_from, verify_merged},
};

const V: [f32; 13] = [0.3, -0.2, 0.25, 0.1, -0.35, 0.2, 0.15, -0.3, 0.4, 0.05, -0.1, 0.3, 0.2];

fn adapter() -> Header {
    Header { seed: 5, scale: 0.5, ..Header::default() }
}

fn plain(name: &str) -> OnnxModel {
    OnnxModel::load(&root().join("fixtures/exports/optimum-fp32").join(name)).unwrap()
}

/// A model in a folder, with what its architecture's tokens need.
struct Place {
    folder: TempDir,
    model: OnnxModel,
    targets: Targets,
    tokens: Tokens,
}

impl Place {
    fn new(name: &str, change: impl FnOnce(&OnnxModel, &Targets, &mut GraphProto)) -> Self {
        let base = plain(name);
        let mut proto = base.inlined().unwrap();
        change(&base, &find_targets(&base).unwrap(), proto.graph.as_mut().unwrap());
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.onnx");
        let made = OnnxModel::from_proto(proto.clone(), path.clone()).unwrap();
        write_model(&made, &proto, &path.with_file_name("new.onnx")).unwrap();
        std::fs::rename(path.with_file_name("new.onnx"), &path).unwrap();
        let model = OnnxModel::load(&path).unwrap();
        let targets = find_targets(&model).unwrap();
        Self { folder, model, targets, tokens: Tokens::of(base.folder()) }
    }

    fn write(&self, proto: &tla::model::proto::ModelProto, name: &str) -> PathBuf {
        let out = self.folder.path().join(name);
        write_model(&self.model, proto, &out).unwrap();
        out
    }

    fn base(&self) -> Vec<f32> {
        self.tokens.logits(&self.model.path)
    }

    /// Logits at v = 0, by default, and with one vector for each row, the last of them zero.
    fn grafted(&self, header: &Header) -> [Vec<f32>; 3] {
        let grafted = graft(&self.model, &self.targets, header, &V, 2).unwrap();
        let out = self.write(&grafted.proto, "grafted.onnx");
        let zero = vec![0.0; V.len()];
        let mut runs = self.tokens.grafted(&out, &[&[&zero], &[&V[..], &V[..], &zero]]);
        let by_row = runs.remove(2);
        [runs.remove(1), runs.remove(0), by_row]
    }

    fn merged(&self, header: &Header) -> Vec<f32> {
        let factors = rebuild_from(&self.model, &self.targets, header, &V, 2).unwrap();
        let merged = merge(&self.model, &self.targets, header, &factors, 2).unwrap();
        self.tokens.logits(&self.write(&merged.proto, "merged.onnx"))
    }

    fn apart(&self, a: &[f32], b: &[f32]) -> f32 {
        apart(a, b, &self.tokens.mask)
    }

    /// Grafted at zero it is the base to the bit; by default, row by row, it is what is expected.
    fn check_graft(&self, header: &Header, expected: &[f32], near: f32) {
        let [at_zero, default, by_row] = self.grafted(header);
        let base = self.base();
        assert_eq!(self.apart(&at_zero, &base), 0.0);
        let gap = self.apart(&default, expected);
        assert!(gap < near, "the default is {gap:e} from what is expected");
        assert!(self.apart(&default, &base) > 20.0 * near);
        let last = base.len() * 2 / 3;
        assert!(self.apart(&by_row[..last], &default[..last]) < 1e-5);
        assert!(self.apart(&by_row[last..], &base[last..]) < 1e-5);
    }
}

fn replaced(graph: &mut GraphProto, index: usize, nodes: Vec<NodeProto>) {
    graph.node.splice(index..=index, nodes);
}

/// Every linear layer as torch exports one of two dimensions: `Gemm` with the weight as the checkpoint
/// has it, and zeros as bias.
fn as_gemm(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto, turned: bool) {
    let mut sites: Vec<_> =
        targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD).collect();
    sites.sort_by_key(|t| std::cmp::Reverse(t.node.as_ref().unwrap().index));
    for target in sites {
        let site = target.node.as_ref().unwrap();
        let old = graph.node[site.index].clone();
        let weight = base.weight(target).unwrap();
        let (rows, cols) = (target.rows as i64, target.cols as i64);
        let name = |part: &str| format!("{}.{part}", old.name());
        let stored = if turned { weight.t().to_owned() } else { weight };
        let shape = if turned { [cols, rows] } else { [rows, cols] };
        let values: Vec<f32> = stored.iter().copied().collect();
        graph.initializer.push(tensor_f32(&name("w"), &shape, &values));
        graph.initializer.push(tensor_f32(&name("b"), &[rows], &vec![0.0; rows as usize]));
        graph.initializer.push(tensor_i64(&name("flat"), &[2], &[-1, cols]));
        graph.initializer.push(tensor_i64(&name("two"), &[2], &[0, 1]));
        graph.initializer.push(tensor_i64(&name("rows"), &[1], &[rows]));
        let of =
            |op: &str, part: &str, inputs: &[&str]| node(op, &name(part), inputs, &[&name(part)]);
        let gemm = node(
            "Gemm",
            &old.name().replace("MatMul", "Gemm"),
            &[&name("x"), &name("w"), &name("b")],
            &[&name("y")],
        );
        let flag = |n, key: &str, on| with_attribute(n, key, Attribute::Int(i64::from(on)));
        let gemm = flag(gemm, "transB", !turned);
        let gemm = with_attribute(gemm, "alpha", Attribute::Float(1.0));
        let gemm = with_attribute(gemm, "beta", Attribute::Float(1.0));
        let concat = of("Concat", "to", &[&name("leading"), &name("rows")]);
        let nodes = vec![
            of("Reshape", "x", &[&old.input[0], &name("flat")]),
            gemm,
            of("Shape", "shape", &[&old.input[0]]),
            of("Gather", "leading", &[&name("shape"), &name("two")]),
            flag(concat, "axis", false),
            node("Reshape", &name("back"), &[&name("y"), &name("to")], &[&old.output[0]]),
        ];
        replaced(graph, site.index, nodes);
    }
}

#[test]
fn a_gemm_is_the_module_its_name_says_whichever_way_its_weight_lies() {
    let reference = Place::new("qwen2-tied", |_, _, _| {});
    let expected = reference.merged(&adapter());
    for turned in [false, true] {
        let place = Place::new("qwen2-tied", |base, targets, graph| {
            as_gemm(base, targets, graph, turned);
        });
        let digest = |place: &Place| base_digest(&place.model, &place.targets).unwrap();
        assert_eq!(digest(&place), digest(&reference), "transB = {}", !turned);
        let gap = place.apart(&place.merged(&adapter()), &expected);
        assert!(gap < 1e-4, "merged: {gap:e}");
        place.check_graft(&adapter(), &expected, 1e-4);
    }
}

#[test]
fn a_plain_product_of_matrices_takes_a_vector_for_each_row_beside_a_gemm_too() {
    let reference = Place::new("qwen2-tied", |_, _, _| {});
    let expected = reference.merged(&adapter());
    for mixed in [false, true] {
        let place = Place::new("qwen2-tied", |base, targets, graph| {
            as_gemm(base, targets, graph, true);
            let query = |n: &NodeProto| n.name().contains("layers.0/self_attn/q_proj/Gemm");
            let read = graph.node.iter().find(|n| query(n)).unwrap().input[0].clone();
            for gemm in graph.node.iter_mut().filter(|n| n.op_type() == "Gemm") {
                let name = gemm.name().to_owned();
                if mixed && query(gemm) {
                    continue;
                }
                if ["k_proj", "v_proj"]
                    .iter()
                    .any(|n| name.contains("layers.0") && name.contains(n))
                {
                    gemm.input[0] = read.clone();
                }
                gemm.op_type = Some("MatMul".into());
                gemm.name = Some(name.replace("Gemm", "MatMul"));
                gemm.input.truncate(2);
                gemm.attribute.clear();
            }
        });
        place.check_graft(&adapter(), &expected, 1e-4);
    }
}

#[test]
fn a_gemm_that_shares_its_matrix_gets_one_of_its_own_the_way_it_reads_it() {
    let roles = RoleSet::from_roles([Role::V]).unwrap();
    let header = Header { roles, layers: 1, ..adapter() };
    let share = |graph: &mut GraphProto| {
        let find = |graph: &GraphProto, part: &str| {
            graph
                .node
                .iter()
                .position(|n| n.name().contains(part) && n.op_type() == "Gemm")
                .unwrap()
        };
        let weight = graph.node[find(graph, "layers.0/self_attn/k_proj")].input[1].clone();
        let v = find(graph, "layers.0/self_attn/v_proj");
        graph.node[v].input[1] = weight;
    };
    for turned in [false, true] {
        let place = Place::new("qwen2-tied", |base, targets, graph| {
            as_gemm(base, targets, graph, turned);
            share(graph);
        });
        assert!(place.targets.get(ModuleId::new(0, Role::V)).unwrap().shared);
        let expected = place.merged(&header);
        place.check_graft(&header, &expected, 1e-5);
    }
}

#[test]
fn a_gemm_that_scales_its_product_is_skipped_with_the_reason() {
    let place = Place::new("qwen2-tied", |base, targets, graph| {
        as_gemm(base, targets, graph, true);
        let gemm = graph.node.iter_mut().find(|n| n.op_type() == "Gemm").unwrap();
        let alpha = gemm.attribute.iter_mut().find(|a| a.name() == "alpha").unwrap();
        alpha.f = Some(0.5);
    });
    let skipped = &place.targets.skipped;
    assert!(skipped.iter().any(|s| s.reason.contains("turns or scales")), "{skipped:?}");
}

fn bytes(name: &str, dims: &[i64], kind: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.into(),
        data_type: Some(kind as i32),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

/// Eight bits of each column of `[in, out]`, its scales, and what they stand for.
fn quantised(weight: &Array2<f32>) -> (Vec<i8>, Vec<f32>) {
    let scale =
        |row: ndarray::ArrayView1<f32>| row.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
    let scales: Vec<f32> = weight.rows().into_iter().map(scale).collect();
    let turned = weight.t();
    let values = turned.indexed_iter().map(|((_, out), w)| (w / scales[out]).round() as i8);
    (values.collect(), scales)
}

/// Every linear layer as ONNX Runtime's dynamic quantisation leaves it.
fn as_integers(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) {
    let mut sites: Vec<_> =
        targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD).collect();
    sites.sort_by_key(|t| std::cmp::Reverse(t.node.as_ref().unwrap().index));
    for target in sites {
        let site = target.node.as_ref().unwrap();
        let old = graph.node[site.index].clone();
        let name = |part: &str| format!("{}_{part}", old.name());
        let (values, scales) = quantised(&base.weight(target).unwrap());
        let shape = [target.cols as i64, target.rows as i64];
        let raw = values.iter().map(|&q| q as u8).collect();
        graph.initializer.push(bytes(&name("q"), &shape, DataType::Int8, raw));
        graph.initializer.push(tensor_f32(&name("s"), &[shape[1]], &scales));
        graph.initializer.push(bytes(
            &name("z"),
            &[shape[1]],
            DataType::Int8,
            vec![0; target.rows],
        ));
        let [x, xs, xz] = ["x", "xs", "xz"].map(name);
        let cast = node("Cast", &name("cast"), &[&name("i")], &[&name("f")]);
        let nodes = vec![
            node("DynamicQuantizeLinear", &name("quantize"), &[&old.input[0]], &[&x, &xs, &xz]),
            node("Mul", &name("scales_mul"), &[&xs, &name("s")], &[&name("scales")]),
            node(
                "MatMulInteger",
                &name("quant"),
                &[&x, &name("q"), &xz, &name("z")],
                &[&name("i")],
            ),
            with_attribute(cast, "to", Attribute::Int(DataType::Float as i64)),
            node("Mul", &name("out"), &[&name("f"), &name("scales")], &[&old.output[0]]),
        ];
        replaced(graph, site.index, nodes);
    }
}

#[test]
fn integers_that_are_multiplied_as_such_take_a_graft_and_a_merge() {
    let place = Place::new("llama-untied", as_integers);
    let linear = place.targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
    assert_eq!(linear.clone().count(), 14);
    for target in linear {
        assert_eq!((target.stored_as(), target.stored_transposed), ("int8".into(), true));
        let reference = plain("llama-untied");
        let original = find_targets(&reference).unwrap();
        let original = reference.weight(original.get(target.module).unwrap()).unwrap();
        let most = original.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        let weight = place.model.weight(target).unwrap();
        assert!(weight.iter().zip(&original).all(|(a, b)| (a - b).abs() <= 0.51 * most));
    }
    let [at_zero, default, _] = place.grafted(&adapter());
    let (base, merged) = (place.base(), place.merged(&adapter()));
    assert_eq!(place.apart(&at_zero, &base), 0.0);
    let (gap, effect) = (place.apart(&merged, &default), place.apart(&default, &base));
    println!("integers: merged is {gap:.1e} from grafted, the adapter's effect {effect:.1e}");
    assert!(effect > 0.1 && gap < 0.5 * effect, "{gap:e} {effect:e}");
}

#[test]
fn a_head_is_a_module_and_one_that_is_tied_leaves_the_embedding_alone() {
    let roles = RoleSet::from_roles([Role::LmHead]).unwrap();
    let header = Header { roles, ..adapter() };
    for (name, tied) in [("qwen2-tied", true), ("llama-untied", false)] {
        let place = Place::new(name, |_, _, _| {});
        let head = place.targets.get(ModuleId::LM_HEAD).unwrap();
        assert_eq!((head.rows, head.cols, head.shared), (256, 64, tied));
        let expected = place.merged(&header);
        place.check_graft(&header, &expected, 1e-4);
        let factors = rebuild_from(&place.model, &place.targets, &header, &V, 2).unwrap();
        let merged = merge(&place.model, &place.targets, &header, &factors, 2).unwrap();
        let merged = OnnxModel::load(&place.write(&merged.proto, "again.onnx")).unwrap();
        let values = |model: &OnnxModel, name: &str| {
            model.tensor_bytes(model.initializer(name).unwrap()).unwrap()
        };
        if tied {
            let same =
                values(&place.model, &head.initializer) == values(&merged, &head.initializer);
            assert!(same, "the embedding is another");
        }
        let digest = |model: &OnnxModel| base_digest(model, &find_targets(model).unwrap()).unwrap();
        assert_eq!(digest(&place.model), digest(&merged), "the head is part of the digest");
    }
}

/// The whole graph twice, in both branches of an If, as the merged decoders of older exports have it. The
/// matrices stay outside.
fn as_branches(graph: &mut GraphProto) {
    let branch = |suffix: &str| {
        let mut branch = GraphProto {
            name: Some(suffix.into()),
            node: graph.node.clone(),
            output: graph.output.clone(),
            ..GraphProto::default()
        };
        let outputs: Vec<_> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let names = branch.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
        for name in names.filter(|name| outputs.contains(name)) {
            name.push_str(suffix);
        }
        for output in &mut branch.output {
            output.name = Some(format!("{}{suffix}", output.name()));
        }
        branch
    };
    let branches = [("then_branch", branch(".then")), ("else_branch", branch(".else"))];
    let outputs: Vec<&str> = graph.output.iter().map(|o| o.name()).collect();
    let mut choice = node("If", "choice", &["always"], &outputs);
    for (name, branch) in branches {
        choice.attribute.push(AttributeProto {
            name: Some(name.into()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(branch),
            ..AttributeProto::default()
        });
    }
    graph.initializer.push(bytes("always", &[], DataType::Bool, vec![1]));
    graph.node = vec![choice];
    graph.value_info.clear();
}

#[test]
fn matrices_that_branches_read_are_merged_into_and_not_grafted_beside() {
    let reference = Place::new("qwen2-tied", |_, _, _| {});
    let place = Place::new("qwen2-tied", |_, _, graph| as_branches(graph));
    let digest = |place: &Place| base_digest(&place.model, &place.targets).unwrap();
    assert_eq!(digest(&place), digest(&reference));
    let (header, expected) = (adapter(), reference.merged(&adapter()));
    assert_eq!(place.apart(&place.merged(&header), &expected), 0.0);
    let refused = graft(&place.model, &place.targets, &header, &V, 2).unwrap_err();
    assert!(refused.to_string().contains("inside a branch"), "{refused}");
    // The head's matrix is the embedding's, which must stay.
    assert!(place.targets.get(ModuleId::LM_HEAD).is_none());
    let reason = |s: &tla::model::Skipped| s.reason.contains("others read its matrix");
    assert!(place.targets.skipped.iter().any(reason), "{:?}", place.targets.skipped);
}

/// Key and value of the first layer with the integers of one, behind one `DequantizeLinear` and a
/// Transpose.
fn share_integers(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) {
    let target = targets.get(ModuleId::new(0, Role::K)).unwrap();
    let (values, scales) = quantised(&base.weight(target).unwrap());
    let [rows, cols] = [target.rows as i64, target.cols as i64];
    let whole = Array2::from_shape_vec((target.cols, target.rows), values).unwrap();
    let raw = whole.t().iter().map(|&q| q as u8).collect();
    graph.initializer.push(bytes("q", &[rows, cols], DataType::Int8, raw));
    graph.initializer.push(tensor_f32("s", &[rows], &scales));
    let widened = node("DequantizeLinear", "dq", &["q", "s"], &["wide"]);
    let turned = node("Transpose", "turn", &["wide"], &["turned"]);
    for module in [ModuleId::new(0, Role::K), ModuleId::new(0, Role::V)] {
        let site = targets.get(module).unwrap().node.as_ref().unwrap();
        graph.node[site.index].input[1] = "turned".into();
    }
    let widened = with_attribute(widened, "axis", Attribute::Int(0));
    let turned = with_attribute(turned, "perm", Attribute::Ints(vec![1, 0]));
    graph.node.splice(0..0, [widened, turned]);
}

/// Key and value of the first layer with one matrix of 16 bits, behind a Cast and a Transpose.
fn share_halves(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) {
    let target = targets.get(ModuleId::new(0, Role::K)).unwrap();
    let weight = base.weight(target).unwrap();
    let raw = weight.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()).collect();
    let shape = [target.rows as i64, target.cols as i64];
    graph.initializer.push(bytes("h", &shape, DataType::Float16, raw));
    let widened = node("Cast", "cast", &["h"], &["wide"]);
    let turned = node("Transpose", "turn", &["wide"], &["turned"]);
    for module in [ModuleId::new(0, Role::K), ModuleId::new(0, Role::V)] {
        let site = targets.get(module).unwrap().node.as_ref().unwrap();
        graph.node[site.index].input[1] = "turned".into();
    }
    let widened = with_attribute(widened, "to", Attribute::Int(DataType::Float as i64));
    let turned = with_attribute(turned, "perm", Attribute::Ints(vec![1, 0]));
    graph.node.splice(0..0, [widened, turned]);
}

#[test]
fn what_two_modules_share_is_copied_the_way_it_is_stored_before_it_is_written() {
    let roles = RoleSet::from_roles([Role::V]).unwrap();
    let header = Header { roles, layers: 1, scale: 2.0, ..adapter() };
    let key = ModuleId::new(0, Role::K);
    for share in [share_integers, share_halves] {
        let place = Place::new("qwen2-tied", share);
        assert!(place.targets.get(key).unwrap().shared);
        let [_, grafted, _] = place.grafted(&header);
        let (base, merged) = (place.base(), place.merged(&header));
        let (gap, effect) = (place.apart(&merged, &grafted), place.apart(&grafted, &base));
        assert!(effect > 1e-2 && gap < 0.5 * effect, "{gap:e} {effect:e}");
        let path = place.folder.path().join("merged.onnx");
        let model = OnnxModel::load(&path).unwrap();
        let factors = rebuild_from(&place.model, &place.targets, &header, &V, 2).unwrap();
        let differs = verify_merged(&place.model, &place.targets, &header, &factors, &model, 2);
        assert_eq!(differs.unwrap(), []);
        let targets = find_targets(&model).unwrap();
        let weight = |model: &OnnxModel, targets: &Targets, module| {
            model.weight(targets.get(module).unwrap()).unwrap()
        };
        let before = weight(&place.model, &place.targets, key);
        assert_eq!(weight(&model, &targets, key), before);
        assert_ne!(weight(&model, &targets, ModuleId::new(0, Role::V)), before);
    }
}

#[test]
fn a_module_of_the_main_graph_and_of_a_branch_is_adapted_in_neither() {
    let key = ModuleId::new(0, Role::K);
    let place = Place::new("qwen2-tied", |_, targets, graph| {
        let site = targets.get(key).unwrap().node.as_ref().unwrap();
        let mut again = graph.node[site.index].clone();
        again.output = vec!["again".into()];
        let branch = GraphProto {
            name: Some("branch".into()),
            node: vec![again],
            output: vec![ValueInfoProto { name: Some("again".into()), ..Default::default() }],
            ..GraphProto::default()
        };
        let mut choice = node("If", "choice", &["always"], &["chosen"]);
        choice.attribute = ["then_branch", "else_branch"]
            .map(|name| AttributeProto {
                name: Some(name.into()),
                r#type: Some(AttributeType::Graph as i32),
                g: Some(branch.clone()),
                ..AttributeProto::default()
            })
            .into();
        graph.initializer.push(bytes("always", &[], DataType::Bool, vec![1]));
        graph.node.push(choice);
    });
    assert!(place.targets.get(key).is_none());
    let reason = |s: &tla::model::Skipped| s.reason.contains("a module of both is not adapted");
    assert!(place.targets.skipped.iter().any(reason), "{:?}", place.targets.skipped);
    base_digest(&place.model, &place.targets).unwrap_err();
}

#[test]
fn a_packed_gemm_is_cut_along_its_second_axis() {
    for (axis, fits) in [(1, true), (-1, true), (2, false)] {
        let gemm = node("Gemm", "/model/layers.0/self_attn/qkv_proj/Gemm", &["x", "w"], &["y"]);
        let cut = node("Split", "cut", &["y", "sizes"], &["q", "k", "v"]);
        let graph = GraphProto {
            node: vec![
                with_attribute(gemm, "transB", Attribute::Int(1)),
                with_attribute(cut, "axis", Attribute::Int(axis)),
            ],
            initializer: vec![
                tensor_f32("w", &[8, 4], &[0.5; 32]),
                tensor_i64("sizes", &[3], &[4, 2, 2]),
            ],
            ..GraphProto::default()
        };
        let mut proto = plain("qwen2-tied").proto.clone();
        proto.graph = Some(graph);
        let model = OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap();
        let found = find_targets(&model).map(|targets| {
            targets.targets.iter().map(|t| (t.module.role, t.rows)).collect::<Vec<_>>()
        });
        let expected = vec![(Role::Q, 4), (Role::K, 2), (Role::V, 2)];
        assert_eq!(found.ok(), fits.then_some(expected), "axis {axis}");
    }
}
