//! Finding the modules of a graph.

use super::{
    ModelError, Naming, OnnxModel, Skipped, Target, Targets,
    branches::{self, Inside},
    dtypes::ElementType,
    integers,
    naming::{self, Claim},
    node::{float_attribute, int_attribute},
    operators::{is_hidden_linear, is_linear, is_microsoft, is_other_linear, is_standard},
    order::refuse_cycle,
    packed::{Part, parts},
    proto::NodeProto,
    ranks::Ranks,
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
    refuse_cycle(model)?;
    let graph = model.graph();
    let reader = Reader::new(graph);
    let ranks = Ranks::new(graph, &reader);
    let mut found = BTreeMap::<ModuleId, Target>::new();
    let mut claims = BTreeMap::<ModuleId, &str>::new();
    let mut skipped = Vec::new();
    let mut hidden = Vec::new();
    let mut layers = 0;
    if let Some(rule) = naming.unused(|| branches::names(graph)) {
        return Err(ModelError::UnusedRule { rule });
    }

    for (node_index, node) in graph.node.iter().enumerate() {
        if let Some(layer) = naming::layer_of_node(node) {
            layers = layers.max(usize::from(layer) + 1);
        }
        let (claim, weight) = claimed(&reader, node, naming);
        let name = || display_name(node, node_index);
        if !is_linear(node) && claim.is_some() {
            let reason = examine((&reader, &ranks), &graph.node, node_index, node, claim, weight);
            hidden.extend(claim.zip(reason.err()).map(|(c, reason)| (c, name(), reason)));
            continue;
        }
        for module in claim.into_iter().flat_map(Claim::modules) {
            if module != ModuleId::LM_HEAD {
                layers = layers.max(usize::from(module.layer) + 1);
            }
            if let Some(first) = claims.insert(module, node.name()) {
                return Err(ModelError::ClaimedTwice {
                    module,
                    first: first.into(),
                    second: node.name().into(),
                });
            }
        }
        match examine((&reader, &ranks), &graph.node, node_index, node, claim, weight) {
            Ok(targets) => found.extend(targets.into_iter().map(|t| (t.module, t))),
            Err(reason) => {
                refuse_named(claim, &name(), &reason)?;
                skipped.push(Skipped { name: name(), reason });
            }
        }
    }
    // Beside the product of its module an operator may do anything.
    hidden.retain(|(claim, ..)| !claim.modules().any(|module| claims.contains_key(&module)));
    for (claim, name, reason) in hidden {
        layers = claim
            .modules()
            .filter(|m| *m != ModuleId::LM_HEAD)
            .fold(layers, |most, module| most.max(usize::from(module.layer) + 1));
        refuse_named(Some(claim), &name, &reason)?;
        skipped.push(Skipped { name, reason });
    }
    let Inside { targets: inside, left, others } = branches::modules(graph, &reader, naming);
    let within = inside.iter().map(|t| t.module).chain(left.iter().map(|(module, _)| *module));
    for module in within {
        if module != ModuleId::LM_HEAD {
            layers = layers.max(usize::from(module.layer) + 1);
        }
        // Adapted in one of the two places alone it would be half an adapter.
        if let (Some(name), Some(_)) = (claims.get(&module), found.remove(&module)) {
            let reason = format!(
                "a branch has {module} too; a module of both is not adapted, so export the model \
                 without branches"
            );
            skipped.push(Skipped { name: (*name).into(), reason });
        }
    }
    for target in inside {
        match claims.contains_key(&target.module) {
            true => skipped.push(Skipped {
                reason: format!("the main graph has {} too", target.module),
                name: target.initializer,
            }),
            false => drop(found.insert(target.module, target)),
        }
    }
    skipped.extend(left.into_iter().map(|(_, reason)| reason));
    skipped.extend(others);
    if found.is_empty() {
        let path = model.path.clone();
        let first = skipped.first().map(|s| format!("{}: {}", s.name, s.reason));
        let first = first.unwrap_or_else(|| "there was none".into());
        return Err(ModelError::NothingToAdapt { path, skipped: skipped.len(), first });
    }
    Ok(Targets::complete(found, skipped, layers, naming.covered()))
}

/// Which modules a linear node is, and where its weight comes from.
pub(super) fn claimed<'a>(
    reader: &Reader<'a>,
    node: &'a NodeProto,
    naming: &Naming,
) -> (Option<Claim>, Option<(usize, Source<'a>)>) {
    let weight = match is_linear(node) || is_other_linear(node) {
        true => reader.weight(node),
        false => None,
    };
    let name = match &weight {
        Some((_, Source::Stored(stored))) => Some(stored.tensor.name()),
        _ => None,
    };
    let is_named = is_linear(node) || is_other_linear(node) || is_hidden_linear(node);
    (naming.of_node(node, name).filter(|_| is_named), weight)
}

/// What the user calls a module and is none is not passed over.
fn refuse_named(claim: Option<Claim>, name: &str, reason: &str) -> Result<(), ModelError> {
    match claim.filter(|claim| claim.by_rule).and_then(|claim| claim.modules().next()) {
        Some(module) => {
            let (name, reason) = (name.into(), reason.into());
            Err(ModelError::NamedInVain { name, module, reason })
        }
        None => Ok(()),
    }
}

pub(super) fn display_name(node: &NodeProto, index: usize) -> String {
    match node.name() {
        "" => format!("{} (node {index}, unnamed)", node.op_type()),
        name => name.into(),
    }
}

/// The modules of one node, none if it is not linear, or why they cannot be adapted.
pub(super) fn examine<'a>(
    (reader, ranks): (&Reader<'a>, &Ranks<'a>),
    nodes: &'a [NodeProto],
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
            None if is_hidden_linear(node) && claim.is_some() => Err(hidden(node)),
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
            return Err(format!(
                "its weight comes out of {op}, not from an initializer; store it as one, as \
                 onnx-simplifier does and a model that ONNX Runtime optimised and saved has it"
            ));
        }
        Source::Activation if is_microsoft(node, "MatMulNBits") => {
            return Err("its weight is not stored as blocks of four or eight bits without \
                        permutation; export it again"
                .into());
        }
        Source::Activation => {
            return Err(
                "its integers are not those of dynamic quantisation with a stored weight of \
                        eight bits; quantise it again"
                    .into(),
            );
        }
    };
    let Some(claim) = claim else { return Err(unnamed(reader, node, &stored)) };
    if weight_slot != 1 {
        return Err("its weight is not the right operand".into());
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
    // The right operand of MatMul is [in, out], that of MatMulNBits and of Gemm with transB [out, in];
    // every Transpose on the way turns it.
    let is_gemm = is_standard(node, "Gemm");
    let reads_canonical = is_gemm && flag(node, "transB");
    if is_gemm && (flag(node, "transA") || float_attribute(node, "alpha").is_some_and(|a| a != 1.0))
    {
        return Err("a Gemm that turns or scales what it multiplies; export the layer as a plain \
                    Linear"
            .into());
    }
    let stored_transposed = stored.transposed == reads_canonical;
    let mut ends = (node.input[0].clone(), node_index);
    if is_standard(node, "MatMulInteger") {
        let found = integers::ends(reader, node).and_then(|ends| {
            Some((ends.input.to_owned(), nodes.iter().position(|n| std::ptr::eq(n, ends.product))?))
        });
        ends =
            found.ok_or("its product does not become floats in the way of dynamic quantisation")?;
    }
    let (input, product) = ends;
    let (rows, cols) = if stored_transposed { (second, first) } else { (first, second) };
    let rank = if is_gemm { Some(2) } else { ranks.rank(&input) };
    let parts = parts(reader, node, claim, rows, rank == Some(2))?;
    let sum = biased(reader, nodes, product, rows);
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
        node: Some(NodeSite {
            name: node.name().into(),
            index: node_index,
            weight_slot,
            reads_canonical: reads_canonical || is_microsoft(node, "MatMulNBits"),
            input: input.clone(),
            product,
            sum,
            batched: rank == Some(3) && !ranks.leads_with_one(&input),
        }),
    };
    Ok(parts.into_iter().map(target).collect())
}

/// The place of the `Add` of a bias with so many values that alone reads a product; of the product, if
/// there is none.
fn biased<'a>(reader: &Reader<'a>, nodes: &'a [NodeProto], product: usize, rows: usize) -> usize {
    let add = || {
        let value = nodes.get(product)?.output.first()?;
        let ([add], 1) = (reader.readers(value), reader.uses(value)) else { return None };
        let bias = match &add.input[..] {
            [a, b] if a == value => b,
            [a, b] if b == value => a,
            _ => return None,
        };
        let Source::Stored(stored) = reader.source(bias) else { return None };
        let fits = is_standard(add, "Add") && stored.tensor.dims == [rows as i64];
        nodes.iter().position(|node| std::ptr::eq(node, *add)).filter(|_| fits)
    };
    add().unwrap_or(product)
}

fn hidden(node: &NodeProto) -> String {
    match node.domain() {
        "" | "ai.onnx" | "com.microsoft" => format!(
            "operator {} is not adapted by this version; export the layer as a plain Linear",
            node.op_type()
        ),
        domain => format!(
            "{} of {domain:?} is a function or an operator whose insides are not followed; inline the \
             functions of the model, or export it without them",
            node.op_type()
        ),
    }
}

fn flag(node: &NodeProto, name: &str) -> bool {
    int_attribute(node, name).is_some_and(|value| value != 0)
}

fn unnamed(reader: &Reader<'_>, node: &NodeProto, stored: &StoredWeight<'_>) -> String {
    if node.name().contains("lm_head") || node.output.iter().any(|output| output == "logits") {
        let tied = reader.is_embedding(stored.tensor.name());
        let tie = if tied { "; its matrix is the embedding's" } else { "" };
        return format!("a head that is not named lm_head{tie}");
    }
    "neither its name nor its scope says which module it is; name it with --module NAME=ROLE".into()
}
