//! `tla export`: an adapter in the formats of others.

use super::{
    CliError, Output, Verdict,
    adapter_file::AdapterFile,
    base::Base,
    files::{self, FileError},
    names::Names,
    threads::Threads,
};
use crate::{
    exchange::{lora, onnx_adapter},
    projection::factors_digest,
    surgery::VALUES,
};
use serde::Serialize;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Write an adapter as others read it: a LoRA for PEFT, or values for a grafted model
///
/// `peft` is a folder that PEFT and what is built on it load: the same update as LoRA factors
/// B = α·UΣR and A = Vᵀ, rounded once to 32 bits. `onnx-adapter` is a file of ONNX Runtime's own
/// adapter API, for a model that `tla graft` made with the same geometry.
#[derive(clap::Args)]
pub struct Export {
    /// The adapter
    #[arg(value_name = "A.tla")]
    adapter: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    to: Format,
    /// The folder (peft), which must not exist, or the file (onnx-adapter)
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The model it was made for, which peft needs: an .onnx or .safetensors file, or its folder
    #[arg(long, value_name = "MODEL", required_if_eq("to", "peft"))]
    model: Option<PathBuf>,
    /// The name under which PEFT's users load the model
    #[arg(long, value_name = "NAME", requires = "model")]
    base_name: Option<String>,
    /// Export an adapter that does not say which model it belongs to
    #[arg(long)]
    unbound: bool,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Peft,
    OnnxAdapter,
}

impl Export {
    /// Checks, rebuilds, writes.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let adapter = AdapterFile::read(&self.adapter)?;
        match (self.to, &self.model) {
            (Format::Peft, Some(model)) => self.peft(&adapter, model, out)?,
            // The arguments ask for a model where one is needed.
            _ => {
                files::check_output(&self.output, std::slice::from_ref(&self.adapter))?;
                files::write(&self.output, &onnx_adapter(VALUES, &adapter.v))?;
                let output = self.output.display().to_string();
                out.report(&Report { output, params: adapter.v.len(), modules: None })?;
            }
        }
        Ok(Verdict::Yes)
    }

    fn peft(&self, adapter: &AdapterFile, model: &Path, out: &mut Output) -> Result<(), CliError> {
        adapter.check_bound(self.unbound, out)?;
        if fs::symlink_metadata(&self.output).is_ok() {
            return Err(FileError::Exists { path: self.output.clone() }.into());
        }
        let base = Base::load(model, &self.names)?;
        adapter.check_base(&base, model, &self.threads)?;
        let factors = base.factors(&adapter.header, &adapter.v, &self.threads)?;
        adapter.check_factors(factors_digest(&factors))?;
        let name = self.base_name.as_deref();
        let lora = lora(&base.targets, &adapter.header, &factors, name)?;
        files::write_new_folder(
            &self.output,
            &[("adapter_config.json", &lora.config), ("adapter_model.safetensors", &lora.tensors)],
        )?;
        out.report(&Report {
            output: self.output.display().to_string(),
            params: adapter.v.len(),
            modules: Some(factors.len()),
        })?;
        Ok(())
    }
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// As named.
    output: String,
    /// Values of the adapter.
    params: usize,
    /// Modules with factors; null where the values alone are written.
    modules: Option<usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.modules {
            Some(modules) => writeln!(f, "{}: factors of {modules} modules", self.output),
            None => writeln!(f, "{}: {} values for the input {VALUES}", self.output, self.params),
        }
    }
}
