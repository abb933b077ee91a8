//! One operator in ONNX Runtime against what it is lowered to, and the gradient of that against
//! central differences of the operator itself.

use super::noise::noise;
use std::path::Path as FilePath;

use tla::{
    autodiff::{AutodiffError, Path, differentiate, lowering, probe},
    model::{
        node::{Attribute, Dim, node, tensor_value, untyped_value, with_attribute},
        proto::{
            GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            tensor_proto::DataType,
        },
    },
    runtime::{Session, SessionOptions, Tensor, measure},
};

const OPTIONS: SessionOptions =
    SessionOptions { threads: 1, provider: tla::runtime::Provider::Cpu, packed: false };
/// Rows and tokens of the two runs that shapes are measured in.
const SIZES: [[usize; 2]; 2] = [[2, 5], [3, 7]];

/// How large an input is: rows, tokens, or a number.
#[derive(Clone, Copy)]
pub enum D {
    B,
    S,
    N(usize),
}
pub use D::{B, N, S};

/// What an input holds.
#[derive(Clone)]
pub enum Holds {
    /// Numbers the gradient is taken by.
    Varied,
    /// Numbers it is not taken by.
    Fixed,
    /// The last place of each row, and the number of places.
    Lengths,
    Total,
    /// A place for each token.
    Places,
    /// True on and below the diagonal, and never at all in the last row.
    Lower,
}

pub struct Fused {
    node: NodeProto,
    inputs: Vec<(&'static str, Vec<D>, Holds)>,
    opset: i64,
    before: Vec<NodeProto>,
    stored: Vec<TensorProto>,
    step: f32,
    near: f64,
}

impl Fused {
    pub fn new(domain: &str, op: &str, inputs: &[(&'static str, &[D], Holds)], opset: i64) -> Self {
        let names: Vec<&str> = inputs
            .iter()
            .map(|(name, ..)| if name.starts_with('_') { "" } else { *name })
            .collect();
        let mut made = node(op, "fused", &names, &["y"]);
        made.domain = Some(domain.to_owned());
        let inputs = inputs.iter().filter(|(name, ..)| !name.starts_with('_'));
        let inputs = inputs.map(|(name, dims, holds)| (*name, dims.to_vec(), holds.clone()));
        Self {
            node: made,
            inputs: inputs.collect(),
            opset,
            before: vec![],
            stored: vec![],
            step: 0.02,
            near: 3e-3,
        }
    }

    pub fn with(mut self, attributes: &[(&str, Attribute)]) -> Self {
        for (name, value) in attributes {
            self.node = with_attribute(self.node, name, value.clone());
        }
        self
    }

    /// Further inputs of the operator, stored in the model or made from what is by `before`.
    pub fn storing(mut self, names: &[&str], stored: &[TensorProto], before: &[NodeProto]) -> Self {
        self.node.input.extend(names.iter().map(|name| (*name).to_owned()));
        self.stored.extend_from_slice(stored);
        self.before.extend_from_slice(before);
        self
    }

    /// For an operator that quantises its input and is linear in it: differences over a step that
    /// is large beside the rounding, held to less.
    pub fn quantising(mut self) -> Self {
        (self.step, self.near) = (1000.0, 1e-2);
        self
    }

    fn feeds(&self, [rows, tokens]: [usize; 2]) -> Vec<(String, Tensor)> {
        let size = |d: &D| match d {
            B => rows,
            S => tokens,
            N(n) => *n,
        };
        let feed = |(seed, (name, dims, holds)): (usize, &(&str, Vec<D>, Holds))| {
            let dims: Vec<usize> = dims.iter().map(size).collect();
            let count: usize = dims.iter().product();
            let whole = |of: &dyn Fn(usize) -> i64| (0..count).map(of).collect::<Vec<i64>>();
            let tensor = match holds {
                Holds::Varied | Holds::Fixed => Tensor::f32(&dims, noise(seed as u64 + 3, count)),
                Holds::Lengths => Tensor::i32(&dims, vec![tokens as i32 - 1; count]),
                Holds::Total => Tensor::i32(&dims, vec![tokens as i32; count]),
                Holds::Places => Tensor::i64(&dims, whole(&|k| (k % tokens) as i64)),
                Holds::Lower => {
                    let seen = |k: usize| {
                        let (from, to) = (k / tokens % tokens, k % tokens);
                        to <= from && from + 1 < tokens
                    };
                    Tensor::bool(&dims, (0..count).map(seen).collect())
                }
            };
            ((*name).to_owned(), tensor.unwrap())
        };
        self.inputs.iter().enumerate().map(feed).collect()
    }

    /// The operator, and as the loss the sum of its result's products with `weights`.
    fn model(&self) -> ModelProto {
        let value = |(name, dims, holds): &(&str, Vec<D>, Holds)| {
            let kind = match holds {
                Holds::Varied | Holds::Fixed => DataType::Float,
                Holds::Lengths | Holds::Total => DataType::Int32,
                Holds::Places => DataType::Int64,
                Holds::Lower => DataType::Bool,
            };
            let dim = |(k, d): (usize, &D)| match d {
                N(n) => Dim::Fixed(*n as i64),
                _ => Dim::Named(format!("{name}_{k}")),
            };
            tensor_value(name, kind, &dims.iter().enumerate().map(dim).collect::<Vec<_>>())
        };
        let sum = with_attribute(
            node("ReduceSum", "sum", &["product"], &["loss"]),
            "keepdims",
            Attribute::Int(0),
        );
        let shape = node("Shape", "shape", &["y"], &["y_shape"]);
        let size = node("ReduceProd", "size", &["y_shape"], &["y_size"]);
        let range = node("Range", "range", &["zero", "y_size_0", "one"], &["places"]);
        let squeeze = node("Squeeze", "squeeze", &["y_size"], &["y_size_0"]);
        let weights = node("Cast", "weights", &["places"], &["weights_0"]);
        let weights = with_attribute(weights, "to", Attribute::Int(1));
        let cos = node("Cos", "cos", &["weights_0"], &["weights_1"]);
        let shaped = node("Reshape", "shaped", &["weights_1", "y_shape"], &["weights_2"]);
        let product = node("Mul", "product", &["y", "weights_2"], &["product"]);
        let loss = [shape, size, squeeze, range, weights, cos, shaped, product, sum];
        let integer = |name: &str, value: i64| TensorProto {
            name: Some(name.into()),
            data_type: Some(DataType::Int64 as i32),
            int64_data: vec![value],
            ..TensorProto::default()
        };
        let opset = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        ModelProto {
            ir_version: Some(10),
            opset_import: vec![opset("", self.opset), opset("com.microsoft", 1)],
            graph: Some(GraphProto {
                name: Some("fused".into()),
                node: self.before.iter().chain([&self.node]).cloned().chain(loss).collect(),
                input: self.inputs.iter().map(value).collect(),
                output: vec![untyped_value("y"), untyped_value("loss")],
                initializer: [&self.stored[..], &[integer("zero", 0), integer("one", 1)]].concat(),
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    fn by(&self) -> Vec<String> {
        let varied = self.inputs.iter().filter(|(.., holds)| matches!(holds, Holds::Varied));
        varied.map(|(name, ..)| (*name).to_owned()).collect()
    }

    /// The lowered model with the gradients as further outputs.
    fn lowered(&self) -> Result<ModelProto, AutodiffError> {
        let feeds = SIZES.map(|size| self.feeds(size));
        let shapes = |model: &ModelProto, names: &[String]| {
            let probed = probe::graph(model, names);
            measure(&probed, FilePath::new(""), names, [&feeds[0], &feeds[1]], OPTIONS).unwrap()
        };
        let mut model = self.model();
        let fused = Path::find(model.graph.as_ref().unwrap(), "loss", &self.by())?;
        let names = lowering::tensors(model.graph.as_ref().unwrap(), &fused, None);
        if !names.is_empty() {
            let measured = shapes(&model, &names);
            lowering::lower(model.graph.as_mut().unwrap(), &fused, &measured, None)?;
        }
        let graph = model.graph.as_ref().unwrap();
        let kept = graph.node.iter().any(|n| n.name() == "fused");
        let by_rule = matches!(self.node.op_type(), "MatMul" | "MatMulNBits");
        assert_eq!(kept, by_rule, "{}", self.node.op_type());
        let path = Path::find(graph, "loss", &self.by())?;
        let measured = shapes(&model, &probe::tensors(graph, &path));
        let gradient = differentiate(graph, self.opset, &path, &measured, None)?;
        let graph = model.graph.as_mut().unwrap();
        graph.node.extend(gradient.nodes);
        graph.initializer.extend(gradient.initializers);
        graph.output.extend(gradient.adjoints.iter().map(|name| untyped_value(name)));
        Ok(model)
    }

    pub fn agrees(&self) {
        let op = format!("{} {:?}", self.node.op_type(), self.node.attribute);
        let mut fused = session(&self.model());
        let mut lowered = session(&self.lowered().unwrap_or_else(|e| panic!("{op}: {e}")));
        let feeds = self.feeds(SIZES[0]);
        let (expected, found) = (run(&mut fused, &feeds), run(&mut lowered, &feeds));
        let apart = expected[0].iter().zip(&found[0]).map(|(e, f)| (e - f).abs());
        let apart = apart.fold(0f32, f32::max);
        assert!(apart < 1e-5, "{op}: outputs {apart} apart");
        for (name, gradient) in self.by().iter().zip(&found[2..]) {
            let place = feeds.iter().position(|(n, _)| n == name).unwrap();
            let values = feeds[place].1.as_f32(name).unwrap().to_vec();
            let dims = feeds[place].1.dims();
            for entry in (0..values.len()).step_by(values.len() / 12 + 1) {
                let mut at = |h: f32| {
                    let mut moved = values.clone();
                    moved[entry] += h;
                    let mut feeds = self.feeds(SIZES[0]);
                    feeds[place].1 = Tensor::f32(&dims, moved).unwrap();
                    let y = run(&mut fused, &feeds).swap_remove(0);
                    let terms = y.iter().enumerate();
                    terms.map(|(k, y)| f64::from(*y) * f64::from((k as f32).cos())).sum::<f64>()
                };
                let h = self.step;
                let far = at(2.0 * h) - at(-2.0 * h);
                let difference = (8.0 * (at(h) - at(-h)) - far) / (12.0 * f64::from(h));
                let found = f64::from(gradient[entry]);
                let apart = (found - difference).abs() / difference.abs().max(0.2);
                assert!(apart < self.near, "{op}: {name} {entry}: {found} against {difference}");
            }
        }
    }

    pub fn refused(&self, word: &str) {
        let message = self.lowered().map(|_| ()).unwrap_err().to_string();
        let named = message.contains(word) && message.contains("'fused'");
        assert!(named && message.contains(self.node.op_type()), "{message}");
    }
}

fn session(model: &ModelProto) -> Session {
    Session::load("an operator", model, FilePath::new("model.onnx"), OPTIONS).unwrap()
}

fn run(session: &mut Session, feeds: &[(String, Tensor)]) -> Vec<Vec<f32>> {
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let outputs = session.run(&feeds).unwrap();
    outputs.iter().map(|t| t.as_f32("an output").unwrap().to_vec()).collect()
}
