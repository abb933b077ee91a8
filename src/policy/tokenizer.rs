//! Text to tokens and back, and the tokens that end a completion.
//!
//! Wraps `tokenizer.json` of a model's folder. Truncation and padding stored in that file are
//! turned off: prompts are cut and padded by the rollouts, which know why.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use tokenizers::models::ModelWrapper;

use super::side_files::{self, SideFileError, token_string};

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is no `tokenizer.json`.
    #[error(
        "{} has no tokenizer.json. Copy it from the checkpoint the model was exported from",
        folder.display()
    )]
    Missing {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A side file cannot be used.
    #[error(transparent)]
    File(#[from] SideFileError),
    /// `tokenizer.json` is no tokenizer.
    #[error("{} is not a tokenizer: {reason}. Download the file again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A token id in a configuration is no token id.
    #[error(
        "\"{key}\" in {} is {found}. It must be a token id or a list of them", path.display()
    )]
    TokenId {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value.
        found: String,
    },
    /// A special token is not in the vocabulary.
    #[error(
        "\"{key}\" in {} is `{token}`, which tokenizer.json does not know. \
         The two files come from different models", path.display()
    )]
    UnknownToken {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The token.
        token: String,
    },
    /// No end-of-sequence token is named anywhere.
    #[error(
        "{} names no end-of-sequence token. Add \"eos_token_id\" to generation_config.json",
        folder.display()
    )]
    NoEndOfSequence {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The tokenizer makes ids the model has no embedding for.
    #[error(
        "the tokenizer has token {largest} and the model's vocabulary ends at {vocabulary}. \
         Use the tokenizer.json the model was exported with"
    )]
    Vocabulary {
        /// The largest id the tokenizer, or a special token, has.
        largest: u32,
        /// The model's vocabulary size.
        vocabulary: usize,
    },
    /// The text could not be encoded.
    #[error("a text of {bytes} bytes cannot be encoded: {reason}. Check tokenizer.json")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the tokenizer library said.
        reason: String,
    },
    /// The tokens could not be decoded.
    #[error("{tokens} tokens cannot be decoded: {reason}. Check tokenizer.json")]
    Decode {
        /// How many there were.
        tokens: usize,
        /// What the tokenizer library said.
        reason: String,
    },
}

/// A model's tokenizer and its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    largest: u32,
    stop: Vec<u32>,
    pad: u32,
}

impl Tokenizer {
    /// Loads the tokenizer of a model's folder.
    ///
    /// A completion ends at any of the ids named by `eos_token_id` in generation_config.json,
    /// config.json or genai_config.json, or by `eos_token` in tokenizer_config.json. Padding is
    /// `pad_token` of tokenizer_config.json, else the first `pad_token_id` of those files, else
    /// the smallest end-of-sequence token.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let bytes = side_files::bytes(folder, "tokenizer.json")?
            .ok_or_else(|| TokenizerError::Missing { folder: folder.to_path_buf() })?;
        let invalid = |reason: tokenizers::Error| TokenizerError::Invalid {
            path: folder.join("tokenizer.json"),
            reason: reason.to_string(),
        };
        let mut inner = contained(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(|r| invalid(r.into()))?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some_and(|share| share > 0.0)
        {
            return Err(invalid("its dropout makes tokens random, set \"dropout\" to null".into()));
        }
        let Some(largest) = inner.get_vocab(true).into_values().max() else {
            return Err(invalid("its vocabulary is empty".into()));
        };
        let special = SpecialTokens::read(folder, &inner)?;
        let mut stop = special.stop;
        stop.sort_unstable();
        stop.dedup();
        let Some(smallest) = stop.first() else {
            return Err(TokenizerError::NoEndOfSequence { folder: folder.to_path_buf() });
        };
        let pad = special.pad.unwrap_or(*smallest);
        let largest = stop.iter().fold(largest.max(pad), |largest, id| largest.max(*id));
        Ok(Self { inner, largest, stop, pad })
    }

    /// The tokens of a rendered chat template, which writes its special tokens out itself.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoded = contained(|| self.inner.encode_fast(text, false));
        let encoded =
            encoded.map_err(|reason| TokenizerError::Encode { bytes: text.len(), reason })?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The text of the tokens. Special ones are written out, for without them `2<|x|>7` would
    /// read `27`.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        contained(|| self.inner.decode(tokens, false))
            .map_err(|reason| TokenizerError::Decode { tokens: tokens.len(), reason })
    }

    /// The tokens that end a completion: sorted, without repeats, at least one.
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }

    /// The token that fills rows up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The ids up to its largest.
    pub fn ids(&self) -> usize {
        usize::try_from(self.largest).map_or(usize::MAX, |largest| largest.saturating_add(1))
    }

    /// Refuses a model whose vocabulary (rows of its embedding, columns of its logits) lacks one
    /// of the tokenizer's ids. A larger vocabulary is usual: it is padded.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), TokenizerError> {
        match usize::try_from(self.largest) {
            Ok(largest) if largest < vocabulary => Ok(()),
            _ => Err(TokenizerError::Vocabulary { largest: self.largest, vocabulary }),
        }
    }
}

/// The library panics on some files it accepts; they are errors like any other.
fn contained<T>(work: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it".to_owned()),
    }
}

#[derive(Default)]
struct SpecialTokens {
    stop: Vec<u32>,
    pad: Option<u32>,
}

impl SpecialTokens {
    fn read(folder: &Path, inner: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let mut found = Self::default();
        let name = "tokenizer_config.json";
        if let Some(config) = side_files::object(folder, name)? {
            let path = folder.join(name);
            found.stop.extend(token_id(&config, "eos_token", inner, &path)?);
            found.pad = token_id(&config, "pad_token", inner, &path)?;
        }
        for name in ["generation_config.json", "config.json", "genai_config.json"] {
            let Some(config) = side_files::object(folder, name)? else { continue };
            let path = folder.join(name);
            let nested = match name {
                "genai_config.json" => config.get("model").and_then(Value::as_object),
                _ => None,
            };
            let config = nested.unwrap_or(&config);
            found.stop.extend(ids(config, "eos_token_id", &path)?);
            let pad = ids(config, "pad_token_id", &path)?;
            found.pad = found.pad.or(pad.first().copied());
        }
        Ok(found)
    }
}

fn token_id(
    config: &Map<String, Value>,
    key: &'static str,
    inner: &tokenizers::Tokenizer,
    path: &Path,
) -> Result<Option<u32>, TokenizerError> {
    let Some(token) = token_string(config, key) else { return Ok(None) };
    match inner.token_to_id(&token) {
        Some(id) => Ok(Some(id)),
        None => Err(TokenizerError::UnknownToken { path: path.to_path_buf(), key, token }),
    }
}

/// The ids under a key: an integer, a list of integers, or null.
fn ids(
    config: &Map<String, Value>,
    key: &'static str,
    path: &Path,
) -> Result<Vec<u32>, TokenizerError> {
    let values = match config.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| TokenizerError::TokenId {
            path: path.to_path_buf(),
            key,
            found: value.to_string().chars().take(60).collect(),
        })
    };
    values.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/exports/optimum-fp32/qwen2-tied");

    /// The fixture's tokenizer with other configurations beside it.
    fn folder(configs: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str| folder.path().join(name);
        std::fs::copy(Path::new(FOLDER).join("tokenizer.json"), to("tokenizer.json")).unwrap();
        for (name, text) in configs {
            std::fs::write(to(name), text).unwrap();
        }
        folder
    }

    fn load(configs: &[(&str, &str)]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::load(folder(configs).path())
    }

    #[test]
    fn text_comes_back_and_special_tokens_are_one_token() {
        let tokenizer = Tokenizer::load(Path::new(FOLDER)).unwrap();
        let text = "What is 3 + 4·5?\nÄ 漢";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        assert_eq!(tokenizer.encode("<|im_start|><|im_end|>").unwrap(), [254, 255]);
        assert_eq!(tokenizer.decode(&[254, 255]).unwrap(), "<|im_start|><|im_end|>");
        assert_eq!(tokenizer.encode("").unwrap(), [0u32; 0]);
    }

    #[test]
    fn the_special_tokens_of_an_export_are_found() {
        let tokenizer = Tokenizer::load(Path::new(FOLDER)).unwrap();
        assert_eq!((tokenizer.stop(), tokenizer.pad()), (&[255][..], 253));
        assert_eq!(tokenizer.largest, 255);
    }

    #[test]
    fn end_of_sequence_is_the_union_of_what_the_files_name() {
        let list = r#"{"eos_token_id": [255, 253], "pad_token_id": 254}"#;
        let tokenizer = load(&[("generation_config.json", list)]).unwrap();
        assert_eq!((tokenizer.stop(), tokenizer.pad()), (&[253, 255][..], 254));

        let object = r#"{"eos_token": {"content": "<|im_end|>"}, "pad_token": null}"#;
        let both = [("tokenizer_config.json", object), ("config.json", r#"{"eos_token_id": 253}"#)];
        let tokenizer = load(&both).unwrap();
        assert_eq!((tokenizer.stop(), tokenizer.pad()), (&[253, 255][..], 253));

        let nested = r#"{"model": {"eos_token_id": 255, "pad_token_id": 253}}"#;
        let tokenizer = load(&[("genai_config.json", nested)]).unwrap();
        assert_eq!((tokenizer.stop(), tokenizer.pad()), (&[255][..], 253));
    }

    #[test]
    fn configurations_that_cannot_be_meant_are_refused() {
        assert!(matches!(load(&[]), Err(TokenizerError::NoEndOfSequence { .. })));
        for bad in
            [r#"{"eos_token_id": -1}"#, r#"{"eos_token_id": "x"}"#, r#"{"eos_token_id": [1.5]}"#]
        {
            let found = load(&[("config.json", bad)]);
            assert!(matches!(found, Err(TokenizerError::TokenId { key: "eos_token_id", .. })));
        }
        let found = load(&[("tokenizer_config.json", r#"{"eos_token": "</s>"}"#)]);
        assert!(
            matches!(found, Err(TokenizerError::UnknownToken { token, .. }) if token == "</s>")
        );
        let found = load(&[("tokenizer.json", "{}")]);
        assert!(matches!(found, Err(TokenizerError::Invalid { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Tokenizer::load(empty.path()), Err(TokenizerError::Missing { .. })));
    }

    #[test]
    fn a_model_whose_vocabulary_is_too_small_is_refused() {
        let tokenizer = Tokenizer::load(Path::new(FOLDER)).unwrap();
        tokenizer.check_vocabulary(256).unwrap();
        tokenizer.check_vocabulary(151_936).unwrap();
        let error = tokenizer.check_vocabulary(255).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the tokenizer has token 255 and the model's vocabulary ends at 255. \
             Use the tokenizer.json the model was exported with"
        );
        let config = [("config.json", r#"{"eos_token_id": 9999}"#)];
        assert!(load(&config).unwrap().check_vocabulary(256).is_err());
    }

    #[test]
    fn truncation_and_padding_stored_in_the_file_are_ignored() {
        let text = std::fs::read_to_string(Path::new(FOLDER).join("tokenizer.json")).unwrap();
        let cut = r#""truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}"#;
        let text = text.replacen(r#""truncation": null"#, cut, 1);
        assert!(text.contains("max_length"));
        let configs =
            [("tokenizer.json", text.as_str()), ("config.json", r#"{"eos_token_id": 255}"#)];
        assert_eq!(load(&configs).unwrap().encode("abcdef").unwrap().len(), 6);
    }
}
