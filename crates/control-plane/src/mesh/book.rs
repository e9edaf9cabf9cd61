//! What is known of the mesh now: what the control plane's own interface shows, and what nodes say.
//!
//! It is only true at its moment, so only memory holds it, and nothing is decided by it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use wisehosting_domain::name::Label;
use wisehosting_node::mesh::Sight;
use wisehosting_protocol::payload::MeshStatus;

/// All of it.
#[derive(Debug, Default)]
pub struct MeshBook(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    own: Sight,
    told: BTreeMap<Label, Told>,
}

/// What a node said, and when.
#[derive(Clone, Debug)]
pub struct Told {
    /// By the control plane's clock.
    pub at: OffsetDateTime,
    /// What it said.
    pub status: MeshStatus,
}

impl MeshBook {
    /// What the control plane's own interface shows.
    pub fn saw(&self, sight: Sight) {
        self.pages().own = sight;
    }

    /// A node says what it sees.
    pub fn told(&self, node: &Label, status: MeshStatus, at: OffsetDateTime) {
        self.pages().told.insert(node.clone(), Told { at, status });
    }

    /// What the control plane's own interface showed last, and what each node said last.
    #[must_use]
    pub fn read(&self) -> (Sight, BTreeMap<Label, Told>) {
        let pages = self.pages();
        (pages.own.clone(), pages.told.clone())
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
