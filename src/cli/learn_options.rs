//! The options of `tla train` that say how it learns.

use clap::{Args, ValueEnum};

use super::CliError;
use crate::{
    format::Scalar,
    train::{
        explore::Exploration,
        guard::Rules,
        partition::usual_positions,
        recipe::{Objective, Recipe, Weighting},
        schedule::{Decay, Schedule},
    },
};

/// The most answers a step may have.
const MOST_ANSWERS: usize = 1 << 16;
/// The most tokens an answer may be allowed.
const MOST_TOKENS: usize = 1 << 20;

/// How it learns.
#[derive(Args)]
pub struct LearnArgs {
    /// Learn from sampled answers by their reward (grpo), or from the dataset's solutions (sft)
    #[arg(long, value_enum, default_value_t = ObjectiveArg::Grpo, help_heading = "Learning")]
    objective: ObjectiveArg,
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = 60, help_heading = "Learning")]
    steps: usize,
    /// Problems per step
    #[arg(long, value_name = "N", default_value_t = 24, help_heading = "Learning")]
    problems: usize,
    /// Answers sampled per problem [default: 8]
    #[arg(long, value_name = "N", help_heading = "Learning")]
    samples: Option<usize>,
    /// Longest answer, in tokens; a longer one is cut and worth 0, or the least of its step if that is less
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Learning")]
    max_tokens: usize,
    /// Sampling temperature [default: 1]
    #[arg(long, value_name = "T", help_heading = "Learning")]
    temperature: Option<f32>,
    /// Compare answers with their group's mean, in its standard deviations (std) or not (mean)
    #[arg(long, value_enum, default_value_t = AdvantagesArg::Std, help_heading = "Learning")]
    advantages: AdvantagesArg,
    /// What weighs the same in the loss: tokens (DAPO), answers (GRPO as published), or tokens over
    /// a constant (Dr. GRPO)
    #[arg(long, value_enum, default_value_t = NormaliseArg::Tokens, help_heading = "Learning")]
    normalise: NormaliseArg,
    /// Adam's step size at its peak
    #[arg(long, value_name = "RATE", default_value_t = 0.03, help_heading = "Learning")]
    learning_rate: f64,
    /// Steps over which the step size rises to its peak
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Learning")]
    warmup: u64,
    /// How the step size goes on from there to the last step
    #[arg(long, value_enum, default_value_t = DecayArg::Constant, help_heading = "Learning")]
    decay: DecayArg,
    /// Longest gradient an update is made with; 0 for no limit
    #[arg(long, value_name = "NORM", default_value_t = 0.0, help_heading = "Learning")]
    max_grad_norm: f64,
    /// Gradient steps per batch of answers
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Learning")]
    updates: usize,
    /// Clip probability ratios to 1 ± this [default: 0.2]
    #[arg(long, value_name = "EPS", help_heading = "Learning")]
    clip: Option<f32>,
    /// Clip them to 1 + this above [default: as --clip]
    #[arg(long, value_name = "EPS", help_heading = "Learning")]
    clip_high: Option<f32>,
    /// Weight of the divergence from the base
    #[arg(long, value_name = "BETA", default_value_t = 0.0, help_heading = "Learning")]
    kl: f32,
    /// Seed of the order of problems and of the samples
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Learning")]
    run_seed: u64,
    /// Most positions in one pass of the gradient graph; bounds memory [default: 8192, or as many as
    /// have 512 MiB of logits: 883 with a vocabulary of 151936]
    #[arg(long, value_name = "N", help_heading = "Memory")]
    micro_tokens: Option<usize>,
    /// Most answers sampled at once; bounds memory
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Memory")]
    rollout_batch: usize,
    /// Go back to the best v, at half the step size, when the average reward (sft: −loss) falls this
    /// far below its best and chance does not explain it; 0 for never
    #[arg(long, value_name = "DROP", default_value_t = 0.2, help_heading = "Guard")]
    guard: f64,
    /// Stop after so many steps without an average that is better beyond chance
    #[arg(long, value_name = "N", help_heading = "Guard")]
    patience: Option<u64>,
    /// Stop when the average reward has come to this
    #[arg(long, value_name = "REWARD", help_heading = "Guard", allow_negative_numbers = true)]
    target_reward: Option<f64>,
    /// Put some answers of every so many steps into the journal; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Run")]
    sample_every: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ObjectiveArg {
    Grpo,
    Sft,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AdvantagesArg {
    Std,
    Mean,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormaliseArg {
    Tokens,
    Answers,
    Constant,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DecayArg {
    Constant,
    Linear,
    Cosine,
}

impl LearnArgs {
    /// The recipe asked for, once all numbers are in range, for a model that tells so many tokens apart.
    pub fn recipe(&self, scalar: Scalar, vocabulary: usize) -> Recipe {
        let clip_high = self.clip_high.unwrap_or(self.clip());
        Recipe {
            objective: match self.objective {
                ObjectiveArg::Grpo => Objective::Grpo,
                ObjectiveArg::Sft => Objective::Sft,
            },
            steps: self.steps,
            problems: self.problems,
            exploration: Exploration {
                samples: self.samples(),
                max_tokens: self.max_tokens,
                temperature: self.temperature(),
                seed: self.run_seed,
                normalise: self.advantages == AdvantagesArg::Std,
                at_once: self.rollout_batch,
            },
            weighting: match self.normalise {
                NormaliseArg::Tokens => Weighting::Tokens,
                NormaliseArg::Answers => Weighting::Answers,
                NormaliseArg::Constant => Weighting::Budget,
            },
            schedule: Schedule {
                peak: self.learning_rate,
                warmup: self.warmup,
                decay: match self.decay {
                    DecayArg::Constant => Decay::Constant,
                    DecayArg::Linear => Decay::Linear,
                    DecayArg::Cosine => Decay::Cosine,
                },
                steps: self.steps as u64,
            },
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
            updates: self.updates,
            clip: self.clip(),
            clip_high,
            kl: self.kl,
            micro_tokens: self.micro_tokens.unwrap_or_else(|| usual_positions(vocabulary)),
            rules: Rules {
                drop: (self.guard > 0.0).then_some(self.guard),
                patience: self.patience,
                target: self.target_reward,
            },
            sample_every: self.sample_every,
            scalar,
        }
    }

    fn samples(&self) -> usize {
        self.samples.unwrap_or(8)
    }

    fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(1.0)
    }

    fn clip(&self) -> f32 {
        self.clip.unwrap_or(0.2)
    }

    /// What can be done but hardly be meant.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let clip = self.clip();
        if clip >= 1.0 {
            doubts.push(format!(
                "--clip is {clip}, and no ratio falls to 1 - {clip}, so none is clipped below. Give less \
                 than 1"
            ));
        }
        let (warmup, steps) = (self.warmup, self.steps);
        if warmup > 0 && warmup >= steps as u64 {
            doubts.push(format!(
                "--warmup is {warmup} and --steps is {steps}, so the step size is still rising at the end. \
                 Give fewer steps of warmup"
            ));
        }
        doubts
    }

    /// Refuses numbers out of range.
    pub fn check(&self) -> Result<(), CliError> {
        let wrong = |text: String| Err(CliError::Usage(text));
        for (name, value) in [
            ("steps", self.steps as f64),
            ("problems", self.problems as f64),
            ("max-tokens", self.max_tokens as f64),
            ("temperature", f64::from(self.temperature())),
            ("learning-rate", self.learning_rate),
            ("updates", self.updates as f64),
            ("clip", f64::from(self.clip())),
            ("clip-high", f64::from(self.clip_high.unwrap_or(self.clip()))),
            ("micro-tokens", self.micro_tokens.unwrap_or(1) as f64),
            ("rollout-batch", self.rollout_batch as f64),
            ("patience", self.patience.unwrap_or(1) as f64),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(format!("--{name} is {value}. Give a number above 0"));
            }
        }
        for (name, value) in [
            ("kl", f64::from(self.kl)),
            ("max-grad-norm", self.max_grad_norm),
            ("guard", self.guard),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(format!("--{name} is {value}. Give 0 or more"));
            }
        }
        if let Some(target) = self.target_reward.filter(|target| !target.is_finite()) {
            return wrong(format!("--target-reward is {target}. Give a finite number"));
        }
        let sft = self.objective == ObjectiveArg::Sft;
        if sft && self.target_reward.is_some() {
            return wrong(
                "--objective sft has no reward that could come to --target-reward. Leave it out, \
                 or use --patience"
                    .to_owned(),
            );
        }
        if sft && self.kl != 0.0 {
            return wrong(
                "--kl is the divergence of sampled answers, and --objective sft samples none. Leave it \
                 out"
                    .to_owned(),
            );
        }
        for (name, given) in [
            ("samples", self.samples.is_some()),
            ("temperature", self.temperature.is_some()),
            ("clip", self.clip.is_some()),
            ("clip-high", self.clip_high.is_some()),
        ] {
            if sft && given {
                return wrong(format!(
                    "--{name} is for sampled answers, and --objective sft samples none. Leave it out"
                ));
            }
        }
        if self.samples() < 2 && !sft {
            return wrong(
                "--samples is below 2, and answers are compared within their group. Give 2 or more"
                    .to_owned(),
            );
        }
        let answers = self.problems.saturating_mul(if sft { 1 } else { self.samples() });
        for (what, value, most) in [
            ("--problems times --samples", answers, MOST_ANSWERS),
            ("--max-tokens", self.max_tokens, MOST_TOKENS),
        ] {
            if value > most {
                return wrong(format!("{what} is {value}. Give at most {most}"));
            }
        }
        Ok(())
    }
}
