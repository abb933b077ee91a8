//! A language model's inputs and outputs: tokens, mask, positions, key-value cache.

use std::{
    path::{Path, PathBuf},
    slice,
};

use super::{
    Cache, Provider, RuntimeError, Session, SessionOptions, Tensor, cache::grows_in_place,
    head_size::head_size, rows::RowPicker, session::PackedWeights,
};
use crate::model::{
    node::{Dim, tensor_type},
    proto::{GraphProto, ModelProto, ValueInfoProto, tensor_proto::DataType},
};

/// One cached tensor: `past` goes in as `[batch, heads, time, size]`, `present` comes out longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub past: String,
    pub present: String,
    heads: usize,
    size: usize,
    pub kind: DataType,
}

/// The names a causal language model's graph uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    slots: Vec<Slot>,
    /// Whether the graph is told the position of each token.
    pub positions: bool,
    /// Whether attention counts the tokens of a row in place of looking at which are masked, so
    /// that only the end of a row may be padding.
    pub padded_right: bool,
    /// The number of tokens the logits distinguish, if the graph states it.
    pub vocabulary: Option<usize>,
}

const IDS: &str = "input_ids";
/// The input that tells tokens from padding.
pub const MASK: &str = "attention_mask";
/// The input with the place of each token in its row.
pub const POSITIONS: &str = "position_ids";
/// The output that holds the scores of the next token.
pub const LOGITS: &str = "logits";

impl Interface {
    /// Reads the names from a graph exported with a cache.
    ///
    /// # Errors
    /// If an input or output of a causal language model is missing.
    pub fn of(graph: &GraphProto) -> Result<Self, RuntimeError> {
        let input = |name: &str| graph.input.iter().find(|i| i.name() == name);
        for name in [IDS, MASK] {
            if input(name).is_none() {
                return Err(RuntimeError::NotCausal { what: format!("input '{name}'") });
            }
        }
        let logits = graph.output.iter().find(|o| o.name() == LOGITS);
        let logits =
            logits.ok_or_else(|| RuntimeError::NotCausal { what: format!("output '{LOGITS}'") })?;
        let mut slots = Vec::new();
        for past in graph.input.iter().filter(|i| i.name().starts_with("past_key_values.")) {
            slots.push(slot(graph, past)?);
        }
        if slots.is_empty() {
            return Err(RuntimeError::NotCausal { what: "past_key_values inputs".to_owned() });
        }
        let vocabulary = match tensor_type(logits).and_then(|(_, dims)| dims.last().cloned()) {
            Some(Dim::Fixed(n)) => usize::try_from(n).ok(),
            _ => embedded(graph),
        };
        let padded_right = graph.node.iter().any(|n| n.op_type() == "GroupQueryAttention");
        Ok(Self { slots, positions: input(POSITIONS).is_some(), padded_right, vocabulary })
    }

    /// The inputs of one run, in a fixed order.
    ///
    /// # Errors
    /// If the rows are not of the sizes they state.
    pub fn feeds(&self, rows: &Rows<'_>) -> Result<Vec<(&str, Tensor)>, RuntimeError> {
        let length = rows.ids.len() / rows.batch.max(1);
        let width = rows.mask.len() / rows.batch.max(1);
        let mut feeds = vec![
            (IDS, Tensor::i64(&[rows.batch, length], rows.ids.to_vec())?),
            (MASK, Tensor::i64(&[rows.batch, width], rows.mask.to_vec())?),
        ];
        if self.positions {
            feeds.push((POSITIONS, Tensor::i64(&[rows.batch, length], rows.positions.to_vec())?));
        }
        Ok(feeds)
    }

    /// One run's cache inputs when nothing is cached, with their names.
    ///
    /// # Errors
    /// If the runtime refuses an empty tensor.
    pub fn empty_cache_feeds(&self, batch: usize) -> Result<Vec<(&str, Tensor)>, RuntimeError> {
        let made = self
            .slots
            .iter()
            .map(|s| Ok((s.past.as_str(), Tensor::empty(s.kind, &[batch, s.heads, 0, s.size])?)));
        made.collect()
    }

    /// Each cache input and the output it grows into.
    pub fn cache_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.slots.iter().map(|s| (s.past.as_str(), s.present.as_str()))
    }
}

/// The rows of the embedding that the tokens are looked up in.
fn embedded(graph: &GraphProto) -> Option<usize> {
    let lookup = graph.node.iter().find(|n| {
        n.op_type() == "Gather" && n.input.get(1).is_some_and(|indices| indices == IDS)
    })?;
    let table = graph
        .initializer
        .iter()
        .find(|t| Some(t.name()) == lookup.input.first().map(String::as_str))?;
    table.dims.first().and_then(|rows| usize::try_from(*rows).ok())
}

fn slot(graph: &GraphProto, past: &ValueInfoProto) -> Result<Slot, RuntimeError> {
    let suffix = past.name().trim_start_matches("past_key_values.");
    let present = format!("present.{suffix}");
    if !graph.output.iter().any(|o| o.name() == present) {
        return Err(RuntimeError::NotCausal { what: format!("output '{present}'") });
    }
    let (kind, dims) = tensor_type(past).unwrap_or_default();
    let fixed = |axis: usize| match dims.get(axis) {
        Some(Dim::Fixed(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    let known = [DataType::Float, DataType::Float16, DataType::Bfloat16];
    let Some(kind) = known.into_iter().find(|known| *known as i32 == kind) else {
        return Err(RuntimeError::Tensor {
            name: past.name().to_owned(),
            found: format!("of element type {kind}"),
            expected: "float32, float16 or bfloat16".to_owned(),
        });
    };
    match (fixed(1), fixed(3).or_else(|| head_size(graph, past.name()))) {
        (Some(heads), Some(size)) if dims.len() == 4 => {
            Ok(Slot { past: past.name().to_owned(), present, heads, size, kind })
        }
        _ => Err(RuntimeError::Tensor {
            name: past.name().to_owned(),
            found: format!("of dimensions {dims:?}"),
            expected: "[batch, heads, time, size] with fixed heads and size".to_owned(),
        }),
    }
}

/// Tokens of a batch, row after row, each row of the same length.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Number of rows.
    pub batch: usize,
    /// Token ids, `[batch, length]`.
    pub ids: &'a [i64],
    /// 1 where a token counts, `[batch, cached + length]`.
    pub mask: &'a [i64],
    /// Position of each token in its text, `[batch, length]`.
    pub positions: &'a [i64],
}

/// A causal language model ready to run with a cache.
pub struct CausalGraph {
    /// The names it uses.
    pub interface: Interface,
    session: Session,
    picker: RowPicker,
    logits: usize,
    presents: Vec<usize>,
    /// Whether the cache is written where it lies.
    pub(super) in_place: bool,
    /// What graphs for one thread each are loaded from, if they are worth it, and those.
    small: Option<Small>,
    hands: Vec<CausalGraph>,
}

/// A model whose weights may be held twice.
struct Small {
    model: ModelProto,
    path: PathBuf,
    options: SessionOptions,
    packed: PackedWeights,
}

impl CausalGraph {
    /// Loads a model exported with a cache; `path` is where its external data would be.
    ///
    /// # Errors
    /// If the graph is not a causal language model or the runtime refuses it.
    pub fn load(
        model: &ModelProto,
        path: &Path,
        options: SessionOptions,
    ) -> Result<Self, RuntimeError> {
        let mut loaded = Self::load_packed(model, path, options, None)?;
        if loaded.session.is_small() && options.provider == Provider::Cpu {
            let (model, path, packed) = (model.clone(), path.to_owned(), PackedWeights::none()?);
            loaded.small = Some(Small { model, path, options, packed });
        }
        Ok(loaded)
    }

    fn load_packed(
        model: &ModelProto,
        path: &Path,
        options: SessionOptions,
        shared: Option<&PackedWeights>,
    ) -> Result<Self, RuntimeError> {
        let graph = model.graph.as_ref();
        let graph = graph.ok_or_else(|| RuntimeError::NotCausal { what: "graph".to_owned() })?;
        let interface = Interface::of(graph)?;
        let session = Session::load_packed("the model", model, path, options, shared)?;
        let outputs = session.outputs();
        let position = |name: &str| {
            let found = outputs.iter().position(|(o, _)| o == name);
            found.ok_or_else(|| RuntimeError::NotCausal { what: format!("output '{name}'") })
        };
        let logits = position(LOGITS)?;
        let presents = interface.slots.iter().map(|s| position(&s.present));
        let presents = presents.collect::<Result<_, _>>()?;
        let kinds: Vec<DataType> = interface.slots.iter().map(|s| s.kind).collect();
        let picker = RowPicker::load(&kinds, options)?;
        let in_place = options.provider == Provider::Cpu && grows_in_place(graph, &interface.slots);
        let (small, hands) = (None, Vec::new());
        Ok(Self { interface, session, picker, logits, presents, in_place, small, hands })
    }

    /// Whether [`Self::hands`] do more side by side than their threads at one operator: the model is
    /// small and runs on the host.
    pub fn in_parts(&self) -> bool {
        self.small.is_some()
    }

    /// The same graph once for every thread, but no more than `most`, to run side by side; itself if
    /// that is one.
    ///
    /// # Errors
    /// If the runtime refuses the model.
    pub fn hands(&mut self, most: usize) -> Result<&mut [CausalGraph], RuntimeError> {
        let threads = self.small.as_ref().map_or(1, |small| small.options.threads);
        let count = threads.min(most);
        let Some(Small { model, path, options, packed }) =
            self.small.as_ref().filter(|_| count > 1)
        else {
            return Ok(slice::from_mut(self));
        };
        let alone = SessionOptions { threads: 1, ..*options };
        while self.hands.len() < count {
            self.hands.push(Self::load_packed(model, path, alone, Some(packed))?);
        }
        Ok(&mut self.hands[..count])
    }

    /// A cache that holds nothing yet.
    ///
    /// # Errors
    /// If the runtime refuses an empty tensor.
    pub fn empty_cache(&self, batch: usize) -> Result<Cache, RuntimeError> {
        let made = self.interface.empty_cache_feeds(batch)?;
        let values = made.into_iter().map(|(_, value)| value).collect();
        Ok(if self.in_place { Cache::buffers(values) } else { Cache::made(values) })
    }

    /// Runs `rows` after what `cache` holds; `extra` are inputs beyond a plain model's. Gives the
    /// logits `[batch, length, vocabulary]`, in the host's memory, and the longer cache, which
    /// stays where the model runs.
    ///
    /// # Errors
    /// If the run fails.
    pub fn step(
        &mut self,
        rows: &Rows<'_>,
        mut cache: Cache,
        extra: &[(&str, &Tensor)],
    ) -> Result<(Tensor, Cache), RuntimeError> {
        let made = self.interface.feeds(rows)?;
        let mut feeds: Vec<(&str, &Tensor)> = made.iter().map(|(n, t)| (*n, t)).collect();
        feeds.extend_from_slice(extra);
        let logits = self.logits;
        let own = |what: &str| RuntimeError::NotCausal { what: format!("own output for {what}") };
        if cache.filled().is_some() {
            cache.fill(rows.mask.len() / rows.batch.max(1))?;
            let places = self.interface.cache_names().zip(&mut cache.values);
            let outputs = self.session.run_in_place(&feeds, places)?;
            let before = self.presents.iter().filter(|present| **present < logits).count();
            let found = outputs.into_iter().nth(logits - before);
            return Ok((found.ok_or_else(|| own(LOGITS))?, cache));
        }
        let pasts = self.interface.slots.iter().map(|s| s.past.as_str());
        feeds.extend(pasts.zip(&cache.values));
        // Prompts are long and of any length: what they took is not kept for single tokens.
        let first = rows.ids.len() == rows.mask.len();
        let outputs = self.session.run_bound(&feeds, |position| position != logits, first)?;
        let mut outputs: Vec<Option<Tensor>> = outputs.into_iter().map(Some).collect();
        let mut take =
            |position: usize, what: &str| outputs[position].take().ok_or_else(|| own(what));
        let logits = take(self.logits, LOGITS)?;
        let values = self.presents.iter().map(|p| take(*p, "the cache"));
        Ok((logits, Cache::made(values.collect::<Result<_, _>>()?)))
    }

    /// The rows of `cache` named by `picks`, in that order, with repetition.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn rows(&mut self, cache: &Cache, picks: &[usize]) -> Result<Cache, RuntimeError> {
        match cache.filled() {
            Some(filled) => cache.rows(filled, picks),
            None => Ok(Cache::made(self.picker.pick(&cache.values, picks)?)),
        }
    }
}
