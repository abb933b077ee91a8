//! The programs that run now, so that a process that ends at once takes them with it.

use std::{
    io,
    process::{Child, ExitStatus},
    sync::{Mutex, PoisonError},
};

/// Ids of the processes that were started and not yet reaped: until then no other has them.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Notes that `process` runs.
pub(super) fn started(process: &Child) {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(process.id());
}

/// How `process` has ended, if it has; it is then reaped.
pub(super) fn reap(process: &mut Child) -> io::Result<Option<ExitStatus>> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let status = process.try_wait()?;
    if status.is_some() {
        running.retain(|id| *id != process.id());
    }
    Ok(status)
}

/// Kills the process of this id and those it started.
#[cfg(unix)]
pub(super) fn kill_group(id: u32) {
    if let Some(group) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Kills every program that runs, with what it started: for a process that is about to end without
/// dropping its rewards.
#[cfg(unix)]
pub fn kill_all() {
    for id in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        kill_group(id);
    }
}
