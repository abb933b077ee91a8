//! What a run says while it goes on.

use super::{output::to_stderr, progress::Progress};
use crate::train::{
    cut::Cut,
    fit::{Event, Fitted},
    journal::{Line, Placement, Restore, Step},
};

/// Turns events into progress lines.
pub struct Teller {
    max_tokens: usize,
    stage: Option<(&'static str, Progress)>,
    first: Option<f64>,
    /// The last step.
    pub last: Option<Step>,
    largest_gap: f64,
    groups: u64,
    flat: u64,
    /// Steps whose answers were sampled, and the shares of those that were cut, added up.
    sampled: u64,
    cut: f64,
}

/// Between the log-probability of a token when it was sampled and when it was differentiated,
/// rounding makes a difference of about 1e-5.
const SUSPICIOUS_GAP: f64 = 1e-2;
/// The share of groups without a gradient from which on it is worth a word.
const MANY_FLAT: f64 = 0.75;

impl Teller {
    /// Of a run whose answers may have `max_tokens` tokens.
    pub fn new(max_tokens: usize) -> Self {
        Self {
            max_tokens,
            stage: None,
            first: None,
            last: None,
            largest_gap: 0.0,
            groups: 0,
            flat: 0,
            sampled: 0,
            cut: 0.0,
        }
    }

    /// Takes in what happens.
    pub fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Basis(done, of) => self.at("bases", done, of, ""),
            Event::Survey(done, of) => self.at("measuring the gradient", done, of, ""),
            Event::Placed(placement) => {
                self.stage = None;
                to_stderr(&placed(placement));
                if let Some(text) = too_many(placement) {
                    to_stderr(&text);
                }
            }
            Event::Training(Line::Step(step), _, of) => {
                self.at("training", step.step as usize, of, &noted(step));
                self.first = self.first.or(step.reward_mean);
                self.largest_gap = self.largest_gap.max(step.logprob_gap);
                self.groups += step.groups;
                self.flat += step.groups_without_variance;
                self.sampled += u64::from(step.cut_share.is_some());
                self.cut += step.cut_share.unwrap_or_default();
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
        let share = self.cut / self.sampled.max(1) as f64;
        let cut = Cut { share, max_tokens: self.max_tokens };
        if self.groups > 0 && self.flat as f64 > MANY_FLAT * self.groups as f64 {
            to_stderr(&format!(
                "{cut}in {} of {} groups all answers were worth the same, and nothing is learned from \
                 those. Raise --samples or --temperature, or choose problems the model solves now \
                 and then",
                self.flat, self.groups
            ));
        } else if cut.is_most() {
            to_stderr(cut.to_string().trim_end_matches("; "));
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

fn noted(step: &Step) -> String {
    let Some(reward) = step.reward_mean else { return format!("loss {:.4}", step.loss) };
    let mut note = format!(
        "reward {reward:.3}, {:.1} tokens, {} of {} groups flat",
        step.completion_length_mean, step.groups_without_variance, step.groups
    );
    if let Some(cut) = step.cut_share.filter(|cut| *cut > 0.0) {
        note += &format!(", {:.0} % cut", 100.0 * cut);
    }
    note
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

/// What to say of more numbers than there are entries of R that they move.
fn too_many(placement: &Placement) -> Option<String> {
    let Placement { parameters, modules, rank, .. } = placement;
    let entries = modules.saturating_mul(u64::from(*rank) * u64::from(*rank));
    (*parameters > entries).then(|| {
        format!(
            "{parameters} numbers move only the {entries} entries of R in {modules} modules of rank \
             {rank}, so {} of them do nothing of their own. Train {entries} at most, or choose more \
             --roles or a larger --rank",
            parameters - entries
        )
    })
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
    if let Some(snr) = placement.snr.filter(|_| placement.is_uncertain()) {
        return text
            + &format!(
                "; signal to noise {snr:.2}: the survey is mostly noise and tells little about where the \
                 gradient is. Raise --survey or --problems"
            );
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
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(snr: f64) -> Placement {
        Placement {
            roles: vec!["down".to_owned()],
            first_layer: 0,
            layers: 0,
            modules: 4,
            rank: 2,
            width: 13,
            groups: 1,
            parameters: 13,
            seed: 7,
            seeds_searched: Some(64),
            energy_share: Some(1.0),
            captured: Some(0.972),
            snr: Some(snr),
        }
    }

    #[test]
    fn shares_of_a_gradient_that_is_mostly_noise_are_not_told() {
        let sure = placed(&placement(12.0));
        assert!(sure.contains("hold 100 % of") && sure.contains("97.2 %"), "{sure}");
        let unsure = placed(&placement(0.061));
        assert!(!unsure.contains('%') && unsure.contains("signal to noise 0.06"), "{unsure}");
        assert!(unsure.contains("tells little") && unsure.contains("Raise --survey"), "{unsure}");
    }

    #[test]
    fn more_numbers_than_entries_of_r_are_told_of() {
        assert_eq!(too_many(&placement(1.0)), None);
        let wide = Placement { width: 2000, parameters: 2000, ..placement(1.0) };
        let told = too_many(&wide).unwrap();
        assert!(told.starts_with("2000 numbers move only the 16 entries"), "{told}");
    }

    #[test]
    fn a_step_whose_answers_were_cut_says_what_share() {
        let step = Step { reward_mean: Some(0.25), cut_share: Some(0.5), ..Step::default() };
        assert!(noted(&step).ends_with("flat, 50 % cut"), "{}", noted(&step));
        let whole = Step { cut_share: Some(0.0), ..step };
        assert!(noted(&whole).ends_with("flat"), "{}", noted(&whole));
    }
}
