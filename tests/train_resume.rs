//! A run that is killed, interrupted or out of space goes on to the bits of one that was not.
#![cfg(all(feature = "cli", feature = "train", unix))]

mod training;

use std::{
    fs,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tla::{
    policy::sampling::uniform,
    train::journal::{Line, Record, Step},
};
use training::{DOWN, Run, said, steps};

/// Some steps with a measured placement before them.
const MEASURED: [&str; 12] = [
    "--steps",
    "5",
    "--survey",
    "2",
    "--problems",
    "12",
    "--samples",
    "4",
    "--seed",
    "search:16",
    "--learning-rate",
    "0.1",
];

fn command(run: &Run, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(run.arguments(more));
    command
}

fn started(run: &Run, more: &[&str]) -> Child {
    command(run, more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn done(run: &Run, more: &[&str]) -> Output {
    let output = command(run, more).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until the journal is as wanted; the run must not end before.
fn until(run: &Run, child: &mut Child, wanted: impl Fn(&Record) -> bool) {
    let patience = Instant::now() + Duration::from_secs(300);
    while !(run.journal().exists() && wanted(&run.lines())) {
        assert_eq!(child.try_wait().unwrap(), None, "the run ended by itself");
        assert!(Instant::now() < patience, "the run stands still");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The lines that two runs must share: all but what they were started as, without times.
fn told(run: &Run) -> Vec<Line> {
    let timeless = |line: Line| match line {
        Line::Start(_) | Line::Resume(_) | Line::End(_) => None,
        Line::Step(step) => Some(Line::Step(Step {
            seconds: 0.0,
            rollout_seconds: 0.0,
            reward_seconds: 0.0,
            gradient_seconds: 0.0,
            ..step
        })),
        other => Some(other),
    };
    run.lines().lines.into_iter().filter_map(timeless).collect()
}

#[test]
fn a_run_killed_at_random_points_ends_in_the_same_bits() {
    let whole = Run::new();
    let began = Instant::now();
    done(&whole, &MEASURED);
    let took = began.elapsed();

    let again = Run::new();
    let resume = [&MEASURED[..], &["--resume"]].concat();
    let mut killed = 0;
    for point in 0..5 {
        let mut child = started(&again, &resume);
        thread::sleep(took.mul_f64(uniform(11, 0, 0, point)));
        let by_itself = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += usize::from(by_itself.is_none());
        if by_itself.is_some() {
            break;
        }
        println!("killed with {} steps done", again.journal().exists() as usize);
    }
    assert!(killed >= 2, "killed {killed} times");
    done(&again, &resume);
    assert_eq!(again.bytes(), whole.bytes());
    assert_eq!(told(&again), told(&whole));
}

#[test]
fn a_run_killed_as_soon_as_each_line_is_there_ends_in_the_same_bits() {
    let options = [&DOWN[..], &["--steps", "4", "--learning-rate", "0.1"]].concat();
    let whole = Run::new();
    done(&whole, &options);
    let again = Run::new();
    let resume = [&options[..], &["--resume"]].concat();
    // Behind the start, the placement, and the steps, where the state may or may not be written.
    for lines in [1, 2, 3, 5] {
        let mut child = started(&again, &resume);
        until(&again, &mut child, |found| {
            let kept = |line: &&Line| !matches!(line, Line::Resume(_));
            found.lines.iter().filter(kept).count() >= lines
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    done(&again, &resume);
    assert_eq!(again.bytes(), whole.bytes());
    assert_eq!(told(&again), told(&whole));
    // A finished run has nothing left to do, and says the same again.
    fs::remove_file(again.adapter()).unwrap();
    done(&again, &resume);
    assert_eq!(again.bytes(), whole.bytes());
}

#[test]
fn an_interrupted_run_keeps_its_state_says_how_to_go_on_and_goes_on() {
    let whole = Run::new();
    let options = [&DOWN[..], &["--steps", "4", "--learning-rate", "0.1"]].concat();
    done(&whole, &options);

    let again = Run::new();
    let long = [&DOWN[..], &["--steps", "100000", "--learning-rate", "0.1"]].concat();
    let mut child =
        command(&again, &long).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until(&again, &mut child, |found| !steps(found).is_empty());
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    for word in ["stopping after this step", "interrupted after step", "--resume"] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
    assert!(!again.adapter().exists());
    let found = again.lines();
    let Some(Line::End(end)) = found.lines.last() else { panic!("{:?}", found.lines) };
    assert_eq!((end.reason.as_str(), end.steps), ("interrupted", steps(&found).len() as u64));
    // As many steps more or fewer may be asked for; the end of the interrupted process is gone.
    if end.steps <= 4 {
        done(&again, &[&options[..], &["--resume"]].concat());
        assert_eq!(again.bytes(), whole.bytes());
        assert_eq!(told(&again), told(&whole));
    }
}

#[test]
fn the_second_signal_ends_a_long_step_at_once() {
    let run = Run::new();
    let options = [&DOWN[..], &["--problems", "2000", "--samples", "16"]].concat();
    let mut child = started(&run, &options);
    until(&run, &mut child, |found| {
        found.lines.iter().any(|line| matches!(line, Line::Placement(_)))
    });
    // The signal shall come within the step, not before it.
    thread::sleep(Duration::from_secs(2));
    signal(&child, "TERM");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "the first signal does not end the step");
    signal(&child, "TERM");
    let status: ExitStatus = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(steps(&run.lines()).is_empty());
}

#[test]
fn a_disk_that_fills_stops_the_run_and_what_was_kept_goes_on() {
    let options = [&DOWN[..], &["--steps", "6", "--sample-every", "1"]].concat();
    let whole = Run::new();
    done(&whole, &options);
    let again = Run::new();
    // No file may grow beyond some of the journal's lines.
    let limit = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", limit, "sh", env!("CARGO_BIN_EXE_tla")]).args(again.arguments(&options));
    let output = limited.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("Check the path and free space"), "{}", said(&output));
    assert!(!again.lines().torn);
    done(&again, &[&options[..], &["--resume"]].concat());
    assert_eq!(again.bytes(), whole.bytes());
    assert_eq!(told(&again), told(&whole));
}

#[test]
fn what_changed_since_a_run_began_is_named_and_more_steps_are_welcome() {
    let run = Run::new();
    let data = run.folder.path().join("data.jsonl").display().to_string();
    fs::copy(training::fixture("data/train.jsonl"), &data).unwrap();
    // The last of two --data would be refused, so the list is put together by hand.
    let with = |more: &[&str]| {
        let mut arguments = run.arguments(&[&DOWN[..], &["--steps", "1"], more].concat());
        let at = arguments.iter().position(|a| a == "--data").unwrap();
        arguments[at + 1].clone_from(&data);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
    };
    assert!(with(&[]).status.success());
    let refused = |more: &[&str], word: &str| {
        let output = with(&[more, &["--resume"]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(word), "{}", said(&output));
    };
    refused(&["--clip", "0.3"], "--clip was 0.2 when the run in");
    refused(&["--width", "12"], "--width was 13 when");
    refused(&["--objective", "sft"], "--objective was grpo when");
    let problems = fs::read_to_string(&data).unwrap();
    fs::write(&data, problems.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    refused(&[], "--data was ");
    fs::write(&data, problems).unwrap();
    let output = with(&["--resume", "--patience", "50"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(steps(&run.lines()).len(), 1);
}
