//! A file that stands in for the room that collecting needs.
//!
//! Invariants: all of the file's size is on the disk; it never takes the last of what is free, which who removes something needs.

use super::{SpaceSettings, free_bytes};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const NAME: &str = "wisehosting-reserve";

pub(super) struct Reserve {
    file: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The one for this storage.
    pub(super) fn new(settings: &SpaceSettings, storage: &Path) -> Self {
        let device = |dir: &Path| fs::metadata(dir).map(|found| found.dev()).ok();
        let is_there = device(storage).is_some() && device(storage) == device(&settings.dir);
        let dir = if is_there { &settings.dir } else { storage };
        Self { file: dir.join(NAME), bytes: settings.reserve_bytes }
    }

    /// What is free when all of it is there.
    pub(super) fn free_beside_bytes(&self) -> u64 {
        let has = fs::metadata(&self.file).map_or(0, |found| found.len());
        let dir = self.file.parent().unwrap_or(&self.file);
        free_bytes(dir).saturating_add(has).saturating_sub(self.bytes)
    }

    /// Makes it if it is not there, as far as there is room: the less is left, the more it is needed.
    ///
    /// # Errors
    /// It cannot be made even with room, as where the folder cannot be written to.
    pub(super) fn make(&self) -> io::Result<()> {
        if self.bytes == 0 {
            self.give_up();
            return Ok(());
        }
        match self.grow() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            grown => grown,
        }
    }

    fn grow(&self) -> io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(&self.file)?;
        let has = file.metadata()?.len();
        file.set_len(has.min(self.bytes))?;
        let spare = free_bytes(&self.file).saturating_sub(self.bytes / 4);
        let mut wanted = self.bytes.min(has + spare);
        while wanted > has {
            let grown =
                fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(wanted).unwrap_or(i64::MAX));
            match grown {
                Ok(()) => return file.sync_all(),
                Err(Errno::ENOSPC | Errno::EFBIG) => file.set_len(has)?,
                Err(error) => return Err(error.into()),
            }
            wanted /= 2;
        }
        Ok(())
    }

    /// Frees its space.
    pub(super) fn give_up(&self) {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.file.display(), %error, "the reserve cannot be given up");
            }
            _ => {}
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_size_and_gives_it_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let reserve = |reserve_bytes| {
            let dir = dir.path().to_owned();
            Reserve::new(&SpaceSettings { free_min_bytes: 0, reserve_bytes, dir: dir.clone() }, &dir)
        };
        let blocks = || fs::metadata(dir.path().join(NAME)).ok().map(|found| found.blocks() * 512);
        for bytes in [1 << 20, 4 << 20, 2 << 20] {
            reserve(bytes).make().expect("made");
            assert_eq!(blocks(), Some(bytes));
        }
        reserve(2 << 20).give_up();
        assert_eq!(blocks(), None);
        reserve(1 << 20).make().expect("made");
        reserve(0).make().expect("none is wanted");
        assert_eq!(blocks(), None, "nothing is wanted");
    }

    #[test]
    fn it_is_on_the_disk_of_the_engine() {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = SpaceSettings { free_min_bytes: 0, reserve_bytes: 1, dir: "/proc".into() };
        assert_eq!(Reserve::new(&settings, dir.path()).file, dir.path().join(NAME));
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_told() {
        let settings = SpaceSettings { free_min_bytes: 0, reserve_bytes: 1, dir: "/proc".into() };
        Reserve::new(&settings, Path::new("/proc")).make().expect_err("nothing can be written there");
    }
}
