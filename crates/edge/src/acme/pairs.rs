//! The pairs of this edge and those that the control plane keeps: each has what the other lacks, as far as it is needed here.
//!
//! Invariants: an older certificate never replaces a newer one, one that the operator had forgotten is not used to get by, and
//! what the control plane gives is checked before it is written. One certificate at a time is asked for or given.

use super::exchange::{Exchange, Move};
use crate::certificates::Certificates;
use std::{collections::BTreeMap, error::Error, fs, io, path::PathBuf, sync::Arc};
use time::OffsetDateTime;
use tokio::time::Instant;
use wisehosting_domain::{name::Hostname, secret::Secret};
use wisehosting_node::{certificate, channel::ChannelHandle, private_file};
use wisehosting_protocol::payload::{self, Certificate, CertificateGet, Validity};

/// In PEM.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) chain: String,
    pub(super) key: Secret,
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
    /// Pairs that the operator had forgotten: from when on they are good. They are shown until there is another one.
    forgotten: BTreeMap<Hostname, u64>,
    exchange: Exchange,
}

impl PairKeeper {
    pub(super) fn new(directory: PathBuf, certificates: Arc<Certificates>, channel: ChannelHandle) -> Self {
        Self {
            directory,
            certificates,
            channel,
            written: BTreeMap::new(),
            useless: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            exchange: Exchange::default(),
        }
    }

    /// From when on the certificate is good that this edge has ordered or was given, and that was not forgotten.
    pub(super) fn held_not_before_ms(&self, host: &Hostname) -> Option<u64> {
        self.shown_not_before_ms(host)
            .filter(|held| self.forgotten.get(host).is_none_or(|forgotten| held > forgotten))
    }

    /// Whether the certificate that this edge has was forgotten.
    pub(super) fn is_forgotten(&self, host: &Hostname) -> bool {
        self.held_not_before_ms(host) != self.shown_not_before_ms(host)
    }

    fn shown_not_before_ms(&self, host: &Hostname) -> Option<u64> {
        let read = self.certificates.ordered(host).map(|coverage| to_ms(coverage.not_before));
        read.max(self.written.get(host).copied())
    }

    /// Takes what was forgotten. Returns for which names that is news.
    pub(super) fn forget(&mut self, forgotten: &BTreeMap<Hostname, u64>) -> Vec<Hostname> {
        let news = forgotten.iter().filter(|(host, at)| self.forgotten.get(*host) != Some(*at));
        let news = news.map(|(host, _)| host.clone()).collect();
        self.forgotten.clone_from(forgotten);
        news
    }

    /// Whether this edge has a newer one than the control plane.
    pub(super) fn is_newer(&self, host: &Hostname, known: &payload::Certificates) -> bool {
        self.held_not_before_ms(host) > known.stored.get(host).map(|stored| stored.not_before_ms)
    }

    /// Keeps a pair that this edge has ordered.
    pub(super) fn keep(&mut self, host: &Hostname, pair: &Pair) -> io::Result<()> {
        let read = certificate::Pair::of(host, pair.chain.as_bytes(), pair.key.expose().as_bytes());
        let read = read.map_err(io::Error::other)?;
        self.write(host, pair)?;
        self.written.insert(host.clone(), to_ms(read.not_before));
        Ok(())
    }

    /// Asks for one certificate of these names or gives one, if that is due. Returns when to look again although nothing has
    /// changed.
    pub(super) fn exchange<'a>(
        &mut self,
        hosts: impl Iterator<Item = &'a Hostname>,
        known: &payload::Certificates,
        now: OffsetDateTime,
    ) -> Option<Instant> {
        let due = hosts.filter_map(|host| Some((host.clone(), self.due(host, known, now)?))).collect();
        while let Some((host, next)) = self.exchange.next(&due, Instant::now()) {
            let sent = match next {
                Move::Get => self.channel.try_send(CertificateGet { host: host.clone() }),
                Move::Give => match self.read(&host) {
                    Ok(certificate) => self.channel.try_send(certificate),
                    Err(error) => {
                        tracing::error!(host.name = %host, error = &*error, "cannot give a certificate to the control plane");
                        self.exchange.close();
                        continue;
                    }
                },
            };
            if sent.is_err() {
                // There is no room on the channel: again at the next look.
                self.exchange.undo(&host);
                break;
            }
        }
        self.exchange.next_at()
    }

    fn due(&self, host: &Hostname, known: &payload::Certificates, now: OffsetDateTime) -> Option<Move> {
        let stored = known.stored.get(host).map(|stored| stored.not_before_ms);
        let held = self.held_not_before_ms(host);
        let of_operator = self.certificates.coverage(host).is_some_and(|coverage| coverage.of_operator);
        if stored > held {
            let usable = !of_operator && self.useless.get(host).copied() != stored;
            return usable.then_some(Move::Get);
        }
        let good = self.certificates.ordered(host).is_some_and(|coverage| coverage.not_after > now);
        (good && held > stored).then_some(Move::Give)
    }

    /// Takes a certificate from the control plane; returns for whom, if it is of use.
    pub(super) fn take(&mut self, certificate: Certificate) -> Option<Hostname> {
        let Certificate { host, validity, chain, key } = certificate;
        if self.held_not_before_ms(&host) >= Some(validity.not_before_ms) {
            return None;
        }
        let read = certificate::Pair::of(&host, chain.as_bytes(), key.expose().as_bytes());
        let checked = read.map_err(Box::<dyn Error>::from).and_then(|pair| {
            let same = to_ms(pair.not_before) == validity.not_before_ms;
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
        let pair = certificate::Pair::of(host, chain.as_bytes(), key.expose().as_bytes())?;
        let (not_before_ms, not_after_ms) = (to_ms(pair.not_before), to_ms(pair.not_after));
        Ok(Certificate { host: host.clone(), validity: Validity { not_before_ms, not_after_ms }, chain, key })
    }
}

fn to_ms(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
