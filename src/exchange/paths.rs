//! What a module is called in transformers.

use super::ExchangeError;
use crate::{
    format::{ModuleId, Role, RoleSet},
    model::{Target, Targets},
};

/// The path of a module, such as `model.layers.0.self_attn.q_proj`: in a checkpoint the name of its
/// tensor, in a graph the one that transformers gives it.
pub(super) fn path_of(targets: &Targets, target: &Target) -> Result<String, ExchangeError> {
    let ModuleId { layer, role } = target.module;
    if target.node.is_none() {
        return match target.part {
            Some(_) => Err(ExchangeError::Packed { module: target.module }),
            None => Ok(target.initializer.trim_end_matches(".weight").to_owned()),
        };
    }
    if targets.covered != RoleSet::LINEAR {
        return Err(ExchangeError::UnknownModule { name: target.module.to_string() });
    }
    let block = match role {
        Role::Q | Role::K | Role::V | Role::O => "self_attn",
        Role::Gate | Role::Up | Role::Down => "mlp",
        Role::LmHead => return Ok("lm_head".into()),
    };
    Ok(format!("model.layers.{layer}.{block}.{role}_proj"))
}
