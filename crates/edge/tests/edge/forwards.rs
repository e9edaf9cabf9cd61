//! Port forwards of the program, through its API and real packets. Needs root.

use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use wisehosting_network::{
    BackendChoice, Netlink, NetworkNamespace,
    testing::{TunnelEnd, tunnel, wire},
};

pub(crate) const PUBLIC: &str = "203.0.113.1";
const API: &str = "10.50.0.30:8082";
const TOKEN: &str = "a token of the gateway";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client outside, the gateway, and a server in the mesh that knows no way but to its own network.
pub(crate) struct Hosts {
    pub(crate) client: NetworkNamespace,
    pub(crate) gateway: NetworkNamespace,
    pub(crate) server: NetworkNamespace,
    pub(crate) directory: TempDir,
    /// The ends of a tunnel between gateway and server, if there is one.
    _tunnel: Option<[TunnelEnd; 2]>,
}

/// The gateway's program; killed when it is dropped.
pub(crate) struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Hosts {
    async fn new() -> Self {
        let tls = "tls.certificates_dir = \"{path}\"";
        Self::with_ingress(&format!("http = \"127.0.0.1:80\"\nhttps = \"127.0.0.1:443\"\n{tls}")).await
    }

    /// With this in `[ingress]`, where `{path}` is the directory.
    pub(crate) async fn with_ingress(ingress: &str) -> Self {
        let [client, gateway, server] = [(); 3].map(|()| NetworkNamespace::create().unwrap());
        wire((&server, "wh0", "10.50.0.11/24"), (&gateway, "wh0", "10.50.0.30/24")).await;
        Self::of(ingress, client, gateway, server, None).await
    }

    /// The same, with WireGuard between gateway and server.
    pub(crate) async fn with_mesh(ingress: &str) -> Self {
        let [client, gateway, server] = [(); 3].map(|()| NetworkNamespace::create().unwrap());
        let tunnel = tunnel(&server, &gateway, BackendChoice::Auto).await;
        Self::of(ingress, client, gateway, server, Some(tunnel)).await
    }

    async fn of(
        ingress: &str,
        client: NetworkNamespace,
        gateway: NetworkNamespace,
        server: NetworkNamespace,
        tunnel: Option<[TunnelEnd; 2]>,
    ) -> Self {
        wire((&client, "eth0", "203.0.113.9/24"), (&gateway, "eth0", "203.0.113.1/24")).await;
        Netlink::inside(&gateway).unwrap().set_loopback_up().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        fs::write(directory.path().join("key"), "an API key\n").unwrap();
        fs::write(directory.path().join("token"), TOKEN).unwrap();
        let config = format!(
            r#"
[control_plane]
url = "http://127.0.0.1:1"
name = "proxy-1"
api_key_file = "{path}/key"
[ingress]
{}
[gateway]
listen = "{API}"
token_file = "{path}/token"
interface = "wh0"
allowed_targets = ["10.50.0.0/24"]
[state]
dir = "{path}/state"
"#,
            ingress.replace("{path}", &path.to_string())
        );
        fs::write(directory.path().join("edge.toml"), config).unwrap();
        Self { client, gateway, server, directory, _tunnel: tunnel }
    }

    /// Starts the program and waits until its API answers.
    pub(crate) fn start(&self) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wisehosting-edge"));
        command.arg("--config").arg(self.directory.path().join("edge.toml"));
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.stderr(log);
        let mut gateway = Gateway(self.gateway.run(|| command.spawn().unwrap()).unwrap());
        while self.server.run(|| TcpStream::connect(API)).unwrap().is_err() {
            assert!(gateway.0.try_wait().unwrap().is_none(), "the program ended");
            thread::sleep(Duration::from_millis(10));
        }
        gateway
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What the program has logged so far.
    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    fn request(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.server.run(|| TcpStream::connect(API).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.request(TOKEN, method, path, body)
    }

    pub(crate) fn refusal(&self, path: &str, body: &Value) -> (u16, String) {
        let (status, body) = self.ask("POST", path, body);
        (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
    }

    /// What the server says to a connection from outside.
    fn visit(&self, port: u16) -> std::io::Result<String> {
        let address: SocketAddr = format!("{PUBLIC}:{port}").parse().unwrap();
        let mut stream = self.client.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Says to each connection where it came from, and sends each datagram back.
    fn serve(&self) {
        let listener = self.server.run(|| TcpListener::bind("10.50.0.11:2022").unwrap()).unwrap();
        let socket = self.server.run(|| UdpSocket::bind("10.50.0.11:5353").unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                write!(stream, "{}", stream.peer_addr().unwrap().ip()).unwrap();
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
    }

    fn echo(&self, port: u16) {
        let socket = self.client.run(|| UdpSocket::bind("203.0.113.9:0").unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hello", (PUBLIC, port)).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
    }

    /// As a reload of a firewall does.
    fn flush(&self) {
        let flush = || Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
        assert!(self.gateway.run(flush).unwrap().success());
    }

    fn ruleset(&self) -> String {
        let output = self.gateway.run(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap());
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

fn ssh() -> Value {
    json!({ "forward_id": "vm-123-ssh", "public_port": 22015, "target_ip": "10.50.0.11", "target_port": 2022, "proto": "tcp" })
}

fn dns() -> Value {
    json!({ "forward_id": "dns", "public_port": 53, "target_ip": "10.50.0.11", "target_port": 5353 })
}

#[tokio::test]
async fn forwards_carry_until_they_are_removed_through_restarts_of_the_gateway() {
    let hosts = Hosts::new().await;
    hosts.serve();
    let gateway = hosts.start();
    hosts.visit(22_015).expect_err("nothing is forwarded yet");
    assert_eq!(hosts.ask("POST", "/tcp/forwards", &ssh()), (201, ssh()));
    assert_eq!(hosts.ask("POST", "/tcp/forwards", &ssh()).0, 200);
    assert_eq!(hosts.ask("POST", "/udp/forwards", &dns()).0, 201);
    assert_eq!(hosts.visit(22_015).unwrap(), "10.50.0.30");
    hosts.echo(53);

    drop(gateway);
    assert_eq!(hosts.visit(22_015).unwrap(), "10.50.0.30", "the kernel forwards on by itself");
    // As after a boot: the kernel has forgotten.
    hosts.flush();
    hosts.visit(22_015).expect_err("nothing forwards");
    let gateway = hosts.start();
    assert_eq!(hosts.visit(22_015).unwrap(), "10.50.0.30");
    assert_eq!(hosts.ask("GET", "/tcp/forwards", &Value::Null), (200, json!({ "forwards": [ssh()] })));

    assert_eq!(hosts.ask("DELETE", "/tcp/forwards/vm-123-ssh", &Value::Null).0, 204);
    assert_eq!(hosts.ask("DELETE", "/tcp/forwards/vm-123-ssh", &Value::Null).0, 404);
    hosts.visit(22_015).expect_err("it is removed");
    hosts.echo(53);
    assert_eq!(hosts.ask("DELETE", "/udp/forwards/dns", &Value::Null).0, 204);
    assert_eq!(hosts.ruleset(), "");
    drop(gateway);
}

#[tokio::test]
async fn forwards_that_somebody_takes_away_are_there_again_at_once() {
    /// A look every half minute would be too late.
    const AT_ONCE: Duration = Duration::from_secs(10);
    let hosts = Hosts::new().await;
    hosts.serve();
    let gateway = hosts.start();
    assert_eq!(hosts.ask("POST", "/tcp/forwards", &ssh()).0, 201);
    let until = |so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < AT_ONCE, "{}", hosts.log());
            thread::sleep(Duration::from_millis(10));
        }
    };
    let repairs = || hosts.log().matches("repaired the forwards that somebody changed").count();
    for number in 1..=2 {
        hosts.flush();
        until(&|| hosts.visit(22_015).is_ok());
        until(&|| repairs() == number);
    }
    // Who routes is no matter of nftables.
    let netlink = Netlink::inside(&hosts.gateway).unwrap();
    netlink.set_ipv4_routing("eth0", false).await.unwrap();
    until(&|| hosts.visit(22_015).is_ok() && repairs() == 3);
    assert_eq!(hosts.ask("DELETE", "/tcp/forwards/vm-123-ssh", &Value::Null).0, 204);
    assert_eq!(hosts.ruleset(), "");
    drop(gateway);
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_a_reason() {
    let hosts = Hosts::new().await;
    let _gateway = hosts.start();
    let with = |name: &str, value: Value| {
        let mut body = ssh();
        body[name] = value;
        body
    };
    for (path, body, status, words) in [
        (
            "/tcp/forwards",
            with("target_ip", json!("192.0.2.1")),
            422,
            "target_ip: 192.0.2.1 is not in the mesh",
        ),
        (
            "/tcp/forwards",
            with("public_port", json!(80)),
            409,
            "public_port: port 80 is in use on the gateway",
        ),
        ("/tcp/forwards", with("public_port", json!(443)), 409, "port 443 is in use"),
        ("/tcp/forwards", with("public_port", json!(8082)), 409, "port 8082 is in use"),
        (
            "/tcp/forwards",
            with("target_ip", json!("10.50.0.30")),
            422,
            "target_ip: 10.50.0.30 is the gateway",
        ),
        ("/tcp/forwards", with("public_port", json!(0)), 422, "public_port"),
        (
            "/tcp/forwards",
            with("forward_id", json!("../x")),
            422,
            "forward_id: \"../x\" is no name: use 1 to 64",
        ),
        ("/tcp/forwards", with("colour", json!("red")), 422, "unknown field"),
        ("/udp/forwards", ssh(), 422, "proto: it is another one"),
        ("/http/routes", ssh(), 409, "this edge serves HTTP itself"),
    ] {
        let (got, message) = hosts.refusal(path, &body);
        assert!(got == status && message.contains(words), "{got} {message}");
    }
    assert_eq!(hosts.ask("POST", "/tcp/forwards", &ssh()).0, 201);
    let (status, message) = hosts.refusal("/tcp/forwards", &with("forward_id", json!("other")));
    assert!(status == 409 && message.contains("forwarded already, by vm-123-ssh"), "{message}");

    for (method, path) in [("GET", "/tcp/forwards"), ("POST", "/udp/forwards"), ("GET", "/nothing")] {
        for token in ["", "wrong", &TOKEN[1..]] {
            assert_eq!(hosts.request(token, method, path, &dns()).0, 401, "{method} {path}");
        }
    }
    assert_eq!(hosts.request("", "GET", "/health", &Value::Null).0, 200);
    assert_eq!(hosts.ask("GET", "/nothing", &Value::Null).0, 404);
}

#[tokio::test]
async fn saved_forwards_that_cannot_be_in_force_are_set_aside() {
    let hosts = Hosts::new().await;
    hosts.serve();
    let state = hosts.directory.path().join("state");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("forwards.json"), "{\"forwards\": [").unwrap();
    let gateway = hosts.start();
    assert_eq!(hosts.ask("GET", "/tcp/forwards", &Value::Null), (200, json!({ "forwards": [] })));
    assert_eq!(hosts.ask("POST", "/tcp/forwards", &ssh()).0, 201);
    let aside = state.join("forwards.json.set-aside-1");
    assert_eq!(fs::read_to_string(&aside).unwrap(), "{\"forwards\": [");
    let log = hosts.log();
    let line = log.lines().find(|line| line.contains("the saved forwards are not readable")).expect(&log);
    assert!(line.contains("ERROR") && line.contains(&aside.display().to_string()), "{line}");
    assert!(line.contains("EOF while parsing"), "{line}");
    drop(gateway);

    let mut outside = ssh();
    (outside["forward_id"], outside["public_port"]) = (json!("outside"), json!(22_016));
    outside["target_ip"] = json!("192.0.2.1");
    let saved = json!({ "forwards": [outside, ssh()] }).to_string();
    fs::write(state.join("forwards.json"), &saved).unwrap();
    let _gateway = hosts.start();
    assert_eq!(hosts.ask("GET", "/tcp/forwards", &Value::Null), (200, json!({ "forwards": [ssh()] })));
    assert_eq!(fs::read_to_string(state.join("forwards.json.set-aside-2")).unwrap(), saved);
    assert_eq!(hosts.visit(22_015).unwrap(), "10.50.0.30");
    hosts.visit(22_016).expect_err("it is not allowed");
}
