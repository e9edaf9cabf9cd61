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
    crypto::ring::{Ticketer, default_provider},
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
use wisehosting_node::certificate::{Pair, PairError};
use zeroize::Zeroizing;

/// Both files of a pair are written before it is read again.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Why a pair is not used.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Pair(#[from] PairError),
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

/// A pair, and whose it is.
#[derive(Debug)]
struct Held {
    pair: Pair,
    of_operator: bool,
}

/// One reading of the directories.
#[derive(Debug, Default)]
struct Pairs {
    by_file: BTreeMap<PathBuf, Arc<Held>>,
    by_name: HashMap<String, Arc<Held>>,
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
        self.pairs.load().find(host.as_str()).map(|held| held.coverage())
    }

    /// The certificate that was ordered for a host name, whether or not it is the one that visitors are shown.
    #[must_use]
    pub fn ordered(&self, host: &Hostname) -> Option<Coverage> {
        let file = self.directories.ordered.as_ref()?.join(format!("{host}.crt"));
        self.pairs.load().by_file.get(&file).map(|held| held.coverage())
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
                match read_pair(&path) {
                    Ok(pair) => {
                        by_file.insert(path, Arc::new(Held { pair, of_operator }));
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

impl Held {
    fn coverage(&self) -> Coverage {
        let Pair { not_before, not_after, .. } = self.pair;
        Coverage { of_operator: self.of_operator, not_before, not_after }
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
    fn new(by_file: BTreeMap<PathBuf, Arc<Held>>) -> Self {
        let mut by_name: HashMap<String, Arc<Held>> = HashMap::new();
        for held in by_file.values() {
            for name in &held.pair.names {
                let keeps = by_name.get(name).is_some_and(|other| other.of_operator);
                if held.of_operator || !keeps {
                    by_name.insert(name.clone(), held.clone());
                }
            }
        }
        Self { by_file, by_name }
    }

    /// The pair for a host name in lower case: its own, or that of the wildcard one label up.
    fn find(&self, name: &str) -> Option<&Arc<Held>> {
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
        self.pairs.load().find(&name).map(|held| held.pair.key.clone())
    }
}

fn read_pair(certificate: &Path) -> Result<Pair, ReadError> {
    let read = |file: &Path| fs::read(file).map_err(|error| ReadError::File(file.to_owned(), error));
    let (chain, key) = (read(certificate)?, Zeroizing::new(read(&certificate.with_extension("key"))?));
    Ok(Pair::from_pem(&chain, &key)?)
}
