//! Tensors whose bytes lie in a file beside the model, or were left in the model's own.
//!
//! The location comes from the model file, so it is not trusted: it must be a plain relative
//! path that, links followed, ends inside the model's folder, or in the cache it is a snapshot of.

use super::{
    ModelError, dtypes,
    home::is_of_folder,
    proto::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
};
use prost::bytes::Bytes;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Take},
    ops::Range,
    path::{Component, Path, PathBuf},
};

/// The location of raw data that were not read: the model's own file. No file may name it.
const SELF: &str = "\0self";

/// Whether the bytes of `tensor` lie in a file, be it the model's own.
pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

/// Whether the bytes of `tensor` were left in the model's own file.
pub(crate) fn is_own(tensor: &TensorProto) -> bool {
    is_external(tensor) && location(tensor) == SELF
}

/// Whether the bytes of `tensor` lie in a file beside the model.
pub(crate) fn is_beside(tensor: &TensorProto) -> bool {
    is_external(tensor) && !is_own(tensor) && !is_promised(tensor)
}

/// Lets `tensor` say that its bytes lie in this range of the model's own file.
pub(super) fn leave(tensor: &mut TensorProto, range: &Range<u64>) {
    put(tensor, SELF, range.start, range.end - range.start);
}

/// Puts `bytes` into `tensor`, of the model at `model`, which goes on naming the place in a file
/// that it has them from. No place is named that a runtime would not look in.
pub(super) fn load(tensor: &mut TensorProto, model: &Path, bytes: Bytes) {
    if location(tensor) == SELF {
        match own_name(model) {
            Some(name) => relocate(tensor, &name),
            None => tensor.external_data.clear(),
        }
    }
    (tensor.raw_data, tensor.data_location) = (Some(bytes), None);
}

/// The name of the model's file, if following links does not lead out of its folder.
fn own_name(model: &Path) -> Option<String> {
    let real = fs::canonicalize(model).ok()?;
    let home = fs::canonicalize(folder_of(model)).ok()?;
    let name = model.file_name()?.to_str()?;
    (real.parent() == Some(home.as_path())).then(|| name.to_owned())
}

/// `tensor`, whose bytes are in memory, naming only the place in a file that it has them from, if
/// it knows one.
#[cfg(feature = "train")]
pub(crate) fn unloaded(tensor: &TensorProto) -> Option<TensorProto> {
    let known = tensor.raw_data.is_some() && !tensor.external_data.is_empty();
    known.then(|| TensorProto {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        data_location: Some(DataLocation::External as i32),
        external_data: tensor.external_data.clone(),
        ..TensorProto::default()
    })
}

/// `tensor` without any values, whose contents are given when it is written.
pub(crate) fn promised(tensor: TensorProto) -> TensorProto {
    TensorProto {
        name: tensor.name,
        dims: tensor.dims,
        data_type: tensor.data_type,
        doc_string: tensor.doc_string,
        metadata_props: tensor.metadata_props,
        data_location: Some(DataLocation::External as i32),
        ..TensorProto::default()
    }
}

/// Whether `tensor` waits for its contents.
pub(crate) fn is_promised(tensor: &TensorProto) -> bool {
    is_external(tensor) && tensor.external_data.is_empty()
}

/// The range of the model's own file in which the bytes of `tensor` lie.
pub(super) fn own_range(tensor: &TensorProto) -> Result<Range<u64>, ModelError> {
    let [offset, length] = ["offset", "length"].map(|key| number(tensor, key));
    let (offset, length) = (offset?.unwrap_or(0), length?.unwrap_or(0));
    dtypes::check_length(tensor, length)?;
    Ok(offset..offset.saturating_add(length))
}

/// Lets `tensor` say that its bytes lie in this range of a data file.
pub(super) fn put(tensor: &mut TensorProto, location: &str, offset: u64, length: u64) {
    let numbers = [("offset", offset), ("length", length)];
    let numbers = numbers.map(|(key, value)| pair(key, value.to_string()));
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data = [pair("location", location.into())].into_iter().chain(numbers).collect();
}

/// Lets `tensor` name another data file.
pub(super) fn relocate(tensor: &mut TensorProto, location: &str) {
    let entry = tensor.external_data.iter_mut().find(|e| e.key() == "location");
    entry.into_iter().for_each(|entry| entry.value = Some(location.into()));
}

fn pair(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value) }
}

/// The path in the model file under which the data lie; empty if there is none.
pub(crate) fn location(tensor: &TensorProto) -> &str {
    entry(tensor, "location").unwrap_or_default()
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value())
}

fn number(tensor: &TensorProto, key: &'static str) -> Result<Option<u64>, ModelError> {
    let Some(value) = entry(tensor, key) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| ModelError::BadExternalEntry {
        name: tensor.name().into(),
        key,
        value: value.into(),
    })
}

/// A stretch of a data file that was checked against the file's size and the tensor's shape.
#[derive(Debug)]
pub(crate) struct Region {
    pub path: PathBuf,
    pub offset: u64,
    pub length: u64,
}

/// The path's folder.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where the bytes of `tensor` lie, of the model at `model`.
pub(crate) fn locate(model: &Path, tensor: &TensorProto) -> Result<Region, ModelError> {
    let name = tensor.name();
    let location = location(tensor);
    if location == SELF {
        let meta = fs::metadata(model).map_err(|e| ModelError::io("read", model, e))?;
        return region(model.into(), meta.len(), tensor);
    }
    let folder = folder_of(model);
    let escapes = || ModelError::ExternalEscapes { name: name.into(), location: location.into() };
    if location.is_empty() || location.contains('\0') {
        return Err(ModelError::BadExternalEntry {
            name: name.into(),
            key: "location",
            value: location.into(),
        });
    }
    // A backslash or a colon is a way out of the folder on some systems only; refuse on all.
    let plain = Path::new(location)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain || location.contains('\\') || location.contains(':') {
        return Err(escapes());
    }
    let asked = folder.join(location);
    let io = |e| ModelError::io("read the external data file", &asked, e);
    let home = fs::canonicalize(folder).map_err(io)?;
    let path = fs::canonicalize(&asked).map_err(io)?;
    if !is_of_folder(&path, &home) {
        return Err(escapes());
    }
    let meta = fs::metadata(&path).map_err(io)?;
    if !meta.is_file() {
        return Err(ModelError::NotAFile { path });
    }
    region(path, meta.len(), tensor)
}

/// The region of `tensor` in a file of `size` bytes.
fn region(path: PathBuf, size: u64, tensor: &TensorProto) -> Result<Region, ModelError> {
    let name = tensor.name();
    let offset = number(tensor, "offset")?.unwrap_or(0);
    let expected = dtypes::expected_bytes(tensor)?;
    let length = match (number(tensor, "length")?, expected) {
        (Some(stated), _) => stated,
        (None, Some(expected)) => expected,
        (None, None) => size.saturating_sub(offset),
    };
    dtypes::check_length(tensor, length)?;
    let end = offset.saturating_add(length);
    if end > size {
        return Err(ModelError::ExternalOutOfRange { name: name.into(), path, offset, end, size });
    }
    Ok(Region { path, offset, length })
}

/// Whether an external `tensor`, as the file at `model` states it, lies in that file itself.
pub(super) fn names_own(model: &Path, tensor: &TensorProto) -> Result<bool, ModelError> {
    let location = location(tensor);
    if location.contains('\0') {
        let (name, value) = (tensor.name().into(), location.into());
        return Err(ModelError::BadExternalEntry { name, key: "location", value });
    }
    let own = fs::canonicalize(model).map_err(|e| ModelError::io("read", model, e))?;
    Ok(locate(model, tensor)?.path == own)
}

/// The bytes of an external `tensor` of the model at `model`, from front to end.
pub(crate) fn open(model: &Path, tensor: &TensorProto) -> Result<(Region, Take<File>), ModelError> {
    let region = locate(model, tensor)?;
    let io = |e| ModelError::io("read the external data file", &region.path, e);
    let mut file = File::open(&region.path).map_err(io)?;
    file.seek(SeekFrom::Start(region.offset)).map_err(io)?;
    let bytes = file.take(region.length);
    Ok((region, bytes))
}

/// Reads the bytes of an external `tensor` of the model at `model`.
pub(crate) fn read(model: &Path, tensor: &TensorProto) -> Result<Bytes, ModelError> {
    let (region, mut source) = open(model, tensor)?;
    // No more than the file has: the region was checked against its size.
    let mut bytes = Vec::with_capacity(usize::try_from(region.length).unwrap_or(0));
    source
        .read_to_end(&mut bytes)
        .map_err(|e| ModelError::io("read the external data file", &region.path, e))?;
    // The file may have been cut since it was measured.
    dtypes::check_length(tensor, bytes.len() as u64)?;
    Ok(bytes.into())
}
