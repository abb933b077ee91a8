//! `tla merge`: an adapter into the weights of its model.

use super::{
    CliError, Output, Verdict,
    adapter_file::AdapterFile,
    base::Base,
    destination::{Created, Destination, Staged, place_all},
    names::Names,
    threads::Threads,
};
use crate::{
    format::Header,
    model::{Model, OnnxModel, proto::ModelProto},
    projection::{Factors, factors_digest},
    surgery::{CheckpointMerge, Merged, Survival, merge},
};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// Merge an adapter into the weights of its model, ONNX or safetensors
///
/// The adapter must belong to the model and rebuild to what it names. An ONNX model stays one, and
/// so does a safetensors checkpoint, in as many files and each weight in its own type. Says how
/// much of the update survived the rounding, and writes nothing (exit status 1) if less than half
/// did.
#[derive(clap::Args)]
pub struct Merge {
    /// The model: an .onnx file, a .safetensors file or an index of several, or its folder
    model: PathBuf,
    /// The adapter
    #[arg(value_name = "A.tla")]
    adapter: PathBuf,
    /// The merged model: a file like the model's, or a folder, which gets tokenizer and
    /// configurations too
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Write the model even if most of the update is lost
    #[arg(long)]
    force: bool,
    /// Merge an adapter that does not say which model it belongs to
    #[arg(long)]
    unbound: bool,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Merge {
    /// Checks, merges, writes.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let adapter = AdapterFile::read(&self.adapter)?;
        let header = &adapter.header;
        adapter.check_bound(self.unbound, out)?;
        let base = Base::load(&self.model, &self.names)?;
        let destination = Destination::new(&self.output, &base.model)?;
        let mut inputs = base.model.container().files();
        inputs.push(self.adapter.clone());
        destination.check(&base.model, &inputs)?;
        adapter.check_base(&base, &self.model, &self.threads)?;

        let factors = base.factors(header, &adapter.v, &self.threads)?;
        adapter.check_factors(factors_digest(&factors))?;
        let (pending, survival) = self.merged(header, &base, &factors, &destination)?;
        if survival.lost_most() {
            let left = Percent(survival.fraction());
            if !self.force {
                out.say(format_args!(
                    "only {left} of the update survives the rounding, so nothing was written. \
                     Train a larger update, or write it anyway with --force."
                ));
                out.report(&Report::new(None, &survival))?;
                return Ok(Verdict::No);
            }
            out.say(format_args!("only {left} of the update survives the rounding."));
        }
        match pending {
            Pending::Graph(model, proto) => destination.write(&proto, model, &inputs)?,
            Pending::Files(staged, created) => {
                place_all(staged)?;
                created.keep();
            }
        }
        out.report(&Report::new(Some(self.output.display().to_string()), &survival))?;
        Ok(Verdict::Yes)
    }

    /// The merged model, not yet in its place.
    fn merged<'a>(
        &self,
        header: &Header,
        base: &'a Base,
        factors: &[Factors],
        destination: &Destination,
    ) -> Result<(Pending<'a>, Survival), CliError> {
        let threads = self.threads.count();
        match &base.model {
            Model::Onnx(model) => {
                let Merged { proto, survival } =
                    merge(model, &base.targets, header, factors, threads)?;
                Ok((Pending::Graph(model, Box::new(proto)), survival))
            }
            Model::Safetensors(checkpoint) => {
                let mut merge =
                    CheckpointMerge::new(checkpoint, &base.targets, header, factors, threads)?;
                let created = destination.open()?;
                let staged = destination.stage(&mut merge, &base.model, checkpoint)?;
                Ok((Pending::Files(staged, created), merge.survival()))
            }
        }
    }
}

/// A merge of which nothing shows yet, and nothing will if it is dropped.
enum Pending<'a> {
    /// A graph in memory, and the one it was made from.
    Graph(&'a OnnxModel, Box<ModelProto>),
    /// The files of a checkpoint beside their places, and the folder if it is new.
    Files(Staged, Created),
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// As named; null if nothing was written.
    output: Option<String>,
    /// The part of the whole update that survived the rounding, 1 for all of it.
    survival: f64,
    /// The same for each module, sorted.
    modules: Vec<ModuleLine>,
}

#[derive(Serialize)]
struct ModuleLine {
    layer: u16,
    role: &'static str,
    survival: f64,
}

impl Report {
    fn new(output: Option<String>, survival: &Survival) -> Self {
        let line = |m: &crate::surgery::ModuleSurvival| ModuleLine {
            layer: m.module.layer,
            role: m.module.role.name(),
            survival: m.fraction(),
        };
        let modules = survival.modules.iter().map(line).collect();
        Self { output, survival: survival.fraction(), modules }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>5}  {:<7}  {:>9}", "layer", "role", "survival")?;
        for ModuleLine { layer, role, survival } in &self.modules {
            writeln!(f, "{layer:>5}  {role:<7}  {:>9}", Percent(*survival))?;
        }
        let (left, modules) = (Percent(self.survival), self.modules.len());
        match &self.output {
            Some(output) => {
                writeln!(f, "{output}: {left} of the update survives in {modules} modules")
            }
            None => writeln!(f, "not written: {left} of the update survives in {modules} modules"),
        }
    }
}

/// A fraction for people.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} %", self.0 * 100.0))
    }
}
