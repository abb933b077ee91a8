//! What people write: recipes for `pack`, datasets, chat templates.

use super::Outcome;
use std::{collections::BTreeMap, path::Path};
use tla::{
    cli::recipe::{Recipe, RecipeError},
    format::{Adapter, encode_to_vec},
    policy::template::{ChatTemplate, Message, TemplateError},
    train::{
        data::{DataError, Fields, Problem, problems},
        reward::{
            ExactMatch, Reward,
            boxed::{Boxed, last_boxed},
            latex,
            rational::Rational,
            score_group,
        },
    },
};

/// A recipe that is taken can be written, and its rounded values are taken as they are.
pub fn recipe(json: &[u8]) -> Vec<Outcome> {
    let path = Path::new("v.json");
    let recipe = match Recipe::parse(path, json) {
        Ok(recipe) => recipe,
        Err(error) => {
            assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
            return vec![match &error {
                RecipeError::Header(error) => error.name().into(),
                other => variant(other),
            }];
        }
    };
    let Recipe { header, v, rounded, largest_change: (at, change) } = recipe;
    assert!(rounded <= v.len() && at < v.len() && change.is_finite());
    assert_eq!(rounded == 0, change == 0.0);
    let file = encode_to_vec(&header, &v).unwrap();
    let adapter = Adapter::decode(&file).unwrap();
    assert_eq!(*adapter.header(), header);
    assert!(adapter.values().eq(v.iter().copied()));

    let roles: Vec<_> = header.roles.iter().map(|role| role.name()).collect();
    let again = serde_json::json!({
        "v": v, "seed": header.seed, "rank": header.rank, "width": header.width,
        "groups": header.groups, "tying": header.tying.name(), "split": header.split.name(),
        "scale": header.scale, "scalar": header.scalar.name(), "roles": roles,
        "first_layer": header.first_layer, "layers": header.layers,
        "projection": header.projection.name(),
    });
    let again = Recipe::parse(path, again.to_string().as_bytes()).unwrap();
    assert_eq!((again.header, again.rounded), (header, 0));
    assert!(again.v.iter().map(|x| x.to_bits()).eq(v.iter().map(|x| x.to_bits())));
    vec![if rounded > 0 { "rounded".into() } else { "accepted".into() }]
}

/// A dataset is its lines; a bad one stops it and is named by its number.
pub fn dataset(bytes: &[u8]) -> Vec<Outcome> {
    let path = Path::new("data.jsonl");
    let problems = |bytes: &[u8]| problems(bytes, path, &Fields::default());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    let good = |count: usize| match problems(lines[..count].concat().as_slice()) {
        Ok(problems) => problems.len(),
        Err(DataError::Empty { .. }) => 0,
        Err(error) => panic!("the first {count} lines are refused: {error}"),
    };
    let found = match problems(bytes) {
        Ok(found) => found,
        Err(error) => {
            assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
            let DataError::Line { line, problem, .. } = &error else {
                assert!(matches!(error, DataError::Empty { .. }), "{error}");
                let text = std::str::from_utf8(bytes).unwrap();
                assert!(text.trim_start_matches('\u{feff}').trim().is_empty());
                return vec![variant(&error)];
            };
            assert!((1..=lines.len()).contains(line));
            good(line - 1);
            return vec![variant(problem)];
        }
    };
    assert_eq!(good(lines.len()), found.len());
    assert!(!found.is_empty() && found.is_sorted_by(|a, b| a.line < b.line));
    for problem in &found {
        let Problem { question, answer, solution, fields, .. } = problem;
        for text in [question, answer, solution] {
            assert!(!text.trim().is_empty() && fields.values().any(|v| v == text));
        }
        // A byte order mark counts only at the head of a file.
        let line = lines[problem.line - 1];
        let alone = problems(line).unwrap();
        assert_eq!((alone.len(), alone[0].line), (1, 1));
        assert_eq!(alone[0], Problem { line: 1, ..problem.clone() });
    }
    let mut outcomes: Vec<Outcome> = vec!["problems".into()];
    for (reward, name) in [(&ExactMatch as &dyn Reward, "number"), (&Boxed, "answer")] {
        outcomes.extend(found.iter().filter_map(|p| judged(reward, p)).map(|()| name.into()));
    }
    outcomes
}

/// The key of a reference is itself a right answer, in the form the reward asks for.
fn judged(reward: &dyn Reward, problem: &Problem) -> Option<()> {
    let key = match reward.key(problem) {
        Ok(key) => key,
        Err(error) => {
            assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
            return None;
        }
    };
    let answer = match reward.name().as_str() {
        "gsm8k" => format!("#### {key}"),
        _ => format!("so \\boxed{{{key}}}."),
    };
    if reward.name() == "boxed" && last_boxed(&answer) != Some(&key) {
        return None;
    }
    let scores = score_group(reward, problem, &[answer.as_str(), ""]).unwrap();
    assert_eq!(scores, [1.0, 0.0], "{key}");
    Some(())
}

/// Two answers in LaTeX, a line each: the same in either order, each the same as itself and as its
/// normal form, and numbers are the same exactly if their values are.
pub fn answers(bytes: &[u8]) -> Vec<Outcome> {
    let Ok(text) = std::str::from_utf8(bytes) else { return vec!["not UTF-8".into()] };
    let (a, b) = text.split_once('\n').unwrap_or((text, ""));
    let same = latex::equivalent(a, b);
    assert_eq!(same, latex::equivalent(b, a), "{a:?} {b:?}");
    for answer in [a, b] {
        assert_eq!(latex::equivalent(answer, answer), !answer.trim().is_empty(), "{answer:?}");
    }
    let (Some(a), Some(b)) = (latex::normal(a), latex::normal(b)) else {
        return vec!["too long".into()];
    };
    match (Rational::parse(&a), Rational::parse(&b)) {
        (Some(x), Some(y)) => {
            assert_eq!(x == y, same || a == b, "{a:?} {b:?}");
            vec![if same { "equal numbers".into() } else { "other numbers".into() }]
        }
        _ => vec![if same { "same".into() } else { "other".into() }],
    }
}

/// A template renders the same each time, or says why not, in bounded time and memory.
pub fn template(source: &[u8]) -> Vec<Outcome> {
    let Ok(source) = std::str::from_utf8(source) else { return vec!["not UTF-8".into()] };
    let template = match ChatTemplate::new(source, BTreeMap::from([("bos_token", "<s>".into())])) {
        Ok(template) => template,
        Err(error) => return vec![refused(&error)],
    };
    let messages = [Message::new("system", "Be brief."), Message::new("user", "3+4?")];
    let outcomes = [&messages[..], &messages[1..], &[]].map(|messages| {
        let [first, second] = [(); 2].map(|()| template.render(messages, true));
        match (first, second) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first, second);
                if !source.contains(['{', '\r']) {
                    assert_eq!(first, source.strip_suffix('\n').unwrap_or(source));
                }
                "rendered".into()
            }
            (Err(first), Err(second)) => {
                assert_eq!(first.to_string(), second.to_string());
                refused(&first)
            }
            _ => panic!("{source:?} renders sometimes"),
        }
    });
    outcomes.into()
}

fn refused(error: &TemplateError) -> Outcome {
    assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
    variant(error)
}

fn variant(error: &impl std::fmt::Debug) -> Outcome {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().into()
}
