//! The reward a user names: `gsm8k`, `boxed`, `regex:PATTERN` or `command:PROGRAM ARGS…`.

use std::time::Duration;

use super::{
    ExactMatch, Reward,
    boxed::Boxed,
    pattern::{Pattern, PatternError},
    program::{Program, StartError},
};

/// How long a program may take for a reply where nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest a program may be given.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no such reward.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// No name of a reward.
    #[error(
        "'{given}' is no reward. Use gsm8k, boxed, regex:PATTERN, or command:PROGRAM with its \
         arguments"
    )]
    Unknown {
        /// As given.
        given: String,
    },
    /// A command without a program, or with quotes that do not close.
    #[error(
        "'{command}' is no command: it is empty or a quote is not closed. Give a program and its \
         arguments, quoted as in a shell"
    )]
    Command {
        /// As given.
        command: String,
    },
    /// A time limit for a reward that takes no time.
    #[error("--reward-timeout is for --reward command:…, and the reward is {reward}. Leave it out")]
    NeedsNoTimeout {
        /// The reward.
        reward: String,
    },
    /// The pattern cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The program cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The reward of a name; a program is started, and may take `limit` for a reply. Its command is
/// split at white space, with the quotes and backslashes of a POSIX shell, but no shell runs it.
///
/// # Errors
/// If there is no such reward or it cannot be used.
pub fn choose(name: &str, limit: Option<Duration>) -> Result<Box<dyn Reward>, ChoiceError> {
    if let Some(command) = name.strip_prefix("command:") {
        let words = shlex::split(command).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| ChoiceError::Command { command: command.to_owned() })?;
        return Ok(Box::new(Program::start(&words, limit.unwrap_or(TIMEOUT))?));
    }
    let reward: Box<dyn Reward> = match (name, name.strip_prefix("regex:")) {
        ("gsm8k", _) => Box::new(ExactMatch),
        ("boxed", _) => Box::new(Boxed),
        (_, Some(pattern)) => Box::new(Pattern::new(pattern)?),
        _ => return Err(ChoiceError::Unknown { given: name.to_owned() }),
    };
    match limit {
        Some(_) => Err(ChoiceError::NeedsNoTimeout { reward: reward.name() }),
        None => Ok(reward),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reward_keeps_the_name_it_was_chosen_by() {
        for name in ["gsm8k", "boxed", "regex:a(b)", "regex:command:(.)"] {
            assert_eq!(choose(name, None).unwrap().name(), name);
        }
    }

    #[test]
    fn what_is_no_reward_is_refused() {
        let error = |name: &str, limit| choose(name, limit).err().unwrap();
        for name in ["", "GSM8K", "regex", "command", "gsm8k:"] {
            assert!(matches!(error(name, None), ChoiceError::Unknown { .. }), "{name}");
        }
        for name in ["command:", "command: ", "command:a 'b"] {
            assert!(matches!(error(name, None), ChoiceError::Command { .. }), "{name}");
        }
        assert!(matches!(error("regex:(", None), ChoiceError::Pattern(_)));
        assert!(matches!(error("boxed", Some(TIMEOUT)), ChoiceError::NeedsNoTimeout { .. }));
        let missing = error("command:/no/such/program 'a b'", None);
        assert!(missing.to_string().contains("cannot start `/no/such/program`"), "{missing}");
    }
}
