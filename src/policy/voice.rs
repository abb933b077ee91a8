//! From a question to the tokens of a prompt, and from an answer's tokens to text.

use std::path::Path;

use super::{
    PolicyError, rollout::Completion, template::ChatTemplate, tokenizer::Tokenizer,
    wording::Wording,
};

/// The text side of a model: its tokenizer and chat template, and the words questions are put in.
pub struct Voice {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    wording: Wording,
    /// Tokens the model tells apart: columns of its logits.
    pub vocabulary: usize,
    /// The most tokens of a conversation, if `config.json` says so.
    pub room: Option<usize>,
}

impl Voice {
    /// Reads tokenizer and template from a model's folder.
    ///
    /// # Errors
    /// If a file is missing or the tokenizer does not fit a vocabulary of `vocabulary` tokens.
    pub fn load(folder: &Path, vocabulary: Option<usize>) -> Result<Self, PolicyError> {
        let tokenizer = Tokenizer::load(folder)?;
        if let Some(size) = vocabulary {
            tokenizer.check_vocabulary(size)?;
        }
        let template = ChatTemplate::load(folder)?;
        let room = room(folder);
        let vocabulary = vocabulary.unwrap_or_else(|| tokenizer.ids());
        Ok(Self { template, tokenizer, wording: Wording::default(), vocabulary, room })
    }

    /// The same, putting questions in these words.
    pub fn worded(self, wording: Wording) -> Self {
        Self { wording, ..self }
    }

    /// The tokens of a conversation of one question, up to where the answer begins.
    ///
    /// # Errors
    /// If the template or the tokenizer refuses the question, or nothing is left of it.
    pub fn prompt(&self, question: &str) -> Result<Vec<u32>, PolicyError> {
        let tokens = self.template.tokens(&self.tokenizer, &self.wording.messages(question))?;
        if tokens.is_empty() { Err(PolicyError::NoTokens) } else { Ok(tokens) }
    }

    /// The text of an answer, without the token that ended it.
    ///
    /// # Errors
    /// If the tokenizer cannot decode it.
    pub fn text(&self, completion: &Completion) -> Result<String, PolicyError> {
        let end = completion.tokens.len() - usize::from(completion.stopped);
        Ok(self.tokenizer.decode(&completion.tokens[..end])?)
    }

    /// A given text as an answer that ends by itself.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn answer(&self, text: &str) -> Result<Completion, PolicyError> {
        let mut tokens = self.tokenizer.encode(text)?;
        tokens.extend(self.stop().first());
        let logprobs = vec![0.0; tokens.len()];
        Ok(Completion { tokens, logprobs, stopped: true, ..Completion::default() })
    }

    /// The tokens that end an answer.
    pub fn stop(&self) -> &[u32] {
        self.tokenizer.stop()
    }

    /// The token that fills short prompts.
    pub fn pad(&self) -> u32 {
        self.tokenizer.pad()
    }
}

/// `max_position_embeddings` of the model's `config.json`; nothing where there is no such number.
fn room(folder: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    config.get("max_position_embeddings")?.as_u64()?.try_into().ok()
}
