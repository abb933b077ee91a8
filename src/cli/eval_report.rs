//! What `tla eval` tells: each policy's accuracy, answers that differ, and every answer.

use std::{fmt, path::Path};

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::{Map, Value, json};

use crate::{
    eval::{answers::Answered, report::EvalReport},
    train::data::Problem,
};

/// The most characters that are shown of a text.
const SHOWN: usize = 600;

/// The base and the adapters that were compared with it.
///
/// As JSON it is the report of the model, or of the one adapter, with `base`, `adapters` (each with
/// its file as `adapter`), `asked` and `examples` beside its keys; with several adapters only `n` is
/// beside.
pub struct Comparison {
    asked: Asked,
    base: EvalReport,
    adapters: Vec<Adapted>,
    examples: Vec<Example>,
}

/// What was asked of whom.
#[derive(Serialize)]
pub struct Asked {
    /// SHA-256 of the dataset's file.
    pub data: String,
    /// What judged, by the name it was chosen by.
    pub reward: String,
    /// The text questions were put in.
    pub prompt: String,
    /// The system message, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The longest answer, in tokens.
    pub max_tokens: usize,
    /// The base digest, where an adapter is bound to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_digest: Option<String>,
}

/// What one policy answered.
#[derive(Clone, Copy)]
pub struct Answers<'a> {
    /// Greedily.
    pub greedy: &'a [Answered],
    /// By sampling, problem by problem; empty where nothing was sampled.
    pub sampled: &'a [Vec<Answered>],
}

/// One adapter's report.
#[derive(Serialize)]
struct Adapted {
    adapter: String,
    #[serde(flatten)]
    report: EvalReport,
}

/// A problem of which either base or adapter is right.
#[derive(Serialize)]
struct Example {
    adapter: String,
    line: usize,
    question: String,
    answer: String,
    base: String,
    base_correct: bool,
    text: String,
    correct: bool,
}

impl Comparison {
    /// Of the base with no adapter yet.
    pub fn new(asked: Asked, base: EvalReport) -> Self {
        Self { asked, base, adapters: Vec::new(), examples: Vec::new() }
    }

    /// Adds an adapter.
    pub fn push(&mut self, adapter: &Path, report: EvalReport) {
        self.adapters.push(Adapted { adapter: adapter.display().to_string(), report });
    }

    /// Adds up to `most` examples of an adapter, gains and losses by turns as long as there are both.
    pub fn show(
        &mut self,
        adapter: &Path,
        (problems, keys): (&[Problem], &[String]),
        (base, now): (&[Answered], &[Answered]),
        most: usize,
    ) {
        let changed = |correct: bool| {
            let pairs = base.iter().zip(now).enumerate();
            pairs.filter_map(move |(at, (b, n))| {
                (n.correct == correct && b.correct != correct).then_some(at)
            })
        };
        let (mut gains, mut losses) = (changed(true), changed(false));
        let by_turns = std::iter::from_fn(|| {
            let pair: Vec<usize> = gains.next().into_iter().chain(losses.next()).collect();
            (!pair.is_empty()).then_some(pair)
        });
        for at in by_turns.flatten().take(most) {
            self.examples.push(Example {
                adapter: adapter.display().to_string(),
                line: problems[at].line,
                question: shortened(&problems[at].question),
                answer: shortened(&keys[at]),
                base: shortened(&base[at].text),
                base_correct: base[at].correct,
                text: shortened(&now[at].text),
                correct: now[at].correct,
            });
        }
    }
}

impl Serialize for Comparison {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |part: &dyn Fn() -> serde_json::Result<Value>| part().map_err(S::Error::custom);
        let mut keys = match &self.adapters[..] {
            [] => value(&|| serde_json::to_value(&self.base))?,
            [only] => value(&|| serde_json::to_value(&only.report))?,
            _ => json!({"n": self.base.n}),
        };
        let mut add = |key: &str, part: Value| {
            keys.as_object_mut().map(|keys: &mut Map<_, _>| keys.insert(key.to_owned(), part));
        };
        add("asked", value(&|| serde_json::to_value(&self.asked))?);
        if !self.adapters.is_empty() {
            add("base", value(&|| serde_json::to_value(&self.base))?);
            add("adapters", value(&|| serde_json::to_value(&self.adapters))?);
        }
        if !self.examples.is_empty() {
            add("examples", value(&|| serde_json::to_value(&self.examples))?);
        }
        keys.serialize(serializer)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.adapters[..] {
            tell(f, "", &only.report)?;
            compare(f, "base: ", &self.base, &only.report)?;
            tell_more(f, "base: ", &self.base)?;
        } else {
            tell(f, if self.adapters.is_empty() { "" } else { "base: " }, &self.base)?;
            for Adapted { adapter, report } in &self.adapters {
                tell(f, &format!("{adapter}: "), report)?;
                compare(f, &format!("{adapter} beside the base: "), &self.base, report)?;
            }
        }
        for example in &self.examples {
            let told = |correct| if correct { "right" } else { "wrong" };
            writeln!(f, "\nline {}, {}: {}", example.line, example.adapter, example.question)?;
            writeln!(f, "right answer: {}", example.answer)?;
            writeln!(f, "base ({}): {}", told(example.base_correct), example.base)?;
            writeln!(f, "adapter ({}): {}", told(example.correct), example.text)?;
        }
        Ok(())
    }
}

fn tell(f: &mut fmt::Formatter<'_>, who: &str, report: &EvalReport) -> fmt::Result {
    let [low, high] = report.interval.map(|x| 100.0 * x);
    let accuracy = 100.0 * report.accuracy;
    write!(f, "{who}{} of {} right: {accuracy:.1} %", report.correct, report.n)?;
    writeln!(f, " (95 % interval {low:.1} to {high:.1})")?;
    tell_more(f, who, report)
}

/// What else there is to say: answers cut, the flexible reading, pass@k.
fn tell_more(f: &mut fmt::Formatter<'_>, who: &str, report: &EvalReport) -> fmt::Result {
    if let Some(cut) = report.cut.filter(|cut| *cut > 0) {
        writeln!(f, "{who}{cut} answers were cut at the longest length and count as wrong")?;
    }
    // A reward of 0 and 1 says no more than the accuracy.
    if let Some(mean) = report.reward_mean.filter(|mean| (mean - report.accuracy).abs() > 1e-9) {
        writeln!(f, "{who}mean reward {mean:.3}")?;
    }
    if let Some(share) = &report.flexible {
        let accuracy = 100.0 * share.accuracy;
        writeln!(
            f,
            "{who}whatever the form of the answer: {} right, {accuracy:.1} %",
            share.correct
        )?;
    }
    for pass in &report.pass_at {
        let (value, error) = (100.0 * pass.value, 100.0 * pass.error);
        writeln!(f, "{who}pass@{}: {value:.1} % ± {error:.1} (standard error)", pass.k)?;
    }
    Ok(())
}

fn compare(
    f: &mut fmt::Formatter<'_>,
    who: &str,
    base: &EvalReport,
    report: &EvalReport,
) -> fmt::Result {
    let Some(paired) = &report.paired else { return Ok(()) };
    let [gained, lost] = [paired.gained, paired.lost];
    write!(f, "{who}{} of {} right; {gained} gained, {lost} lost, ", base.correct, base.n)?;
    writeln!(f, "p = {:.2e} (exact McNemar)", paired.p)
}

/// Every answer, a JSON object a line: the base's, or with one adapter that adapter's with the base's
/// as `base_text` and `base_correct`, or with several those of each under `adapters`. What was sampled
/// is under `samples`, the base's beside one adapter under `base_samples`.
pub fn lines(
    problems: &[Problem],
    keys: &[String],
    base: Answers<'_>,
    adapters: &[(&Path, Answers<'_>)],
) -> String {
    let mut text = String::new();
    for (at, (problem, key)) in problems.iter().zip(keys).enumerate() {
        let mut line = json!({
            "line": problem.line,
            "question": problem.question,
            "answer": key,
        });
        let Some(keys) = line.as_object_mut() else { continue };
        match adapters {
            [] => keys.extend(base.at(at)),
            [(_, only)] => {
                keys.extend(only.at(at));
                keys.insert("base_text".to_owned(), json!(base.greedy[at].text));
                keys.insert("base_correct".to_owned(), json!(base.greedy[at].correct));
                keys.extend(base.samples(at).map(|found| ("base_samples".to_owned(), found)));
            }
            several => {
                let own = |(path, answers): &(&Path, Answers<'_>)| {
                    let mut keys = answers.at(at);
                    keys.insert("adapter".to_owned(), json!(path.display().to_string()));
                    Value::Object(keys)
                };
                keys.insert("base".to_owned(), Value::Object(base.at(at)));
                keys.insert("adapters".to_owned(), several.iter().map(own).collect());
            }
        }
        text += &format!("{line}\n");
    }
    text
}

impl Answers<'_> {
    /// The greedy answer to problem `at`, with what was sampled.
    fn at(&self, at: usize) -> Map<String, Value> {
        let mut keys = answer(&self.greedy[at]);
        keys.extend(self.samples(at).map(|found| ("samples".to_owned(), found)));
        keys
    }

    fn samples(&self, at: usize) -> Option<Value> {
        let numbered = |(sample, answered): (usize, &Answered)| {
            let mut keys = answer(answered);
            keys.insert("sample".to_owned(), json!(sample));
            Value::Object(keys)
        };
        Some(self.sampled.get(at)?.iter().enumerate().map(numbered).collect())
    }
}

fn answer(answered: &Answered) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("text".to_owned(), json!(answered.text));
    keys.insert("tokens".to_owned(), json!(answered.tokens));
    keys.insert("correct".to_owned(), json!(answered.correct));
    keys.insert("reward".to_owned(), json!(answered.reward));
    if let Some(flexible) = answered.flexible {
        keys.insert("flexible".to_owned(), json!(flexible));
    }
    keys
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
