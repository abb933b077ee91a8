//! `tla graft` from the outside: what it writes and says, and what it refuses.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use prost::Message;
use serde_json::{Value, json};
use std::fs;
use tla::{
    format::{Adapter, Header, encode_to_vec},
    model::proto::ModelProto,
};

fn proto(place: &Place, name: &str) -> ModelProto {
    ModelProto::decode(&place.read(name)[..]).unwrap()
}

/// The default of `tla_v` and the doc string of the input.
fn values(place: &Place, name: &str) -> (Vec<f32>, Value) {
    let graph = proto(place, name).graph.unwrap();
    let tensor = graph.initializer.iter().find(|t| t.name() == "tla_v").unwrap();
    let raw = tensor.raw_data.as_deref().unwrap();
    assert_eq!(tensor.dims, [1, raw.len() as i64 / 4]);
    let v = raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let input = graph.input.iter().find(|i| i.name() == "tla_v").unwrap();
    (v, serde_json::from_str(input.doc_string()).unwrap())
}

#[test]
fn the_default_is_the_adapter_and_the_report_names_input_and_modules() {
    let place = Place::new();
    let report = place.run("graft model a.tla -o out.onnx --json").json(0);
    assert_eq!((&report["output"], &report["input"]), (&json!("out.onnx"), &json!("tla_v")));
    assert_eq!(report["params"], json!(13));
    assert_eq!(report["modules"].as_array().unwrap().len(), 14);
    assert_eq!(report["modules"][1], json!({"layer": 0, "role": "k"}));
    let bytes = place.read("a.tla");
    let v: Vec<f32> = Adapter::decode(&bytes).unwrap().values().collect();
    assert_eq!(report["default"], json!(v));
    assert_eq!(values(&place, "out.onnx").0, v);

    let told = place.run("graft model a.tla -o out.onnx");
    assert!(told.code == Some(0) && told.stdout.contains("tla_v"), "{}", told.stdout);
}

/// As `tla graft --help` says: a layer of seven modules reads four values.
#[test]
fn a_graft_adds_as_many_operators_as_are_promised() {
    let place = Place::new();
    let half = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/exports/optimum-fp16/qwen2-tied/model.onnx");
    fs::copy(half, place.path("half.onnx")).unwrap();
    // This one multiplies o in 32 bits, all others in 16.
    let of_half = (3 * 3 + 6 * 3) + (2 + 2);
    for (model, of_layer) in [("model/model.onnx", 4 * 2 + 7 * 2), ("half.onnx", of_half)] {
        let done = place.run(&format!("graft {model} --recipe v.json -o out.onnx"));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let nodes = |name: &str| proto(&place, name).graph.unwrap().node.len();
        // And once for all layers M of all modules, from the values.
        assert_eq!(nodes("out.onnx") - nodes(model), 2 * of_layer + 3, "{model}");
    }
}

#[test]
fn a_recipe_without_values_grafts_the_base_and_one_with_them_what_pack_would_store() {
    let place = Place::new();
    place.write("geometry.json", "{}");
    let report = place.run("graft model --recipe geometry.json -o zero.onnx --json").json(0);
    assert_eq!(report["default"], json!(vec![0.0; 13]));
    assert_eq!(values(&place, "zero.onnx").0, [0.0; 13]);
    let zero = place.run("graft model --recipe geometry.json -o zero.onnx");
    assert!(zero.stdout.contains("the base"), "{}", zero.stdout);

    let done = place.run("graft model --recipe v.json -o given.onnx");
    assert!(done.code == Some(0) && done.stderr.contains("rounded"), "{}", done.stderr);
    assert_eq!(place.run("graft model a.tla -o packed.onnx").code, Some(0));
    assert!(place.read("given.onnx") == place.read("packed.onnx"));
}

#[test]
fn the_input_says_which_recipe_its_values_need() {
    let place = Place::new();
    let more = json!({
        "v": [1, 0.5, -2, 3, 0.25, -1, 7, 0.125], "seed": 77, "rank": 3, "width": 4, "groups": 2,
        "tying": "structured", "split": "peft", "scale": 0.1, "scalar": "f32",
        "roles": ["k", "up"], "first_layer": 1, "layers": 1,
    });
    place.write("v.json", more.to_string());
    assert_eq!(place.run("pack v.json --model model -o b.tla").code, Some(0));
    assert_eq!(place.run("graft model b.tla -o out.onnx").code, Some(0));
    let (v, mut recipe) = values(&place, "out.onnx");
    recipe["v"] = json!(v);
    place.write("again.json", recipe.to_string());
    assert_eq!(place.run("pack again.json --model model -o again.tla").code, Some(0));
    assert!(place.read("again.tla") == place.read("b.tla"));
}

#[test]
fn a_folder_gets_the_model_and_what_belongs_beside_it() {
    let place = Place::new();
    assert_eq!(place.run("graft model a.tla -o new/").code, Some(0));
    assert_eq!(fs::read_dir(place.path("new")).unwrap().count(), 6);
    for name in ["config.json", "tokenizer.json", "chat_template.jinja"] {
        assert!(place.read(&format!("new/{name}")) == place.read(&format!("model/{name}")));
    }
    assert!(proto(&place, "new/model.onnx").graph.unwrap().input.last().unwrap().name() == "tla_v");
    let verified = place.run("verify a.tla --base new");
    assert_eq!(verified.code, Some(0), "the weights are those of the base: {}", verified.stdout);
}

#[test]
fn an_adapter_must_belong_to_the_model_and_rebuild_to_what_it_names() {
    let place = Place::new();
    place.refused("graft other a.tla -o out.onnx", &["base digest", "it was made for"]);
    place.refused("graft other a.tla -o out.onnx --unbound", &["base digest"]);
    let bytes = place.read("a.tla");
    let adapter = Adapter::decode(&bytes).unwrap();
    let v: Vec<f32> = adapter.values().collect();
    let forged = Header { seed: 8, ..*adapter.header() };
    place.write("forged.tla", encode_to_vec(&forged, &v).unwrap());
    place.refused("graft model forged.tla -o out.onnx", &["rebuilds to", "Do not use it"]);
    let elsewhere = Header { first_layer: 1, layers: 9, ..*adapter.header() };
    place.write("elsewhere.tla", encode_to_vec(&elsewhere, &v).unwrap());
    place.refused("graft model elsewhere.tla -o new/", &["layer 2"]);
    place.write("cut.tla", &bytes[..153]);
    place.refused("graft model cut.tla -o out.onnx", &["cut.tla is not a usable adapter"]);
    place.write("bad.json", "{\"v\": [1, 2]}");
    place.refused("graft model --recipe bad.json -o out.onnx", &["v has 2 numbers"]);
    place.write("bad.json", "{\"layers\": 3}");
    place.refused("graft model --recipe bad.json -o out.onnx", &["layer 2"]);
    place.write("bad.json", "{\"rank\": 65}");
    place.refused("graft model --recipe bad.json -o out.onnx", &["the rank is 65"]);
}

#[test]
fn an_unbound_adapter_is_grafted_only_when_told_to() {
    let place = Place::new();
    assert_eq!(place.run("pack v.json -o free.tla").code, Some(0));
    place.refused("graft model free.tla -o out.onnx", &["unbound", "--unbound"]);
    let done = place.run("graft model free.tla -o free.onnx --unbound");
    assert!(done.code == Some(0) && done.stderr.contains("unbound"));
    assert_eq!(place.run("graft model a.tla -o bound.onnx").code, Some(0));
    assert!(place.read("free.onnx") == place.read("bound.onnx"));
}

#[test]
fn places_where_no_graft_belongs_are_refused() {
    let place = Place::new();
    let word = "is an input of this command";
    place.refused("graft model a.tla -o model/model.onnx", &[word]);
    place.refused("graft model a.tla -o other/../model/", &[word]);
    fs::copy(place.path("v.json"), place.path("v.onnx")).unwrap();
    place.refused("graft model --recipe v.onnx -o v.onnx", &[word]);
    place.refused("graft model a.tla -o no/out.onnx", &["the folder of no/out.onnx"]);
    place.refused("graft model a.tla -o out", &["ends neither in .onnx nor in a separator"]);
    place.write("kept.onnx", "kept");
    let mut permissions = fs::metadata(place.path("kept.onnx")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(place.path("kept.onnx"), permissions).unwrap();
    place.refused("graft model a.tla -o kept.onnx", &["is read-only"]);
    #[cfg(target_os = "linux")]
    place.refused("graft model a.tla -o /proc/out.onnx", &["cannot write /proc/out.onnx"]);
}

#[test]
fn a_checkpoint_has_no_graph_to_graft() {
    let place = Place::new();
    fs::create_dir(place.path("checkpoint")).unwrap();
    let tensor =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 1], &[0, 0, 128, 63]);
    let name = "model.layers.0.self_attn.q_proj.weight";
    let bytes = safetensors::serialize([(name, tensor.unwrap())], None).unwrap();
    place.write("checkpoint/model.safetensors", bytes);
    let word = ["safetensors checkpoint", "Export the model"];
    place.refused("graft checkpoint a.tla -o out.onnx", &word);
    place.refused("graft checkpoint/model.safetensors a.tla -o out.onnx", &word);
}

#[test]
fn a_grafted_model_takes_no_second_adapter_in_any_way() {
    let place = Place::new();
    assert_eq!(place.run("graft model a.tla -o grafted/").code, Some(0));
    let words = ["grafted already", "\"tla_v\"", "Use the model it was grafted from"];
    place.refused("graft grafted a.tla -o out.onnx", &words);
    place.refused("graft grafted --recipe v.json -o out.onnx", &words);
    place.refused("merge grafted a.tla -o out.onnx", &words);
    #[cfg(feature = "train")]
    {
        let problem = "{\"question\": \"2 + 3?\", \"answer\": \"2 + 3 = 5\\n#### 5\"}\n";
        place.write("data.jsonl", problem);
        place.refused("train --model grafted --data data.jsonl --out out.tla", &words);
        place.refused("eval --model grafted --data data.jsonl --adapter a.tla", &words);
    }
    let report = place.run("inspect grafted --json").json(0);
    assert_eq!(report["base_digest"], place.run("inspect model --json").json(0)["base_digest"]);
}

#[test]
fn a_wrong_call_is_an_error_and_not_a_no() {
    let place = Place::new();
    for args in [
        "graft model -o out.onnx",
        "graft model a.tla",
        "graft model a.tla --recipe v.json -o out.onnx",
        "graft model --recipe v.json --unbound -o out.onnx",
        "graft model a.tla a.tla -o out.onnx",
    ] {
        let done = place.run(args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(done.stderr.starts_with("tla: "), "{args:?}: {}", done.stderr);
    }
}

/// `eval` without an adapter runs the default, which is the adapter that `eval` runs live.
#[cfg(feature = "train")]
#[test]
fn a_grafted_model_answers_as_the_live_adapter_does() {
    use std::{path::Path, process::Command};
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = Place::new();
    let model = root.join("fixtures/wordmath");
    let data = root.join("fixtures/data/heldout.jsonl");
    let tla = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
        let done = command.args(args).current_dir(place.path("")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    place.write("down.json", "{\"v\": [0.5, -0.25, 0.75], \"width\": 3, \"roles\": [\"down\"]}");
    tla(&["pack", "down.json", "--model", model, "-o", "down.tla"]);
    tla(&["graft", model, "down.tla", "-o", "grafted/"]);
    let common = ["--data", data, "--limit", "24", "--threads", "2", "--answers"];
    let eval = |args: &[&str], answers: &str| {
        tla(&[&["eval"], args, &common[..], &[answers]].concat());
        let text = String::from_utf8(place.read(answers)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.map(|line: Value| line["text"].clone()).collect::<Vec<_>>()
    };
    let live = eval(&["--model", model, "--adapter", "down.tla"], "live.jsonl");
    let grafted = eval(&["--model", "grafted"], "grafted.jsonl");
    let base = eval(&["--model", model], "base.jsonl");
    assert_eq!((live.len(), &grafted), (24, &live));
    assert_ne!(base, live, "the adapter changes no answer");
}
