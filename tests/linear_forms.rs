//! Forms of a linear layer beside the plain product: Gemm, integers that are multiplied as such, a head that
//! is tied to the embedding, integers that two modules share. Each is found, grafted and merged, and runs
//! in plain Python onnxruntime as it must.
#![cfg(feature = "std")]

mod forms;
mod logits;

use forms::{
    Place, V, adapter, as_gemm, as_integers, as_integers_within, bytes, plain, quantised, replaced,
};
use ndarray::Array2;
use std::path::PathBuf;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{
        Naming, OnnxModel, Targets, base_digest, find_targets, find_targets_by,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{
            AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
            tensor_proto::DataType,
        },
        summarize,
    },
    surgery::{merge, rebuild_from, verify_merged},
};

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

/// Every linear layer as a product of matrices whose number of dimensions nothing says, and behind each
/// an operator that takes none but matrices.
fn as_matrices_of_unknown_rank(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) {
    as_gemm(base, targets, graph, true);
    let turn = |name: &str, from: &str, to: &str| {
        with_attribute(node("Transpose", name, &[from], &[to]), "perm", Attribute::Ints(vec![1, 0]))
    };
    for index in (0..graph.node.len()).rev() {
        let gemm = graph.node[index].clone();
        if gemm.op_type() != "Gemm" {
            continue;
        }
        let name = |part: &str| format!("{}.{part}", gemm.name());
        let [known, hidden, made, turned] = ["known", "hidden", "made", "turned"].map(name);
        let same = node("Einsum", &hidden, &[&gemm.input[0]], &[&hidden]);
        let product = gemm.name().replace("Gemm", "MatMul");
        let nodes = vec![
            with_attribute(same, "equation", Attribute::Text("ij->ij".into())),
            node("MatMul", &product, &[&hidden, &gemm.input[1]], &[&made]),
            turn(&known, &made, &turned),
            turn(&turned, &turned, &gemm.output[0]),
        ];
        replaced(graph, index, nodes);
    }
}

#[test]
fn where_nothing_says_how_many_dimensions_a_product_has_the_sum_has_as_many() {
    let reference = Place::new("qwen2-tied", |_, _, _| {});
    let expected = reference.merged(&adapter());
    let place = Place::new("qwen2-tied", as_matrices_of_unknown_rank);
    let linear = place.targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
    assert!(linear.clone().count() == 14 && linear.flat_map(|t| &t.node).all(|site| !site.batched));
    place.check_graft(&adapter(), &expected, 1e-4);
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
    let sizes = |is_head: bool| {
        let of =
            place.targets.targets.iter().filter(|t| (t.module == ModuleId::LM_HEAD) == is_head);
        of.map(|t| (t.rows * t.cols) as u64).sum::<u64>()
    };
    let summary = summarize(&place.model, &place.targets).unwrap();
    assert_eq!(summary.adaptable_bytes, sizes(false) + 4 * sizes(true));
    let [at_zero, default, _] = place.grafted(&adapter());
    let (base, merged) = (place.base(), place.merged(&adapter()));
    assert_eq!(place.apart(&at_zero, &base), 0.0);
    let (gap, effect) = (place.apart(&merged, &default), place.apart(&default, &base));
    println!("integers: merged is {gap:.1e} from grafted, the adapter's effect {effect:.1e}");
    assert!(effect > 0.1 && gap < 0.5 * effect, "{gap:e} {effect:e}");
}

#[test]
fn integers_within_a_reduced_range_stay_there_and_carry_the_adapter() {
    let place = Place::new("llama-untied", |base, targets, graph| {
        as_integers_within(base, targets, graph, 64.0);
    });
    let [_, grafted, _] = place.grafted(&adapter());
    let (base, header) = (place.base(), adapter());
    let effect = place.apart(&grafted, &base);
    let largest = |name: &str| {
        let model = OnnxModel::load(&place.folder.path().join(name)).unwrap();
        let is_weight =
            |t: &&TensorProto| t.data_type() == DataType::Int8 as i32 && t.dims.len() == 2;
        let weights = model.graph().initializer.iter().filter(is_weight);
        let bytes = weights.flat_map(|t| model.tensor_bytes(t).unwrap().to_vec());
        bytes.map(|byte| (byte as i8).unsigned_abs()).max()
    };
    assert_eq!(largest("model.onnx"), Some(64));
    for (name, logits) in
        [("merged.onnx", place.merged(&header)), ("fitted.onnx", place.fitted(&header))]
    {
        assert_eq!(largest(name), Some(64), "{name}");
        let gap = place.apart(&logits, &grafted);
        println!("{name} is {gap:.1e} from grafted, the adapter's effect {effect:.1e}");
        assert!(effect > 0.1 && gap < 0.5 * effect, "{name}: {gap:e} {effect:e}");
    }
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

/// A packed gate and up projection, cut where half of its last dimension is: `of` is whose shape is
/// taken, `axis` which of its sizes, and `kind` what that is cast to.
fn halved(
    of: &str,
    axis: i64,
    kind: DataType,
    activated: &str,
) -> Option<Vec<(Role, usize, usize)>> {
    let cast = node("Cast", "cast", &["size"], &["number"]);
    let graph = GraphProto {
        node: vec![
            node("MatMul", "/model/layers.0/mlp/gate_up_proj/MatMul", &["x", "w"], &["y"]),
            node("Shape", "shape", &[of], &["shape"]),
            node("Gather", "gather", &["shape", "axis"], &["size"]),
            with_attribute(cast, "to", Attribute::Int(kind as i64)),
            node("Add", "add", &["number", "one"], &["more"]),
            node("Div", "div", &["more", "two"], &["half"]),
            node("Mul", "mul", &["half", "one"], &["middle"]),
            node("Mul", "mul again", &["half", "two"], &["end"]),
            node("Slice", "first", &["y", "zero", "middle", "last"], &["a"]),
            node("Slice", "second", &["y", "middle", "end", "last"], &["b"]),
            node("Sigmoid", "activate", &[activated], &["activated"]),
        ],
        initializer: vec![
            tensor_f32("w", &[4, 8], &[0.5; 32]),
            tensor_i64("axis", &[1], &[axis]),
            tensor_i64("zero", &[1], &[0]),
            tensor_i64("one", &[1], &[1]),
            tensor_i64("two", &[1], &[2]),
            tensor_i64("last", &[1], &[-1]),
        ],
        ..GraphProto::default()
    };
    let mut proto = plain("qwen2-tied").proto.clone();
    proto.graph = Some(graph);
    let model = OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap();
    let place = |t: &tla::model::Target| (t.module.role, t.part.unwrap().first, t.rows);
    Some(find_targets(&model).ok()?.targets.iter().map(place).collect())
}

#[test]
fn a_packed_projection_is_cut_where_its_own_last_dimension_says() {
    let integer = DataType::Int64;
    let cut = |gate, up| Some(vec![(Role::Gate, gate, 4), (Role::Up, up, 4)]);
    for axis in [-1, 2] {
        assert_eq!(halved("y", axis, integer, "a"), cut(0, 4));
        assert_eq!(halved("y", axis, integer, "b"), cut(4, 0));
    }
    // Of another value, along another axis, or in numbers that are not whole, nothing is known.
    assert_eq!(halved("x", -1, integer, "a"), None);
    assert_eq!(halved("y", 1, integer, "a"), None);
    assert_eq!(halved("y", -1, DataType::Float, "a"), None);
}

#[test]
fn a_weight_of_a_constant_node_is_refused_with_what_helps() {
    let value = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(tensor_f32("value", &[4, 4], &[0.5; 16])),
        ..AttributeProto::default()
    };
    let mut constant = node("Constant", "constant", &[], &["w"]);
    constant.attribute.push(value);
    let query = node("MatMul", "query", &["x", "w"], &["y"]);
    let mut proto = plain("qwen2-tied").proto.clone();
    proto.graph = Some(GraphProto { node: vec![constant, query], ..GraphProto::default() });
    let model = OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap();
    let naming = Naming::new(vec!["query=q".parse().unwrap()]);
    let refused = find_targets_by(&model, &naming).unwrap_err().to_string();
    for words in ["out of Constant", "store it as one", "Or leave it out of --module"] {
        assert!(refused.contains(words), "{refused}");
    }
}
