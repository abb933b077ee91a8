//! Whether problems can be asked, and the model has room for them and their answers.

use super::{TrainError, data::Problem};
use crate::policy::voice::Voice;

/// How long the answers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Longest {
    /// At most so many tokens are written.
    Written(usize),
    /// As long as the dataset's solutions.
    Given,
}

/// Checks that every problem has a prompt that, with its longest answer, fits what the model can look
/// at, where its configuration says what that is. Behind it, positions are ones the model never saw.
///
/// # Errors
/// With the first problem that does not fit, or if it cannot be put in tokens.
pub fn check(voice: &Voice, problems: &[Problem], longest: Longest) -> Result<(), TrainError> {
    for problem in problems {
        let prompt = voice.prompt(&problem.question);
        let prompt =
            prompt.map_err(|source| TrainError::NoPrompt { line: problem.line, source })?.len();
        let Some(room) = voice.room else { continue };
        let answer = match longest {
            Longest::Written(most) => most,
            Longest::Given => voice.answer(&problem.solution)?.tokens.len(),
        };
        if prompt.saturating_add(answer) > room {
            return Err(TrainError::NoRoom { line: problem.line, prompt, answer, room });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problem(question: &str, solution: &str) -> Problem {
        let (question, solution) = (question.to_owned(), solution.to_owned());
        Problem { question, answer: "2".into(), solution, fields: Default::default(), line: 7 }
    }

    #[test]
    fn a_prompt_and_its_answer_fill_the_room_and_no_more() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wordmath");
        let voice = Voice::load(&folder, None).unwrap();
        assert_eq!(voice.room, Some(512));
        let short = problem("What is 1 plus 1?", "#### 2");
        let prompt = voice.prompt(&short.question).unwrap().len();
        let asked = [short];
        check(&voice, &asked, Longest::Written(512 - prompt)).unwrap();
        check(&voice, &asked, Longest::Given).unwrap();
        let error = check(&voice, &asked, Longest::Written(513 - prompt)).unwrap_err();
        assert!(matches!(error, TrainError::NoRoom { line: 7, room: 512, .. }), "{error}");
        let long = [problem("What is 1 plus 1?", &"1 + ".repeat(600))];
        assert!(matches!(
            check(&voice, &long, Longest::Given),
            Err(TrainError::NoRoom { line: 7, .. })
        ));
    }
}
