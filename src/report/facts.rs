//! What a run was told and what became of it, as tables.

use serde_json::{Map, Value};

use super::{
    chart::line,
    figures::percent,
    layout::{note, rows, section},
    markup::{Markup, element, of_class, plain},
    scale::figure,
    story::Story,
};
use crate::train::journal::Placement;

/// What looked wrong, when it fell back to an earlier state, when it was resumed, and which state ships.
pub fn events(story: &Story) -> Markup {
    let mut found: Vec<(u64, String)> = Vec::new();
    for restore in &story.restores {
        let text = format!(
            "The moving average had fallen from {} to {}: back to the state before step {}, the learning \
             rate times {} from there.",
            figure(restore.best_average),
            figure(restore.average),
            restore.best_step,
            figure(restore.learning_rate_factor)
        );
        found.push((restore.step, text));
    }
    found.extend(story.warnings.iter().map(|warning| (warning.step, warning.text.clone())));
    found.extend(story.resumes.iter().map(|step| (*step, "Resumed after it.".to_owned())));
    let end = story.end.as_ref();
    if let Some((shipped, last)) = end.and_then(|end| Some((end.shipped_step?, end.steps)))
        && shipped != last
    {
        found.push((last, format!("What ships is v as it was after step {shipped}.")));
    }
    if found.is_empty() {
        return Markup::default();
    }
    found.sort();
    let table = rows(found.into_iter().map(|(step, text)| (format!("step {step}"), text)));
    section("events", "What happened on the way", table)
}

/// Where the update lives, and the settings of the run.
pub fn settings(story: &Story) -> Markup {
    let start = &story.start;
    let mut said = vec![
        ("model", start.model.clone()),
        ("base digest", start.base_digest.clone()),
        ("data", format!("{}, {} problems", start.data, start.problems)),
        ("objective", start.objective.clone()),
        ("reward", start.reward.clone()),
        ("prompt", start.prompt.clone()),
        ("steps planned", start.steps.to_string()),
        ("problems a step", start.problems_per_step.to_string()),
        ("answers a problem", start.samples_per_problem.to_string()),
        ("longest answer", format!("{} tokens", start.max_tokens)),
        ("temperature", figure(start.temperature)),
        ("learning rate", figure(start.learning_rate)),
        ("updates a step", start.updates.to_string()),
        ("ratios clipped to", format!("1 ± {}", figure(start.clip))),
        ("weight of the divergence", figure(start.kl)),
        ("positions in a pass", start.micro_tokens.to_string()),
        ("rows of the gradient graph", start.layout.clone()),
        ("run seed", start.seed.to_string()),
    ];
    said.extend(start.system.clone().map(|system| ("system message", system)));
    let run = rows(said.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let placed = match &story.placement {
        Some(placement) => rows(placed(placement)),
        None => note("The run ended before it was placed."),
    };
    let columns = of_class(
        "div",
        "columns",
        Markup::all([
            plain("div", Markup::all([plain("h3", Markup::text("The run")), run])),
            plain("div", Markup::all([plain("h3", Markup::text("The placement")), placed])),
        ]),
    );
    let all = (!start.settings.is_empty()).then(|| {
        let pairs = start.settings.iter().map(|(name, value)| (name.clone(), value.clone()));
        let summary = plain("summary", Markup::text("All settings, by option"));
        plain("details", Markup::all([summary, rows(pairs)]))
    });
    section("settings", "Settings and placement", Markup::all([columns, all.unwrap_or_default()]))
}

fn placed(placement: &Placement) -> Vec<(String, String)> {
    let layers = match placement.layers {
        0 => "all".to_owned(),
        1 => placement.first_layer.to_string(),
        layers => {
            let last = u32::from(placement.first_layer) + u32::from(layers) - 1;
            format!("{} to {last}", placement.first_layer)
        }
    };
    let mut found = vec![
        ("roles", placement.roles.join(", ")),
        ("layers", layers),
        ("modules", placement.modules.to_string()),
        (
            "numbers",
            format!("{} = {} × {}", placement.parameters, placement.groups, placement.width),
        ),
        ("rank", placement.rank.to_string()),
        ("seed of the projection", placement.seed.to_string()),
    ];
    found.extend(placement.seeds_searched.map(|n| ("seeds compared", n.to_string())));
    let share = |share: f64| match placement.is_uncertain() {
        true => "unknown: the survey was mostly noise".to_owned(),
        false => percent(share),
    };
    found.extend(placement.energy_share.map(|x| ("gradient energy in these modules", share(x))));
    found.extend(placement.captured.map(|x| ("of it, captured by the directions", share(x))));
    found.extend(placement.snr.map(|x| ("signal to noise of the gradient", figure(x))));
    found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The adapter's fields, and its values as bars.
pub fn adapter(fields: &Map<String, Value>) -> Markup {
    let v: Vec<f64> = fields
        .get("v")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    let said = fields.iter().filter(|(name, _)| !["v", "magic"].contains(&name.as_str())).map(
        |(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Array(items) => items
                    .iter()
                    .map(|item| item.as_str().map_or(item.to_string(), str::to_owned))
                    .collect::<Vec<_>>()
                    .join(" "),
                other => other.to_string(),
            };
            (name.clone(), value)
        },
    );
    let list = plain(
        "pre",
        Markup::text(v.iter().map(|x| format!("{x:?}")).collect::<Vec<_>>().join(", ")),
    );
    section(
        "adapter",
        "The adapter",
        Markup::all([bars(&v), rows(said), plain("p", Markup::default()), list]),
    )
}

/// Values as bars up and down from zero.
fn bars(v: &[f64]) -> Markup {
    const WIDTH: f64 = 1024.0;
    const HALF: f64 = 64.0;
    /// Bars of less than a unit are no longer seen.
    const MOST: usize = 512;
    let most = v.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    if most == 0.0 || !most.is_finite() || v.len() > MOST {
        return Markup::default();
    }
    let each = WIDTH / v.len() as f64;
    let mut parts: Vec<Markup> = v
        .iter()
        .enumerate()
        .map(|(at, x)| {
            let height = HALF * x.abs() / most;
            let top = if *x > 0.0 { HALF - height } else { HALF };
            let width = (0.7 * each).min(44.0);
            element(
                "rect",
                &[
                    ("class", &"bar"),
                    ("x", &((at as f64 + 0.5) * each - width / 2.0)),
                    ("y", &top),
                    ("width", &width),
                    ("height", &height),
                ],
                plain("title", Markup::text(format_args!("v[{at}] = {x}"))),
            )
        })
        .collect();
    parts.push(line("grid", (0.0, HALF), (WIDTH, HALF)));
    element(
        "svg",
        &[
            ("viewBox", &format_args!("0 0 {WIDTH} {}", 2.0 * HALF)),
            ("role", &"img"),
            ("aria-label", &"The values of the adapter"),
        ],
        Markup::all(parts),
    )
}
