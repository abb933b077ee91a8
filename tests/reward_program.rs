//! A reward's program is asked line by line, and what it does wrong stops the run with the answer
//! that it was asked about; it never outlives the reward.
#![cfg(all(unix, feature = "train"))]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Map, json};
use tla::train::{
    data::Problem,
    reward::{Attempt, Reward, RewardError, choice::choose, program::Program, score_all},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A program in Python: `work` is run for each request, `r`, and replies with `say`.
fn program(work: &str) -> Program {
    let lines: String = work.lines().map(|line| format!("    {line}\n")).collect();
    let script = format!(
        "import json, os, sys, time\n\
         def say(**reply):\n    print(json.dumps(reply), flush=True)\n\
         for n, line in enumerate(sys.stdin):\n    r = json.loads(line)\n{lines}"
    );
    let command = ["python3", "-c", &script].map(str::to_owned);
    Program::start(&command, LIMIT).unwrap()
}

fn problem() -> Problem {
    let fields = json!({"question": "3+4?", "answer": "#### 7", "id": "row-1", "level": 2});
    let fields: Map<_, _> = fields.as_object().unwrap().clone();
    let [question, answer] = ["3+4?", "#### 7"].map(str::to_owned);
    Problem { question, solution: answer.clone(), answer, fields, line: 5 }
}

fn scores(reward: &dyn Reward, completions: &[&str]) -> Result<Vec<f64>, RewardError> {
    let problem = problem();
    let attempts: Vec<Attempt<'_>> =
        completions.iter().map(|completion| Attempt { problem: &problem, completion }).collect();
    score_all(reward, &attempts)
}

/// What is said of a program that fails on the second of two answers.
#[track_caller]
fn fails(work: &str, words: &[&str]) {
    fails_as(&program(work), words);
}

#[track_caller]
fn fails_as(program: &Program, words: &[&str]) {
    let error = scores(program, &["first", "second"]).unwrap_err().to_string();
    let sample = "failed on the answer `second` to the problem of line 5: ";
    for word in [&[sample, ". No score was assumed"], words].concat() {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    let again = scores(program, &["third"]).unwrap_err().to_string();
    assert!(again.contains("it failed before"), "{again}");
}

const FIRST: &str = "if n == 0:\n    say(id=r['id'], reward=1)\n    continue\n";

#[test]
fn every_answer_is_sent_with_its_row_and_gets_its_reward() {
    let work = "row = r['row']\n\
                assert row == {'question': '3+4?', 'answer': '#### 7', 'id': 'row-1', 'level': 2}\n\
                assert (r['question'], r['answer']) == ('3+4?', '#### 7')\n\
                say(id=r['id'], reward=len(r['completion']) / 4)";
    let program = program(work);
    assert_eq!(scores(&program, &["", "a", "\u{e9}\n\""]).unwrap(), [0.0, 0.25, 0.75]);
    assert_eq!(scores(&program, &["aaaa"]).unwrap(), [1.0]);
    assert_eq!(scores(&program, &[]).unwrap(), [] as [f64; 0]);
}

#[test]
fn the_program_of_the_documentation_gives_what_it_says() {
    let page = include_str!("../docs/rewards.md");
    let (_, rest) = page.split_once("```python\n").unwrap();
    let (script, _) = rest.split_once("```").unwrap();
    let command = ["python3", "-c", script].map(str::to_owned);
    let program = Program::start(&command, LIMIT).unwrap();
    let long = format!("{} #### 7", "so ".repeat(40));
    assert_eq!(scores(&program, &["#### 7", "#### 8", &long, "7"]).unwrap(), [1.5, 0.5, 1.0, 1.5]);
}

#[test]
fn replies_may_come_in_any_order() {
    let work = "waiting = globals().setdefault('waiting', [])\nwaiting.append(r)\n\
                if len(waiting) == 3:\n    for w in reversed(waiting):\n        \
                say(id=w['id'], reward=float(w['completion']))";
    assert_eq!(scores(&program(work), &["1", "2", "3"]).unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn more_than_the_pipes_hold_is_sent_and_read_at_once() {
    // 400 answers of 10 kB each way: neither side may wait for the other to read first.
    let work = "say(id=r['id'], reward=n, echo=r['completion'])";
    let long = "x".repeat(10_000);
    let found = scores(&program(work), &[long.as_str(); 400]).unwrap();
    assert_eq!(found, (0..400).map(f64::from).collect::<Vec<_>>());
}

#[test]
fn a_program_that_breaks_the_protocol_stops_the_run_with_the_sample() {
    let work = |rest: &str| format!("{FIRST}{rest}");
    for (rest, words) in [
        ("sys.exit(3)", &["it ended (exit status: 3) before it replied"][..]),
        ("os.abort()", &["it ended (signal: 6"]),
        ("raise ValueError('no')", &["it ended (exit status: 1)"]),
        ("os.close(1)\ntime.sleep(0.2)\nos._exit(0)", &["it ended (exit status: 0)"]),
        ("print('hello', flush=True)", &["its reply `hello` is not JSON"]),
        ("say(id=r['id'], reward=float('nan'))", &["NaN", "that is a finite number"]),
        ("say(id=r['id'], reward=None)", &["has no \"reward\" that is a finite number"]),
        ("say(id=r['id'])", &["has no \"reward\""]),
        ("say(reward=1)", &["has no \"id\""]),
        ("say(id=r['id'] - 1, reward=1)", &["it replied to id 0, which is not awaited"]),
        ("say(id=99, reward=1)", &["id 99, which is not awaited"]),
        ("say(id=r['id'], error='unit unknown')", &["it says \"unit unknown\""]),
        ("print('x' * (1 << 21), flush=True)", &["cannot be read: a line is longer than"]),
    ] {
        fails(&work(rest), words);
    }
}

#[test]
fn a_reply_that_is_late_is_an_error_and_not_a_score() {
    // The first reply counts the start of the program too, which a shell is quick at.
    let script = r#"read line; echo '{"id": 0, "reward": 1}'; sleep 600"#;
    let command = ["sh", "-c", script].map(str::to_owned);
    let program = Program::start(&command, Duration::from_millis(1500)).unwrap();
    fails_as(&program, &["no reply within 1.5 seconds", "raise --reward-timeout"]);
}

#[test]
fn a_program_that_cannot_start_is_refused_and_words_are_split_as_in_a_shell() {
    let error = choose("command:/no/such/program", None).err().unwrap().to_string();
    assert!(error.contains("cannot start `/no/such/program`"), "{error}");
    let script = "import json,sys\nfor l in sys.stdin: print(json.dumps({\"id\": json.loads(l)[\"id\"], \
                  \"reward\": len(sys.argv)}), flush=True)";
    let reward = choose(&format!("command:python3 -c '{script}' 'a b' c"), None).unwrap();
    assert_eq!(scores(&*reward, &["x"]).unwrap(), [3.0]);
}

/// Whether a process of this id is there and no zombie.
fn runs(id: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", id]).output().unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[track_caller]
fn ends(id: &str) {
    let patience = Instant::now() + Duration::from_secs(60);
    while runs(id) {
        assert!(Instant::now() < patience, "process {id} outlives its reward");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_program_and_what_it_started_end_with_the_reward() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids");
    let ids = |file: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    };
    // One ends when its input does; the other ignores that, and has started another.
    for stubborn in [false, true] {
        let after = if stubborn { "import time; time.sleep(600)" } else { "pass" };
        let script = format!(
            "import json, os, subprocess, sys\n\
             other = subprocess.Popen(['sleep', '600']) if {} else None\n\
             open({file:?}, 'w').write(f'{{os.getpid()}} {{other.pid if other else \"\"}}')\n\
             for line in sys.stdin:\n    print(json.dumps({{'id': json.loads(line)['id'], 'reward': 1}}), flush=True)\n\
             {after}",
            if stubborn { "True" } else { "False" }
        );
        let command = ["python3", "-c", &script].map(str::to_owned);
        let program = Program::start(&command, LIMIT).unwrap();
        assert_eq!(scores(&program, &["x"]).unwrap(), [1.0]);
        let started = ids(&file);
        assert_eq!(started.len(), 1 + usize::from(stubborn));
        assert!(started.iter().all(|id| runs(id)));
        drop(program);
        started.iter().for_each(|id| ends(id));
    }
}
