//! The curves of a run: the reward, large, then all else that moved.

use super::{
    chart::{Curve, MOST_POINTS, Mark, Size, chart},
    layout::{note, section},
    markup::{Markup, element, of_class, plain},
    metric::{LOSS, METRICS, Metric, REWARD},
    scale::figure,
    story::Story,
};

const LARGE: Size = Size { width: 1024.0, height: 300.0 };
const SMALL: Size = Size { width: 492.0, height: 176.0 };
/// The moving average is drawn with the reward.
const AVERAGE: &str = "train/reward_average";

/// The reward, or the loss where nothing is sampled.
fn leading(story: &Story) -> Metric {
    match story.steps.iter().any(|step| (REWARD.of)(step).is_some()) {
        true => REWARD,
        false => LOSS,
    }
}

/// The curve that the run is about, with its moving average.
pub fn hero(story: &Story) -> Markup {
    let metric = leading(story);
    let raw = points(story, &metric);
    if raw.is_empty() {
        return section("curve", metric.title, note("The journal holds no step yet."));
    }
    let average = METRICS.iter().find(|metric| metric.tag == AVERAGE);
    let average = average.map(|metric| points(story, metric)).filter(|points| !points.is_empty());
    let mut legend = Vec::new();
    let mut entry = |class: &'static str, text: &str| {
        let line = of_class("span", class, Markup::default());
        legend.push(plain("span", Markup::all([line, Markup::text(text)])));
    };
    let mut drawn = Vec::new();
    let mut curve = |class, name: &str, points| {
        drawn.push(Curve { class, name: name.to_owned(), points });
    };
    // Under SFT the average is of −loss, and cannot share the loss's scale.
    match average.filter(|_| metric.tag == REWARD.tag) {
        Some(average) => {
            curve("behind", "of the step", raw);
            curve("front", "moving average", average);
            entry("legend behind", metric.note);
            entry("legend", "moving average");
        }
        None => {
            curve("front", metric.title, raw);
            entry("legend", metric.note);
        }
    }
    let marks = marks(story);
    if !marks.is_empty() {
        entry("legend mark", "fell back to the best state, or resumed");
    }
    let svg = chart(metric.title, &drawn, &marks, range(story), LARGE);
    let caption = Markup::all([
        of_class("span", "note", Markup::all(between(legend))),
        plain("output", Markup::default()),
    ]);
    let figure = plain("figure", Markup::all([plain("figcaption", caption), svg]));
    let thinned = (story.steps.len() > MOST_POINTS).then(|| {
        note("There are more steps than fit: of every few the lowest and the highest are drawn.")
    });
    section("curve", metric.title, Markup::all([figure, thinned.unwrap_or_default()]))
}

/// All else that moved, small; what stayed as it was is named below.
pub fn curves(story: &Story) -> Markup {
    let leading = leading(story);
    let (mut drawn, mut still) = (Vec::new(), Vec::new());
    for metric in METRICS.iter().filter(|m| m.tag != leading.tag && m.tag != AVERAGE) {
        let points = points(story, metric);
        let Some((_, first)) = points.first().copied() else { continue };
        if points.iter().all(|(_, value)| *value == first) {
            still.push(format!("{} {}", metric.title.to_lowercase(), figure(first)));
            continue;
        }
        let curve = Curve { class: "one", name: metric.title.to_owned(), points };
        let svg = chart(metric.title, &[curve], &marks(story), range(story), SMALL);
        let caption = Markup::all([
            plain("h3", Markup::text(metric.title)),
            of_class("span", "note", Markup::text(metric.note)),
            plain("output", Markup::default()),
        ]);
        drawn.push(plain("figure", Markup::all([plain("figcaption", caption), svg])));
    }
    if drawn.is_empty() && still.is_empty() {
        return Markup::default();
    }
    let still = match still.is_empty() {
        true => Markup::default(),
        false => note(&format!("The same at every step: {}.", still.join("; "))),
    };
    let grid = element("div", &[("class", &"grid")], Markup::all(drawn));
    section("curves", "Other curves", Markup::all([grid, still]))
}

fn points(story: &Story, metric: &Metric) -> Vec<(u64, f64)> {
    story.steps.iter().filter_map(|step| Some((step.step, (metric.of)(step)?))).collect()
}

fn range(story: &Story) -> (u64, u64) {
    let first = story.steps.first().map_or(1, |step| step.step);
    (first, story.steps.last().map_or(first, |step| step.step))
}

fn marks(story: &Story) -> Vec<Mark> {
    let back = story.restores.iter().map(|restore| Mark {
        step: restore.step,
        what: format!(
            "step {}: fell back to its state before step {}",
            restore.step, restore.best_step
        ),
    });
    let on = story
        .resumes
        .iter()
        .filter(|step| **step > 0)
        .map(|step| Mark { step: *step, what: format!("resumed after step {step}") });
    back.chain(on).collect()
}

fn between(legend: Vec<Markup>) -> Vec<Markup> {
    let mut found = Vec::new();
    for (at, entry) in legend.into_iter().enumerate() {
        if at > 0 {
            found.push(Markup::text(" \u{2002} "));
        }
        found.push(entry);
    }
    found
}
