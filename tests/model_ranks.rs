//! Where a graph is known to have its tokens in three dimensions, the first of them the rows of the batch:
//! by its inputs and operators, and by nothing that is only claimed.
#![cfg(feature = "std")]

mod logits;

use prost::Message;
use std::{collections::HashSet, path::PathBuf, process::Command};
use tla::model::{
    OnnxModel, find_targets,
    node::{
        Attribute, Dim, node, tensor_f32, tensor_i64, tensor_value, untyped_value, with_attribute,
    },
    proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
        tensor_proto::DataType,
    },
};

fn value(name: &str, dimensions: usize) -> ValueInfoProto {
    let dims: Vec<Dim> = (0..dimensions).map(|n| Dim::Named(format!("d{n}"))).collect();
    tensor_value(name, DataType::Float, &dims)
}

/// Whether a query that multiplies `hidden` is known to be batched, where `before` makes that of x, of
/// so many dimensions, and of the vector.
fn batched(dimensions: usize, before: NodeProto, claimed: &[ValueInfoProto]) -> bool {
    let query = "/model/layers.0/self_attn/q_proj/MatMul";
    let graph = GraphProto {
        input: vec![value("x", dimensions)],
        output: vec![value("y", 3)],
        node: vec![before, node("MatMul", query, &["hidden", "w"], &["y"])],
        initializer: vec![
            tensor_f32("w", &[4, 4], &[0.5; 16]),
            tensor_f32("matrix", &[4, 4], &[0.5; 16]),
            tensor_f32("vector", &[4], &[0.5; 4]),
        ],
        value_info: claimed.to_vec(),
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(18), ..OperatorSetIdProto::default() };
    let proto =
        ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    let model = OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap();
    let targets = find_targets(&model).unwrap();
    targets.targets[0].node.as_ref().unwrap().batched
}

fn product(left: &str, right: &str) -> NodeProto {
    node("MatMul", "before", &[left, right], &["hidden"])
}

#[test]
fn a_product_with_a_vector_has_a_dimension_less() {
    assert!(batched(3, product("x", "matrix"), &[]));
    assert!(!batched(3, product("x", "vector"), &[]));
    assert!(!batched(3, product("vector", "x"), &[]));
    assert!(batched(4, product("x", "vector"), &[]));
    assert!(batched(4, product("vector", "x"), &[]));
    assert!(!batched(3, product("x", "nobody's"), &[]), "of what is multiplied nothing is known");
}

#[test]
fn what_an_exporter_notes_of_a_value_between_is_not_believed() {
    let same = || {
        let equation = Attribute::Text("ij->ij".into());
        with_attribute(node("Einsum", "before", &["x"], &["hidden"]), "equation", equation)
    };
    assert!(!batched(2, same(), &[]));
    assert!(!batched(2, same(), &[value("hidden", 3)]));
}

#[test]
fn a_function_of_the_model_is_not_the_operator_it_is_named_like() {
    let named = |domain: &str| NodeProto {
        domain: Some(domain.into()),
        ..node("Relu", "before", &["x"], &["hidden"])
    };
    assert!(batched(3, named(""), &[]));
    assert!(!batched(3, named("local"), &[]));
}

/// What `line` names: an operator, what it reads, and after ">" what it makes.
fn made_by(line: &str) -> NodeProto {
    let (read, makes) = line.split_once('>').unwrap_or((line, "hidden"));
    let mut words = read.split_whitespace();
    let op = words.next().unwrap();
    let makes: Vec<&str> = makes.split_whitespace().map(|o| o.trim_matches('-')).collect();
    let mut made = node(op.trim_start_matches("ms."), "before", &words.collect::<Vec<_>>(), &makes);
    if op.starts_with("ms.") {
        made.domain = Some("com.microsoft".into());
    }
    let number = |made, key, value| with_attribute(made, key, Attribute::Int(value));
    match made.op_type() {
        "Cast" => number(made, "to", 1),
        "Split" => number(made, "num_outputs", 2),
        "Concat" => number(made, "axis", 0),
        "Mod" => number(made, "fmod", 1),
        "MatMulNBits" => [("K", 16), ("N", 4), ("block_size", 16), ("bits", 4)]
            .into_iter()
            .fold(made, |made, (key, value)| number(made, key, value)),
        _ => made,
    }
}

/// The graph of one such node, whose inputs have so many dimensions.
fn around(made: NodeProto, rank: usize) -> GraphProto {
    let dims = |sizes: usize| vec![4; sizes];
    let input = |name, kind, size| tensor_value(name, kind, &vec![Dim::Fixed(size); rank]);
    let float = |name, dims: &[i64]| {
        tensor_f32(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
    };
    let bytes = |name, dims: &[i64], kind: DataType| TensorProto {
        data_type: Some(kind as i32),
        raw_data: Some(vec![1u8; dims.iter().product::<i64>() as usize].into()),
        ..float(name, dims)
    };
    GraphProto {
        name: Some("made".into()),
        input: vec![
            input("x", DataType::Float, 4),
            input("wide", DataType::Float, 16),
            input("flags", DataType::Bool, 4),
            input("signed", DataType::Int8, 4),
            input("unsigned", DataType::Uint8, 4),
        ],
        output: made.output.iter().filter(|o| !o.is_empty()).map(|o| untyped_value(o)).collect(),
        initializer: vec![
            float("scalar", &[]),
            float("vector", &[4]),
            float("matrix", &[4, 4]),
            float("cube", &[1, 4, 4]),
            float("update", &[vec![1], dims(rank - 1)].concat()),
            bytes("flag", &[4], DataType::Bool),
            bytes("bytes", &[4, 4], DataType::Int8),
            bytes("blocks", &[4, 1, 8], DataType::Uint8),
            tensor_i64("first", &[], &[0]),
            tensor_i64("firsts", &[1], &[0]),
            tensor_i64("second", &[1], &[1]),
            tensor_i64("last", &[1], &[-1]),
            tensor_i64("place", &[1, 1], &[0]),
            tensor_i64("rows", &[2], &[-1, 4]),
            tensor_i64("layers", &[3], &[4, -1, 4]),
            tensor_i64("ones", &[3], &[1; 3]),
            tensor_i64("once", &[rank as i64], &vec![1; rank]),
            tensor_i64("none", &[2 * rank as i64], &vec![0; 2 * rank]),
        ],
        node: vec![made],
        ..GraphProto::default()
    }
}

fn with_opset(graph: GraphProto) -> ModelProto {
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(10),
        graph: Some(graph),
        opset_import: vec![set("", 23), set("com.microsoft", 1)],
        ..ModelProto::default()
    }
}

/// Whether a query that multiplies `hidden` is known to be batched in a graph that makes that.
fn known_to_be_batched(mut graph: GraphProto) -> bool {
    let query = "/model/layers.0/self_attn/q_proj/MatMul";
    graph.node.push(node("MatMul", query, &["hidden", "w"], &["y"]));
    graph.initializer.push(tensor_f32("w", &[4, 4], &[0.5; 16]));
    let model = OnnxModel::from_proto(with_opset(graph), PathBuf::from("made.onnx")).unwrap();
    find_targets(&model).unwrap().targets[0].node.as_ref().unwrap().batched
}

/// Those whose dimensions are held to be known, as in [`made_by`], without attention, rotary embedding,
/// mixtures of experts, and what no processor runs.
const OPERATORS: &str = "\
    Abs x;Ceil x;Clip x;Cos x;Dropout x;Elu x;Erf x;Exp x;Floor x;Gelu x;HardSigmoid x;HardSwish x;\
    Identity x;IsNaN x;LeakyRelu x;Log x;LogSoftmax x;Mish x;Neg x;Reciprocal x;Relu x;Round x;\
    Sigmoid x;Sign x;Sin x;Softmax x;Softplus x;Softsign x;Sqrt x;Tanh x;Transpose x;Trilu x;\
    ms.QuickGelu x;ms.FastGelu x;ms.BiasGelu x vector;Cast x;CastLike x vector;Not flags;\
    CumSum x first;DequantizeLinear signed scalar;QuantizeLinear x scalar;\
    DynamicQuantizeLinear x > hidden scale zero;DynamicQuantizeLinear x > q hidden zero;\
    LayerNormalization x vector;RMSNormalization x vector;SimplifiedLayerNormalization x vector;\
    ms.SkipLayerNormalization x x vector;ms.SkipLayerNormalization x x vector > normal - - hidden;\
    ms.SkipSimplifiedLayerNormalization x x vector;\
    ms.SkipSimplifiedLayerNormalization x x vector > normal - - hidden;\
    Pad x none;ScatterND x place update;Slice x firsts second;Split x > hidden other;\
    Split x > other hidden;Tile x once;ms.MatMulNBits wide blocks vector;\
    Add x vector;Add x cube;Add scalar x;And flags flag;Div x cube;Equal x vector;Greater x vector;\
    GreaterOrEqual x cube;Less x vector;LessOrEqual x vector;Max x cube vector;Mean x vector;\
    Min x vector;Mod x cube;Mul cube x;Or flags flag;PRelu x vector;Pow x cube;Sub x x;Sum x cube;\
    Where flag x cube;Where flag scalar x;MatMul x vector;MatMul vector x;MatMul x matrix;\
    MatMul x cube;MatMul matrix x;MatMulInteger unsigned bytes;ms.FusedMatMul x matrix;\
    ms.FusedMatMul x cube;ms.DynamicQuantizeMatMul x bytes vector;Gemm x matrix;Flatten x;Shape x;\
    Gather x first;Gather x second;Gather x place;Reshape x rows;Reshape x layers;Expand x ones;\
    Concat x x;Unsqueeze x second;ReduceMean x last;ReduceSum x last;\
    ReduceMax x last";

#[test]
fn what_is_held_of_dimensions_is_what_the_runtime_makes() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for line in OPERATORS.split(';') {
        for rank in [2, 3, 4] {
            let graph = around(made_by(line.trim()), rank);
            let path = folder.path().join(format!("{}.onnx", cases.len()));
            std::fs::write(path, with_opset(graph.clone()).encode_to_vec()).unwrap();
            cases.push((line.trim(), rank, known_to_be_batched(graph)));
        }
    }
    let script = logits::root().join("tests/python/ranks.py");
    let run = Command::new(logits::python())
        .arg(script)
        .arg(folder.path())
        .arg(cases.len().to_string())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let found: Vec<Option<usize>> = serde_json::from_slice(&run.stdout).unwrap();
    let mut ran = HashSet::new();
    for ((line, rank, batched), found) in cases.iter().zip(&found) {
        let Some(found) = found else { continue };
        ran.insert(*line);
        assert_eq!(*batched, *found == 3, "{line} of {rank} dimensions makes {found}");
    }
    let idle: Vec<_> = cases.iter().map(|(line, ..)| *line).filter(|l| !ran.contains(l)).collect();
    assert!(idle.is_empty(), "the runtime runs none of {idle:?}");
}

#[test]
fn what_is_given_a_leading_one_has_the_rows_of_the_batch_elsewhere() {
    let reshaped = |sizes: &[i64]| {
        let mut graph = around(node("Reshape", "before", &["x", "sizes"], &["flat"]), 3);
        graph.initializer.push(tensor_i64("sizes", &[sizes.len() as i64], sizes));
        graph.node.push(node("Relu", "between", &["flat"], &["hidden"]));
        known_to_be_batched(graph)
    };
    assert!(reshaped(&[-1, 4, 4]) && reshaped(&[0, -1, 4]));
    assert!(!reshaped(&[1, -1, 4]));
}
