//! Finding the modules of a graph.

use super::{
    ModelError, Naming, OnnxModel, Skipped, Target, Targets,
    dtypes::ElementType,
    naming::{self, Claim},
    operators::{is_microsoft, is_other_linear, is_standard},
    packed::{Part, parts},
    proto::{GraphProto, NodeProto},
    reader::{Reader, Source, StoredWeight},
    targets::NodeSite,
};
use crate::format::ModuleId;
use std::collections::BTreeMap;

/// [`find_targets_by`] without rules of the user.
pub fn find_targets(model: &OnnxModel) -> Result<Targets, ModelError> {
    find_targets_by(model, &Naming::default())
}

/// Finds the modules of a model by what its exporter says of each node: the names of optimum,
/// transformers.js and the onnxruntime-genai builder, the scopes of torch's exporter, or the
/// user's own rules.
///
/// Refuses a model in which two nodes claim one module, or none can be adapted. Anything
/// else that is linear and not a target is in [`Targets::skipped`].
pub fn find_targets_by(model: &OnnxModel, naming: &Naming) -> Result<Targets, ModelError> {
    let graph = model.graph();
    let reader = Reader::new(graph);
    let mut found = BTreeMap::<ModuleId, Target>::new();
    let mut claims = BTreeMap::<ModuleId, &str>::new();
    let mut skipped = Vec::new();
    let mut layers = 0;
    let names = || {
        let tensors = graph.initializer.iter().map(|tensor| tensor.name().to_owned());
        graph.node.iter().flat_map(Naming::names_of_node).chain(tensors).collect()
    };
    if let Some(rule) = naming.unused(names) {
        return Err(ModelError::UnusedRule { rule });
    }

    for (node_index, node) in graph.node.iter().enumerate() {
        skipped.extend(node_subgraphs(node, naming));
        if let Some(layer) = naming::layer_of_node(node) {
            layers = layers.max(usize::from(layer) + 1);
        }
        let weight = match is_linear(node) {
            true => reader.weight(node),
            false if is_other_linear(node) => reader.weight(node),
            false => None,
        };
        let name = match &weight {
            Some((_, Source::Stored(stored))) => Some(stored.tensor.name()),
            _ => None,
        };
        let claim = match is_linear(node) {
            true => naming.of_node(node, name),
            false => None,
        };
        for module in claim.into_iter().flat_map(Claim::modules) {
            layers = layers.max(usize::from(module.layer) + 1);
            if let Some(first) = claims.insert(module, node.name()) {
                return Err(ModelError::ClaimedTwice {
                    module,
                    first: first.into(),
                    second: node.name().into(),
                });
            }
        }
        match examine(&reader, node_index, node, claim, weight) {
            Ok(targets) => found.extend(targets.into_iter().map(|t| (t.module, t))),
            Err(reason) => skipped.push(Skipped { name: display_name(node, node_index), reason }),
        }
    }
    if found.is_empty() {
        let path = model.path.clone();
        let first = skipped.first().map(|s| format!("{}: {}", s.name, s.reason));
        let first = first.unwrap_or_else(|| "there was none".into());
        return Err(ModelError::NothingToAdapt { path, skipped: skipped.len(), first });
    }
    Ok(Targets::complete(found, skipped, layers, naming.covered()))
}

fn display_name(node: &NodeProto, index: usize) -> String {
    match node.name() {
        "" => format!("{} (node {index}, unnamed)", node.op_type()),
        name => name.into(),
    }
}

fn is_linear(node: &NodeProto) -> bool {
    is_standard(node, "MatMul") || is_microsoft(node, "MatMulNBits")
}

/// Modules inside the subgraphs of a node, which are not reached.
fn node_subgraphs<'a>(
    node: &'a NodeProto,
    naming: &'a Naming,
) -> impl Iterator<Item = Skipped> + 'a {
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let inside = graphs.flat_map(|g: &GraphProto| &g.node);
    let modules =
        inside.filter(move |inner| is_linear(inner) && naming.of_node(inner, None).is_some());
    modules.enumerate().map(|(index, inner)| Skipped {
        name: display_name(inner, index),
        reason: format!(
            "inside a subgraph of {}; export the model without branches",
            display_name(node, 0)
        ),
    })
}

/// The modules of one node, none if it is not linear, or why they cannot be adapted.
fn examine<'a>(
    reader: &Reader<'a>,
    node_index: usize,
    node: &'a NodeProto,
    claim: Option<Claim>,
    weight: Option<(usize, Source<'a>)>,
) -> Result<Vec<Target>, String> {
    if !is_linear(node) {
        return match weight {
            Some(_) => Err(format!(
                "operator {} is not adapted by this version; export the model in plain floats, or in \
                 blocks of four bits",
                node.op_type()
            )),
            None => Ok(Vec::new()),
        };
    }
    let Some((weight_slot, source)) = weight else {
        return match claim {
            Some(_) => Err("its weight is computed, not stored".into()),
            None => Ok(Vec::new()),
        };
    };
    if node.name().starts_with("tla/") {
        return Err("part of an adapter that was grafted beside a weight".into());
    }
    let stored = match source {
        Source::Stored(stored) => stored,
        Source::Computed { op } => {
            return Err(format!("its weight comes out of {op}, not from an initializer"));
        }
        Source::Activation => {
            return Err("its weight is not stored as blocks of four or eight bits without \
                        permutation; export it again"
                .into());
        }
    };
    let Some(claim) = claim else { return Err(unnamed(reader, node, &stored)) };
    if weight_slot != 1 {
        return Err("its weight is the left operand".into());
    }
    let element = ElementType::of(stored.tensor);
    if element.size().is_none() && stored.quantisation.is_none() {
        return Err(format!(
            "its weight is {}; this version adapts floats and integers of four or eight bits",
            element.name()
        ));
    }
    if stored.computed_in.size().is_none() {
        let name = stored.computed_in.name();
        return Err(format!(
            "it is multiplied as {name}; this version adapts floats of 16 and 32 bits"
        ));
    }
    let [first, second] = stored.shape().ok_or_else(|| {
        format!("its weight has the shape {:?}, not two sizes", stored.tensor.dims)
    })?;
    if first == 0 || second == 0 {
        return Err("its weight is empty".into());
    }
    // The right operand of MatMul is [in, out], that of MatMulNBits [out, in]; every Transpose on
    // the way turns it.
    let stored_transposed = !stored.transposed;
    let (rows, cols) = if stored_transposed { (second, first) } else { (first, second) };
    let parts = parts(reader, node, claim, rows)?;
    let packed = parts.len() > 1;
    let target = |(module, first, part_rows)| Target {
        module,
        rows: part_rows,
        cols,
        dtype: element,
        computed_in: stored.computed_in,
        initializer: stored.tensor.name().into(),
        stored_transposed,
        part: packed.then_some(Part { first, of: rows }),
        quantisation: stored.quantisation.clone(),
        shared: !stored.alone,
        node: Some(NodeSite { name: node.name().into(), index: node_index, weight_slot }),
    };
    Ok(parts.into_iter().map(target).collect())
}

fn unnamed(reader: &Reader<'_>, node: &NodeProto, stored: &StoredWeight<'_>) -> String {
    if node.name().contains("lm_head") || node.output.iter().any(|output| output == "logits") {
        let tied = reader.is_embedding(stored.tensor.name());
        let tie = if tied { "; its matrix is the embedding's" } else { "" };
        return format!("the head is not among the seven linear roles{tie}");
    }
    "neither its name nor its scope says which module it is; name it with --module NAME=ROLE".into()
}
