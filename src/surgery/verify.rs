//! Whether a model is exactly a base with an adapter merged into it.

use super::{Addend, OnnxMerge, SurgeryError, verify_checkpoint};
use crate::{
    format::Header,
    model::{
        Contents, ElementType, Model, OnnxModel, Surplus, Targets,
        proto::{GraphProto, ModelProto, TensorProto, tensor_proto::DataLocation},
    },
    projection::Factors,
};
use prost::{Message, bytes::Bytes};
use std::collections::BTreeMap;

/// One thing in which a model differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// `initializer "…"`, `node 7 "…"`, `inputs`, `opset`, …, or `tensor "…"` of a checkpoint.
    pub what: String,
    /// How it differs: the first difference, in words.
    pub detail: String,
    /// How many values or entries differ.
    pub count: usize,
}

/// Whether `merged` is exactly `base` with the adapter merged in, which keeps the container:
/// [`verify_merged`] or [`verify_checkpoint`], whichever it is.
pub fn verify_model(
    base: &Model,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    merged: &Model,
    threads: usize,
) -> Result<Vec<Mismatch>, SurgeryError> {
    match (base, merged) {
        (Model::Onnx(base), Model::Onnx(merged)) => {
            verify_merged(base, targets, header, factors, merged, threads)
        }
        (Model::Safetensors(base), Model::Safetensors(merged)) => {
            verify_checkpoint(base, targets, header, factors, merged, threads)
        }
        (Model::Onnx(_), Model::Safetensors(_)) | (Model::Safetensors(_), Model::Onnx(_)) => {
            let [expected, found] = [base, merged].map(|m| m.container().kind().name());
            let detail = format!("is {found} where {expected} is expected, as in the base");
            Ok(vec![Mismatch { what: "container".into(), detail, count: 1 }])
        }
    }
}

/// Merges the adapter into the base again and compares the result with `merged`, bit for bit:
/// every weight, every other initializer, every node, input, output, operator set and
/// property. The empty list is the proof. The order of initializers and whether their bytes
/// lie in the file or beside it do not matter. What the files hold beyond the fields this crate
/// knows must be the same bytes.
pub fn verify_merged(
    base: &OnnxModel,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    merged: &OnnxModel,
    threads: usize,
) -> Result<Vec<Mismatch>, SurgeryError> {
    let addends = [Addend::whole(header, factors)];
    let mut expected = Expected { base, merge: OnnxMerge::new(base, targets, &addends, threads)? };
    let mut mismatches = properties(expected.merge.proto(), &merged.proto);
    let graph = expected.merge.proto().graph.clone().unwrap_or_default();
    mismatches.extend(structure(&graph, merged.graph()));
    mismatches.extend(tensors(&mut expected, &graph.initializer, merged)?);
    mismatches.extend(surplus(&base.surplus(), &merged.surplus()));
    Ok(mismatches)
}

/// The base with the adapter merged in, one weight at a time.
struct Expected<'a> {
    base: &'a OnnxModel,
    merge: OnnxMerge<'a>,
}

impl Expected<'_> {
    fn bytes(&mut self, tensor: &TensorProto) -> Result<Bytes, SurgeryError> {
        match self.merge.changes(tensor.name()) {
            true => self.merge.bytes(tensor.name()),
            false => Ok(self.base.tensor_bytes(tensor)?),
        }
    }
}

/// What the two files hold beyond what their messages say.
fn surplus(expected: &[&Surplus], found: &[&Surplus]) -> Option<Mismatch> {
    let only = |a: &[&Surplus], b: &[&Surplus]| {
        a.iter().filter(|surplus| !b.contains(surplus)).map(|s| s.what.clone()).collect::<Vec<_>>()
    };
    let (lacks, has) = (only(expected, found), only(found, expected));
    let count = lacks.len().max(has.len()).max(expected.len().abs_diff(found.len()));
    let first = lacks.into_iter().chain(has).chain(found.first().map(|s| s.what.clone())).next();
    let detail = format!("differ, first those of {}", first.unwrap_or_default());
    (count > 0).then_some(Mismatch { what: "unknown fields".into(), detail, count })
}

/// Compares what was encoded, because `==` takes −0 for +0 and a NaN for another number.
fn same<M: Message>(a: &M, b: &M) -> bool {
    a.encode_to_vec() == b.encode_to_vec()
}

fn list<M: Message>(what: &str, expected: &[M], found: &[M]) -> Option<Mismatch> {
    let pairs = || expected.iter().zip(found);
    let differing = pairs().filter(|(a, b)| !same(*a, *b)).count();
    if differing == 0 && expected.len() == found.len() {
        return None;
    }
    let first = pairs().position(|(a, b)| !same(a, b));
    let first = first.unwrap_or(expected.len().min(found.len()));
    let (want, have) = (expected.len(), found.len());
    Some(Mismatch {
        what: what.into(),
        detail: format!("{have} entries where {want} are expected, the first other one is {first}"),
        count: differing + want.abs_diff(have),
    })
}

fn properties(expected: &ModelProto, found: &ModelProto) -> Vec<Mismatch> {
    let rest =
        |proto: &ModelProto| ModelProto { graph: None, opset_import: Vec::new(), ..shallow(proto) };
    let opset = list("opset", &expected.opset_import, &found.opset_import);
    opset.into_iter().chain(one("model properties", &rest(expected), &rest(found))).collect()
}

/// A copy without the graph, which may be large.
fn shallow(proto: &ModelProto) -> ModelProto {
    ModelProto {
        ir_version: proto.ir_version,
        producer_name: proto.producer_name.clone(),
        producer_version: proto.producer_version.clone(),
        domain: proto.domain.clone(),
        model_version: proto.model_version,
        doc_string: proto.doc_string.clone(),
        metadata_props: proto.metadata_props.clone(),
        training_info: proto.training_info.clone(),
        functions: proto.functions.clone(),
        configuration: proto.configuration.clone(),
        opset_import: Vec::new(),
        graph: None,
    }
}

fn one<M: Message>(what: &str, expected: &M, found: &M) -> Option<Mismatch> {
    let differs = !same(expected, found);
    differs.then(|| Mismatch { what: what.into(), detail: "differ".into(), count: 1 })
}

fn structure(expected: &GraphProto, found: &GraphProto) -> Vec<Mismatch> {
    let mut mismatches = Vec::new();
    if expected.node.len() != found.node.len() {
        mismatches.extend(list("nodes", &expected.node, &found.node));
    } else {
        for (index, (a, b)) in expected.node.iter().zip(&found.node).enumerate() {
            mismatches.extend(one(&format!("node {index} {:?}", a.name()), a, b));
        }
    }
    let lists = [
        list("inputs", &expected.input, &found.input),
        list("outputs", &expected.output, &found.output),
        list("value_info", &expected.value_info, &found.value_info),
        list("sparse initializers", &expected.sparse_initializer, &found.sparse_initializer),
    ];
    mismatches.extend(lists.into_iter().flatten());
    let rest = |graph: &GraphProto| GraphProto {
        name: graph.name.clone(),
        doc_string: graph.doc_string.clone(),
        quantization_annotation: graph.quantization_annotation.clone(),
        metadata_props: graph.metadata_props.clone(),
        ..GraphProto::default()
    };
    mismatches.extend(one("graph properties", &rest(expected), &rest(found)));
    mismatches
}

fn tensors(
    expected: &mut Expected<'_>,
    tensors: &[TensorProto],
    found: &OnnxModel,
) -> Result<Vec<Mismatch>, SurgeryError> {
    let mut others: BTreeMap<&str, &TensorProto> =
        found.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let mut mismatches = Vec::new();
    let mut report = |name: &str, detail: &str, count| {
        let what = format!("initializer {name:?}");
        mismatches.push(Mismatch { what, detail: detail.into(), count });
    };
    for tensor in tensors {
        let name = tensor.name();
        let Some(other) = others.remove(name) else {
            report(name, "is missing", 1);
            continue;
        };
        if (tensor.data_type(), &tensor.dims) != (other.data_type(), &other.dims) {
            report(name, "has another type or shape", 1);
        } else if let Some((detail, count)) = values(expected, tensor, found, other)? {
            report(name, &detail, count);
        } else if !same(&labels(tensor), &labels(other)) {
            report(name, "has other documentation or properties", 1);
        }
    }
    others.keys().for_each(|name| report(name, "is not in the base", 1));
    Ok(mismatches)
}

fn labels(tensor: &TensorProto) -> TensorProto {
    TensorProto {
        doc_string: tensor.doc_string.clone(),
        metadata_props: tensor.metadata_props.clone(),
        ..TensorProto::default()
    }
}

/// The first difference between the values of two tensors of one type and shape, and the number
/// of values that differ.
fn values(
    expected: &mut Expected<'_>,
    tensor: &TensorProto,
    found: &OnnxModel,
    other: &TensorProto,
) -> Result<Option<(String, usize)>, SurgeryError> {
    // Integers and strings in typed fields have no bytes to compare; their messages do. What a merge
    // makes is in no field yet.
    let typed = |t: &TensorProto| {
        t.raw_data.is_none()
            && t.external_data.is_empty()
            && t.data_location() != DataLocation::External
            && matches!(ElementType::of(t), ElementType::Other(_))
    };
    if typed(tensor) || typed(other) {
        let differ = !same(tensor, other);
        return Ok(differ.then(|| ("has other values".into(), 1)));
    }
    let (a, b) = (expected.bytes(tensor)?, found.tensor_bytes(other)?);
    if a == b {
        return Ok(None);
    }
    let elements = tensor.dims.iter().product::<i64>().max(1) as usize;
    let size = (a.len() / elements).max(1);
    let differs = |(a, b): &(&[u8], &[u8])| a != b;
    let pairs = || a.chunks(size).zip(b.chunks(size));
    let count = pairs().filter(differs).count() + a.len().abs_diff(b.len()).div_ceil(size);
    let first = pairs().position(|p| differs(&p)).unwrap_or(0);
    let show = |bytes: &[u8]| match (ElementType::of(tensor), bytes.get(first * 4..first * 4 + 4)) {
        (ElementType::F32, Some(&[a, b, c, d])) => f32::from_le_bytes([a, b, c, d]).to_string(),
        _ => "another value".into(),
    };
    let detail = format!(
        "{count} of {elements} values differ, first number {first}: {} where {} is expected",
        show(&b),
        show(&a),
    );
    Ok(Some((detail, count)))
}
