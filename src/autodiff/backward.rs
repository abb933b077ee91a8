//! Emitting the nodes of a backward pass.

use std::collections::{BTreeMap, HashMap};

use super::{
    AutodiffError, Path,
    constants::number,
    index::Index,
    shapes::{Measured, Shapes},
};
use crate::model::{
    node::{Attribute, node_with, tensor_i64},
    proto::{NodeProto, TensorProto, tensor_proto::DataType},
};

/// Every tensor, node and initializer a differentiation makes starts with this.
pub(super) const PREFIX: &str = "tla_grad/";

/// A backward pass under construction.
pub(super) struct Backward<'a> {
    pub(super) index: &'a Index<'a>,
    pub(super) path: &'a Path,
    pub(super) shapes: &'a Shapes,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<TensorProto>,
    adjoints: HashMap<String, String>,
    integers: BTreeMap<Vec<i64>, String>,
    scalars: BTreeMap<(i32, u32), String>,
}

impl<'a> Backward<'a> {
    pub(super) fn new(index: &'a Index<'a>, path: &'a Path, shapes: &'a Shapes) -> Self {
        Self {
            index,
            path,
            shapes,
            nodes: Vec::new(),
            initializers: Vec::new(),
            adjoints: HashMap::new(),
            integers: BTreeMap::new(),
            scalars: BTreeMap::new(),
        }
    }

    /// Whether input `slot` of `node` wants a gradient.
    pub(super) fn wants(&self, node: &NodeProto, slot: usize) -> bool {
        node.input.get(slot).is_some_and(|name| self.path.contains(name))
    }

    pub(super) fn adjoint(&self, tensor: &str) -> Option<&str> {
        self.adjoints.get(tensor).map(String::as_str)
    }

    /// Adds `gradient` to what is already known to flow into `tensor`.
    pub(super) fn accumulate(&mut self, tensor: &str, gradient: String) {
        let sum = match self.adjoints.get(tensor).cloned() {
            Some(earlier) => self.emit("Add", &[&earlier, &gradient]),
            None => gradient,
        };
        self.adjoints.insert(tensor.to_owned(), sum);
    }

    /// Emits a node with one output and no attribute; the output's name.
    pub(super) fn emit(&mut self, op: &str, inputs: &[&str]) -> String {
        self.emit_with(op, inputs, &[])
    }

    /// Emits a node with one output; the output's name.
    pub(super) fn emit_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let output = format!("{PREFIX}{}_{op}", self.nodes.len());
        self.nodes.push(node_with(op, &output, inputs, attributes));
        output
    }

    /// The bytes of `tensor`, wherever they are stored, read as another type and shape.
    pub(super) fn alias(&mut self, tensor: TensorProto, kind: DataType, dims: &[i64]) -> String {
        let name = self.fresh_constant();
        self.initializers.push(TensorProto {
            name: Some(name.clone()),
            data_type: Some(kind as i32),
            dims: dims.to_vec(),
            ..tensor
        });
        name
    }

    pub(super) fn fresh_constant(&self) -> String {
        format!("{PREFIX}constant_{}", self.initializers.len())
    }

    /// A weight for the backward pass. One that is dequantised on the way is dequantised again
    /// from second names of its bytes: it need not outlast the forward pass, whose nodes the
    /// runtime fuses as it does in a rollout because nothing else reads what they read.
    pub(super) fn weight(&mut self, tensor: &str) -> String {
        let made = self.index.producer(tensor);
        let Some(node) = made.filter(|n| n.op_type() == "DequantizeLinear") else {
            return tensor.to_owned();
        };
        let mut again = node.clone();
        for name in again.input.iter_mut().filter(|name| !name.is_empty()) {
            let Some(stored) = self.index.constant(name).cloned() else { return tensor.to_owned() };
            let kind = DataType::try_from(stored.data_type()).unwrap_or(DataType::Undefined);
            let dims = stored.dims.clone();
            *name = self.alias(stored, kind, &dims);
        }
        let output = format!("{PREFIX}{}_{}", self.nodes.len(), node.op_type());
        again.name = Some(output.clone());
        again.output = vec![output.clone()];
        self.nodes.push(again);
        output
    }

    /// A one-dimensional int64 constant.
    pub(super) fn list(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.integers.get(values) {
            return name.clone();
        }
        let name = self.fresh_constant();
        self.initializers.push(tensor_i64(&name, &[values.len() as i64], values));
        self.integers.insert(values.to_vec(), name.clone());
        name
    }

    /// A zero-dimensional int64 constant.
    pub(super) fn integer(&mut self, value: i64) -> String {
        let name = self.fresh_constant();
        self.initializers.push(tensor_i64(&name, &[], &[value]));
        name
    }

    /// A zero-dimensional constant of the element type of `like`.
    pub(super) fn scalar(&mut self, value: f32, like: &str) -> Result<String, AutodiffError> {
        let kind = self.measured(like)?.kind;
        if let Some(name) = self.scalars.get(&(kind as i32, value.to_bits())) {
            return Ok(name.clone());
        }
        let name = self.fresh_constant();
        self.initializers.push(number(&name, value, kind));
        self.scalars.insert((kind as i32, value.to_bits()), name.clone());
        Ok(name)
    }

    /// Shape and type of a tensor of the forward graph, constants included.
    pub(super) fn measured(&self, tensor: &str) -> Result<Measured, AutodiffError> {
        self.index.measured(self.shapes, tensor)
    }

    /// The shape of a forward tensor as an int64 vector: a constant (with one −1 for Reshape)
    /// where at most one dimension varies, else read from the tensor itself.
    pub(super) fn reshape_to(
        &mut self,
        gradient: &str,
        tensor: &str,
    ) -> Result<String, AutodiffError> {
        let measured = self.measured(tensor)?;
        let fixed: Vec<Option<i64>> = (0..measured.rank()).map(|k| measured.fixed(k)).collect();
        let varying = fixed.iter().filter(|d| d.is_none()).count();
        let shape = if varying <= 1 && !fixed.contains(&Some(0)) {
            self.list(&fixed.iter().map(|d| d.unwrap_or(-1)).collect::<Vec<_>>())
        } else {
            self.emit("Shape", &[tensor])
        };
        Ok(self.emit("Reshape", &[gradient, &shape]))
    }

    /// Sums `gradient`, shaped like forward tensor `output`, over the axes along which `input`
    /// was broadcast, to the shape of `input`.
    pub(super) fn unbroadcast(
        &mut self,
        gradient: String,
        output: &str,
        input: &str,
    ) -> Result<String, AutodiffError> {
        let (to, from) = (self.measured(input)?, self.measured(output)?);
        self.sum_to(gradient, &from, &to)
    }

    /// As [`Backward::unbroadcast`], between measured shapes.
    pub(super) fn sum_to(
        &mut self,
        gradient: String,
        from: &Measured,
        to: &Measured,
    ) -> Result<String, AutodiffError> {
        let lead = from.rank().saturating_sub(to.rank());
        let stretched = |k: usize| to.fixed(k - lead) == Some(1) && from.fixed(k) != Some(1);
        let axes: Vec<i64> =
            (0..from.rank()).filter(|k| *k < lead || stretched(*k)).map(|k| k as i64).collect();
        if axes.is_empty() {
            return Ok(gradient);
        }
        let axes = self.list(&axes);
        let sum =
            self.emit_with("ReduceSum", &[&gradient, &axes], &[("keepdims", Attribute::Int(1))]);
        if lead == 0 {
            return Ok(sum);
        }
        let leading = self.list(&(0..lead as i64).collect::<Vec<_>>());
        Ok(self.emit("Squeeze", &[&sum, &leading]))
    }

    /// Exchanges the last two dimensions of a tensor of the given rank.
    pub(super) fn transpose_last(&mut self, tensor: &str, rank: usize) -> String {
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        perm.swap(rank - 2, rank - 1);
        self.emit_with("Transpose", &[tensor], &[("perm", Attribute::Ints(perm))])
    }
}

/// A form of an operator that its rule does not cover.
pub(super) fn form(node: &NodeProto, detail: impl Into<String>) -> AutodiffError {
    AutodiffError::Form {
        op: node.op_type().to_owned(),
        node: node.name().to_owned(),
        detail: detail.into(),
    }
}
