//! The kernels of ONNX Runtime's CUDA provider, as `kernels.txt` lists them, and which of them a
//! node would run on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tla::model::{
    node::{Attribute, int_attribute, tensor_attribute, tensor_type, with_attribute},
    proto::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType},
};

/// An input or output as the operator declares it.
struct Formal {
    name: String,
    /// A type variable, or a kind where the operator fixes it.
    of: String,
    repeated: bool,
}

#[derive(Default)]
struct Operator {
    inputs: Vec<Formal>,
    outputs: Vec<Formal>,
}

struct Kernel {
    first: i64,
    last: Option<i64>,
    types: BTreeMap<String, BTreeSet<String>>,
}

/// Operators and kernels by domain and name.
pub struct Kernels {
    operators: HashMap<(String, String), BTreeMap<i64, Operator>>,
    kernels: HashMap<(String, String), Vec<Kernel>>,
}

/// A node without a kernel: its operator, and the kinds of its inputs and outputs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub operator: String,
    pub kinds: Vec<String>,
}

impl Kernels {
    pub fn listed() -> Self {
        let mut this = Self { operators: HashMap::new(), kernels: HashMap::new() };
        for line in include_str!("kernels.txt").lines().filter(|l| !l.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let name = (words[1].to_owned(), words[2].to_owned());
            let number = |word: &str| word.parse::<i64>().expect("a version");
            match words[0] {
                "op" => {
                    let arrow = words.iter().position(|w| *w == "->").expect("an arrow");
                    let inputs = words[4..arrow].iter().map(|w| formal(w)).collect();
                    let outputs = words[arrow + 1..].iter().map(|w| formal(w)).collect();
                    let versions = this.operators.entry(name).or_default();
                    versions.insert(number(words[3]), Operator { inputs, outputs });
                }
                "kernel" => this.kernels.entry(name).or_default().push(Kernel {
                    first: number(words[3]),
                    last: (words[4] != "*").then(|| number(words[4])),
                    types: words[5..].iter().map(|w| constraint(w)).collect(),
                }),
                other => panic!("a line of '{other}'"),
            }
        }
        this
    }

    /// The nodes of `model` that no kernel fits. Every float16 counts as `half`.
    pub fn missing(&self, model: &ModelProto, half: DataType) -> BTreeSet<Missing> {
        let graph = model.graph.as_ref().expect("a graph");
        let mut kinds = stored(graph, half);
        for constant in graph.node.iter().filter(|n| n.op_type() == "Constant") {
            let kind = tensor_attribute(constant, "value").map_or(INT64, |t| t.data_type());
            kinds.insert(constant.output[0].clone(), named(kind, half));
        }
        let mut missing = BTreeSet::new();
        // The runtime makes an initializer of a Constant, and a Cast of a CastLike.
        for node in graph.node.iter().filter(|n| n.op_type() != "Constant") {
            let cast = like(node, &kinds);
            let node = cast.as_ref().unwrap_or(node);
            let domain = if node.domain().is_empty() { "onnx" } else { node.domain() };
            let name = (domain.to_owned(), node.op_type().to_owned());
            let opset = model.opset_import.iter().find(|o| {
                o.domain() == node.domain() || (domain == "onnx" && o.domain() == "ai.onnx")
            });
            let opset = opset.map_or(1, |o| o.version());
            let versions = self.operators.get(&name).unwrap_or_else(|| panic!("unknown {name:?}"));
            let (since, operator) =
                versions.range(..=opset).next_back().unwrap_or_else(|| panic!("no {name:?}"));
            let given = actual(&operator.inputs, &node.input, &kinds);
            let none = Vec::new();
            let fitting: Vec<&Kernel> = self
                .kernels
                .get(&name)
                .unwrap_or(&none)
                .iter()
                .filter(|k| k.last.map_or(k.first == *since, |l| (k.first..=l).contains(since)))
                .collect();
            let made = results(node, operator, &given, &fitting, half);
            kinds.extend(node.output.iter().cloned().zip(made.iter().cloned()));
            let made = actual(&operator.outputs, &node.output, &kinds);
            let all = || given.iter().chain(&made);
            let fits = |kernel: &&Kernel| {
                all().all(|(formal, kind)| {
                    let named = [&formal.of, &formal.name].into_iter();
                    named.flat_map(|n| kernel.types.get(n)).all(|known| known.contains(kind))
                })
            };
            if !fitting.iter().any(fits) {
                let kinds = all().map(|(_, kind)| kind.clone()).collect();
                missing.insert(Missing { operator: node.op_type().to_owned(), kinds });
            }
        }
        missing
    }
}

const INT64: i32 = DataType::Int64 as i32;

/// The Cast that a CastLike is.
fn like(node: &NodeProto, kinds: &HashMap<String, String>) -> Option<NodeProto> {
    let of = node.input.get(1).filter(|_| node.op_type() == "CastLike")?;
    let kind = DataType::from_str_name(&kinds[of].to_uppercase()).expect("a kind");
    let cast = tla::model::node::node("Cast", node.name(), &[&node.input[0]], &[&node.output[0]]);
    Some(with_attribute(cast, "to", Attribute::Int(kind as i64)))
}

fn formal(word: &str) -> Formal {
    let (name, of) = word.split_once(':').expect("NAME:TYPE");
    let plain = name.trim_end_matches('*');
    Formal { name: plain.to_owned(), of: of.to_owned(), repeated: plain != name }
}

fn constraint(word: &str) -> (String, BTreeSet<String>) {
    let (of, kinds) = word.split_once('=').expect("TYPE=KINDS");
    (of.to_owned(), kinds.split('|').map(str::to_owned).collect())
}

/// The kinds of what the graph is given and what it stores.
fn stored(graph: &GraphProto, half: DataType) -> HashMap<String, String> {
    let given = graph.input.iter().filter_map(|i| Some((i.name(), tensor_type(i)?.0)));
    let stored = graph.initializer.iter().map(|t| (t.name(), t.data_type()));
    given.chain(stored).map(|(name, kind)| (name.to_owned(), named(kind, half))).collect()
}

fn named(kind: i32, half: DataType) -> String {
    let kind = DataType::try_from(kind).expect("a type of tensors");
    let kind = if kind == DataType::Float16 { half } else { kind };
    kind.as_str_name().to_lowercase()
}

/// The declared inputs or outputs that a node has, with their kinds.
fn actual<'a>(
    formals: &'a [Formal],
    names: &[String],
    kinds: &HashMap<String, String>,
) -> Vec<(&'a Formal, String)> {
    let last = formals.last();
    let formal = |at: usize| formals.get(at).or(last.filter(|f| f.repeated));
    let there = names.iter().enumerate().filter(|(_, name)| !name.is_empty());
    there
        .map(|(at, name)| {
            let formal = formal(at).unwrap_or_else(|| panic!("'{name}' is one too many"));
            let kind = kinds.get(name).unwrap_or_else(|| panic!("the kind of '{name}'"));
            (formal, kind.clone())
        })
        .collect()
}

/// The kind of each output of a node.
fn results(
    node: &NodeProto,
    operator: &Operator,
    given: &[(&Formal, String)],
    fitting: &[&Kernel],
    half: DataType,
) -> Vec<String> {
    let fixed = |name: &str, otherwise: DataType| match tensor_attribute(node, name) {
        Some(tensor) => named(tensor.data_type(), half),
        None => named(otherwise as i32, half),
    };
    let one = |formal: &Formal| {
        match node.op_type() {
            "Cast" => return named(int_attribute(node, "to").expect("a type") as i32, half),
            "ConstantOfShape" => return fixed("value", DataType::Float),
            _ => {}
        }
        if let Some((_, kind)) = given.iter().find(|(other, _)| other.of == formal.of) {
            return kind.clone();
        }
        // A variable that no input binds has one kind by the operator's definition.
        let known: BTreeSet<&String> =
            fitting.iter().flat_map(|k| k.types.get(&formal.of)).flatten().collect();
        match (known.len(), known.first()) {
            (1, Some(kind)) => (*kind).clone(),
            _ => formal.of.clone(),
        }
    };
    let last = operator.outputs.last().expect("an output");
    let outputs = (0..node.output.len()).map(|at| operator.outputs.get(at).unwrap_or(last));
    outputs.map(one).collect()
}
