//! The low-rank path beside a weight: `Y = X·Wᵀ + ((X·V)·M)·Lᵀ`, whatever the weight is stored as.
//!
//! `M = α·Rᵀ` of every module is one graph input, so one graph serves training, placement (the
//! gradient by R of every module at once) and evaluation, whatever the geometry of v. A model that
//! ships takes v itself ([`super::graft`]), and runs the same path.

use ndarray::{Array2, ArrayView2, s};
use std::collections::BTreeMap;

use super::{Edit, GraftError, MIXING, Patch, refuse_grafted};
use crate::{
    format::{ModuleId, Split},
    model::{
        ElementType, NodeSite, Target,
        node::{Attribute, Dim, node, tensor_f32, tensor_i64, tensor_value, with_attribute},
        proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
    },
    projection::Basis,
};

/// What is frozen of one module's path.
#[derive(Debug, Clone)]
pub struct LowRank<'a> {
    /// The matrix the path runs beside.
    pub target: &'a Target,
    /// `U·Σ` (or `U·√Σ`), `[out, r]`.
    pub left: Array2<f32>,
    /// `V` (or `V·√Σ`), `[in, r]`.
    pub right: Array2<f32>,
}

/// The tensor that holds `M` of one module, `[rows, r, r]`: what a gradient is taken by.
pub fn mixing_of(module: ModuleId) -> String {
    format!("tla/{module}/mixing")
}

/// Plans the path beside each of `paths`, in that order, at the given rank, and [`MIXING`].
///
/// # Errors
/// If a factor is not of the target's shape, or the graph takes an adapter already.
pub fn lowrank_patch(
    graph: &GraphProto,
    paths: &[LowRank<'_>],
    rank: usize,
) -> Result<Patch, GraftError> {
    let mut patch = Patch::default();
    let Some(first) = first_site(paths)? else { return Ok(patch) };
    refuse_grafted(graph)?;
    let r = rank as i64;
    let dims = [
        Dim::Fixed(paths.len() as i64),
        Dim::Named("tla_rows".to_owned()),
        Dim::Fixed(r),
        Dim::Fixed(r),
    ];
    patch.edits.push(Edit::AddInput(tensor_value(MIXING, DataType::Float, &dims)));
    patch.edits.push(Edit::AddInitializer(tensor_i64("tla/first", &[1], &[0])));
    patch.edits.push(Edit::InsertAfter { node_index: first, nodes: split(paths) });
    extend_all(graph, &mut patch, paths, rank)?;
    Ok(patch)
}

/// The first of the nodes the paths run beside, behind which [`mixing_of`] each must be made; none
/// without paths.
pub(super) fn first_site(paths: &[LowRank<'_>]) -> Result<Option<usize>, GraftError> {
    let sites = paths.iter().map(|p| Ok(site(p.target)?.index));
    Ok(sites.collect::<Result<Vec<_>, _>>()?.into_iter().min())
}

/// Plans the path beside each of `paths`, which reads [`mixing_of`] its module.
pub(super) fn extend_all(
    graph: &GraphProto,
    patch: &mut Patch,
    paths: &[LowRank<'_>],
    rank: usize,
) -> Result<(), GraftError> {
    let mut sites = Vec::<Site<'_, '_>>::new();
    let mut places = BTreeMap::new();
    for path in paths {
        let index = site(path.target)?.index;
        let place = *places.entry(index).or_insert(sites.len());
        match sites.get_mut(place) {
            Some(site) => site.paths.push(path),
            None => sites.push(Site { index, paths: vec![path] }),
        }
    }
    sites.iter().try_for_each(|site| site.extend(graph, patch, rank))
}

/// The node of a target in the graph it was found in.
fn site(target: &Target) -> Result<&NodeSite, GraftError> {
    target.node.as_ref().ok_or(GraftError::NotTheGraph { module: target.module })
}

/// One slice of the input for each module.
fn split(paths: &[LowRank<'_>]) -> Vec<NodeProto> {
    let slices: Vec<String> =
        paths.iter().map(|p| format!("tla/{}/slice", p.target.module)).collect();
    let outputs: Vec<&str> = slices.iter().map(String::as_str).collect();
    let parts = Attribute::Int(paths.len() as i64);
    let cut =
        with_attribute(node("Split", "tla/split", &[MIXING], &outputs), "axis", Attribute::Int(0));
    let mut nodes = vec![with_attribute(cut, "num_outputs", parts)];
    for (path, slice) in paths.iter().zip(&slices) {
        let mixing = mixing_of(path.target.module);
        nodes.push(node("Squeeze", &mixing, &[slice, "tla/first"], &[&mixing]));
    }
    nodes
}

impl<'a> LowRank<'a> {
    /// The path of a target whose weight has this basis.
    ///
    /// # Errors
    /// If a factor is too large for f32.
    pub fn new(target: &'a Target, basis: &Basis, split: Split) -> Result<Self, GraftError> {
        let ones = vec![1.0; basis.sigma.len()];
        let root = || basis.sigma.iter().map(|s| s.sqrt()).collect::<Vec<_>>();
        let (on_left, on_right) = match split {
            Split::Paper => (basis.sigma.clone(), ones),
            Split::Peft => (root(), root()),
        };
        let scaled = |m: &Array2<f64>, by: &[f64]| {
            let exact = Array2::from_shape_fn(m.raw_dim(), |(i, k)| m[[i, k]] * by[k]);
            match exact.iter().find(|x| !(**x as f32).is_finite()) {
                Some(&value) => Err(GraftError::Factor { module: target.module, value }),
                None => Ok(exact.mapv(|x| x as f32)),
            }
        };
        let (left, right) = (scaled(&basis.u, &on_left)?, scaled(&basis.v, &on_right)?);
        Ok(Self { target, left, right })
    }
}

/// The paths beside one node, as many as modules are packed into its weight and carry an update.
struct Site<'a, 'b> {
    index: usize,
    paths: Vec<&'b LowRank<'a>>,
}

impl Site<'_, '_> {
    /// The base product gets another name; the sum takes the one everybody reads.
    ///
    /// The path runs in 32 bits whatever the weights are multiplied in: its products are few, and
    /// lengths along V go beyond what 16 bits hold. Modules that share the node share the last
    /// product too, each with columns of its own.
    fn extend(&self, graph: &GraphProto, patch: &mut Patch, rank: usize) -> Result<(), GraftError> {
        let Some(first) = self.paths.first() else { return Ok(()) };
        let Target { module, computed_in, .. } = *first.target;
        let slot = site(first.target)?.weight_slot;
        let product = graph.node.get(self.index);
        let ends = product.and_then(|n| Some((n.input.get(1 - slot.min(1))?, n.output.first()?)));
        let (input, output) = ends.ok_or(GraftError::NotTheGraph { module })?;
        let name = |part: &str| format!("tla/{module}/{part}");
        let mut nodes = Vec::new();
        let wide = match computed_in {
            ElementType::F32 => input.clone(),
            _ => {
                nodes.push(cast(&name("wide"), input, ElementType::F32));
                name("wide")
            }
        };
        let mut mixed = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let module = path.target.module;
            let [right, narrow, own] =
                ["right", "narrow", "mixed"].map(|part| format!("tla/{module}/{part}"));
            let v = tensor(module, &right, path.right.view(), [path.target.cols, rank])?;
            patch.edits.push(Edit::AddInitializer(v));
            nodes.push(node("MatMul", &narrow, &[&wide, &right], &[&narrow]));
            nodes.push(node("MatMul", &own, &[&narrow, &mixing_of(module)], &[&own]));
            mixed.push(own);
        }
        let joined = match &mixed[..] {
            [one] => one.clone(),
            several => {
                let several: Vec<&str> = several.iter().map(String::as_str).collect();
                let joined = node("Concat", &name("joined"), &several, &[&name("joined")]);
                nodes.push(with_attribute(joined, "axis", Attribute::Int(-1)));
                name("joined")
            }
        };
        patch.edits.push(Edit::AddInitializer(self.left(&name("left"), rank)?));
        let (base, update) = (name("base"), name("update"));
        nodes.push(node("MatMul", &update, &[&joined, &name("left")], &[&update]));
        let update = match computed_in {
            ElementType::F32 => update,
            other => {
                nodes.push(cast(&name("rounded"), &update, other));
                name("rounded")
            }
        };
        nodes.push(node("Add", &name("sum"), &[&base, &update], &[output]));
        let (node_index, from) = (self.index, output.clone());
        patch.edits.push(Edit::RenameOutput { node_index, slot: 0, from, to: base });
        patch.edits.push(Edit::InsertAfter { node_index, nodes });
        Ok(())
    }

    /// Lᵀ of every path below each other, each in the columns of its module: `[paths · r, out]`.
    fn left(&self, name: &str, rank: usize) -> Result<TensorProto, GraftError> {
        let Some(&first) = self.paths.first() else { return Ok(TensorProto::default()) };
        let mut whole = Array2::zeros((self.paths.len() * rank, first.target.stored_rows()));
        for (index, path) in self.paths.iter().enumerate() {
            let Target { module, rows, part, .. } = *path.target;
            let from = part.map_or(0, |part| part.first);
            let (found, expected) = (path.left.shape().to_vec(), [rows, rank]);
            if found != expected || from + rows > whole.ncols() {
                return Err(GraftError::FactorShape { module, found, expected });
            }
            let own = s![index * rank..(index + 1) * rank, from..from + rows];
            whole.slice_mut(own).assign(&path.left.t());
        }
        tensor(first.target.module, name, whole.view(), [whole.nrows(), whole.ncols()])
    }
}

fn cast(name: &str, value: &str, to: ElementType) -> NodeProto {
    let to = Attribute::Int(i64::from(to.number()));
    with_attribute(node("Cast", name, &[value], &[name]), "to", to)
}

fn tensor(
    module: ModuleId,
    name: &str,
    values: ArrayView2<'_, f32>,
    shape: [usize; 2],
) -> Result<TensorProto, GraftError> {
    if values.shape() != shape {
        return Err(GraftError::FactorShape {
            module,
            found: values.shape().to_vec(),
            expected: shape,
        });
    }
    let flat: Vec<f32> = values.iter().copied().collect();
    Ok(tensor_f32(name, &[shape[0] as i64, shape[1] as i64], &flat))
}
