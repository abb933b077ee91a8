//! What people write: recipes for `pack`, datasets, chat templates.

use super::Outcome;
use std::{collections::BTreeMap, path::Path};
use tla::{
    cli::recipe::{Recipe, RecipeError},
    format::{Adapter, encode_to_vec},
    policy::template::{ChatTemplate, Message, TemplateError},
    train::{
        data::{DataError, problems},
        reward::answer::Answer,
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
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    let good = |count: usize| match problems(lines[..count].concat().as_slice(), path) {
        Ok(problems) => problems.len(),
        Err(DataError::Empty { .. }) => 0,
        Err(error) => panic!("the first {count} lines are refused: {error}"),
    };
    let found = match problems(bytes, path) {
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
        assert!(!problem.question.trim().is_empty());
        assert_eq!(Answer::parse(problem.answer.as_str()).as_ref(), Some(&problem.answer));
        // A byte order mark counts only at the head of a file.
        let line = lines[problem.line - 1];
        let alone = problems(line, path).unwrap();
        assert_eq!((alone.len(), alone[0].line), (1, 1));
        assert_eq!((&alone[0].question, &alone[0].answer), (&problem.question, &problem.answer));
    }
    vec!["problems".into()]
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
