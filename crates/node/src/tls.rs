//! TLS: ring is the only cryptography, chosen once per process.

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};
use std::{path::Path, sync::Arc};

/// Whose certificates are trusted.
pub type Authorities = Arc<RootCertStore>;

/// Trust in nobody.
#[must_use]
pub fn nobody() -> Authorities {
    Arc::new(RootCertStore::empty())
}

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
    let roots = host_authorities();
    if roots.is_empty() { Err(NoRoots) } else { Ok(client_config_with(roots)) }
}

/// The host's certificate authorities.
#[must_use]
pub fn host_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// The certificate authorities in a file in PEM.
///
/// # Errors
/// It cannot be read, or has none.
pub fn authorities(file: &Path) -> Result<RootCertStore, AuthoritiesError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() { Err(AuthoritiesError::None) } else { Ok(roots) }
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

/// Why a file gives no certificate authorities.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It is away, or no PEM.
    #[error("it cannot be read")]
    Read(#[from] pem::Error),
    /// One of them is no certificate of an authority.
    #[error("one of the certificates in it cannot be used")]
    Certificate(#[from] rustls::Error),
    /// It has none.
    #[error("there is no certificate in it")]
    None,
}
