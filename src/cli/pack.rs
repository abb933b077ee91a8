//! `tla pack`: values in JSON to an adapter.

use super::{
    CliError, Output, Verdict, base::Base, files, names::Names, output::hex, recipe::Recipe,
    side_files, threads::Threads,
};
use crate::{
    format::{Adapter, encode_to_vec},
    projection::factors_digest,
};
use serde::Serialize;
use std::{fmt, path::PathBuf};

const ABOUT_INPUT: &str = r#"V.json holds one object. Everything but v has the default shown here:
  {"v": [0.5, …], "seed": 7, "rank": 2, "width": 13, "groups": 1, "tying": "tiled",
   "split": "paper", "scale": 1.0, "scalar": "bf16", "projection": "seeded",
   "roles": ["q", "k", "v", "o", "gate", "up", "down"], "first_layer": 0, "layers": 0}

v has groups × width numbers. tying: tiled, structured. split: paper, peft. scalar: bf16, f16, f32.
projection: seeded, unit. layers 0 means all."#;

/// Write values as an adapter, bound to a model
///
/// Values are rounded to the storage type. With --model the adapter names the weights it belongs
/// to and what it must rebuild to; without, it is unbound.
#[derive(clap::Args)]
#[command(after_long_help = ABOUT_INPUT)]
pub struct Pack {
    /// The values, and how they are used
    #[arg(value_name = "V.json")]
    values: PathBuf,
    /// The model to bind the adapter to: an .onnx or .safetensors file, or its folder
    #[arg(long)]
    model: Option<PathBuf>,
    /// The adapter to write
    #[arg(short, long, value_name = "A.tla")]
    output: PathBuf,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Pack {
    /// Reads, rounds, binds, writes.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let mut recipe = Recipe::parse(&self.values, &files::read(&self.values)?)?;
        let base = self.model.as_deref().map(|path| Base::load(path, &self.names)).transpose()?;
        let mut inputs = vec![self.values.clone()];
        inputs.extend(base.iter().flat_map(|base| {
            let container = base.model.container();
            side_files::of_model(container.files(), &container.home())
        }));
        files::check_output(&self.output, &inputs)?;

        recipe.told_rounding().into_iter().for_each(|text| out.say(text));
        match &base {
            Some(base) => {
                recipe.header.base_digest = base.digest(&self.threads)?;
                let factors = base.factors(&recipe.header, &recipe.v, &self.threads)?;
                recipe.header.factors_digest = factors_digest(&factors);
            }
            None => out.say(
                "the adapter is unbound: it does not say which model it belongs to. \
                 Give --model to bind it.",
            ),
        }
        let bytes =
            encode_to_vec(&recipe.header, &recipe.v).map_err(super::recipe::RecipeError::Header)?;
        files::write(&self.output, &bytes)?;
        out.report(&self.report(&recipe, &bytes)?)?;
        Ok(Verdict::Yes)
    }

    fn report(&self, recipe: &Recipe, bytes: &[u8]) -> Result<Report, CliError> {
        let adapter = Adapter::decode(bytes)
            .map_err(|source| CliError::Adapter { path: self.output.clone(), source })?;
        Ok(Report {
            output: self.output.display().to_string(),
            bytes: bytes.len(),
            parameters: recipe.v.len(),
            bound: recipe.header.is_bound(),
            base_digest: hex(&recipe.header.base_digest),
            factors_digest: hex(&recipe.header.factors_digest),
            checksum: hex(&adapter.checksum()),
            rounded: recipe.rounded,
            largest_change: recipe.largest_change.1,
        })
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
    /// Whether it names its base and its factors.
    bound: bool,
    /// Digest of the model's weights; zero if unbound.
    base_digest: String,
    /// Digest of what it must rebuild to; zero if unbound.
    factors_digest: String,
    /// The file's own checksum.
    checksum: String,
    /// How many values rounding changed.
    rounded: usize,
    /// The largest change.
    largest_change: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, bytes, parameters, .. } = self;
        match self.bound {
            true => {
                writeln!(f, "{output}: {parameters} parameters in {bytes} bytes")?;
                writeln!(f, "base_digest     {}", self.base_digest)?;
                writeln!(f, "factors_digest  {}", self.factors_digest)?;
            }
            false => writeln!(f, "{output}: {parameters} parameters in {bytes} bytes, unbound")?,
        }
        writeln!(f, "checksum        {}", self.checksum)
    }
}
