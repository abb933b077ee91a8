//! Which matrix of a model is meant: roles, sets of roles, modules.

use core::fmt;

use super::FormatError;
use super::kinds::coded;

coded! {
    /// What a weight matrix does in its layer. The code is the bit in a [`RoleSet`].
    Role {
        /// Query projection.
        Q = 0, "q";
        /// Key projection.
        K = 1, "k";
        /// Value projection.
        V = 2, "v";
        /// Attention output projection.
        O = 3, "o";
        /// Gate of the MLP.
        Gate = 4, "gate";
        /// Up projection of the MLP.
        Up = 5, "up";
        /// Down projection of the MLP.
        Down = 6, "down";
        /// The output head, which belongs to no layer.
        LmHead = 7, "lm_head";
    }
}

/// A set of roles that is never empty and holds no unknown bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleSet(u16);

impl RoleSet {
    /// The seven linear roles of a layer.
    pub const LINEAR: Self = Self(0x7f);
    const KNOWN: u16 = 0xff;

    /// The set of these bits; refuses unknown bits and the empty set.
    pub const fn from_bits(bits: u16) -> Result<Self, FormatError> {
        if bits & !Self::KNOWN != 0 {
            return Err(FormatError::UnknownRoles { bits });
        }
        if bits == 0 { Err(FormatError::NoRoles) } else { Ok(Self(bits)) }
    }

    /// The set of these roles, in any order; refuses the empty set.
    pub fn from_roles(roles: impl IntoIterator<Item = Role>) -> Result<Self, FormatError> {
        Self::from_bits(roles.into_iter().fold(0, |bits, role| bits | 1 << role.code()))
    }

    /// The bits as stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the role is in the set.
    pub const fn contains(self, role: Role) -> bool {
        self.0 >> role.code() & 1 == 1
    }

    /// The roles in bit order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |&role| self.contains(role))
    }
}

/// One weight matrix of a model. Ordered by layer, then role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId {
    /// Layer counted from 0; [`ModuleId::HEAD_LAYER`] for the head.
    pub layer: u16,
    /// The role in that layer.
    pub role: Role,
}

impl ModuleId {
    /// The layer number of the head: after every layer a header can name.
    pub const HEAD_LAYER: u16 = u16::MAX;
    /// The output head.
    pub const LM_HEAD: Self = Self { layer: Self::HEAD_LAYER, role: Role::LmHead };

    /// A module of a layer.
    pub const fn new(layer: u16, role: Role) -> Self {
        Self { layer, role }
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LM_HEAD => f.write_str("lm_head"),
            Self { layer, role } => write!(f, "layers.{layer}.{role}"),
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_role_set_is_never_empty_and_never_unknown() {
        assert_eq!(RoleSet::from_bits(0), Err(FormatError::NoRoles));
        for bits in 1..=u16::MAX {
            assert_eq!(RoleSet::from_bits(bits).is_ok(), bits < 256, "{bits:#x}");
        }
        assert_eq!(RoleSet::from_roles([Role::Down, Role::Q, Role::Q]).unwrap().bits(), 0x41);
        assert!(RoleSet::LINEAR.iter().eq(Role::ALL[..7].iter().copied()));
    }

    #[test]
    fn modules_sort_by_layer_then_role_and_the_head_comes_last() {
        let sorted = [
            ModuleId::new(0, Role::Down),
            ModuleId::new(1, Role::Q),
            ModuleId::new(1, Role::Up),
            ModuleId::LM_HEAD,
        ];
        assert!(sorted.is_sorted());
        assert!(sorted.map(|m| std::string::ToString::to_string(&m)).eq(&[
            "layers.0.down",
            "layers.1.q",
            "layers.1.up",
            "lm_head"
        ]));
    }
}
