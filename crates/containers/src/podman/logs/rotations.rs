//! Counts how often the file of a log was replaced by a new one.
//!
//! Invariant: the kernel has counted a replacement before anybody can open the new file, so whoever opens a path between
//! two equal counts knows which file he has.

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The files that are watched. Clones watch the same: the kernel has few such lists to give.
#[derive(Clone, Default)]
pub(in crate::podman) struct Rotations(Arc<Mutex<Option<Watches>>>);

struct Watches {
    inotify: Inotify,
    files: HashMap<WatchDescriptor, Watched>,
}

struct Watched {
    name: OsString,
    count: u64,
    /// How many wait for it. One that reads a log may still be there when the next one begins.
    watches: usize,
}

impl Rotations {
    /// Watches a file until the value is dropped; no other file of its folder may be watched.
    pub(super) fn watch(&self, file: &Path) -> io::Result<Watch> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut watches = self.lock();
        if watches.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            *watches = Some(Watches { inotify, files: HashMap::new() });
        }
        let Some(watches) = &mut *watches else { return Err(io::ErrorKind::Other.into()) };
        // What came before is nothing to the new watch.
        watches.note();
        let Watches { inotify, files } = watches;
        // The kernel makes one event of two that are alike and follow on each other: the other end of each move comes
        // between them.
        let moves = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        let descriptor = inotify.add_watch(folder, moves)?;
        // For one folder the kernel gives the same descriptor again.
        let new = || Watched { name: name.to_owned(), count: 0, watches: 0 };
        let file = files.entry(descriptor).or_insert_with(new);
        file.watches += 1;
        Ok(Watch { rotations: self.clone(), descriptor, before: file.count })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watches>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotations").finish_non_exhaustive()
    }
}

impl Watches {
    fn note(&mut self) {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            // Nobody knows how often: more often than anybody has looked.
                            self.files.values_mut().for_each(|file| file.count += 2);
                        } else if let Some(file) = self.files.get_mut(&event.wd)
                            && event.name.as_deref() == Some(file.name.as_ref() as &OsStr)
                        {
                            file.count += 1;
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                // EAGAIN: that was all.
                Err(_) => return,
            }
        }
    }
}

/// One file that is watched.
pub(super) struct Watch {
    rotations: Rotations,
    descriptor: WatchDescriptor,
    /// What had been counted when it began.
    before: u64,
}

impl Watch {
    /// How often it was replaced since the watch began.
    pub(super) fn count(&self) -> u64 {
        let mut watches = self.rotations.lock();
        let Some(watches) = &mut *watches else { return 0 };
        watches.note();
        watches.files.get(&self.descriptor).map_or(0, |file| file.count - self.before)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.rotations.lock();
        let Some(Watches { inotify, files }) = &mut *watches else { return };
        let Some(file) = files.get_mut(&self.descriptor) else { return };
        file.watches -= 1;
        if file.watches == 0 {
            files.remove(&self.descriptor);
            // The kernel has dropped it itself if the folder is gone.
            let _ = inotify.rm_watch(self.descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_watch_that_ends_takes_nothing_from_another_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, old) = (dir.path().join("ctr.log"), dir.path().join("ctr.log.1"));
        let rotate = || {
            fs::write(&old, "").expect("written");
            fs::rename(&old, &file).expect("replaced");
        };
        let rotations = Rotations::default();
        let first = rotations.watch(&file).expect("watched");
        rotate();
        let second = rotations.watch(&file).expect("watched");
        rotate();
        assert_eq!((first.count(), second.count()), (2, 1));
        drop(first);
        rotate();
        assert_eq!(second.count(), 2);
        drop(second);
        assert_eq!(rotations.watch(&file).expect("watched").count(), 0);
    }
}
