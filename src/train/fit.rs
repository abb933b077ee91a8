//! From a model and problems to an adapter: place, train, bind, encode.

use std::time::Instant;

use super::{
    TrainError,
    data::Problem,
    journal::{Journal, Line, Placement, Step},
    mean_gradient::MeanGradient,
    placement::choose_modules,
    reward::Reward,
    run::{Recipe, train},
    scout::{Effort, survey},
    seed_search::{captured, search_seed},
    student::{Frozen, Student, freeze},
};
use crate::{
    format::{Header, ModuleId, Projection, RoleSet, Scalar, Split, Tying, encode_to_vec},
    model::{OnnxModel, Targets, base_digest},
    policy::live::Live,
    projection::{Geometry, factors, factors_digest, group_of, mixing},
    runtime::SessionOptions,
};

/// The form of the update (paper, section 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// Rank r.
    pub rank: u8,
    /// Numbers per group, u.
    pub width: u16,
    /// Groups, g.
    pub groups: u16,
    /// Which modules share a group.
    pub tying: Tying,
    /// Where the singular values go.
    pub split: Split,
    /// The type v ships in.
    pub scalar: Scalar,
    /// Factor α.
    pub scale: f32,
}

/// Which modules are adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Those that hold most of the gradient for their number.
    Measured,
    /// Those of the given roles, in `layers` layers from `first_layer` on; 0 for all.
    Given {
        /// Roles.
        roles: RoleSet,
        /// First layer.
        first_layer: u16,
        /// Number of layers, 0 for all.
        layers: u16,
    },
}

/// Which projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Given(u64),
    /// The best of this many, from 0 on.
    Search(u64),
}

/// Where v acts: what is asked for and how hard it is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    /// The form of the update.
    pub form: Form,
    /// Which modules.
    pub site: Site,
    /// Which projection.
    pub seed: Seed,
    /// How much is measured where something is to be found.
    pub effort: Effort,
}

/// What `fit` is doing.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Bases done, of how many.
    Basis(usize, usize),
    /// Batches of answers the gradient was measured on, of how many.
    Survey(usize, usize),
    /// Where the update lives.
    Placed(&'a Placement),
    /// A training step, of how many.
    Step(&'a Step, usize),
}

/// A trained adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Its header, bound to the base.
    pub header: Header,
    /// Its values.
    pub v: Vec<f32>,
    /// The file.
    pub bytes: Vec<u8>,
    /// Where it lives and why.
    pub placement: Placement,
    /// Wall clock time of the training steps.
    pub train_seconds: f64,
}

/// Trains an adapter for `model` on `problems`.
///
/// # Errors
/// If the model cannot be grafted, differentiated or run, or nothing can be learned.
#[allow(clippy::too_many_arguments, reason = "each is one independent thing the run is made of")]
pub fn fit(
    model: &OnnxModel,
    targets: &Targets,
    problems: &[Problem],
    reward: &dyn Reward,
    wish: &Wish,
    recipe: &Recipe,
    options: SessionOptions,
    journal: &mut Journal,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Fitted, TrainError> {
    let base = base_digest(model, targets)?;
    let candidates = candidates(targets, wish.site);
    if candidates.is_empty() {
        return Err(TrainError::NothingPlaced);
    }
    let rank = usize::from(wish.form.rank);
    let count = candidates.len();
    let frozen = freeze(model, targets, &candidates, rank, options.threads, &mut |done| {
        watch(Event::Basis(done, count));
    })?;
    let measured = wish.site == Site::Measured || matches!(wish.seed, Seed::Search(_));
    let split = wish.form.split;
    let mut student = Student::load(model, targets, &frozen, split, true, options)?;
    let gradient = match measured {
        true => {
            let live = Live::new(geometry(&wish.form, 0), &candidates)?;
            let of = wish.effort.batches;
            let mut heard = |done| watch(Event::Survey(done, of));
            Some(survey(&mut student, &live, problems, reward, recipe, wish.effort, &mut heard)?)
        }
        false => None,
    };
    let placed = place(wish, &candidates, gradient.as_ref())?;
    watch(Event::Placed(&placed.record));
    journal.write(&Line::Placement(placed.record.clone()))?;

    let frozen: Vec<Frozen> =
        frozen.into_iter().filter(|f| placed.modules.contains(&f.module)).collect();
    if placed.modules != candidates {
        // Two sessions of the old graft would stay beside the two of the new one.
        drop(student);
        student = Student::load(model, targets, &frozen, split, true, options)?;
    }
    let geometry = geometry(&wish.form, placed.record.seed);
    let live = Live::new(geometry, &placed.modules)?;
    let started = Instant::now();
    let v = train(&mut student, &live, problems, reward, recipe, journal, &mut |step| {
        watch(Event::Step(step, recipe.steps));
    })?;
    let train_seconds = started.elapsed().as_secs_f64();

    let header = Header {
        scalar: wish.form.scalar,
        split,
        tying: wish.form.tying,
        rank: wish.form.rank,
        projection: Projection::Seeded,
        width: wish.form.width,
        groups: wish.form.groups,
        roles: placed.roles,
        seed: placed.record.seed,
        scale: wish.form.scale,
        first_layer: placed.record.first_layer,
        layers: placed.record.layers,
        base_digest: base,
        factors_digest: rebuilt_digest(&geometry, &placed.modules, &frozen, &v),
    };
    let bytes = encode_to_vec(&header, &v)?;
    Ok(Fitted { header, v, bytes, placement: placed.record, train_seconds })
}

fn candidates(targets: &Targets, site: Site) -> Vec<ModuleId> {
    let wanted = |module: &ModuleId| match site {
        Site::Measured => RoleSet::LINEAR.contains(module.role),
        Site::Given { roles, first_layer, layers } => {
            let within = module.layer >= first_layer && module.layer - first_layer < layers;
            roles.contains(module.role) && (layers == 0 || within)
        }
    };
    targets.targets.iter().map(|t| t.module).filter(wanted).collect()
}

fn geometry(form: &Form, seed: u64) -> Geometry {
    Geometry {
        rank: usize::from(form.rank),
        width: usize::from(form.width),
        groups: usize::from(form.groups),
        tying: form.tying,
        projection: Projection::Seeded,
        split: form.split,
        seed,
        scale: form.scale,
    }
}

struct Placed {
    roles: RoleSet,
    modules: Vec<ModuleId>,
    record: Placement,
}

fn place(
    wish: &Wish,
    candidates: &[ModuleId],
    gradient: Option<&MeanGradient>,
) -> Result<Placed, TrainError> {
    let form = &wish.form;
    let parameters = usize::from(form.width) * usize::from(form.groups);
    let (roles, first_layer, layers, modules, share) = match (wish.site, gradient) {
        (Site::Given { roles, first_layer, layers }, _) => {
            (roles, first_layer, layers, candidates.to_vec(), None)
        }
        (Site::Measured, None) => return Err(TrainError::NothingPlaced),
        (Site::Measured, Some(gradient)) => {
            let seeds = match wish.seed {
                Seed::Given(_) => 1,
                Seed::Search(n) => n,
            };
            let (width, groups) = (usize::from(form.width), usize::from(form.groups));
            let found = choose_modules(gradient, width, groups, seeds)?;
            let share = Some(found.energy_share);
            (found.roles, found.first_layer, found.layers, found.modules, share)
        }
    };
    let trial = geometry(form, 0);
    let (seed, searched, caught) = match (wish.seed, gradient) {
        (Seed::Given(seed), None) => (seed, None, None),
        (Seed::Given(seed), Some(gradient)) => {
            (seed, None, Some(captured(gradient, &modules, &Geometry { seed, ..trial })?))
        }
        (Seed::Search(_), None) => return Err(TrainError::NothingPlaced),
        (Seed::Search(n), Some(gradient)) => {
            let best = search_seed(gradient, &modules, &trial, 0, n)?;
            (best.seed, Some(n), Some(best.captured))
        }
    };
    let record = Placement {
        roles: roles.iter().map(|r| r.name().to_owned()).collect(),
        first_layer,
        layers,
        modules: modules.len() as u64,
        rank: u16::from(form.rank),
        width: form.width,
        groups: form.groups,
        parameters: parameters as u64,
        seed,
        seeds_searched: searched,
        energy_share: share,
        captured: caught,
        snr: gradient.map(MeanGradient::snr),
    };
    Ok(Placed { roles, modules, record })
}

/// The digest a verifier will rebuild: the same functions on the same bases, `frozen` in the order
/// of `modules`.
pub fn rebuilt_digest(
    geometry: &Geometry,
    modules: &[ModuleId],
    frozen: &[Frozen],
    v: &[f32],
) -> [u8; 32] {
    let groups = u16::try_from(geometry.groups).unwrap_or(u16::MAX);
    let built: Vec<_> = frozen
        .iter()
        .enumerate()
        .map(|(index, Frozen { module, basis })| {
            let from = group_of(geometry.tying, groups, modules, index) * geometry.width;
            let own: Vec<f64> =
                v[from..from + geometry.width].iter().map(|x| f64::from(*x)).collect();
            factors(basis, *module, geometry, &mixing(geometry, *module, &own))
        })
        .collect();
    factors_digest(&built)
}
