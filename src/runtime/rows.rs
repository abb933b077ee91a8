//! Rows of cached tensors, picked where the tensors lie.
//!
//! A graph of one Gather per tensor, run on the model's own provider: a cache on a device is
//! repeated and thinned there.

use std::path::Path;

use super::{RuntimeError, Session, SessionOptions, Tensor};
use crate::model::{
    node::{Attribute, Dim, node, tensor_value, with_attribute},
    proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType},
};

const PICKS: &str = "picks";
/// Gather of every type since 13; the version of the format that came with it.
const OPSET: i64 = 13;
const IR: i64 = 7;

/// Picks the same rows of a fixed number of tensors.
pub(super) struct RowPicker {
    session: Session,
    inputs: Vec<String>,
}

impl RowPicker {
    /// For tensors of these types, with rows along the first of four axes.
    pub fn load(kinds: &[DataType], options: SessionOptions) -> Result<Self, RuntimeError> {
        let inputs: Vec<String> = (0..kinds.len()).map(|i| format!("past.{i}")).collect();
        let dims = |rows: &str, tensor: &str| {
            let other = |axis: &str| Dim::Named(format!("{axis} of {tensor}"));
            [Dim::Named(rows.to_owned()), other("heads"), other("time"), other("size")]
        };
        let mut graph = GraphProto { name: Some("rows".to_owned()), ..Default::default() };
        let picks = [Dim::Named("picked".to_owned())];
        graph.input.push(tensor_value(PICKS, DataType::Int64, &picks));
        for (kind, input) in kinds.iter().zip(&inputs) {
            let output = format!("{input}/picked");
            graph.input.push(tensor_value(input, *kind, &dims("rows", input)));
            graph.output.push(tensor_value(&output, *kind, &dims("picked", input)));
            let gather = node("Gather", &output, &[input, PICKS], &[&output]);
            graph.node.push(with_attribute(gather, "axis", Attribute::Int(0)));
        }
        let model = ModelProto {
            ir_version: Some(IR),
            opset_import: vec![OperatorSetIdProto { version: Some(OPSET), ..Default::default() }],
            graph: Some(graph),
            ..Default::default()
        };
        let session = Session::load("the picker of rows", &model, Path::new(""), options)?;
        Ok(Self { session, inputs })
    }

    /// The rows of each of `tensors` named by `picks`, in that order, with repetition.
    pub fn pick(
        &mut self,
        tensors: &[Tensor],
        picks: &[usize],
    ) -> Result<Vec<Tensor>, RuntimeError> {
        // Counted from the end when negative, so a row beyond what i64 holds must not wrap.
        let rows = picks.iter().map(|p| i64::try_from(*p).unwrap_or(i64::MAX)).collect();
        let picks = Tensor::i64(&[picks.len()], rows)?;
        let mut feeds: Vec<(&str, &Tensor)> = vec![(PICKS, &picks)];
        feeds.extend(self.inputs.iter().map(String::as_str).zip(tensors));
        self.session.run_bound(&feeds, |_| true, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn picker() -> RowPicker {
        let options = SessionOptions::cpu(1);
        RowPicker::load(&[DataType::Float, DataType::Float16], options).unwrap()
    }

    fn tensors() -> [Tensor; 2] {
        let values = (0..3 * 2 * 2).map(|x| x as f32);
        let halves = values.clone().map(f16::from_f32).collect();
        let first = Tensor::f32(&[3, 1, 2, 2], values.collect()).unwrap();
        [first, Tensor::f16(&[3, 2, 2, 1], halves).unwrap()]
    }

    #[test]
    fn rows_are_picked_in_order_and_repeated_bit_for_bit() {
        let mut picker = picker();
        for picks in [&[2, 0, 0, 1][..], &[1], &[]] {
            let picked = picker.pick(&tensors(), picks).unwrap();
            let expected: Vec<f32> =
                picks.iter().flat_map(|row| (0..4).map(move |k| (row * 4 + k) as f32)).collect();
            assert_eq!(picked[0].as_f32("rows").unwrap(), expected);
            assert_eq!(picked[0].dims(), [picks.len(), 1, 2, 2]);
            assert_eq!(picked[1].to_f32("rows").unwrap().as_ref(), expected);
            assert_eq!(picked[1].dims(), [picks.len(), 2, 2, 1]);
        }
    }

    #[test]
    fn a_cache_of_no_tokens_has_rows_too() {
        let empty = |kind| Tensor::empty(kind, &[2, 3, 0, 4]).unwrap();
        let tensors = [empty(DataType::Float), empty(DataType::Float16)];
        let picked = picker().pick(&tensors, &[1, 1, 0]).unwrap();
        assert_eq!(picked[1].dims(), [3, 3, 0, 4]);
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        for row in [3, usize::MAX] {
            assert!(matches!(picker().pick(&tensors(), &[row]), Err(RuntimeError::Run { .. })));
        }
    }
}
