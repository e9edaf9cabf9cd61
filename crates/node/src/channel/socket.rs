//! One connection of the channel: TCP, TLS where the URL says https, the upgrade, and the exchange of starting numbers.

use super::{Identity, SetUpError, path_of};
use crate::{random, tls};
use reqwest::Url;
use rustls::{
    ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use secrecy::{ExposeSecret, SecretString};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{HeaderValue, StatusCode, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};
use wisehosting_protocol::{
    HEADER_START, HEADER_VERSION, MESSAGE_BYTES_MAX, VERSION, connection::AgentConnection, key::SigningKey,
};

/// For everything from the first packet to the upgraded connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Read and write buffers; tungstenite's own default is 128 KiB for each connection.
const BUFFER_BYTES: usize = 8 * 1024;

/// Why a connection is not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Within the time for a handshake.
    #[error("the control plane does not answer")]
    Timeout,
    /// TCP or TLS.
    #[error("connect")]
    Connect(#[from] io::Error),
    /// The host of the URL cannot be in a certificate.
    #[error("check the server's name")]
    ServerName(#[from] InvalidDnsNameError),
    /// The token is not, or no longer, taken. The next attempt gets a new one.
    #[error("the control plane does not take the token")]
    TokenRefused,
    /// The hub speaks another version of the protocol; what it says about that.
    #[error("{0}")]
    OtherVersion(String),
    /// Any other answer than an upgrade.
    #[error("upgrade to a WebSocket")]
    Upgrade(#[source] Box<tungstenite::Error>),
    /// The hub did not say where this side must start to count.
    #[error("the answer has no usable header {HEADER_START}")]
    NoStart,
}

/// An open connection and its signing state.
pub(super) struct Link {
    pub(super) socket: WebSocketStream<Box<dyn Stream>>,
    pub(super) connection: AgentConnection,
}

/// TCP with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections to one hub.
pub(super) struct Dialer {
    url: Url,
    key: SigningKey,
    tls: Option<TlsConnector>,
}

impl Dialer {
    pub(super) fn new(identity: &Identity) -> Result<Self, SetUpError> {
        let mut url = identity.endpoint.url.join(&format!("{}/ws", path_of(identity.role)));
        let secure = url.scheme() == "https";
        // Between http(s) and ws(s) the scheme of a URL can always be changed.
        let _ = url.set_scheme(if secure { "wss" } else { "ws" });
        let tls = secure.then(tls::client_config).transpose()?;
        Ok(Self { url, key: identity.signing_key(), tls: tls.map(connector) })
    }

    pub(super) async fn dial(&self, token: &SecretString) -> Result<Link, DialError> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(token))
            .await
            .unwrap_or(Err(DialError::Timeout))
    }

    async fn handshake(&self, token: &SecretString) -> Result<Link, DialError> {
        let accept_start = random::sequence_start();
        let request = self.request(token, accept_start)?;
        let stream = self.connect().await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES)
            .max_write_buffer_size(2 * MESSAGE_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let (socket, response) = client_async_with_config(request, stream, Some(config)).await?;
        let send_start = response
            .headers()
            .get(HEADER_START)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or(DialError::NoStart)?;
        Ok(Link { socket, connection: AgentConnection::new(self.key.clone(), send_start, accept_start) })
    }

    fn request(&self, token: &SecretString, accept_start: u64) -> Result<Request, tungstenite::Error> {
        let mut request = self.url.as_str().into_client_request()?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
        bearer.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(HEADER_VERSION, VERSION.into());
        headers.insert(HEADER_START, accept_start.into());
        Ok(request)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, DialError> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.url.port_or_known_default().unwrap_or(443);
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                Ok(Box::new(tls.connect(name, stream).await?))
            }
        }
    }
}

fn connector(config: ClientConfig) -> TlsConnector {
    TlsConnector::from(Arc::new(config))
}

impl From<tungstenite::Error> for DialError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(response) => match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::TokenRefused,
                StatusCode::UPGRADE_REQUIRED => {
                    Self::OtherVersion(sentence(response.body().as_deref().unwrap_or_default()))
                }
                _ => Self::Upgrade(Box::new(tungstenite::Error::Http(response))),
            },
            error => Self::Upgrade(Box::new(error)),
        }
    }
}

/// What the hub says about its refusal: `{"error":{"message":…,"hint":…}}`, as much of it as came with the answer's head.
fn sentence(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let [message, hint] = ["message", "hint"].map(|field| body["error"][field].as_str());
    match (message, hint) {
        (Some(message), Some(hint)) => format!("{message} {hint}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => format!(
            "the control plane does not speak version {VERSION} of the protocol: install its release here"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::tls_server::{Negotiated, TlsServer};
    use rustls::{
        RootCertStore,
        version::{TLS12, TLS13},
    };
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::handshake::server::{Request as Upgrade, Response},
    };

    /// What agents have, but that they trust this server.
    fn dialer(server: &TlsServer) -> Dialer {
        let mut roots = RootCertStore::empty();
        roots.add(server.certificate.clone()).expect("a certificate");
        let tls = Some(connector(tls::client_config_with(roots)));
        Dialer { tls, ..Dialer::new(&server.identity).expect("authorities of this host") }
    }

    #[tokio::test]
    async fn the_channel_is_tls_1_3_and_http_1_1_whatever_else_is_offered() {
        let server = TlsServer::start(&[&TLS12, &TLS13]).await;
        let dialer = dialer(&server);
        let hub = async {
            let (stream, negotiated) = server.accepted.await.expect("it runs").expect("a connection");
            assert_eq!(negotiated, Negotiated::wanted());
            #[expect(clippy::result_large_err, reason = "the library wants it so")]
            let answer = |request: &Upgrade, mut response: Response| {
                assert_eq!(request.headers()[AUTHORIZATION], "Bearer token");
                response.headers_mut().insert(HEADER_START, 7.into());
                Ok(response)
            };
            accept_hdr_async(stream, answer).await.expect("an upgrade")
        };
        let (link, _hub) = tokio::join!(async { dialer.dial(&"token".into()).await }, hub);
        assert!(link.is_ok());
    }

    #[tokio::test]
    async fn the_channel_is_not_opened_over_tls_1_2() {
        let server = TlsServer::start(&[&TLS12]).await;
        let refused = dialer(&server).dial(&"token".into()).await.err();
        assert!(matches!(refused, Some(DialError::Connect(_))), "{refused:?}");
        server.accepted.await.expect("it runs").expect_err("no token came over it");
    }

    #[test]
    fn a_hub_of_another_version_is_quoted() {
        let body =
            br#"{"error":{"code":"other_protocol","message":"Too old.","hint":"Install a newer one."}}"#;
        assert_eq!(sentence(body), "Too old. Install a newer one.");
        assert!(sentence(b"<html>").contains("does not speak version"));
    }
}
