//! A list of edits that is applied to a graph as a whole or not at all.
//!
//! The edits are carried out on a draft that shares no state with the graph; the draft is
//! checked as the graph it would become; only then are its parts moved over, which cannot fail.

use super::{PatchError, patch_check};
use crate::model::{
    check_tensor,
    proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto},
};
use std::collections::{HashMap, HashSet};

/// One edit. `node_index` counts the nodes of the graph before the patch.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Adds a tensor under a new name, or as the default of an input that this patch adds.
    AddInitializer(TensorProto),
    /// Gives an initializer other values. Name, type and shape stay.
    ReplaceTensor {
        /// The initializer.
        name: String,
        /// Its replacement, of the same name.
        tensor: TensorProto,
    },
    /// Adds a graph input under a new name, or makes an initializer overridable.
    AddInput(ValueInfoProto),
    /// Makes a value of the patched graph an output.
    AddOutput(ValueInfoProto),
    /// Puts nodes behind a node; several insertions at one place keep the order of the edits.
    InsertAfter {
        /// The node.
        node_index: usize,
        /// What follows it.
        nodes: Vec<NodeProto>,
    },
    /// Lets one input of one node read another value.
    RewireInput {
        /// The node.
        node_index: usize,
        /// Which of its inputs.
        slot: usize,
        /// What it reads now.
        from: String,
        /// What it shall read.
        to: String,
    },
    /// Renames what a node makes. Its readers keep the old name, so something inserted by the
    /// same patch must make that.
    RenameOutput {
        /// The node.
        node_index: usize,
        /// Which of its outputs.
        slot: usize,
        /// Its name now.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Replaces the list of graph outputs.
    ReplaceOutputs(Vec<ValueInfoProto>),
}

/// Edits that belong together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// In the order in which they were planned.
    pub edits: Vec<Edit>,
}

/// The graph as it would become, as far as edits can change it.
struct Draft<'a> {
    graph: &'a GraphProto,
    places: HashMap<&'a str, usize>,
    nodes: Vec<NodeProto>,
    inserted: Vec<Vec<NodeProto>>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    added: Vec<TensorProto>,
    replaced: Vec<(usize, TensorProto)>,
    touched: HashSet<(&'static str, usize, usize)>,
}

impl Patch {
    /// Checks every edit and the graph they lead to, then changes `graph`.
    ///
    /// On an error the graph is as it was. Without edits it is not looked at; else the result has
    /// unique names, every value is made before it is read, and every output is made.
    pub fn apply(self, graph: &mut GraphProto) -> Result<(), PatchError> {
        if self.edits.is_empty() {
            return Ok(());
        }
        let mut draft = Draft::new(graph);
        for edit in self.edits {
            draft.edit(edit)?;
        }
        let Draft { nodes, inserted, inputs, outputs, added, replaced, .. } = draft;
        let nodes = weave(nodes, inserted);
        let mut tensors = patch_check::tensor_names(graph);
        tensors.extend(added.iter().map(|tensor| tensor.name()));
        patch_check::check(&nodes, &inputs, &outputs, &tensors)?;

        graph.node = nodes;
        graph.input = inputs;
        graph.output = outputs;
        for (place, tensor) in replaced {
            graph.initializer[place] = tensor;
        }
        graph.initializer.extend(added);
        Ok(())
    }
}

fn weave(nodes: Vec<NodeProto>, inserted: Vec<Vec<NodeProto>>) -> Vec<NodeProto> {
    nodes.into_iter().zip(inserted).flat_map(|(n, after)| std::iter::once(n).chain(after)).collect()
}

impl<'a> Draft<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        Self {
            graph,
            places: graph.initializer.iter().enumerate().map(|(i, t)| (t.name(), i)).collect(),
            nodes: graph.node.clone(),
            inserted: vec![Vec::new(); graph.node.len()],
            inputs: graph.input.clone(),
            outputs: graph.output.clone(),
            added: Vec::new(),
            replaced: Vec::new(),
            touched: HashSet::new(),
        }
    }

    fn edit(&mut self, edit: Edit) -> Result<(), PatchError> {
        match edit {
            Edit::AddInitializer(tensor) => self.add_initializer(tensor),
            Edit::ReplaceTensor { name, tensor } => self.replace_tensor(&name, tensor),
            Edit::AddInput(value) => {
                named("input", value.name())?;
                self.inputs.push(value);
                Ok(())
            }
            Edit::AddOutput(value) => {
                named("output", value.name())?;
                self.outputs.push(value);
                Ok(())
            }
            Edit::InsertAfter { node_index, nodes } => self.insert(node_index, nodes),
            Edit::RewireInput { node_index, slot, from, to } => {
                self.rename("input", node_index, slot, &from, to)
            }
            Edit::RenameOutput { node_index, slot, from, to } => {
                self.rename("output", node_index, slot, &from, to)
            }
            Edit::ReplaceOutputs(outputs) => {
                outputs.iter().try_for_each(|o| named("output", o.name()))?;
                self.touch("the list of outputs", 0, 0, || "the list of outputs".into())?;
                self.outputs = outputs;
                Ok(())
            }
        }
    }

    fn add_initializer(&mut self, tensor: TensorProto) -> Result<(), PatchError> {
        named("initializer", tensor.name())?;
        check_tensor(&tensor)?;
        // As the default of an input that callers must give today, it would change the model.
        if self.graph.input.iter().any(|i| i.name() == tensor.name()) {
            return Err(PatchError::NameTaken { name: tensor.name().into() });
        }
        self.added.push(tensor);
        Ok(())
    }

    fn replace_tensor(&mut self, name: &str, tensor: TensorProto) -> Result<(), PatchError> {
        let Some(&place) = self.places.get(name) else {
            return Err(PatchError::NoSuchTensor { name: name.into() });
        };
        let old = &self.graph.initializer[place];
        let differs = |part, expected: String, found: String| PatchError::NotAlike {
            name: name.into(),
            part,
            expected,
            found,
        };
        if tensor.name() != name {
            return Err(differs("name", name.into(), tensor.name().into()));
        }
        if tensor.data_type() != old.data_type() {
            let show = |t: &TensorProto| t.data_type().to_string();
            return Err(differs("type", show(old), show(&tensor)));
        }
        if tensor.dims != old.dims {
            return Err(differs("shape", format!("{:?}", old.dims), format!("{:?}", tensor.dims)));
        }
        check_tensor(&tensor)?;
        self.touch("tensor", place, 0, || format!("the initializer {name:?}"))?;
        self.replaced.push((place, tensor));
        Ok(())
    }

    fn insert(&mut self, node_index: usize, nodes: Vec<NodeProto>) -> Result<(), PatchError> {
        self.node(node_index)?;
        if let Some(node) = nodes.iter().find(|n| n.op_type().is_empty()) {
            return Err(PatchError::NoOperator { node: node.name().into() });
        }
        if nodes.is_empty() {
            let place = format!("the place behind node {node_index}");
            return Err(PatchError::NoChange { place });
        }
        self.inserted[node_index].extend(nodes);
        Ok(())
    }

    fn rename(
        &mut self,
        what: &'static str,
        node_index: usize,
        slot: usize,
        from: &str,
        to: String,
    ) -> Result<(), PatchError> {
        let original = self.node(node_index)?;
        let node = original.name().to_owned();
        let slots = if what == "input" { &original.input } else { &original.output };
        let Some(found) = slots.get(slot) else {
            return Err(PatchError::NoSuchSlot { node, slot, slots: slots.len() });
        };
        if found != from {
            let (expected, found) = (from.into(), found.clone());
            return Err(PatchError::NotAsPlanned { node, slot, expected, found });
        }
        named(what, &to)?;
        let place = || format!("{what} {slot} of node {node:?}");
        if from == to {
            return Err(PatchError::NoChange { place: place() });
        }
        self.touch(what, node_index, slot, place)?;
        let node = &mut self.nodes[node_index];
        let slots = if what == "input" { &mut node.input } else { &mut node.output };
        slots[slot] = to;
        Ok(())
    }

    fn node(&self, node_index: usize) -> Result<&'a NodeProto, PatchError> {
        let nodes = self.graph.node.len();
        self.graph.node.get(node_index).ok_or(PatchError::NoSuchNode { node_index, nodes })
    }

    fn touch(
        &mut self,
        what: &'static str,
        index: usize,
        slot: usize,
        place: impl Fn() -> String,
    ) -> Result<(), PatchError> {
        match self.touched.insert((what, index, slot)) {
            true => Ok(()),
            false => Err(PatchError::Conflict { place: place() }),
        }
    }
}

fn named(what: &'static str, name: &str) -> Result<(), PatchError> {
    if name.is_empty() { Err(PatchError::Unnamed { what }) } else { Ok(()) }
}
