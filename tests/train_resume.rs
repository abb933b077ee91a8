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

/// Whether a process of this id is there and no zombie.
fn runs(id: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", id]).output().unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[test]
fn a_program_that_ignores_the_end_of_its_input_does_not_outlive_an_interrupted_command() {
    for train in [true, false] {
        let run = Run::new();
        let ids = run.folder.path().join("ids");
        let script = format!(
            "import json, os, signal, subprocess, sys, time\n\
             signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
             other = subprocess.Popen([\"sleep\", \"600\"])\n\
             with open(\"{0}.new\", \"w\") as f: f.write(f\"{{os.getpid()}} {{other.pid}}\")\n\
             os.rename(\"{0}.new\", \"{0}\")\n\
             for line in sys.stdin: pass\n\
             time.sleep(600)",
            ids.display()
        );
        let reward = format!("command:python3 -c '{script}'");
        let options = ["--reward", reward.as_str(), "--reward-timeout", "500"];
        let mut child = match train {
            true => started(&run, &[&DOWN[..], &options].concat()),
            false => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
                command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("eval").args(options);
                command.args(training::on("data/heldout.jsonl"));
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            }
        };
        let patience = Instant::now() + Duration::from_secs(300);
        while !ids.exists() {
            assert!(Instant::now() < patience, "the program does not start");
            thread::sleep(Duration::from_millis(5));
        }
        if train {
            // The first signal waits for the step, and so for the program.
            until(&run, &mut child, |found| {
                found.lines.iter().any(|line| matches!(line, Line::Placement(_)))
            });
            signal(&child, "INT");
            thread::sleep(Duration::from_millis(300));
            assert_eq!(child.try_wait().unwrap(), None);
        }
        signal(&child, "INT");
        let status = child.wait().unwrap();
        assert!(status.code() == train.then_some(130), "{status}");
        for id in fs::read_to_string(&ids).unwrap().split_whitespace() {
            let patience = Instant::now() + Duration::from_secs(20);
            while runs(id) {
                if Instant::now() > patience {
                    let _ = Command::new("kill").args(["-s", "KILL", id]).status();
                    panic!("process {id} outlives the command");
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
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
fn a_model_that_changed_since_a_run_began_is_refused_by_the_name_of_its_file() {
    let run = Run::new();
    let model = run.folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(training::fixture("wordmath")).unwrap() {
        let from = entry.unwrap();
        fs::copy(from.path(), model.join(from.file_name())).unwrap();
    }
    let with = |more: &[&str]| {
        let mut arguments = run.arguments(&[&DOWN[..], &["--steps", "1"], more].concat());
        let at = arguments.iter().position(|a| a == "--model").unwrap();
        arguments[at + 1] = model.display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
    };
    assert!(with(&[]).status.success());
    for name in ["tokenizer.json", "chat_template.jinja"] {
        let before = fs::read(model.join(name)).unwrap();
        fs::write(model.join(name), [&before[..], b"\n"].concat()).unwrap();
        let output = with(&["--resume"]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(&format!("{name} of --model was ")), "{}", said(&output));
        fs::write(model.join(name), before).unwrap();
    }
    // A bit of a weight.
    let path = model.join("model.onnx");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = with(&["--resume"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("model.onnx of --model was "), "{}", said(&output));
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
    refused(&["--width", "12"], "--params (--width × --groups) was 13 when");
    refused(&["--params", "26"], "--params (--width × --groups) was 13 when");
    let rule = "model.layers.{layer}.mlp.down_proj=down";
    refused(&["--module", rule], "--module was not given when");
    refused(&["--objective", "sft"], "--objective was grpo when");
    let problems = fs::read_to_string(&data).unwrap();
    fs::write(&data, problems.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    refused(&[], "--data was ");
    fs::write(&data, problems).unwrap();
    let output = with(&["--resume", "--patience", "50"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(steps(&run.lines()).len(), 1);
}
