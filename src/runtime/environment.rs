//! The ONNX Runtime library of this process.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::environment::Environment;

use super::{Provider, RuntimeError, SessionOptions, rows::RowPicker};
use crate::model::proto::tensor_proto::DataType;

/// A loaded library.
pub(super) struct Loaded {
    pub environment: Environment,
    /// Where it lies, in words if no file of ours.
    pub library: PathBuf,
}

/// Finds and loads ONNX Runtime, unless that has been done: of the builds there are, the first
/// that has `provider`. A device is opened, so that a command that cannot have it ends at once.
///
/// # Errors
/// If there is no usable library, or the provider or its device cannot be had.
pub fn ready(provider: Provider) -> Result<(), RuntimeError> {
    loaded(provider)?;
    match provider {
        Provider::Cpu => Ok(()),
        Provider::Cuda(_) => {
            let options = SessionOptions::cpu(1).on(provider);
            RowPicker::load(&[DataType::Float], options).map(drop)
        }
    }
}

static LOADED: OnceLock<Loaded> = OnceLock::new();

/// The process-wide ONNX Runtime, found and loaded at first use.
pub(super) fn environment() -> Result<&'static Environment, RuntimeError> {
    loaded(Provider::Cpu).map(|loaded| &loaded.environment)
}

/// The same with its place. Only the first call of a process decides by `provider`.
pub(super) fn loaded(provider: Provider) -> Result<&'static Loaded, RuntimeError> {
    static OPENING: Mutex<()> = Mutex::new(());
    if let Some(ready) = LOADED.get() {
        return Ok(ready);
    }
    // ONNX Runtime allows one environment a process, so only one thread may try.
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ready) = LOADED.get() {
        return Ok(ready);
    }
    let made = open(provider)?;
    Ok(LOADED.get_or_init(|| made))
}

#[cfg(feature = "load")]
fn open(provider: Provider) -> Result<Loaded, RuntimeError> {
    let open = |path: &std::path::Path| {
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        let environment = builder.with_telemetry(false).build().map_err(|e| e.to_string())?;
        Ok(Loaded { environment, library: path.to_owned() })
    };
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return open(&path).map_err(|reason| {
            let path = path.to_string_lossy().into_owned();
            RuntimeError::Named { path, reason }
        });
    }
    let mut candidates = super::candidates();
    if let Provider::Cuda(_) = provider {
        candidates.sort_by_key(|candidate| !candidate.has_cuda());
    }
    let mut looked = Vec::new();
    for candidate in candidates {
        if !candidate.found {
            looked.push(candidate.to_string());
            continue;
        }
        match open(&candidate.path) {
            Ok(loaded) => return Ok(loaded),
            Err(reason) => looked.push(format!("{candidate}: {reason}")),
        }
    }
    Err(RuntimeError::NotFound { looked: looked.join("\n") })
}

#[cfg(not(feature = "load"))]
fn open(_: Provider) -> Result<Loaded, RuntimeError> {
    let library = PathBuf::from("ort's own download");
    match ort::init().with_telemetry(false).build() {
        Ok(environment) => Ok(Loaded { environment, library }),
        Err(e) => Err(RuntimeError::NotFound { looked: format!("  {}: {e}", library.display()) }),
    }
}
