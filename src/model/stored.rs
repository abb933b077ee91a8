//! The bytes of a changed model file: stretches of the file it was made from, parts that are
//! encoded anew, and contents that are made when they are written.

use super::{
    Contents, ModelError, OnnxModel, dtypes, external,
    layout::{self, Digest, Part, Parts},
    onnx::MAX_FILE,
    proto::{ModelProto, TensorProto},
    wire::{self, GRAPH, INITIALIZER, RAW_DATA},
    write,
};
use prost::Message;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::File,
    io::Write,
    ops::Range,
    path::Path,
};

/// A stretch of the output.
#[derive(Debug)]
enum Piece {
    /// Bytes of the input.
    Stored(Range<u64>),
    Bytes(Vec<u8>),
    /// The contents of an initializer.
    Given {
        name: String,
        length: u64,
    },
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Stored(range) => range.end - range.start,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Given { length, .. } => *length,
        }
    }
}

fn length(pieces: &[Piece]) -> u64 {
    pieces.iter().map(Piece::length).fold(0, u64::saturating_add)
}

/// A field of the model that is to be written.
struct New {
    number: u32,
    digest: Digest,
    /// If it has to be encoded.
    encoded: Vec<Piece>,
    /// The initializer whose contents are others, and how many bytes these are.
    given: Option<(String, u64)>,
}

impl New {
    fn plain(number: u32, field: &[u8]) -> Self {
        let digest = layout::digest(field);
        Self { number, digest, encoded: vec![Piece::Bytes(field.into())], given: None }
    }

    /// The part as it is stored, but for contents in the place of its raw data. `None` if it is
    /// not stored in that way.
    fn stored(&self, part: &Part) -> Option<Vec<Piece>> {
        let Some((name, length)) = &self.given else {
            return Some(vec![Piece::Stored(part.span.clone())]);
        };
        let raw = part.raw.as_ref().filter(|raw| raw.end - raw.start == *length)?;
        Some(vec![
            Piece::Stored(part.span.start..raw.start),
            Piece::Given { name: name.clone(), length: *length },
            Piece::Stored(raw.end..part.span.end),
        ])
    }
}

/// A model file to be written.
pub(super) struct Plan(Vec<Piece>);

impl Plan {
    /// The file of `proto`, which was made from `base`. Initializers that are `given` get other
    /// contents.
    pub fn new(
        base: &OnnxModel,
        proto: &ModelProto,
        given: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let none = (Parts::default(), Parts::default());
        let (model, graph) = match &base.layout {
            Some(layout) => (&layout.model, &layout.graph),
            None => (&none.0, &none.1),
        };
        let pieces = joined(base, "graph", graph, graph_fields(proto, given)?, None)?;
        let mut fields = Vec::new();
        layout::model_fields(proto, &mut |number, _, bytes| fields.push(New::plain(number, bytes)));
        Ok(Self(joined(base, "model", model, fields, Some(pieces))?))
    }

    /// The size of the file, if `out` may have it.
    pub fn bytes(&self, out: &Path) -> Result<u64, ModelError> {
        match length(&self.0) {
            bytes if bytes > MAX_FILE => {
                Err(ModelError::TooLarge { path: out.into(), bytes, limit: MAX_FILE })
            }
            bytes => Ok(bytes),
        }
    }

    /// Writes it to the empty file `out`, which is to be at `place`.
    pub fn write<C: Contents>(
        &self,
        base: &OnnxModel,
        out: &mut File,
        place: &Path,
        contents: &mut C,
    ) -> Result<(), C::Error> {
        let failed = |e| ModelError::io("write", place, e);
        base.check_same()?;
        let mut source = None;
        let mut pieces = self.0.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Bytes(bytes) => out.write_all(bytes).map_err(failed)?,
                Piece::Given { name, length } => {
                    write::give(contents, name, *length, (out, place))?;
                }
                Piece::Stored(range) => {
                    let mut range = range.clone();
                    while let Some(Piece::Stored(next)) =
                        pieces.next_if(|p| matches!(p, Piece::Stored(r) if r.start == range.end))
                    {
                        range.end = next.end;
                    }
                    let from = &base.path;
                    let source = match &mut source {
                        Some(source) => source,
                        none => none
                            .insert(File::open(from).map_err(|e| ModelError::io("read", from, e))?),
                    };
                    write::copy((source, from), range, (out, place))?;
                }
            }
        }
        Ok(base.check_same()?)
    }
}

/// The fields of the graph. Initializers whose raw data lie in the base's file take them from
/// there if they are encoded.
fn graph_fields(proto: &ModelProto, given: &dyn Fn(&str) -> bool) -> Result<Vec<New>, ModelError> {
    let mut fields = Vec::new();
    let Some(graph) = &proto.graph else { return Ok(fields) };
    layout::graph_fields(graph, &mut |number, _, bytes| fields.push(New::plain(number, bytes)));
    let tensors = fields.iter_mut().filter(|field| field.number == INITIALIZER);
    for (field, tensor) in tensors.zip(&graph.initializer) {
        let name = tensor.name();
        if given(name) {
            let other = || ModelError::NotFloat { name: name.into(), dtype: "other".into() };
            let length = dtypes::expected_bytes(tensor)?.ok_or_else(other)?;
            let data = Piece::Given { name: name.into(), length };
            field.encoded = with_data(tensor, data);
            field.given = Some((name.into(), length));
        } else if external::is_own(tensor) {
            field.encoded = with_data(tensor, Piece::Stored(external::own_range(tensor)?));
        } else if external::is_promised(tensor) {
            return Err(ModelError::NoInitializer { name: name.into() });
        }
    }
    Ok(fields)
}

/// `tensor` with `data` as its raw data and no other values.
fn with_data(tensor: &TensorProto, data: Piece) -> Vec<Piece> {
    let mut bare = external::promised(tensor.clone());
    bare.data_location = None;
    let mut body = bare.encode_to_vec();
    wire::head(RAW_DATA, data.length(), &mut body);
    let mut head = Vec::new();
    wire::head(INITIALIZER, body.len() as u64 + data.length(), &mut head);
    head.append(&mut body);
    vec![Piece::Bytes(head), data]
}

/// The pieces of a message: each part where it was if it still is, a new one in its order among
/// those of its number. `inner` are those of the graph, if it is the model.
fn joined(
    base: &OnnxModel,
    place: &str,
    parts: &Parts,
    fields: Vec<New>,
    inner: Option<Vec<Piece>>,
) -> Result<Vec<Piece>, ModelError> {
    let lost = |what: String| ModelError::WouldLose { path: base.path.clone(), what };
    let mut by_number = BTreeMap::<u32, Vec<New>>::new();
    fields.into_iter().for_each(|new| by_number.entry(new.number).or_default().push(new));
    let mut stored = BTreeMap::<u32, Vec<(usize, &Part)>>::new();
    for (index, part) in parts.list.iter().enumerate() {
        stored.entry(part.number).or_default().push((index, part));
    }
    // What comes at the place of each part, and what comes where there was none of its number.
    let mut at = Vec::new();
    at.resize_with(parts.list.len(), Vec::new);
    let mut ends = BTreeMap::<u32, Vec<Piece>>::new();
    if let Some(inner) = inner {
        match stored.remove(&GRAPH).as_deref() {
            Some([(index, part)]) => at[*index] = around(inner, Some(part)),
            _ => drop(ends.insert(GRAPH, around(inner, None))),
        }
    }
    for (number, new) in &by_number {
        if !stored.contains_key(number) {
            let encoded = new.iter().flat_map(pieces_of).collect();
            ends.insert(*number, encoded);
        }
    }
    for (number, old) in stored {
        let new = by_number.remove(&number).unwrap_or_default();
        let known = parts.known.get(&number).map(Vec::as_slice).unwrap_or_default();
        let same = new.iter().map(|new| &new.digest).eq(known);
        if known.len() != old.len() {
            if !same || new.iter().any(|new| new.given.is_some()) {
                return Err(lost(format!("field {number} of the {place}")));
            }
            old.iter().for_each(|(i, part)| at[*i] = vec![Piece::Stored(part.span.clone())]);
            continue;
        }
        align(&old, known, new, &mut at).map_err(lost)?;
    }
    // A number that is new comes before the first part of a higher one.
    let mut pieces = Vec::new();
    for (part, here) in parts.list.iter().zip(at) {
        while ends.first_key_value().is_some_and(|(number, _)| *number < part.number) {
            pieces.extend(ends.pop_first().into_iter().flat_map(|(_, new)| new));
        }
        pieces.extend(here);
    }
    pieces.extend(ends.into_values().flatten());
    Ok(pieces)
}

/// The graph between its key and its end, as it was stored if its length is what it was.
fn around(inner: Vec<Piece>, part: Option<&Part>) -> Vec<Piece> {
    let length = length(&inner);
    let head = match part {
        Some(part) if part.body.end - part.body.start == length => {
            Piece::Stored(part.span.start..part.body.start)
        }
        _ => {
            let mut head = Vec::new();
            wire::head(GRAPH, length, &mut head);
            Piece::Bytes(head)
        }
    };
    [head].into_iter().chain(inner).collect()
}

fn pieces_of(new: &New) -> Vec<Piece> {
    let copy = |piece: &Piece| match piece {
        Piece::Stored(range) => Piece::Stored(range.clone()),
        Piece::Bytes(bytes) => Piece::Bytes(bytes.clone()),
        Piece::Given { name, length } => Piece::Given { name: name.clone(), length: *length },
    };
    new.encoded.iter().map(copy).collect()
}

/// Puts the parts of one number, `new`, at the places of the `old` ones.
fn align(
    old: &[(usize, &Part)],
    known: &[Digest],
    new: Vec<New>,
    at: &mut [Vec<Piece>],
) -> Result<(), String> {
    let mut unused = HashMap::<Digest, VecDeque<usize>>::new();
    for (index, digest) in known.iter().enumerate() {
        unused.entry(*digest).or_default().push_back(index);
    }
    let mut kept = vec![false; old.len()];
    let mut placed = VecDeque::new();
    for new in new {
        let found = unused.get_mut(&new.digest).and_then(|list| {
            let index = *list.front()?;
            let pieces = new.stored(old[index].1)?;
            list.pop_front();
            Some((index, pieces))
        });
        match found {
            Some((index, pieces)) => {
                kept[index] = true;
                placed.push_back((Some(index), pieces));
            }
            None => placed.push_back((None, new.encoded)),
        }
    }
    if let Some(surplus) = old
        .iter()
        .zip(&kept)
        .filter(|(_, kept)| !**kept)
        .find_map(|((_, part), _)| part.surplus.as_ref())
    {
        return Err(surplus.what.clone());
    }
    // Each part brings along what comes before it, the last one all that is left.
    for (index, (place, _)) in old.iter().enumerate() {
        let last = index + 1 == old.len();
        let still = kept[index] && placed.iter().any(|(i, _)| *i == Some(index));
        while let Some((from, _)) = placed.front()
            && (last || still || from.is_none())
        {
            let own = *from == Some(index);
            at[*place].extend(placed.pop_front().into_iter().flat_map(|(_, pieces)| pieces));
            if own && !last {
                break;
            }
        }
    }
    Ok(())
}
