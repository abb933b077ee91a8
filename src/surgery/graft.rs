//! An adapter beside the weights of a model, its values an input that can be overridden.
//!
//! The weights stay as they are. The graph gains the input [`VALUES`] with the adapter's values as
//! its default, the product that makes M = α·Rᵀ of every module from them, and the low-rank path of
//! training. Whoever feeds other values has another adapter of the same geometry.

use serde_json::json;

use super::{
    Edit, GraftError, Patch, SurgeryError, VALUES,
    fans::fans,
    lowrank::{LowRank, first_site},
    patch_check::{check_base, is_made},
    rebuild::{basis_of, selected, selection},
    refuse_grafted,
    values::mixing_of_all,
};
use crate::{
    format::{Header, ModuleId},
    model::{
        Container, Kind, OnnxModel, Targets,
        node::{Dim, tensor_f32, tensor_value},
        proto::{ModelProto, ValueInfoProto, tensor_proto::DataType},
    },
    projection::factors_digest,
};

/// The first IR version in which an initializer need not be an input, so that one which is means
/// a default.
const LEAST_IR: i64 = 4;

/// Split takes its sizes as an input from here on.
const LEAST_OPSET: i64 = 13;

/// A grafted model and what to hold against the adapter's header.
#[derive(Clone, Debug)]
pub struct Grafted {
    /// The base, unchanged but for the path and its input.
    pub proto: ModelProto,
    /// The modules that have a path, sorted.
    pub modules: Vec<ModuleId>,
    /// Factors digest of the default values.
    pub factors_digest: [u8; 32],
}

/// Puts the path of every module the header selects beside its weight, with `v` as the default of
/// [`VALUES`].
///
/// Whether the adapter belongs to this base is for the caller to check against the base digest.
/// `threads` changes only the time; 0 means one per core.
///
/// # Errors
/// If the header does not fit the model or `v`, or the model is grafted already, older than
/// IR version 4 or operator set 13.
pub fn graft(
    model: &OnnxModel,
    targets: &Targets,
    header: &Header,
    v: &[f32],
    threads: usize,
) -> Result<Grafted, SurgeryError> {
    refuse_grafted(model.graph())?;
    refuse_old(model)?;
    check_base(model)?;
    if is_made(model.graph(), VALUES) {
        return Err(GraftError::NameTaken { name: VALUES }.into());
    }
    let selection = selection(targets, header, v)?;
    let rank = selection.geometry().rank;
    let mut patch = Patch::default();
    patch.edits.push(Edit::AddInput(input(header)));
    patch.edits.push(Edit::AddInitializer(tensor_f32(VALUES, &[1, v.len() as i64], v)));
    let (mut paths, mut factors) = (Vec::new(), Vec::new());
    for (index, target) in selected(targets, header).enumerate() {
        let basis = basis_of(model, target, rank, threads)?;
        factors.push(selection.factors(index, &basis));
        paths.push(LowRank::new(target, &basis, header.split)?);
    }
    let first = first_site(&paths)?;
    let fans = fans(&paths)?;
    let most = fans.iter().map(|fan| fan.modules().len()).max().unwrap_or(0);
    let mixing = mixing_of_all(&selection, &fans, most * rank)?;
    patch.edits.extend(mixing.initializers.into_iter().map(Edit::AddInitializer));
    let nodes = mixing.nodes;
    patch.edits.extend(first.map(|node_index| Edit::InsertAfter { node_index, nodes }));
    for fan in &fans {
        fan.extend(model.graph(), &mut patch, rank, most * rank)?;
    }
    let mut proto = model.proto.clone();
    patch.apply(proto.graph.get_or_insert_default())?;
    let modules = factors.iter().map(|f| f.module).collect();
    Ok(Grafted { proto, modules, factors_digest: factors_digest(&factors) })
}

fn refuse_old(model: &OnnxModel) -> Result<(), GraftError> {
    let version = model.proto.ir_version();
    if version < LEAST_IR {
        return Err(GraftError::OldIr { version });
    }
    match model.kind() {
        Kind::Onnx { opset, .. } if opset < LEAST_OPSET => {
            Err(GraftError::OldOpset { version: opset, least: LEAST_OPSET })
        }
        _ => Ok(()),
    }
}

/// The input. What else than its numbers decides the update is said in its doc string, as `tla
/// pack` reads it: only adapters of the same geometry can take each other's place.
fn input(header: &Header) -> ValueInfoProto {
    let dims = [Dim::Named("tla_rows".to_owned()), Dim::Fixed(header.parameters() as i64)];
    let geometry = json!({
        "seed": header.seed,
        "rank": header.rank,
        "width": header.width,
        "groups": header.groups,
        "tying": header.tying.name(),
        "split": header.split.name(),
        "scale": f64::from(header.scale),
        "scalar": header.scalar.name(),
        "projection": header.projection.name(),
        "roles": header.roles.iter().map(|role| role.name()).collect::<Vec<_>>(),
        "first_layer": header.first_layer,
        "layers": header.layers,
    });
    ValueInfoProto {
        doc_string: Some(geometry.to_string()),
        ..tensor_value(VALUES, DataType::Float, &dims)
    }
}
