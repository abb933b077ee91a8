//! The options of `tla train`: the form of the update, its placement, and how it learns.

use clap::{Args, ValueEnum};

use super::CliError;
use crate::{
    format::{Role, RoleSet, Scalar, Split, Tying},
    train::{
        TrainError,
        explore::Exploration,
        placement::scout::Effort,
        plan::{Form, Seed, Site},
        run::Recipe,
    },
};

/// The numbers that are trained unless something else is said (paper, section 5).
const PARAMS: u32 = 13;
/// The most answers that are sampled at once.
const MOST_ANSWERS: usize = 1 << 16;
/// The most tokens an answer may be allowed.
const MOST_TOKENS: usize = 1 << 20;
/// The most seeds that are compared.
const MOST_SEEDS: u64 = 1 << 24;

/// The form of the update.
#[derive(Args)]
pub struct FormArgs {
    /// Numbers to train: width × groups [default: 13]
    #[arg(long, value_name = "N", help_heading = "Update")]
    params: Option<u32>,
    /// Numbers per group [default: params / groups]
    #[arg(long, value_name = "U", help_heading = "Update")]
    width: Option<u16>,
    /// Groups of modules, each with numbers of its own
    #[arg(long, value_name = "G", default_value_t = 1, help_heading = "Update")]
    groups: u16,
    /// Rank of the update
    #[arg(long, value_name = "R", default_value_t = 2, help_heading = "Update")]
    rank: u8,
    /// Which modules share a group
    #[arg(long, value_enum, default_value_t = TyingArg::Tiled, help_heading = "Update")]
    tying: TyingArg,
    /// Where the singular values go
    #[arg(long, value_enum, default_value_t = SplitArg::Paper, help_heading = "Update")]
    split: SplitArg,
    /// The type the numbers ship in
    #[arg(long, value_enum, default_value_t = ScalarArg::Bf16, help_heading = "Update")]
    scalar: ScalarArg,
    /// Factor of the whole update
    #[arg(long, value_name = "ALPHA", default_value_t = 1.0, help_heading = "Update")]
    scale: f32,
}

/// Where the numbers act.
#[derive(Args)]
pub struct PlaceArgs {
    /// "auto" (where the gradient is), "all", or roles such as "down,o"
    #[arg(long, value_name = "ROLES", default_value = "auto", help_heading = "Placement")]
    roles: String,
    /// With given roles: the first layer that is adapted
    #[arg(long, value_name = "L", default_value_t = 0, help_heading = "Placement")]
    first_layer: u16,
    /// With given roles: the number of layers, 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Placement")]
    layers: u16,
    /// Seed of the projection, or "search:N" for the best of N
    #[arg(long, value_name = "SEED", default_value = "search:4096", help_heading = "Placement")]
    seed: String,
    /// Batches of answers the gradient is measured on before it is placed
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Placement")]
    survey: usize,
}

/// How it learns.
#[derive(Args)]
pub struct LearnArgs {
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = 60, help_heading = "Learning")]
    steps: usize,
    /// Problems per step
    #[arg(long, value_name = "N", default_value_t = 24, help_heading = "Learning")]
    problems: usize,
    /// Answers sampled per problem
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Learning")]
    samples: usize,
    /// Longest answer, in tokens; a longer one is cut and worth nothing
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Learning")]
    max_tokens: usize,
    /// Sampling temperature
    #[arg(long, value_name = "T", default_value_t = 1.0, help_heading = "Learning")]
    temperature: f32,
    /// Adam's step size
    #[arg(long, value_name = "RATE", default_value_t = 0.03, help_heading = "Learning")]
    learning_rate: f64,
    /// Gradient steps per batch of answers
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Learning")]
    updates: usize,
    /// Clip probability ratios to 1 ± this
    #[arg(long, value_name = "EPS", default_value_t = 0.2, help_heading = "Learning")]
    clip: f32,
    /// Weight of the divergence from the base
    #[arg(long, value_name = "BETA", default_value_t = 0.0, help_heading = "Learning")]
    kl: f32,
    /// Most positions in one pass of the gradient graph; bounds memory
    #[arg(long, value_name = "N", default_value_t = 8192, help_heading = "Learning")]
    micro_tokens: usize,
    /// Seed of the order of problems and of the samples
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Learning")]
    run_seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TyingArg {
    Tiled,
    Structured,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    Paper,
    Peft,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScalarArg {
    Bf16,
    F16,
    F32,
}

impl FormArgs {
    /// The form asked for.
    pub fn form(&self) -> Result<Form, CliError> {
        let groups = u32::from(self.groups);
        let width = match (self.params, self.width) {
            (None, Some(width)) => u32::from(width),
            (params, width) => {
                let params = params.unwrap_or(PARAMS);
                let equal = params.checked_div(groups).unwrap_or(0);
                let fits = equal > 0 && equal * groups == params;
                if !fits || width.is_some_and(|width| u32::from(width) != equal) {
                    return Err(CliError::Usage(format!(
                        "{params} numbers are not {groups} groups of {}. Give --width and --groups \
                         alone, or a --params that is their product",
                        width.map_or("equal size".to_owned(), |width| width.to_string())
                    )));
                }
                equal
            }
        };
        let width = u16::try_from(width).map_err(|_| {
            CliError::Usage(format!("a group of {width} numbers is too wide. Give more --groups"))
        })?;
        Ok(Form {
            rank: self.rank,
            width,
            groups: self.groups,
            tying: match self.tying {
                TyingArg::Tiled => Tying::Tiled,
                TyingArg::Structured => Tying::Structured,
            },
            split: match self.split {
                SplitArg::Paper => Split::Paper,
                SplitArg::Peft => Split::Peft,
            },
            scalar: match self.scalar {
                ScalarArg::Bf16 => Scalar::Bf16,
                ScalarArg::F16 => Scalar::F16,
                ScalarArg::F32 => Scalar::F32,
            },
            scale: self.scale,
        })
    }
}

impl PlaceArgs {
    /// The modules asked for.
    pub fn site(&self) -> Result<Site, CliError> {
        let (first_layer, layers) = (self.first_layer, self.layers);
        match self.roles.as_str() {
            "auto" if first_layer != 0 || layers != 0 => Err(CliError::Usage(
                "--roles auto chooses the layers too. Leave --first-layer and --layers out, or \
                 name the roles"
                    .to_owned(),
            )),
            "auto" => Ok(Site::Measured),
            "all" => Ok(Site::Given { roles: RoleSet::LINEAR, first_layer, layers }),
            names => {
                let mut roles = Vec::new();
                for name in names.split(',') {
                    roles.push(Role::from_name(name.trim()).ok_or_else(|| {
                        CliError::Usage(format!(
                            "'{name}' is no role. Use auto, all, or some of q,k,v,o,gate,up,down"
                        ))
                    })?);
                }
                let roles = RoleSet::from_roles(roles).map_err(TrainError::from)?;
                Ok(Site::Given { roles, first_layer, layers })
            }
        }
    }

    /// How much is measured before the numbers are placed.
    pub fn effort(&self) -> Result<Effort, CliError> {
        match self.survey {
            0 => Err(CliError::Usage("--survey is 0. Give a number above 0".to_owned())),
            batches => Ok(Effort { batches, parts: 4 }),
        }
    }

    /// The projection asked for.
    pub fn seed(&self) -> Result<Seed, CliError> {
        let wrong = || {
            CliError::Usage(format!(
                "'{}' is no seed. Give a number, or search:N with N of at least 1",
                self.seed
            ))
        };
        match self.seed.strip_prefix("search:") {
            Some(n) => match n.parse() {
                Ok(n) if n > MOST_SEEDS => Err(CliError::Usage(format!(
                    "{n} seeds are too many. Search at most {MOST_SEEDS}"
                ))),
                Ok(n) if n > 0 => Ok(Seed::Search(n)),
                _ => Err(wrong()),
            },
            None => Ok(Seed::Given(self.seed.parse().map_err(|_| wrong())?)),
        }
    }
}

impl LearnArgs {
    /// The recipe asked for.
    pub fn recipe(&self, scalar: Scalar) -> Result<Recipe, CliError> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(CliError::Usage(format!("--{name} is {value}. Give a number above 0")))
        };
        for (name, value) in [
            ("steps", self.steps as f64),
            ("problems", self.problems as f64),
            ("max-tokens", self.max_tokens as f64),
            ("temperature", f64::from(self.temperature)),
            ("learning-rate", self.learning_rate),
            ("updates", self.updates as f64),
            ("clip", f64::from(self.clip)),
            ("micro-tokens", self.micro_tokens as f64),
        ] {
            positive(name, value)?;
        }
        if self.samples < 2 {
            return Err(CliError::Usage(
                "--samples is below 2, and answers are compared within their group. Give 2 or more"
                    .to_owned(),
            ));
        }
        let answers = self.problems.saturating_mul(self.samples);
        for (what, value, most) in [
            ("--problems times --samples", answers, MOST_ANSWERS),
            ("--max-tokens", self.max_tokens, MOST_TOKENS),
        ] {
            if value > most {
                return Err(CliError::Usage(format!("{what} is {value}. Give at most {most}")));
            }
        }
        if !(self.kl.is_finite() && self.kl >= 0.0) {
            return Err(CliError::Usage(format!("--kl is {}. Give 0 or more", self.kl)));
        }
        Ok(Recipe {
            steps: self.steps,
            problems: self.problems,
            exploration: Exploration {
                samples: self.samples,
                max_tokens: self.max_tokens,
                temperature: self.temperature,
                seed: self.run_seed,
                normalise: true,
            },
            learning_rate: self.learning_rate,
            updates: self.updates,
            clip: self.clip,
            kl: self.kl,
            micro_tokens: self.micro_tokens,
            scalar,
        })
    }
}
