//! The command line: one file per command.
//!
//! A command is a file with its arguments and a `run`, one variant of `Command` and one arm of
//! `Command::run`. The result goes to stdout, for people or with `--json` for machines; all
//! talk goes to stderr. The exit status is 0 for yes, 1 for no, 2 for could not say.

mod adapter_file;
mod bake;
mod base;
mod destination;
#[cfg(feature = "train")]
mod device;
mod error;
#[cfg(feature = "train")]
mod eval;
#[cfg(feature = "train")]
mod eval_adapters;
#[cfg(feature = "train")]
mod eval_report;
mod export;
mod files;
mod graft;
mod import;
mod inspect;
mod interrupt;
#[cfg(feature = "train")]
mod learn_options;
mod manifest;
mod merge;
mod names;
mod output;
mod pack;
#[cfg(feature = "train")]
mod progress;
pub mod recipe;
#[cfg(feature = "train")]
mod report;
#[cfg(feature = "train")]
mod reward_options;
#[cfg(feature = "train")]
mod run_report;
#[cfg(feature = "sign")]
mod secret_key;
mod show;
mod side_files;
#[cfg(feature = "sign")]
mod sign;
mod signature;
mod sum;
mod survived;
mod threads;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_options;
#[cfg(feature = "train")]
mod train_settings;
#[cfg(feature = "train")]
mod train_talk;
mod verify;

#[cfg(feature = "train")]
use crate::train::TrainError;
use clap::{Parser, error::ErrorKind};
use error::CliError;
use output::Output;
use std::process::ExitCode;

/// Adapters of 13 numbers for language models, as files of 154 bytes that anyone can verify
///
/// The result goes to stdout, all talk to stderr. Exit status: 0 yes, 1 no, 2 could not say.
#[derive(Parser)]
#[command(name = "tla", version, max_term_width = 100)]
struct Cli {
    /// Write the result as one line of JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// The commands in the order in which they are used.
#[derive(clap::Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    #[cfg(feature = "train")]
    Train(train::Train),
    #[cfg(feature = "train")]
    Eval(eval::Eval),
    #[cfg(feature = "train")]
    Report(report::Report),
    Pack(pack::Pack),
    Show(show::Show),
    #[cfg(feature = "sign")]
    Sign(sign::Sign),
    Verify(verify::Verify),
    Merge(merge::Merge),
    Graft(graft::Graft),
    Bake(bake::Bake),
    Export(export::Export),
    Import(import::Import),
}

impl Command {
    fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        match self {
            Self::Inspect(command) => command.run(out),
            #[cfg(feature = "train")]
            Self::Train(command) => command.run(out),
            #[cfg(feature = "train")]
            Self::Eval(command) => command.run(out),
            #[cfg(feature = "train")]
            Self::Report(command) => command.run(out),
            Self::Pack(command) => command.run(out),
            Self::Show(command) => command.run(out),
            #[cfg(feature = "sign")]
            Self::Sign(command) => command.run(out),
            Self::Verify(command) => command.run(out),
            Self::Merge(command) => command.run(out),
            Self::Graft(command) => command.run(out),
            Self::Bake(command) => command.run(out),
            Self::Export(command) => command.run(out),
            Self::Import(command) => command.run(out),
        }
    }
}

/// What a command found, where it could say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is so, or it is done.
    Yes,
    /// A check says no.
    No,
}

const YES: u8 = 0;
const NO: u8 = 1;
const COULD_NOT_SAY: u8 = 2;

/// Runs the program on its own arguments.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let mut out = Output::new(cli.json);
    ExitCode::from(match cli.command.run(&mut out) {
        Ok(Verdict::Yes) => YES,
        Ok(Verdict::No) => NO,
        Err(error) => {
            out.fail(&error);
            status(&error)
        }
    })
}

/// Could not say, unless whoever asked did not want to hear it.
fn status(error: &CliError) -> u8 {
    match error {
        #[cfg(feature = "train")]
        CliError::Train(TrainError::Interrupted { .. }) => interrupt::INTERRUPTED,
        _ => COULD_NOT_SAY,
    }
}

/// Whether the program takes these arguments, its own name first. Nothing is run.
///
/// # Errors
/// What it would say of them.
pub fn accepts(arguments: &[String]) -> Result<(), String> {
    match Cli::try_parse_from(arguments) {
        Ok(_) => Ok(()),
        Err(error) if is_answer(&error) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Help and version are asked for.
fn is_answer(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// Help that was asked for is a result; anything else is a wrong call.
fn usage(error: &clap::Error) -> u8 {
    let text = error.render();
    if is_answer(error) {
        return match output::to_stdout(&text.to_string()) {
            Ok(()) => YES,
            Err(_) => COULD_NOT_SAY,
        };
    }
    let text = text.to_string();
    match text.strip_prefix("error: ") {
        Some(rest) => output::to_stderr(rest),
        None => output::to_stderr(&text),
    }
    COULD_NOT_SAY
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
