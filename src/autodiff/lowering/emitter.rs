//! Emitting the nodes a fused operator is rewritten as.

use std::collections::BTreeMap;

use super::super::{
    AutodiffError,
    backward::form,
    constants::number,
    index::Index,
    shapes::{Measured, Shapes},
};
use crate::model::{
    node::{Attribute, node, node_with, tensor_i64, with_attribute},
    proto::{NodeProto, TensorProto, tensor_proto::DataType},
};

/// Every tensor, node and initializer a lowering makes starts with this.
const PREFIX: &str = "tla_lower/";

/// The inputs that tell an attention with a past about its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    /// Inputs that hold cached keys and values, `[batch, heads, cached, size]`.
    pub caches: &'a [&'a str],
    /// int64 `[batch, length]`: the position of each new token in its text.
    pub places: &'a str,
    /// int64 `[batch, cached + length]`: 1 where a token counts.
    pub mask: &'a str,
}

/// A graph being rewritten, node by node.
pub(super) struct Emitter<'a> {
    index: &'a Index<'a>,
    shapes: &'a Shapes,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<TensorProto>,
    /// What is known of cached tokens, where attention goes on from them.
    pub(super) past: Option<Past<'a>>,
    lists: BTreeMap<Vec<i64>, String>,
    numbers: BTreeMap<(i32, u32), String>,
    made: usize,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(index: &'a Index<'a>, shapes: &'a Shapes, past: Option<Past<'a>>) -> Self {
        Self {
            index,
            shapes,
            nodes: Vec::new(),
            initializers: Vec::new(),
            past,
            lists: BTreeMap::new(),
            numbers: BTreeMap::new(),
            made: 0,
        }
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
        let output = self.fresh(op);
        self.nodes.push(node_with(op, &output, inputs, attributes));
        output
    }

    fn fresh(&mut self, op: &str) -> String {
        self.made += 1;
        format!("{PREFIX}{}_{op}", self.made)
    }

    /// Gives output `slot` of `node`, if anything reads it, the value `tensor`.
    pub(super) fn output(&mut self, node: &NodeProto, slot: usize, tensor: &str) {
        if let Some(name) = node.output.get(slot).filter(|name| !name.is_empty()) {
            let copy = self.fresh("Identity");
            self.nodes.push(crate::model::node::node("Identity", &copy, &[tensor], &[name]));
        }
    }

    /// Refuses a node whose outputs beyond those in `made` are read.
    pub(super) fn only_outputs(
        &self,
        node: &NodeProto,
        made: &[usize],
    ) -> Result<(), AutodiffError> {
        let others = node.output.iter().enumerate().filter(|(slot, _)| !made.contains(slot));
        for (slot, name) in others.filter(|(_, name)| !name.is_empty()) {
            if self.index.consumers(name).next().is_some() {
                return Err(form(node, format!("output {slot} ('{name}') feeds other nodes")));
            }
        }
        Ok(())
    }

    /// Refuses a node that has one of the named inputs.
    pub(super) fn without(
        &self,
        node: &NodeProto,
        inputs: &[(usize, &str)],
    ) -> Result<(), AutodiffError> {
        match inputs.iter().find(|(slot, _)| input(node, *slot).is_some()) {
            Some((_, name)) => Err(form(node, format!("the input {name} is not covered"))),
            None => Ok(()),
        }
    }

    /// A one-dimensional int64 constant.
    pub(super) fn list(&mut self, values: &[i64]) -> String {
        self.integers(values.to_vec(), false)
    }

    /// A zero-dimensional int64 constant.
    pub(super) fn integer(&mut self, value: i64) -> String {
        self.integers(vec![value], true)
    }

    fn integers(&mut self, values: Vec<i64>, scalar: bool) -> String {
        let mut key = values.clone();
        key.push(i64::from(scalar));
        if let Some(name) = self.lists.get(&key) {
            return name.clone();
        }
        let name = format!("{PREFIX}constant_{}", self.initializers.len());
        let dims = if scalar { vec![] } else { vec![values.len() as i64] };
        self.initializers.push(tensor_i64(&name, &dims, &values));
        self.lists.insert(key, name.clone());
        name
    }

    /// A zero-dimensional constant of type `kind`.
    pub(super) fn number(&mut self, value: f32, kind: DataType) -> String {
        if let Some(name) = self.numbers.get(&(kind as i32, value.to_bits())) {
            return name.clone();
        }
        let name = format!("{PREFIX}constant_{}", self.initializers.len());
        self.initializers.push(number(&name, value, kind));
        self.numbers.insert((kind as i32, value.to_bits()), name.clone());
        name
    }

    /// Shape and type of a tensor the node being lowered reads.
    pub(super) fn measured(&self, tensor: &str) -> Result<Measured, AutodiffError> {
        self.index.measured(self.shapes, tensor)
    }

    /// The size of the last dimension of `tensor`, which `node` reads.
    pub(super) fn width(&self, node: &NodeProto, tensor: &str) -> Result<i64, AutodiffError> {
        let measured = self.measured(tensor)?;
        let last = measured.rank().checked_sub(1).and_then(|axis| measured.fixed(axis));
        last.ok_or_else(|| form(node, format!("the last dimension of '{tensor}' varies")))
    }

    /// `tensor`, which is of type `from`, as type `to`.
    pub(super) fn cast(&mut self, tensor: &str, from: DataType, to: DataType) -> String {
        if from == to {
            return tensor.to_owned();
        }
        self.emit_with("Cast", &[tensor], &[("to", Attribute::Int(to as i64))])
    }

    /// The size of dimension `axis` as a list of one.
    pub(super) fn size(&mut self, tensor: &str, axis: i64) -> String {
        let bounds = [("start", Attribute::Int(axis)), ("end", Attribute::Int(axis + 1))];
        self.emit_with("Shape", &[tensor], &bounds)
    }

    /// `0, 1, …` up to the size of dimension `axis`.
    pub(super) fn places(&mut self, tensor: &str, axis: i64) -> String {
        let size = self.size(tensor, axis);
        let first = self.list(&[0]);
        let end = self.emit("Squeeze", &[&size, &first]);
        let (zero, one) = (self.integer(0), self.integer(1));
        self.emit("Range", &[&zero, &end, &one])
    }

    pub(super) fn reshape(&mut self, tensor: &str, shape: &[i64]) -> String {
        let shape = self.list(shape);
        self.emit("Reshape", &[tensor, &shape])
    }

    pub(super) fn transpose(&mut self, tensor: &str, perm: &[i64]) -> String {
        self.emit_with("Transpose", &[tensor], &[("perm", Attribute::Ints(perm.to_vec()))])
    }

    pub(super) fn unsqueeze(&mut self, tensor: &str, axis: i64) -> String {
        let axis = self.list(&[axis]);
        self.emit("Unsqueeze", &[tensor, &axis])
    }

    pub(super) fn concat(&mut self, parts: &[&str], axis: i64) -> String {
        self.emit_with("Concat", parts, &[("axis", Attribute::Int(axis))])
    }

    /// The stretches of the given sizes along `axis`.
    pub(super) fn split(&mut self, tensor: &str, axis: i64, sizes: &[i64]) -> Vec<String> {
        let lengths = self.list(sizes);
        let name = self.fresh("Split");
        let parts: Vec<String> = (0..sizes.len()).map(|k| format!("{name}_{k}")).collect();
        let outputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        let made = node("Split", &name, &[tensor, &lengths], &outputs);
        self.nodes.push(with_attribute(made, "axis", Attribute::Int(axis)));
        parts
    }
}

/// The name in input `slot` of a node, if it has one there.
pub(super) fn input(node: &NodeProto, slot: usize) -> Option<&str> {
    node.input.get(slot).map(String::as_str).filter(|name| !name.is_empty())
}

/// As [`input`], of an input the operator must have.
pub(super) fn required(node: &NodeProto, slot: usize) -> Result<&str, AutodiffError> {
    input(node, slot).ok_or_else(|| form(node, format!("input {slot} is missing")))
}
