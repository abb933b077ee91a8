//! What `pack` reads from JSON is the number that was written.
#![cfg(feature = "cli")]

use std::path::Path;
use tla::cli::recipe::Recipe;

fn recipe(scalar: &str, value: &str) -> Recipe {
    let json = format!("{{\"v\": [{value}], \"width\": 1, \"scalar\": \"{scalar}\"}}");
    Recipe::parse(Path::new("v.json"), json.as_bytes()).unwrap()
}

#[test]
fn a_value_of_the_storage_type_is_taken_without_rounding() {
    // Read by a parser that is off by one unit in the last place, this would be reported as rounded.
    let exact = recipe("f16", "1.0013580322265625e-5");
    assert_eq!((exact.v[0], exact.rounded), (1.001_358e-5, 0));
    for bits in (0..0x7c00u16).step_by(7) {
        let value = half::f16::from_bits(bits).to_f64();
        let read = recipe("f16", &format!("{value:e}"));
        assert_eq!((f64::from(read.v[0]), read.rounded), (value, 0), "{value:e}");
    }
}
