//! A dataset is read, answered and scored; a bad one is refused by file and line.
#![cfg(feature = "train")]

use std::path::PathBuf;

use tla::eval::report::EvalReport;
use tla::train::data::{DataError, Fields, MAX_LINE, Problem, read_problems};
use tla::train::reward::{ExactMatch, Reward, boxed::Boxed, check, score_group};

struct Dataset {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn dataset(bytes: &[u8]) -> Dataset {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.jsonl");
    std::fs::write(&path, bytes).unwrap();
    Dataset { _folder: folder, path }
}

fn read(bytes: &[u8]) -> Result<Vec<Problem>, DataError> {
    read_problems(&dataset(bytes).path, &Fields::default())
}

const TWO: &str = "{\"question\": \"1+2?\", \"answer\": \"1+2=3\\n#### 3\"}\n\n\
                   {\"question\": \"500*2?\", \"answer\": \"#### 1,000\"}";

#[test]
fn problems_keep_their_lines_and_are_scored_strictly() {
    let problems = read(TWO.as_bytes()).unwrap();
    assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 3]);
    let completions = ["2*500\n#### 1000", "#### 1,000.00", "1000", "#### 100"];
    let rewards = score_group(&ExactMatch, &problems[1], &completions).unwrap();
    assert_eq!(rewards, [1.0, 1.0, 0.0, 0.0]);
    let right = |p| score_group(&ExactMatch, p, &["#### 3"]).unwrap() == [1.0];
    let outcomes: Vec<bool> = problems.iter().map(right).collect();
    assert_eq!(EvalReport::new(&outcomes).unwrap().accuracy, 0.5);
}

#[test]
fn an_error_names_file_line_value_and_remedy() {
    for (bad, expected) in [
        (
            &b"{\"question\": 5, \"answer\": \"#### 1\"}"[..],
            "\"question\" is 5, not a string. Put it in quotes",
        ),
        (
            b"{\"question\": \"q\"}",
            "the field \"answer\" is missing (found: question). Rename or add it, or name another with \
             --question-field or --answer-field",
        ),
        (b"3", "`3` is not an object. Write {\"question\": \"...\", \"answer\": \"... #### 27\"}"),
        (b"\xc3\x28", "byte 1 of the line is not valid UTF-8. Save the file as UTF-8"),
    ] {
        let file = dataset(&[TWO.as_bytes(), b"\n", bad].concat());
        let error = read_problems(&file.path, &Fields::default()).unwrap_err().to_string();
        assert_eq!(error, format!("{}, line 4: {expected}", file.path.display()));
    }
}

#[test]
fn a_reward_names_the_line_whose_reference_it_cannot_use() {
    for (reward, bad, expected) in [
        (
            &ExactMatch as &dyn Reward,
            &br#####"{"question": "q", "answer": "#### x"}"#####[..],
            "`x` after `####` in the reference answer is not a number. Write digits, as in `#### 27`",
        ),
        (
            &Boxed,
            br#"{"problem": "q", "solution": "It is so.\nIt is done."}"#,
            "the reference answer ends in `It is so.\nIt is done.`, has several lines, and neither \
             `\\boxed{…}` nor `####` says which part is the answer. Add one, or name a field that \
             holds the answer alone with --answer-field",
        ),
    ] {
        let file = dataset(&[TWO.as_bytes(), b"\n", bad].concat());
        let problems = read_problems(&file.path, &Fields::default()).unwrap();
        let error = check(reward, &problems, &file.path).unwrap_err().to_string();
        assert_eq!(error, format!("{}, line 4: {expected}", file.path.display()));
        check(reward, &problems[..2], &file.path).unwrap();
    }
}

#[test]
fn nothing_to_read_is_an_error() {
    for empty in [&b""[..], b"\n\n", b"  \r\n"] {
        assert!(matches!(read(empty), Err(DataError::Empty { .. })));
    }
    let missing = read_problems(std::path::Path::new("no/such/file.jsonl"), &Fields::default());
    assert!(matches!(missing, Err(DataError::Io { .. })));
}

#[test]
fn a_line_without_end_is_refused_before_it_is_kept() {
    let error = read(&vec![b'x'; 3 * MAX_LINE]).unwrap_err();
    assert!(error.to_string().contains("line 1: the line is longer than"), "{error}");
}

#[test]
fn the_longest_line_is_still_read() {
    let frame = "{\"question\": \"\", \"answer\": \"#### 1\"}".len();
    let question = "q".repeat(MAX_LINE - frame);
    let line = format!("{{\"question\": \"{question}\", \"answer\": \"#### 1\"}}\n{TWO}");
    assert_eq!(read(line.as_bytes()).unwrap().len(), 3);
}
