//! The certificates that visitors are shown, by the host name that they ask for.
//!
//! They are read from pairs `NAME.crt` and `NAME.key` in the operator's directory and in that of ordered ones, and
//! again whenever one of them changes: a handshake uses the set that is there when it begins. A pair that cannot be
//! used is reported and left out; if it was good before, the good one stays.

use crate::acme::challenges::{Challenges, TLS_ALPN};
use arc_swap::ArcSwap;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustls::{
    ServerConfig,
    crypto::ring::{Ticketer, default_provider, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use wisehosting_domain::name::Hostname;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Both files of a pair are written before it is read again.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Why a pair is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("it is not in PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("the certificate or its key cannot be used")]
    Key(#[from] rustls::Error),
    #[error("the certificate cannot be read")]
    Certificate(#[from] webpki::Error),
    #[error("the certificate does not say from when to when it is good")]
    Validity,
    #[error("the certificate has no host name")]
    NoName,
    #[error("the certificate is not for {0}")]
    OtherName(Hostname),
}

/// Where pairs are.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// The operator's. For a host name that both have, they win.
    pub of_operator: Option<PathBuf>,
    /// Those that the edge has ordered.
    pub ordered: Option<PathBuf>,
}

/// The certificates of the directories.
#[derive(Debug)]
pub struct Certificates {
    directories: Directories,
    pairs: ArcSwap<Pairs>,
    challenges: Arc<Challenges>,
    readings: watch::Sender<()>,
}

/// Which certificate a host name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Whether it is the operator's.
    pub of_operator: bool,
    /// Good from then on.
    pub not_before: OffsetDateTime,
    /// Good until then.
    pub not_after: OffsetDateTime,
}

/// A certificate with its key.
#[derive(Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    coverage: Coverage,
}

/// One reading of the directories.
#[derive(Debug, Default)]
struct Pairs {
    by_file: BTreeMap<PathBuf, Arc<Pair>>,
    by_name: HashMap<String, Arc<Pair>>,
}

impl Certificates {
    /// Reads the directories. While a challenge is open, its certificate is shown to who asks for it.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn read(directories: Directories, challenges: Arc<Challenges>) -> io::Result<Arc<Self>> {
        let certificates = Arc::new(Self {
            directories,
            pairs: ArcSwap::default(),
            challenges,
            readings: watch::Sender::default(),
        });
        certificates.reload()?;
        Ok(certificates)
    }

    /// The certificate that visitors of a host name are shown.
    #[must_use]
    pub fn coverage(&self, host: &Hostname) -> Option<Coverage> {
        self.pairs.load().find(host.as_str()).map(|pair| pair.coverage)
    }

    /// The certificate that was ordered for a host name, whether or not it is the one that visitors are shown.
    #[must_use]
    pub fn ordered(&self, host: &Hostname) -> Option<Coverage> {
        let file = self.directories.ordered.as_ref()?.join(format!("{host}.crt"));
        self.pairs.load().by_file.get(&file).map(|pair| pair.coverage)
    }

    /// Changes whenever the directories have been read again.
    #[must_use]
    pub fn readings(&self) -> watch::Receiver<()> {
        self.readings.subscribe()
    }

    /// TLS with these certificates, HTTP/2 and HTTP/1.1, and the protocol of challenges.
    ///
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), TLS_ALPN.to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Reads the directories again.
    fn reload(&self) -> io::Result<()> {
        let before = self.pairs.load();
        let mut by_file = BTreeMap::new();
        for (directory, of_operator) in self.directories.each() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.extension() != Some(OsStr::new("crt")) {
                    continue;
                }
                match read_pair(&path, of_operator) {
                    Ok(pair) => {
                        by_file.insert(path, Arc::new(pair));
                    }
                    Err(error) => {
                        tracing::error!(certificate = %path.display(), error = &error as &dyn Error, "a certificate is not used");
                        if let Some(good) = before.by_file.get(&path) {
                            by_file.insert(path, good.clone());
                        }
                    }
                }
            }
        }
        let pairs = Pairs::new(by_file);
        tracing::info!(
            certificates = pairs.by_file.len(),
            names = pairs.by_name.len(),
            "read the certificates"
        );
        self.pairs.store(Arc::new(pairs));
        self.readings.send_replace(());
        Ok(())
    }

    /// Reads the directories again whenever something in them changes, on a thread of its own, for as long as the
    /// certificates are used.
    ///
    /// # Errors
    /// A directory cannot be watched.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        for (directory, _) in self.directories.each() {
            inotify.add_watch(directory, changes)?;
        }
        let certificates = Arc::downgrade(self);
        thread::Builder::new().name("certificates".to_owned()).spawn(move || {
            while let Ok(_changes) = inotify.read_events() {
                thread::sleep(SETTLE_TIME);
                let Some(certificates) = certificates.upgrade() else { return };
                if let Err(error) = certificates.reload() {
                    tracing::error!(%error, "cannot read the directories of the certificates");
                }
            }
        })?;
        Ok(())
    }
}

impl Directories {
    /// Each that there is, and whether it is the operator's.
    fn each(&self) -> impl Iterator<Item = (&Path, bool)> {
        let of_operator = self.of_operator.iter().map(|directory| (directory.as_path(), true));
        of_operator.chain(self.ordered.iter().map(|directory| (directory.as_path(), false)))
    }
}

impl Pairs {
    fn new(by_file: BTreeMap<PathBuf, Arc<Pair>>) -> Self {
        let mut by_name: HashMap<String, Arc<Pair>> = HashMap::new();
        for pair in by_file.values() {
            for name in names(&pair.key).unwrap_or_default() {
                let keeps = by_name.get(&name).is_some_and(|other| other.coverage.of_operator);
                if pair.coverage.of_operator || !keeps {
                    by_name.insert(name, pair.clone());
                }
            }
        }
        Self { by_file, by_name }
    }

    /// The pair for a host name in lower case: its own, or that of the wildcard one label up.
    fn find(&self, name: &str) -> Option<&Arc<Pair>> {
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        if hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == TLS_ALPN)) {
            return self.challenges.certificate(&name);
        }
        self.pairs.load().find(&name).map(|pair| pair.key.clone())
    }
}

fn read_pair(certificate: &Path, of_operator: bool) -> Result<Pair, PairError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| PairError::Read(certificate.to_owned(), error))?;
    let key_file = certificate.with_extension("key");
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| PairError::Read(key_file, error))?;
    pair(chain, &key, of_operator)
}

/// Whether a pair in PEM is one that can be shown to visitors of a host name, and from when to when it is good.
pub(crate) fn check(host: &Hostname, chain: &str, key: &str) -> Result<Coverage, PairError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
    let pair = pair(chain, &PrivateKeyDer::from_pem_slice(key.as_bytes())?, false)?;
    let coverage = pair.coverage;
    let pairs = Pairs::new(BTreeMap::from([(PathBuf::new(), Arc::new(pair))]));
    pairs.find(host.as_str()).map(|_| coverage).ok_or_else(|| PairError::OtherName(host.clone()))
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
    of_operator: bool,
) -> Result<Pair, PairError> {
    let key = CertifiedKey::new(chain, any_supported_type(key)?);
    key.keys_match()?;
    if names(&key)?.is_empty() {
        return Err(PairError::NoName);
    }
    let (not_before, not_after) = validity(key.end_entity_cert()?).ok_or(PairError::Validity)?;
    Ok(Pair { key: Arc::new(key), coverage: Coverage { of_operator, not_before, not_after } })
}

/// From when to when a certificate is good.
fn validity(certificate: &CertificateDer<'_>) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

/// The host names in a certificate, in lower case; one may begin with `*.`.
fn names(key: &CertifiedKey) -> Result<Vec<String>, PairError> {
    let certificate = key.end_entity_cert()?;
    let certificate = webpki::EndEntityCert::try_from(certificate)?;
    Ok(certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
