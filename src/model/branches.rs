//! Modules inside the branches of If and the bodies of loops, such as the merged decoders of older
//! exports: each branch multiplies by a matrix that the main graph holds.

use super::{
    Skipped, Target,
    find::{claimed, display_name, examine},
    naming::Naming,
    proto::{GraphProto, NodeProto},
    ranks::Ranks,
    reader::Reader,
};
use crate::format::ModuleId;
use std::collections::{BTreeMap, BTreeSet};

/// What all branches of a graph have.
#[derive(Default)]
pub(super) struct Inside {
    /// Modules that can be adapted.
    pub targets: Vec<Target>,
    /// Modules that cannot.
    pub left: Vec<(ModuleId, Skipped)>,
    /// Nodes that are linear and no module.
    pub others: Vec<Skipped>,
}

/// What the nodes of branches are that are one module.
type Readings<'a> = BTreeMap<ModuleId, Vec<Result<Reading<'a>, Skipped>>>;

/// A node of a branch that multiplies by a matrix of the main graph.
struct Reading<'a> {
    node: &'a NodeProto,
    holder: &'a NodeProto,
    /// As the branch has it.
    target: Target,
}

/// All that a rule may name in a graph and in its branches: nodes and tensors.
pub(super) fn names(graph: &GraphProto) -> Vec<String> {
    let mut names: Vec<String> =
        graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    for node in &graph.node {
        names.extend(Naming::names_of_node(node));
        let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        names.extend(inner.flat_map(self::names));
    }
    names
}

/// The modules of all branches, and those that cannot be adapted.
pub(super) fn modules<'a>(graph: &'a GraphProto, reader: &Reader<'a>, naming: &Naming) -> Inside {
    let mut inside = Inside::default();
    let mut readings = Readings::new();
    for node in &graph.node {
        walk((node, node), reader, naming, &mut readings, &mut inside.others);
    }
    for (module, readings) in readings {
        match readings.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(readings) => match target(&readings, reader) {
                Ok(target) => inside.targets.push(target),
                Err(reason) => {
                    let first = readings.first();
                    let skipped = first.map(|r| (module, skip(r.node, r.holder, &reason)));
                    inside.left.extend(skipped);
                }
            },
            Err(reason) => inside.left.push((module, reason)),
        }
    }
    // Branches have much in common.
    let mut known = BTreeSet::new();
    inside.others.retain(|s| known.insert((s.name.clone(), s.reason.clone())));
    inside
}

fn skip(node: &NodeProto, holder: &NodeProto, reason: &str) -> Skipped {
    let (name, holder) = (display_name(node, 0), display_name(holder, 0));
    Skipped { name, reason: format!("inside a branch of {holder}: {reason}") }
}

/// The graphs of a node, inside the outermost one that has any.
fn walk<'a>(
    (outermost, holder): (&'a NodeProto, &'a NodeProto),
    around: &Reader<'a>,
    naming: &Naming,
    readings: &mut Readings<'a>,
    others: &mut Vec<Skipped>,
) {
    for graph in holder.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        let reader = around.inside(graph);
        let ranks = Ranks::new(graph, &reader);
        for (index, node) in graph.node.iter().enumerate() {
            walk((outermost, node), &reader, naming, readings, others);
            let (claim, weight) = claimed(&reader, node, naming);
            let found = examine((&reader, &ranks), &graph.node, index, node, claim, weight);
            match found.and_then(|targets| of_main(&reader, targets)) {
                Ok(targets) => {
                    for target in targets {
                        let reading = Reading { node, holder: outermost, target };
                        readings.entry(reading.target.module).or_default().push(Ok(reading));
                    }
                }
                Err(reason) => {
                    let skipped = skip(node, outermost, &reason);
                    let Some(claim) = claim else {
                        others.push(skipped);
                        continue;
                    };
                    for module in claim.modules() {
                        readings.entry(module).or_default().push(Err(skipped.clone()));
                    }
                }
            }
        }
    }
}

/// Those targets, if all that is stored of them lies in the main graph.
fn of_main(reader: &Reader<'_>, targets: Vec<Target>) -> Result<Vec<Target>, String> {
    let stored = |target: &Target| {
        let beside = target.quantisation.as_ref().map(|quantisation| quantisation.beside());
        let (scales, zeros) = beside.map_or((None, None), |(scales, zeros)| (Some(scales), zeros));
        let names = [Some(target.initializer.as_str()), scales, zeros];
        names.into_iter().flatten().all(|name| reader.is_of_main(name))
    };
    match targets.iter().all(stored) {
        true => Ok(targets),
        false => Err("its matrix lies inside the branch; export the model without branches".into()),
    }
}

/// The matrix of all the nodes that are one module, if it is one and theirs alone.
fn target(readings: &[Reading<'_>], reader: &Reader<'_>) -> Result<Target, String> {
    let bare =
        |reading: &Reading<'_>| Target { node: None, shared: false, ..reading.target.clone() };
    let target = readings.first().map(bare).ok_or("no branch has it")?;
    if !readings.iter().all(|reading| bare(reading) == target) {
        return Err("the branches have different matrices for it".into());
    }
    let stored = reader.tensor(&target.initializer).ok_or("its matrix is not stored")?;
    let direct = readings.iter().all(|reading| !reading.target.shared);
    if !direct || reader.leaves(stored.name()) != readings.len() {
        return Err("others read its matrix too, and a branch is given none of its own".into());
    }
    Ok(target)
}
