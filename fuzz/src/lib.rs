//! The properties that the fuzz targets assert, shared with `tests/fuzz_corpus.rs`.

#[path = "../../tests/properties/mod.rs"]
pub mod properties;
