//! Traefik as the ingress: the files that it is given, and a real one that reads them. Needs root.

use crate::{
    acme::{DIRECTORY, HTTP, HTTPS, Pebble},
    control_plane::{ControlPlane, DOMAIN, TRAEFIK_TOKEN},
    forwards::{Hosts, PUBLIC},
    surroundings::{Instance, exchange, own_ip, parse, table, tls_connect, within},
};
use http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{
    env, fs,
    io::{Read, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{routes::RouteTable, traefik::Front};
use wisehosting_edge::{
    acme::sharing::{Running, sharing},
    agent::Agent,
    door::Door,
    forwards::Bounds,
    outside::Machine,
    table::{Generations, ServingTable, file::TableFile},
    traefik::{HttpRoute, directory::Directory, pushed::Pushed, routes::HttpRoutes},
};
use wisehosting_node::{
    channel::{Event, memory},
    tls,
};
use wisehosting_protocol::{
    message::{AgentMessage, HubMessage},
    payload::{Registered, Routes},
};
use wisehosting_store::MIGRATOR;

/// What must not get into a file of Traefik's.
const POISON: [&str; 6] =
    ["a`) || Host(`b", "*.example.org", "a.example.org\n", "{{a}}", "A.example.org", ""];

fn route(id: &str, hostname: &str, target: &str) -> Value {
    json!({ "route_id": id, "hostname": hostname, "target_url": target, "entrypoint": "websecure", "certresolver": "dns" })
}

/// The names of the files in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn routes_are_files_beside_the_control_planes() {
    let hosts = Hosts::with_ingress("traefik.dynamic_dir = \"{path}/dynamic\"").await;
    let dynamic = hosts.directory.path().join("dynamic");
    fs::create_dir(&dynamic).unwrap();
    fs::write(dynamic.join("operator.yml"), "http: {}").unwrap();
    let app = Instance::named("app").await;
    let saved = TableFile::open(&hosts.directory.path().join("state")).unwrap();
    saved.save(&table(3, &[("app.example.org", &[&app.upstream])])).unwrap();
    let gateway = hosts.start();

    let vm = route("vm-123", "vm-123.example.org", "http://10.50.0.12:8080");
    assert_eq!(hosts.ask("POST", "/http/routes", &vm), (201, vm.clone()));
    assert_eq!(hosts.ask("POST", "/http/routes", &vm).0, 200);
    let text = fs::read_to_string(dynamic.join("vm-123.yml")).unwrap();
    let expected = json!({ "http": {
        "routers": { "route-vm-123": {
            "entryPoints": ["websecure"], "rule": "Host(`vm-123.example.org`)", "service": "route-vm-123",
            "tls": { "certResolver": "dns" },
        } },
        "services": { "route-vm-123": { "loadBalancer": { "servers": [{ "url": "http://10.50.0.12:8080" }] } } },
    } });
    assert_eq!(serde_json::from_str::<Value>(text.lines().nth(1).unwrap()).unwrap(), expected);

    let taken = |hostname| route("other", hostname, "http://10.50.0.12:8080");
    for (body, status, words) in [
        (route("a/b", "a.example.org", "http://10.50.0.12:80"), 422, "route_id: \"a/b\" is no name"),
        (route("a", "a.example.org", "http://192.0.2.1:80"), 422, "target_url: 192.0.2.1 is not in the mesh"),
        (route("a", "a.example.org", "http://10.50.0.30:8082"), 422, "10.50.0.30 is the gateway itself"),
        (route("a", "a.example.org", "http://10.50.0.12:80/x"), 422, "target_url: use http://ADDRESS:PORT"),
        (route("operator", "a.example.org", "http://10.50.0.12:80"), 409, "route_id: a file of this name"),
        (route("wisehosting", "a.example.org", "http://10.50.0.12:80"), 409, "route_id: a file of this name"),
        (taken("vm-123.example.org"), 409, "is routed already, by vm-123"),
        (taken("app.example.org"), 409, "is routed already, by the control plane"),
    ] {
        let (got, message) = hosts.refusal("/http/routes", &body);
        assert!(got == status && message.contains(words), "{got} {message}");
    }
    for hostname in POISON {
        let (got, message) = hosts.refusal("/http/routes", &taken(hostname));
        assert!(got == 422 && message.contains("is not a host name"), "{got} {message}");
    }
    assert_eq!(names(&dynamic), ["operator.yml", "vm-123.yml", "wisehosting.yml"]);

    drop(gateway);
    let _gateway = hosts.start();
    assert_eq!(hosts.ask("GET", "/http/routes", &Value::Null), (200, json!({ "routes": [vm] })));
    assert_eq!(hosts.ask("DELETE", "/http/routes/vm-123", &Value::Null).0, 204);
    for id in ["vm-123", "operator", "..%2Fedge"] {
        assert_eq!(hosts.ask("DELETE", &format!("/http/routes/{id}"), &Value::Null).0, 404, "{id}");
    }
    assert_eq!(names(&dynamic), ["operator.yml", "wisehosting.yml"]);
}

#[tokio::test]
async fn a_route_that_is_not_allowed_any_more_is_set_aside() {
    let hosts = Hosts::with_ingress("traefik.dynamic_dir = \"{path}/dynamic\"").await;
    let (dynamic, config) =
        (hosts.directory.path().join("dynamic"), hosts.directory.path().join("edge.toml"));
    fs::create_dir(&dynamic).unwrap();
    // Nobody's route, and nothing that can be read.
    fs::create_dir(dynamic.join("folder.yml")).unwrap();
    let gateway = hosts.start();
    let [refused, kept] = ["10.50.0.200", "10.50.0.12"].map(|target| {
        route(&format!("to-{target}"), &format!("{target}.example.org"), &format!("http://{target}:80"))
    });
    for route in [&refused, &kept] {
        assert_eq!(hosts.ask("POST", "/http/routes", route).0, 201);
    }
    drop(gateway);
    let narrowed = fs::read_to_string(&config).unwrap().replace("10.50.0.0/24", "10.50.0.0/25");
    fs::write(&config, narrowed).unwrap();
    let _gateway = hosts.start();
    assert_eq!(hosts.ask("GET", "/http/routes", &Value::Null), (200, json!({ "routes": [kept] })));
    assert_eq!(names(&dynamic), ["folder.yml", "to-10.50.0.12.yml", "to-10.50.0.200.yml.set-aside-1"]);
}

/// An agent whose door is the directory; it is fed with tables.
async fn agent(directory: &Path) -> (memory::FarEnd, CancellationToken) {
    let (handle, events, hub) = memory::channel();
    let generations = Generations::new();
    let serving = Arc::new(ServingTable::new(RouteTable::default(), &generations));
    let (file, pushed) = (
        TableFile::open(&directory.join("state")).unwrap(),
        Pushed::new(Directory::new(directory), Front::default()),
    );
    let (mailbox, _) = sharing(Arc::default(), Running::default(), handle.clone());
    let agent =
        Agent::new(Machine { door: Door::Traefik(pushed), file }, generations, serving, handle, mailbox);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move { agent.run(events, &stop).await });
    let registered = Registered { version: "hub".to_owned(), heartbeat_interval_ms: 15_000 };
    hub.events.send(Event::Connected(registered)).await.unwrap();
    (hub, shutdown)
}

/// Sends a table, and gives the first answer that is no heartbeat.
async fn push(hub: &mut memory::FarEnd, table: RouteTable) -> AgentMessage {
    hub.events.send(Event::Message(HubMessage::Routes(Routes { table }))).await.unwrap();
    within(hub.sent.recv()).await.unwrap()
}

#[tokio::test]
async fn a_table_that_is_written_is_acknowledged_and_older_requests_get_time() {
    let directory = tempfile::tempdir().unwrap();
    let app = Instance::named("app").await;
    let (mut hub, shutdown) = agent(directory.path()).await;
    let first = table(1, &[("app.example.org", &[&app.upstream])]);
    let answer = push(&mut hub, first.clone()).await;
    assert!(matches!(&answer, AgentMessage::RoutesAck(ack) if ack.generation == 1), "{answer:?}");
    let text = fs::read_to_string(directory.path().join("wisehosting.yml")).unwrap();
    assert!(text.contains("Host(`app.example.org`)") && text.contains(&app.upstream.address.to_string()));
    let answer = within(hub.sent.recv()).await.unwrap();
    assert!(matches!(&answer, AgentMessage::RoutesDrained(drained) if drained.generation == 0), "{answer:?}");

    // A directory that is gone cannot take a table, and nothing says that it did.
    let away = directory.path().join("away");
    fs::remove_file(directory.path().join("wisehosting.yml")).unwrap();
    fs::create_dir(directory.path().join("wisehosting.yml")).unwrap();
    fs::write(directory.path().join("wisehosting.yml/in-the-way"), "").unwrap();
    let answer = push(&mut hub, RouteTable { generation: 2, ..first.clone() }).await;
    assert!(matches!(&answer, AgentMessage::Error(_)), "{answer:?}");
    fs::rename(directory.path().join("wisehosting.yml"), away).unwrap();
    let _ = within(hub.sent.recv()).await;
    let answer = push(&mut hub, RouteTable { generation: 3, ..RouteTable::default() }).await;
    assert!(matches!(&answer, AgentMessage::RoutesAck(ack) if ack.generation == 3), "{answer:?}");
    assert!(!directory.path().join("wisehosting.yml").exists(), "no route, no file");
    shutdown.cancel();
}

/// The provider that reads the directory `dynamic` in this one.
fn from_files(directory: &Path) -> String {
    format!("file: {{ directory: \"{}\" }}", directory.join("dynamic").display())
}

/// Traefik's process; killed when it is dropped.
struct Traefik {
    process: Child,
    address: SocketAddr,
}

impl Drop for Traefik {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Traefik {
    /// With the directory `dynamic` in this one; its door for plain HTTP is the entrypoint `web`.
    fn start(directory: &Path) -> Self {
        let address = SocketAddr::new(own_ip(), 8080);
        Self::start_with(
            directory,
            address,
            &format!("entryPoints: {{ web: {{ address: \"{address}\" }} }}\n"),
        )
    }

    fn start_with(directory: &Path, address: SocketAddr, settings: &str) -> Self {
        Self { process: Self::command(directory, settings, &from_files(directory)).spawn().unwrap(), address }
    }

    fn command(directory: &Path, settings: &str, provider: &str) -> Command {
        let program = env::var_os("WISEHOSTING_TRAEFIK").expect("WISEHOSTING_TRAEFIK names the program");
        let settings = format!("{settings}providers: {{ providersThrottleDuration: 100ms, {provider} }}\n");
        let file = directory.join("traefik.yml");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(program);
        command.arg(format!("--configFile={}", file.display())).stdout(Stdio::null());
        command
    }

    /// With doors where Pebble knocks, and the resolver `le`, which asks Pebble; `tls` is what holds for the door for TLS.
    fn start_before(pebble: &Pebble, directory: &Path, tls: &str, provider: &str) -> Self {
        let (ip, trusted) = (pebble.ip, pebble.trusted());
        let settings = format!(
            "entryPoints:\n  web: {{ address: \"{ip}:{HTTP}\" }}\n  websecure: {{ address: \"{ip}:{HTTPS}\"{tls} }}\n\
             certificatesResolvers:\n  le:\n    acme:\n      caServer: https://{ip}:{DIRECTORY}/dir\n\
             \x20     caCertificates: [\"{}\"]\n      storage: \"{}/acme.json\"\n\
             \x20     httpChallenge: {{ entryPoint: web }}\n",
            trusted.display(),
            directory.display(),
        );
        let process = Self::command(directory, &settings, provider).spawn().unwrap();
        Self { process, address: SocketAddr::new(ip, HTTP) }
    }

    async fn visit(&self, host: &str) -> Option<(StatusCode, String)> {
        TcpStream::connect(self.address).await.ok()?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Some(parse(&exchange(self.address, &request).await))
    }

    async fn answers(&self, host: &str, status: StatusCode, text: &str) {
        let looking = async {
            while !matches!(self.visit(host).await, Some((got, body)) if got == status && body.contains(text))
            {
                sleep(Duration::from_millis(20)).await;
            }
        };
        within(looking).await;
    }
}

#[tokio::test]
#[ignore = "needs a Traefik, which takes long to build: set WISEHOSTING_TRAEFIK to the program"]
async fn a_real_traefik_follows_the_files() {
    let temporary = tempfile::tempdir().unwrap();
    let dynamic = temporary.path().join("dynamic");
    fs::create_dir(&dynamic).unwrap();
    let (app, vm, other) =
        (Instance::named("app").await, Instance::named("vm").await, Instance::named("other").await);
    let bounds = Bounds { targets: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() };
    let directory = Directory::new(&dynamic);
    let routes = HttpRoutes::new(directory.clone(), bounds, Front::default());
    let to = |instance: &Instance| HttpRoute {
        route_id: "vm".parse().unwrap(),
        hostname: "vm.example.org".parse().unwrap(),
        target_url: format!("http://{}", instance.upstream.address).parse().unwrap(),
        entrypoint: Some("web".parse().unwrap()),
        certresolver: None,
    };
    let pushed = Pushed::new(directory, Front::default());
    let serving = |table| ServingTable::new(table, &Generations::new());
    pushed.install(&serving(table(1, &[("app.example.org", &[&app.upstream])]))).await.unwrap();
    let traefik = Traefik::start(temporary.path());
    traefik.answers("app.example.org", StatusCode::OK, "app").await;

    routes.put(to(&vm)).await.unwrap();
    traefik.answers("vm.example.org", StatusCode::OK, "vm").await;
    routes.put(to(&other)).await.unwrap();
    traefik.answers("vm.example.org", StatusCode::OK, "other").await;
    for hostname in POISON {
        serde_json::from_value::<HttpRoute>(route("bad", hostname, "http://127.0.0.1:80")).unwrap_err();
    }
    pushed.install(&serving(table(2, &[("app.example.org", &[&other.upstream])]))).await.unwrap();
    traefik.answers("app.example.org", StatusCode::OK, "other").await;
    traefik.answers("vm.example.org", StatusCode::OK, "other").await;
    routes.remove("vm".parse().unwrap()).await.unwrap();
    traefik.answers("vm.example.org", StatusCode::NOT_FOUND, "").await;
    traefik.answers("app.example.org", StatusCode::OK, "other").await;
}

#[tokio::test]
#[ignore = "needs a Traefik, which takes long to build: set WISEHOSTING_TRAEFIK to the program"]
async fn a_real_traefik_orders_a_certificate_for_a_route() {
    let (pebble, temporary) = (Pebble::start().await, tempfile::tempdir().unwrap());
    let dynamic = temporary.path().join("dynamic");
    fs::create_dir(&dynamic).unwrap();
    let app = Instance::named("app").await;
    let front =
        Front { entrypoint: Some("websecure".parse().unwrap()), certresolver: Some("le".parse().unwrap()) };
    let _traefik = Traefik::start_before(&pebble, temporary.path(), "", &from_files(temporary.path()));
    let pushed = Pushed::new(Directory::new(&dynamic), front);
    let routed = table(1, &[("app.example.org", &[&app.upstream])]);
    pushed.install(&ServingTable::new(routed, &Generations::new())).await.unwrap();
    assert_eq!(visit_trusted(&pebble, "app.example.org").await, (StatusCode::OK, "app".to_owned()));
}

#[sqlx::test(migrator = "MIGRATOR")]
#[ignore = "needs a Traefik, which takes long to build: set WISEHOSTING_TRAEFIK to the program"]
async fn a_real_traefik_that_polls_orders_a_certificate(pool: PgPool) {
    tls::install_provider();
    let (pebble, temporary) = (Pebble::start().await, tempfile::tempdir().unwrap());
    let app = Instance::named("app").await;
    let mut control_plane = ControlPlane::start(pool, tls::nobody()).await;
    control_plane.deploy("blog", app.upstream.address).await;
    let provider = format!(
        "http: {{ endpoint: \"{}/v1/traefik/proxy-config\", pollInterval: 200ms, \
         headers: {{ Authorization: \"Bearer {TRAEFIK_TOKEN}\" }} }}",
        control_plane.url
    );
    // The document names no resolver: the entrypoint does.
    let tls = ", http: { tls: { certResolver: le } }";
    let _traefik = Traefik::start_before(&pebble, temporary.path(), tls, &provider);
    let host = format!("blog.{DOMAIN}");
    assert_eq!(visit_trusted(&pebble, &host).await, (StatusCode::OK, "app".to_owned()));
    control_plane.stop().await;
}

/// What a visitor gets who trusts Pebble, once there is a certificate of Pebble's.
async fn visit_trusted(pebble: &Pebble, host: &str) -> (StatusCode, String) {
    let (root, door) = (pebble.root().await, SocketAddr::new(pebble.ip, HTTPS));
    let trusted = async {
        loop {
            // Until the order is through, it shows a certificate of its own.
            match tls_connect(root.clone(), door, host, b"http/1.1").await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let mut stream = within(trusted).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    parse(&response)
}

/// Has the server answer every request on a port with the port.
fn serve_in_mesh(hosts: &Hosts, port: u16) {
    let listener = hosts.server.run(|| std::net::TcpListener::bind(("10.50.0.11", port)).unwrap()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            let body = format!("port {port}");
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
        }
    });
}

/// What a visitor from outside gets once it is this.
fn is_served(hosts: &Hosts, host: &str, expected: &str) {
    let (begin, mut last) = (Instant::now(), String::new());
    while begin.elapsed() < Duration::from_secs(60) {
        let visited = hosts.client.run(|| -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect((PUBLIC, 80))?;
            stream.write_all(
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        last = visited.unwrap().unwrap_or_else(|error| error.to_string());
        if last.contains(expected) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{host} is not served as {expected}: {last}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Traefik, which takes long to build: set WISEHOSTING_TRAEFIK to the program"]
async fn a_real_traefik_serves_apps_over_the_mesh_whatever_names_are_asked_for() {
    let hosts = Hosts::with_mesh("traefik.dynamic_dir = \"{path}/dynamic\"").await;
    let dynamic = hosts.directory.path().join("dynamic");
    fs::create_dir(&dynamic).unwrap();
    serve_in_mesh(&hosts, 8080);
    serve_in_mesh(&hosts, 8081);
    let gateway = hosts.start();
    let settings = format!("entryPoints: {{ web: {{ address: \"{PUBLIC}:80\" }} }}\n");
    let mut command =
        Traefik::command(hosts.directory.path(), &settings, &from_files(hosts.directory.path()));
    let process = hosts.gateway.run(|| command.spawn().unwrap()).unwrap();
    let _traefik = Traefik { process, address: (PUBLIC.parse::<std::net::IpAddr>().unwrap(), 80).into() };
    let route = |id: &str, hostname: &str, port: u16| json!({ "route_id": id, "hostname": hostname, "target_url": format!("http://10.50.0.11:{port}"), "entrypoint": "web" });

    assert_eq!(hosts.ask("POST", "/http/routes", &route("one", "one.example.org", 8080)).0, 201);
    is_served(&hosts, "one.example.org", "port 8080");
    for hostname in POISON {
        assert_eq!(hosts.refusal("/http/routes", &route("bad", hostname, 8080)).0, 422, "{hostname}");
    }
    assert_eq!(names(&dynamic), ["one.yml"]);
    assert_eq!(hosts.ask("POST", "/http/routes", &route("two", "two.example.org", 8081)).0, 201);
    is_served(&hosts, "two.example.org", "port 8081");
    is_served(&hosts, "one.example.org", "port 8080");
    is_served(&hosts, "b", "404");
    assert_eq!(hosts.ask("POST", "/http/routes", &route("one", "one.example.org", 8081)).0, 200);
    is_served(&hosts, "one.example.org", "port 8081");
    drop(gateway);
    is_served(&hosts, "one.example.org", "port 8081");
    let _gateway = hosts.start();
    assert_eq!(hosts.ask("DELETE", "/http/routes/one", &Value::Null).0, 204);
    is_served(&hosts, "one.example.org", "404");
    is_served(&hosts, "two.example.org", "port 8081");
}
