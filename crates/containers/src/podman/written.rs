//! What a container has written and not removed, counted in the folder that lies above its image and in those of its volumes.
//! A Dockerfile makes volumes with `VOLUME`: folders beside the container, which no file system keeps to its limit.
//!
//! Invariants: no link leads out of such a folder, although programs change it meanwhile; what goes away while it is counted is
//! not counted, and no error.

use nix::{errno::Errno, fcntl::OFlag, sys::statvfs::statvfs};
use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

/// Folders within each other that are counted: each takes a descriptor.
const DEPTH_MAX: usize = 128;
/// Folders that wait, and files with several names, that are remembered at a time: each takes some memory.
const REMEMBERED_MAX: usize = 1 << 18;
/// What is said of more.
const TOO_MANY: io::ErrorKind = io::ErrorKind::Unsupported;
/// The unit in which the kernel tells how much room a file takes.
const BLOCK_BYTES: u64 = 512;

/// Where a container has what it has written.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The folder above its image, if its storage has one for that alone.
    pub(super) layer: Option<PathBuf>,
    /// Its volumes. Each belongs to it alone.
    pub(super) volumes: Vec<PathBuf>,
}

/// What a container has written, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Above its image; none if that cannot be counted here.
    pub(super) layer: Option<u64>,
    /// Into its volumes.
    pub(super) volumes: u64,
}

impl Places {
    /// Counts. Waits for the disk.
    pub(super) fn count(&self) -> Count {
        let told = |dir: &Path, error: &io::Error| {
            tracing::debug!(dir = %dir.display(), %error, "what a container has written cannot be counted");
        };
        let layer = self.layer.as_ref().and_then(|dir| bytes(dir).inspect_err(|e| told(dir, e)).ok());
        let volumes = self.volumes.iter();
        let volumes = volumes.filter_map(|dir| volume_bytes(dir).inspect_err(|e| told(dir, e)).ok()).sum();
        Count { layer, volumes }
    }
}

/// What is in a volume. Nobody else can count one with too many folders for us, in which a program could hide: it counts as
/// all that there is.
fn volume_bytes(dir: &Path) -> io::Result<u64> {
    match bytes(dir) {
        Err(error) if error.kind() == TOO_MANY => {
            let disk = statvfs(dir)?;
            Ok(disk.blocks().saturating_mul(disk.fragment_size()))
        }
        counted => counted,
    }
}

/// A folder that is not opened yet: what it stands in, its name, and how deep that is.
type Waiting = (Rc<File>, OsString, usize);

/// The room that everything in a folder takes on the disk, in bytes. Waits for the disk.
///
/// # Errors
/// The folder cannot be read, or there is too much in it.
pub(super) fn bytes(dir: &Path) -> io::Result<u64> {
    bytes_remembering(dir, REMEMBERED_MAX)
}

fn bytes_remembering(dir: &Path, most: usize) -> io::Result<u64> {
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut next = Some((Rc::new(open(dir)?), 0));
    while let Some((folder, depth)) = next {
        for entry in present(fs::read_dir(path_of(&folder)))?.into_iter().flatten() {
            let Some(entry) = present(entry)? else { continue };
            let Some(found) = present(entry.metadata())? else { continue };
            // One file may have several names.
            if found.is_dir() || found.nlink() == 1 || linked.insert(found.ino()) {
                bytes += found.blocks() * BLOCK_BYTES;
            }
            if found.is_dir() {
                waiting.push((folder.clone(), entry.file_name(), depth + 1));
            }
            if waiting.len() + linked.len() > most {
                let message = format!("there are more than {most} folders, or files with several names");
                return Err(io::Error::new(TOO_MANY, message));
            }
        }
        next = open_next(&mut waiting)?;
    }
    Ok(bytes)
}

fn open_next(waiting: &mut Vec<Waiting>) -> io::Result<Option<(Rc<File>, usize)>> {
    while let Some((parent, name, depth)) = waiting.pop() {
        if depth > DEPTH_MAX {
            let message = format!("there are more than {DEPTH_MAX} folders within each other");
            return Err(io::Error::new(TOO_MANY, message));
        }
        if let Some(folder) = present(open(&path_of(&parent).join(name)))? {
            return Ok(Some((Rc::new(folder), depth)));
        }
    }
    Ok(None)
}

/// A folder that is there, and no link to one.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// A path to the folder itself, whatever its name leads to by now.
fn path_of(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// What is still there, as what it was.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    let is_gone = |error: &io::Error| {
        let errno = error.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
    };
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const KIB: u64 = 1024;

    fn count(dir: &Path) -> u64 {
        bytes(dir).expect("counted")
    }

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let (counted, other) = (dir.path().join("counted"), dir.path().join("other"));
        for folder in [&counted, &other, &counted.join("a/b")] {
            fs::create_dir_all(folder).expect("made");
        }
        fs::write(other.join("large"), vec![1; 1024 * 1024]).expect("written");
        let before = count(&counted);
        fs::write(counted.join("a/b/file"), vec![1; 100 * 1024]).expect("written");
        fs::hard_link(counted.join("a/b/file"), counted.join("again")).expect("linked");
        symlink(&other, counted.join("folder")).expect("linked");
        symlink(other.join("large"), counted.join("link")).expect("linked");
        let written = count(&counted) - before;
        assert!((100 * KIB..120 * KIB).contains(&written), "{written}");
        assert!(bytes(&counted.join("folder")).is_err(), "a link is no folder");
    }

    #[test]
    fn holes_take_no_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = File::create(dir.path().join("sparse")).expect("made");
        file.set_len(1 << 40).expect("a size");
        assert!(count(dir.path()) < 100 * KIB);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("folder")).expect("made");
        fs::write(dir.path().join("file"), "").expect("written");
        fs::hard_link(dir.path().join("file"), dir.path().join("folder/again")).expect("linked");
        bytes_remembering(dir.path(), 2).expect("counted");
        let error = bytes_remembering(dir.path(), 0).expect_err("too many");
        assert!(error.to_string().contains("more than 0 folders"), "{error}");
    }

    #[test]
    fn folders_without_end_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let deep = (0..=DEPTH_MAX).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).expect("made");
        let error = bytes(dir.path()).expect_err("too deep");
        assert!(error.to_string().contains("more than 128 folders"), "{error}");
        let places = Places { layer: None, volumes: vec![dir.path().to_owned()] };
        assert!(places.count().volumes > 1 << 20, "a volume hides nothing");
    }
}
