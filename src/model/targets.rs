//! Which matrix of a model is which module.

use super::{
    ModelError, OnnxModel,
    dtypes::{self, ElementType},
    linear,
    proto::{AttributeProto, GraphProto, NodeProto, TensorProto},
};
use crate::format::{ModuleId, RoleSet};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// One module that can be adapted: a stored matrix and, in a graph, the `MatMul` node it is the
/// weight of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Layer and role.
    pub module: ModuleId,
    /// Output size: rows of the canonical weight.
    pub rows: usize,
    /// Input size: columns of the canonical weight.
    pub cols: usize,
    /// Element type of the initializer.
    pub dtype: ElementType,
    /// Name of the initializer, or of the tensor in a checkpoint.
    pub initializer: String,
    /// Whether the initializer holds `[in, out]`, the transpose of the canonical weight.
    pub stored_transposed: bool,
    /// Whether anything but this node reads the initializer. A writer must then give the node
    /// its own copy.
    pub shared: bool,
    /// The node; `None` in a checkpoint, which has no graph.
    pub node: Option<NodeSite>,
}

/// The `MatMul` node of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSite {
    /// Its name.
    pub name: String,
    /// Its place in the graph's list.
    pub index: usize,
    /// Which of its inputs leads to the weight.
    pub weight_slot: usize,
}

/// A matrix that is not adapted, or a layer without one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Name of the node or tensor, or `layers.<N>` for a layer with missing modules.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// Everything linear in a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The modules that can be adapted, sorted by module.
    pub targets: Vec<Target>,
    /// What was left out: nodes in graph order or tensors by name, then incomplete layers.
    pub skipped: Vec<Skipped>,
    /// One more than the highest layer any attention or MLP block names.
    pub layers: usize,
}

impl Targets {
    /// The target of a module, if it can be adapted.
    pub fn get(&self, module: ModuleId) -> Option<&Target> {
        let place = self.targets.binary_search_by_key(&module, |t| t.module).ok()?;
        self.targets.get(place)
    }
}

/// Finds the modules of a model by the node names that optimum-onnx writes.
///
/// Refuses a model in which two nodes claim one module, or none can be adapted. Anything
/// else that is linear and not a target is in [`Targets::skipped`].
pub fn find_targets(model: &OnnxModel) -> Result<Targets, ModelError> {
    let graph = model.graph();
    let reader = Reader::new(graph);
    let mut found = BTreeMap::<ModuleId, Target>::new();
    let mut claims = BTreeMap::<ModuleId, &str>::new();
    let mut skipped = Vec::new();
    let mut layers = 0;

    for (node_index, node) in graph.node.iter().enumerate() {
        if let Some((layer, rest)) = linear::layer_of(node.name())
            && linear::in_block(rest)
        {
            layers = layers.max(usize::from(layer) + 1);
        }
        let module = linear::module_of(node.name());
        if let Some(module) = module
            && let Some(first) = claims.insert(module, node.name())
        {
            return Err(ModelError::ClaimedTwice {
                module,
                first: first.into(),
                second: node.name().into(),
            });
        }
        match reader.examine(node_index, node, module) {
            Verdict::Target(target) => drop(found.insert(target.module, target)),
            Verdict::Skip(reason) => {
                skipped.push(Skipped { name: display_name(node, node_index), reason });
            }
            Verdict::NotLinear => {}
        }
    }
    if found.is_empty() {
        let path = model.path.clone();
        let first = skipped.first().map(|s| format!("{}: {}", s.name, s.reason));
        let first = first.unwrap_or_else(|| "there was none".into());
        return Err(ModelError::NothingToAdapt { path, skipped: skipped.len(), first });
    }
    skipped.extend(incomplete_layers(layers, &found));
    Ok(Targets { targets: found.into_values().collect(), skipped, layers })
}

fn display_name(node: &NodeProto, index: usize) -> String {
    match node.name() {
        "" => format!("{} (node {index}, unnamed)", node.op_type()),
        name => name.into(),
    }
}

/// The layers that lack a module.
pub(crate) fn incomplete_layers(layers: usize, found: &BTreeMap<ModuleId, Target>) -> Vec<Skipped> {
    let lacks = |layer: u16| {
        let missing = RoleSet::LINEAR.iter();
        let missing = missing.filter(|&role| !found.contains_key(&ModuleId { layer, role }));
        missing.map(|role| role.name()).collect::<Vec<_>>().join(", ")
    };
    (0..layers as u16)
        .map(|layer| (layer, lacks(layer)))
        .filter(|(_, missing)| !missing.is_empty())
        .map(|(layer, missing)| Skipped {
            name: format!("layers.{layer}"),
            reason: format!(
                "no adaptable matrix for {missing}; the base digest needs all seven roles in every layer"
            ),
        })
        .collect()
}

enum Verdict {
    Target(Target),
    Skip(String),
    NotLinear,
}

/// Where an operand comes from, Identity and Transpose followed.
enum Source<'a> {
    Stored {
        tensor: &'a TensorProto,
        transposed: bool,
        alone: bool,
    },
    /// An initializer seen only through operators that are not followed.
    Computed {
        op: &'a str,
    },
    Activation,
}

struct Reader<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    uses: HashMap<&'a str, usize>,
    embeddings: HashSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut uses = HashMap::new();
        count_uses(graph, &mut uses);
        let producers =
            graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
        let tensors = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let gathers = graph.node.iter().filter(|n| linear::is_standard(n, "Gather"));
        let tables = gathers.filter_map(|n| n.input.first().map(String::as_str));
        let mut reader = Self { tensors, producers, uses, embeddings: HashSet::new() };
        reader.embeddings = tables
            .filter_map(|name| match reader.source(name) {
                Source::Stored { tensor, .. } => Some(tensor.name()),
                _ => None,
            })
            .collect();
        reader
    }

    fn source(&self, operand: &'a str) -> Source<'a> {
        let (mut name, mut transposed) = (operand, false);
        let mut alone = true;
        let mut visited = BTreeSet::new();
        loop {
            alone &= self.uses.get(name).is_none_or(|&n| n == 1);
            if let Some(tensor) = self.tensors.get(name) {
                return Source::Stored { tensor, transposed, alone };
            }
            let Some(node) = self.producers.get(name) else { return Source::Activation };
            // A cycle is not a model, but it must not hang us either.
            if !visited.insert(name) {
                return Source::Activation;
            }
            let Some(from) = node.input.first() else {
                return match node.op_type() {
                    "Constant" => Source::Computed { op: "Constant" },
                    _ => Source::Activation,
                };
            };
            if linear::is_standard(node, "Transpose") && swaps(&node.attribute) {
                transposed = !transposed;
            } else if !linear::is_standard(node, "Identity") {
                let stored = node.op_type() != "Gather" && self.tensors.contains_key(from.as_str());
                return match stored
                    && node
                        .input
                        .iter()
                        .all(|i| i.is_empty() || self.tensors.contains_key(i.as_str()))
                {
                    true => Source::Computed { op: node.op_type() },
                    false => Source::Activation,
                };
            }
            name = from;
        }
    }

    fn examine(&self, node_index: usize, node: &'a NodeProto, module: Option<ModuleId>) -> Verdict {
        let operands = node.input.iter().map(|name| self.source(name));
        let stored = operands.enumerate().find(|(_, s)| !matches!(s, Source::Activation));
        if !linear::is_standard(node, "MatMul") {
            return match linear::is_other_linear(node) && stored.is_some() {
                true => Verdict::Skip(format!(
                    "operator {} is not adapted by this version; export the model in plain fp32",
                    node.op_type()
                )),
                false => Verdict::NotLinear,
            };
        }
        let Some((weight_slot, source)) = stored else {
            return match module {
                Some(_) => Verdict::Skip("its weight is computed, not stored".into()),
                None => Verdict::NotLinear,
            };
        };
        if node.name().starts_with("tla/") {
            return Verdict::Skip("part of an adapter that was grafted beside a weight".into());
        }
        let Source::Stored { tensor, transposed, alone } = source else {
            let Source::Computed { op } = source else { return Verdict::NotLinear };
            return Verdict::Skip(format!("its weight comes out of {op}, not from an initializer"));
        };
        let Some(module) = module else {
            return Verdict::Skip(self.unnamed(node, tensor));
        };
        if weight_slot != 1 {
            return Verdict::Skip("its weight is the left operand".into());
        }
        let element = ElementType::of(tensor);
        if element != ElementType::F32 {
            return Verdict::Skip(format!(
                "its weight is {}; this version adapts float weights only, export in fp32",
                element.name()
            ));
        }
        let Ok(&[first, second]) = dtypes::shape_of(tensor).as_deref() else {
            return Verdict::Skip(format!(
                "its weight has the shape {:?}, not two sizes",
                tensor.dims
            ));
        };
        if first == 0 || second == 0 {
            return Verdict::Skip("its weight is empty".into());
        }
        // The right operand of MatMul is [in, out]; every Transpose on the way turns it.
        let stored_transposed = !transposed;
        let (rows, cols) = if stored_transposed { (second, first) } else { (first, second) };
        Verdict::Target(Target {
            module,
            rows,
            cols,
            dtype: element,
            initializer: tensor.name().into(),
            stored_transposed,
            shared: !alone,
            node: Some(NodeSite { name: node.name().into(), index: node_index, weight_slot }),
        })
    }

    fn unnamed(&self, node: &NodeProto, tensor: &TensorProto) -> String {
        let name = node.name();
        if name.contains("lm_head") {
            let tied = self.embeddings.contains(tensor.name());
            let tie = if tied { "; its matrix is the embedding's" } else { "" };
            return format!("the head is not among the seven linear roles{tie}");
        }
        if name.contains("qkv_proj") || name.contains("gate_up_proj") {
            return "a packed projection, which this version does not cut into its modules".into();
        }
        "its node is not named like /model/layers.0/self_attn/q_proj/MatMul, so its role is unknown"
            .into()
    }
}

/// Whether a two-dimensional Transpose with these attributes swaps its sizes.
fn swaps(attributes: &[AttributeProto]) -> bool {
    attributes.iter().find(|a| a.name() == "perm").is_none_or(|a| a.ints == [1, 0])
}

/// How often each name is read: by nodes, by nodes of nested graphs, and as an output.
fn count_uses<'a>(graph: &'a GraphProto, uses: &mut HashMap<&'a str, usize>) {
    for output in &graph.output {
        *uses.entry(output.name()).or_default() += 1;
    }
    for node in &graph.node {
        for input in &node.input {
            *uses.entry(input).or_default() += 1;
        }
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|g| count_uses(g, uses));
        }
    }
}
