//! What can be asked of training beside its defaults: solutions in place of rewards, one number for
//! each entry of R, several updates, schedules, and bounded memory.
#![cfg(all(feature = "cli", feature = "train"))]

mod training;

use std::fs;

use tla::train::journal::Line;
use training::{DOWN, Run, placement, steps, told};

fn with(more: &[&str]) -> (Run, serde_json::Value) {
    Run::finished(&[&DOWN[..], more].concat())
}

#[test]
fn solutions_become_likelier_without_a_single_sample() {
    let run = Run::new();
    // As many problems as a step takes: every step sees the same solutions.
    let few = run.folder.path().join("few.jsonl");
    let all = fs::read_to_string(training::fixture("data/train.jsonl")).unwrap();
    fs::write(&few, all.lines().take(16).collect::<Vec<_>>().join("\n")).unwrap();
    let options = ["--objective", "sft", "--steps", "8", "--problems", "16"];
    let mut arguments =
        run.arguments(&[&DOWN[..], &options, &["--learning-rate", "0.01"]].concat());
    let at = arguments.iter().position(|a| a == "--data").unwrap();
    arguments[at + 1] = few.display().to_string();
    let report = told(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let found = run.lines();
    let losses: Vec<f64> = steps(&found).iter().map(|s| s.loss).collect();
    assert!(losses[7] > 0.0 && losses[7] < losses[0], "{losses:?}");
    for step in steps(&found) {
        assert_eq!((step.reward_mean, step.entropy_mean, step.groups), (None, None, 16));
        assert_eq!(step.updates[0].ratio_mean, None);
        assert!(step.average.is_some_and(|average| average < 0.0), "{step:?}");
    }
    assert_eq!(report["loss"], losses[7]);
    let [.., Line::Answers(answers), Line::End(_)] = &found.lines[..] else { panic!() };
    assert_eq!(answers.answers.len(), 8);
}

#[test]
fn solutions_place_the_update_too() {
    let options = ["--objective", "sft", "--roles", "auto", "--seed", "search:32"];
    let sizes = ["--survey", "2", "--problems", "8", "--steps", "1"];
    let (run, _) = Run::finished(&[options, sizes].concat());
    let found = run.lines();
    let placed = placement(&found);
    assert_eq!(placed.seeds_searched, Some(32));
    assert!(placed.snr.is_some_and(|snr| snr > 0.0), "{placed:?}");
}

#[test]
fn a_unit_projection_trains_every_entry_of_r() {
    let options = ["--projection", "unit", "--rank", "3", "--groups", "2", "--roles", "down"];
    let (run, report) = Run::finished(&options);
    assert_eq!(report["params"], 18);
    let adapter = run.adapter().display().to_string();
    let model = training::fixture("wordmath").display().to_string();
    assert_eq!(told(&["verify", &adapter, "--base", &model])["valid"], true);
    let shown = told(&["show", &adapter]);
    assert_eq!((&shown["projection"], &shown["width"]), (&"unit".into(), &9.into()));
    assert!(report["v"].as_array().unwrap().iter().any(|v| v != 0.0), "{report}");
}

#[test]
fn a_second_update_sees_ratios_and_the_first_does_not() {
    let (run, _) = with(&["--updates", "3", "--learning-rate", "0.3", "--kl", "0.01"]);
    let found = run.lines();
    let step =
        steps(&found).into_iter().find(|s| s.updates.len() == 3).expect("a step with signal");
    let [first, second, _] = &step.updates[..] else { panic!() };
    assert!(first.ratio_max.is_some_and(|r| (r - 1.0).abs() < 1e-3), "{step:?}");
    assert!(second.ratio_max.is_some_and(|r| r > 1.001), "{step:?}");
    assert!(second.drift > first.drift, "{step:?}");
    assert!(step.updates.iter().all(|u| u.kl.is_some_and(|kl| kl >= 0.0)), "{step:?}");
}

#[test]
fn the_learning_rate_follows_its_schedule_and_the_gradient_its_limit() {
    let schedule = ["--steps", "4", "--warmup", "2", "--decay", "linear", "--learning-rate", "0.1"];
    let (run, _) = with(&[&schedule[..], &["--max-grad-norm", "1e-9"]].concat());
    let found = run.lines();
    let rates: Vec<f64> = steps(&found).iter().map(|s| s.learning_rate).collect();
    assert_eq!(rates, [0.05, 0.1, 0.1, 0.05]);
    // Adam divides by the gradient's size, unless its ε of 1e-8 is larger.
    let last = steps(&found).last().unwrap().v_norm;
    let (free, _) = with(&schedule);
    assert!(last < steps(&free.lines()).last().unwrap().v_norm / 2.0, "{last}");
}

#[test]
fn answers_do_not_depend_on_how_many_are_sampled_at_once() {
    let answers = |at_once: &str| {
        let (run, _) = with(&["--steps", "1", "--rollout-batch", at_once]);
        let found = run.lines();
        let texts = found.lines.iter().find_map(|line| match line {
            Line::Samples(samples) => Some(samples.clone()),
            _ => None,
        });
        let step = steps(&found)[0];
        (step.tokens, step.reward_mean, texts.unwrap())
    };
    let whole = answers("256");
    for at_once in ["8", "5", "3", "1"] {
        assert_eq!(answers(at_once), whole, "{at_once}");
    }
}

#[test]
fn advantages_and_weights_are_as_asked_for() {
    let v = |more: &[&str]| {
        let (_, report) = with(&[&["--steps", "2", "--scalar", "f32"], more].concat());
        report["v"].clone()
    };
    let usual = v(&[]);
    for other in [["--advantages", "mean"], ["--normalise", "answers"], ["--normalise", "constant"]]
    {
        assert_ne!(v(&other), usual, "{other:?}");
    }
}

#[test]
fn a_run_that_is_good_enough_stops() {
    let (run, report) = with(&["--steps", "40", "--target-reward", "0"]);
    assert_eq!((&report["steps"], &report["ending"]), (&5.into(), &"target".into()));
    assert_eq!(steps(&run.lines()).len(), 5);
    let (_, report) = with(&["--steps", "40", "--patience", "3", "--learning-rate", "1e-9"]);
    assert_eq!(report["ending"], "patience");
    assert!(report["steps"].as_u64().unwrap() < 40);
}

#[test]
fn a_learning_rate_that_destroys_the_model_is_taken_back() {
    let options = ["--steps", "14", "--problems", "12", "--learning-rate", "3", "--guard", "0.05"];
    let (run, _) = with(&options);
    let found = run.lines();
    // A step that fell is told with what it fell to.
    let average = |n: u64| steps(&found).iter().find(|s| s.step == n).and_then(|s| s.average);
    let restores: Vec<_> = found
        .lines
        .iter()
        .filter_map(|line| match line {
            Line::Restore(restore) => Some(restore),
            _ => None,
        })
        .collect();
    let first = restores.first().expect("a fall");
    assert!(first.average < first.best_average - 0.05, "{first:?}");
    assert_eq!(first.learning_rate_factor, 0.5);
    assert_eq!(average(first.step), Some(first.average));
    let rate = |n: u64| steps(&found).iter().find(|s| s.step == n).map(|s| s.learning_rate);
    assert_eq!(rate(first.step), Some(3.0));
    assert!(rate(first.step + 1).is_none_or(|rate| rate == 1.5));
    // A run that ends there ships what came back, and says of which step that is.
    let last = first.step.to_string();
    let (short, report) = with(&[&["--steps", &last], &options[2..]].concat());
    assert_eq!(report["shipped_step"], first.best_step - 1);
    let [.., Line::End(end)] = &short.lines().lines[..] else { panic!() };
    assert_eq!((end.steps, end.shipped_step), (first.step, Some(first.best_step - 1)));
}
