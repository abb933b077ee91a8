//! A model that loads can be used to the end: its targets are readable, it is written as it was,
//! and merging into one matrix touches that matrix alone.

use super::Outcome;
use ndarray::Array2;
use prost::Message;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId, RoleSet},
    model::{
        Container, ElementType, ModelError, OnnxModel, Target, Targets, find_targets,
        proto::ModelProto, stage_model, summarize, write_model,
    },
    projection::Factors,
    surgery::{Addend, OnnxMerge, SurgeryError, verify_merged},
};

/// What lies beside the model, for external data to name.
const DATA: (&str, [u8; 64]) = ("data", [0x3e; 64]);

/// A model file.
pub fn onnx(bytes: &[u8]) -> Vec<Outcome> {
    // Most mutations end here; they need no folder.
    if let Err(error) = ModelProto::decode(bytes) {
        assert!(!error.to_string().is_empty());
        return vec!["not protobuf".into()];
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).unwrap();
    fs::write(folder.path().join(DATA.0), DATA.1).unwrap();
    let model = match OnnxModel::load(&path) {
        Ok(model) => model,
        Err(error) => return vec![named(&error)],
    };
    tensors(&model);
    written_as_it_was(&model, folder.path());
    let targets = match find_targets(&model) {
        Ok(targets) => targets,
        Err(error) => {
            use ModelError::{ClaimedTwice, LeadsRound, NothingToAdapt};
            let expected =
                matches!(error, ClaimedTwice { .. } | LeadsRound { .. } | NothingToAdapt { .. });
            assert!(expected, "{error}");
            return vec![named(&error)];
        }
    };
    readable(&model, &targets);
    summary(&model, &targets);
    vec!["targets".into(), merged(&model, &targets, folder.path())]
}

pub(super) fn named(error: &ModelError) -> Outcome {
    let text = error.to_string();
    assert!(text.contains(". "), "a fact, then a remedy: {text}");
    let variant = format!("{error:?}");
    variant.split([' ', '(', '{']).next().unwrap_or_default().into()
}

/// Whatever has bytes has as many as its shape asks for.
fn tensors(model: &OnnxModel) {
    for tensor in &model.graph().initializer {
        if let Ok(values) = model.tensor_f32(tensor) {
            let shape: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
            assert_eq!(values.shape(), shape);
            let (bytes, count) = (model.tensor_bytes(tensor).unwrap().len(), values.len());
            assert!(bytes == 4 * count || bytes == 2 * count);
        }
    }
}

fn written_as_it_was(model: &OnnxModel, folder: &Path) {
    let out = folder.join("out.onnx");
    let stored = fs::read(&model.path).unwrap();
    assert_eq!(write_model(model, &model.proto, &out).unwrap(), stored.len() as u64);
    assert!(fs::read(&out).unwrap() == stored);
    let again = OnnxModel::load(&out).unwrap();
    assert!(again.proto.encode_to_vec() == model.proto.encode_to_vec());
    let refused = write_model(model, &model.proto, &model.path);
    assert!(matches!(refused, Err(ModelError::WouldOverwriteInput { .. })));
}

fn readable(model: &OnnxModel, targets: &Targets) {
    assert!(!targets.targets.is_empty());
    assert!(targets.targets.is_sorted_by(|a, b| a.module < b.module));
    for target in &targets.targets {
        let Target { module, rows, cols, .. } = *target;
        let head = module == ModuleId::LM_HEAD;
        assert!(head || usize::from(module.layer) < targets.layers);
        let site = target.node.as_ref().unwrap();
        let node = &model.graph().node[site.index];
        assert_eq!((node.name(), node.op_type()), (site.name.as_str(), "MatMul"));
        assert!(node.input.len() > site.weight_slot);
        assert!(rows > 0 && cols > 0);
        assert_eq!(model.weight(target).unwrap().dim(), (rows, cols));
    }
}

pub(super) fn summary(model: &dyn Container, targets: &Targets) {
    let summary = summarize(model, targets).unwrap();
    // Sorted and each at most once, so the count tells whether all are there.
    let linear = targets.targets.iter().filter(|t| RoleSet::LINEAR.contains(t.module.role));
    assert_eq!(summary.base_digest.is_some(), linear.count() == 7 * targets.layers);
    assert_eq!(summary.targets.len(), targets.targets.len());
    let size = |dtype| if dtype == ElementType::F32 { 4 } else { 2 };
    let bytes: usize = targets.targets.iter().map(|t| size(t.dtype) * t.rows * t.cols).sum();
    assert_eq!(summary.adaptable_bytes, bytes as u64);
}

/// The merged model in a file; nothing else is new in the folder.
fn written(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    folder: &Path,
) -> Result<PathBuf, SurgeryError> {
    let files = || fs::read_dir(folder).unwrap().count();
    let (out, before) = (folder.join("merged.onnx"), files());
    let mut merge = OnnxMerge::new(model, targets, &[Addend::whole(header, factors)], 1)?;
    let proto = merge.proto().clone();
    let staged = stage_model(model, &proto, &out, &mut merge);
    if staged.is_err() {
        assert_eq!(files(), before);
    }
    staged?.1.place()?;
    Ok(out)
}

/// Merges an update of rank 1 into the first module.
fn merged(model: &OnnxModel, targets: &Targets, folder: &Path) -> Outcome {
    let target = &targets.targets[0];
    let (module, dim) = (target.module, (target.rows, target.cols));
    let head = module == ModuleId::LM_HEAD;
    let header = Header {
        roles: RoleSet::from_roles([module.role]).unwrap(),
        first_layer: if head { 0 } else { module.layer },
        layers: u16::from(!head),
        rank: 1,
        width: 1,
        ..Header::default()
    };
    let mut l = Array2::zeros((dim.0, 1));
    l[[0, 0]] = 0.5;
    let factors = [Factors { module, l, v: Array2::ones((dim.1, 1)) }];
    let merged = match written(model, targets, &header, &factors, folder) {
        Ok(path) => OnnxModel::load(&path).unwrap(),
        Err(SurgeryError::Patch(error)) => return format!("patch: {}", first_word(&error)),
        Err(SurgeryError::NotFinite { row, col, value, .. }) => {
            let w = model.weight(target).unwrap()[[row, col]];
            assert!(!value.is_finite() && (!w.is_finite() || w.abs() > 1e38));
            return "not finite".into();
        }
        Err(error @ SurgeryError::OldIr { .. }) => {
            assert!(target.shared && model.proto.ir_version() < 4);
            return first_word(&error);
        }
        Err(SurgeryError::Model(ModelError::WouldLose { .. })) => {
            let old = model.initializer(&target.initializer).unwrap();
            assert!(target.shared || old.raw_data.is_none());
            return "would lose".into();
        }
        // Nodes cannot be put into it: a value is made twice, or after it is read.
        Err(SurgeryError::Model(
            error @ (ModelError::Disorder { .. } | ModelError::DuplicateName { .. }),
        )) => {
            assert!(target.shared);
            return named(&error);
        }
        Err(error) => panic!("{error}"),
    };
    let mut expected = model.weight(target).unwrap();
    expected.row_mut(0).mapv_inplace(|w| (f64::from(w) + 0.5) as f32);
    let after = find_targets(&merged).unwrap();
    assert_eq!(merged.weight(after.get(module).unwrap()).unwrap(), expected);

    let encoded = |model: &OnnxModel| -> BTreeMap<String, Vec<u8>> {
        // Not where they lie in their file, which moves when something before it grows, and not the name
        // of a data file, which is the output's if anything in it is new.
        let mut proto = model.inlined().unwrap();
        let tensors = proto.graph.as_mut().unwrap().initializer.iter_mut();
        tensors
            .map(|tensor| {
                let mut entries = tensor.external_data.iter_mut();
                let location = entries.find(|entry| entry.key() == "location");
                location.into_iter().for_each(|entry| entry.value = None);
                (tensor.name().to_owned(), tensor.encode_to_vec())
            })
            .collect()
    };
    let (before, now) = (encoded(model), encoded(&merged));
    for (name, bytes) in &before {
        assert!(*name == target.initializer && !target.shared || now[name] == *bytes);
    }
    assert_eq!(now.len(), before.len() + usize::from(target.shared));
    for (index, (old, new)) in model.graph().node.iter().zip(&merged.graph().node).enumerate() {
        let rewired = target.shared && target.node.as_ref().is_some_and(|site| site.index == index);
        assert!(rewired || old.encode_to_vec() == new.encode_to_vec());
    }
    assert_eq!(verify_merged(model, targets, &header, &factors, &merged, 1).unwrap(), []);
    match target.shared {
        true => "merged into a copy".into(),
        false => "merged".into(),
    }
}

fn first_word(error: &impl std::fmt::Debug) -> Outcome {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().into()
}
