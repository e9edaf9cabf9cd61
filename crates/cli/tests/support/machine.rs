//! What the machine has: to show that a lab leaves nothing, and puts nothing where it does not belong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::Pid;
use wisehosting_lab::state::cgroup_of;

/// What stays on a machine when a program does not clean up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    control_groups: BTreeSet<PathBuf>,
    shared_memory: BTreeSet<String>,
    nftables: String,
}

impl Machine {
    /// As far as a lab in `folder` could change it.
    pub(crate) fn observe(folder: &Path) -> Self {
        Self {
            interfaces: names("/sys/class/net"),
            mounts: fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect(),
            control_groups: control_groups(folder),
            shared_memory: names("/dev/shm"),
            nftables: nftables(),
        }
    }
}

/// The processes of a lab and the namespaces that they are in.
#[derive(Debug)]
pub(crate) struct Footprint {
    processes: BTreeMap<i32, String>,
    namespaces: BTreeSet<String>,
}

impl Footprint {
    /// Of everything that descends from `up`.
    pub(crate) fn of(up: Pid) -> Self {
        let parents: BTreeMap<i32, i32> = pids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
        let descends = |pid: i32| {
            std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).any(|pid| pid == up.as_raw())
        };
        let own = namespaces(std::process::id().try_into().unwrap());
        let processes: BTreeMap<i32, String> = parents
            .keys()
            .filter(|pid| descends(**pid))
            .filter_map(|pid| Some((*pid, started(*pid)?)))
            .collect();
        let namespaces = processes.keys().flat_map(|pid| namespaces(*pid)).filter(|name| !own.contains(name));
        Self { namespaces: namespaces.collect(), processes }
    }

    /// How many processes and namespaces there were.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.processes.len(), self.namespaces.len())
    }

    /// What is still there: processes, and any other process's namespaces. The kernel ends them a moment after their
    /// first process, so whoever asks after a kill waits for the answer to become empty.
    pub(crate) fn remains(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|(pid, start)| started(**pid).as_ref() == Some(*start));
        let processes = processes.map(|(pid, _)| format!("process {pid}"));
        let in_use: BTreeSet<String> = pids().flat_map(namespaces).collect();
        let namespaces = self.namespaces.intersection(&in_use).cloned();
        processes.chain(namespaces).collect()
    }
}

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The directories of the lab's control group, in whichever hierarchies the machine has.
fn control_groups(folder: &Path) -> BTreeSet<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies =
        names("/sys/fs/cgroup").into_iter().map(|name| root.join(name)).chain([root.to_owned()]);
    hierarchies.map(|root| root.join(cgroup_of(folder))).filter(|path| path.exists()).collect()
}

/// The rules of the machine's own network namespace.
fn nftables() -> String {
    let output =
        Command::new("/usr/sbin/nft").args(["list", "ruleset"]).output().expect("nftables is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pids() -> impl Iterator<Item = i32> {
    names("/proc").into_iter().filter_map(|name| name.parse().ok())
}

fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold anything.
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn started(pid: i32) -> Option<String> {
    stat(pid)?.get(19).cloned()
}

fn namespaces(pid: i32) -> Vec<String> {
    ["net", "mnt", "pid", "uts", "ipc", "cgroup"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}
