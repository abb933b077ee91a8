//! Answering every problem of a dataset, greedily by several policies at once, and by sampling.

use crate::{
    policy::{
        mixed::Mixed,
        rollout::{ByPrompt, Completion, Decoding, RolloutPlan, rollout, rollout_by_prompt},
        voice::Voice,
    },
    surgery::MIXING,
    train::{
        TrainError,
        data::Problem,
        reward::{Attempt, Reward, score_all},
        student::Student,
    },
};

/// The least reward of a right answer.
pub const RIGHT: f64 = 1.0;

/// What was answered to one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The answer's text.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it came to its end; one that was cut is worth nothing.
    pub ended: bool,
    /// What the reward gives it.
    pub reward: f64,
    /// Whether that is [`RIGHT`] or more.
    pub correct: bool,
    /// Whether it is right by a reading that forgives its form, where the reward has one.
    pub flexible: Option<bool>,
}

/// How many answers are written at once and how long they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Answers in a batch.
    pub rows: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
}

/// How answers are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Answers to each problem.
    pub samples: usize,
    /// Above 0.
    pub temperature: f32,
    /// Names the stream of random numbers.
    pub seed: u64,
}

/// The problems, and what judges their answers.
#[derive(Clone, Copy)]
pub struct Exam<'a> {
    /// The problems.
    pub problems: &'a [Problem],
    /// What judges.
    pub reward: &'a dyn Reward,
    /// How fast it goes.
    pub pace: Pace,
}

/// Answers every problem greedily by each of the policies in `mixed`, or by the model alone where it
/// is not grafted; the answers of each policy, in the order of the problems. Policies share batches,
/// and their answers do not depend on which others there are. `watch` hears how many are answered.
///
/// # Errors
/// If a prompt cannot be made, the runtime fails, or the reward cannot judge an answer.
pub fn answer_greedily(
    student: &mut Student,
    mixed: Option<&Mixed>,
    exam: Exam<'_>,
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Answered>>, TrainError> {
    let policies = mixed.map_or(1, Mixed::len);
    let mut answered = vec![Vec::with_capacity(exam.problems.len()); policies];
    // Every problem for every policy, the policies of one problem side by side.
    let pairs: Vec<(usize, &Problem)> =
        exam.problems.iter().flat_map(|p| (0..policies).map(move |k| (k, p))).collect();
    let mut done = 0;
    for chunk in pairs.chunks(exam.pace.rows.max(1)) {
        let prompts = prompts(student, chunk.iter().map(|(_, p)| *p))?;
        let plan = plan(&student.voice, &prompts, 1, exam.pace, Decoding::Greedy);
        let completions = match mixed {
            None => rollout(&mut student.graph, &[], &plan)?,
            Some(mixed) => {
                let rows = |picks: &[usize]| {
                    mixed.rows(&picks.iter().map(|at| chunk[*at].0).collect::<Vec<_>>())
                };
                let own = ByPrompt { name: MIXING, rows: &rows };
                rollout_by_prompt(&mut student.graph, own, &plan)?
            }
        };
        let problems: Vec<&Problem> = chunk.iter().map(|(_, p)| *p).collect();
        let judged = judge(student, &problems, &completions, exam.reward)?;
        for ((policy, _), answer) in chunk.iter().zip(judged) {
            answered[*policy].push(answer);
        }
        done += chunk.len();
        watch(done);
    }
    Ok(answered)
}

/// Samples answers to every problem by each of the policies in `mixed`, or by the model alone; of
/// each policy, those to each problem. Policies share batches, the same random numbers
/// serve all of them, and what is sampled does not depend on how many are written at once. `watch`
/// hears how many problems are done, each counted for every policy.
///
/// # Errors
/// As [`answer_greedily`].
pub fn sample(
    student: &mut Student,
    mixed: Option<&Mixed>,
    exam: Exam<'_>,
    sampling: Sampling,
    watch: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<Answered>>>, TrainError> {
    let (each, rows) = (sampling.samples.max(1), exam.pace.rows.max(1));
    let policies: Vec<usize> = (0..mixed.map_or(1, Mixed::len)).collect();
    let mut found = vec![vec![Vec::new(); exam.problems.len()]; policies.len()];
    // As many policies side by side as there is room for, and then as many problems.
    let beside = (rows / each).clamp(1, policies.len().max(1));
    let whole = (rows / (beside * each)).max(1);
    let mut done = 0;
    for (at, chunk) in exam.problems.chunks(whole).enumerate() {
        let (first, asked) = (at * whole, prompts(student, chunk.iter())?);
        for policies in policies.chunks(beside) {
            let prompts = vec![&asked[..]; policies.len()].concat();
            for from in (0..each).step_by(rows) {
                let samples = rows.min(each - from);
                let of_policy = chunk.len() * samples;
                let decoding = Decoding::Sampled {
                    temperature: sampling.temperature,
                    seed: sampling.seed,
                    step: 0,
                    first_row: (first * each + from) as u64,
                    streams: of_policy as u64,
                };
                let plan = plan(&student.voice, &prompts, samples, exam.pace, decoding);
                let own = |picks: &[usize]| -> Vec<usize> {
                    picks.iter().map(|at| policies[at / chunk.len()]).collect()
                };
                let completions = match mixed {
                    None => rollout(&mut student.graph, &[], &plan)?,
                    Some(mixed) => {
                        let rows = |picks: &[usize]| match policies {
                            [alone] => mixed.rows(&[*alone]),
                            _ => mixed.rows(&own(picks)),
                        };
                        let own = ByPrompt { name: MIXING, rows: &rows };
                        rollout_by_prompt(&mut student.graph, own, &plan)?
                    }
                };
                let problem = |row: usize| row % of_policy / samples;
                let problems: Vec<&Problem> =
                    (0..completions.len()).map(|row| &chunk[problem(row)]).collect();
                let judged = judge(student, &problems, &completions, exam.reward)?;
                for (row, answer) in judged.into_iter().enumerate() {
                    found[policies[row / of_policy]][first + problem(row)].push(answer);
                }
            }
            done += chunk.len() * policies.len();
            watch(done);
        }
    }
    Ok(found)
}

fn prompts<'a>(
    student: &Student,
    problems: impl Iterator<Item = &'a Problem>,
) -> Result<Vec<Vec<u32>>, TrainError> {
    problems.map(|p| Ok(student.voice.prompt(&p.question)?)).collect()
}

fn plan<'a>(
    voice: &'a Voice,
    prompts: &'a [Vec<u32>],
    samples: usize,
    pace: Pace,
    decoding: Decoding,
) -> RolloutPlan<'a> {
    RolloutPlan {
        prompts,
        samples,
        max_tokens: pace.max_tokens,
        stop: voice.stop(),
        pad: voice.pad(),
        decoding,
    }
}

/// What each answer is worth; those that were cut are not shown to the reward.
fn judge(
    student: &Student,
    problems: &[&Problem],
    completions: &[Completion],
    reward: &dyn Reward,
) -> Result<Vec<Answered>, TrainError> {
    let texts = completions.iter().map(|c| student.voice.text(c)).collect::<Result<Vec<_>, _>>()?;
    let attempt = |at: usize| Attempt { problem: problems[at], completion: &texts[at] };
    let ended: Vec<usize> = (0..texts.len()).filter(|at| completions[*at].stopped).collect();
    let scores = score_all(reward, &ended.iter().map(|at| attempt(*at)).collect::<Vec<_>>())?;
    let mut scores = scores.into_iter();
    let judged = |(at, completion): (usize, &Completion)| {
        let ended = completion.stopped;
        let reward_of = if ended { scores.next().unwrap_or(0.0) } else { 0.0 };
        Answered {
            text: texts[at].clone(),
            tokens: completion.tokens.len(),
            ended,
            reward: reward_of,
            correct: ended && reward_of >= RIGHT,
            flexible: reward.flexible(&attempt(at)).map(|right| right && ended),
        }
    };
    Ok(completions.iter().enumerate().map(judged).collect())
}
