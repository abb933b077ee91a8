//! Which matrix of a model is which module.

use super::{
    dtypes::ElementType,
    packed::Part,
    quantised::{Quantisation, bits_of},
};
use crate::format::{ModuleId, RoleSet};
use std::collections::BTreeMap;

/// One module that can be adapted: a stored matrix, or some rows of one, and in a graph the node
/// it is the weight of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Layer and role.
    pub module: ModuleId,
    /// Output size: rows of the canonical weight.
    pub rows: usize,
    /// Input size: columns of the canonical weight.
    pub cols: usize,
    /// Element type of the initializer.
    pub dtype: ElementType,
    /// The type in which the weight is multiplied.
    pub computed_in: ElementType,
    /// Name of the initializer, or of the tensor in a checkpoint.
    pub initializer: String,
    /// Whether the initializer holds `[in, out]`, the transpose of the canonical weight.
    pub stored_transposed: bool,
    /// Which rows of the canonical matrix are the module's, where several modules are packed.
    pub part: Option<Part>,
    /// How integers become weights; `None` for floats.
    pub quantisation: Option<Quantisation>,
    /// Whether anything but this node reads the initializer. A writer must then give the node
    /// its own copy.
    pub shared: bool,
    /// The node; `None` in a checkpoint, which has no graph, and of a matrix that nodes inside branches
    /// read: it can be merged into, but nothing can be put beside it.
    pub node: Option<NodeSite>,
}

/// The node that multiplies by a module's weight: `MatMul`, `Gemm`, `MatMulNBits` or one of integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSite {
    /// Its name.
    pub name: String,
    /// Its place in the graph's list.
    pub index: usize,
    /// Which of its inputs leads to the weight.
    pub weight_slot: usize,
    /// Whether it reads the weight as `[out, in]`.
    pub reads_canonical: bool,
    /// What is multiplied, in floats: an input of the node, or what its input was quantised from.
    pub input: String,
    /// The place of the node that makes the product in floats: its own, unless it multiplies integers.
    pub product: usize,
    /// The place of the node behind which an update is added: that of the product, or of the `Add` of a
    /// bias, if nothing else reads the product. A runtime makes one operator of product and bias, and
    /// what stands between them would keep it from doing so.
    pub sum: usize,
    /// Whether activations are known to have three dimensions. The first of them is taken for the rows of
    /// the batch: a graph that has the sequence first looks just the same.
    pub batched: bool,
}

/// A matrix that is not adapted, or a layer without one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Name of the node or tensor, or `layers.<N>` for a layer with missing modules.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// Everything linear in a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The modules that can be adapted, sorted by module.
    pub targets: Vec<Target>,
    /// What was left out: nodes in graph order or tensors by name, then incomplete layers.
    pub skipped: Vec<Skipped>,
    /// One more than the highest layer any attention or MLP block, or a user's rule, names.
    pub layers: usize,
    /// The roles that the base digest covers.
    pub covered: RoleSet,
}

impl Targets {
    /// The target of a module, if it can be adapted.
    pub fn get(&self, module: ModuleId) -> Option<&Target> {
        let place = self.targets.binary_search_by_key(&module, |t| t.module).ok()?;
        self.targets.get(place)
    }

    /// Takes what was found, and adds the layers that lack a module to what was skipped.
    pub(super) fn complete(
        found: BTreeMap<ModuleId, Target>,
        mut skipped: Vec<Skipped>,
        layers: usize,
        covered: RoleSet,
    ) -> Self {
        for layer in 0..layers as u16 {
            let missing =
                covered.iter().filter(|&role| !found.contains_key(&ModuleId { layer, role }));
            let missing = missing.map(|role| role.name()).collect::<Vec<_>>().join(", ");
            if missing.is_empty() {
                continue;
            }
            let name = format!("layers.{layer}");
            let needs = match covered == RoleSet::LINEAR {
                true => "all seven roles",
                false => "all roles that were named",
            };
            let reason = format!(
                "no adaptable matrix for {missing}; the base digest needs {needs} in every layer"
            );
            skipped.push(Skipped { name, reason });
        }
        Self { targets: found.into_values().collect(), skipped, layers, covered }
    }
}

impl Target {
    /// Rows of the whole canonical matrix that is stored.
    pub fn stored_rows(&self) -> usize {
        self.part.map_or(self.rows, |part| part.of)
    }

    /// Bits of one stored value.
    pub(super) fn bits(&self) -> u64 {
        match self.quantisation {
            Some(Quantisation::Blocks { bits, .. }) => bits as u64,
            _ => match (self.dtype.size(), bits_of(self.dtype)) {
                (Some(bytes), _) => bytes.saturating_mul(8),
                (None, integer) => integer.map_or(0, |(bits, _)| bits as u64),
            },
        }
    }

    /// How the weight is stored, in a few words: "float16", "int4 in blocks of 32".
    pub fn stored_as(&self) -> String {
        match &self.quantisation {
            Some(quantisation) => quantisation.name(self.dtype),
            None => self.dtype.name(),
        }
    }
}
