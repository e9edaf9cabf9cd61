//! TLS: ring is the only cryptography, chosen once per process.

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Makes ring the process's provider for libraries that ask for the default one. Calling it again changes nothing.
pub fn install_provider() {
    // An error says that a provider is installed already, and no other than this one is linked.
    let _ = ring::default_provider().install_default();
}

/// TLS 1.3 with the host's certificate authorities, HTTP/1.1 only.
///
/// # Errors
/// The host has no usable certificate authority.
pub fn client_config() -> Result<ClientConfig, NoRoots> {
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if usable == 0 {
        return Err(NoRoots);
    }
    Ok(client_config_with(roots))
}

/// TLS 1.3 with these certificate authorities, HTTP/1.1 only: a front that picks HTTP/2 breaks the upgrade to a WebSocket.
pub(crate) fn client_config_with(roots: RootCertStore) -> ClientConfig {
    install_provider();
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The host has no certificate authorities to check a server with.
#[derive(Debug, thiserror::Error)]
#[error("no certificate authority was found on this host: install the package ca-certificates")]
pub struct NoRoots;
