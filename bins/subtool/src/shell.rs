//! Commands line by line over one connection: typed by a person, or of a script.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use dominator_daemon::report::{complain, remark};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::transport::Tls;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::Options;

const PROMPT: &str = "subtool> ";

/// Who gives the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typist {
    /// Somebody who sees what went wrong and goes on.
    Person,
    /// A list that was written on the understanding that each command does what it is to do.
    Script,
}

/// Carries out command after command until there are no more. A script ends with the first that does not do what it is to
/// do, with its exit status.
///
/// # Errors
/// [`Failure`] of a command of a script, or when nothing can be read.
pub(crate) async fn shell(options: &Options, agent: &RemoteAgent, tls: &Tls) -> Result<ExitCode, Failure> {
    let typist = if io::stdin().is_terminal() { Typist::Person } else { Typist::Script };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut number = 0_u64;
    loop {
        if typist == Typist::Person {
            let mut err = io::stderr().lock();
            drop(err.write_all(PROMPT.as_bytes()).and_then(|()| err.flush()));
        }
        let Some(line) = lines.next_line().await.during(|| "can't read commands".into())? else {
            return Ok(ExitCode::SUCCESS);
        };
        number += 1;
        let status = match words(&line) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) if matches!(&words[..], [word] if word == "exit" || word == "quit") => {
                return Ok(ExitCode::SUCCESS);
            }
            Ok(words) => carry_out(options, &words, agent, tls).await,
            Err(error) => Err(error),
        };
        match (typist, status) {
            (_, Ok(status)) if status == ExitCode::SUCCESS => {}
            (Typist::Person, Ok(_)) => remark("subtool", "not as it was wanted; see above"),
            (Typist::Person, Err(failure)) => complain("subtool", &failure),
            (Typist::Script, Ok(status)) => {
                remark(
                    "subtool",
                    &format!("line {number} did not come to what was wanted: the rest was left"),
                );
                return Ok(status);
            }
            (Typist::Script, Err(failure)) => {
                return Err(failure).during(|| format!("in line {number}, after which nothing was done"));
            }
        }
    }
}

async fn carry_out(
    options: &Options,
    words: &[String],
    agent: &RemoteAgent,
    tls: &Tls,
) -> Result<ExitCode, Failure> {
    let Some(command) = parse(options, words)? else { return Ok(ExitCode::SUCCESS) };
    crate::carry_out(&command, agent, tls).await
}

/// The command, about the machine and in the form the shell was started with; nothing, when it was a wish for help, which
/// has been given.
fn parse(options: &Options, words: &[String]) -> Result<Option<Options>, Failure> {
    let mut of_command = Options::command().no_binary_name(true).disable_version_flag(true);
    let matches = match of_command.try_get_matches_from_mut(words) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => {
            drop(error.print());
            return Ok(None);
        }
        Err(error) => return Err(Failure::new(error.to_string().trim_end())),
    };
    let elsewhere = words.iter().find(|word| *word == "--sub" || word.starts_with("--sub="));
    if let Some(word) = elsewhere {
        return Err(Failure::new(format!("{word} is for another machine; the shell stays with one")));
    }
    let mut command = Options::from_arg_matches(&matches).during(|| "no command".into())?;
    command.output.json |= options.output.json;
    Ok(Some(command))
}

/// The words of a line, divided as shells do: by blanks, but for what is in quotes or after a backslash. A word that
/// begins with # begins a remark.
fn words(line: &str) -> Result<Vec<String>, Failure> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        match (quote, letter) {
            (Some(begun), end) if begun == end => quote = None,
            (Some('"') | None, '\\') => {
                let next = rest.next().ok_or_else(|| Failure::new("nothing comes after the last \\"))?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(letter);
            }
            (None, '#') if word.is_none() => break,
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    if let Some(quote) = quote {
        return Err(Failure::new(format!("a {quote} is not closed")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_line_is_divided_as_shells_do() {
        for (line, expected) in [
            ("", &[][..]),
            ("  poll  ", &["poll"]),
            ("forgive --all # what was", &["forgive", "--all"]),
            ("delete '/a b' \"/c \\\"d\" /e\\ f /g#h", &["delete", "/a b", "/c \"d", "/e f", "/g#h"]),
            ("get-file /a ''", &["get-file", "/a", ""]),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        for torn in ["delete '/a", "delete \"/a'", "delete /a\\"] {
            assert!(words(torn).is_err(), "{torn}");
        }
    }

    #[test]
    fn a_shell_stays_with_its_machine_and_keeps_its_form() {
        let options = Options::try_parse_from(["subtool", "--json", "shell"]).unwrap();
        let parse = |line: &str| parse(&options, &words(line).unwrap());
        assert!(parse("poll").unwrap().unwrap().output.json);
        for wrong in ["--sub web2:6969 poll", "poll --sub=web2:6969", "no-such-command", "history --limit=0"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
