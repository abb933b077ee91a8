//! `tla show`: what an adapter says about itself.

use super::{CliError, Output, Verdict, files, output::hex};
use crate::format::{Adapter, MAGIC, VERSION};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// Print every field of an adapter
///
/// The file's layout, its choices and its checksum are checked first. That proves integrity, not
/// origin: whoever changes a file can compute its checksum anew.
#[derive(clap::Args)]
pub struct Show {
    /// The adapter
    #[arg(value_name = "A.tla")]
    adapter: PathBuf,
}

impl Show {
    /// Prints the fields.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let bytes = files::read(&self.adapter)?;
        let adapter = Adapter::decode(&bytes)
            .map_err(|source| CliError::Adapter { path: self.adapter.clone(), source })?;
        out.report(&Report::from(&adapter))?;
        Ok(Verdict::Yes)
    }
}

/// The fields by name, as `--json` prints them.
#[cfg(feature = "train")]
pub fn fields(adapter: &Adapter<'_>) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(Report::from(adapter)) {
        Ok(serde_json::Value::Object(fields)) => fields,
        // A struct of numbers and words is an object.
        _ => serde_json::Map::new(),
    }
}

/// The line of JSON: the fields of `spec/format.md` by name, then what follows from them. Numbers are
/// f64, because that is how JSON is read: so they are exactly those in the file.
#[derive(Serialize)]
struct Report {
    magic: String,
    version: u8,
    scalar: &'static str,
    split: &'static str,
    tying: &'static str,
    rank: u8,
    projection: &'static str,
    width: u16,
    groups: u16,
    roles: Vec<&'static str>,
    seed: u64,
    scale: f64,
    first_layer: u16,
    layers: u16,
    base_digest: String,
    factors_digest: String,
    v: Vec<f64>,
    checksum: String,
    /// Length of the file.
    bytes: usize,
    /// Number of values, groups × width.
    parameters: usize,
    /// Whether neither digest is zero.
    bound: bool,
}

impl From<&Adapter<'_>> for Report {
    fn from(adapter: &Adapter) -> Self {
        let header = adapter.header();
        Self {
            magic: hex(&MAGIC),
            version: VERSION,
            scalar: header.scalar.name(),
            split: header.split.name(),
            tying: header.tying.name(),
            rank: header.rank,
            projection: header.projection.name(),
            width: header.width,
            groups: header.groups,
            roles: header.roles.iter().map(|role| role.name()).collect(),
            seed: header.seed,
            scale: header.scale.into(),
            first_layer: header.first_layer,
            layers: header.layers,
            base_digest: hex(&header.base_digest),
            factors_digest: hex(&header.factors_digest),
            v: adapter.values().map(f64::from).collect(),
            checksum: hex(&adapter.checksum()),
            bytes: adapter.bytes().len(),
            parameters: header.parameters(),
            bound: header.is_bound(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = if self.layers == 0 { " (all)" } else { "" };
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<14}  {value}");
        line("version", &self.version)?;
        line("scalar", &self.scalar)?;
        line("split", &self.split)?;
        line("tying", &self.tying)?;
        line("rank", &self.rank)?;
        line("projection", &self.projection)?;
        line("width", &self.width)?;
        line("groups", &self.groups)?;
        line("roles", &self.roles.join(" "))?;
        line("seed", &self.seed)?;
        line("scale", &self.scale)?;
        line("first_layer", &self.first_layer)?;
        line("layers", &format_args!("{}{all}", self.layers))?;
        line("base_digest", &self.base_digest)?;
        line("factors_digest", &self.factors_digest)?;
        line("checksum", &self.checksum)?;
        line("v", &serde_json::to_string(&self.v).map_err(|_| fmt::Error)?)?;
        let (parameters, bytes) = (self.parameters, self.bytes);
        match self.bound {
            true => writeln!(f, "{parameters} parameters in {bytes} bytes"),
            false => writeln!(
                f,
                "{parameters} parameters in {bytes} bytes, unbound: \
                 it does not say which model it belongs to or what it rebuilds to"
            ),
        }
    }
}
