//! An adapter that PEFT trained as TinyLoRA, as one of ours: R of every module in our basis.
//!
//! PEFT saves A = Vᵀ and B = UΣ of its own decomposition, whose signs, and vectors of close singular
//! values, are another's. ΔW = B·R·A is a product of matrices in the same subspaces, so its R in our
//! basis is Σ⁻¹Uᵀ·B·R·A·V, whatever rotation lies between; what ΔW has outside our subspaces is
//! the error, which is measured.

use super::ExchangeError;
use crate::{
    format::{Header, ModuleId, Projection, Role, RoleSet, Scalar},
    model::{Checkpoint, Container, Naming, Targets, widen},
    projection::{Basis, basis},
};
use ndarray::{Array2, s};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// Bytes that are read of an adapter_config.json.
const CONFIG_LIMIT: u64 = 1 << 20;

/// The most of an update's length that may be lost.
pub const LIMIT: f64 = 1e-3;

/// The smallest part of the first singular value whose inverse is used.
const NOTHING: f64 = 1e-12;

#[derive(Deserialize)]
struct Config {
    r: usize,
    u: usize,
}

#[derive(Deserialize)]
struct Method {
    peft_type: String,
}

/// An adapter directory as PEFT saved it.
#[derive(Debug)]
pub struct TinyLora {
    path: PathBuf,
    tensors: Checkpoint,
    modules: BTreeMap<ModuleId, String>,
    groups: Vec<Vec<f64>>,
    width: usize,
    rank: usize,
}

/// An imported adapter.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Unbound.
    pub header: Header,
    /// R of every module, row-major, module after module.
    pub v: Vec<f32>,
    /// How well each module's update came over, sorted by module.
    pub fits: Vec<Fit>,
}

/// How far the update of a module is from PEFT's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The module.
    pub module: ModuleId,
    /// ‖ΔW − ΔW of PEFT‖.
    pub error: f64,
    /// ‖ΔW of PEFT‖.
    pub length: f64,
}

impl TinyLora {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` in a folder.
    pub fn load(folder: &Path, naming: &Naming) -> Result<Self, ExchangeError> {
        let config = config(&folder.join("adapter_config.json"))?;
        let path = folder.join("adapter_model.safetensors");
        let tensors = Checkpoint::load(&path)?;
        let (modules, standard) = modules(&tensors, naming)?;
        if let Some(path) =
            modules.values().find(|p| tensors.tensor(&format!("{p}.tinylora_P")).is_none())
        {
            let any = tensors.tensors().any(|tensor| tensor.name.ends_with(".tinylora_P"));
            return Err(match any {
                true => {
                    let name = format!("{path}.tinylora_P");
                    ExchangeError::Missing { path: tensors.path().into(), name }
                }
                false => ExchangeError::NoProjection { path: folder.into() },
            });
        }
        let mut read =
            Self { path, tensors, modules, groups: Vec::new(), width: config.u, rank: config.r };
        read.read_groups()?;
        if !standard && read.groups.len() > 1 {
            return Err(ExchangeError::Order { groups: read.groups.len() });
        }
        Ok(read)
    }

    /// The files it was read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let config = self.path.with_file_name("adapter_config.json");
        vec![config, self.path.clone()]
    }

    fn read_groups(&mut self) -> Result<(), ExchangeError> {
        while self.groups.len() < self.modules.len() {
            let name = format!("base_model.tinylora_v.{}", self.groups.len());
            if self.tensors.tensor(&name).is_none() {
                break;
            }
            let values = self.matrix(&name, &[self.width])?;
            self.groups.push(values.iter().copied().collect());
        }
        match self.groups.is_empty() {
            true => {
                let name = "base_model.tinylora_v.0".into();
                Err(ExchangeError::Missing { path: self.path.clone(), name })
            }
            false => Ok(()),
        }
    }

    /// A float tensor of this shape, as a matrix whose rows are the last size.
    fn matrix(&self, name: &str, expected: &[usize]) -> Result<Array2<f64>, ExchangeError> {
        let tensor = self
            .tensors
            .tensor(name)
            .ok_or_else(|| ExchangeError::Missing { path: self.path.clone(), name: name.into() })?;
        if tensor.shape != expected {
            return Err(ExchangeError::Shape {
                name: name.into(),
                shape: tensor.shape.clone(),
                expected: format!("{expected:?}"),
            });
        }
        let wrong = |found: String| ExchangeError::Values { name: name.into(), found };
        let element = tensor.element().ok_or_else(|| wrong(tensor.dtype.clone()))?;
        let mut reader = self.tensors.reader(name)?;
        let mut bytes = vec![0; reader.left() as usize];
        reader.read(&mut bytes)?;
        let values = widen(name, element, &bytes)?;
        if let Some(value) = values.iter().find(|x| !x.is_finite()) {
            return Err(wrong(value.to_string()));
        }
        let columns = expected.last().copied().unwrap_or(1);
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let values = values.into_iter().map(f64::from).collect();
        Array2::from_shape_vec((rows, columns), values).map_err(|_| wrong("too few values".into()))
    }

    /// Brings every module onto the basis of its weight in `model`, one after the other.
    /// `threads` changes only the time; 0 means one per core.
    pub fn import(
        &self,
        model: &dyn Container,
        targets: &Targets,
        threads: usize,
    ) -> Result<Imported, ExchangeError> {
        let header = self.header(targets)?;
        let (mut v, mut fits) = (Vec::new(), Vec::new());
        for (index, (&module, path)) in self.modules.iter().enumerate() {
            let target = targets
                .get(module)
                .ok_or_else(|| ExchangeError::UnknownModule { name: path.clone() })?;
            let basis = basis(model.weight(target)?.view(), module, self.rank, threads)?;
            // A smaller side than the rank has fewer vectors in PEFT.
            let rank = self.rank.min(target.rows).min(target.cols);
            let a = self.matrix(&format!("{path}.tinylora_A"), &[rank, target.cols])?;
            let b = self.matrix(&format!("{path}.tinylora_B"), &[target.rows, rank])?;
            let theirs = Update { b, r: self.mixing(index, path, rank)?, a };
            let ours = theirs.in_basis(&basis).mapv(|x| x as f32);
            let fit = theirs.fit(module, &basis, &ours);
            if fit.error > LIMIT * fit.length || !fit.error.is_finite() {
                let error = fit.error / fit.length;
                return Err(ExchangeError::OtherBasis { module, error, limit: LIMIT });
            }
            fits.push(fit);
            v.extend(ours.iter().map(|x| x + 0.0));
        }
        Ok(Imported { header, v, fits })
    }

    /// R = Σ vᵢ·Pᵢ of a module. Groups are runs of modules in the order of the layers, as long as
    /// the number of modules divided by that of groups allows, the last with the rest.
    fn mixing(&self, index: usize, path: &str, rank: usize) -> Result<Array2<f64>, ExchangeError> {
        let size = (self.modules.len() / self.groups.len()).max(1);
        let group = &self.groups[(index / size).min(self.groups.len() - 1)];
        let p = self.matrix(&format!("{path}.tinylora_P"), &[self.width, rank, rank])?;
        let mut r = Array2::zeros((rank, rank));
        for (v, p) in group.iter().zip(p.exact_chunks((rank, rank))) {
            r.scaled_add(*v, &p);
        }
        Ok(r)
    }

    /// Unit projection, one group a module.
    fn header(&self, targets: &Targets) -> Result<Header, ExchangeError> {
        let too_many = |what: String, most| ExchangeError::TooMany { what, most };
        let rank = u8::try_from(self.rank).ok().filter(|&r| (1..=64).contains(&r));
        let rank = rank.ok_or_else(|| too_many(format!("rank {}", self.rank), 64))?;
        let most = usize::from(u16::MAX);
        let groups = u16::try_from(self.modules.len())
            .map_err(|_| too_many(format!("{} modules", self.modules.len()), most))?;
        let roles: Vec<Role> = self.modules.keys().map(|module| module.role).collect();
        let roles = RoleSet::from_roles(roles).unwrap_or(RoleSet::LINEAR);
        let layers = || self.modules.keys().map(|module| module.layer);
        let (first, last) = (layers().min().unwrap_or(0), layers().max().unwrap_or(0));
        for layer in first..=last {
            for role in roles.iter() {
                let module = ModuleId { layer, role };
                if !self.modules.contains_key(&module) {
                    return Err(ExchangeError::Gaps { found: self.modules.len(), module });
                }
            }
        }
        let all = first == 0 && usize::from(last) + 1 == targets.layers;
        Ok(Header {
            scalar: Scalar::F32,
            projection: Projection::Unit,
            rank,
            width: u16::from(rank) * u16::from(rank),
            groups,
            roles,
            seed: 0,
            first_layer: if all { 0 } else { first },
            layers: if all { 0 } else { last - first + 1 },
            ..Header::default()
        })
    }
}

/// B·R·A.
struct Update {
    b: Array2<f64>,
    r: Array2<f64>,
    a: Array2<f64>,
}

impl Update {
    /// R of the same update in another basis.
    fn in_basis(&self, basis: &Basis) -> Array2<f64> {
        let mut left = basis.u.t().dot(&self.b);
        for (mut row, &sigma) in left.rows_mut().into_iter().zip(&basis.sigma) {
            let inverse = if sigma > NOTHING * basis.sigma[0] { 1.0 / sigma } else { 0.0 };
            row *= inverse;
        }
        left.dot(&self.r).dot(&self.a.dot(&basis.v))
    }

    /// The distance of U·Σ·ours·Vᵀ, row by row.
    fn fit(&self, module: ModuleId, basis: &Basis, ours: &Array2<f32>) -> Fit {
        let theirs = self.b.dot(&self.r);
        let mut scaled = basis.u.clone();
        for (mut column, &sigma) in scaled.columns_mut().into_iter().zip(&basis.sigma) {
            column *= sigma;
        }
        let ours = scaled.dot(&ours.mapv(f64::from));
        let (mut error, mut length) = (0.0, 0.0);
        for row in 0..theirs.nrows() {
            let expected = theirs.slice(s![row, ..]).dot(&self.a);
            let found = basis.v.dot(&ours.slice(s![row, ..]));
            error += (&expected - &found).mapv(|x| x * x).sum();
            length += expected.mapv(|x| x * x).sum();
        }
        Fit { module, error: error.sqrt(), length: length.sqrt() }
    }
}

fn config(path: &Path) -> Result<Config, ExchangeError> {
    let wrong = |reason: String| ExchangeError::Config { path: path.into(), reason };
    let file = fs::File::open(path).map_err(|e| wrong(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(CONFIG_LIMIT).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    let method: Method = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if method.peft_type != "TINYLORA" {
        return Err(ExchangeError::Method { path: path.into(), found: method.peft_type });
    }
    let config: Config = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    match config.u {
        0 => Err(wrong("u is 0".into())),
        _ => Ok(config),
    }
}

/// The adapted modules and their names, and whether all are those of transformers.
fn modules(
    tensors: &Checkpoint,
    naming: &Naming,
) -> Result<(BTreeMap<ModuleId, String>, bool), ExchangeError> {
    let mut modules = BTreeMap::new();
    let mut standard = true;
    for tensor in tensors.tensors() {
        let Some(path) = tensor.name.strip_suffix(".tinylora_A") else { continue };
        let unknown = || ExchangeError::UnknownModule { name: path.into() };
        let own = path.strip_prefix("base_model.model.").ok_or_else(unknown)?;
        let weight = format!("{own}.weight");
        let module = naming.module_of(&weight).ok_or_else(unknown)?;
        standard &= Naming::default().module_of(&weight) == Some(module);
        if modules.insert(module, path.to_owned()).is_some() {
            return Err(unknown());
        }
    }
    match modules.is_empty() {
        true => Err(ExchangeError::Missing {
            path: tensors.path().into(),
            name: "base_model.model.….tinylora_A".into(),
        }),
        false => Ok((modules, standard)),
    }
}

impl Fit {
    /// The error as a part of the length; 0 of no update.
    pub fn share(&self) -> f64 {
        if self.length > 0.0 { self.error / self.length } else { 0.0 }
    }
}
