//! What is shown to a certificate authority while it looks whether a host name leads here.

use arc_swap::ArcSwap;
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use std::{collections::HashMap, sync::Arc};

/// The protocol in whose name a challenge certificate is asked for (RFC 8737).
pub const TLS_ALPN: &[u8] = b"acme-tls/1";
/// Where a challenge file is asked for (RFC 8555, section 8.3).
const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are open now.
#[derive(Debug, Default)]
pub struct Challenges {
    files: Open<String>,
    certificates: Open<Arc<CertifiedKey>>,
}

/// Read by every connection, written seldom.
type Open<T> = ArcSwap<HashMap<String, T>>;

/// An open challenge, until it is dropped.
#[derive(Debug)]
pub(super) struct Shown {
    challenges: Arc<Challenges>,
    key: String,
}

impl Drop for Shown {
    fn drop(&mut self) {
        close(&self.challenges.files, &self.key);
        close(&self.challenges.certificates, &self.key);
    }
}

impl Challenges {
    /// The file that an authority asks for by this path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<String> {
        self.files.load().get(path.strip_prefix(HTTP_PATH)?).cloned()
    }

    /// The certificate that an authority asks for by this host name in lower case.
    #[must_use]
    pub fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.certificates.load().get(host).cloned()
    }

    pub(super) fn show_file(self: &Arc<Self>, token: &str, content: &str) -> Shown {
        open(&self.files, token, &content.to_owned());
        Shown { challenges: self.clone(), key: token.to_owned() }
    }

    /// Shows a certificate that says `digest` for `host`, and is good for nothing else.
    pub(super) fn show_certificate(
        self: &Arc<Self>,
        host: &str,
        digest: &[u8],
    ) -> Result<Shown, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new([host.to_owned()])?;
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_supported_type(&key).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        open(&self.certificates, host, &Arc::new(CertifiedKey::new(vec![certificate], key)));
        Ok(Shown { challenges: self.clone(), key: host.to_owned() })
    }
}

fn open<T: Clone>(set: &Open<T>, key: &str, shown: &T) {
    set.rcu(|open| {
        let mut open = HashMap::clone(open);
        open.insert(key.to_owned(), shown.clone());
        open
    });
}

fn close<T: Clone>(set: &Open<T>, key: &str) {
    if set.load().contains_key(key) {
        set.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.remove(key);
            open
        });
    }
}
