//! `tla eval`: accuracy with an interval, and the comparison of adapters with the base.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    CliError, Output, Verdict,
    device::Device,
    eval_adapters::{Group, Read, belonging, groups},
    eval_report::{Answers, Asked, Comparison, lines},
    files,
    interrupt::Interrupts,
    names::Names,
    output::hex,
    progress::Progress,
    reward_options::{RewardArgs, Task},
    side_files,
    threads::Threads,
};
use crate::{
    eval::{
        answers::{Answered, Exam, Pace, Sampling, answer_greedily, sample},
        pass_at::PassAt,
        report::{EvalReport, ReportError},
    },
    format::Split,
    model::{OnnxModel, find_targets_by},
    policy::mixed::Mixed,
    runtime::ready,
    train::{
        TrainError,
        plan::voice_of,
        room::{self, Longest},
        student::{Frozen, Student},
    },
};

/// The most answers that are sampled to a problem.
const MOST_SAMPLES: usize = 1 << 16;

/// Measure accuracy, with --adapter against the base on the same problems
#[derive(Args)]
#[command(
    after_help = "Every problem is answered greedily, and with --samples by sampling too. An answer is right if its reward \
is 1 or more. \"flexible\" counts the last number of an answer whatever its form, to tell a wrong \
answer from a right one in the wrong dress; nothing is trained on it. Adapters are compared with \
the base each by itself: the more there are, the likelier one looks better by chance.\n\n\
A grafted model answers with the values it defaults to, and takes no --adapter."
)]
pub struct Eval {
    /// Model folder: model.onnx with a key-value cache, tokenizer.json, chat template
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    reward: RewardArgs,
    /// Evaluate this adapter, live, and compare it with the base. May be given several times: they
    /// share batches, each row with its own adapter
    #[arg(long, value_name = "A.tla")]
    adapter: Vec<PathBuf>,
    /// Write every answer, those sampled included, one JSON object a problem and line
    #[arg(long, value_name = "JSONL")]
    answers: Option<PathBuf>,
    /// Only the first N problems
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest answer, in tokens; a longer one is cut and counts as wrong
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Answers written at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    batch: usize,
    /// Problems to show whose answers by base and adapter differ in being right
    #[arg(long, value_name = "N", default_value_t = 3)]
    show: usize,
    /// Sample N answers to each problem too, for pass@k
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    samples: Option<usize>,
    /// The k of pass@k, none above --samples
    #[arg(
        long,
        value_name = "K,…",
        value_delimiter = ',',
        default_value = "1",
        help_heading = "Sampling"
    )]
    pass_at: Vec<u64>,
    /// Sampling temperature
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1.0,
        requires = "samples",
        help_heading = "Sampling"
    )]
    temperature: f32,
    /// Seed of the samples
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 0,
        requires = "samples",
        help_heading = "Sampling"
    )]
    eval_seed: u64,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    device: Device,
}

/// What one policy came to.
struct Outcome {
    answers: Vec<Answered>,
    /// Problem by problem.
    sampled: Vec<Vec<Answered>>,
    pass_at: Vec<PassAt>,
}

impl Outcome {
    fn written(&self) -> Answers<'_> {
        Answers { greedy: &self.answers, sampled: &self.sampled }
    }
}

impl Eval {
    /// Runs the command.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        self.threads.install(|| self.eval(out))?
    }

    fn eval(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let threads = self.threads.count();
        let options = self.device.sessions(threads)?;
        let sampling = self.sampling()?;
        let model = OnnxModel::load(&self.model)?;
        let _interrupts = Interrupts::listen()?;
        let Task { mut problems, keys, reward, wording, digest } = self.reward.task()?;
        problems.truncate(self.limit.unwrap_or(usize::MAX));
        let mut inputs = side_files::of_model(model.files(), &model.home());
        inputs.push(self.reward.data.clone());
        inputs.extend(self.adapter.iter().cloned());
        if let Some(path) = &self.answers {
            files::check_output(path, &inputs)?;
            files::probe(path)?;
        }
        let mut asked = Asked {
            data: hex(&digest),
            reward: reward.name(),
            prompt: wording.prompt().to_owned(),
            system: wording.system().map(str::to_owned),
            max_tokens: self.max_tokens,
            base_digest: None,
        };
        let targets = find_targets_by(&model, &self.names.naming())?;
        let mut voice = voice_of(&model)?.worded(wording);
        room::check(&voice, &problems, Longest::Written(self.max_tokens))?;
        let read = self
            .adapter
            .iter()
            .map(|path| belonging(path, &model, &targets, out))
            .collect::<Result<Vec<Read>, CliError>>()?;
        let bound = read.iter().map(|read| &read.header).find(|header| header.is_bound());
        asked.base_digest = bound.map(|header| hex(&header.base_digest));
        ready(options.provider).map_err(TrainError::from)?;
        let pace = Pace { rows: self.batch, max_tokens: self.max_tokens };
        let exam = Exam { problems: &problems, reward: &*reward, pace };

        let mut base = None;
        let mut adapted: Vec<Option<Outcome>> = read.iter().map(|_| None).collect();
        let load = |voice, frozen: &[Frozen], split| {
            Student::load(voice, &model, &targets, frozen, split, None, options)
        };
        if read.is_empty() {
            let mut student = load(voice, &[], Split::Paper)?;
            base = self.outcomes(&mut student, None, exam, sampling)?.pop();
        } else {
            for Group { members, frozen, split, mut mixed } in
                groups(&read, &model, &targets, threads)?
            {
                if base.is_none() {
                    mixed.push_base();
                }
                let mut student = load(voice, &frozen, split)?;
                let mut found = self.outcomes(&mut student, Some(&mixed), exam, sampling)?;
                if base.is_none() {
                    base = found.pop();
                }
                for (member, outcome) in members.into_iter().zip(found) {
                    adapted[member] = Some(outcome);
                }
                voice = student.voice;
            }
        }

        let base = base.ok_or(ReportError::Empty)?;
        let adapters: Vec<(&PathBuf, Outcome)> =
            self.adapter.iter().zip(adapted.into_iter().flatten()).collect();
        if let Some(path) = &self.answers {
            let of: Vec<(&Path, Answers<'_>)> =
                adapters.iter().map(|(path, o)| (path.as_path(), o.written())).collect();
            files::write(path, lines(&problems, &keys, base.written(), &of).as_bytes())?;
        }
        let mut comparison = Comparison::new(asked, report(&base, None)?);
        for ((path, outcome), read) in adapters.iter().zip(&read) {
            let checksum = Some(hex(&read.checksum));
            let report = EvalReport { checksum, ..report(outcome, Some(&base.answers))? };
            comparison.push(path, report);
            let answers = (&base.answers[..], &outcome.answers[..]);
            comparison.show(path, (&problems, &keys), answers, self.show);
        }
        out.report(&comparison)?;
        Ok(Verdict::Yes)
    }

    /// How answers are sampled, if they are, once all numbers are in range.
    fn sampling(&self) -> Result<Option<Sampling>, CliError> {
        let wrong = |text: String| Err(CliError::Usage(text));
        for (name, value) in [
            ("limit", self.limit.unwrap_or(1)),
            ("max-tokens", self.max_tokens),
            ("batch", self.batch),
            ("samples", self.samples.unwrap_or(1)),
        ] {
            if value == 0 {
                return wrong(format!("--{name} is 0. Give a number above 0"));
            }
        }
        let Some(samples) = self.samples else { return Ok(None) };
        if samples > MOST_SAMPLES {
            return wrong(format!("--samples is {samples}. Give at most {MOST_SAMPLES}"));
        }
        if let Some(k) = self.pass_at.iter().find(|k| **k == 0 || **k > samples as u64) {
            return wrong(format!(
                "pass@{k} cannot be told from {samples} samples. Give --pass-at from 1 to --samples"
            ));
        }
        let temperature = self.temperature;
        if !(temperature.is_finite() && temperature > 0.0) {
            return wrong(format!("--temperature is {temperature}. Give a number above 0"));
        }
        Ok(Some(Sampling { samples, temperature, seed: self.eval_seed }))
    }

    /// The outcomes of the policies in `mixed`, in their order, or of the model alone.
    fn outcomes(
        &self,
        student: &mut Student,
        mixed: Option<&Mixed>,
        exam: Exam<'_>,
        sampling: Option<Sampling>,
    ) -> Result<Vec<Outcome>, CliError> {
        let policies = mixed.map_or(1, Mixed::len);
        let mut progress = Progress::new("answers", policies * exam.problems.len());
        let greedy = answer_greedily(student, mixed, exam, &mut |done| progress.at(done, ""))?;
        let mut outcomes: Vec<Outcome> = greedy
            .into_iter()
            .map(|answers| Outcome { answers, sampled: Vec::new(), pass_at: Vec::new() })
            .collect();
        if let Some(sampling) = sampling {
            let mut progress = Progress::new("samples", policies * exam.problems.len());
            let mut watch = |done| progress.at(done, "");
            let sampled = sample(student, mixed, exam, sampling, &mut watch)?;
            let n = sampling.samples as u64;
            for (outcome, sampled) in outcomes.iter_mut().zip(sampled) {
                let right_of = |of: &Vec<Answered>| of.iter().filter(|a| a.correct).count() as u64;
                let right: Vec<u64> = sampled.iter().map(right_of).collect();
                outcome.sampled = sampled;
                outcome.pass_at =
                    self.pass_at.iter().filter_map(|k| PassAt::of(&right, n, *k)).collect();
            }
        }
        Ok(outcomes)
    }
}

fn report(outcome: &Outcome, base: Option<&[Answered]>) -> Result<EvalReport, CliError> {
    let report = EvalReport::of(&outcome.answers, base)?;
    Ok(EvalReport { pass_at: outcome.pass_at.clone(), ..report })
}
