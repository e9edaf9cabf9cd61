//! Whether the file system that holds containers can keep one from writing more than its limit.
//!
//! Podman passes a limit on to two kinds of storage: overlay on XFS that is mounted with project quotas, and btrfs.
//! Invariant: what cannot be told for sure is no; then the limit is the worker's to enforce.

use nix::sys::{
    stat::{major, minor},
    statfs::{BTRFS_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, statfs},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What a limit is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskLimits {
    /// What the container writes.
    Written,
    /// The container with its image.
    WithImage,
}

impl DiskLimits {
    /// Those of a storage driver at this folder; none if it has none.
    pub(super) fn of(driver: &str, dir: &Path) -> Option<Self> {
        let file_system = statfs(dir).ok()?.filesystem_type();
        let device = fs::metadata(dir).ok()?.dev();
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::decide(driver, file_system, device, &mounts)
    }

    fn decide(driver: &str, file_system: FsType, device: u64, mounts: &str) -> Option<Self> {
        match driver {
            "overlay" if file_system == XFS_SUPER_MAGIC => {
                has_project_quotas(mounts, device).then_some(Self::Written)
            }
            "btrfs" if file_system == BTRFS_SUPER_MAGIC => Some(Self::WithImage),
            _ => None,
        }
    }
}

/// Whether the kernel lists this device as one whose project quotas are counted and enforced.
fn has_project_quotas(mounts: &str, device: u64) -> bool {
    let device = format!("{}:{}", major(device), minor(device));
    mounts.lines().any(|line| {
        let mut words = line.split(' ');
        words.nth(2) == Some(device.as_str())
            && words.next_back().is_some_and(|options| options.split(',').any(|option| option == "prjquota"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::{stat::makedev, statfs::EXT4_SUPER_MAGIC};

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        96 22 7:0 / /var/lib/containers rw,relatime shared:2 - xfs /dev/loop0 rw,attr2,inode64,noquota\n\
        97 22 7:1 / /srv/with\\040spaces rw,relatime - xfs /dev/loop1 rw,attr2,inode64,usrquota,prjquota\n\
        98 22 7:2 / /srv/counted rw,relatime shared:4 - xfs /dev/loop2 rw,attr2,inode64,pqnoenforce\n";

    #[test]
    fn only_what_is_sure_is_a_yes() {
        let (xfs, btrfs, ext4) = (XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC);
        for (driver, file_system, device, expected) in [
            ("overlay", xfs, makedev(7, 1), Some(DiskLimits::Written)),
            ("overlay", xfs, makedev(7, 0), None),
            ("overlay", xfs, makedev(7, 2), None),
            ("overlay", xfs, makedev(7, 3), None),
            ("overlay", ext4, makedev(254, 0), None),
            ("overlay", btrfs, makedev(0, 40), None),
            ("vfs", xfs, makedev(7, 1), None),
            ("btrfs", btrfs, makedev(0, 40), Some(DiskLimits::WithImage)),
        ] {
            assert_eq!(
                DiskLimits::decide(driver, file_system, device, MOUNTS),
                expected,
                "{driver} {device}"
            );
        }
    }
}
