//! Folders that a changed model goes to: one that holds another model is left as it is, and what belongs
//! beside a model comes along whole.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use std::{fs, path::Path};

/// `from` and what is in it, as `to`.
fn copy(place: &Place, from: &str, to: &str) {
    fs::create_dir_all(place.path(to)).unwrap();
    for entry in fs::read_dir(place.path(from)).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        match entry.path().is_dir() {
            true => copy(place, &format!("{from}/{name}"), &format!("{to}/{name}")),
            false => drop(fs::copy(entry.path(), place.path(to).join(&name)).unwrap()),
        }
    }
}

/// An export of the fixtures, as `to`.
fn export(place: &Place, name: &str, to: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports").join(name);
    // What is joined to a folder and begins at the root is the whole path.
    copy(place, from.to_str().unwrap(), to);
}

/// The model in the layout of transformers.js.
fn as_transformers_js(place: &Place) {
    copy(place, "model", "js");
    fs::create_dir(place.path("js/onnx")).unwrap();
    fs::rename(place.path("js/model.onnx"), place.path("js/onnx/model.onnx")).unwrap();
}

#[test]
fn a_graph_that_readers_would_take_for_the_output_is_refused() {
    let place = Place::new();
    as_transformers_js(&place);
    // The output would lie in onnx/, and everybody takes what lies above it.
    fs::create_dir(place.path("plain")).unwrap();
    fs::copy(place.path("model/model.onnx"), place.path("plain/model.onnx")).unwrap();
    let words = ["plain/model.onnx is there already", "Choose another folder"];
    place.refused("merge js a.tla -o plain", &words);
    place.refused("graft js a.tla -o plain/", &words);
    // The other way round transformers.js takes what lies in onnx/.
    let words = ["js/onnx/model.onnx is there already", "Choose another folder"];
    place.refused("merge model a.tla -o js", &words);
}

#[test]
fn graphs_that_are_loaded_by_their_names_lie_beside_each_other() {
    let place = Place::new();
    let done = |args: &str| assert_eq!(place.run(args).code, Some(0), "{args}");
    done("merge model a.tla -o out/");
    done("graft model a.tla -o out/grafted.onnx");
    let grafted = place.read("out/grafted.onnx");
    done("merge model a.tla -o out/");
    assert!(place.read("out/grafted.onnx") == grafted);
    // What goes to onnx/ would be second to model.onnx.
    as_transformers_js(&place);
    done("merge js a.tla -o js.out/");
    fs::copy(place.path("js.out/onnx/model.onnx"), place.path("js.out/decoder.onnx")).unwrap();
    done("merge js a.tla -o js.out/");
    fs::rename(place.path("js.out/decoder.onnx"), place.path("js.out/Model.onnx")).unwrap();
    place.refused("merge js a.tla -o js.out/", &["js.out/Model.onnx is there already"]);
}

#[test]
fn files_of_the_same_model_that_were_edited_stay_and_are_named() {
    let place = Place::new();
    assert_eq!(place.run("merge model a.tla -o out/").code, Some(0));
    let config = String::from_utf8(place.read("out/config.json")).unwrap();
    let edited = config.replace("\"use_cache\": true", "\"use_cache\": false");
    assert!(edited != config);
    place.write("out/config.json", &edited);
    place.write("out/generation_config.json", "{\"temperature\": 0.5}");
    place.write("out/chat_template.jinja", "{{ messages }}");
    let before = place.read("out/generation_config.json");
    for command in ["merge", "graft"] {
        let done = place.run(&format!("{command} model a.tla -o out/"));
        let words =
            "out/: kept chat_template.jinja, config.json, generation_config.json, which the model";
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
    assert_eq!(place.read("out/config.json"), edited.as_bytes());
    assert_eq!(place.read("out/generation_config.json"), before);
    // What is as the model has it is not worth a word.
    for name in ["chat_template.jinja", "config.json", "generation_config.json"] {
        fs::remove_file(place.path("out").join(name)).unwrap();
    }
    assert_eq!(place.run("merge model a.tla -o out/").stderr, "");
    assert_eq!(place.read("out/config.json"), config.as_bytes());
}

#[test]
fn an_edited_configuration_of_genai_stays_if_it_names_the_same_graph() {
    let place = Place::new();
    export(&place, "genai-fp32-cpu/qwen2-tied", "genai");
    assert_eq!(place.run("merge genai a.tla -o out/ --unbound").code, Some(0));
    let config = String::from_utf8(place.read("out/genai_config.json")).unwrap();
    place.write("out/genai_config.json", config.replace("\"top_k\": 50", "\"top_k\": 5"));
    let done = place.run("merge genai a.tla -o out/");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("kept genai_config.json"), "{}", done.stderr);
    for (from, to) in
        [("model.onnx", "decoder.onnx"), ("\"vocab_size\": 256", "\"vocab_size\": 255")]
    {
        place.write("out/genai_config.json", config.replace(from, to));
        place.refused("merge genai a.tla -o out/", &["out/genai_config.json", "another model"]);
    }
}

#[test]
fn what_belongs_to_another_model_is_not_replaced_nor_kept() {
    let place = Place::new();
    let remedy =
        "belongs to another model, or to another export of it. Choose another folder, or empty";
    place.refused("merge model a.tla -o other", &["other/config.json", remedy]);
    place.refused("graft model a.tla -o other", &["other/config.json", remedy]);
    // Two models of one architecture and size.
    assert_eq!(place.run("merge model a.tla -o trained/").code, Some(0));
    place.write("trained/tokenizer.json", "{}");
    place.refused("merge model a.tla -o trained", &["trained/tokenizer.json", remedy]);
    // Of which model these are nothing says.
    fs::create_dir(place.path("bare")).unwrap();
    place.write("bare/tokenizer.json", "{}");
    place.refused("merge model a.tla -o bare", &["bare/tokenizer.json", remedy]);
    fs::create_dir(place.path("genai")).unwrap();
    place.write("genai/genai_config.json", "{}");
    place.refused("merge model a.tla -o genai", &["genai/genai_config.json", remedy]);
    assert_eq!(place.run("bake model a.tla -o baked").code, Some(0));
    let words =
        ["baked/tla_manifest.json", "true no longer. Choose another folder, or remove the file"];
    place.refused("merge model a.tla -o baked", &words);
    place.write("genai/genai_config.json", "{\"model\": 1}");
    place.write("model/genai_config.json", "{\"model\": 2}");
    place.refused("merge model a.tla -o genai", &["genai/genai_config.json", remedy]);
}

#[test]
fn a_graph_that_genai_is_told_of_keeps_its_name() {
    let place = Place::new();
    export(&place, "genai-fp32-cpu/qwen2-tied", "genai");
    let config = String::from_utf8(place.read("genai/genai_config.json")).unwrap();
    place.write("genai/genai_config.json", config.replace("model.onnx", "phi.onnx"));
    fs::rename(place.path("genai/model.onnx"), place.path("genai/phi.onnx")).unwrap();
    for args in [
        "bake genai/phi.onnx a.tla -o baked --unbound",
        "merge genai/phi.onnx a.tla -o merged/ --unbound",
        "graft genai/phi.onnx a.tla -o grafted/ --unbound",
    ] {
        let done = place.run(args);
        assert_eq!(done.code, Some(0), "{args}: {}", done.stderr);
        let out = args.split_whitespace().nth(4).unwrap();
        let there = |name: &str| place.path(out).join(name).exists();
        assert!(there("phi.onnx") && !there("model.onnx"), "{args}");
    }
}

#[test]
fn a_model_that_says_nothing_of_itself_takes_no_place_in_the_folder_of_one_that_does() {
    let place = Place::new();
    fs::create_dir(place.path("alone")).unwrap();
    fs::copy(place.path("model/model.onnx"), place.path("alone/model.onnx")).unwrap();
    place.refused("merge alone a.tla -o other", &["other/config.json", "another model"]);
}

#[test]
fn a_graph_beside_the_given_one_is_replaced_only_by_its_name() {
    let place = Place::new();
    fs::copy(place.path("model/model.onnx"), place.path("model/model_v2.onnx")).unwrap();
    let words = ["model/model.onnx is there already", "name it: -o model/model.onnx"];
    place.refused("merge model/model_v2.onnx a.tla -o model", &words);
    place.refused("graft model/model_v2.onnx a.tla -o model/", &words);
    assert_eq!(place.run("merge model/model_v2.onnx a.tla -o model/model.onnx").code, Some(0));
}

#[test]
fn a_folder_takes_its_own_output_again() {
    let place = Place::new();
    as_transformers_js(&place);
    export(&place, "genai-int4-cpu/qwen2-tied", "int4");
    assert_eq!(place.run("pack v.json --model int4 -o int4.tla").code, Some(0));
    for (model, adapter) in [("model", "a.tla"), ("js", "a.tla"), ("int4", "int4.tla")] {
        for command in ["merge", "graft", "merge"] {
            let force = if command == "merge" { "--force" } else { "" };
            let done = place.run(&format!("{command} {model} {adapter} -o {model}.out/ {force}"));
            assert_eq!(done.code, Some(0), "{command} {model}: {}", done.stderr);
        }
    }
    // Graphs of transformers.js lie beside each other, each under its name.
    fs::rename(place.path("js/onnx/model.onnx"), place.path("js/onnx/model_more.onnx")).unwrap();
    assert_eq!(place.run("merge js a.tla -o js.out").code, Some(0));
    let there = |name: &str| place.path("js.out/onnx").join(name).exists();
    assert!(there("model.onnx") && there("model_more.onnx"));
}

#[test]
fn every_kind_of_tokenizer_comes_along_and_is_known_as_one() {
    let place = Place::new();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::remove_file(place.path("model").join(name)).unwrap();
    }
    let tokenizers = ["vocab.txt", "spiece.model", "sentencepiece.bpe.model"];
    for (index, name) in tokenizers.into_iter().enumerate() {
        place.write(&format!("model/{name}"), name);
        place.write("model/preprocessor_config.json", "{}");
        let done = place.run(&format!("bake model a.tla -o out{index}"));
        assert!(done.code == Some(0) && !done.stderr.contains("no tokenizer"), "{}", done.stderr);
        assert_eq!(place.read(&format!("out{index}/{name}")), name.as_bytes());
        assert_eq!(place.read(&format!("out{index}/preprocessor_config.json")), b"{}");
        fs::remove_file(place.path("model").join(name)).unwrap();
    }
    assert!(place.run("bake model a.tla -o none").stderr.contains("no tokenizer"));
}

#[cfg(unix)]
#[test]
fn a_side_file_that_cannot_be_copied_is_named() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    fs::remove_file(place.path("model/config.json")).unwrap();
    symlink("nowhere.json", place.path("model/config.json")).unwrap();
    let words = ["model/config.json is a link to a file that does not exist", "Mend the link"];
    place.refused("bake model a.tla -o out", &words);
    place.refused("merge model a.tla -o out/", &words);
    place.refused("graft model a.tla -o out/", &words);
    assert_eq!(place.run("merge model a.tla -o out.onnx").code, Some(0), "nothing is beside it");
    fs::remove_file(place.path("model/config.json")).unwrap();
    fs::create_dir(place.path("model/config.json")).unwrap();
    place.refused("bake model a.tla -o out", &["model/config.json is not a regular file"]);
}
