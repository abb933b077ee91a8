//! Where a merged model goes: a file, or a folder that can be deployed.

use super::{
    CliError,
    files::{self, FileError},
};
use crate::model::{OnnxModel, proto::ModelProto, write_model};
use std::{
    fs,
    path::{self, Path, PathBuf},
};
use tempfile::NamedTempFile;

/// What a program needs beside the model to answer with it.
const SIDE_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
];

/// A place for a merged model.
pub enum Destination {
    /// One .onnx file.
    File(PathBuf),
    /// A folder, which gets `model.onnx` and copies of the files beside the input.
    Folder(PathBuf),
}

impl Destination {
    /// An existing folder and a path that ends in a separator are folders; a file ends in .onnx.
    pub fn new(out: &Path) -> Result<Self, FileError> {
        let last = out.as_os_str().as_encoded_bytes().last().copied().unwrap_or_default();
        if out.is_dir() || path::is_separator(last.into()) {
            return Ok(Self::Folder(out.into()));
        }
        match out.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
            true => Ok(Self::File(out.into())),
            false => Err(FileError::Neither { path: out.into() }),
        }
    }

    /// The .onnx file.
    fn model(&self) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Folder(folder) => folder.join("model.onnx"),
        }
    }

    /// Refuses a place where nothing can be written without harm.
    pub fn check(&self, inputs: &[PathBuf]) -> Result<(), FileError> {
        let Self::Folder(folder) = self else { return files::check_output(&self.model(), inputs) };
        if !folder.exists() {
            return match files::folder(folder).is_dir() {
                true => Ok(()),
                false => Err(FileError::NoFolder { path: folder.clone() }),
            };
        }
        files::check_output(&self.model(), inputs)?;
        SIDE_FILES.iter().try_for_each(|name| files::check_output(&folder.join(name), &[]))
    }

    /// Writes the model and what belongs beside it; nothing new is left behind on failure.
    pub fn write(
        &self,
        proto: &ModelProto,
        base: &OnnxModel,
        inputs: &[PathBuf],
    ) -> Result<(), CliError> {
        let sources: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let Self::Folder(folder) = self else {
            write_model(proto, &self.model(), &sources)?;
            return Ok(());
        };
        let created = Created::folder(folder)?;
        let staged = stage_side_files(base.folder(), folder)?;
        write_model(proto, &self.model(), &sources)?;
        for (file, place) in staged {
            files::place(file, &place)?;
        }
        created.keep();
        Ok(())
    }
}

/// Copies of the side files beside their places, in the order of the list.
fn stage_side_files(from: &Path, to: &Path) -> Result<Vec<(NamedTempFile, PathBuf)>, FileError> {
    let home = |path: &Path| fs::canonicalize(path).ok();
    if home(from) == home(to) {
        return Ok(Vec::new());
    }
    let mut staged = Vec::new();
    for name in SIDE_FILES {
        let (source, place) = (from.join(name), to.join(name));
        if !source.is_file() {
            continue;
        }
        let mut file = fs::File::open(&source).map_err(|e| FileError::io("read", &source, e))?;
        staged.push((files::stage(&place, &mut file)?, place));
    }
    Ok(staged)
}

/// A folder that vanishes again, with all that is in it, unless it was there before or is kept.
struct Created(Option<PathBuf>);

impl Created {
    fn folder(path: &Path) -> Result<Self, FileError> {
        if path.is_dir() {
            return Ok(Self(None));
        }
        fs::create_dir(path).map_err(|e| FileError::io("write", path, e))?;
        Ok(Self(Some(path.into())))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The error that led here is the one to tell.
            let _ = fs::remove_dir_all(path);
        }
    }
}
