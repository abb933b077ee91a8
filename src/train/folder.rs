//! The folder of a run: its journal, and the state it resumes from.
//!
//! `state.json` is replaced as a whole after every step, so a process that dies at any moment
//! leaves the state of a finished step. The order on disk is: the state names how long the journal
//! was when it was written; on resuming, what the journal holds beyond that is removed. Nothing
//! random is in the state: problems, answers and projections are drawn by name (seed, step, row,
//! position), so the number of the step is all it takes to draw the same again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    adam::Adam,
    guard::Guard,
    journal::{FILE_NAME, Journal, JournalError, Line, Placement},
};

/// The state's name in a run folder.
pub const STATE: &str = "state.json";
/// Where the next state is written before it takes that name.
const NEXT: &str = "state.json.next";
/// The version of the state.
const VERSION: u32 = 1;
/// The most bytes a state may have: v, two moments and the best of each, for the most numbers an
/// adapter may have, is well below.
const LIMIT: u64 = 1 << 30;

/// Everything the numbers of a run depend on, by the name of its option.
pub type Settings = BTreeMap<String, String>;

/// Why a run can neither begin nor go on in a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
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
    /// The state is no state.
    #[error(
        "{} is not the state of a run: {reason}. Restore the file, or begin anew in another --run",
        path.display()
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something the run depends on is not what it was.
    #[error(
        "{name} was {was} when the run in {} began and is {now} now. Make it the same again, or \
         begin anew in another --run", path.display()
    )]
    Changed {
        /// The run folder.
        path: PathBuf,
        /// The option, or what else changed.
        name: String,
        /// Its value then.
        was: String,
        /// Its value now.
        now: String,
    },
    /// A run is there that nothing was said about.
    #[error(
        "{} holds a run already. Go on with --resume, choose another run folder with --run, or \
         delete this one", path.display()
    )]
    Taken {
        /// The run folder.
        path: PathBuf,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// How far training has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Updates made in them.
    pub updates: u64,
    /// Answers scored in them.
    pub answers: u64,
    /// The sum of their rewards.
    pub worth: f64,
    /// v and its optimiser.
    pub adam: Adam,
    /// The guard against collapse.
    pub guard: Guard,
}

/// What is in `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    settings: Settings,
    journal_bytes: u64,
    placement: Option<Placement>,
    progress: Option<Progress>,
}

/// A run folder being written.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    journal: Journal,
    state: State,
}

impl RunFolder {
    /// Begins a run in a folder that holds none, which is made if need be.
    ///
    /// # Errors
    /// If there is a run already, or the system refuses.
    pub fn begin(path: &Path, settings: Settings) -> Result<Self, FolderError> {
        if path.join(STATE).exists() || path.join(FILE_NAME).exists() {
            return Err(FolderError::Taken { path: path.to_path_buf() });
        }
        fs::create_dir_all(path).map_err(io("make", path))?;
        let (placement, progress) = (None, None);
        let state = State { version: VERSION, settings, journal_bytes: 0, placement, progress };
        // The journal comes last: one without a state could not be told from someone else's.
        write(path, &state)?;
        let journal = match Journal::create(path) {
            Ok(journal) => journal,
            Err(error) => {
                // The error is the one to tell.
                let _ = fs::remove_file(path.join(STATE));
                return Err(error.into());
            }
        };
        Ok(Self { path: path.to_path_buf(), journal, state })
    }

    /// Goes on with the run in a folder, or begins one where there is none.
    ///
    /// # Errors
    /// If one of `settings` is not what it was, another process is at work on the run, the state
    /// is broken, or the system refuses.
    pub fn resume(path: &Path, settings: Settings) -> Result<Self, FolderError> {
        let file = path.join(STATE);
        if !file.exists() {
            return Self::begin(path, settings);
        }
        let state = read(&file)?;
        if let Some((name, was, now)) = difference(&state.settings, &settings) {
            return Err(FolderError::Changed { path: path.to_path_buf(), name, was, now });
        }
        let journal = Journal::resume(path, state.journal_bytes)?;
        // Before there was a lock to hold, another process may have gone on.
        let state = read(&file)?;
        let journal = match state.journal_bytes == journal_bytes(&journal)? {
            true => journal,
            false => return Err(JournalError::InUse { path: path.join(FILE_NAME) }.into()),
        };
        Ok(Self { path: path.to_path_buf(), journal, state })
    }

    /// Writes a line of the journal.
    ///
    /// # Errors
    /// If a number in it is not finite, or the system refuses.
    pub fn write(&mut self, line: &Line) -> Result<(), FolderError> {
        Ok(self.journal.write(line)?)
    }

    /// Keeps where the update lives, with the journal so far.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep_placement(&mut self, placement: &Placement) -> Result<(), FolderError> {
        self.state.placement = Some(placement.clone());
        self.save()
    }

    /// Keeps how far training has come, with the journal so far.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep(&mut self, progress: &Progress) -> Result<(), FolderError> {
        self.state.progress = Some(progress.clone());
        self.save()
    }

    fn save(&mut self) -> Result<(), FolderError> {
        self.state.journal_bytes = self.journal.settle()?;
        write(&self.path, &self.state)
    }

    /// Whether nothing has been written yet.
    pub fn is_new(&self) -> bool {
        self.state.journal_bytes == 0
    }

    /// Where the update lives, if that is known.
    pub fn placement(&self) -> Option<&Placement> {
        self.state.placement.as_ref()
    }

    /// How far training has come, if it has begun.
    pub fn progress(&self) -> Option<&Progress> {
        self.state.progress.as_ref()
    }

    /// Where the journal is.
    pub fn journal(&self) -> &Path {
        self.journal.path()
    }

    /// Removes a run that has nothing to say, and its folder unless something else is in it.
    pub fn discard(self) {
        // What cannot be removed is left: the error that ended the run is the one to tell.
        for name in [FILE_NAME, STATE, NEXT] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn journal_bytes(journal: &Journal) -> Result<u64, FolderError> {
    Ok(journal.settle()?)
}

/// The first setting that is not what it was, by name.
fn difference(was: &Settings, now: &Settings) -> Option<(String, String, String)> {
    let names = was.keys().chain(now.keys().filter(|name| !was.contains_key(*name)));
    let value = |of: &Settings, name| of.get(name).map_or("not given", String::as_str).to_owned();
    names
        .map(|name| (name.clone(), value(was, name), value(now, name)))
        .find(|(_, was, now)| was != now)
}

fn io<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> FolderError + use<'a> {
    move |source| FolderError::Io { action, path: path.to_path_buf(), source }
}

fn read(path: &Path) -> Result<State, FolderError> {
    let broken = |reason: String| FolderError::State { path: path.to_path_buf(), reason };
    let length = fs::metadata(path).map_err(io("read", path))?.len();
    if length > LIMIT {
        return Err(broken(format!("it has {length} bytes")));
    }
    let text = fs::read(path).map_err(io("read", path))?;
    let state: State = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if state.version != VERSION {
        return Err(broken(format!("its version is {} and not {VERSION}", state.version)));
    }
    Ok(state)
}

/// Whoever reads sees the old state or the new one, even if the machine stops in between.
fn write(folder: &Path, state: &State) -> Result<(), FolderError> {
    let (place, next) = (folder.join(STATE), folder.join(NEXT));
    let text = serde_json::to_vec(state)
        .map_err(|error| FolderError::State { path: place.clone(), reason: error.to_string() })?;
    let mut file = File::create(&next).map_err(io("write", &next))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io("write", &next))?;
    fs::rename(&next, &place).map_err(io("write", &place))?;
    // Not every system lets a folder be opened; the rename is then as durable as it gets.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{adam::AdamSettings, journal, journal::Step};

    fn settings(clip: &str) -> Settings {
        [("clip", clip), ("data", "abc")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn progress(step: u64) -> Progress {
        let mut adam = Adam::new(vec![0.1, 0.2], AdamSettings::new(1.0 / 3.0)).unwrap();
        adam.step(&[step as f64 / 7.0, -0.3]).unwrap();
        let guard = Guard::default();
        Progress { step, updates: step, answers: 16, worth: 0.1 + 0.2, adam, guard }
    }

    fn step(step: u64) -> Line {
        Line::Step(Step { step, ..Step::default() })
    }

    #[test]
    fn what_was_kept_is_there_again_to_the_bit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let mut run = RunFolder::begin(&path, settings("0.2")).unwrap();
        assert!(run.is_new() && run.progress().is_none() && run.placement().is_none());
        run.write(&step(1)).unwrap();
        run.keep(&progress(1)).unwrap();
        drop(run);
        let run = RunFolder::resume(&path, settings("0.2")).unwrap();
        assert_eq!(run.progress(), Some(&progress(1)));
        assert!(!run.is_new());
    }

    #[test]
    fn lines_after_the_kept_state_are_removed_whole_or_torn() {
        let home = tempfile::tempdir().unwrap();
        for after in ["", "{\"kind\":\"st", "not JSON\n", "{\"kind\":\"step\"}\n{"] {
            let path = home.path().join(format!("run{}", after.len()));
            let mut run = RunFolder::begin(&path, settings("0.2")).unwrap();
            run.write(&step(1)).unwrap();
            run.keep(&progress(1)).unwrap();
            run.write(&step(2)).unwrap();
            let journal = run.journal().to_owned();
            drop(run);
            let mut text = fs::read(&journal).unwrap();
            text.extend(after.bytes());
            fs::write(&journal, text).unwrap();
            let mut run = RunFolder::resume(&path, settings("0.2")).unwrap();
            run.write(&step(2)).unwrap();
            let found = journal::read(&journal).unwrap();
            assert_eq!((found.lines, found.torn), (vec![step(1), step(2)], false));
        }
    }

    #[test]
    fn a_state_that_was_being_written_when_the_process_died_does_not_count() {
        let home = tempfile::tempdir().unwrap();
        let mut run = RunFolder::begin(home.path(), settings("0.2")).unwrap();
        run.keep(&progress(3)).unwrap();
        drop(run);
        fs::write(home.path().join(NEXT), "{\"version\":1,\"sett").unwrap();
        let mut run = RunFolder::resume(home.path(), settings("0.2")).unwrap();
        assert_eq!(run.progress(), Some(&progress(3)));
        run.keep(&progress(4)).unwrap();
        assert!(!home.path().join(NEXT).exists());
    }

    #[test]
    fn a_process_that_died_before_its_journal_was_there_can_go_on() {
        let home = tempfile::tempdir().unwrap();
        drop(RunFolder::begin(home.path(), settings("0.2")).unwrap());
        fs::remove_file(home.path().join(FILE_NAME)).unwrap();
        assert!(RunFolder::resume(home.path(), settings("0.2")).unwrap().is_new());
        // And with nothing at all, one begins.
        let nothing = home.path().join("nothing");
        assert!(RunFolder::resume(&nothing, settings("0.2")).unwrap().is_new());
    }

    #[test]
    fn a_setting_that_changed_is_named_with_both_values() {
        let home = tempfile::tempdir().unwrap();
        drop(RunFolder::begin(home.path(), settings("0.2")).unwrap());
        let error = RunFolder::resume(home.path(), settings("0.3")).unwrap_err().to_string();
        assert!(error.starts_with("clip was 0.2 when"), "{error}");
        assert!(error.contains("is 0.3 now"), "{error}");
        let mut more = settings("0.2");
        more.insert("new".into(), "1".into());
        let error = RunFolder::resume(home.path(), more).unwrap_err().to_string();
        assert!(error.starts_with("new was not given when"), "{error}");
    }

    #[test]
    fn a_run_is_not_begun_over_another_nor_gone_on_with_while_it_runs() {
        let home = tempfile::tempdir().unwrap();
        let run = RunFolder::begin(home.path(), settings("0.2")).unwrap();
        let again = RunFolder::begin(home.path(), settings("0.2"));
        assert!(matches!(again, Err(FolderError::Taken { .. })));
        let beside = RunFolder::resume(home.path(), settings("0.2"));
        assert!(
            matches!(beside, Err(FolderError::Journal(JournalError::InUse { .. }))),
            "{beside:?}"
        );
        drop(run);
        fs::remove_file(home.path().join(STATE)).unwrap();
        let orphan = RunFolder::resume(home.path(), settings("0.2"));
        assert!(matches!(orphan, Err(FolderError::Taken { .. })));
    }

    #[test]
    fn a_broken_state_or_a_shortened_journal_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut run = RunFolder::begin(home.path(), settings("0.2")).unwrap();
        run.write(&step(1)).unwrap();
        run.keep(&progress(1)).unwrap();
        let journal = run.journal().to_owned();
        drop(run);
        fs::write(&journal, "").unwrap();
        let short = RunFolder::resume(home.path(), settings("0.2"));
        assert!(matches!(short, Err(FolderError::Journal(JournalError::Short { found: 0, .. }))));
        let good = fs::read_to_string(home.path().join(STATE)).unwrap();
        for bad in [
            "",
            "{}",
            &good[..good.len() / 2],
            &good.replace("\"version\":1", "\"version\":2"),
            &good.replacen("\"steps\":1", "\"steps\":-1", 1),
            &good.replace("\"answers\"", "\"answer\""),
        ] {
            assert_ne!(bad, good);
            fs::write(home.path().join(STATE), bad).unwrap();
            let found = RunFolder::resume(home.path(), settings("0.2"));
            assert!(matches!(found, Err(FolderError::State { .. })), "{bad}");
        }
    }

    #[test]
    fn a_discarded_run_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        RunFolder::begin(&path, settings("0.2")).unwrap().discard();
        assert!(!path.exists());
    }
}
