//! Whether the kernel has just ended a program of a container for its memory.
//!
//! Podman 4 does not always learn of such an end: with control groups of version 1 it may look too late, and what its
//! helper notes is not always where it looks. When the end is seen, the container's control group and its count are gone. So the
//! rule is: SIGKILL has ended the program; the kernel has ended some program of this host for its memory in the last moments;
//! and, where the kernel tells (version 2) and the group was known before, the memory events of the container's own group
//! changed in the last moments, too. Invariant: a container whose own group was quiet is never blamed for another one's end.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;
use wisehosting_containers::{Cgroups, Container, ContainerId, ContainerState};

/// Exit status of a program that SIGKILL has ended.
const KILLED: i64 = 137;
/// An end is seen this long after it at the latest.
const RECENT: Duration = Duration::from_secs(15);

/// What the kernel tells of such ends.
#[derive(Debug)]
pub(crate) struct MemoryKills {
    /// Of the whole host.
    count: u64,
    risen_at: Option<Instant>,
    /// None where the kernel has no more of them to give.
    inotify: Option<Inotify>,
    watched: HashMap<ContainerId, Watched>,
}

/// A container whose group is known, or was when it ran last.
#[derive(Debug)]
struct Watched {
    /// What is another one with each start, as the group is.
    network_namespace: Option<PathBuf>,
    /// None once its program has ended.
    descriptor: Option<WatchDescriptor>,
    changed_at: Option<Instant>,
}

impl Watched {
    /// Its group is watched no longer.
    fn end(&mut self, inotify: Option<&Inotify>) {
        if let Some((inotify, descriptor)) = inotify.zip(self.descriptor.take()) {
            // The kernel may have dropped it with the group.
            let _ = inotify.rm_watch(descriptor);
        }
    }
}

impl MemoryKills {
    /// Begins to count.
    pub(crate) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Self { count: kernel_count(), risen_at: None, inotify, watched: HashMap::new() }
    }

    /// Looks at what has happened, and knows the groups of these containers from now on.
    pub(crate) fn look(&mut self, now: Instant, containers: &[Container]) {
        let count = kernel_count();
        if count > self.count {
            self.risen_at = Some(now);
        }
        self.count = count;
        self.note(now);
        let running: HashMap<&ContainerId, &Container> = containers
            .iter()
            .filter(|container| container.state == ContainerState::Running)
            .map(|container| (&container.id, container))
            .collect();
        for (id, watched) in &mut self.watched {
            let is_same = |now: &&Container| now.network_namespace == watched.network_namespace;
            if !running.get(id).is_some_and(is_same) {
                watched.end(self.inotify.as_ref());
            }
        }
        self.watched.retain(|id, _| containers.iter().any(|container| container.id == *id));
        let is_watched = |id: &ContainerId| self.watched.get(id).is_some_and(|one| one.descriptor.is_some());
        let new: HashSet<ContainerId> =
            running.keys().copied().filter(|id| !is_watched(id)).cloned().collect();
        if !new.is_empty() {
            for (id, file) in Cgroups::of_this_host().memory_events(&new) {
                self.watch(running[&id], &file);
            }
        }
    }

    /// A program of this container was started: what its last group told is of the one before.
    pub(crate) fn forget(&mut self, id: &ContainerId) {
        if let Some(mut watched) = self.watched.remove(id) {
            watched.end(self.inotify.as_ref());
        }
    }

    fn watch(&mut self, container: &Container, file: &Path) {
        let watch = |inotify: &Inotify| inotify.add_watch(file, AddWatchFlags::IN_MODIFY).ok();
        // Without, the host's count has to do.
        if let Some(descriptor) = self.inotify.as_ref().and_then(watch) {
            let network_namespace = container.network_namespace.clone();
            let watched = Watched { network_namespace, descriptor: Some(descriptor), changed_at: None };
            self.watched.insert(container.id.clone(), watched);
        }
    }

    /// Takes what the kernel has told.
    fn note(&mut self, now: Instant) {
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            for event in events {
                let of = |watched: &&mut Watched| watched.descriptor == Some(event.wd);
                let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let changed = lost || event.mask.contains(AddWatchFlags::IN_MODIFY);
                for watched in self.watched.values_mut().filter(|watched| changed && (lost || of(watched))) {
                    watched.changed_at = Some(now);
                }
            }
        }
    }

    /// Whether a program that ended with this exit status ended for its memory, as far as the kernel tells.
    pub(crate) fn explains(&self, container: &ContainerId, exit_code: i64, now: Instant) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) <= RECENT);
        let own = self.watched.get(container);
        exit_code == KILLED && recent(self.risen_at) && own.is_none_or(|own| recent(own.changed_at))
    }
}

/// Programs that the kernel has ended since the host was started; 0 where it does not say.
fn kernel_count() -> u64 {
    count_in(&fs::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn count_in(vmstat: &str) -> u64 {
    let line = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wisehosting_containers::ImageId;

    #[test]
    fn the_count_is_read_by_name() {
        assert_eq!(count_in("numa_hit 5\noom_kill 3\noom_kill_x 4\n"), 3);
        assert_eq!(count_in(""), 0);
    }

    #[test]
    fn only_a_killed_program_is_explained_and_not_for_long() {
        let (now, id) = (Instant::now(), ContainerId::new("a"));
        let kills = MemoryKills { risen_at: Some(now), ..MemoryKills::new() };
        assert!(kills.explains(&id, 137, now));
        assert!(!kills.explains(&id, 1, now));
        assert!(!kills.explains(&id, 137, now + RECENT * 2));
    }

    fn container(name: &str, state: ContainerState) -> Container {
        Container {
            id: ContainerId::new(name),
            image: ImageId::new("image"),
            labels: BTreeMap::new(),
            state,
            published: None,
            network_namespace: None,
        }
    }

    #[test]
    fn a_container_whose_group_was_quiet_is_not_blamed() {
        let dir = tempfile::tempdir().expect("a folder");
        let now = Instant::now();
        let mut kills = MemoryKills { risen_at: Some(now), ..MemoryKills::new() };
        let [loud, quiet] = ["loud", "quiet"].map(|name| {
            let file = dir.path().join(name);
            fs::write(&file, "oom_kill 0\n").expect("written");
            kills.watch(&container(name, ContainerState::Running), &file);
            (ContainerId::new(name), file)
        });
        fs::write(&loud.1, "oom_kill 1\n").expect("written");
        // As its group does, when the container has ended.
        fs::remove_file(&loud.1).expect("removed");
        let ended = ContainerState::Exited { code: KILLED, out_of_memory: false };
        kills.look(now, &[container("loud", ended), container("quiet", ContainerState::Running)]);
        assert!(kills.explains(&loud.0, 137, now));
        assert!(!kills.explains(&quiet.0, 137, now));
        assert!(kills.watched[&loud.0].descriptor.is_none(), "its next group is another one");
        assert!(kills.watched[&quiet.0].descriptor.is_some());
        kills.forget(&quiet.0);
        assert!(kills.explains(&quiet.0, 137, now), "nobody knows what its next group does");
        kills.look(now, &[container("loud", ended)]);
        assert_eq!(kills.watched.keys().collect::<Vec<_>>(), [&loud.0], "who is gone is forgotten");
    }
}
