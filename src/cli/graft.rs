//! `tla graft`: an adapter beside the weights of its model, its values an input.

use super::{
    CliError, Output, Verdict, adapter_file::AdapterFile, base::Base, destination::Destination,
    files, interrupt, names::Names, recipe::Recipe, threads::Threads,
};
use crate::{
    format::{Header, ModuleId},
    model::{Model, ModelError},
    surgery::{Grafted, SurgeryError, VALUES, graft},
};
use serde::Serialize;
use std::{fmt, path::PathBuf};

const ABOUT_INPUT: &str = "\
The input tla_v is float32 [1, n] or [batch, n], n = groups × width. A program that does not know
it runs the model with the default; one that feeds it has another adapter, with nothing to load:

  session.run(None, {**inputs, \"tla_v\": numpy.float32([v])})   # v as in `tla show A.tla --json`

What can be fed are the v of adapters that are alike in all else: seed, rank, width, groups,
tying, split, scale, projection, roles, layers. These are in the doc string of the input, as `tla
pack` reads them. Nothing checks what is fed: a v trained for another seed is another update, and
where the graph does not say how many dimensions its activations have, other than one row of v or
as many as the batch has may mix up the answers without an error.

What it adds to the graph, of fp32 weights and activations [batch, sequence, features]: two
MatMul for each value that adapted matrices read, where query, key and value read one, and a
MatMul and an Add for each matrix; 22 in a layer with all seven modules. Three more make the
numbers of all layers from tla_v. Beside a product in 16 bits each of the two pairs has a Cast
too (33 in a layer). Where the dimensions of the activations are not known, the first pair has
four operators more and the second two. A merged model has none of them.";

/// Put an adapter beside the weights of its ONNX model, as an input that takes others too
///
/// The weights stay as they are. The model gains the input tla_v, which has the adapter's values
/// as its default: one row of values for the whole batch, or one for each of its rows. The adapter
/// must belong to the model and rebuild to what it names. Give an adapter, or --recipe.
#[derive(clap::Args)]
#[command(after_long_help = ABOUT_INPUT)]
pub struct Graft {
    /// The model: an .onnx file, or its folder
    model: PathBuf,
    /// The adapter whose values are the default
    #[arg(value_name = "A.tla", required_unless_present = "recipe", conflicts_with = "recipe")]
    adapter: Option<PathBuf>,
    /// The grafted model: an .onnx file, or a folder, which gets tokenizer and configurations too
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Instead of an adapter: what `tla pack` reads, where v may be left out, so that the default
    /// is the base
    #[arg(long, value_name = "V.json")]
    recipe: Option<PathBuf>,
    /// Graft an adapter that does not say which model it belongs to
    #[arg(long, conflicts_with = "recipe")]
    unbound: bool,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Graft {
    /// Checks, grafts, writes.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let given = Given::read(self, out)?;
        let base = Base::load(&self.model, &self.names)?;
        let mut inputs = base.model.container().files();
        let Model::Onnx(model) = &base.model else {
            let path = inputs.swap_remove(0);
            return Err(ModelError::NoGraph { path }.into());
        };
        let destination = Destination::new(&self.output, &base.model)?;
        inputs.extend(self.adapter.iter().chain(&self.recipe).cloned());
        let kept = destination.check(&base.model, &inputs)?;
        if let Given::Adapter(adapter) = &given {
            adapter.check_base(&base, &self.model, &self.threads)?;
        }

        let (header, v) = given.parts();
        let threads = self.threads.count();
        let grafted = graft(model, &base.targets, header, v, threads).map_err(plain)?;
        if let Given::Adapter(adapter) = &given {
            adapter.check_factors(grafted.factors_digest)?;
        }
        interrupt::remove_temporary()?;
        destination.write(&grafted.proto, model)?;
        kept.into_iter().for_each(|kept| out.say(kept));
        out.report(&self.report(&grafted, v))?;
        Ok(Verdict::Yes)
    }

    fn report(&self, Grafted { modules, .. }: &Grafted, v: &[f32]) -> Report {
        let line = |m: &ModuleId| ModuleLine { layer: m.layer, role: m.role.name() };
        Report {
            output: self.output.display().to_string(),
            input: VALUES,
            params: v.len(),
            default: v.iter().copied().map(f64::from).collect(),
            modules: modules.iter().map(line).collect(),
        }
    }
}

fn plain(error: SurgeryError) -> CliError {
    match error {
        SurgeryError::Projection(error) => error.into(),
        other => other.into(),
    }
}

/// Where geometry and values come from.
enum Given {
    Adapter(AdapterFile),
    Recipe(Recipe),
}

impl Given {
    fn read(command: &Graft, out: &Output) -> Result<Self, CliError> {
        if let Some(path) = &command.recipe {
            let recipe = Recipe::parse_geometry(path, &files::read(path)?)?;
            recipe.told_rounding().into_iter().for_each(|text| out.say(text));
            return Ok(Self::Recipe(recipe));
        }
        // The arguments ask for one of the two.
        let adapter = AdapterFile::read(&command.adapter.clone().unwrap_or_default())?;
        adapter.check_bound(command.unbound, out)?;
        Ok(Self::Adapter(adapter))
    }

    fn parts(&self) -> (&Header, &[f32]) {
        match self {
            Self::Adapter(adapter) => (&adapter.header, &adapter.v),
            Self::Recipe(recipe) => (&recipe.header, &recipe.v),
        }
    }
}

/// The line of JSON.
#[derive(Serialize)]
struct Report {
    /// The model as named.
    output: String,
    /// The input that takes an adapter's values.
    input: &'static str,
    /// How many values a row of it has.
    params: usize,
    /// The values when nothing is fed.
    default: Vec<f64>,
    /// The modules that are adapted, sorted.
    modules: Vec<ModuleLine>,
}

#[derive(Serialize)]
struct ModuleLine {
    layer: u16,
    role: &'static str,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, input, params, default, modules } = self;
        let modules = modules.len();
        let default = match default.iter().all(|x| *x == 0.0) {
            true => "zeros, which is the base",
            false => "the values given",
        };
        writeln!(f, "{output}: {modules} modules take their adapter from an input")?;
        writeln!(f, "input    {input}, float32 [1, {params}] or [batch, {params}]")?;
        writeln!(f, "default  {default}")
    }
}
