//! Who makes a tensor, who reads it, and which tensors are constants.

use std::collections::HashMap;

use half::f16;

use super::{
    AutodiffError,
    shapes::{Measured, Shapes},
};
use crate::model::{
    node::{floats, integers, tensor_attribute},
    proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
};

/// Look-ups over one graph.
pub(crate) struct Index<'g> {
    graph: &'g GraphProto,
    producers: HashMap<&'g str, usize>,
    consumers: HashMap<&'g str, Vec<usize>>,
    initializers: HashMap<&'g str, &'g TensorProto>,
}

impl<'g> Index<'g> {
    pub(crate) fn new(graph: &'g GraphProto) -> Self {
        let mut producers = HashMap::new();
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (position, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                producers.insert(output.as_str(), position);
            }
            for input in node.input.iter().filter(|i| !i.is_empty()) {
                consumers.entry(input).or_default().push(position);
            }
        }
        let initializers = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        Self { graph, producers, consumers, initializers }
    }

    pub(crate) fn node(&self, position: usize) -> &'g NodeProto {
        &self.graph.node[position]
    }

    /// The position of the node that makes a tensor.
    pub(crate) fn position(&self, tensor: &str) -> Option<usize> {
        self.producers.get(tensor).copied()
    }

    pub(crate) fn producer(&self, tensor: &str) -> Option<&'g NodeProto> {
        self.position(tensor).map(|position| self.node(position))
    }

    pub(super) fn consumers(&self, tensor: &str) -> impl Iterator<Item = &'g NodeProto> {
        let positions = self.consumers.get(tensor).map_or(&[][..], Vec::as_slice);
        positions.iter().map(|p| self.node(*p))
    }

    pub(super) fn exists(&self, tensor: &str) -> bool {
        self.producers.contains_key(tensor)
            || self.initializers.contains_key(tensor)
            || self.graph.input.iter().any(|i| i.name() == tensor)
    }

    /// The tensor behind an initializer or a Constant node.
    pub(crate) fn constant(&self, tensor: &str) -> Option<&'g TensorProto> {
        if let Some(found) = self.initializers.get(tensor) {
            return Some(found);
        }
        let node = self.producer(tensor)?;
        (node.op_type() == "Constant").then(|| tensor_attribute(node, "value")).flatten()
    }

    /// Shape and type of a tensor, constants included.
    pub(super) fn measured(
        &self,
        shapes: &Shapes,
        tensor: &str,
    ) -> Result<Measured, AutodiffError> {
        match self.constant(tensor) {
            Some(t) => {
                let kind = DataType::try_from(t.data_type()).unwrap_or(DataType::Undefined);
                Ok(Measured::constant(kind, &t.dims))
            }
            None => shapes.get(tensor).cloned(),
        }
    }

    pub(crate) fn integers(&self, tensor: &str) -> Option<Vec<i64>> {
        self.constant(tensor).and_then(integers)
    }

    /// The value of a constant of one element.
    pub(super) fn scalar(&self, tensor: &str) -> Option<f32> {
        let constant = self.constant(tensor)?;
        let values = match DataType::try_from(constant.data_type()).ok()? {
            DataType::Float16 => halves(constant),
            DataType::Float => floats(constant)?,
            _ => integers(constant)?.iter().map(|n| *n as f32).collect(),
        };
        (values.len() == 1).then(|| values[0])
    }
}

/// The numbers of a small float16 constant, whichever field holds their bits.
fn halves(tensor: &TensorProto) -> Vec<f32> {
    let raw = tensor.raw_data.as_deref().unwrap_or_default();
    let stored = tensor.int32_data.iter().filter_map(|bits| u16::try_from(*bits).ok());
    let bits = raw.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).chain(stored);
    bits.map(|bits| f16::from_bits(bits).to_f32()).collect()
}
