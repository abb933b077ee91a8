//! The commands on safetensors checkpoints: what they answer, what they write, what they refuse.
#![cfg(feature = "cli")]

mod checkpoint;
mod cli;

use checkpoint::*;
use cli::Place;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// In the place: `st/` and `parts/`, qwen2-tied in fp32 as one file and as two, `bf/` in bf16 with
/// `bf.tla` for it, each with the side files of `model/`.
fn place() -> Place {
    let place = Place::new();
    for (folder, dtype) in [("st", Dtype::F32), ("parts", Dtype::F32), ("bf", Dtype::BF16)] {
        fs::create_dir(place.path(folder)).unwrap();
        for entry in fs::read_dir(place.path("model")).unwrap() {
            let from = entry.unwrap().path();
            if from.extension().is_none_or(|e| e != "onnx") {
                fs::copy(&from, place.path(folder).join(from.file_name().unwrap())).unwrap();
            }
        }
        let tensors = tensors("qwen2-tied", dtype);
        match folder {
            "parts" => write_sharded(&place.path(folder), &tensors),
            _ => write_single(&place.path(folder), &tensors),
        };
    }
    assert_eq!(place.run("pack v.json --model bf -o bf.tla").code, Some(0));
    place
}

fn names(folder: &Path) -> Vec<String> {
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
    all.sort();
    all
}

#[test]
fn inspect_lists_modules_and_the_digest_of_the_export() {
    let place = place();
    let export = place.run("inspect model --json").json(0);
    for model in ["st", "st/model.safetensors", "parts", "parts/model.safetensors.index.json"] {
        let report = place.run(&format!("inspect {model} --json")).json(0);
        assert_eq!(report["base_digest"], export["base_digest"], "{model}");
        assert_eq!(report["container"], json!("safetensors"));
        assert_eq!((&report["opset"], &report["producer"]), (&Value::Null, &Value::Null));
        let (targets, graph) = (&report["targets"], &export["targets"]);
        assert_eq!(targets.as_array().unwrap().len(), 14);
        for (target, node) in targets.as_array().unwrap().iter().zip(graph.as_array().unwrap()) {
            for key in ["layer", "role", "rows", "cols", "dtype"] {
                assert_eq!(target[key], node[key], "{key}");
            }
            assert_eq!(target["node"], Value::Null);
        }
    }
    assert_eq!(export["container"], json!("onnx"));
    let text = place.run("inspect bf").stdout;
    for line in [
        "layer  role       rows    cols  type      tensor\n",
        "    1  down         64     128  bfloat16  model.layers.1.mlp.down_proj.weight\n",
        "skipped lm_head.weight: the head's matrix is the embedding's and not stored again\n",
        "14 modules in 2 layers, 147456 bytes that can be adapted\n",
        "a safetensors checkpoint in 1 file\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(place.run("inspect parts").stdout.contains("a safetensors checkpoint in 2 files\n"));
}

#[test]
fn an_adapter_is_the_same_file_whichever_container_it_is_bound_to() {
    let place = place();
    for model in ["st", "parts"] {
        let packed = place.run(&format!("pack v.json --model {model} -o out.tla"));
        assert_eq!(packed.code, Some(0), "{}", packed.stderr);
        assert!(place.read("out.tla") == place.read("a.tla"));
        let report = place.run(&format!("verify a.tla --base {model} --json")).json(0);
        assert_eq!(report["valid"], json!(true));
    }
    let other = place.run("verify a.tla --base bf --json").json(1);
    assert_eq!(other["checks"][1]["ok"], json!(false));
}

#[test]
fn what_merge_writes_keeps_its_layout_and_verifies() {
    let place = place();
    for (model, adapter, out) in [
        ("st", "a.tla", "one.safetensors"),
        ("st/model.safetensors", "a.tla", "new/"),
        ("bf", "bf.tla", "half/"),
        ("parts", "a.tla", "two/"),
        ("parts/model.safetensors.index.json", "a.tla", "deep/../three/"),
    ] {
        fs::create_dir_all(place.path("deep")).unwrap();
        let report = place.run(&format!("merge {model} {adapter} -o {out} --json")).json(0);
        assert_eq!(report["output"], json!(out));
        assert_eq!(report["modules"].as_array().unwrap().len(), 14);
        assert!(report["survival"].as_f64().unwrap() > 0.9, "{report}");
        let verify = format!("verify {adapter} --base {model} --merged {out} --json");
        let valid = place.run(&verify).json(0);
        assert_eq!(valid["checks"][3]["ok"], json!(true));
    }
    assert!(place.read("one.safetensors") == place.read("new/model.safetensors"));
    assert_eq!(names(&place.path("new")), names(&place.path("st")));
    assert_eq!(names(&place.path("two")), names(&place.path("parts")));
    for name in ["model.safetensors.index.json", "config.json", "tokenizer.json"] {
        let from = place.read(&format!("parts/{name}"));
        assert!(from == place.read(&format!("two/{name}")) && !from.is_empty(), "{name}");
    }
    let files = ["one", "two/model-00001-of-00002", "two/model-00002-of-00002"];
    let [one, first, second] = files.map(|name| read(&place.path(&format!("{name}.safetensors"))));
    let mut both = [first, second].concat();
    both.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(one == both, "one file and two hold the same tensors");
}

#[test]
fn one_changed_bit_does_not_verify_and_is_named() {
    let place = place();
    assert_eq!(place.run("merge bf bf.tla -o out.safetensors").code, Some(0));
    let verify = "verify bf.tla --base bf --merged out.safetensors --json";
    let intact = read(&place.path("out.safetensors"));
    for name in ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"] {
        let mut tensors = intact.clone();
        tensors.iter_mut().find(|t| t.name == name).unwrap().bytes[20] ^= 1;
        place.write("out.safetensors", file(&tensors));
        let report = place.run(verify).json(1);
        let check = &report["checks"][3];
        assert_eq!((&check["name"], &check["ok"]), (&json!("merged"), &json!(false)));
        assert!(check["detail"].as_str().unwrap().contains(name), "{check}");
    }
    for (base, merged, word) in [("st", "model", "container"), ("model", "st", "container")] {
        let report = place.run(&format!("verify a.tla --base {base} --merged {merged} --json"));
        let check = report.json(1)["checks"][3].clone();
        assert!(check["detail"].as_str().unwrap().contains(word), "{check}");
    }
}

#[test]
fn the_merge_of_a_checkpoint_is_the_merge_of_its_export() {
    let place = place();
    assert_eq!(place.run("merge st a.tla -o out.safetensors").code, Some(0));
    assert_eq!(place.run("merge model a.tla -o out.onnx").code, Some(0));
    let digest =
        |model| place.run(&format!("inspect {model} --json")).json(0)["base_digest"].clone();
    assert_eq!(digest("out.safetensors"), digest("out.onnx"));
    assert_ne!(digest("out.safetensors"), digest("st"));
}

#[test]
fn a_merge_that_loses_the_update_writes_nothing_unless_forced() {
    let place = place();
    place.write("tiny.json", format!("{{\"v\": [{}]}}", ["1e-5"; 13].join(",")));
    assert_eq!(place.run("pack tiny.json --model bf -o tiny.tla").code, Some(0));
    for out in ["out.safetensors", "out/"] {
        let before = place.contents();
        let refused = place.run(&format!("merge bf tiny.tla -o {out} --json"));
        assert_eq!(refused.json(1)["output"], Value::Null);
        assert!(refused.stderr.contains("--force") && place.contents() == before);
        let forced = place.run(&format!("merge bf tiny.tla -o {out} --force --json")).json(0);
        assert_eq!(forced["output"], json!(out));
        assert_eq!(place.run(&format!("verify tiny.tla --base bf --merged {out}")).code, Some(0));
    }
}

#[test]
fn outputs_that_do_harm_or_mislead_are_refused() {
    let place = place();
    let input = "is an input of this command";
    place.refused("merge st a.tla -o st/model.safetensors", &[input]);
    place.refused("merge st a.tla -o st", &[input]);
    place.refused("merge parts a.tla -o st/../parts/", &[input]);
    place.refused(
        "merge st a.tla -o out.onnx",
        &["ends neither in .safetensors nor", "has the format"],
    );
    place.refused("merge model a.tla -o out.safetensors", &["ends neither in .onnx nor"]);
    place.refused("merge st a.tla -o out", &["ends neither in .safetensors nor"]);
    place.refused("merge parts a.tla -o out.safetensors", &["the checkpoint has 2", "a separator"]);
    place.refused("merge st a.tla -o no/out.safetensors", &["the folder of no/out.safetensors"]);
    place.refused("merge st a.tla -o no/such/", &["the folder of no/such/ does not exist"]);
    // What lies there already would be loaded first, or too.
    place.refused("merge st a.tla -o model", &["model.onnx is there already"]);
    place.refused("merge st a.tla -o parts", &["is there already"]);
    place.refused("merge parts a.tla -o st", &["model.safetensors is there already"]);
    assert_eq!(place.run("merge bf bf.tla -o st").code, Some(0));
}

#[test]
fn a_read_only_output_is_kept() {
    let place = place();
    fs::create_dir(place.path("out")).unwrap();
    for (name, args) in [
        ("out.safetensors", "merge st a.tla -o out.safetensors"),
        ("out/model.safetensors.index.json", "merge parts a.tla -o out"),
        ("out/model-00002-of-00002.safetensors", "merge parts a.tla -o out"),
        ("out/tokenizer.json", "merge parts a.tla -o out"),
    ] {
        place.write(name, "kept");
        let mut permissions = fs::metadata(place.path(name)).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(place.path(name), permissions).unwrap();
        place.refused(args, &[name, "is read-only"]);
        fs::remove_file(place.path(name)).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn places_where_nothing_can_be_written_are_errors() {
    let place = place();
    place.refused("merge st a.tla -o /proc/out.safetensors", &["cannot write /proc/out"]);
    place.refused("merge parts a.tla -o /proc/out/", &["cannot write /proc/out/"]);
}

#[test]
fn a_base_that_is_not_finite_is_refused_and_nothing_is_written() {
    let place = place();
    let mut tensors = tensors("qwen2-tied", Dtype::BF16);
    let last = tensors.iter_mut().find(|t| t.name.ends_with("1.mlp.down_proj.weight")).unwrap();
    last.bytes[..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    write_single(&place.path("bf"), &tensors);
    assert_eq!(place.run("pack v.json -o free.tla").code, Some(0));
    for out in ["out.safetensors", "out/"] {
        let merge = format!("merge bf free.tla --unbound -o {out}");
        place.refused(&merge, &["layers.1.down is NaN at row 0, column 0", "Use a base"]);
    }
    place.refused("pack v.json --model bf -o out.tla", &["NaN at row 0"]);
}

#[test]
fn broken_checkpoints_are_refused_by_every_command() {
    let place = place();
    let good = place.read("bf/model.safetensors");
    place.write("cut.safetensors", &good[..good.len() / 2]);
    place.write("text.safetensors", "This is a plain text file.\n");
    place.write("empty.safetensors", "");
    fs::create_dir(place.path("alone")).unwrap();
    fs::copy(
        place.path("parts/model.safetensors.index.json"),
        place.path("alone/model.safetensors.index.json"),
    )
    .unwrap();
    for (model, word) in [
        ("cut.safetensors", "cut short"),
        ("text.safetensors", "is not a safetensors file"),
        ("empty.safetensors", "is empty"),
        ("alone", "model-00001-of-00002.safetensors\", which does not exist"),
        ("nothing.safetensors", "does not exist"),
    ] {
        place.refused(&format!("inspect {model}"), &[word]);
        place.refused(&format!("pack v.json --model {model} -o out.tla"), &[word]);
        place.refused(&format!("verify bf.tla --base {model}"), &[word]);
        place.refused(&format!("verify bf.tla --base bf --merged {model}"), &[word]);
        place.refused(&format!("merge {model} bf.tla -o new/"), &[word]);
    }
}

#[cfg(feature = "train")]
#[test]
fn training_and_evaluation_ask_for_a_graph() {
    let place = place();
    place.write("data.jsonl", "{\"question\": \"1+1\", \"answer\": \"#### 2\"}\n");
    for model in ["st", "parts", "st/model.safetensors"] {
        let words = ["is a safetensors checkpoint", "no graph to run", "optimum-onnx"];
        place.refused(&format!("eval --model {model} --data data.jsonl"), &words);
        place.refused(&format!("train --model {model} --data data.jsonl -o out.tla"), &words);
    }
}

#[test]
fn inspect_flags_bases_that_only_our_arithmetic_finds() {
    let place = place();
    let mut tensors = tensors("qwen2-tied", Dtype::F32);
    let name = "model.layers.1.self_attn.q_proj.weight";
    let equal = tensors.iter_mut().find(|t| t.name == name).unwrap();
    let side = equal.shape[0];
    assert_eq!(equal.shape, [side, side]);
    // All singular values are 3.
    let values: Vec<f32> =
        (0..side * side).map(|k| if k % (side + 1) == 0 { 3.0 } else { 0.0 }).collect();
    *equal = stored(name, Dtype::F32, &[side, side], &values);
    write_single(&place.path("st"), &tensors);

    let asked = place.run("inspect st --json").json(0);
    assert!(asked.get("bases").is_none());
    let report = place.run("inspect st --bases 2 --json").json(0);
    let bases = report["bases"].as_array().unwrap();
    assert_eq!(bases.len(), 14);
    for line in bases {
        let flagged = line["layer"] == 1 && line["role"] == "q";
        assert_eq!(line["determined"], json!(!flagged), "{line}");
        assert_eq!(line["sigma"].as_array().unwrap().len(), 2);
        assert!(line["residual"].as_f64().unwrap() < 1e-9, "{line}");
    }
    let told = place.run("inspect st --bases 2").stdout;
    assert!(told.contains("layer 1 q: singular values differ by only"), "{told}");
    assert!(told.contains("determined by the weights in 13 of 14 modules"), "{told}");
    place.refused("inspect st --bases 0", &["the rank is 0"]);
    place.refused("inspect st --bases 65", &["the rank is 65"]);
}
