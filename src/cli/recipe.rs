//! The input of `pack`: values and a header in JSON, checked and rounded. `graft` reads it too.

use crate::format::{
    FormatError, Header, MAX_VALUES, Projection, Role, RoleSet, Scalar, Split, Tying,
    round_to_scalar,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use std::{
    fmt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why values cannot be packed.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Not JSON, not these keys, or not these types.
    #[error("{} cannot be used: {source}. `tla pack --help` shows what is read", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// No values.
    #[error("{} has no key \"v\". Put the values there, as a list of numbers", path.display())]
    NoValues {
        /// The file.
        path: PathBuf,
    },
    /// A word that is no choice.
    #[error("{key} is {found:?}. Choose one of: {choices}")]
    Unknown {
        /// The key.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        choices: String,
    },
    /// Values, groups and width that do not fit each other.
    #[error(
        "v has {len} numbers, and groups × width is {groups} × {width}. \
         Name groups and width so that their product is {len}"
    )]
    Count {
        /// Values given.
        len: usize,
        /// Groups asked for.
        groups: u16,
        /// Values per group asked for.
        width: u16,
    },
    /// A value the storage type cannot come near.
    #[error(
        "v[{index}] is {value:e}, beyond the largest {scalar}. \
         Divide v by a power of two and multiply the scale by it, or store as f32"
    )]
    Beyond {
        /// Its place.
        index: usize,
        /// The value.
        value: f64,
        /// The type.
        scalar: Scalar,
    },
    /// A header that breaks the format.
    #[error(transparent)]
    Header(#[from] FormatError),
}

/// A valid unbound header and as many values as it asks for, each of the storage type.
#[derive(Debug)]
pub struct Recipe {
    /// The header, without digests.
    pub header: Header,
    /// The values.
    pub v: Vec<f32>,
    /// How many of them were changed by rounding.
    pub rounded: usize,
    /// The largest change, and where; 0 if there was none.
    pub largest_change: (usize, f64),
}

/// The keys, all but `v` with a default.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    v: Option<Values>,
    seed: u64,
    rank: u8,
    width: u16,
    groups: u16,
    tying: String,
    split: String,
    scale: f64,
    scalar: String,
    roles: Vec<String>,
    first_layer: u16,
    layers: u16,
    projection: String,
}

impl Default for Keys {
    fn default() -> Self {
        let header = Header::default();
        Self {
            v: None,
            seed: header.seed,
            rank: header.rank,
            width: header.width,
            groups: header.groups,
            tying: header.tying.name().into(),
            split: header.split.name().into(),
            scale: header.scale.into(),
            scalar: header.scalar.name().into(),
            roles: header.roles.iter().map(|role| role.name().into()).collect(),
            first_layer: header.first_layer,
            layers: header.layers,
            projection: header.projection.name().into(),
        }
    }
}

impl Recipe {
    /// Reads what `path` holds.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, RecipeError> {
        Self::checked(path, json, |_| Err(RecipeError::NoValues { path: path.into() }))
    }

    /// Reads what `path` holds; the values are zero where it has none.
    pub fn parse_geometry(path: &Path, json: &[u8]) -> Result<Self, RecipeError> {
        Self::checked(path, json, |header| Ok(vec![0.0; header.parameters()]))
    }

    fn checked(
        path: &Path,
        json: &[u8],
        without: impl FnOnce(&Header) -> Result<Vec<f64>, RecipeError>,
    ) -> Result<Self, RecipeError> {
        let Object(keys) = serde_json::from_slice(json)
            .map_err(|source| RecipeError::Json { path: path.into(), source })?;
        let header = keys.header()?;
        header.check()?;
        let v = match keys.v {
            Some(Values(v)) => v,
            None => without(&header)?,
        };
        if v.len() != header.parameters() {
            let Header { groups, width, .. } = header;
            return Err(RecipeError::Count { len: v.len(), groups, width });
        }
        Self::rounded(header, &v)
    }

    /// What rounding did to the values, in words, if it did anything.
    pub fn told_rounding(&self) -> Option<String> {
        let (index, change) = self.largest_change;
        let (rounded, all, scalar) = (self.rounded, self.v.len(), self.header.scalar);
        (rounded > 0).then(|| {
            format!(
                "{rounded} of {all} values were rounded to {scalar}; \
                 the largest change is {change:.3e}, of v[{index}]."
            )
        })
    }

    fn rounded(header: Header, values: &[f64]) -> Result<Self, RecipeError> {
        let scalar = header.scalar;
        let mut recipe = Self { header, v: Vec::new(), rounded: 0, largest_change: (0, 0.0) };
        for (index, &value) in values.iter().enumerate() {
            let near = nearest(scalar, value);
            if !near.is_finite() {
                return Err(RecipeError::Beyond { index, value, scalar });
            }
            let change = (f64::from(near) - value).abs();
            recipe.rounded += usize::from(change > 0.0);
            if change > recipe.largest_change.1 {
                recipe.largest_change = (index, change);
            }
            recipe.v.push(near);
        }
        Ok(recipe)
    }
}

impl Keys {
    fn header(&self) -> Result<Header, RecipeError> {
        let roles = self
            .roles
            .iter()
            .map(|name| choice("roles", name, Role::from_name, Role::ALL))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Header {
            scalar: choice("scalar", &self.scalar, Scalar::from_name, Scalar::ALL)?,
            split: choice("split", &self.split, Split::from_name, Split::ALL)?,
            tying: choice("tying", &self.tying, Tying::from_name, Tying::ALL)?,
            projection: choice(
                "projection",
                &self.projection,
                Projection::from_name,
                Projection::ALL,
            )?,
            roles: RoleSet::from_roles(roles)?,
            rank: self.rank,
            width: self.width,
            groups: self.groups,
            seed: self.seed,
            scale: self.scale as f32,
            first_layer: self.first_layer,
            layers: self.layers,
            ..Header::default()
        })
    }
}

fn choice<T: fmt::Display>(
    key: &'static str,
    name: &str,
    from_name: impl Fn(&str) -> Option<T>,
    all: &[T],
) -> Result<T, RecipeError> {
    from_name(name).ok_or_else(|| {
        let choices = all.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
        RecipeError::Unknown { key, found: name.into(), choices }
    })
}

/// The nearest value of the type, ties to even. Rounding twice, to f32 and on, is rounding once
/// only if the first rounding is toward zero with the last bit set for what was cut off.
fn nearest(scalar: Scalar, value: f64) -> f32 {
    let near = value as f32;
    if scalar == Scalar::F32 || f64::from(near) == value {
        return round_to_scalar(scalar, near);
    }
    let away = f64::from(near).abs() > value.abs();
    let toward_zero = near.to_bits() - u32::from(away);
    round_to_scalar(scalar, f32::from_bits(toward_zero | 1))
}

/// Keys by name only: derived code would take them from a list too.
struct Object(Keys);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the key v")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
        Keys::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Finite numbers, no more than a file may hold.
struct Values(Vec<f64>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of finite numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
        let mut values = Vec::new();
        loop {
            let index = values.len();
            match list.next_element::<f64>() {
                Ok(None) => return Ok(Values(values)),
                Ok(Some(_)) if index == MAX_VALUES as usize => {
                    let text =
                        format!("v has more than {MAX_VALUES} numbers, the most there can be");
                    return Err(A::Error::custom(text));
                }
                Ok(Some(value)) => values.push(value),
                Err(error) => {
                    let reason = error.to_string();
                    return Err(match reason.starts_with("EOF") {
                        true => error,
                        false => {
                            A::Error::custom(format!("v[{index}] is not a finite number: {reason}"))
                        }
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Recipe, RecipeError> {
        Recipe::parse(Path::new("v.json"), json.as_bytes())
    }

    fn thirteen(more: &str) -> String {
        format!("{{\"v\": [{}]{more}}}", ["0.5"; 13].join(","))
    }

    #[test]
    fn everything_but_v_has_the_default() {
        let recipe = parse(&thirteen("")).unwrap();
        assert_eq!((recipe.header, recipe.rounded), (Header::default(), 0));
        let all = r#","seed":7,"rank":2,"width":13,"groups":1,"tying":"tiled","split":"paper",
            "scale":1.0,"scalar":"bf16","roles":["q","k","v","o","gate","up","down"],
            "first_layer":0,"layers":0,"projection":"seeded""#;
        assert_eq!(parse(&thirteen(all)).unwrap().header, Header::default());
    }

    #[test]
    fn a_value_that_is_no_finite_number_is_named_by_its_index() {
        for bad in ["NaN", "\"NaN\"", "null", "1e999", "Infinity", "-Infinity", "true", "[1]"] {
            let error = parse(&format!("{{\"v\": [0.5, 1, {bad}, 2]}}")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("v[2] is not a finite number"), "{bad}: {text}");
        }
    }

    #[test]
    fn a_cut_file_is_told_from_a_bad_value() {
        let text = parse("{\"v\": [0.5, 1").unwrap_err().to_string();
        assert!(text.contains("EOF") && !text.contains("finite"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |more: &str| parse(&thirteen(more)).unwrap_err();
        assert!(matches!(refused(",\"widht\":3"), RecipeError::Json { .. }));
        assert!(matches!(refused(",\"width\":null"), RecipeError::Json { .. }));
        assert!(matches!(refused(",\"v\":[1]"), RecipeError::Json { .. }));
        assert!(matches!(refused(",\"rank\":256"), RecipeError::Json { .. }));
        assert!(matches!(refused(",\"width\":12"), RecipeError::Count { len: 13, .. }));
        assert!(matches!(refused(",\"groups\":2"), RecipeError::Count { len: 13, .. }));
        assert!(matches!(refused(",\"rank\":0"), RecipeError::Header(FormatError::RankZero)));
        assert!(matches!(refused(",\"roles\":[]"), RecipeError::Header(FormatError::NoRoles)));
        assert!(matches!(refused(",\"roles\":[\"Q\"]"), RecipeError::Unknown { key: "roles", .. }));
        assert!(matches!(refused(",\"scalar\":\"f8\""), RecipeError::Unknown { .. }));
        assert!(matches!(
            refused(",\"scale\":1e39"),
            RecipeError::Header(FormatError::ScaleNotFinite { .. })
        ));
        assert!(matches!(parse("{}").unwrap_err(), RecipeError::NoValues { .. }));
        assert!(matches!(parse("[]").unwrap_err(), RecipeError::Json { .. }));
        let large = parse("{\"v\":[1, 70000], \"width\":2, \"scalar\":\"f16\"}").unwrap_err();
        assert!(matches!(large, RecipeError::Beyond { index: 1, .. }));
    }

    #[test]
    fn rounding_is_reported() {
        let recipe = parse("{\"v\":[0.1, 0.5, 3.001], \"width\":3}").unwrap();
        assert_eq!(recipe.v, [0.100_097_656, 0.5, 3.0]);
        assert_eq!((recipe.rounded, recipe.largest_change.0), (2, 2));
        assert!((recipe.largest_change.1 - 0.001).abs() < 1e-12);
    }

    #[test]
    fn a_value_just_beside_a_tie_is_rounded_once() {
        // 1 + 2⁻⁸ is the tie between the bf16 neighbours 1 and 1 + 2⁻⁷; f32 would round to it.
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(nearest(Scalar::Bf16, tie), 1.0);
        assert_eq!(nearest(Scalar::Bf16, tie + 2f64.powi(-40)), 1.0 + 2f32.powi(-7));
        assert_eq!(nearest(Scalar::Bf16, -tie - 2f64.powi(-40)), -1.0 - 2f32.powi(-7));
        assert_eq!(nearest(Scalar::F32, 1.0 + 2f64.powi(-40)), 1.0);
        assert_eq!(nearest(Scalar::Bf16, 1e300), f32::INFINITY);
        assert_eq!(nearest(Scalar::Bf16, 1e-300), 0.0);
    }
}
