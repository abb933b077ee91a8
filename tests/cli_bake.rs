//! `tla bake`, the manifest that `verify` checks, `export`, `import` and `--module` from the outside.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use serde_json::{Value, json};
use std::{fs, path::Path};

fn fixture(place: &Place, name: &str, to: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports").join(name);
    fs::create_dir(place.path(to)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap();
        fs::copy(from.path(), place.path(to).join(from.file_name())).unwrap();
    }
}

fn manifest(place: &Place, folder: &str) -> Value {
    serde_json::from_slice(&place.read(&format!("{folder}/tla_manifest.json"))).unwrap()
}

#[test]
fn a_baked_folder_has_all_that_is_needed_and_a_manifest_that_holds() {
    let place = Place::new();
    let report = place.run("bake model a.tla -o out --json").json(0);
    assert_eq!((&report["output"], &report["method"]), (&json!("out"), &json!("merge")));
    assert!(report["survival"].as_f64().unwrap() > 0.99);
    assert_eq!(report["modules"].as_array().unwrap().len(), 14);
    let manifest = manifest(&place, "out");
    let names: Vec<_> =
        manifest["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in ["model.onnx", "tokenizer.json", "config.json", "chat_template.jinja"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(place.run("merge model a.tla -o merged.onnx").code, Some(0));
    assert!(place.read("merged.onnx") == place.read("out/model.onnx"));
    assert_eq!(place.run("verify a.tla --base model --merged out/model.onnx").code, Some(0));

    let verified = place.run("verify out --base model --json").json(0);
    assert_eq!(verified["valid"], json!(true));
    assert_eq!(verified["missing"], json!([]));
    let other = place.run("verify out --base other --json").json(1);
    assert_eq!(other["checks"][1]["refusal"], json!("other-base"));
}

#[test]
fn missing_extra_and_changed_files_are_told_apart() {
    let place = Place::new();
    assert_eq!(place.run("bake model a.tla -o out --graft").code, Some(0));
    assert_eq!(manifest(&place, "out")["method"], json!("graft"));
    fs::remove_file(place.path("out/tokenizer.json")).unwrap();
    place.write("out/notes.txt", "more");
    let mut model = place.read("out/model.onnx");
    *model.last_mut().unwrap() ^= 1;
    place.write("out/model.onnx", model);
    let found = place.run("verify out --json").json(1);
    assert_eq!(found["missing"], json!(["tokenizer.json"]));
    assert_eq!(found["extra"], json!(["notes.txt"]));
    assert_eq!(found["changed"], json!(["model.onnx"]));
    let told = place.run("verify out");
    for words in ["missing: tokenizer.json", "extra: notes.txt", "changed: model.onnx"] {
        assert!(told.stdout.contains(words), "{}", told.stdout);
    }
}

#[cfg(unix)]
#[test]
fn a_link_in_place_of_a_file_is_a_change() {
    let place = Place::new();
    assert_eq!(place.run("bake model a.tla -o out").code, Some(0));
    fs::rename(place.path("out/config.json"), place.path("elsewhere.json")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere.json"), place.path("out/config.json"))
        .unwrap();
    let found = place.run("verify out --json").json(1);
    assert_eq!(found["changed"], json!(["config.json"]));
}

#[test]
fn manifests_that_lie_about_their_folder_are_refused() {
    let place = Place::new();
    assert_eq!(place.run("bake model a.tla -o out").code, Some(0));
    let good = manifest(&place, "out");
    let with = |change: &dyn Fn(&mut Value), words: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        place.write("out/tla_manifest.json", bad.to_string());
        place.refused("verify out", words);
    };
    with(&|m| m["files"][0]["name"] = json!("../a.tla"), &["../a.tla"]);
    with(&|m| m["files"][0]["name"] = json!("/etc/passwd"), &["/etc/passwd"]);
    with(&|m| m["files"][0]["name"] = m["files"][1]["name"].clone(), &["twice"]);
    with(&|m| m["tla_manifest"] = json!(2), &["version"]);
    with(&|m| *m = json!([]), &["manifest"]);
    place.write("out/tla_manifest.json", "{");
    place.refused("verify out", &["manifest"]);
    fs::remove_file(place.path("out/tla_manifest.json")).unwrap();
    place.refused("verify out", &["tla_manifest.json"]);
}

#[test]
fn integers_are_grafted_or_baked_on_a_grid_of_their_own() {
    let place = Place::new();
    fixture(&place, "genai-int4-cpu/qwen2-tied", "int4");
    place.write("small.json", json!({"v": vec![0.01; 13]}).to_string());
    assert_eq!(place.run("pack small.json --model int4 -o b.tla").code, Some(0));
    let lost = place.run("bake int4 b.tla -o lost --json").json(1);
    assert_eq!(lost["output"], Value::Null);
    assert!(!place.path("lost").exists());
    let said = |args: &str| place.run(args).stderr;
    for args in ["bake int4 b.tla -o lost", "merge int4 b.tla -o lost/"] {
        let said = said(args);
        for words in ["`tla graft` or `tla bake --graft`", "`tla bake --requantise`", "--force"] {
            assert!(said.contains(words), "{args}: {said}");
        }
        assert!(!said.contains("larger update"), "{args}: integers end with their grid: {said}");
    }
    place.write("least.json", json!({"v": vec![1e-6; 13], "scalar": "f32"}).to_string());
    assert_eq!(place.run("pack least.json --model int4 -o least.tla").code, Some(0));
    let fitted = said("bake int4 least.tla -o lost --requantise");
    assert!(fitted.contains("--graft") && !fitted.contains("--requantise"), "{fitted}");
    let fitted = place.run("bake int4 b.tla -o fitted --requantise --force --json").json(0);
    assert_eq!(manifest(&place, "fitted")["requantised"], json!(true));
    assert!(fitted["survival"].as_f64() > lost["survival"].as_f64());
    assert_eq!(place.run("bake int4 b.tla -o grafted --graft").code, Some(0));
    for folder in ["fitted", "grafted"] {
        assert!(place.path(folder).join("genai_config.json").exists());
        assert!(place.path(folder).join("model.onnx.data").exists());
        assert_eq!(place.run(&format!("verify {folder}")).code, Some(0));
    }
}

#[test]
fn no_way_out_is_told_that_would_be_refused() {
    let place = Place::new();
    fixture(&place, "genai-int4-cpu/qwen2-tied", "int4");
    place.write("small.json", json!({"v": vec![0.01; 13]}).to_string());
    place.write("head.json", json!({"v": vec![0.01; 13], "roles": ["lm_head"]}).to_string());
    for name in ["small", "head"] {
        let done = place.run(&format!("pack {name}.json --model int4 -o {name}.tla"));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }
    // One adapter without a weight can be grafted, and nothing else.
    for adapters in ["small.tla:0.5", "small.tla small.tla:0.1"] {
        for command in ["merge", "bake"] {
            let said = place.run(&format!("{command} int4 {adapters} -o lost/")).stderr;
            let ways = said.contains("`tla bake --requantise`") && said.contains("--force");
            assert!(ways && !said.contains("graft"), "{command} {adapters}: {said}");
        }
    }
    // The scales of a tied head belong to the embedding too.
    for command in ["merge", "bake"] {
        let done = place.run(&format!("{command} int4 head.tla -o lost/"));
        assert_eq!(done.code, Some(1), "{command}: {}", done.stderr);
        let ways = done.stderr.contains("`tla graft`") && done.stderr.contains("--force");
        assert!(ways && !done.stderr.contains("requantise"), "{command}: {}", done.stderr);
    }
    place.refused("bake int4 head.tla -o lost --requantise", &["lm_head shares"]);
}

#[test]
fn a_small_update_of_floats_may_be_grafted_or_made_larger() {
    let place = Place::new();
    fixture(&place, "optimum-fp16/qwen2-tied", "half");
    place.write("least.json", json!({"v": vec![1e-6; 13], "scalar": "f32"}).to_string());
    assert_eq!(place.run("pack least.json --model half -o least.tla").code, Some(0));
    for args in ["merge half least.tla -o out/", "bake half least.tla -o out"] {
        let done = place.run(args);
        assert_eq!(done.code, Some(1), "{args}: {}", done.stderr);
        for words in ["`tla graft`", "train a larger update", "--force"] {
            assert!(done.stderr.contains(words), "{args}: {}", done.stderr);
        }
        assert!(!done.stderr.contains("--requantise"), "{args}: {}", done.stderr);
    }
}

#[test]
fn where_nothing_is_to_be_merged_that_is_said() {
    let place = Place::new();
    for args in ["merge model a.tla:0 -o out.onnx", "bake model a.tla:0 -o out"] {
        let done = place.run(args);
        assert_eq!(done.code, Some(0), "{args}: {}", done.stderr);
        assert!(done.stderr.contains("the update is zero"), "{args}: {}", done.stderr);
        assert!(done.stdout.contains("nothing was to be merged"), "{args}: {}", done.stdout);
        assert!(!done.stdout.contains("survives"), "{args}: {}", done.stdout);
    }
    assert!(!place.run("merge model a.tla -o out.onnx").stderr.contains("zero"));
}

#[test]
fn the_head_is_of_no_layer() {
    let place = Place::new();
    place.write("head.json", json!({"v": vec![0.5; 13], "roles": ["q", "lm_head"]}).to_string());
    assert_eq!(place.run("pack head.json --model other -o head.tla").code, Some(0));
    for args in ["inspect other", "inspect other --bases 2", "merge other head.tla -o out.onnx"] {
        let done = place.run(args);
        assert_eq!(done.code, Some(0), "{args}: {}", done.stderr);
        assert!(done.stdout.contains(" head  lm_head"), "{args}: {}", done.stdout);
        assert!(!done.stdout.contains("65535"), "{args}: {}", done.stdout);
    }
}

#[test]
fn what_cannot_be_baked_leaves_nothing() {
    let place = Place::new();
    place.refused("bake model a.tla -o model", &["exists"]);
    place.refused("bake other a.tla -o out", &["a.tla"]);
    place.refused("bake model a.tla:0.5 -o out --graft", &["one adapter"]);
    place.refused("bake model a.tla a.tla -o out --graft", &["one adapter"]);
    place.refused("bake model a.tla -o none/out", &["none"]);
    fixture(&place, "hf-qwen2-tied", "checkpoint");
    place.refused("bake checkpoint a.tla -o out --graft", &["no graph"]);
    assert_eq!(place.run("bake checkpoint a.tla -o baked").code, Some(0));
    assert_eq!(place.run("verify baked").code, Some(0));
}

#[test]
fn an_adapter_goes_to_peft_and_comes_from_it() {
    let place = Place::new();
    let report = place.run("export a.tla --to peft --model model -o lora --json").json(0);
    assert_eq!(report["modules"], json!(14));
    let config: Value = serde_json::from_slice(&place.read("lora/adapter_config.json")).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(2)));
    assert!(place.path("lora/adapter_model.safetensors").exists());
    place.refused("export a.tla --to peft --model model -o lora", &["exists"]);
    place.refused("export a.tla --to peft --model other -o more", &["a.tla"]);
    place.refused("import lora --model model -o b.tla", &["LORA"]);
    assert_eq!(place.run("export a.tla --to onnx-adapter -o v.onnx_adapter").code, Some(0));
    assert_eq!(place.read("v.onnx_adapter")[4..8], *b"TORT");

    fixture(&place, "peft/tinylora-fp32-projTrue", "peft");
    let imported = place.run("import peft --model model -o b.tla --json").json(0);
    assert_eq!((&imported["bytes"], &imported["parameters"]), (&json!(352), &json!(56)));
    assert!(imported["error"].as_f64().unwrap() < 1e-4);
    assert_eq!(place.run("verify b.tla --base model").code, Some(0));
    place.refused("import peft --model other -o c.tla", &["basis"]);
    place.refused("import peft --model model -o peft/adapter_config.json", &["input"]);
}

#[test]
fn names_of_the_users_own_lead_to_modules_and_those_that_lead_nowhere_are_refused() {
    let place = Place::new();
    fixture(&place, "hf-qwen2-tied", "checkpoint");
    let bytes = place.read("checkpoint/model.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let renamed = file.tensors().into_iter().map(|(name, tensor)| {
        (
            name.replace("model.layers.", "encoder.layer.")
                .replace("self_attn.q_proj", "att.query"),
            tensor,
        )
    });
    place.write("bert.safetensors", safetensors::serialize(renamed, None).unwrap());
    place.write("v.json", json!({"v": vec![0.5; 13], "roles": ["q"]}).to_string());
    place.refused("inspect bert.safetensors", &["--module"]);
    let named = "--module encoder.layer.{layer}.att.query=q";
    let report = place.run(&format!("inspect bert.safetensors {named} --json")).json(0);
    assert_eq!(report["targets"].as_array().unwrap().len(), 2);
    assert!(report["base_digest"].is_string());
    assert_eq!(
        place.run(&format!("pack v.json --model bert.safetensors {named} -o q.tla")).code,
        Some(0)
    );
    let verified = place.run(&format!("verify q.tla --base bert.safetensors {named}"));
    assert!(
        verified.code == Some(0) && verified.stdout.contains("roles q alone"),
        "{}",
        verified.stdout
    );
    let merged = format!("merge bert.safetensors q.tla {named} -o merged.safetensors");
    assert_eq!(place.run(&merged).code, Some(0));
    place.refused(&format!("inspect bert.safetensors {named} --module nothing=k"), &["nothing=k"]);
    for rule in ["q", "x=lm_head", "{layer}.{layer}=q"] {
        let done = place.run(&format!("inspect bert.safetensors --module {rule}"));
        assert_eq!(done.code, Some(2), "{rule}");
    }
}
