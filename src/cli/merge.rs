//! `tla merge`: an adapter into the weights of its model.

use super::{
    CliError, Output, Verdict, adapter_file::AdapterFile, base::Base, destination::Destination,
    names::Names, threads::Threads,
};
use crate::{
    model::{Model, Staged},
    projection::factors_digest,
    surgery::{Addend, CheckpointMerge, OnnxMerge, Survival},
};
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

/// Merge adapters into the weights of their model, ONNX or safetensors
///
/// Each adapter must belong to the model and rebuild to what it names. Several are added up, each
/// times its weight, and the sum is rounded once. An ONNX model stays one, and so does a
/// safetensors checkpoint, in as many files and each weight in its own type. Says how much of the
/// update survived the rounding, and writes nothing (exit status 1) if less than half did.
#[derive(clap::Args)]
pub struct Merge {
    /// The model: an .onnx file, a .safetensors file or an index of several, or its folder
    model: PathBuf,
    /// The adapters; A.tla:0.5 is half of A.tla
    #[arg(value_name = "A.tla[:WEIGHT]", required = true)]
    adapters: Vec<OsString>,
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
        let mut adapters = Vec::new();
        for argument in &self.adapters {
            let (path, weight) = weighted(argument)?;
            let adapter = AdapterFile::read(&path)?;
            adapter.check_bound(self.unbound, out)?;
            adapters.push((adapter, weight));
        }
        let base = Base::load(&self.model, &self.names)?;
        let destination = Destination::new(&self.output, &base.model)?;
        let mut inputs = base.model.container().files();
        inputs.extend(adapters.iter().map(|(adapter, _)| adapter.path.clone()));
        destination.check(&base.model, &inputs)?;
        if adapters.iter().any(|(adapter, _)| adapter.names_base()) {
            let found = base.digest(&self.threads)?;
            let checks =
                adapters.iter().map(|(adapter, _)| adapter.check_digest(found, &self.model));
            checks.collect::<Result<(), _>>()?;
        }
        let mut rebuilt = Vec::new();
        for (adapter, weight) in &adapters {
            let factors = base.factors(&adapter.header, &adapter.v, &self.threads)?;
            adapter.check_factors(factors_digest(&factors))?;
            rebuilt.push((adapter.header, factors, *weight));
        }
        let addends: Vec<_> = rebuilt
            .iter()
            .map(|(header, factors, weight)| Addend { header, factors, weight: *weight })
            .collect();
        let created = destination.open()?;
        let (staged, survival) = self.merged(&addends, &base, &destination)?;
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
        staged.place()?;
        created.keep();
        out.report(&Report::new(Some(self.output.display().to_string()), &survival))?;
        Ok(Verdict::Yes)
    }

    /// The merged model beside its place, where it vanishes unless it is placed.
    fn merged(
        &self,
        addends: &[Addend<'_>],
        base: &Base,
        destination: &Destination,
    ) -> Result<(Staged, Survival), CliError> {
        let (targets, threads) = (&base.targets, self.threads.count());
        match &base.model {
            Model::Onnx(model) => {
                let mut merge = OnnxMerge::new(model, targets, addends, threads)?;
                let proto = merge.proto().clone();
                let staged = destination.stage_graph(&proto, model, &mut merge)?;
                Ok((staged, merge.survival()))
            }
            Model::Safetensors(checkpoint) => {
                let mut merge = CheckpointMerge::new(checkpoint, targets, addends, threads)?;
                let staged = destination.stage(&mut merge, &base.model, checkpoint)?;
                Ok((staged, merge.survival()))
            }
        }
    }
}

/// An adapter and its weight, which is 1 if none is given. A file that is named like both is the
/// file.
fn weighted(argument: &OsString) -> Result<(PathBuf, f64), CliError> {
    let whole = (PathBuf::from(argument), 1.0);
    if whole.0.exists() {
        return Ok(whole);
    }
    let Some((path, text)) = argument.to_str().and_then(|text| text.rsplit_once(':')) else {
        return Ok(whole);
    };
    let bad = || CliError::Weight { adapter: path.into(), weight: text.into() };
    match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() => Ok((path.into(), weight)),
        Err(_) if !Path::new(path).exists() => Ok(whole),
        _ => Err(bad()),
    }
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
