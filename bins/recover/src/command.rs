use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::guard::Watch;

/// What this program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say how it is used.
    Help,
    /// What must be done before services run.
    Boot {
        /// The root of the machine.
        root: PathBuf,
        /// What to do when the machine must be started anew.
        reboot: Reboot,
    },
    /// Watch over an update until it is decided.
    Guard(Watch),
}

/// What to do when the machine must be started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// Start it.
    Now,
    /// Say so.
    Tell,
}

/// A command line that says nothing this program does.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadCommand {
    /// No such command.
    #[error("what is to be done? there is boot, and guard")]
    Unknown,
    /// No such option, or one without its value.
    #[error("{0:?} is no option here, or lacks its value")]
    Option(OsString),
    /// The name of the agent's service is missing.
    #[error("--agent must say which service the agent is")]
    NoAgent,
}

impl Command {
    /// How it is used.
    pub const USAGE: &'static str = "usage: subd-recover boot [--root DIR] [--reboot]\n       \
        subd-recover guard [--root DIR] [--deadline SECONDS] --agent UNIT\n\
        or as the first process of a machine: init=/usr/sbin/subd-recover\n\
        exit status: 0 done, or nothing was to be done; 1 it could not be done; 2 the command line is wrong;\n\
        100, of boot without --reboot: the machine must be started anew";

    /// Of what stands behind the name of the program.
    ///
    /// # Errors
    /// [`BadCommand`].
    pub fn parse(arguments: &[OsString]) -> Result<Self, BadCommand> {
        let mut arguments = arguments.iter();
        let command = arguments.next().ok_or(BadCommand::Unknown)?;
        let (mut root, mut reboot, mut agent, mut deadline) = (PathBuf::from("/"), Reboot::Tell, None, None);
        let is_boot = match command.as_encoded_bytes() {
            b"boot" => true,
            b"guard" => false,
            b"help" | b"--help" | b"-h" => return Ok(Self::Help),
            _ => return Err(BadCommand::Unknown),
        };
        while let Some(option) = arguments.next() {
            let bad = || BadCommand::Option(option.clone());
            let mut value = || arguments.next().ok_or_else(bad);
            match (option.as_encoded_bytes(), is_boot) {
                (b"--root", _) => root = value()?.into(),
                (b"--reboot", true) => reboot = Reboot::Now,
                (b"--agent", false) => agent = Some(value()?.to_str().ok_or_else(bad)?.to_owned()),
                (b"--deadline", false) => {
                    let seconds =
                        value()?.to_str().and_then(|text| text.parse::<u32>().ok()).ok_or_else(bad)?;
                    deadline = Some(Duration::from_secs(seconds.into()));
                }
                _ => return Err(bad()),
            }
        }
        if is_boot {
            return Ok(Self::Boot { root, reboot });
        }
        let agent = agent.filter(|agent| is_name(agent)).ok_or(BadCommand::NoAgent)?;
        Ok(Self::Guard(Watch { root, agent, deadline, patience: Watch::PATIENCE }))
    }
}

/// What can't be taken for an option or a path by a program that is given it.
fn is_name(agent: &str) -> bool {
    let first = agent.as_bytes().first().copied();
    first.is_some_and(|first| first.is_ascii_alphanumeric()) && !agent.contains(['/', '\0', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, BadCommand> {
        Command::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_command_line_says_what_is_done_or_is_refused() {
        let root = PathBuf::from("/");
        assert_eq!(parse("boot"), Ok(Command::Boot { root: root.clone(), reboot: Reboot::Tell }));
        let boot = Command::Boot { root: "/sysroot".into(), reboot: Reboot::Now };
        assert_eq!(parse("boot --root /sysroot --reboot"), Ok(boot));
        let watch = |deadline| Watch {
            root: root.clone(),
            agent: "subd".to_owned(),
            deadline,
            patience: Watch::PATIENCE,
        };
        assert_eq!(parse("guard --agent subd"), Ok(Command::Guard(watch(None))));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(parse("guard --deadline 60 --agent subd"), Ok(Command::Guard(watch(minute))));
        for bad in [
            "",
            "undo",
            "boot now",
            "boot --root",
            "boot --agent subd",
            "guard",
            "guard --reboot --agent subd",
            "guard --agent --root=/",
            "guard --agent ../subd",
            "guard --agent subd --deadline soon",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
