//! A front of the control plane for tests of TLS: of the versions that it is told, for one connection.
//!
//! It offers HTTP/2 before HTTP/1.1, as a front of the public internet does.

use super::{Identity, Role};
use crate::config::{ControlPlaneEndpoint, ControlPlaneUrl};
use rustls::{
    ProtocolVersion, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use std::{io, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What a connection begins with.
pub(super) type Accepted = (TlsStream<TcpStream>, Negotiated);

/// The version, and the protocol above it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Negotiated(Option<ProtocolVersion>, Option<Vec<u8>>);

impl Negotiated {
    /// What agents want.
    pub(super) fn wanted() -> Self {
        Self(Some(ProtocolVersion::TLSv1_3), Some(b"http/1.1".to_vec()))
    }
}

pub(super) struct TlsServer {
    /// An edge whose control plane it is.
    pub(super) identity: Identity,
    /// Who vouches for it.
    pub(super) certificate: CertificateDer<'static>,
    /// Its first connection, or why that came to nothing.
    pub(super) accepted: JoinHandle<io::Result<Accepted>>,
}

impl TlsServer {
    pub(super) async fn start(versions: &[&'static SupportedProtocolVersion]) -> Self {
        crate::tls::install_provider();
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let certificate = own.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .expect("its key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let url = format!("https://{}", listener.local_addr().expect("its address"));
        let accepted = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
            let session = stream.get_ref().1;
            let negotiated =
                Negotiated(session.protocol_version(), session.alpn_protocol().map(<[u8]>::to_vec));
            Ok((stream, negotiated))
        });
        let endpoint = ControlPlaneEndpoint {
            url: ControlPlaneUrl::try_from(url).expect("an address"),
            name: "edge-1".parse().expect("a name"),
            api_key_file: None,
        };
        let identity = Identity { role: Role::Edge, endpoint, api_key: "key".into(), version: "test" };
        Self { identity, certificate, accepted }
    }
}
