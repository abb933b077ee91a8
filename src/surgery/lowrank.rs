//! The low-rank path beside a weight: `Y = X·Wᵀ + ((X·V)·M)·Lᵀ`.
//!
//! `M = α·Rᵀ` of every module is one graph input, so one graph serves training, placement (the
//! gradient by R of every module at once) and evaluation, whatever the geometry of v. A model that
//! ships takes v itself ([`super::graft`]), and runs the same path.

use ndarray::{Array2, ArrayView2};

use super::{Edit, GraftError, MIXING, Patch, refuse_grafted};
use crate::{
    format::{ModuleId, Split},
    model::{
        NodeSite, Target,
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
    paths.iter().try_for_each(|path| path.extend(graph, patch, rank))
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

    /// The base product gets another name; the sum takes the one everybody reads.
    fn extend(&self, graph: &GraphProto, patch: &mut Patch, rank: usize) -> Result<(), GraftError> {
        let target = self.target;
        let module = target.module;
        let site = site(target)?;
        let product = graph.node.get(site.index);
        let ends = product
            .and_then(|n| Some((n.input.get(1 - site.weight_slot.min(1))?, n.output.first()?)));
        let (input, output) = ends.ok_or(GraftError::NotTheGraph { module })?;
        let name = |part: &str| format!("tla/{module}/{part}");
        let right = tensor(module, &name("right"), self.right.view(), [target.cols, rank])?;
        let left = tensor(module, &name("left"), self.left.t(), [rank, target.rows])?;
        patch.edits.push(Edit::AddInitializer(right));
        patch.edits.push(Edit::AddInitializer(left));
        let base = name("base");
        patch.edits.push(Edit::RenameOutput {
            node_index: site.index,
            slot: 0,
            from: output.clone(),
            to: base.clone(),
        });
        let narrow = name("narrow");
        let mixed = name("mixed");
        let update = name("update");
        patch.edits.push(Edit::InsertAfter {
            node_index: site.index,
            nodes: vec![
                node("MatMul", &narrow, &[input, &name("right")], &[&narrow]),
                node("MatMul", &mixed, &[&narrow, &mixing_of(module)], &[&mixed]),
                node("MatMul", &update, &[&mixed, &name("left")], &[&update]),
                node("Add", &name("sum"), &[&base, &update], &[output]),
            ],
        });
        Ok(())
    }
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
