//! `tla inspect`: what of a model can be adapted.

use super::{
    CliError, Output, Verdict,
    base::Base,
    names::Names,
    output::{hex, name},
    survived::Layer,
    threads::Threads,
};
use crate::model::{Kind, Summary, TargetLine, summarize};
use crate::{format::ModuleId, projection::basis};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// List the modules of a model that can be adapted, what was skipped, and the base digest
///
/// The base digest covers the seven linear roles (q k v o gate up down) in every layer;
/// embeddings, head, norms and biases are not covered.
#[derive(clap::Args)]
pub struct Inspect {
    /// An .onnx file, a .safetensors file, or the folder of either: of its model.onnx,
    /// model.safetensors and model.safetensors.index.json, the first that is there
    model: PathBuf,
    /// Compute the basis of each module at this rank too, and flag those whose singular values are
    /// so close that another method would find other vectors
    #[arg(long, value_name = "RANK")]
    bases: Option<usize>,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Inspect {
    /// Prints the summary.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let base = Base::load(&self.model, &self.names)?;
        let summary =
            self.threads.install(|| summarize(base.model.container(), &base.targets))??;
        if summary.base_digest.is_none() {
            out.say(
                "the model has no base digest, because a linear role of some layer was skipped. \
                 No adapter can be bound to it.",
            );
        }
        let mut report = Report::from(summary);
        report.bases = self.bases.map(|rank| self.bases(&base, rank)).transpose()?;
        out.report(&report)?;
        Ok(Verdict::Yes)
    }

    fn bases(&self, base: &Base, rank: usize) -> Result<Vec<BasisLine>, CliError> {
        let each = base.targets.targets.iter().map(|target| {
            let weight = base.model.container().weight(target)?;
            let found = basis(weight.view(), target.module, rank, self.threads.count())?;
            Ok(BasisLine {
                layer: target.module.layer,
                role: target.module.role.name(),
                determined: found.is_determined(),
                gap: found.gap,
                residual: found.residual,
                passes: found.steps,
                sigma: found.sigma,
            })
        });
        each.collect()
    }
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// Which weights an adapter made for this model names; null if there is no digest.
    base_digest: Option<String>,
    /// Number of layers.
    layers: usize,
    /// "onnx" or "safetensors".
    container: &'static str,
    /// Version of the default operator set; null in a checkpoint.
    opset: Option<i64>,
    /// Who wrote the file, as it says itself; null in a checkpoint.
    producer: Option<String>,
    /// Files with weights of a checkpoint; null in a graph.
    files: Option<usize>,
    /// Bytes of the weights that can be adapted; of integers without scales and zero points.
    adaptable_bytes: u64,
    /// The modules, sorted by layer, then role.
    targets: Vec<TargetLine>,
    /// What was left out, and why.
    skipped: Vec<SkippedLine>,
    /// How well each module's basis is determined; absent if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bases: Option<Vec<BasisLine>>,
}

/// The basis of one module.
#[derive(Serialize)]
struct BasisLine {
    layer: u16,
    role: &'static str,
    /// Singular values.
    sigma: Vec<f64>,
    /// Smallest difference of neighbouring ones, as a fraction of the first.
    gap: f64,
    /// Largest ‖WᵀWv − σ²v‖ as a fraction of σ₁².
    residual: f64,
    /// Passes over the weight.
    passes: usize,
    /// Whether another method would find the same vectors.
    determined: bool,
}

#[derive(Serialize)]
struct SkippedLine {
    name: String,
    reason: String,
}

impl From<Summary> for Report {
    fn from(summary: Summary) -> Self {
        let line = |s: crate::model::Skipped| SkippedLine { name: s.name, reason: s.reason };
        let container = summary.kind.name();
        let (opset, producer, files) = match summary.kind {
            Kind::Onnx { opset, producer } => (Some(opset), Some(producer), None),
            Kind::Safetensors { files } => (None, None, Some(files)),
        };
        Self {
            container,
            files,
            base_digest: summary.base_digest.map(|digest| hex(&digest)),
            layers: summary.layers,
            opset,
            producer,
            adaptable_bytes: summary.adaptable_bytes,
            targets: summary.targets,
            skipped: summary.skipped.into_iter().map(line).collect(),
            bases: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A checkpoint has no nodes, and no column of them.
        let node = |t: &TargetLine| t.node.as_deref().map(name);
        let nodes: Vec<_> = self.targets.iter().filter_map(node).collect();
        let wide = nodes.iter().map(|n| n.chars().count()).max().map_or(0, |n| n.max(4) + 2);
        let matrix = if nodes.is_empty() { "tensor" } else { "initializer" };
        let (layer, role, rows, cols, dtype) = ("layer", "role", "rows", "cols", "type");
        let column = if nodes.is_empty() { "" } else { "node" };
        writeln!(
            f,
            "{layer:>5}  {role:<7}  {rows:>6}  {cols:>6}  {dtype:<8}  {column:<wide$}{matrix}"
        )?;
        for target in &self.targets {
            let TargetLine { layer, role, rows, cols, dtype, .. } = target;
            let (node, initializer) = (node(target).unwrap_or_default(), name(&target.initializer));
            let layer = Layer(*layer);
            let shared = if target.shared { " (shared)" } else { "" };
            writeln!(
                f,
                "{layer:>5}  {role:<7}  {rows:>6}  {cols:>6}  {dtype:<8}  {node:<wide$}{initializer}{shared}"
            )?;
        }
        for skipped in &self.skipped {
            writeln!(f, "skipped {}: {}", name(&skipped.name), name(&skipped.reason))?;
        }
        let (modules, layers, bytes) = (self.targets.len(), self.layers, self.adaptable_bytes);
        writeln!(f, "{modules} modules in {layers} layers, {bytes} bytes that can be adapted")?;
        if let (Some(opset), Some(producer)) = (self.opset, &self.producer) {
            writeln!(f, "opset {opset}, written by {}", name(producer))?;
        }
        match self.files {
            None => {}
            Some(1) => writeln!(f, "a safetensors checkpoint in 1 file")?,
            Some(files) => writeln!(f, "a safetensors checkpoint in {files} files")?,
        }
        for line in self.bases.iter().flatten().filter(|line| !line.determined) {
            let BasisLine { layer, role, gap, .. } = line;
            let module = match *layer {
                ModuleId::HEAD_LAYER => role.to_string(),
                layer => format!("layer {layer} {role}"),
            };
            writeln!(
                f,
                "{module}: singular values differ by only {gap:.1e} of the first, so \
                 only this arithmetic finds these vectors"
            )?;
        }
        if let Some(bases) = &self.bases {
            let (determined, all) = (bases.iter().filter(|b| b.determined).count(), bases.len());
            writeln!(f, "the basis is determined by the weights in {determined} of {all} modules")?;
        }
        writeln!(f, "base digest {}", self.base_digest.as_deref().unwrap_or("none"))
    }
}
