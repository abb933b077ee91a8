//! How much of an update is left in the merged weights, said to people and machines.

use super::{base::Base, sum::Sum};
use crate::{
    format::ModuleId,
    surgery::{ModuleSurvival, Survival},
};
use serde::Serialize;
use std::fmt;

/// What is left of one module's update.
#[derive(Serialize)]
pub struct ModuleLine {
    layer: u16,
    role: &'static str,
    survival: f64,
}

/// The modules, sorted.
pub fn lines(survival: &Survival) -> Vec<ModuleLine> {
    let line = |m: &ModuleSurvival| ModuleLine {
        layer: m.module.layer,
        role: m.module.role.name(),
        survival: m.fraction(),
    };
    survival.modules.iter().map(line).collect()
}

/// A table of them.
pub fn table(f: &mut fmt::Formatter<'_>, modules: &[ModuleLine]) -> fmt::Result {
    writeln!(f, "{:>5}  {:<7}  {:>9}", "layer", "role", "survival")?;
    for ModuleLine { layer, role, survival } in modules {
        writeln!(f, "{:>5}  {role:<7}  {:>9}", Layer(*layer), Percent(*survival))?;
    }
    Ok(())
}

/// The whole update in a few words.
pub struct Left {
    /// The part of it that survived, 1 for all.
    pub fraction: f64,
    /// Its modules.
    pub modules: usize,
    /// Whether there was no update.
    pub nothing: bool,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fraction, modules, nothing } = self;
        match nothing {
            true => write!(f, "nothing was to be merged into its {modules} modules"),
            false => {
                write!(f, "{} of the update survives in {modules} modules", Percent(*fraction))
            }
        }
    }
}

/// What can be done where most of the update of `sum` is lost. Integers have a grid that ends: a larger
/// update would be cut off there. They may get another one if they `can_be_requantised`.
pub fn remedy(sum: &Sum, base: &Base, survival: &Survival, can_be_requantised: bool) -> String {
    let merged = || survival.modules.iter().filter_map(|m| base.targets.get(m.module));
    let integers = merged().any(|target| target.quantisation.is_some());
    let mut ways = Vec::new();
    if sum.is_one_whole() && merged().all(|target| target.node.is_some()) {
        ways.push("keep all of it with `tla graft` or `tla bake --graft`");
    }
    match integers {
        true if !can_be_requantised => {}
        true => ways.push("keep more of it with `tla bake --requantise`"),
        false => ways.push("train a larger update"),
    }
    ways.push("write it anyway with --force");
    let last = ways.pop().unwrap_or_default();
    let mut text = match ways.is_empty() {
        true => last.to_owned(),
        false => format!("{}, or {last}", ways.join(", ")),
    };
    text[..1].make_ascii_uppercase();
    text
}

/// The number of a layer; the head is of none.
pub struct Layer(pub u16);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ModuleId::HEAD_LAYER => f.pad("head"),
            layer => fmt::Display::fmt(&layer, f),
        }
    }
}

/// A fraction for people.
pub struct Percent(pub f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} %", self.0 * 100.0))
    }
}
