//! `tla merge`: an adapter into the weights of its model.

use super::{
    CliError, Output, Verdict,
    base::Base,
    destination::Destination,
    interrupt,
    names::Names,
    sum::{Integers, Sum},
    survived::{self, Left, ModuleLine, Percent},
    threads::Threads,
};
use crate::surgery::Survival;
use serde::Serialize;
use std::{ffi::OsString, fmt, path::PathBuf};

/// Merge adapters into the weights of their model, ONNX or safetensors
///
/// Each adapter must belong to the model and rebuild to what it names. Several are added up, each
/// times its weight, and the sum is rounded once. An ONNX model stays one, and so does a
/// safetensors checkpoint, in as many files and each weight in its own type. In a folder that holds an
/// output of the same model, configurations that were changed there stay. Says how much of the update
/// survived the rounding, and writes nothing (exit status 1) if less than half did.
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
        let sum = Sum::read(&self.adapters, self.unbound, out)?;
        let base = Base::load(&self.model, &self.names)?;
        let destination = Destination::new(&self.output, &base.model)?;
        let mut inputs = base.model.container().files();
        inputs.extend(sum.paths());
        let kept = destination.check(&base.model, &inputs)?;
        sum.check_base(&base, &self.model, &self.threads)?;
        let factors = sum.factors(&base, &self.threads)?;
        interrupt::remove_temporary()?;
        let created = destination.open()?;
        let integers = Integers::OnTheirGrid;
        let (staged, survival) =
            sum.merged(&factors, &base, &destination, integers, &self.threads)?;
        if survival.lost_most() {
            let left = Percent(survival.fraction());
            if !self.force {
                let refitted = sum.can_be_requantised(&factors, &base, &self.threads);
                out.say(format_args!(
                    "only {left} of the update survives the rounding, so nothing was written. {}.",
                    survived::remedy(&sum, &base, &survival, refitted)
                ));
                out.report(&Report::new(None, &survival))?;
                return Ok(Verdict::No);
            }
            out.say(format_args!("only {left} of the update survives the rounding."));
        }
        if survival.is_of_nothing() {
            out.say("the update is zero, so nothing was to be merged.");
        }
        staged.place()?;
        created.keep();
        kept.into_iter().for_each(|kept| out.say(kept));
        out.report(&Report::new(Some(self.output.display().to_string()), &survival))?;
        Ok(Verdict::Yes)
    }
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// As named; null if nothing was written.
    output: Option<String>,
    /// The part of the whole update that survived the rounding, 1 for all of it and for none to merge.
    survival: f64,
    /// The same for each module, sorted.
    modules: Vec<ModuleLine>,
    #[serde(skip)]
    nothing: bool,
}

impl Report {
    fn new(output: Option<String>, survival: &Survival) -> Self {
        Self {
            output,
            survival: survival.fraction(),
            modules: survived::lines(survival),
            nothing: survival.is_of_nothing(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        survived::table(f, &self.modules)?;
        let Self { output, survival: fraction, modules, nothing } = self;
        let left = Left { fraction: *fraction, modules: modules.len(), nothing: *nothing };
        writeln!(f, "{}: {left}", output.as_deref().unwrap_or("not written"))
    }
}
