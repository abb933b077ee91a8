//! A journal says how far a run came, even one that was killed.
#![cfg(feature = "train")]

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use tla::train::journal::{
    Answers, Compared, End, Journal, JournalError, Line, Placement, Restore, Resume, SampledAnswer,
    Samples, Start, Step, Update, Warning, read,
};

fn step(number: u64) -> Step {
    Step {
        step: number,
        seconds: 0.5,
        rollout_seconds: 0.25,
        reward_mean: Some(0.375),
        average: Some(0.25),
        cut_share: Some(0.125),
        entropy_mean: Some(1.5),
        groups: 4,
        groups_without_variance: 1,
        tokens: 512,
        completion_length_mean: 16.0,
        loss: -0.25,
        grad_norm: 0.125,
        v_norm: 0.0625,
        logprob_gap: 1e-6,
        learning_rate: 0.01,
        updates: vec![Update {
            loss: -0.25,
            grad_norm: 0.125,
            ratio_mean: Some(1.0),
            ratio_max: Some(1.25),
            clipped_share: Some(0.0),
            drift: Some(0.0),
            kl: Some(0.0),
        }],
        ..Step::default()
    }
}

fn end() -> Line {
    Line::End(End {
        steps: 2,
        seconds: 1.5,
        reason: "finished".into(),
        adapter: Some("a.tla".into()),
        shipped_step: Some(2),
    })
}

fn placement() -> Line {
    Line::Placement(Placement {
        roles: vec!["down".into()],
        first_layer: 0,
        layers: 0,
        modules: 4,
        rank: 2,
        width: 13,
        groups: 1,
        parameters: 13,
        seed: 7,
        seeds_searched: Some(1000),
        energy_share: Some(0.83),
        captured: Some(0.9998),
        snr: Some(12.5),
    })
}

/// One line of every kind, with every field that may be absent.
fn every_kind() -> Vec<Line> {
    let start = Line::Start(Start {
        version: 1,
        program: "0".into(),
        model: "m".into(),
        base_digest: "00".into(),
        data: "d".into(),
        reward: "gsm8k".into(),
        prompt: "{question}".into(),
        system: Some("s".into()),
        problems: 9,
        objective: "grpo".into(),
        seed: 1,
        steps: 2,
        problems_per_step: 3,
        samples_per_problem: 4,
        max_tokens: 5,
        temperature: 1.0,
        learning_rate: 0.5,
        updates: 1,
        clip: 0.25,
        kl: 0.0,
        survey: 8,
        layout: "shared".into(),
        micro_tokens: 8192,
        settings: [("clip".to_owned(), "0.25".to_owned())].into(),
    });
    let sample = SampledAnswer {
        line: 3,
        question: "1 + 1?".into(),
        text: "#### 2".into(),
        reward: 1.0,
        advantage: Some(1.0),
    };
    let compared = Compared {
        line: 3,
        question: "1 + 1?".into(),
        before: "3".into(),
        after: "#### 2".into(),
        reward_before: 0.0,
        reward_after: 1.0,
    };
    vec![
        start,
        placement(),
        Line::Step(step(1)),
        Line::Samples(Samples { step: 1, samples: vec![sample] }),
        Line::Warning(Warning { step: 1, text: "flat".into() }),
        Line::Restore(Restore {
            step: 1,
            average: 0.25,
            best_average: 0.5,
            best_step: 1,
            learning_rate_factor: 0.5,
        }),
        Line::Resume(Resume { step: 1, steps: 2, program: "0".into() }),
        Line::Step(step(2)),
        Line::Answers(Answers { answers: vec![compared] }),
        end(),
    ]
}

/// The fields of a line and of the objects in it, `samples[].text` for one of a list's; those of a
/// map of names are not fields.
fn fields_of(value: &Value, before: &str, found: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().unwrap() {
        let name = format!("{before}{name}");
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                fields_of(&items[0], &format!("{name}[]."), found);
            }
            _ => {}
        }
        found.insert(name);
    }
}

#[test]
fn the_documentation_lists_the_fields_of_every_kind_and_no_others() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/journal.md");
    let page = std::fs::read_to_string(page).unwrap();
    let quoted = |text: &str| text.split('`').nth(1).unwrap().to_owned();
    let mut documented = BTreeSet::new();
    let mut kind = String::new();
    for line in page.lines() {
        if line.starts_with("## `") {
            kind = quoted(line);
        } else if line.starts_with("| `") {
            assert!(documented.insert((kind.clone(), quoted(line))), "twice: {line}");
        }
    }
    let mut written = BTreeSet::new();
    for line in every_kind() {
        let value = serde_json::to_value(&line).unwrap();
        let kind = value["kind"].as_str().unwrap().to_owned();
        let mut fields = BTreeSet::new();
        fields_of(&value, "", &mut fields);
        fields.remove("kind");
        written.extend(fields.into_iter().map(|field| (kind.clone(), field)));
    }
    let undocumented: Vec<_> = written.difference(&documented).collect();
    let unwritten: Vec<_> = documented.difference(&written).collect();
    assert!(undocumented.is_empty() && unwritten.is_empty(), "{undocumented:?} {unwritten:?}");
}

#[test]
fn what_was_written_is_read_and_every_line_names_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/first");
    let mut journal = Journal::open(&run).unwrap();
    let lines = every_kind();
    for line in &lines {
        journal.write(line).unwrap();
    }
    let found = read(journal.path()).unwrap();
    assert_eq!(found.lines, lines);
    assert!(!found.torn);
    let text = std::fs::read_to_string(journal.path()).unwrap();
    let first = text.lines().find(|line| line.contains("\"step\",")).unwrap();
    assert!(first.starts_with(r#"{"kind":"step","step":1,"seconds":0.5,"#), "{first}");
}

#[test]
fn a_line_is_on_disk_as_soon_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    for number in 1..=3 {
        journal.write(&Line::Step(step(number))).unwrap();
        assert_eq!(read(journal.path()).unwrap().lines.len(), number as usize);
    }
}

#[test]
fn a_number_json_lacks_is_an_error_that_names_the_field_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    for bad in [f64::NAN, f64::INFINITY] {
        let error = journal.write(&Line::Step(Step { loss: bad, ..step(7) })).unwrap_err();
        assert!(error.to_string().starts_with("`loss` of the step line 7 is not"), "{error}");
        let mut inner = step(7);
        inner.updates[0].ratio_max = Some(bad);
        inner.updates[0].loss = bad;
        let error = journal.write(&Line::Step(inner)).unwrap_err();
        assert!(error.to_string().starts_with("`updates.0.loss` of the step line 7"), "{error}");
    }
    let Line::Placement(placement) = placement() else { panic!() };
    let bad = Line::Placement(Placement { snr: Some(f64::INFINITY), ..placement });
    assert!(matches!(
        journal.write(&bad),
        Err(JournalError::NotFinite { field, .. }) if field == "snr"
    ));
    assert_eq!(read(journal.path()).unwrap().whole_bytes, 0);
}

#[test]
fn a_journal_has_one_writer_at_a_time_and_the_next_goes_on_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Journal::open(folder.path()).unwrap();
    first.write(&Line::Step(step(1))).unwrap();
    assert!(matches!(Journal::open(folder.path()), Err(JournalError::InUse { .. })));
    let bytes = first.bytes();
    drop(first);
    let mut second = Journal::open(folder.path()).unwrap();
    second.write(&Line::Step(step(2))).unwrap();
    second.shorten(bytes).unwrap();
    second.write(&Line::Step(step(3))).unwrap();
    assert!(matches!(second.shorten(1 << 20), Err(JournalError::Short { .. })));
    let found = read(second.path()).unwrap();
    assert_eq!(found.lines, [Line::Step(step(1)), Line::Step(step(3))]);
}

#[test]
fn a_torn_last_line_is_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.write(&Line::Step(step(1))).unwrap();
    let whole = std::fs::read(journal.path()).unwrap();
    // A whole object without its line feed is torn, too: more of it may have been meant.
    for torn in [r#"{"kind":"st"#, &serde_json::to_string(&Line::Step(step(2))).unwrap()] {
        std::fs::write(journal.path(), [&whole, torn.as_bytes()].concat()).unwrap();
        let found = read(journal.path()).unwrap();
        assert!(found.torn);
        assert_eq!(found.lines, [Line::Step(step(1))]);
        assert_eq!(found.whole_bytes, whole.len() as u64);
    }
}

#[test]
fn a_whole_line_that_is_no_journal_line_is_an_error_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.write(&end()).unwrap();
    let whole = std::fs::read(journal.path()).unwrap();
    std::fs::write(journal.path(), [&whole, &b"{\"kind\":\"lunch\"}\n"[..]].concat()).unwrap();
    assert!(matches!(read(journal.path()), Err(JournalError::Line { line: 2, .. })));
}
