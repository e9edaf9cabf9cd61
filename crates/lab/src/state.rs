//! The lab's folder on the machine: who owns it, what is in it, and how it is removed.
//!
//! Invariants: a running lab holds a lock on the folder's marker, which the kernel releases however the lab ends; whoever
//! holds the lock may remove everything else, because a lab that is not running owns nothing; and a folder that has
//! things in it but no marker is not a lab's, so nothing in it is ever touched.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{certificates::write_private, cgroups::Hierarchies};

/// How long a lab that is told to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes a folder a lab's. The lock is on this file.
const MARKER: &str = ".wisehosting-lab";

/// Where a lab is kept unless another folder is named.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/wisehosting-lab";

/// What can go wrong with the lab's folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A lab runs there.
    #[error("a lab is already running (process {}, dashboard {})", .0.pid, .0.dashboard_url)]
    Running(Box<Running>),
    /// A lab runs there that has not written down what it is yet.
    #[error("a lab is starting or ending in {0}")]
    Busy(PathBuf),
    /// Somebody else's folder.
    #[error("{0} has files in it that are not a lab's; name an empty folder, or one that does not exist")]
    NotALab(PathBuf),
    /// It does not end.
    #[error("the lab (process {pid}) did not end within a minute; look at it, or type: kill -9 {pid}")]
    DoesNotEnd {
        /// Its process.
        pid: i32,
    },
    /// The system refused.
    #[error("cannot {operation} {path}")]
    Files {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a running lab says about itself to other commands, in `running.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The process of `up`.
    pub pid: i32,
    /// Process 1 of each host, by the host's name.
    pub hosts: BTreeMap<String, i32>,
    /// The dashboard and the REST API.
    pub dashboard_url: String,
    /// Port of the proxy without TLS, on the loopback.
    pub http_port: u16,
    /// Port of the proxy with TLS.
    pub https_port: u16,
    /// The certificate authority to trust.
    pub authority_file: PathBuf,
    /// File with the token for the REST API.
    pub token_file: PathBuf,
}

/// What a removal found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Control group directories.
    pub control_groups: usize,
    /// Mounts below the folder.
    pub mounts: usize,
    /// Files and directories directly in the folder.
    pub files: usize,
}

impl Cleaned {
    /// Whether there was nothing to clean.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// The folder, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if need be and locks it.
    pub fn claim(path: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(path).map_err(files("make", path))?;
        let path = fs::canonicalize(path).map_err(files("find", path))?;
        let is_empty = fs::read_dir(&path).map_err(files("read", &path))?.next().is_none();
        if !is_empty && !path.join(MARKER).exists() {
            return Err(StateError::NotALab(path));
        }
        // Others may pass through but not look around; secrets lie in files of their own mode.
        fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(files("set the mode of", &path))?;
        let lock_file = path.join(MARKER);
        let lock =
            File::options().create(true).append(true).open(&lock_file).map_err(files("open", &lock_file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(match read_running(&path) {
                Some(running) => StateError::Running(Box::new(running)),
                None => StateError::Busy(path),
            }),
            Err(TryLockError::Error(source)) => Err(files("lock", &lock_file)(source)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log file of a program.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// Where the programs' logs are.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The files of a host.
    pub fn host(&self, name: &str) -> PathBuf {
        self.path.join("hosts").join(name)
    }

    /// The control group that holds everything of this lab.
    pub fn cgroup(&self) -> PathBuf {
        cgroup_of(&self.path)
    }

    /// Makes the folders that every lab has.
    pub fn lay_out(&self) -> Result<(), StateError> {
        for path in [self.path.join("hosts"), self.logs()] {
            fs::create_dir_all(&path).map_err(files("make", &path))?;
        }
        Ok(())
    }

    /// Lets other commands find the running lab.
    pub fn announce(&self, running: &Running) -> Result<(), StateError> {
        let path = self.path.join("running.json");
        let text =
            serde_json::to_string_pretty(running).map_err(io::Error::other).map_err(files("write", &path))?;
        write_private(&path, &text).map_err(files("write", &path))
    }

    /// Removes what a lab leaves: control groups, mounts, files. With `keep_logs`, the logs stay.
    pub fn clean(&self, keep_logs: bool) -> Result<Cleaned, StateError> {
        let hierarchies =
            Hierarchies::of_this_machine().map_err(files("read", Path::new("/proc/self/mountinfo")))?;
        let cgroup = self.cgroup();
        let mut cleaned = Cleaned {
            control_groups: hierarchies.remove(&cgroup).map_err(files("remove control group", &cgroup))?,
            mounts: self.unmount_all()?,
            files: 0,
        };
        for entry in fs::read_dir(&self.path).map_err(files("read", &self.path))? {
            let path = entry.map_err(files("read", &self.path))?.path();
            let keep = path.ends_with(MARKER) || (keep_logs && path == self.logs());
            if !keep {
                remove(&path)?;
                cleaned.files += 1;
            }
        }
        Ok(cleaned)
    }

    /// Removes the folder itself, after [`StateDir::clean`]. Kept logs keep it.
    pub fn remove(self) -> Result<(), StateError> {
        if !self.logs().exists() {
            remove(&self.path)?;
        }
        Ok(())
    }

    /// Mounts live in the hosts' namespaces; one that is seen here was made by hand, and would be emptied with the files.
    fn unmount_all(&self) -> Result<usize, StateError> {
        let mountinfo = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(mountinfo).map_err(files("read", mountinfo))?;
        let below = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let mut unmounted = 0;
        for mount_point in below.filter(|path| path.starts_with(&self.path)) {
            umount2(mount_point, MntFlags::MNT_DETACH)
                .map_err(io::Error::from)
                .map_err(files("unmount", mount_point))?;
            unmounted += 1;
        }
        Ok(unmounted)
    }
}

/// The control group of the lab in a folder, relative to the root of each hierarchy.
pub fn cgroup_of(folder: &Path) -> PathBuf {
    let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("wisehosting-lab-{}", hex::encode(&digest[..4])))
}

/// What the lab in that folder says about itself, if one runs there.
pub fn running(path: &Path) -> Option<Running> {
    if is_claimed(path) { read_running(path) } else { None }
}

/// Whether some process holds the folder.
pub fn is_claimed(path: &Path) -> bool {
    let lock = File::open(path.join(MARKER));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Ends a lab that runs in the folder, or removes what a killed one left there.
pub async fn down(path: &Path) -> Result<Cleaned, StateError> {
    if !path.exists() {
        return Ok(Cleaned::default());
    }
    if let Some(Running { pid, .. }) = running(path) {
        end(path, pid).await?;
    }
    if !path.exists() {
        return Ok(Cleaned::default());
    }
    let state = StateDir::claim(path)?;
    let cleaned = state.clean(false)?;
    state.remove()?;
    Ok(cleaned)
}

async fn end(path: &Path, pid: i32) -> Result<(), StateError> {
    // Already gone is as good as ended.
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
    let ended = async {
        while is_claimed(path) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(END_TIMEOUT, ended).await.map_err(|_| StateError::DoesNotEnd { pid })
}

fn read_running(path: &Path) -> Option<Running> {
    serde_json::from_str(&fs::read_to_string(path.join("running.json")).ok()?).ok()
}

fn remove(path: &Path) -> Result<(), StateError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(files("remove", path))
}

fn files(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Files { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(StateDir::claim(folder.path()), Err(StateError::NotALab(_))));
        assert!(folder.path().join("thesis.txt").exists());
    }

    #[test]
    fn a_folder_is_claimed_by_one_lab_at_a_time_and_can_be_claimed_again() {
        let folder = tempfile::tempdir().unwrap();
        let claimed = StateDir::claim(folder.path()).unwrap();
        assert!(matches!(StateDir::claim(folder.path()), Err(StateError::Busy(_))));
        drop(claimed);
        StateDir::claim(folder.path()).unwrap();
    }
}
