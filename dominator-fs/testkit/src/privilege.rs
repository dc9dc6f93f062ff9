use std::io::Write;

/// Whether `test`, or this part of it, can run. Without root it says that it is left out, where tests do not swallow it;
/// where nothing may be left out (`CI` is set), it panics.
pub fn needs_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{test} needs root");
    if !root {
        left_out(test, "it needs root");
    }
    root
}

/// Says that `test`, or a part of it, was not run, and why.
pub fn left_out(test: &str, why: &str) {
    drop(writeln!(std::io::stdout().lock(), "{test} was not run: {why}"));
}
