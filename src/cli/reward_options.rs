//! What is asked and how answers are judged: the options `tla train` and `tla eval` share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::CliError;
use crate::{
    policy::wording::Wording,
    train::{
        TrainError,
        data::{Dataset, Fields, Problem, read_dataset},
        reward::{
            Reward, check,
            choice::{LONGEST_TIMEOUT, choose},
        },
    },
};

/// The dataset, its reward and its prompt.
#[derive(Args)]
pub struct RewardArgs {
    /// Problems: JSON Lines with "question" or "problem", and "answer" or "solution", as GSM8K and
    /// MATH are published; or .parquet, in a build with that feature
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// What makes an answer right: "gsm8k" (#### N), "boxed" (the last \boxed{}), "regex:PATTERN"
    /// (its first group), or "command:PROGRAM ARGS" (JSON Lines; see below)
    #[arg(long, value_name = "REWARD", default_value = "gsm8k", help_heading = "Reward")]
    reward: String,
    /// Longest wait for a reply of the reward's program [default: 30]
    #[arg(long, value_name = "SECONDS", help_heading = "Reward")]
    reward_timeout: Option<f64>,
    /// Field of the question [default: question or problem]
    #[arg(long, value_name = "NAME", help_heading = "Reward")]
    question_field: Option<String>,
    /// Field of the reference answer [default: answer, or else solution]
    #[arg(long, value_name = "NAME", help_heading = "Reward")]
    answer_field: Option<String>,
    /// "plain" (the question alone), "boxed" (with the request to reason and to box the answer), or a
    /// text that holds {question} [default: boxed with --reward boxed, else plain]
    #[arg(long, value_name = "TEXT", help_heading = "Reward")]
    prompt: Option<String>,
    /// System message before the question
    #[arg(long, value_name = "TEXT", help_heading = "Reward")]
    system: Option<String>,
}

/// What `--help` adds about rewards.
pub const HELP: &str = "\
A program given as command:… is started once, without a shell. For each answer it reads one line
{\"id\", \"question\", \"answer\", \"completion\", \"row\"}, \"row\" being all fields of the dataset's row, and
writes one line {\"id\", \"reward\"} or {\"id\", \"error\"}, flushed. It ends when its input does. A reward
that fails, is late or is no finite number stops the command; it never counts as 0.";

/// Problems, what judges their answers, and how they are asked.
pub struct Task {
    /// The problems, each with a reference the reward can use.
    pub problems: Vec<Problem>,
    /// SHA-256 of the file they were read from.
    pub digest: [u8; 32],
    /// The right answer of each.
    pub keys: Vec<String>,
    /// What judges.
    pub reward: Box<dyn Reward>,
    /// How they are asked.
    pub wording: Wording,
}

impl RewardArgs {
    /// Reads the dataset and checks it against the reward, whose program is started.
    pub fn task(&self) -> Result<Task, CliError> {
        let limit = self.reward_timeout.map(seconds).transpose()?;
        let prompt = self.prompt.as_deref();
        let wanted = prompt.unwrap_or(if self.reward == "boxed" { "boxed" } else { "plain" });
        let wording = Wording::new(wanted, self.system.as_deref())
            .map_err(|error| CliError::Usage(error.to_string()))?;
        let Dataset { problems, digest } = read_dataset(&self.data, &self.fields())?;
        let reward =
            choose(&self.reward, limit).map_err(|error| CliError::Usage(error.to_string()))?;
        let keys = check(&*reward, &problems, &self.data).map_err(TrainError::from)?;
        Ok(Task { problems, digest, keys, reward, wording })
    }

    /// The fields of the dataset that were named.
    pub fn fields(&self) -> Fields {
        Fields { question: self.question_field.clone(), answer: self.answer_field.clone() }
    }
}

fn seconds(given: f64) -> Result<Duration, CliError> {
    let longest = LONGEST_TIMEOUT.as_secs();
    match Duration::try_from_secs_f64(given) {
        Ok(limit) if !limit.is_zero() && limit <= LONGEST_TIMEOUT => Ok(limit),
        _ => Err(CliError::Usage(format!(
            "--reward-timeout is {given}. Give seconds above 0 and at most {longest}"
        ))),
    }
}
