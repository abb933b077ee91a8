//! Answers for people to read in the journal: some of a step's, and the same questions before and
//! after.

use super::{
    TrainError,
    data::Problem,
    explore::Group,
    journal::{Answers, Compared, SampledAnswer, Samples},
    reward::{Reward, score_group},
    student::Student,
};
use crate::{
    policy::rollout::{Decoding, RolloutPlan, rollout},
    runtime::Tensor,
    surgery::MIXING,
};

/// Groups of a step that are shown.
const GROUPS: usize = 3;
/// Problems that are answered before and after.
const COMPARED: usize = 8;
/// The longest text that is shown, in characters.
const SHOWN: usize = 2000;

/// The best and the worst answer of the first few groups.
pub fn samples(step: u64, problems: &[&Problem], groups: &[Group]) -> Samples {
    let mut shown = Vec::new();
    for (problem, group) in problems.iter().zip(groups).take(GROUPS) {
        let worth = |at: &usize| group.rewards[*at];
        let all = || 0..group.rewards.len();
        // Of equal ones the first.
        let best = all().rev().max_by(|a, b| worth(a).total_cmp(&worth(b)));
        let worst = all().min_by(|a, b| worth(a).total_cmp(&worth(b)));
        for at in best.into_iter().chain(worst.filter(|worst| Some(*worst) != best)) {
            shown.push(SampledAnswer {
                line: problem.line as u64,
                question: shortened(&problem.question),
                text: shortened(&group.texts[at]),
                reward: group.rewards[at],
                advantage: group.advantages.as_ref().map(|a| a[at]),
            });
        }
    }
    Samples { step, samples: shown }
}

/// The first problems of the dataset, answered greedily under each of two adapters.
///
/// # Errors
/// If the runtime fails, or the reward cannot judge an answer.
pub fn compared(
    student: &mut Student,
    problems: &[Problem],
    reward: &dyn Reward,
    max_tokens: usize,
    before: &Tensor,
    after: &Tensor,
) -> Result<Answers, TrainError> {
    let asked = &problems[..problems.len().min(COMPARED)];
    let before = greedy(student, asked, reward, max_tokens, before)?;
    let after = greedy(student, asked, reward, max_tokens, after)?;
    let pairs = asked.iter().zip(before.into_iter().zip(after));
    let answers = pairs.map(|(problem, (before, after))| Compared {
        line: problem.line as u64,
        question: shortened(&problem.question),
        before: shortened(&before.0),
        after: shortened(&after.0),
        reward_before: before.1,
        reward_after: after.1,
    });
    Ok(Answers { answers: answers.collect() })
}

fn greedy(
    student: &mut Student,
    problems: &[Problem],
    reward: &dyn Reward,
    max_tokens: usize,
    mixing: &Tensor,
) -> Result<Vec<(String, f64)>, TrainError> {
    let mut prompts = Vec::with_capacity(problems.len());
    for problem in problems {
        prompts.push(student.voice.prompt(&problem.question)?);
    }
    let plan = RolloutPlan {
        prompts: &prompts,
        samples: 1,
        max_tokens,
        stop: student.voice.stop(),
        pad: student.voice.pad(),
        decoding: Decoding::Greedy,
    };
    let completions = rollout(&mut student.graph, &[(MIXING, mixing)], &plan)?;
    let mut answers = Vec::with_capacity(problems.len());
    for (problem, completion) in problems.iter().zip(&completions) {
        let text = student.voice.text(completion)?;
        let worth = match completion.stopped {
            true => score_group(reward, problem, std::slice::from_ref(&text))?[0],
            false => 0.0,
        };
        answers.push((text, worth));
    }
    Ok(answers)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_worst_answer_are_shown_once() {
        let problem = Problem {
            question: "q".into(),
            answer: "2".into(),
            solution: "s".into(),
            fields: Default::default(),
            line: 7,
        };
        let group = |rewards: &[f64]| Group {
            prompt: vec![1],
            completions: Vec::new(),
            texts: (0..rewards.len()).map(|i| format!("answer {i}")).collect(),
            rewards: rewards.to_vec(),
            advantages: None,
        };
        let groups = [group(&[0.0, 1.0, 1.0, 0.0]), group(&[0.5, 0.5]), group(&[])];
        let found = samples(4, &[&problem, &problem, &problem], &groups);
        let texts: Vec<&str> = found.samples.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts, ["answer 1", "answer 0", "answer 0"]);
        assert_eq!((found.step, found.samples[0].line, found.samples[0].reward), (4, 7, 1.0));
    }

    #[test]
    fn long_texts_are_shortened_between_characters() {
        assert_eq!(shortened("é"), "é");
        let long = shortened(&"é".repeat(SHOWN + 1));
        assert_eq!(long.chars().count(), SHOWN + 1);
        assert!(long.ends_with('…'));
        assert_eq!(shortened(&"é".repeat(SHOWN)).chars().count(), SHOWN);
    }
}
