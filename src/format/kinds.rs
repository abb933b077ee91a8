//! The four choices a header makes by one byte each, and the macro that names them.

/// An enum whose byte in the file, name in JSON and order are one table.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl $name {
            /// Every value, in the order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The byte that stands for it in the file.
            pub const fn code(self) -> u8 { self as u8 }

            /// The value a byte stands for.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// Its lower-case name, as in JSON and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value of a lower-case name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use coded;

coded! {
    /// How one value of v is stored.
    Scalar {
        /// bfloat16: the upper half of an f32.
        Bf16 = 0, "bf16";
        /// IEEE binary16.
        F16 = 1, "f16";
        /// IEEE binary32.
        F32 = 2, "f32";
    }
}

impl Scalar {
    /// Bytes per value.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

coded! {
    /// Where the singular values go (`spec/projection.md`, factors).
    Split {
        /// ΔW = α·(U Σ R)·Vᵀ, as in the paper.
        Paper = 0, "paper";
        /// ΔW = α·(U √Σ R √Σ)·Vᵀ, as PEFT stores it.
        Peft = 1, "peft";
    }
}

coded! {
    /// Which modules share one group of values when there is more than one group.
    Tying {
        /// Neighbours in depth, whatever their role.
        Tiled = 0, "tiled";
        /// Neighbours in depth of one role.
        Structured = 1, "structured";
    }
}

coded! {
    /// What turns a group's values into the r×r matrix R.
    Projection {
        /// R = Σᵢ vᵢ Pᵢ, Pᵢ drawn from the seed.
        Seeded = 0, "seeded";
        /// R row-major is v itself: u = r².
        Unit = 1, "unit";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_lead_back_to_their_value() {
        macro_rules! check {
            ($($kind:ident)+) => {$(
                for &value in $kind::ALL {
                    assert_eq!($kind::from_code(value.code()), Some(value));
                    assert_eq!($kind::from_name(value.name()), Some(value));
                }
                assert_eq!($kind::from_code($kind::ALL.len() as u8), None);
                assert_eq!($kind::from_name(""), None);
            )+};
        }
        check!(Scalar Split Tying Projection);
    }
}
