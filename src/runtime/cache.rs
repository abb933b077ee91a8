//! Keys and values of the tokens seen so far.
//!
//! Where attention is an operator that writes a token's keys and values behind those before it, a
//! cache in the host's memory is a set of buffers with room for more tokens, each the operator's
//! input and output alike: from token to token nothing is copied. Elsewhere every run makes a
//! longer cache from the last one.

use half::f16;
use ort::{
    memory::Allocator,
    value::{PrimitiveTensorElementType, Tensor as OrtTensor},
};

use super::{RuntimeError, Tensor, causal::Slot};
use crate::model::{
    node::int_attribute,
    proto::{GraphProto, tensor_proto::DataType},
};

/// Keys and values of the tokens seen so far, where the model runs.
#[derive(Debug, Default)]
pub struct Cache {
    pub(super) values: Vec<Tensor>,
    /// The tokens of each row that are written, in buffers with room for more.
    filled: Option<usize>,
}

/// Rows, heads, tokens and size of one cached tensor.
type Dims = [usize; 4];

impl Cache {
    /// What a run has returned.
    pub(super) fn made(values: Vec<Tensor>) -> Self {
        Self { values, filled: None }
    }

    /// Buffers without a token, in the host's memory.
    pub(super) fn buffers(values: Vec<Tensor>) -> Self {
        Self { values, filled: Some(0) }
    }

    /// Sees to it that buffers have room for `total` tokens, all of which the next run fills.
    pub(super) fn fill(&mut self, total: usize) -> Result<(), RuntimeError> {
        let Some(filled) = self.filled else { return Ok(()) };
        for value in &mut self.values {
            let [rows, _, room, _] = dims(value)?;
            if room < total {
                let all: Vec<usize> = (0..rows).collect();
                *value = copied(value, &all, filled, with_room(total))?;
            }
        }
        self.filled = Some(total);
        Ok(())
    }

    /// The rows named by `picks` of buffers, in that order, with repetition.
    pub(super) fn rows(&self, filled: usize, picks: &[usize]) -> Result<Self, RuntimeError> {
        let values = self.values.iter().map(|value| {
            let [.., room, _] = dims(value)?;
            copied(value, picks, filled, room)
        });
        Ok(Self { values: values.collect::<Result<_, _>>()?, filled: Some(filled) })
    }

    /// The tokens of each row that are written, if these are buffers.
    pub(super) fn filled(&self) -> Option<usize> {
        self.filled
    }
}

/// Whether every cached tensor goes in and out of one operator that can write it where it lies.
pub(super) fn grows_in_place(graph: &GraphProto, slots: &[Slot]) -> bool {
    slots.iter().all(|slot| {
        let mut readers = graph.node.iter().filter(|node| node.input.contains(&slot.past));
        let (Some(reader), None) = (readers.next(), readers.next()) else { return false };
        let [past, present] = [(&reader.input, &slot.past), (&reader.output, &slot.present)]
            .map(|(names, name)| names.iter().position(|n| n == name));
        let plain = ["k_quant_type", "v_quant_type"]
            .iter()
            .all(|quantised| reader.attribute.iter().all(|a| a.name() != *quantised));
        let windowed = int_attribute(reader, "local_window_size").is_some_and(|size| size > 0);
        reader.op_type() == "GroupQueryAttention"
            && matches!((past, present), (Some(3), Some(1)) | (Some(4), Some(2)))
            && matches!(slot.kind, DataType::Float | DataType::Float16)
            && plain
            && !windowed
    })
}

/// Room for a fourth more tokens than there are, so that all moves together copy a few times what
/// there is.
fn with_room(total: usize) -> usize {
    total.saturating_add(total / 4).saturating_add(32)
}

/// The first `filled` tokens of the rows `picks`, with room for `room` tokens.
fn copied(
    value: &Tensor,
    picks: &[usize],
    filled: usize,
    room: usize,
) -> Result<Tensor, RuntimeError> {
    match value.kind() {
        DataType::Float16 => buffer::<f16>(value, picks, filled, room),
        _ => buffer::<f32>(value, picks, filled, room),
    }
}

fn buffer<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(
    value: &Tensor,
    picks: &[usize],
    filled: usize,
    room: usize,
) -> Result<Tensor, RuntimeError> {
    let [rows, heads, time, size] = dims(value)?;
    let refused = |e: ort::Error| wrong(value, &e.to_string());
    if let Some(beyond) = picks.iter().find(|row| **row >= rows) {
        return Err(wrong(value, &format!("without row {beyond}")));
    }
    let shape = [picks.len(), heads, room, size].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut made = OrtTensor::<T>::new(&Allocator::default(), shape).map_err(refused)?;
    let (_, from) = value.0.try_extract_tensor::<T>().map_err(refused)?;
    let (_, to) = made.extract_tensor_mut();
    if to.is_empty() {
        return Ok(Tensor(made.into_dyn()));
    }
    let (head, filled) = (room * size, filled * size);
    for (place, to) in to.chunks_exact_mut(head).enumerate() {
        let (row, of_row) = (picks[place / heads], place % heads);
        let from = &from[(row * heads + of_row) * time * size..][..filled];
        let (written, rest) = to.split_at_mut(filled);
        written.copy_from_slice(from);
        rest.fill(T::default());
    }
    Ok(Tensor(made.into_dyn()))
}

fn dims(value: &Tensor) -> Result<Dims, RuntimeError> {
    let found = value.dims();
    Dims::try_from(&found[..]).map_err(|_| wrong(value, &format!("of dimensions {found:?}")))
}

fn wrong(value: &Tensor, found: &str) -> RuntimeError {
    RuntimeError::Tensor {
        name: format!("the cache, {:?}", value.dims()),
        found: found.to_owned(),
        expected: "[batch, heads, time, size]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{OnnxModel, proto::ModelProto},
        runtime::{CausalGraph, Rows, SessionOptions},
    };
    use std::path::{Path, PathBuf};

    fn export(name: &str) -> (ModelProto, PathBuf) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports").join(name);
        let model = OnnxModel::load(&folder).unwrap();
        (model.whole().unwrap(), model.path)
    }

    fn graph(name: &str) -> CausalGraph {
        let (proto, path) = export(name);
        CausalGraph::load(&proto, &path, SessionOptions::cpu(2)).unwrap()
    }

    const PROMPT: usize = 5;

    /// Logits of three prompts, one of them padded, and of so many tokens after them; the rows part
    /// and change places on the way.
    fn logits(graph: &mut CausalGraph, tokens: usize) -> Vec<Vec<f32>> {
        let ids = [3, 9, 4, 7, 5, 8, 2, 6, 0, 0, 11, 3, 9, 1, 6];
        let mut masks: Vec<Vec<i64>> =
            [5, 3, 5].map(|own| (0..PROMPT).map(|k| i64::from(k < own)).collect()).to_vec();
        let mut positions: Vec<i64> = vec![5, 3, 5];
        let places: Vec<i64> = (0..15).map(|k| k % 5).collect();
        let mut found = Vec::new();
        let mut cache = graph.empty_cache(3).unwrap();
        let mut next: Vec<i64> = ids.to_vec();
        let mut at = places;
        for token in 0..=tokens {
            let mask = masks.concat();
            let rows = Rows { batch: masks.len(), ids: &next, mask: &mask, positions: &at };
            let (logits, longer) = graph.step(&rows, cache, &[]).unwrap();
            let made = logits.to_f32("logits").unwrap();
            let width = made.len() / masks.len() / logits.dims()[1];
            let last = |(row, own): (usize, &i64)| {
                let place = if token == 0 { row * PROMPT + *own as usize - 1 } else { row };
                made[place * width..][..width].to_vec()
            };
            found.extend(positions.iter().enumerate().map(last));
            cache = longer;
            if token % 7 == 2 {
                let picks = [1, 0, 2, 1];
                cache = graph.rows(&cache, &picks).unwrap();
                masks = picks.map(|row| masks[row].clone()).to_vec();
                positions = picks.map(|row| positions[row]).to_vec();
            }
            next = (0..masks.len()).map(|row| ((row * 5 + token * 3) % 12) as i64).collect();
            at = positions.clone();
            positions.iter_mut().for_each(|position| *position += 1);
            masks.iter_mut().for_each(|mask| mask.push(1));
        }
        found
    }

    #[test]
    fn a_cache_written_where_it_lies_gives_the_logits_of_one_that_is_copied() {
        for name in ["genai-fp32-cpu/qwen2-tied", "genai-int4-cpu/qwen2-tied"] {
            let mut graph = graph(name);
            assert!(graph.in_place, "{name}");
            assert_eq!(with_room(PROMPT), 38);
            let in_place = logits(&mut graph, 40);
            graph.in_place = false;
            let copied = logits(&mut graph, 40);
            assert_eq!(in_place, copied, "{name}");
        }
    }

    #[test]
    fn a_cache_that_is_joined_by_other_operators_is_copied() {
        for name in ["optimum-fp32/qwen2-tied", "dynamo-cache-fp32-op23/qwen2-tied"] {
            assert!(!graph(name).in_place, "{name}");
        }
    }

    #[test]
    fn rows_and_their_tokens_move_to_larger_buffers() {
        let values = (0..2 * 3 * 2 * 2).map(|x| x as f32).collect();
        let value = Tensor::f32(&[2, 3, 2, 2], values).unwrap();
        let moved = copied(&value, &[1, 0, 1], 1, 4).unwrap();
        assert_eq!(moved.dims(), [3, 3, 4, 2]);
        let moved = moved.as_f32("moved").unwrap();
        for (place, head) in moved.chunks_exact(8).enumerate() {
            let from = ([1, 0, 1][place / 3] * 3 + place % 3) * 4;
            let expected = [from as f32, from as f32 + 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
            assert_eq!(head, expected);
        }
        let beyond = copied(&value, &[2], 1, 4).unwrap_err().to_string();
        assert!(beyond.contains("without row 2"), "{beyond}");
    }
}
