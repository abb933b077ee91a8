#![allow(dead_code, reason = "each test program uses a part of it")]
//! Logits of a model in plain Python onnxruntime, and how far two of them are apart.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

pub const ROWS: usize = 3;
const LENGTH: usize = 24;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The project's own Python, which has the onnxruntime that users deploy on.
pub fn python() -> PathBuf {
    let found = [".venv/bin/python", ".venv/Scripts/python.exe"].map(|p| root().join(p));
    let python = found.into_iter().find(|p| p.exists());
    python.expect("this test needs the project's .venv with onnxruntime: run `make setup`")
}

/// Tokens of three texts, the last two padded on the right.
pub struct Tokens {
    pub ids: Vec<i64>,
    pub mask: Vec<i64>,
    pub positions: Vec<i64>,
    head: u64,
}

impl Tokens {
    /// For the model in this folder.
    pub fn of(folder: &Path) -> Self {
        let config: Value =
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
        let number = |name: &str| config[name].as_u64();
        let head = number("head_dim")
            .or_else(|| Some(number("hidden_size")? / number("num_attention_heads")?));
        let own = |row: usize| LENGTH - 5 * row;
        let cells = || (0..ROWS * LENGTH).map(|at| (at / LENGTH, at % LENGTH));
        Self {
            ids: (0..ROWS * LENGTH).map(|at| (at * 7919 % vocabulary) as i64).collect(),
            mask: cells().map(|(row, k)| i64::from(k < own(row))).collect(),
            positions: cells().map(|(row, k)| k.min(own(row) - 1) as i64).collect(),
            head: head.unwrap(),
        }
    }

    /// One of the texts alone.
    pub fn row(&self, row: usize) -> Self {
        let cut = |values: &[i64]| values[row * LENGTH..][..LENGTH].to_vec();
        let [ids, mask, positions] = [&self.ids, &self.mask, &self.positions].map(|of| cut(of));
        Self { ids, mask, positions, head: self.head }
    }

    /// In plain onnxruntime.
    pub fn logits(&self, model: &Path) -> Vec<f32> {
        self.runs(model, json!([null])).remove(0)
    }

    /// Of a grafted model, with its default and then with each of `fed`, of one row or of all.
    pub fn grafted(&self, model: &Path, fed: &[&[&[f32]]]) -> Vec<Vec<f32>> {
        let fed = fed.iter().map(|v| json!(v));
        self.runs(model, [Value::Null].into_iter().chain(fed).collect())
    }

    /// Of a grafted model with an `.onnx_adapter` file.
    pub fn with_adapter(&self, model: &Path, adapter: &Path) -> Vec<f32> {
        self.runs(model, json!([adapter.to_str().unwrap()])).remove(0)
    }

    fn runs(&self, model: &Path, fed: Value) -> Vec<Vec<f32>> {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, out) = (folder.path().join("tokens.json"), folder.path().join("logits"));
        let table = |values: &[i64]| values.chunks(LENGTH).map(<[_]>::to_vec).collect::<Vec<_>>();
        let count = fed.as_array().unwrap().len();
        let given = json!({
            "ids": table(&self.ids), "mask": table(&self.mask), "positions": table(&self.positions),
            "head": self.head, "v": fed,
        });
        fs::write(&tokens, given.to_string()).unwrap();
        let script = root().join("tests/python/logits.py");
        let run = Command::new(python()).arg(script).arg(model).arg(&tokens).arg(&out).output();
        let run = run.unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}\nIf a package is missing, run `make setup`");
        let bytes = fs::read(&out).unwrap();
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap()));
        let numbers: Vec<f32> = numbers.collect();
        numbers.chunks_exact(numbers.len() / count).map(<[_]>::to_vec).collect()
    }
}

/// The largest difference at positions that count.
pub fn apart(a: &[f32], b: &[f32], mask: &[i64]) -> f32 {
    assert_eq!(a.len(), b.len());
    let vocabulary = a.len() / mask.len();
    let rows = a.chunks_exact(vocabulary).zip(b.chunks_exact(vocabulary)).zip(mask);
    let counted = rows.filter(|(_, counts)| **counts == 1);
    let differences = counted.flat_map(|((a, b), _)| a.iter().zip(b)).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst: f32, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}
