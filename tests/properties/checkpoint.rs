//! A safetensors file that loads is filled by its tensors, and read as the format's own crate does.

use super::{
    Outcome,
    container::{named, summary},
};
use safetensors::SafeTensors;
use std::fs;
use tempfile::TempDir;
use tla::{
    format::ModuleId,
    model::{Checkpoint, Container, ModelError},
};

/// Bytes as they are; then what stands before the first zero byte as header and the rest as data.
pub fn safetensors(bytes: &[u8]) -> Vec<Outcome> {
    let zero = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (header, data) = (&bytes[..zero], bytes.get(zero + 1..).unwrap_or_default());
    let fitted = [&(zero as u64).to_le_bytes()[..], header, data].concat();
    [bytes, &fitted].into_iter().map(file).collect()
}

fn file(bytes: &[u8]) -> Outcome {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    let checkpoint = match Checkpoint::load(&path) {
        Ok(checkpoint) => checkpoint,
        Err(ModelError::Checkpoint(error)) => {
            let text = error.to_string();
            assert!(text.contains(". "), "a fact, then a remedy: {text}");
            let variant = format!("{error:?}");
            return variant.split([' ', '(', '{']).next().unwrap_or_default().into();
        }
        Err(error) => return named(&error),
    };
    let [shard] = checkpoint.shards() else { panic!("one file is one shard") };
    assert_eq!(shard.size(), bytes.len() as u64);
    let mut end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    for tensor in shard.tensors() {
        assert_eq!(tensor.offset, end);
        end = tensor.end();
    }
    assert_eq!(end, bytes.len() as u64);
    let reference = SafeTensors::deserialize(bytes);
    for tensor in checkpoint.tensors() {
        let stored = &bytes[tensor.offset as usize..tensor.end() as usize];
        let mut read = vec![0; stored.len()];
        checkpoint.reader(&tensor.name).unwrap().read(&mut read).unwrap();
        assert_eq!(read, stored);
        if let Ok(reference) = &reference {
            let view = reference.tensor(&tensor.name).unwrap();
            assert_eq!((view.shape(), view.data()), (&tensor.shape[..], stored));
        }
    }
    if let Ok(reference) = &reference {
        assert_eq!(reference.len(), checkpoint.tensors().count());
    }
    let targets = match checkpoint.targets() {
        Ok(targets) => targets,
        Err(error) => return named(&error),
    };
    assert!(targets.targets.is_sorted_by(|a, b| a.module < b.module));
    for target in &targets.targets {
        let in_a_layer = usize::from(target.module.layer) < targets.layers;
        assert!(in_a_layer || target.module == ModuleId::LM_HEAD);
        assert_eq!(checkpoint.weight(target).unwrap().dim(), (target.rows, target.cols));
    }
    summary(&checkpoint, &targets);
    "targets".into()
}
