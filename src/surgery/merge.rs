//! Writing an adapter into the weights of a graph: W' = round(W + ΔW), once, from a pristine base.

use super::{
    Addend, ModuleSurvival, Patch, SurgeryError, Survival,
    addend::updates,
    copies::{copied_as_stored, copy_for, reads_canonical},
    merging::{Update, from_reader},
    patch_check::check_base,
    refuse_grafted,
    whole::{Integers, Part, integers, packed},
    workers::Workers,
};
use crate::{
    format::{Header, ModuleId},
    model::{
        Contents, ModelError, OnnxModel, Target, Targets, count_uses, promised,
        proto::{ModelProto, TensorProto},
    },
    projection::Factors,
};
use prost::bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// A merge whose weights are made when they are written.
///
/// As [`Contents`] of a [`stage_model`](crate::model::stage_model) it gives the merged weights one
/// by one; memory holds the factors and a few megabytes, or a few rows of the widest matrix. A matrix of
/// integers, or one that several modules are packed into, is held whole, the integers with up to 22
/// bytes each.
#[derive(Debug)]
pub struct OnnxMerge<'a> {
    base: &'a OnnxModel,
    proto: ModelProto,
    weights: HashMap<String, Weight<'a>>,
    /// Scales and zero points that change, and the weight they belong to.
    beside: HashMap<String, (String, Beside)>,
    latest: Option<(String, Integers)>,
    workers: Workers,
    done: BTreeMap<ModuleId, ModuleSurvival>,
}

/// A stored matrix that is to be another.
#[derive(Debug)]
struct Weight<'a> {
    /// The modules in it that change; one, unless it is packed.
    parts: Vec<Part<'a>>,
    /// Whether it is a copy of a matrix that others read too.
    copied: bool,
}

impl<'a> Weight<'a> {
    fn target(&self) -> &'a Target {
        self.parts[0].0
    }
}

/// What is stored beside the integers of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Scales,
    Zeros,
}

impl<'a> OnnxMerge<'a> {
    /// Plans a merge (`spec/projection.md`, merged weights). Whether the adapters belong to this
    /// base is for the caller to check against the base digest.
    ///
    /// A matrix that other nodes read too is copied for its node first, integers with what leads
    /// from them to it. They stay on the grid they have. A grafted model is refused, because its
    /// default would come on top. `threads` changes only the time; 0 means one per core.
    pub fn new(
        base: &'a OnnxModel,
        targets: &'a Targets,
        addends: &[Addend<'a>],
        threads: usize,
    ) -> Result<Self, SurgeryError> {
        refuse_grafted(base.graph())?;
        let mut matrices = BTreeMap::<_, Vec<Part<'a>>>::new();
        for (target, terms) in updates(targets, addends)?.into_values() {
            let node = target.node.as_ref().map(|node| node.index);
            let key = (target.initializer.as_str(), node);
            matrices.entry(key).or_default().push((target, terms));
        }
        let mut patch = Patch::default();
        let mut weights = HashMap::new();
        for parts in matrices.into_values() {
            let target = parts[0].0;
            let name = target.initializer.clone();
            let copied = target.shared;
            if target.quantisation.is_none() {
                // Refused now, whatever has been written by then.
                Update::new(target, &[], true)?;
            }
            let name = if copied { copy_for(base, target, &mut patch)? } else { name };
            weights.insert(name, Weight { parts, copied });
        }
        if !patch.edits.is_empty() {
            // What is put between the nodes of a graph needs their order.
            check_base(base)?;
        }
        let mut proto = base.proto.clone();
        patch.apply(proto.graph.get_or_insert_default())?;
        Ok(Self {
            base,
            proto,
            weights,
            beside: HashMap::new(),
            latest: None,
            workers: Workers::new(threads)?,
            done: BTreeMap::new(),
        })
    }

    /// Lets integers be of a grid that is fitted to the merged values: scales and zero points of
    /// what changes become others too.
    ///
    /// # Errors
    /// If other matrices have the same scales.
    pub fn with_fitted_grids(mut self) -> Result<Self, SurgeryError> {
        let mut uses = HashMap::new();
        count_uses(self.base.graph(), &mut uses);
        let uses = |name: &str| uses.get(name).copied().unwrap_or(0);
        for (name, weight) in &self.weights {
            let target = weight.target();
            let Some(quantisation) = &target.quantisation else { continue };
            let (scales, zeros) = quantisation.beside();
            let beside = [(Some(scales), Beside::Scales), (zeros, Beside::Zeros)];
            for (of, kind) in beside.into_iter().filter_map(|(of, kind)| Some((of?, kind))) {
                // Whoever reads the integers of an unshared matrix reads these too.
                let shared = uses(of) > uses(&target.initializer);
                if shared
                    || weight.copied
                    || self.beside.insert(of.to_owned(), (name.clone(), kind)).is_some()
                {
                    let (module, name) = (target.module, of.to_owned());
                    return Err(SurgeryError::SharedIntegers { module, name });
                }
            }
        }
        Ok(self)
    }

    /// The merged integers of a matrix; those of the last one are kept.
    fn integers(&mut self, name: &str) -> Result<&Integers, SurgeryError> {
        let none = || ModelError::NoInitializer { name: name.into() };
        let weight = self.weights.get(name).ok_or_else(none)?;
        let tensor = self.base.initializer(&weight.target().initializer).ok_or_else(none)?;
        let quantisation = weight.target().quantisation.as_ref().ok_or_else(none)?;
        let made = match self.latest.take().filter(|(known, _)| known == name) {
            Some((_, made)) => made,
            None => {
                let fit = !self.beside.is_empty();
                integers(self.base, tensor, quantisation, &weight.parts, fit)?
            }
        };
        self.done.extend(made.left.iter().map(|left| (left.module, *left)));
        Ok(&self.latest.insert((name.to_owned(), made)).1)
    }

    /// The base as it will be but for the weights that change.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// What is left of the update, once every weight is written.
    pub fn survival(&self) -> Survival {
        Survival { modules: self.done.values().copied().collect() }
    }

    /// The bytes of an initializer that changes.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Bytes, SurgeryError> {
        let mut bytes = Vec::new();
        self.give(name, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes.into())
    }
}

impl Contents for OnnxMerge<'_> {
    type Error = SurgeryError;

    fn changes(&self, name: &str) -> bool {
        self.weights.contains_key(name) || self.beside.contains_key(name)
    }

    fn copied_from(&self, name: &str) -> Option<&str> {
        let weight = self.weights.get(name).filter(|weight| weight.copied)?;
        Some(&weight.target().initializer)
    }

    fn give(
        &mut self,
        name: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ModelError>,
    ) -> Result<(), SurgeryError> {
        if let Some((weight, kind)) = self.beside.get(name).cloned() {
            let made = self.integers(&weight)?;
            let bytes = if kind == Beside::Scales { &made.scales } else { &made.zeros };
            return Ok(each(bytes)?);
        }
        let none = |name: &str| ModelError::NoInitializer { name: name.into() };
        let Weight { parts, copied } = self.weights.get(name).ok_or_else(|| none(name))?;
        let (target, terms) = &parts[0];
        let tensor = self.base.initializer(&target.initializer);
        let tensor = tensor.ok_or_else(|| none(&target.initializer))?;
        if target.quantisation.is_some() {
            return Ok(each(&self.integers(name)?.values)?);
        }
        let is_turned = match *copied && !copied_as_stored(target) {
            true => !reads_canonical(target),
            false => target.stored_transposed,
        };
        let to_turn = is_turned != target.stored_transposed;
        if target.part.is_some() || to_turn {
            let mut bytes = self.base.tensor_bytes(tensor)?.to_vec();
            if to_turn {
                let (rows, cols) = (target.stored_rows(), target.cols);
                let shape = if is_turned { [rows, cols] } else { [cols, rows] };
                bytes = turned(&bytes, shape, target.dtype.size().unwrap_or(1) as usize);
            }
            let left = packed(&self.workers, parts, &mut bytes, is_turned)?;
            self.done.extend(left.into_iter().map(|left| (left.module, left)));
            return Ok(each(&bytes)?);
        }
        let update = Update::new(target, terms, is_turned)?;
        let (_, source) = self.base.tensor_reader(tensor)?;
        let failed = |e| ModelError::io("read", &self.base.path, e);
        let each = |piece: &[u8]| Ok::<_, SurgeryError>(each(piece)?);
        let left = update.merge(&self.workers, from_reader(source, failed), each)?;
        self.done.insert(target.module, left);
        Ok(())
    }
}

/// The values of a matrix of this shape, rows and columns exchanged.
fn turned(bytes: &[u8], [rows, cols]: [usize; 2], size: usize) -> Vec<u8> {
    let mut turned = vec![0; bytes.len()];
    for (r, values) in bytes.chunks_exact((cols * size).max(1)).enumerate() {
        for (c, value) in values.chunks_exact(size).enumerate() {
            let at = (c * rows + r) * size;
            turned[at..at + size].copy_from_slice(value);
        }
    }
    turned
}

/// A merged model in memory, and what rounding left of the update.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The base with other weights; all else is as it was.
    pub proto: ModelProto,
    /// Of every selected module.
    pub survival: Survival,
}

/// Merges one adapter in memory, which then holds every weight but those in data files that do
/// not change. [`OnnxMerge`] is for models of any size.
pub fn merge(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    threads: usize,
) -> Result<Merged, SurgeryError> {
    let mut merge = OnnxMerge::new(model, targets, &[Addend::whole(header, factors)], threads)?;
    let mut proto = merge.proto.clone();
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if merge.changes(tensor.name()) {
            let raw_data = Some(merge.bytes(tensor.name())?);
            let bare = promised(std::mem::take(tensor));
            *tensor = TensorProto { raw_data, data_location: None, ..bare };
        }
    }
    let proto = model.inline(proto)?;
    Ok(Merged { proto, survival: merge.survival() })
}
