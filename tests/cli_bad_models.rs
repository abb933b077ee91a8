//! Models that lie about themselves, and places with no room: merge, graft and bake refuse with a fact and a
//! remedy, and leave nothing behind.
#![cfg(feature = "cli")]

mod cli;

use cli::Place;
use prost::Message;
use std::fs;
use tla::model::proto::{
    GraphProto, ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation,
};

/// Writes the model with a change as `bad.onnx`.
fn spoil(place: &Place, change: impl FnOnce(&mut GraphProto)) {
    let mut proto = ModelProto::decode(&place.read("model/model.onnx")[..]).unwrap();
    change(proto.graph.as_mut().unwrap());
    place.write("bad.onnx", proto.encode_to_vec());
}

/// Whatever writes a model, and with `inspect` what reads it.
#[track_caller]
fn refused(place: &Place, words: &[&str]) {
    place.refused("inspect bad.onnx", words);
    not_written(place, words);
}

#[track_caller]
fn not_written(place: &Place, words: &[&str]) {
    place.refused("merge bad.onnx a.tla -o out.onnx", words);
    place.refused("merge bad.onnx a.tla -o out/", words);
    place.refused("bake bad.onnx a.tla -o out", words);
    not_grafted(place, words);
}

#[track_caller]
fn not_grafted(place: &Place, words: &[&str]) {
    place.refused("graft bad.onnx a.tla -o out.onnx", words);
    place.refused("bake bad.onnx a.tla -o out --graft", words);
}

fn weight(graph: &mut GraphProto) -> &mut TensorProto {
    graph.initializer.iter_mut().find(|t| t.name() == "onnx::MatMul_744").unwrap()
}

/// Puts the weight into a data file, as these entries say.
fn outside(graph: &mut GraphProto, entries: [(&str, &str); 3]) -> Vec<u8> {
    let tensor = weight(graph);
    tensor.data_location = Some(DataLocation::External as i32);
    let entry = |(key, value): (&str, &str)| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    tensor.external_data = entries.map(entry).into();
    tensor.raw_data.take().unwrap().into()
}

#[test]
fn data_outside_the_folder_or_beyond_their_file_are_refused() {
    let place = Place::new();
    place.write("elsewhere.bin", "a secret");
    let absolute = place.path("model/weight.bin").display().to_string();
    for (location, offset, length, words) in [
        ("../weight.bin", "0", "16384", "outside"),
        (&absolute, "0", "16384", "outside"),
        ("weight.bin", "4", "16384", "16384"),
        ("weight.bin", "18446744073709551615", "16384", "16384"),
        ("weight.bin", "0", "16388", "16388"),
        ("weight.bin", "0", "18446744073709551615", "18446744073709551615"),
        ("weight.bin", "-1", "16384", "-1"),
    ] {
        let entries = [("location", location), ("offset", offset), ("length", length)];
        let mut bytes = Vec::new();
        spoil(&place, |graph| bytes = outside(graph, entries));
        place.write("weight.bin", bytes);
        refused(&place, &["onnx::MatMul_744", words]);
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_data_outside_the_folder_is_refused() {
    let place = Place::new();
    let entries = [("location", "link.bin"), ("offset", "0"), ("length", "16384")];
    let mut bytes = Vec::new();
    spoil(&place, |graph| bytes = outside(graph, entries));
    fs::rename(place.path("bad.onnx"), place.path("other/bad.onnx")).unwrap();
    place.write("weight.bin", bytes);
    std::os::unix::fs::symlink("../weight.bin", place.path("other/link.bin")).unwrap();
    place.refused("merge other/bad.onnx a.tla -o out.onnx", &["onnx::MatMul_744", "outside"]);
    place.refused("bake other/bad.onnx a.tla -o out", &["onnx::MatMul_744", "outside"]);
}

#[test]
fn shapes_that_overflow_and_names_that_are_taken_are_refused() {
    let place = Place::new();
    for dims in [&[1i64 << 32, 1 << 32][..], &[i64::MAX, i64::MAX], &[-64, -64]] {
        spoil(&place, |graph| weight(graph).dims = dims.into());
        refused(&place, &["onnx::MatMul_744", "shape"]);
    }
    spoil(&place, |graph| {
        let again = weight(graph).clone();
        graph.initializer.push(again);
    });
    refused(&place, &["onnx::MatMul_744"]);
    spoil(&place, |graph| graph.node[1].output[0] = graph.node[0].output[0].clone());
    refused(&place, &["twice"]);
}

#[test]
fn a_graph_that_leads_round_is_not_written() {
    let place = Place::new();
    // A product reads what is made of it.
    let words = ["leads round", "q_proj/MatMul", "logits", "export it again"];
    spoil(&place, |graph| {
        let is_first = |name: &str| name == "/model/layers.0/self_attn/q_proj/MatMul";
        let first = graph.node.iter().position(|n| is_first(n.name())).unwrap();
        graph.node[first].input[0] = "logits".into();
    });
    refused(&place, &words);
    // Weights behind Identities that lead round.
    spoil(&place, |graph| {
        let name = |name: &str, of: &str| tla::model::node::node("Identity", name, &[of], &[name]);
        graph.node.splice(0..0, [name("one", "two"), name("two", "one")]);
        let is_first = |name: &str| name == "/model/layers.0/self_attn/q_proj/MatMul";
        let first = graph.node.iter_mut().find(|n| is_first(n.name())).unwrap();
        first.input[1] = "one".into();
    });
    refused(&place, &["leads round", "export it again"]);
}

#[test]
fn nodes_in_another_order_than_they_compute_are_told_in_words_for_a_user() {
    let place = Place::new();
    spoil(&place, |graph| graph.node.rotate_left(1));
    assert_eq!(place.run("inspect bad.onnx").code, Some(0));
    not_grafted(&place, &["are not in the order in which they compute", "Sort them topologically"]);
    // What nobody makes no order helps.
    spoil(&place, |graph| graph.node[0].input[0] = "nobody's".into());
    not_grafted(&place, &["nobody's", "export the model again"]);
}

#[test]
fn a_merge_that_adds_no_nodes_needs_none_in_order() {
    let place = Place::new();
    assert_eq!(place.run("merge model a.tla -o sorted.onnx").code, Some(0));
    spoil(&place, |graph| graph.node.rotate_left(1));
    assert_eq!(place.run("merge bad.onnx a.tla -o out.onnx").code, Some(0));
    let [mut sorted, out] =
        ["sorted.onnx", "out.onnx"].map(|name| ModelProto::decode(&place.read(name)[..]).unwrap());
    sorted.graph.as_mut().unwrap().node.rotate_left(1);
    assert!(sorted == out);
}

#[test]
fn a_value_with_the_name_of_the_input_of_a_graft_can_be_renamed() {
    let place = Place::new();
    spoil(&place, |graph| {
        let old = std::mem::replace(&mut graph.node[0].output[0], "tla_v".into());
        let readers = graph.node.iter_mut().flat_map(|node| &mut node.input);
        readers.filter(|input| **input == old).for_each(|input| *input = "tla_v".into());
    });
    not_grafted(
        &place,
        &["a value named \"tla_v\"", "Rename it in the model", "merge the adapter"],
    );
    assert_eq!(place.run("merge bad.onnx a.tla -o out.onnx").code, Some(0));
}

#[test]
fn a_model_that_is_cut_is_refused() {
    let place = Place::new();
    let bytes = place.read("model/model.onnx");
    for end in [1, 100, bytes.len() / 2, bytes.len() - 1] {
        place.write("bad.onnx", &bytes[..end]);
        refused(&place, &["bad.onnx"]);
    }
}

/// `tla` where no file may have more than so many blocks of 512 bytes, as on a disk that is full.
#[cfg(unix)]
fn with_room(place: &Place, blocks: usize, args: &str) -> cli::Done {
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let tla = env!("CARGO_BIN_EXE_tla");
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &limited, "sh", tla]).args(args.split_whitespace());
    command.current_dir(place.path("")).env_clear().env("ORT_DYLIB_PATH", "/there/is/none.so");
    command.output().unwrap().into()
}

#[cfg(unix)]
#[test]
fn where_the_disk_is_full_nothing_is_left_half_written() {
    let place = Place::new();
    let exports = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/exports");
    for (from, to) in [("genai-fp32-cpu/qwen2-tied", "data"), ("hf-qwen2-tied", "checkpoint")] {
        fs::create_dir(place.path(to)).unwrap();
        for entry in fs::read_dir(exports.join(from)).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(entry.path(), place.path(to).join(entry.file_name())).unwrap();
        }
    }
    assert_eq!(place.run("graft model a.tla -o there/").code, Some(0));
    let lora = "export a.tla --to peft --model model -o lora";
    let all = [
        // With room for tokenizer and graph, not for the weights.
        (100, "merge model a.tla -o out.onnx"),
        (100, "merge model a.tla -o out/"),
        (100, "merge model a.tla -o there/"),
        (100, "merge data a.tla -o out/"),
        (100, "merge checkpoint a.tla -o out.safetensors"),
        (100, "graft model a.tla -o out.onnx"),
        (100, "bake model a.tla -o out"),
        (100, "bake data a.tla -o out --graft"),
        (100, "bake checkpoint a.tla -o out"),
        (4, lora),
        (4, "bake model a.tla -o out"),
        (0, "pack v.json --model model -o out.tla"),
        (0, "export a.tla --to onnx-adapter -o v.onnx_adapter"),
    ];
    let before = place.contents();
    for (blocks, args) in all {
        let done = with_room(&place, blocks, args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args}: {}", done.stderr);
        let error = done.stderr.lines().last().unwrap_or_default();
        assert!(error.starts_with("tla: cannot write "), "{args}: {error}");
        assert!(!error.contains(".tla-") && !error.contains("Check that"), "{args}: {error}");
        assert!(place.contents() == before, "{args} changed the folder");
    }
    // With room for all of it the same commands succeed.
    for (_, args) in all.iter().filter(|(_, args)| !args.contains("-o out/")) {
        let done = with_room(&place, 4096, args);
        assert_eq!(done.code, Some(0), "{args}: {}", done.stderr);
        for made in ["out", "lora"].map(|name| place.path(name)) {
            let _ = fs::remove_dir_all(made);
        }
    }
}
