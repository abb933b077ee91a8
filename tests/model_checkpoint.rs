//! Which tensor of a safetensors checkpoint is which module, and that its base digest is that of
//! its fp32 export.
#![cfg(feature = "std")]

mod checkpoint;

use checkpoint::*;
use std::{fs, path::Path};
use tempfile::TempDir;
use tla::{
    format::{ModuleId, Role},
    model::{Checkpoint, Container, Kind, Model, ModelError, OnnxModel, base_digest, summarize},
};

fn digest(model: &dyn Container) -> [u8; 32] {
    base_digest(model, &model.targets().unwrap()).unwrap()
}

fn single(tensors: &[Stored]) -> (TempDir, Checkpoint) {
    let folder = TempDir::new().unwrap();
    let path = write_single(folder.path(), tensors);
    (folder, Checkpoint::load(&path).unwrap())
}

#[test]
fn a_checkpoint_in_one_file_or_several_has_the_digest_of_its_fp32_export() {
    for name in FIXTURES {
        for dtype in FLOATS {
            let export = digest(&onnx_of(name, dtype));
            let tensors = tensors(name, dtype);
            assert_eq!(digest(&single(&tensors).1), export, "{name} {dtype:?}");
            let folder = TempDir::new().unwrap();
            write_sharded(folder.path(), &tensors);
            let sharded = load(folder.path()).unwrap();
            assert_eq!(sharded.shards().len(), 2);
            assert_eq!(digest(&sharded), export, "{name} {dtype:?} sharded");
        }
        assert_eq!(digest(&onnx_of(name, Dtype::F32)), digest(&onnx(name)));
        assert_ne!(digest(&onnx_of(name, Dtype::BF16)), digest(&onnx(name)));
    }
}

#[test]
fn modules_shapes_and_weights_are_those_of_the_export() {
    for name in FIXTURES {
        let (export, (_folder, checkpoint)) = (onnx(name), single(&tensors(name, Dtype::F32)));
        let (expected, found) = (export.targets().unwrap(), checkpoint.targets().unwrap());
        assert_eq!(found.layers, expected.layers);
        // A graph's head is adapted in any case, a checkpoint's where it has its own.
        assert_eq!(expected.targets.len(), 15);
        let head = found.get(ModuleId::LM_HEAD);
        assert_eq!(head.map(|t| (t.rows, t.cols)), (name == "llama-untied").then_some((256, 64)));
        assert_eq!(found.targets.len(), 14 + usize::from(head.is_some()));
        for b in &found.targets {
            let a = expected.get(b.module).unwrap();
            assert_eq!((a.module, a.rows, a.cols, a.dtype), (b.module, b.rows, b.cols, b.dtype));
            assert_eq!(export.weight(a).unwrap(), checkpoint.weight(b).unwrap());
            assert_eq!(export.module_digest(a).unwrap(), checkpoint.module_digest(b).unwrap());
            assert!(b.node.is_none() && !b.shared && !b.stored_transposed);
        }
        let down = found.get(ModuleId { layer: 1, role: Role::Down }).unwrap();
        assert_eq!(down.initializer, "model.layers.1.mlp.down_proj.weight");
    }
}

#[test]
fn a_head_that_is_the_embeddings_is_skipped_and_said_to_be() {
    for (name, tied) in [("qwen2-tied", true), ("llama-untied", false)] {
        let skipped = single(&tensors(name, Dtype::BF16)).1.targets().unwrap().skipped;
        assert_eq!(skipped.len(), usize::from(tied), "{skipped:?}");
        for skipped in skipped {
            assert_eq!(skipped.name, "lm_head.weight");
            assert!(skipped.reason.contains("embedding"), "{skipped:?}");
        }
    }
}

#[test]
fn matrices_that_cannot_be_adapted_are_listed_with_the_reason() {
    let mut all = tensors("qwen2-tied", Dtype::BF16);
    let q = "model.layers.0.self_attn.q_proj.weight";
    let place = all.iter().position(|t| t.name == q).unwrap();
    let matrix = |name: &str| Stored { name: name.into(), ..all[place].clone() };
    let more = [
        matrix("model.layers.2.self_attn.qkv_proj.weight"),
        matrix("model.layers.0.mlp.experts.3.up_proj.weight"),
        matrix("model.layers.1.mlp.up_proj.qweight"),
        matrix("vision.layers.0.self_attn.q_proj.weight"),
    ];
    let reason = |tensors: &[Stored], name: &str| {
        let skipped = single(tensors).1.targets().unwrap().skipped;
        skipped.into_iter().find(|s| s.name == name).map(|s| s.reason)
    };
    all.extend(more);
    for (name, word) in [
        ("model.layers.2.self_attn.qkv_proj.weight", "packed"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "its role is unknown"),
        ("model.layers.1.mlp.up_proj.qweight", "quantised"),
        ("vision.layers.0.self_attn.q_proj.weight", "its role is unknown"),
    ] {
        assert!(reason(&all, name).unwrap().contains(word), "{name}");
    }
    for name in ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.bias"] {
        assert_eq!(reason(&all, name), None);
    }
    for (dtype, bytes, shape, word) in [
        (Dtype::I8, 64 * 64, vec![64, 64], "I8"),
        (Dtype::F64, 64 * 64 * 8, vec![64, 64], "F64"),
        (Dtype::F8_E4M3, 64 * 64, vec![64, 64], "F8_E4M3"),
        (Dtype::BF16, 64 * 64 * 2, vec![64, 8, 8], "[64, 8, 8]"),
        (Dtype::BF16, 0, vec![0, 64], "empty"),
    ] {
        all[place] = Stored { name: q.into(), dtype, shape, bytes: vec![0; bytes] };
        assert!(reason(&all, q).unwrap().contains(word), "{word}");
        assert!(reason(&all, "layers.0").unwrap().contains("for q;"));
        let (_folder, checkpoint) = single(&all);
        let targets = checkpoint.targets().unwrap();
        let refused = base_digest(&checkpoint, &targets).unwrap_err();
        assert!(matches!(refused, ModelError::NoDigest { module } if module.role == Role::Q));
        assert_eq!(summarize(&checkpoint, &targets).unwrap().base_digest, None);
    }
}

#[test]
fn the_summary_counts_stored_bytes_and_files() {
    let (_folder, checkpoint) = single(&tensors("qwen2-tied", Dtype::BF16));
    let summary = summarize(&checkpoint, &checkpoint.targets().unwrap()).unwrap();
    assert_eq!(summary.adaptable_bytes, 294912 / 2);
    assert_eq!(summary.kind, Kind::Safetensors { files: 1 });
    assert!(summary.targets.iter().all(|t| t.dtype == "bfloat16" && t.node.is_none()));
}

#[test]
fn a_folder_is_its_graph_then_its_one_file_then_its_index() {
    let folder = TempDir::new().unwrap();
    let tensors = tensors("qwen2-tied", Dtype::BF16);
    let kind = || Model::load(folder.path()).unwrap().container().kind();
    write_sharded(folder.path(), &tensors);
    assert_eq!(kind(), Kind::Safetensors { files: 2 });
    write_single(folder.path(), &tensors);
    assert_eq!(kind(), Kind::Safetensors { files: 1 });
    fs::copy(&onnx("qwen2-tied").path, folder.path().join("model.onnx")).unwrap();
    assert!(matches!(kind(), Kind::Onnx { .. }));
    let index = folder.path().join("model.safetensors.index.json");
    assert_eq!(Checkpoint::load(&index).unwrap().files().len(), 3);
}

#[test]
fn a_checkpoint_where_a_graph_is_needed_is_refused_with_a_remedy() {
    let folder = TempDir::new().unwrap();
    let file = write_single(folder.path(), &tensors("qwen2-tied", Dtype::BF16));
    for path in [folder.path(), &file] {
        let refused = OnnxModel::load(path).unwrap_err();
        assert!(matches!(refused, ModelError::NoGraph { .. }), "{refused}");
        assert!(refused.to_string().contains("optimum-onnx"), "{refused}");
    }
}

/// The cache of the hub keeps files under their digests and links to them from snapshots.
#[cfg(unix)]
#[test]
fn links_into_the_blobs_of_a_hub_cache_are_followed_and_no_others() {
    use std::os::unix::fs::symlink;
    let root = TempDir::new().unwrap();
    let linked = |repository: &str, snapshots: &str, blobs: &str| {
        let home = root.path().join(repository);
        let snapshot = home.join(snapshots).join("0123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(home.join(blobs)).unwrap();
        write_sharded(&snapshot, &tensors("qwen2-tied", Dtype::F16));
        for n in 1..3 {
            let file = snapshot.join(format!("model-0000{n}-of-00002.safetensors"));
            fs::rename(&file, home.join(blobs).join(format!("b{n}"))).unwrap();
            symlink(Path::new("../..").join(blobs).join(format!("b{n}")), &file).unwrap();
        }
        load(&snapshot)
    };
    assert!(linked("models--a--b", "snapshots", "blobs").is_ok());
    for (repository, snapshots, blobs) in [
        ("a", "snapshots", "blobs"),
        ("models--c", "revisions", "blobs"),
        ("models--d", "snapshots", "private"),
    ] {
        let refused = linked(repository, snapshots, blobs).unwrap_err().to_string();
        assert!(refused.contains("not a .safetensors file inside its folder"), "{refused}");
    }
}
