//! What Ctrl-C and SIGTERM leave of a command that writes a model: nothing that was not there before.
#![cfg(all(unix, feature = "cli"))]

mod cli;

use cli::Place;
use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Everything in a folder and below it.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    // What is removed while it is listed is not there.
    let Ok(entries) = fs::read_dir(folder) else { return names };
    for path in entries.flatten().map(|entry| entry.path()) {
        names.extend(self::names(&path));
        names.push(path.display().to_string());
    }
    names.sort();
    names
}

fn signal(process: u32, signal: &str) {
    let done = Command::new("kill").args([signal, &process.to_string()]).status().unwrap();
    assert!(done.success());
}

#[test]
fn an_interrupted_command_leaves_nothing_and_can_be_run_again() {
    let place = Place::new();
    let root = place.path("");
    // So large that the signal comes while it is copied, and no disk holds its zeros twice.
    let large =
        || fs::File::options().write(true).open(place.path("model/tokenizer.json")).unwrap();
    let length = large().metadata().unwrap().len();
    for (kind, args) in [
        ("-TERM", "bake model a.tla -o out"),
        ("-INT", "bake model a.tla -o out --graft"),
        ("-TERM", "merge model a.tla -o out/"),
        ("-INT", "graft model a.tla -o out/"),
    ] {
        large().set_len(256 << 20).unwrap();
        let before = names(&root);
        let mut child = place.command(args.split_whitespace()).spawn().unwrap();
        let begun = Instant::now();
        let is_copied = |name: &String| {
            let temporary = name.rsplit('/').next().is_some_and(|n| n.starts_with(".tla-"));
            temporary && fs::metadata(name).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
        };
        while !names(&root).iter().any(is_copied) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{args} copies nothing");
            assert_eq!(child.try_wait().unwrap(), None, "{args} was over before the signal");
            sleep(Duration::from_millis(1));
        }
        assert!(!place.path("out/model.onnx").exists(), "{args}: a half-made output");
        if args.starts_with("bake") {
            assert!(!place.path("out").exists(), "{args}: a half-made folder");
        }
        signal(child.id(), kind);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args}");
        assert_eq!(names(&root), before, "{args}");

        large().set_len(length).unwrap();
        let done = place.run(args);
        assert_eq!(done.code, Some(0), "{args}, again: {}", done.stderr);
        fs::remove_dir_all(place.path("out")).unwrap();
    }
}
