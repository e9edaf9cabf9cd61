//! A private Postgres for tests and generators.
//!
//! The cluster lives in a new folder below /tmp, listens on a unix socket in that folder and on nothing else, and
//! belongs to an unprivileged user, because `postgres` refuses to run as root. It ends with the value that owns it;
//! should xtask be killed, the kernel stops the server and the next run removes the folder.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, User};

use crate::command;

/// Socket paths end at 107 bytes and users' own temporary folders are closed to the server's user: hence /tmp.
const PARENT: &str = "/tmp";
const PREFIX: &str = "wisehosting-postgres-";
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Durability is of no use to data that is thrown away.
const SETTINGS: [&str; 7] = [
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=300",
    "unix_socket_permissions=0700",
    "log_min_messages=fatal",
];

/// A running server; dropping it stops the server and removes its files.
pub(crate) struct Postgres {
    server: Child,
    programs: PathBuf,
    folder: PathBuf,
    /// Held as long as we live: an unlocked folder is a leftover.
    _lock: File,
}

impl Postgres {
    /// Creates an empty cluster and waits until it takes connections.
    pub(crate) fn start() -> anyhow::Result<Self> {
        remove_leftovers();
        let programs = find_programs()?;
        let user = server_user()?;
        let (folder, lock) = create_folder(user.as_ref())?;
        let data = folder.join("data");
        let mut initdb = as_user(user.as_ref(), &programs.join("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]);
        initdb.arg("--pgdata").arg(&data).current_dir(&folder).stdout(Stdio::null());

        let mut postgres = as_user(user.as_ref(), &programs.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(&folder).current_dir(&folder);
        for setting in SETTINGS {
            postgres.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C is for the command that uses the server.
        postgres.process_group(0).stdin(Stdio::null());

        let server = command::run(&mut initdb).and_then(|()| postgres.spawn().context("start postgres"));
        let server = server.inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
        let mut started = Self { server, programs, folder, _lock: lock };
        started.wait_until_ready()?;
        Ok(started)
    }

    /// The address of the superuser's database, as sqlx and psql take it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.display())
    }

    /// A command for one of Postgres' own client programs.
    pub(crate) fn client(&self, program: &str) -> Command {
        Command::new(self.programs.join(program))
    }

    /// The server writes its state into the last line of `postmaster.pid`; to read it disturbs nobody's log.
    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let state = self.folder.join("data/postmaster.pid");
        while !fs::read_to_string(&state).is_ok_and(|state| state.trim_end().ends_with("ready")) {
            if let Some(status) = self.server.try_wait().context("watch postgres")? {
                bail!("postgres ended while starting: {status}");
            }
            if Instant::now() > deadline {
                bail!("postgres takes no connections after {START_TIMEOUT:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is the "fast" shutdown: clients are disconnected.
        let stopped = kill(pid_of(&self.server), Signal::SIGINT).map_err(std::io::Error::from);
        if let Err(error) = stopped.and_then(|()| self.server.wait()) {
            eprintln!("xtask: postgres was not stopped: {error}");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: {} was not removed: {error}", self.folder.display());
        }
    }
}

/// Runs `command` with a private Postgres in `DATABASE_URL` and returns its exit code (128 + n after signal n).
///
/// Queries are checked against `.sqlx/`, not against that database, which is empty.
pub(crate) fn run_command(command: &[OsString]) -> anyhow::Result<ExitCode> {
    let [program, arguments @ ..] = command else { bail!("no command to run") };
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let postgres = Postgres::start()?;
    let mut user = Command::new(program);
    command::forget_own_package(&mut user);
    user.args(arguments).env("DATABASE_URL", postgres.url()).env("SQLX_OFFLINE", "true");
    let mut child = user.spawn().with_context(|| format!("start {}", program.display()))?;
    // From here on the command decides when to end; we outlive it and clean up. (Blocked earlier, these signals
    // would be blocked in the command as well.)
    signals.thread_block().context("block signals")?;
    let child_pid = pid_of(&child);
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // The command has ended when this fails, and so will we.
            let _ = kill(child_pid, signal);
        }
    });
    let status = child.wait().context("wait for the command")?;
    drop(postgres);
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// The folder of the newest Postgres: Debian keeps each version's programs in a folder of its own, Nix in PATH.
fn find_programs() -> anyhow::Result<PathBuf> {
    let version = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let debian =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    if let Some(newest) =
        debian.filter(|folder| folder.join("bin/postgres").exists()).max_by_key(|f| version(f))
    {
        return Ok(newest.join("bin"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
        .context("Postgres is not installed: run `./dev setup`")
}

/// Whom to run the server as: `None` for ourselves, when we are not root.
fn server_user() -> anyhow::Result<Option<User>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).context("look up the server's user")? {
            return Ok(Some(user));
        }
    }
    bail!("neither the user postgres nor nobody exists: Postgres cannot run as root");
}

/// `program` without privileges, and told to stop when we die. (setpriv: util-linux, on every Linux system.)
fn as_user(user: Option<&User>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command
            .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)])
            .arg("--clear-groups");
    }
    command.args(["--pdeathsig", "INT", "--"]).arg(program);
    command
}

fn create_folder(user: Option<&User>) -> anyhow::Result<(PathBuf, File)> {
    let folder =
        tempfile::Builder::new().prefix(PREFIX).tempdir_in(PARENT).context("create a folder in /tmp")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700))
        .context("close the folder to others")?;
    if let Some(user) = user {
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .context("give the folder away")?;
    }
    let lock = File::open(folder.path()).context("open the folder")?;
    lock.try_lock().context("lock the folder")?;
    Ok((folder.keep(), lock))
}

/// Removes the folders of runs that were killed. Best effort: what cannot be read belongs to another user.
fn remove_leftovers() {
    for entry in fs::read_dir(PARENT).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let finished = name.to_str().is_some_and(|name| name.starts_with(PREFIX))
            && entry.path().join("data/PG_VERSION").exists()
            && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if finished {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id of Linux fits 31 bits"))
}
