//! `tla bake` and `tla merge` of the layout of transformers.js: graphs in `onnx/`, all else above it.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// `js/` with what lies beside the plain Qwen2, and below it, in `onnx/`, these files of the exports; and
/// `b.tla`, which belongs to one of them.
fn place(files: &[(&str, &str)], of: &str) -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("js/onnx")).unwrap();
    for entry in fs::read_dir(place.path("model")).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().extension().is_some_and(|e| e != "onnx") {
            fs::copy(entry.path(), place.path("js").join(entry.file_name())).unwrap();
        }
    }
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports");
    for (from, name) in files {
        fs::copy(exports.join(from), place.path("js/onnx").join(name)).unwrap();
    }
    let packed = place.run(&format!("pack v.json --model {of} -o b.tla"));
    assert_eq!(packed.code, Some(0), "{}", packed.stderr);
    place
}

const HALF: (&str, &str) = ("transformers.js/model_fp16.onnx", "model_fp16.onnx");

const BLOCKS: [(&str, &str); 2] = [
    ("genai-int4-cpu/qwen2-tied/model.onnx", "model_q4.onnx"),
    ("genai-int4-cpu/qwen2-tied/model.onnx.data", "model.onnx.data"),
];

/// The files of a folder, but for the manifest, which names these.
fn files(place: &Place, folder: &str) -> Vec<String> {
    let manifest: Value =
        serde_json::from_slice(&place.read(&format!("{folder}/tla_manifest.json"))).unwrap();
    let files = manifest["files"].as_array().unwrap();
    files.iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_graph_of_a_folder_is_baked_to_its_place_below_the_tokenizer() {
    let place = place(&[HALF], "js");
    let beside = |folder: &str| {
        let entries = fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.path().is_file());
        files.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut expected = beside("js");
    expected.push("onnx/model_fp16.onnx".into());
    expected.sort();
    for (given, out, options) in [
        ("js", "folder", ""),
        ("js/onnx/model_fp16.onnx", "file", ""),
        ("js", "grafted", "--graft"),
    ] {
        let done = place.run(&format!("bake {given} b.tla -o {out} {options}"));
        assert_eq!((done.code, done.stderr.contains("no tokenizer")), (Some(0), false));
        assert_eq!(files(&place, out), expected);
        for name in beside("js") {
            assert_eq!(place.read(&format!("{out}/{name}")), place.read(&format!("js/{name}")));
        }
        assert_eq!(place.run(&format!("verify {out} --base js")).code, Some(0));
    }
    assert_eq!(place.read("folder/onnx/model_fp16.onnx"), place.read("file/onnx/model_fp16.onnx"));
    assert_eq!(place.run("verify b.tla --base js --merged folder").code, Some(0));
    // What was baked has the layout again; a merge into a folder keeps it too.
    assert_eq!(place.run("inspect folder").code, Some(0));
    assert_eq!(place.run("merge js b.tla -o merged/").code, Some(0));
    assert_eq!(
        place.read("merged/onnx/model_fp16.onnx"),
        place.read("folder/onnx/model_fp16.onnx")
    );
    assert_eq!(place.read("merged/tokenizer.json"), place.read("js/tokenizer.json"));
    fs::remove_file(place.path("folder/onnx/model_fp16.onnx")).unwrap();
    let found = place.run("verify folder --json").json(1);
    assert_eq!(found["missing"], json!(["onnx/model_fp16.onnx"]));
}

#[test]
fn of_several_graphs_one_must_be_named_and_brings_its_data_file_along() {
    let mut all = BLOCKS.to_vec();
    all.push(HALF);
    let place = place(&all, "js/onnx/model_q4.onnx");
    let words = ["js/onnx holds several models: model_fp16.onnx, model_q4.onnx", "Give the file"];
    place.refused("bake js b.tla -o out", &words);
    place.refused("inspect js", &words);
    let done = place.run("bake js/onnx/model_q4.onnx b.tla -o out --graft");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let names = files(&place, "out");
    let graphs: Vec<_> = names.iter().filter(|name| name.starts_with("onnx/")).collect();
    assert_eq!(graphs, ["onnx/model.onnx.data", "onnx/model_q4.onnx"]);
    assert!(names.iter().any(|name| name == "tokenizer.json"));
    assert_eq!(place.run("verify out --base js/onnx/model_q4.onnx").code, Some(0));
}

#[test]
fn what_fails_leaves_neither_folder() {
    let place = place(&BLOCKS, "js");
    // Nothing survives on the grid of four bits.
    place.write("small.json", json!({"v": vec![0.01; 13]}).to_string());
    assert_eq!(place.run("pack small.json --model js -o small.tla").code, Some(0));
    for out in ["out", "merged/"] {
        let command = if out == "out" { "bake" } else { "merge" };
        let lost = place.run(&format!("{command} js small.tla -o {out}"));
        assert_eq!((lost.code, place.path(out).exists()), (Some(1), false), "{}", lost.stderr);
    }
    // In a folder that was there, nothing new.
    fs::create_dir(place.path("there")).unwrap();
    assert_eq!(place.run("merge js small.tla -o there").code, Some(1));
    assert_eq!(fs::read_dir(place.path("there")).unwrap().count(), 0);
    place.write("there/onnx", "in the way");
    place.refused("merge js b.tla -o there --force", &["there/onnx"]);
    place.refused("merge js b.tla -o js --force", &["is an input of this command"]);
}

#[test]
fn a_folder_named_onnx_with_a_tokenizer_of_its_own_is_a_folder_like_any_other() {
    let place = place(&[HALF], "js");
    fs::copy(place.path("js/tokenizer.json"), place.path("js/onnx/tokenizer.json")).unwrap();
    assert_eq!(place.run("bake js/onnx/model_fp16.onnx b.tla -o out").code, Some(0));
    assert_eq!(files(&place, "out"), ["model.onnx", "tokenizer.json"]);
}

#[test]
fn a_model_without_a_tokenizer_is_baked_with_a_word_about_it() {
    let place = Place::new();
    assert!(!place.run("bake model a.tla -o with").stderr.contains("no tokenizer"));
    fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    let done = place.run("bake model a.tla -o without");
    assert_eq!(done.code, Some(0));
    assert!(
        done.stderr.contains("tla: model has no tokenizer, so without gets none"),
        "{}",
        done.stderr
    );
}
