//! What a run resumes from, as a file.
//!
//! The file is replaced as a whole, so whoever reads it sees one state or the next. Nothing random
//! is in it: problems, answers and projections are drawn by name (seed, step, row, position), so
//! the number of the step is all it takes to draw the same again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{adam::Adam, flat::Flat, guard::Guard, journal::Placement};

/// The state's name in a run folder.
pub const STATE: &str = "state.json";
/// Where the next state is written before it takes that name.
pub const NEXT: &str = "state.json.next";
/// The version of the state.
const VERSION: u32 = 4;
/// The most bytes a state may have: v, two moments and the best of each, for the most numbers an
/// adapter may have, is well below.
const LIMIT: u64 = 1 << 30;

/// Everything the numbers of a run depend on, by the name of its option.
pub type Settings = BTreeMap<String, String>;

/// Why a state can be neither written nor read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The system refused.
    #[error("cannot {action} {}: {source}. Check the path and free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no state.
    #[error(
        "{} is not the state of a run: {reason}. Restore the file, or begin anew in another --run",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// How far training has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Updates made in them.
    pub updates: u64,
    /// The step after which v was as it is, which a restore goes back to; 0 for the start.
    pub as_after: u64,
    /// Answers scored in them.
    pub answers: u64,
    /// Those that were cut at the longest length.
    pub cut: u64,
    /// The sum of their rewards.
    pub worth: f64,
    /// v and its optimiser.
    pub adam: Adam,
    /// The guard against collapse.
    pub guard: Guard,
    /// Steps without a group that varies.
    pub flat: Flat,
}

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// What the run was begun with.
    pub settings: Settings,
    /// Bytes of the journal when the state was written.
    pub journal_bytes: u64,
    /// Where the update lives, once that is known.
    pub placement: Option<Placement>,
    /// How far training has come, once it has begun.
    pub progress: Option<Progress>,
}

/// What is in the file of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl State {
    /// Of a run that has yet to do something.
    pub fn new(settings: Settings) -> Self {
        Self { version: VERSION, settings, journal_bytes: 0, placement: None, progress: None }
    }

    /// The first setting that is not what it was: its name, its value then and `now`.
    pub fn difference(&self, now: &Settings) -> Option<(String, String, String)> {
        let was = &self.settings;
        let names = was.keys().chain(now.keys().filter(|name| !was.contains_key(*name)));
        let given = |of: &Settings, name| of.get(name).filter(|value| !value.is_empty()).cloned();
        let value = |of: &Settings, name| given(of, name).unwrap_or("not given".to_owned());
        names
            .map(|name| (name.clone(), value(was, name), value(now, name)))
            .find(|(_, was, now)| was != now)
    }

    /// Reads the state of a run folder.
    ///
    /// # Errors
    /// If the system refuses, or the file holds no state of this version.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let path = &folder.join(STATE);
        let broken = |reason: String| StateError::Broken { path: path.clone(), reason };
        let length = fs::metadata(path).map_err(io("read", path))?.len();
        if length > LIMIT {
            return Err(broken(format!("it has {length} bytes")));
        }
        let text = fs::read(path).map_err(io("read", path))?;
        let unread = |error: serde_json::Error| broken(error.to_string());
        // Another version has other fields, so its number is read before them.
        let Versioned { version } = serde_json::from_slice(&text).map_err(unread)?;
        match version {
            VERSION => serde_json::from_slice(&text).map_err(unread),
            other => Err(broken(format!("its version is {other} and not {VERSION}"))),
        }
    }

    /// Replaces the state of a run folder; after an error the old one is still there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        let (place, next) = (folder.join(STATE), folder.join(NEXT));
        let text = serde_json::to_vec(self)
            .map_err(|e| StateError::Broken { path: place.clone(), reason: e.to_string() })?;
        let mut file = File::create(&next).map_err(io("write", &next))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io("write", &next))?;
        fs::rename(&next, &place).map_err(io("write", &place))?;
        // Not every system lets a folder be opened; the rename is then as durable as it gets.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn io<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> StateError + use<'a> {
    move |source| StateError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_version_is_refused_by_its_number_whatever_its_fields() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(STATE), r#"{"version": 2, "mood": "good"}"#).unwrap();
        let error = State::read(home.path()).unwrap_err().to_string();
        assert!(
            error.contains("its version is 2 and not 4. Restore the file, or begin"),
            "{error}"
        );
    }
}
