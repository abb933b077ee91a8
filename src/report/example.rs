//! The journal of a run that never was, for tests.

use crate::train::journal::{
    Answers, Compared, End, Line, Placement, Restore, SampledAnswer, Samples, Start, Step, Update,
    VERSION, Warning,
};

/// What a model must not get onto a page other than as text.
pub const HOSTILE: &str =
    "</pre><script>alert(1)</script><img src=x onerror='alert(2)'> & \u{1b}[2J";

/// The line of a run that begins.
pub fn start() -> Line {
    Line::Start(Start {
        version: VERSION,
        program: "0.1.0".into(),
        model: "models/word & math".into(),
        base_digest: "ab".repeat(32),
        data: "train.jsonl".into(),
        reward: "gsm8k".into(),
        prompt: "{question}".into(),
        system: None,
        problems: 4000,
        objective: "grpo".into(),
        seed: 1,
        steps: 60,
        problems_per_step: 4,
        samples_per_problem: 8,
        max_tokens: 64,
        temperature: 1.0,
        learning_rate: 0.03,
        updates: 2,
        clip: 0.2,
        kl: 0.0,
        survey: 8,
        layout: "shared".into(),
        micro_tokens: 8192,
        settings: [("steps", "60"), ("run-seed", "1")].map(|(k, v)| (k.into(), v.into())).into(),
    })
}

/// A step; no two are alike.
pub fn step(number: u64) -> Step {
    let at = number as f64;
    let update = Update {
        loss: -0.25,
        grad_norm: 0.125 * at,
        ratio_mean: Some(1.0 + 0.01 * at),
        ratio_max: Some(2.0),
        clipped_share: Some(0.0625),
        drift: Some(0.001),
        kl: None,
    };
    Step {
        step: number,
        seconds: 1.5 + at / 64.0,
        rollout_seconds: 0.5,
        reward_seconds: 0.125,
        gradient_seconds: 0.75,
        reward_mean: Some(0.25 + (7 * number % 11) as f64 / 16.0),
        average: Some(0.5),
        groups: 4,
        groups_without_variance: 1,
        tokens: 512,
        completion_length_mean: 16.0 + at,
        cut_share: Some(0.0),
        entropy_mean: Some(1.0 / at),
        loss: -0.25,
        grad_norm: 0.125 * at,
        v_norm: 0.0625 * at,
        logprob_gap: 1e-6,
        learning_rate: 0.03,
        updates: vec![update.clone(), update],
    }
}

/// A whole run of so many steps.
pub fn lines(steps: u64) -> Vec<Line> {
    let placement = Line::Placement(Placement {
        roles: vec!["o".into(), "down".into()],
        first_layer: 0,
        layers: 0,
        modules: 8,
        rank: 2,
        width: 13,
        groups: 1,
        parameters: 13,
        seed: 7,
        seeds_searched: Some(4096),
        energy_share: Some(0.83),
        captured: Some(0.9998),
        snr: Some(12.5),
    });
    let answer = SampledAnswer {
        line: 17,
        question: "What is 2 < 3?".into(),
        text: HOSTILE.into(),
        reward: 0.0,
        advantage: Some(-0.5),
    };
    let samples = Line::Samples(Samples { step: 1, samples: vec![answer] });
    let restore = Line::Restore(Restore {
        step: 3,
        average: 0.25,
        best_average: 0.75,
        best_step: 2,
        learning_rate_factor: 0.5,
    });
    let warning = Line::Warning(Warning { step: 2, text: "no group <varied>".into() });
    let compared = Compared {
        line: 3,
        question: "How many?".into(),
        before: HOSTILE.into(),
        after: "#### 4".into(),
        reward_before: 0.0,
        reward_after: 1.0,
    };
    let answers = Line::Answers(Answers { answers: vec![compared] });
    let end = Line::End(End {
        steps,
        seconds: 100.5,
        reason: "finished".into(),
        adapter: Some("demo.tla".into()),
        shipped_step: Some(steps),
    });
    let done = (1..=steps).map(|number| Line::Step(step(number)));
    [start(), placement]
        .into_iter()
        .chain(done)
        .chain([samples, warning, restore, answers, end])
        .collect()
}
