//! Control groups of a lab: one directory for the lab, one below it for each host.
//!
//! A host's init joins its directory and then enters a control group namespace, so that whatever runs in the host
//! (Podman above all) sees that directory as the root and creates its own groups below it. Invariant: nothing of a
//! lab exists in any hierarchy outside `<mount>/<lab>`, so [`Hierarchies::remove`] can remove all of it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// How often, and how far apart, the removal of a group is tried: the kernel lets go of a dead process a little late.
const REMOVAL_TRIES: u32 = 200;
const REMOVAL_PAUSE: Duration = Duration::from_millis(25);

/// Where in the unified hierarchy a host's processes live: groups with controllers for children hold no processes.
const LEAF: &str = "processes";

/// What the machine offers: the unified hierarchy, or the older one with one tree for each controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// Control groups version 2, mounted here.
    Unified(PathBuf),
    /// Control groups version 1 (also when an empty version 2 tree is mounted beside it).
    Split(Vec<Controller>),
}

/// One tree of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Controller {
    mount_point: PathBuf,
    options: String,
}

impl Hierarchies {
    /// Reads the mount table of the calling process.
    pub(crate) fn of_this_machine() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::other("no control group file system is mounted on this machine"))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut controllers = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let (Some((mount, source)), Some(mount_point)) = (line.split_once(" - "), line.split(' ').nth(4))
            else {
                continue;
            };
            let mut source = source.split(' ');
            let is_whole_tree = mount.split(' ').nth(3) == Some("/");
            match (source.next(), source.nth(1)) {
                (Some("cgroup"), Some(options)) if is_whole_tree => controllers.push(Controller {
                    mount_point: mount_point.into(),
                    options: options.trim_start_matches("rw,").to_owned(),
                }),
                (Some("cgroup2"), _) => unified = Some(PathBuf::from(mount_point)),
                _ => {}
            }
        }
        if controllers.is_empty() { unified.map(Self::Unified) } else { Some(Self::Split(controllers)) }
    }

    /// Creates `group` in every hierarchy, moves the calling process into it and makes it the root that the process
    /// and its children see from now on.
    pub(crate) fn enter(&self, group: &Path) -> io::Result<()> {
        match self {
            Self::Split(controllers) => {
                for controller in controllers {
                    controller.create(group)?;
                    fs::write(controller.mount_point.join(group).join("cgroup.procs"), "0")?;
                }
                unshare(CloneFlags::CLONE_NEWCGROUP)?;
            }
            Self::Unified(mount_point) => {
                let directory = mount_point.join(group);
                fs::create_dir_all(directory.join(LEAF))?;
                fs::write(directory.join("cgroup.procs"), "0")?;
                unshare(CloneFlags::CLONE_NEWCGROUP)?;
                fs::write(directory.join(LEAF).join("cgroup.procs"), "0")?;
                delegate(mount_point, group)?;
            }
        }
        Ok(())
    }

    /// Opens, in every hierarchy, the file by which a process joins those of the host that owns `group`: it writes `0`.
    pub(crate) fn open(&self, group: &Path) -> io::Result<Vec<File>> {
        let open = |directory: PathBuf| File::options().write(true).open(directory.join("cgroup.procs"));
        match self {
            Self::Split(controllers) => controllers.iter().map(|c| open(c.mount_point.join(group))).collect(),
            Self::Unified(mount_point) => Ok(vec![open(mount_point.join(group).join(LEAF))?]),
        }
    }

    /// Mounts on `target` what a host sees as `/sys/fs/cgroup`. The caller has entered its group.
    pub(crate) fn mount_for_host(&self, target: &Path) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let Self::Split(controllers) = self else {
            mount(Some("cgroup2"), target, Some("cgroup2"), flags, None::<&str>)?;
            return Ok(());
        };
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some("mode=755"))?;
        for controller in controllers {
            let Some(name) = controller.mount_point.file_name() else { continue };
            let directory = target.join(name);
            fs::create_dir(&directory)?;
            let options = match controller.options.as_str() {
                named if named.contains("name=") => format!("none,{named}"),
                plain => plain.to_owned(),
            };
            mount(Some("cgroup"), &directory, Some("cgroup"), flags, Some(options.as_str()))?;
        }
        Ok(())
    }

    /// The directories of `group`, of all hierarchies, that exist now.
    pub(crate) fn existing(&self, group: &Path) -> Vec<PathBuf> {
        let mount_points: Vec<&Path> = match self {
            Self::Split(controllers) => controllers.iter().map(|c| c.mount_point.as_path()).collect(),
            Self::Unified(mount_point) => vec![mount_point],
        };
        mount_points.into_iter().map(|root| root.join(group)).filter(|path| path.is_dir()).collect()
    }

    /// Removes `group` and all below it. Its processes have ended. Answers how many directories went.
    pub(crate) fn remove(&self, group: &Path) -> io::Result<usize> {
        self.existing(group).iter().map(|directory| remove_tree(directory)).sum()
    }
}

impl Controller {
    /// A new group of the cpuset controller takes no process until it has processors and memory nodes.
    fn create(&self, group: &Path) -> io::Result<()> {
        let mut directory = self.mount_point.clone();
        for part in group {
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if parent.join(file).exists() && fs::read_to_string(directory.join(file))?.trim().is_empty() {
                    fs::write(directory.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
        Ok(())
    }
}

/// Gives a host's group the controllers that containers are limited with.
fn delegate(mount_point: &Path, group: &Path) -> io::Result<()> {
    let mut directory = mount_point.to_owned();
    for part in std::iter::once(Path::new("")).chain(group.iter().map(Path::new)) {
        directory.push(part);
        let offered = fs::read_to_string(directory.join("cgroup.controllers"))?;
        for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
            if offered.split_whitespace().any(|name| name == controller) {
                fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))?;
            }
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_tree(&entry.path())?;
        }
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(removed + 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVAL_TRIES => {
                tries += 1;
                thread::sleep(REMOVAL_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_machine_is_driven_through_version_1() {
        let mountinfo = "\
            29 24 0:24 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            30 29 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            31 29 0:26 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            32 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let controller =
            |path: &str, options: &str| Controller { mount_point: path.into(), options: options.to_owned() };
        assert_eq!(
            Hierarchies::parse(mountinfo),
            Some(Hierarchies::Split(vec![
                controller("/sys/fs/cgroup/memory", "memory"),
                controller("/sys/fs/cgroup/systemd", "name=systemd"),
            ]))
        );
    }

    #[test]
    fn a_unified_machine_is_driven_through_version_2() {
        let mountinfo = "30 24 0:25 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(Hierarchies::parse(mountinfo), Some(Hierarchies::Unified("/sys/fs/cgroup".into())));
    }
}
