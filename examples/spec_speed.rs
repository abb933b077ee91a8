//! Times what the specification fixes, for `benches/peers/spec_speed.py`, which times its peers in
//! the same run: `basis FILE ROWS COLS RANK THREADS`, `digest BYTES THREADS`, `decode`.
//!
//! Prints one JSON object; a time is the least of several.

use std::{env, fs, hint::black_box, time::Instant};

use ndarray::Array2;
use rayon::prelude::*;
use serde_json::{Value, json};
use tla::{
    format::{Adapter, Header, ModuleId, Role, encode_to_vec},
    model::module_digest,
    projection::basis,
};

fn least(times: usize, mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    (0..times).map(time).fold(f64::INFINITY, f64::min)
}

fn basis_of(file: &str, [rows, cols, rank, threads]: [usize; 4]) -> Value {
    let bytes = fs::read(file).expect("a matrix of little-endian f32");
    let values = bytes.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    let w = Array2::from_shape_vec((rows, cols), values).expect("rows × cols values");
    let module = ModuleId::new(0, Role::Down);
    let mut found = None;
    let seconds = least(5, || found = basis(w.view(), module, rank, threads).ok());
    let found = found.expect("a basis");
    json!({"seconds": seconds, "residual": found.residual, "gap": found.gap,
           "passes": found.steps, "sigma": found.sigma})
}

fn digest(bytes: usize, threads: usize) -> Value {
    let side = 1024;
    let modules = bytes.div_ceil(4 * side * side);
    let w = Array2::from_shape_fn((side, side), |(i, j)| (i * 31 + j) as f32);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let seconds = pool.install(|| {
        least(5, || {
            (0..modules).into_par_iter().for_each(|_| {
                black_box(module_digest(w.view()));
            });
        })
    });
    json!({"bytes_per_second": (modules * 4 * side * side) as f64 / seconds})
}

fn decode() -> Value {
    let file = encode_to_vec(&Header::default(), &[0.5; 13]).expect("a file");
    let seconds = least(5, || {
        for _ in 0..10_000 {
            black_box(Adapter::decode(black_box(&file)).is_ok());
        }
    });
    json!({"seconds": seconds / 10_000.0, "bytes": file.len()})
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |i: usize| arguments[i].parse().expect("a number");
    let found = match arguments.first().map(String::as_str) {
        Some("basis") => basis_of(&arguments[1], [number(2), number(3), number(4), number(5)]),
        Some("digest") => digest(number(1), number(2)),
        Some("decode") => decode(),
        other => panic!("{other:?} is none of basis, digest and decode"),
    };
    println!("{found}");
}
