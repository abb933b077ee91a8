//! The header's fields and what makes them valid.

use super::{
    CHECKSUM_LEN, FormatError, HEADER_LEN, ModuleId, Projection, Role, RoleSet, Scalar, Split,
    Tying,
};

/// The largest rank.
pub const MAX_RANK: u8 = 64;
/// The most values, groups × width, one file may hold.
pub const MAX_VALUES: u32 = 1 << 22;

/// Everything an adapter says about itself besides its values (`spec/format.md`, layout).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// How values are stored.
    pub scalar: Scalar,
    /// Where the singular values go.
    pub split: Split,
    /// Which modules share a group.
    pub tying: Tying,
    /// Rank r of every update, 1 to [`MAX_RANK`].
    pub rank: u8,
    /// Where R comes from.
    pub projection: Projection,
    /// Values per group, u.
    pub width: u16,
    /// Groups, g.
    pub groups: u16,
    /// The roles that carry an update.
    pub roles: RoleSet,
    /// Seed of the projection; says nothing under [`Projection::Unit`].
    pub seed: u64,
    /// Factor α of every update, above 0.
    pub scale: f32,
    /// First layer that carries an update.
    pub first_layer: u16,
    /// Number of layers that do; 0 for all, and then `first_layer` is 0 too.
    pub layers: u16,
    /// Digest of the weights it belongs to; zero when unbound.
    pub base_digest: [u8; 32],
    /// Digest of the factors it must rebuild to; zero when unbound.
    pub factors_digest: [u8; 32],
}

impl Default for Header {
    /// The 13 bf16 parameters of the paper on the seven linear roles, unbound.
    fn default() -> Self {
        Self {
            scalar: Scalar::Bf16,
            split: Split::Paper,
            tying: Tying::Tiled,
            rank: 2,
            projection: Projection::Seeded,
            width: 13,
            groups: 1,
            roles: RoleSet::LINEAR,
            seed: 7,
            scale: 1.0,
            first_layer: 0,
            layers: 0,
            base_digest: [0; 32],
            factors_digest: [0; 32],
        }
    }
}

impl Header {
    /// Checks every field that its type leaves open, in the order of the spec.
    pub fn check(&self) -> Result<(), FormatError> {
        let Self { rank, width, groups, scale, first_layer, layers, .. } = *self;
        if rank == 0 {
            return Err(FormatError::RankZero);
        }
        if rank > MAX_RANK {
            return Err(FormatError::RankTooLarge { rank });
        }
        if width == 0 {
            return Err(FormatError::WidthZero);
        }
        if self.projection == Projection::Unit && width != u16::from(rank) * u16::from(rank) {
            return Err(FormatError::UnitWidth { width, rank });
        }
        if groups == 0 {
            return Err(FormatError::GroupsZero);
        }
        if !scale.is_finite() {
            return Err(FormatError::ScaleNotFinite { scale });
        }
        if scale <= 0.0 {
            return Err(FormatError::ScaleNotPositive { scale });
        }
        if layers == 0 && first_layer != 0 {
            return Err(FormatError::FirstLayerWithoutLayers { first_layer });
        }
        if first_layer.checked_add(layers).is_none() {
            return Err(FormatError::LayersOverflow { first_layer, layers });
        }
        let modules = self.most_modules();
        if u32::from(groups) > modules {
            return Err(FormatError::TooManyGroups { groups, modules });
        }
        let values = u32::from(groups) * u32::from(width);
        if values > MAX_VALUES {
            return Err(FormatError::TooManyValues { values });
        }
        Ok(())
    }

    /// Number of values, groups × width.
    pub fn parameters(&self) -> usize {
        usize::from(self.groups) * usize::from(self.width)
    }

    /// Length of the whole file.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.scalar.size() * self.parameters() + CHECKSUM_LEN
    }

    /// Whether it names both the weights it belongs to and what it must rebuild to.
    pub fn is_bound(&self) -> bool {
        self.base_digest != [0; 32] && self.factors_digest != [0; 32]
    }

    /// Whether a module of the model carries an update. The range of layers does not apply to
    /// the head, which is only ever [`ModuleId::LM_HEAD`].
    pub fn selects(&self, module: ModuleId) -> bool {
        let place = if module.role == Role::LmHead {
            module == ModuleId::LM_HEAD
        } else {
            self.layers == 0
                || module.layer >= self.first_layer && module.layer - self.first_layer < self.layers
        };
        place && self.roles.contains(module.role)
    }

    fn most_modules(&self) -> u32 {
        let head = u32::from(self.roles.contains(Role::LmHead));
        let layers = if self.layers == 0 { u16::MAX } else { self.layers };
        (self.roles.bits().count_ones() - head) * u32::from(layers) + head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_13_parameters_in_154_bytes() {
        let header = Header::default();
        assert_eq!(header.check(), Ok(()));
        assert_eq!((header.parameters(), header.encoded_len()), (13, 154));
        assert!(!header.is_bound());
    }

    #[test]
    fn a_layer_range_selects_its_layers_and_leaves_the_head_alone() {
        let roles = RoleSet::from_roles([Role::Down, Role::LmHead]).unwrap();
        let header = Header { roles, first_layer: 2, layers: 3, ..Header::default() };
        let chosen: [bool; 7] =
            core::array::from_fn(|l| header.selects(ModuleId::new(l as u16, Role::Down)));
        assert_eq!(chosen, [false, false, true, true, true, false, false]);
        assert!(header.selects(ModuleId::LM_HEAD));
        assert!(!header.selects(ModuleId::new(2, Role::LmHead)));
        assert!(!header.selects(ModuleId::new(2, Role::Up)));
        assert!(Header::default().selects(ModuleId::new(9000, Role::Up)));
    }

    #[test]
    fn there_are_never_more_groups_than_modules() {
        let roles = RoleSet::from_roles([Role::Up, Role::LmHead]).unwrap();
        let header = Header { roles, first_layer: 1, layers: 3, groups: 4, ..Header::default() };
        assert_eq!(header.check(), Ok(()));
        let header = Header { groups: 5, ..header };
        assert_eq!(header.check(), Err(FormatError::TooManyGroups { groups: 5, modules: 4 }));
    }
}
