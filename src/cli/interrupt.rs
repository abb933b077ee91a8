//! Ctrl-C and SIGTERM. Of a run the first asks to stop where it can go on, and the second ends it; what
//! writes a model is ended by the first, and removes what it had not yet put in its place.

use super::CliError;
#[cfg(unix)]
use crate::model::temporary;
#[cfg(any(unix, feature = "train"))]
use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(feature = "train")]
use signal_hook::flag;
#[cfg(unix)]
use signal_hook::iterator::Signals;
#[cfg(feature = "train")]
use std::io;
#[cfg(feature = "train")]
use std::sync::{Arc, atomic::AtomicBool};

/// The exit status of what was interrupted, as a shell gives it for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// From now on a signal ends the program once its temporary files and folders are removed.
///
/// # Errors
/// If the system lets nobody listen.
#[cfg(unix)]
pub fn remove_temporary() -> Result<(), CliError> {
    temporary::note();
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(CliError::Signals)?;
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

/// A flag that the first signal sets; the second ends the process at once.
///
/// # Errors
/// If the system lets nobody listen.
#[cfg(feature = "train")]
pub fn stop_flag() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Handlers run in this order: the first signal finds the flag unset.
        let status = i32::from(INTERRUPTED);
        flag::register_conditional_shutdown(signal, status, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(CliError::Signals)?;
    }
    answer().map_err(CliError::Signals)?;
    Ok(stop)
}

/// A step may take minutes, so whoever interrupts it is told at once what happens.
#[cfg(all(unix, feature = "train"))]
fn answer() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            super::output::to_stderr(
                "stopping after this step. Once more to stop at once: every finished step is kept",
            );
        }
    });
    Ok(())
}

#[cfg(all(not(unix), feature = "train"))]
fn answer() -> io::Result<()> {
    Ok(())
}
