//! What the tests of the edge share: an ingress on loopback, instances made of hyper, and visitors.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wisehosting_domain::{
    id::InstanceId,
    routes::{RouteTable, RoutedInstance, Upstream, render},
};
use wisehosting_edge::{
    certificates::{Certificates, Directories},
    ingress::{Doors, Ingress},
    table::{Generations, ServingTable},
};

/// A loopback address that no other process and no other test uses, so that all of its ports are free.
pub(crate) fn own_ip() -> IpAddr {
    static TESTS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + (high & 63), low, TESTS.fetch_add(1, Ordering::SeqCst)).into()
}

/// How long a test waits for what should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ends a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// A program behind the edge. It stops when dropped.
pub(crate) struct Instance {
    pub(crate) upstream: Upstream,
    pub(crate) connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Instance {
    /// Answers each connection by `serve`.
    pub(crate) async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream {
            instance_id: InstanceId(uuid::Uuid::from_u128(u128::from(listener.local_addr().unwrap().port()))),
            address: listener.local_addr().unwrap(),
        };
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let server = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(serve(stream));
            }
        });
        Self { upstream, connections, server }
    }

    /// Answers each request by `answer`.
    pub(crate) async fn http<F>(
        answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Self::raw(move |stream| {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            async move {
                let server = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let _ = server.await;
            }
        })
        .await
    }

    /// Answers each request with its own name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http(move |_| async move { Response::new(Full::from(name)) }).await
    }

    /// Answers each request with what it saw: the head as text, a line, the body.
    pub(crate) async fn mirror() -> Self {
        Self::http(|request: Request<Incoming>| async move {
            let (parts, body) = request.into_parts();
            let mut text = format!("{} {}\n", parts.method, parts.uri);
            for (name, value) in &parts.headers {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            text.push('\n');
            let body = body.collect().await.unwrap().to_bytes();
            Response::new(Full::from([text.as_bytes(), &body].concat()))
        })
        .await
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The table of these host names.
pub(crate) fn table(generation: u64, routes: &[(&str, &[&Upstream])]) -> RouteTable {
    let instances: Vec<_> = routes
        .iter()
        .flat_map(|(host, upstreams)| {
            upstreams.iter().map(|upstream| RoutedInstance {
                app: "app".parse().unwrap(),
                hostnames: vec![host.parse().unwrap()],
                upstream: (*upstream).clone(),
            })
        })
        .collect();
    render(generation, &instances)
}

/// An ingress on loopback.
pub(crate) struct Edge {
    pub(crate) ingress: Ingress,
    pub(crate) generations: Arc<Generations>,
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
}

impl Edge {
    pub(crate) fn start(table: RouteTable) -> Self {
        Self::start_with_tls(table, None)
    }

    pub(crate) fn start_with_tls(table: RouteTable, certificates: Option<&Arc<Certificates>>) -> Self {
        Self::start_as(Doors::default(), table, certificates)
    }

    /// With these doors, beside those for HTTP.
    pub(crate) fn start_as(
        doors: Doors,
        table: RouteTable,
        certificates: Option<&Arc<Certificates>>,
    ) -> Self {
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let http_address = http.local_addr().unwrap();
        let https = certificates.map(|certificates| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (listener, certificates.server_config().unwrap())
        });
        let https_address = https.as_ref().map(|(listener, _)| listener.local_addr().unwrap());
        let generations = Generations::new();
        let table = Arc::new(ServingTable::new(table, &generations));
        let doors = Doors { http: Some(http), https, ..doors };
        let ingress = Ingress::start(doors, NonZero::new(2).unwrap(), &table).unwrap();
        Self { ingress, generations, http: http_address, https: https_address }
    }

    pub(crate) async fn install(&self, table: RouteTable) {
        self.ingress.install(&Arc::new(ServingTable::new(table, &self.generations))).await;
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str) -> (StatusCode, String) {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        parse(&self.exchange(&request).await)
    }

    /// Sends bytes to the door for plain HTTP.
    pub(crate) async fn exchange(&self, request: &str) -> String {
        exchange(self.http, request).await
    }
}

/// Sends bytes, and meanwhile reads until the edge closes the connection.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut response = Vec::new();
    let write = async {
        // The edge may answer, and close, before it has read everything.
        let _ = writer.write_all(request.as_bytes()).await;
    };
    let (_, read) = within(async { tokio::join!(write, reader.read_to_end(&mut response)) }).await;
    if let Err(error) = read {
        assert!(!response.is_empty(), "{error}");
    }
    String::from_utf8(response).unwrap()
}

/// Status and body of a response that was read to the end of its connection, and that is not chunked.
pub(crate) fn parse(response: &str) -> (StatusCode, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {response:?}")), body.to_owned())
}

/// A certificate authority that writes pairs.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let (root, root_pem) = (root.der().clone(), root.pem());
        Self { issuer: rcgen::Issuer::new(params, key), root, root_pem }
    }

    /// Writes `file.crt` and `file.key` for these names.
    pub(crate) fn write_pair(&self, directory: &Path, file: &str, names: &[&str]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate =
            rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(directory.join(format!("{file}.crt")), certificate.pem()).unwrap();
    }

    /// A TLS connection that trusts this authority only.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        tls_connect(self.root.clone(), address, name, alpn).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn over(
        &self,
        stream: TcpStream,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        tls_over(self.root.clone(), stream, name, alpn).await
    }

    /// Writes the root in PEM.
    pub(crate) fn write_root(&self, file: &Path) {
        std::fs::write(file, &self.root_pem).unwrap();
    }
}

/// A TLS connection that trusts one root only.
pub(crate) async fn tls_connect(
    root: CertificateDer<'static>,
    address: SocketAddr,
    name: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(root, TcpStream::connect(address).await?, name, alpn).await
}

async fn tls_over(
    root: CertificateDer<'static>,
    stream: TcpStream,
    name: &str,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// The operator's certificates in a directory.
pub(crate) fn certificates_in(directory: &Path) -> Arc<Certificates> {
    let directories = Directories { of_operator: Some(directory.to_owned()), ordered: None };
    Certificates::read(directories, Arc::default()).unwrap()
}

/// An HTTP/2 client on this connection.
pub(crate) async fn http2<S>(stream: S) -> hyper::client::conn::http2::SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// What is logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects what this thread logs until the guard is dropped.
    pub(crate) fn collect(&self) -> tracing::subscriber::DefaultGuard {
        let (log, level) = (self.clone(), tracing::Level::DEBUG);
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(level);
        tracing::subscriber::set_default(subscriber.with_writer(move || log.clone()).finish())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
