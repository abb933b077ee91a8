//! `tla train` with a reward of the user's: what a program gives is what is trained on, and a program
//! that fails ends the run with the sample and leaves no adapter.
#![cfg(all(unix, feature = "cli", feature = "train"))]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use tla::train::journal::{Line, read};

fn train(folder: &TempDir, reward: &str, more: &[&str]) -> Output {
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("train");
    command.arg("--model").arg(fixture("wordmath")).arg("--data").arg(fixture("data/train.jsonl"));
    command.arg("--out").arg(folder.path().join("a.tla")).args(["--reward", reward]);
    let short =
        "--roles down --seed 7 --problems 4 --samples 4 --steps 2 --max-tokens 24 --threads 2";
    command.args(short.split(' ')).args(more).output().unwrap()
}

fn program(work: &str) -> String {
    format!(
        "command:python3 -c 'import json, sys\nfor line in sys.stdin:\n    r = json.loads(line)\n    \
         {work}\n    print(json.dumps(dict(id=r[\"id\"], reward=w)), flush=True)'"
    )
}

#[test]
fn a_programs_rewards_are_those_of_the_journal_and_its_name_and_prompt_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    // Answers are told apart by their lengths, so that there is a gradient.
    let reward = program("w = 2 + len(r[\"completion\"]) % 2");
    let prompt = ["--prompt", "{question} Think.", "--system", "Be brief."];
    let done = train(&folder, &reward, &prompt);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let journal = read(&folder.path().join("a.tla.run/journal.jsonl")).unwrap();
    let start = journal.lines.iter().find_map(|line| match line {
        Line::Start(start) => Some(start),
        _ => None,
    });
    let start = start.unwrap();
    assert!(start.reward.starts_with("command:python3 -c import json"), "{}", start.reward);
    assert_eq!(start.prompt, "{question} Think.");
    assert_eq!(start.system.as_deref(), Some("Be brief."));
    let rewards: Vec<f64> = journal
        .lines
        .iter()
        .filter_map(|line| match line {
            Line::Step(step) => Some(step.reward_mean.unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(rewards.len(), 2);
    // Answers that were cut are worth nothing, all others 2 or 3.
    assert!(rewards.iter().all(|mean| (0.0..=3.0).contains(mean) && *mean > 1.0), "{rewards:?}");
}

#[test]
fn a_program_that_fails_ends_the_run_with_the_sample_and_leaves_no_adapter() {
    let folder = tempfile::tempdir().unwrap();
    for (work, word) in [
        ("sys.exit(4)", "it ended (exit status: 4)"),
        ("w = None", "that is a finite number"),
        ("w = float(\"nan\")", "that is a finite number"),
        ("print(\"garbage\", flush=True); w = 1", "its reply `garbage` is not JSON"),
        ("import time; time.sleep(600)", "no reply within 0.5 seconds"),
    ] {
        let limit: &[&str] =
            if work.contains("sleep") { &["--reward-timeout", "0.5"] } else { &[] };
        let failed = train(&folder, &program(work), limit);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(2), "{said}");
        for word in [word, "failed on the answer `", "to the problem of line "] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{said}");
    }
}
