//! Modules inside the branches of If and the bodies of loops, such as the merged decoders of older
//! exports: each branch multiplies by a matrix that the main graph holds.

use super::{
    Skipped, Target,
    dtypes::ElementType,
    find::display_name,
    naming::{Claim, Naming},
    operators::{is_linear, is_standard},
    proto::{GraphProto, NodeProto},
    reader::{Reader, Source, StoredWeight, count_uses, swaps},
};
use crate::format::ModuleId;
use std::collections::{BTreeMap, HashMap};

/// A branch and the graphs around it, without the main one.
#[derive(Clone)]
struct Scope<'a> {
    /// The node that holds the outermost.
    holder: &'a NodeProto,
    graphs: Vec<Values<'a>>,
}

/// Who makes the values of one graph, and how often each is read.
#[derive(Clone)]
struct Values<'a> {
    graph: &'a GraphProto,
    producers: HashMap<&'a str, &'a NodeProto>,
    uses: HashMap<&'a str, usize>,
}

/// A node of a branch that multiplies by a matrix of the main graph.
struct Reading<'a> {
    node: &'a NodeProto,
    holder: &'a NodeProto,
    stored: StoredWeight<'a>,
}

/// The modules of all branches, and those that cannot be adapted.
pub(super) fn modules<'a>(
    graph: &'a GraphProto,
    reader: &Reader<'a>,
    naming: &Naming,
) -> (Vec<Target>, Vec<(ModuleId, Skipped)>) {
    let mut readings = BTreeMap::<ModuleId, Vec<Result<Reading<'a>, Skipped>>>::new();
    for node in &graph.node {
        let scope = Scope { holder: node, graphs: Vec::new() };
        walk(node, &scope, reader, naming, &mut readings);
    }
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for (module, readings) in readings {
        match readings.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(readings) => match target(module, &readings, reader) {
                Ok(target) => found.push(target),
                Err(reason) => {
                    let first = readings.first();
                    skipped.extend(first.map(|r| (module, skip(r.node, r.holder, &reason))))
                }
            },
            Err(reason) => skipped.push((module, reason)),
        }
    }
    (found, skipped)
}

fn skip(node: &NodeProto, holder: &NodeProto, reason: &str) -> Skipped {
    let (name, holder) = (display_name(node, 0), display_name(holder, 0));
    Skipped { name, reason: format!("inside a branch of {holder}: {reason}") }
}

fn walk<'a>(
    holder: &'a NodeProto,
    scope: &Scope<'a>,
    reader: &Reader<'a>,
    naming: &Naming,
    readings: &mut BTreeMap<ModuleId, Vec<Result<Reading<'a>, Skipped>>>,
) {
    for graph in holder.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        let mut uses = HashMap::new();
        count_uses(graph, &mut uses);
        let made = graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)));
        let mut scope = scope.clone();
        scope.graphs.push(Values { graph, producers: made.collect(), uses });
        for node in &graph.node {
            walk(node, &scope, reader, naming, readings);
            let claim = if is_linear(node) { naming.of_node(node, None) } else { None };
            let Some(claim) = claim else { continue };
            for module in claim.modules() {
                let reading = read(node, claim, &scope, reader);
                let reading = reading.map_err(|reason| skip(node, scope.holder, &reason));
                readings.entry(module).or_default().push(reading);
            }
        }
    }
}

/// The stored matrix that a node of a branch multiplies by.
fn read<'a>(
    node: &'a NodeProto,
    claim: Claim,
    scope: &Scope<'a>,
    reader: &Reader<'a>,
) -> Result<Reading<'a>, String> {
    if !is_standard(node, "MatMul") {
        return Err(format!("operator {} is adapted in the main graph only", node.op_type()));
    }
    if claim.roles.len() > 1 {
        return Err("a packed projection is adapted in the main graph only".into());
    }
    let mut value = node.input.get(1).map(String::as_str).unwrap_or_default();
    let (mut turned, mut alone, mut steps) = (false, true, 0);
    while let Some(values) = scope.graphs.iter().rev().find(|values| values.knows(value)) {
        let Some(made) = values.producers.get(value) else {
            return Err(
                "its matrix lies inside the branch; export the model without branches".into()
            );
        };
        alone &= values.uses.get(value).is_none_or(|&uses| uses == 1);
        match is_standard(made, "Transpose") && swaps(made) {
            true => turned = !turned,
            false if is_standard(made, "Identity") => {}
            false => return Err(format!("its matrix comes out of {}", made.op_type())),
        }
        value = made.input.first().map(String::as_str).unwrap_or_default();
        // A cycle is not a model, but it must not hang us either.
        steps += 1;
        if steps > values.graph.node.len() {
            return Err("its matrix is computed, not stored".into());
        }
    }
    match reader.source(value) {
        Source::Stored(stored) => {
            let (transposed, computed_in) = (stored.transposed != turned, stored.computed_in);
            // The main graph counts every branch as a reader, so what is direct is counted later.
            let alone = alone && (stored.tensor.name() == value || stored.alone);
            let stored = StoredWeight { transposed, alone, computed_in, ..stored };
            Ok(Reading { node, holder: scope.holder, stored })
        }
        Source::Computed { op } => Err(format!("its matrix comes out of {op}")),
        Source::Activation => Err("its matrix is computed, not stored".into()),
    }
}

impl Values<'_> {
    fn knows(&self, value: &str) -> bool {
        self.producers.contains_key(value)
            || self.graph.initializer.iter().any(|t| t.name() == value)
            || self.graph.input.iter().any(|i| i.name() == value)
    }
}

/// The matrix of all the nodes that are this module, if it is one and theirs alone.
fn target(
    module: ModuleId,
    readings: &[Reading<'_>],
    reader: &Reader<'_>,
) -> Result<Target, String> {
    let first = readings.first().ok_or("no branch has it")?;
    let stored = &first.stored;
    let same = |other: &Reading<'_>| {
        (other.stored.tensor.name(), other.stored.transposed)
            == (stored.tensor.name(), stored.transposed)
    };
    if !readings.iter().all(same) {
        return Err("the branches have different matrices for it".into());
    }
    let direct = readings.iter().all(|r| r.stored.alone);
    if !direct || reader.uses(stored.tensor.name()) != readings.len() {
        return Err("others read its matrix too, and a branch is given none of its own".into());
    }
    let element = ElementType::of(stored.tensor);
    let known = element.size().is_some() || stored.quantisation.is_some();
    if !known || stored.computed_in.size().is_none() {
        return Err(format!("its matrix is {}", element.name()));
    }
    match stored.shape() {
        Some([inner, outer]) if inner > 0 && outer > 0 => {
            // MatMul's right operand is [in, out].
            let stored_transposed = !stored.transposed;
            let (rows, cols) = if stored_transposed { (outer, inner) } else { (inner, outer) };
            Ok(Target {
                module,
                rows,
                cols,
                dtype: element,
                computed_in: stored.computed_in,
                initializer: stored.tensor.name().into(),
                stored_transposed,
                part: None,
                quantisation: stored.quantisation.clone(),
                shared: false,
                node: None,
            })
        }
        _ => Err(format!("its matrix has the shape {:?}, not two sizes", stored.tensor.dims)),
    }
}
