//! How many threads a command computes with.

use super::CliError;
use std::thread;

/// The `--threads` of the commands that compute.
#[derive(clap::Args)]
pub struct Threads {
    /// Threads to compute with [default: one per core]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Threads {
    /// As asked, or one per core.
    pub fn count(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => thread::available_parallelism().map_or(1, Into::into),
        }
    }

    /// Runs work that takes the threads it is called on.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, CliError> {
        let threads = self.count();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| CliError::Threads { threads, reason: e.to_string() })?;
        Ok(pool.install(work))
    }
}
