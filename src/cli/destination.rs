//! Where a changed model goes: a file, or a folder that can be deployed.

use super::{
    CliError,
    files::{self, FileError},
    side_files,
};
use crate::{
    model::{
        Checkpoint, Container, Contents, GRAPHS, Model, OnnxModel, Staged, Untouched,
        proto::ModelProto, stage_model, temporary,
    },
    surgery::CheckpointMerge,
};
use std::{
    fs,
    path::{self, Path, PathBuf},
};

/// A place for a merged or grafted model.
pub struct Destination {
    /// The file; in a folder, `model` with the ending of the format, or `onnx` and the name of the
    /// input if that has the layout of transformers.js. In a folder, an index replaces it if there is
    /// one.
    model: PathBuf,
    /// A folder, which gets copies of the files beside the input too.
    folder: Option<PathBuf>,
}

impl Destination {
    /// An existing folder and a path that ends in a separator are folders; a file ends like the
    /// files of the model's format.
    pub fn new(out: &Path, model: &Model) -> Result<Self, FileError> {
        let ending = model.container().kind().name();
        let last = out.as_os_str().as_encoded_bytes().last().copied().unwrap_or_default();
        if out.is_dir() || path::is_separator(last.into()) {
            let model = match model {
                Model::Onnx(graph) => match graph.below_home() {
                    None => side_files::named_graph(graph)?,
                    below => below,
                },
                Model::Safetensors(_) => None,
            };
            let model = model.unwrap_or_else(|| Path::new("model").with_extension(ending));
            let model = out.join(model);
            return Ok(Self { model, folder: Some(out.into()) });
        }
        match out.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending)) {
            true => Ok(Self { model: out.into(), folder: None }),
            false => Err(FileError::Neither { path: out.into(), ending }),
        }
    }

    /// The place of the index of a checkpoint in several files.
    fn index(&self) -> PathBuf {
        self.model.with_extension("safetensors.index.json")
    }

    /// The place of each file with weights, in the order of the model's.
    fn weights(&self, model: &Model) -> Result<Vec<PathBuf>, FileError> {
        let Model::Safetensors(checkpoint) = model else { return Ok(vec![self.model.clone()]) };
        let shards = checkpoint.shards();
        match (&self.folder, checkpoint.index()) {
            (_, None) => Ok(vec![self.model.clone()]),
            (Some(folder), _) => Ok(shards.iter().map(|shard| folder.join(&shard.name)).collect()),
            (None, Some(_)) => {
                Err(FileError::OneFile { path: self.model.clone(), files: shards.len() })
            }
        }
    }

    /// Refuses a place where nothing can be written without harm. What to say of files that are there
    /// and stay.
    pub fn check(&self, model: &Model, inputs: &[PathBuf]) -> Result<Option<String>, FileError> {
        let mut places = self.weights(model)?;
        let check = |path: &PathBuf| files::check_output(path, inputs);
        let Some(folder) = &self.folder else {
            return places.iter().try_for_each(check).map(|()| None);
        };
        let home = model.container().home();
        for name in side_files::SIDE_FILES {
            side_files::open(&home, name)?;
        }
        if !folder.exists() {
            return match files::folder(folder).is_dir() {
                true => Ok(None),
                false => Err(FileError::NoFolder { path: folder.clone() }),
            };
        }
        if let Model::Safetensors(checkpoint) = model {
            places.extend(checkpoint.index().map(|_| self.index()));
        }
        // A folder that the layout asks for is made with the files.
        places.iter().filter(|place| files::folder(place).exists()).try_for_each(check)?;
        side_files::SIDE_FILES
            .iter()
            .try_for_each(|name| files::check_output(&folder.join(name), &[]))?;
        let own = fs::canonicalize(&home).ok() == fs::canonicalize(folder).ok();
        if !own || matches!(model, Model::Safetensors(_)) {
            refuse_other_models(folder, &places)?;
        }
        if own && matches!(model, Model::Onnx(_)) && self.model.exists() {
            return Err(FileError::BesideTheModel { path: self.model.clone() });
        }
        let kept = if own { Vec::new() } else { side_files::kept(folder, &home)? };
        Ok((!kept.is_empty()).then(|| {
            format!(
                "{}: kept {}, which the model has otherwise. Remove what should be as the model has it, \
                 and run this again.",
                folder.display(),
                kept.join(", ")
            )
        }))
    }

    /// The folder as a place to write in; made if it is not there.
    pub fn open(&self) -> Result<Created, FileError> {
        let mut created = Created(Vec::new());
        if let Some(folder) = &self.folder {
            created.folder(folder)?;
            created.folder(files::folder(&self.model))?;
        }
        Ok(created)
    }

    /// Writes a graph and what belongs beside it; nothing new is left behind on failure.
    pub fn write(&self, proto: &ModelProto, base: &OnnxModel) -> Result<(), CliError> {
        let created = self.open()?;
        self.stage_graph(proto, base, &mut Untouched)?.place()?;
        created.keep();
        Ok(())
    }

    /// Writes a graph with other contents, its data files and what belongs beside it, all next to
    /// their places.
    pub fn stage_graph<C: Contents>(
        &self,
        proto: &ModelProto,
        base: &OnnxModel,
        contents: &mut C,
    ) -> Result<Staged, CliError>
    where
        CliError: From<C::Error>,
    {
        let mut staged = self.stage_side_files(&base.home())?;
        let (_, model) = stage_model(base, proto, &self.model, contents)?;
        staged.append(model);
        Ok(staged)
    }

    /// Writes the files of a merged checkpoint, its index and what belongs beside it, all next
    /// to their places.
    pub fn stage(
        &self,
        merge: &mut CheckpointMerge<'_>,
        model: &Model,
        base: &Checkpoint,
    ) -> Result<Staged, CliError> {
        let mut staged = Staged::default();
        for (shard, place) in base.shards().iter().zip(self.weights(model)?) {
            let mut file = Staged::new_file(&place)?;
            merge.write(shard, file.as_file_mut(), &place)?;
            staged.push(file, place)?;
        }
        if let Some(mut index) = base.index() {
            staged.copy(&mut index, self.index())?;
        }
        staged.append(self.stage_side_files(&base.home())?);
        Ok(staged)
    }

    /// Copies of the side files beside their places, in the order of the list.
    fn stage_side_files(&self, from: &Path) -> Result<Staged, CliError> {
        let home = |path: &Path| fs::canonicalize(path).ok();
        let Some(to) = self.folder.as_deref().filter(|to| home(from) != home(to)) else {
            return Ok(Staged::default());
        };
        let mut staged = Staged::default();
        let kept = side_files::kept(to, from)?;
        for name in side_files::SIDE_FILES.into_iter().filter(|name| !kept.contains(name)) {
            if let Some(mut file) = side_files::open(from, name)? {
                staged.copy(&mut file, to.join(name))?;
            }
        }
        Ok(staged)
    }
}

/// Some programs load `model.onnx` first, or every checkpoint file that is there, or what lies in the
/// folder of transformers.js. Other graphs are loaded by their names.
fn refuse_other_models(folder: &Path, places: &[PathBuf]) -> Result<(), FileError> {
    let graph = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    let first =
        |path: &Path| path.file_name().is_some_and(|n| n.eq_ignore_ascii_case("model.onnx"));
    let below = folder.join(GRAPHS);
    let mut folders = vec![folder];
    if below.is_dir() && !places.iter().any(|place| place.starts_with(&below)) {
        folders.push(&below);
    }
    for folder in folders {
        let failed = |e| FileError::io("read", folder, e);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let loaded = first(&path) || folder == below && graph(&path);
            let model = path.is_file() && (Checkpoint::is_named(&path) || loaded);
            if model && !places.contains(&path) {
                return Err(FileError::TakenFor { path });
            }
        }
    }
    Ok(())
}

/// Folders that vanish again if nothing is in them, unless they were there before or are kept.
pub struct Created(Vec<PathBuf>);

impl Created {
    fn folder(&mut self, path: &Path) -> Result<(), FileError> {
        if !path.is_dir() {
            temporary::empty_folder(path).map_err(|e| FileError::io("write", path, e))?;
            self.0.push(path.into());
        }
        Ok(())
    }

    /// Keeps them.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The error that led here is the one to tell.
            let _ = fs::remove_dir(path);
        }
    }
}
