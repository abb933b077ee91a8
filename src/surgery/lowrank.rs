//! The low-rank path beside a weight: `Y = X·Wᵀ + ((X·V)·M)·Lᵀ`, whatever the weight is stored as.
//!
//! `M = α·Rᵀ` of every module is one graph input, so one graph serves training, placement (the
//! gradient by R of every module at once) and evaluation, whatever the geometry of v. A model that
//! ships takes v itself ([`super::graft`]), and shares the first two products among modules that
//! read the same value ([`super::fans`]).

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
    for site in sites(paths)? {
        site.extend(graph, &mut patch, rank)?;
    }
    Ok(patch)
}

/// The first of the nodes the paths run beside, behind which [`mixing_of`] each must be made; none
/// without paths.
pub(super) fn first_site(paths: &[LowRank<'_>]) -> Result<Option<usize>, GraftError> {
    let sites = paths.iter().map(|p| Ok(site(p.target)?.product));
    Ok(sites.collect::<Result<Vec<_>, _>>()?.into_iter().min())
}

/// The nodes that the paths run beside, in the order of the paths.
pub(super) fn sites<'a, 'b>(paths: &'b [LowRank<'a>]) -> Result<Vec<Site<'a, 'b>>, GraftError> {
    let mut sites = Vec::<Site<'_, '_>>::new();
    let mut places = BTreeMap::new();
    for path in paths {
        let at = site(path.target)?;
        let index = at.product;
        let place = *places.entry(index).or_insert(sites.len());
        match sites.get_mut(place) {
            Some(site) => site.paths.push(path),
            None => sites.push(Site { at, target: path.target, paths: vec![path] }),
        }
    }
    Ok(sites)
}

/// The node of a target in the graph it was found in.
fn site(target: &Target) -> Result<&NodeSite, GraftError> {
    target.node.as_ref().ok_or(GraftError::InBranch { module: target.module })
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
pub(super) struct Site<'a, 'b> {
    pub at: &'a NodeSite,
    /// The first of the modules.
    pub target: &'a Target,
    pub paths: Vec<&'b LowRank<'a>>,
}

impl Site<'_, '_> {
    /// The path runs in 32 bits whatever the weights are multiplied in: its products are few, and
    /// lengths along V go beyond what 16 bits hold. Modules that share the node share the last
    /// product too, each with columns of its own.
    fn extend(&self, graph: &GraphProto, patch: &mut Patch, rank: usize) -> Result<(), GraftError> {
        let mut nodes = Vec::new();
        let wide = self.wide(&mut nodes);
        let mut mixed = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let module = path.target.module;
            let [right, narrow, own] =
                ["right", "narrow", "mixed"].map(|part| format!("tla/{module}/{part}"));
            let v = tensor(module, &right, path.right.view(), [path.target.cols, rank])?;
            patch.edits.push(Edit::AddInitializer(v));
            nodes.push(node("MatMul", &narrow, &[&wide, &right], &[&narrow]));
            let mixing = mixing_of(module);
            let narrow = match self.at.batched {
                true => narrow,
                false => by_row(patch, &mut nodes, &narrow, &mixing, rank),
            };
            nodes.push(node("MatMul", &own, &[&narrow, &mixing], &[&own]));
            mixed.push(own);
        }
        let joined = match &mixed[..] {
            [one] => one.clone(),
            several => {
                let several: Vec<&str> = several.iter().map(String::as_str).collect();
                let name = self.name("joined");
                let joined = node("Concat", &name, &several, &[&name]);
                nodes.push(with_attribute(joined, "axis", Attribute::Int(-1)));
                name
            }
        };
        self.add(graph, patch, nodes, &joined, [self.paths.len() * rank, 0], self.at.batched)
    }

    /// A name of the first module's.
    pub fn name(&self, part: &str) -> String {
        format!("tla/{}/{part}", self.target.module)
    }

    /// The name of what is multiplied in 32 bits; one of `nodes` makes it, if it is not.
    pub fn wide(&self, nodes: &mut Vec<NodeProto>) -> String {
        match self.target.computed_in {
            ElementType::F32 => self.at.input.clone(),
            _ => {
                let name = self.name("wide");
                nodes.push(cast(&name, &self.at.input, ElementType::F32));
                name
            }
        }
    }

    /// Adds the product of the columns `mixed` with Lᵀ to what the node makes, its bias included, behind
    /// `nodes`. What it made gets another name; the sum takes the one everybody reads. Of the `height`
    /// columns those from `offset` on are the site's. Unless activations are `batched`, the update has
    /// dimensions of its own.
    pub fn add(
        &self,
        graph: &GraphProto,
        patch: &mut Patch,
        mut nodes: Vec<NodeProto>,
        mixed: &str,
        [height, offset]: [usize; 2],
        batched: bool,
    ) -> Result<(), GraftError> {
        let (module, node_index) = (self.target.module, self.at.sum);
        let output = graph.node.get(node_index).and_then(|made| made.output.first());
        let output = output.ok_or(GraftError::NotTheGraph { module })?;
        let (base, left, update) = (self.name("base"), self.name("left"), self.name("update"));
        patch.edits.push(Edit::AddInitializer(self.left(&left, [height, offset])?));
        nodes.push(node("MatMul", &update, &[mixed, &left], &[&update]));
        let update = match self.target.computed_in {
            ElementType::F32 => update,
            other => {
                let name = self.name("rounded");
                nodes.push(cast(&name, &update, other));
                name
            }
        };
        let update = match batched {
            true => update,
            false => {
                let (shape, alike) = (self.name("base_shape"), self.name("alike"));
                nodes.push(node("Shape", &shape, &[&base], &[&shape]));
                nodes.push(node("Reshape", &alike, &[&update, &shape], &[&alike]));
                alike
            }
        };
        nodes.push(node("Add", &self.name("sum"), &[&base, &update], &[output]));
        let from = output.to_owned();
        patch.edits.push(Edit::RenameOutput { node_index, slot: 0, from, to: base });
        patch.edits.push(Edit::InsertAfter { node_index, nodes });
        Ok(())
    }

    /// Lᵀ of every path below each other from row `offset` on, each in the columns of its module:
    /// `[height, out]`.
    fn left(&self, name: &str, [height, offset]: [usize; 2]) -> Result<TensorProto, GraftError> {
        let mut whole = Array2::zeros((height, self.target.stored_rows()));
        let mut row = offset;
        for path in &self.paths {
            let Target { module, rows, part, .. } = *path.target;
            let from = part.map_or(0, |part| part.first);
            let (found, expected) = (path.left.shape().to_vec(), [rows, path.right.ncols()]);
            let last = row + expected[1];
            if found != expected || from + rows > whole.ncols() || last > height {
                return Err(GraftError::FactorShape { module, found, expected });
            }
            whole.slice_mut(s![row..last, from..from + rows]).assign(&path.left.t());
            row = last;
        }
        tensor(self.target.module, name, whole.view(), [whole.nrows(), whole.ncols()])
    }
}

/// Activations of any dimensions, cut into as many matrices of so many columns as `mixing` has rows.
pub(super) fn by_row(
    patch: &mut Patch,
    nodes: &mut Vec<NodeProto>,
    narrow: &str,
    mixing: &str,
    columns: usize,
) -> String {
    let [sizes, first, rows, rest, shape, cut] =
        ["sizes", "first", "rows", "rest", "shape", "cut"].map(|part| format!("{narrow}_{part}"));
    patch.edits.push(Edit::AddInitializer(tensor_i64(&first, &[1], &[0])));
    patch.edits.push(Edit::AddInitializer(tensor_i64(&rest, &[2], &[-1, columns as i64])));
    nodes.push(node("Shape", &sizes, &[mixing], &[&sizes]));
    nodes.push(node("Gather", &rows, &[&sizes, &first], &[&rows]));
    let joined = node("Concat", &shape, &[&rows, &rest], &[&shape]);
    nodes.push(with_attribute(joined, "axis", Attribute::Int(0)));
    nodes.push(node("Reshape", &cut, &[narrow, &shape], &[&cut]));
    cut
}

fn cast(name: &str, value: &str, to: ElementType) -> NodeProto {
    let to = Attribute::Int(i64::from(to.number()));
    with_attribute(node("Cast", name, &[value], &[name]), "to", to)
}

pub(super) fn tensor(
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
