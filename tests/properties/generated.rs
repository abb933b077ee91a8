//! Small models made from bytes: every way in which a weight can lead to its node.

use arbitrary::{Result, Unstructured};
use ndarray::Array2;
use prost::Message;
use tla::{
    format::{ModuleId, Role, RoleSet},
    model::{OnnxModel, node, proto::*},
};

/// One module's matrix and how the file holds it.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub module: ModuleId,
    /// Canonical, [out, in].
    pub weight: Array2<f32>,
    /// Stored as [out, in] behind a Transpose.
    turned: bool,
    /// Identity nodes on the way.
    hops: u8,
    /// In `float_data`.
    typed: bool,
}

/// A model of one or two layers, with an embedding that no digest covers.
#[derive(Clone, Debug)]
pub struct Model {
    /// Sorted by module; some may be missing.
    pub matrices: Vec<Matrix>,
    pub embedding: Vec<f32>,
}

/// What says nothing about the weights: order and names.
#[derive(Default)]
pub struct Arrangement {
    prefix: &'static str,
    shuffle: Vec<u8>,
}

impl Arrangement {
    pub fn read(u: &mut Unstructured) -> Result<Self> {
        let shuffle = u.bytes(u.len().min(64))?.to_vec();
        Ok(Self { prefix: if u.arbitrary()? { "onnx::" } else { "" }, shuffle })
    }

    pub fn apply<T>(&self, list: &mut [T]) {
        for (&byte, i) in self.shuffle.iter().cycle().zip((1..list.len()).rev()) {
            list.swap(i, usize::from(byte) % (i + 1));
        }
    }
}

fn path(module: ModuleId) -> String {
    let block = match module.role {
        Role::Q => "self_attn/q_proj",
        Role::K => "self_attn/k_proj",
        Role::V => "self_attn/v_proj",
        Role::O => "self_attn/o_proj",
        Role::Gate => "mlp/gate_proj",
        Role::Up => "mlp/up_proj",
        _ => "mlp/down_proj",
    };
    format!("/model/layers.{}/{block}/MatMul", module.layer)
}

impl Matrix {
    fn read(module: ModuleId, u: &mut Unstructured) -> Result<Self> {
        // Rarely more rows than are hashed at once.
        let rows = if u.ratio(1, 16)? { 4..=20 } else { 1..=4 };
        let dim = (u.int_in_range(rows)?, u.int_in_range(1..=4)?);
        let style: u8 = u.arbitrary()?;
        let mut values = Vec::new();
        for _ in 0..dim.0 * dim.1 {
            // All bits on request; else numbers of a weight's size.
            values.push(match style & 0x80 != 0 {
                true => f32::from_bits(u.arbitrary()?),
                false => f32::from(u.arbitrary::<i8>()?) / 64.0,
            });
        }
        let weight = Array2::from_shape_vec(dim, values).unwrap();
        let [turned, typed] = [1, 2].map(|bit| style & bit != 0);
        Ok(Self { module, weight, turned, typed, hops: style >> 2 & 3 })
    }

    fn tensor(&self, name: &str) -> TensorProto {
        let turned = if self.turned { self.weight.view() } else { self.weight.t() };
        let values: Vec<f32> = turned.iter().copied().collect();
        let dims = [turned.nrows() as i64, turned.ncols() as i64];
        let mut tensor = node::tensor_f32(name, &dims, &values);
        if self.typed {
            (tensor.raw_data, tensor.float_data) = (None, values);
        }
        tensor
    }

    fn nodes(&self, name: &str) -> Vec<NodeProto> {
        let mut made = name.to_owned();
        let mut nodes = Vec::new();
        let ops = (0..self.hops).map(|_| "Identity").chain(self.turned.then_some("Transpose"));
        for op in ops {
            let next = format!("{made}'");
            nodes.push(node::node(op, "", &[&made], &[&next]));
            made = next;
        }
        let (path, out) = (path(self.module), format!("{name} out"));
        nodes.push(node::node("MatMul", &path, &["x", &made], &[&out]));
        nodes
    }
}

impl Model {
    pub fn read(u: &mut Unstructured) -> Result<Self> {
        let layers = u.int_in_range(1..=2)?;
        // Usually complete, or there would be no digest.
        let missing: u16 = if u.ratio(1, 4)? { u.arbitrary()? } else { 0 };
        let modules = (0..layers)
            .flat_map(|layer| RoleSet::LINEAR.iter().map(move |role| ModuleId { layer, role }));
        let present = modules.enumerate().filter(|(i, _)| missing >> i & 1 == 0);
        let matrices = present.map(|(_, module)| Matrix::read(module, u)).collect::<Result<_>>()?;
        Ok(Self { matrices, embedding: vec![f32::from(u.arbitrary::<i8>()?); 4] })
    }

    /// The model as a file says it. In a shuffled graph nodes read what later nodes make.
    pub fn build(&self, arrangement: &Arrangement) -> OnnxModel {
        let prefix = arrangement.prefix;
        let table = format!("{prefix}embedding");
        let mut tensors = vec![node::tensor_f32(&table, &[2, 2], &self.embedding)];
        let mut nodes = vec![
            node::node("Gather", "", &[&table, "ids"], &["x"]),
            node::node("MatMul", "/lm_head/MatMul", &["x", &table], &["logits"]),
        ];
        for (index, matrix) in self.matrices.iter().enumerate() {
            let name = format!("{prefix}{index}");
            tensors.push(matrix.tensor(&name));
            nodes.extend(matrix.nodes(&name));
        }
        arrangement.apply(&mut tensors);
        arrangement.apply(&mut nodes);
        let graph = GraphProto {
            node: nodes,
            initializer: tensors,
            input: vec![node::untyped_value("ids")],
            output: vec![node::untyped_value("logits")],
            ..GraphProto::default()
        };
        let opset = OperatorSetIdProto { domain: None, version: Some(18) };
        let proto = ModelProto {
            ir_version: Some(9),
            opset_import: vec![opset],
            graph: Some(graph),
            ..ModelProto::default()
        };
        let proto = ModelProto::decode(&proto.encode_to_vec()[..]).unwrap();
        OnnxModel::from_proto(proto, "model.onnx".into()).unwrap()
    }
}
