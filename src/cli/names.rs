//! `--module`: which names are which modules, for models whose names are not known.

use crate::model::{Naming, Rule};

/// The option.
#[derive(clap::Args, Default)]
pub struct Names {
    /// Take what has this name for modules of this role, {layer} standing for the layer's number,
    /// as in 'encoder.layer.{layer}.attention.self.query=q'. A name is the module's path in
    /// transformers, a node's, or a tensor's. May be given several times; the base digest then
    /// covers the roles that are named
    #[arg(long = "module", value_name = "NAME=ROLE")]
    rules: Vec<Rule>,
}

impl Names {
    /// The rules as they are given, in order.
    #[cfg(feature = "train")]
    pub fn named(&self) -> String {
        self.rules.iter().map(Rule::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The rules before the known names.
    pub fn naming(&self) -> Naming {
        Naming::new(self.rules.clone())
    }
}
