//! New files beside their places: put there together at the end, or gone without a trace.

use super::{ModelError, external::folder_of};
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
    builder.tempfile_in(folder_of(place))
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

    /// Puts each file in its place, in the order in which they came.
    pub fn place(self) -> Result<(), ModelError> {
        let Self { files, folders } = self;
        for (file, place) in files {
            file.persist(&place).map_err(|e| ModelError::io("write", &place, e.error))?;
        }
        // What is not empty stays.
        drop(folders);
        Ok(())
    }

    /// Makes the folders from `home` to `location`'s, and refuses what leads out of `home`.
    pub(super) fn make_folders(&mut self, home: &Path, location: &Path) -> io::Result<bool> {
        let mut folder = home.to_owned();
        for part in location.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if fs::symlink_metadata(&folder).is_err() {
                fs::create_dir(&folder)?;
                self.folders.0.push(folder.clone());
            }
            if !fs::canonicalize(&folder)?.starts_with(home) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Folders that are removed again, the last one first, unless something is in them.
#[derive(Debug, Default)]
struct NewFolders(Vec<PathBuf>);

impl Drop for NewFolders {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}
