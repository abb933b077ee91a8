//! What a name says about the modules it belongs to: of a node of a graph, and of a tensor of a
//! checkpoint.
//!
//! Every name is brought to the path that the module has in transformers, such as
//! `model.layers.3.self_attn.q_proj`, and read there. A user's own rules come first.

use super::proto::NodeProto;
use crate::format::{ModuleId, Role, RoleSet};

/// The roles by projection, in the order of their rows where one matrix holds several, as
/// transformers and the onnxruntime-genai builder name them.
const PROJECTIONS: [(&str, &[Role]); 9] = [
    ("q_proj", &[Role::Q]),
    ("k_proj", &[Role::K]),
    ("v_proj", &[Role::V]),
    ("qkv_proj", &[Role::Q, Role::K, Role::V]),
    ("o_proj", &[Role::O]),
    ("gate_proj", &[Role::Gate]),
    ("up_proj", &[Role::Up]),
    ("gate_up_proj", &[Role::Gate, Role::Up]),
    ("down_proj", &[Role::Down]),
];

/// Where torch's exporter writes the modules a node was traced in.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// The modules that a matrix holds: one, or several whose rows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub layer: u16,
    pub roles: &'static [Role],
    /// Whether a rule of the user's says so.
    pub by_rule: bool,
}

impl Claim {
    pub(crate) fn modules(self) -> impl Iterator<Item = ModuleId> {
        self.roles.iter().map(move |&role| ModuleId { layer: self.layer, role })
    }
}

/// How names lead to modules: by the user's rules, then as transformers names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    rules: Vec<Rule>,
}

/// One rule: names of this pattern are the modules of this role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    before: String,
    /// What follows `{layer}`; without one, all names are of layer 0.
    after: Option<String>,
    role: Role,
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing on one side of the sign.
    #[error(
        "{rule:?} is not NAME=ROLE. Write for example 'encoder.layer.{{layer}}.attention.self.query=q'"
    )]
    NoRole {
        /// The rule as given.
        rule: String,
    },
    /// A role that no module of a layer has.
    #[error("{role:?} is none of the roles q, k, v, o, gate, up and down. Choose one of them")]
    UnknownRole {
        /// The role as given.
        role: String,
    },
    /// More than one place for the layer's number.
    #[error("{name:?} names {{layer}} twice. Name it once")]
    TwoLayers {
        /// The pattern as given.
        name: String,
    },
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    /// `NAME=ROLE`, `{layer}` standing for the number of a layer.
    fn from_str(rule: &str) -> Result<Self, RuleError> {
        let sides =
            rule.rsplit_once('=').filter(|(name, role)| !name.is_empty() && !role.is_empty());
        let (name, role) = sides.ok_or_else(|| RuleError::NoRole { rule: rule.into() })?;
        let found = RoleSet::LINEAR.iter().find(|known| known.name() == role);
        let role = found.ok_or_else(|| RuleError::UnknownRole { role: role.into() })?;
        let (before, after) = match name.split_once("{layer}") {
            Some((_, after)) if after.contains("{layer}") => {
                return Err(RuleError::TwoLayers { name: name.into() });
            }
            Some((before, after)) => (before, Some(after.to_owned())),
            None => (name, None),
        };
        Ok(Self { before: before.into(), after, role })
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.before)?;
        if let Some(after) = &self.after {
            write!(f, "{{layer}}{after}")?;
        }
        write!(f, "={}", self.role)
    }
}

impl Rule {
    fn layer(&self, name: &str) -> Option<u16> {
        let rest = name.strip_prefix(self.before.as_str())?;
        match &self.after {
            None => rest.is_empty().then_some(0),
            Some(after) => layer_number(rest.strip_suffix(after.as_str())?),
        }
    }
}

impl Naming {
    /// These rules before the names of transformers.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The roles that a base digest covers: those of the rules, or without any all seven.
    pub fn covered(&self) -> RoleSet {
        let roles = self.rules.iter().map(|rule| rule.role);
        RoleSet::from_roles(roles).unwrap_or(RoleSet::LINEAR)
    }

    /// The module whose weight a tensor of a checkpoint is by its name, if it is one module's.
    pub fn module_of(&self, tensor: &str) -> Option<ModuleId> {
        let claim = self.of_tensor(tensor)?;
        match claim.roles {
            &[role] => Some(ModuleId { layer: claim.layer, role }),
            _ => None,
        }
    }

    /// What a node with a stored weight claims to be, by its path, its name or its weight's.
    pub(crate) fn of_node(&self, node: &NodeProto, weight: Option<&str>) -> Option<Claim> {
        let (path, exported) = (path_of(node), exported_path_of(node));
        let names = [path.as_deref(), exported.as_deref(), Some(node.name()), weight];
        self.by_rule(names.into_iter().flatten()).or_else(|| claim(path.as_deref()?))
    }

    /// What a tensor of a checkpoint claims to be, by its name with or without `.weight`.
    pub(crate) fn of_tensor(&self, name: &str) -> Option<Claim> {
        let path = name.strip_suffix(".weight");
        self.by_rule([name].into_iter().chain(path)).or_else(|| claim(path?))
    }

    /// The first rule that leads from none of the names to a module, as it was given.
    pub(crate) fn unused(&self, names: impl FnOnce() -> Vec<String>) -> Option<String> {
        if self.rules.is_empty() {
            return None;
        }
        let names = names();
        let idle = |rule: &&Rule| !names.iter().any(|name| rule.layer(name).is_some());
        self.rules.iter().find(idle).map(Rule::to_string)
    }

    /// All that a node may be called in a rule.
    pub(crate) fn names_of_node(node: &NodeProto) -> impl Iterator<Item = String> {
        path_of(node).into_iter().chain(exported_path_of(node)).chain([node.name().to_owned()])
    }

    fn by_rule<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<Claim> {
        self.rules.iter().find_map(|rule| {
            let layer = names.clone().find_map(|name| rule.layer(name))?;
            let roles = PROJECTIONS.iter().find(|(_, roles)| *roles == [rule.role])?.1;
            Some(Claim { layer, roles, by_rule: true })
        })
    }
}

/// The module a node was exported from, by the path it has in transformers.
fn path_of(node: &NodeProto) -> Option<String> {
    let path = exported_path_of(node)?;
    // The genai builder shortens the block's name.
    let written = scopes_of(node).is_none();
    Some(if written { path.replacen(".attn.", ".self_attn.", 1) } else { path })
}

/// The same as the exporter calls it: by torch's own record, or the node's name without its operator,
/// as optimum and the genai builder write it.
fn exported_path_of(node: &NodeProto) -> Option<String> {
    if let Some(scopes) = scopes_of(node) {
        // A Python list of strings; the last is the operation, the one before it its module.
        return scopes.rsplit('\'').nth(3).map(str::to_owned);
    }
    let (path, _) = node.name().strip_prefix('/')?.rsplit_once('/')?;
    Some(path.replace('/', "."))
}

fn scopes_of(node: &NodeProto) -> Option<&str> {
    Some(node.metadata_props.iter().find(|p| p.key() == SCOPES)?.value())
}

/// What is at `model.layers.<N>.{self_attn,mlp}.<x>_proj`, or the head at `lm_head`.
///
/// The path is matched whole, so that the layers of a vision tower or a draft model beside the
/// language model are not taken for its own.
fn claim(path: &str) -> Option<Claim> {
    if path == "lm_head" {
        return Some(Claim { layer: ModuleId::HEAD_LAYER, roles: &[Role::LmHead], by_rule: false });
    }
    let (layer, rest) = layer_of(path)?;
    let (block, projection) = rest.split_once('.')?;
    let (_, roles) = PROJECTIONS.iter().find(|(name, _)| *name == projection)?;
    let attention = roles.iter().all(|role| matches!(role, Role::Q | Role::K | Role::V | Role::O));
    let of_block = match block {
        "self_attn" => attention,
        "mlp" => !attention,
        _ => false,
    };
    of_block.then_some(Claim { layer, roles, by_rule: false })
}

fn layer_of(path: &str) -> Option<(u16, &str)> {
    let (digits, rest) = path.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer_number(digits)?, rest))
}

/// The layer of a path inside an attention or MLP block.
fn block_layer(path: &str) -> Option<u16> {
    let (layer, rest) = layer_of(path)?;
    let (block, _) = rest.split_once('.')?;
    matches!(block, "self_attn" | "mlp").then_some(layer)
}

/// The layer whose attention or MLP block a node lies in.
pub(crate) fn layer_of_node(node: &NodeProto) -> Option<u16> {
    // The operator may stand in the block itself.
    block_layer(&format!("{}.", path_of(node)?))
}

/// The layer whose attention or MLP block a tensor lies in.
pub(crate) fn layer_of_tensor(name: &str) -> Option<u16> {
    block_layer(name)
}

fn layer_number(digits: &str) -> Option<u16> {
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let layer = digits.parse().ok().filter(|_| plain)?;
    // The format counts layers in a u16, so the last number has no count.
    (layer != u16::MAX).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::node::node;
    use crate::model::proto::StringStringEntryProto;

    fn named(name: &str) -> Option<Claim> {
        Naming::default().of_node(&node("MatMul", name, &[], &[]), None)
    }

    fn scoped(scopes: &str) -> Option<Claim> {
        let mut node = node("MatMul", "node_linear_3", &[], &[]);
        let (key, value) = (Some(SCOPES.to_owned()), Some(scopes.to_owned()));
        node.metadata_props.push(StringStringEntryProto { key, value });
        Naming::default().of_node(&node, None)
    }

    #[test]
    fn every_style_of_name_leads_to_its_modules() {
        let q = Claim { layer: 12, roles: &[Role::Q], by_rule: false };
        for name in [
            "/model/layers.12/self_attn/q_proj/MatMul",
            "/model/layers.12/self_attn/q_proj/MatMul_Q4",
            "/model/layers.12/attn/q_proj/MatMul",
        ] {
            assert_eq!(named(name), Some(q), "{name}");
        }
        let qkv = Claim { layer: 0, roles: &[Role::Q, Role::K, Role::V], by_rule: false };
        assert_eq!(named("/model/layers.0/attn/qkv_proj/MatMulNBits"), Some(qkv));
        let gate_up = Claim { layer: 3, roles: &[Role::Gate, Role::Up], by_rule: false };
        assert_eq!(named("/model/layers.3/mlp/gate_up_proj/MatMul"), Some(gate_up));
        assert_eq!(
            scoped(
                "['', 'model', 'model.layers.12', 'model.layers.12.self_attn', \
                 'model.layers.12.self_attn.q_proj', 'linear']"
            ),
            Some(q)
        );
        assert_eq!(Naming::default().of_tensor("model.layers.12.self_attn.q_proj.weight"), Some(q));
    }

    #[test]
    fn names_that_look_alike_are_none() {
        for name in [
            "",
            "/",
            "/model/layers.0/self_attn/MatMul",
            "/model/layers.0/self_attn/up_proj/MatMul",
            "/model/layers.0/mlp/q_proj/MatMul",
            "/vision/model/layers.0/self_attn/q_proj/MatMul",
            "/model/layers.00/self_attn/q_proj/MatMul",
            "/model/layers.65535/self_attn/q_proj/MatMul",
            "/model/layers.+1/self_attn/q_proj/MatMul",
            "/model/layers.0/self_attn/q_proj/lora_A/MatMul",
            "/model/layers.0/attention/q_proj/MatMul",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
        for scopes in ["", "[]", "'", "['linear']", "['', 'model.layers.0.self_attn', 'matmul']"] {
            assert_eq!(scoped(scopes), None, "{scopes}");
        }
        for name in [
            "model.layers.1.self_attn.q_proj.bias",
            "model.layers.1.attn.q_proj.weight",
            "q_proj.weight",
            "weight",
        ] {
            assert_eq!(Naming::default().of_tensor(name), None, "{name}");
        }
    }

    #[test]
    fn a_rule_names_layer_and_role_by_path_name_or_weight() {
        let rules =
            ["encoder.layer.{layer}.attention.self.query=q", "pooler.dense=o", "w{layer}=up"];
        let naming = Naming::new(rules.map(|rule| rule.parse().unwrap()).to_vec());
        let of = |name: &str, weight| naming.of_node(&node("MatMul", name, &[], &[]), weight);
        let claim = |layer, roles| Some(Claim { layer, roles, by_rule: true });
        assert_eq!(of("/encoder/layer.5/attention/self/query/MatMul", None), claim(5, &[Role::Q]));
        assert_eq!(naming.of_tensor("pooler.dense.weight"), claim(0, &[Role::O]));
        assert_eq!(of("any", Some("w7")), claim(7, &[Role::Up]));
        assert_eq!(of("any", Some("w07")), None);
        assert_eq!(
            of("/model/layers.1/mlp/up_proj/MatMul", None),
            Some(Claim { layer: 1, roles: &[Role::Up], by_rule: false })
        );
        assert!(naming.covered().iter().eq([Role::Q, Role::O, Role::Up]));
        assert_eq!(Naming::default().covered(), RoleSet::LINEAR);
    }

    #[test]
    fn a_rule_may_call_a_block_what_the_exporter_calls_it() {
        let attention = node("Gemm", "/transformer/h.3/attn/c_proj/Gemm", &[], &[]);
        for rule in
            ["transformer.h.{layer}.attn.c_proj=o", "transformer.h.{layer}.self_attn.c_proj=o"]
        {
            let naming = Naming::new(vec![rule.parse().unwrap()]);
            let claim = Claim { layer: 3, roles: &[Role::O], by_rule: true };
            assert_eq!(naming.of_node(&attention, None), Some(claim), "{rule}");
            assert_eq!(
                naming.unused(|| Naming::names_of_node(&attention).collect()),
                None,
                "{rule}"
            );
        }
    }

    #[test]
    fn a_rule_that_says_nothing_is_an_error() {
        for rule in ["", "q", "=q", "name=", "name=lm_head", "name=Q", "{layer}{layer}=q"] {
            assert!(rule.parse::<Rule>().is_err(), "{rule:?}");
        }
    }
}
