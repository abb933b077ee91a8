//! `tla train` and `tla eval` from the outside: the files they leave, and that a run repeats.
#![cfg(all(feature = "cli", feature = "train"))]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tla::train::journal::{Line, Placement, Record, Step, read};

/// Few and short answers: the numbers need not get better here.
const SHORT: [&str; 12] = [
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

const DOWN: [&str; 4] = ["--roles", "down", "--seed", "7"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn tla(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command that must succeed prints with --json.
fn told(arguments: &[&str]) -> Value {
    let output = tla(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model and its problems, as arguments.
fn on(data: &str) -> Vec<String> {
    let [model, data] = ["wordmath", data].map(|f| fixture(f).display().to_string());
    vec!["--model".to_owned(), model, "--data".to_owned(), data]
}

/// A run in a folder of its own; later arguments win over [`SHORT`].
struct Run {
    folder: TempDir,
}

impl Run {
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let out = self.adapter().display().to_string();
        let mut all = vec!["train".to_owned(), "--out".to_owned(), out];
        all.extend(on("data/train.jsonl"));
        for pair in SHORT.chunks(2).filter(|pair| !more.contains(&pair[0])) {
            all.extend(pair.iter().map(|a| (*a).to_owned()));
        }
        all.extend(more.iter().map(|a| (*a).to_owned()));
        all
    }

    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn finished(more: &[&str]) -> (Self, Value) {
        let run = Self::new();
        let arguments = run.arguments(more);
        let report = told(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        (run, report)
    }

    fn adapter(&self) -> PathBuf {
        self.folder.path().join("a.tla")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.adapter()).unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("a.tla.run/journal.jsonl")
    }

    fn lines(&self) -> Record {
        read(&self.journal()).unwrap()
    }

    /// Every file and folder of the run, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn steps(found: &Record) -> Vec<&Step> {
    let found = found.lines.iter().filter_map(|line| match line {
        Line::Step(step) => Some(step),
        _ => None,
    });
    found.collect()
}

fn placement(found: &Record) -> &Placement {
    let mut found = found.lines.iter().filter_map(|line| match line {
        Line::Placement(placement) => Some(placement),
        _ => None,
    });
    found.next().expect("a placement")
}

fn verified(adapter: &Path) {
    let model = fixture("wordmath").display().to_string();
    let report = told(&["verify", &adapter.display().to_string(), "--base", &model]);
    assert_eq!(report["valid"], true, "{report}");
}

#[test]
fn thirteen_numbers_make_154_bytes_that_verify_against_their_base() {
    let (run, report) = Run::finished(&DOWN);
    assert_eq!(run.bytes().len(), 154);
    assert_eq!(report["bytes"], 154);
    assert_eq!(report["params"], 13);
    assert_eq!(run.names(), ["a.tla", "a.tla.run"]);
    verified(&run.adapter());
}

#[test]
fn the_journal_tells_start_placement_every_step_and_the_end() {
    let (run, report) = Run::finished(&DOWN);
    let found = run.lines();
    assert!(!found.torn);
    let [Line::Start(start), Line::Placement(placed), Line::Step(_), Line::Step(_), Line::End(end)] =
        &found.lines[..]
    else {
        panic!("{:?}", found.lines);
    };
    assert_eq!((start.problems, start.seed, start.steps), (2000, 3, 2));
    assert_eq!((placed.seed, placed.modules, placed.parameters), (7, 4, 13));
    assert_eq!((end.steps, end.reason.as_str()), (2, "finished"));
    assert_eq!(end.adapter.as_deref(), report["output"].as_str());
    for (at, step) in steps(&found).into_iter().enumerate() {
        assert_eq!((step.step, step.groups), (at as u64 + 1, 4));
    }
}

#[test]
fn what_is_sampled_is_what_is_differentiated() {
    let (run, _) =
        Run::finished(&[&DOWN[..], &["--problems", "8", "--learning-rate", "0.2"]].concat());
    let found = run.lines();
    let learning: Vec<_> = steps(&found).into_iter().filter(|s| s.grad_norm > 0.0).collect();
    // The first is at v = 0, the others are not.
    assert!(learning.len() > 1, "{learning:?}");
    for step in learning {
        println!("step {}: log-probabilities {:.1e} apart", step.step, step.logprob_gap);
        assert!(step.logprob_gap < 1e-3, "{step:?}");
    }
}

#[test]
fn the_same_run_seed_gives_the_same_bits_on_one_thread_and_on_two() {
    let run = |threads| Run::finished(&[&DOWN[..], &["--threads", threads]].concat()).0.bytes();
    let first = run("2");
    assert_eq!(first, run("2"));
    assert_eq!(first, run("1"));
}

#[test]
fn another_run_seed_gives_another_adapter() {
    let run = |seed| Run::finished(&[&DOWN[..], &["--run-seed", seed]].concat()).0.bytes();
    assert_ne!(run("3"), run("4"));
}

#[test]
fn placement_by_the_gradient_is_reported_and_kept_in_the_file() {
    let measured = ["--roles", "auto", "--seed", "search:64", "--survey", "2", "--problems", "16"];
    let (run, report) = Run::finished(&measured);
    verified(&run.adapter());
    let found = run.lines();
    let placed = placement(&found);
    assert_eq!(placed.seeds_searched, Some(64));
    assert!(placed.seed < 64);
    for share in [placed.energy_share, placed.captured] {
        assert!(share.is_some_and(|s| s > 0.0 && s <= 1.0), "{placed:?}");
    }
    assert!(placed.snr.is_some_and(|s| s > 0.0), "{placed:?}");
    assert_eq!(report["placement"], serde_json::to_value(placed).unwrap());
    let shown = told(&["show", &run.adapter().display().to_string()]);
    assert_eq!(shown["seed"], placed.seed);
    assert_eq!(shown["first_layer"], placed.first_layer);
    assert_eq!(shown["layers"], placed.layers);
}

#[test]
fn a_killed_run_says_how_far_it_came_and_leaves_no_adapter() {
    let run = Run::new();
    let arguments = run.arguments(&[&DOWN[..], &["--steps", "100000"]].concat());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(300);
    let far = || read(&run.journal()).map_or(0, |found| steps(&found).len());
    while far() < 2 && child.try_wait().unwrap().is_none() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(20));
    }
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ended.is_none(), "the run ended by itself: {ended:?}");

    let found = run.lines();
    let done = steps(&found);
    assert!(done.len() >= 2);
    assert!(done.iter().enumerate().all(|(at, step)| step.step == at as u64 + 1));
    assert!(!found.lines.iter().any(|line| matches!(line, Line::End(_))));
    assert_eq!(run.names(), ["a.tla.run"]);
    let journal = fs::read_dir(run.journal().parent().unwrap()).unwrap();
    assert_eq!(journal.count(), 1);
}

#[test]
fn eval_reports_accuracy_and_with_an_adapter_the_comparison_with_the_base() {
    let (run, _) = Run::finished(&[&DOWN[..], &["--learning-rate", "0.2"]].concat());
    let data = on("data/heldout.jsonl");
    let asked =
        [&["eval", "--limit", "20"], &data.iter().map(String::as_str).collect::<Vec<_>>()[..]];
    let asked = asked.concat();
    let base = told(&asked);
    assert_eq!(base["n"], 20);
    let correct = base["correct"].as_u64().unwrap();
    assert_eq!(base["accuracy"], correct as f64 / 20.0);
    let [low, high] = [0, 1].map(|i| base["interval"][i].as_f64().unwrap());
    assert!(0.0 <= low && low <= correct as f64 / 20.0 && correct as f64 / 20.0 <= high);
    assert!(base.get("paired").is_none());

    let adapter = run.adapter().display().to_string();
    let answers = run.folder.path().join("answers.jsonl");
    let with = ["--adapter", &adapter, "--answers", &answers.display().to_string()];
    let compared = told(&[&asked[..], &with].concat());
    assert_eq!(compared["n"], 20);
    let [gained, lost] = ["gained", "lost"].map(|k| compared["paired"][k].as_u64().unwrap());
    assert_eq!(compared["correct"].as_u64().unwrap() + lost, correct + gained);
    assert!((0.0..=1.0).contains(&compared["paired"]["p"].as_f64().unwrap()));
    assert_eq!(fs::read_to_string(answers).unwrap().lines().count(), 20);
}
