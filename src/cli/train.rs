//! `tla train`: reinforcement learning of a few numbers.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{
    CliError, Output, Verdict,
    device::Device,
    files,
    interrupt::Interrupts,
    learn_options::LearnArgs,
    names::Names,
    output::hex,
    reward_options::{self, RewardArgs, Task},
    run_report::{REPORT, Reporter},
    side_files,
    threads::Threads,
    train_options::{FormArgs, PlaceArgs},
    train_settings::{of_files, of_options, of_task},
    train_talk::Teller,
};
use crate::{
    model::{OnnxModel, find_targets_by},
    report::tensorboard::FOLDER as EVENTS,
    runtime::{Provider, ready},
    train::{
        TrainError,
        fit::fit,
        folder::RunFolder,
        journal::{End, FILE_NAME, Line, Placement, Resume, Start, VERSION},
        plan::{Plan, Wish},
        recipe::{Objective, Recipe},
        room::Longest,
        state::{NEXT, STATE},
    },
};

/// Train an adapter with reinforcement learning (GRPO) on ONNX Runtime
///
/// The defaults suit a small model and short answers. For real models the paper (arXiv 2602.04118)
/// took, on GSM8K: --kl 0, --samples 4, batches of 64, 3 passes over the problems; on MATH: --kl 0.001,
/// --temperature 1, --samples 8, --max-tokens 3072, batches of 256; learning rates swept over 1e-7 to
/// 2e-4 for a projection whose scale it does not state, so sweep --learning-rate anew. SFT gained
/// less there at the same size.
///
/// After every step the run folder holds the state that --resume goes on from, to the same bits on a
/// CPU as if the run had not been stopped. Ctrl-C or SIGTERM ends the run after the present step,
/// with exit status 130; the second one at once. A resumed run needs the same model, data and
/// options, but for --steps, --patience, --target-reward, --sample-every, --threads, --rollout-batch
/// and --micro-tokens, the last of which moves the last bits; a --decay goes by the --steps of the moment.
#[derive(Args)]
#[command(after_help = reward_options::HELP)]
pub struct Train {
    /// Model folder: model.onnx with a key-value cache, tokenizer.json, chat template
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The adapter to write
    #[arg(short, long, value_name = "A.tla")]
    out: PathBuf,
    /// Folder of the run's journal and state [default: OUT with .run appended]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Go on with the run in that folder, or begin it if there is none
    #[arg(long)]
    resume: bool,
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
    #[command(flatten)]
    device: Device,
}

impl Train {
    /// Runs the command.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        self.threads.install(|| self.train(out))?
    }

    fn train(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let form = self.form.form()?;
        let effort = self.place.effort()?;
        let wish = Wish {
            form,
            site: self.place.site()?,
            seed: self.place.seed(form.projection)?,
            effort,
        };
        self.learn.check()?;
        self.learn.doubts().iter().for_each(|doubt| out.say(doubt));
        let threads = self.threads.count();
        let sessions = self.device.sessions(threads)?;
        let provider = sessions.provider;
        let model = OnnxModel::load(&self.model)?;
        let targets = find_targets_by(&model, &self.names.naming())?;
        let interrupts = Interrupts::listen()?;
        let task = self.reward.task()?;
        let asked = of_task(&self.reward, &task);
        let Task { problems, reward, wording, .. } = task;
        let mut inputs = side_files::of_model(model.files(), &model.home());
        inputs.push(self.reward.data.clone());
        files::check_output(&self.out, &inputs)?;
        files::probe(&self.out)?;
        let folder = self.run.clone().unwrap_or_else(|| run_folder(&self.out));
        if is_needed(&self.out, &folder) {
            return Err(CliError::Usage(format!(
                "--out is {}, which the run's folder needs. Give --run a folder of its own",
                self.out.display()
            )));
        }
        if provider != Provider::Cpu {
            // Before the model is measured, which takes its time.
            ready(provider).map_err(TrainError::from)?;
        }
        let plan = Plan::new(&model, &targets, wish)?.worded(wording.clone());
        let recipe = self.learn.recipe(form.scalar, plan.vocabulary());
        plan.check_room(
            &problems,
            match recipe.objective {
                Objective::Grpo => Longest::Written(recipe.exploration.max_tokens),
                Objective::Sft => Longest::Given,
            },
        )?;
        let mut reporter = Reporter::new(&folder);
        let mut settings = of_options(&wish, &recipe);
        settings.extend([("provider".to_owned(), provider.name().to_owned())]);
        settings.extend([("--pack-weights".to_owned(), sessions.packed.to_string())]);
        settings.extend(asked);
        settings.extend(of_files(&model, &self.names, &side_files::SIDE_FILES, &plan.base_digest)?);
        let mut folder = match self.resume {
            true => RunFolder::resume(&folder, settings.clone()),
            false => RunFolder::begin(&folder, settings.clone()),
        }
        .map_err(TrainError::from)?;
        let resumed = !folder.is_new();
        let before = folder.progress().map_or(0, |progress| progress.step);
        if resumed {
            out.say(format!("going on after step {before} of {}", recipe.steps));
        } else if self.resume {
            out.say("no run to go on with: it begins");
        }
        let first = match resumed {
            true => Line::Resume(Resume {
                step: before,
                steps: recipe.steps as u64,
                program: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            false => Line::Start(Start {
                model: self.model.display().to_string(),
                base_digest: hex(&plan.base_digest),
                data: self.reward.data.display().to_string(),
                reward: reward.name(),
                prompt: wording.prompt().to_owned(),
                system: wording.system().map(str::to_owned),
                problems: problems.len() as u64,
                survey: effort.batches as u64,
                layout: plan.layout.name().to_owned(),
                settings,
                ..start(&recipe)
            }),
        };
        let stop = interrupts.between_steps()?;
        let started = std::time::Instant::now();
        let mut teller = Teller::new(recipe.exploration.max_tokens);
        let fitted = folder.write(&first).map_err(TrainError::from).and_then(|()| {
            fit(plan, &problems, &*reward, &recipe, sessions, &mut folder, &stop, &mut |event| {
                reporter.hear(event);
                teller.hear(event);
            })
        });
        let end = |steps: u64, reason: String| {
            let seconds = started.elapsed().as_secs_f64();
            End { steps, seconds, reason, adapter: None, shipped_step: None }
        };
        let written = fitted.map_err(CliError::from).and_then(|fitted| {
            files::write(&self.out, &fitted.bytes)?;
            Ok(fitted)
        });
        match written {
            Ok(fitted) => {
                teller.conclude(&fitted);
                let line = Line::End(End {
                    adapter: Some(self.out.display().to_string()),
                    shipped_step: Some(fitted.shipped_step),
                    ..end(fitted.steps, fitted.ending.name().to_owned())
                });
                folder.write(&line).map_err(TrainError::from)?;
                reporter.conclude(Some(&self.out));
                let last = teller.last.as_ref();
                out.report(&Report {
                    output: self.out.clone(),
                    bytes: fitted.bytes.len(),
                    params: fitted.v.len(),
                    v: fitted.v,
                    placement: fitted.placement,
                    steps: fitted.steps,
                    shipped_step: fitted.shipped_step,
                    ending: fitted.ending.name(),
                    reward_mean: last.and_then(|step| step.reward_mean),
                    loss: last.map(|step| step.loss),
                    train_seconds: fitted.train_seconds,
                    journal: folder.journal().to_owned(),
                })?;
                Ok(Verdict::Yes)
            }
            Err(error) => {
                let interrupted = matches!(error, CliError::Train(TrainError::Interrupted { .. }));
                let steps = folder.progress().map_or(0, |progress| progress.step);
                // A gradient that was measured is worth keeping.
                let measured = folder.placement().is_some_and(|placed| placed.snr.is_some());
                if resumed || steps > 0 || interrupted || measured {
                    let reason = if interrupted { "interrupted".into() } else { error.to_string() };
                    // The error that ended the run is the one to tell.
                    let _ = folder.write(&Line::End(end(steps, reason)));
                    reporter.conclude(None);
                } else {
                    folder.discard();
                }
                Err(error)
            }
        }
    }
}

/// Whether `out` is the run's folder or what a run writes into it.
fn is_needed(out: &Path, folder: &Path) -> bool {
    let out = settled(out);
    let Ok(inside) = out.strip_prefix(settled(folder)) else { return false };
    let first = inside.components().next().map(|name| name.as_os_str());
    first.is_none_or(|first| {
        [FILE_NAME, STATE, NEXT, REPORT, EVENTS].iter().any(|name| first == *name)
    })
}

/// Where a path leads, as far as it exists.
fn settled(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let parts = absolute.parent().zip(absolute.file_name());
    match absolute.canonicalize() {
        Ok(there) => there,
        Err(_) => parts.map_or(absolute.clone(), |(parent, name)| settled(parent).join(name)),
    }
}

/// The part of the first line that the recipe knows.
fn start(recipe: &Recipe) -> Start {
    let sampled = recipe.objective == Objective::Grpo;
    Start {
        version: VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        objective: recipe.objective.name().to_owned(),
        seed: recipe.exploration.seed,
        steps: recipe.steps as u64,
        problems_per_step: recipe.problems as u64,
        samples_per_problem: if sampled { recipe.exploration.samples as u64 } else { 1 },
        max_tokens: recipe.exploration.max_tokens as u64,
        temperature: f64::from(recipe.exploration.temperature),
        learning_rate: recipe.schedule.peak,
        updates: recipe.updates as u64,
        clip: f64::from(recipe.clip),
        kl: f64::from(recipe.kl),
        micro_tokens: recipe.micro_tokens as u64,
        ..Start::default()
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
    steps: u64,
    shipped_step: u64,
    ending: &'static str,
    /// Of the last step of this process; absent under SFT, or if none was left to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reward_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    train_seconds: f64,
    journal: PathBuf,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} numbers, {} bytes", self.output.display(), self.params, self.bytes)?;
        match (self.reward_mean, self.loss) {
            (Some(reward), _) => writeln!(f, "mean reward of the last step: {reward:.3}")?,
            (None, Some(loss)) => writeln!(f, "loss of the last step: {loss:.4}")?,
            (None, None) => {}
        }
        writeln!(f, "journal: {}", self.journal.display())
    }
}

fn run_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".run");
    PathBuf::from(name)
}
