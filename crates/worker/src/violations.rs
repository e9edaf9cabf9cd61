//! Instances that broke a limit: kept from running for as long as their container is there, and told to the control
//! plane at each new connection.
//!
//! One file per instance. Invariant: neither a restart of this program nor one of the host lets such an instance run
//! again.

use crate::{
    journal::{self, JournalError},
    outbox::Outbox,
};
use std::{
    collections::{BTreeMap, HashSet},
    error::Error,
    path::{Path, PathBuf},
};
use wisehosting_domain::id::InstanceId;
use wisehosting_protocol::payload::Violation;

/// The instances that broke a limit.
#[derive(Debug)]
pub struct Violations {
    dir: PathBuf,
    known: BTreeMap<InstanceId, Entry>,
}

#[derive(Debug)]
struct Entry {
    violation: Violation,
    /// Whether it was told on this connection.
    told: bool,
}

impl Violations {
    /// Those that an earlier run has left in the worker's state folder.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let dir = state_dir.join("violations");
        journal::make_dir(&dir)?;
        let all: Vec<Violation> = journal::read_all(&dir)?;
        let entry = |violation: Violation| (violation.instance_id, Entry { violation, told: false });
        Ok(Self { dir, known: all.into_iter().map(entry).collect() })
    }

    /// Whether an instance is to be kept from running.
    pub(crate) fn holds(&self, instance: InstanceId) -> bool {
        self.known.contains_key(&instance)
    }

    /// Keeps an instance from running from now on.
    pub(crate) fn record(&mut self, violation: Violation) {
        let instance = violation.instance_id;
        if let Err(error) = journal::write(&self.file(instance), &violation) {
            tracing::error!(instance.id = %instance, error = &error as &dyn Error, "an instance that broke a limit would run again after a restart");
        }
        self.known.insert(instance, Entry { violation, told: false });
    }

    /// Offers what was not told on this connection.
    pub(crate) fn tell(&mut self, outbox: &Outbox) {
        for entry in self.known.values_mut().filter(|entry| !entry.told) {
            entry.told = outbox.offer(entry.violation.clone());
        }
    }

    /// There is a new connection.
    pub(crate) fn tell_again(&mut self) {
        for entry in self.known.values_mut() {
            entry.told = false;
        }
    }

    /// Forgets all instances but these, whose containers are there.
    pub(crate) fn retain(&mut self, found: &HashSet<InstanceId>) {
        let gone: Vec<InstanceId> = self.known.keys().filter(|id| !found.contains(id)).copied().collect();
        for instance in gone {
            self.known.remove(&instance);
            if let Err(error) = journal::remove(&self.file(instance)) {
                tracing::warn!(instance.id = %instance, error = &error as &dyn Error, "a file of an instance that is gone is left behind");
            }
        }
    }

    fn file(&self, instance: InstanceId) -> PathBuf {
        self.dir.join(format!("{instance}.json"))
    }
}
