//! The index of a checkpoint in several files. It comes with the checkpoint, so it is not
//! trusted: every file it names must be one of its own folder.

use super::{
    CheckpointError,
    header::{self, Pairs},
};
use crate::model::{ModelError, home::is_of_folder};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// The most bytes of an index; that of a model of 700 billion parameters has 9 MB.
const MAX_INDEX: u64 = 100_000_000;

/// An index and the files it names.
#[derive(Debug)]
pub(super) struct Index {
    /// The file's contents.
    pub bytes: Vec<u8>,
    /// The files by name, with the tensors the index expects in each.
    pub files: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Raw {
    weight_map: Pairs<String>,
}

/// Reads and checks an index, but not yet against the files.
pub(super) fn read(path: &Path) -> Result<Index, ModelError> {
    let io = |e| ModelError::io("read", path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_INDEX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_INDEX {
        let (bytes, limit) = (bytes.len() as u64, MAX_INDEX);
        return Err(CheckpointError::IndexTooLarge { path: path.into(), bytes, limit }.into());
    }
    let raw: Raw = serde_json::from_slice(&bytes)
        .map_err(|source| CheckpointError::BadIndex { path: path.into(), source })?;
    let Pairs(map) = raw.weight_map;
    header::unique(path, map.iter().map(|(name, _)| name.as_str()))?;
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for (name, file) in map {
        files.entry(file).or_default().push(name);
    }
    Ok(Index { bytes, files })
}

/// The path of a file the index names, links followed.
pub(super) fn locate(index: &Path, folder: &Path, file: &str) -> Result<PathBuf, ModelError> {
    let escapes = || CheckpointError::Escapes { path: index.into(), file: file.into() };
    let mut parts = Path::new(file).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    // A backslash or a colon is a way out of the folder on some systems only; refuse on all.
    // The ending keeps an output folder's other files from being written by an index.
    if !plain || file.contains(['/', '\\', ':', '\0']) || !file.ends_with(".safetensors") {
        return Err(escapes().into());
    }
    let asked = folder.join(file);
    let io = |e| ModelError::io("read", &asked, e);
    let path = match fs::canonicalize(&asked) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let file = file.into();
            return Err(CheckpointError::MissingFile { path: index.into(), file }.into());
        }
        Err(e) => return Err(io(e)),
    };
    let home = fs::canonicalize(folder).map_err(io)?;
    if !is_of_folder(&path, &home) {
        return Err(escapes().into());
    }
    if !fs::metadata(&path).map_err(io)?.is_file() {
        return Err(ModelError::NotAFile { path });
    }
    Ok(path)
}
