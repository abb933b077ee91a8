//! `tla import`: an adapter that PEFT trained, as one of ours.

use super::{
    CliError, Output, Verdict, base::Base, files, names::Names, output::hex, side_files,
    threads::Threads,
};
use crate::{
    exchange::{Fit, Imported, TinyLora},
    format::encode_to_vec,
    projection::factors_digest,
};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// Turn a TinyLoRA adapter that PEFT saved into an adapter file
///
/// Takes R of every module onto the canonical basis of its weight, and stores it in 32 bits, four
/// values a module at rank 2, bound to the model. Measures how far each update is from PEFT's own,
/// and refuses an adapter whose bases are not this model's.
#[derive(clap::Args)]
pub struct Import {
    /// The folder that PEFT saved
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The model it was trained on: an .onnx or .safetensors file, or its folder
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// The adapter
    #[arg(short, long, value_name = "A.tla")]
    output: PathBuf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Import {
    /// Reads, projects, measures, writes.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let theirs = TinyLora::load(&self.folder, &self.names.naming())?;
        let base = Base::load(&self.model, &self.names)?;
        let container = base.model.container();
        let mut inputs = side_files::of_model(container.files(), &container.home());
        inputs.extend(theirs.files().iter().cloned());
        files::check_output(&self.output, &inputs)?;

        let threads = self.threads.count();
        let Imported { mut header, v, fits } = theirs.import(container, &base.targets, threads)?;
        header.base_digest = base.digest(&self.threads)?;
        header.factors_digest = factors_digest(&base.factors(&header, &v, &self.threads)?);
        let bytes = encode_to_vec(&header, &v).map_err(super::recipe::RecipeError::Header)?;
        files::write(&self.output, &bytes)?;
        out.report(&Report {
            output: self.output.display().to_string(),
            bytes: bytes.len(),
            parameters: v.len(),
            base_digest: hex(&header.base_digest),
            factors_digest: hex(&header.factors_digest),
            error: fits.iter().map(Fit::share).fold(0.0, f64::max),
            modules: fits.iter().map(ModuleLine::from).collect(),
        })?;
        Ok(Verdict::Yes)
    }
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// The adapter as named.
    output: String,
    /// Its length.
    bytes: usize,
    /// Number of values.
    parameters: usize,
    /// Digest of the model's weights.
    base_digest: String,
    /// Digest of what it must rebuild to.
    factors_digest: String,
    /// The largest of the modules' errors.
    error: f64,
    /// Each module, sorted.
    modules: Vec<ModuleLine>,
}

#[derive(Serialize)]
struct ModuleLine {
    layer: u16,
    role: &'static str,
    /// ‖ΔW − ΔW of PEFT‖ ÷ ‖ΔW of PEFT‖.
    error: f64,
}

impl From<&Fit> for ModuleLine {
    fn from(fit: &Fit) -> Self {
        Self { layer: fit.module.layer, role: fit.module.role.name(), error: fit.share() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, bytes, parameters, error, modules, .. } = self;
        writeln!(f, "{output}: {parameters} parameters in {bytes} bytes")?;
        writeln!(f, "base_digest     {}", self.base_digest)?;
        writeln!(f, "factors_digest  {}", self.factors_digest)?;
        let modules = modules.len();
        writeln!(f, "updates of {modules} modules, at most {error:.1e} of their length from PEFT's")
    }
}
