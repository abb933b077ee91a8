//! `tla train`: reinforcement learning of a few numbers.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{
    CliError, Output, Verdict, files,
    names::Names,
    output::{hex, to_stderr},
    progress::Progress,
    reward_options::{self, RewardArgs, Task},
    threads::Threads,
    train_options::{FormArgs, LearnArgs, PlaceArgs},
};
use crate::{
    model::{OnnxModel, find_targets_by},
    runtime::SessionOptions,
    train::{
        TrainError,
        fit::{Event, fit},
        journal::{End, FILE_NAME, Journal, Line, Placement, Start, Step, VERSION},
        plan::{Plan, Wish},
    },
};

/// Train an adapter with reinforcement learning (GRPO) on ONNX Runtime
#[derive(Args)]
#[command(after_help = reward_options::HELP)]
pub struct Train {
    /// Model folder: model.onnx with a key-value cache, tokenizer.json, chat template
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The adapter to write
    #[arg(short, long, value_name = "A.tla")]
    out: PathBuf,
    /// Folder of the run's journal [default: OUT with .run appended]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    #[command(flatten)]
    reward: RewardArgs,
    #[command(flatten)]
    form: FormArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    learn: LearnArgs,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
}

impl Train {
    /// Runs the command.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let form = self.form.form()?;
        let effort = self.place.effort()?;
        let wish = Wish { form, site: self.place.site()?, seed: self.place.seed()?, effort };
        let recipe = self.learn.recipe(form.scalar)?;
        let threads = self.threads.count();
        let model = OnnxModel::load(&self.model)?;
        let targets = find_targets_by(&model, &self.names.naming())?;
        let Task { problems, reward, wording } = self.reward.task()?;
        let mut inputs = files::of_model(model.files(), model.folder());
        inputs.push(self.reward.data.clone());
        files::check_output(&self.out, &inputs)?;
        let folder = self.run.clone().unwrap_or_else(|| run_folder(&self.out));
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let taken = [absolute(&folder), absolute(&folder.join(FILE_NAME))];
        if taken.contains(&absolute(&self.out)) {
            return Err(CliError::Usage(format!(
                "--out is {}, which the run's journal needs. Give --run a folder of its own",
                self.out.display()
            )));
        }
        let plan = Plan::new(&model, &targets, wish)?.worded(wording.clone());
        let mut journal = Journal::create(&folder).map_err(TrainError::from)?;
        let start = Line::Start(Start {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.display().to_string(),
            base_digest: hex(&plan.base_digest),
            data: self.reward.data.display().to_string(),
            reward: reward.name(),
            prompt: wording.prompt().to_owned(),
            system: wording.system().map(str::to_owned),
            problems: problems.len() as u64,
            seed: recipe.exploration.seed,
            steps: recipe.steps as u64,
            problems_per_step: recipe.problems as u64,
            samples_per_problem: recipe.exploration.samples as u64,
            max_tokens: recipe.exploration.max_tokens as u64,
            temperature: f64::from(recipe.exploration.temperature),
            learning_rate: recipe.learning_rate,
            updates: recipe.updates as u64,
            clip: f64::from(recipe.clip),
            kl: f64::from(recipe.kl),
            survey: effort.batches as u64,
        });
        if let Err(error) = journal.write(&start) {
            journal.discard();
            return Err(TrainError::from(error).into());
        }
        let started = std::time::Instant::now();
        let mut teller = Teller::default();
        let fitted = fit(
            plan,
            &problems,
            &*reward,
            &recipe,
            SessionOptions::cpu(threads),
            &mut journal,
            &mut |event| teller.hear(event),
        );
        let end = |steps: usize, reason: String, adapter: Option<String>| {
            let seconds = started.elapsed().as_secs_f64();
            Line::End(End { steps: steps as u64, seconds, reason, adapter })
        };
        let written = fitted.map_err(CliError::from).and_then(|fitted| {
            files::write(&self.out, &fitted.bytes)?;
            Ok(fitted)
        });
        match written {
            Ok(fitted) => {
                let adapter = Some(self.out.display().to_string());
                teller.conclude();
                let line = end(recipe.steps, "finished".to_owned(), adapter);
                journal.write(&line).map_err(TrainError::from)?;
                out.report(&Report {
                    output: self.out.clone(),
                    bytes: fitted.bytes.len(),
                    params: fitted.v.len(),
                    v: fitted.v,
                    placement: fitted.placement,
                    reward_mean: teller.last.as_ref().map_or(0.0, |s| s.reward_mean),
                    train_seconds: fitted.train_seconds,
                    journal: journal.path().to_owned(),
                })?;
                Ok(Verdict::Yes)
            }
            Err(error) => {
                match &teller.last {
                    // The error that ended the run is the one to tell.
                    Some(last) => {
                        let _ = journal.write(&end(last.step as usize, error.to_string(), None));
                    }
                    None => journal.discard(),
                }
                Err(error)
            }
        }
    }
}

/// What came of a run.
#[derive(Debug, Serialize)]
struct Report {
    output: PathBuf,
    bytes: usize,
    params: usize,
    v: Vec<f32>,
    placement: Placement,
    reward_mean: f64,
    train_seconds: f64,
    journal: PathBuf,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} numbers, {} bytes", self.output.display(), self.params, self.bytes)?;
        writeln!(f, "mean reward of the last step: {:.3}", self.reward_mean)?;
        writeln!(f, "journal: {}", self.journal.display())
    }
}

fn run_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".run");
    PathBuf::from(name)
}

/// Turns events into progress lines.
#[derive(Default)]
struct Teller {
    stage: Option<(&'static str, Progress)>,
    first: Option<f64>,
    last: Option<Step>,
    largest_gap: f64,
}

/// Between the log-probability of a token when it was sampled and when it was differentiated,
/// rounding makes a difference of about 1e-5.
const SUSPICIOUS_GAP: f64 = 1e-2;

impl Teller {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Basis(done, of) => self.at("bases", done, of, ""),
            Event::Survey(done, of) => self.at("measuring the gradient", done, of, ""),
            Event::Placed(placement) => {
                self.stage = None;
                to_stderr(&placed(placement));
            }
            Event::Step(step, of) => {
                let note = format!(
                    "reward {:.3}, {:.1} tokens, {} of {} groups flat",
                    step.reward_mean,
                    step.completion_length_mean,
                    step.groups_without_variance,
                    step.groups
                );
                self.at("training", step.step as usize, of, &note);
                self.first = self.first.or(Some(step.reward_mean));
                self.largest_gap = self.largest_gap.max(step.logprob_gap);
                self.last = Some(step.clone());
            }
        }
    }

    /// Says what looks wrong about a run that is over.
    fn conclude(&mut self) {
        self.stage = None;
        let (Some(first), Some(last)) = (self.first, &self.last) else { return };
        if last.reward_mean < first / 2.0 {
            to_stderr(&format!(
                "the mean reward fell from {first:.3} to {:.3}: training collapsed. Lower \
                 --learning-rate",
                last.reward_mean
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
