//! A private Postgres: a cluster in a folder, run by an unprivileged user, on a unix socket and nothing else.
//!
//! This module only says how the programs are called and when the server is ready; the caller starts them. The data is
//! thrown away with the lab: nothing is synced to disk, and in a host it stands on the memory-backed `/run`.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::User;

/// The user that owns the cluster and the database of that name, within Postgres.
pub const NAME: &str = "wisehosting";

/// What is committed outlives the server's processes, not the machine.
const SETTINGS: [&str; 5] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "unix_socket_permissions=0700",
    "shared_buffers=32MB",
];

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No programs.
    #[error("Postgres is not installed (looked in /usr/lib/postgresql and in PATH)")]
    NotInstalled,
    /// Nobody to run it as.
    #[error("neither the user postgres nor nobody exists, and Postgres refuses to run as root")]
    NoUser,
    /// The folder could not be prepared.
    #[error("cannot prepare the folder {path} for Postgres")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A cluster's programs, user and places.
#[derive(Debug, Clone)]
pub struct Cluster {
    programs: PathBuf,
    user: User,
    /// How we reach the root directory that the programs see.
    root: PathBuf,
    data: PathBuf,
    socket_directory: PathBuf,
}

impl Cluster {
    /// A cluster whose programs see `root` as their root directory, keep their data in `data` and their socket in
    /// `socket_directory`. Both folders are made here and given to the unprivileged user.
    pub fn prepare(root: &Path, data: &Path, socket_directory: &Path) -> Result<Self, PostgresError> {
        let programs = find_programs().ok_or(PostgresError::NotInstalled)?;
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .ok_or(PostgresError::NoUser)?;
        let cluster = Self {
            programs,
            user,
            root: root.to_owned(),
            data: data.to_owned(),
            socket_directory: socket_directory.to_owned(),
        };
        for folder in [data, socket_directory] {
            let folder = cluster.outside(folder);
            cluster
                .make_folder(&folder)
                .map_err(|source| PostgresError::Folder { path: folder.clone(), source })?;
        }
        Ok(cluster)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let (user, group) = self.user();
        fs::create_dir_all(folder)?;
        chown(folder, Some(user), Some(group))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
    }

    /// A path of the programs as we reach it.
    fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// User and group that the programs run as.
    pub fn user(&self) -> (u32, u32) {
        (self.user.uid.as_raw(), self.user.gid.as_raw())
    }

    /// Makes the files of an empty cluster: program and arguments.
    pub fn initdb(&self) -> (PathBuf, Vec<String>) {
        let arguments = [
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "--no-instructions",
            &format!("--username={NAME}"),
            &format!("--pgdata={}", self.data.display()),
        ];
        (self.programs.join("initdb"), arguments.map(str::to_owned).to_vec())
    }

    /// Serves until it is told to end: program and arguments.
    pub fn server(&self) -> (PathBuf, Vec<String>) {
        let mut arguments = vec![
            "-D".to_owned(),
            self.data.display().to_string(),
            "-k".to_owned(),
            self.socket_directory.display().to_string(),
        ];
        for setting in SETTINGS {
            arguments.extend(["-c".to_owned(), setting.to_owned()]);
        }
        (self.programs.join("postgres"), arguments)
    }

    /// Makes the database [`NAME`] in a running server: program and arguments.
    pub fn createdb(&self) -> (PathBuf, Vec<String>) {
        let host = format!("--host={}", self.socket_directory.display());
        let arguments = [&host, "--username", NAME, "--no-password", NAME];
        (self.programs.join("createdb"), arguments.map(str::to_owned).to_vec())
    }

    /// Whether the server takes connections: it says so in the last line of its process file.
    pub fn is_ready(&self) -> bool {
        fs::read_to_string(self.outside(&self.data).join("postmaster.pid"))
            .is_ok_and(|state| state.trim_end().ends_with("ready"))
    }

    /// Where clients in the same host find the database.
    pub fn url(&self) -> String {
        format!("postgres://{NAME}@localhost/{NAME}?host={}", self.socket_directory.display())
    }
}

/// The folder of the newest Postgres: Debian has one for each version, others have it in `PATH`.
pub fn find_programs() -> Option<PathBuf> {
    let version = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| folder.join("bin/initdb").exists())
        .max_by_key(version);
    if let Some(folder) = newest {
        return Some(folder.join("bin"));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
}
