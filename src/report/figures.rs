//! The run in figures: what it came to, where the time went, how the adapter did.

use super::{
    chart::{Size, line, text},
    layout::{note, section},
    markup::{Markup, element, of_class, plain},
    scale::{duration, figure},
    story::Story,
};
use crate::eval::{interval::wilson, report::EvalReport};

/// What was trained, in a few words.
pub fn headline(story: &Story) -> String {
    let model = last_part(&story.start.model);
    match &story.placement {
        Some(placement) => format!("{} numbers for {model}", placement.parameters),
        None => format!("An adapter for {model}"),
    }
}

/// The name of a file or folder, in whichever system it was written down.
pub fn last_part(path: &str) -> &str {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(path)
}

/// The head of the page: what was done, how it ended, what it came to.
pub fn key(story: &Story, title: &str, eval: Option<&EvalReport>) -> Markup {
    let (data, problems) = (last_part(&story.start.data), story.start.problems_per_step);
    let what = match story.start.objective.as_str() {
        "sft" => format!("Fine-tuned (SFT) on {data}, {problems} problems a step. "),
        _ => format!(
            "Reinforcement learning (GRPO) on {data}, {problems} problems a step with {} answers each. ",
            story.start.samples_per_problem
        ),
    };
    let mut lede = vec![Markup::text(what), state(story)];
    if story.torn {
        lede.push(Markup::text(" The last line of the journal was cut short and is left out."));
    }
    let header =
        Markup::all([plain("h1", Markup::text(title)), of_class("p", "lede", Markup::all(lede))]);
    Markup::all([plain("header", header), of_class("dl", "key", numbers(story, eval))])
}

fn state(story: &Story) -> Markup {
    let done = story.steps.len();
    let (class, text) = match &story.end {
        Some(end) if end.reason == "finished" => {
            ("state good", format!("Finished after {done} steps."))
        }
        Some(end) => match end.reason.as_str() {
            "patience" => ("state", format!("Stopped after {done} steps: no better for too long.")),
            "target" => {
                ("state good", format!("Stopped after {done} steps: the target was reached."))
            }
            "interrupted" => {
                ("state", format!("Interrupted after {done} steps; it can be resumed."))
            }
            reason => ("state bad", format!("Ended after {done} steps: {reason}")),
        },
        None => ("state", format!("Not over, or killed: {done} of {} steps.", story.start.steps)),
    };
    of_class("span", class, Markup::text(text))
}

fn numbers(story: &Story, eval: Option<&EvalReport>) -> Markup {
    let mut found = Vec::new();
    let mut add = |name: &str, value: String, more: String| {
        let small = plain("small", Markup::text(more));
        let value = plain("dd", Markup::all([Markup::text(value), small]));
        found.push(plain("div", Markup::all([plain("dt", Markup::text(name)), value])));
    };
    let summary = story.summary();
    if let Some(eval) = eval {
        let [low, high] = eval.interval.map(percent);
        add("Right on unseen problems", percent(eval.accuracy), format!("95 %: {low} to {high}"));
    }
    if let (Some(first), Some(last), Some(best)) = (summary.first, summary.last, summary.best) {
        add(
            "Mean reward, last step",
            figure(last.reward),
            format!(
                "first {}, best {} at {}",
                figure(first.reward),
                figure(best.reward),
                best.step
            ),
        );
    }
    if let Some(placement) = &story.placement {
        let each = format!("{} modules, rank {}", placement.modules, placement.rank);
        add("Numbers trained", placement.parameters.to_string(), each);
    }
    let of = format!("{} of {} steps", summary.steps, summary.steps_planned);
    add("Time", duration(summary.seconds), of);
    if summary.steps > 0 {
        let rate = summary.tokens as f64 / summary.seconds;
        let rate = if rate.is_finite() {
            format!("{} a second", figure(rate.round()))
        } else {
            String::new()
        };
        add("Tokens of answers", figure(summary.tokens as f64), rate);
    }
    if let Some(share) = summary.groups_without_variance_share {
        add("Groups without variance", percent(share), "which teach nothing".to_owned());
    }
    Markup::all(found)
}

/// Where the time went.
pub fn time(story: &Story) -> Markup {
    const SIZE: Size = Size { width: 1024.0, height: 22.0 };
    const COLOURS: [&str; 4] = ["p1", "p2", "p3", "p4"];
    let phases = story.phases();
    let whole: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
    if story.steps.is_empty() || whole <= 0.0 {
        return Markup::default();
    }
    let (mut bar, mut table, mut from) = (Vec::new(), Vec::new(), 0.0);
    for ((phase, seconds), colour) in phases.iter().zip(COLOURS) {
        let width = SIZE.width * seconds / whole;
        bar.push(element(
            "rect",
            &[
                ("class", &colour),
                ("x", &from),
                ("y", &0),
                ("width", &width),
                ("height", &SIZE.height),
            ],
            plain("title", Markup::text(phase)),
        ));
        from += width;
        let cell = |text: String| of_class("td", "number", Markup::text(text));
        table.push(plain(
            "tr",
            Markup::all([
                element(
                    "th",
                    &[("scope", &"row")],
                    Markup::all([swatch(colour), Markup::text(phase)]),
                ),
                cell(duration(*seconds)),
                cell(percent(seconds / whole)),
                cell(format!("{} a step", duration(seconds / story.steps.len().max(1) as f64))),
            ]),
        ));
    }
    let bar = element(
        "svg",
        &[("viewBox", &"0 0 1024 22"), ("role", &"img"), ("aria-label", &"Time by phase")],
        Markup::all(bar),
    );
    let table = plain("table", plain("tbody", Markup::all(table)));
    section("time", "Where the time went", Markup::all([bar, table]))
}

fn swatch(colour: &'static str) -> Markup {
    let square =
        element("rect", &[("class", &colour), ("width", &10), ("height", &10)], Markup::default());
    let svg = element("svg", &[("viewBox", &"0 0 10 10")], square);
    of_class("span", "swatch", svg)
}

/// Accuracy on problems that were not trained on, beside the base's if both were measured.
pub fn accuracy(eval: &EvalReport) -> Markup {
    const SIZE: Size = Size { width: 1024.0, height: 116.0 };
    let before = eval.paired.as_ref().and_then(|paired| {
        let correct = eval.correct.checked_add(paired.lost)?.checked_sub(paired.gained)?;
        let interval = wilson(correct, eval.n)?;
        Some(("base", correct as f64 / eval.n as f64, interval))
    });
    let now = if before.is_some() { "adapter" } else { "model" };
    let x = |share: f64| 80.0 + share * (SIZE.width - 160.0);
    let mut parts = Vec::new();
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        parts.push(line("grid", (x(tick), 4.0), (x(tick), 92.0)));
        parts.push(text("tick below", (x(tick), 110.0), &percent(tick)));
    }
    let found = before.into_iter().chain([(now, eval.accuracy, eval.interval)]);
    for ((name, share, [low, high]), at) in found.zip([26.0, 70.0]) {
        parts.push(text("tick left", (68.0, at + 4.0), name));
        parts.push(line("interval", (x(low), at), (x(high), at)));
        parts.push(element(
            "circle",
            &[("class", &"dot"), ("cx", &x(share)), ("cy", &at), ("r", &6)],
            plain("title", Markup::text(percent(share))),
        ));
        parts.push(text("tick", (x(high) + 10.0, at + 4.0), &percent(share)));
    }
    let svg = element(
        "svg",
        &[
            ("viewBox", &format_args!("0 0 {} {}", SIZE.width, SIZE.height)),
            ("role", &"img"),
            ("aria-label", &"Accuracy with its 95 % interval"),
        ],
        Markup::all(parts),
    );
    let mut words =
        format!("{} of {} right. The bar is the 95 % interval (Wilson).", eval.correct, eval.n);
    if let Some(paired) = &eval.paired {
        words += &format!(
            " {} gained, {} lost: p = {} (exact McNemar).",
            paired.gained,
            paired.lost,
            figure(paired.p)
        );
    }
    if let Some(cut) = eval.cut.filter(|cut| *cut > 0) {
        words += &format!(" {cut} answers were cut at the longest length and count as wrong.");
    }
    if let Some(flexible) = &eval.flexible {
        let share = percent(flexible.accuracy);
        words += &format!(" By a reading that forgives the form of an answer: {share}.");
    }
    for pass in &eval.pass_at {
        words += &format!(" pass@{}: {} ± {}.", pass.k, percent(pass.value), percent(pass.error));
    }
    section("accuracy", "On problems it was not trained on", Markup::all([svg, note(&words)]))
}

/// A share as people write it.
pub fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    if text == "100.0" && share < 1.0 {
        return format!("{:.2} %", 100.0 * share);
    }
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}
