//! `tla sign`: says whose an adapter is, for anyone who knows the public key.

use super::{
    CliError, Output, Verdict,
    files::{self, FileError},
    output,
    secret_key::{NewPair, Secret},
    signature,
};
use crate::format::Adapter;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// What minisign itself can read.
const LONGEST_COMMENT: usize = 1024;

const ABOUT_KEYS: &str = "\
Keys and signatures are those of minisign (https://jedisct1.github.io/minisign/); either program
reads what the other wrote: `minisign -G` makes a key too, `minisign -Vm A.tla -p KEY.pub` checks a
signature. A password is taken from the environment variable TLA_KEY_PASSWORD, or else asked for on
the terminal; keys without one (minisign -W) need none. --generate protects a key by scrypt with
32 MiB, `minisign -G` by scrypt with 1 GiB.

A signature proves that the holder of the secret key signed these bytes and this comment.
`tla verify A.tla --key KEY.pub` checks it; `tla verify --help` says what it does not prove.";

/// Sign an adapter, or make the keys to sign with
#[derive(clap::Args)]
#[command(after_help = ABOUT_KEYS)]
pub struct Sign {
    /// The adapter
    #[arg(value_name = "A.tla", required_unless_present = "generate")]
    adapter: Option<PathBuf>,
    /// The secret key
    #[arg(long, value_name = "SECRET")]
    key: PathBuf,
    /// The signature to write [default: A.tla.minisig]
    #[arg(short, long, value_name = "MINISIG")]
    output: Option<PathBuf>,
    /// A line that is signed too [default: time and name of the file]
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Write a new secret key to SECRET, and its public key beside it, ending in .pub
    #[arg(long, conflicts_with_all = ["adapter", "output", "comment"])]
    generate: bool,
    /// With --generate: a key that needs no password
    #[arg(long, requires = "generate", conflicts_with_all = ["adapter", "output", "comment"])]
    no_password: bool,
}

impl Sign {
    /// Signs, or makes keys.
    pub fn run(&self, out: &mut Output) -> Result<Verdict, CliError> {
        match &self.adapter {
            Some(adapter) => self.sign(adapter, out)?,
            None => self.generate(out)?,
        }
        Ok(Verdict::Yes)
    }

    fn sign(&self, adapter: &Path, out: &mut Output) -> Result<(), CliError> {
        let bytes = files::read(adapter)?;
        Adapter::decode(&bytes)
            .map_err(|source| CliError::Adapter { path: adapter.into(), source })?;
        let place = self.output.clone().unwrap_or_else(|| signature::beside(adapter));
        let public = self.key.with_extension("pub");
        files::check_output(&place, &[adapter.into(), self.key.clone(), public])?;
        let trusted_comment = match &self.comment {
            Some(comment) => checked(comment)?,
            None => usual_comment(adapter),
        };
        let secret = Secret::load(&self.key)?;
        let text = secret.sign(&bytes, &trusted_comment)?;
        files::write(&place, text.as_bytes())?;
        let output = place.display().to_string();
        out.report(&Signed { output, public_key: secret.public()?, trusted_comment })
    }

    fn generate(&self, out: &mut Output) -> Result<(), CliError> {
        let public = self.key.with_extension("pub");
        if public == self.key {
            return Err(FileError::Exists { path: public }.into());
        }
        for place in [&self.key, &public] {
            files::check_new(place)?;
        }
        let pair = NewPair::generate(!self.no_password)?;
        files::write_new_pair(
            (&self.key, pair.secret.as_bytes()),
            (&public, pair.public.as_bytes()),
        )?;
        out.report(&Generated {
            secret: self.key.display().to_string(),
            public: public.display().to_string(),
            public_key: pair.public_key,
        })
    }
}

/// What minisign says when it is told nothing.
fn usual_comment(adapter: &Path) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = adapter.file_name().unwrap_or_default().to_string_lossy();
    format!("timestamp:{now}\tfile:{}\thashed", output::name(&name))
}

/// A comment is one line that every reader takes for the same bytes.
fn checked(comment: &str) -> Result<String, CliError> {
    let comment = comment.trim();
    if comment.len() > LONGEST_COMMENT || comment.contains(char::is_control) {
        return Err(CliError::Comment { len: comment.len(), most: LONGEST_COMMENT });
    }
    Ok(comment.to_owned())
}

/// The line of JSON of a signature.
#[derive(Serialize)]
struct Signed {
    /// The signature's file.
    output: String,
    /// The key that verifies it.
    public_key: String,
    /// What was signed beside the adapter.
    trusted_comment: String,
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: signed", self.output)?;
        writeln!(f, "public key       {}", self.public_key)?;
        let comment = self.trusted_comment.replace('\t', " ");
        writeln!(f, "trusted comment  {}", output::name(&comment))
    }
}

/// The line of JSON of new keys.
#[derive(Serialize)]
struct Generated {
    /// The secret key's file.
    secret: String,
    /// The public key's file.
    public: String,
    /// The public key itself.
    public_key: String,
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: the secret key; keep it", self.secret)?;
        writeln!(f, "{}: the public key; give it away", self.public)?;
        writeln!(f, "public key       {}", self.public_key)
    }
}
