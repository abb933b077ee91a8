//! `tla eval` of several adapters at once: each answers as it does alone, however the batches are
//! cut, and what is reported agrees with the answers.
#![cfg(all(feature = "cli", feature = "train"))]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
}

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).display().to_string()
}

fn told(arguments: &[String]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).arg("--json");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adapters of the fixture of different roles, seeds, widths, layers, ranks and splits.
    fn adapters(&self) -> Vec<String> {
        let made = [
            json!({"v": values(13), "seed": 3, "roles": ["down"]}),
            json!({"v": values(4), "seed": 9, "roles": ["q", "up"], "width": 2, "groups": 2}),
            json!({"v": values(5), "seed": 1, "roles": ["down", "o"], "first_layer": 1, "layers": 2}),
            json!({"v": values(4), "seed": 5, "roles": ["gate"], "rank": 3}),
            json!({"v": values(4), "seed": 5, "roles": ["down"], "split": "peft"}),
        ];
        let pack = |(at, mut recipe): (usize, Value)| {
            let object = recipe.as_object_mut().unwrap();
            let width = object["v"].as_array().unwrap().len();
            object.entry("width").or_insert(json!(width));
            let [json, tla] = ["json", "tla"].map(|end| self.path(&format!("{at}.{end}")));
            fs::write(&json, recipe.to_string()).unwrap();
            let [json, tla] = [json, tla].map(|path| path.display().to_string());
            let model = fixture("wordmath");
            told(&["pack", &json, "--model", &model, "-o", &tla].map(str::to_owned));
            tla
        };
        made.into_iter().enumerate().map(pack).collect()
    }

    /// The report and the answers of `tla eval` on 12 problems.
    fn eval(&self, adapters: &[String], more: &[&str]) -> (Value, Vec<Value>) {
        let answers = self.path("answers.jsonl").display().to_string();
        let fixed = ["eval", "--limit", "12", "--max-tokens", "40", "--threads", "2", "--answers"];
        let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
        arguments.push(answers.clone());
        arguments.extend(["--model".to_owned(), fixture("wordmath")]);
        arguments.extend(adapters.iter().flat_map(|a| ["--adapter".to_owned(), a.clone()]));
        arguments.extend(more.iter().map(|a| (*a).to_owned()));
        if !more.contains(&"--data") {
            arguments.extend(["--data".to_owned(), fixture("data/heldout.jsonl")]);
        }
        let report = told(&arguments);
        let lines = fs::read_to_string(answers).unwrap();
        (report, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

fn values(count: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 5 % 7) as f64 - 3.0) / 8.0).collect()
}

const SAMPLED: [&str; 6] = ["--samples", "3", "--pass-at", "1,3", "--eval-seed", "5"];

#[test]
fn adapters_in_one_batch_answer_as_each_does_alone_however_batches_are_cut() {
    let place = Place::new();
    let adapters = place.adapters();
    let (together, answers) = place.eval(&adapters, &SAMPLED);
    let (cut, cut_answers) = place.eval(&adapters, &[&SAMPLED[..], &["--batch", "2"]].concat());
    assert_eq!((&cut, &cut_answers), (&together, &answers));
    assert_eq!((together["n"].as_u64(), together.get("accuracy")), (Some(12), None));

    let mut changed = 0;
    for (at, adapter) in adapters.iter().enumerate() {
        let (alone, alone_answers) = place.eval(&adapters[at..=at], &SAMPLED);
        let mut beside = together["adapters"][at].clone();
        assert_eq!(beside["adapter"], adapter.as_str());
        assert_eq!(alone["adapters"], json!([beside]));
        beside.as_object_mut().unwrap().remove("adapter");
        for (key, value) in beside.as_object().unwrap() {
            assert_eq!(alone[key], *value, "{key} of {adapter}");
        }
        assert_eq!(alone["base"], together["base"]);
        for (together, alone) in answers.iter().zip(&alone_answers) {
            for key in ["text", "tokens", "correct", "reward", "flexible"] {
                assert_eq!(together["adapters"][at][key], alone[key], "{key} of {adapter}");
            }
            assert_eq!(together["base"]["text"], alone["base_text"]);
            changed += usize::from(alone["text"] != alone["base_text"]);
        }
    }
    assert!(changed > 10, "only {changed} answers are not the base's");
}

#[test]
fn the_report_agrees_with_the_answers() {
    let place = Place::new();
    let adapter = &place.adapters()[..1];
    let (report, answers) = place.eval(adapter, &SAMPLED);
    let count = |key: &str| answers.iter().filter(|a| a[key] == true).count() as u64;
    assert_eq!(report["correct"], count("correct"));
    assert_eq!(report["base"]["correct"], count("base_correct"));
    assert_eq!(report["flexible"]["correct"], count("flexible"));
    // The right answer is told as the reward reads it, not with its worked solution.
    assert!(answers.iter().all(|a| a["answer"].as_str().unwrap().parse::<i64>().is_ok()));
    let gained = |a: &&Value| a["correct"] == true && a["base_correct"] == false;
    let lost = |a: &&Value| a["correct"] == false && a["base_correct"] == true;
    let [gained, lost] =
        [answers.iter().filter(gained).count(), answers.iter().filter(lost).count()];
    assert_eq!(report["paired"]["gained"], gained);
    assert_eq!(report["paired"]["lost"], lost);
    let sampled = |policy: &str, answer: &Value| {
        let samples = answer[policy].as_array().unwrap().clone();
        assert_eq!(
            samples.iter().map(|s| s["sample"].as_u64()).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)]
        );
        samples.iter().filter(|s| s["correct"] == true).count() as f64 / 3.0
    };
    for (policy, report) in [("samples", &report), ("base_samples", &report["base"])] {
        let one = answers.iter().map(|a| sampled(policy, a)).sum::<f64>() / answers.len() as f64;
        let told = report["pass_at"][0]["value"].as_f64().unwrap();
        assert!((one - told).abs() < 1e-9, "{policy}: {one} and {told}");
    }
    let path = &adapter[0];
    let shown = told(&["show".to_owned(), path.clone()]);
    assert_eq!(report["checksum"], shown["checksum"]);
    assert_eq!(report["asked"]["base_digest"], shown["base_digest"]);
    assert_eq!(
        (&report["asked"]["max_tokens"], &report["asked"]["reward"]),
        (&json!(40), &json!("gsm8k"))
    );
    let shown = report.get("examples").map_or(0, |e| e.as_array().unwrap().len());
    assert_eq!(shown, (gained + lost).min(3));
    for policy in [&report, &report["base"]] {
        let [one, three] = [0, 1].map(|at| policy["pass_at"][at]["value"].as_f64().unwrap());
        assert_eq!([0, 1].map(|at| policy["pass_at"][at]["k"].as_u64()), [Some(1), Some(3)]);
        assert!((0.0..=1.0).contains(&one) && one <= three && three <= 1.0);
    }
}

#[test]
fn a_right_number_in_the_wrong_dress_is_told_apart_and_a_pattern_reads_as_written() {
    let place = Place::new();
    let (strict, _) = place.eval(&[], &[]);
    let correct = strict["correct"].as_u64().unwrap();
    assert!(correct > 0);
    // The fixture's model writes `#### N` and never a box.
    let (boxed, _) = place.eval(&[], &["--reward", "boxed", "--prompt", "plain"]);
    assert_eq!((&boxed["correct"], &boxed["flexible"]["correct"]), (&json!(0), &json!(correct)));
    let (pattern, _) = place.eval(&[], &["--reward", r"regex:#### (-?\d+)"]);
    assert_eq!(pattern["correct"], correct);
    assert_eq!(pattern.get("flexible"), None);
}
