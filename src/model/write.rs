//! Putting a model on disk: whole or not at all, and never over an input.

use super::{ModelError, external, onnx::MAX_FILE, proto::ModelProto};
use prost::Message;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// Writes `proto` to `out`: beside its place first, then renamed.
///
/// `sources` are the files it was made from, the one that external data belong to first; none
/// of them, and no data file, may be `out`. A model with external data can be written into
/// their folder only. Returns the number of bytes written.
pub fn write_model(proto: &ModelProto, out: &Path, sources: &[&Path]) -> Result<u64, ModelError> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if out.is_dir() || out.file_name().is_none() {
        return Err(ModelError::NotAFile { path: out.into() });
    }
    let io = |e| ModelError::io("write", out, e);
    let home = fs::canonicalize(folder).map_err(io)?;
    refuse_overwriting(out, sources.iter().copied())?;
    check_external(proto, out, &home, sources)?;

    let bytes = proto.encoded_len() as u64;
    if bytes > MAX_FILE {
        return Err(ModelError::TooLarge { path: out.into(), bytes, limit: MAX_FILE });
    }
    let mut file = new_file(&home).map_err(io)?;
    file.write_all(&proto.encode_to_vec()).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(out).map_err(|e| io(e.error))?;
    Ok(bytes)
}

/// A temporary file with the permissions any new file would have, not a private one.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tla-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

fn refuse_overwriting<'a>(
    out: &Path,
    inputs: impl Iterator<Item = &'a Path>,
) -> Result<(), ModelError> {
    // An output that does not exist yet is no input.
    let Ok(target) = fs::canonicalize(out) else { return Ok(()) };
    let same = |input: &Path| fs::canonicalize(input).is_ok_and(|p| p == target);
    match inputs.map(Path::to_owned).any(|input: PathBuf| same(&input)) {
        true => Err(ModelError::WouldOverwriteInput { path: out.into() }),
        false => Ok(()),
    }
}

fn check_external(
    proto: &ModelProto,
    out: &Path,
    home: &Path,
    sources: &[&Path],
) -> Result<(), ModelError> {
    let tensors = proto.graph.iter().flat_map(|g| &g.initializer);
    for tensor in tensors.filter(|t| external::is_external(t)) {
        let origin = sources.first().and_then(|s| fs::canonicalize(s).ok());
        if origin.as_deref().and_then(Path::parent) != Some(home) {
            let location = external::location(tensor).into();
            return Err(ModelError::ExternalLeftBehind { path: out.into(), location });
        }
        let region = external::locate(home, tensor)?;
        refuse_overwriting(out, [region.path.as_path()].into_iter())?;
    }
    Ok(())
}
