//! Ctrl-C and SIGTERM: the first asks the run to stop where it can go on, the second ends it.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::CliError;

/// The exit status of an interrupted run, as a shell gives it for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// A flag that the first signal sets; the second ends the process at once.
///
/// # Errors
/// If the system lets nobody listen.
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
#[cfg(unix)]
fn answer() -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            super::output::to_stderr(
                "stopping after this step. Once more to stop at once: every finished step is kept",
            );
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn answer() -> io::Result<()> {
    Ok(())
}
