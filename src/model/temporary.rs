//! What a program has made and not yet put in its place, so that one that is told to end can remove it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Paths and what removes each; none before a program [asks](note) for it. What is gone from its path
/// stays listed: the names are drawn at random, and no other file gets them.
static MADE: Mutex<Option<Vec<(PathBuf, Remove)>>> = Mutex::new(None);

type Remove = fn(&Path) -> io::Result<()>;

/// A time in which nothing temporary is made, and nothing that is put in its place is cut short.
pub struct Pause {
    made: MutexGuard<'static, Option<Vec<(PathBuf, Remove)>>>,
}

/// Waits until nobody else pauses.
pub(crate) fn pause() -> Pause {
    Pause { made: MADE.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// From now on, what is made is listed.
pub fn note() {
    pause().made.get_or_insert_default();
}

/// Removes what was listed and is still there. The program must end before it lets go of what it gets,
/// or go on without what it made.
#[must_use]
pub fn remove_all() -> Pause {
    let mut pause = pause();
    let made = pause.made.iter_mut().flat_map(|made| made.drain(..).rev());
    // Nobody is left to be told of what cannot be removed.
    made.for_each(|(path, remove)| drop(remove(&path)));
    pause
}

/// Makes a file that is removed.
pub(crate) fn file<T: AsRef<Path>>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    listed(|path| fs::remove_file(path), make)
}

/// Makes a folder that is removed with all that is in it.
pub fn folder<T: AsRef<Path>>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    listed(|path| fs::remove_dir_all(path), make)
}

/// Makes a folder that is removed if nothing is in it.
pub fn empty_folder(path: &Path) -> io::Result<()> {
    listed(|path| fs::remove_dir(path), || fs::create_dir(path).map(|()| path)).map(drop)
}

fn listed<T: AsRef<Path>>(remove: Remove, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut pause = pause();
    let made = make()?;
    if let Some(list) = &mut *pause.made {
        list.push((made.as_ref().to_owned(), remove));
    }
    Ok(made)
}
