//! Port forwards against the real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test itself does")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wisehosting_network::testing::{self, wire};
use wisehosting_network::{
    ForwardTable, Forwards, ForwardsOp, NamespaceRuntime, Netlink, NetworkNamespace, ObservedForwards,
    Protocol,
};

const PUBLIC: &str = "203.0.113.1";
const SERVER: &str = "10.50.0.2";
/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer to a packet that nobody drops.
const SILENCE: Duration = Duration::from_millis(300);

/// A client outside, a gateway, a server in the mesh that knows no way but to its own network.
struct Hosts {
    client: NetworkNamespace,
    gateway: NetworkNamespace,
    server: NetworkNamespace,
    runtime: NamespaceRuntime,
}

impl Hosts {
    async fn new() -> Self {
        let [client, gateway, server] = [(); 3].map(|()| NetworkNamespace::create().unwrap());
        wire((&client, "eth0", "203.0.113.9/24"), (&gateway, "eth0", "203.0.113.1/24")).await;
        wire((&server, "wh0", "10.50.0.2/24"), (&gateway, "wh0", "10.50.0.1/24")).await;
        let gateway_address = PUBLIC.parse().unwrap();
        Netlink::inside(&client).unwrap().add_default_route(gateway_address).await.unwrap();
        let runtime = NamespaceRuntime::new(&gateway).unwrap();
        Self { client, gateway, server, runtime }
    }

    async fn reconcile(&self, targets: &[(Protocol, u16, &str)]) -> Vec<ForwardsOp> {
        let desired = forwards(targets);
        let reconciled = async move { ForwardTable::open().unwrap().reconcile(&desired).await.unwrap() };
        self.runtime.run(reconciled).await
    }

    async fn observe(&self) -> Option<ObservedForwards> {
        self.runtime.run(async { ForwardTable::open().unwrap().observe().unwrap() }).await
    }

    /// Answers each connection with where it came from, and then with what it is sent.
    fn serve_tcp(&self, port: u16) {
        let listener = self.server.run(|| TcpListener::bind((SERVER, port)).unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                writeln!(stream, "{}", stream.peer_addr().unwrap().ip()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            }
        });
    }

    /// Sends each connection back what it sends.
    fn echo_tcp(&self, port: u16) {
        let listener = self.server.run(|| TcpListener::bind((SERVER, port)).unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
            }
        });
    }

    /// Sends each datagram back.
    fn serve_udp(&self, port: u16) {
        let socket = self.server.run(|| UdpSocket::bind((SERVER, port)).unwrap()).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
    }

    /// What the server says to a connection.
    fn ask_tcp(&self, address: &str, port: u16) -> std::io::Result<String> {
        self.client
            .run(|| {
                let address = SocketAddr::new(address.parse().unwrap(), port);
                let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            })
            .unwrap()
    }

    fn nft(&self, arguments: &[&str]) -> String {
        testing::nft(&self.gateway, &arguments.join(" "))
    }

    async fn routing(&self) -> Vec<(String, Option<bool>)> {
        let links = Netlink::inside(&self.gateway).unwrap().links().await.unwrap();
        links.into_iter().map(|link| (link.name, link.routes_ipv4)).collect()
    }
}

fn forwards(targets: &[(Protocol, u16, &str)]) -> Forwards {
    let targets: BTreeMap<_, _> = targets
        .iter()
        .map(|(protocol, port, target)| ((*protocol, *port), target.parse::<SocketAddrV4>().unwrap()))
        .collect();
    Forwards { mesh: "wh0".parse().unwrap(), targets }
}

#[tokio::test]
async fn connections_and_datagrams_arrive_as_the_gateways_own() {
    let hosts = Hosts::new().await;
    hosts.serve_tcp(80);
    hosts.serve_udp(53);
    hosts.ask_tcp(PUBLIC, 22_015).expect_err("nothing is forwarded yet");

    let tcp = (Protocol::Tcp, 22_015, "10.50.0.2:80");
    let udp = (Protocol::Udp, 22_015, "10.50.0.2:53");
    hosts.reconcile(&[tcp, udp]).await;

    assert_eq!(hosts.ask_tcp(PUBLIC, 22_015).unwrap(), "10.50.0.1\n");
    let socket = hosts.client.run(|| UdpSocket::bind("203.0.113.9:0").unwrap()).unwrap();
    socket.connect((PUBLIC, 22_015)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"hello").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 5);

    // The flow that began goes no further, as soon as its forward is gone.
    hosts.reconcile(&[tcp]).await;
    socket.send(b"again").unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.recv(&mut buffer).expect_err("a removed forward was answered");
    assert_eq!(hosts.ask_tcp(PUBLIC, 22_015).unwrap(), "10.50.0.1\n");
}

/// A tunnel carries less than a link. Whoever drops ICMP hears nothing of that, and of a server in a container even its own
/// host's word may get lost.
#[tokio::test]
async fn large_segments_fit_through_a_narrow_mesh_although_nobody_hears_of_its_width() {
    const BYTES: usize = 1 << 20;
    let hosts = Hosts::new().await;
    hosts.echo_tcp(80);
    Netlink::inside(&hosts.gateway).unwrap().set_mtu("wh0", 1_420).await.unwrap();
    hosts.nft(&["add table ip silent"]);
    hosts.nft(&["add chain ip silent out { type filter hook output priority 0; }"]);
    hosts.nft(&["add rule ip silent out icmp type destination-unreachable drop"]);
    hosts.reconcile(&[(Protocol::Tcp, 80, "10.50.0.2:80")]).await;
    let address = SocketAddr::new(PUBLIC.parse().unwrap(), 80);
    let mut stream = hosts.client.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = stream.try_clone().unwrap();
    let sending = thread::spawn(move || sent.write_all(&vec![7; BYTES]));
    let mut received = vec![0; BYTES];
    stream.read_exact(&mut received).unwrap();
    sending.join().unwrap().unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn connections_end_with_their_forward() {
    let hosts = Hosts::new().await;
    let listener = hosts.server.run(|| TcpListener::bind((SERVER, 80)).unwrap()).unwrap();
    let connect = |port| {
        let address = SocketAddr::new(PUBLIC.parse().unwrap(), port);
        let stream = hosts.client.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, listener.accept().unwrap().0)
    };
    let kept = (Protocol::Tcp, 8_000, "10.50.0.2:80");
    hosts.reconcile(&[kept, (Protocol::Tcp, 8_001, "10.50.0.2:80")]).await;
    let (mut stays, mut served) = connect(8_000);
    let (mut goes, _served) = connect(8_001);

    hosts.reconcile(&[kept]).await;
    goes.write_all(b"again").unwrap();
    assert_eq!(goes.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    stays.write_all(b"again").unwrap();
    served.read_exact(&mut [0; 5]).unwrap();

    hosts.reconcile(&[]).await;
    stays.write_all(b"again").unwrap();
    assert_eq!(stays.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn datagrams_that_came_before_their_forward_take_it_and_follow_its_changes() {
    let hosts = Hosts::new().await;
    hosts.serve_udp(53);
    let socket = hosts.client.run(|| UdpSocket::bind("203.0.113.9:0").unwrap()).unwrap();
    socket.connect((PUBLIC, 5_353)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = || socket.send(b"hello").and_then(|_| socket.recv(&mut [0; 64]));
    assert_eq!(ask().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    hosts.reconcile(&[(Protocol::Udp, 5_353, "10.50.0.2:53")]).await;
    assert_eq!(ask().unwrap(), 5);
    hosts.reconcile(&[(Protocol::Udp, 5_353, "10.50.0.2:54")]).await;
    assert_eq!(ask().unwrap_err().kind(), ErrorKind::ConnectionRefused, "nobody is at the new target");
}

#[tokio::test]
async fn the_table_reads_as_it_is_meant() {
    let hosts = Hosts::new().await;
    hosts.reconcile(&[(Protocol::Tcp, 22_015, "10.50.0.2:80"), (Protocol::Udp, 53, "10.50.0.2:5353")]).await;
    let words: Vec<String> =
        hosts.nft(&["list", "table", "inet", "wisehosting"]).split_whitespace().map(str::to_owned).collect();
    // In the first two rules of `forward` it leaves out that the connection's port is still in the map.
    let expected = r#"
        table inet wisehosting {
            map tcp_forwards { type inet_service : ipv4_addr . inet_service
                elements = { 22015 : 10.50.0.2 . 80 } }
            map udp_forwards { type inet_service : ipv4_addr . inet_service
                elements = { 53 : 10.50.0.2 . 5353 } }
            set routed { type ifname
                elements = { "eth0", "wh0" } }
            chain prerouting { type nat hook prerouting priority dstnat; policy accept;
                iifname != "wh0" meta nfproto ipv4 fib daddr type local dnat ip to tcp dport map @tcp_forwards
                iifname != "wh0" meta nfproto ipv4 fib daddr type local dnat ip to udp dport map @udp_forwards }
            chain forward { type filter hook forward priority filter; policy accept;
                oifname "wh0" tcp flags syn tcp option maxseg size set rt mtu
                iifname "wh0" tcp flags syn tcp option maxseg size set rt mtu
                iifname != "wh0" oifname "wh0" ct status dnat meta l4proto tcp accept
                iifname != "wh0" oifname "wh0" ct status dnat meta l4proto udp accept
                iifname != "wh0" oifname "wh0" ct state related accept
                iifname != "wh0" oifname "wh0" drop
                iifname "wh0" oifname != "wh0" ct state established,related accept
                iifname "wh0" oifname != "wh0" ct status dnat accept
                iifname "wh0" oifname != "wh0" drop }
            chain postrouting { type nat hook postrouting priority srcnat; policy accept;
                oifname "wh0" ct status dnat masquerade }
        }"#;
    let mut listed = words.join(" ");
    // The order of a set's elements is the kernel's.
    listed = listed.replace(r#"{ "wh0", "eth0" }"#, r#"{ "eth0", "wh0" }"#);
    assert_eq!(listed, expected.split_whitespace().collect::<Vec<_>>().join(" "));
}

#[tokio::test]
async fn nothing_is_left_after_the_last_and_others_tables_are_untouched() {
    let hosts = Hosts::new().await;
    hosts.serve_tcp(80);
    let foreign = [
        "add table ip nat",
        "add chain ip nat PREROUTING { type nat hook prerouting priority dstnat; }",
        "add rule ip nat PREROUTING tcp dport 99 dnat to 192.0.2.7",
        "add table inet nixos-fw",
        "add chain inet nixos-fw input { type filter hook input priority filter; }",
        "add rule inet nixos-fw input tcp dport 22 accept",
    ];
    for command in foreign {
        hosts.nft(&[command]);
    }
    let (before, routing) = (hosts.nft(&["list", "ruleset"]), hosts.routing().await);

    hosts.reconcile(&[(Protocol::Tcp, 80, "10.50.0.2:80")]).await;
    assert_eq!(hosts.ask_tcp(PUBLIC, 80).unwrap(), "10.50.0.1\n");
    let with_ours = hosts.nft(&["list", "ruleset"]);
    assert!(with_ours.starts_with(&before) && with_ours.len() > before.len(), "{with_ours}");

    hosts.reconcile(&[]).await;
    assert_eq!(hosts.nft(&["list", "ruleset"]), before);
    assert_eq!(hosts.routing().await, routing);
    assert_eq!(hosts.observe().await, None);
    hosts.ask_tcp(PUBLIC, 80).expect_err("nothing is forwarded any more");
    assert_eq!(hosts.reconcile(&[]).await, []);
}

#[tokio::test]
async fn only_what_is_forwarded_gets_into_the_mesh() {
    let hosts = Hosts::new().await;
    hosts.serve_udp(53);
    hosts.reconcile(&[(Protocol::Udp, 5_353, "10.50.0.2:53")]).await;
    let socket = hosts.client.run(|| UdpSocket::bind("203.0.113.9:0").unwrap()).unwrap();
    Netlink::inside(&hosts.server).unwrap().add_default_route("10.50.0.1".parse().unwrap()).await.unwrap();
    let mut buffer = [0; 64];

    socket.send_to(b"past the forward", (SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.recv(&mut buffer).expect_err("the gateway routes into the mesh");

    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"by the forward", (PUBLIC, 5_353)).unwrap();
    assert_eq!(socket.recv(&mut buffer).unwrap(), 14);
}

#[test]
fn a_forward_is_not_touched_when_others_come_change_and_go() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let hosts = runtime.block_on(Hosts::new());
    hosts.serve_tcp(80);
    runtime.block_on(hosts.reconcile(&[(Protocol::Tcp, 8_000, "10.50.0.2:80")]));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            loop {
                let last = done.load(Ordering::Relaxed);
                hosts.ask_tcp(PUBLIC, 8_000).unwrap();
                if last {
                    return;
                }
            }
        });
        for number in 0..50 {
            let target = if number % 3 == 0 { "10.50.0.2:81" } else { "10.50.0.2:82" };
            let other = (Protocol::Tcp, 9_000 + number % 2, target);
            runtime.block_on(hosts.reconcile(&[(Protocol::Tcp, 8_000, "10.50.0.2:80"), other]));
        }
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
}

#[tokio::test]
async fn a_table_that_others_changed_is_repaired() {
    let hosts = Hosts::new().await;
    let wanted = [(Protocol::Tcp, 80, "10.50.0.2:80")];
    hosts.reconcile(&wanted).await;
    let right = hosts.nft(&["list", "ruleset"]);
    for command in [
        "flush chain inet wisehosting forward",
        "delete element inet wisehosting tcp_forwards { 80 : 10.50.0.2 . 80 }",
        "delete table inet wisehosting",
    ] {
        hosts.nft(&[command]);
        assert_ne!(hosts.reconcile(&wanted).await, [], "{command}");
        if command.starts_with("delete table") {
            // Its memory of who routed before is gone with it.
            continue;
        }
        assert_eq!(hosts.nft(&["list", "ruleset"]), right, "{command}");
    }
    assert_eq!(hosts.reconcile(&wanted).await, []);
}

#[tokio::test]
async fn thousands_of_forwards_are_one_step() {
    let hosts = Hosts::new().await;
    let many: Vec<_> = (1..=5_000).map(|port| (Protocol::Tcp, port, "10.50.0.2:80")).collect();
    hosts.reconcile(&many).await;
    assert_eq!(hosts.observe().await.unwrap().targets.len(), 5_000);
    assert_eq!(hosts.reconcile(&many).await, []);
    hosts.reconcile(&[]).await;
    assert_eq!(hosts.observe().await, None);
}
