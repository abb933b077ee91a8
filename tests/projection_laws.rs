//! Laws of the rebuild: a pure function of seed, geometry and weights, and a true SVD.
#![cfg(feature = "std")]

use ndarray::{Array2, s};
use proptest::prelude::*;
use tla::format::{Header, ModuleId, Role, Tying};
use tla::projection::{
    Basis, Geometry, ProjectionError, basis, delta, entry, factors_digest, projections, rebuild,
};

const MODULE: ModuleId = ModuleId::new(0, Role::Q);

/// Uniform numbers from a linear congruence, so that golden digests need no other crate's stream.
fn noise(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, cols), || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 - 8_388_608.0) / 8_388_608.0
    })
}

/// A weight with a decaying spectrum over a floor of noise.
fn weight(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let (a, b) = (noise(rows, 12, seed + 1000), noise(12, cols, seed + 2000));
    let mut w = noise(rows, cols, seed) * 0.05;
    for k in 0..12 {
        let (a, b) = (a.column(k), b.row(k));
        for ((i, j), w) in w.indexed_iter_mut() {
            *w += a[i] * b[j] / (k + 1) as f32;
        }
    }
    w
}

fn model(layers: u16) -> Vec<(ModuleId, Array2<f32>)> {
    let shapes = [(32, 24), (16, 24), (16, 24), (24, 32), (200, 24), (200, 24), (24, 200)];
    (0..layers)
        .flat_map(|layer| {
            shapes.iter().zip(Role::ALL).map(move |(&(rows, cols), &role)| {
                let seed = u64::from(layer) * 10 + u64::from(role.code());
                (ModuleId::new(layer, role), weight(rows, cols, seed))
            })
        })
        .collect()
}

fn digest(header: &Header, model: &[(ModuleId, Array2<f32>)], threads: usize) -> [u8; 32] {
    let v: Vec<f32> = (0..header.parameters()).map(|i| 0.01 * (i as f32 - 5.0)).collect();
    let weights: Vec<_> = model.iter().map(|(module, w)| (*module, w.view())).collect();
    factors_digest(&rebuild(header, &v, &weights, threads).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn assert_orthonormal(columns: &Array2<f64>, count: usize) {
    for i in 0..columns.ncols() {
        for j in 0..=i {
            let dot = columns.column(i).dot(&columns.column(j));
            let expected = f64::from(u8::from(i == j && i < count));
            assert!((dot - expected).abs() < 1e-12, "columns {i} and {j}: {dot}");
        }
    }
}

/// Singular values by one-sided Jacobi, as different from Lanczos as can be.
fn reference_sigma(w: &Array2<f32>) -> Vec<f64> {
    let mut a = w.mapv(f64::from);
    if a.nrows() < a.ncols() {
        a = a.reversed_axes();
    }
    for _ in 0..60 {
        let mut turned = false;
        for p in 0..a.ncols() {
            for q in p + 1..a.ncols() {
                let (x, y) = (a.column(p).to_owned(), a.column(q).to_owned());
                let (xx, yy, xy) = (x.dot(&x), y.dot(&y), x.dot(&y));
                if xy.abs() <= 1e-15 * (xx * yy).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (yy - xx) / (2.0 * xy);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                a.column_mut(p).assign(&(&x * c - &y * (c * t)));
                a.column_mut(q).assign(&(&x * (c * t) + &y * c));
            }
        }
        if !turned {
            break;
        }
    }
    let mut sigma: Vec<f64> = a.columns().into_iter().map(|c| c.dot(&c).sqrt()).collect();
    sigma.sort_by(|x, y| y.total_cmp(x));
    sigma
}

/// What holds of every basis of every matrix.
fn check(w: &Array2<f32>, rank: usize) -> Basis {
    let b = basis(w.view(), MODULE, rank, 2).unwrap();
    let reference = reference_sigma(w);
    let first = reference[0];
    assert_eq!((b.u.dim(), b.v.dim()), ((w.nrows(), rank), (w.ncols(), rank)));
    let count = w.nrows().min(w.ncols());
    assert_orthonormal(&b.u, count);
    assert_orthonormal(&b.v, count);
    assert!(b.residual <= 2e-10, "residual {}", b.residual);
    assert!(b.gap.is_finite() && b.gap >= 0.0);
    let product = w.mapv(f64::from).dot(&b.v);
    for k in 0..rank {
        let expected = reference.get(k).copied().unwrap_or(0.0);
        // Rank-deficient matrices hold singular values that are only their rounding.
        let close = (b.sigma[k] - expected).abs() <= 1e-7 * first;
        assert!(close, "σ{k} of {:?} is {}, not {expected}", w.dim(), b.sigma[k]);
        let left = &product.column(k) - &(&b.u.column(k) * b.sigma[k]);
        assert!(left.dot(&left).sqrt() <= 1e-7 * first);
        let v = b.v.column(k);
        let largest = v.iter().fold(0.0f64, |m, &x| if x.abs() > m.abs() { x } else { m });
        assert!(largest > 0.0 || k >= count);
    }
    b
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_matrices_agree_with_one_sided_jacobi(
        rows in 1usize..24, cols in 1usize..24, rank in 1usize..7, inner in 1usize..24, seed in any::<u64>(),
    ) {
        check(&noise(rows, cols, seed), rank);
        // Rank at most `inner`, exact zeros included.
        let thin = noise(rows, inner, seed ^ 1).dot(&noise(inner, cols, seed ^ 2));
        check(&thin, rank);
    }

    #[test]
    fn scaling_a_weight_by_a_power_of_two_scales_its_values_and_nothing_else(
        seed in any::<u64>(), power in -60i32..60,
    ) {
        let w = noise(19, 11, seed);
        let factor = 2f32.powi(power);
        let (a, b) = (basis(w.view(), MODULE, 3, 1).unwrap(), basis((&w * factor).view(), MODULE, 3, 1).unwrap());
        prop_assert_eq!(&a.u, &b.u);
        prop_assert_eq!(&a.v, &b.v);
        for (a, b) in a.sigma.iter().zip(&b.sigma) {
            prop_assert_eq!(a * f64::from(factor), *b);
        }
    }

    #[test]
    fn threads_and_the_order_of_modules_change_no_bit(
        seed in any::<u64>(), threads in prop::sample::select(&[2usize, 3, 8][..]), shift in 1usize..13,
        structured in any::<bool>(), groups in 1u16..=14,
    ) {
        let tying = if structured { Tying::Structured } else { Tying::Tiled };
        let header = Header { seed, tying, groups, width: 3, ..Header::default() };
        let mut model = model(2);
        let expected = digest(&header, &model, 1);
        model.rotate_left(shift);
        prop_assert_eq!(digest(&header, &model, threads), expected);
    }
}

#[test]
fn a_basis_larger_than_a_block_and_a_chunk_is_the_same_for_all_threads() {
    for (rows, cols) in [(300, 1100), (1100, 300), (129, 2049)] {
        let w = weight(rows, cols, 5);
        let one = basis(w.view(), MODULE, 3, 1).unwrap();
        assert!(one.residual < 2e-10, "{}", one.residual);
        for threads in [2, 3, 8] {
            assert_eq!(basis(w.view(), MODULE, 3, threads).unwrap(), one);
        }
        // A transposed layout in memory is the same matrix.
        let columns = w.t().as_standard_layout().into_owned();
        assert_eq!(basis(columns.t(), MODULE, 3, 2).unwrap(), one);
        assert_orthonormal(&one.u, rows);
        assert_orthonormal(&one.v, cols);
    }
}

#[test]
fn degenerate_matrices_have_a_finite_canonical_answer() {
    let mut sparse = Array2::<f32>::zeros((40, 30));
    sparse[[39, 29]] = -2.0;
    let mut repeated = Array2::<f32>::zeros((12, 12));
    for (i, x) in [5.0, 5.0, 5.0, 5.0, 2.0, 1.0].into_iter().enumerate() {
        repeated[[i, 11 - i]] = x;
    }
    let mut graded = Array2::<f32>::zeros((9, 9));
    for i in 0..9 {
        graded[[i, i]] = 10f32.powi(-(i as i32));
    }
    let matrices = [
        Array2::zeros((7, 5)),
        Array2::zeros((1, 1)),
        Array2::from_elem((1, 1), -3.0),
        Array2::from_elem((13, 17), 1.0),
        noise(1, 50, 1),
        noise(50, 1, 1),
        Array2::eye(31),
        sparse,
        repeated,
        graded,
        noise(20, 20, 3) * 1e-44,
        noise(20, 20, 4) * 3e38,
    ];
    for w in &matrices {
        for rank in [1, 2, 4, 6] {
            let b = check(w, rank);
            assert_eq!(basis(w.view(), MODULE, rank, 1).unwrap(), b);
        }
    }
}

#[test]
fn a_zero_matrix_gets_directions_but_no_weight() {
    let b = basis(Array2::zeros((5, 3)).view(), MODULE, 4, 1).unwrap();
    assert_eq!(b.sigma, [0.0; 4]);
    assert_eq!(b.u.slice(s![.., ..3]), Array2::<f64>::eye(5).slice(s![.., ..3]));
    assert!(b.u.column(3).iter().chain(b.v.column(3)).all(|&x| x == 0.0));
    assert_eq!((b.residual, b.gap), (0.0, 0.0));
}

#[test]
fn projection_entries_have_the_mean_and_variance_of_the_binomial() {
    let geometry = Geometry { rank: 5, width: 4000, ..Geometry::from(&Header::default()) };
    let p = projections(&geometry, ModuleId::new(9, Role::Up));
    let n = p.len() as f64;
    let mean = p.iter().sum::<f64>() / n;
    let variance = p.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    // Five standard errors.
    assert!(mean.abs() < 5.0 * (0.2 / n).sqrt(), "{mean}");
    assert!((variance - 0.2).abs() < 5.0 * 0.2 * (2.0 / n).sqrt(), "{variance}");
    assert_eq!(entry(7, ModuleId::new(9, Role::Up), 3999, 5, 24), p[p.len() - 1]);
}

#[test]
fn entries_differ_by_seed_module_and_index() {
    let row = |seed, layer, role, i| {
        [0, 1, 2, 3, 4, 5, 6, 7].map(|k| entry(seed, ModuleId::new(layer, role), i, 4, k).to_bits())
    };
    let all = [
        row(0, 0, Role::Q, 0),
        row(1, 0, Role::Q, 0),
        row(0, 1, Role::Q, 0),
        row(0, 0, Role::K, 0),
        row(0, 0, Role::Q, 1),
    ];
    for i in 0..all.len() {
        assert!(!all[..i].contains(&all[i]));
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let model = model(2);
    let weights: Vec<_> = model.iter().map(|(module, w)| (*module, w.view())).collect();
    let rebuild_with = |header: &Header, v: &[f32]| rebuild(header, v, &weights, 1).unwrap_err();
    let v = [0.0; 13];
    let header = Header { layers: 3, ..Header::default() };
    assert_eq!(rebuild_with(&header, &v), ProjectionError::LayerMissing { layer: 2 });
    let header =
        Header { roles: tla::format::RoleSet::from_bits(0xc0).unwrap(), ..Header::default() };
    assert_eq!(rebuild_with(&header, &v), ProjectionError::RoleMissing { role: Role::LmHead });
    let header = Header { groups: 15, width: 1, ..Header::default() };
    assert_eq!(
        rebuild_with(&header, &v),
        ProjectionError::TooManyGroups { groups: 15, modules: 14 }
    );
    assert_eq!(
        rebuild_with(&Header::default(), &v[1..]),
        ProjectionError::ValueCount { expected: 13, len: 12 }
    );
    let twice = [weights.clone(), weights.clone()].concat();
    let error = rebuild(&Header::default(), &v, &twice, 1).unwrap_err();
    assert!(matches!(error, ProjectionError::DuplicateModule { module: MODULE }));
}

#[test]
fn delta_of_zero_values_is_zero_and_of_others_has_the_rank() {
    let model = model(1);
    let weights: Vec<_> = model.iter().map(|(module, w)| (*module, w.view())).collect();
    for factors in rebuild(&Header::default(), &[0.0; 13], &weights, 2).unwrap() {
        assert!(delta(&factors, 1.0).iter().all(|&x| x == 0.0));
    }
    for factors in rebuild(&Header::default(), &[0.1; 13], &weights, 2).unwrap() {
        let d = delta(&factors, 2.0).mapv(|x| x as f32);
        let sigma = reference_sigma(&d);
        assert!(sigma[0] > 0.0 && sigma[2] < 1e-6 * sigma[0]);
    }
}

/// The bits themselves. Built for another CPU or with other optimisation, the same must come out.
#[test]
fn the_factors_of_a_fixed_model_have_this_digest() {
    let header = Header { seed: 0x0123_4567_89ab_cdef, ..Header::default() };
    assert_eq!(
        hex(&digest(&header, &model(2), 2)),
        "8803def9a195d7e4765cf8fa742e232d205a28d4507186467f82b01c28c7753b"
    );
    let peft = Header { split: tla::format::Split::Peft, rank: 5, groups: 3, ..header };
    assert_eq!(
        hex(&digest(&peft, &model(2), 2)),
        "a342e240f550eefddcd05264a5512c4e1eebaf92d7596bdc1d636cf0946fe34c"
    );
}
