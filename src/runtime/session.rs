//! One loaded graph and how it is run.

use std::path::Path;

use ort::{
    memory::MemoryInfo,
    session::{
        RunOptions, Session as OrtSession, SessionOutputs,
        builder::{BuilderResult, GraphOptimizationLevel, PrepackedWeights, SessionBuilder},
    },
    value::ValueType,
};
use prost::Message;

use super::{
    Provider, RuntimeError, Tensor,
    environment::{environment, loaded},
    placement, transposed,
    weights::{self, Lent},
};
use crate::model::{node::Dim, proto::ModelProto};

/// How a session is set up. Rollouts and gradients use the same options, because prepacking on
/// against off alone moves logits by a few parts in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads inside an operator; at least 1.
    pub threads: usize,
    /// Where to run.
    pub provider: Provider,
    /// Whether a graph for rollouts holds its weights a second time, in the order in which products
    /// read them. Small models do anyway.
    pub packed: bool,
}

impl SessionOptions {
    /// The CPU provider with the given number of threads.
    pub fn cpu(threads: usize) -> Self {
        Self { threads: threads.max(1), provider: Provider::Cpu, packed: false }
    }

    /// The same threads on another provider.
    pub fn on(self, provider: Provider) -> Self {
        Self { provider, ..self }
    }

    /// The same with weights packed for rollouts, or not.
    pub fn packing(self, packed: bool) -> Self {
        Self { packed, ..self }
    }
}

/// A graph loaded by ONNX Runtime.
pub struct Session {
    what: String,
    inner: OrtSession,
    provider: Provider,
    /// Where outputs lie that are kept beside the model, and where those are read.
    device: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    giving_back: Option<RunOptions>,
    small: bool,
    /// Dropped after the session that reads them.
    _lent: Vec<Lent>,
}

impl Session {
    /// Loads `model`; external data is looked for beside `path`. `what` names the graph in errors.
    /// Large weights that are in memory are not copied, except to a device.
    ///
    /// # Errors
    /// If the library is not found, the provider cannot be had or lacks a kernel, or the graph is
    /// refused.
    pub fn load(
        what: &str,
        model: &ModelProto,
        path: &Path,
        options: SessionOptions,
    ) -> Result<Self, RuntimeError> {
        Self::load_packed(what, model, path, options, None)
    }

    /// [`Self::load`] of a model that others are loaded from too, all with one copy of what is
    /// packed.
    pub(super) fn load_packed(
        what: &str,
        model: &ModelProto,
        path: &Path,
        options: SessionOptions,
        shared: Option<&PackedWeights>,
    ) -> Result<Self, RuntimeError> {
        let loaded = loaded(options.provider)?;
        let provider = options.provider;
        let refused = |error: ort::Error| refused(what, provider, &error);
        let builder = OrtSession::builder(&loaded.environment).map_err(refused)?;
        let (mut lean, lent) = weights::lend(model)?;
        transposed::flag(&mut lean, provider);
        let small = weights::bytes(&lent) <= SMALL;
        let packed = options.packed || has_blocks(&lean) || small;
        let mut builder =
            configured(builder, path, options, packed).map_err(|e| refused(e.into()))?;
        if let Some(PackedWeights(shared)) = shared {
            builder = builder.with_prepacked_weights(shared).map_err(|e| refused(e.into()))?;
        }
        let mut builder = provider.register(builder, &loaded.library)?;
        weights::give(&mut builder, &lent, provider).map_err(refused)?;
        let inner = builder.commit_from_memory(&lean.encode_to_vec()).map_err(refused)?;
        if provider != Provider::Cpu {
            placement::check(what, &inner)?;
        }
        Ok(Self {
            what: what.to_owned(),
            inner,
            provider,
            device: provider.memory().map_err(refused)?,
            host: Provider::Cpu.memory().map_err(refused)?,
            giving_back: provider.giving_back().map_err(refused)?,
            small,
            _lent: lent,
        })
    }

    /// Whether the weights are so few that they may be held twice.
    pub(super) fn is_small(&self) -> bool {
        self.small
    }

    /// Names and dimensions of the inputs, in order; unnamed free dimensions are empty names.
    pub fn inputs(&self) -> Vec<(String, Vec<Dim>)> {
        self.inner.inputs().iter().map(|i| (i.name().to_owned(), dims(i.dtype()))).collect()
    }

    /// Names and dimensions of the outputs, in order.
    pub fn outputs(&self) -> Vec<(String, Vec<Dim>)> {
        self.inner.outputs().iter().map(|o| (o.name().to_owned(), dims(o.dtype()))).collect()
    }

    /// Runs the graph; the outputs come in the graph's order and lie in the host's memory. Device
    /// memory that the run no longer needs goes back to the device.
    ///
    /// # Errors
    /// If the runtime refuses the inputs or fails.
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let names = self.output_names();
        let what = self.what.clone();
        let inputs: Vec<_> = feeds.iter().map(|(name, tensor)| (*name, &tensor.0)).collect();
        let outputs = match &self.giving_back {
            Some(options) => self.inner.run_with_options(inputs, options),
            None => self.inner.run(inputs),
        };
        taken(&what, &names, outputs)
    }

    /// Runs the graph and leaves the outputs for which `keep` holds, by position, where the model
    /// runs; the others are copied to the host's memory. `rest` gives device memory back that the
    /// run no longer needs, which takes time and is not for every token.
    ///
    /// # Errors
    /// If the runtime refuses the inputs or fails.
    pub fn run_bound(
        &mut self,
        feeds: &[(&str, &Tensor)],
        keep: impl Fn(usize) -> bool,
        rest: bool,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let names = self.output_names();
        let what = self.what.clone();
        let failed = |e: ort::Error| failed(&what, &e);
        // A new binding for every run: bound to a device alone, an output would be written over
        // what the last run left there, in whatever shape that had.
        let mut binding = self.inner.create_binding().map_err(failed)?;
        for (name, tensor) in feeds {
            binding.bind_input(*name, &tensor.0).map_err(failed)?;
        }
        for (position, name) in names.iter().enumerate() {
            let place = if keep(position) { &self.device } else { &self.host };
            binding.bind_output_to_device(name, place).map_err(failed)?;
        }
        if self.provider != Provider::Cpu {
            binding.synchronize_inputs().map_err(failed)?;
        }
        let outputs = match self.giving_back.as_ref().filter(|_| rest) {
            Some(options) => self.inner.run_binding_with_options(&binding, options),
            None => self.inner.run_binding(&binding),
        };
        let outputs = taken(&what, &names, outputs);
        if self.provider != Provider::Cpu {
            binding.synchronize_outputs().map_err(failed)?;
        }
        outputs
    }

    /// Runs the graph on the host; each of `places`, the names of an input and an output, and the
    /// tensor that is both, is written where it lies. Gives the other outputs, in order.
    ///
    /// # Errors
    /// If the runtime refuses the inputs or fails.
    pub fn run_in_place<'a>(
        &mut self,
        feeds: &[(&str, &Tensor)],
        places: impl Iterator<Item = ((&'a str, &'a str), &'a mut Tensor)>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let mut names = self.output_names();
        let what = self.what.clone();
        let failed = |e: ort::Error| failed(&what, &e);
        let mut binding = self.inner.create_binding().map_err(failed)?;
        for (name, tensor) in feeds {
            binding.bind_input(*name, &tensor.0).map_err(failed)?;
        }
        for ((input, output), tensor) in places {
            binding.bind_input(input, &tensor.0).map_err(failed)?;
            binding.bind_output(output, &mut tensor.0).map_err(failed)?;
            names.retain(|name| name != output);
        }
        for name in &names {
            binding.bind_output_to_device(name, &self.host).map_err(failed)?;
        }
        let outputs = self.inner.run_binding(&binding);
        taken(&what, &names, outputs)
    }

    fn output_names(&self) -> Vec<String> {
        self.inner.outputs().iter().map(|o| o.name().to_owned()).collect()
    }
}

/// Weights in the order in which products read them, for all sessions of one model.
pub(super) struct PackedWeights(PrepackedWeights);

impl PackedWeights {
    /// Of no session so far.
    pub fn none() -> Result<Self, RuntimeError> {
        environment()?;
        Ok(Self(PrepackedWeights::new()))
    }
}

/// The most bytes of weights that may be held twice.
const SMALL: usize = 1 << 26;

/// Whether `model` multiplies blocks of few bits, which the runtime does fast only when it has
/// packed them.
fn has_blocks(model: &ModelProto) -> bool {
    model.graph.iter().flat_map(|g| &g.node).any(|n| n.op_type() == "MatMulNBits")
}

/// Packing makes a second copy of every matrix, so it is for small models, which it makes faster,
/// for matrices that are useless without, and for whom speed is worth the memory.
#[expect(clippy::result_large_err, reason = "ort's error hands the builder back")]
fn configured(
    builder: SessionBuilder,
    path: &Path,
    options: SessionOptions,
    packed: bool,
) -> BuilderResult {
    let folder = path.parent().unwrap_or(Path::new("")).to_string_lossy().into_owned();
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.threads)?
        // Threads wait awake for the next operator, and sleep when the run is over: then the host
        // chooses tokens, or another graph has its turn.
        .with_intra_op_spinning(true)?
        .with_config_entry("session.force_spinning_stop", "1")?
        // Batches differ in size, and a plan of memory would be kept for every size there was.
        .with_memory_pattern(false)?
        .with_prepacking(packed)?
        .with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
    match options.provider {
        Provider::Cpu => Ok(builder),
        Provider::Cuda(_) => builder.with_config_entry(placement::RECORD, "1"),
    }
}

fn refused(what: &str, provider: Provider, error: &ort::Error) -> RuntimeError {
    let (what, reason) = (what.to_owned(), error.to_string());
    match error.code() {
        ort::ErrorCode::NotImplemented => {
            RuntimeError::NoKernel { what, provider: provider.name(), reason }
        }
        _ => match provider {
            Provider::Cuda(cuda) if reason.contains("CUDA failure") => {
                super::provider::refused(cuda.device, &reason)
            }
            _ => RuntimeError::Load { what, reason },
        },
    }
}

fn failed(what: &str, error: &ort::Error) -> RuntimeError {
    RuntimeError::Run { what: what.to_owned(), reason: error.to_string() }
}

fn taken(
    what: &str,
    names: &[String],
    outputs: ort::Result<SessionOutputs<'_>>,
) -> Result<Vec<Tensor>, RuntimeError> {
    let mut outputs = outputs.map_err(|e| failed(what, &e))?;
    names
        .iter()
        .map(|name| {
            let reason = || format!("no output '{name}'");
            let value = outputs.remove(name);
            value
                .map(Tensor)
                .ok_or_else(|| RuntimeError::Run { what: what.to_owned(), reason: reason() })
        })
        .collect()
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
