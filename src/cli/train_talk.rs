//! What a run says while it goes on.

use super::{output::to_stderr, progress::Progress};
use crate::train::{
    fit::{Event, Fitted},
    journal::{Line, Placement, Restore, Step},
};

/// Turns events into progress lines.
#[derive(Default)]
pub struct Teller {
    stage: Option<(&'static str, Progress)>,
    first: Option<f64>,
    /// The last step.
    pub last: Option<Step>,
    largest_gap: f64,
    groups: u64,
    flat: u64,
}

/// Between the log-probability of a token when it was sampled and when it was differentiated,
/// rounding makes a difference of about 1e-5.
const SUSPICIOUS_GAP: f64 = 1e-2;
/// The share of groups without a gradient from which on it is worth a word.
const MANY_FLAT: f64 = 0.75;

impl Teller {
    /// Takes in what happens.
    pub fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Basis(done, of) => self.at("bases", done, of, ""),
            Event::Survey(done, of) => self.at("measuring the gradient", done, of, ""),
            Event::Placed(placement) => {
                self.stage = None;
                to_stderr(&placed(placement));
            }
            Event::Training(Line::Step(step), _, of) => {
                let note = match step.reward_mean {
                    Some(reward) => format!(
                        "reward {reward:.3}, {:.1} tokens, {} of {} groups flat",
                        step.completion_length_mean, step.groups_without_variance, step.groups
                    ),
                    None => format!("loss {:.4}", step.loss),
                };
                self.at("training", step.step as usize, of, &note);
                self.first = self.first.or(step.reward_mean);
                self.largest_gap = self.largest_gap.max(step.logprob_gap);
                self.groups += step.groups;
                self.flat += step.groups_without_variance;
                self.last = Some(step.clone());
            }
            Event::Training(Line::Restore(restore), ..) => {
                self.stage = None;
                to_stderr(&restored(restore));
            }
            Event::Training(Line::Warning(warning), ..) => {
                self.stage = None;
                to_stderr(&warning.text);
            }
            Event::Training(..) => {}
            Event::NotCompared(error) => {
                self.stage = None;
                to_stderr(&format!("no answers of before and after: {error}"));
            }
        }
    }

    /// Says what looks wrong about a run that is over.
    pub fn conclude(&mut self, fitted: &Fitted) {
        self.stage = None;
        let last = self.last.as_ref().and_then(|step| step.reward_mean);
        if let Some((first, last)) =
            self.first.zip(last).filter(|(first, last)| *last < first / 2.0)
        {
            to_stderr(&format!(
                "the mean reward fell from {first:.3} to {last:.3}: training collapsed. Lower \
                 --learning-rate"
            ));
        }
        if fitted.shipped_step < fitted.steps {
            to_stderr(&format!(
                "the average ended below its best: what ships is v as it was after step {} of {}",
                fitted.shipped_step, fitted.steps
            ));
        }
        if fitted.v.iter().all(|v| *v == 0.0) {
            to_stderr(
                "all numbers are 0, so the adapter changes nothing. Lower --learning-rate, or raise \
                 --steps",
            );
        }
        if self.groups > 0 && self.flat as f64 > MANY_FLAT * self.groups as f64 {
            to_stderr(&format!(
                "in {} of {} groups all answers were worth the same, and nothing is learned from \
                 those. Raise --samples or --temperature, or choose problems the model solves now \
                 and then",
                self.flat, self.groups
            ));
        }
        if self.largest_gap > SUSPICIOUS_GAP {
            to_stderr(&format!(
                "the same token's log-probability differed by up to {:.1e} between sampling and \
                 differentiating: this model's cached and uncached runs disagree. Do not trust \
                 the run",
                self.largest_gap
            ));
        }
    }

    fn at(&mut self, stage: &'static str, done: usize, of: usize, note: &str) {
        if self.stage.as_ref().is_none_or(|(name, _)| *name != stage) {
            self.stage = Some((stage, Progress::new(stage, of)));
        }
        if let Some((_, progress)) = &mut self.stage {
            progress.at(done, note);
        }
    }
}

fn restored(restore: &Restore) -> String {
    format!(
        "the average fell from {:.3} to {:.3} by step {}: v is again as before step {}, with {} of \
         the learning rate",
        restore.best_average,
        restore.average,
        restore.step,
        restore.best_step,
        restore.learning_rate_factor
    )
}

fn placed(placement: &Placement) -> String {
    let mut text = format!(
        "placed {} numbers on {} in {} modules, seed {}",
        placement.parameters,
        placement.roles.join(","),
        placement.modules,
        placement.seed
    );
    if placement.layers > 0 {
        let last = placement.first_layer + placement.layers - 1;
        text += &format!(", layers {} to {last}", placement.first_layer);
    }
    if let Some(share) = placement.energy_share {
        text += &format!("; they hold {:.0} % of the gradient's energy", 100.0 * share);
    }
    if let Some(captured) = placement.captured {
        text +=
            &format!("; the directions capture {:.1} % of theirs as measured", 100.0 * captured);
    }
    if let Some(snr) = placement.snr {
        text += &format!("; signal to noise {snr:.1}");
        if snr < 1.0 {
            text += " (low: raise --survey)";
        }
    }
    text
}
