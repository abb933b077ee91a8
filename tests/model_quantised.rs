//! Grids of integers: what they stand for, and values put back on them.
#![cfg(feature = "std")]

use ndarray::Array2;
use prost::bytes::Bytes;
use std::path::PathBuf;
use tla::model::{
    ElementType, OnnxModel, Quantisation,
    node::{node, tensor_f32},
    proto::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto, tensor_proto::DataType},
    scale_bytes,
};

fn stored(name: &str, dims: &[i64], kind: DataType, bytes: &[u8]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.into(),
        data_type: Some(kind as i32),
        raw_data: Some(Bytes::copy_from_slice(bytes)),
        ..TensorProto::default()
    }
}

fn model(tensors: Vec<TensorProto>) -> OnnxModel {
    let graph = GraphProto {
        node: vec![node("Identity", "i", &["x"], &["y"])],
        initializer: tensors,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(21), ..OperatorSetIdProto::default() };
    let proto =
        ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    OnnxModel::from_proto(proto, PathBuf::from("made.onnx")).unwrap()
}

fn values(model: &OnnxModel, quantisation: &Quantisation) -> Array2<f32> {
    quantisation.grid(model, model.initializer("q").unwrap()).unwrap().values()
}

/// Two rows of eighteen columns in blocks of sixteen, so that the second block is cut short.
fn blocks(bits: usize, zero_points: Option<TensorProto>) -> (OnnxModel, Quantisation) {
    let bytes: Vec<u8> = (0..2 * 2 * 2 * bits).map(|i| (i * 37 + 11) as u8).collect();
    let mut tensors = vec![
        stored("q", &[2, 2, 2 * bits as i64], DataType::Uint8, &bytes),
        tensor_f32("s", &[4], &[0.5, -0.25, 2.0, 1.0]),
    ];
    let named = zero_points.as_ref().map(|_| "z".to_owned());
    tensors.extend(zero_points);
    let scales = "s".to_owned();
    let shape = [2, 18];
    (model(tensors), Quantisation::Blocks { bits, block: 16, shape, scales, zero_points: named })
}

#[test]
fn four_bits_come_low_first_and_stand_for_their_distance_from_eight() {
    let (model, quantisation) = blocks(4, None);
    let found = values(&model, &quantisation);
    // The bytes are 11, 48, 85, …: 11 is 0 and 11, low bits first.
    assert_eq!((found[[0, 0]], found[[0, 1]]), ((11.0 - 8.0) * 0.5, (0.0 - 8.0) * 0.5));
    assert_eq!(found[[0, 2]], (0.0 - 8.0) * 0.5);
    let second = (11 + 8 * 37) as u8;
    assert_eq!(found[[0, 16]], (f32::from(second & 15) - 8.0) * -0.25);
    assert_eq!(found[[0, 17]], (f32::from(second >> 4) - 8.0) * -0.25);
}

#[test]
fn zero_points_are_packed_by_row_or_floats() {
    let packed = stored("z", &[2], DataType::Uint8, &[0x21, 0x43]);
    let (model, quantisation) = blocks(4, Some(packed));
    let found = values(&model, &quantisation);
    assert_eq!(
        (found[[0, 0]], found[[1, 0]]),
        ((11.0 - 1.0) * 0.5, {
            let byte = (11 + 16 * 37) as u8;
            (f32::from(byte & 15) - 3.0) * 2.0
        })
    );
    let floats = tensor_f32("z", &[4], &[1.5, 0.0, 0.0, 0.0]);
    let (model, quantisation) = blocks(4, Some(floats));
    assert_eq!(values(&model, &quantisation)[[0, 0]], (11.0 - 1.5) * 0.5);
    let bytes = stored("z", &[2, 2], DataType::Uint8, &[100, 2, 3, 4]);
    let (model, quantisation) = blocks(8, Some(bytes));
    assert_eq!(values(&model, &quantisation)[[0, 0]], (11.0 - 100.0) * 0.5);
    let short = stored("z", &[1], DataType::Uint8, &[1]);
    let (model, quantisation) = blocks(4, Some(short));
    assert!(quantisation.grid(&model, model.initializer("q").unwrap()).is_err());
}

fn linear(
    kind: DataType,
    bytes: &[u8],
    scale: TensorProto,
    zero: Option<TensorProto>,
    axis: usize,
    block: usize,
) -> (OnnxModel, Quantisation) {
    let mut tensors = vec![stored("q", &[2, 4], kind, bytes), scale];
    let zero_point = zero.as_ref().map(|_| "z".to_owned());
    tensors.extend(zero);
    (model(tensors), Quantisation::Linear { scale: "s".into(), zero_point, axis, block })
}

#[test]
fn dequantised_inputs_have_one_scale_or_one_by_axis_or_by_block() {
    let bytes = [0, 1, 255, 128, 2, 3, 4, 5];
    let one = tensor_f32("s", &[], &[0.5]);
    let (m, q) = linear(DataType::Int8, &bytes, one, None, 1, 0);
    assert_eq!(values(&m, &q).row(0).to_vec(), [0.0, 0.5, -0.5, -64.0]);
    let by_row = tensor_f32("s", &[2], &[1.0, 10.0]);
    let zero = stored("z", &[2], DataType::Uint8, &[1, 2]);
    let (m, q) = linear(DataType::Uint8, &bytes, by_row, Some(zero), 0, 0);
    assert_eq!(values(&m, &q).row(1).to_vec(), [0.0, 10.0, 20.0, 30.0]);
    let by_column = tensor_f32("s", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let (m, q) = linear(DataType::Uint8, &bytes, by_column, None, 1, 0);
    assert_eq!(values(&m, &q).row(1).to_vec(), [2.0, 6.0, 12.0, 20.0]);
    let by_block = tensor_f32("s", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let (m, q) = linear(DataType::Int4, &[0x8f, 0x10, 0x32, 0x54], by_block, None, 1, 2);
    assert_eq!(values(&m, &q).row(0).to_vec(), [-1.0, -8.0, 0.0, 2.0]);
    assert_eq!(values(&m, &q).row(1).to_vec(), [6.0, 9.0, 16.0, 20.0]);
    let down = tensor_f32("s", &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let (m, q) = linear(DataType::Int8, &bytes, down, None, 0, 2);
    assert_eq!(values(&m, &q).row(1).to_vec(), [2.0, 6.0, 12.0, 20.0]);
    for (dims, scales) in [(vec![3], vec![1.0; 3]), (vec![2, 2, 1], vec![1.0; 4])] {
        let wrong = tensor_f32("s", &dims, &scales);
        let (m, q) = linear(DataType::Int8, &bytes, wrong, None, 1, 0);
        assert!(q.grid(&m, m.initializer("q").unwrap()).is_err());
    }
}

#[test]
fn values_on_the_grid_come_back_as_they_were_stored() {
    for bits in [4, 8] {
        let (model, quantisation) = blocks(bits, None);
        let tensor = model.initializer("q").unwrap();
        let old = tensor.raw_data.clone().unwrap();
        let mut grid = quantisation.grid(&model, tensor).unwrap();
        let values = grid.values().mapv(f64::from);
        grid.round(&values);
        assert_eq!(quantisation.integer_bytes(&grid, ElementType::of(tensor), &old), old);
        assert_eq!(
            scale_bytes(&grid, ElementType::F32),
            model.initializer("s").unwrap().raw_data.clone().unwrap()
        );
    }
}

#[test]
fn a_small_step_is_lost_on_the_grid_and_a_large_one_moves_integers() {
    let (model, quantisation) = blocks(4, None);
    let mut grid = quantisation.grid(&model, model.initializer("q").unwrap()).unwrap();
    let before = grid.values();
    let mut wanted = before.mapv(f64::from);
    wanted[[0, 0]] += 0.2;
    wanted[[0, 1]] += 0.3;
    wanted[[1, 17]] += 1e9;
    grid.round(&wanted);
    let after = grid.values();
    assert_eq!((after[[0, 0]], after[[0, 1]]), (before[[0, 0]], before[[0, 1]] + 0.5));
    assert_eq!(after[[1, 17]], (15.0 - 8.0) * 1.0);
}

#[test]
fn a_grid_fitted_to_values_is_never_more_than_a_step_from_them() {
    let wanted =
        Array2::from_shape_fn((2, 18), |(r, c)| ((r * 18 + c) as f64 * 0.7).sin() * 0.3 + 0.05);
    let packed = stored("z", &[2], DataType::Uint8, &[0x88, 0x88]);
    for (bits, zeros) in [(4, None), (8, None), (4, Some(packed))] {
        let (model, quantisation) = blocks(bits, zeros.clone());
        let mut grid = quantisation.grid(&model, model.initializer("q").unwrap()).unwrap();
        grid.fit(&wanted, zeros.is_some(), ElementType::F16);
        let found = grid.values();
        let worst = found.indexed_iter().map(|((r, c), &x)| {
            (f64::from(x) - wanted[[r, c]]).abs() / f64::from(grid.scale([r, c]).abs())
        });
        assert!(worst.fold(0.0, f64::max) < 1.01);
        let scale = grid.scale([0, 0]);
        assert_eq!(half::f16::from_f32(scale).to_f32(), scale);
        if let Some(zeros) = zeros {
            let bytes = quantisation.zero_bytes(&grid, ElementType::of(&zeros), &[0; 2]);
            let back = stored("z", &[2], DataType::Uint8, &bytes);
            let (model, quantisation) = blocks(bits, Some(back));
            let again = quantisation.grid(&model, model.initializer("q").unwrap()).unwrap();
            assert_eq!(again.zero([1, 17]), grid.zero([1, 17]));
        }
    }
}

#[test]
fn a_grid_without_zero_points_keeps_zero_as_zero() {
    let tensors = vec![
        stored("q", &[2, 2], DataType::Uint8, &[0, 10, 200, 255]),
        tensor_f32("s", &[], &[0.5]),
    ];
    let model = model(tensors);
    let scale = "s".to_owned();
    let quantisation = Quantisation::Linear { scale, zero_point: None, axis: 0, block: 0 };
    let mut grid = quantisation.grid(&model, model.initializer("q").unwrap()).unwrap();
    let wanted = ndarray::array![[0.0, 6.0], [98.0, 140.0]];
    grid.fit(&wanted, false, ElementType::F32);
    assert_eq!(grid.zero([0, 0]), 0.0);
    let step = f64::from(grid.scale([0, 0]));
    for (found, wanted) in grid.values().iter().zip(&wanted) {
        assert!((f64::from(*found) - wanted).abs() <= 0.51 * step, "{found} for {wanted}");
    }
}

#[test]
fn a_block_too_long_to_count_in_bits_is_refused() {
    let (model, known) = blocks(4, None);
    let Quantisation::Blocks { bits, shape, scales, zero_points, .. } = known else { panic!() };
    let huge = Quantisation::Blocks { bits, block: 1 << 62, shape, scales, zero_points };
    huge.grid(&model, model.initializer("q").unwrap()).unwrap_err();
}
