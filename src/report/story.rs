//! What a journal tells, told once: a run that was resumed has every step a single time.

use serde::Serialize;

use super::metric::phases;
use crate::train::journal::{
    Answers, End, Line, Placement, Record, Restore, Samples, Start, Step, Warning,
};

/// A run from its start line to where the journal ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// What was trained on what.
    pub start: Start,
    /// Where the update lives; absent if the run ended before.
    pub placement: Option<Placement>,
    /// The steps, by rising number.
    pub steps: Vec<Step>,
    /// The steps after which it was resumed.
    pub resumes: Vec<u64>,
    /// When it fell back to its best state.
    pub restores: Vec<Restore>,
    /// What its user was to see to.
    pub warnings: Vec<Warning>,
    /// Answers that were sampled on the way.
    pub samples: Vec<Samples>,
    /// The same questions answered before and after.
    pub answers: Option<Answers>,
    /// How it ended; absent while it goes on, or if it was killed.
    pub end: Option<End>,
    /// Whether the journal's last line was cut short.
    pub torn: bool,
}

/// The journal says nothing of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal has no start line, so it tells of no run. Give the folder of a run of `tla train`"
)]
pub struct NoRun;

impl Story {
    /// What `record` tells.
    ///
    /// # Errors
    /// [`NoRun`] if it does not begin with a start line.
    pub fn of(record: &Record) -> Result<Self, NoRun> {
        let Some((Line::Start(start), lines)) = record.lines.split_first() else {
            return Err(NoRun);
        };
        let mut told = Self {
            start: start.clone(),
            placement: None,
            steps: Vec::new(),
            resumes: Vec::new(),
            restores: Vec::new(),
            warnings: Vec::new(),
            samples: Vec::new(),
            answers: None,
            end: None,
            torn: record.torn,
        };
        for line in lines {
            told.hear(line);
        }
        Ok(told)
    }

    fn hear(&mut self, line: &Line) {
        match line {
            Line::Start(start) => self.start = start.clone(),
            Line::Resume(resume) => {
                // What came after the saved state is done again.
                self.steps.retain(|step| step.step <= resume.step);
                self.start.steps = resume.steps;
                self.resumes.push(resume.step);
                self.end = None;
            }
            Line::Placement(placement) => self.placement = Some(placement.clone()),
            Line::Step(step) => self.steps.push(step.clone()),
            Line::Samples(samples) => self.samples.push(samples.clone()),
            Line::Warning(warning) => self.warnings.push(warning.clone()),
            Line::Restore(restore) => self.restores.push(restore.clone()),
            Line::Answers(answers) => self.answers = Some(answers.clone()),
            Line::End(end) => self.end = Some(end.clone()),
        }
    }

    /// Step and mean reward of the first step with the highest reward.
    pub fn best(&self) -> Option<At> {
        let mut rewards = self.steps.iter().filter_map(At::of);
        let first = rewards.next()?;
        Some(rewards.fold(first, |best, at| if at.reward > best.reward { at } else { best }))
    }

    /// Seconds of all steps by phase.
    pub fn phases(&self) -> Vec<(&'static str, f64)> {
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        for (phase, seconds) in self.steps.iter().flat_map(phases) {
            match sums.iter_mut().find(|(name, _)| *name == phase) {
                Some((_, sum)) => *sum += seconds,
                None => sums.push((phase, seconds)),
            }
        }
        sums
    }

    /// Share of the groups that had no variance; `None` before the first step.
    pub fn flat_share(&self) -> Option<f64> {
        let groups: u64 = self.steps.iter().map(|step| step.groups).sum();
        let flat: u64 = self.steps.iter().map(|step| step.groups_without_variance).sum();
        (groups > 0).then(|| flat as f64 / groups as f64)
    }

    /// The run in a few numbers.
    pub fn summary(&self) -> Summary {
        Summary {
            state: match &self.end {
                None => "unfinished",
                Some(end) if end.reason == "finished" => "finished",
                Some(_) => "ended",
            },
            reason: self.end.as_ref().map(|end| end.reason.clone()),
            steps: self.steps.len() as u64,
            steps_planned: self.start.steps,
            parameters: self.placement.as_ref().map(|placement| placement.parameters),
            first: self.steps.first().and_then(At::of),
            best: self.best(),
            last: self.steps.last().and_then(At::of),
            groups_without_variance_share: self.flat_share(),
            tokens: self.steps.iter().map(|step| step.tokens).sum(),
            seconds: self.steps.iter().map(|step| step.seconds).sum(),
            seconds_by_phase: self
                .phases()
                .into_iter()
                .map(|(n, s)| (n.to_owned(), s.into()))
                .collect(),
            restores: self.restores.len() as u64,
            torn: self.torn,
        }
    }
}

/// A run in a few numbers: what `tla report --json` prints, with the report's path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `finished`, `ended` before that (`reason` says why) or `unfinished`: it goes on, or was killed.
    pub state: &'static str,
    /// Why it ended.
    pub reason: Option<String>,
    /// Steps done.
    pub steps: u64,
    /// Steps planned.
    pub steps_planned: u64,
    /// Numbers trained.
    pub parameters: Option<u64>,
    /// The first step.
    pub first: Option<At>,
    /// The first step with the highest reward.
    pub best: Option<At>,
    /// The last step.
    pub last: Option<At>,
    /// Share of the groups whose answers were all worth the same.
    pub groups_without_variance_share: Option<f64>,
    /// Tokens sampled.
    pub tokens: u64,
    /// Wall clock time of the steps.
    pub seconds: f64,
    /// The same by phase.
    pub seconds_by_phase: serde_json::Map<String, serde_json::Value>,
    /// How often it fell back to its best state.
    pub restores: u64,
    /// Whether the journal's last line was cut short.
    pub torn: bool,
}

/// The mean reward at a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct At {
    /// Number of the step.
    pub step: u64,
    /// Mean reward of its answers.
    pub reward: f64,
}

impl At {
    fn of(step: &Step) -> Option<Self> {
        Some(Self { step: step.step, reward: step.reward_mean? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::example, train::journal::Resume};

    fn story(lines: Vec<Line>) -> Result<Story, NoRun> {
        Story::of(&Record { lines, torn: false, whole_bytes: 0 })
    }

    #[test]
    fn the_summary_has_the_numbers_of_the_steps() {
        let found = story(example::lines(4)).unwrap().summary();
        let rewards = [1, 2, 3, 4].map(|number| example::step(number).reward_mean.unwrap());
        let best = rewards.iter().copied().fold(0.0, f64::max);
        assert_eq!((found.state, found.steps, found.steps_planned), ("finished", 4, 60));
        assert_eq!(found.first, Some(At { step: 1, reward: rewards[0] }));
        assert_eq!(found.last, Some(At { step: 4, reward: rewards[3] }));
        assert_eq!(found.best.map(|at| at.reward), Some(best));
        assert_eq!((found.groups_without_variance_share, found.restores), (Some(0.25), 1));
        let phases: f64 = found.seconds_by_phase.values().filter_map(|v| v.as_f64()).sum();
        assert!((phases - found.seconds).abs() < 1e-9, "{phases} of {}", found.seconds);
    }

    #[test]
    fn a_resumed_run_has_every_step_once_as_last_done_and_its_new_plan() {
        let mut lines = example::lines(5);
        let again = Step { reward_mean: Some(0.99), ..example::step(4) };
        lines.push(Line::Resume(Resume { step: 3, steps: 90, program: "0.1.0".into() }));
        lines.push(Line::Step(again.clone()));
        let found = story(lines).unwrap();
        assert_eq!(found.steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((&found.steps[3], &found.resumes), (&again, &vec![3]));
        let summary = found.summary();
        assert_eq!((summary.state, summary.steps_planned), ("unfinished", 90));
    }

    #[test]
    fn a_journal_without_a_start_tells_of_no_run() {
        assert_eq!(story(vec![Line::Step(example::step(1))]), Err(NoRun));
        let only = story(vec![example::start()]).unwrap();
        assert_eq!((only.best(), only.flat_share(), only.phases()), (None, None, Vec::new()));
    }
}
