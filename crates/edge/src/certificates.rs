//! The certificates that visitors are shown, by the host name that they ask for.
//!
//! They are read from pairs `NAME.crt` and `NAME.key` in one directory, and again whenever it changes: a handshake uses
//! the set that is there when it begins. A pair that cannot be used is reported and left out; if it was good before,
//! the good one stays.

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

/// Both files of a pair are written before it is read again.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Why a pair is not used.
#[derive(Debug, thiserror::Error)]
enum PairError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the certificate or its key cannot be used")]
    Key(#[from] rustls::Error),
    #[error("the certificate cannot be read")]
    Certificate(#[from] webpki::Error),
    #[error("the certificate has no host name")]
    NoName,
}

/// The certificates of a directory.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    pairs: ArcSwap<Pairs>,
}

/// One reading of the directory.
#[derive(Debug, Default)]
struct Pairs {
    by_file: BTreeMap<PathBuf, Arc<CertifiedKey>>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads a directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read(directory: &Path) -> io::Result<Arc<Self>> {
        let certificates = Arc::new(Self { directory: directory.to_owned(), pairs: ArcSwap::default() });
        certificates.reload()?;
        Ok(certificates)
    }

    /// TLS with these certificates, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// The TLS library cannot be set up.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Reads the directory again.
    fn reload(&self) -> io::Result<()> {
        let before = self.pairs.load();
        let mut by_file = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension() != Some(OsStr::new("crt")) {
                continue;
            }
            match read_pair(&path) {
                Ok(pair) => {
                    by_file.insert(path, pair);
                }
                Err(error) => {
                    tracing::error!(certificate = %path.display(), error = &error as &dyn Error, "a certificate is not used");
                    if let Some(good) = before.by_file.get(&path) {
                        by_file.insert(path, good.clone());
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
        Ok(())
    }

    /// Reads the directory again whenever something in it changes, on a thread of its own, for as long as the
    /// certificates are used.
    ///
    /// # Errors
    /// The directory cannot be watched.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(&self.directory, changes)?;
        let certificates = Arc::downgrade(self);
        thread::Builder::new().name("certificates".to_owned()).spawn(move || {
            while let Ok(_changes) = inotify.read_events() {
                thread::sleep(SETTLE_TIME);
                let Some(certificates) = certificates.upgrade() else { return };
                if let Err(error) = certificates.reload() {
                    tracing::error!(%error, "cannot read the directory of the certificates");
                }
            }
        })?;
        Ok(())
    }
}

impl Pairs {
    fn new(by_file: BTreeMap<PathBuf, Arc<CertifiedKey>>) -> Self {
        let mut by_name = HashMap::new();
        for pair in by_file.values() {
            for name in names(pair).unwrap_or_default() {
                by_name.insert(name, pair.clone());
            }
        }
        Self { by_file, by_name }
    }

    /// The pair for a host name in lower case: its own, or that of the wildcard one label up.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pairs.load().find(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }
}

fn read_pair(certificate: &Path) -> Result<Arc<CertifiedKey>, PairError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| PairError::Read(certificate.to_owned(), error))?;
    let key_file = certificate.with_extension("key");
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| PairError::Read(key_file, error))?;
    let pair = CertifiedKey::new(chain, any_supported_type(&key)?);
    pair.keys_match()?;
    if names(&pair)?.is_empty() { Err(PairError::NoName) } else { Ok(Arc::new(pair)) }
}

/// The host names in a certificate, in lower case; one may begin with `*.`.
fn names(pair: &CertifiedKey) -> Result<Vec<String>, PairError> {
    let certificate = pair.end_entity_cert()?;
    let certificate = webpki::EndEntityCert::try_from(certificate)?;
    Ok(certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
}
