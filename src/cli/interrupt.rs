//! Ctrl-C and SIGTERM. What writes a model is ended by the first, and removes what it had not yet put
//! in its place. Of a run the first asks to stop where it can go on, and the second ends it; no reward's
//! program outlives it.

use super::CliError;
#[cfg(unix)]
use crate::model::temporary;
#[cfg(any(unix, feature = "train"))]
use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(feature = "train")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The exit status of an interrupted run, as a shell gives it for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// From now on a signal ends the program once its temporary files and folders are removed.
///
/// # Errors
/// If the system lets nobody listen.
#[cfg(unix)]
pub fn remove_temporary() -> Result<(), CliError> {
    temporary::note();
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(CliError::Signals)?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _nothing_is_made = temporary::remove_all();
            std::process::exit(INTERRUPTED.into());
        }
    });
    Ok(())
}

/// Elsewhere they stay.
#[cfg(not(unix))]
pub fn remove_temporary() -> Result<(), CliError> {
    Ok(())
}

/// What a signal does: it ends the process at once, or, from [`Interrupts::between_steps`] on, asks
/// the run to stop where it can go on, and the next one ends it.
#[cfg(feature = "train")]
pub struct Interrupts {
    patient: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

#[cfg(feature = "train")]
impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system lets nobody listen.
    pub fn listen() -> Result<Self, CliError> {
        let own = || Arc::new(AtomicBool::new(false));
        let made = Self { patient: own(), stop: own() };
        #[cfg(unix)]
        answer(Arc::clone(&made.patient), Arc::clone(&made.stop)).map_err(CliError::Signals)?;
        Ok(made)
    }

    /// A flag that the next signal sets in place of ending the process.
    ///
    /// # Errors
    /// If the system lets nobody listen.
    pub fn between_steps(self) -> Result<Arc<AtomicBool>, CliError> {
        #[cfg(not(unix))]
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the first signal finds the flag unset.
            let status = i32::from(INTERRUPTED);
            signal_hook::flag::register_conditional_shutdown(
                signal,
                status,
                Arc::clone(&self.stop),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&self.stop)))
            .map_err(CliError::Signals)?;
        }
        self.patient.store(true, Ordering::SeqCst);
        Ok(self.stop)
    }
}

/// On a thread of its own: a step may take minutes, and whoever interrupts it is told at once what
/// happens.
#[cfg(all(unix, feature = "train"))]
fn answer(patient: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let work = move || {
        for signal in signals.forever() {
            if !patient.load(Ordering::SeqCst) {
                end();
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            } else if stop.swap(true, Ordering::SeqCst) {
                end();
                signal_hook::low_level::exit(i32::from(INTERRUPTED));
            } else {
                super::output::to_stderr(
                    "stopping after this step. Once more to stop at once: every finished step is kept",
                );
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(work).map(drop)
}

#[cfg(all(unix, feature = "train"))]
fn end() {
    crate::train::reward::program::kill_all();
}
