//! The gradient graph of a grafted model, loaded and run.

use std::{collections::HashSet, path::Path as FilePath};

use super::{
    TrainError,
    batch::{Layout, MicroBatch},
    gradient_model::{GRADIENT, PLACES, gradient_model, logprob_model},
};
use crate::{
    autodiff::{loss, shared_prompt},
    format::ModuleId,
    model::proto::ModelProto,
    runtime::{Interface, Provider, Rows, Session, SessionOptions, Tensor},
    surgery::MIXING,
};

/// The base's log-probability of a token where it was not asked: the divergence counts nothing then,
/// but must not overflow, as it would for a token far less likely than this says.
pub const UNASKED: f32 = -1e4;

/// What the loss needs beside the tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSettings {
    /// Temperature the tokens were sampled at.
    pub temperature: f32,
    /// Ratios are clipped to 1 − this,
    pub clip: f32,
    /// and to 1 + this.
    pub clip_high: f32,
    /// Whether the objective is the likelihood of the answers, and not the clipped one.
    pub likelihood: bool,
    /// Weight of the divergence from the base.
    pub kl: f32,
}

/// What one run of the graph gives.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientStep {
    /// The loss of the micro-batch.
    pub loss: f64,
    /// log-probability of each answer token.
    pub logprobs: Vec<f32>,
    /// dL/dM of each module, `[modules, r, r]`.
    pub by_mixing: Vec<f32>,
}

/// A model whose loss and gradient by every module's M come from one run.
pub struct GradientGraph {
    session: Session,
    /// The same graph up to the log-probabilities.
    logprobs: Option<Session>,
    interface: Interface,
    layout: Layout,
}

impl GradientGraph {
    /// Appends the loss to `grafted`, differentiates it by the M of each of `modules`, and loads
    /// the result, which runs batches of the given layout. `path` is where the model's external
    /// data would be.
    ///
    /// # Errors
    /// If an operator has no gradient rule, or the runtime refuses a graph.
    pub fn build(
        grafted: &ModelProto,
        path: &FilePath,
        modules: &[ModuleId],
        rank: usize,
        layout: Layout,
        options: SessionOptions,
    ) -> Result<Self, TrainError> {
        let model = gradient_model(grafted, path, modules, rank, layout, options)?;
        Self::load(grafted, &model, path, layout, options)
    }

    /// As [`build`](Self::build), for many calls of [`logprobs`](Self::logprobs). On a CPU a second
    /// graph without the gradient gives them, from the same copy of the weights; a device would hold
    /// another.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_with_logprobs(
        grafted: &ModelProto,
        path: &FilePath,
        modules: &[ModuleId],
        rank: usize,
        layout: Layout,
        options: SessionOptions,
    ) -> Result<Self, TrainError> {
        let model = gradient_model(grafted, path, modules, rank, layout, options)?;
        let mut made = Self::load(grafted, &model, path, layout, options)?;
        if options.provider == Provider::Cpu {
            let (what, model) = ("the graph of log-probabilities", logprob_model(model)?);
            made.logprobs = Some(Session::load(what, &model, path, options)?);
        }
        Ok(made)
    }

    fn load(
        grafted: &ModelProto,
        gradient: &ModelProto,
        path: &FilePath,
        layout: Layout,
        options: SessionOptions,
    ) -> Result<Self, TrainError> {
        let interface = Interface::of(grafted.graph.as_ref().ok_or(TrainError::NoGraph)?)?;
        let session = Session::load("the gradient graph", gradient, path, options)?;
        Ok(Self { session, logprobs: None, interface, layout })
    }

    /// What the rows of its batches hold.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Loss, log-probabilities and gradient of one micro-batch under the adapter `mixing`.
    /// `base` holds the base's log-probabilities, or [`UNASKED`] where the divergence does not
    /// count.
    ///
    /// # Errors
    /// If the batch is of another layout, the run fails or its result is not finite.
    pub fn run(
        &mut self,
        batch: &MicroBatch,
        mixing: &Tensor,
        base: &[f32],
        settings: LossSettings,
    ) -> Result<GradientStep, TrainError> {
        let feeds = feeds(&self.interface, batch, base, settings)?;
        let mut inputs: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
        inputs.push((MIXING, mixing));
        let outputs = self.session.run(&inputs)?;
        let [loss, logprobs, gradient] = &outputs[..] else { return Err(TrainError::NoGraph) };
        let step = GradientStep {
            loss: f64::from(*loss.as_f32(loss::LOSS)?.first().ok_or(TrainError::NoGraph)?),
            logprobs: logprobs.as_f32(loss::LOGPROBS)?.to_vec(),
            by_mixing: gradient.as_f32(GRADIENT)?.to_vec(),
        };
        let finite = step.loss.is_finite() && step.by_mixing.iter().all(|g| g.is_finite());
        if finite { Ok(step) } else { Err(TrainError::NotFinite { loss: step.loss }) }
    }

    /// log-probability of each answer token of a micro-batch under the adapter `mixing`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn logprobs(
        &mut self,
        batch: &MicroBatch,
        mixing: &Tensor,
        settings: LossSettings,
    ) -> Result<Vec<f32>, TrainError> {
        let unasked = vec![UNASKED; batch.labels.len()];
        let Some(session) = &mut self.logprobs else {
            return Ok(self
                .run(batch, mixing, &unasked, LossSettings { kl: 0.0, ..settings })?
                .logprobs);
        };
        let feeds = feeds(&self.interface, batch, &unasked, settings)?;
        let wanted: HashSet<String> = session.inputs().into_iter().map(|(name, _)| name).collect();
        let mut inputs: Vec<(&str, &Tensor)> = feeds
            .iter()
            .map(|(n, t)| (n.as_str(), t))
            .filter(|(n, _)| wanted.contains(*n))
            .collect();
        inputs.push((MIXING, mixing));
        let outputs = session.run(&inputs)?;
        let logprobs = outputs.first().ok_or(TrainError::NoGraph)?;
        Ok(logprobs.as_f32(loss::LOGPROBS)?.to_vec())
    }
}

/// The inputs of one run but for the adapter, by name.
///
/// # Errors
/// If the batch does not hold what it states.
pub fn feeds(
    interface: &Interface,
    batch: &MicroBatch,
    base: &[f32],
    settings: LossSettings,
) -> Result<Vec<(String, Tensor)>, TrainError> {
    let rows =
        Rows { batch: batch.rows, ids: &batch.ids, mask: &batch.mask, positions: &batch.positions };
    let tokens = batch.labels.len();
    let mut feeds = named("", interface.feeds(&rows)?);
    match &batch.prompts {
        None => feeds.extend(named("", interface.empty_cache_feeds(batch.rows)?)),
        Some(prompts) => {
            let rows = Rows {
                batch: prompts.rows,
                ids: &prompts.ids,
                mask: &prompts.mask,
                positions: &prompts.positions,
            };
            feeds.extend(named(shared_prompt::PROMPT, interface.feeds(&rows)?));
            let empty = interface.empty_cache_feeds(prompts.rows)?;
            feeds.extend(named(shared_prompt::PROMPT, empty));
            if interface.padded_right {
                let first = format!("{}{PLACES}", shared_prompt::PROMPT);
                feeds.push((first, places(prompts.rows, &prompts.positions)?));
                feeds.push((PLACES.to_owned(), places(batch.rows, &batch.positions)?));
            }
            let of_row = Tensor::i64(&[batch.rows], prompts.of_row.clone())?;
            feeds.push((shared_prompt::ROWS.to_owned(), of_row));
        }
    }
    let mut add = |name: &str, tensor| feeds.push((name.to_owned(), tensor));
    add(loss::POSITIONS, Tensor::i64(&[tokens], batch.predicted_from.clone())?);
    add(loss::LABELS, Tensor::i64(&[tokens], batch.labels.clone())?);
    for (name, values) in [
        (loss::ADVANTAGES, batch.advantages.clone()),
        (loss::OLD, batch.sampled_logprobs.clone()),
        (loss::BASE, base.to_vec()),
        (loss::WEIGHTS, batch.weights.clone()),
    ] {
        add(name, Tensor::f32(&[tokens], values)?);
    }
    for (name, value) in [
        (loss::SHARPNESS, 1.0 / settings.temperature),
        (loss::LOW, 1.0 - settings.clip),
        (loss::HIGH, 1.0 + settings.clip_high),
        (loss::LIKELIHOOD, f32::from(u8::from(settings.likelihood))),
        (loss::KL, settings.kl),
    ] {
        add(name, Tensor::f32(&[], vec![value])?);
    }
    Ok(feeds)
}

/// Positions as an input of [`PLACES`].
pub(super) fn places(rows: usize, positions: &[i64]) -> Result<Tensor, TrainError> {
    Ok(Tensor::i64(&[rows, positions.len() / rows.max(1)], positions.to_vec())?)
}

fn named(prefix: &str, feeds: Vec<(&str, Tensor)>) -> Vec<(String, Tensor)> {
    feeds.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}
