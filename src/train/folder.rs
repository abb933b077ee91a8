//! The folder of a run: its journal, and the state it resumes from.
//!
//! The state is written after every step, and names how long the journal was; on resuming, what the
//! journal holds beyond that is removed. The journal's lock keeps a second process out of the
//! folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    journal::{FILE_NAME, Journal, JournalError, Line, Placement},
    state::{NEXT, Progress, STATE, Settings, State, StateError},
};

/// Why a run can neither begin nor go on in a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
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
    /// A journal without the state its run would go on from.
    #[error(
        "{} holds a journal and no {STATE}, so its run cannot go on. Restore that file, choose another \
         run folder with --run, or delete this one", path.display()
    )]
    NoState {
        /// The run folder.
        path: PathBuf,
    },
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
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
        let journal = Journal::open(path)?;
        if path.join(STATE).exists() {
            return Err(FolderError::Taken { path: path.to_path_buf() });
        }
        // A process that died before it had written anything leaves an empty journal.
        if journal.bytes() > 0 {
            return Err(FolderError::NoState { path: path.to_path_buf() });
        }
        let state = State::new(settings);
        state.write(path)?;
        Ok(Self { path: path.to_path_buf(), journal, state })
    }

    /// Goes on with the run in a folder, or begins one where there is none.
    ///
    /// # Errors
    /// If one of `settings` is not what it was, another process is at work on the run, the state
    /// is broken, or the system refuses.
    pub fn resume(path: &Path, settings: Settings) -> Result<Self, FolderError> {
        if !path.join(STATE).exists() {
            return Self::begin(path, settings);
        }
        let mut journal = Journal::open(path)?;
        let state = State::read(path)?;
        if let Some((name, was, now)) = state.difference(&settings) {
            return Err(FolderError::Changed { path: path.to_path_buf(), name, was, now });
        }
        journal.shorten(state.journal_bytes)?;
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
        Ok(self.state.write(&self.path)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{
        adam::{Adam, AdamSettings},
        flat::Flat,
        guard::Guard,
        journal,
        journal::Step,
    };

    fn settings(clip: &str) -> Settings {
        [("clip", clip), ("data", "abc")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn progress(step: u64) -> Progress {
        let mut adam = Adam::new(vec![0.1, 0.2], AdamSettings::new(1.0 / 3.0)).unwrap();
        adam.step(&[step as f64 / 7.0, -0.3]).unwrap();
        let (guard, flat) = (Guard::default(), Flat::default());
        Progress {
            step,
            updates: step,
            as_after: step,
            answers: 16,
            cut: 4,
            worth: 0.1 + 0.2,
            adam,
            guard,
            flat,
        }
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
        // Or before its state was.
        fs::remove_file(home.path().join(STATE)).unwrap();
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
        for beside in [RunFolder::begin, RunFolder::resume] {
            let beside = beside(home.path(), settings("0.2"));
            assert!(
                matches!(beside, Err(FolderError::Journal(JournalError::InUse { .. }))),
                "{beside:?}"
            );
        }
        drop(run);
        let again = RunFolder::begin(home.path(), settings("0.2"));
        assert!(matches!(again, Err(FolderError::Taken { .. })));
        fs::remove_file(home.path().join(STATE)).unwrap();
        fs::write(home.path().join(FILE_NAME), "{}\n").unwrap();
        let orphan = RunFolder::resume(home.path(), settings("0.2"));
        assert!(matches!(orphan, Err(FolderError::NoState { .. })));
    }

    #[test]
    fn a_broken_state_or_a_shortened_journal_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut run = RunFolder::begin(home.path(), settings("0.2")).unwrap();
        run.write(&step(1)).unwrap();
        run.keep(&progress(1)).unwrap();
        let journal = run.journal().to_owned();
        drop(run);
        let lines = fs::read(&journal).unwrap();
        fs::write(&journal, "").unwrap();
        let short = RunFolder::resume(home.path(), settings("0.2"));
        assert!(matches!(short, Err(FolderError::Journal(JournalError::Short { found: 0, .. }))));
        fs::write(&journal, lines).unwrap();
        let good = fs::read_to_string(home.path().join(STATE)).unwrap();
        for bad in [
            "",
            "{}",
            &good[..good.len() / 2],
            &good.replace("\"version\":4", "\"version\":3"),
            &good.replacen("\"steps\":1", "\"steps\":-1", 1),
            &good.replace("\"answers\"", "\"answer\""),
        ] {
            assert_ne!(bad, good);
            fs::write(home.path().join(STATE), bad).unwrap();
            let found = RunFolder::resume(home.path(), settings("0.2"));
            assert!(matches!(found, Err(FolderError::State(StateError::Broken { .. }))), "{bad}");
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
