//! A model file of any make-up, whose bulk is left where it lies, is the message that the decoder of the
//! whole file reads, and is written as it was stored.

use super::{Outcome, container::named};
use arbitrary::{Result, Unstructured};
use prost::Message;
use std::fs;
use tempfile::TempDir;
use tla::model::{
    ModelError, OnnxModel, WireError,
    node::node,
    proto::{ModelProto, OperatorSetIdProto},
    write_model,
};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const GROUP: u64 = 3;
const FIXED32: u64 = 5;

/// Which message a field is a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Model,
    Graph,
    Tensor,
}

/// A file made from bytes, perhaps damaged.
pub fn wire(bytes: &[u8]) -> Vec<Outcome> {
    match file(&mut Unstructured::new(bytes)) {
        Ok(file) => check(&file),
        Err(_) => vec!["too short".into()],
    }
}

fn file(u: &mut Unstructured) -> Result<Vec<u8>> {
    let mut file = message(u, Level::Model)?;
    match u.int_in_range(0..=7)? {
        0 => file.truncate(u.int_in_range(0..=file.len())?),
        1 if !file.is_empty() => {
            // What lies between large runs is what a flip is about.
            let at = u.int_in_range(0..=file.len().min(600) - 1)?;
            file[at] ^= 1 << u.int_in_range(0..=7)?;
        }
        _ => {}
    }
    Ok(file)
}

/// What a message must have to load comes at any place among its other fields.
fn message(u: &mut Unstructured, level: Level) -> Result<Vec<u8>> {
    let mut fields = match level {
        Level::Model => {
            let opset = OperatorSetIdProto { version: Some(18), ..Default::default() };
            vec![delimited(8, &opset.encode_to_vec()), nested(7, u, Level::Graph)?]
        }
        Level::Graph => {
            let any = node("Identity", "n", &["x"], &["y"]);
            vec![delimited(1, &any.encode_to_vec())]
        }
        Level::Tensor => tensor(u)?,
    };
    for _ in 0..u.int_in_range(0..=4)? {
        let place = u.int_in_range(0..=fields.len())?;
        let field = field(u, level)?;
        fields.insert(place, field);
    }
    Ok(fields.concat())
}

/// Name, size, type and raw data, in any order; now and then one is missing or a byte too long.
fn tensor(u: &mut Unstructured) -> Result<Vec<Vec<u8>>> {
    let count = *u.choose(&[0usize, 1, 1023, 1024, 1025, 3000])?;
    let surplus = usize::from(u.ratio(1u8, 16)?);
    let name = format!("w{}", u.int_in_range(0..=200u8)?);
    let mut fields = vec![
        delimited(8, name.as_bytes()),
        [key(1, VARINT), varint(count as u64)].concat(),
        [key(2, VARINT), varint(1)].concat(),
        delimited(9, &vec![u.arbitrary()?; 4 * count + surplus]),
    ];
    let first = u.int_in_range(0..=3)?;
    fields.rotate_left(first);
    if u.ratio(1u8, 16)? {
        fields.pop();
    }
    Ok(fields)
}

fn nested(number: u64, u: &mut Unstructured, level: Level) -> Result<Vec<u8>> {
    Ok(delimited(number, &message(u, level)?))
}

fn field(u: &mut Unstructured, level: Level) -> Result<Vec<u8>> {
    let kind = u.int_in_range(0..=9)?;
    let number = match u.arbitrary::<bool>()? {
        true => u.int_in_range(1..=32)?,
        false => u.int_in_range(33..=1 << 29)?,
    };
    Ok(match (kind, level) {
        (0..=3, Level::Graph) => nested(5, u, Level::Tensor)?,
        (0, Level::Model) => nested(7, u, Level::Graph)?,
        (0, Level::Tensor) => delimited(9, &vec![7; u.int_in_range(0..=5000)?]),
        (4, _) => [key(number, VARINT), varint(u.arbitrary()?)].concat(),
        // More bytes than the number takes.
        (5, _) => [key(number, VARINT), vec![0x80 | u.arbitrary::<u8>()?, 0x80, 0]].concat(),
        (6, _) => [key(number, FIXED64), u.arbitrary::<[u8; 8]>()?.into()].concat(),
        (7, _) => [key(number, FIXED32), u.arbitrary::<[u8; 4]>()?.into()].concat(),
        (8, _) => key(number, GROUP),
        _ => {
            let length = u.int_in_range(0..=12)?;
            delimited(number, u.bytes(length)?)
        }
    })
}

fn key(number: u64, wire: u64) -> Vec<u8> {
    varint(number << 3 | wire)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn delimited(number: u64, body: &[u8]) -> Vec<u8> {
    [key(number, DELIMITED), varint(body.len() as u64), body.to_vec()].concat()
}

fn check(file: &[u8]) -> Vec<Outcome> {
    let folder = TempDir::new().unwrap();
    let (path, out) = (folder.path().join("model.onnx"), folder.path().join("out.onnx"));
    fs::write(&path, file).unwrap();
    let whole = ModelProto::decode(file);
    let model = match OnnxModel::load(&path) {
        Ok(model) => model,
        Err(error) => {
            if let ModelError::NotOnnx { source, .. } = &error {
                // Stricter than the decoder where a part comes twice, and with groups.
                let stricter = matches!(source, WireError::Twice { .. } | WireError::Key { .. });
                assert!(whole.is_err() || stricter, "{source}");
            } else {
                assert!(whole.is_ok() || file.is_empty(), "{error}");
            }
            return vec![named(&error)];
        }
    };
    let whole = whole.expect("the decoder reads what loads");
    assert!(model.inlined().unwrap().encode_to_vec() == whole.encode_to_vec());
    assert_eq!(write_model(&model, &model.proto, &out).unwrap(), file.len() as u64);
    assert!(fs::read(&out).unwrap() == file);
    let left = model.graph().initializer.iter().any(|t| !t.external_data.is_empty());
    vec![if left { "left in the file" } else { "read whole" }.into()]
}
