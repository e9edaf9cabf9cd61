//! Several edge programs, one control plane with its Postgres, one certificate authority: each certificate is ordered once.

use crate::{
    acme::{DIRECTORY, HTTP, HTTPS, Pebble, write_old_pair},
    control_plane::{ControlPlane, DOMAIN, api_key},
    surroundings::{Instance, own_ip, tls_connect, within},
};
use rustls::pki_types::CertificateDer;
use sqlx::PgPool;
use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, time::sleep};
use wisehosting_node::tls;
use wisehosting_store::MIGRATOR;

/// The setting of an edge that no name leads to, so that it never orders.
const ELSEWHERE: &str = "public_addresses = [\"192.0.2.1\"]\n";
const HOST: &str = "blog.example.org";

/// An edge program with a disk of its own; killed when dropped.
struct EdgeProgram {
    process: Child,
    ip: IpAddr,
    directory: tempfile::TempDir,
}

impl EdgeProgram {
    fn start(control_plane: &ControlPlane, pebble: &Pebble, name: &str, acme: &str) -> Self {
        Self::start_with(control_plane, pebble, name, acme, |_| {})
    }

    /// On a disk with something on it.
    fn start_with(
        control_plane: &ControlPlane,
        pebble: &Pebble,
        name: &str,
        acme: &str,
        fill: impl FnOnce(PathBuf),
    ) -> Self {
        let (ip, directory) = (own_ip(), tempfile::tempdir().unwrap());
        let path = directory.path();
        fs::create_dir_all(path.join("state/acme")).unwrap();
        fill(path.join("state/acme"));
        fs::write(path.join("key"), api_key(name)).unwrap();
        let config = format!(
            "[control_plane]\nurl = \"{}\"\nname = \"{name}\"\napi_key_file = \"{key}\"\n\
             [ingress]\nhttp = \"{ip}:{HTTP}\"\nhttps = \"{ip}:{HTTPS}\"\n\
             [ingress.acme]\nterms_agreed = true\ndirectory = \"https://{}:{DIRECTORY}/dir\"\n\
             root_certificate = \"{}\"\ndns_server = \"{}\"\n{acme}[state]\ndir = \"{state}\"\n",
            control_plane.url,
            pebble.ip,
            pebble.trusted().display(),
            pebble.dns(),
            key = path.join("key").display(),
            state = path.join("state").display(),
        );
        fs::write(path.join("edge.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wisehosting-edge"));
        command.arg("--config").arg(path.join("edge.toml")).stdout(Stdio::null());
        command.stderr(File::create(path.join("log")).unwrap());
        Self { process: command.spawn().unwrap(), ip, directory }
    }

    /// The certificate that visitors are shown, once it is one of Pebble's.
    async fn shows(&self, pebble: &Pebble) -> CertificateDer<'static> {
        let (root, door) = (pebble.root().await, SocketAddr::new(self.ip, HTTPS));
        within(async {
            loop {
                if let Ok(stream) = tls_connect(root.clone(), door, HOST, b"http/1.1").await {
                    return stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }
}

impl Drop for EdgeProgram {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.directory.path().join("log")).unwrap());
        }
    }
}

async fn start(pool: PgPool) -> (ControlPlane, Pebble, Instance) {
    tls::install_provider();
    assert!(HOST.ends_with(DOMAIN));
    let pebble = Pebble::start().await;
    let mut authorities = tls::nobody();
    Arc::make_mut(&mut authorities).add(pebble.root().await).unwrap();
    (ControlPlane::start(pool, authorities).await, pebble, Instance::named("an app").await)
}

/// One edge orders, the authority asks another one, and all have the certificate.
async fn share(pool: PgPool, challenge: &str) {
    let (mut control_plane, pebble, app) = start(pool.clone()).await;
    let acme = format!("challenge = \"{challenge}\"\n");
    let first = EdgeProgram::start(&control_plane, &pebble, "proxy-1", &acme);
    let second = EdgeProgram::start(&control_plane, &pebble, "proxy-2", &format!("{acme}{ELSEWHERE}"));
    pebble.lead_to(second.ip).await;
    control_plane.sees(&["proxy-1", "proxy-2"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    let certificate = first.shows(&pebble).await;
    assert_eq!(second.shows(&pebble).await, certificate);
    let key = second.directory.path().join(format!("state/acme/{HOST}.key"));
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);

    let third = EdgeProgram::start(&control_plane, &pebble, "proxy-3", &acme);
    assert_eq!(third.shows(&pebble).await, certificate, "an edge that comes later has it, too");
    assert_eq!(pebble.orders(), 1);
    let open = "SELECT count(*) FROM certificates c WHERE position('PRIVATE KEY' in c::text) > 0";
    assert_eq!(sqlx::query_scalar::<_, i64>(open).fetch_one(&pool).await.unwrap(), 0);
    drop((first, second, third));
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_is_ordered_once_and_another_edge_may_be_asked_for_the_file(pool: PgPool) {
    share(pool, "http-01").await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_is_ordered_once_and_another_edge_may_be_asked_for_the_certificate(pool: PgPool) {
    share(pool, "tls-alpn-01").await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edge_that_is_killed_in_the_middle_of_an_order_leaves_it_to_the_others(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    let hole = TcpListener::bind((own_ip(), HTTP)).await.unwrap();
    pebble.lead_to(hole.local_addr().unwrap().ip()).await;
    let first = EdgeProgram::start(&control_plane, &pebble, "proxy-1", "");
    control_plane.sees(&["proxy-1"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    let _asked = within(hole.accept()).await.unwrap();
    drop(first);
    let second = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(second.ip).await;
    control_plane.sees(&["proxy-2"]).await;
    control_plane.has(HOST, "num_nulls(order_id)", 0).await;
    assert_eq!(pebble.orders(), 1, "the order is the first one's still");
    control_plane.advance(Duration::from_secs(31));
    second.shows(&pebble).await;
    assert_eq!(pebble.orders(), 2);
    drop(second);
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_is_renewed_once_for_all_edges(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    let first = EdgeProgram::start_with(&control_plane, &pebble, "proxy-1", "", |directory| {
        write_old_pair(&directory, HOST);
    });
    let second = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(first.ip).await;
    control_plane.sees(&["proxy-1", "proxy-2"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    assert_eq!(first.shows(&pebble).await, second.shows(&pebble).await);
    assert_eq!(pebble.orders(), 1);
    drop((first, second));
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_of_another_authority_stays_where_it_was_ordered(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    let staging = Pebble::start().await;
    let stray = EdgeProgram::start(&control_plane, &staging, "proxy-1", "");
    staging.lead_to(stray.ip).await;
    control_plane.sees(&["proxy-1"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    stray.shows(&staging).await;
    let edge = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(edge.ip).await;
    // The stray edge's order ended as its certificate was refused, and held nobody back.
    let certificate = edge.shows(&pebble).await;
    let third = EdgeProgram::start(&control_plane, &pebble, "proxy-3", "");
    assert_eq!(third.shows(&pebble).await, certificate);
    assert_eq!((pebble.orders(), staging.orders()), (1, 1));
    drop((stray, edge, third));
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_certificate_that_is_forgotten_is_shown_until_all_have_the_next_one(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    let first = EdgeProgram::start(&control_plane, &pebble, "proxy-1", "");
    let second = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(first.ip).await;
    control_plane.sees(&["proxy-1", "proxy-2"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    let stolen = first.shows(&pebble).await;
    assert_eq!(second.shows(&pebble).await, stolen);
    control_plane.forget(HOST).await;
    for edge in [&first, &second] {
        within(async {
            while edge.shows(&pebble).await == stolen {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    assert_eq!(first.shows(&pebble).await, second.shows(&pebble).await);
    assert_eq!(pebble.orders(), 2);
    drop((first, second));
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn an_edge_that_cannot_reach_the_authority_holds_back_no_other(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    // Its account cannot be read: a failure of this edge alone.
    let broken = EdgeProgram::start_with(&control_plane, &pebble, "proxy-1", "", |directory| {
        fs::create_dir(directory.join("account.json")).unwrap();
    });
    control_plane.sees(&["proxy-1"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    control_plane.has(HOST, "num_nulls(order_id)", 0).await;
    let edge = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(edge.ip).await;
    control_plane.sees(&["proxy-2"]).await;
    control_plane.advance(Duration::from_secs(31));
    edge.shows(&pebble).await;
    assert_eq!(broken.shows(&pebble).await, edge.shows(&pebble).await, "and it has the other's certificate");
    drop((broken, edge));
    control_plane.stop().await;
}

#[sqlx::test(migrator = "MIGRATOR")]
async fn a_name_that_is_refused_is_not_asked_for_by_another_edge_at_once(pool: PgPool) {
    let (mut control_plane, pebble, app) = start(pool).await;
    let first = EdgeProgram::start(&control_plane, &pebble, "proxy-1", "");
    let second = EdgeProgram::start(&control_plane, &pebble, "proxy-2", "");
    pebble.lead_to(own_ip()).await;
    control_plane.sees(&["proxy-1", "proxy-2"]).await;
    control_plane.deploy("blog", app.upstream.address).await;
    control_plane.has(HOST, "failures", 1).await;
    assert_eq!(pebble.orders(), 1);
    control_plane.advance(Duration::from_secs(61));
    control_plane.has(HOST, "failures", 2).await;
    assert_eq!(pebble.orders(), 2);
    drop((first, second));
    control_plane.stop().await;
}
