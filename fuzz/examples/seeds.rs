//! Writes inputs to start from, one folder per target: `cargo run --example seeds -- FOLDER`.
//!
//! The committed corpus grew from these. Only the targets that start from a file need any.

use arbitrary::Unstructured;
use prost::Message;
use std::{fs, path::Path};
use tla::{
    format::{Header, Projection, Scalar, Split, Tying, encode_to_vec},
    model::proto::{ModelProto, StringStringEntryProto, tensor_proto::DataLocation},
};
use tla_fuzz::properties::generated::{Arrangement, Model};

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let write = |target: &str, inputs: Vec<Vec<u8>>| -> std::io::Result<()> {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (index, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), input)?;
        }
        Ok(())
    };
    write("decode", adapters())?;
    write("onnx", models())?;
    write("checkpoint", checkpoints())?;
    let templates = fs::read_dir(fixtures.join("templates"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?;
    let templates = templates.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja"));
    write("template", templates.map(fs::read).collect::<Result<_, _>>()?)?;
    let dataset = fs::read_to_string(fixtures.join("data/heldout.jsonl"))?;
    let lines: Vec<&str> = dataset.lines().take(3).collect();
    write("dataset", vec![lines.join("\n").into_bytes(), lines[0].as_bytes().to_vec()])?;
    let answers = [
        "\\frac{1}{2}\n0.5",
        "3\\frac12\n3 1/2",
        "1,234\n1234",
        "x^2\nx^{2}",
        "\\text{(A)}\n(A)",
        "5\\text{ cm}^2\n\\$5",
        "90^\\circ\n90^{\\circ}",
        "(1, \\dfrac12)\n(1,0.5)",
        "1/3\n0.333",
        "\\left[0,\\infty\\right)\n[0, \\infty)",
        "\\pi\nx",
        "\\sqrt[3]{2}\n\\sqrt[3]2",
        "x=5\n5.",
    ];
    write("answers", answers.iter().map(|a| a.as_bytes().to_vec()).collect())?;
    let recipe = r#"{"v": [0.1, -2, 3e-5], "seed": 7, "rank": 2, "width": 3, "groups": 1,
        "tying": "tiled", "split": "paper", "scale": 1.0, "scalar": "f16", "roles": ["q", "down"],
        "first_layer": 0, "layers": 2, "projection": "seeded"}"#;
    write("recipe", vec![recipe.into(), br#"{"v":[1,2],"width":2}"#.to_vec()])
}

fn adapters() -> Vec<Vec<u8>> {
    let header = Header { width: 3, base_digest: [1; 32], ..Header::default() };
    let unit = Header { projection: Projection::Unit, width: 4, split: Split::Peft, ..header };
    let many = Header { groups: 3, tying: Tying::Structured, layers: 2, ..header };
    [header, unit, many]
        .iter()
        .flat_map(|header| Scalar::ALL.iter().map(|&scalar| Header { scalar, ..*header }))
        .map(|header| encode_to_vec(&header, &vec![0.5; header.parameters()]).unwrap())
        .collect()
}

/// A header, a zero byte and the data: what the target makes a file of.
fn checkpoints() -> Vec<Vec<u8>> {
    let blocks = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"];
    let blocks = [&blocks[..], &["mlp.gate", "mlp.up", "mlp.down"]].concat();
    let written = |dtype: &str, size: usize, names: Vec<String>| {
        let mut entries = vec![r#""__metadata__":{"format":"pt"}"#.to_owned()];
        for (i, name) in names.iter().enumerate() {
            let (start, end) = (2 * size * i, 2 * size * (i + 1));
            entries.push(format!(
                r#""{name}":{{"dtype":"{dtype}","shape":[1,2],"data_offsets":[{start},{end}]}}"#
            ));
        }
        let mut bytes = format!("{{{}}}\0", entries.join(",")).into_bytes();
        bytes.resize(bytes.len() + 2 * size * names.len(), 0x3e);
        bytes
    };
    let names = |count: usize| -> Vec<String> {
        blocks[..count].iter().map(|b| format!("model.layers.0.{b}_proj.weight")).collect()
    };
    vec![written("F32", 4, names(7)), written("BF16", 2, names(7)), written("F16", 2, names(1))]
}

/// Small models, then the first of them with a weight outside, and with a shared one.
fn models() -> Vec<Vec<u8>> {
    let generated = |seed: u8| {
        let mut state = seed;
        let mut bytes = vec![0; 600];
        bytes.iter_mut().for_each(|byte| {
            state = state.wrapping_mul(141).wrapping_add(71);
            *byte = state & 0x7f;
        });
        let mut u = Unstructured::new(&bytes);
        let model = Model::read(&mut u).unwrap();
        model.build(&Arrangement::default()).proto
    };
    let mut outside: ModelProto = generated(1);
    let tensor = &mut outside.graph.as_mut().unwrap().initializer[1];
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    tensor.dims = vec![4, 4];
    (tensor.raw_data, tensor.float_data) = (None, Vec::new());
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data =
        vec![entry("location", "data"), entry("offset", "0"), entry("length", "64")];
    let mut shared: ModelProto = generated(2);
    let graph = shared.graph.as_mut().unwrap();
    let matmuls: Vec<usize> =
        (2..graph.node.len()).filter(|&n| graph.node[n].op_type() == "MatMul").collect();
    graph.node[matmuls[1]].input[1] = graph.node[matmuls[0]].input[1].clone();
    let mut models: Vec<ModelProto> = (0..4).map(generated).collect();
    models.extend([outside, shared]);
    models.iter().map(ModelProto::encode_to_vec).collect()
}
