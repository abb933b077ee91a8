//! What is to be trained, and all that can be refused before anything is computed.

use super::{
    TrainError,
    batch::Layout,
    data::Problem,
    placement::scout::Effort,
    room::{self, Longest},
};
use crate::{
    format::{Header, ModuleId, Projection, RoleSet, Scalar, Split, Tying},
    model::{OnnxModel, Targets, base_digest},
    policy::{voice::Voice, wording::Wording},
    projection::{Geometry, select},
    runtime::{self, Interface, Provider},
    surgery::refuse_grafted,
};

/// The form of the update (paper, section 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// Rank r.
    pub rank: u8,
    /// Numbers per group, u.
    pub width: u16,
    /// Groups, g.
    pub groups: u16,
    /// Where the directions come from: drawn from a seed, or one for each entry of R (LoRA-XS).
    pub projection: Projection,
    /// Which modules share a group.
    pub tying: Tying,
    /// Where the singular values go.
    pub split: Split,
    /// The type v ships in.
    pub scalar: Scalar,
    /// Factor α.
    pub scale: f32,
}

/// Which modules are adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Those that hold most of the gradient for their number.
    Measured,
    /// Those of the given roles, in `layers` layers from `first_layer` on; 0 for all.
    Given {
        /// Roles.
        roles: RoleSet,
        /// First layer.
        first_layer: u16,
        /// Number of layers, 0 for all.
        layers: u16,
    },
}

/// Which projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Given(u64),
    /// The best of this many, from 0 on.
    Search(u64),
}

/// Where v acts: what is asked for and how hard it is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    /// The form of the update.
    pub form: Form,
    /// Which modules.
    pub site: Site,
    /// Which projection.
    pub seed: Seed,
    /// How much is measured where something is to be found.
    pub effort: Effort,
}

impl Form {
    /// The header of this form on the seven linear roles, unbound.
    pub fn header(&self) -> Header {
        Header {
            scalar: self.scalar,
            split: self.split,
            tying: self.tying,
            rank: self.rank,
            projection: self.projection,
            width: self.width,
            groups: self.groups,
            roles: RoleSet::LINEAR,
            seed: 0,
            scale: self.scale,
            first_layer: 0,
            layers: 0,
            base_digest: [0; 32],
            factors_digest: [0; 32],
        }
    }

    /// Its geometry under a projection.
    pub fn geometry(&self, seed: u64) -> Geometry {
        Geometry::from(&Header { seed, ..self.header() })
    }
}

impl Wish {
    /// Whether the gradient decides anything.
    pub fn is_measured(&self) -> bool {
        self.site == Site::Measured || matches!(self.seed, Seed::Search(_))
    }

    /// A header that names every module that may be adapted.
    fn widest(&self) -> Header {
        match self.site {
            Site::Measured => self.form.header(),
            Site::Given { roles, first_layer, layers } => {
                Header { roles, first_layer, layers, ..self.form.header() }
            }
        }
    }
}

/// A wish that fits its model.
pub struct Plan<'a> {
    pub(super) model: &'a OnnxModel,
    pub(super) targets: &'a Targets,
    pub(super) wish: Wish,
    pub(super) voice: Voice,
    pub(super) candidates: Vec<ModuleId>,
    /// What the rows of the gradient graph will hold.
    pub layout: Layout,
    /// The digest of the weights.
    pub base_digest: [u8; 32],
}

impl<'a> Plan<'a> {
    /// Checks a wish against a model, its tokenizer and template, and ONNX Runtime's presence.
    ///
    /// # Errors
    /// If the form is out of range, no module has the roles and layers asked for, the model is
    /// grafted already, not a causal language model with tokenizer and template, or there is no
    /// ONNX Runtime.
    pub fn new(model: &'a OnnxModel, targets: &'a Targets, wish: Wish) -> Result<Self, TrainError> {
        refuse_grafted(model.graph())?;
        let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
        let candidates = select(&wish.widest(), &known)?;
        let voice = voice_of(model)?;
        // Whoever wants another provider's library has loaded it before.
        runtime::ready(Provider::Cpu)?;
        let base_digest = base_digest(model, targets)?;
        let layout = Layout::of(model.graph())?;
        Ok(Self { model, targets, wish, voice, candidates, layout, base_digest })
    }

    /// Tokens the model tells apart.
    pub fn vocabulary(&self) -> usize {
        self.voice.vocabulary
    }

    /// Checks that the model has room for `problems`, in the words they are put in.
    ///
    /// # Errors
    /// As [`room::check`].
    pub fn check_room(&self, problems: &[Problem], longest: Longest) -> Result<(), TrainError> {
        room::check(&self.voice, problems, longest)
    }

    /// The same, with questions in these words.
    pub fn worded(self, wording: Wording) -> Self {
        Self { voice: self.voice.worded(wording), ..self }
    }
}

/// The tokenizer and chat template beside a causal language model.
///
/// # Errors
/// If the model is not one, or a file is missing or does not fit its vocabulary.
pub fn voice_of(model: &OnnxModel) -> Result<Voice, TrainError> {
    let interface = Interface::of(model.graph())?;
    Ok(Voice::load(&model.home(), interface.vocabulary)?)
}
