//! The header of a safetensors file, read alone and checked against the file's size.

use super::CheckpointError;
use crate::model::{ElementType, ModelError};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::File,
    io::Read,
    path::Path,
};

/// The most bytes of a header, as in the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// The length of the header.
const PREFIX: u64 = 8;

/// One tensor of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type, as the file says it: "F32", "BF16", …
    pub dtype: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
}

impl Tensor {
    /// The element type, if it is one whose values are read as f32.
    pub fn element(&self) -> Option<ElementType> {
        match self.dtype.as_str() {
            "F32" => Some(ElementType::F32),
            "F16" => Some(ElementType::F16),
            "BF16" => Some(ElementType::Bf16),
            _ => None,
        }
    }

    /// One past its last byte in the file.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// What a file holds. The tensors fill the data without overlap or gap.
#[derive(Debug)]
pub(super) struct Header {
    /// By offset.
    pub tensors: Vec<Tensor>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of an open file of `size` bytes.
pub(super) fn read(path: &Path, file: &File, size: u64) -> Result<Header, ModelError> {
    let io = |e| ModelError::io("read", path, e);
    let mut start = Vec::new();
    file.take(64).read_to_end(&mut start).map_err(io)?;
    if start.is_empty() {
        return Err(ModelError::Empty { path: path.into() });
    }
    if start.starts_with(b"version https://git-lfs") {
        return Err(ModelError::LfsPointer { path: path.into() });
    }
    let Some((prefix, [b'{', ..])) = start.split_first_chunk::<8>() else {
        return Err(CheckpointError::NotSafetensors { path: path.into() }.into());
    };
    let stated = u64::from_le_bytes(*prefix);
    if stated > MAX_HEADER {
        let limit = MAX_HEADER;
        return Err(
            CheckpointError::HeaderTooLarge { path: path.into(), bytes: stated, limit }.into()
        );
    }
    let length = PREFIX + stated;
    let beyond = CheckpointError::HeaderBeyondFile { path: path.into(), bytes: stated, size };
    if length > size {
        return Err(beyond.into());
    }
    let mut json = start.split_off(PREFIX as usize);
    json.truncate(stated as usize);
    file.take(stated - json.len() as u64).read_to_end(&mut json).map_err(io)?;
    // The file may have been cut since it was measured.
    if json.len() as u64 != stated {
        return Err(beyond.into());
    }
    Ok(parse(path, &json, length, size)?)
}

fn parse(path: &Path, json: &[u8], length: u64, size: u64) -> Result<Header, CheckpointError> {
    let raw: Raw = serde_json::from_slice(json)
        .map_err(|source| CheckpointError::BadHeader { path: path.into(), source })?;
    unique(path, raw.tensors.iter().map(|(name, _)| name.as_str()))?;
    unique(path, raw.metadata.iter().map(|(key, _)| key.as_str()))?;
    let data = size - length;
    let mut tensors = raw
        .tensors
        .into_iter()
        .map(|(name, entry)| checked(name, entry, length, data))
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    check_chain(path, &tensors, length, size)?;
    Ok(Header { tensors, metadata: raw.metadata.into_iter().collect() })
}

/// Refuses a name that comes twice.
pub(super) fn unique<'a>(
    path: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), CheckpointError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(CheckpointError::DuplicateName { path: path.into(), name: name.into() });
        }
    }
    Ok(())
}

fn checked(name: String, entry: Entry, header: u64, data: u64) -> Result<Tensor, CheckpointError> {
    let Entry { dtype, shape: stored, data_offsets: [start, end] } = entry;
    if start > end || end > data {
        return Err(CheckpointError::OutOfRange { name, start, end, size: data });
    }
    let Some(shape) = checked_shape(&stored) else {
        return Err(CheckpointError::BadShape { name, shape: stored });
    };
    let actual = end - start;
    if let Some(bits) = element_bits(&dtype) {
        let elements = shape.iter().product::<usize>() as u64;
        let whole = elements.checked_mul(bits).filter(|bits| bits % 8 == 0);
        let Some(expected) = whole.map(|bits| bits / 8) else {
            return Err(CheckpointError::BadShape { name, shape: stored });
        };
        if expected != actual {
            return Err(CheckpointError::WrongLength { name, expected, actual });
        }
    }
    Ok(Tensor { name, dtype, shape, offset: header + start, bytes: actual })
}

fn checked_shape(stored: &[u64]) -> Option<Vec<usize>> {
    let shape = stored.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
    // A zero among the sizes must not hide an overflow among the others.
    let product = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |p, &d| p.checked_mul(d))?;
    (product <= isize::MAX as usize / 16).then_some(shape)
}

/// Bits of one element; `None` for types that came after this list, whose size is not checked.
fn element_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" => 8,
        "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Every byte of the data belongs to one tensor.
fn check_chain(
    path: &Path,
    tensors: &[Tensor],
    length: u64,
    size: u64,
) -> Result<(), CheckpointError> {
    let unclaimed = |from: u64, to: u64| CheckpointError::Unclaimed {
        path: path.into(),
        start: from - length,
        bytes: to - from,
    };
    let mut end = length;
    for (index, tensor) in tensors.iter().enumerate() {
        if tensor.offset < end {
            let first = tensors[index - 1].name.clone();
            return Err(CheckpointError::Overlap { first, second: tensor.name.clone() });
        }
        if tensor.offset > end {
            return Err(unclaimed(end, tensor.offset));
        }
        end = tensor.end();
    }
    if end < size { Err(unclaimed(end, size)) } else { Ok(()) }
}

/// A JSON object with its keys in order, those that come twice included.
pub(super) struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<V>(Vec<(String, V)>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Self::Value, M::Error> {
                while let Some(pair) = map.next_entry()? {
                    self.0.push(pair);
                }
                Ok(Pairs(self.0))
            }
        }
        deserializer.deserialize_map(Collect(Vec::new()))
    }
}

/// What the header says of a tensor. Other fields are not read; writers copy them.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

#[derive(Default)]
struct Raw {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Raw, M::Error> {
                let mut raw = Raw::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name == "__metadata__" {
                        true => raw.metadata.extend(map.next_value::<Pairs<String>>()?.0),
                        false => raw.tensors.push((name, map.next_value()?)),
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
