//! A machine that nothing declares: it joins over a network outside of the mesh, by the real programs of both sides, and its agent
//! then speaks with the control plane inside. Needs root.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::time::sleep;
use wisehosting_network::{Netlink, NetworkNamespace, PrivateKey, VethEnd};

use crate::control_plane::{PATIENCE, Site};

const NAME: &str = "proxy-9";
const OUTSIDE: &str = "http://198.51.100.1:8081";
/// Where agents register: an address of the mesh alone.
const INSIDE: ([u8; 4], u16) = ([10, 50, 0, 1], 8082);
/// Long enough for an answer to a packet that nobody drops.
const SILENCE: Duration = Duration::from_millis(500);

/// A machine with a network of its own and the edge's program.
struct Machine {
    namespace: NetworkNamespace,
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let (namespace, folder) = (NetworkNamespace::create().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path().display();
        let config = format!("[state]\ndir = \"{path}/state\"\n[ingress]\nhttp = \"127.0.0.1:0\"\n");
        fs::write(folder.path().join("edge.toml"), config).unwrap();
        Self { namespace, folder }
    }

    fn command(&self) -> Command {
        let edge =
            Path::new(env!("CARGO_BIN_EXE_wisehosting-control-plane")).with_file_name("wisehosting-edge");
        assert!(edge.exists(), "{} is not there: cargo build -p wisehosting-edge", edge.display());
        let mut command = Command::new(edge);
        command.arg("--config").arg(self.folder.path().join("edge.toml")).env_remove("CREDENTIALS_DIRECTORY");
        command
    }

    /// Runs `join` with the keys in this folder.
    fn join(&self, token: &str, keys: &str) -> Output {
        let mut command = self.command();
        command.args(["join", "--control-plane", OUTSIDE, "--name", NAME, "--token-file", "-", "--json"]);
        command.arg("--keys-dir").arg(self.keys(keys));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        self.namespace.run(run).unwrap()
    }

    fn keys(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self) -> Agent {
        let mut command = self.command();
        Agent(self.namespace.run(move || command.spawn().unwrap()).unwrap())
    }

    /// What joining wrote down.
    fn settings(&self) -> String {
        fs::read_to_string(self.folder.path().join("edge.joined.toml")).unwrap()
    }

    /// Waits until what it keeps of the control plane's keys is so, which only the disk tells.
    async fn keeps(&self, is_so: impl Fn(&Value) -> bool) {
        let path = self.folder.path().join("state/mesh-hub.json");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let kept: Option<Value> =
                fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if kept.as_ref().is_some_and(&is_so) {
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                return;
            }
            assert!(Instant::now() < deadline, "{kept:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a connection into the mesh is answered.
    fn reaches_inside(&self, patience: Duration) -> bool {
        let inside = SocketAddr::from(INSIDE);
        self.namespace.run(move || TcpStream::connect_timeout(&inside, patience).is_ok()).unwrap()
    }
}

/// A running agent; it is killed at the end of the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A wire between the control plane's machine and another one, outside of the mesh.
async fn wire(control_plane: &NetworkNamespace, machine: &NetworkNamespace) {
    let ends = [control_plane, machine].map(|namespace| VethEnd { name: "eth0", namespace });
    Netlink::inside(control_plane).unwrap().add_veth(ends[0], ends[1]).await.unwrap();
    for (namespace, address) in [(control_plane, "198.51.100.1/24"), (machine, "198.51.100.9/24")] {
        let netlink = Netlink::inside(namespace).unwrap();
        netlink.set_loopback_up().await.unwrap();
        netlink.set_up("eth0").await.unwrap();
        netlink.add_address("eth0", address.parse().unwrap()).await.unwrap();
    }
}

/// Waits until the control plane has its database, which only its answer tells.
fn until_healthy(outside: &NetworkNamespace, url: String) {
    let healthy = || async move {
        let client = wisehosting_node::http::client().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = client.get(&url).send().await.unwrap();
            if answer.status().is_success() {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    outside.block_on(healthy).unwrap();
}

fn printed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A control plane that machines can join, not running yet, with its network outside of the mesh.
async fn site(pool: &PgPool, machine: &Machine) -> (Site, NetworkNamespace) {
    let (site, outside) = (Site::new(pool), NetworkNamespace::create().unwrap());
    wire(&outside, &machine.namespace).await;
    PrivateKey::generate().write_new_file(&site.folder.path().join("mesh.key")).unwrap();
    site.configure("listen = \"127.0.0.1:0\"", "listen = \"198.51.100.1:8081\"");
    site.configure("listen = \"127.0.0.1:0\"", "listen = \"10.50.0.1:8082\"");
    let sections = format!(
        "[mesh]\naddress = \"10.50.0.1/24\"\nprivate_key_file = \"{}/mesh.key\"\n\
         [join]\npool = \"10.50.0.128/25\"\nendpoint = \"198.51.100.1:51821\"\n[apps]",
        site.folder.path().display()
    );
    site.configure("[apps]", &sections);
    site.let_postgres_come();
    (site, outside)
}

#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_machine_joins_from_outside_and_is_connected_inside(pool: PgPool) {
    let machine = Machine::new();
    let (site, outside) = site(&pool, &machine).await;
    let token = || site.printed_by(&["node", "token", "create", "--role", "edge", "--uses", "3"]);
    let control_plane = outside.run(|| site.run()).unwrap();
    until_healthy(&outside, format!("{OUTSIDE}/healthz"));

    let first = token();
    let joined = printed(&machine.join(&first, "keys"));
    assert_eq!((&joined["name"], &joined["address"]), (&NAME.into(), &"10.50.0.129".into()));
    let agent = machine.run();
    control_plane.logs("connected node.role=edge node.name=proxy-9");
    assert!(machine.reaches_inside(PATIENCE));

    // Another machine by its name; and what an operator does about it.
    let refused = machine.join(&token(), "other-keys");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains("proxy-9 has joined with another key."), "{error}");
    let (_, command) = error.split_once("`wisehosting-control-plane ").expect("it says what to type");
    let command: Vec<&str> = command.split_once('`').unwrap().0.split(' ').collect();
    assert!(site.printed_by(&command).contains("proxy-9 may speak, or join again"));
    let again = printed(&machine.join(&token(), "keys"));
    assert_eq!(again, joined, "the first one is it still");

    let removed = site.printed_by(&["node", "remove", "--name", NAME]);
    assert_eq!(removed.matches("is revoked: proxy-9 knows it").count(), 2, "{removed}");
    control_plane.logs("this node was removed");
    let deadline = Instant::now() + PATIENCE;
    while machine.reaches_inside(SILENCE) {
        assert!(Instant::now() < deadline, "it is in the mesh still");
    }
    let refused = machine.join(&first, "new-keys");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("there is no such join token"), "{error}");
    let list = site.printed_by(&["node", "list"]);
    assert!(list.contains("proxy-9  edge  10.50.0.129") && list.contains("removed 2"), "{list}");
    drop(agent);
    assert_eq!(control_plane.stop().0, Some(0));
}

/// It is told of the next key, starts again before the change, and once more after it, with what joining gave in its settings.
#[sqlx::test(migrator = "wisehosting_store::MIGRATOR")]
async fn a_machine_that_joined_follows_the_control_plane_to_its_next_key(pool: PgPool) {
    const CONNECTED: &str = "connected node.role=edge node.name=proxy-9";
    let machine = Machine::new();
    let (site, outside) = site(&pool, &machine).await;
    let folder = site.folder.path();
    let control_plane = outside.run(|| site.run()).unwrap();
    until_healthy(&outside, format!("{OUTSIDE}/healthz"));
    let token = site.printed_by(&["node", "token", "create", "--role", "edge"]);
    printed(&machine.join(&token, "keys"));
    let joined_by = machine.settings();
    let agent = machine.run();
    control_plane.logs(CONNECTED);
    assert_eq!(control_plane.stop().0, Some(0));

    let next = PrivateKey::generate();
    next.write_new_file(&folder.join("next.key")).unwrap();
    let next = next.public_key().to_string();
    site.configure("[join]", &format!("[join]\nnext_public_key = \"{next}\""));
    let control_plane = outside.run(|| site.run()).unwrap();
    control_plane.logs(CONNECTED);
    machine.keeps(|keys| keys["next"] == *next).await;
    drop(agent);
    assert_eq!(control_plane.stop().0, Some(0));

    fs::rename(folder.join("next.key"), folder.join("mesh.key")).unwrap();
    let control_plane = outside.run(|| site.run()).unwrap();
    let agent = machine.run();
    control_plane.logs(CONNECTED);
    machine.keeps(|keys| keys["hub"] == *next && keys["next"].is_null()).await;
    drop(agent);
    assert_eq!(control_plane.stop().0, Some(0));

    let control_plane = outside.run(|| site.run()).unwrap();
    let agent = machine.run();
    control_plane.logs(CONNECTED);
    assert_eq!(machine.settings(), joined_by, "it has not joined again");
    drop(agent);
    assert_eq!(control_plane.stop().0, Some(0));
}
