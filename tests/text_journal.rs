//! A journal says how far a run came, even one that was killed.
#![cfg(feature = "train")]

use tla::train::journal::{End, Journal, JournalError, Line, Placement, Step, read};

fn step(number: u64) -> Step {
    Step {
        step: number,
        seconds: 0.5,
        rollout_seconds: 0.25,
        reward_mean: 0.375,
        groups: 4,
        groups_without_variance: 1,
        tokens: 512,
        completion_length_mean: 16.0,
        loss: -0.25,
        grad_norm: 0.125,
        v_norm: 0.0625,
        logprob_gap: 1e-6,
        learning_rate: 0.01,
    }
}

fn end() -> Line {
    Line::End(End { steps: 2, seconds: 1.5, reason: "finished".into(), adapter: None })
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

#[test]
fn what_was_written_is_read_and_every_line_names_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("runs/first");
    let mut journal = Journal::create(&run).unwrap();
    let lines = [placement(), Line::Step(step(1)), Line::Step(step(2)), end()];
    for line in &lines {
        journal.write(line).unwrap();
    }
    let found = read(journal.path()).unwrap();
    assert_eq!(found.lines, lines);
    assert!(!found.torn);
    let text = std::fs::read_to_string(journal.path()).unwrap();
    let first = text.lines().nth(1).unwrap();
    assert!(first.starts_with(r#"{"kind":"step","step":1,"seconds":0.5,"#), "{first}");
}

#[test]
fn a_line_is_on_disk_as_soon_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path()).unwrap();
    for number in 1..=3 {
        journal.write(&Line::Step(step(number))).unwrap();
        assert_eq!(read(journal.path()).unwrap().lines.len(), number as usize);
    }
}

#[test]
fn a_number_json_lacks_is_an_error_that_names_the_field_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path()).unwrap();
    for bad in [f64::NAN, f64::INFINITY] {
        let error = journal.write(&Line::Step(Step { loss: bad, ..step(7) })).unwrap_err();
        assert!(error.to_string().starts_with("`loss` of the step line 7 is not"), "{error}");
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
fn a_new_run_never_overwrites_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    Journal::create(folder.path()).unwrap();
    assert!(matches!(Journal::create(folder.path()), Err(JournalError::Exists { .. })));
}

#[test]
fn a_torn_last_line_is_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(folder.path()).unwrap();
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
    let mut journal = Journal::create(folder.path()).unwrap();
    journal.write(&end()).unwrap();
    let whole = std::fs::read(journal.path()).unwrap();
    std::fs::write(journal.path(), [&whole, &b"{\"kind\":\"lunch\"}\n"[..]].concat()).unwrap();
    assert!(matches!(read(journal.path()), Err(JournalError::Line { line: 2, .. })));
}
