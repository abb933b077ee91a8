//! Event files for TensorBoard, written as a run goes.
//!
//! Every start of a run has a file of its own, numbered: `events.out.tfevents.0000000001.tla`. Its
//! second entry tells TensorBoard that the run starts at a step, so what an earlier start said of
//! that step and later ones is void: a run that was killed and goes on has one curve, not two.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

use super::{
    event::{Event, Held, Histogram, Named, SessionLog, Status, Summary, What},
    metric::{METRICS, phases},
    tfrecord::record,
};
use crate::train::journal::Step;

/// Where the event files lie in a run folder.
pub const FOLDER: &str = "tensorboard";
/// What every reader of event files expects first.
const FILE_VERSION: &str = "brain.Event:2";
/// With more values than this v is a histogram only.
const MOST_CURVES: usize = 64;
/// The most starts of one run.
const MOST_STARTS: u32 = 1_000_000;

/// Why an event file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventFileError {
    /// The system refused.
    #[error("cannot {action} {}: {source}. Check the path and free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// An event file being written.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins the next event file of a run folder, which exists. `first_step` is the step that the
    /// run starts or goes on with.
    ///
    /// # Errors
    /// If the folder or file cannot be made.
    pub fn create(run_folder: &Path, first_step: u64) -> Result<Self, EventFileError> {
        let folder = run_folder.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|source| EventFileError::Io {
            action: "make",
            path: folder.clone(),
            source,
        })?;
        let mut path = folder.clone();
        for start in 1..=MOST_STARTS {
            path = folder.join(format!("events.out.tfevents.{start:010}.tla"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Self { file, path };
                    events.write(0, What::FileVersion(FILE_VERSION.to_owned()))?;
                    let log = SessionLog { status: Status::Start.into() };
                    events.write(first_step, What::SessionLog(log))?;
                    return Ok(events);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(EventFileError::Io { action: "create", path, source }),
            }
        }
        let source = std::io::Error::from(ErrorKind::AlreadyExists);
        Err(EventFileError::Io { action: "create", path, source })
    }

    /// Writes the numbers of a step and v after it, in one write.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn step(&mut self, step: &Step, v: &[f32]) -> Result<(), EventFileError> {
        let value = named(step, v);
        self.write(step.step, What::Summary(Summary { value }))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, step: u64, what: What) -> Result<(), EventFileError> {
        // A clock before 1970 is set wrong; the curves over steps are right all the same.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event {
            wall_time: since.as_secs_f64(),
            step: i64::try_from(step).unwrap_or(i64::MAX),
            what: Some(what),
        };
        self.file.write_all(&record(&event.encode_to_vec())).map_err(|source| EventFileError::Io {
            action: "write to",
            path: self.path.clone(),
            source,
        })
    }
}

fn named(step: &Step, v: &[f32]) -> Vec<Named> {
    // TensorBoard's own type for a number is f32.
    let simple = |tag: String, x: f64| Named { tag, value: Some(Held::Simple(x as f32)) };
    let mut found = Vec::new();
    for metric in METRICS {
        found.extend((metric.of)(step).map(|x| simple(metric.tag.to_owned(), x)));
    }
    found.extend(phases(step).map(|(phase, seconds)| simple(format!("time/{phase}"), seconds)));
    let v: Vec<f64> = v.iter().map(|x| f64::from(*x)).collect();
    if v.len() <= MOST_CURVES {
        found.extend(v.iter().enumerate().map(|(at, x)| simple(format!("v/{at}"), *x)));
    }
    found.extend(
        Histogram::of(&v).map(|histogram| Named {
            tag: "v".to_owned(),
            value: Some(Held::Histogram(histogram)),
        }),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{example::step, tfrecord::records};

    fn events(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let (found, torn) = records(&bytes);
        assert!(!torn);
        found.into_iter().map(|data| Event::decode(data).unwrap()).collect()
    }

    fn value(event: &Event, tag: &str) -> Option<f32> {
        let Some(What::Summary(summary)) = &event.what else { return None };
        let named = summary.value.iter().find(|named| named.tag == tag)?;
        match named.value {
            Some(Held::Simple(x)) => Some(x),
            _ => None,
        }
    }

    #[test]
    fn what_was_written_is_read_back_step_by_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 1).unwrap();
        for number in 1..=3 {
            file.step(&step(number), &[0.5, -0.25]).unwrap();
            // On disk as soon as it is written.
            assert_eq!(events(file.path()).len(), 2 + number as usize);
        }
        let found = events(file.path());
        assert_eq!(found[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
        assert_eq!(found[1].what, Some(What::SessionLog(SessionLog { status: 1 })));
        for (event, number) in found[2..].iter().zip(1u64..) {
            let wrote = step(number);
            assert_eq!(event.step, number as i64);
            assert_eq!(value(event, "train/reward"), wrote.reward_mean.map(|x| x as f32));
            assert_eq!(value(event, "train/groups_without_variance"), Some(1.0));
            assert_eq!(value(event, "time/rollout"), Some(wrote.rollout_seconds as f32));
            assert_eq!(value(event, "time/step"), Some(wrote.seconds as f32));
            assert_eq!([0, 1].map(|i| value(event, &format!("v/{i}"))), [Some(0.5), Some(-0.25)]);
            assert_eq!(value(event, "train/kl"), None, "what was not measured is not there");
        }
        assert!(found.is_sorted_by(|a, b| a.wall_time <= b.wall_time));
    }

    #[test]
    fn a_run_that_goes_on_gets_a_file_of_its_own_that_says_from_which_step() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 1).unwrap();
        let second = EventFile::create(folder.path(), 41).unwrap();
        let name = |file: &EventFile| file.path().file_name().unwrap().to_owned();
        assert_eq!(name(&first), "events.out.tfevents.0000000001.tla");
        assert!(name(&first) < name(&second), "readers go by the order of the names");
        assert_eq!(events(second.path())[1].step, 41);
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FOLDER), b"a file").unwrap();
        let error = EventFile::create(folder.path(), 1).unwrap_err().to_string();
        assert!(error.contains("tensorboard"), "{error}");
    }
}
