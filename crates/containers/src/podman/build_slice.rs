//! The control group above all builds of this host.
//!
//! Invariants: builds stand below one group, so that they are bounded together and an operator can see and weigh them as one;
//! whoever makes the group bounds it. Where systemd has made it, it is systemd's slice: its limits are the unit's.

use crate::engine::BuildBounds;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";
/// Is there where systemd is the host's init system.
const SYSTEMD: &str = "/run/systemd/system";
const CPU_PERIOD_US: u64 = 100_000;
/// Half of what a group has that asks for nothing.
const WEIGHT: u32 = 50;
/// The same in version 1.
const SHARES: u32 = 512;
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// The name of that group at the top of each hierarchy. It has no dash, which to systemd means a slice inside another.
pub(super) const NAME: &str = "wisehosting_builds.slice";

/// How often another build may remove the group while one is made inside.
const ATTEMPTS: usize = 10;

/// Makes the group of one build, and the one above if that is not there, in each hierarchy that can bound them.
pub(super) fn make_group(slice: &str, group: &str, bounds: BuildBounds) -> io::Result<()> {
    bounding(Path::new(MOUNT)).iter().try_for_each(|hierarchy| {
        let dir = hierarchy.join(slice);
        let mut made = Ok(());
        for _ in 0..ATTEMPTS {
            pass_controllers_on(hierarchy);
            if create(&dir)? {
                bound(&dir, bounds);
            }
            pass_controllers_on(&dir);
            made = create(&dir.join(group)).map(drop);
            match &made {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        made
    })
}

/// Makes a group inside the one of a build, with as much memory as a step has. The group around it bounds its processes.
pub(super) fn make_inner(
    slice: &str,
    group: &str,
    name: &str,
    bounds: BuildBounds,
) -> io::Result<Vec<PathBuf>> {
    let make = |hierarchy: &PathBuf| {
        let outer = hierarchy.join(slice).join(group);
        pass_controllers_on(&outer);
        let dir = outer.join(name);
        create(&dir)?;
        bound_memory(&dir, bounds.memory_bytes)?;
        Ok(dir)
    };
    bounding(Path::new(MOUNT)).iter().map(make).collect()
}

/// Swap is not added to it. In version 2, all processes end together when it is used up.
fn bound_memory(dir: &Path, bytes: u64) -> io::Result<()> {
    let memory = bytes.to_string();
    let limits = [
        ("memory.max", memory.as_str()),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("memory.limit_in_bytes", &memory),
        ("memory.memsw.limit_in_bytes", &memory),
    ];
    // Each hierarchy has some of them, and a kernel may have been built without counting swap.
    let mut there = limits.into_iter().filter(|(file, _)| dir.join(file).exists());
    there.try_for_each(|(file, value)| fs::write(dir.join(file), value))
}

/// The name of a build's own group.
pub(super) fn group_of(build: &str) -> String {
    format!("build-{build}")
}

/// Whether the folder was not there before.
fn create(dir: &Path) -> io::Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the group unless a build is in it or it is systemd's.
pub(super) fn remove(name: &str) {
    if Path::new(SYSTEMD).is_dir() {
        return;
    }
    for hierarchy in hierarchies(Path::new(MOUNT)) {
        // A hierarchy in which no build ever was has no such group.
        let _ = fs::remove_dir(hierarchy.join(name));
    }
}

/// What the processes of a build have written to disks, as version 2 counts it, with what is still to be written.
pub(super) fn written_bytes(slice: &str, build: &str) -> u64 {
    let dir = Path::new(MOUNT).join(slice).join(group_of(build));
    let read = |file| fs::read_to_string(dir.join(file)).unwrap_or_default();
    written_in(&read("io.stat"), &read("memory.stat"))
}

fn written_in(io: &str, memory: &str) -> u64 {
    let written = io.split_whitespace().filter_map(|word| word.strip_prefix("wbytes="));
    let pending = ["file_dirty ", "file_writeback "];
    let pending = memory.lines().filter_map(|line| pending.iter().find_map(|name| line.strip_prefix(name)));
    written.chain(pending).filter_map(|bytes| bytes.parse::<u64>().ok()).sum()
}

/// Where processes are counted: a hierarchy of its own in version 1, the only one in version 2.
pub(super) fn counting() -> PathBuf {
    let version_1 = Path::new(MOUNT).join("pids");
    if version_1.is_dir() { version_1 } else { MOUNT.into() }
}

/// All hierarchies: version 2 is mounted at the root, those of version 1 are mounted below it.
pub(super) fn hierarchies(mount: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.join("cgroup.procs").exists()).chain([mount.to_owned()]).collect()
}

/// Those that can bound a group. In version 1 their names are lists, such as `cpu,cpuacct`.
fn bounding(mount: &Path) -> Vec<PathBuf> {
    if mount.join("cgroup.controllers").exists() {
        return vec![mount.to_owned()];
    }
    let bounds = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.split(',').any(|controller| CONTROLLERS.contains(&controller))
    };
    hierarchies(mount).into_iter().filter(bounds).collect()
}

/// As much as all builds that run at a time may use by themselves, and less weight than what serves.
fn bound(dir: &Path, bounds: BuildBounds) {
    let count = bounds.at_a_time as u64;
    let memory = (bounds.memory_bytes.saturating_mul(count)).to_string();
    let quota = u64::from(bounds.cpu_millis) * count * CPU_PERIOD_US / 1_000;
    for (file, value) in [
        ("memory.max", memory.clone()),
        ("memory.limit_in_bytes", memory),
        ("pids.max", (u64::from(bounds.processes_max) * count).to_string()),
        ("cpu.max", format!("{quota} {CPU_PERIOD_US}")),
        ("cpu.cfs_quota_us", quota.to_string()),
        ("cpu.weight", WEIGHT.to_string()),
        ("cpu.shares", SHARES.to_string()),
        ("io.weight", WEIGHT.to_string()),
    ] {
        let file = dir.join(file);
        // Each hierarchy has some of them.
        if file.exists()
            && let Err(error) = fs::write(&file, value)
        {
            tracing::warn!(file = %file.display(), %error, "a limit of all builds together is not set");
        }
    }
}

/// In version 2, a group has the controllers that the one above it passes on.
fn pass_controllers_on(dir: &Path) {
    let file = dir.join("cgroup.subtree_control");
    let Ok(passed) = fs::read_to_string(&file) else { return };
    for controller in CONTROLLERS {
        if !passed.split_whitespace().any(|one| one == controller) {
            // The kernel may have been built without it.
            let _ = fs::write(&file, format!("+{controller}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_counted_on_every_disk_and_on_its_way_there() {
        let io = "254:0 rbytes=4096 wbytes=1048576 rios=1 wios=9 dbytes=0 dios=0\n7:0 rbytes=0 wbytes=512 rios=0\n";
        let memory = "anon 417792\nfile 2555904\nfile_mapped 7\nfile_dirty 8192\nfile_writeback 4096\n";
        assert_eq!(written_in(io, memory), 1_048_576 + 512 + 8_192 + 4_096);
        assert_eq!(written_in("", ""), 0);
    }
}
