//! The options of `tla train` that say what is trained: the form of the update and its placement.

use clap::{Args, ValueEnum};

use super::CliError;
use crate::{
    format::{Projection, Role, RoleSet, Scalar, Split, Tying},
    train::{
        TrainError,
        placement::scout::Effort,
        plan::{Form, Seed, Site},
    },
};

/// The numbers that are trained unless something else is said (paper, section 5).
const PARAMS: u32 = 13;
/// The seeds that are compared unless something else is said.
const SEEDS: u64 = 4096;
/// The most seeds that are compared.
const MOST_SEEDS: u64 = 1 << 24;

/// The form of the update.
#[derive(Args)]
pub struct FormArgs {
    /// Where the directions come from: "seeded" draws as many as there are numbers in a group,
    /// "unit" has one for each entry of R (LoRA-XS), rank² of them
    #[arg(long, value_enum, default_value_t = ProjectionArg::Seeded, help_heading = "Update")]
    projection: ProjectionArg,
    /// Numbers to train: width × groups [default: 13, or groups × rank² under "unit"]
    #[arg(long, value_name = "N", help_heading = "Update")]
    params: Option<u32>,
    /// Numbers per group [default: params / groups, or rank² under "unit"]
    #[arg(long, value_name = "U", help_heading = "Update")]
    width: Option<u16>,
    /// Groups of modules, each with numbers of its own; as many as modules is LoRA-XS as published
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
    /// Seed of the projection, or "search:N" for the best of N [default: search:4096]
    #[arg(long, value_name = "SEED", help_heading = "Placement")]
    seed: Option<String>,
    /// Batches of answers the gradient is measured on before it is placed
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Placement")]
    survey: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProjectionArg {
    Seeded,
    Unit,
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
        let square = u32::from(self.rank).pow(2);
        let (projection, usual) = match self.projection {
            ProjectionArg::Seeded => (Projection::Seeded, PARAMS),
            ProjectionArg::Unit => (Projection::Unit, square * groups),
        };
        let width = match (self.params, self.width) {
            (None, Some(width)) => u32::from(width),
            (params, width) => {
                let params = params.unwrap_or(usual);
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
        if projection == Projection::Unit && width != square {
            return Err(CliError::Usage(format!(
                "a unit projection of rank {} has groups of {square} numbers, not {width}. Leave \
                 --params and --width out, or choose another --rank",
                self.rank
            )));
        }
        let width = u16::try_from(width).map_err(|_| {
            CliError::Usage(format!("a group of {width} numbers is too wide. Give more --groups"))
        })?;
        Ok(Form {
            rank: self.rank,
            width,
            groups: self.groups,
            projection,
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

    /// The projection asked for: the best of many, or none where nothing is drawn.
    pub fn seed(&self, projection: Projection) -> Result<Seed, CliError> {
        let Some(seed) = &self.seed else {
            return Ok(match projection {
                Projection::Seeded => Seed::Search(SEEDS),
                Projection::Unit => Seed::Given(0),
            });
        };
        let wrong = || {
            CliError::Usage(format!(
                "'{seed}' is no seed. Give a number, or search:N with N of at least 1"
            ))
        };
        let found = match seed.strip_prefix("search:") {
            Some(n) => match n.parse() {
                Ok(n) if n > MOST_SEEDS => Err(CliError::Usage(format!(
                    "{n} seeds are too many. Search at most {MOST_SEEDS}"
                ))),
                Ok(n) if n > 0 => Ok(Seed::Search(n)),
                _ => Err(wrong()),
            },
            None => Ok(Seed::Given(seed.parse().map_err(|_| wrong())?)),
        }?;
        match (projection, found) {
            (Projection::Unit, Seed::Search(_)) => Err(CliError::Usage(format!(
                "--seed is {seed}, and a unit projection draws nothing that a seed could be \
                 searched for. Leave --seed out"
            ))),
            _ => Ok(found),
        }
    }
}
