//! A patch is applied as a whole or refused, and then the graph is as it was.
#![cfg(feature = "std")]

use proptest::prelude::*;
use tla::{
    model::{f32_tensor, proto::*},
    surgery::{Edit, Patch, PatchError},
};

fn node(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        name: Some(name.into()),
        op_type: Some("Op".into()),
        input: inputs.iter().map(|&s| s.into()).collect(),
        output: outputs.iter().map(|&s| s.into()).collect(),
        ..Default::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

fn tensor(name: &str) -> TensorProto {
    f32_tensor(name, &[2], vec![0; 8].into())
}

/// x, w → first → a; a → second → b; a, b → third → y, with a nested graph that reads b and
/// makes c.
fn graph() -> GraphProto {
    let nested = GraphProto { node: vec![node("inner", &["b"], &["c"])], ..Default::default() };
    let mut third = node("third", &["a", "b"], &["y"]);
    third.attribute =
        vec![AttributeProto { name: Some("body".into()), g: Some(nested), ..Default::default() }];
    GraphProto {
        node: vec![node("first", &["x", "w"], &["a"]), node("second", &["a"], &["b"]), third],
        initializer: vec![tensor("w"), tensor("s")],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    }
}

fn apply(edits: Vec<Edit>) -> Result<GraphProto, PatchError> {
    let mut patched = graph();
    match (Patch { edits }).apply(&mut patched) {
        Ok(()) => Ok(patched),
        Err(error) => {
            assert_eq!(patched, graph(), "a refused patch changed the graph");
            Err(error)
        }
    }
}

/// Refuses `edits`, also behind edits that are good in themselves.
fn refuse(edits: Vec<Edit>) -> PatchError {
    let good = [
        Edit::AddInitializer(tensor("good")),
        Edit::InsertAfter { node_index: 1, nodes: vec![node("good", &["good", "a"], &["g"])] },
        Edit::AddOutput(value("g")),
    ];
    apply(good.into_iter().chain(edits.clone()).collect()).unwrap_err();
    apply(edits).unwrap_err()
}

fn rewire(node_index: usize, slot: usize, from: &str, to: &str) -> Edit {
    Edit::RewireInput { node_index, slot, from: from.into(), to: to.into() }
}

fn rename(node_index: usize, slot: usize, from: &str, to: &str) -> Edit {
    Edit::RenameOutput { node_index, slot, from: from.into(), to: to.into() }
}

fn replace(name: &str, tensor: TensorProto) -> Edit {
    Edit::ReplaceTensor { name: name.into(), tensor }
}

#[test]
fn a_side_path_can_take_the_name_of_what_it_adds_to() {
    let patched = apply(vec![
        Edit::AddInput(value("v")),
        Edit::AddInitializer(f32_tensor("v", &[1], vec![0; 4].into())),
        rename(0, 0, "a", "a_base"),
        Edit::InsertAfter { node_index: 0, nodes: vec![node("p", &["x", "v"], &["path"])] },
        Edit::InsertAfter { node_index: 0, nodes: vec![node("add", &["a_base", "path"], &["a"])] },
        Edit::AddOutput(value("a_base")),
    ])
    .unwrap();
    let names: Vec<_> = patched.node.iter().map(|n| n.name()).collect();
    assert_eq!(names, ["first", "p", "add", "second", "third"]);
    assert_eq!(patched.node[0].output, ["a_base"]);
    assert_eq!(patched.node[3..], graph().node[1..]);
    assert_eq!(patched.initializer.len(), 3);
    assert_eq!(patched.output.len(), 2);
}

#[test]
fn a_weight_is_replaced_in_place_and_a_copy_is_wired_to_one_node() {
    let other = f32_tensor("w", &[2], vec![1; 8].into());
    let patched = apply(vec![
        replace("w", other.clone()),
        Edit::AddInitializer(tensor("copy")),
        rewire(1, 0, "a", "copy"),
        Edit::ReplaceOutputs(vec![value("b")]),
    ])
    .unwrap();
    assert_eq!(patched.initializer[0], other);
    assert_eq!(patched.node[1].input, ["copy"]);
    assert_eq!(patched.output, [value("b")]);
}

#[test]
fn an_initializer_can_become_an_overridable_input() {
    assert!(apply(vec![Edit::AddInput(value("w"))]).is_ok());
}

#[test]
fn places_that_do_not_exist_are_refused() {
    use PatchError::*;
    let inserted = || vec![node("n", &["x"], &["n"])];
    let insert = |node_index| Edit::InsertAfter { node_index, nodes: inserted() };
    for edit in [insert(3), insert(usize::MAX), rewire(3, 0, "x", "w"), rename(9, 0, "a", "z")] {
        assert!(matches!(refuse(vec![edit]), NoSuchNode { .. }));
    }
    for edit in [rewire(0, 2, "x", "w"), rename(0, 1, "a", "z")] {
        assert!(matches!(refuse(vec![edit]), NoSuchSlot { .. }));
    }
    for edit in [rewire(0, 0, "w", "s"), rename(0, 0, "b", "z")] {
        assert!(matches!(refuse(vec![edit]), NotAsPlanned { .. }));
    }
    assert!(matches!(refuse(vec![replace("x", tensor("x"))]), NoSuchTensor { .. }));
}

#[test]
fn names_that_are_taken_are_refused() {
    let insert = |output: &str, name: &str| Edit::InsertAfter {
        node_index: 0,
        nodes: vec![node(name, &["x"], &[output])],
    };
    for edits in [
        vec![Edit::AddInitializer(tensor("w"))],
        vec![Edit::AddInitializer(tensor("x"))],
        vec![Edit::AddInitializer(tensor("a"))],
        vec![Edit::AddInitializer(tensor("c"))],
        vec![Edit::AddInitializer(tensor("n")), Edit::AddInitializer(tensor("n"))],
        vec![Edit::AddInput(value("x"))],
        vec![Edit::AddInput(value("a"))],
        vec![Edit::AddOutput(value("y"))],
        vec![Edit::ReplaceOutputs(vec![value("y"), value("y")])],
        vec![insert("a", "n")],
        vec![insert("x", "n")],
        vec![insert("w", "n")],
        vec![insert("c", "n")],
        vec![insert("n", "second")],
        vec![insert("n", "n"), insert("n", "m")],
        vec![rename(0, 0, "a", "b"), insert("a", "n")],
    ] {
        let error = refuse(edits.clone());
        assert!(matches!(error, PatchError::NameTaken { .. }), "{edits:?}: {error}");
    }
}

#[test]
fn values_that_nobody_makes_in_time_are_refused() {
    let insert =
        |input: &str| Edit::InsertAfter { node_index: 0, nodes: vec![node("n", &[input], &["n"])] };
    for edits in [
        vec![insert("nothing")],
        vec![insert("b")],
        vec![insert("n")],
        vec![insert("c")],
        vec![rewire(0, 0, "x", "b")],
        vec![rewire(0, 0, "x", "a")],
        vec![rename(0, 0, "a", "z")],
        vec![
            rename(1, 0, "b", "z"),
            rewire(2, 1, "b", "z"), // the nested graph still reads b
        ],
        vec![Edit::AddOutput(value("nothing"))],
        vec![Edit::ReplaceOutputs(vec![value("c")])],
    ] {
        let error = refuse(edits.clone());
        assert!(matches!(error, PatchError::NotAvailable { .. }), "{edits:?}: {error}");
    }
}

#[test]
fn replacements_change_values_only() {
    let mut integers = tensor("w");
    integers.data_type = Some(tensor_proto::DataType::Int32 as i32);
    let column = f32_tensor("w", &[2, 1], vec![0; 8].into());
    for (other, part) in [(tensor("s"), "name"), (integers, "type"), (column, "shape")] {
        match refuse(vec![replace("w", other)]) {
            PatchError::NotAlike { part: found, .. } => assert_eq!(found, part),
            error => panic!("{error}"),
        }
    }
    let short = f32_tensor("w", &[2], vec![0; 7].into());
    assert!(matches!(refuse(vec![replace("w", short)]), PatchError::BadTensor(_)));
    let negative = TensorProto { dims: vec![-2], ..tensor("n") };
    assert!(matches!(refuse(vec![Edit::AddInitializer(negative)]), PatchError::BadTensor(_)));
}

#[test]
fn edits_that_collide_or_do_nothing_are_refused() {
    use PatchError::*;
    for edits in [
        vec![replace("w", tensor("w")), replace("w", tensor("w"))],
        vec![rewire(2, 0, "a", "x"), rewire(2, 0, "a", "w")],
        vec![rename(0, 0, "a", "z"), rename(0, 0, "a", "z")],
        vec![Edit::ReplaceOutputs(vec![value("y")]), Edit::ReplaceOutputs(vec![value("y")])],
    ] {
        assert!(matches!(refuse(edits), Conflict { .. }));
    }
    for edit in [
        rewire(0, 0, "x", "x"),
        rename(0, 0, "a", "a"),
        Edit::InsertAfter { node_index: 0, nodes: vec![] },
    ] {
        assert!(matches!(refuse(vec![edit]), NoChange { .. }));
    }
}

#[test]
fn things_without_names_are_refused() {
    use PatchError::*;
    for edit in [
        Edit::AddInitializer(tensor("")),
        Edit::AddInput(value("")),
        Edit::AddOutput(value("")),
        Edit::ReplaceOutputs(vec![value("")]),
        rewire(0, 0, "x", ""),
        rename(0, 0, "a", ""),
    ] {
        assert!(matches!(refuse(vec![edit]), Unnamed { .. }));
    }
    let nodes = vec![NodeProto { op_type: None, ..node("n", &["x"], &["n"]) }];
    assert!(matches!(refuse(vec![Edit::InsertAfter { node_index: 0, nodes }]), NoOperator { .. }));
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let name = || prop::sample::select(vec!["", "x", "w", "s", "a", "b", "c", "y", "n", "m"]);
    let place = || (0usize..4, 0usize..3);
    prop_oneof![
        name().prop_map(|n| Edit::AddInitializer(tensor(n))),
        (name(), name()).prop_map(|(n, m)| replace(n, tensor(m))),
        name().prop_map(|n| Edit::AddInput(value(n))),
        name().prop_map(|n| Edit::AddOutput(value(n))),
        (0usize..4, name(), name(), name()).prop_map(|(node_index, n, i, o)| Edit::InsertAfter {
            node_index,
            nodes: vec![node(n, &[i], &[o])]
        }),
        (place(), name(), name()).prop_map(|((n, s), f, t)| rewire(n, s, f, t)),
        (place(), name(), name()).prop_map(|((n, s), f, t)| rename(n, s, f, t)),
        name().prop_map(|n| Edit::ReplaceOutputs(vec![value(n)])),
    ]
}

proptest! {
    #[test]
    fn any_patch_leads_to_a_valid_graph_or_changes_nothing(
        edits in prop::collection::vec(any_edit(), 1..5)
    ) {
        if let Ok(mut patched) = apply(edits) {
            // The empty patch checks the graph it is given.
            prop_assert!(Patch::default().apply(&mut patched).is_ok());
        }
    }
}
