//! The words a question is put in before the chat template sees it.

use super::template::Message;

/// Where the question goes.
pub const PLACE: &str = "{question}";

/// The question and what the paper's runs on MATH ask for beside it: the prompt of Qwen2.5-Math's
/// authors for its evaluation.
pub const BOXED: &str =
    "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.";

/// Why words cannot be put around a question.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WordingError {
    /// The question has no place, or more than one.
    #[error(
        "the prompt '{given}' holds {{question}} {count} times. Use plain, boxed, or a text that \
         holds it once"
    )]
    Place {
        /// As given.
        given: String,
        /// How often.
        count: usize,
    },
    /// A system message of nothing.
    #[error("the system message is empty. Leave it out, or say something")]
    EmptySystem,
}

/// The words around a question, and what is said to the model before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    system: Option<String>,
    prompt: String,
}

impl Default for Wording {
    /// The question alone.
    fn default() -> Self {
        Self { system: None, prompt: PLACE.to_owned() }
    }
}

impl Wording {
    /// `plain` (the question alone), `boxed` ([`BOXED`]), or a text with one [`PLACE`]; and a system
    /// message, which templates of models without one refuse.
    ///
    /// # Errors
    /// If the question has not one place, or the system message is empty.
    pub fn new(prompt: &str, system: Option<&str>) -> Result<Self, WordingError> {
        let prompt = match prompt {
            "plain" => PLACE,
            "boxed" => BOXED,
            other => other,
        };
        let count = prompt.matches(PLACE).count();
        if count != 1 {
            return Err(WordingError::Place { given: prompt.to_owned(), count });
        }
        if system.is_some_and(|text| text.trim().is_empty()) {
            return Err(WordingError::EmptySystem);
        }
        Ok(Self { system: system.map(str::to_owned), prompt: prompt.to_owned() })
    }

    /// The conversation that asks a question.
    pub fn messages(&self, question: &str) -> Vec<Message> {
        let asked = Message::new("user", &self.prompt.replace(PLACE, question));
        self.system.iter().map(|text| Message::new("system", text)).chain([asked]).collect()
    }

    /// The text the question is put in, with [`PLACE`] in it.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_goes_where_its_place_is_and_is_not_looked_into() {
        let wording = Wording::new("Q: {question}\nA:", Some("Be brief.")).unwrap();
        let expected =
            [Message::new("system", "Be brief."), Message::new("user", "Q: {question}?\nA:")];
        assert_eq!(wording.messages("{question}?"), expected);
        assert_eq!(Wording::default().messages("3+4?"), [Message::new("user", "3+4?")]);
        assert_eq!(Wording::new("plain", None).unwrap(), Wording::default());
        assert!(Wording::new("boxed", None).unwrap().prompt().ends_with("within \\boxed{}."));
    }

    #[test]
    fn a_text_without_one_place_for_the_question_is_refused() {
        for (given, count) in [("answer!", 0), ("{question} {question}", 2), ("", 0)] {
            let given = given.to_owned();
            assert_eq!(Wording::new(&given, None), Err(WordingError::Place { given, count }));
        }
        assert_eq!(Wording::new("plain", Some(" ")), Err(WordingError::EmptySystem));
    }
}
