//! What containers use, read from the kernel's control groups of version 1 or 2.
//!
//! Podman names the group of a container after its identifier, wherever it puts it. So a group is found by walking the tree
//! once, and what is read never belongs to another container. Invariant: a container whose group is not there (any more)
//! is left out, and is nobody else's problem.

use crate::engine::ContainerId;
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";
/// `machine.slice/libpod-<id>.scope`, `libpod_parent/libpod-<id>`, and some more of what an init system puts above.
const DEPTH_MAX: usize = 5;

/// What the processes of a container use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory in use, without pages of files that nobody has used lately: the kernel takes them back when it needs them.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Read from disks since its start, in bytes; none where the kernel does not count it.
    pub disk_read_bytes: Option<u64>,
    /// Written to disks since its start, as that.
    pub disk_written_bytes: Option<u64>,
}

/// Reads control groups, and remembers where they are.
#[derive(Debug)]
pub struct Cgroups {
    tree: Tree,
    /// Relative to the top of each hierarchy.
    groups: HashMap<ContainerId, PathBuf>,
}

/// Where the files are.
#[derive(Debug)]
enum Tree {
    /// A hierarchy for each controller.
    Version1 { blkio: PathBuf, cpuacct: PathBuf, memory: PathBuf, pids: PathBuf },
    /// One for all.
    Version2(PathBuf),
}

impl Cgroups {
    /// Those of this host.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::mounted_at(Path::new(MOUNT))
    }

    fn mounted_at(mount: &Path) -> Self {
        let tree = if mount.join("cgroup.controllers").exists() {
            Tree::Version2(mount.to_owned())
        } else {
            let hierarchy = |controller| hierarchy(mount, controller);
            Tree::Version1 {
                blkio: hierarchy("blkio"),
                cpuacct: hierarchy("cpuacct"),
                memory: hierarchy("memory"),
                pids: hierarchy("pids"),
            }
        };
        Self { tree, groups: HashMap::new() }
    }

    /// For each of these containers that runs, the file that the kernel changes whenever its memory was short. It tells nobody
    /// so in version 1.
    #[must_use]
    pub fn memory_events(&self, containers: &HashSet<ContainerId>) -> HashMap<ContainerId, PathBuf> {
        let mut files = HashMap::new();
        if let Tree::Version2(mount) = &self.tree {
            find(mount, Path::new(""), DEPTH_MAX, &mut |id, group| {
                if containers.contains(&id) {
                    files.insert(id, mount.join(group).join("memory.events"));
                }
            });
        }
        files
    }

    /// What each of these containers uses now, as far as it runs.
    pub fn read(&mut self, containers: &[ContainerId]) -> HashMap<ContainerId, ContainerUsage> {
        let wanted: HashSet<&ContainerId> = containers.iter().collect();
        self.groups.retain(|id, _| wanted.contains(id));
        if containers.iter().any(|id| !self.groups.contains_key(id)) {
            self.groups.clear();
            find(self.tree.top(), Path::new(""), DEPTH_MAX, &mut |id, group| {
                if wanted.contains(&id) {
                    self.groups.insert(id, group);
                }
            });
        }
        let tree = &self.tree;
        let mut usage = HashMap::with_capacity(containers.len());
        self.groups.retain(|id, group| match tree.read(group) {
            Ok(read) => {
                // A group may outlive its processes.
                if read.processes > 0 {
                    usage.insert(id.clone(), read);
                }
                true
            }
            Err(error) => {
                tracing::debug!(container.id = %id, %error, "the control group of a container has gone");
                false
            }
        });
        usage
    }
}

impl Tree {
    /// Where to look for groups: they are at the same place in every hierarchy.
    fn top(&self) -> &Path {
        match self {
            Self::Version1 { memory, .. } => memory,
            Self::Version2(mount) => mount,
        }
    }

    fn read(&self, group: &Path) -> io::Result<ContainerUsage> {
        match self {
            Self::Version1 { blkio, cpuacct, memory, pids } => {
                let memory = memory.join(group);
                let blkio = blkio.join(group).join("blkio.throttle.io_service_bytes_recursive");
                let disks = fs::read_to_string(blkio).ok();
                let disks = disks.as_deref();
                Ok(ContainerUsage {
                    cpu_us: number(&cpuacct.join(group).join("cpuacct.usage"))? / 1_000,
                    memory_bytes: number(&memory.join("memory.usage_in_bytes"))?
                        .saturating_sub(field(&memory.join("memory.stat"), "total_inactive_file")?),
                    processes: count(&pids.join(group).join("pids.current"))?,
                    disk_read_bytes: disks.map(|text| sum_after(text, "Read")),
                    disk_written_bytes: disks.map(|text| sum_after(text, "Write")),
                })
            }
            Self::Version2(mount) => {
                let group = mount.join(group);
                let disks = fs::read_to_string(group.join("io.stat")).ok().map(|text| text.replace('=', " "));
                let disks = disks.as_deref();
                Ok(ContainerUsage {
                    cpu_us: field(&group.join("cpu.stat"), "usage_usec")?,
                    memory_bytes: number(&group.join("memory.current"))?
                        .saturating_sub(field(&group.join("memory.stat"), "inactive_file")?),
                    processes: count(&group.join("pids.current"))?,
                    disk_read_bytes: disks.map(|text| sum_after(text, "rbytes")),
                    disk_written_bytes: disks.map(|text| sum_after(text, "wbytes")),
                })
            }
        }
    }
}

/// A hierarchy of version 1 may be mounted for several controllers, such as `cpu,cpuacct`.
fn hierarchy(mount: &Path, controller: &str) -> PathBuf {
    let names = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names = names.filter(|name| name.to_string_lossy().split(',').any(|part| part == controller));
    mount.join(names.next().unwrap_or_else(|| controller.into()))
}

/// Tells `found` of each container's group below `group`. What stands in one is the container's own affair.
fn find(top: &Path, group: &Path, depth: usize, found: &mut impl FnMut(ContainerId, PathBuf)) {
    for entry in fs::read_dir(top.join(group)).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let (name, below) = (entry.file_name(), group.join(entry.file_name()));
        match container_of(&name.to_string_lossy()) {
            Some(id) => found(id, below),
            None if depth > 1 => find(top, &below, depth - 1, found),
            None => {}
        }
    }
}

/// The container of a group of this name: `libpod-<id>`, or `libpod-<id>.scope` where systemd makes the groups.
fn container_of(name: &str) -> Option<ContainerId> {
    let id = name.strip_prefix("libpod-")?;
    let id = id.strip_suffix(".scope").unwrap_or(id);
    id.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| ContainerId::new(id))
}

fn number(file: &Path) -> io::Result<u64> {
    parse(file, fs::read_to_string(file)?.trim())
}

fn count(file: &Path) -> io::Result<u32> {
    number(file).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

/// The sum of the numbers that follow this word: there is one for each disk.
fn sum_after(text: &str, name: &str) -> u64 {
    let words = text.split_whitespace();
    let pairs = words.clone().zip(words.skip(1));
    pairs.filter(|(word, _)| *word == name).filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
}

/// The number in the line `<name> <number>`.
fn field(file: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let mut fields = text.lines().filter_map(|line| line.split_once(' '));
    parse(file, fields.find(|(field, _)| *field == name).map_or("", |(_, number)| number))
}

fn parse(file: &Path, number: &str) -> io::Result<u64> {
    number.parse().map_err(|_| io::Error::other(format!("{} does not say what it should", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const ID: &str = "013f2daf078ea6fb2f574b055f475e4a919234b6cff7190d9b6cea925940294f";

    /// From a machine with version 1, where Podman drives the groups itself.
    const VERSION_1: [(&str, &str); 5] = [
        ("cpu,cpuacct/libpod_parent/libpod-ID/cpuacct.usage", "1234567890\n"),
        ("memory/libpod_parent/libpod-ID/memory.usage_in_bytes", "5246976\n"),
        (
            "memory/libpod_parent/libpod-ID/memory.stat",
            "cache 4182016\nrss 811008\nrss_huge 0\nshmem 0\nmapped_file 0\ndirty 0\ninactive_file 4096\n\
             active_file 2625536\nhierarchical_memory_limit 67108864\ntotal_cache 4182016\ntotal_rss 811008\n\
             total_inactive_anon 0\ntotal_active_anon 811008\ntotal_inactive_file 1556480\ntotal_active_file 2625536\n",
        ),
        ("pids/libpod_parent/libpod-ID/pids.current", "2\n"),
        (
            "blkio/libpod_parent/libpod-ID/blkio.throttle.io_service_bytes_recursive",
            "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 12288\n254:0 Async 0\n254:0 Discard 0\n254:0 Total 12288\n\
             7:0 Read 1\n7:0 Write 2\nTotal 12291\n",
        ),
    ];

    /// From a machine with version 2, where systemd makes the groups and crun one of its own inside.
    const VERSION_2: [(&str, &str); 7] = [
        ("cgroup.controllers", "cpuset cpu io memory pids\n"),
        (
            "machine.slice/libpod-ID.scope/cpu.stat",
            "usage_usec 987654\nuser_usec 654321\nsystem_usec 333333\nnice_usec 0\nnr_periods 12\nnr_throttled 0\n\
             throttled_usec 0\n",
        ),
        ("machine.slice/libpod-ID.scope/memory.current", "3145728\n"),
        (
            "machine.slice/libpod-ID.scope/memory.stat",
            "anon 417792\nfile 2555904\nkernel 131072\nkernel_stack 16384\ninactive_anon 413696\nactive_anon 4096\n\
             inactive_file 1048576\nactive_file 1507328\nunevictable 0\n",
        ),
        ("machine.slice/libpod-ID.scope/pids.current", "3\n"),
        (
            "machine.slice/libpod-ID.scope/io.stat",
            "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0 rbytes=1 wbytes=2 rios=1 wios=1\n",
        ),
        ("machine.slice/libpod-ID.scope/container/memory.current", "1\n"),
    ];

    fn mounted(files: &[(&str, &str)]) -> (TempDir, Cgroups) {
        let mount = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = mount.path().join(path.replace("ID", ID));
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let cgroups = Cgroups::mounted_at(mount.path());
        (mount, cgroups)
    }

    fn usage(cpu_us: u64, memory_bytes: u64, processes: u32) -> HashMap<ContainerId, ContainerUsage> {
        HashMap::from([(
            ContainerId::new(ID),
            ContainerUsage {
                cpu_us,
                memory_bytes,
                processes,
                disk_read_bytes: Some(4_097),
                disk_written_bytes: Some(8_194),
            },
        )])
    }

    #[test]
    fn both_versions_say_the_same_things() {
        let (_mount, mut version_1) = mounted(&VERSION_1);
        assert_eq!(version_1.read(&[ContainerId::new(ID)]), usage(1_234_567, 5_246_976 - 1_556_480, 2));
        let (_mount, mut version_2) = mounted(&VERSION_2);
        assert_eq!(version_2.read(&[ContainerId::new(ID)]), usage(987_654, 3_145_728 - 1_048_576, 3));
    }

    #[test]
    fn what_is_not_counted_is_not_told() {
        let (mount, mut version_2) = mounted(&VERSION_2);
        let group = mount.path().join("machine.slice").join(format!("libpod-{ID}.scope"));
        fs::remove_file(group.join("io.stat")).expect("removed");
        let id = ContainerId::new(ID);
        assert_eq!(version_2.read(std::slice::from_ref(&id))[&id].disk_read_bytes, None);
    }

    #[test]
    fn memory_events_are_told_by_version_2() {
        let wanted = HashSet::from([ContainerId::new(ID), ContainerId::new("0".repeat(64))]);
        let (mount, version_2) = mounted(&VERSION_2);
        let file = mount.path().join(format!("machine.slice/libpod-{ID}.scope/memory.events"));
        assert_eq!(version_2.memory_events(&wanted), HashMap::from([(ContainerId::new(ID), file)]));
        let (_mount, version_1) = mounted(&VERSION_1);
        assert!(version_1.memory_events(&wanted).is_empty());
    }

    #[test]
    fn a_group_that_goes_and_comes_is_found_again() {
        let (mount, mut cgroups) = mounted(&VERSION_2);
        let ids = [ContainerId::new("0".repeat(64)), ContainerId::new(ID)];
        assert_eq!(cgroups.read(&ids).len(), 1, "one of them is not there");
        let slice = mount.path().join("machine.slice");
        fs::rename(&slice, mount.path().join("other.slice")).expect("moved");
        assert!(cgroups.read(&ids[1..]).is_empty());
        assert_eq!(cgroups.read(&ids[1..]).len(), 1);
    }

    #[test]
    fn a_group_without_a_process_is_no_container_that_runs() {
        let (mount, mut cgroups) = mounted(&VERSION_2);
        let group = mount.path().join("machine.slice").join(format!("libpod-{ID}.scope"));
        fs::write(group.join("pids.current"), "0\n").expect("written");
        assert!(cgroups.read(&[ContainerId::new(ID)]).is_empty());
    }

    #[test]
    fn only_the_groups_of_containers_are_theirs() {
        assert_eq!(container_of(&format!("libpod-{ID}")), Some(ContainerId::new(ID)));
        assert_eq!(container_of(&format!("libpod-{ID}.scope")), Some(ContainerId::new(ID)));
        assert_eq!(container_of(&format!("libpod-conmon-{ID}.scope")), None);
        assert_eq!(container_of("system.slice"), None);
    }
}
