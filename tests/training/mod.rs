#![allow(dead_code, reason = "each test program uses a part of it")]
//! `tla train` on the fixture model, in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;
use tla::train::journal::{Line, Placement, Record, Step, read};

/// Few and short answers: the numbers need not get better here.
pub const SHORT: [&str; 12] = [
    "--problems",
    "4",
    "--samples",
    "4",
    "--steps",
    "2",
    "--max-tokens",
    "32",
    "--threads",
    "2",
    "--run-seed",
    "3",
];

pub const DOWN: [&str; 4] = ["--roles", "down", "--seed", "7"];

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

pub fn tla(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command that must succeed prints with --json.
pub fn told(arguments: &[&str]) -> Value {
    let output = tla(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model and its problems, as arguments.
pub fn on(data: &str) -> Vec<String> {
    let [model, data] = ["wordmath", data].map(|f| fixture(f).display().to_string());
    vec!["--model".to_owned(), model, "--data".to_owned(), data]
}

/// A run in a folder of its own; later arguments win over [`SHORT`].
pub struct Run {
    pub folder: TempDir,
}

impl Run {
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let out = self.adapter().display().to_string();
        let mut all = vec!["train".to_owned(), "--out".to_owned(), out];
        all.extend(on("data/train.jsonl"));
        // Solutions are not sampled.
        let fits = |name: &str| name != "--samples" || !more.contains(&"sft");
        for pair in SHORT.chunks(2).filter(|pair| !more.contains(&pair[0]) && fits(pair[0])) {
            all.extend(pair.iter().map(|a| (*a).to_owned()));
        }
        all.extend(more.iter().map(|a| (*a).to_owned()));
        all
    }

    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn finished(more: &[&str]) -> (Self, Value) {
        let run = Self::new();
        let arguments = run.arguments(more);
        let report = told(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        (run, report)
    }

    pub fn adapter(&self) -> PathBuf {
        self.folder.path().join("a.tla")
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.adapter()).unwrap()
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("a.tla.run/journal.jsonl")
    }

    pub fn lines(&self) -> Record {
        read(&self.journal()).unwrap()
    }

    /// Every file and folder of the run, sorted.
    pub fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }

    /// What the run's own folder holds, sorted.
    pub fn reports(&self) -> Vec<String> {
        names(self.journal().parent().unwrap())
    }
}

/// What a folder holds, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn steps(found: &Record) -> Vec<&Step> {
    let found = found.lines.iter().filter_map(|line| match line {
        Line::Step(step) => Some(step),
        _ => None,
    });
    found.collect()
}

pub fn placement(found: &Record) -> &Placement {
    let mut found = found.lines.iter().filter_map(|line| match line {
        Line::Placement(placement) => Some(placement),
        _ => None,
    });
    found.next().expect("a placement")
}
