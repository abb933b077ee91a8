//! From a question to the prompt the model was trained on.
//!
//! Renders the chat template of a model's folder as the transformers library does: a Jinja
//! template with `trim_blocks` and `lstrip_blocks`, Python's methods on strings, lists and
//! dictionaries, `raise_exception`, `tojson` without HTML escapes, and the variables `messages`,
//! `add_generation_prompt`, `tools`, `documents` (both none) and the special tokens. Missing on
//! purpose: `strftime_now`, so that a prompt does not depend on the day it is rendered; templates
//! that use it ask first whether it is defined and fall back to a fixed date.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as JinjaValue};
use minijinja::{Environment, Error as JinjaError, ErrorKind};
use serde::Serialize;
use serde_json::{Map, Value};

use super::side_files::{self, SideFileError, token_string};
use super::tokenizer::{Tokenizer, TokenizerError};

/// Special tokens a template may name.
const TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Steps a template may take. Those of large models take a few hundred for one question.
const FUEL: u64 = 1_000_000;
/// The longest prompt a template may render, in bytes.
const MAX_PROMPT: usize = 1 << 24;
/// Name of the template in its environment; without an extension, so nothing is escaped.
const NAME: &str = "chat_template";

/// Why a prompt could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The folder has no template.
    #[error(
        "{} has no chat template (chat_template.jinja, or \"chat_template\" in \
         tokenizer_config.json). Copy it from the checkpoint the model was exported from",
        folder.display()
    )]
    Missing {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A side file cannot be used.
    #[error(transparent)]
    File(#[from] SideFileError),
    /// `chat_template` has another form than those that are known.
    #[error(
        "\"chat_template\" in {} is {found}. It must be a string or a list with one named \
         \"default\"", path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// What was found: names of the templates, or the value's beginning.
        found: String,
    },
    /// It is not a Jinja template this renderer understands.
    #[error("the chat template does not parse: {reason}. Compare it with the checkpoint's")]
    Syntax {
        /// What the renderer said, with the line.
        reason: String,
    },
    /// It parsed but refused these messages.
    #[error(
        "the chat template refused a conversation of roles {roles}: {reason}. Use the \
         template the model was trained with"
    )]
    Render {
        /// Roles of the messages.
        roles: String,
        /// What the template or the renderer said.
        reason: String,
    },
    /// The prompt could not be encoded.
    #[error(transparent)]
    Tokens(#[from] TokenizerError),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned() }
    }
}

/// How a question becomes a prompt.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// Loads the template of a model's folder: chat_template.jinja, else `chat_template` of
    /// tokenizer_config.json (a string, or a list of which the one named `default` is taken),
    /// else chat_template.json.
    pub fn load(folder: &Path) -> Result<Self, TemplateError> {
        let config = side_files::object(folder, "tokenizer_config.json")?.unwrap_or_default();
        let source = match side_files::text(folder, "chat_template.jinja")? {
            Some(source) => Some(source),
            None => match in_config(&config, folder.join("tokenizer_config.json"))? {
                Some(source) => Some(source),
                None => match side_files::object(folder, "chat_template.json")? {
                    Some(legacy) => in_config(&legacy, folder.join("chat_template.json"))?,
                    None => None,
                },
            },
        };
        let Some(source) = source else {
            return Err(TemplateError::Missing { folder: folder.to_path_buf() });
        };
        let token = |key: &'static str| Some((key, token_string(&config, key)?));
        Self::new(&source, TOKENS.into_iter().filter_map(token).collect())
    }

    /// Compiles a template, with the special tokens it may name (`bos_token` …).
    pub fn new(
        source: &str,
        tokens: BTreeMap<&'static str, String>,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(syntax_error)?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(syntax_error)?;
        Ok(Self { environment, tokens })
    }

    /// Renders a conversation; with `add_generation_prompt` up to where the assistant speaks.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        #[derive(Serialize)]
        struct Context<'a> {
            messages: &'a [Message],
            add_generation_prompt: bool,
            tools: Option<()>,
            documents: Option<()>,
            #[serde(flatten)]
            tokens: &'a BTreeMap<&'static str, String>,
        }
        let context = JinjaValue::from(Serde(Context {
            messages,
            add_generation_prompt,
            tools: None,
            documents: None,
            tokens: &self.tokens,
        }));
        let refused = |reason: String| {
            let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
            TemplateError::Render { roles: roles.join(", "), reason }
        };
        let rendered = self.environment.get_template(NAME).and_then(|t| t.render(context));
        let rendered = rendered.map_err(|error| refused(describe(&error)))?;
        match rendered.len() > MAX_PROMPT {
            true => Err(refused(format!("it made {} bytes of it", rendered.len()))),
            false => Ok(rendered),
        }
    }

    /// The prompt of one question.
    pub fn question(&self, question: &str) -> Result<String, TemplateError> {
        self.render(&[Message::new("user", question)], true)
    }

    /// The tokens of a conversation, up to where the assistant speaks.
    pub fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
    ) -> Result<Vec<u32>, TemplateError> {
        let text = self.render(messages, true)?;
        Ok(tokenizer.encode(&text)?)
    }
}

/// The template under `chat_template`, a string or a list of named ones.
fn in_config(config: &Map<String, Value>, path: PathBuf) -> Result<Option<String>, TemplateError> {
    let named =
        |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(entries)) => {
            let default = entries.iter().find(|e| named(e, "name").as_deref() == Some("default"));
            if let Some(source) = default.and_then(|entry| named(entry, "template")) {
                return Ok(Some(source));
            }
            let names: Vec<String> = entries.iter().filter_map(|e| named(e, "name")).collect();
            Err(TemplateError::Form { path, found: format!("a list named {names:?}") })
        }
        Some(other) => {
            let found = other.to_string().chars().take(60).collect();
            Err(TemplateError::Form { path, found })
        }
    }
}

/// `{% generation %}` marks what the assistant said, for training masks, and renders to nothing.
/// It is not Jinja, so it is turned into a block that is, with the same white space control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // The `%` of `{%}` opens the tag and cannot close it too.
        let Some(length) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let (inside, after) = (&tag[2..2 + length], &tag[4 + length..]);
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", inside.replacen(word, "if true", 1))),
            "endgeneration" => {
                out.push_str(&format!("{{%{}%}}", inside.replacen(word, "endif", 1)))
            }
            _ => out.push_str(&tag[..4 + length]),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<JinjaValue, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(value, ensure_ascii=False)`: `, ` and `: ` between items, no HTML escapes.
fn tojson(value: &JinjaValue, arguments: Kwargs) -> Result<JinjaValue, JinjaError> {
    let failed = |error: serde_json::Error| {
        JinjaError::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(error)
    };
    // Accepted, and already so.
    let _: Option<bool> = arguments.get("ensure_ascii")?;
    let indent: Option<usize> = arguments.get("indent")?;
    arguments.assert_all_used()?;
    let mut out = Vec::new();
    if let Some(indent) = indent {
        let spaces = " ".repeat(indent.min(16));
        let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
        let mut to = serde_json::Serializer::with_formatter(&mut out, pretty);
        value.serialize(&mut to).map_err(failed)?;
    } else {
        let mut to = serde_json::Serializer::with_formatter(&mut out, Spaced);
        value.serialize(&mut to).map_err(failed)?;
    }
    Ok(JinjaValue::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's default separators.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

fn syntax_error(error: JinjaError) -> TemplateError {
    TemplateError::Syntax { reason: describe(&error) }
}

/// An error with its cause and the line it happened on.
fn describe(error: &JinjaError) -> String {
    let mut text = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
}
