//! `tla verify`: whether an adapter is intact, belongs to a model, and is what was merged.

use super::{
    CliError, Output, Verdict,
    base::Base,
    files::{self, FileError},
    manifest::{Differences, Manifest},
    names::Names,
    output::{hex, name},
    signature::{self, PublicKey},
    threads::Threads,
};
use crate::{
    format::Adapter,
    model::{Model, ModelError},
    projection::{Factors, ProjectionError, factors_digest},
    surgery::{Mismatch, verify_model},
};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

const SIGNATURE: &str = "signature";
const UNBOUND: Option<&str> = Some("unbound");

const WHAT_IT_PROVES: &str = "\
What the checks prove:
  file       layout and checksum: no accident changed the file. Whoever changes one on purpose can
             compute its checksum anew
  signature  whoever has the secret key that belongs to --key signed these bytes and the trusted
             comment that is shown. Whose key it is you must know from elsewhere
  base       the model has the base digest the adapter names. The digest covers only the seven
             linear roles (q k v o gate up down) of every layer, and where modules are named by
             --module only the roles that are named; embeddings, head, norms and biases are not
             covered
  rebuild    seed, values and weights give the very factors the adapter names (factors digest)
  merged     the second model is the base with the adapter merged in, bit for bit

What no check proves: how or on what the adapter was trained, what it does to the model's answers,
that it is its author's latest, that a key was not stolen. Without --key, origin is not checked.

Exit status: 0 if every check is ok, 1 if one is not (with --key, a missing or malformed signature
is not ok), 2 if a file or the key cannot be read.";

/// Check an adapter, alone, against its author's key, its model, and a merged model
#[derive(clap::Args)]
#[command(after_help = WHAT_IT_PROVES)]
pub struct Verify {
    /// The adapter; or a folder that `tla bake` made, whose files are checked against its manifest
    #[arg(value_name = "A.tla|DIR")]
    adapter: PathBuf,
    /// The model it was made for: an .onnx or .safetensors file, or its folder
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// A model that should be the base with the adapter merged in
    #[arg(long, value_name = "MODEL2", requires = "base")]
    merged: Option<PathBuf>,
    /// Its author's minisign public key: a file, or the key itself (RW…)
    #[arg(long, value_name = "PUB")]
    key: Option<PathBuf>,
    /// The signature [default: A.tla.minisig]
    #[arg(long, value_name = "MINISIG", requires = "key")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Verify {
    /// Makes the checks that were asked for.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        if self.adapter.is_dir() {
            return self.check_folder(out);
        }
        let bytes = files::read(&self.adapter)?;
        let key = self.key.as_deref().map(PublicKey::load).transpose()?;
        let mut report = Report::default();
        let decoded = Adapter::decode(&bytes);
        match &decoded {
            Ok(adapter) => {
                let checksum = hex(&adapter.checksum());
                report.yes("file", format!("{} bytes, checksum {checksum}", bytes.len()));
            }
            Err(error) => report.refused("file", Some(error.name()), error.to_string()),
        }
        if let Some(key) = &key {
            self.check_signature(key, &bytes, &mut report)?;
        }
        match &decoded {
            Ok(adapter) => {
                if let Some(base) = &self.base {
                    self.check_base(adapter, base, &mut report)?;
                } else if !adapter.header().is_bound() {
                    out.say("the adapter is unbound: it does not say which model it belongs to.");
                }
            }
            Err(_) => {
                let asked =
                    [("base", &self.base), ("rebuild", &self.base), ("merged", &self.merged)];
                for (check, _) in asked.iter().filter(|(_, path)| path.is_some()) {
                    report.no(check, "not checked: the file is not a usable adapter".into());
                }
            }
        }
        report.unchecked = self.unchecked();
        let model = "which model it belongs to and what it rebuilds to (give --base)";
        let left: Vec<_> = [(model, &self.base), ("its origin (give --key)", &self.key)]
            .iter()
            .filter(|(_, given)| given.is_none())
            .map(|(what, _)| *what)
            .collect();
        if !left.is_empty() {
            out.say(format_args!("not checked: {}.", left.join(", and ")));
        }
        report.valid = report.checks.iter().all(|check| check.ok);
        out.report(&report)?;
        Ok(if report.valid { Verdict::Yes } else { Verdict::No })
    }

    /// What a folder holds against its manifest, and the base it was made from if one is given.
    fn check_folder(&self, out: &mut Output) -> Result<Verdict, CliError> {
        if self.key.is_some() || self.merged.is_some() {
            return Err(CliError::Usage(
                "a folder has no signature and is no adapter: --key and --merged check an A.tla. \
                 Leave them out"
                    .into(),
            ));
        }
        let manifest = Manifest::read(&self.adapter)?;
        let differences = manifest.differences(&self.adapter)?;
        let mut report = Report::default();
        let lists = [
            ("missing", &differences.missing),
            ("extra", &differences.extra),
            ("changed", &differences.changed),
        ];
        match differences.is_empty() {
            true => report.yes("files", format!("all {} as in the manifest", manifest.files.len())),
            false => {
                let told = lists.iter().filter(|(_, names)| !names.is_empty());
                let told = told.map(|(what, names)| format!("{what}: {}", names.join(", ")));
                report.no("files", told.collect::<Vec<_>>().join("; "));
            }
        }
        if let Some(path) = &self.base {
            let found = hex(&Base::load(path, &self.names)?.digest(&self.threads)?);
            match manifest.base_digest.as_deref() {
                Some(named) if named == found => report.yes("base", format!("base digest {found}")),
                named => {
                    let named = named.unwrap_or("none");
                    let why = format!("the manifest names {named}, the model has {found}");
                    report.refused("base", Some("other-base"), why);
                }
            }
        }
        report.valid = report.checks.iter().all(|check| check.ok);
        report.differences = Some(differences);
        out.say("not checked: who wrote the folder. Whoever changes a file can change the manifest too.");
        out.report(&report)?;
        Ok(if report.valid { Verdict::Yes } else { Verdict::No })
    }

    fn unchecked(&self) -> Vec<&'static str> {
        let checks = [
            ("base", &self.base),
            ("rebuild", &self.base),
            ("merged", &self.merged),
            ("origin", &self.key),
        ];
        checks.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect()
    }

    /// No signature where one belongs is a no; a signature that was named and is not there is not.
    fn check_signature(
        &self,
        key: &PublicKey,
        bytes: &[u8],
        report: &mut Report,
    ) -> Result<(), CliError> {
        let path = self.signature.clone().unwrap_or_else(|| signature::beside(&self.adapter));
        let text = match files::read_at_most(&path, signature::LIMIT) {
            Err(FileError::Missing { .. }) if self.signature.is_none() => {
                let path = path.display();
                report.no(SIGNATURE, format!("{path} does not exist. Ask the author for it"));
                return Ok(());
            }
            other => other?,
        };
        match key.check(bytes, &text) {
            Ok(comment) => {
                let line = comment.replace('\t', " ");
                report.yes(SIGNATURE, format!("of this key; trusted comment: {line}"));
                report.trusted_comment = Some(comment);
            }
            Err(why) => report.no(SIGNATURE, format!("{} {why}", path.display())),
        }
        Ok(())
    }

    fn check_base(
        &self,
        adapter: &Adapter,
        path: &Path,
        report: &mut Report,
    ) -> Result<(), CliError> {
        let base = Base::load(path, &self.names)?;
        let named = adapter.header().base_digest;
        if named == [0; 32] {
            let why = "the adapter is unbound: it names no base";
            report.refused("base", UNBOUND, why.into());
        } else {
            match base.digest(&self.threads) {
                Ok(found) if found == named => {
                    report.yes("base", format!("base digest {}{}", hex(&found), base.coverage()));
                }
                Ok(found) => {
                    let (named, found) = (hex(&named), hex(&found));
                    let why = format!("the adapter names {named}, the model has {found}");
                    report.refused("base", Some("other-base"), why);
                    return self.give_up(report, "not checked: the base is another model");
                }
                Err(CliError::Model(error @ ModelError::NoDigest { .. })) => {
                    report.refused("base", Some("no-base-digest"), error.to_string());
                    return self.give_up(report, "not checked: the base has no digest");
                }
                Err(error) => return Err(error),
            }
        }
        let v: Vec<f32> = adapter.values().collect();
        match base.factors(adapter.header(), &v, &self.threads) {
            Ok(factors) => self.check_rebuild(adapter, &base, &factors, report),
            Err(CliError::Projection(error))
                if !matches!(error, ProjectionError::Threads { .. }) =>
            {
                report.refused("rebuild", error.name(), error.to_string());
                self.give_up_merged(report, "not checked: the adapter cannot be rebuilt");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn check_rebuild(
        &self,
        adapter: &Adapter,
        base: &Base,
        factors: &[Factors],
        report: &mut Report,
    ) -> Result<(), CliError> {
        let (named, found) = (adapter.header().factors_digest, factors_digest(factors));
        if named == found {
            report.yes("rebuild", format!("factors digest {}", hex(&found)));
        } else if named == [0; 32] {
            let why = "the adapter is unbound: it names no factors";
            report.refused("rebuild", UNBOUND, why.into());
        } else {
            let (named, found) = (hex(&named), hex(&found));
            let why = format!("the adapter names {named}, it rebuilds to {found}");
            report.refused("rebuild", Some("other-factors"), why);
            self.give_up_merged(report, "not checked: the adapter does not rebuild");
            return Ok(());
        }
        let Some(path) = &self.merged else { return Ok(()) };
        let merged = Model::load(path)?;
        let (header, threads) = (adapter.header(), self.threads.count());
        let mismatches =
            verify_model(&base.model, &base.targets, header, factors, &merged, threads)?;
        match mismatches.is_empty() {
            true => report.yes("merged", "base and adapter, bit for bit".into()),
            false => report.no("merged", differences(&mismatches)),
        }
        Ok(())
    }

    fn give_up(&self, report: &mut Report, why: &str) -> Result<(), CliError> {
        report.no("rebuild", why.into());
        self.give_up_merged(report, why);
        Ok(())
    }

    fn give_up_merged(&self, report: &mut Report, why: &str) {
        if self.merged.is_some() {
            report.no("merged", why.into());
        }
    }
}

/// The first few mismatches in one line.
fn differences(mismatches: &[Mismatch]) -> String {
    const SHOWN: usize = 3;
    let mut parts: Vec<_> =
        mismatches.iter().take(SHOWN).map(|m| format!("{}: {}", m.what, m.detail)).collect();
    if mismatches.len() > SHOWN {
        parts.push(format!("{} more", mismatches.len() - SHOWN));
    }
    parts.join("; ")
}

/// The line of JSON.
#[derive(Default, Serialize)]
struct Report {
    /// Whether every check is ok.
    valid: bool,
    /// The checks that were asked for, in order: file, signature, base, rebuild, merged.
    checks: Vec<Check>,
    /// What was not asked for.
    unchecked: Vec<&'static str>,
    /// How a folder differs from its manifest.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    differences: Option<Differences>,
    /// What the signature says, if it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_comment: Option<String>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// The name of the refusal in spec/format.md, if it is one of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    detail: String,
}

impl Report {
    fn yes(&mut self, name: &'static str, detail: String) {
        self.checks.push(Check { name, ok: true, refusal: None, detail });
    }

    fn no(&mut self, name: &'static str, detail: String) {
        self.refused(name, None, detail);
    }

    fn refused(&mut self, name: &'static str, refusal: Option<&'static str>, detail: String) {
        self.checks.push(Check { name, ok: false, refusal, detail });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).fold(7, usize::max);
        for check in &self.checks {
            let ok = if check.ok { "ok" } else { "NO" };
            writeln!(f, "{:<width$}  {ok}  {}", check.name, name(&check.detail))?;
        }
        writeln!(f, "{}", if self.valid { "valid" } else { "not valid" })
    }
}
