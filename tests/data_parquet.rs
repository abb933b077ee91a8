//! Datasets in Parquet, as the hub ships them: files that pyarrow wrote (`fixtures/make/parquet.py`).
#![cfg(feature = "train")]

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tla::train::data::{DataError, Fields, Problem, read_dataset, read_problems};

/// Read once, a file is known by the bytes that were read.
#[test]
fn a_dataset_is_known_by_its_bytes() {
    for name in ["heldout.jsonl", "parquet/snappy.parquet"] {
        let path = fixture(name);
        let bytes = std::fs::read(&path).unwrap();
        match read_dataset(&path, &Fields::default()) {
            Ok(found) => assert_eq!(found.digest[..], Sha256::digest(&bytes)[..], "{name}"),
            Err(error) => assert!(matches!(error, DataError::NoParquet { .. }), "{error}"),
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/data").join(name)
}

fn read(path: &Path) -> Result<Vec<Problem>, DataError> {
    read_problems(path, &Fields::default())
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_the_reader_says_so() {
    let error = read(&fixture("parquet/snappy.parquet")).unwrap_err().to_string();
    assert!(
        error.contains("built without their reader. Build it with --features parquet"),
        "{error}"
    );
}

#[cfg(feature = "parquet")]
mod with_reader {
    use super::*;
    use serde_json::json;
    use tla::train::reward::{ExactMatch, RewardError, boxed::Boxed, check};

    const FILES: [&str; 2] = ["parquet/snappy.parquet", "parquet/zstd.parquet"];

    #[test]
    fn rows_are_the_problems_of_the_same_lines_with_every_column() {
        let lines = read(&fixture("heldout.jsonl")).unwrap();
        for file in FILES {
            let path = fixture(file);
            let problems = read(&path).unwrap();
            assert_eq!(problems.len(), 8);
            for (row, (found, line)) in problems.iter().zip(&lines).enumerate() {
                assert_eq!((&found.question, &found.answer), (&line.question, &line.answer));
                assert_eq!((&found.solution, found.line), (&line.solution, row + 1));
                let i = row as i64;
                assert_eq!(found.fields["index"], i);
                assert_eq!(found.fields["level"], format!("Level {}", i % 3));
                assert_eq!(found.fields["score"], i as f64 / 2.0);
                assert_eq!(found.fields["tags"], json!([i.to_string(), "x"]));
                let b = if i % 2 == 0 { json!("y") } else { json!(null) };
                assert_eq!(found.fields["meta"], json!({"a": i, "b": b}));
            }
            check(&ExactMatch, &problems, &path).unwrap();
        }
    }

    #[test]
    fn errors_name_the_row() {
        let path = fixture(FILES[0]);
        let fields = Fields { question: Some("index".into()), answer: None };
        let error = read_problems(&path, &fields).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{}, row 1: \"index\" is 0, not a string. Put it in quotes", path.display())
        );
        let mut problems = read(&path).unwrap();
        problems[4].answer = "first\nsecond".into();
        let error = check(&Boxed, &problems, &path).unwrap_err();
        assert!(
            matches!(&error, RewardError::Reference { place, .. } if place.ends_with(", row 5"))
        );
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_crash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.parquet");
        let whole = std::fs::read(fixture(FILES[1])).unwrap();
        let mut refused = 0;
        let mut try_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match read(&path) {
                Ok(problems) => assert!(!problems.is_empty()),
                Err(error) => {
                    assert!(error.to_string().contains(". "), "{error}");
                    refused += 1;
                }
            }
        };
        for length in (0..whole.len()).step_by(97) {
            try_bytes(&whole[..length]);
        }
        for at in (0..whole.len()).step_by(31) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            try_bytes(&bytes);
        }
        assert!(refused > whole.len() / 97, "{refused}");
    }
}
