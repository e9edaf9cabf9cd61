//! The join tokens, in memory: who knows none costs no connection to the database, and neither does who repeats what somebody else said.
//!
//! The database decides; this only keeps from it what it would refuse. Invariant: of what is met here, nothing is met again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use wisehosting_node::mesh::PublicKey;
use wisehosting_store::join_tokens::{JoinToken, TokenId};

/// Those that are good or were so lately; none before the database has said so.
#[derive(Debug, Default)]
pub struct JoinTokens(Mutex<Option<BTreeMap<TokenId, Known>>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    verifier: PublicKey,
    /// When the newest challenge was made that was met with it.
    met: Option<OffsetDateTime>,
}

impl JoinTokens {
    /// These are all.
    pub fn know(&self, tokens: &[JoinToken]) {
        let mut all = self.all();
        let met = |id: &TokenId| all.as_ref().and_then(|all| all.get(id)?.met);
        let known = |token: &JoinToken| {
            (token.id, Known { verifier: PublicKey::from_bytes(token.verifier), met: met(&token.id) })
        };
        let now = tokens.iter().map(known).collect();
        *all = Some(now);
    }

    /// Whether they are known yet.
    pub(super) fn are_known(&self) -> bool {
        self.all().is_some()
    }

    /// The public half of a token.
    pub(super) fn verifier(&self, id: &TokenId) -> Option<PublicKey> {
        Some(self.all().as_ref()?.get(id)?.verifier)
    }

    /// Notes that a challenge of this time was met, if none of this time or later was; says whether that is so.
    pub(super) fn meet(&self, id: &TokenId, challenged_at: OffsetDateTime) -> bool {
        let mut all = self.all();
        let Some(known) = all.as_mut().and_then(|all| all.get_mut(id)) else { return false };
        let is_newer = known.met.is_none_or(|met| met < challenged_at);
        if is_newer {
            known.met = Some(challenged_at);
        }
        is_newer
    }

    fn all(&self) -> MutexGuard<'_, Option<BTreeMap<TokenId, Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
