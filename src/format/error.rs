//! Every reason to refuse a file or a header, one variant each.

use core::fmt;

use super::{MAX_RANK, MAX_VALUES, Scalar};

/// Why bytes are not an adapter, or an adapter cannot be written. `spec/format.md` has one
/// sentence per variant, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are the offending values the message names")]
pub enum FormatError {
    /// Fewer bytes than header and checksum take.
    TooShort { len: usize },
    /// The first four bytes are not the magic.
    BadMagic { found: [u8; 4] },
    /// A version other than 1.
    UnknownVersion { found: u8 },
    /// No such storage type.
    UnknownScalar { found: u8 },
    /// No such split.
    UnknownSplit { found: u8 },
    /// No such tying.
    UnknownTying { found: u8 },
    /// No such projection.
    UnknownProjection { found: u8 },
    /// A bit that stands for no role.
    UnknownRoles { bits: u16 },
    /// No role.
    NoRoles,
    /// Rank 0.
    RankZero,
    /// A rank above [`MAX_RANK`].
    RankTooLarge { rank: u8 },
    /// Width 0.
    WidthZero,
    /// Unit projection with a width other than rank².
    UnitWidth { width: u16, rank: u8 },
    /// No group.
    GroupsZero,
    /// A scale that is NaN or infinite.
    ScaleNotFinite { scale: f32 },
    /// A scale of zero or below.
    ScaleNotPositive { scale: f32 },
    /// A first layer although all layers are meant.
    FirstLayerWithoutLayers { first_layer: u16 },
    /// A range of layers that ends beyond 65535.
    LayersOverflow { first_layer: u16, layers: u16 },
    /// More groups than modules the header can select.
    TooManyGroups { groups: u16, modules: u32 },
    /// More values than [`MAX_VALUES`].
    TooManyValues { values: u32 },
    /// Not exactly the bytes the header asks for.
    WrongLength { expected: usize, len: usize },
    /// The last 32 bytes are not the SHA-256 of those before.
    WrongChecksum,
    /// A value that is NaN or infinite.
    ValueNotFinite { index: usize },
    /// A stored −0, which has the other encoding +0.
    NegativeZero { index: usize },
    /// Encoding: not groups × width values.
    WrongValueCount { expected: usize, len: usize },
    /// Encoding: a value the storage type cannot hold exactly.
    ValueNotRepresentable { index: usize, value: f32, scalar: Scalar },
    /// Encoding: the output has no room.
    BufferTooSmall { needed: usize, len: usize },
}

impl FormatError {
    /// A stable name for machines: the variant in kebab-case.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too-short",
            Self::BadMagic { .. } => "bad-magic",
            Self::UnknownVersion { .. } => "unknown-version",
            Self::UnknownScalar { .. } => "unknown-scalar",
            Self::UnknownSplit { .. } => "unknown-split",
            Self::UnknownTying { .. } => "unknown-tying",
            Self::RankZero => "rank-zero",
            Self::RankTooLarge { .. } => "rank-too-large",
            Self::UnknownProjection { .. } => "unknown-projection",
            Self::WidthZero => "width-zero",
            Self::UnitWidth { .. } => "unit-width",
            Self::GroupsZero => "groups-zero",
            Self::UnknownRoles { .. } => "unknown-roles",
            Self::NoRoles => "no-roles",
            Self::ScaleNotFinite { .. } => "scale-not-finite",
            Self::ScaleNotPositive { .. } => "scale-not-positive",
            Self::FirstLayerWithoutLayers { .. } => "first-layer-without-layers",
            Self::LayersOverflow { .. } => "layers-overflow",
            Self::TooManyGroups { .. } => "too-many-groups",
            Self::TooManyValues { .. } => "too-many-values",
            Self::WrongLength { .. } => "wrong-length",
            Self::WrongChecksum => "wrong-checksum",
            Self::ValueNotFinite { .. } => "value-not-finite",
            Self::NegativeZero { .. } => "negative-zero",
            Self::WrongValueCount { .. } => "wrong-value-count",
            Self::ValueNotRepresentable { .. } => "value-not-representable",
            Self::BufferTooSmall { .. } => "buffer-too-small",
        }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NEWER: &str = "A newer tla may have written it: update, or ask its author.";
        match *self {
            Self::TooShort { len } => write!(
                f,
                "the file has {len} bytes, and an adapter at least 128. Check that it is an adapter and was copied whole."
            ),
            Self::BadMagic { found: [a, b, c, d] } => write!(
                f,
                "the file starts with {a:02x} {b:02x} {c:02x} {d:02x}, not 89 54 4c 41. It is not an adapter, or it was converted as text."
            ),
            Self::UnknownVersion { found } => {
                write!(f, "the format version is {found}, and this reader knows 1. {NEWER}")
            }
            Self::UnknownScalar { found } => {
                write!(f, "{found} stands for no scalar type. {NEWER}")
            }
            Self::UnknownSplit { found } => write!(f, "{found} stands for no split. {NEWER}"),
            Self::UnknownTying { found } => write!(f, "{found} stands for no tying. {NEWER}"),
            Self::RankZero => f.write_str("the rank is 0. Choose 1 or more; 2 is usual."),
            Self::RankTooLarge { rank } => {
                write!(f, "the rank is {rank}. Choose at most {MAX_RANK}.")
            }
            Self::UnknownProjection { found } => {
                write!(f, "{found} stands for no projection. {NEWER}")
            }
            Self::WidthZero => f.write_str("the width is 0. Choose 1 or more values per group."),
            Self::UnitWidth { width, rank } => write!(
                f,
                "the width is {width} with a unit projection of rank {rank}. Choose width {}.",
                u16::from(rank) * u16::from(rank)
            ),
            Self::GroupsZero => f.write_str("the number of groups is 0. Choose 1 or more."),
            Self::UnknownRoles { bits } => {
                write!(f, "the roles {bits:#06x} hold a bit that stands for no role. {NEWER}")
            }
            Self::NoRoles => f.write_str("no role is chosen. Name one or more."),
            Self::ScaleNotFinite { scale } => {
                write!(f, "the scale is {scale}. Choose a finite one; 1 is usual.")
            }
            Self::ScaleNotPositive { scale } => {
                write!(f, "the scale is {scale}. Choose one above 0; to subtract, negate v.")
            }
            Self::FirstLayerWithoutLayers { first_layer } => write!(
                f,
                "the first layer is {first_layer} although all layers are meant. Name the number of layers, or start at 0."
            ),
            Self::LayersOverflow { first_layer, layers } => write!(
                f,
                "{layers} layers from layer {first_layer} on end beyond 65535. Name layers the model has."
            ),
            Self::TooManyGroups { groups, modules } => write!(
                f,
                "there are {groups} groups for at most {modules} modules. Choose no more groups than modules."
            ),
            Self::TooManyValues { values } => write!(
                f,
                "{values} values are asked for. Choose groups and width so that at most {MAX_VALUES} are."
            ),
            Self::WrongLength { expected, len } => write!(
                f,
                "the file has {len} bytes, and its header asks for {expected}. It was cut or something was appended: copy it again."
            ),
            Self::WrongChecksum => {
                f.write_str("the checksum does not match. The file is damaged: copy it again.")
            }
            Self::ValueNotFinite { index } => write!(
                f,
                "value {index} is not a finite number in the storage type. Lower the learning rate, or store as f32."
            ),
            Self::NegativeZero { index } => {
                write!(f, "value {index} is stored as -0. Its writer must store +0.")
            }
            Self::WrongValueCount { expected, len } => write!(
                f,
                "there are {len} values, and groups times width is {expected}. Correct either."
            ),
            Self::ValueNotRepresentable { index, value, scalar } => write!(
                f,
                "value {index}, {value:e}, is no {scalar}. Round it first, or store as f32."
            ),
            Self::BufferTooSmall { needed, len } => {
                write!(f, "the output has room for {len} bytes. Give it {needed}.")
            }
        }
    }
}

impl core::error::Error for FormatError {}
