//! The folder in which tokenizer and configurations are looked for, models in the layout of
//! transformers.js, `onnx/model.onnx` with all else in the folder above, and what belongs to a folder.

use super::{ModelError, external::folder_of};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder in which transformers.js looks for graphs.
pub(crate) const GRAPHS: &str = "onnx";

/// Files by which the folder of a model that runs is known.
const MARKS: [&str; 3] = ["config.json", "tokenizer.json", "genai_config.json"];

/// The folder of the model at `model`, or the one above it if that has the layout of transformers.js.
pub(super) fn home_of(model: &Path) -> PathBuf {
    let folder = folder_of(model);
    let (named, above) = match folder.file_name() {
        Some(name) => (name == GRAPHS, folder_of(folder).to_owned()),
        // The working folder, or one whose path ends in dots.
        None => (fs::canonicalize(folder).is_ok_and(|f| f.ends_with(GRAPHS)), folder.join("..")),
    };
    let marked = |folder: &Path| MARKS.iter().any(|name| folder.join(name).exists());
    match named && !marked(folder) && marked(&above) {
        true => above,
        false => folder.to_owned(),
    }
}

/// Whether `path` lies in a model's folder, links followed in both: in it or below it, or in the blobs
/// of the cache that the folder is a snapshot of.
pub(super) fn is_of_folder(path: &Path, folder: &Path) -> bool {
    path.starts_with(folder) || path.parent().is_some_and(|at| Some(at) == blobs(folder).as_deref())
}

/// In the cache of the Hugging Face hub, `models--…/snapshots/<revision>` holds nothing but folders and
/// links into `models--…/blobs`.
fn blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().skip(1).find(|above| above.ends_with("snapshots"))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str()?;
    name.starts_with("models--").then(|| repository.join("blobs"))
}

/// Where the model lies below its home, if not right in it.
pub(super) fn below_home(model: &Path) -> Option<PathBuf> {
    let moved = home_of(model) != folder_of(model);
    moved.then(|| Path::new(GRAPHS).join(model.file_name().unwrap_or_default()))
}

/// The only graph in the folder `onnx` of `folder`, `None` if there is no such folder, or none in it.
///
/// # Errors
/// If there are several, or the folder cannot be read.
pub(super) fn only_graph(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let folder = folder.join(GRAPHS);
    if !folder.is_dir() {
        return Ok(None);
    }
    let failed = |e| ModelError::io("read", &folder, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "onnx") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => {
            let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
            let names = found.iter().filter_map(name).collect::<Vec<_>>().join(", ");
            Err(ModelError::SeveralGraphs { path: folder, names })
        }
    }
}
