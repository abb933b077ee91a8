//! The small JSON files that lie beside a model: configurations of tokenizer and generation.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Largest accepted side file, in bytes. A tokenizer of 250 000 tokens takes about 35 MB.
pub const MAX_SIDE_FILE: u64 = 1 << 28;

/// Why a side file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SideFileError {
    /// It is there but cannot be read.
    #[error("cannot read {}: {source}. Check its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is larger than [`MAX_SIDE_FILE`].
    #[error("{} is larger than {limit} bytes. This is not a model's {}", path.display(), name(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: u64,
    },
    /// It is not UTF-8.
    #[error("byte {at} of {} is not valid UTF-8. Download the file again", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// It is not JSON.
    #[error("{} is not JSON: {source}. Download the file again", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// It is JSON but not an object.
    #[error("{} does not hold a JSON object. Download the file again", path.display())]
    NotObject {
        /// The file.
        path: PathBuf,
    },
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The bytes of `folder/name`; `None` if there is no such file.
pub fn bytes(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, SideFileError> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SideFileError::Io { path, source }),
    };
    let mut bytes = Vec::new();
    if let Err(source) = file.take(MAX_SIDE_FILE + 1).read_to_end(&mut bytes) {
        return Err(SideFileError::Io { path, source });
    }
    if bytes.len() as u64 > MAX_SIDE_FILE {
        return Err(SideFileError::TooLarge { path, limit: MAX_SIDE_FILE });
    }
    Ok(Some(bytes))
}

/// The text of `folder/name`; `None` if there is no such file.
pub fn text(folder: &Path, name: &str) -> Result<Option<String>, SideFileError> {
    let Some(bytes) = bytes(folder, name)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| SideFileError::NotUtf8 {
        path: folder.join(name),
        at: error.utf8_error().valid_up_to(),
    })?;
    Ok(Some(text))
}

/// The JSON object in `folder/name`; `None` if there is no such file.
pub fn object(folder: &Path, name: &str) -> Result<Option<Map<String, Value>>, SideFileError> {
    let Some(bytes) = bytes(folder, name)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(SideFileError::NotObject { path: folder.join(name) }),
        Err(source) => Err(SideFileError::NotJson { path: folder.join(name), source }),
    }
}

/// A special token of a tokenizer configuration: a string, or an object with `content`.
/// `None` if it is absent or null.
pub fn token_string(config: &Map<String, Value>, key: &str) -> Option<String> {
    let value = config.get(key)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_none_and_a_broken_one_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(object(folder.path(), "config.json").unwrap().is_none());
        let write = |text: &[u8]| std::fs::write(folder.path().join("config.json"), text).unwrap();
        write(b"{oops");
        assert!(matches!(object(folder.path(), "config.json"), Err(SideFileError::NotJson { .. })));
        write(b"[]");
        assert!(matches!(
            object(folder.path(), "config.json"),
            Err(SideFileError::NotObject { .. })
        ));
        write(b"ab\xff");
        assert!(matches!(
            text(folder.path(), "config.json"),
            Err(SideFileError::NotUtf8 { at: 2, .. })
        ));
    }

    #[test]
    fn a_special_token_is_a_string_or_an_object() {
        let config =
            serde_json::json!({"a": "<s>", "b": {"content": "</s>", "lstrip": false}, "c": null});
        let config = config.as_object().unwrap();
        assert_eq!(token_string(config, "a").as_deref(), Some("<s>"));
        assert_eq!(token_string(config, "b").as_deref(), Some("</s>"));
        assert_eq!(token_string(config, "c"), None);
        assert_eq!(token_string(config, "d"), None);
    }
}
