//! The model being trained: one export, grafted once, run for rollouts and for gradients.

use std::path::Path;

use super::{TrainError, batch::Layout, gradient::GradientGraph};
use crate::{
    autodiff::lowering::opset,
    format::{ModuleId, Split},
    model::{OnnxModel, Targets, proto::ModelProto},
    policy::{attention::attend_by_one_operator, last_token::own_last_token_patch, voice::Voice},
    projection::{Basis, basis},
    runtime::{CausalGraph, Interface, LOGITS, Provider, SessionOptions},
    surgery::{LowRank, last_token_patch, lowrank_patch},
};

/// A module and the truncated singular value decomposition of its weight.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// Layer and role.
    pub module: ModuleId,
    /// Its canonical basis.
    pub basis: Basis,
}

/// What a model is loaded for beside answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lessons {
    /// What the rows of the gradient graph hold.
    pub layout: Layout,
    /// Whether the divergence from the base counts.
    pub diverging: bool,
}

/// A grafted model ready to answer, and its gradient graph where one was asked for.
pub struct Student {
    /// Text in and out.
    pub voice: Voice,
    /// The rollout graph.
    pub graph: CausalGraph,
    /// The gradient graph of the same graft.
    pub gradient: Option<GradientGraph>,
}

impl Student {
    /// Grafts the modules of `frozen` onto `model` and loads what answering needs, and with
    /// `lessons` what training does.
    ///
    /// # Errors
    /// If the model is not a causal language model, the graft does not fit it, or it cannot be
    /// differentiated.
    pub fn load(
        voice: Voice,
        model: &OnnxModel,
        targets: &Targets,
        frozen: &[Frozen],
        split: Split,
        lessons: Option<Lessons>,
        options: SessionOptions,
    ) -> Result<Self, TrainError> {
        let grafted = graft(model, targets, frozen, split)?;
        // Backward products read the weights in another order than forward ones: one packed copy would
        // not do for both.
        let unpacked = options.packing(false);
        let gradient = lessons
            .map(|lessons| differentiated(&grafted, &model.path, frozen, lessons, unpacked))
            .transpose()?;
        let graph = for_rollouts(grafted, options.provider)?;
        let graph = CausalGraph::load(&graph, &model.path, options)?;
        Ok(Self { voice, graph, gradient })
    }
}

fn differentiated(
    grafted: &ModelProto,
    path: &Path,
    frozen: &[Frozen],
    lessons: Lessons,
    options: SessionOptions,
) -> Result<GradientGraph, TrainError> {
    let modules: Vec<ModuleId> = frozen.iter().map(|f| f.module).collect();
    let rank = frozen.first().map_or(0, |f| f.basis.sigma.len());
    let build = match lessons.diverging {
        true => GradientGraph::build_with_logprobs,
        false => GradientGraph::build,
    };
    build(grafted, path, &modules, rank, lessons.layout, options)
}

/// The bases of `modules` at rank `rank`. `watch` hears of each: how many are done.
///
/// # Errors
/// If a module is not a target of the model, or its weight is not finite.
pub fn freeze(
    model: &OnnxModel,
    targets: &Targets,
    modules: &[ModuleId],
    rank: usize,
    threads: usize,
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<Frozen>, TrainError> {
    let mut frozen = Vec::with_capacity(modules.len());
    for module in modules {
        let target = targets.get(*module).ok_or(TrainError::NotATarget { module: *module })?;
        let weight = model.weight(target)?;
        frozen
            .push(Frozen { module: *module, basis: basis(weight.view(), *module, rank, threads)? });
        watch(frozen.len());
    }
    Ok(frozen)
}

/// `model` with the low-rank path of each of `frozen` and [`crate::surgery::MIXING`] as an input.
///
/// # Errors
/// If a module is not a target of the model, or that takes an adapter already.
pub fn graft(
    model: &OnnxModel,
    targets: &Targets,
    frozen: &[Frozen],
    split: Split,
) -> Result<ModelProto, TrainError> {
    let rank = frozen.first().map_or(0, |f| f.basis.sigma.len());
    let mut paths = Vec::with_capacity(frozen.len());
    for Frozen { module, basis } in frozen {
        let target = targets.get(*module).ok_or(TrainError::NotATarget { module: *module })?;
        paths.push(LowRank::new(target, basis, split)?);
    }
    let mut proto = model.whole()?;
    opset::raise(&mut proto, opset::RULES)?;
    let graph = proto.graph.as_mut().ok_or(TrainError::NoGraph)?;
    lowrank_patch(graph, &paths, rank)?.apply(graph)?;
    Ok(proto)
}

/// The same graph with logits of the last position only and, on the host, attention by one operator
/// where it is spelled out.
///
/// # Errors
/// If the cut or the operator does not fit the graph.
pub fn for_rollouts(mut grafted: ModelProto, provider: Provider) -> Result<ModelProto, TrainError> {
    if provider == Provider::Cpu {
        attend_by_one_operator(&mut grafted)?;
    }
    let graph = grafted.graph.as_mut().ok_or(TrainError::NoGraph)?;
    let cut = match Interface::of(graph)?.padded_right {
        true => own_last_token_patch(graph, LOGITS),
        false => last_token_patch(graph, LOGITS),
    };
    if let Some(patch) = cut {
        patch.apply(graph)?;
    }
    Ok(grafted)
}
