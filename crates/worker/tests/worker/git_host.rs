//! A git host on the loopback: git's own server behind TLS, for who has the login.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::PrivateKeyDer;
use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::NamedTempFile;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command, sync::Notify};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// Longer than a fetch takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const USERNAME: &str = "somebody";
/// What must be found nowhere.
pub(crate) const PASSWORD: &str = "token-3e9c0b7f5a81";

/// The host; its requests are answered as long as the test runs.
pub(crate) struct GitHost {
    url: String,
    certificate: NamedTempFile,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Holds the repository.
    root: PathBuf,
    /// What each request came with, in order; empty if it had no login.
    logins: Mutex<Vec<String>>,
    redirect: Mutex<Option<String>>,
    hold: Mutex<Option<Hold>>,
}

/// A fetch whose login was taken, and that is not answered yet.
#[derive(Clone, Default)]
pub(crate) struct Hold {
    reached: Arc<Notify>,
    released: Arc<Notify>,
}

impl Hold {
    pub(crate) async fn reached(&self) {
        tokio::time::timeout(PATIENCE, self.reached.notified()).await.expect("a fetch in time");
    }

    pub(crate) fn release(&self) {
        self.released.notify_one();
    }
}

impl GitHost {
    /// A host of this bare repository.
    pub(crate) async fn start(bare: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let certificate = NamedTempFile::new().expect("a file");
        fs::write(certificate.path(), made.cert.pem()).expect("written");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).expect("a key pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let name = bare.file_name().and_then(|name| name.to_str()).expect("a name");
        let root = bare.parent().expect("a folder").to_owned();
        let shared = Arc::new(Shared { root, ..Shared::default() });
        tokio::spawn(serve(listener, acceptor, shared.clone()));
        Self { url: format!("https://{address}/{name}"), certificate, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Whom to trust to believe that it is the host.
    pub(crate) fn ca_file(&self) -> &Path {
        self.certificate.path()
    }

    pub(crate) fn right_login(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{USERNAME}:{PASSWORD}")))
    }

    /// What each request so far came with.
    pub(crate) fn logins(&self) -> Vec<String> {
        self.shared.logins.lock().expect("no panic").clone()
    }

    /// From now on sends who has the login to another address.
    pub(crate) fn redirect_to(&self, url: &str) {
        *self.shared.redirect.lock().expect("no panic") = Some(url.to_owned());
    }

    /// Holds the next fetch, once its login was taken.
    pub(crate) fn hold(&self) -> Hold {
        let hold = Hold::default();
        *self.shared.hold.lock().expect("no panic") = Some(hold.clone());
        hold
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(shared.clone(), request));
            // Who goes away early is none of our business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let login = header(AUTHORIZATION).to_owned();
    shared.logins.lock().expect("no panic").push(login.clone());
    let right = format!("Basic {}", BASE64.encode(format!("{USERNAME}:{PASSWORD}")));
    let mut response = Response::builder();
    if login != right {
        response = response.status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, "Basic realm=\"git\"");
        return Ok(response.body(Full::default()).expect("a response"));
    }
    if let Some(url) = shared.redirect.lock().expect("no panic").as_ref() {
        let to = format!("{url}/info/refs?service=git-upload-pack");
        response = response.status(StatusCode::FOUND).header(LOCATION, to);
        return Ok(response.body(Full::default()).expect("a response"));
    }
    let hold = shared.hold.lock().expect("no panic").take_if(|_| request.method() == Method::POST);
    if let Some(hold) = hold {
        hold.reached.notify_one();
        hold.released.notified().await;
    }
    Ok(http_backend(&shared.root, request).await)
}

/// Git's server, which speaks CGI.
async fn http_backend(root: &Path, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or(""))
        .env("CONTENT_TYPE", header(CONTENT_TYPE.as_str()))
        .env("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING.as_str()))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("git's server");
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut input = child.stdin.take().expect("piped");
    input.write_all(&body).await.expect("it reads");
    drop(input);
    let output = child.wait_with_output().await.expect("it answers").stdout;
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").expect("a head");
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").expect("a header");
        response = match name {
            "Status" => response.status(&value[..3]),
            name => response.header(name, value),
        };
    }
    response.body(Full::from(output[end + 4..].to_vec())).expect("a response")
}
