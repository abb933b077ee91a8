//! Adapters on the command line that are added up: read, checked, rebuilt.

use super::{
    CliError, Output, adapter_file::AdapterFile, base::Base, destination::Destination,
    threads::Threads,
};
use crate::{
    model::{Model, Staged},
    projection::{Factors, factors_digest},
    surgery::{Addend, CheckpointMerge, OnnxMerge, Survival},
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The adapters of a merge and what each is multiplied by.
pub struct Sum(Vec<(AdapterFile, f64)>);

/// How integers take a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integers {
    /// To the nearest on the grid they are of.
    OnTheirGrid,
    /// Of a grid that is fitted to the merged values.
    OnANewGrid,
}

impl Sum {
    /// Reads them. An unbound one is refused unless that is `allowed`.
    pub fn read(arguments: &[OsString], allowed: bool, out: &Output) -> Result<Self, CliError> {
        let read = arguments.iter().map(|argument| {
            let (path, weight) = weighted(argument)?;
            let adapter = AdapterFile::read(&path)?;
            adapter.check_bound(allowed, out)?;
            Ok((adapter, weight))
        });
        read.collect::<Result<_, _>>().map(Self)
    }

    /// The adapters and their weights.
    pub fn adapters(&self) -> &[(AdapterFile, f64)] {
        &self.0
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.0.iter().map(|(adapter, _)| adapter.path.clone())
    }

    /// Refuses adapters that name another base than this, which was loaded from `model`. The base
    /// digest, if one of them names any.
    pub fn check_base(
        &self,
        base: &Base,
        model: &Path,
        threads: &Threads,
    ) -> Result<Option<[u8; 32]>, CliError> {
        if !self.0.iter().any(|(adapter, _)| adapter.names_base()) {
            return Ok(None);
        }
        let found = base.digest(threads)?;
        self.0.iter().try_for_each(|(adapter, _)| adapter.check_digest(found, model))?;
        Ok(Some(found))
    }

    /// The factors of each.
    pub fn factors(&self, base: &Base, threads: &Threads) -> Result<Vec<Vec<Factors>>, CliError> {
        let rebuilt = self.0.iter().map(|(adapter, _)| {
            let factors = base.factors(&adapter.header, &adapter.v, threads)?;
            adapter.check_factors(factors_digest(&factors))?;
            Ok(factors)
        });
        rebuilt.collect()
    }

    fn addends<'a>(&'a self, factors: &'a [Vec<Factors>]) -> Vec<Addend<'a>> {
        let each = self.0.iter().zip(factors).map(|((adapter, weight), factors)| Addend {
            header: &adapter.header,
            factors,
            weight: *weight,
        });
        each.collect()
    }

    /// Whether it is one adapter as it is, which alone can be grafted.
    pub fn is_one_whole(&self) -> bool {
        matches!(self.0[..], [(_, 1.0)])
    }

    /// Whether the integers that change may be of a grid of their own.
    pub fn can_be_requantised(
        &self,
        factors: &[Vec<Factors>],
        base: &Base,
        threads: &Threads,
    ) -> bool {
        let Model::Onnx(model) = &base.model else { return false };
        OnnxMerge::new(model, &base.targets, &self.addends(factors), threads.count())
            .and_then(OnnxMerge::with_fitted_grids)
            .is_ok()
    }

    /// The merged model beside its place, where it vanishes unless it is placed.
    pub fn merged(
        &self,
        factors: &[Vec<Factors>],
        base: &Base,
        destination: &Destination,
        integers: Integers,
        threads: &Threads,
    ) -> Result<(Staged, Survival), CliError> {
        let addends = self.addends(factors);
        let (targets, threads) = (&base.targets, threads.count());
        match &base.model {
            Model::Onnx(model) => {
                let mut merge = OnnxMerge::new(model, targets, &addends, threads)?;
                if integers == Integers::OnANewGrid {
                    merge = merge.with_fitted_grids()?;
                }
                let proto = merge.proto().clone();
                let staged = destination.stage_graph(&proto, model, &mut merge)?;
                Ok((staged, merge.survival()))
            }
            Model::Safetensors(checkpoint) => {
                let mut merge = CheckpointMerge::new(checkpoint, targets, &addends, threads)?;
                let staged = destination.stage(&mut merge, &base.model, checkpoint)?;
                Ok((staged, merge.survival()))
            }
        }
    }
}

/// An adapter and its weight, which is 1 if none is given. A file that is named like both is the
/// file.
fn weighted(argument: &OsString) -> Result<(PathBuf, f64), CliError> {
    let whole = (PathBuf::from(argument), 1.0);
    if whole.0.exists() {
        return Ok(whole);
    }
    let Some((path, text)) = argument.to_str().and_then(|text| text.rsplit_once(':')) else {
        return Ok(whole);
    };
    let bad = || CliError::Weight { adapter: path.into(), weight: text.into() };
    match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() => Ok((path.into(), weight)),
        Err(_) if !Path::new(path).exists() => Ok(whole),
        _ => Err(bad()),
    }
}
