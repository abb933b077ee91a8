//! Every `tla` command in the documentation is one that the program takes.
#![cfg(all(feature = "cli", feature = "sign", feature = "train"))]

use std::{fs, path::Path};

const PAGES: [&str; 4] =
    ["README.md", "docs/guide.md", "docs/rewards.md", "tests/clients/README.md"];

/// The command lines of a page, and whether they are whole: those of its blocks of code are, those
/// between backquotes in its sentences need not be.
fn commands(page: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let (mut in_code, mut open) = (false, None::<String>);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            let said = open.take().unwrap_or_default() + line.trim_start_matches("$ ");
            match said.strip_suffix('\\') {
                Some(more) => open = Some(format!("{more} ")),
                None => found.push((said, true)),
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(|said| (said.to_owned(), false)));
        }
    }
    found.retain(|(line, _)| line.starts_with("tla ") && !line.starts_with("tla = "));
    found
}

/// The words of a command line. What may be left out is given, of several choices the first.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for character in line.chars() {
        match (quote, character) {
            (Some(end), _) if character == end => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            // Where its output goes is the shell's affair.
            (None, '>' | '|') if word.is_none() => break,
            (None, '[' | ']') => {}
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words.iter().map(|word| word.split("\\|").next().unwrap_or_default().to_owned()).collect()
}

/// What the program says against a command line, if anything. In a sentence a line may stop short of
/// what is required; all that it does say must be known.
fn fault(line: &str, whole: bool) -> Option<String> {
    let error = tla::cli::accepts(&words(line)).err()?;
    let short = ["required arguments were not provided", "a value is required", "subcommand"]
        .iter()
        .any(|words| error.contains(words) && !error.contains("unrecognized"));
    (whole || !short).then_some(error)
}

#[test]
fn every_command_in_the_documentation_is_one_that_the_program_takes() {
    let mut refused = Vec::new();
    for name in PAGES {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let lines = commands(&page);
        assert!(!lines.is_empty(), "{name} has no command");
        for (line, whole) in lines {
            refused.extend(fault(&line, whole).map(|error| format!("{name}: `{line}`: {error}")));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn a_command_that_the_program_does_not_take_is_found_wherever_it_stands() {
    let page = "Use `tla show A.tla`, `tla train --run`, `tla show --colour` or `tla frob`:\n```\n\
                $ tla train --model M --data D \\\n    --out A --colour red # so\ntla show\n```\n";
    let found: Vec<bool> =
        commands(page).iter().map(|(line, whole)| fault(line, *whole).is_some()).collect();
    assert_eq!(found, [false, false, true, true, true, true]);
    assert_eq!(words("tla x 'a b' [--c peft\\|onnx] # d"), ["tla", "x", "a b", "--c", "peft"]);
}
