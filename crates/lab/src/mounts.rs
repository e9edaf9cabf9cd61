//! The mounts that make a host's view of the machine its own.
//!
//! Invariant: all happens in the host's mount namespace, after every mount was made private, so nothing reaches the
//! machine and everything vanishes with the host.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{cgroups::Hierarchies, init::HostSpec};

/// Where NixOS keeps the programs of the running system; it lies on `/run`, which a host has for itself.
const CURRENT_SYSTEM: &str = "/run/current-system";

/// Stops mounts from travelling between this namespace and the machine's.
pub(crate) fn make_private() -> io::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// Gives the host its own `/proc`, `/sys`, `/run`, `/dev/shm`, `/var/tmp` and `/etc/resolv.conf`.
pub(crate) fn set_up(spec: &HostSpec, hierarchies: &Hierarchies) -> io::Result<()> {
    let no_programs = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_new("proc", "/proc", no_programs, "")?;
    // What is mounted below would only be covered, and still be found in the mount table.
    umount2("/sys", MntFlags::MNT_DETACH)?;
    mount_new("sysfs", "/sys", no_programs, "")?;
    hierarchies.mount_for_host(Path::new("/sys/fs/cgroup"))?;
    mount_new("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;

    let temporary = spec.directory.join("tmp");
    fs::create_dir_all(&temporary)?;
    bind(&temporary, Path::new("/var/tmp"))?;

    let resolv_conf =
        fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| PathBuf::from("/etc/resolv.conf"));
    let current_system = fs::read_link(CURRENT_SYSTEM).ok();
    mount_new("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    fs::create_dir("/run/lock")?;
    if let Some(system) = current_system {
        symlink(system, CURRENT_SYSTEM)?;
    }
    match spec.nameserver {
        Some(nameserver) => {
            replace_file(&spec.directory, &resolv_conf, &format!("nameserver {nameserver}\n"))
        }
        None => Ok(()),
    }
}

/// Shows `content` at `target`, without touching the machine's own file.
fn replace_file(directory: &Path, target: &Path, content: &str) -> io::Result<()> {
    if target.exists() {
        let source = directory.join("resolv.conf");
        fs::write(&source, content)?;
        return bind(&source, target);
    }
    // The machine's file lies on `/run` (systemd-resolved), which is the host's own now.
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(target, content)
}

fn mount_new(kind: &str, target: &str, flags: MsFlags, options: &str) -> io::Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .map_err(|errno| io::Error::other(format!("cannot mount {kind} on {target}: {errno}")))
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|errno| {
        io::Error::other(format!("cannot bind {} to {}: {errno}", source.display(), target.display()))
    })
}
