//! One loaded graph and how it is run.

use std::{
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::{
    environment::Environment,
    session::{Session as OrtSession, builder::GraphOptimizationLevel},
    value::ValueType,
};
use prost::Message;

use super::{RuntimeError, Tensor};
use crate::model::{node::Dim, proto::ModelProto};

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The CPU provider every build of ONNX Runtime has.
    #[default]
    Cpu,
}

/// How a session is set up. Rollouts and gradients use the same options, because prepacking on
/// against off alone moves logits by a few parts in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads inside an operator; at least 1.
    pub threads: usize,
    /// Where to run.
    pub provider: Provider,
}

impl SessionOptions {
    /// The CPU provider with the given number of threads.
    pub fn cpu(threads: usize) -> Self {
        Self { threads: threads.max(1), provider: Provider::Cpu }
    }
}

/// A graph loaded by ONNX Runtime.
pub struct Session {
    what: String,
    inner: OrtSession,
}

impl Session {
    /// Loads `model`; external data is looked for beside `path`. `what` names the graph in errors.
    ///
    /// # Errors
    /// If the library is not found or refuses the graph.
    pub fn load(
        what: &str,
        model: &ModelProto,
        path: &Path,
        options: SessionOptions,
    ) -> Result<Self, RuntimeError> {
        let environment = environment()?;
        let refused = |reason: String| RuntimeError::Load { what: what.to_owned(), reason };
        let folder = path.parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let Provider::Cpu = options.provider;
        let mut builder = OrtSession::builder(environment)
            .map_err(|e| refused(e.to_string()))?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|e| refused(e.to_string()))?
            .with_intra_threads(options.threads)
            .map_err(|e| refused(e.to_string()))?
            .with_intra_op_spinning(false)
            .map_err(|e| refused(e.to_string()))?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)
            .map_err(|e| refused(e.to_string()))?;
        let inner = builder
            .commit_from_memory(&model.encode_to_vec())
            .map_err(|e| refused(e.to_string()))?;
        Ok(Self { what: what.to_owned(), inner })
    }

    /// Names and dimensions of the inputs, in order; unnamed free dimensions are empty names.
    pub fn inputs(&self) -> Vec<(String, Vec<Dim>)> {
        self.inner.inputs().iter().map(|i| (i.name().to_owned(), dims(i.dtype()))).collect()
    }

    /// Names and dimensions of the outputs, in order.
    pub fn outputs(&self) -> Vec<(String, Vec<Dim>)> {
        self.inner.outputs().iter().map(|o| (o.name().to_owned(), dims(o.dtype()))).collect()
    }

    /// Runs the graph; the outputs come in the graph's order.
    ///
    /// # Errors
    /// If the runtime refuses the inputs or fails.
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let names: Vec<String> = self.inner.outputs().iter().map(|o| o.name().to_owned()).collect();
        let what = self.what.clone();
        let failed = |reason: String| RuntimeError::Run { what: what.clone(), reason };
        let inputs: Vec<_> = feeds.iter().map(|(name, tensor)| (*name, &tensor.0)).collect();
        let mut outputs = self.inner.run(inputs).map_err(|e| failed(e.to_string()))?;
        names
            .iter()
            .map(|name| {
                let value = outputs.remove(name);
                value.map(Tensor).ok_or_else(|| failed(format!("no output '{name}'")))
            })
            .collect()
    }
}

fn dims(dtype: &ValueType) -> Vec<Dim> {
    let ValueType::Tensor { shape, dimension_symbols, .. } = dtype else { return Vec::new() };
    shape
        .iter()
        .zip(dimension_symbols.iter())
        .map(|(size, symbol)| match size {
            n if *n >= 0 => Dim::Fixed(*n),
            _ => Dim::Named(symbol.clone()),
        })
        .collect()
}

/// Finds and loads ONNX Runtime, unless that has been done.
///
/// # Errors
/// If there is no usable library.
pub fn ready() -> Result<(), RuntimeError> {
    environment().map(|_| ())
}

/// The process-wide ONNX Runtime, found and loaded at first use.
pub(super) fn environment() -> Result<&'static Environment, RuntimeError> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    static OPENING: Mutex<()> = Mutex::new(());
    if let Some(ready) = ENVIRONMENT.get() {
        return Ok(ready);
    }
    // ONNX Runtime allows one environment a process, so only one thread may try.
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ready) = ENVIRONMENT.get() {
        return Ok(ready);
    }
    let made = open()?;
    Ok(ENVIRONMENT.get_or_init(|| made))
}

#[cfg(feature = "load")]
fn open() -> Result<Environment, RuntimeError> {
    let build = |builder: ort::environment::EnvironmentBuilder| {
        builder.with_telemetry(false).build().map_err(|e| e.to_string())
    };
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let opened = ort::init_from(&path).map_err(|e| e.to_string()).and_then(build);
        let path = path.to_string_lossy().into_owned();
        return opened.map_err(|reason| RuntimeError::Named { path, reason });
    }
    let mut looked = Vec::new();
    for candidate in super::candidates() {
        if !candidate.found {
            looked.push(candidate.to_string());
            continue;
        }
        match ort::init_from(&candidate.path).map_err(|e| e.to_string()).and_then(build) {
            Ok(environment) => return Ok(environment),
            Err(reason) => looked.push(format!("{candidate}: {reason}")),
        }
    }
    Err(RuntimeError::NotFound { looked: looked.join("\n") })
}

#[cfg(not(feature = "load"))]
fn open() -> Result<Environment, RuntimeError> {
    let built = ort::init().with_telemetry(false).build();
    built.map_err(|e| RuntimeError::NotFound { looked: format!("  ort's own download: {e}") })
}
