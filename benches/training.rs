//! What a step of training costs on the fixture model, with 13 numbers on gate and down: sampling
//! and scoring answers, and the gradient of the ones that say something.

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use tla::{
    format::{Header, ModuleId, Role, RoleSet, Scalar, Split},
    model::{OnnxModel, find_targets},
    policy::live::Live,
    projection::{Geometry, select},
    runtime::SessionOptions,
    train::{
        batch::Layout,
        data::{Fields, Problem, read_problems},
        explore::{Exploration, batch},
        guard::Rules,
        plan::voice_of,
        pull::Pull,
        recipe::{Objective, Recipe, Weighting},
        reward::ExactMatch,
        schedule::{Decay, Schedule},
        student::{Lessons, Student, freeze},
    },
};

const RECIPE: Recipe = Recipe {
    objective: Objective::Grpo,
    steps: 1,
    problems: 24,
    exploration: Exploration {
        samples: 8,
        max_tokens: 64,
        temperature: 1.0,
        seed: 1,
        normalise: true,
        at_once: 256,
    },
    weighting: Weighting::Tokens,
    schedule: Schedule { peak: 0.03, warmup: 0, decay: Decay::Constant, steps: 1 },
    max_grad_norm: None,
    updates: 1,
    clip: 0.2,
    clip_high: 0.2,
    kl: 0.0,
    micro_tokens: 8192,
    rules: Rules { drop: None, patience: None, target: None },
    sample_every: 0,
    scalar: Scalar::Bf16,
};

fn benches(c: &mut Criterion) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let model = OnnxModel::load(&fixtures.join("wordmath")).unwrap();
    let targets = find_targets(&model).unwrap();
    let known: Vec<ModuleId> = targets.targets.iter().map(|t| t.module).collect();
    let roles = RoleSet::from_roles([Role::Gate, Role::Down]).unwrap();
    let header = Header { roles, ..Header::default() };
    let modules = select(&header, &known).unwrap();
    let frozen = freeze(&model, &targets, &modules, 2, 2, &mut |_| {}).unwrap();
    let live = Live::new(Geometry::from(&header), &modules).unwrap();
    let voice = voice_of(&model).unwrap();
    let options = SessionOptions::cpu(2);
    let lessons = Lessons { layout: Layout::of(model.graph()).unwrap(), diverging: false };
    let mut student =
        Student::load(voice, &model, &targets, &frozen, Split::Paper, Some(lessons), options)
            .unwrap();
    let problems = read_problems(&fixtures.join("data/train.jsonl"), &Fields::default()).unwrap();
    let chosen: Vec<&Problem> = problems.iter().take(RECIPE.problems).collect();
    let v = [0.0; 13];
    let mixing = live.mixing(&v).unwrap();
    let sample = |student: &mut Student| {
        batch(student, &chosen, &mixing, &ExactMatch, &RECIPE, 1).unwrap().groups
    };
    let groups = sample(&mut student);

    let mut group = c.benchmark_group("24 problems, 8 answers each");
    group.sample_size(10);
    group.bench_function("rollout step", |b| b.iter(|| sample(&mut student)));
    group.bench_function("gradient step", |b| {
        b.iter(|| {
            let mut pull = Pull::of(&groups, &student, &RECIPE).unwrap().unwrap();
            pull.gradient(&mut student, &live, &v).unwrap()
        });
    });
    group.finish();
}

criterion_group!(training, benches);
criterion_main!(training);
