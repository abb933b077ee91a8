//! What rebuilding costs: the file, P, the basis, and the merge of one matrix.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::Array2;
use tla::format::{Adapter, Header, ModuleId, Role, encode_to_vec};
use tla::projection::{Geometry, basis, delta_row, factors, merged_f32, mixing, projections};

const MODULE: ModuleId = ModuleId::new(3, Role::Down);

/// Singular values falling like k^-0.7 over a floor of noise.
fn weight(rows: usize, cols: usize) -> Array2<f32> {
    let mut state = 1u64;
    let mut uniform = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 - 8_388_608.0) / 8_388_608.0
    };
    let mut w = Array2::from_shape_simple_fn((rows, cols), || 0.02 * uniform());
    for k in 1..=24 {
        let size = 0.02 * (k as f32).powf(-0.7);
        let a: Vec<f32> = (0..rows).map(|_| size * uniform()).collect();
        let b: Vec<f32> = (0..cols).map(|_| uniform()).collect();
        for (mut row, a) in w.rows_mut().into_iter().zip(&a) {
            row.iter_mut().zip(&b).for_each(|(w, b)| *w += a * b);
        }
    }
    w
}

fn benches(c: &mut Criterion) {
    let header = Header::default();
    let geometry = Geometry::from(&header);
    let file = encode_to_vec(&header, &[0.5; 13]).unwrap();
    c.bench_function("decode 154 bytes", |b| b.iter(|| Adapter::decode(black_box(&file)).unwrap()));
    c.bench_function("P of one module", |b| b.iter(|| projections(black_box(&geometry), MODULE)));

    let w = weight(896, 4864);
    let mut group = c.benchmark_group("896x4864 rank 2");
    group.sample_size(10);
    for threads in [1, 2] {
        group.bench_function(format!("basis, {threads} threads"), |b| {
            b.iter(|| basis(w.view(), MODULE, 2, threads).unwrap());
        });
    }
    let found = basis(w.view(), MODULE, 2, 0).unwrap();
    let f = factors(&found, MODULE, &geometry, &mixing(&geometry, MODULE, &[0.1; 13]));
    let mut row = vec![0.0; w.ncols()];
    let mut out = w.clone();
    group.bench_function("merge", |b| {
        b.iter(|| {
            for (i, (w, mut out)) in w.rows().into_iter().zip(out.rows_mut()).enumerate() {
                delta_row(&f, header.scale, i, &mut row);
                for ((out, w), d) in out.iter_mut().zip(w).zip(&row) {
                    *out = merged_f32(*w, *d);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(projection, benches);
criterion_main!(projection);
