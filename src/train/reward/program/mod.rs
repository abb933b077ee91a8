//! An external program that scores answers, speaking JSON Lines over its standard streams.
//!
//! The program is started once and lives as long as the run. For every answer it reads one line
//! `{"id": 7, "question": "…", "answer": "…", "completion": "…", "row": {…}}`, where `answer` is the
//! reference and `row` every field of the dataset's row, and writes one line `{"id": 7, "reward": 1}`
//! or `{"id": 7, "error": "…"}`, in any order, flushing each. Requests of a whole batch are sent
//! before the first reply is waited for, so a program may score them in parallel. Its standard error
//! is the run's. It ends when its standard input does.
//!
//! Anything else stops the run: no reply within the time limit, an exit, a line that is no reply, an
//! id that was not asked for or is answered twice, a reward that is no finite number. What is
//! running is then killed, and in any case when the reward is dropped.

mod child;
mod reply;
mod running;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;

use super::{Attempt, Reward, RewardError, reference::ReferenceError};
use crate::train::data::Problem;
pub use child::StartError;
use child::{Child, ReadError};
use reply::{Reply, ReplyError};
#[cfg(unix)]
pub use running::kill_all;

/// Why the program's word cannot be taken.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(
        "no reply within {} seconds. Make it faster, see that it flushes every line, or raise \
         --reward-timeout",
        limit.as_secs_f64()
    )]
    Timeout { limit: Duration },
    #[error("it ended ({status}) before it replied. See what it wrote to its standard error")]
    Ended { status: String },
    #[error("its replies cannot be read: {reason}. See what it wrote to its standard error")]
    Unreadable { reason: String },
    #[error("{0}")]
    Reply(#[from] ReplyError),
    #[error("it says \"{message}\". Mend the program or the row")]
    Said { message: String },
    #[error(
        "it replied to id {id}, which is not awaited. Reply once to every request, with its id"
    )]
    NotAwaited { id: u64 },
    #[error("it failed before. Start the run again")]
    Broken,
}

/// A program that was started.
#[derive(Debug)]
pub struct Program {
    name: String,
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Nothing after a failure: what a program that broke the protocol says next means nothing.
    child: Option<Child>,
    next_id: u64,
}

impl Program {
    /// Starts `command`, its name first; every reply may take `limit`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &[String], limit: Duration) -> Result<Self, StartError> {
        let child = Child::start(command)?;
        let name = format!("command:{}", command.join(" "));
        Ok(Self { name, limit, state: Mutex::new(State { child: Some(child), next_id: 0 }) })
    }
}

impl Reward for Program {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn key(&self, problem: &Problem) -> Result<String, ReferenceError> {
        Ok(problem.answer.clone())
    }

    fn score(&self, attempts: &[Attempt<'_>]) -> Result<Vec<f64>, RewardError> {
        // A panic elsewhere leaves the state as it was between two batches or without a child.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = state.next_id;
        state.next_id = first.saturating_add(attempts.len() as u64);
        let Some(child) = state.child.take() else {
            let error = |attempt| RewardError::failed(&self.name, attempt, Fault::Broken);
            return attempts.first().map_or(Ok(Vec::new()), |attempt| Err(error(attempt)));
        };
        let mut batch = Batch { child, attempts, first, scores: vec![None; attempts.len()] };
        match batch.score(self.limit) {
            Ok(scores) => {
                state.child = Some(batch.child);
                Ok(scores)
            }
            Err((at, fault)) => {
                let at = at.min(attempts.len().saturating_sub(1));
                Err(RewardError::failed(&self.name, &attempts[at], fault))
            }
        }
    }
}

/// What is asked at once.
struct Batch<'a> {
    child: Child,
    attempts: &'a [Attempt<'a>],
    first: u64,
    scores: Vec<Option<f64>>,
}

impl Batch<'_> {
    /// The scores, or what went wrong and with which attempt: the one a reply names, or the first
    /// that has none.
    fn score(&mut self, limit: Duration) -> Result<Vec<f64>, (usize, Fault)> {
        for (id, attempt) in (self.first..).zip(self.attempts) {
            let request = json!({
                "id": id,
                "question": attempt.problem.question,
                "answer": attempt.problem.answer,
                "completion": attempt.completion,
                "row": attempt.problem.fields,
            });
            self.child.send(format!("{request}\n"));
        }
        let mut waiting: BTreeMap<u64, usize> =
            (self.first..).zip(0..self.attempts.len()).collect();
        while let Some(oldest) = waiting.values().next().copied() {
            let line = self.child.receive(limit).map_err(|error| match error {
                ReadError::Timeout => (oldest, Fault::Timeout { limit }),
                ReadError::Ended { status } => (oldest, Fault::Ended { status }),
                ReadError::Unreadable { reason } => (oldest, Fault::Unreadable { reason }),
            })?;
            let Reply { id, verdict } = Reply::parse(&line).map_err(|e| (oldest, e.into()))?;
            let at = waiting.remove(&id).ok_or((oldest, Fault::NotAwaited { id }))?;
            let reward = verdict.map_err(|message| (at, Fault::Said { message }))?;
            self.scores[at] = Some(reward);
        }
        Ok(self.scores.iter().flatten().copied().collect())
    }
}
