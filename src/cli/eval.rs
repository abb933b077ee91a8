//! `tla eval`: accuracy with an interval, and the comparison with the base.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{
    CliError, Output, Verdict, device::Device, files, names::Names, progress::Progress,
    threads::Threads,
};
use crate::{
    eval::{
        answers::{Answered, Pace, answer_all},
        report::EvalReport,
    },
    format::{Adapter, Header, Split},
    model::{OnnxModel, Targets, base_digest, find_targets_by},
    policy::live::Live,
    projection::{Geometry, select},
    runtime::{SessionOptions, Tensor, ready},
    surgery::{SurgeryError, refuse_grafted},
    train::{
        TrainError,
        data::{Problem, read_problems},
        fit::rebuilt_digest,
        plan::voice_of,
        student::{Frozen, Student, freeze},
    },
};

/// Measure greedy accuracy, with --adapter against the base on the same problems
#[derive(Args)]
#[command(
    after_help = "A grafted model answers with the values it defaults to, and takes no --adapter."
)]
pub struct Eval {
    /// Model folder: model.onnx with a key-value cache, tokenizer.json, chat template
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Problems, one JSON object a line: "question", and "answer" ending in "#### N"
    #[arg(long, value_name = "JSONL")]
    data: PathBuf,
    /// Evaluate this adapter, live, and compare it with the base
    #[arg(long, value_name = "A.tla")]
    adapter: Option<PathBuf>,
    /// Write every answer, one JSON object a line
    #[arg(long, value_name = "JSONL")]
    answers: Option<PathBuf>,
    /// Only the first N problems
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest answer, in tokens; a longer one is cut and counts as wrong
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Problems answered at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    batch: usize,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    device: Device,
}

/// An adapter that was checked against the model it is to run on.
struct Checked {
    live: Live,
    v: Vec<f32>,
    frozen: Vec<Frozen>,
    split: Split,
}

impl Eval {
    /// Runs the command.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        let threads = self.threads.count();
        let provider = self.device.provider()?;
        for (name, value) in [
            ("limit", self.limit.unwrap_or(1)),
            ("max-tokens", self.max_tokens),
            ("batch", self.batch),
        ] {
            if value == 0 {
                return Err(CliError::Usage(format!("--{name} is 0. Give a number above 0")));
            }
        }
        let model = OnnxModel::load(&self.model)?;
        let mut problems = read_problems(&self.data)?;
        problems.truncate(self.limit.unwrap_or(usize::MAX));
        let mut inputs = files::of_model(model.files(), model.folder());
        inputs.push(self.data.clone());
        inputs.extend(self.adapter.clone());
        if let Some(path) = &self.answers {
            files::check_output(path, &inputs)?;
        }
        let targets = find_targets_by(&model, &self.names.naming())?;
        let voice = voice_of(&model)?;
        let read = match &self.adapter {
            Some(path) => Some((path, belonging(path, &model, &targets, out)?)),
            None => None,
        };
        ready(provider).map_err(TrainError::from)?;
        let checked = match read {
            Some((path, read)) => Some(rebuilt(path, read, &model, &targets, threads)?),
            None => None,
        };
        let frozen = checked.as_ref().map_or(&[][..], |c| &c.frozen);
        let split = checked.as_ref().map_or(Split::Paper, |c| c.split);
        let options = SessionOptions::cpu(threads).on(provider);
        let mut student = Student::load(voice, &model, &targets, frozen, split, false, options)?;
        let mut answer = |stage, mixing: Option<&Tensor>| {
            let pace = Pace { batch: self.batch, max_tokens: self.max_tokens };
            let mut progress = Progress::new(stage, problems.len());
            let mut watch = |done| progress.at(done, "");
            answer_all(&mut student, mixing, &problems, pace, &mut watch)
        };
        let (base, now) = match &checked {
            None => (None, answer("answers of the model", None)?),
            Some(Checked { live, v, .. }) => {
                let zero = live.mixing(&vec![0.0; v.len()])?;
                let base = answer("answers of the base", Some(&zero))?;
                let own = live.mixing(v)?;
                (Some(base), answer("answers with the adapter", Some(&own))?)
            }
        };
        let right = |answers: &[Answered]| answers.iter().map(|a| a.correct).collect::<Vec<_>>();
        let report = match &base {
            Some(base) => EvalReport::against(&right(&now), &right(base))?,
            None => EvalReport::new(&right(&now))?,
        };
        if let Some(path) = &self.answers {
            files::write(path, lines(&problems, &now, base.as_deref()).as_bytes())?;
        }
        out.report(&Told(report))?;
        Ok(Verdict::Yes)
    }
}

/// Reads an adapter and checks that it belongs to `model`.
fn belonging(
    path: &Path,
    model: &OnnxModel,
    targets: &Targets,
    out: &mut Output,
) -> Result<(Header, Vec<f32>), CliError> {
    let bytes = files::read(path)?;
    let adapter = Adapter::decode(&bytes)
        .map_err(|source| CliError::Adapter { path: path.into(), source })?;
    let header = *adapter.header();
    refuse_grafted(model.graph()).map_err(SurgeryError::from)?;
    if header.is_bound() {
        let found = base_digest(model, targets)?;
        if found != header.base_digest {
            return Err(CliError::OtherBase {
                adapter: path.into(),
                expected: header.base_digest,
                model: model.path.clone(),
                found,
            });
        }
    } else {
        out.say("the adapter is unbound: nothing says that it was made for this model");
    }
    Ok((header, adapter.values().collect()))
}

/// Rebuilds an adapter and checks that it comes to its digest.
fn rebuilt(
    path: &Path,
    (header, v): (Header, Vec<f32>),
    model: &OnnxModel,
    targets: &Targets,
    threads: usize,
) -> Result<Checked, CliError> {
    let known: Vec<_> = targets.targets.iter().map(|t| t.module).collect();
    let modules = select(&header, &known)?;
    let rank = usize::from(header.rank);
    let mut progress = Progress::new("bases", modules.len());
    let mut watch = |done| progress.at(done, "");
    let frozen = freeze(model, targets, &modules, rank, threads, &mut watch)?;
    let geometry = Geometry::from(&header);
    let found = rebuilt_digest(&geometry, &modules, &frozen, &v);
    if header.is_bound() && found != header.factors_digest {
        let expected = header.factors_digest;
        return Err(CliError::OtherFactors { adapter: path.into(), expected, found });
    }
    let live = Live::new(geometry, &modules).map_err(TrainError::from)?;
    Ok(Checked { live, v, frozen, split: header.split })
}

fn lines(problems: &[Problem], now: &[Answered], base: Option<&[Answered]>) -> String {
    let mut text = String::new();
    for (index, (problem, answered)) in problems.iter().zip(now).enumerate() {
        let mut line = json!({
            "line": problem.line,
            "question": problem.question,
            "answer": problem.answer.as_str(),
            "text": answered.text,
            "tokens": answered.tokens,
            "correct": answered.correct,
        });
        if let Some(before) = base.and_then(|b| b.get(index)) {
            line["base_text"] = json!(before.text);
            line["base_correct"] = json!(before.correct);
        }
        text += &format!("{line}\n");
    }
    text
}

/// The report as it is told.
#[derive(Serialize)]
#[serde(transparent)]
struct Told(EvalReport);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let [low, high] = report.interval.map(|x| 100.0 * x);
        let accuracy = 100.0 * report.accuracy;
        write!(f, "{} of {} right: {accuracy:.1} %", report.correct, report.n)?;
        writeln!(f, " (95 % interval {low:.1} to {high:.1})")?;
        let Some(paired) = &report.paired else { return Ok(()) };
        let before = report.correct + paired.lost - paired.gained;
        write!(f, "base: {before} of {} right; ", report.n)?;
        write!(f, "{} gained, {} lost, ", paired.gained, paired.lost)?;
        writeln!(f, "p = {:.2e} (exact McNemar)", paired.p)
    }
}
