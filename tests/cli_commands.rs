//! The commands do what they say, in the words and keys that are checked in.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use serde_json::{Value, json};
use std::{fs, path::Path, process::Stdio};

/// Help and commands that write no file. `TRYCMD=overwrite` accepts what is printed.
#[test]
fn help_and_answers_are_as_checked_in() {
    trycmd::TestCases::new()
        .register_bin("tla", Path::new(env!("CARGO_BIN_EXE_tla")))
        .case("tests/cli/*.trycmd");
}

/// A whole session in one folder: a line that starts with `$ tla` is run, the lines
/// up to the next are its stdout, its stderr and its exit status if that is not 0.
#[test]
fn the_whole_path_is_as_in_the_transcript() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/session.txt");
    let expected = fs::read_to_string(&file).unwrap();
    let place = Place::new();
    let mut found = String::new();
    for command in expected.lines().filter_map(|line| line.strip_prefix("$ tla ")) {
        let done = place.run(command);
        found += &format!("$ tla {command}\n{}{}", done.stdout, done.stderr);
        match done.code {
            Some(0) => {}
            code => found += &format!("? {}\n", code.unwrap_or(-1)),
        }
    }
    if std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite") {
        fs::write(&file, &found).unwrap();
    }
    assert_eq!(found, expected);
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[track_caller]
fn has(value: &Value, expected: &[&str]) {
    let found = keys(value);
    for key in expected {
        assert!(found.contains(key), "{key} is not in {found:?}");
    }
}

#[test]
fn inspect_lists_every_module_in_json() {
    let place = Place::new();
    for model in ["model", "other", "model/model.onnx"] {
        let report = place.run(&format!("inspect {model} --json")).json(0);
        has(&report, &["base_digest", "targets", "skipped", "layers", "opset", "producer"]);
        let targets = report["targets"].as_array().unwrap();
        assert_eq!((targets.len(), &report["layers"]), (15, &json!(2)));
        has(&targets[0], &["layer", "role", "rows", "cols", "dtype", "node", "initializer"]);
        assert_eq!(report["skipped"], json!([]));
        let digest = report["base_digest"].as_str().unwrap();
        assert!(
            digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        );
    }
}

#[test]
fn show_names_every_field_of_the_header() {
    let place = Place::new();
    let report = place.run("--json show a.tla").json(0);
    has(&report, &["magic", "version", "scalar", "split", "tying", "rank", "projection", "width"]);
    has(&report, &["groups", "roles", "seed", "scale", "first_layer", "layers", "base_digest"]);
    has(&report, &["factors_digest", "v", "checksum", "bytes", "bound"]);
    assert_eq!((&report["bytes"], &report["bound"]), (&json!(154), &json!(true)));
    assert_eq!(report["v"].as_array().unwrap().len(), 13);
    assert_eq!(report["roles"], json!(["q", "k", "v", "o", "gate", "up", "down"]));
}

#[test]
fn packing_gives_the_same_file_everywhere_and_with_any_number_of_threads() {
    let place = Place::new();
    for threads in [1, 2, 3, 8] {
        let report = place
            .run(&format!("pack v.json --model model -o out.tla --threads {threads} --json"))
            .json(0);
        assert!(place.read("out.tla") == place.read("a.tla"), "{threads} threads");
        assert_eq!((&report["bytes"], &report["bound"]), (&json!(154), &json!(true)));
    }
}

#[test]
fn what_show_prints_packs_to_the_same_file() {
    let place = Place::new();
    let shown = place.run("show a.tla --json").json(0);
    let mut keys = shown.as_object().unwrap().clone();
    for derived in [
        "magic",
        "version",
        "base_digest",
        "factors_digest",
        "checksum",
        "bytes",
        "parameters",
        "bound",
    ] {
        keys.remove(derived).unwrap();
    }
    place.write("again.json", Value::Object(keys).to_string());
    let done = place.run("pack again.json --model model -o again.tla");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert!(place.read("again.tla") == place.read("a.tla"));
}

#[test]
fn an_adapter_without_a_model_is_unbound_and_everyone_says_so() {
    let place = Place::new();
    let packed = place.run("pack v.json -o free.tla");
    assert!(packed.stderr.contains("unbound") && packed.stdout.contains("unbound"));
    assert!(place.run("show free.tla").stdout.contains("unbound"));
    assert_eq!(place.run("show free.tla --json").json(0)["bound"], json!(false));
    let alone = place.run("verify free.tla");
    assert!(alone.code == Some(0) && alone.stderr.contains("unbound"));

    let report = place.run("verify free.tla --base model --json").json(1);
    let checks = report["checks"].as_array().unwrap();
    let oks: Vec<_> = checks.iter().map(|c| (c["name"].as_str().unwrap(), &c["ok"])).collect();
    assert_eq!(oks, [("file", &json!(true)), ("base", &json!(false)), ("rebuild", &json!(false))]);
    assert!(checks[1..].iter().all(|c| c["detail"].as_str().unwrap().contains("unbound")));

    let merged = place.run("merge model free.tla --unbound -o free.onnx");
    assert!(merged.code == Some(0) && merged.stderr.contains("unbound"));
    assert_eq!(place.run("merge model a.tla -o bound.onnx").code, Some(0));
    assert!(place.read("free.onnx") == place.read("bound.onnx"));
}

#[test]
fn what_merge_writes_verifies_and_one_changed_bit_does_not() {
    use prost::Message;
    use tla::model::proto::ModelProto;

    let place = Place::new();
    let report = place.run("merge model a.tla -o merged.onnx --json").json(0);
    has(&report, &["output", "survival", "modules"]);
    has(&report["modules"][0], &["layer", "role", "survival"]);
    assert_eq!(report["modules"].as_array().unwrap().len(), 14);
    assert!(report["survival"].as_f64().unwrap() > 0.99);

    let verify = "verify a.tla --base model --merged merged.onnx --json";
    let good = place.run(verify).json(0);
    assert_eq!((&good["valid"], good["checks"].as_array().unwrap().len()), (&json!(true), 4));
    let intact = place.read("merged.onnx");
    for name in ["onnx::MatMul_744", "model.norm.weight"] {
        let mut proto = ModelProto::decode(&intact[..]).unwrap();
        let mut tensors = proto.graph.as_mut().unwrap().initializer.iter_mut();
        let tensor = tensors.find(|t| t.name() == name).unwrap();
        let mut raw = tensor.raw_data.take().unwrap().to_vec();
        raw[20] ^= 1;
        tensor.raw_data = Some(raw.into());
        place.write("merged.onnx", proto.encode_to_vec());
        let bad = place.run(verify).json(1);
        assert_eq!(bad["valid"], json!(false));
        assert_eq!(
            (&bad["checks"][3]["name"], &bad["checks"][3]["ok"]),
            (&json!("merged"), &json!(false))
        );
        assert!(bad["checks"][3]["detail"].as_str().unwrap().contains(name), "{bad}");
    }
    let base = place.run("verify a.tla --base model --merged model --json").json(1);
    assert_eq!(base["checks"][3]["ok"], json!(false));
}

#[test]
fn a_folder_gets_the_model_and_what_belongs_beside_it() {
    let place = Place::new();
    fs::create_dir(place.path("there")).unwrap();
    place.write("there/notes.txt", "mine");
    fs::create_dir(place.path("taken")).unwrap();
    place.write("taken/config.json", "another's");
    place.write("model/secret.key", "not to be copied");
    for (out, more) in [("new/", 0), ("there", 1)] {
        assert_eq!(place.run(&format!("merge model a.tla -o {out}")).code, Some(0));
        let names: Vec<_> = fs::read_dir(place.path(out)).unwrap().collect();
        assert_eq!(names.len(), 6 + more, "{names:?}");
        for name in ["config.json", "tokenizer.json", "chat_template.jinja"] {
            let copy = place.read(&format!("{out}/{name}"));
            assert!(copy == place.read(&format!("model/{name}")), "{name}");
        }
        let verify = format!("verify a.tla --base model --merged {out}");
        assert_eq!(place.run(&verify).code, Some(0));
    }
    assert_eq!(place.read("there/notes.txt"), b"mine");
    assert_eq!(place.run("merge model a.tla -o taken/").code, Some(2));
    assert_eq!(place.read("taken/config.json"), b"another's");
}

#[test]
fn a_merge_that_loses_the_update_is_refused_unless_forced() {
    let place = Place::new();
    place.write("tiny.json", format!("{{\"v\": [{}]}}", ["1e-10"; 13].join(",")));
    assert_eq!(place.run("pack tiny.json --model model -o tiny.tla").code, Some(0));
    let before = place.contents();
    let refused = place.run("merge model tiny.tla -o out.onnx --json");
    let report = refused.json(1);
    assert_eq!(report["output"], Value::Null);
    assert!(report["survival"].as_f64().unwrap() < 0.5 && refused.stderr.contains("--force"));
    assert!(place.contents() == before);
    let forced = place.run("merge model tiny.tla -o out.onnx --force --json").json(0);
    assert_eq!(forced["output"], json!("out.onnx"));
    assert!(place.path("out.onnx").is_file());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    for args in [&["inspect", "model"][..], &["--help"], &["verify", "a.tla", "--json"]] {
        let mut command = place.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(0) && !stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn several_adapters_are_merged_with_their_weights() {
    let place = Place::new();
    let survival = |args: &str| {
        let done = place.run(args);
        assert_eq!(done.code, Some(0), "{args}: {}", done.stderr);
        serde_json::from_str::<Value>(&done.stdout).unwrap()["survival"].as_f64().unwrap()
    };
    survival("merge model a.tla -o once.onnx --json");
    survival("merge model a.tla:1 -o same.onnx --json");
    survival("merge model a.tla:0.75 a.tla:0.25 -o parts.onnx --json");
    assert!(place.read("once.onnx") == place.read("same.onnx"));
    assert_eq!(place.read("once.onnx").len(), place.read("parts.onnx").len());
    assert!(place.read("parts.onnx") != place.read("model/model.onnx"));
    assert_eq!(survival("merge model a.tla a.tla:-1 -o none.onnx --json"), 1.0);
    assert!(place.read("none.onnx") == place.read("model/model.onnx"));
    // A file that is named like an adapter and a weight is the file.
    place.write("a.tla:-1", place.read("a.tla"));
    survival("merge model a.tla:-1 -o named.onnx --json");
    assert!(place.read("named.onnx") == place.read("once.onnx"));
}

#[test]
fn every_adapter_of_a_merge_is_checked() {
    let place = Place::new();
    let packed = place.run("pack v.json --model other -o b.tla");
    assert_eq!(packed.code, Some(0), "{}", packed.stderr);
    place.refused("merge model a.tla b.tla -o out.onnx", &["b.tla was made for a model"]);
    place.refused("merge model a.tla b.tla:0 -o out.onnx", &["b.tla was made for a model"]);
    place.refused("merge model a.tla:two -o out.onnx", &["the weight of a.tla is \"two\""]);
    place.refused("merge model c.tla:2 -o out.onnx", &["c.tla", "does not exist"]);
    place.refused("merge model a.tla -o a.tla:1", &["ends neither"]);
}

#[cfg(unix)]
#[test]
fn a_merge_for_which_there_is_no_room_leaves_the_folder_as_it_was() {
    let place = Place::new();
    let size = place.read("model/model.onnx").len();
    let blocks = size / 512 / 2;
    let before = place.contents();
    let limited =
        format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" merge model a.tla -o out/");
    let done = std::process::Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_tla")])
        .current_dir(place.path("."))
        .output()
        .unwrap();
    let error = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{error}");
    assert!(error.contains("cannot write"), "{error}");
    assert!(place.contents() == before);
}

#[cfg(unix)]
#[test]
fn a_folder_that_takes_no_files_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::create_dir(place.path("closed")).unwrap();
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    // Permissions do not bind the superuser.
    if fs::write(place.path("closed/probe"), "").is_err() {
        place.refused("merge model a.tla -o closed/out.onnx", &["cannot write"]);
        place.refused("graft model a.tla -o closed/out.onnx", &["cannot write"]);
    }
}
