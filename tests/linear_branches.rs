//! Linear layers inside the branches of If: merged into where the main graph holds their matrices, taken
//! for no one's who reads them too, and grafted beside nowhere.
#![cfg(feature = "std")]

mod forms;
mod logits;

use forms::{Place, V, adapter, as_integers, bytes, quantised};
use tla::{
    format::{ModuleId, Role},
    model::{
        Naming, OnnxModel, Targets, base_digest, find_targets_by,
        node::{Attribute, node, tensor_f32, with_attribute},
        proto::{
            AttributeProto, GraphProto, NodeProto, ValueInfoProto, attribute_proto::AttributeType,
            tensor_proto::DataType,
        },
    },
    surgery::graft,
};

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

#[test]
fn a_rule_may_name_a_node_inside_a_branch() {
    let place = Place::new("qwen2-tied", |_, _, graph| as_branches(graph));
    let by = |rule: &str| {
        find_targets_by(&place.model, &Naming::new(vec![rule.parse().unwrap()]))
            .map(|found| found.targets.iter().filter(|t| t.module.role == Role::Up).count())
    };
    assert_eq!(by("/model/layers.{layer}/mlp/up_proj/MatMul=up").ok(), Some(2));
    let renamed = by("/model/layers.{layer}/nowhere/MatMul=up").unwrap_err().to_string();
    assert!(renamed.contains("no node or tensor"), "{renamed}");
}

/// Lets every branch read another value, which nodes of the main graph make.
fn lead(graph: &mut GraphProto, from: &str, to: &str, nodes: Vec<NodeProto>) {
    let choice = graph.node.iter_mut().find(|n| n.op_type() == "If").unwrap();
    let branches = choice.attribute.iter_mut().flat_map(|a| &mut a.g);
    let inputs = branches.flat_map(|g| &mut g.node).flat_map(|n| &mut n.input);
    inputs.filter(|name| *name == from).for_each(|name| *name = to.into());
    graph.node.splice(0..0, nodes);
}

/// The branches, and in the main graph an Identity for each matrix, or a Transpose of it as it is stored.
fn as_branches_behind(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto, turned: bool) {
    as_branches(graph);
    for target in targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD) {
        let (name, way) = (&target.initializer, format!("{}.way", target.initializer));
        let mut made = node(if turned { "Transpose" } else { "Identity" }, &way, &[name], &[&way]);
        if turned {
            made = with_attribute(made, "perm", Attribute::Ints(vec![1, 0]));
            let weight = base.weight(target).unwrap();
            let values: Vec<f32> = weight.iter().copied().collect();
            let stored = graph.initializer.iter_mut().find(|t| t.name() == name).unwrap();
            *stored = tensor_f32(name, &[target.rows as i64, target.cols as i64], &values);
        }
        lead(graph, name, &way, vec![made]);
    }
}

#[test]
fn what_leads_in_the_main_graph_from_a_matrix_to_the_branches_alone_is_theirs() {
    let reference = Place::new("qwen2-tied", |_, _, _| {});
    let expected = reference.merged(&adapter());
    for turned in [false, true] {
        let place = Place::new("qwen2-tied", |base, targets, graph| {
            as_branches_behind(base, targets, graph, turned);
        });
        let linear = place.targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
        assert!(linear.clone().count() == 14 && linear.clone().all(|t| !t.shared));
        assert!(linear.clone().all(|t| t.stored_transposed != turned));
        assert_eq!(place.apart(&place.merged(&adapter()), &expected), 0.0);
        // Not if the main graph has another use of it.
        let key = ModuleId::new(0, Role::K);
        let other = Place::new("qwen2-tied", |base, targets, graph| {
            as_branches_behind(base, targets, graph, turned);
            let way = format!("{}.way", targets.get(key).unwrap().initializer);
            graph.node.push(node("Shape", "another", &[&way], &["its shape"]));
        });
        assert!(other.targets.get(key).is_none());
        let reason = |s: &tla::model::Skipped| {
            s.name.contains("layers.0/self_attn/k_proj") && s.reason.contains("others read")
        };
        assert!(other.targets.skipped.iter().any(reason), "{:?}", other.targets.skipped);
    }
}

/// The key of the first layer as integers behind a DequantizeLinear and a Transpose.
fn as_dequantised(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) -> Vec<NodeProto> {
    let target = targets.get(ModuleId::new(0, Role::K)).unwrap();
    let (values, scales) = quantised(&base.weight(target).unwrap());
    let raw = values.iter().map(|&q| q as u8).collect();
    let shape = [target.cols as i64, target.rows as i64];
    graph.initializer.push(bytes("q", &shape, DataType::Int8, raw));
    graph.initializer.push(tensor_f32("s", &[shape[1]], &scales));
    let widened = node("DequantizeLinear", "dq", &["q", "s"], &["wide"]);
    vec![
        with_attribute(widened, "axis", Attribute::Int(1)),
        node("Identity", "same", &["wide"], &["the key"]),
    ]
}

#[test]
fn integers_that_the_main_graph_dequantises_for_the_branches_are_merged_into() {
    let key = ModuleId::new(0, Role::K);
    let initializer = |targets: &Targets| targets.get(key).unwrap().initializer.clone();
    let outside = Place::new("qwen2-tied", |base, targets, graph| {
        let nodes = as_dequantised(base, targets, graph);
        let name = initializer(targets);
        let inputs = graph.node.iter_mut().flat_map(|n| &mut n.input);
        inputs.filter(|input| **input == name).for_each(|input| *input = "the key".into());
        graph.node.splice(0..0, nodes);
    });
    let inside = Place::new("qwen2-tied", |base, targets, graph| {
        as_branches(graph);
        let nodes = as_dequantised(base, targets, graph);
        lead(graph, &initializer(targets), "the key", nodes);
    });
    for place in [&outside, &inside] {
        let target = place.targets.get(key).unwrap();
        assert_eq!((target.stored_as(), target.shared), ("int8".into(), false));
    }
    let [expected, found] = [&outside, &inside].map(|place| place.merged(&adapter()));
    assert_eq!(outside.apart(&found, &expected), 0.0);
    assert!(outside.apart(&found, &outside.base()) > 1e-2);
}

#[test]
fn integers_that_branches_multiply_as_such_are_merged_into() {
    let outside = Place::new("llama-untied", as_integers);
    let inside = Place::new("llama-untied", |base, targets, graph| {
        as_integers(base, targets, graph);
        as_branches(graph);
    });
    let digest = |place: &Place| base_digest(&place.model, &place.targets).unwrap();
    assert_eq!(digest(&inside), digest(&outside));
    let linear = inside.targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
    assert_eq!(linear.filter(|t| t.stored_as() == "int8" && t.node.is_none()).count(), 14);
    let [expected, found] = [&outside, &inside].map(|place| place.merged(&adapter()));
    assert_eq!(outside.apart(&found, &expected), 0.0);
    assert!(outside.apart(&found, &outside.base()) > 1e-2);
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
