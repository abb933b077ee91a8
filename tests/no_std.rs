//! A program without `std`, libc and heap reads an adapter and computes the same bits.
//!
//! `--nocapture` prints what it takes of flash and of stack.
#![cfg(all(feature = "std", target_os = "linux", target_arch = "x86_64"))]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};
use tla::{
    format::{Adapter, ModuleId, Role},
    projection::{Geometry, mixing},
};

/// A Cortex-M4 and the QEMU machine that has one.
const CORTEX_M4: &str = "thumbv7em-none-eabi";
const EMULATOR: [&str; 3] = ["qemu-system-arm", "-machine", "mps2-an386"];
const COMPACT_SHA2: &str = "--cfg sha2_backend=\"soft\" --cfg sha2_backend_soft=\"compact\"";
/// What README.md promises on every machine.
const STACK: u64 = 2048;
const FLASH: u64 = 18 << 10;
const FLASH_COMPACT: u64 = 11 << 10;

/// A program that is still open for writing while another test forks could not be run.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file() -> Vec<u8> {
    fs::read(root().join("tests/cli/qwen2-tied.tla")).unwrap()
}

/// Builds `tests/no-std` for the host or another target.
fn build(target: Option<&str>, flags: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-std");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--manifest-path"]);
    cargo.arg(root().join("tests/no-std/Cargo.toml")).arg("--target-dir").arg(&folder);
    target.iter().for_each(|target| {
        cargo.args(["--target", target]);
    });
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let done = cargo.env("RUSTFLAGS", flags).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder.join(target.unwrap_or_default()).join("release/no-std")
}

/// Checks what the program said, and returns the stack it used.
#[track_caller]
fn check(output: &Output) -> u64 {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<u64> = output
        .stdout
        .chunks(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("whole words")))
        .collect();
    let file = file();
    let adapter = Adapter::decode(&file).unwrap();
    let v: Vec<f64> = adapter.values().map(f64::from).collect();
    let sum: f32 = adapter.values().sum();
    let r = mixing(&Geometry::from(adapter.header()), ModuleId::new(1, Role::Down), &v);
    assert!(sum != 0.0 && r.iter().all(|entry| *entry != 0.0));
    let expected = [f64::from(sum), r[0], r[1], r[2], r[3], r[2]].map(f64::to_bits);
    let [numbers @ .., used, room] = &words[..] else { panic!("{} words", words.len()) };
    assert_eq!(numbers, expected);
    assert!(0 < *used && used < room, "{used} of {room} bytes of stack");
    assert!(*used <= STACK, "{used} bytes of stack");
    *used
}

/// Bytes that lie in flash: code, constants and the adapter itself.
fn flash(program: &Path) -> Option<u64> {
    let output = Command::new("size").arg("-A").arg(program).output().ok()?;
    let listing = String::from_utf8(output.stdout).unwrap();
    let size = |line: &str| {
        let mut words = line.split_whitespace();
        let kept = [".vectors", ".text", ".rodata", ".data"].contains(&words.next()?);
        words.next().filter(|_| kept)?.parse::<u64>().ok()
    };
    Some(listing.lines().filter_map(size).sum())
}

fn tell(what: &str, program: &Path, stack: u64, most: u64) {
    let Some(flash) = flash(program) else {
        eprintln!("{what}: {stack} bytes of stack; binutils' size is not installed");
        return;
    };
    eprintln!("{what}: {flash} bytes of flash, {stack} bytes of stack");
    assert!(flash <= most, "{what}: {flash} bytes of flash");
}

#[test]
fn without_std_libc_and_heap_the_bits_are_the_same_and_a_flipped_one_is_refused() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let program = build(None, "");
    tell("x86_64", &program, check(&Command::new(&program).output().unwrap()), 24 << 10);

    let (intact, adapter) = (fs::read(&program).unwrap(), file());
    let places: Vec<_> =
        (0..intact.len()).filter(|&at| intact[at..].starts_with(&adapter)).collect();
    let [at] = places[..] else { panic!("the adapter lies at {places:?}") };
    let damaged = program.with_file_name("no-std-damaged");
    for bit in (0..8 * adapter.len()).step_by(61) {
        let mut bytes = intact.clone();
        bytes[at + bit / 8] ^= 1 << (bit % 8);
        fs::write(&damaged, bytes).unwrap();
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(&damaged).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &[][..]), "bit {bit}");
    }
}

#[test]
fn on_a_cortex_m4_the_bits_are_the_same() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let libraries = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--print", "target-libdir", "--target", CORTEX_M4])
        .output();
    let has_target = libraries
        .is_ok_and(|found| Path::new(String::from_utf8_lossy(&found.stdout).trim_end()).is_dir());
    if !has_target {
        eprintln!("skipped: the target {CORTEX_M4} is not installed (`make micro` installs it)");
        return;
    }
    let has_emulator = Command::new(EMULATOR[0]).arg("--version").output().is_ok();
    let variants =
        [("Cortex-M4", "", FLASH), ("Cortex-M4, compact SHA-256", COMPACT_SHA2, FLASH_COMPACT)];
    for (what, flags, most) in variants {
        let program = build(Some(CORTEX_M4), flags);
        if !has_emulator {
            eprintln!("{what}: built; not run: {} is not installed", EMULATOR[0]);
            continue;
        }
        let mut emulator = Command::new("timeout");
        emulator.arg("60").args(EMULATOR).args(["-nographic", "-kernel"]).arg(&program);
        emulator.args(["-semihosting-config", "enable=on,target=native"]);
        let output = emulator.stdin(std::process::Stdio::null()).output().unwrap();
        tell(what, &program, check(&output), most);
    }
}

#[test]
fn the_lines_in_the_readme_are_the_lines_that_run() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = fs::read_to_string(root().join("tests/no-std/src/adapter.rs")).unwrap();
    assert!(readme.contains(&format!("```rust\n{lines}```")), "tests/no-std/src/adapter.rs");
}
