//! Who joins, at which address, and who does not. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use axum::http::StatusCode;
use time::OffsetDateTime;
use wisehosting_domain::{name::Label, role::Role};
use wisehosting_node::{
    join::messages::Candidate,
    mesh::{IpNet, PublicKey},
};
use wisehosting_store::{join_tokens::JoinToken, joined_nodes::JoinedNode};

use super::Declared;

/// All that decides.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) declared: Declared,
    pub(super) pool: IpNet,
    /// An address of the mesh, with its prefix.
    pub(super) mesh: IpNet,
    /// Those too that were removed and whose addresses are not free.
    pub(super) joined: Vec<JoinedNode>,
    /// Addresses that were a declared host's or a moved node's lately.
    pub(super) resting: BTreeSet<IpAddr>,
    pub(super) token: JoinToken,
    pub(super) now: OffsetDateTime,
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Admission {
    /// One who is in already, at this address.
    Known(IpAddr),
    /// One who is to be stored, which takes a use of the token.
    New(JoinedNode),
}

/// Why one is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("The join token has expired.")]
    Expired,
    #[error("The join token has been used as often as it may be.")]
    UsedUp,
    #[error("The join token is for {0}.")]
    ForAnother(String),
    #[error("The configuration of the control plane declares {0}.")]
    Declared(Label),
    #[error("{0} has joined as a {1}.")]
    OtherRole(Label, Role),
    #[error("{0} has joined with another key.")]
    OtherKey(Label),
    #[error("The key of this machine is that of another node.")]
    KeyTaken,
    #[error("The API key of this machine is that of another node.")]
    ApiKeyTaken,
    #[error("{0} was removed after the join token was made.")]
    Removed(Label),
    #[error("No address of the pool {0} is free.")]
    PoolExhausted(IpNet),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Expired | Self::UsedUp | Self::ForAnother(_) | Self::Removed(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::CONFLICT,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::UsedUp => "token_used_up",
            Self::ForAnother(_) => "token_for_another",
            Self::Declared(_) => "declared",
            Self::OtherRole(..) => "other_role",
            Self::OtherKey(_) => "other_key",
            Self::KeyTaken => "key_taken",
            Self::ApiKeyTaken => "api_key_taken",
            Self::Removed(_) => "removed",
            Self::PoolExhausted(_) => "pool_exhausted",
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self, name: &Label, key: &PublicKey) -> Option<String> {
        let command = "wisehosting-control-plane node";
        Some(match self {
            Self::Expired | Self::UsedUp | Self::Removed(_) => {
                format!("Make a new one with `{command} token create`.")
            }
            Self::ForAnother(_) => return None,
            Self::Declared(_) => {
                "Give the machine another name, or the keys that are declared, and do not join.".to_owned()
            }
            Self::OtherRole(..) => {
                format!("Choose another name, or remove it with `{command} remove --name {name}`.")
            }
            Self::OtherKey(_) => format!(
                "Choose another name; or, if this machine is to take its place, type \
                 `{command} rekey --name {name} --public-key {key}` on the control plane and join again."
            ),
            Self::KeyTaken | Self::ApiKeyTaken => {
                "Choose the name with which this machine joined before, or remove its keys.".to_owned()
            }
            Self::PoolExhausted(_) => {
                "Make join.pool larger, remove nodes, or wait until the addresses of those that are gone are free."
                    .to_owned()
            }
        })
    }
}

/// Decides about one who has proved that it knows the token and has its key.
pub(super) fn decide(facts: &Facts, candidate: &Candidate) -> Result<Admission, Refusal> {
    let Candidate { role, name, public_key, api_key_sha256 } = candidate;
    let Facts { declared, token, .. } = facts;
    if facts.now >= token.expires_at {
        return Err(Refusal::Expired);
    }
    if token.role != *role || token.node.as_ref().is_some_and(|node| node != name) {
        return Err(Refusal::ForAnother(purpose(token)));
    }
    if declared.names.contains(name) {
        return Err(Refusal::Declared(name.clone()));
    }
    let has_key = |node: &&JoinedNode| node.public_key == *public_key.as_bytes();
    let has_api_key = |node: &&JoinedNode| node.api_key_sha256 == *api_key_sha256;
    let is_removed = |node: &&JoinedNode| node.removed_at.is_some_and(|at| token.created_at <= at);
    let same = facts.joined.iter().find(|node| node.name == *name);
    if let Some(node) = same.filter(|node| node.removed_at.is_none()) {
        if node.role != *role {
            return Err(Refusal::OtherRole(name.clone(), node.role));
        }
        let is_it = has_key(&node) && has_api_key(&node);
        if is_it && !declared.collides(node) {
            return Ok(Admission::Known(node.address));
        }
        if !is_it && node.approved_public_key != Some(*public_key.as_bytes()) {
            return Err(Refusal::OtherKey(name.clone()));
        }
    }
    let others = || facts.joined.iter().filter(|node| node.name != *name);
    let others_now = || others().filter(|node| node.removed_at.is_none());
    if declared.keys.contains(public_key) || others_now().any(|node| has_key(&node)) {
        return Err(Refusal::KeyTaken);
    }
    if declared.api_key_hashes.contains(api_key_sha256) || others_now().any(|node| has_api_key(&node)) {
        return Err(Refusal::ApiKeyTaken);
    }
    let same_machine = others().filter(|node| has_key(node) || has_api_key(node));
    if let Some(node) = same.into_iter().chain(same_machine).find(is_removed) {
        return Err(Refusal::Removed(node.name.clone()));
    }
    if token.uses_left == 0 {
        return Err(Refusal::UsedUp);
    }
    let kept = same.map(|node| node.address).filter(|address| is_usable(facts, *address));
    let address = kept.or_else(|| free(facts)).ok_or(Refusal::PoolExhausted(facts.pool))?;
    Ok(Admission::New(JoinedNode {
        name: name.clone(),
        role: *role,
        address,
        public_key: *public_key.as_bytes(),
        api_key_sha256: *api_key_sha256,
        approved_public_key: None,
        joined_at: facts.now,
        removed_at: None,
    }))
}

fn purpose(token: &JoinToken) -> String {
    match &token.node {
        Some(node) => format!("the {} {node}", token.role),
        None => format!("nodes of another kind: a {}", token.role),
    }
}

/// The first address that is nobody's and was nobody's lately.
fn free(facts: &Facts) -> Option<IpAddr> {
    let joined = facts.joined.iter().map(|node| node.address);
    let taken: BTreeSet<IpAddr> = joined.chain(facts.resting.iter().copied()).collect();
    facts.pool.hosts().find(|address| !taken.contains(address) && is_usable(facts, *address))
}

/// Whether an address is of the pool, for a host, and not declared.
fn is_usable(facts: &Facts, address: IpAddr) -> bool {
    let Facts { pool, mesh, declared, .. } = facts;
    pool.contains(&address)
        && ![mesh.network(), mesh.broadcast()].contains(&address)
        && !declared.has_address(address)
}

#[cfg(test)]
mod tests;
