//! The report of a run: one page of HTML that needs nothing beside it and fetches nothing.

use serde_json::{Map, Value};

use super::{
    curves::{curves, hero},
    facts::{adapter, events, settings},
    figures::{accuracy, headline, key, time},
    markup::{Markup, element, plain},
    policy::policy,
    story::Story,
    texts::{answers, samples},
};
use crate::eval::report::EvalReport;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What there is to tell beside the journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The evaluation of the adapter on problems it was not trained on.
    pub eval: Option<&'a EvalReport>,
    /// The adapter's fields by name, as `tla show --json` prints them.
    pub adapter: Option<&'a Map<String, Value>>,
}

/// The page that tells of a run.
pub fn page(story: &Story, beside: Beside<'_>) -> String {
    let title = headline(story);
    let head = Markup::all([
        element("meta", &[("charset", &"utf-8")], Markup::default()),
        element(
            "meta",
            &[("http-equiv", &"Content-Security-Policy"), ("content", &policy(STYLE, SCRIPT))],
            Markup::default(),
        ),
        element(
            "meta",
            &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")],
            Markup::default(),
        ),
        plain("title", Markup::text(format_args!("{title} · tla"))),
        Markup::own("style", STYLE),
    ]);
    let body = Markup::all([
        key(story, &title, beside.eval),
        hero(story),
        curves(story),
        time(story),
        beside.eval.map(accuracy).unwrap_or_default(),
        answers(story),
        samples(story),
        events(story),
        settings(story),
        beside.adapter.map(adapter).unwrap_or_default(),
        footer(story),
        Markup::own("script", SCRIPT),
    ]);
    let html = element(
        "html",
        &[("lang", &"en")],
        Markup::all([plain("head", head), plain("body", body)]),
    );
    format!("<!DOCTYPE html>\n{}\n", html.into_string())
}

fn footer(story: &Story) -> Markup {
    let made = format!(
        "Made by tla {} from the run\u{2019}s journal, written by tla {}. The page fetches nothing.",
        env!("CARGO_PKG_VERSION"),
        story.start.program
    );
    plain("footer", Markup::text(made))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        eval::{pass_at::PassAt, report::Share},
        report::example::{HOSTILE, lines},
        train::journal::{Line, Record, Start, Step},
    };
    use roxmltree::{Document, Node};
    use serde_json::json;

    fn html(lines: Vec<Line>) -> String {
        let story = Story::of(&Record { lines, torn: true, whole_bytes: 0 }).unwrap();
        let mut eval =
            EvalReport::against(&[true, true, true, false], &[false, false, true, true]).unwrap();
        let adapter = json!({"seed": 7, "roles": ["o", "down"], "v": [0.5, -0.25, 0.0]});
        let share = Share { correct: 3, accuracy: 0.875, interval: [0.5, 1.0] };
        (eval.cut, eval.flexible) = (Some(5), Some(share));
        eval.pass_at.push(PassAt { k: 4, value: 0.96875, error: 0.015625 });
        page(&story, Beside { eval: Some(&eval), adapter: adapter.as_object() })
    }

    /// The page as XML: without its first line, its style and its script, which are no XML.
    fn without_own(html: &str) -> String {
        let (doctype, rest) = html.split_once('\n').unwrap();
        assert_eq!(doctype, "<!DOCTYPE html>");
        assert!(rest.contains(STYLE) && rest.contains(SCRIPT));
        rest.replace(STYLE, "").replace(SCRIPT, "")
    }

    fn text(node: Node<'_, '_>) -> String {
        node.descendants().filter_map(|n| n.text().filter(|_| n.is_text())).collect()
    }

    #[test]
    fn the_page_is_well_formed_and_has_the_numbers_of_the_run() {
        let xml = without_own(&html(lines(60)));
        let tree = Document::parse(&xml).unwrap();
        let words = text(tree.root_element());
        for expected in [
            "13 numbers for word & math",
            "60 of 60 steps",
            "Finished after 60 steps",
            "cut short",
            "4096",
            "83 %",
            "99.98",
            "75 %",
            "2 gained, 1 lost",
            "5 answers were cut",
            "87.5 %",
            "pass@4: 96.9 % ± 1.6 %",
            "0.5, -0.25, 0",
            "back to the state before step 2",
            "#### 4",
        ] {
            assert!(words.contains(expected), "no {expected:?} in {words}");
        }
        let ids: Vec<&str> = tree.descendants().filter_map(|node| node.attribute("id")).collect();
        assert_eq!(
            ids,
            ["curve", "curves", "time", "accuracy", "answers", "events", "settings", "adapter"]
        );
    }

    #[test]
    fn every_curve_has_a_point_for_every_step() {
        let xml = without_own(&html(lines(60)));
        let tree = Document::parse(&xml).unwrap();
        let curves: Vec<_> = tree.descendants().filter(|n| n.has_tag_name("polyline")).collect();
        let names: Vec<&str> = curves.iter().filter_map(|c| c.attribute("data-name")).collect();
        assert!(names.starts_with(&["of the step", "moving average"]), "{names:?}");
        assert!(names.contains(&"Entropy") && names.contains(&"Probability ratio"), "{names:?}");
        assert!(!names.contains(&"Learning rate"), "it never changed");
        assert!(!names.contains(&"Divergence from the base"), "it was not measured");
        for curve in curves {
            for list in ["points", "data-steps", "data-values"] {
                assert_eq!(curve.attribute(list).unwrap().split(' ').count(), 60, "{list}");
            }
        }
    }

    #[test]
    fn an_answer_that_is_markup_is_shown_as_text() {
        let page = html(lines(4));
        let xml = without_own(&page);
        let tree = Document::parse(&xml).unwrap();
        let shown = HOSTILE.replace('\u{1b}', "\u{241b}");
        let texts: Vec<String> =
            tree.descendants().filter(|n| n.has_tag_name("pre")).map(text).collect();
        assert_eq!(texts.iter().filter(|text| **text == shown).count(), 2, "{texts:?}");
        assert_eq!(tree.descendants().filter(|n| n.has_tag_name("script")).count(), 1);
        assert!(tree.descendants().all(|n| !n.has_tag_name("img")));
    }

    #[test]
    fn the_page_asks_for_nothing_and_says_so_to_the_browser() {
        let page = html(lines(4));
        let tree = without_own(&page);
        let tree = Document::parse(&tree).unwrap();
        for node in tree.descendants() {
            for attribute in ["src", "href", "style", "onload", "onclick"] {
                assert_eq!(node.attribute(attribute), None, "{node:?}");
            }
        }
        assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
        let policy =
            tree.descendants().find_map(|n| n.attribute("http-equiv").and(n.attribute("content")));
        assert!(policy.unwrap().starts_with("default-src 'none'; style-src 'sha256-"));
    }

    #[test]
    fn fine_tuning_has_its_loss_where_a_reward_would_be() {
        let lines = lines(8).into_iter().map(|line| match line {
            Line::Start(start) => Line::Start(Start { objective: "sft".into(), ..start }),
            Line::Step(step) => {
                let loss = 1.0 / step.step as f64;
                Line::Step(Step { reward_mean: None, loss, average: Some(-loss), ..step })
            }
            other => other,
        });
        let xml = without_own(&html(lines.collect()));
        let tree = Document::parse(&xml).unwrap();
        let curve = tree.descendants().find(|n| n.attribute("id") == Some("curve")).unwrap();
        let drawn: Vec<_> = curve.descendants().filter(|n| n.has_tag_name("polyline")).collect();
        assert_eq!(drawn.len(), 1, "the average of −loss has no place beside the loss");
        assert_eq!(drawn[0].attribute("data-name"), Some("Loss"));
        let words = text(tree.root_element());
        assert!(words.contains("Fine-tuned (SFT)") && !words.contains("Mean reward"), "{words}");
    }

    #[test]
    fn a_run_that_has_hardly_begun_has_a_page() {
        for kept in 1..4 {
            let few = lines(4).into_iter().take(kept).collect();
            let story = Story::of(&Record { lines: few, torn: false, whole_bytes: 0 }).unwrap();
            let xml = without_own(&page(&story, Beside::default()));
            let tree = Document::parse(&xml).unwrap();
            assert!(text(tree.root_element()).contains("Not over, or killed"));
        }
    }
}
