//! Every program completes its command line in every shell and has manual pages.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use dominator_testkit::{Outcome, binary};

/// The packages that make a program; the recovery program runs where there is no shell yet, and has no options.
fn programs() -> Vec<String> {
    let bins = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let packages = fs::read_dir(bins).unwrap().map(|entry| entry.unwrap());
    let made = packages.filter(|package| package.path().join("src/main.rs").exists());
    let mut names: Vec<_> = made.map(|package| package.file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "recover");
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    names
}

fn generate(program: &str, words: &[&str]) -> Outcome {
    Outcome::of(Command::new(binary(program)).arg("--generate").args(words))
}

/// The subcommands that the program's own help lists.
fn verbs(program: &str) -> BTreeSet<String> {
    let help = Outcome::of(Command::new(binary(program)).arg("--help")).success();
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

#[test]
fn every_program_completes_in_every_shell() {
    for program in programs() {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = generate(&program, &[shell]).success();
            for verb in verbs(&program).iter().map(String::as_str).chain(["--help"]) {
                let word = if shell == "fish" { verb.trim_start_matches("--") } else { verb };
                assert!(script.contains(word), "{program} in {shell} lacks {verb}");
            }
            if shell == "bash" {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("script");
                fs::write(&path, script).unwrap();
                Outcome::of(Command::new("bash").arg("-n").arg(&path)).success();
            }
        }
        let refused = generate(&program, &["tcsh"]);
        assert_eq!(refused.code(), Some(2), "{refused:?}");
    }
}

#[test]
fn every_program_and_every_verb_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    for program in programs() {
        generate(&program, &["man", directory.path().to_str().unwrap()]).success();
        let page = |name: String| fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        let own = page(program.clone());
        assert!(own.contains(&format!(".TH {program} 1")) && own.contains(".SH SYNOPSIS"), "{own}");
        for verb in verbs(&program) {
            let of_verb = page(format!("{program}-{verb}"));
            assert!(of_verb.contains(".SH DESCRIPTION"), "{program} {verb}: {of_verb}");
        }
    }
}
