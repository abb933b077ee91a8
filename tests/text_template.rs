//! Prompts are those the transformers library would have made.
#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tla::policy::template::{ChatTemplate, Message, TemplateError};
use tla::policy::tokenizer::Tokenizer;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(fixture(path)).unwrap()
}

/// A template from its source alone.
fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::new(source, BTreeMap::new())
}

fn load(files: &[(&str, &str)]) -> Result<ChatTemplate, TemplateError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    ChatTemplate::load(folder.path())
}

#[test]
fn conversations_render_as_in_transformers() {
    let cases: Vec<Value> = serde_json::from_str(&read("templates/expected.json")).unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name = text(&case["template"]);
        let source = read(&format!("templates/{name}.jinja"));
        let tokens = case["tokens"].to_string();
        let files = [("chat_template.jinja", source.as_str()), ("tokenizer_config.json", &tokens)];
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| Message::new(&text(&m["role"]), &text(&m["content"])))
            .collect();
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = load(&files).unwrap().render(&messages, prompt).unwrap();
        assert_eq!(rendered, text(&case["rendered"]), "{name}, {} messages", messages.len());
    }
}

#[test]
fn an_exports_own_template_gives_the_prompts_tokens() {
    let folder = fixture("exports/optimum-fp32/qwen2-tied");
    let template = ChatTemplate::load(&folder).unwrap();
    let prompt = template.question("1+2?").unwrap();
    assert_eq!(prompt, "<|im_start|>user\n1+2?<|im_end|>\n<|im_start|>assistant\n");
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let messages = [Message::new("user", "1+2?")];
    let tokens = template.tokens(&tokenizer, &messages).unwrap();
    assert_eq!(tokens, tokenizer.encode(&prompt).unwrap());
    assert_eq!(tokens.iter().filter(|t| **t == 254).count(), 2);
}

#[test]
fn a_template_is_taken_from_each_place_it_may_be_in() {
    let of = |source: &str| json!({"chat_template": source}).to_string();
    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "in the list"},
    ]});
    let (config, named, legacy) = (of("in the config"), named.to_string(), of("legacy"));
    let config = ("tokenizer_config.json", config.as_str());
    for (files, expected) in [
        (&[config][..], "in the config"),
        (&[("tokenizer_config.json", &named)], "in the list"),
        (&[("chat_template.json", &legacy)], "legacy"),
        (&[("chat_template.jinja", "own file"), config], "own file"),
    ] {
        assert_eq!(load(files).unwrap().question("?").unwrap(), expected);
    }
}

#[test]
fn a_special_token_may_be_an_object_and_a_missing_one_renders_to_nothing() {
    let config = json!({
        "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}",
        "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "</s>",
        "pad_token": null,
    });
    let template = load(&[("tokenizer_config.json", &config.to_string())]).unwrap();
    assert_eq!(template.question("?").unwrap(), "<s>|</s>|");
}

#[test]
fn without_a_template_the_error_says_what_to_do() {
    let error = load(&[("tokenizer_config.json", "{}")]).unwrap_err();
    assert!(matches!(error, TemplateError::Missing { .. }));
    let error = error.to_string();
    assert!(error.contains("Copy it from the checkpoint"), "{error}");
}

#[test]
fn a_list_without_a_default_is_refused_by_the_names_it_has() {
    let named = json!({"chat_template": [{"name": "rag", "template": "x"}]}).to_string();
    let error = load(&[("tokenizer_config.json", &named)]).unwrap_err();
    assert!(matches!(&error, TemplateError::Form { found, .. } if found.contains("rag")));
    let number = json!({"chat_template": 3}).to_string();
    let error = load(&[("tokenizer_config.json", &number)]).unwrap_err();
    assert!(matches!(&error, TemplateError::Form { found, .. } if found == "3"));
}

#[test]
fn a_template_that_does_not_parse_or_refuses_is_an_error_with_its_reason() {
    let error = template("a\n{% if %}").unwrap_err();
    assert!(matches!(&error, TemplateError::Syntax { reason } if reason.contains("line 2")));
    let refuses = "{% if messages[0].role == 'system' %}\
                   {{ raise_exception('no system role') }}{% endif %}ok";
    let refuses = template(refuses).unwrap();
    assert_eq!(refuses.question("?").unwrap(), "ok");
    let messages = [Message::new("system", "s"), Message::new("user", "u")];
    let error = refuses.render(&messages, true).unwrap_err();
    assert!(matches!(
        &error,
        TemplateError::Render { roles, reason }
            if roles == "system, user" && reason.contains("no system role")
    ));
}

#[test]
fn a_tag_that_opens_with_the_end_of_a_tag_is_no_panic() {
    for source in ["{%}", "a{%}b%}c", "{%%}", "{%}}", "{% generation %}{%}"] {
        if let Ok(template) = template(source) {
            let _ = template.question("?");
        }
    }
}

#[test]
fn a_repeated_list_is_no_way_around_the_steps() {
    for source in [
        "{% for a in [1] * 99999999 %}{% endfor %}",
        "{% for m in messages[::-1] * 99999999 %}{{ m.role }}{% endfor %}",
    ] {
        let error = template(source).unwrap().question("?").unwrap_err();
        assert!(matches!(error, TemplateError::Render { .. }), "{source}: {error}");
    }
}

#[test]
fn what_a_prompt_is_does_not_depend_on_the_day() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d') }}\
                  {% else %}fixed{% endif %}";
    assert_eq!(template(source).unwrap().question("?").unwrap(), "fixed");
}

#[test]
fn a_message_is_data_and_never_a_template() {
    let template = template("{{ messages[0].content }}").unwrap();
    let question = "{{ bos_token }} {% raw %} <b>&amp;</b>";
    assert_eq!(template.question(question).unwrap(), question);
}

#[test]
fn a_template_that_never_ends_or_never_stops_writing_is_refused() {
    for endless in [
        "{% for i in range(90000) %}{% for j in range(90000) %}{{ j }}{% endfor %}{% endfor %}",
        "{% for i in range(9000) %}{{ messages[0].content * 9000 }}{% endfor %}",
    ] {
        let error = template(endless).unwrap().question("2 + 3?").unwrap_err();
        assert!(matches!(error, TemplateError::Render { .. }), "{error}");
    }
}
