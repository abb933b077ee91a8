//! Base digest, factors digest and merge say the same of a model however its file is arranged,
//! and another thing of another model.

use super::{
    Outcome,
    generated::{Arrangement, Model},
};
use arbitrary::{Result, Unstructured};
use ndarray::{Array2, ArrayView2};
use sha2::{Digest, Sha256};
use tla::{
    format::{Header, ModuleId, Projection, RoleSet, Split, Tying},
    model::{ModelError, OnnxModel, Targets, base_digest, find_targets},
    projection::{Factors, ProjectionError, delta, factors_digest, merged_f32, rebuild},
    surgery::{SurgeryError, merge, verify_merged},
};

type Weights = Vec<(ModuleId, Array2<f32>)>;

/// A small model, two arrangements of it, one changed bit and a small adapter.
pub fn digest(data: &[u8]) -> Vec<Outcome> {
    run(&mut Unstructured::new(data)).unwrap_or_else(|_| vec!["no model".into()])
}

fn run(u: &mut Unstructured) -> Result<Vec<Outcome>> {
    let (header, v) = adapter(u)?;
    let model = Model::read(u)?;
    let other = Arrangement::read(u)?;
    let weights: Weights = model.matrices.iter().map(|m| (m.module, m.weight.clone())).collect();
    let plain = model.build(&Arrangement::default());
    let shuffled = model.build(&other);
    let (targets, others) = match (find_targets(&plain), find_targets(&shuffled)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(a), Err(b)) => {
            let nothing = |e| matches!(e, ModelError::NothingToAdapt { .. });
            assert!(weights.is_empty() && nothing(a) && nothing(b));
            return Ok(vec!["no module".into()]);
        }
        _ => panic!("an order of nodes decides what can be adapted"),
    };
    for targets in [&targets, &others] {
        let linear = targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD);
        let found = linear.map(|t| (t.module, (t.rows, t.cols), t.shared));
        assert!(found.eq(weights.iter().map(|(module, w)| (*module, w.dim(), false))));
    }
    for (module, weight) in &weights {
        let read = shuffled.weight(others.get(*module).unwrap()).unwrap();
        assert!(same_bits(read.view(), weight.view()));
    }

    let expected = documented(&weights);
    for (model, targets) in [(&plain, &targets), (&shuffled, &others)] {
        match base_digest(model, targets) {
            Ok(digest) => assert_eq!(Some(digest), expected),
            Err(ModelError::NoDigest { module }) => {
                assert!(expected.is_none() && targets.get(module).is_none());
            }
            Err(error) => panic!("{error}"),
        }
    }
    if let Some(digest) = expected {
        other_bits(&model, digest, u)?;
    }
    let first = if expected.is_some() { "digest" } else { "incomplete" };
    let rebuilt = rebuilt(&header, &v, &weights, &other);
    Ok(match rebuilt {
        Ok(factors) => vec![first.into(), merged(&plain, &targets, &header, &factors, &weights)],
        Err(name) => vec![first.into(), name],
    })
}

fn adapter(u: &mut Unstructured) -> Result<(Header, Vec<f32>)> {
    let projection = *u.choose(Projection::ALL)?;
    let rank = u.int_in_range(1..=4u8)?;
    let (first_layer, layers) = *u.choose(&[(0, 0), (0, 0), (0, 1), (1, 1), (0, 2), (1, 2)])?;
    let bits = u16::from(u.arbitrary::<u8>()? & 0x7f);
    let header = Header {
        projection,
        rank,
        first_layer,
        layers,
        split: *u.choose(Split::ALL)?,
        tying: *u.choose(Tying::ALL)?,
        width: match projection {
            Projection::Unit => u16::from(rank) * u16::from(rank),
            Projection::Seeded => u.int_in_range(1..=5)?,
        },
        groups: if u.ratio(1, 2)? { u.int_in_range(1..=7)? } else { 1 },
        roles: RoleSet::from_bits(bits).unwrap_or(RoleSet::LINEAR),
        seed: u.arbitrary()?,
        scale: if u.ratio(1, 4)? { f32::from_bits(u.arbitrary()?) } else { 0.5 },
        ..Header::default()
    };
    let mut v = Vec::new();
    for _ in 0..header.parameters() {
        v.push(f32::from(u.arbitrary::<i8>()?) / 16.0);
    }
    Ok((header, v))
}

fn same_bits(a: ArrayView2<f32>, b: ArrayView2<f32>) -> bool {
    a.dim() == b.dim() && a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}

/// The base digest by the text of `spec/projection.md`; `None` when a layer lacks a role.
fn documented(weights: &Weights) -> Option<[u8; 32]> {
    let layers = weights.iter().map(|(module, _)| module.layer + 1).max().unwrap_or(0);
    if weights.len() != usize::from(layers) * 7 {
        return None;
    }
    let mut outer = Sha256::new_with_prefix(b"tla-base-v1\0\0\0\0\0");
    for (module, weight) in weights {
        let values: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
        outer.update(module.layer.to_le_bytes());
        outer.update([module.role.code()]);
        outer.update((weight.nrows() as u32).to_le_bytes());
        outer.update((weight.ncols() as u32).to_le_bytes());
        outer.update(Sha256::digest(&values));
    }
    Some(outer.finalize().into())
}

/// Another bit of a weight gives another digest, another embedding the same.
fn other_bits(model: &Model, digest: [u8; 32], u: &mut Unstructured) -> Result<()> {
    let of = |model: &Model| {
        let model = model.build(&Arrangement::default());
        base_digest(&model, &find_targets(&model).unwrap()).unwrap()
    };
    let mut flipped = model.clone();
    let index = u.choose_index(model.matrices.len())?;
    let weight = &mut flipped.matrices[index].weight;
    let place = u.choose_index(weight.len())?;
    let value = &mut weight.as_slice_mut().unwrap()[place];
    *value = f32::from_bits(value.to_bits() ^ 1 << u.int_in_range(0..=31)?);
    assert_ne!(of(&flipped), digest);
    let mut embedded = model.clone();
    embedded.embedding[0] += 1.0;
    assert_eq!(of(&embedded), digest);
    Ok(())
}

/// The factors, the same in any order of the modules and for any number of threads, or a refusal
/// that is true.
fn rebuilt(
    header: &Header,
    v: &[f32],
    weights: &Weights,
    other: &Arrangement,
) -> std::result::Result<Vec<Factors>, Outcome> {
    let mut views: Vec<_> = weights.iter().map(|(module, w)| (*module, w.view())).collect();
    let first = rebuild(header, v, &views, 1);
    other.apply(&mut views);
    let second = rebuild(header, v, &views, 2);
    // NaN is not equal to itself, and a refusal may quote one.
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    let selected = || weights.iter().filter(|(module, _)| header.selects(*module));
    let error = match (first, second) {
        (Ok(factors), Ok(others)) => {
            assert_eq!(factors_digest(&factors), factors_digest(&others));
            assert!(factors.iter().map(|f| f.module).eq(selected().map(|(module, _)| *module)));
            return Ok(factors);
        }
        (Err(error), _) | (_, Err(error)) => error,
    };
    assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
    let name = match error {
        ProjectionError::Header(error) => {
            assert_eq!(header.check().map_err(|e| e.name()), Err(error.name()));
            "header"
        }
        ProjectionError::NothingSelected => {
            assert_eq!(selected().count(), 0);
            "nothing selected"
        }
        ProjectionError::RoleMissing { role } => {
            assert!(header.roles.contains(role));
            assert!(selected().all(|(module, _)| module.role != role));
            "role missing"
        }
        ProjectionError::LayerMissing { layer } => {
            assert!((header.first_layer..header.first_layer + header.layers).contains(&layer));
            assert!(selected().all(|(module, _)| module.layer != layer));
            "layer missing"
        }
        ProjectionError::TooManyGroups { groups, modules } => {
            assert_eq!((groups, modules), (header.groups, selected().count()));
            assert!(usize::from(groups) > modules);
            "too many groups"
        }
        ProjectionError::NonFiniteWeight { module, row, col, value } => {
            let bad = selected().find(|(_, w)| w.iter().any(|x| !x.is_finite())).unwrap();
            assert_eq!(bad.0, module);
            let at = bad.1.indexed_iter().find(|(_, x)| !x.is_finite()).unwrap().0;
            assert_eq!(at, (row, col));
            assert_eq!(bad.1[at].to_bits(), value.to_bits());
            "weight not finite"
        }
        error => panic!("{error}"),
    };
    Err(name.into())
}

fn merged(
    base: &OnnxModel,
    targets: &Targets,
    header: &Header,
    factors: &[Factors],
    weights: &Weights,
) -> Outcome {
    let result = merge(base, targets, header, factors, 1);
    let mut expected = weights.clone();
    for factors in factors {
        let (_, weight) = expected.iter_mut().find(|(m, _)| *m == factors.module).unwrap();
        weight.zip_mut_with(&delta(factors, header.scale), |w, &d| *w = merged_f32(*w, d));
    }
    let merged = match result {
        Ok(merged) => OnnxModel::from_proto(merged.proto, base.path.clone()).unwrap(),
        Err(SurgeryError::NotFinite { module, row, col, value }) => {
            let (_, weight) = expected.iter().find(|(m, _)| *m == module).unwrap();
            assert!(!value.is_finite() && weight[[row, col]].to_bits() == value.to_bits());
            return "merged weight not finite".into();
        }
        Err(error) => panic!("{error}"),
    };
    let after = find_targets(&merged).unwrap();
    for (module, weight) in &expected {
        let read = merged.weight(after.get(*module).unwrap()).unwrap();
        assert!(same_bits(read.view(), weight.view()), "{module}");
    }
    if let Some(digest) = documented(&expected) {
        assert_eq!(base_digest(&merged, &after).unwrap(), digest);
    }
    assert_eq!(verify_merged(base, targets, header, factors, &merged, 1).unwrap(), []);
    let against_base = verify_merged(base, targets, header, factors, base, 1).unwrap();
    let differs = expected.iter().zip(weights).any(|(a, b)| !same_bits(a.1.view(), b.1.view()));
    // A typed weight comes out raw, which is no difference.
    assert_eq!(!against_base.is_empty(), differs, "{against_base:?}");
    "merged".into()
}
