//! What the lab needs from the machine, looked for before anything is started.
//!
//! Invariant: a machine that lacks something is told all of it at once, with the line to type.

use std::path::{Path, PathBuf};

use crate::{
    busybox, postgres,
    settings::{CONTROL_PLANE, PROXY, WORKER},
};

/// A machine that cannot run the lab, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MissingRequirement {
    /// Namespaces, mounts and control groups are for root.
    #[error("the lab makes network namespaces, which needs root. Type: sudo {}", .command)]
    NotRoot {
        /// The command as it was typed.
        command: String,
    },
    /// Programs are not installed.
    #[error(
        "the lab needs {}, which this machine does not have. On Debian, type: apt-get install --no-install-recommends {}",
        .0.iter().map(|missing| missing.what).collect::<Vec<_>>().join(", "),
        packages(.0)
    )]
    Programs(Vec<Missing>),
    /// The three programs of the platform were not built.
    #[error("{} is not in {}: build it first (./dev up does), or say where it is with --bin-dir", .program, .directory.display())]
    NotBuilt {
        /// Which program.
        program: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
}

/// A program of the machine that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The program.
    pub what: &'static str,
    /// Debian's packages that bring it.
    pub packages: &'static str,
}

const PROGRAMS: [(&str, &str); 4] = [
    ("git", "git"),
    ("podman", "podman netavark aardvark-dns iptables"),
    ("runc", "runc crun"),
    ("slirp4netns", "slirp4netns"),
];

/// Checks that the process is root.
pub fn check_root() -> Result<(), MissingRequirement> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let command: Vec<String> = std::env::args().collect();
    Err(MissingRequirement::NotRoot { command: command.join(" ") })
}

/// Checks everything; `bin_dir` has the platform's programs.
pub(crate) fn check(bin_dir: &Path) -> Result<(), MissingRequirement> {
    check_root()?;
    let missing = missing_programs();
    if !missing.is_empty() {
        return Err(MissingRequirement::Programs(missing));
    }
    let platform = [CONTROL_PLANE, WORKER, PROXY].map(|host| host.program);
    match platform.into_iter().find(|program| !bin_dir.join(program).is_file()) {
        Some(program) => Err(MissingRequirement::NotBuilt { program, directory: bin_dir.to_owned() }),
        None => Ok(()),
    }
}

fn missing_programs() -> Vec<Missing> {
    let mut missing: Vec<Missing> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| !is_in_path(program))
        .map(|(what, packages)| Missing { what, packages })
        .collect();
    if postgres::find_programs().is_none() {
        missing.push(Missing { what: "postgres", packages: "postgresql" });
    }
    if busybox::find().is_none() {
        missing.push(Missing { what: "busybox", packages: "busybox-static" });
    }
    missing
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn packages(missing: &[Missing]) -> String {
    missing.iter().map(|missing| missing.packages).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_said_at_once() {
        let error = MissingRequirement::Programs(vec![
            Missing { what: "podman", packages: "podman netavark" },
            Missing { what: "postgres", packages: "postgresql" },
        ]);
        assert_eq!(
            error.to_string(),
            "the lab needs podman, postgres, which this machine does not have. \
             On Debian, type: apt-get install --no-install-recommends podman netavark postgresql"
        );
    }
}
