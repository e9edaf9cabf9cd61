//! Running other programs: a failure always names the program, and a nested cargo sees a clean environment.

use std::{
    ffi::OsStr,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, bail};

/// A `cargo` command that behaves as if typed in the shell.
///
/// `cargo run` describes the xtask package to us in `CARGO_PKG_*` and `CARGO_MANIFEST_*`; build scripts of other
/// packages (ring's, for one) watch these and would be run again.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_own_package(&mut command);
    command
}

/// Removes what `cargo run` said about the xtask package from the environment of `command`.
pub(crate) fn forget_own_package(command: &mut Command) {
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
}

/// Runs `command` to its end, with our standard streams; anything but exit status 0 is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("start {}", program.display()))?;
    check(&program, status)
}

/// Runs `command` to its end and returns its standard output; anything but exit status 0 is an error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_owned();
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("start {}", program.display()))?;
    check(&program, output.status)?;
    Ok(output.stdout)
}

fn check(program: &OsStr, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", program.display());
    }
    Ok(())
}
