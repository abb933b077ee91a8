//! Who makes a tensor and who reads it.

use std::collections::{HashMap, HashSet};

use crate::{
    autodiff::Index,
    model::{
        node::{floats, int_attribute, ints_attribute},
        proto::{GraphProto, NodeProto},
    },
};

pub(super) struct Makers<'g> {
    pub graph: &'g GraphProto,
    index: Index<'g>,
    readers: HashMap<&'g str, Vec<(usize, usize)>>,
}

impl<'g> Makers<'g> {
    pub fn new(graph: &'g GraphProto) -> Self {
        let mut readers: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (place, node) in graph.node.iter().enumerate() {
            for (slot, input) in node.input.iter().enumerate() {
                readers.entry(input).or_default().push((place, slot));
            }
        }
        Self { graph, index: Index::new(graph), readers }
    }

    /// Where the node is that makes `tensor`.
    pub fn place(&self, tensor: &str) -> Option<usize> {
        self.index.position(tensor)
    }

    /// The node that makes `tensor`.
    pub fn maker(&self, tensor: &str) -> Option<&'g NodeProto> {
        self.index.producer(tensor)
    }

    /// The same if it is an `op` of the standard.
    pub fn made_by(&self, op: &str, tensor: &str) -> Option<&'g NodeProto> {
        self.maker(tensor).filter(|node| is(node, op))
    }

    /// The nodes that read `tensor`, and as which of their inputs.
    pub fn readers(&self, tensor: &str) -> &[(usize, usize)] {
        self.readers.get(tensor).map_or(&[], Vec::as_slice)
    }

    /// What the only node that reads `tensor` makes, if that is an `op`.
    pub fn only_reader(&self, op: &str, tensor: &str) -> Option<&'g NodeProto> {
        let [(place, _)] = self.readers(tensor) else { return None };
        Some(&self.graph.node[*place]).filter(|node| is(node, op))
    }

    /// The numbers of a constant.
    pub fn integers(&self, tensor: &str) -> Option<Vec<i64>> {
        self.index.integers(tensor)
    }

    /// The only number of a constant.
    pub fn integer(&self, tensor: &str) -> Option<i64> {
        self.integers(tensor).and_then(|found| <[i64; 1]>::try_from(found).ok()).map(|[n]| n)
    }

    /// The only number of a constant.
    pub fn number(&self, tensor: &str) -> Option<f32> {
        let found = self.index.constant(tensor).and_then(floats);
        found.and_then(|found| <[f32; 1]>::try_from(found).ok()).map(|[x]| x)
    }

    /// `tensor` before operators that change neither values nor their order.
    pub fn before(&self, ops: &[&str], mut tensor: &'g str) -> &'g str {
        while let Some(node) = self.maker(tensor).filter(|node| ops.iter().any(|op| is(node, op))) {
            let Some(input) = node.input.first() else { break };
            tensor = input;
        }
        tensor
    }

    /// Whether `tensor` is made of `source`, an input of the graph.
    pub fn follows(&self, tensor: &'g str, source: &str) -> bool {
        let (mut open, mut seen) = (vec![tensor], HashSet::new());
        while let Some(tensor) = open.pop() {
            if tensor == source {
                return true;
            }
            if let Some(place) = self.place(tensor).filter(|place| seen.insert(*place)) {
                open.extend(self.graph.node[place].input.iter().map(String::as_str));
            }
        }
        false
    }

    /// What a Transpose of four axes that makes `tensor` turned round.
    pub fn turned(&self, tensor: &str, perm: [i64; 4]) -> Option<&'g str> {
        let node = self.made_by("Transpose", tensor)?;
        (ints_attribute(node, "perm")? == perm).then(|| node.input[0].as_str())
    }

    /// The two inputs of an `op` that makes `tensor`, in both orders.
    pub fn pairs(&self, op: &str, tensor: &str) -> Option<[(&'g str, &'g str); 2]> {
        let node = self.made_by(op, tensor)?;
        let [a, b] = &node.input[..] else { return None };
        Some([(a, b), (b, a)])
    }
}

/// Whether `node` is an operator of the standard, with as many inputs as that must have.
pub(super) fn is(node: &NodeProto, op: &str) -> bool {
    let least = match op {
        "Constant" => 0,
        "Slice" | "Where" => 3,
        "Add" | "Div" | "Expand" | "Gather" | "MatMul" | "Mul" | "Reshape" | "Unsqueeze" => 2,
        _ => 1,
    };
    node.op_type() == op && matches!(node.domain(), "" | "ai.onnx") && node.input.len() >= least
}

/// Whether an axis attribute of a tensor of four axes means `axis`.
pub(super) fn along(node: &NodeProto, axis: i64) -> bool {
    int_attribute(node, "axis").is_some_and(|found| found == axis || found == axis - 4)
}
