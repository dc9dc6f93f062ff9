use std::path::{Path, PathBuf};
use std::process::Command;

use crate::holder::Holder;

/// A network that nobody else is in: a namespace with nothing but a loopback interface, which has 127.0.0.0/8 and
/// 192.0.2.0/24. It is gone when it is dropped, with all that is held with it.
#[derive(Debug)]
pub struct Network {
    holder: Holder,
}

impl Network {
    /// A network.
    pub fn new() -> Self {
        Self::holding(&[])
    }

    /// A network, and what `machine/hold.sh` holds besides.
    pub(crate) fn holding(arguments: &[&Path]) -> Self {
        Self { holder: Holder::start("hold.sh", &["--mount", "--net"], arguments) }
    }

    /// What holds it.
    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// A command that runs `program` in it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display())).arg("--").arg(program.as_ref());
        command
    }

    /// The file that others join it by, for as long as it is there.
    pub fn namespace(&self) -> PathBuf {
        self.holder.process().join("ns/net")
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}
