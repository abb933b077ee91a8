//! Adapters that are to answer side by side: read, checked against their model, and put into as few
//! graphs as their ranks and splits allow.

use std::path::{Path, PathBuf};

use super::{CliError, Output, files, progress::Progress};
use crate::{
    format::{Adapter, Header, ModuleId, Split},
    model::{OnnxModel, Targets, base_digest},
    policy::{live::Live, mixed::Mixed},
    projection::{Geometry, select},
    surgery::{SurgeryError, refuse_grafted},
    train::{
        TrainError,
        fit::rebuilt_digest,
        student::{Frozen, freeze},
    },
};

/// An adapter that names the model's base, or none.
pub struct Read {
    path: PathBuf,
    /// Its checksum.
    pub checksum: [u8; 32],
    /// Its header.
    pub header: Header,
    v: Vec<f32>,
}

/// Adapters of one rank and split, which one graph serves.
pub struct Group {
    /// Their places among all.
    pub members: Vec<usize>,
    /// The modules of all of them.
    pub frozen: Vec<Frozen>,
    /// Where their singular values go.
    pub split: Split,
    /// Their values, in the order of `members`.
    pub mixed: Mixed,
}

/// Reads an adapter and checks that it belongs to `model`.
pub fn belonging(
    path: &Path,
    model: &OnnxModel,
    targets: &Targets,
    out: &mut Output,
) -> Result<Read, CliError> {
    let bytes = files::read(path)?;
    let adapter = Adapter::decode(&bytes)
        .map_err(|source| CliError::Adapter { path: path.into(), source })?;
    let header = *adapter.header();
    refuse_grafted(model.graph()).map_err(SurgeryError::from)?;
    if header.is_bound() {
        let found = base_digest(model, targets)?;
        if found != header.base_digest {
            return Err(CliError::OtherBase {
                adapter: path.into(),
                expected: header.base_digest,
                model: model.path.clone(),
                found,
            });
        }
    } else {
        let path = path.display();
        out.say(format!("{path} is unbound: nothing says that it was made for this model"));
    }
    let checksum = adapter.checksum();
    Ok(Read { path: path.into(), checksum, header, v: adapter.values().collect() })
}

/// The graphs that serve `read`, with every adapter checked against its digest.
pub fn groups(
    read: &[Read],
    model: &OnnxModel,
    targets: &Targets,
    threads: usize,
) -> Result<Vec<Group>, CliError> {
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let mut kinds: Vec<((u8, Split), Vec<usize>)> = Vec::new();
    for (at, Read { header, .. }) in read.iter().enumerate() {
        let kind = (header.rank, header.split);
        match kinds.iter_mut().find(|(found, _)| *found == kind) {
            Some((_, members)) => members.push(at),
            None => kinds.push((kind, vec![at])),
        }
    }
    let group = |((rank, split), members): ((u8, Split), Vec<usize>)| {
        let selected = members
            .iter()
            .map(|at| select(&read[*at].header, &known))
            .collect::<Result<Vec<_>, _>>()?;
        let mut modules: Vec<ModuleId> = selected.concat();
        modules.sort();
        modules.dedup();
        let rank = usize::from(rank);
        let mut progress = Progress::new("bases", modules.len());
        let mut watch = |done| progress.at(done, "");
        let frozen = freeze(model, targets, &modules, rank, threads, &mut watch)?;
        let mut mixed = Mixed::new(modules, rank);
        for (at, modules) in members.iter().zip(&selected) {
            mixed.push(&checked(&read[*at], modules, &frozen)?, &read[*at].v)?;
        }
        Ok(Group { members, frozen, split, mixed })
    };
    kinds.into_iter().map(group).collect()
}

/// Checks that an adapter comes to its digest on the bases of its `modules`.
fn checked(
    Read { path, header, v, .. }: &Read,
    modules: &[ModuleId],
    frozen: &[Frozen],
) -> Result<Live, CliError> {
    let own: Vec<Frozen> = frozen.iter().filter(|f| modules.contains(&f.module)).cloned().collect();
    let geometry = Geometry::from(header);
    let found = rebuilt_digest(&geometry, modules, &own, v);
    if header.is_bound() && found != header.factors_digest {
        let expected = header.factors_digest;
        return Err(CliError::OtherFactors { adapter: path.clone(), expected, found });
    }
    Ok(Live::new(geometry, modules).map_err(TrainError::from)?)
}
