#![allow(dead_code, reason = "each test program uses a part of it")]
//! A folder with two models and the values of an adapter, and `tla` run in it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// `model/` is qwen2-tied, `other/` llama-untied, `v.json` 13 values, and `a.tla` these, bound
/// to `model`. `keys/` holds what minisign wrote: two key pairs, and signatures of `a.tla`.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, fixture) in [("model", "qwen2-tied"), ("other", "llama-untied")] {
            let to = folder.path().join(name);
            fs::create_dir(&to).unwrap();
            for entry in
                fs::read_dir(root.join("fixtures/exports/optimum-fp32").join(fixture)).unwrap()
            {
                let from = entry.unwrap();
                fs::copy(from.path(), to.join(from.file_name())).unwrap();
            }
        }
        for (from, to) in [("v.json", "v.json"), ("qwen2-tied.tla", "a.tla")] {
            fs::copy(root.join("tests/cli").join(from), folder.path().join(to)).unwrap();
        }
        let keys = folder.path().join("keys");
        fs::create_dir(&keys).unwrap();
        for entry in fs::read_dir(root.join("tests/cli/minisign")).unwrap() {
            let from = entry.unwrap();
            fs::copy(from.path(), keys.join(from.file_name())).unwrap();
        }
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// `tla` with these arguments, told that there is no ONNX Runtime.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tla"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_clear().env("ORT_DYLIB_PATH", "/there/is/none.so");
        command
    }

    /// Runs `tla` with arguments separated by spaces.
    pub fn run(&self, args: &str) -> Done {
        self.command(args.split_whitespace()).output().unwrap().into()
    }

    /// The command could not say: its words are in the error, and the folder is as it was.
    #[track_caller]
    pub fn refused(&self, args: &str, words: &[&str]) {
        let before = self.contents();
        let done = self.run(args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args}: {}", done.stderr);
        let error = done.stderr.lines().last().unwrap_or_default();
        assert!(error.starts_with("tla: ") && error.ends_with('.'), "{args}: {error}");
        assert!(error.contains(". "), "{args}: no remedy in {error}");
        for word in words {
            assert!(error.contains(word), "{args}: no {word:?} in {error}");
        }
        assert!(self.contents() == before, "{args} changed the folder");
    }

    /// Every file and folder, sorted, with the contents of files.
    pub fn contents(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let bytes = path.is_file().then(|| fs::read(&path).unwrap());
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.push((path, bytes));
            }
        }
        found.sort();
        found
    }
}

/// What a run left.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Done {
    /// The one line of JSON of a run that could say.
    #[track_caller]
    pub fn json(&self, code: i32) -> serde_json::Value {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}
