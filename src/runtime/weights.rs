//! Large weights, lent to the sessions that use them: one copy, however many graphs there are.
//!
//! A model in memory holds the bytes of its weights by reference, and so do its clones, from which
//! rollouts and gradients are made. A session is given the graph without them, which names the
//! places in files that they were read from, and views of those very bytes, which it uses instead.
#![allow(unsafe_code)]

use std::{ffi::CString, fmt};

use half::{bf16, f16};
use ort::{
    AsPointer,
    memory::MemoryInfo,
    session::builder::SessionBuilder,
    value::{DynValueTypeMarker, PrimitiveTensorElementType, Shape, TensorRefMut, ValueRefMut},
};
use prost::bytes::Bytes;

use super::{Provider, RuntimeError};
use crate::model::{
    external,
    proto::{
        GraphProto, ModelProto, StringStringEntryProto, TensorProto,
        tensor_proto::{DataLocation, DataType},
    },
};

/// Weights of fewer bytes travel inside the graph, where the runtime can compute with them while
/// it loads.
const LEAST: usize = 1 << 16;

/// A view of a weight's bytes, and the bytes.
pub(super) struct Lent {
    name: CString,
    value: ValueRefMut<'static, DynValueTypeMarker>,
    /// Whether the graph names a file that holds it too.
    filed: bool,
    /// What `value` points to.
    bytes: Bytes,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// `model` without its large weights, and those. What must stay in the graph is left there:
/// weights in other forms than raw bytes, and those that something is computed from beforehand.
pub(super) fn lend(model: &ModelProto) -> Result<(ModelProto, Vec<Lent>), RuntimeError> {
    let mut model = model.clone();
    let Some(graph) = model.graph.as_mut() else { return Ok((model, Vec::new())) };
    let mut lent = Vec::new();
    for tensor in &mut graph.initializer {
        let Some(bytes) = tensor.raw_data.clone().filter(|b| b.len() >= LEAST) else { continue };
        let Some(value) = view(tensor, &bytes)? else { continue };
        let Ok(name) = CString::new(tensor.name()) else { continue };
        let unloaded = external::unloaded(tensor);
        let filed = unloaded.is_some();
        *tensor = unloaded.unwrap_or_else(|| placeholder(tensor, bytes.len()));
        lent.push(Lent { name, value, filed, bytes });
    }
    Ok((model, lent))
}

/// The size of what is lent.
pub(super) fn bytes(lent: &[Lent]) -> usize {
    lent.iter().map(|weight| weight.bytes.len()).sum()
}

/// Whether the initializer of this name is lent.
pub(super) fn is_lent(graph: &GraphProto, name: &str) -> bool {
    let found = graph.initializer.iter().find(|t| t.name() == name);
    found.is_some_and(external::is_external)
}

/// Gives a session to be the weights it lacks.
///
/// On the CPU the session computes with the views themselves. A device copies them to its memory,
/// once a session.
pub(super) fn give(
    builder: &mut SessionBuilder,
    lent: &[Lent],
    provider: Provider,
) -> ort::Result<()> {
    let api = ort::api();
    for weight in lent {
        let (name, value) = (weight.name.as_ptr(), weight.value.ptr());
        // SAFETY: the options keep the pointers until the session ends; `lent` is kept beside it.
        unsafe {
            if !weight.filed {
                // While it optimises the graph, the runtime may read a weight. This copies it, and
                // the copy is dropped at the end of loading if the next call is made too.
                let status = (api.AddExternalInitializers)(builder.ptr_mut(), &name, &value, 1);
                ort::Error::result_from_status(status)?;
            }
            if provider == Provider::Cpu {
                let status = (api.AddInitializer)(builder.ptr_mut(), name, value);
                ort::Error::result_from_status(status)?;
            }
        }
    }
    Ok(())
}

/// A plain name in no folder: nothing is read there, and the runtime checks that it could be.
const PLACE: &str = "tla_lent";

fn placeholder(tensor: &TensorProto, length: usize) -> TensorProto {
    let pair = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    TensorProto {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            pair("location", PLACE.to_owned()),
            pair("offset", "0".to_owned()),
            pair("length", length.to_string()),
        ],
        ..TensorProto::default()
    }
}

fn view(
    tensor: &TensorProto,
    bytes: &Bytes,
) -> Result<Option<ValueRefMut<'static, DynValueTypeMarker>>, RuntimeError> {
    match tensor.data_type() {
        kind if kind == DataType::Float as i32 => viewed::<f32>(tensor, bytes),
        kind if kind == DataType::Float16 as i32 => viewed::<f16>(tensor, bytes),
        kind if kind == DataType::Bfloat16 as i32 => viewed::<bf16>(tensor, bytes),
        kind if kind == DataType::Uint8 as i32 => viewed::<u8>(tensor, bytes),
        kind if kind == DataType::Int8 as i32 => viewed::<i8>(tensor, bytes),
        _ => Ok(None),
    }
}

/// `None` if the bytes are not what the tensor's shape says, or lie where no such value may.
fn viewed<T: PrimitiveTensorElementType + fmt::Debug>(
    tensor: &TensorProto,
    bytes: &Bytes,
) -> Result<Option<ValueRefMut<'static, DynValueTypeMarker>>, RuntimeError> {
    let size = tensor
        .dims
        .iter()
        .try_fold(size_of::<T>(), |size, dim| size.checked_mul(usize::try_from(*dim).ok()?));
    if size != Some(bytes.len()) || bytes.as_ptr().align_offset(align_of::<T>()) != 0 {
        return Ok(None);
    }
    let shape = Shape::new(tensor.dims.iter().copied());
    let place = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the bytes fill the shape, are aligned, and are kept beside the value in `Lent`. The
    // runtime does not write to initializers: nothing else may, as others read the same bytes.
    let made = unsafe { TensorRefMut::<T>::from_raw(MemoryInfo::default(), place, shape) };
    match made {
        Ok(value) => Ok(Some(value.into_dyn())),
        Err(e) => Err(RuntimeError::Tensor {
            name: tensor.name().to_owned(),
            found: e.to_string(),
            expected: format!("shape {:?}", tensor.dims),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            node::{Attribute, Dim, node, tensor_value, with_attribute},
            proto::{NodeProto, OperatorSetIdProto},
        },
        runtime::{Session, SessionOptions, Tensor},
    };
    use std::path::Path;

    const SIDE: usize = 192;

    fn weight() -> Vec<f32> {
        (0..SIDE * SIDE).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn bytes() -> Bytes {
        Bytes::from(bytemuck::cast_slice::<f32, u8>(&weight()).to_vec())
    }

    fn model(nodes: Vec<NodeProto>, raw: Bytes) -> ModelProto {
        let side = Dim::Fixed(SIDE as i64);
        let rows = || Dim::Named("rows".to_owned());
        let weight = TensorProto {
            name: Some("w".to_owned()),
            dims: vec![SIDE as i64; 2],
            data_type: Some(DataType::Float as i32),
            raw_data: Some(raw),
            ..TensorProto::default()
        };
        let tokens = [rows(), Dim::Named("length".to_owned())];
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { version: Some(18), ..Default::default() }],
            graph: Some(GraphProto {
                name: Some("products".to_owned()),
                node: nodes,
                input: vec![
                    tensor_value("x", DataType::Float, &[rows(), side.clone()]),
                    tensor_value("input_ids", DataType::Int64, &tokens),
                ],
                output: vec![
                    tensor_value("y", DataType::Float, &[rows(), side.clone()]),
                    tensor_value(
                        "z",
                        DataType::Float,
                        &[tokens[0].clone(), tokens[1].clone(), side],
                    ),
                ],
                initializer: vec![weight],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// `y = x·Wᵀ` and the rows of Wᵀ that `input_ids` names, as exporters write a tied head.
    fn tied() -> Vec<NodeProto> {
        let turn = node("Transpose", "turned", &["w"], &["turned"]);
        vec![
            with_attribute(turn, "perm", Attribute::Ints(vec![1, 0])),
            node("MatMul", "y", &["x", "turned"], &["y"]),
            node("Gather", "z", &["turned", "input_ids"], &["z"]),
        ]
    }

    fn run(model: &ModelProto) -> [Vec<f32>; 2] {
        let options = SessionOptions::cpu(1);
        let mut session = Session::load("products", model, Path::new(""), options).unwrap();
        let x = (0..2 * SIDE).map(|i| (i % 13) as f32 - 6.0).collect();
        let x = Tensor::f32(&[2, SIDE], x).unwrap();
        let ids = Tensor::i64(&[2, 3], vec![0, 5, 191, 7, 7, 1]).unwrap();
        let outputs = session.run(&[("x", &x), ("input_ids", &ids)]).unwrap();
        [0, 1].map(|at| outputs[at].as_f32("output").unwrap().to_vec())
    }

    #[test]
    fn a_session_reads_the_very_bytes_the_model_holds() {
        let raw = bytes();
        let model = model(tied(), raw.clone());
        let (lean, lent) = lend(&model).unwrap();
        assert!(is_lent(lean.graph.as_ref().unwrap(), "w"));
        assert_eq!(lent.len(), 1);
        let seen = lent[0].value.try_extract_tensor::<f32>().unwrap().1.as_ptr();
        assert_eq!(seen.cast::<u8>(), raw.as_ptr());
        assert!(prost::Message::encoded_len(&lean) < 2000);
    }

    #[test]
    fn a_tied_head_and_its_embedding_are_computed_from_the_weight_as_it_lies() {
        let model = model(tied(), bytes());
        let (mut lean, _) = lend(&model).unwrap();
        super::super::transposed::flag(&mut lean, Provider::Cpu);
        let ops: Vec<String> =
            lean.graph.unwrap().node.iter().map(|n| n.op_type().to_owned()).collect();
        assert_eq!(ops, ["FusedMatMul", "Gather", "Transpose"]);
        let [y, z] = run(&model);
        let w = weight();
        for (at, found) in y.iter().enumerate() {
            let (row, column) = (at / SIDE, at % SIDE);
            let x = |k: usize| ((row * SIDE + k) % 13) as f64 - 6.0;
            let sum: f64 = (0..SIDE).map(|k| x(k) * f64::from(w[column * SIDE + k])).sum();
            assert!((f64::from(*found) - sum).abs() < 1e-3, "{found} {sum}");
        }
        for (at, token) in [0, 5, 191, 7, 7, 1].into_iter().enumerate() {
            let expected: Vec<f32> = (0..SIDE).map(|k| w[k * SIDE + token]).collect();
            assert_eq!(z[at * SIDE..][..SIDE], expected);
        }
    }

    #[test]
    fn what_cannot_be_lent_stays_in_the_graph_and_computes_the_same() {
        let lent = run(&model(tied(), bytes()));
        let mut crooked = vec![0u8];
        crooked.extend_from_slice(&bytes());
        // A copy's first byte lies at an even address, so its second does not.
        let crooked = model(tied(), Bytes::from(crooked).slice(1..));
        let (lean, taken) = lend(&crooked).unwrap();
        assert!(taken.is_empty() && !is_lent(lean.graph.as_ref().unwrap(), "w"));
        for (a, b) in run(&crooked).iter().flatten().zip(lent.iter().flatten()) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        let mut short = model(tied(), bytes().slice(4..));
        short.graph.as_mut().unwrap().initializer[0].name = Some("short".to_owned());
        assert!(lend(&short).unwrap().1.is_empty());
    }

    #[test]
    fn a_weight_whose_transposition_is_an_output_is_left_as_it_is() {
        let mut model = model(tied(), bytes());
        model.graph.as_mut().unwrap().output.push(tensor_value("turned", DataType::Float, &[]));
        let (mut lean, _) = lend(&model).unwrap();
        let before = lean.clone();
        super::super::transposed::flag(&mut lean, Provider::Cpu);
        assert_eq!(lean, before);
    }
}
