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
}

impl Rotations {
    /// Watches a file until the value is dropped. It must have one watch only.
    pub(super) fn watch(&self, file: &Path) -> io::Result<Watch> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut watches = self.lock();
        if watches.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            *watches = Some(Watches { inotify, files: HashMap::new() });
        }
        let Some(Watches { inotify, files }) = &mut *watches else { return Err(io::ErrorKind::Other.into()) };
        // The kernel makes one event of two that are alike and follow on each other: the other end of each move comes
        // between them.
        let moves = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        let descriptor = inotify.add_watch(folder, moves)?;
        files.insert(descriptor, Watched { name: name.to_owned(), count: 0 });
        drop(watches);
        Ok(Watch { rotations: self.clone(), descriptor })
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
}

impl Watch {
    /// How often it was replaced since the watch began.
    pub(super) fn count(&self) -> u64 {
        let mut watches = self.rotations.lock();
        let Some(watches) = &mut *watches else { return 0 };
        watches.note();
        watches.files.get(&self.descriptor).map_or(0, |file| file.count)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.rotations.lock();
        if let Some(watches) = &mut *watches {
            watches.files.remove(&self.descriptor);
            // The kernel has dropped it itself if the folder is gone.
            let _ = watches.inotify.rm_watch(self.descriptor);
        }
    }
}
