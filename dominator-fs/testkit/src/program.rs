use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script to `path` that can be run at once, and replaces what is there.
///
/// Another process writes it: Linux runs nothing that somebody has open for writing (`ETXTBSY`), and whatever other threads
/// of a test fork meanwhile would have it open until it runs its own program.
///
/// # Panics
/// When it can't be written.
pub fn write_script(path: &Path, text: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh can be run");
    let written = writer.stdin.take().expect("it is piped").write_all(text.as_bytes());
    written.expect("it is read");
    assert!(writer.wait().is_ok_and(|status| status.success()), "{} can't be written", path.display());
}
