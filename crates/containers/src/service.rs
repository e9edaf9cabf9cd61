//! How a private Podman is started: one that keeps images, containers and networks in a folder of its own.
//!
//! `wisehosting up` starts it in the worker's namespaces, the tests in theirs. On a production worker the system's own
//! `podman.socket` is used and nothing of this is. The caller gives the service a mount namespace in which `/run`
//! and `/dev/shm` are private: Podman's network state, mount points and locks are there, wherever its folders are.
//!
//! Invariant: no file outside the given folder and the private `/run` is written, and none of the machine's Podman
//! settings is read.

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// What ends with the host. Podman knows by it that the host has been started anew.
const RUN_DIR: &str = "/run/wisehosting-podman";
/// Stands for a limit of `unlimited`: the kernel's own ceiling for open files.
const NO_LIMIT: u64 = 1_048_576;

/// Why a private Podman cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A folder or a settings file.
    #[error("preparing the folder of the private Podman at {path}")]
    Prepare {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The limits of this process are not readable.
    #[error("reading this process's own limits from /proc/self/limits")]
    Limits(#[source] io::Error),
}

/// Ceilings that the machine sets on this process. A container runtime without the right to raise them refuses to
/// start any container that asks for more, and Podman's defaults ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardLimits {
    /// Open files.
    pub nofile: u64,
    /// Processes of one user.
    pub nproc: u64,
}

impl HardLimits {
    /// The limits of the calling process.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable.
    pub fn of_this_process() -> Result<Self, ServiceError> {
        let text = fs::read_to_string("/proc/self/limits").map_err(ServiceError::Limits)?;
        Ok(Self { nofile: hard_limit(&text, "Max open files"), nproc: hard_limit(&text, "Max processes") })
    }
}

fn hard_limit(limits: &str, name: &str) -> u64 {
    let row = limits.lines().find_map(|line| line.strip_prefix(name));
    let hard = row.and_then(|row| row.split_whitespace().nth(1)).and_then(|hard| hard.parse().ok());
    hard.unwrap_or(NO_LIMIT).min(NO_LIMIT)
}

/// Where a private Podman keeps its things.
#[derive(Clone, Debug)]
pub struct Service {
    /// What outlives the host is kept below this folder. It is made if it is missing.
    pub state_dir: PathBuf,
    /// Where the API socket is to be. Its folder must exist.
    pub socket: PathBuf,
    /// What containers may have at most.
    pub hard_limits: HardLimits,
    /// How images and containers are stored; where it is not given, as layers above each other, if the file system can do that.
    pub driver: Option<&'static str>,
}

/// The program to run, which serves until it is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCommand {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// To be added to its environment.
    pub env: Vec<(&'static str, OsString)>,
}

impl ServiceCommand {
    /// The same, ready to be spawned.
    #[must_use]
    pub fn to_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned());
        command
    }
}

impl Service {
    /// Makes the folders, writes the settings and returns the command.
    ///
    /// # Errors
    /// A folder or file cannot be written.
    pub fn prepare(&self) -> Result<ServiceCommand, ServiceError> {
        for name in ["storage", "networks", "tmp", "home/.config/containers"] {
            make_dir(&self.state_dir.join(name))?;
        }
        let fitting = if is_overlay(&self.state_dir)? { "vfs" } else { "overlay" };
        self.write("containers.conf", &self.containers_conf())?;
        self.write("storage.conf", &self.storage_conf(self.driver.unwrap_or(fitting)))?;
        self.write("registries.conf", REGISTRIES_CONF)?;
        self.write("home/.config/containers/policy.json", POLICY_JSON)?;
        Ok(self.command())
    }

    fn command(&self) -> ServiceCommand {
        let mut socket = OsString::from("unix://");
        socket.push(&self.socket);
        let args = vec![
            "--root".into(),
            self.path("storage"),
            "--runroot".into(),
            RUN_DIR.into(),
            "--tmpdir".into(),
            format!("{RUN_DIR}/libpod").into(),
            "system".into(),
            "service".into(),
            "--time".into(),
            "0".into(),
            socket,
        ];
        let env = vec![
            ("CONTAINERS_CONF", self.path("containers.conf")),
            ("CONTAINERS_STORAGE_CONF", self.path("storage.conf")),
            ("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf")),
            ("HOME", self.path("home")),
            ("TMPDIR", self.path("tmp")),
        ];
        ServiceCommand { program: "podman".into(), args, env }
    }

    fn containers_conf(&self) -> String {
        let HardLimits { nofile, nproc } = self.hard_limits;
        let networks = toml_string(&self.state_dir.join("networks"));
        let runtime = if is_pure_cgroup_v2(Path::new("/sys/fs/cgroup")) { "crun" } else { "runc" };
        format!(
            "[containers]\n\
             default_ulimits = [\"nofile={nofile}:{nofile}\", \"nproc={nproc}:{nproc}\"]\n\
             log_driver = \"k8s-file\"\n\
             \n\
             [engine]\n\
             cgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\n\
             runtime = \"{runtime}\"\n\
             \n\
             [network]\n\
             network_backend = \"netavark\"\n\
             network_config_dir = {networks}\n"
        )
    }

    fn storage_conf(&self, driver: &str) -> String {
        let graphroot = toml_string(&self.state_dir.join("storage"));
        format!("[storage]\ndriver = \"{driver}\"\ngraphroot = {graphroot}\nrunroot = \"{RUN_DIR}\"\n")
    }

    fn path(&self, name: &str) -> OsString {
        self.state_dir.join(name).into()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ServiceError> {
        let path = self.state_dir.join(name);
        fs::write(&path, text).map_err(|source| ServiceError::Prepare { path, source })
    }
}

/// Short names such as `node:22` mean Docker Hub, as everybody's Dockerfile takes for granted.
const REGISTRIES_CONF: &str =
    "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"disabled\"\n";

/// No image signatures are asked for. Found by Podman through `HOME`.
const POLICY_JSON: &str = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}\n";

fn make_dir(path: &Path) -> Result<(), ServiceError> {
    fs::create_dir_all(path).map_err(|source| ServiceError::Prepare { path: path.to_owned(), source })
}

/// The overlay driver cannot stand on an overlay: there every layer is copied whole.
fn is_overlay(path: &Path) -> Result<bool, ServiceError> {
    let stat = statfs(path);
    let stat = stat.map_err(|e| ServiceError::Prepare { path: path.to_owned(), source: e.into() })?;
    Ok(stat.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// crun, the better runtime, refuses a machine that mounts cgroup v1 and v2 side by side; runc takes it.
fn is_pure_cgroup_v2(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_third_column() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             96365                96000                processes \n\
                    Max open files            1024                 unlimited            files     \n";
        assert_eq!(hard_limit(text, "Max processes"), 96_000);
        assert_eq!(hard_limit(text, "Max open files"), NO_LIMIT);
    }

    #[test]
    fn all_settings_stay_below_the_given_folder() {
        let dir = tempfile::tempdir().expect("folder");
        let hard_limits = HardLimits { nofile: 4096, nproc: 1024 };
        let service = Service {
            state_dir: dir.path().to_owned(),
            socket: dir.path().join("podman.sock"),
            hard_limits,
            driver: None,
        };
        let command = service.prepare().expect("prepare");
        assert!(command.env.iter().all(|(_, value)| Path::new(value).starts_with(dir.path())));
        let conf = fs::read_to_string(dir.path().join("containers.conf")).expect("written");
        assert!(conf.contains("nofile=4096:4096") && conf.contains("nproc=1024:1024"), "{conf}");
    }
}
