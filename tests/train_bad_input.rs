//! What `train` and `eval` cannot work with is refused before anything is trained: a fact and a
//! remedy, exit status 2, and no file left behind.
#![cfg(all(feature = "cli", feature = "train"))]

mod cli;

use cli::Place;
use serde_json::{Value, json};
use std::fs;

const GOOD: &str = r#"{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}"#;

/// A place with `data.jsonl`, whose one problem is sound.
fn place() -> Place {
    let place = Place::new();
    place.write("data.jsonl", format!("{GOOD}\n"));
    place
}

/// Both commands refuse the same model and data.
#[track_caller]
fn both_refuse(place: &Place, model: &str, data: &str, words: &[&str]) {
    place.refused(&format!("train --model {model} --data {data} --out out.tla"), words);
    place.refused(&format!("eval --model {model} --data {data}"), words);
}

#[track_caller]
fn train_refuses(place: &Place, options: &str, words: &[&str]) {
    place.refused(&format!("train --model model --data data.jsonl --out out.tla {options}"), words);
}

#[test]
fn missing_files_are_named() {
    let place = place();
    both_refuse(&place, "nothing", "data.jsonl", &["nothing does not exist"]);
    both_refuse(&place, "model", "nothing.jsonl", &["nothing.jsonl"]);
    place.refused(
        "eval --model model --data data.jsonl --adapter nothing.tla",
        &["nothing.tla does not exist"],
    );
}

#[test]
fn a_dataset_line_that_is_no_problem_is_named_by_its_number() {
    let place = place();
    for (bad, word) in [
        ("not JSON", "is not JSON"),
        (r#"["2 + 3?"]"#, "is not an object"),
        (r#"{"answer": "5\n#### 5"}"#, "\"question\" is missing"),
        (r#"{"question": "2 + 3?"}"#, "\"answer\" is missing"),
        (r#"{"question": 5, "answer": "5\n#### 5"}"#, "not a string"),
        (r#"{"question": " ", "answer": "5\n#### 5"}"#, "asks nothing"),
        (r#"{"question": "2 + 3?", "answer": "5"}"#, "####"),
        (r#"{"question": "2 + 3?", "answer": "5\n#### five"}"#, "`five` after `####`"),
    ] {
        place.write("bad.jsonl", format!("{GOOD}\n\n{bad}\n{GOOD}\n"));
        both_refuse(&place, "model", "bad.jsonl", &["bad.jsonl, line 3", word]);
    }
    place.write("bad.jsonl", b"{\"question\": \"\xff\"}\n");
    both_refuse(&place, "model", "bad.jsonl", &["line 1", "not valid UTF-8"]);
}

#[test]
fn a_dataset_without_a_problem_is_refused() {
    let place = place();
    for nothing in ["", "\n\n  \n"] {
        place.write("empty.jsonl", nothing);
        both_refuse(&place, "model", "empty.jsonl", &["empty.jsonl holds no problem"]);
    }
    for (options, word) in [
        ("--limit 0", "--limit is 0"),
        ("--batch 0", "--batch is 0"),
        ("--samples 0", "--samples is 0"),
        ("--samples 4 --pass-at 1,5", "pass@5 cannot be told from 4 samples"),
        ("--samples 4 --pass-at 0", "pass@0 cannot be told"),
        ("--samples 4 --temperature 0", "--temperature is 0"),
    ] {
        place.refused(&format!("eval --model model --data data.jsonl {options}"), &[word]);
    }
}

#[test]
fn a_model_without_its_side_files_is_refused() {
    for (file, word) in
        [("tokenizer.json", "has no tokenizer.json"), ("chat_template.jinja", "chat template")]
    {
        let place = place();
        fs::remove_file(place.path("model").join(file)).unwrap();
        both_refuse(&place, "model", "data.jsonl", &[word]);
    }
    let place = place();
    place.write("model/tokenizer.json", "{}");
    both_refuse(&place, "model", "data.jsonl", &["tokenizer.json is not a tokenizer"]);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
    let place = place();
    let mut tokenizer: Value = serde_json::from_slice(&place.read("model/tokenizer.json")).unwrap();
    tokenizer["model"]["vocab"]["zzz"] = json!(70_000);
    place.write("model/tokenizer.json", tokenizer.to_string());
    let words = ["the tokenizer has token 70000", "vocabulary ends at"];
    both_refuse(&place, "model", "data.jsonl", &words);
}

#[test]
fn a_tokenizer_that_its_library_gives_up_on_or_that_is_random_is_refused() {
    let place = place();
    let tokenizer: Value = serde_json::from_slice(&place.read("model/tokenizer.json")).unwrap();
    for (field, value, word) in [
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "gave up"),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
            "tokeni",
        ),
    ] {
        let mut broken = tokenizer.clone();
        broken[field] = value;
        place.write("model/tokenizer.json", broken.to_string());
        let args = "eval --model model --data data.jsonl";
        refused_with_runtime(&place, args, word);
    }
    let mut random = tokenizer.clone();
    random["model"]["dropout"] = json!(0.5);
    place.write("model/tokenizer.json", random.to_string());
    both_refuse(&place, "model", "data.jsonl", &["dropout"]);
}

#[test]
fn eval_refuses_an_adapter_for_another_base_and_a_broken_one() {
    let place = place();
    let words = ["a.tla was made for a model with base digest", "Use the model it was made for"];
    place.refused("eval --model other --data data.jsonl --adapter a.tla", &words);
    let mut bytes = place.read("a.tla");
    bytes[100] ^= 1;
    place.write("b.tla", bytes);
    let words = ["b.tla is not a usable adapter"];
    place.refused("eval --model model --data data.jsonl --adapter b.tla", &words);
}

#[test]
fn an_output_never_replaces_an_input_and_needs_a_folder() {
    let place = place();
    for input in ["data.jsonl", "model/model.onnx", "model/tokenizer.json", "model/config.json"] {
        let args = format!("train --model model --data data.jsonl --out {input}");
        place.refused(&args, &["is an input of this command"]);
        let args = format!("eval --model model --data data.jsonl --answers {input}");
        place.refused(&args, &["is an input of this command"]);
    }
    let args = "train --model model --data data.jsonl --out out --run ./out";
    place.refused(args, &["--out is out, which the run's folder needs"]);
    std::fs::create_dir_all(place.path("run")).unwrap();
    for out in ["run/report.html", "run/../run/journal.jsonl", "run/state.json.next"] {
        let args = format!("train --model model --data data.jsonl --out {out} --run run");
        place.refused(&args, &["which the run's folder needs"]);
    }
    let args = "train --model model --data data.jsonl --out none/out.tla";
    place.refused(args, &["folder of none/out.tla does not exist"]);
}

#[test]
fn options_out_of_range_are_refused() {
    let place = place();
    for (options, word) in [
        ("--samples 1", "--samples is below 2"),
        ("--objective sft --kl 0.1", "--objective sft samples none"),
        ("--objective sft --samples 4", "--samples is for sampled answers"),
        ("--objective sft --temperature 1", "--temperature is for sampled answers"),
        ("--objective sft --clip 0.2", "--clip is for sampled answers"),
        ("--samples 0", "--samples is below 2"),
        ("--steps 0", "--steps is 0"),
        ("--problems 0", "--problems is 0"),
        ("--max-tokens 0", "--max-tokens is 0"),
        ("--temperature 0", "--temperature is 0"),
        ("--temperature NaN", "--temperature is NaN"),
        ("--reward exact", "'exact' is no reward"),
        ("--reward regex:#+", "`#+` has no group"),
        ("--reward regex:(", "is no regular expression"),
        ("--reward command:", "'' is no command"),
        ("--reward command:/no/such", "cannot start `/no/such`"),
        ("--reward-timeout 5", "--reward-timeout is for --reward command"),
        ("--reward command:/no/such --reward-timeout 0", "--reward-timeout is 0"),
        ("--reward command:/no/such --reward-timeout inf", "--reward-timeout is inf"),
        ("--prompt Question:", "holds {question} 0 times"),
        ("--question-field prompt", "the field \"prompt\" is missing"),
        ("--answer-field target", "the field \"target\" is missing"),
        ("--learning-rate=-0.1", "--learning-rate is -0.1"),
        ("--learning-rate inf", "--learning-rate is inf"),
        ("--clip 0", "--clip is 0"),
        ("--updates 0", "--updates is 0"),
        ("--kl NaN", "--kl is NaN"),
        ("--clip-high 0", "--clip-high is 0"),
        ("--max-grad-norm=-1", "--max-grad-norm is -1"),
        ("--guard NaN", "--guard is NaN"),
        ("--patience 0", "--patience is 0"),
        ("--target-reward inf", "--target-reward is inf"),
        ("--rollout-batch 0", "--rollout-batch is 0"),
        ("--objective sft --target-reward 1", "sft has no reward"),
        ("--projection unit --seed search:5", "a unit projection draws nothing"),
        ("--projection unit --rank 3 --width 13", "groups of 9 numbers, not 13"),
        ("--projection unit --params 13", "groups of 4 numbers, not 13"),
        ("--survey 0", "--survey is 0"),
        ("--params 13 --groups 2", "13 numbers are not 2 groups of equal size"),
        ("--params 52 --width 13", "52 numbers are not 1 groups of 13"),
        ("--params 0", "0 numbers"),
        ("--groups 0", "0 groups"),
        ("--problems 18446744073709551615", "Give at most 65536"),
        ("--samples 18446744073709551615", "Give at most 65536"),
        ("--max-tokens 18446744073709551615", "Give at most"),
        ("--seed search:99999999999", "seeds are too many"),
        ("--width 65535 --groups 65535", "values"),
        ("--rank 0", "rank"),
        ("--rank 65", "rank"),
        ("--scale 0", "scale"),
        ("--scale NaN", "scale"),
        ("--roles mouth", "'mouth' is no role"),
        ("--roles down,", "'' is no role"),
        ("--first-layer 1", "--roles auto chooses the layers too"),
        ("--roles down --first-layer 9 --layers 1", "tla inspect"),
        ("--roles down --groups 99 --params 99", "99 groups"),
        ("--seed soon", "'soon' is no seed"),
        ("--seed search:0", "'search:0' is no seed"),
        ("--seed search:18446744073709551616", "is no seed"),
    ] {
        train_refuses(&place, options, &[word]);
    }
}

#[test]
fn a_library_that_is_none_is_named_with_the_variable_that_names_it() {
    let place = place();
    both_refuse(&place, "model", "data.jsonl", &["ORT_DYLIB_PATH names /there/is/none.so"]);
}

/// What `tla` does where there is an ONNX Runtime: it says no more than its error, and leaves
/// the folder as it was.
#[track_caller]
fn refused_with_runtime(place: &Place, args: &str, word: &str) {
    let library = tla::runtime::candidates().into_iter().find(|c| c.found).expect("make setup");
    let before = place.contents();
    let mut command = place.command(args.split_whitespace());
    let done = cli::Done::from(command.env("ORT_DYLIB_PATH", library.path).output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{}", done.stderr);
    assert!(done.stderr.contains(word), "{}", done.stderr);
    assert!(place.contents() == before, "{}", done.stderr);
}

#[test]
fn cuda_is_refused_where_there_is_none_and_the_cpu_does_not_stand_in() {
    let place = place();
    for args in [
        "train --model model --data data.jsonl --out out.tla",
        "eval --model model --data data.jsonl",
    ] {
        let cuda = format!("{args} --provider cuda --device 1");
        refused_with_runtime(&place, &cuda, "is a build of ONNX Runtime without CUDA. Install");
        let unused = format!("{args} --device 1");
        refused_with_runtime(&place, &unused, "--device is of no use to --provider cpu");
    }
}

#[test]
fn an_old_journal_is_not_overwritten() {
    let place = place();
    fs::create_dir(place.path("out.tla.run")).unwrap();
    place.write("out.tla.run/journal.jsonl", "{}\n");
    let args = "train --model model --data data.jsonl --out out.tla";
    let word = "tla: out.tla.run holds a journal and no state.json, so its run cannot go on. Restore \
                that file, choose another run folder with --run, or delete this one.";
    refused_with_runtime(&place, args, word);
    refused_with_runtime(&place, &format!("{args} --resume"), word);
    place.write("out.tla.run/state.json", "{}\n");
    let word = "out.tla.run holds a run already. Go on with --resume, choose another run folder";
    refused_with_runtime(&place, args, word);
    let word = "state.json is not the state of a run";
    refused_with_runtime(&place, &format!("{args} --resume"), word);
}

#[test]
fn a_prompt_of_nothing_and_one_that_is_too_long_are_refused() {
    let place = place();
    place.write("model/chat_template.jinja", "");
    place.refused(
        "eval --model model --data data.jsonl",
        &["the problem of line 1 cannot be asked: its prompt has no tokens"],
    );
    refused_with_runtime(
        &place,
        "train --model model --data data.jsonl --out out.tla",
        "the problem of line 1 cannot be asked: its prompt has no tokens",
    );
    let place = self::place();
    let long = json!({"question": "2 + 3? ".repeat(2000), "answer": "#### 5"});
    place.write("data.jsonl", format!("{GOOD}\n{long}\n"));
    let words = ["the problem of line 2 takes", "the model has room for", "Lower --max-tokens"];
    place.refused("eval --model model --data data.jsonl", &words);
    refused_with_runtime(&place, "train --model model --data data.jsonl --out out.tla", words[0]);
}

#[test]
fn a_model_that_never_gets_a_problem_right_has_nothing_to_learn_from() {
    let args = "train --model model --data data.jsonl --out out.tla --problems 2 --samples 2 \
                --max-tokens 4";
    let words =
        "% of the answers were cut at --max-tokens 4: raise it; none of the survey's 2 parts";
    refused_with_runtime(&place(), &format!("{args} --survey 1"), words);
    // Without a measured placement that shows only after the steps, which the journal tells of.
    let place = place();
    let library = tla::runtime::candidates().into_iter().find(|c| c.found).expect("make setup");
    let args = format!("{args} --roles down --seed 1 --steps 7");
    let mut command = place.command(args.split_whitespace());
    let done = cli::Done::from(command.env("ORT_DYLIB_PATH", library.path).output().unwrap());
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    let words = "% of the answers were cut at --max-tokens 4: raise it; 28 sampled answers";
    assert!(done.stderr.contains(words), "{}", done.stderr);
    assert!(done.stderr.contains("nothing to learn from"), "{}", done.stderr);
    assert!(!place.path("out.tla").exists());
    let journal = String::from_utf8(place.read("out.tla.run/journal.jsonl")).unwrap();
    assert!(journal.lines().last().unwrap().contains("nothing to learn from"), "{journal}");
    // And is told of on the way, once.
    let word = "for 5 steps in a row all answers to each problem were worth the same";
    assert_eq!(done.stderr.matches(word).count(), 1, "{}", done.stderr);
    let warned = journal.lines().find(|line| line.contains("\"kind\":\"warning\"")).unwrap();
    assert!(warned.contains("\"step\":5") && warned.contains(word), "{warned}");
    assert!(warned.contains("--max-tokens 4: raise it; for 5 steps"), "{warned}");
}
