//! Bad input is refused with a fact and a remedy, the right exit status, and no file left behind.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use serde_json::json;
use std::fs;

/// `verify` says no: the file check failed with these words.
#[track_caller]
fn invalid(place: &Place, what: &str, words: &str) {
    let report = place.run("verify bad.tla --base model --json").json(1);
    assert_eq!(report["valid"], json!(false), "{what}");
    let check = &report["checks"][0];
    assert_eq!((&check["name"], &check["ok"]), (&json!("file"), &json!(false)), "{what}");
    assert!(check["detail"].as_str().unwrap().contains(words), "{what}: {check}");
}

#[test]
fn missing_files_are_named() {
    let place = Place::new();
    place.refused("inspect nothing.onnx", &["nothing.onnx does not exist"]);
    place.refused("pack nothing.json -o out.tla", &["nothing.json does not exist"]);
    place.refused("pack v.json --model nothing -o out.tla", &["nothing does not exist"]);
    place.refused("show nothing.tla", &["nothing.tla does not exist"]);
    place.refused("verify nothing.tla", &["nothing.tla does not exist"]);
    place.refused("verify a.tla --base nothing", &["nothing does not exist"]);
    place.refused("verify a.tla --base model --merged nothing", &["nothing does not exist"]);
    place.refused("merge model nothing.tla -o out.onnx", &["nothing.tla does not exist"]);
    place.refused("merge nothing a.tla -o out.onnx", &["nothing does not exist"]);
    place.refused("graft model nothing.tla -o out.onnx", &["nothing.tla does not exist"]);
    place.refused("graft nothing a.tla -o out.onnx", &["nothing does not exist"]);
    place.refused("graft model --recipe nothing.json -o out.onnx", &["nothing.json does not"]);
}

#[test]
fn what_is_no_model_is_refused() {
    let place = Place::new();
    place.write("text.onnx", "This is a plain text file.\n");
    place.write("empty.onnx", "");
    fs::create_dir(place.path("hollow")).unwrap();
    let half = place.read("model/model.onnx");
    place.write("half.onnx", &half[..half.len() / 2]);
    for (model, word) in [
        ("text.onnx", "is not an ONNX model"),
        ("half.onnx", "half.onnx"),
        ("empty.onnx", "is empty"),
        ("hollow", "holds no model.onnx"),
        ("a.tla", "a.tla"),
    ] {
        place.refused(&format!("inspect {model}"), &[word]);
        place.refused(&format!("pack v.json --model {model} -o out.tla"), &[word]);
        place.refused(&format!("verify a.tla --base {model}"), &[word]);
        place.refused(&format!("merge {model} a.tla -o out.onnx"), &[word]);
        place.refused(&format!("graft {model} a.tla -o out.onnx"), &[word]);
    }
}

#[test]
fn a_model_without_adaptable_modules_says_what_was_looked_for() {
    use prost::Message;
    let place = Place::new();
    let bytes = place.read("model/model.onnx");
    let mut proto = tla::model::proto::ModelProto::decode(&bytes[..]).unwrap();
    proto.graph.as_mut().unwrap().node.truncate(100);
    place.write("bare.onnx", proto.encode_to_vec());
    let words = ["no matrix that can be adapted", "/self_attn/q_proj/MatMul", "optimum-onnx"];
    place.refused("inspect bare.onnx", &words);
    place.refused("pack v.json --model bare.onnx -o out.tla", &words);
    place.refused("merge bare.onnx a.tla -o out.onnx", &words);
}

#[test]
fn an_adapter_for_another_base_is_an_error_to_merge_and_a_no_to_verify() {
    let place = Place::new();
    place.refused(
        "merge other a.tla -o out.onnx",
        &["base digest", "Use the model it was made for"],
    );
    place.refused("merge other a.tla -o out.onnx --unbound --force", &["base digest"]);
    let report = place.run("verify a.tla --base other --merged model --json").json(1);
    let checks: Vec<_> = report["checks"].as_array().unwrap().iter().map(|c| &c["ok"]).collect();
    assert_eq!(checks, [&json!(true), &json!(false), &json!(false), &json!(false)]);
}

#[test]
fn an_adapter_that_rebuilds_to_something_else_is_not_merged() {
    use tla::format::{Adapter, Header, encode_to_vec};
    let place = Place::new();
    let bytes = place.read("a.tla");
    let adapter = Adapter::decode(&bytes).unwrap();
    let v: Vec<f32> = adapter.values().collect();
    let forged = Header { seed: 8, ..*adapter.header() };
    place.write("forged.tla", encode_to_vec(&forged, &v).unwrap());
    place.refused("merge model forged.tla -o out.onnx", &["rebuilds to", "Do not use it"]);
    let report = place.run("verify forged.tla --base model --merged model --json").json(1);
    let checks: Vec<_> = report["checks"].as_array().unwrap().iter().map(|c| &c["ok"]).collect();
    assert_eq!(checks, [&json!(true), &json!(true), &json!(false), &json!(false)]);

    let elsewhere = Header { first_layer: 1, layers: 9, ..*adapter.header() };
    place.write("elsewhere.tla", encode_to_vec(&elsewhere, &v).unwrap());
    let report = place.run("verify elsewhere.tla --base model --json").json(1);
    assert!(report["checks"][2]["detail"].as_str().unwrap().contains("layer 2"), "{report}");
    place.refused("merge model elsewhere.tla -o out.onnx", &["layer 2"]);
}

#[test]
fn an_unbound_adapter_is_not_merged_by_accident() {
    let place = Place::new();
    assert_eq!(place.run("pack v.json -o free.tla").code, Some(0));
    place.refused("merge model free.tla -o out.onnx", &["unbound", "--unbound"]);
}

#[test]
fn values_that_are_no_finite_numbers_are_named_by_their_index() {
    let place = Place::new();
    for bad in ["NaN", "\"NaN\"", "null", "1e999", "-Infinity"] {
        place.write("bad.json", format!("{{\"v\": [1, 2, 3, {bad}], \"width\": 4}}"));
        place.refused("pack bad.json -o out.tla", &["v[3] is not a finite number"]);
        place.refused("pack bad.json --model model -o out.tla", &["v[3] is not a finite number"]);
    }
    place.write("bad.json", "{\"v\": [1, 70000], \"width\": 2, \"scalar\": \"f16\"}");
    place.refused("pack bad.json -o out.tla", &["v[1] is 7e4", "f16"]);
}

#[test]
fn json_that_is_wrong_says_what_is_wrong() {
    let place = Place::new();
    for (json, word) in [
        ("", "EOF"),
        ("{\"v\": [1, 2", "EOF"),
        ("[1, 2]", "bad.json cannot be used"),
        ("{}", "has no key \"v\""),
        ("{\"v\": 3}", "a list of finite numbers"),
        ("{\"v\": [1]}", "v has 1 numbers, and groups × width is 1 × 13"),
        ("{\"v\": [1], \"widht\": 1}", "unknown field `widht`"),
        ("{\"v\": [1], \"width\": 1, \"rank\": 300}", "300"),
        ("{\"v\": [1], \"width\": 1, \"rank\": 65}", "the rank is 65"),
        ("{\"v\": [1], \"width\": 1, \"tying\": \"tile\"}", "tiled, structured"),
        ("{\"v\": [1], \"width\": 1, \"roles\": []}", "no role"),
        ("{\"v\": [1], \"width\": 1, \"roles\": [\"head\"]}", "lm_head"),
        ("{\"v\": [1], \"width\": 1, \"scale\": -1}", "the scale is -1"),
    ] {
        place.write("bad.json", json);
        place.refused("pack bad.json -o out.tla", &[word]);
    }
    place.write("bad.json", [0xff, 0xfe, 0]);
    place.refused("pack bad.json -o out.tla", &["bad.json"]);
}

#[test]
fn a_header_the_model_cannot_serve_is_not_packed() {
    let place = Place::new();
    place.write("bad.json", "{\"v\": [1], \"width\": 1, \"first_layer\": 1, \"layers\": 2}");
    place.refused("pack bad.json --model model -o out.tla", &["layer 2"]);
}

#[test]
fn a_cut_or_lengthened_adapter_is_invalid() {
    let place = Place::new();
    let good = place.read("a.tla");
    for len in [0, 1, 95, 96, 127, 128, 153] {
        place.write("bad.tla", &good[..len]);
        invalid(&place, "cut", &format!("{len} bytes"));
        place.refused("show bad.tla", &["bad.tla is not a usable adapter"]);
        place.refused("merge model bad.tla -o out.onnx", &["bad.tla is not a usable adapter"]);
    }
    place.write("bad.tla", [&good[..], &[0]].concat());
    invalid(&place, "lengthened", "155 bytes");
}

#[test]
fn a_flipped_bit_is_invalid() {
    let place = Place::new();
    let good = place.read("a.tla");
    // A step that meets every field of the header, the values and the checksum.
    for bit in (0..good.len() * 8).step_by(29) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        place.write("bad.tla", &bytes);
        let report = place.run("verify bad.tla --json").json(1);
        assert_eq!(report["valid"], json!(false), "bit {bit}");
    }
}

#[test]
fn an_adapter_far_too_large_is_not_read() {
    let place = Place::new();
    // Sparse: the size is there, the blocks are not.
    fs::File::create(place.path("large")).unwrap().set_len((64 << 20) + 1).unwrap();
    let before = place.run("show large");
    assert_eq!(before.code, Some(2));
    assert!(before.stderr.contains("more than 67108864 bytes"), "{}", before.stderr);
    for args in ["verify large", "pack large -o out.tla", "merge model large -o out.onnx"] {
        assert_eq!(place.run(args).code, Some(2), "{args}");
    }
    assert!(!place.path("out.tla").exists() && !place.path("out.onnx").exists());
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let place = Place::new();
    let word = "is an input of this command";
    place.refused("pack v.json -o v.json", &[word]);
    place.refused("pack v.json -o ./model/../v.json", &[word]);
    place.refused("pack v.json --model model -o model/model.onnx", &[word]);
    place.refused("merge model a.tla -o model/model.onnx", &[word]);
    place.refused("merge model a.tla -o model", &[word]);
    place.refused("merge model a.tla -o other/../model/", &[word]);
    fs::copy(place.path("a.tla"), place.path("a.onnx")).unwrap();
    place.refused("merge model a.onnx -o a.onnx", &[word]);
}

#[cfg(unix)]
#[test]
fn an_output_that_links_to_an_input_is_refused() {
    let place = Place::new();
    std::os::unix::fs::symlink("model/model.onnx", place.path("link.onnx")).unwrap();
    place.refused("merge model a.tla -o link.onnx", &["is an input of this command"]);
    place.refused("merge link.onnx a.tla -o model", &["is an input of this command"]);
}

#[test]
fn an_output_that_cannot_be_there_is_refused() {
    let place = Place::new();
    place.refused("pack v.json -o no/out.tla", &["the folder of no/out.tla does not exist"]);
    place
        .refused("merge model a.tla -o no/out.onnx", &["the folder of no/out.onnx does not exist"]);
    place.refused("merge model a.tla -o no/such/", &["the folder of no/such/ does not exist"]);
    place.refused("pack v.json -o v.json/out.tla", &["the folder of v.json/out.tla"]);
    place.refused("pack v.json -o model", &["model is not a regular file"]);
    place.refused("merge model a.tla -o out", &["ends neither in .onnx nor in a separator"]);
}

#[test]
fn a_read_only_output_is_kept() {
    let place = Place::new();
    for (name, args) in [
        ("out.tla", "pack v.json --model model -o out.tla"),
        ("out.onnx", "merge model a.tla -o out.onnx"),
        ("other/tokenizer.json", "merge model a.tla -o other"),
    ] {
        place.write(name, "kept");
        let mut permissions = fs::metadata(place.path(name)).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(place.path(name), permissions).unwrap();
        place.refused(args, &[name, "is read-only"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn places_where_nothing_can_be_written_are_errors() {
    let place = Place::new();
    // Not even root can make files there, and a device must not be replaced by a file.
    place.refused("pack v.json --model model -o /proc/out.tla", &["cannot write /proc/out.tla"]);
    place.refused("merge model a.tla -o /proc/out.onnx", &["cannot write /proc/out.onnx"]);
    place.refused("merge model a.tla -o /proc/out/", &["cannot write /proc/out/"]);
    place.refused("pack v.json -o /dev/null", &["/dev/null is not a regular file"]);

    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let done = place.command(["show", "a.tla"]).stdout(full).output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8(done.stderr).unwrap().contains("cannot be written to stdout"));
}

#[test]
fn a_model_with_external_data_is_not_written_over_them_or_those_of_another() {
    use prost::Message;
    use tla::model::proto::{ModelProto, StringStringEntryProto, tensor_proto::DataLocation};
    let place = Place::new();
    let mut proto = ModelProto::decode(&place.read("model/model.onnx")[..]).unwrap();
    let mut tensors = proto.graph.as_mut().unwrap().initializer.iter_mut();
    let tensor = tensors.find(|t| t.name() == "model.norm.weight").unwrap();
    place.write("model/norm.onnx", tensor.raw_data.take().unwrap());
    tensor.data_location = Some(DataLocation::External as i32);
    let entry =
        |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    tensor.external_data = vec![entry("location", "norm.onnx")];
    place.write("model/model.onnx", proto.encode_to_vec());
    place.refused("pack v.json --model model -o model/norm.onnx", &["is an input"]);
    place.refused("merge model a.tla -o model/norm.onnx", &["is an input"]);
    place.refused("merge model a.tla -o norm.onnx", &["norm.onnx", "would both be"]);
    place.write("other/norm.onnx", b"of another model");
    assert_eq!(place.run("merge model a.tla -o other/out.onnx").code, Some(0));
    assert_eq!(place.read("other/norm.onnx"), b"of another model");
    assert_eq!(place.read("other/out.norm.onnx"), place.read("model/norm.onnx"));
    assert_eq!(place.run("merge model a.tla -o model/merged.onnx").code, Some(0));
    assert_eq!(place.run("merge model a.tla -o out.onnx").code, Some(0));
    assert_eq!(place.read("norm.onnx"), place.read("model/norm.onnx"));
    assert_eq!(place.run("merge model a.tla -o out.onnx").code, Some(0), "again, over its own");
}

#[test]
fn a_wrong_call_is_an_error_and_not_a_no() {
    let place = Place::new();
    for args in [
        "",
        "nonsense",
        "verify",
        "verify a.tla --merged model",
        "pack v.json",
        "merge model a.tla",
        "merge model -o out.onnx",
        "merge model a.tla:nan -o out.onnx",
        "merge model a.tla:half -o out.onnx",
        "merge model a.tla: -o out.onnx",
        "merge model a.tla:1e999 -o out.onnx",
        "inspect model --threads 0",
        "show a.tla --nonsense",
    ] {
        let done = place.run(args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(done.stderr.starts_with("tla: "), "{args:?}: {}", done.stderr);
    }
}
