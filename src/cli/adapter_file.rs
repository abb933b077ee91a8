//! An adapter that is to go into a model, and the checks that it belongs there.

use super::{CliError, Output, base::Base, files, threads::Threads};
use crate::format::{Adapter, Header};
use std::path::{Path, PathBuf};

/// What an adapter file holds.
pub struct AdapterFile {
    /// The file.
    pub path: PathBuf,
    /// Its header.
    pub header: Header,
    /// Its values.
    pub v: Vec<f32>,
    /// Its last 32 bytes.
    pub checksum: [u8; 32],
}

impl AdapterFile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = files::read(path)?;
        let adapter = Adapter::decode(&bytes)
            .map_err(|source| CliError::Adapter { path: path.into(), source })?;
        let (header, v) = (*adapter.header(), adapter.values().collect());
        Ok(Self { path: path.into(), header, v, checksum: adapter.checksum() })
    }

    /// Refuses an adapter that does not name its base, unless that is `allowed`.
    pub fn check_bound(&self, allowed: bool, out: &Output) -> Result<(), CliError> {
        match (self.header.is_bound(), allowed) {
            (true, _) => {}
            (false, true) => out.say(
                "the adapter is unbound: nothing says that it belongs to this model \
                 or what it rebuilds to.",
            ),
            (false, false) => return Err(CliError::Unbound { path: self.path.clone() }),
        }
        Ok(())
    }

    /// Whether it says which weights it belongs to.
    pub fn names_base(&self) -> bool {
        self.header.base_digest != [0; 32]
    }

    /// Refuses an adapter that names another base than this, which was loaded from `model`.
    pub fn check_base(&self, base: &Base, model: &Path, threads: &Threads) -> Result<(), CliError> {
        match self.names_base() {
            true => self.check_digest(base.digest(threads)?, model),
            false => Ok(()),
        }
    }

    /// Refuses an adapter that names another base than `model`, whose digest was `found`.
    pub fn check_digest(&self, found: [u8; 32], model: &Path) -> Result<(), CliError> {
        let expected = self.header.base_digest;
        if !self.names_base() || found == expected {
            return Ok(());
        }
        let (adapter, model) = (self.path.clone(), model.into());
        Err(CliError::OtherBase { adapter, expected, model, found })
    }

    /// Refuses an adapter that rebuilt to another digest than it names.
    pub fn check_factors(&self, found: [u8; 32]) -> Result<(), CliError> {
        let expected = self.header.factors_digest;
        if expected == [0; 32] || expected == found {
            return Ok(());
        }
        Err(CliError::OtherFactors { adapter: self.path.clone(), expected, found })
    }
}
