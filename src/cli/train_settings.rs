//! What the numbers of a run depend on, by name: a run resumes only with the same.
//!
//! Left out is what only says when to stop (`--steps`, `--patience`, `--target-reward`), what only
//! speaks (`--sample-every`), what does not change the result (`--threads`, `--rollout-batch`), and
//! what must give way when memory does not suffice (`--micro-tokens`, which moves the last bits).

use std::{fs::File, io, path::Path};

use sha2::{Digest, Sha256};

use super::{
    CliError,
    files::FileError,
    names::Names,
    output::hex,
    reward_options::{RewardArgs, Task},
    side_files,
};
use crate::{
    model::OnnxModel,
    train::{
        plan::{Seed, Site, Wish},
        recipe::{Recipe, Weighting},
        schedule::Decay,
        state::Settings,
    },
};

/// The options a run's numbers depend on.
pub fn of_options(wish: &Wish, recipe: &Recipe) -> Settings {
    let form = &wish.form;
    let (roles, first_layer, layers) = match wish.site {
        Site::Measured => ("auto".to_owned(), 0, 0),
        Site::Given { roles, first_layer, layers } => {
            let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
            (names.join(","), first_layer, layers)
        }
    };
    let seed = match wish.seed {
        Seed::Given(seed) => seed.to_string(),
        Seed::Search(n) => format!("search:{n}"),
    };
    let Recipe { exploration, schedule, rules, .. } = recipe;
    let mut named = vec![
        ("projection", form.projection.name().to_owned()),
        (
            "params (--width × --groups)",
            (u32::from(form.width) * u32::from(form.groups)).to_string(),
        ),
        ("groups", form.groups.to_string()),
        ("rank", form.rank.to_string()),
        ("tying", form.tying.name().to_owned()),
        ("split", form.split.name().to_owned()),
        ("scalar", form.scalar.name().to_owned()),
        ("scale", form.scale.to_string()),
        ("roles", roles),
        ("first-layer", first_layer.to_string()),
        ("layers", layers.to_string()),
        ("seed", seed),
        ("objective", recipe.objective.name().to_owned()),
        ("problems", recipe.problems.to_string()),
        ("samples", exploration.samples.to_string()),
        ("max-tokens", exploration.max_tokens.to_string()),
        ("temperature", exploration.temperature.to_string()),
        ("advantages", if exploration.normalise { "std" } else { "mean" }.to_owned()),
        (
            "normalise",
            match recipe.weighting {
                Weighting::Tokens => "tokens",
                Weighting::Answers => "answers",
                Weighting::Budget => "constant",
            }
            .to_owned(),
        ),
        ("learning-rate", schedule.peak.to_string()),
        ("warmup", schedule.warmup.to_string()),
        (
            "decay",
            match schedule.decay {
                Decay::Constant => "constant",
                Decay::Linear => "linear",
                Decay::Cosine => "cosine",
            }
            .to_owned(),
        ),
        ("max-grad-norm", recipe.max_grad_norm.unwrap_or(0.0).to_string()),
        ("updates", recipe.updates.to_string()),
        ("clip", recipe.clip.to_string()),
        ("clip-high", recipe.clip_high.to_string()),
        ("kl", recipe.kl.to_string()),
        ("run-seed", exploration.seed.to_string()),
        ("guard", rules.drop.unwrap_or(0.0).to_string()),
    ];
    if wish.is_measured() {
        named.push(("survey", wish.effort.batches.to_string()));
    }
    named.into_iter().map(|(name, value)| (format!("--{name}"), value)).collect()
}

/// What is asked, by the bytes it was read from, and how answers are judged.
pub fn of_task(options: &RewardArgs, task: &Task) -> Settings {
    let mut settings = Settings::new();
    settings.insert("--data".to_owned(), hex(&task.digest));
    settings.insert("--reward".to_owned(), task.reward.name());
    settings.insert("--prompt".to_owned(), task.wording.prompt().to_owned());
    let fields = options.fields();
    for (name, value) in [
        ("--system", task.wording.system()),
        ("--question-field", fields.question.as_deref()),
        ("--answer-field", fields.answer.as_deref()),
    ] {
        settings.insert(name.to_owned(), value.unwrap_or_default().to_owned());
    }
    settings
}

/// The model, with the files that make text of tokens.
///
/// # Errors
/// If one of the files cannot be read.
pub fn of_files(
    model: &OnnxModel,
    names: &Names,
    side_files: &[&str],
    base_digest: &[u8; 32],
) -> Result<Settings, CliError> {
    let mut settings = Settings::new();
    settings.insert("--module".to_owned(), names.named());
    settings.insert("the base digest of --model".to_owned(), hex(base_digest));
    let home = model.home();
    for path in side_files::of_model(model.files(), &home) {
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            settings.insert(format!("{} of --model", name.to_string_lossy()), digest(&path)?);
        }
    }
    for name in side_files {
        let path = home.join(name);
        if path.is_file() {
            settings.insert(format!("{name} of --model"), digest(&path)?);
        }
    }
    Ok(settings)
}

/// SHA-256 of a file, in hexadecimal.
fn digest(path: &Path) -> Result<String, CliError> {
    let failed = |error| FileError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Hash(Sha256::new());
    io::copy(&mut file, &mut hash).map_err(failed)?;
    Ok(hex(&hash.0.finalize()))
}

struct Hash(Sha256);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
