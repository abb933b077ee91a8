//! Small files in and out: capped before they are read, whole or not at all when written.

use crate::model::{new_beside, temporary, way_out};
#[cfg(feature = "sign")]
use std::io::Write;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};
use tempfile::{NamedTempFile, TempDir};
use thiserror::Error;

/// The most bytes an adapter or an input of `pack` may have. The largest adapter has 16 MiB.
pub const LIMIT: u64 = 64 << 20;

/// Why a file could not be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// Nothing at this path.
    #[error("{} does not exist. Check the path", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error(
        "cannot {action} {}: {source}. {}",
        path.display(), way_out(source, "Check that the path may be used")
    )]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder or a device where a file is meant.
    #[error("{} is not a regular file. Give the path of a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Larger than anything meant here.
    #[error("{} has more than {limit} bytes. It is not the file that is meant here", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: u64,
    },
    /// No place for the output.
    #[error("the folder of {} does not exist. Create it first", path.display())]
    NoFolder {
        /// The output.
        path: PathBuf,
    },
    /// An output that was protected.
    #[error("{} is read-only. Choose another output, or make it writable", path.display())]
    ReadOnly {
        /// The output.
        path: PathBuf,
    },
    /// An output that is never replaced.
    #[error("{} exists and will not be overwritten. Choose another output, or move it away", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Output and input are one file.
    #[error("{} is an input of this command and will not be overwritten. Choose another output", path.display())]
    WouldOverwriteInput {
        /// The output.
        path: PathBuf,
    },
    /// An output that is neither kind of place.
    #[error(
        "{} ends neither in .{ending} nor in a separator, and the output has the format of the model. \
         Name a .{ending} file, or a folder",
        path.display()
    )]
    Neither {
        /// The output.
        path: PathBuf,
        /// Ending of the model's files.
        ending: &'static str,
    },
    /// One file for a checkpoint that has several.
    #[error(
        "{} would be one file, and the checkpoint has {files} and their index. \
         Name a folder: end the path in a separator",
        path.display()
    )]
    OneFile {
        /// The output.
        path: PathBuf,
        /// Files with weights.
        files: usize,
    },
    /// A model that programs would load in place of the output, or with it.
    #[error(
        "{} is there already and would be taken for the new model or a part of it. \
         Choose another folder, or remove the file",
        path.display()
    )]
    TakenFor {
        /// The model in the output folder.
        path: PathBuf,
    },
    /// A file of the output folder that would be replaced by another, or would say something untrue of
    /// the output.
    #[error(
        "{} is there already and belongs to another model, or to another export of it. \
         Choose another folder, or empty this one",
        path.display()
    )]
    OfAnother {
        /// The file in the output folder.
        path: PathBuf,
    },
    /// A graph beside the one that was given, which nobody named.
    #[error(
        "{} is there already, beside the model that was given. To replace it, name it: -o {}",
        path.display(),
        path.display()
    )]
    BesideTheModel {
        /// The place of the output.
        path: PathBuf,
    },
    /// A list of what was in the output folder.
    #[error(
        "{} is there already and says what this folder holds, which would be true no longer. \
         Choose another folder, or remove the file",
        path.display()
    )]
    Listed {
        /// The manifest.
        path: PathBuf,
    },
    /// A link to nothing.
    #[error("{} is a link to a file that does not exist. Mend the link, or remove it", path.display())]
    Dangling {
        /// The link.
        path: PathBuf,
    },
}

impl FileError {
    /// The operating system refused.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound if action == "read" => Self::Missing { path: path.into() },
            _ => Self::Io { action, path: path.into(), source },
        }
    }
}

/// The bytes of a file of at most [`LIMIT`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_at_most(path, LIMIT)
}

/// The bytes of a file that has no more than `limit`.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::io("read", path, source);
    // Asked first: to open a pipe may wait for ever.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileError::NotAFile { path: path.into() });
    }
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > limit {
        true => Err(FileError::TooLarge { path: path.into(), limit }),
        false => Ok(bytes),
    }
}

/// Refuses an output that is an input, is protected, is no file, or has no folder to lie in.
pub fn check_output(out: &Path, inputs: &[PathBuf]) -> Result<(), FileError> {
    if out.file_name().is_none() {
        return Err(FileError::NotAFile { path: out.into() });
    }
    if !folder(out).is_dir() {
        return Err(FileError::NoFolder { path: out.into() });
    }
    // An output that does not exist yet is none of these.
    let Ok(meta) = fs::metadata(out) else { return Ok(()) };
    if !meta.is_file() {
        return Err(FileError::NotAFile { path: out.into() });
    }
    let place = |path: &Path| fs::canonicalize(path).ok();
    let target = place(out);
    if target.is_some() && inputs.iter().any(|input| place(input) == target) {
        return Err(FileError::WouldOverwriteInput { path: out.into() });
    }
    // A rename does not ask the file it replaces.
    match meta.permissions().readonly() {
        true => Err(FileError::ReadOnly { path: out.into() }),
        false => Ok(()),
    }
}

/// Refuses an output that exists, or has no folder to lie in.
#[cfg(feature = "sign")]
pub fn check_new(out: &Path) -> Result<(), FileError> {
    // A link that leads nowhere exists too.
    match fs::symlink_metadata(out) {
        Ok(_) => Err(FileError::Exists { path: out.into() }),
        Err(_) => check_output(out, &[]),
    }
}

/// Writes two files that do not exist yet, the first for its owner only.
#[cfg(feature = "sign")]
pub fn write_new_pair(private: (&Path, &[u8]), public: (&Path, &[u8])) -> Result<(), FileError> {
    let (private_out, public_out) = (private.0, public.0);
    let public = stage(public_out, &mut &*public.1)?;
    let failed = |source| FileError::io("write", private_out, source);
    let mut file = tempfile::Builder::new()
        .prefix(".tla-")
        .tempfile_in(folder(private_out))
        .map_err(failed)?;
    file.write_all(private.1).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    place_new(file, private_out)?;
    place_new(public, public_out).inspect_err(|_| {
        // Half a pair is of no use; the error above is the one to tell.
        let _ = fs::remove_file(private_out);
    })
}

#[cfg(feature = "sign")]
fn place_new(staged: NamedTempFile, out: &Path) -> Result<(), FileError> {
    match staged.persist_noclobber(out) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(FileError::Exists { path: out.into() })
        }
        Err(error) => Err(FileError::io("write", out, error.error)),
    }
}

/// A folder that does not exist yet, filled beside its place. Nothing is left of it unless it is
/// [placed](Self::place).
pub struct NewFolder {
    folder: TempDir,
    place: PathBuf,
}

impl NewFolder {
    /// An empty folder that is to be `place`, with the permissions of any new folder.
    pub fn new(place: &Path) -> Result<Self, FileError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tla-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let folder = temporary::folder(|| builder.tempdir_in(folder(place)))
            .map_err(|source| FileError::io("write", place, source))?;
        Ok(Self { folder, place: place.into() })
    }

    /// Where it is filled.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Changes a path in it to the one it will have in its place.
    pub fn name(&self, path: &mut PathBuf) {
        let whole = fs::canonicalize(self.path()).unwrap_or_default();
        let rest = path.strip_prefix(self.path()).or_else(|_| path.strip_prefix(whole));
        if let Ok(named) = rest.map(|rest| self.place.join(rest)) {
            *path = named;
        }
    }

    /// Puts it in its place, where nothing may be.
    pub fn place(self) -> Result<(), FileError> {
        fs::rename(self.path(), &self.place)
            .map_err(|source| FileError::io("write", &self.place, source))?;
        // It is no longer where it would be removed.
        let _ = self.folder.keep();
        Ok(())
    }
}

/// Writes files into a folder that does not exist yet; nothing is left of it on failure.
pub fn write_new_folder(out: &Path, content: &[(&str, &[u8])]) -> Result<(), FileError> {
    let folder = NewFolder::new(out)?;
    for (name, bytes) in content {
        write(&folder.path().join(name), bytes).map_err(|mut error| {
            if let FileError::Io { path, .. } = &mut error {
                folder.name(path);
            }
            error
        })?;
    }
    folder.place()
}

/// Writes a whole file beside its place, then renames it.
pub fn write(out: &Path, bytes: &[u8]) -> Result<(), FileError> {
    place(stage(out, &mut &*bytes)?, out)
}

/// Makes sure that a file can be made where `out` is to be, for what takes long to compute.
#[cfg(feature = "train")]
pub fn probe(out: &Path) -> Result<(), FileError> {
    new_beside(out).map(drop).map_err(|source| FileError::io("write", out, source))
}

/// Everything from `source` in a file beside `out`, which vanishes unless it is placed.
pub fn stage(out: &Path, source: &mut impl Read) -> Result<NamedTempFile, FileError> {
    let failed = |source| FileError::io("write", out, source);
    let mut file = new_beside(out).map_err(failed)?;
    // Errors of the temporary file would name it.
    let inner = file.as_file_mut();
    io::copy(source, inner).and_then(|_| inner.sync_all()).map_err(failed)?;
    Ok(file)
}

/// Puts a staged file in its place.
pub fn place(staged: NamedTempFile, out: &Path) -> Result<(), FileError> {
    match staged.persist(out) {
        Ok(_) => Ok(()),
        Err(error) => Err(FileError::io("write", out, error.error)),
    }
}

/// The folder a path lies in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
