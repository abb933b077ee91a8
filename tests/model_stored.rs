//! What did not change is written as it was stored, byte for byte; large weights stay in their
//! file until they are asked for.
#![cfg(feature = "std")]

use ndarray::Array2;
use prost::Message;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, Role, RoleSet},
    model::{
        ElementType, ModelError, OnnxModel, Targets, find_targets, node, proto::*, stage_model,
        write_model,
    },
    projection::{Factors, select},
    surgery::{Addend, Edit, OnnxMerge, Patch, SurgeryError, verify_merged},
};

/// A field of stated length.
fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encode_length_delimiter((number << 3 | 2) as usize, &mut out).unwrap();
    prost::encode_length_delimiter(body.len(), &mut out).unwrap();
    [out, body.to_vec()].concat()
}

/// What no version of ONNX knows.
fn unknown() -> Vec<u8> {
    field(5000, b"hello")
}

const SIZE: i64 = 40;

/// Where fields that nobody knows are put.
#[derive(Clone, Copy, Default)]
struct Odd {
    model: bool,
    graph: bool,
    node: bool,
    tensor: bool,
}

/// A file of two modules, its fields in an order no encoder writes: initializers first, and the
/// data before the name.
fn file(odd: Odd) -> Vec<u8> {
    let more = |whether: bool| if whether { unknown() } else { Vec::new() };
    let mut graph = Vec::new();
    for (index, name) in ["q", "k"].iter().enumerate() {
        let values: Vec<u8> = (0..SIZE * SIZE)
            .flat_map(|i| (((i * 7 + index as i64) % 13) as f32 - 6.0).to_le_bytes())
            .collect();
        let dims = [8, SIZE as u8, 8, SIZE as u8, 16, 1];
        let tensor =
            [&field(9, &values)[..], &more(odd.tensor), &field(8, name.as_bytes()), &dims].concat();
        graph.extend(field(5, &tensor));
    }
    graph.extend(more(odd.graph));
    for name in ["q", "k"] {
        let path = format!("/model/layers.0/self_attn/{name}_proj/MatMul");
        let node = node::node("MatMul", &path, &["x", name], &[&format!("{name} out")]);
        graph.extend(field(1, &[node.encode_to_vec(), more(odd.node)].concat()));
    }
    for (number, name) in [(11, "x"), (12, "q out"), (12, "k out")] {
        graph.extend(field(number, &node::untyped_value(name).encode_to_vec()));
    }
    let opset = OperatorSetIdProto { domain: None, version: Some(18) };
    let mut model = field(8, &opset.encode_to_vec());
    model.extend(field(7, &graph));
    model.extend(more(odd.model));
    model.extend([8, 9]);
    model
}

const ALL: Odd = Odd { model: true, graph: true, node: true, tensor: true };

struct Place {
    folder: TempDir,
    bytes: Vec<u8>,
    model: OnnxModel,
    targets: Targets,
}

impl Place {
    fn new(bytes: Vec<u8>) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, &bytes).unwrap();
        let model = OnnxModel::load(&path).unwrap();
        let targets = find_targets(&model).unwrap();
        Self { folder, bytes, model, targets }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out.onnx")
    }

    fn merge(&self, roles: &[Role]) -> (Header, Vec<Factors>) {
        let roles = RoleSet::from_roles(roles.iter().copied()).unwrap();
        let header = Header { roles, ..Header::default() };
        let known: Vec<_> = self.targets.targets.iter().map(|t| t.module).collect();
        let make = |module| {
            let part = |n: i64| Array2::from_shape_fn((n as usize, 2), |(i, j)| (i + 2 * j) as f64);
            Factors { module, l: part(SIZE), v: part(SIZE) }
        };
        (header, select(&header, &known).unwrap().into_iter().map(make).collect())
    }

    fn merged(&self, header: &Header, factors: &[Factors]) -> Result<OnnxModel, SurgeryError> {
        let mut merge =
            OnnxMerge::new(&self.model, &self.targets, &[Addend::whole(header, factors)], 1)?;
        let proto = merge.proto().clone();
        let (bytes, staged) = stage_model(&self.model, &proto, &self.out(), &mut merge)?;
        staged.place()?;
        assert_eq!(fs::metadata(self.out()).unwrap().len(), bytes);
        Ok(OnnxModel::load(&self.out()).unwrap())
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path()).unwrap().count()
    }
}

fn raw_at(bytes: &[u8], raw: &[u8]) -> usize {
    bytes.windows(raw.len()).position(|window| window == raw).unwrap()
}

#[test]
fn an_untouched_model_is_the_same_file_whatever_it_holds() {
    for odd in [Odd::default(), ALL] {
        let place = Place::new(file(odd));
        // Not in memory, and read all the same.
        let tensors = &place.model.graph().initializer;
        assert!(tensors.iter().all(|t| t.raw_data.is_none()));
        assert_eq!(place.model.tensor_bytes(&tensors[0]).unwrap().len(), 4 * 40 * 40);
        assert!(!place.model.has_external_data() && place.model.files().len() == 1);
        let bytes = write_model(&place.model, &place.model.proto, &place.out()).unwrap();
        assert_eq!(bytes, place.bytes.len() as u64);
        assert!(fs::read(place.out()).unwrap() == place.bytes);
    }
}

#[test]
fn a_merge_changes_the_bytes_of_its_weights_and_no_others() {
    let place = Place::new(file(ALL));
    let raw = place.model.tensor_bytes(&place.model.graph().initializer[1]).unwrap();
    let at = raw_at(&place.bytes, &raw);
    let (header, factors) = place.merge(&[Role::K]);
    let merged = place.merged(&header, &factors).unwrap();
    let found = fs::read(place.out()).unwrap();
    assert_eq!(found.len(), place.bytes.len());
    let differs = |range: std::ops::Range<usize>| found[range.clone()] != place.bytes[range];
    assert!(!differs(0..at) && !differs(at + raw.len()..found.len()));
    assert!(differs(at..at + raw.len()));
    let verified = verify_merged(&place.model, &place.targets, &header, &factors, &merged, 1);
    assert_eq!(verified.unwrap(), []);
}

#[test]
fn an_inserted_node_leaves_all_else_as_it_was_stored() {
    let place = Place::new(file(ALL));
    let mut proto = place.model.proto.clone();
    let added = node::node("Identity", "added", &["q out"], &["more"]);
    let edit = Edit::InsertAfter { node_index: 0, nodes: vec![added.clone()] };
    Patch { edits: vec![edit] }.apply(proto.graph.as_mut().unwrap()).unwrap();
    write_model(&place.model, &proto, &place.out()).unwrap();
    let found = fs::read(place.out()).unwrap();
    let added = field(1, &added.encode_to_vec());
    assert_eq!(found.len(), place.bytes.len() + added.len());
    let at = raw_at(&found, &added);
    let rest = [&found[..at], &found[at + added.len()..]].concat();
    // But for the length of the graph, which its first four bytes tell.
    let differing = rest.iter().zip(&place.bytes).filter(|(a, b)| a != b).count();
    assert!(differing <= 3, "{differing}");
    let again = OnnxModel::load(&place.out()).unwrap();
    let names: Vec<_> = again.graph().node.iter().map(|n| n.name()).collect();
    assert_eq!(names[1], "added");
    assert_eq!(again.inlined().unwrap().graph.unwrap().node.len(), 3);
}

#[test]
fn a_part_that_changes_and_holds_unknown_fields_is_refused_by_name() {
    let changed = |odd: Odd, change: &dyn Fn(&mut GraphProto)| {
        let place = Place::new(file(odd));
        let mut proto = place.model.proto.clone();
        change(proto.graph.as_mut().unwrap());
        let written = write_model(&place.model, &proto, &place.out());
        assert_eq!(place.files(), 1 + usize::from(written.is_ok()));
        written
    };
    let node = |graph: &mut GraphProto| graph.node[1].doc_string = Some("other".into());
    let tensor = |graph: &mut GraphProto| graph.initializer[1].doc_string = Some("other".into());
    let name = |written: Result<u64, ModelError>| match written {
        Err(ModelError::WouldLose { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let expected = "node \"/model/layers.0/self_attn/k_proj/MatMul\"";
    assert_eq!(name(changed(Odd { node: true, ..Odd::default() }, &node)), expected);
    assert_eq!(name(changed(Odd { tensor: true, ..Odd::default() }, &tensor)), "initializer \"k\"");
    assert!(changed(Odd { node: false, ..ALL }, &node).is_ok());
    assert!(changed(Odd { tensor: false, ..ALL }, &tensor).is_ok());
}

#[test]
fn a_tensor_that_is_encoded_anew_keeps_its_values() {
    let place = Place::new(file(Odd::default()));
    let mut proto = place.model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer[0].doc_string = Some("other".into());
    graph.initializer.swap(0, 1);
    write_model(&place.model, &proto, &place.out()).unwrap();
    let again = OnnxModel::load(&place.out()).unwrap();
    for name in ["q", "k"] {
        let of = |m: &OnnxModel| m.tensor_bytes(m.initializer(name).unwrap()).unwrap();
        assert_eq!(of(&again), of(&place.model));
    }
    assert_eq!(again.graph().initializer[1].doc_string(), "other");
}

#[test]
fn verification_notices_unknown_fields_that_differ() {
    let place = Place::new(file(ALL));
    let (header, factors) = place.merge(&[Role::Q]);
    drop(place.merged(&header, &factors).unwrap());
    let merged = fs::read(place.out()).unwrap();
    for (index, at) in merged.windows(5).enumerate().filter(|(_, w)| w == b"hello") {
        assert_eq!(at, b"hello");
        let mut other = merged.clone();
        other[index] ^= 1;
        fs::write(place.out(), &other).unwrap();
        let model = OnnxModel::load(&place.out()).unwrap();
        let found = verify_merged(&place.model, &place.targets, &header, &factors, &model, 1);
        let found = found.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].what.as_str(), found[0].count), ("unknown fields", 1));
    }
    assert_eq!(merged.windows(5).filter(|w| w == b"hello").count(), 6);
    let plain = Place::new(file(Odd::default()));
    let found = verify_merged(
        &plain.model,
        &plain.targets,
        &header,
        &factors,
        &OnnxModel::load(&place.out()).unwrap(),
        1,
    );
    assert!(found.unwrap().iter().any(|m| m.what == "unknown fields"));
}

/// The module's weights in 16 bits, canonical.
fn half_model(element: ElementType, turned: bool, shared: bool) -> Place {
    let mut proto = ModelProto::decode(&file(Odd::default())[..]).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    let (number, cut): (_, fn(f32) -> [u8; 2]) = match element {
        ElementType::F16 => (10, |x| half_bits(x, true)),
        _ => (16, |x| half_bits(x, false)),
    };
    for tensor in &mut graph.initializer {
        let raw = tensor.raw_data.take().unwrap();
        let values = raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        tensor.raw_data = Some(values.flat_map(cut).collect::<Vec<_>>().into());
        tensor.data_type = Some(number);
    }
    if turned {
        graph.node.insert(0, node::node("Transpose", "", &["q"], &["q turned"]));
        graph.node[1].input[1] = "q turned".into();
    }
    let mut as_floats = proto.clone();
    for tensor in &mut as_floats.graph.as_mut().unwrap().initializer {
        tensor.data_type = Some(1);
        tensor.raw_data = Some(vec![0; 4 * 1600].into());
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    let bytes = proto.encode_to_vec();
    // The modules are found as those of floats are, and are of their own type.
    fs::write(&path, as_floats.encode_to_vec()).unwrap();
    let mut targets = find_targets(&OnnxModel::load(&path).unwrap()).unwrap();
    targets.targets.iter_mut().for_each(|t| (t.dtype, t.shared) = (element, shared));
    fs::write(&path, &bytes).unwrap();
    let model = OnnxModel::load(&path).unwrap();
    Place { folder, bytes, model, targets }
}

/// Of a small whole number, which both types hold.
fn half_bits(x: f32, f16: bool) -> [u8; 2] {
    let bits = x.to_bits();
    if !f16 {
        return ((bits >> 16) as u16).to_le_bytes();
    }
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    match x == 0.0 {
        true => sign.to_le_bytes(),
        false => {
            (sign | ((exponent + 15) as u16) << 10 | (bits >> 13 & 0x3ff) as u16).to_le_bytes()
        }
    }
}

#[test]
fn weights_of_16_bits_are_rounded_once_to_their_own_type() {
    for element in [ElementType::F16, ElementType::Bf16] {
        for (turned, shared) in [(false, false), (true, false), (false, true), (true, true)] {
            let place = half_model(element, turned, shared);
            let module = ModuleId { layer: 0, role: Role::Q };
            let target = place.targets.get(module).unwrap();
            let header = Header {
                roles: RoleSet::from_roles([Role::Q]).unwrap(),
                scale: 1.0,
                ..Header::default()
            };
            // A third of a unit in the last place of values from 4 to 8, and a bit of it in f64.
            let unit = if element == ElementType::F16 { 4.0 / 1024.0 } else { 4.0 / 128.0 };
            let l = Array2::from_shape_fn((40, 1), |(i, _)| unit * (0.3 + i as f64 / 40.0));
            let factors = [Factors { module, l, v: Array2::ones((40, 1)) }];
            let merged = place.merged(&header, &factors).unwrap();
            // A copy comes last.
            let own = match shared {
                true => merged.graph().initializer.last().unwrap(),
                false => merged.initializer("q").unwrap(),
            };
            assert_eq!(ElementType::of(own), element);
            let found = merged.tensor_f32(own).unwrap();
            let before = place.model.weight(target).unwrap();
            for ((row, col), w) in before.indexed_iter() {
                let sum = f64::from(*w) + factors[0].l[[row, 0]];
                let expected = match element {
                    ElementType::F16 => tla::surgery::to_f16(sum).to_f32(),
                    _ => tla::surgery::to_bf16(sum).to_f32(),
                };
                // A copy behind a Cast lies as the original does.
                let at = if turned { [row, col] } else { [col, row] };
                assert_eq!(found[at], expected, "{element:?} {turned} {shared} {row} {col}");
            }
            let (model, targets) = (&place.model, &place.targets);
            assert_eq!(verify_merged(model, targets, &header, &factors, &merged, 1).unwrap(), []);
        }
    }
}

#[test]
fn several_adapters_are_added_before_the_one_rounding() {
    let place = Place::new(file(Odd::default()));
    let (both, first) = place.merge(&[Role::Q, Role::K]);
    let (only, second) = place.merge(&[Role::K]);
    let [half, third] = [0.5, -1.0 / 3.0];
    let addends = [
        Addend { header: &both, factors: &first, weight: half },
        Addend { header: &only, factors: &second, weight: third },
    ];
    let mut merge = OnnxMerge::new(&place.model, &place.targets, &addends, 2).unwrap();
    let proto = merge.proto().clone();
    let (_, staged) = stage_model(&place.model, &proto, &place.out(), &mut merge).unwrap();
    assert!(!place.out().exists(), "it is placed when that is known to be wanted");
    assert_eq!(merge.survival().modules.len(), 2);
    staged.place().unwrap();
    let merged = OnnxModel::load(&place.out()).unwrap();
    for target in &place.targets.targets {
        let mut expected = place.model.weight(target).unwrap();
        let delta = |f: &[Factors], scale| {
            let found = f.iter().find(|f| f.module == target.module);
            found.map(|f| tla::projection::delta(f, scale))
        };
        let first = delta(&first, both.scale).unwrap();
        let second = delta(&second, only.scale);
        for (at, w) in expected.indexed_iter_mut() {
            let more = second.as_ref().map(|d| third * d[at]);
            let sum = more.map_or(half * first[at], |more| half * first[at] + more);
            *w = (f64::from(*w) + sum) as f32;
        }
        assert_eq!(merged.weight(target).unwrap(), expected, "{}", target.module);
    }
}

#[test]
fn a_file_of_two_gigabytes_is_refused_before_it_is_read() {
    let folder = TempDir::new().unwrap();
    let path: &Path = &folder.path().join("model.onnx");
    fs::File::create(path).unwrap().set_len(1 << 31).unwrap();
    assert!(matches!(OnnxModel::load(path), Err(ModelError::TooLarge { .. })));
}
