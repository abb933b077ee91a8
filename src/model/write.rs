//! Putting a changed model on disk: what did not change as it was stored, whole or not at all,
//! and never over an input.

use super::{
    ModelError, OnnxModel, Staged, data::DataFiles, external::folder_of, proto::ModelProto,
    stored::Plan,
};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

/// Initializers that get other contents, made when their turn comes to be written.
pub trait Contents {
    /// Why contents could not be made.
    type Error: From<ModelError>;

    /// Whether the initializer of this name does.
    fn changes(&self, name: &str) -> bool;

    /// The initializer of the base that one which is new was copied from, and is stored like.
    fn copied_from(&self, name: &str) -> Option<&str>;

    /// Hands the bytes of an initializer that [`changes`](Self::changes) to `each`, in pieces and
    /// in the layout of `raw_data`.
    fn give(
        &mut self,
        name: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), Self::Error>;
}

/// No other contents.
#[derive(Clone, Copy, Debug)]
pub struct Untouched;

impl Contents for Untouched {
    type Error = ModelError;

    fn changes(&self, _: &str) -> bool {
        false
    }

    fn copied_from(&self, _: &str) -> Option<&str> {
        None
    }

    fn give(
        &mut self,
        _: &str,
        _: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Writes `proto`, which was made from `base`, to `out`: beside its place first, then renamed.
/// [`stage_model`] says what is written. Returns the bytes of the .onnx file.
pub fn write_model(base: &OnnxModel, proto: &ModelProto, out: &Path) -> Result<u64, ModelError> {
    let (bytes, staged) = stage_model(base, proto, out, &mut Untouched)?;
    staged.place()?;
    Ok(bytes)
}

/// Writes `proto`, which was made from `base`, beside its place `out`, with other `contents`.
///
/// Parts of the model and of its graph that are as in the file of `base` are copied from there
/// byte for byte, whatever they hold; a part that changed is encoded anew, and refused if it
/// holds more than this crate knows of it. A tensor in a data file stays in one at its offset: the
/// file is copied with the changed ranges replaced, under its own name in another folder where no other
/// model's file has it, else under a free name that starts like `out`'s. A copy of such a tensor, and one that shares its bytes with
/// others and changes, gets a place behind the end of that file. A data file without changes is not
/// copied within its folder. No file of `base` is ever replaced. Returns the bytes of the .onnx file too.
pub fn stage_model<C: Contents>(
    base: &OnnxModel,
    proto: &ModelProto,
    out: &Path,
    contents: &mut C,
) -> Result<(u64, Staged), C::Error> {
    if out.is_dir() || out.file_name().is_none() {
        return Err(ModelError::NotAFile { path: out.into() }.into());
    }
    let io = |e| ModelError::io("write", out, e);
    let out_folder = fs::canonicalize(folder_of(out)).map_err(io)?;
    refuse_overwriting(out, base)?;
    let mut staged = Staged::default();
    let mut proto = proto.clone();
    let data = DataFiles::plan(base, &mut proto, out, &out_folder, contents)?;
    let plan = Plan::new(base, &proto, &|name| contents.changes(name) && !data.holds(name))?;
    let bytes = plan.bytes(out)?;
    data.stage(&mut staged, &out_folder, base, contents)?;
    let mut file = Staged::new_file(out)?;
    plan.write(base, file.as_file_mut(), out, contents)?;
    staged.push(file, out.into())?;
    Ok((bytes, staged))
}

/// An output that does not exist yet is no input.
pub(super) fn refuse_overwriting(out: &Path, base: &OnnxModel) -> Result<(), ModelError> {
    let Ok(target) = fs::canonicalize(out) else { return Ok(()) };
    let same = |input: &Path| fs::canonicalize(input).is_ok_and(|path| path == target);
    match base.files().iter().any(|input| same(input)) {
        true => Err(ModelError::WouldOverwriteInput { path: out.into() }),
        false => Ok(()),
    }
}

/// Copies a range of `source`, which is at `from`, to the end of `out`, which is to be at `place`:
/// by the system, where it can.
pub(super) fn copy(
    (source, from): (&mut File, &Path),
    range: Range<u64>,
    (out, place): (&mut File, &Path),
) -> Result<(), ModelError> {
    let length = range.end.saturating_sub(range.start);
    let read = |e| ModelError::io("read", from, e);
    source.seek(SeekFrom::Start(range.start)).map_err(read)?;
    let copied = io::copy(&mut source.take(length), out);
    match copied.map_err(|e| ModelError::io("write", place, e))? == length {
        true => Ok(()),
        false => Err(ModelError::Changed { path: from.into() }),
    }
}

/// Writes the contents of an initializer, which are so many bytes, to the end of `out`.
pub(super) fn give<C: Contents>(
    contents: &mut C,
    name: &str,
    length: u64,
    (out, place): (&mut File, &Path),
) -> Result<(), C::Error> {
    let mut written = 0;
    contents.give(name, &mut |piece| {
        written += piece.len() as u64;
        out.write_all(piece).map_err(|e| ModelError::io("write", place, e))
    })?;
    match written == length {
        true => Ok(()),
        false => {
            let (name, expected) = (name.into(), length);
            Err(ModelError::WrongLength { name, expected, actual: written }.into())
        }
    }
}
