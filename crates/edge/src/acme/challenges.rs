//! What is shown to a certificate authority while it looks whether a host name leads here.
//!
//! Any edge may be asked, whichever has ordered: so each shows what its own orders need and what those of all edges do.

use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::Arc,
};
use wisehosting_domain::{
    certificate::{Challenge, ChallengeKind},
    name::Hostname,
};
use wisehosting_protocol::payload::Order;

/// The protocol in whose name a challenge certificate is asked for (RFC 8737).
pub const TLS_ALPN: &[u8] = b"acme-tls/1";
/// Where a challenge file is asked for (RFC 8555, section 8.3).
const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are open now.
#[derive(Debug, Default)]
pub struct Challenges {
    files: Open<String>,
    certificates: Open<Arc<CertifiedKey>>,
    shared: ArcSwap<Shared>,
}

/// What all edges show.
#[derive(Debug, Default)]
struct Shared {
    /// By their tokens.
    files: HashMap<String, String>,
    /// By host name, with the token that each was made for.
    certificates: HashMap<String, (String, Arc<CertifiedKey>)>,
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
        let token = path.strip_prefix(HTTP_PATH)?;
        let shared = || self.shared.load().files.get(token).cloned();
        self.files.load().get(token).cloned().or_else(shared)
    }

    /// The certificate that an authority asks for by this host name in lower case.
    #[must_use]
    pub fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let shared = || self.shared.load().certificates.get(host).map(|(_, key)| key.clone());
        self.certificates.load().get(host).cloned().or_else(shared)
    }

    /// Shows what these orders need, and nothing that others needed.
    pub(super) fn share(&self, orders: &BTreeMap<Hostname, Order>) {
        let before = self.shared.load();
        let mut shared = Shared::default();
        for (host, order) in orders {
            let Some(Challenge { kind, token, key_authorization }) = &order.challenge else { continue };
            match kind {
                ChallengeKind::Http01 => {
                    shared.files.insert(token.clone(), key_authorization.clone());
                }
                ChallengeKind::TlsAlpn01 => {
                    let made = before.certificates.get(host.as_str()).filter(|(made, _)| made == token);
                    let key = match made {
                        Some((_, key)) => Ok(key.clone()),
                        None => certificate(host.as_str(), key_authorization),
                    };
                    match key {
                        Ok(key) => {
                            shared.certificates.insert(host.to_string(), (token.clone(), key));
                        }
                        Err(error) => {
                            let error = &error as &dyn Error;
                            tracing::error!(host.name = %host, error, "cannot show a challenge");
                        }
                    }
                }
            }
        }
        self.shared.store(Arc::new(shared));
    }

    pub(super) fn show_file(self: &Arc<Self>, token: &str, content: &str) -> Shown {
        open(&self.files, token, &content.to_owned());
        Shown { challenges: self.clone(), key: token.to_owned() }
    }

    /// Shows a certificate for `host` that is good for nothing else.
    pub(super) fn show_certificate(
        self: &Arc<Self>,
        host: &str,
        key_authorization: &str,
    ) -> Result<Shown, rcgen::Error> {
        open(&self.certificates, host, &certificate(host, key_authorization)?);
        Ok(Shown { challenges: self.clone(), key: host.to_owned() })
    }
}

/// The certificate of a challenge (RFC 8737, section 3).
fn certificate(host: &str, key_authorization: &str) -> Result<Arc<CertifiedKey>, rcgen::Error> {
    let digest = digest(&SHA256, key_authorization.as_bytes());
    let mut params = rcgen::CertificateParams::new([host.to_owned()])?;
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&key).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
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
