//! `tla bake`: a folder ready to deploy, and a manifest of what is in it.

use super::{
    CliError, Output, Verdict,
    base::Base,
    destination::Destination,
    files::{self, FileError, NewFolder},
    interrupt,
    manifest::{self, Ingredient, Manifest, ManifestError},
    names::Names,
    output::hex,
    side_files,
    sum::{Integers, Sum},
    survived::{self, Left, ModuleLine, Percent},
    threads::Threads,
};
use crate::{
    model::{Model, ModelError},
    surgery::{SurgeryError, Survival, graft},
};
use serde::Serialize;
use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

/// Make a folder that is ready to deploy: the model with the adapter in it, and all beside it
///
/// The model is merged, or grafted with --graft; tokenizer, chat template and the configurations of
/// transformers and onnxruntime-genai come along. `tla_manifest.json` names base, adapters and the
/// digest of every file, which `tla verify OUTDIR` checks. A merge that loses most of the update
/// writes nothing (exit status 1).
#[derive(clap::Args)]
pub struct Bake {
    /// The model's folder or file. One in DIR/onnx with tokenizer and configurations in DIR, as
    /// transformers.js has it, is baked to OUTDIR/onnx under its name
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// The adapters; A.tla:0.5 is half of A.tla
    #[arg(value_name = "A.tla[:WEIGHT]", required = true)]
    adapters: Vec<OsString>,
    /// The folder to make, which must not exist
    #[arg(short, long, value_name = "OUTDIR")]
    output: PathBuf,
    /// Put the adapter beside the weights, as `tla graft` does, instead of merging it
    #[arg(long, conflicts_with_all = ["requantise", "force"])]
    graft: bool,
    /// Fit the grid of integer weights to the merged values, in the blocks they have: more of a
    /// small update survives, and scales change too
    #[arg(long)]
    requantise: bool,
    /// Make the folder even if most of the update is lost
    #[arg(long)]
    force: bool,
    /// Take an adapter that does not say which model it belongs to
    #[arg(long)]
    unbound: bool,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Bake {
    /// Checks, makes the model, lists what is there.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let sum = Sum::read(&self.adapters, self.unbound, out)?;
        if fs::symlink_metadata(&self.output).is_ok() {
            return Err(FileError::Exists { path: self.output.clone() }.into());
        }
        let base = Base::load(&self.model, &self.names)?;
        let home = base.model.container().home();
        if !side_files::TOKENIZERS.iter().any(|name| home.join(name).exists()) {
            out.say(format_args!(
                "{} has no tokenizer, so {} gets none. Put one beside the model and bake again.",
                home.display(),
                self.output.display()
            ));
        }
        if !files::folder(&self.output).is_dir() {
            return Err(FileError::NoFolder { path: self.output.clone() }.into());
        }
        let base_digest = match sum.check_base(&base, &self.model, &self.threads)? {
            Some(found) => Some(found),
            None => base.digest_if_any(&self.threads)?,
        };
        interrupt::remove_temporary()?;
        let folder = NewFolder::new(&self.output)?;
        let made = self.make(folder.path(), &sum, &base, base_digest, out);
        let made = made.map_err(|error| named(error, &folder))?;
        let Some((manifest, survival)) = made else { return Ok(Verdict::No) };
        folder.place()?;
        if survival.as_ref().is_some_and(Survival::is_of_nothing) {
            out.say("the update is zero, so nothing was to be merged.");
        }
        out.report(&Report {
            output: Some(self.output.display().to_string()),
            method: if self.graft { "graft" } else { "merge" },
            survival: survival.as_ref().map(Survival::fraction),
            modules: survival.as_ref().map(survived::lines).unwrap_or_default(),
            nothing: survival.as_ref().is_some_and(Survival::is_of_nothing),
            files: manifest.files.len(),
        })?;
        Ok(Verdict::Yes)
    }

    /// Fills the folder; nothing if most of the update was lost.
    fn make(
        &self,
        folder: &Path,
        sum: &Sum,
        base: &Base,
        base_digest: Option<[u8; 32]>,
        out: &mut Output,
    ) -> Result<Option<(Manifest, Option<Survival>)>, CliError> {
        // A path that ends in a separator is a folder, whatever its name.
        let destination = Destination::new(&folder.join(""), &base.model)?;
        destination.check(&base.model, &[])?;
        destination.open()?.keep();
        let survival = match self.graft {
            true => self.grafted(sum, base, &destination)?,
            false => {
                let factors = sum.factors(base, &self.threads)?;
                let integers = match self.requantise {
                    true => Integers::OnANewGrid,
                    false => Integers::OnTheirGrid,
                };
                let (staged, survival) =
                    sum.merged(&factors, base, &destination, integers, &self.threads)?;
                if survival.lost_most() && !self.force {
                    let refitted =
                        !self.requantise && sum.can_be_requantised(&factors, base, &self.threads);
                    let remedy = survived::remedy(sum, base, &survival, refitted);
                    self.lost(&survival, &remedy, out)?;
                    return Ok(None);
                }
                staged.place()?;
                Some(survival)
            }
        };
        let manifest = self.manifest(folder, sum, base_digest, survival.as_ref())?;
        manifest.write(folder)?;
        Ok(Some((manifest, survival)))
    }

    fn grafted(
        &self,
        sum: &Sum,
        base: &Base,
        destination: &Destination,
    ) -> Result<Option<Survival>, CliError> {
        let [(adapter, 1.0)] = sum.adapters() else {
            return Err(CliError::Usage(
                "--graft takes one adapter without a weight. Merge several, or graft one and feed \
                 the values of others"
                    .into(),
            ));
        };
        let Model::Onnx(model) = &base.model else {
            let path = base.model.container().files().swap_remove(0);
            return Err(ModelError::NoGraph { path }.into());
        };
        let threads = self.threads.count();
        let grafted =
            graft(model, &base.targets, &adapter.header, &adapter.v, threads).map_err(|error| {
                match error {
                    SurgeryError::Projection(error) => CliError::from(error),
                    other => other.into(),
                }
            })?;
        adapter.check_factors(grafted.factors_digest)?;
        destination.write(&grafted.proto, model)?;
        Ok(None)
    }

    fn manifest(
        &self,
        folder: &Path,
        sum: &Sum,
        base_digest: Option<[u8; 32]>,
        survival: Option<&Survival>,
    ) -> Result<Manifest, CliError> {
        let adapters = sum.adapters().iter().map(|(adapter, weight)| Ingredient {
            checksum: hex(&adapter.checksum),
            weight: *weight,
        });
        Ok(Manifest {
            tla_manifest: 1,
            method: if self.graft { "graft" } else { "merge" }.into(),
            requantised: self.requantise,
            base_digest: base_digest.map(|digest| hex(&digest)),
            adapters: adapters.collect(),
            survival: survival.map(Survival::fraction),
            files: manifest::entries(folder)?,
        })
    }

    fn lost(&self, survival: &Survival, remedy: &str, out: &mut Output) -> Result<(), CliError> {
        out.say(format_args!(
            "only {} of the update survives the rounding, so nothing was written. {remedy}.",
            Percent(survival.fraction()),
        ));
        out.report(&Report {
            output: None,
            method: "merge",
            survival: Some(survival.fraction()),
            modules: survived::lines(survival),
            nothing: false,
            files: 0,
        })
    }
}

/// An error with the path that a file will have in the place of its `folder`.
fn named(mut error: CliError, folder: &NewFolder) -> CliError {
    match &mut error {
        CliError::File(FileError::Io { path, .. })
        | CliError::Manifest(ManifestError::File(FileError::Io { path, .. }))
        | CliError::Model(ModelError::Io { path, .. })
        | CliError::Surgery(SurgeryError::Write { path, .. })
        | CliError::Surgery(SurgeryError::Model(ModelError::Io { path, .. })) => folder.name(path),
        _ => {}
    }
    error
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// As named; null if nothing was written.
    output: Option<String>,
    /// `merge` or `graft`.
    method: &'static str,
    /// The part of the update that survived the rounding; null of a graft.
    survival: Option<f64>,
    /// The same for each module, sorted.
    modules: Vec<ModuleLine>,
    /// Files but the manifest.
    files: usize,
    #[serde(skip)]
    nothing: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, survival, modules, files, nothing, .. } = self;
        let left = |fraction: f64| Left { fraction, modules: modules.len(), nothing: *nothing };
        match (output, survival.map(left)) {
            (None, Some(left)) => writeln!(f, "not written: {left}"),
            (None, None) => writeln!(f, "not written"),
            (Some(output), None) => writeln!(f, "{output}: {files} files, the model grafted"),
            (Some(output), Some(left)) => writeln!(f, "{output}: {files} files, {left}"),
        }
    }
}
