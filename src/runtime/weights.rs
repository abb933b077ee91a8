//! Large weights, lent to the sessions that use them: one copy, however many graphs there are.
//!
//! A model in memory holds the bytes of its weights by reference, and so do its clones, from which
//! rollouts and gradients are made. A session is given the graph without them and views of those
//! very bytes in their place.
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
use crate::model::proto::{
    GraphProto, ModelProto, StringStringEntryProto, TensorProto,
    tensor_proto::{DataLocation, DataType},
};

/// Weights of fewer bytes travel inside the graph, where the runtime can compute with them while
/// it loads.
const LEAST: usize = 1 << 16;

/// A view of a weight's bytes, and the bytes.
pub(super) struct Lent {
    name: CString,
    value: ValueRefMut<'static, DynValueTypeMarker>,
    /// What `value` points to.
    _bytes: Bytes,
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
        *tensor = placeholder(tensor, bytes.len());
        lent.push(Lent { name, value, _bytes: bytes });
    }
    Ok((model, lent))
}

/// The names of the initializers of `graph` that are lent.
pub(super) fn is_lent(graph: &GraphProto, name: &str) -> bool {
    let found = graph.initializer.iter().find(|t| t.name() == name);
    found.is_some_and(|t| t.external_data.first().is_some_and(|e| e.value() == PLACE))
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
            // While it optimises the graph, the runtime may read a weight, as one of a file that
            // it finds in memory.
            let status = (api.AddExternalInitializers)(builder.ptr_mut(), &name, &value, 1);
            ort::Error::result_from_status(status)?;
            if provider == Provider::Cpu {
                // Without this the runtime makes a copy of it at the end of loading.
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
