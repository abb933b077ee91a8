//! Where the parts of a model lie in the file it was read from, and what each of them says.

use super::{
    proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto},
    wire::{self, Field, GRAPH, INITIALIZER, RAW_DATA, Scan},
};
use prost::Message;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fs::Metadata, ops::Range, time::SystemTime};

/// SHA-256 of a field as the encoder writes it.
pub(super) type Digest = [u8; 32];

/// Bytes that the messages of this crate do not hold, of a field they do or do not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Surplus {
    /// The field, for people.
    pub what: String,
    /// Of its bytes, without the values of a tensor and where they lie.
    digest: Digest,
}

/// A field in the file.
#[derive(Debug)]
pub(super) struct Part {
    pub number: u32,
    /// From its key to its end.
    pub span: Range<u64>,
    /// Its contents.
    pub body: Range<u64>,
    /// The raw data of an initializer.
    pub raw: Option<Range<u64>>,
    pub surplus: Option<Surplus>,
}

/// The fields of one message.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// In the order of the file.
    pub list: Vec<Part>,
    /// What the message says, by number, in the order of the message.
    pub known: BTreeMap<u32, Vec<Digest>>,
}

impl Parts {
    fn new(
        place: &str,
        fields: Vec<Field>,
        known: BTreeMap<u32, Vec<Known>>,
        bytes: &[u8],
    ) -> Self {
        let mut stored = BTreeMap::<u32, usize>::new();
        fields.iter().for_each(|field| *stored.entry(field.number).or_default() += 1);
        let mut seen = BTreeMap::<u32, usize>::new();
        let list = fields.into_iter().map(|field| {
            let Field { number, span, body, kept, raw } = field;
            let index = seen.entry(number).or_default();
            let alike = known.get(&number).filter(|list| list.len() == stored[&number]);
            let surplus = match alike.and_then(|list| list.get(*index)) {
                Some(known) if known.length == kept.len() => None,
                known => Some(Surplus {
                    what: match known {
                        Some(known) => known.what.clone(),
                        None => format!("field {number} of the {place}"),
                    },
                    digest: surplus_digest(place, number, &bytes[kept]),
                }),
            };
            *index += 1;
            Part { number, span, body, raw, surplus }
        });
        let list = list.collect();
        let digests = |list: Vec<Known>| list.into_iter().map(|known| known.digest).collect();
        Self { list, known: known.into_iter().map(|(n, list)| (n, digests(list))).collect() }
    }
}

fn surplus_digest(place: &str, number: u32, bytes: &[u8]) -> Digest {
    // Of a tensor: the raw data, and that and where they lie elsewhere.
    const VALUES: [u32; 3] = [RAW_DATA, 13, 14];
    match (place, number) {
        ("graph", INITIALIZER) => Sha256::digest(wire::without(bytes, &VALUES)).into(),
        _ => Sha256::digest(bytes).into(),
    }
}

/// A field that a message holds.
struct Known {
    what: String,
    digest: Digest,
    /// Bytes of its contents as the encoder writes them, in the skeleton.
    length: usize,
}

/// The file a model was read from.
#[derive(Debug)]
pub(super) struct Layout {
    pub model: Parts,
    pub graph: Parts,
    stamp: Stamp,
}

/// Size and time of a file: what changes when it does.
pub(super) type Stamp = (u64, Option<SystemTime>);

pub(super) fn stamp(meta: &Metadata) -> Stamp {
    (meta.len(), meta.modified().ok())
}

impl Layout {
    /// The layout of a file whose skeleton was decoded to `proto`. `lengths` are those of the
    /// initializers as the encoder writes them without what the skeleton lacks.
    pub fn new(scan: Scan, proto: &ModelProto, lengths: &[usize], stamp: Stamp) -> Self {
        let mut model = BTreeMap::<u32, Vec<Known>>::new();
        model_fields(proto, &mut |number, what, bytes| {
            model.entry(number).or_default().push(known(what, bytes));
        });
        // The graph's own fields are compared one by one.
        let graph_part = scan.model.iter().find(|field| field.number == GRAPH);
        if let Some(field) = graph_part {
            let length = field.kept.len();
            model.insert(GRAPH, vec![Known { what: "graph".into(), digest: [0; 32], length }]);
        }
        let mut graph = BTreeMap::<u32, Vec<Known>>::new();
        if let Some(proto) = &proto.graph {
            graph_fields(proto, &mut |number, what, bytes| {
                graph.entry(number).or_default().push(known(what, bytes));
            });
        }
        let tensors = graph.get_mut(&INITIALIZER).into_iter().flatten();
        tensors.zip(lengths).for_each(|(known, length)| known.length = *length);
        let model = Parts::new("model", scan.model, model, &scan.skeleton);
        let graph = Parts::new("graph", scan.graph, graph, &scan.skeleton);
        Self { model, graph, stamp }
    }

    /// Whether the file is still the one that was read.
    pub fn is_of(&self, meta: &Metadata) -> bool {
        self.stamp == stamp(meta)
    }

    /// All that the messages do not hold, sorted.
    pub fn surplus(&self) -> Vec<&Surplus> {
        let parts = self.model.list.iter().chain(&self.graph.list);
        let mut surplus: Vec<_> = parts.filter_map(|part| part.surplus.as_ref()).collect();
        surplus.sort();
        surplus
    }
}

fn known(what: &dyn Fn() -> String, field: &[u8]) -> Known {
    let length = wire::body_of(field).len();
    Known { what: what(), digest: digest(field), length }
}

/// Of a field as the encoder writes it.
pub(super) fn digest(field: &[u8]) -> Digest {
    Sha256::digest(field).into()
}

/// What is done with a field: its number, what to call it, its bytes.
type Each<'a> = dyn FnMut(u32, &dyn Fn() -> String, &[u8]) + 'a;

struct Fields<'a, 'b> {
    each: &'a mut Each<'b>,
    buffer: Vec<u8>,
}

impl Fields<'_, '_> {
    fn hand(&mut self, number: u32, what: &dyn Fn() -> String) {
        (self.each)(number, what, &self.buffer);
        self.buffer.clear();
    }

    fn number(&mut self, number: u32, name: &str, value: Option<i64>) {
        let Some(value) = value else { return };
        wire::number(number, value, &mut self.buffer);
        self.hand(number, &|| name.into());
    }

    fn text(&mut self, number: u32, name: &str, value: &Option<String>) {
        let Some(value) = value else { return };
        wire::delimit(number, value.as_bytes(), &mut self.buffer);
        self.hand(number, &|| name.into());
    }

    fn list<M: Message>(&mut self, number: u32, list: &[M], what: impl Fn(&M) -> String) {
        for message in list {
            wire::delimit(number, &message.encode_to_vec(), &mut self.buffer);
            self.hand(number, &|| what(message));
        }
    }
}

/// The fields of a model but for its graph, as the encoder writes them, by number.
pub(super) fn model_fields(proto: &ModelProto, each: &mut Each<'_>) {
    let ModelProto {
        ir_version,
        opset_import,
        producer_name,
        producer_version,
        domain,
        model_version,
        doc_string,
        graph: _,
        metadata_props,
        training_info,
        functions,
        configuration,
    } = proto;
    let mut fields = Fields { each, buffer: Vec::new() };
    fields.number(1, "ir_version", *ir_version);
    fields.text(2, "producer_name", producer_name);
    fields.text(3, "producer_version", producer_version);
    fields.text(4, "domain", domain);
    fields.number(5, "model_version", *model_version);
    fields.text(6, "doc_string", doc_string);
    fields.list(8, opset_import, |o| format!("opset_import of {:?}", o.domain()));
    fields.list(14, metadata_props, |p| format!("property {:?}", p.key()));
    fields.list(20, training_info, |_| "training_info".into());
    fields.list(25, functions, |f| format!("function {:?}", f.name()));
    fields.list(26, configuration, |_| "configuration".into());
}

/// The fields of a graph, as the encoder writes them, by number.
pub(super) fn graph_fields(proto: &GraphProto, each: &mut Each<'_>) {
    let GraphProto {
        node,
        name,
        initializer,
        sparse_initializer,
        doc_string,
        input,
        output,
        value_info,
        quantization_annotation,
        metadata_props,
    } = proto;
    let value = |kind: &'static str| move |v: &ValueInfoProto| format!("{kind} {:?}", v.name());
    let mut fields = Fields { each, buffer: Vec::new() };
    fields.list(1, node, |n: &NodeProto| format!("node {:?}", n.name()));
    fields.text(2, "name of the graph", name);
    fields.list(INITIALIZER, initializer, |t: &TensorProto| format!("initializer {:?}", t.name()));
    fields.text(10, "doc_string of the graph", doc_string);
    fields.list(11, input, value("input"));
    fields.list(12, output, value("output"));
    fields.list(13, value_info, value("value_info"));
    fields.list(14, quantization_annotation, |a| format!("annotation of {:?}", a.tensor_name()));
    fields.list(15, sparse_initializer, |_| "sparse initializer".into());
    fields.list(16, metadata_props, |p| format!("property {:?} of the graph", p.key()));
}
