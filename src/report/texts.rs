//! What the model said: before and after, and on the way.

use super::{
    layout::{note, section},
    markup::{Markup, of_class, plain},
    scale::figure,
    story::Story,
};
use crate::train::journal::{Compared, SampledAnswer};

/// The most sampled answers on a page; of a longer run the last ones are shown.
const MOST: usize = 24;

/// The same questions answered before and after.
pub fn answers(story: &Story) -> Markup {
    let Some(found) = story.answers.as_ref().filter(|found| !found.answers.is_empty()) else {
        return Markup::default();
    };
    let each = found.answers.iter().map(compared);
    let said = note("The same problems answered greedily by the base and with the adapter.");
    section("answers", "Before and after", Markup::all([said].into_iter().chain(each)))
}

fn compared(pair: &Compared) -> Markup {
    let side = |name: &str, text: &str, worth: f64, more: bool| {
        let class = if more { "worth more" } else { "worth" };
        let said = Markup::text(format_args!("{name}, worth {}", figure(worth)));
        plain("div", Markup::all([of_class("span", class, said), plain("pre", Markup::text(text))]))
    };
    let better = pair.reward_after > pair.reward_before;
    let worse = pair.reward_after < pair.reward_before;
    let sides = Markup::all([
        side("before", &pair.before, pair.reward_before, worse),
        side("after", &pair.after, pair.reward_after, better),
    ]);
    of_class(
        "div",
        "sample",
        Markup::all([question(&pair.question, pair.line), of_class("div", "pair", sides)]),
    )
}

/// Some of the answers that were sampled, the last first.
pub fn samples(story: &Story) -> Markup {
    let all =
        story.samples.iter().rev().flat_map(|at| at.samples.iter().map(|sample| (at.step, sample)));
    let each: Vec<Markup> = all.take(MOST).map(|(step, sample)| sampled(step, sample)).collect();
    if each.is_empty() {
        return Markup::default();
    }
    let summary =
        plain("summary", Markup::text("Answers sampled while it learned, the last first"));
    plain("details", Markup::all([summary].into_iter().chain(each)))
}

fn sampled(step: u64, sample: &SampledAnswer) -> Markup {
    let mut worth = format!("step {step}, worth {}", figure(sample.reward));
    match sample.advantage {
        Some(advantage) => worth += &format!(", advantage {}", figure(advantage)),
        None => worth += ", as was its whole group",
    }
    of_class(
        "div",
        "sample",
        Markup::all([
            question(&sample.question, sample.line),
            of_class("span", "worth", Markup::text(worth)),
            plain("pre", Markup::text(&sample.text)),
        ]),
    )
}

fn question(question: &str, line: u64) -> Markup {
    let line = of_class("span", "worth", Markup::text(format_args!(" (line {line})")));
    plain("div", Markup::all([Markup::text(question), line]))
}
