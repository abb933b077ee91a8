//! Every input in the corpus of the fuzz targets keeps its property, and the corpus reaches what
//! it is there for.
#![cfg(feature = "std")]

mod properties;

use properties::{Outcome, adapter, checkpoint, container, digest, wire};
use std::{collections::BTreeMap, fs, path::Path};

/// Runs a property on the corpus of its target; how many inputs lead to each outcome.
fn replay(target: &str, property: fn(&[u8]) -> Vec<Outcome>) -> BTreeMap<Outcome, usize> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut outcomes = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for outcome in property(&bytes) {
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    outcomes
}

#[track_caller]
fn assert_reached(outcomes: &BTreeMap<Outcome, usize>, expected: &[&str]) {
    let missing: Vec<_> = expected.iter().filter(|name| !outcomes.contains_key(**name)).collect();
    assert!(missing.is_empty(), "the corpus misses {missing:?} of {outcomes:?}");
}

/// The names in the numbered rows of the table of refusals in `spec/format.md`.
fn refusals_of_the_spec() -> Vec<&'static str> {
    let rows = include_str!("../spec/format.md").lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        cells.next()?.parse::<u8>().ok()?;
        cells.next()?.strip_prefix('`')?.strip_suffix('`')
    });
    rows.collect()
}

#[test]
fn decoding_agrees_with_the_table_of_the_spec_in_every_row() {
    let outcomes = replay("decode", adapter::decode);
    let refusals = refusals_of_the_spec();
    assert_eq!(refusals.len(), 24);
    assert_reached(&outcomes, &refusals);
    assert_reached(&outcomes, &["accepted"]);
}

#[test]
fn encoding_writes_what_reads_back_or_refuses_what_is_wrong() {
    let outcomes = replay("encode", adapter::encoding);
    // Of the header's refusals, those of codes that Rust's types cannot hold do not occur.
    let held_by_types = ["unknown-scalar", "unknown-split", "unknown-tying", "unknown-projection"];
    let of_header = &refusals_of_the_spec()[3..20];
    let reachable: Vec<_> =
        of_header.iter().filter(|name| !held_by_types.contains(name)).copied().collect();
    assert_reached(&outcomes, &reachable);
    let of_values = ["value-not-finite", "value-not-representable"];
    assert_reached(&outcomes, &["accepted", "buffer-too-small", of_values[0], of_values[1]]);
}

#[test]
fn a_model_that_loads_can_be_read_written_and_merged() {
    let outcomes = replay("onnx", container::onnx);
    assert_reached(&outcomes, &["targets"]);
}

#[test]
fn a_model_whose_bulk_stays_in_its_file_is_the_message_that_the_decoder_reads() {
    let outcomes = replay("wire", wire::wire);
    assert_reached(&outcomes, &["left in the file", "read whole", "NotOnnx", "WrongLength"]);
}

#[test]
fn a_checkpoint_that_loads_is_read_like_the_formats_own_crate_does() {
    let outcomes = replay("checkpoint", checkpoint::safetensors);
    assert_reached(&outcomes, &["targets"]);
}

#[test]
fn digests_depend_on_weights_and_not_on_how_the_file_is_arranged() {
    let outcomes = replay("digest", digest::digest);
    assert_reached(&outcomes, &["digest", "merged"]);
}

#[cfg(all(feature = "cli", feature = "train"))]
mod text {
    use super::{assert_reached, properties::text, replay};

    #[test]
    fn recipes_are_written_and_taken_again_or_refused() {
        assert_reached(&replay("recipe", text::recipe), &["accepted", "rounded"]);
    }

    #[test]
    fn datasets_are_their_lines_and_a_bad_one_is_named() {
        assert_reached(&replay("dataset", text::dataset), &["problems", "number", "answer"]);
    }

    #[test]
    fn answers_are_the_same_in_either_order_and_numbers_by_their_value() {
        let outcomes = replay("answers", text::answers);
        assert_reached(&outcomes, &["equal numbers", "other numbers", "same", "other"]);
    }

    #[test]
    fn templates_render_the_same_each_time_or_say_why_not() {
        assert_reached(&replay("template", text::template), &["rendered"]);
    }
}
