//! On which provider the nodes of a session were placed.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char},
    ptr, slice,
};

use ort::{AsPointer, session::Session as OrtSession, sys};

use super::RuntimeError;

/// The session option under which ONNX Runtime records it.
pub(super) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// The provider that has no device.
const CPU: &str = "CPUExecutionProvider";
/// How many nodes an error names.
const NAMED: usize = 5;

/// Operators that compute shapes, indices and scalars derived from them. ONNX Runtime keeps such
/// nodes on the CPU where what they make is wanted there; any other operator on the CPU is one
/// that the device has no kernel for.
pub const OF_SHAPES: [&str; 36] = [
    "Abs",
    "Add",
    "And",
    "Cast",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Range",
    "ReduceProd",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Unsqueeze",
    "Where",
];

/// A node and where it was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub provider: String,
    pub operator: String,
    pub name: String,
}

/// Refuses a session of which nodes that compute would run on the CPU.
pub(super) fn check(what: &str, session: &OrtSession) -> Result<(), RuntimeError> {
    let placed = nodes(session)
        .map_err(|e| RuntimeError::Load { what: what.to_owned(), reason: e.to_string() })?;
    refuse(what, &placed)
}

fn refuse(what: &str, placed: &[Placed]) -> Result<(), RuntimeError> {
    let left: Vec<&Placed> = placed
        .iter()
        .filter(|p| p.provider == CPU && !OF_SHAPES.contains(&p.operator.as_str()))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let named: Vec<String> =
        left.iter().take(NAMED).map(|p| format!("{} '{}'", p.operator, p.name)).collect();
    Err(RuntimeError::LeftToCpu {
        what: what.to_owned(),
        count: left.len(),
        nodes: named.join(", "),
    })
}

/// Every node of a session that was loaded with [`RECORD`], as its partitioner placed it.
pub(super) fn nodes(session: &OrtSession) -> ort::Result<Vec<Placed>> {
    let api = ort::api();
    let mut placed = Vec::new();
    // SAFETY: the pointers come from a live session, which owns all of what they lead to and
    // outlives these borrows; each length is the one the call before it reported.
    unsafe {
        let mut parts = ptr::null();
        let mut count = 0;
        told((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut count))?;
        for part in listed(parts, count) {
            let provider = text(|out| (api.EpAssignedSubgraph_GetEpName)(*part, out))?;
            let mut nodes = ptr::null();
            let mut count = 0;
            told((api.EpAssignedSubgraph_GetNodes)(*part, &mut nodes, &mut count))?;
            for node in listed(nodes, count) {
                placed.push(Placed {
                    provider: provider.clone(),
                    operator: text(|out| (api.EpAssignedNode_GetOperatorType)(*node, out))?,
                    name: text(|out| (api.EpAssignedNode_GetName)(*node, out))?,
                });
            }
        }
    }
    Ok(placed)
}

fn told(status: sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: a status is owned by whoever the runtime returned it to.
    unsafe { ort::Error::result_from_status(status) }
}

/// # Safety
/// `first` is null or leads to `count` values that live as long as they are used.
unsafe fn listed<'a, T>(first: *const T, count: usize) -> &'a [T] {
    match first.is_null() {
        true => &[],
        // SAFETY: as the caller promises.
        false => unsafe { slice::from_raw_parts(first, count) },
    }
}

/// The string that `ask` points at.
///
/// # Safety
/// `ask` sets its argument to a string that ends in 0, or reports a failure.
unsafe fn text(ask: impl FnOnce(*mut *const c_char) -> sys::OrtStatusPtr) -> ort::Result<String> {
    let mut found = ptr::null();
    told(ask(&mut found))?;
    // SAFETY: as the caller promises.
    let found = if found.is_null() { c"" } else { unsafe { CStr::from_ptr(found) } };
    Ok(found.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            node::{Dim, node, tensor_value},
            proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType},
        },
        runtime::{Provider, environment::loaded},
    };
    use prost::Message;

    fn placed(provider: &str, operator: &str, name: &str) -> Placed {
        let own = |text: &str| text.to_owned();
        Placed { provider: own(provider), operator: own(operator), name: own(name) }
    }

    #[test]
    fn the_runtime_says_where_it_placed_a_node() {
        let value =
            |name: &str| tensor_value(name, DataType::Float, &[Dim::Fixed(2), Dim::Fixed(2)]);
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { version: Some(18), ..Default::default() }],
            graph: Some(GraphProto {
                node: vec![node("MatMul", "the product", &["a", "b"], &["c"])],
                input: vec![value("a"), value("b")],
                output: vec![value("c")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let environment = &loaded(Provider::Cpu).unwrap().environment;
        let builder = OrtSession::builder(environment).unwrap();
        let mut builder = builder.with_config_entry(RECORD, "1").unwrap();
        let session = builder.commit_from_memory(&model.encode_to_vec()).unwrap();
        assert_eq!(nodes(&session).unwrap(), [placed(CPU, "MatMul", "the product")]);
    }

    #[test]
    fn a_node_that_computes_may_not_be_left_to_the_cpu_but_one_of_shapes_may() {
        let cuda = "CUDAExecutionProvider";
        let fine = [placed(cuda, "MatMul", "m"), placed(CPU, "Shape", "s")];
        assert!(refuse("the model", &fine).is_ok());
        let mut bad = fine.to_vec();
        bad.extend((0..7).map(|i| placed(CPU, "MatMul", &format!("n{i}"))));
        let error = refuse("the model", &bad).unwrap_err().to_string();
        assert!(error.contains("7 nodes of the model"), "{error}");
        assert!(error.contains("MatMul 'n0', ") && !error.contains("n5"), "{error}");
    }

    #[test]
    fn the_operators_of_shapes_are_sorted_and_none_multiplies_matrices() {
        assert!(OF_SHAPES.is_sorted());
        for operator in ["MatMul", "Gemm", "Softmax", "GroupQueryAttention", "Attention"] {
            assert!(!OF_SHAPES.contains(&operator));
        }
    }
}
