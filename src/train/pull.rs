//! How a batch of answers pulls at v: the exact gradient, summed over micro-batches.
//!
//! The base's log-probabilities, which the divergence from it is measured against, depend on the
//! answers alone. They are computed once, however many updates the batch serves, and without a
//! gradient.

use super::{
    TrainError,
    batch::{MicroBatch, Sample},
    diagnostics::Ratios,
    explore::Group,
    gradient::{GradientGraph, LossSettings, UNASKED},
    partition::{distinct, micro_batches},
    recipe::{Objective, Recipe, Weighting},
    score::Example,
    student::Student,
};
use crate::policy::live::Live;

/// The gradient of one batch of answers.
pub struct BatchGradient {
    /// The loss.
    pub loss: f64,
    /// dL/dR of each module.
    pub by_mixing: Vec<Vec<f64>>,
    /// dL/dv.
    pub by_v: Vec<f64>,
    /// How likely the answers have become since they were sampled; empty for given ones.
    pub ratios: Ratios,
    /// What each given answer adds to the loss; empty for sampled ones.
    pub examples: Vec<Example>,
}

/// The answers of a batch that pull at v, in the micro-batches that go through the graph.
pub struct Pull<'a> {
    samples: Vec<Sample<'a>>,
    /// Of each micro-batch, indices into `samples`.
    parts: Vec<Vec<usize>>,
    /// The base's log-probabilities in each micro-batch, once they were needed.
    base: Option<Vec<Vec<f32>>>,
    settings: LossSettings,
    weighting: Weighting,
    pad: u32,
}

impl<'a> Pull<'a> {
    /// The answers of `groups` that pull; `None` if none does.
    ///
    /// # Errors
    /// If `student` has no gradient graph.
    pub fn of(
        groups: &'a [Group],
        student: &Student,
        recipe: &Recipe,
    ) -> Result<Option<Self>, TrainError> {
        let mut samples: Vec<Sample<'_>> =
            groups.iter().flat_map(|group| samples_of(group, recipe.kl != 0.0)).collect();
        if samples.iter().all(|s| s.completion.tokens.is_empty()) {
            return Ok(None);
        }
        // Answers without a gradient have their share too.
        let all = || groups.iter().flat_map(|group| &group.completions);
        let tokens: usize = all().map(|completion| completion.tokens.len()).sum();
        let (answers, most) = (all().count(), recipe.exploration.max_tokens);
        for sample in &mut samples {
            let length = sample.completion.tokens.len();
            sample.weight = recipe.weighting.of_token(length, answers, tokens, most);
        }
        let samples = distinct(&samples);
        let sampled = recipe.objective == Objective::Grpo;
        let settings = LossSettings {
            temperature: if sampled { recipe.exploration.temperature } else { 1.0 },
            clip: recipe.clip,
            clip_high: recipe.clip_high,
            likelihood: !sampled,
            kl: recipe.kl,
        };
        let layout = student.gradient.as_ref().ok_or(TrainError::NotTrainable)?.layout();
        let parts = micro_batches(&samples, recipe.micro_tokens, layout);
        let (weighting, pad) = (recipe.weighting, student.voice.pad());
        Ok(Some(Self { samples, parts, base: None, settings, weighting, pad }))
    }

    /// The base's log-probabilities in each micro-batch, once they were needed.
    pub fn base(&self) -> Option<&[Vec<f32>]> {
        self.base.as_deref()
    }

    /// The gradient at `v`.
    ///
    /// # Errors
    /// If the runtime fails, or the gradient is not finite.
    pub fn gradient(
        &mut self,
        student: &mut Student,
        live: &Live,
        v: &[f32],
    ) -> Result<BatchGradient, TrainError> {
        let graph = student.gradient.as_mut().ok_or(TrainError::NotTrainable)?;
        let mixing = live.mixing(v)?;
        let mut settings = self.settings;
        // At v = 0 the policy is the base: the divergence and its gradient are 0, to the last bit.
        if v.iter().all(|x| *x == 0.0) {
            settings.kl = 0.0;
        }
        if settings.kl != 0.0 && self.base.is_none() {
            self.base = Some(self.base_logprobs(graph, live, v.len())?);
        }
        let base = self.base().filter(|_| settings.kl != 0.0);
        let mut sum = BatchGradient {
            loss: 0.0,
            by_mixing: Vec::new(),
            by_v: Vec::new(),
            ratios: Ratios::default(),
            examples: Vec::new(),
        };
        for (at, part) in self.parts.iter().enumerate() {
            let batch = self.laid(part, graph);
            let unasked;
            let known = match base.and_then(|base| base.get(at)) {
                Some(known) => known,
                None => {
                    unasked = vec![UNASKED; batch.labels.len()];
                    &unasked
                }
            };
            let step = graph.run(&batch, &mixing, known, settings)?;
            sum.add(live.by_mixing(&step.by_mixing), step.loss);
            if settings.likelihood {
                sum.examples.extend(self.examples(part, &step.logprobs));
            } else {
                let beside = if base.is_some() { known } else { &step.logprobs };
                let (low, high) = (settings.clip, settings.clip_high);
                sum.ratios.add(&batch, &step.logprobs, beside, low, high);
            }
        }
        sum.by_v = live.pull_back(&sum.by_mixing);
        Ok(sum)
    }

    fn base_logprobs(
        &self,
        graph: &mut GradientGraph,
        live: &Live,
        parameters: usize,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        let base = live.mixing(&vec![0.0; parameters])?;
        let each = |part: &Vec<usize>| {
            let batch = self.laid(part, graph);
            graph.logprobs(&batch, &base, self.settings)
        };
        self.parts.iter().map(each).collect()
    }

    /// What the answers of a micro-batch add to the loss, given the log-probabilities of their tokens.
    fn examples(&self, part: &[usize], logprobs: &[f32]) -> Vec<Example> {
        let mut rest = logprobs.iter();
        let example = |index: &usize| {
            let Sample { weight, completion, .. } = self.samples[*index];
            let (weight, tokens) = (f64::from(weight), completion.tokens.len());
            let sum: f64 = rest.by_ref().take(tokens).map(|l| f64::from(*l)).sum();
            let share = match self.weighting {
                Weighting::Tokens | Weighting::Answers => weight * tokens as f64,
                // The loss is over a constant, whatever the answers' lengths.
                Weighting::Budget => 1.0 / self.samples.len() as f64,
            };
            Example { share, loss: -weight * sum }
        };
        part.iter().map(example).collect()
    }

    fn laid(&self, part: &[usize], graph: &GradientGraph) -> MicroBatch {
        let chosen: Vec<Sample<'_>> = part.iter().map(|i| self.samples[*i]).collect();
        MicroBatch::new(&chosen, self.pad, graph.layout())
    }
}

impl BatchGradient {
    fn add(&mut self, by_mixing: Vec<Vec<f64>>, loss: f64) {
        self.loss += loss;
        if self.by_mixing.is_empty() {
            self.by_mixing = by_mixing;
            return;
        }
        for (sum, more) in self.by_mixing.iter_mut().flatten().zip(by_mixing.iter().flatten()) {
            *sum += more;
        }
    }
}

/// The answers of a group that pull at v: all of them, or none where all are worth the same and
/// the divergence from the base does not count.
fn samples_of(group: &Group, diverging: bool) -> impl Iterator<Item = Sample<'_>> {
    let counts = group.advantages.is_some() || diverging;
    let completions = group.completions.iter().filter(move |_| counts).enumerate();
    completions.map(|(index, completion)| Sample {
        prompt: &group.prompt,
        completion,
        advantage: group.advantages.as_ref().map_or(0.0, |a| a[index]),
        weight: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        format::{Header, ModuleId, Role, RoleSet, Scalar, Split},
        model::{OnnxModel, find_targets},
        projection::{Geometry, select},
        runtime::SessionOptions,
        train::{
            batch::Layout,
            data::{Fields, read_problems},
            explore::Exploration,
            guard::Rules,
            plan::voice_of,
            schedule::{Decay, Schedule},
            student::{Lessons, freeze},
        },
    };

    fn recipe(kl: f32, updates: usize) -> Recipe {
        Recipe {
            objective: Objective::Grpo,
            steps: 1,
            problems: 3,
            exploration: Exploration {
                samples: 2,
                max_tokens: 64,
                temperature: 1.0,
                seed: 1,
                normalise: true,
                at_once: 8,
            },
            weighting: Weighting::Tokens,
            schedule: Schedule { peak: 0.03, warmup: 0, decay: Decay::Constant, steps: 1 },
            max_grad_norm: None,
            updates,
            clip: 0.2,
            clip_high: 0.2,
            kl,
            micro_tokens: 128,
            rules: Rules { drop: None, patience: None, target: None },
            sample_every: 0,
            scalar: Scalar::F32,
        }
    }

    /// The fixture with 13 numbers on `down`, and solutions to its problems in pairs.
    fn fixture() -> (Student, Live, Vec<Group>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let model = OnnxModel::load(&folder.join("wordmath")).unwrap();
        let targets = find_targets(&model).unwrap();
        let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
        let roles = RoleSet::from_roles([Role::Down]).unwrap();
        let header = Header { roles, ..Header::default() };
        let modules = select(&header, &known).unwrap();
        let frozen = freeze(&model, &targets, &modules, 2, 2, &mut |_| {}).unwrap();
        let live = Live::new(Geometry::from(&header), &modules).unwrap();
        let lessons = Lessons { layout: Layout::of(model.graph()).unwrap(), diverging: true };
        let (voice, options) = (voice_of(&model).unwrap(), SessionOptions::cpu(2));
        let student =
            Student::load(voice, &model, &targets, &frozen, Split::Paper, Some(lessons), options);
        let student = student.unwrap();
        let problems = read_problems(&folder.join("data/train.jsonl"), &Fields::default()).unwrap();
        let group = |pair: &[crate::train::data::Problem]| Group {
            prompt: student.voice.prompt(&pair[0].question).unwrap(),
            completions: pair.iter().map(|p| student.voice.answer(&p.solution).unwrap()).collect(),
            texts: Vec::new(),
            rewards: vec![1.0, 0.0],
            advantages: Some(vec![1.0, -1.0]),
        };
        let groups = problems.chunks(2).take(3).map(group).collect();
        (student, live, groups)
    }

    #[test]
    fn the_base_is_asked_once_for_all_updates_of_a_batch_and_not_where_v_is_zero() {
        let (mut student, live, groups) = fixture();
        let mut pull = Pull::of(&groups, &student, &recipe(0.5, 3)).unwrap().unwrap();
        assert!(pull.parts.len() > 1, "one micro-batch");
        let zero = vec![0.0; live.parameters()];
        let at_zero = pull.gradient(&mut student, &live, &zero).unwrap();
        assert_eq!(pull.base(), None);
        let mut without = Pull::of(&groups, &student, &recipe(0.0, 3)).unwrap().unwrap();
        let plain = without.gradient(&mut student, &live, &zero).unwrap();
        assert_eq!((at_zero.loss, &at_zero.by_v), (plain.loss, &plain.by_v));
        assert_eq!(at_zero.ratios.describe(0.0, 0.0, true).kl, Some(0.0));

        let kept = |pull: &Pull<'_>| pull.base().map(|b| b.iter().map(|p| p.as_ptr()).collect());
        let mut places: Vec<Option<Vec<*const f32>>> = Vec::new();
        for v in [0.25f32, -0.5] {
            let v = vec![v; live.parameters()];
            let found = pull.gradient(&mut student, &live, &v).unwrap();
            places.push(kept(&pull));
            // As with the base asked of the gradient graph.
            let base = live.mixing(&zero).unwrap();
            let mixing = live.mixing(&v).unwrap();
            let graph = student.gradient.as_mut().unwrap();
            let mut loss = 0.0;
            for part in &pull.parts {
                let batch = pull.laid(part, graph);
                let unasked = vec![UNASKED; batch.labels.len()];
                let plain = LossSettings { kl: 0.0, ..pull.settings };
                let known = graph.run(&batch, &base, &unasked, plain).unwrap().logprobs;
                loss += graph.run(&batch, &mixing, &known, pull.settings).unwrap().loss;
            }
            assert!((found.loss - loss).abs() < 1e-5, "{} {loss}", found.loss);
            assert!(found.ratios.describe(0.0, 0.0, true).kl.unwrap() > 1e-4);
        }
        assert!(places[0].is_some() && places[0] == places[1], "asked again");
    }

    #[test]
    fn what_given_answers_add_to_the_loss_is_the_loss_and_their_shares_are_one() {
        let (mut student, live, groups) = fixture();
        for weighting in [Weighting::Tokens, Weighting::Answers, Weighting::Budget] {
            let recipe = Recipe { objective: Objective::Sft, weighting, ..recipe(0.0, 1) };
            let given: Vec<Group> = groups
                .iter()
                .map(|g| Group { advantages: Some(vec![1.0; 2]), ..g.clone() })
                .collect();
            let mut pull = Pull::of(&given, &student, &recipe).unwrap().unwrap();
            let v = vec![0.125; live.parameters()];
            let found = pull.gradient(&mut student, &live, &v).unwrap();
            assert_eq!(found.examples.len(), 6);
            let loss: f64 = found.examples.iter().map(|e| e.loss).sum();
            let share: f64 = found.examples.iter().map(|e| e.share).sum();
            assert!((loss / found.loss - 1.0).abs() < 1e-5, "{loss} {}", found.loss);
            assert!((share - 1.0).abs() < 1e-6, "{share}");
        }
    }
}
