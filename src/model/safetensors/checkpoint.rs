//! A checkpoint on disk: its headers in memory, its weights read when asked for.

use super::{
    CheckpointError, Tensor, TensorReader,
    header::{self, Header},
    index::{self, Index},
    names,
    reader::PIECE,
};
use crate::model::{
    Container, ElementType, Kind, ModelError, Naming, Target, Targets, digest::ValueHasher, dtypes,
};
use ndarray::Array2;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Ending of one file of a checkpoint.
const ENDING: &str = ".safetensors";
/// Ending of an index.
const INDEX_ENDING: &str = ".safetensors.index.json";

/// One safetensors file, its header read and checked.
#[derive(Debug)]
pub struct Shard {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// The file, links followed if an index names it.
    pub path: PathBuf,
    header: Header,
    size: u64,
    modified: Option<SystemTime>,
}

impl Shard {
    fn load(name: String, path: PathBuf) -> Result<Self, ModelError> {
        let io = |e| ModelError::io("read", &path, e);
        let file = File::open(&path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(ModelError::NotAFile { path });
        }
        let header = header::read(&path, &file, meta.len())?;
        Ok(Self { name, header, size: meta.len(), modified: meta.modified().ok(), path })
    }

    /// The tensors by offset; together they fill the file behind its header.
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file's properties, as its writer gave them.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The file, if it is still the one whose header was read.
    pub fn open(&self) -> Result<File, ModelError> {
        let io = |e| ModelError::io("read", &self.path, e);
        let file = File::open(&self.path).map_err(io)?;
        let same =
            |meta: Metadata| meta.len() == self.size && meta.modified().ok() == self.modified;
        match same(file.metadata().map_err(io)?) {
            true => Ok(file),
            false => Err(CheckpointError::Changed { path: self.path.clone() }.into()),
        }
    }
}

/// A safetensors checkpoint: one file, or several and their index.
///
/// The headers of a value of this type are consistent with their files and the index, and its
/// tensors have unique names.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    index: Option<Vec<u8>>,
    shards: Vec<Shard>,
    places: BTreeMap<String, (usize, usize)>,
}

impl Checkpoint {
    /// Whether a path is named like a file or an index of a checkpoint.
    pub fn is_named(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        name.ends_with(ENDING) || name.ends_with(INDEX_ENDING)
    }

    /// The checkpoint in a folder: its `model.safetensors`, or else the index of that name.
    pub(crate) fn in_folder(folder: &Path) -> Option<PathBuf> {
        let names = ["model.safetensors", "model.safetensors.index.json"];
        names.iter().map(|name| folder.join(name)).find(|path| path.exists())
    }

    /// Reads the headers of a .safetensors file, or of the files that an index names.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(ModelError::NotAFile { path: path.into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ModelError::Missing { path: path.into() });
            }
            Err(e) => return Err(ModelError::io("read", path, e)),
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.to_ascii_lowercase().ends_with(INDEX_ENDING) {
            let shard = Shard::load(name.into_owned(), path.into())?;
            return Self::joined(path, None, vec![shard]);
        }
        let index = index::read(path)?;
        let mut shards = Vec::with_capacity(index.files.len());
        for (file, names) in &index.files {
            let shard = Shard::load(file.clone(), index::locate(path, folder_of(path), file)?)?;
            agree(path, &shard, names)?;
            shards.push(shard);
        }
        let Index { bytes, .. } = index;
        Self::joined(path, Some(bytes), shards)
    }

    fn joined(path: &Path, index: Option<Vec<u8>>, shards: Vec<Shard>) -> Result<Self, ModelError> {
        let mut places = BTreeMap::new();
        for (s, shard) in shards.iter().enumerate() {
            for (t, tensor) in shard.tensors().iter().enumerate() {
                if places.insert(tensor.name.clone(), (s, t)).is_some() {
                    let (path, name) = (shard.path.clone(), tensor.name.clone());
                    return Err(CheckpointError::DuplicateName { path, name }.into());
                }
            }
        }
        Ok(Self { path: path.into(), index, shards, places })
    }

    /// The .safetensors file or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents of the index, if there is one.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }

    /// The files with weights, by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.places.values().map(|&(s, t)| &self.shards[s].tensors()[t])
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let &(s, t) = self.places.get(name)?;
        self.shards[s].tensors().get(t)
    }

    /// A reader of the bytes of the tensor of this name.
    pub fn reader(&self, name: &str) -> Result<TensorReader, ModelError> {
        let none = || CheckpointError::NoTensor { name: name.into() };
        let &(s, t) = self.places.get(name).ok_or_else(none)?;
        TensorReader::new(&self.shards[s], &self.shards[s].tensors()[t])
    }

    /// The tensor of a target and its element type.
    fn float(&self, target: &Target) -> Result<(&Tensor, ElementType), ModelError> {
        let name = &target.initializer;
        let tensor =
            self.tensor(name).ok_or_else(|| CheckpointError::NoTensor { name: name.clone() })?;
        if tensor.shape != [target.stored_rows(), target.cols] {
            let shape = tensor.shape.iter().map(|&d| d as u64).collect();
            return Err(CheckpointError::BadShape { name: name.clone(), shape }.into());
        }
        let not_float = || ModelError::NotFloat { name: name.clone(), dtype: tensor.dtype.clone() };
        Ok((tensor, tensor.element().ok_or_else(not_float)?))
    }

    /// Hands the values of a target to `each`, widened to f32, piece by piece.
    fn values(&self, target: &Target, mut each: impl FnMut(&[f32])) -> Result<(), ModelError> {
        let (tensor, element) = self.float(target)?;
        let row = tensor.bytes / tensor.shape[0].max(1) as u64;
        let first = target.part.map_or(0, |part| part.first);
        let mut reader = self.reader(&tensor.name)?;
        reader.narrow(first as u64 * row, target.rows as u64 * row)?;
        reader.pieces(PIECE, |bytes| {
            each(&dtypes::widen(&tensor.name, element, bytes)?);
            Ok(())
        })
    }
}

impl Container for Checkpoint {
    fn kind(&self) -> Kind {
        Kind::Safetensors { files: self.shards.len() }
    }

    fn home(&self) -> PathBuf {
        folder_of(&self.path).to_owned()
    }

    fn files(&self) -> Vec<PathBuf> {
        let shards = self.shards.iter().map(|shard| shard.path.clone());
        BTreeSet::from_iter(shards.chain([self.path.clone()])).into_iter().collect()
    }

    fn targets_by(&self, naming: &Naming) -> Result<Targets, ModelError> {
        names::find(self, naming)
    }

    fn weight(&self, target: &Target) -> Result<Array2<f32>, ModelError> {
        let (name, elements) = (&target.initializer, target.rows.saturating_mul(target.cols));
        let mut values = Vec::new();
        values.try_reserve_exact(elements).map_err(|_| {
            let bytes = (elements as u64).saturating_mul(4);
            CheckpointError::NoMemory { name: name.clone(), bytes }
        })?;
        self.values(target, |piece| values.extend_from_slice(piece))?;
        let shape = (target.rows, target.cols);
        Array2::from_shape_vec(shape, values).map_err(|_| {
            let shape = vec![target.rows as u64, target.cols as u64];
            CheckpointError::BadShape { name: name.clone(), shape }.into()
        })
    }

    fn module_digest(&self, target: &Target) -> Result<[u8; 32], ModelError> {
        let mut hasher = ValueHasher::default();
        self.values(target, |piece| hasher.update(piece))?;
        Ok(hasher.finish())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The index names the tensors of the file, all and no others.
fn agree(path: &Path, shard: &Shard, names: &[String]) -> Result<(), CheckpointError> {
    let indexed: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let stored: BTreeSet<&str> = shard.tensors().iter().map(|t| t.name.as_str()).collect();
    match indexed.symmetric_difference(&stored).next() {
        None => Ok(()),
        Some(&name) => Err(CheckpointError::Disagree {
            path: path.into(),
            file: shard.name.clone(),
            name: name.into(),
            indexed: indexed.contains(name),
        }),
    }
}
