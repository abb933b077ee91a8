//! New files beside their places: put there together at the end, or gone without a trace.

use super::{ModelError, external::folder_of, temporary};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// An empty file beside `place`, with the permissions of any new file, which vanishes unless it is
/// persisted.
pub(crate) fn new_beside(place: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tla-");
    #[cfg(unix)]
    {
        // Temporary files are private by default.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    temporary::file(|| builder.tempfile_in(folder_of(place)))
}

/// Files beside their places. What is not [placed](Self::place) vanishes, and so does every
/// folder that was made for it.
#[derive(Debug, Default)]
pub struct Staged {
    // Dropped in this order: files go before the folders they lie in.
    files: Vec<(NamedTempFile, PathBuf)>,
    folders: NewFolders,
}

impl Staged {
    /// An empty file that is to be at `place`, with the permissions of any new file.
    pub fn new_file(place: &Path) -> Result<NamedTempFile, ModelError> {
        new_beside(place).map_err(|e| ModelError::io("write", place, e))
    }

    /// Takes a file that is written, and waits until the system has stored it.
    pub fn push(&mut self, file: NamedTempFile, place: PathBuf) -> Result<(), ModelError> {
        file.as_file().sync_all().map_err(|e| ModelError::io("write", &place, e))?;
        self.files.push((file, place));
        Ok(())
    }

    /// Takes a file with all that `source` has.
    pub fn copy(&mut self, source: &mut impl Read, place: PathBuf) -> Result<(), ModelError> {
        let mut file = Self::new_file(&place)?;
        io::copy(source, file.as_file_mut()).map_err(|e| ModelError::io("write", &place, e))?;
        self.push(file, place)
    }

    /// Takes what else was staged, to be placed later.
    pub fn append(&mut self, other: Self) {
        let Self { files, mut folders } = other;
        self.files.extend(files);
        self.folders.0.append(&mut folders.0);
    }

    /// Puts each file in its place, in the order in which they came: all of them, or none. What
    /// was in a place before an error is there again after it.
    pub fn place(self) -> Result<(), ModelError> {
        let _whole = temporary::pause();
        let Self { files, folders } = self;
        let several = files.len() > 1;
        let mut placed = Vec::with_capacity(files.len());
        for (file, place) in files {
            match exchanged(file, &place, several) {
                Ok(before) => placed.push((place, before)),
                Err(source) => {
                    let left = placed.into_iter().rev().filter_map(|(p, b)| taken_back(p, b));
                    let left: Vec<PathBuf> = left.collect();
                    return Err(match left.is_empty() {
                        true => ModelError::io("write", &place, source),
                        false => ModelError::HalfPlaced { path: place, left, source },
                    });
                }
            }
        }
        // What is not empty stays.
        drop(folders);
        Ok(())
    }

    /// Makes the folders from `out_folder` to `location`'s, and refuses what leads out of `out_folder`.
    pub(super) fn make_folders(&mut self, out_folder: &Path, location: &Path) -> io::Result<bool> {
        let mut folder = out_folder.to_owned();
        for part in location.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if fs::symlink_metadata(&folder).is_err() {
                temporary::empty_folder(&folder)?;
                self.folders.0.push(folder.clone());
            }
            if !fs::canonicalize(&folder)?.starts_with(out_folder) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Another name beside it of the file that was in a place.
type Before = Option<NamedTempFile<()>>;

/// Puts a file in its place. If it may have to be `undone`, what was there keeps another name.
fn exchanged(file: NamedTempFile, place: &Path, undone: bool) -> io::Result<Before> {
    let before = match undone && place.exists() {
        true => Some(second_name(place)?),
        false => None,
    };
    file.persist(place).map_err(|e| e.error)?;
    Ok(before)
}

fn second_name(place: &Path) -> io::Result<NamedTempFile<()>> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tla-");
    builder.make_in(folder_of(place), |name| match fs::hard_link(place, name) {
        // Of file systems without links it is a copy, which takes longer.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => fs::copy(place, name).map(drop),
        linked => linked,
    })
}

/// Puts back what was in a place; the place, if that fails.
fn taken_back(place: PathBuf, before: Before) -> Option<PathBuf> {
    let done = match before {
        Some(before) => before.into_temp_path().persist(&place).map_err(|e| e.error),
        None => fs::remove_file(&place),
    };
    done.is_err().then_some(place)
}

/// Folders that are removed again, the last one first, unless something is in them.
#[derive(Debug, Default)]
struct NewFolders(Vec<PathBuf>);

impl Drop for NewFolders {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(folder: &Path, names: &[&str]) -> Staged {
        let mut staged = Staged::default();
        for name in names {
            staged.copy(&mut "new".as_bytes(), folder.join(name)).unwrap();
        }
        staged
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|n| n.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_files_are_placed_over_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "old").unwrap();
        staged(folder.path(), &["a", "b"]).place().unwrap();
        assert_eq!(names(folder.path()), ["a", "b"]);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn when_a_file_cannot_be_placed_those_before_it_are_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "old").unwrap();
        let staged = staged(folder.path(), &["a", "b", "c"]);
        fs::create_dir_all(at("c/in the way")).unwrap();
        let error = staged.place().unwrap_err();
        assert!(error.to_string().contains(&at("c").display().to_string()), "{error}");
        assert_eq!(names(folder.path()), ["a", "c"]);
        assert_eq!(fs::read(at("a")).unwrap(), b"old");
    }

    #[test]
    fn what_cannot_be_taken_back_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (place, gone) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&place, "new").unwrap();
        assert_eq!(taken_back(place.clone(), None), None);
        assert_eq!(taken_back(gone.clone(), None), Some(gone));
    }
}
