//! `tla train` and `tla eval` from the outside: the files they leave, and that a run repeats.
#![cfg(all(feature = "cli", feature = "train"))]

mod training;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tla::train::journal::{Line, read};
use training::{DOWN, Run, fixture, names, on, placement, steps, told};

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
fn a_finished_run_leaves_its_page_and_its_events() {
    let (run, report) = Run::finished(&DOWN);
    assert_eq!(run.reports(), ["journal.jsonl", "report.html", "state.json", "tensorboard"]);
    let folder = run.journal().parent().unwrap().to_owned();
    assert_eq!(names(&folder.join("tensorboard")), ["events.out.tfevents.0000000001.tla"]);
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    // The report has v in the fewest digits of f32, the page as the adapter's fields have it.
    let v = report["v"].as_array().unwrap().iter();
    let v = v.map(|x| format!("{:?}", f64::from(x.as_f64().unwrap() as f32)));
    for expected in ["13 numbers for wordmath", "Finished after 2 steps", "factors_digest"] {
        assert!(page.contains(expected), "no {expected:?}");
    }
    for value in v {
        assert!(page.contains(&value), "no {value}");
    }
}

#[test]
fn the_journal_tells_start_placement_every_step_and_the_end() {
    let (run, report) = Run::finished(&DOWN);
    let found = run.lines();
    assert!(!found.torn);
    let [
        Line::Start(start),
        Line::Placement(placed),
        Line::Step(_),
        Line::Samples(samples),
        Line::Step(_),
        Line::Answers(answers),
        Line::End(end),
    ] = &found.lines[..]
    else {
        panic!("{:?}", found.lines);
    };
    assert_eq!((samples.step, answers.answers.len()), (1, 8));
    assert!(samples.samples.iter().all(|s| !s.text.is_empty() && s.line > 0), "{samples:?}");
    assert_eq!(start.settings["--roles"], "down");
    assert_eq!(end.shipped_step, Some(2));
    assert_eq!((start.problems, start.seed, start.steps), (2000, 3, 2));
    assert_eq!((start.layout.as_str(), start.micro_tokens), ("shared", 8192));
    assert_eq!((placed.seed, placed.modules, placed.parameters), (7, 4, 13));
    assert_eq!((end.steps, end.reason.as_str()), (2, "finished"));
    assert_eq!(end.adapter.as_deref(), report["output"].as_str());
    for (at, step) in steps(&found).into_iter().enumerate() {
        assert_eq!((step.step, step.groups), (at as u64 + 1, 4));
        assert!(step.entropy_mean.is_some_and(|e| e > 0.0 && e < 8.0), "{step:?}");
        assert!(step.cut_share.is_some_and(|share| (0.0..1.0).contains(&share)), "{step:?}");
        let parts = step.rollout_seconds + step.reward_seconds + step.gradient_seconds;
        assert!(parts > 0.0 && parts <= step.seconds, "{step:?}");
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
    let mut left = run.reports();
    left.retain(|name| name != "state.json.next");
    assert_eq!(left, ["journal.jsonl", "state.json", "tensorboard"]);
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

/// Arguments of a run that reads its problems from `data`.
fn reading(run: &Run, data: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments = run.arguments(&[&DOWN[..], more].concat());
    let at = arguments.iter().position(|a| a == "--data").unwrap();
    arguments[at + 1] = data.display().to_string();
    arguments
}

#[cfg(unix)]
#[test]
fn data_from_a_pipe_is_read_once_and_is_known_by_what_was_read() {
    let file = fixture("data/train.jsonl");
    let settings = |run: &Run| match &run.lines().lines[0] {
        Line::Start(start) => start.settings.clone(),
        other => panic!("{other:?}"),
    };
    let (plain, _) = Run::finished(&DOWN);
    let run = Run::new();
    let pipe = run.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(reading(&run, &pipe, &[]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    fs::write(&pipe, fs::read(&file).unwrap()).unwrap();
    // A second reading would wait for a writer for ever.
    let patience = Instant::now() + Duration::from_secs(300);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > patience {
            child.kill().unwrap();
            panic!("the run waits");
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    assert_eq!(settings(&run)["--data"], settings(&plain)["--data"]);
    assert_eq!(run.bytes(), plain.bytes());
}

/// 256 rows of 512 logits are shared out among threads.
#[cfg(target_os = "linux")]
#[test]
fn no_more_threads_than_asked_for_choose_tokens() {
    let run = Run::new();
    let many = ["--problems", "32", "--samples", "8", "--steps", "1", "--threads", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(run.arguments(&[&DOWN[..], &many].concat()));
    command.env("RAYON_NUM_THREADS", "40").stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let threads = format!("/proc/{}/task", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(fs::read_dir(&threads).map_or(0, Iterator::count));
        thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    assert!((2..40).contains(&most), "{most} threads");
}
