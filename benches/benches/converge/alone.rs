//! Name spaces for processes and mounts. When the first process in them ends, be it by Ctrl-C or a panic, the kernel
//! ends the others and unmounts what they mounted, and loop devices and the files behind them go with that.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{self, Command};

use dominator_benches::contender::run;

/// Runs this program again with the same arguments within name spaces of its own, and ends as it ends.
pub(crate) fn measure(programs: &Path) -> ! {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child", "--mount-proc"]);
    command.arg(env::current_exe().unwrap()).args(env::args_os().skip(1)).arg("--alone");
    let status = command.env("DOMINATOR_BIN_DIR", programs).status();
    let status =
        status.unwrap_or_else(|error| panic!("setpriv and unshare of util-linux are needed: {error}"));
    process::exit(status.code().unwrap_or(1));
}

/// Mounts a small file-system in `directory`, which is made, that holds nothing but mount points.
pub(crate) fn private_mounts(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "converge"]).arg(directory));
}
