//! Numbers that a graph makes of the last dimension of a value, where that is known: how `chunk` of
//! torch's older exporter says where to cut.

use super::{
    node::int_attribute,
    operators::is_standard,
    proto::{NodeProto, tensor_proto::DataType},
    reader::Reader,
};

/// Nodes that are looked at for one number; graphs that take more are none that this is for.
const STEPS: usize = 64;

/// A value, and what is known of its shape.
pub(super) struct Measured<'a, 'r> {
    pub reader: &'r Reader<'a>,
    pub value: &'a str,
    /// Its size along the last axis.
    pub size: usize,
    /// The number of that axis.
    pub last: i64,
}

impl<'a> Measured<'a, '_> {
    /// The single number that `name` holds whenever the graph runs.
    pub fn number(&self, name: &str) -> Option<i64> {
        let mut steps = STEPS;
        self.folded(name, &mut steps)
    }

    fn folded(&self, name: &str, steps: &mut usize) -> Option<i64> {
        *steps = steps.checked_sub(1)?;
        if let Some(numbers) = self.reader.integers(name) {
            return match numbers[..] {
                [number] => Some(number),
                _ => None,
            };
        }
        let node = self.reader.producer(name)?;
        if !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        let mut of = |slot: usize| self.folded(node.input.get(slot)?, steps);
        match node.op_type() {
            "Shape" => {
                let cut = int_attribute(node, "start").is_some_and(|start| self.is_last(start));
                self.size_of(node).filter(|_| cut)
            }
            "Gather" if int_attribute(node, "axis").unwrap_or(0) == 0 => {
                let shape = self.reader.producer(node.input.first()?)?;
                let whole = ["start", "end"].iter().all(|key| int_attribute(shape, key).is_none());
                let is_size = whole && is_standard(shape, "Shape") && self.is_last(of(1)?);
                self.size_of(shape).filter(|_| is_size)
            }
            "Cast" => {
                let kinds = [DataType::Int64, DataType::Int32].map(|kind| kind as i64);
                of(0).filter(|_| int_attribute(node, "to").is_some_and(|to| kinds.contains(&to)))
            }
            "Identity" | "Squeeze" | "Unsqueeze" => of(0),
            "Add" => of(0)?.checked_add(of(1)?),
            "Sub" => of(0)?.checked_sub(of(1)?),
            "Mul" => of(0)?.checked_mul(of(1)?),
            "Div" => of(0)?.checked_div(of(1)?),
            _ => None,
        }
    }

    /// The size, if a node takes the shape of the value and leaves its end where it is.
    fn size_of(&self, shape: &NodeProto) -> Option<i64> {
        let of_value = shape.input.first().is_some_and(|input| input == self.value);
        (of_value && int_attribute(shape, "end").is_none())
            .then(|| i64::try_from(self.size).ok())?
    }

    fn is_last(&self, axis: i64) -> bool {
        axis == -1 || axis == self.last
    }
}
