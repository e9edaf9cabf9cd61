//! A private Podman for tests, on a host of its own: network, mount and process namespaces that end with the test.
//!
//! Invariant: nothing of the machine is used or changed but its programs (`podman`, `busybox`, and util-linux's
//! `unshare` and `setpriv`) and its kernel; when the test ends, even by SIGKILL, the kernel takes everything back.

use crate::{
    podman::Podman,
    service::{HardLimits, Service, ServiceCommand},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    panic,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The address that the host has, as a worker has its mesh address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 11);

/// Where Podman keeps the network namespaces of containers, each a mount.
const NAMESPACES_DIR: &str = "/run/netns";

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A host with a Podman.
#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    driver: Option<&'static str>,
    service: Child,
}

impl Host {
    /// Its Podman.
    #[must_use]
    pub fn podman(&self) -> Podman {
        let name = self.dir.path().file_name().unwrap_or_default().to_string_lossy();
        Podman::new(self.socket()).with_build_slice(format!("wisehosting_builds{name}.slice"))
    }

    /// The path of Podman's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// A folder that is removed with the host.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts Podman again, on what the one before has left.
    pub fn restart(&mut self) {
        self.service = start_service(self.dir.path(), self.driver);
    }

    /// Ends Podman and everything that runs in it, as a power cut would.
    pub fn cut_power(&mut self) {
        self.service.kill().expect("killing the private Podman");
        self.service.wait().expect("waiting for the private Podman");
        for namespace in fs::read_dir(NAMESPACES_DIR).expect("the namespaces").flatten() {
            // Those that Podman was taking down are no mounts any more.
            let _ = umount2(&namespace.path(), MntFlags::MNT_DETACH);
        }
        for dir in ["/run/wisehosting-podman", "/run/containers", NAMESPACES_DIR, "/run/runc", "/run/crun"] {
            // Those that this Podman never made are not there.
            let _ = fs::remove_dir_all(dir);
        }
        // Its locks.
        let _ = fs::remove_file("/dev/shm/libpod_lock");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.service.kill();
        let _ = self.service.wait();
        // Fails where the folder is no disk of its own.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs a test on a fresh host. Every thread that the test starts stands in the host's namespaces.
///
/// # Panics
/// Without root, without the programs, and when the test panics.
pub fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    on_host_in(None, test);
}

/// The same, on a host whose folder is a disk of its own.
///
/// # Panics
/// Without the programs that make such a file system, too.
pub fn on_host_with_disk<F: Future<Output = ()>>(disk: Disk, test: impl FnOnce(Host) -> F + Send + 'static) {
    on_host_in(Some(disk), test);
}

/// A disk in a file.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Its size.
    pub bytes: u64,
    /// `ext4`, `xfs` or `btrfs`.
    pub file_system: &'static str,
}

impl Disk {
    /// Makes a file system and mounts it at a folder, for as long as it is mounted somewhere.
    ///
    /// # Panics
    /// Without root, or without the programs.
    pub fn mount(self, dir: &Path) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(self.bytes).expect("its size");
        let quiet = if self.file_system == "ext4" { "-Fq" } else { "-q" };
        said(Command::new(format!("mkfs.{}", self.file_system)).arg(quiet).arg(file.path()));
        let device = said(Command::new("losetup").args(["--find", "--show"]).arg(file.path()));
        let device = device.trim();
        let mounted = mount(Some(device), dir, Some(self.file_system), MsFlags::empty(), None::<&str>);
        // Once it is not mounted any more.
        said(Command::new("losetup").args(["--detach", device]));
        mounted.expect("mounting a disk");
    }
}

/// What a program prints.
fn said(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

fn on_host_in<F: Future<Output = ()>>(disk: Option<Disk>, test: impl FnOnce(Host) -> F + Send + 'static) {
    let host = thread::spawn(move || {
        enter_namespaces();
        let dir = tempfile::tempdir().expect("a folder");
        if let Some(disk) = disk {
            disk.mount(dir.path());
        }
        // Elsewhere the driver of that name does not work; here it holds limits.
        let driver = disk.map(|disk| disk.file_system).filter(|file_system| *file_system == "btrfs");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            bring_loopback_up().await;
            let service = start_service(dir.path(), driver);
            test(Host { dir, driver, service }).await;
        });
    });
    if let Err(cause) = host.join() {
        panic::resume_unwind(cause);
    }
}

fn enter_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .expect("making namespaces: these tests run as root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("making mounts private");
    for dir in ["/run", "/dev/shm"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), none).expect("mounting a private folder");
    }
    // What Podman mounts here, in a mount namespace of its own, is seen by the test as a worker would see it.
    fs::create_dir(NAMESPACES_DIR).expect("a folder");
    mount(Some(NAMESPACES_DIR), NAMESPACES_DIR, none, MsFlags::MS_BIND, none).expect("mounting a folder");
    mount(none, NAMESPACES_DIR, none, MsFlags::MS_SHARED, none).expect("sharing a folder");
}

async fn bring_loopback_up() {
    let (connection, netlink, _) = rtnetlink::new_connection().expect("a netlink socket");
    let connection = tokio::spawn(connection);
    let loopback = rtnetlink::LinkUnspec::new_with_index(1).up().build();
    netlink.link().set(loopback).execute().await.expect("bringing the loopback up");
    netlink.address().add(1, IpAddr::V4(ADDRESS), 32).execute().await.expect("giving the host its address");
    connection.abort();
}

fn start_service(dir: &Path, driver: Option<&'static str>) -> Child {
    let socket = dir.join("podman.sock");
    // One that a service which was killed has left.
    let _ = fs::remove_file(&socket);
    let service = Service {
        state_dir: dir.join("podman"),
        socket: socket.clone(),
        hard_limits: HardLimits::of_this_process().expect("limits"),
        driver,
    };
    let command = service.prepare().expect("settings of the private Podman");
    // Where the engine's helpers leave a file when a program ran out of memory.
    let service = in_process_namespace(&command).current_dir(dir).spawn();
    let mut service = service.expect("starting podman: is it installed?");
    let deadline = Instant::now() + START_TIMEOUT;
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "the private Podman does not start");
        assert!(service.try_wait().expect("its state").is_none(), "the private Podman ended at once");
        thread::sleep(Duration::from_millis(10));
    }
    service
}

/// The first process of a process namespace takes all others with it, and dies with this one.
fn in_process_namespace(service: &ServiceCommand) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]);
    command.args(["--propagation", "unchanged"]);
    command.arg(&service.program).args(&service.args).envs(service.env.iter().cloned());
    command
}

/// Makes `dir` a repository's content: a Dockerfile that needs no other image and runs `script` with busybox's shell.
/// `extra` are further lines of the Dockerfile; `RUN` works in them.
///
/// # Panics
/// If the folder cannot be written or busybox is not installed.
pub fn write_app(dir: &Path, extra: &str, script: &str) {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox is not installed: apt-get install busybox-static");
    fs::create_dir_all(dir).expect("a folder");
    fs::copy(busybox, dir.join("busybox")).expect("copying busybox");
    let command = serde_json::json!(["/bin/busybox", "sh", "-c", script]);
    let dockerfile =
        format!("FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n{extra}\nCMD {command}\n");
    fs::write(dir.join("Dockerfile"), dockerfile).expect("writing the Dockerfile");
}
