//! Signatures: made, checked, and the same as minisign's in both directions.
#![cfg(feature = "sign")]

mod cli;

use cli::{Done, Place};
use serde_json::{Value, json};
use std::{fs, process::Command, process::Stdio};

const PASSWORD: &str = "thirteen numbers";
const WITH_MINISIGNS_KEY: &str = "sign a.tla --key keys/open.key --comment mine";

/// Runs `tla` with a password in its environment.
fn with_password(place: &Place, password: &str, args: &str) -> Done {
    let mut command = place.command(args.split_whitespace());
    command.env("TLA_KEY_PASSWORD", password).output().unwrap().into()
}

/// The signature's check in a report of `verify`.
#[track_caller]
fn signature(report: &Value) -> (bool, &str) {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "signature").unwrap();
    assert_eq!(report["valid"], json!(checks.iter().all(|check| check["ok"] == true)));
    (check["ok"].as_bool().unwrap(), check["detail"].as_str().unwrap())
}

/// `verify` says no, with these words.
#[track_caller]
fn no(place: &Place, args: &str, words: &str) {
    let report = place.run(&format!("verify {args} --json")).json(1);
    let (ok, detail) = signature(&report);
    assert!(!ok && detail.contains(words) && detail.contains(". "), "{args}: {detail}");
    assert_eq!(report.get("trusted_comment"), None);
}

#[test]
fn what_is_signed_verifies_with_its_key_and_shows_its_comment() {
    let place = Place::new();
    let signed = place.run(&format!("{WITH_MINISIGNS_KEY} --json")).json(0);
    assert_eq!(signed["output"], "a.tla.minisig");
    assert_eq!(signed["trusted_comment"], "mine");
    let key = signed["public_key"].as_str().unwrap();
    assert!(fs::read_to_string(place.path("keys/open.pub")).unwrap().contains(key));
    for key in ["keys/open.pub", key] {
        let report = place.run(&format!("verify a.tla --key {key} --json")).json(0);
        assert_eq!(signature(&report), (true, "of this key; trusted comment: mine"));
        assert_eq!(report["trusted_comment"], "mine");
        assert_eq!(report["unchecked"], json!(["base", "rebuild", "merged"]));
    }
    let whole = place.run("verify a.tla --key keys/open.pub --base model");
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), ""));

    fs::rename(place.path("a.tla.minisig"), place.path("elsewhere")).unwrap();
    place.run("verify a.tla --key keys/open.pub --signature elsewhere --json").json(0);
}

#[test]
fn without_a_comment_time_and_name_are_signed_and_a_name_stays_on_its_line() {
    let place = Place::new();
    fs::copy(place.path("a.tla"), place.path("two\nlines.tla")).unwrap();
    let args = ["sign", "two\nlines.tla", "--key", "keys/open.key", "-o", "out"];
    let done: Done = place.command(args).output().unwrap().into();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let report = place.run("verify a.tla --key keys/open.pub --signature out --json").json(0);
    let comment = report["trusted_comment"].as_str().unwrap();
    let (time, rest) = comment.split_once('\t').unwrap();
    assert!(time.strip_prefix("timestamp:").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(rest, "file:two\\nlines.tla\thashed");
}

#[test]
fn what_minisign_wrote_is_understood() {
    let place = Place::new();
    for (key, file, comment) in [
        ("open", "a.tla", "timestamp:1795517585\tfile:a.tla\thashed"),
        ("open", "legacy", "timestamp:1795517585\tfile:a.tla"),
        ("locked", "locked", "release 1, trained on word problems"),
    ] {
        let args = format!("verify a.tla --key keys/{key}.pub --signature keys/{file}.minisig");
        let report = place.run(&format!("{args} --json")).json(0);
        assert_eq!(report["trusted_comment"], comment);
    }
    let signed = with_password(&place, PASSWORD, "sign a.tla --key keys/locked.key");
    assert_eq!(signed.code, Some(0), "{}", signed.stderr);
    place.run("verify a.tla --key keys/locked.pub --json").json(0);
}

#[test]
fn generated_keys_sign_and_the_secret_one_is_for_its_owner_alone() {
    let place = Place::new();
    let pair = with_password(&place, "hush", "sign --generate --key mine.key --json").json(0);
    assert_eq!((&pair["secret"], &pair["public"]), (&json!("mine.key"), &json!("mine.pub")));
    let open = place.run("sign --generate --key open.key --no-password --json").json(0);
    assert_ne!(pair["public_key"], open["public_key"]);
    for (key, password) in [("mine", "hush"), ("open", "")] {
        let args = format!("sign a.tla --key {key}.key --json");
        let signed = with_password(&place, password, &args).json(0);
        let public = fs::read_to_string(place.path(&format!("{key}.pub"))).unwrap();
        assert_eq!(signed["public_key"], public.lines().nth(1).unwrap());
        place.run(&format!("verify a.tla --key {key}.pub --json")).json(0);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let secret = fs::metadata(place.path(&format!("{key}.key"))).unwrap();
            assert_eq!(secret.permissions().mode() & 0o777, 0o600);
        }
    }
    place.refused("sign --generate --key open.key --no-password", &["open.key exists"]);
    fs::remove_file(place.path("open.key")).unwrap();
    place.refused("sign --generate --key open.key --no-password", &["open.pub exists"]);
    place.refused("sign --generate --key new.pub --no-password", &["new.pub"]);
    place.refused("sign --generate --key no/new.key --no-password", &["does not exist"]);
    let empty = with_password(&place, "", "sign --generate --key new.key");
    assert!(empty.code == Some(2) && empty.stderr.contains("the password is empty"));
    assert!(!place.path("new.key").exists() && !place.path("new.pub").exists());
}

#[test]
fn a_changed_adapter_signature_or_key_is_a_no() {
    let place = Place::new();
    assert_eq!(place.run(WITH_MINISIGNS_KEY).code, Some(0));
    let (adapter, good) = (place.read("a.tla"), place.read("a.tla.minisig"));

    // A forger's file is a valid adapter; only the signature tells.
    let other = json!({"v": [1], "width": 1}).to_string();
    place.write("other.json", other);
    assert_eq!(place.run("pack other.json -o a.tla").code, Some(0));
    no(&place, "a.tla --key keys/open.pub", "does not belong to these bytes");
    place.write("a.tla", &adapter[..100]);
    no(&place, "a.tla --key keys/open.pub", "does not belong to these bytes");
    place.write("a.tla", &adapter);

    no(&place, "a.tla --key keys/locked.pub", "was made with another key");
    let text = String::from_utf8(good.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let comment = text.replace("trusted comment: mine", "trusted comment: yours");
    place.write("a.tla.minisig", comment);
    no(&place, "a.tla --key keys/open.pub", "does not belong to these bytes");
    place.write("a.tla.minisig", text.replace(&lines[3][20..24], "AAAA"));
    no(&place, "a.tla --key keys/open.pub", "does not belong to these bytes");

    // Another key under the number of the right one.
    let number = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    let (open, locked) = (number("keys/open.pub"), number("keys/locked.pub"));
    let (open, locked) = (open.lines().nth(1).unwrap(), locked.lines().nth(1).unwrap());
    place.write("a.tla.minisig", &good);
    let forged = format!("{}{}", &open[..16], &locked[16..]);
    no(&place, &format!("a.tla --key {forged}"), "does not belong to these bytes");
}

#[test]
fn what_is_no_signature_is_a_no() {
    let place = Place::new();
    no(&place, "a.tla --key keys/open.pub", "a.tla.minisig does not exist");
    assert_eq!(place.run(WITH_MINISIGNS_KEY).code, Some(0));
    let good = place.read("a.tla.minisig");
    for len in [0, 1, 40, 100, 150, good.len() - 4] {
        place.write("a.tla.minisig", &good[..len]);
        no(&place, "a.tla --key keys/open.pub", "is no minisign signature, or was cut");
    }
    for bad in [&[0xff, 0xfe, 0][..], b"\n\n\n\n", &[b'\n'; 60_000]] {
        place.write("a.tla.minisig", bad);
        no(&place, "a.tla --key keys/open.pub", "is no minisign signature, or was cut");
    }
    place.write("a.tla.minisig", place.read("a.tla"));
    no(&place, "a.tla --key keys/open.pub", "is no minisign signature, or was cut");
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let place = Place::new();
    let large = |name: &str| {
        fs::File::create(place.path(name)).unwrap().set_len((64 << 10) + 1).unwrap();
    };
    for (args, word) in [
        ("verify a.tla --key nothing.pub", "nothing.pub is neither a file nor"),
        ("verify a.tla --key keys/open.key", "keys/open.key holds no minisign public key"),
        ("verify a.tla --key a.tla", "a.tla holds no minisign public key"),
        ("verify a.tla --key model", "model is not a regular file"),
        ("verify a.tla --key keys/open.pub --signature nothing", "nothing does not exist"),
        ("verify a.tla --key keys/open.pub --signature model", "model is not a regular file"),
        ("sign nothing.tla --key keys/open.key", "nothing.tla does not exist"),
        ("sign v.json --key keys/open.key", "v.json is not a usable adapter"),
        ("sign a.tla --key nothing.key", "nothing.key does not exist"),
        ("sign a.tla --key keys/open.pub", "keys/open.pub is no minisign secret key"),
        ("sign a.tla --key a.tla", "a.tla is no minisign secret key"),
        ("sign a.tla --key v.json", "v.json is no minisign secret key"),
        ("sign a.tla --key model", "model is not a regular file"),
    ] {
        place.refused(args, &[word]);
    }
    large("large");
    place.refused("verify a.tla --key large", &["large has more than 65536 bytes"]);
    place.refused("verify a.tla --key keys/open.pub --signature large", &["large has more than"]);
    place.refused("sign a.tla --key large", &["large has more than 65536 bytes"]);
    for args in [
        "sign",
        "sign a.tla",
        "sign a.tla --key keys/open.key --no-password",
        "sign a.tla --key new.key --generate",
        "verify a.tla --signature keys/a.tla.minisig",
    ] {
        assert_eq!(place.run(args).code, Some(2), "{args}");
    }
}

#[test]
fn a_damaged_secret_key_signs_nothing() {
    let place = Place::new();
    let intact = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    let (open, locked) = (intact("keys/open.key"), intact("keys/locked.key"));
    for text in ["", "one line", "one\ntwo\n", &open[..open.len() - 9], &locked[..100]] {
        place.write("bad.key", text);
        place.refused("sign a.tla --key bad.key", &["bad.key is no minisign secret key"]);
    }
    // Inside the key itself; no checksum covers those that `minisign -W` writes.
    let (comment, line) = open.split_once('\n').unwrap();
    for at in [90, 150] {
        let letter = if &line[at..=at] == "A" { "B" } else { "A" };
        let changed = format!("{comment}\n{}{letter}{}", &line[..at], &line[at + 1..]);
        place.write("bad.key", changed);
        place.refused("sign a.tla --key bad.key", &["bad.key is damaged"]);
    }
    // More work than anybody waits for: the limit of operations starts at byte 38.
    let (comment, line) = locked.split_once('\n').unwrap();
    place.write("bad.key", format!("{comment}\n{}//////{}", &line[..54], &line[60..]));
    let done = with_password(&place, PASSWORD, "sign a.tla --key bad.key");
    assert!(done.code == Some(2) && done.stderr.contains("more work"), "{}", done.stderr);
    for password in ["", "fourteen numbers"] {
        let done = with_password(&place, password, "sign a.tla --key keys/locked.key");
        assert!(done.code == Some(2) && done.stderr.contains("does not open keys/locked.key"));
    }
    assert!(!place.path("a.tla.minisig").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_terminal_a_password_is_missed_and_not_waited_for() {
    let place = Place::new();
    for args in ["sign a.tla --key keys/locked.key", "sign --generate --key new.key"] {
        let tla = place.command([""; 0]);
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(tla.get_program()).args(args.split_whitespace());
        command.current_dir(place.path("")).env_remove("TLA_KEY_PASSWORD").stdin(Stdio::null());
        let done: Done = command.output().unwrap().into();
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""));
        assert!(done.stderr.contains("Set TLA_KEY_PASSWORD"), "{}", done.stderr);
    }
    assert!(!place.path("a.tla.minisig").exists() && !place.path("new.key").exists());
}

#[test]
fn a_signature_goes_where_it_does_no_harm() {
    let place = Place::new();
    for (output, word) in [
        ("a.tla", "a.tla is an input of this command"),
        ("keys/open.key", "keys/open.key is an input of this command"),
        ("./keys/../a.tla", "is an input of this command"),
        ("no/out", "the folder of no/out does not exist"),
        ("model", "model is not a regular file"),
    ] {
        place.refused(&format!("{WITH_MINISIGNS_KEY} -o {output}"), &[word]);
    }
    #[cfg(target_os = "linux")]
    for output in ["/proc/out", "/dev/null"] {
        place.refused(&format!("{WITH_MINISIGNS_KEY} -o {output}"), &[output]);
    }
    place.write("a.tla.minisig", "old");
    assert_eq!(place.run(WITH_MINISIGNS_KEY).code, Some(0));
    let mut permissions = fs::metadata(place.path("a.tla.minisig")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(place.path("a.tla.minisig"), permissions).unwrap();
    place.refused(WITH_MINISIGNS_KEY, &["a.tla.minisig is read-only"]);
    place.run("verify a.tla --key keys/open.pub --json").json(0);
}

#[test]
fn a_comment_is_one_short_line() {
    let place = Place::new();
    for comment in ["two\nlines", "a\ttab", "\u{9b}31m", &"x".repeat(1025)] {
        let args = ["sign", "a.tla", "--key", "keys/open.key", "--comment", comment];
        let done: Done = place.command(args).output().unwrap().into();
        assert!(done.code == Some(2) && done.stderr.contains("the comment has"), "{}", done.stderr);
    }
    assert!(!place.path("a.tla.minisig").exists());
}

/// Runs the real minisign, which reads its passwords from stdin.
fn minisign(place: &Place, args: &str, stdin: &str) -> Option<bool> {
    use std::io::Write;
    let mut command = Command::new("minisign");
    command.args(args.split_whitespace()).current_dir(place.path(""));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    // A minisign that asks nothing may be gone before it is told.
    let _ = child.stdin.take()?.write_all(stdin.as_bytes());
    Some(child.wait().unwrap().success())
}

#[test]
fn the_installed_minisign_agrees_in_both_directions() {
    let place = Place::new();
    if minisign(&place, "-v", "").is_none() {
        eprintln!("skipped: minisign is not installed; the files it wrote are checked elsewhere");
        return;
    }
    let ok = |args: &str, stdin: &str| minisign(&place, args, stdin).unwrap();
    with_password(&place, "hush", "sign --generate --key mine.key --json").json(0);
    place.run("sign --generate --key free.key --no-password --json").json(0);
    assert!(ok("-G -W -s theirs.key -p theirs.pub", ""));
    for (key, password) in [
        ("mine", "hush"),
        ("free", ""),
        ("theirs", ""),
        ("keys/open", ""),
        ("keys/locked", PASSWORD),
    ] {
        let ours = with_password(&place, password, &format!("sign a.tla --key {key}.key -o ours"));
        assert_eq!(ours.code, Some(0), "{key}: {}", ours.stderr);
        assert!(ok(&format!("-V -H -m a.tla -x ours -p {key}.pub"), ""), "{key}: ours");
        assert!(!ok(&format!("-V -m v.json -x ours -p {key}.pub"), ""), "{key}: another file");

        let line = format!("{password}\n");
        for legacy in ["", "-l"] {
            let args = format!("-S {legacy} -s {key}.key -m a.tla -x theirs -t theirs");
            assert!(ok(&args, &line), "{key}: {args}");
            let args = format!("verify a.tla --key {key}.pub --signature theirs --json");
            assert_eq!(place.run(&args).json(0)["trusted_comment"], "theirs");
        }
    }
}
