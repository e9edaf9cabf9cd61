//! The pairs of this edge and those that the control plane keeps: each has what the other lacks, as far as it is needed here.
//!
//! Invariants: an older certificate never replaces a newer one, and what the control plane gives is checked before it is
//! written. One certificate at a time is asked for or given.

use crate::certificates::{self, Certificates};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use wisehosting_domain::{name::Hostname, secret::Secret};
use wisehosting_node::{channel::ChannelHandle, private_file};
use wisehosting_protocol::payload::{self, Certificate, CertificateGet, Validity};

/// For the control plane to answer before it is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// In PEM.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) chain: String,
    pub(super) key: Secret,
}

/// What to do about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Get(Hostname),
    Give(Hostname),
}

/// The pairs on disk.
#[derive(Debug)]
pub(super) struct PairKeeper {
    directory: PathBuf,
    certificates: Arc<Certificates>,
    channel: ChannelHandle,
    /// Pairs that were written, and may not have been read yet: from when on they are good.
    written: BTreeMap<Hostname, u64>,
    /// Pairs that the control plane keeps and nobody can use.
    useless: BTreeMap<Hostname, u64>,
    /// What was done last, and when.
    last: Option<(Move, Instant)>,
}

impl PairKeeper {
    pub(super) fn new(directory: PathBuf, certificates: Arc<Certificates>, channel: ChannelHandle) -> Self {
        let (written, useless) = (BTreeMap::new(), BTreeMap::new());
        Self { directory, certificates, channel, written, useless, last: None }
    }

    /// From when on the certificate is good that this edge has ordered or was given.
    pub(super) fn held_not_before_ms(&self, host: &Hostname) -> Option<u64> {
        let read = self.certificates.ordered(host).map(|coverage| to_ms(coverage.not_before));
        read.max(self.written.get(host).copied())
    }

    /// Whether this edge has a newer one than the control plane.
    pub(super) fn is_newer(&self, host: &Hostname, known: &payload::Certificates) -> bool {
        self.held_not_before_ms(host) > known.stored.get(host).map(|stored| stored.not_before_ms)
    }

    /// Keeps a pair that this edge has ordered.
    pub(super) fn keep(&mut self, host: &Hostname, pair: &Pair) -> io::Result<()> {
        let coverage = certificates::check(host, &pair.chain, pair.key.expose()).map_err(io::Error::other)?;
        self.write(host, pair)?;
        self.written.insert(host.clone(), to_ms(coverage.not_before));
        Ok(())
    }

    /// Asks for one certificate or gives one, if that is due.
    pub(super) fn exchange(
        &mut self,
        hosts: &BTreeSet<Hostname>,
        known: &payload::Certificates,
        now: OffsetDateTime,
    ) {
        let next = hosts.iter().find_map(|host| self.due(host, known, now));
        let waits =
            |(last, at): &(Move, Instant)| next.as_ref() == Some(last) && at.elapsed() < ANSWER_PATIENCE;
        if self.last.as_ref().is_some_and(waits) {
            return;
        }
        self.last = next.map(|next| (next, Instant::now()));
        let sent = match &self.last {
            None => return,
            Some((Move::Get(host), _)) => self.channel.try_send(CertificateGet { host: host.clone() }),
            Some((Move::Give(host), _)) => match self.read(host) {
                Ok(certificate) => self.channel.try_send(certificate),
                Err(error) => {
                    tracing::error!(host.name = %host, error = &*error, "cannot give a certificate to the control plane");
                    return;
                }
            },
        };
        if sent.is_err() {
            // There is no room on the channel: again at the next look.
            self.last = None;
        }
    }

    fn due(&self, host: &Hostname, known: &payload::Certificates, now: OffsetDateTime) -> Option<Move> {
        let stored = known.stored.get(host).map(|stored| stored.not_before_ms);
        let held = self.held_not_before_ms(host);
        let of_operator = self.certificates.coverage(host).is_some_and(|coverage| coverage.of_operator);
        if stored > held {
            let usable = !of_operator && self.useless.get(host).copied() != stored;
            return usable.then(|| Move::Get(host.clone()));
        }
        let good = self.certificates.ordered(host).is_some_and(|coverage| coverage.not_after > now);
        (good && held > stored).then(|| Move::Give(host.clone()))
    }

    /// Takes a certificate from the control plane; returns for whom, if it is of use.
    pub(super) fn take(&mut self, certificate: Certificate) -> Option<Hostname> {
        let Certificate { host, validity, chain, key } = certificate;
        if self.held_not_before_ms(&host) >= Some(validity.not_before_ms) {
            return None;
        }
        let checked = certificates::check(&host, &chain, key.expose()).map_err(Box::<dyn Error>::from);
        let checked = checked.and_then(|coverage| {
            let same = to_ms(coverage.not_before) == validity.not_before_ms;
            same.then_some(()).ok_or_else(|| "it is not good from when it is said to be".into())
        });
        if let Err(error) = checked {
            tracing::error!(host.name = %host, error = &*error, "a certificate of the control plane's cannot be used");
            self.useless.insert(host, validity.not_before_ms);
            return None;
        }
        if let Err(error) = self.write(&host, &Pair { chain, key }) {
            tracing::error!(host.name = %host, %error, "cannot save a certificate of the control plane's");
            return None;
        }
        tracing::info!(host.name = %host, "has a certificate from the control plane");
        self.written.insert(host.clone(), validity.not_before_ms);
        Some(host)
    }

    /// Writes a pair, for the program only.
    fn write(&self, host: &Hostname, pair: &Pair) -> io::Result<()> {
        private_file::write(&self.directory.join(format!("{host}.key")), pair.key.expose().as_bytes())?;
        private_file::write(&self.directory.join(format!("{host}.crt")), pair.chain.as_bytes())
    }

    fn read(&self, host: &Hostname) -> Result<Certificate, Box<dyn Error>> {
        let chain = fs::read_to_string(self.directory.join(format!("{host}.crt")))?;
        let key = Secret::from(fs::read_to_string(self.directory.join(format!("{host}.key")))?);
        let coverage = certificates::check(host, &chain, key.expose())?;
        let (not_before_ms, not_after_ms) = (to_ms(coverage.not_before), to_ms(coverage.not_after));
        Ok(Certificate { host: host.clone(), validity: Validity { not_before_ms, not_after_ms }, chain, key })
    }
}

fn to_ms(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
