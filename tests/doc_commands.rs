//! Every `tla` command in the documentation is one that the program takes.
#![cfg(all(feature = "cli", feature = "sign", feature = "train"))]

use std::{fs, path::Path};

const PAGES: [&str; 4] =
    ["README.md", "docs/guide.md", "docs/rewards.md", "tests/clients/README.md"];

/// The command lines of a page: of its blocks of code, and between backquotes in its text.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut in_code, mut open) = (false, None::<String>);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            let said = open.take().unwrap_or_default() + line.trim_start_matches("$ ");
            match said.strip_suffix('\\') {
                Some(more) => open = Some(format!("{more} ")),
                None => found.push(said),
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found.retain(|line| line.trim_start().starts_with("tla "));
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

/// A command alone is its name, and stands for all it can do.
fn takes(line: &str) -> Result<(), String> {
    match &words(line)[..] {
        [program, command] if !command.starts_with('-') => {
            tla::cli::accepts(&[program.clone(), "help".to_owned(), command.clone()])
        }
        all => tla::cli::accepts(all),
    }
}

#[test]
fn every_command_in_the_documentation_is_one_that_the_program_takes() {
    for name in PAGES {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let lines = commands(&page);
        assert!(!lines.is_empty(), "{name} has no command");
        for line in lines {
            if let Err(error) = takes(&line) {
                panic!("{name}: `{line}`: {error}");
            }
        }
    }
}

#[test]
fn a_command_that_the_program_does_not_take_is_found_wherever_it_stands() {
    let page = "Use `tla show A.tla` or\n```\n$ tla train --model M --data D \\\n    --out A --colour red # so\n```\n`tla frob`";
    let lines = commands(page);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(takes(&lines[0]), Ok(()));
    assert!(takes(&lines[1]).unwrap_err().contains("--colour"));
    assert!(takes(&lines[2]).is_err());
    assert_eq!(words("tla x 'a b' [--c peft\\|onnx] # d"), ["tla", "x", "a b", "--c", "peft"]);
}
