//! Tensors whose bytes lie in a file beside the model.
//!
//! The location comes from the model file, so it is not trusted: it must be a plain relative
//! path that, links followed, ends inside the model's folder.

use super::{
    ModelError, dtypes,
    proto::{TensorProto, tensor_proto::DataLocation},
};
use prost::bytes::Bytes;
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

/// Whether the bytes of `tensor` lie in another file.
pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
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

/// Where the bytes of `tensor` lie, for a model in `folder`.
pub(crate) fn locate(folder: &Path, tensor: &TensorProto) -> Result<Region, ModelError> {
    let name = tensor.name();
    let location = location(tensor);
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
    if !path.starts_with(&home) {
        return Err(escapes());
    }
    let meta = fs::metadata(&path).map_err(io)?;
    if !meta.is_file() {
        return Err(ModelError::NotAFile { path });
    }

    let offset = number(tensor, "offset")?.unwrap_or(0);
    let expected = dtypes::expected_bytes(tensor)?;
    let length = match (number(tensor, "length")?, expected) {
        (Some(stated), _) => stated,
        (None, Some(expected)) => expected,
        (None, None) => meta.len().saturating_sub(offset),
    };
    dtypes::check_length(tensor, length)?;
    let end = offset.saturating_add(length);
    if end > meta.len() {
        return Err(ModelError::ExternalOutOfRange {
            name: name.into(),
            path,
            offset,
            end,
            size: meta.len(),
        });
    }
    Ok(Region { path, offset, length })
}

/// Reads the bytes of an external `tensor` of a model in `folder`.
pub(crate) fn read(folder: &Path, tensor: &TensorProto) -> Result<Bytes, ModelError> {
    let region = locate(folder, tensor)?;
    let io = |e| ModelError::io("read the external data file", &region.path, e);
    let mut file = File::open(&region.path).map_err(io)?;
    file.seek(SeekFrom::Start(region.offset)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(region.length).read_to_end(&mut bytes).map_err(io)?;
    // The file may have been cut since it was measured.
    dtypes::check_length(tensor, bytes.len() as u64)?;
    Ok(bytes.into())
}
