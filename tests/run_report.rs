//! `tla report` from the outside: the page and the numbers of a run, and what it refuses.
#![cfg(all(feature = "cli", feature = "train"))]

mod cli;

use cli::Place;
use serde_json::{Value, json};

/// A journal of 40 steps; every sampled answer tries to be markup.
const JOURNAL: &str = include_str!("report/journal.jsonl");

fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("run")).unwrap();
    place.write("run/journal.jsonl", JOURNAL);
    place
}

#[test]
fn the_page_and_the_numbers_are_those_of_the_journal() {
    let place = place();
    let checksum = &place.run("show a.tla --json").json(0)["checksum"];
    let eval = json!({"checksum": checksum, "n": 400, "correct": 372, "accuracy": 0.93, "interval": [0.901, 0.951],
                      "paired": {"p": 2.8e-32, "gained": 140, "lost": 8}});
    place.write("eval.json", eval.to_string());
    let told = place.run("report run --eval eval.json --adapter a.tla --json").json(0);
    let steps: Vec<Value> = JOURNAL
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "step")
        .collect();
    let rewards: Vec<f64> = steps.iter().map(|s| s["reward_mean"].as_f64().unwrap()).collect();
    let best = rewards.iter().copied().fold(0.0, f64::max);
    assert_eq!(told["report"], "run/report.html");
    assert_eq!((&told["state"], &told["steps"]), (&json!("finished"), &json!(40)));
    assert_eq!(told["first"], json!({"step": 1, "reward": rewards[0]}));
    assert_eq!(told["last"], json!({"step": 40, "reward": rewards[39]}));
    assert_eq!(told["best"]["reward"], best);
    let sum = |field: &str| steps.iter().map(|s| s[field].as_f64().unwrap()).sum::<f64>();
    let rollout = told["seconds_by_phase"]["rollout"].as_f64().unwrap();
    assert!((rollout - sum("rollout_seconds")).abs() < 1e-9, "{rollout}");
    let share = sum("groups_without_variance") / sum("groups");
    assert_eq!(told["groups_without_variance_share"], share);

    let page = String::from_utf8(place.read("run/report.html")).unwrap();
    for expected in
        ["93 %", "140 gained, 8 lost", "factors_digest", "&lt;script&gt;", "40 of 40 steps"]
    {
        assert!(page.contains(expected), "no {expected:?}");
    }
    assert_eq!(page.matches("<script>").count(), 1);
}

#[test]
fn the_same_journal_gives_the_same_page_wherever_it_is_written() {
    let place = place();
    place.run("report run --adapter a.tla --json").json(0);
    place.run("report run --adapter a.tla -o other.html --json").json(0);
    assert!(place.read("run/report.html") == place.read("other.html"));
}

#[test]
fn a_torn_journal_is_told_as_far_as_it_is_whole_and_said_to_be_torn() {
    let place = place();
    place.write("run/journal.jsonl", &JOURNAL[..JOURNAL.len() - 700]);
    let done = place.run("report run --json");
    assert!(done.stderr.contains("cut short"), "{}", done.stderr);
    let told = done.json(0);
    assert_eq!((&told["torn"], &told["state"]), (&json!(true), &json!("unfinished")));
}

#[test]
fn an_adapter_that_the_journal_names_and_is_gone_is_said_to_be_left_out() {
    let done = place().run("report run");
    assert!(done.stderr.contains("which the journal names, is not there"), "{}", done.stderr);
    assert!(done.code == Some(0) && done.stdout.starts_with("run/report.html\n"));
}

#[test]
fn what_is_no_run_is_refused() {
    let place = place();
    std::fs::create_dir(place.path("empty")).unwrap();
    place.refused("report empty", &["empty has no journal.jsonl", "--run"]);
    place.refused("report nowhere", &["nowhere has no journal.jsonl"]);
    place.write("empty/journal.jsonl", "");
    place.refused("report empty", &["begin with a start line", "tells of no run"]);
    place.write("empty/journal.jsonl", "{\"kind\":\"lunch\"}\n");
    place.refused("report empty", &["line 1 is no journal line"]);
}

#[test]
fn an_evaluation_of_another_adapter_or_of_none_is_refused() {
    let place = place();
    let checksum = place.run("show a.tla --json").json(0)["checksum"].as_str().unwrap().to_owned();
    let other = format!("ff{}", &checksum[2..]);
    let of = |checksum: Option<&str>| {
        let mut eval = json!({"n": 4, "correct": 3, "accuracy": 0.75, "interval": [0.3, 0.95]});
        if let Some(checksum) = checksum {
            eval["checksum"] = json!(checksum);
        }
        place.write("e.json", eval.to_string());
    };
    of(Some(&other));
    let words = [other.as_str(), checksum.as_str(), "that of a.tla is"];
    place.refused("report run --eval e.json --adapter a.tla", &words);
    place.refused("report run --eval e.json", &["not there to be compared", "--adapter"]);
    of(None);
    place.refused("report run --eval e.json --adapter a.tla", &["Evaluate again", "checksum"]);
    of(Some(&checksum));
    place.run("report run --eval e.json --adapter a.tla --json").json(0);
}

#[test]
fn what_is_no_evaluation_no_adapter_or_no_place_is_refused() {
    let place = place();
    place.write("e.json", "{\"n\": 3}");
    place.refused("report run --eval e.json", &["e.json is no evaluation", "tla eval --json"]);
    place.refused("report run --eval none.json", &["none.json does not exist"]);
    place.refused("report run --adapter v.json", &["v.json is not a usable adapter"]);
    place.refused("report run --adapter a.tla -o a.tla", &["a.tla is an input"]);
    place.refused("report run -o run/journal.jsonl", &["journal.jsonl is an input"]);
    place.refused("report run -o no/where.html", &["does not exist"]);
}
