//! The program itself: its command line, its start without a control plane, its end.

use crate::surroundings::{Instance, PATIENCE, exchange, own_ip, parse, table, within};
use command_fds::{CommandFdExt, FdMapping};
use http::StatusCode;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::{Child, Command, Output, Stdio},
};
use wisehosting_edge::table::file::TableFile;

/// A state directory with a configuration file in it.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn new(ingress: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        fs::write(directory.path().join("key"), "an API key\n").unwrap();
        let config = format!(
            r#"
[control_plane]
url = "http://127.0.0.1:1"
name = "proxy-1"
api_key_file = "{path}/key"
[ingress]
{ingress}
[state]
dir = "{path}/state"
"#
        );
        fs::write(directory.path().join("edge.toml"), config).unwrap();
        Self { directory }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wisehosting-edge"));
        command.arg("--config").arg(self.directory.path().join("edge.toml"));
        command
    }

    fn check(&self) -> Output {
        self.command().arg("check-config").output().unwrap()
    }
}

/// The program while it runs; killed when a test fails.
struct Program(Child);

impl Program {
    fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    SocketAddr::new(own_ip(), 8080)
}

#[tokio::test]
async fn it_serves_the_saved_table_while_the_control_plane_is_away() {
    let instance = Instance::named("saved").await;
    let address = free_address();
    let host = Host::new(&format!("http = \"{address}\""));
    let file = TableFile::open(&host.directory.path().join("state")).unwrap();
    file.save(&table(9, &[("a.localhost", &[&instance.upstream])])).unwrap();
    let program = Program(host.command().stderr(Stdio::null()).spawn().unwrap());
    while TcpStream::connect(address).is_err() {
        tokio::task::yield_now().await;
    }
    let response =
        exchange(address, "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(parse(&response), (StatusCode::OK, "saved".to_owned()));
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test]
async fn a_passed_socket_wins_over_the_configured_address() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (passed, configured) = (socket.local_addr().unwrap(), free_address());
    let host = Host::new(&format!("http = \"{configured}\""));
    let mut command = host.command();
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").stderr(Stdio::null());
    let mapping = FdMapping { parent_fd: socket.into(), child_fd: 3 };
    let program = Program(command.fd_mappings(vec![mapping]).unwrap().spawn().unwrap());
    let response = exchange(passed, "GET / HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(parse(&response).0, StatusCode::SERVICE_UNAVAILABLE, "it has no routes yet");
    assert!(TcpStream::connect(configured).is_err());
    drop(command);
    assert_eq!(program.terminate(), Some(0));
    // A program that another test starts in this moment holds it, too, until it runs.
    within(async {
        while TcpStream::connect(passed).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn the_service_manager_hears_that_it_serves_and_then_again_and_again_that_it_lives() {
    let host = Host::new(&format!("http = \"{}\"", free_address()));
    let path = host.directory.path().join("notify");
    let heard = UnixDatagram::bind(&path).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = host.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").stderr(Stdio::null());
    let program = Program(command.spawn().unwrap());
    for expected in ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"] {
        let mut message = [0; 64];
        let length = heard.recv(&mut message).unwrap();
        assert_eq!(str::from_utf8(&message[..length]), Ok(expected));
    }
    assert_eq!(program.terminate(), Some(0));
}

#[tokio::test]
async fn requests_are_logged_when_the_filter_asks_for_it() {
    let address = free_address();
    let log = "[log]\nformat = \"json\"\nfilter = \"warn,access=debug\"";
    let host = Host::new(&format!("http = \"{address}\"\n{log}"));
    let mut program = Program(host.command().stderr(Stdio::piped()).spawn().unwrap());
    while TcpStream::connect(address).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let request = "GET /path?secret=1 HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n";
    let (_, page) = parse(&exchange(address, request).await);
    let mut stderr = program.0.stderr.take().unwrap();
    program.terminate();
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    let entry = log.lines().find(|line| line.contains("\"access\"")).expect("an entry");
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
    let fields = &entry["fields"];
    assert_eq!((&fields["method"], &fields["host.name"]), (&"GET".into(), &"a.localhost".into()), "{entry}");
    assert_eq!((&fields["path"], &fields["status"]), (&"/path".into(), &503.into()), "{entry}");
    assert_eq!((&fields["visitor"], &fields["bytes"]), (&"127.0.0.1".into(), &page.len().into()), "{entry}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn a_bad_configuration_is_named_and_exits_with_78() {
    assert_eq!(Host::new("http = \"127.0.0.1:0\"").check().status.code(), Some(0));
    for (ingress, named) in [
        ("https = \"127.0.0.1:0\"", "ingress.tls.certificates_dir: is not set"),
        ("[ingress.acme]\nterms_agreed = false", "ingress.acme.terms_agreed: is false: read the terms"),
        (
            "[ingress.acme]\nterms_agreed = true\ndirectory = \"http://a\"",
            "ingress.acme.directory: is not an https",
        ),
        ("traefik.dynamic_dir = \"/no\"", "ingress.traefik.dynamic_dir: /no is not a directory"),
        ("traefik.dynamic_dir = \"/tmp\"\ntraefik.entrypoint = \"a b\"", "\"a b\" is no name"),
        (
            "http = \"127.0.0.1:0\"\ntraefik.dynamic_dir = \"/tmp\"",
            "ingress.traefik: is set beside other settings",
        ),
        ("http = \"here\"", "edge.toml:7: ingress.http: "),
        ("htpp = \"127.0.0.1:0\"", "edge.toml:7: ingress.htpp: unknown field"),
    ] {
        let output = Host::new(ingress).check();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(named), "{text}");
    }
    let orders = "https = \"127.0.0.1:0\"\n[ingress.acme]\nterms_agreed = true";
    assert_eq!(Host::new(orders).check().status.code(), Some(0), "certificates may come by ACME alone");
    let gateway = |lines: &str| format!("http = \"127.0.0.1:0\"\n[gateway]\n{lines}");
    for (lines, named) in [
        ("listen = \"0.0.0.0:1\"", "gateway.listen: is neither this host's address"),
        ("listen = \"127.0.0.1:1\"", "gateway.interface: is not set"),
        ("listen = \"127.0.0.1:1\"\ninterface = \"wh0\"", "gateway.allowed_targets: is empty"),
        (
            "listen = \"127.0.0.1:1\"\ninterface = \"wh0\"\nallowed_targets = [\"10.50.0.0/24\"]",
            "gateway.token_file: is not set, and there is no systemd credential \"gateway.token\"",
        ),
    ] {
        let output = Host::new(&gateway(lines)).check();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && text.contains(named), "{text}");
    }
    let nothing_to_serve = Host::new("").command().output().unwrap();
    assert_eq!(nothing_to_serve.status.code(), Some(78));
    let host = Host::new("http = \"127.0.0.1:0\"");
    fs::remove_file(host.directory.path().join("key")).unwrap();
    let text = String::from_utf8(host.check().stderr).unwrap();
    assert!(text.contains("control_plane.api_key_file: cannot read"), "{text}");
}
