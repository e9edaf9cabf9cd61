//! Certificates from a real ACME server, Debian's Pebble, for host names that its own DNS server knows. The control plane is
//! played: there is no other edge, so it says yes.

use crate::surroundings::{Authority, Instance, Log, exchange, own_ip, parse, table, tls_connect, within};
use http::StatusCode;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZero,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use wisehosting_domain::{certificate::ChallengeKind, name::Hostname, routes::Upstream};
use wisehosting_edge::{
    acme::{
        Acme,
        challenges::Challenges,
        config::AcmeConfig,
        sharing::{Running, Sharing, sharing},
    },
    certificates::{Certificates, Directories},
    ingress::{Doors, Ingress},
    table::{Generations, ServingTable},
};
use wisehosting_node::{
    channel::memory,
    clock::{Clock, SystemClock},
    tls,
};
use wisehosting_protocol::{
    message::AgentMessage,
    payload::{CertificateOrder, Certificates as Known, Order, OrderStep},
};

/// Pebble takes its time on purpose.
const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const HTTP: u16 = 5002;
pub(crate) const HTTPS: u16 = 5001;
pub(crate) const DIRECTORY: u16 = 14_000;
const MANAGEMENT: u16 = 15_000;
const DNS: u16 = 8053;
const DNS_MANAGEMENT: u16 = 8055;
const LOG: &str = "pebble.log";

/// Killed when dropped.
struct Program(Child);

impl Program {
    fn start(command: &mut Command, log: impl Into<Stdio>) -> Self {
        Self(command.stdout(log).stderr(Stdio::null()).spawn().expect("pebble is installed"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// An ACME server, and the DNS server that it asks: every name leads to one address.
pub(crate) struct Pebble {
    pub(crate) ip: IpAddr,
    directory: tempfile::TempDir,
    authority: Authority,
    _programs: [Program; 2],
}

impl Pebble {
    pub(crate) async fn start() -> Self {
        let (directory, authority, ip) = (tempfile::tempdir().unwrap(), Authority::new(), own_ip());
        authority.write_pair(directory.path(), "pebble", &["localhost", &ip.to_string()]);
        authority.write_root(&directory.path().join("root.pem"));
        let config = format!(
            r#"{{"pebble": {{
                "listenAddress": "{ip}:{DIRECTORY}", "managementListenAddress": "{ip}:{MANAGEMENT}",
                "certificate": "pebble.crt", "privateKey": "pebble.key", "httpPort": {HTTP}, "tlsPort": {HTTPS}
            }}}}"#
        );
        fs::write(directory.path().join("pebble.json"), config).unwrap();
        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        dns.args(["-management", &format!("{ip}:{DNS_MANAGEMENT}"), "-dns01", &format!("{ip}:{DNS}")]);
        dns.args(["-defaultIPv4", &ip.to_string()]);
        let mut pebble = Command::new("pebble");
        pebble.args(["-strict", "-config", "pebble.json", "-dnsserver", &format!("{ip}:{DNS}")]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").current_dir(directory.path());
        // Whether a request is made again that it refuses for no reason is the library's to show, and up to chance.
        pebble.env("PEBBLE_WFE_NONCEREJECT", "0");
        let log = File::create(directory.path().join(LOG)).unwrap();
        let programs = [Program::start(&mut dns, Stdio::null()), Program::start(&mut pebble, log)];
        for port in [DNS, DNS_MANAGEMENT, DIRECTORY, MANAGEMENT] {
            within(listening(SocketAddr::new(ip, port))).await;
        }
        Self { ip, directory, authority, _programs: programs }
    }

    /// How many orders there were.
    pub(crate) fn orders(&self) -> usize {
        fs::read_to_string(self.directory.path().join(LOG)).unwrap().matches("Added order").count()
    }

    /// Has every name lead to this address.
    pub(crate) async fn lead_to(&self, ip: IpAddr) {
        self.set_default("ipv4", &ip.to_string()).await;
    }

    /// Has every name have this address of a family, or none.
    async fn set_default(&self, family: &str, ip: &str) {
        let body = format!("{{\"ip\": \"{ip}\"}}");
        let request =
            format!("POST /set-default-{family} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = exchange(SocketAddr::new(self.ip, DNS_MANAGEMENT), &request).await;
        assert_eq!(parse(&answer).0, StatusCode::OK);
    }

    fn config(&self, challenge: ChallengeKind) -> AcmeConfig {
        AcmeConfig {
            directory: format!("https://{}:{DIRECTORY}/dir", self.ip),
            terms_agreed: true,
            email: Some("operator@example.org".to_owned()),
            challenge,
            public_addresses: Vec::new(),
            dns_server: Some(self.dns()),
            root_certificate: Some(self.trusted()),
        }
    }

    /// Who says where every name leads.
    pub(crate) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.ip, DNS)
    }

    /// The file with what its own certificate is from.
    pub(crate) fn trusted(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// The root of the certificates that it issues.
    pub(crate) async fn root(&self) -> CertificateDer<'static> {
        let management = SocketAddr::new(self.ip, MANAGEMENT);
        let mut stream = self.authority.connect(management, "localhost", b"http/1.1").await.unwrap();
        stream.write_all(b"GET /roots/0 HTTP/1.0\r\n\r\n").await.unwrap();
        let mut response = String::new();
        within(stream.read_to_string(&mut response)).await.unwrap();
        CertificateDer::from_pem_slice(parse(&response).1.as_bytes()).unwrap()
    }
}

async fn listening(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// An edge with both doors where Pebble knocks.
struct Edge {
    ingress: Ingress,
    certificates: Arc<Certificates>,
    ordered: PathBuf,
    stop: CancellationToken,
}

impl Edge {
    fn start(
        pebble: &Pebble,
        challenge: ChallengeKind,
        directory: &Path,
        hosts: &[&str],
        upstream: &Upstream,
    ) -> Self {
        Self::start_told(pebble, challenge, directory, hosts, upstream, generous)
    }

    /// With a control plane of the caller's.
    fn start_told(
        pebble: &Pebble,
        challenge: ChallengeKind,
        directory: &Path,
        hosts: &[&str],
        upstream: &Upstream,
        sharing: impl FnOnce(&Arc<Challenges>) -> Sharing,
    ) -> Self {
        tls::install_provider();
        let (challenges, ordered) = (Arc::new(Challenges::default()), directory.to_owned());
        let directories = Directories { of_operator: None, ordered: Some(ordered.clone()) };
        let certificates = Certificates::read(directories, challenges.clone()).unwrap();
        certificates.watch().unwrap();
        let doors = Doors {
            http: Some(TcpListener::bind((pebble.ip, HTTP)).unwrap()),
            https: Some((
                TcpListener::bind((pebble.ip, HTTPS)).unwrap(),
                certificates.server_config().unwrap(),
            )),
            challenges: challenges.clone(),
            ..Doors::default()
        };
        let routes: Vec<_> = hosts.iter().map(|host| (*host, std::slice::from_ref(&upstream))).collect();
        let table = Arc::new(ServingTable::new(table(1, &routes), &Generations::new()));
        let ingress = Ingress::start(doors, NonZero::new(1).unwrap(), &table).unwrap();
        let (stop, clock) = (CancellationToken::new(), Arc::new(SystemClock));
        let config = pebble.config(challenge);
        let sharing = sharing(&challenges);
        let acme = Acme::new(config, ordered.clone(), challenges, certificates.clone(), sharing, clock);
        tokio::spawn(acme.run(ingress.hosts(), stop.clone()));
        Self { ingress, certificates, ordered, stop }
    }

    async fn has_certificate(&self, host: &Hostname) {
        let there = async {
            while self.certificates.coverage(host).is_none() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, there).await.expect("a certificate in time");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ingress.shutdown(Duration::from_secs(5)).await;
    }
}

/// A control plane that lets this edge order whenever it wants to.
fn generous(challenges: &Arc<Challenges>) -> Sharing {
    let (handle, _events, mut hub) = memory::channel();
    let (mailbox, sharing) = sharing(challenges.clone(), Running::default(), handle);
    mailbox.put(Known::default());
    tokio::spawn(async move {
        let mut known = Known::default();
        while let Some(message) = hub.sent.recv().await {
            match message {
                AgentMessage::CertificateOrder(CertificateOrder { host, order_id, step }) => match step {
                    OrderStep::Begin { .. } => {
                        known.orders.insert(host, Order { order_id, challenge: None, shown: false });
                    }
                    OrderStep::Challenge(challenge) => {
                        let order = Order { order_id, challenge: Some(challenge), shown: true };
                        known.orders.insert(host, order);
                    }
                    OrderStep::Failed => drop(known.orders.remove(&host)),
                },
                AgentMessage::Certificate(given) => {
                    known.orders.remove(&given.host);
                    known.stored.insert(given.host, given.validity);
                }
                message => panic!("{message:?}"),
            }
            mailbox.put(known.clone());
        }
    });
    sharing
}

/// Writes a pair for a host name that is good for a day yet, of ninety.
pub(crate) fn write_old_pair(directory: &Path, host: &str) {
    let (key, now) = (rcgen::KeyPair::generate().unwrap(), SystemClock.now());
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (now - time::Duration::days(89), now + time::Duration::DAY);
    fs::write(directory.join(format!("{host}.key")), key.serialize_pem()).unwrap();
    fs::write(directory.join(format!("{host}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
}

#[tokio::test]
async fn while_the_control_plane_is_away_only_what_is_about_to_end_is_ordered() {
    let (pebble, app) = (Pebble::start().await, Instance::named("an app").await);
    let directory = tempfile::tempdir().unwrap();
    write_old_pair(directory.path(), "old.example.org");
    let silent = |challenges: &Arc<Challenges>| {
        let (_, sharing) = sharing(challenges.clone(), Running::default(), memory::channel().0);
        sharing
    };
    let hosts = ["new.example.org", "old.example.org"];
    let edge =
        Edge::start_told(&pebble, ChallengeKind::Http01, directory.path(), &hosts, &app.upstream, silent);
    let old = "old.example.org".parse().unwrap();
    let renewed = async {
        while edge.certificates.ordered(&old).unwrap().not_before < SystemClock.now() - time::Duration::DAY {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("a certificate in time");
    assert_eq!(pebble.orders(), 1);
    assert!(edge.certificates.coverage(&"new.example.org".parse().unwrap()).is_none());
    edge.stop().await;
}

#[tokio::test]
async fn an_app_gets_a_certificate_by_either_challenge_and_keeps_it() {
    let (pebble, app) = (Pebble::start().await, Instance::named("an app").await);
    for challenge in [ChallengeKind::Http01, ChallengeKind::TlsAlpn01] {
        let directory = tempfile::tempdir().unwrap();
        let (host, hosts) = ("blog.example.org".parse().unwrap(), ["blog.example.org", "blog.localhost"]);
        let edge = Edge::start(&pebble, challenge, directory.path(), &hosts, &app.upstream);
        edge.has_certificate(&host).await;
        let door = SocketAddr::new(pebble.ip, HTTPS);
        let root = pebble.root().await;
        let mut stream = tls_connect(root, door, host.as_str(), b"http/1.1").await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: blog.example.org\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        within(stream.read_to_string(&mut response)).await.unwrap();
        assert_eq!(parse(&response), (StatusCode::OK, "an app".to_owned()));
        for file in ["account.json", "blog.example.org.key"] {
            let mode = fs::metadata(edge.ordered.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let kept = fs::read(edge.ordered.join("blog.example.org.crt")).unwrap();
        edge.stop().await;

        // A second run has no reason to order again, and takes the account that there is.
        let account = fs::read(directory.path().join("account.json")).unwrap();
        let hosts = ["blog.example.org", "shop.example.org"];
        let edge = Edge::start(&pebble, challenge, directory.path(), &hosts, &app.upstream);
        edge.has_certificate(&"shop.example.org".parse().unwrap()).await;
        assert_eq!(fs::read(edge.ordered.join("blog.example.org.crt")).unwrap(), kept);
        assert_eq!(fs::read(edge.ordered.join("account.json")).unwrap(), account);
        assert!(!edge.ordered.join("blog.localhost.crt").exists());
        edge.stop().await;
    }
}

#[tokio::test]
async fn an_app_may_answer_challenges_of_its_own() {
    let app = Instance::named("an app").await;
    let edge = crate::surroundings::Edge::start(table(1, &[("a.localhost", &[&app.upstream])]));
    let path = "/.well-known/acme-challenge/token";
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(parse(&edge.exchange(&request).await).1, "an app");
}

/// What an edge logs that wants a certificate for a name with nobody behind it, until it does not get one.
async fn refused(config: AcmeConfig) -> String {
    let log = Log::default();
    let _guard = log.collect();
    let directory = tempfile::tempdir().unwrap();
    let (challenges, clock) = (Arc::new(Challenges::default()), Arc::new(SystemClock));
    let directories = Directories { of_operator: None, ordered: Some(directory.path().to_owned()) };
    let certificates = Certificates::read(directories, challenges.clone()).unwrap();
    let (_hosts, hosts) = watch::channel(BTreeSet::from(["nobody-home.example.org".parse().unwrap()]));
    let (stop, sharing) = (CancellationToken::new(), generous(&challenges));
    let acme = Acme::new(config, directory.path().to_owned(), challenges, certificates, sharing, clock);
    let refused = async {
        while !log.text().contains("gets no certificate") {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = acme.run(hosts, stop) => panic!("it ended"),
        said = timeout(PATIENCE, refused) => said.expect("a refusal in time"),
    }
    assert!(!directory.path().join("nobody-home.example.org.crt").exists());
    log.text()
}

#[tokio::test]
async fn a_refusal_says_what_the_authority_saw() {
    let pebble = Pebble::start().await;
    let log = refused(pebble.config(ChallengeKind::Http01)).await;
    assert!(log.contains("connection refused") && log.contains("retry_in_s=60"), "{log}");
    assert_eq!(pebble.orders(), 1);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_or_nowhere_is_not_ordered_for() {
    let pebble = Pebble::start().await;
    let with = |public_addresses: &[IpAddr]| AcmeConfig {
        public_addresses: public_addresses.to_vec(),
        ..pebble.config(ChallengeKind::Http01)
    };
    let elsewhere = "192.0.2.1".parse().unwrap();
    let log = refused(with(&[elsewhere])).await;
    assert!(log.contains(&format!("it leads to {}: change its DNS records", pebble.ip)), "{log}");
    // An old record of the other family.
    pebble.set_default("ipv6", "2001:db8::1").await;
    let log = refused(with(&[elsewhere, pebble.ip])).await;
    assert!(log.contains("it leads to 2001:db8::1: change its DNS records"), "{log}");
    pebble.set_default("ipv6", "").await;
    pebble.set_default("ipv4", "").await;
    let log = refused(with(&[])).await;
    assert!(log.contains("it does not resolve"), "{log}");
    assert_eq!(pebble.orders(), 0);
}
