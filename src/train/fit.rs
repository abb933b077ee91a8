//! From a plan and problems to an adapter: place, train, bind, encode.

use std::{sync::atomic::AtomicBool, time::Instant};

use super::{
    TrainError,
    data::Problem,
    excerpts,
    folder::RunFolder,
    guard::Ending,
    journal::{Line, Placement},
    placement::{
        mean_gradient::MeanGradient,
        modules::choose_modules,
        scout::survey,
        seed_search::{captured, search_seed},
    },
    plan::{Plan, Seed, Site, Wish},
    recipe::Recipe,
    reward::Reward,
    run::{Trained, train},
    student::{Frozen, Lessons, Student, freeze},
};
use crate::{
    format::{Header, ModuleId, Role, RoleSet, encode_to_vec},
    policy::live::Live,
    projection::{Geometry, ProjectionError, factors, factors_digest, group_of, mixing, select},
    runtime::SessionOptions,
};

/// What `fit` is doing.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Bases done, of how many.
    Basis(usize, usize),
    /// Batches of answers the gradient was measured on, of how many.
    Survey(usize, usize),
    /// Where the update lives.
    Placed(&'a Placement),
    /// What is written about a training step, v after it as it would ship, and how many steps there
    /// are to be.
    Training(&'a Line, &'a [f32], usize),
    /// The adapter is trained, but the examples of before and after could not be made.
    NotCompared(&'a TrainError),
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
    /// The step after which v was as it ships.
    pub shipped_step: u64,
    /// Steps done.
    pub steps: u64,
    /// Why there were no more.
    pub ending: Ending,
    /// Wall clock time of the training steps.
    pub train_seconds: f64,
}

/// Trains the planned adapter on `problems`, from where `folder` says a run of it was. It ends early
/// when `stop` is set.
///
/// # Errors
/// If the model cannot be grafted, differentiated or run, nothing can be learned, or `stop` was
/// set.
#[allow(clippy::too_many_arguments, reason = "the run's surroundings, each of another kind")]
pub fn fit(
    plan: Plan<'_>,
    problems: &[Problem],
    reward: &dyn Reward,
    recipe: &Recipe,
    options: SessionOptions,
    folder: &mut RunFolder,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Fitted, TrainError> {
    let Plan { model, targets, wish, voice, base_digest, candidates, layout } = plan;
    let form = wish.form;
    let kept = match folder.placement() {
        Some(record) => Some(Placed::again(record, &wish, &candidates)?),
        None => None,
    };
    let first = kept.as_ref().map_or(&candidates, |placed| &placed.modules).clone();
    let (rank, count) = (usize::from(form.rank), first.len());
    let frozen = freeze(model, targets, &first, rank, options.threads, &mut |done| {
        watch(Event::Basis(done, count));
    })?;
    let lessons = Some(Lessons { layout, diverging: recipe.kl != 0.0 });
    let mut student = Student::load(voice, model, targets, &frozen, form.split, lessons, options)?;
    let placed = match kept {
        Some(placed) => placed,
        None => {
            let gradient = match wish.is_measured() {
                true => {
                    let live = Live::new(form.geometry(0), &candidates)?;
                    let of = wish.effort.batches;
                    let mut heard = |done| watch(Event::Survey(done, of));
                    let (student, effort) = (&mut student, wish.effort);
                    let found =
                        survey(student, &live, problems, reward, recipe, effort, stop, &mut heard);
                    Some(found?)
                }
                false => None,
            };
            let threads = options.threads;
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .map_err(|error| ProjectionError::Threads { threads, reason: error.to_string() })?;
            let placed = pool.install(|| place(&wish, &candidates, gradient.as_ref()))?;
            folder.write(&Line::Placement(placed.record.clone()))?;
            folder.keep_placement(&placed.record)?;
            placed
        }
    };
    watch(Event::Placed(&placed.record));

    let frozen: Vec<Frozen> =
        frozen.into_iter().filter(|f| placed.modules.contains(&f.module)).collect();
    if placed.modules != first {
        // Two sessions of the old graft would stay beside the two of the new one.
        let Student { voice, graph, gradient } = student;
        drop((graph, gradient));
        student = Student::load(voice, model, targets, &frozen, form.split, lessons, options)?;
    }
    let geometry = form.geometry(placed.record.seed);
    let live = Live::new(geometry, &placed.modules)?;
    let started = Instant::now();
    let trained =
        train(&mut student, &live, problems, reward, recipe, folder, stop, &mut |line, v| {
            watch(Event::Training(line, v, recipe.steps));
        })?;
    let train_seconds = started.elapsed().as_secs_f64();
    let Trained { v, step: shipped_step, steps, ending } = trained;
    let (before, after) = (live.mixing(&vec![0.0; v.len()])?, live.mixing(&v)?);
    let longest = recipe.exploration.max_tokens;
    match excerpts::compared(&mut student, problems, reward, longest, &before, &after) {
        Ok(pairs) => folder.write(&Line::Answers(pairs))?,
        Err(error) => watch(Event::NotCompared(&error)),
    }

    let header = Header {
        roles: placed.roles,
        seed: placed.record.seed,
        first_layer: placed.record.first_layer,
        layers: placed.record.layers,
        base_digest,
        factors_digest: rebuilt_digest(&geometry, &placed.modules, &frozen, &v),
        ..form.header()
    };
    let bytes = encode_to_vec(&header, &v)?;
    let placement = placed.record;
    Ok(Fitted { header, v, bytes, placement, shipped_step, steps, ending, train_seconds })
}

struct Placed {
    roles: RoleSet,
    modules: Vec<ModuleId>,
    record: Placement,
}

impl Placed {
    /// The placement a run was stopped with.
    fn again(record: &Placement, wish: &Wish, candidates: &[ModuleId]) -> Result<Self, TrainError> {
        let roles = RoleSet::from_roles(record.roles.iter().filter_map(|r| Role::from_name(r)))?;
        let (first_layer, layers) = (record.first_layer, record.layers);
        let header = Header { roles, first_layer, layers, ..wish.form.header() };
        let modules = select(&header, candidates)?;
        Ok(Self { roles, modules, record: record.clone() })
    }
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
        (Site::Measured, None) => return Err(TrainError::NotMeasured),
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
    let trial = form.geometry(0);
    let (seed, searched, caught) = match (wish.seed, gradient) {
        (Seed::Given(seed), None) => (seed, None, None),
        (Seed::Given(seed), Some(gradient)) => {
            (seed, None, Some(captured(gradient, &modules, &Geometry { seed, ..trial })?))
        }
        (Seed::Search(_), None) => return Err(TrainError::NotMeasured),
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
