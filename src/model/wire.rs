//! Protobuf on the wire, as far as it takes to tell where the parts of a model lie in its file.
//!
//! The bulk of a model is not read: the raw data of large initializers of the main graph stay in
//! the file, and what is left is a small message for the decoder.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
};

/// The graph in a ModelProto.
pub(super) const GRAPH: u32 = 7;
/// An initializer in a GraphProto.
pub(super) const INITIALIZER: u32 = 5;
/// The raw data in a TensorProto.
pub(super) const RAW_DATA: u32 = 9;

/// Raw data up to this size are part of the small message.
const KEPT: u64 = 4096;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// What is wrong with the bytes of a protobuf message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message ends inside a field.
    #[error("it ends at byte {offset}, inside a field")]
    Truncated {
        /// Where more was expected.
        offset: u64,
    },
    /// A number of more than 64 bits.
    #[error("the number that starts at byte {offset} does not end")]
    Number {
        /// Its first byte.
        offset: u64,
    },
    /// A field without a usable key.
    #[error("the field at byte {offset} has the impossible key {key:#x}")]
    Key {
        /// Its first byte.
        offset: u64,
        /// Field number and wire type.
        key: u64,
    },
    /// A field that does not fit into what it is a part of.
    #[error("the field at byte {offset} has {length} bytes where {left} are left")]
    Length {
        /// Its first byte.
        offset: u64,
        /// The size it states.
        length: u64,
        /// What is left around it.
        left: u64,
    },
    /// A part that a message has once.
    #[error("a second {part} starts at byte {offset}")]
    Twice {
        /// "graph" or "raw_data".
        part: &'static str,
        /// Its first byte.
        offset: u64,
    },
    /// The decoder of the messages inside refused.
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
}

/// Why a scan ended.
pub(super) enum Fault {
    Io(io::Error),
    Wire(WireError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// A field of the model or of its graph, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub number: u32,
    /// From its key to its end in the file.
    pub span: Range<u64>,
    /// Its contents in the file.
    pub body: Range<u64>,
    /// Its contents in the skeleton.
    pub kept: Range<usize>,
    /// The raw data, if it is an initializer that has some.
    pub raw: Option<Range<u64>>,
}

impl Field {
    /// Whether the skeleton lacks the raw data.
    pub fn is_stripped(&self) -> bool {
        self.raw.as_ref().is_some_and(|raw| raw.end - raw.start > KEPT)
    }
}

/// A model file without its bulk.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// A ModelProto.
    pub skeleton: Vec<u8>,
    /// Its fields, in the order of the file.
    pub model: Vec<Field>,
    /// The fields of its graph, in the order of the file.
    pub graph: Vec<Field>,
}

/// Reads the model in a file of `size` bytes.
pub(super) fn scan(file: File, size: u64) -> Result<Scan, Fault> {
    let mut source = Source { reader: BufReader::with_capacity(1 << 16, file), at: 0 };
    let mut scan = Scan::default();
    let mut graph = None;
    while source.at < size {
        let key = source.key(size)?;
        if (key.number, key.wire) != (GRAPH, DELIMITED) {
            let field = source.keep(key, size, &mut scan.skeleton)?;
            scan.model.push(field);
            continue;
        }
        let body = source.delimited(key.start, size)?;
        if graph.is_some() {
            return Err(WireError::Twice { part: "graph", offset: key.start }.into());
        }
        let (bytes, fields) = graph_fields(&mut source, body.end)?;
        delimit(GRAPH, &bytes, &mut scan.skeleton);
        let start = scan.skeleton.len() - bytes.len();
        let kept = start..scan.skeleton.len();
        scan.model.push(Field { number: GRAPH, span: key.start..body.end, body, kept, raw: None });
        graph = Some((start, fields));
    }
    if let Some((start, mut fields)) = graph {
        for field in &mut fields {
            field.kept = field.kept.start + start..field.kept.end + start;
        }
        scan.graph = fields;
    }
    Ok(scan)
}

fn graph_fields(source: &mut Source, end: u64) -> Result<(Vec<u8>, Vec<Field>), Fault> {
    let (mut skeleton, mut fields) = (Vec::new(), Vec::new());
    while source.at < end {
        let key = source.key(end)?;
        if (key.number, key.wire) != (INITIALIZER, DELIMITED) {
            fields.push(source.keep(key, end, &mut skeleton)?);
            continue;
        }
        let body = source.delimited(key.start, end)?;
        let (bytes, raw) = tensor(source, body.end)?;
        delimit(INITIALIZER, &bytes, &mut skeleton);
        let kept = skeleton.len() - bytes.len()..skeleton.len();
        fields.push(Field { number: INITIALIZER, span: key.start..body.end, body, kept, raw });
    }
    Ok((skeleton, fields))
}

/// A tensor without large raw data, and where these lie.
fn tensor(source: &mut Source, end: u64) -> Result<(Vec<u8>, Option<Range<u64>>), Fault> {
    let (mut skeleton, mut raw) = (Vec::new(), None);
    while source.at < end {
        let key = source.key(end)?;
        if (key.number, key.wire) != (RAW_DATA, DELIMITED) {
            source.keep(key, end, &mut skeleton)?;
            continue;
        }
        let body = source.delimited(key.start, end)?;
        let length = body.end - body.start;
        if raw.replace(body.clone()).is_some() {
            return Err(WireError::Twice { part: "raw_data", offset: key.start }.into());
        }
        match length > KEPT {
            true => source.skip(length)?,
            false => {
                push_key(RAW_DATA, DELIMITED, &mut skeleton);
                push_varint(length, &mut skeleton);
                source.copy(length, &mut skeleton)?;
            }
        }
    }
    Ok((skeleton, raw))
}

struct Key {
    number: u32,
    wire: u8,
    start: u64,
}

/// A file read from front to end.
struct Source {
    reader: BufReader<File>,
    at: u64,
}

impl Source {
    fn byte(&mut self, end: u64) -> Result<u8, Fault> {
        let truncated = WireError::Truncated { offset: self.at };
        if self.at >= end {
            return Err(truncated.into());
        }
        let mut byte = [0];
        match self.reader.read_exact(&mut byte) {
            Ok(()) => self.at += 1,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(truncated.into()),
            Err(e) => return Err(e.into()),
        }
        Ok(byte[0])
    }

    fn varint(&mut self, end: u64) -> Result<u64, Fault> {
        let offset = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(end)?;
            // The tenth byte holds the last bit of 64.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Number { offset }.into())
    }

    fn key(&mut self, end: u64) -> Result<Key, Fault> {
        let start = self.at;
        let key = self.varint(end)?;
        let wire = (key & 7) as u8;
        match u32::try_from(key >> 3) {
            // 29 bits are the most a field number has; groups are older than ONNX.
            Ok(number)
                if (1..1 << 29).contains(&number)
                    && [VARINT, FIXED64, DELIMITED, FIXED32].contains(&wire) =>
            {
                Ok(Key { number, wire, start })
            }
            _ => Err(WireError::Key { offset: start, key }.into()),
        }
    }

    /// The range of a field of stated length, which starts here.
    fn delimited(&mut self, start: u64, end: u64) -> Result<Range<u64>, Fault> {
        let length = self.varint(end)?;
        self.range(start, length, end)
    }

    fn range(&self, start: u64, length: u64, end: u64) -> Result<Range<u64>, Fault> {
        let left = end.saturating_sub(self.at);
        match length <= left {
            true => Ok(self.at..self.at + length),
            false => Err(WireError::Length { offset: start, length, left }.into()),
        }
    }

    /// Copies a field to the skeleton.
    fn keep(&mut self, key: Key, end: u64, skeleton: &mut Vec<u8>) -> Result<Field, Fault> {
        let Key { number, wire, start } = key;
        push_key(number, wire, skeleton);
        let (from, mut kept) = (self.at, skeleton.len());
        let body = match wire {
            VARINT => {
                let value = self.varint(end)?;
                push_varint(value, skeleton);
                from..self.at
            }
            FIXED64 => self.range(start, 8, end)?,
            FIXED32 => self.range(start, 4, end)?,
            _ => {
                let body = self.delimited(start, end)?;
                push_varint(body.end - body.start, skeleton);
                body
            }
        };
        if wire != VARINT {
            kept = skeleton.len();
            self.copy(body.end - body.start, skeleton)?;
        }
        let kept = kept..skeleton.len();
        Ok(Field { number, span: start..body.end, body, kept, raw: None })
    }

    fn copy(&mut self, length: u64, skeleton: &mut Vec<u8>) -> Result<(), Fault> {
        let copied = self.reader.by_ref().take(length).read_to_end(skeleton)? as u64;
        self.at += copied;
        match copied == length {
            true => Ok(()),
            // The file was cut since it was measured.
            false => Err(WireError::Truncated { offset: self.at }.into()),
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), Fault> {
        // No file is larger than the system's signed offsets.
        let by = i64::try_from(length).map_err(|_| WireError::Truncated { offset: self.at })?;
        self.reader.seek_relative(by)?;
        self.at += length;
        Ok(())
    }
}

fn push_key(number: u32, wire: u8, out: &mut Vec<u8>) {
    push_varint(u64::from(number) << 3 | u64::from(wire), out);
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the key and the length of a field.
pub(super) fn head(number: u32, length: u64, out: &mut Vec<u8>) {
    push_key(number, DELIMITED, out);
    push_varint(length, out);
}

/// Appends a field of stated length.
pub(super) fn delimit(number: u32, body: &[u8], out: &mut Vec<u8>) {
    head(number, body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Appends a field that is a number.
pub(super) fn number(number: u32, value: i64, out: &mut Vec<u8>) {
    push_key(number, VARINT, out);
    push_varint(value as u64, out);
}

/// The fields of a tensor with other numbers than `without`, one after the other.
pub(super) fn without(tensor: &[u8], without: &[u32]) -> Vec<u8> {
    let mut left = Vec::new();
    let mut rest = tensor;
    while !rest.is_empty() {
        let (number, length) = field_at(rest).unwrap_or((0, rest.len()));
        let (field, behind) = rest.split_at(length);
        if !without.contains(&number) {
            left.extend_from_slice(field);
        }
        rest = behind;
    }
    left
}

/// The contents of a field of the encoder: behind the key and, if it has one, the length.
pub(super) fn body_of(field: &[u8]) -> &[u8] {
    let varint = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let key = varint(field).min(field.len());
    let wire = field.first().map_or(VARINT, |byte| byte & 7);
    let head = if wire == DELIMITED { key + varint(&field[key..]) } else { key };
    &field[head.min(field.len())..]
}

/// Number and length of the first field, of those that [`scan`] lets through.
fn field_at(bytes: &[u8]) -> Option<(u32, usize)> {
    let varint = |from: usize| -> Option<(u64, usize)> {
        let ten = bytes.get(from..)?.iter().take(10);
        let length = ten.take_while(|byte| **byte >= 0x80).count() + 1;
        let digits = bytes.get(from..from + length)?.iter().enumerate();
        let value = digits.fold(0u64, |value, (i, b)| {
            value | u64::from(b & 0x7f).checked_shl(7 * i as u32).unwrap_or(0)
        });
        Some((value, from + length))
    };
    let (key, start) = varint(0)?;
    let end = match (key & 7) as u8 {
        VARINT => varint(start)?.1,
        FIXED64 => start + 8,
        FIXED32 => start + 4,
        _ => {
            let (length, body) = varint(start)?;
            body.checked_add(usize::try_from(length).ok()?)?
        }
    };
    let number = u32::try_from(key >> 3).ok()?;
    (end <= bytes.len()).then_some((number, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn scanned(bytes: &[u8]) -> Result<Scan, WireError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        scan(file, bytes.len() as u64).map_err(|fault| match fault {
            Fault::Wire(error) => error,
            Fault::Io(error) => panic!("{error}"),
        })
    }

    fn field(number: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        delimit(number, body, &mut out);
        out
    }

    #[test]
    fn large_raw_data_stay_in_the_file_and_small_ones_do_not() {
        for (size, stripped) in [(0, false), (4096, false), (4097, true), (70_000, true)] {
            let raw = vec![7; size];
            let tensor = [field(8, b"w"), field(RAW_DATA, &raw), field(12, b"after")].concat();
            let graph = [field(2, b"g"), field(INITIALIZER, &tensor)].concat();
            let bytes = [field(2, b"me"), field(GRAPH, &graph), field(5000, b"hello")].concat();
            let scan = scanned(&bytes).unwrap();
            let of = |list: &[Field]| list.iter().map(|f| f.number).collect::<Vec<_>>();
            assert_eq!((of(&scan.model), of(&scan.graph)), (vec![2, 7, 5000], vec![2, 5]));
            let last = &scan.graph[1];
            assert_eq!(last.is_stripped(), stripped);
            let place = |range: &Range<u64>| &bytes[range.start as usize..range.end as usize];
            assert_eq!(place(last.raw.as_ref().unwrap()), raw);
            assert_eq!(place(&last.body), tensor);
            let rest = [field(8, b"w"), field(12, b"after")].concat();
            let kept = &scan.skeleton[last.kept.clone()];
            assert_eq!(without(kept, &[RAW_DATA]), rest);
            assert_eq!(kept == rest, stripped);
            assert_eq!(scan.skeleton == bytes, !stripped);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refused = |bytes: &[u8]| scanned(bytes).unwrap_err();
        assert!(matches!(refused(&[0xff; 64]), WireError::Number { offset: 0 }));
        assert!(matches!(refused(&[0x80; 3]), WireError::Truncated { offset: 3 }));
        assert!(matches!(refused(&[0x02]), WireError::Key { .. }), "field number 0");
        assert!(matches!(refused(&[0x0b]), WireError::Key { .. }), "a group");
        assert!(matches!(refused(&[0x0f]), WireError::Key { .. }), "wire type 7");
        assert!(matches!(refused(&[0x09, 0, 0]), WireError::Length { length: 8, left: 2, .. }));
        let huge = [&[0x3a][..], &[0xff; 9], &[0x01]].concat();
        assert!(matches!(refused(&huge), WireError::Length { length: u64::MAX, .. }));
        let twice = [field(GRAPH, b""), field(GRAPH, b"")].concat();
        assert!(matches!(refused(&twice), WireError::Twice { part: "graph", offset: 2 }));
        let raw = [field(RAW_DATA, b"1"), field(RAW_DATA, b"1")].concat();
        let twice = field(GRAPH, &field(INITIALIZER, &raw));
        assert!(matches!(refused(&twice), WireError::Twice { part: "raw_data", .. }));
        // The tensor ends where the graph does, whatever follows.
        let short = [field(GRAPH, &[0x2a, 9]), vec![0; 20]].concat();
        assert!(matches!(refused(&short), WireError::Length { length: 9, left: 0, .. }));
    }
}
