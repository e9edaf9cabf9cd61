//! How edges share certificates: what the control plane keeps of them, and who may order one.

use super::no_fields;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wisehosting_domain::{certificate::Challenge, id::JobId, name::Hostname, secret::Secret};

/// Hub to edge: which certificates are kept, and what is being done about others. An edge does what follows from it: it asks
/// for those that it lacks, gives those that the hub lacks, and shows the challenges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Those that the hub keeps.
    pub stored: BTreeMap<Hostname, Validity>,
    /// Orders under way: nobody else may order for their host names.
    pub orders: BTreeMap<Hostname, Order>,
    /// Host names that may not be ordered for yet, since the last order failed.
    pub held_back: Vec<Hostname>,
    /// Certificates that are not to be used any more, nor those before them: from when on they are good, in milliseconds since
    /// the Unix epoch. An edge goes on showing such a one until it has a newer one.
    pub forgotten: BTreeMap<Hostname, u64>,
}

/// From when to when a certificate is good, in milliseconds since the Unix epoch. Of two, the one that begins later is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// From then on.
    pub not_before_ms: u64,
    /// Until then.
    pub not_after_ms: u64,
}

/// An order of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which, in the words of the edge that has it.
    pub order_id: JobId,
    /// What every edge is to show; none before the certificate authority has said it.
    pub challenge: Option<Challenge>,
    /// Whether every connected edge shows it.
    pub shown: bool,
}

/// Either way: a certificate with its key, for the other side to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Whose.
    pub host: Hostname,
    /// From when to when it is good.
    pub validity: Validity,
    /// In PEM: its own certificate first, then those that lead to a root.
    pub chain: String,
    /// In PEM.
    pub key: Secret,
}

/// Edge to hub: give me this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateGet {
    /// Whose.
    pub host: Hostname,
}

/// Edge to hub: a step of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateOrder {
    /// For whom.
    pub host: Hostname,
    /// Which order; the edge lists it among its running jobs for as long as it works on it.
    pub order_id: JobId,
    /// Which step.
    pub step: OrderStep,
}

/// How far an order is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderStep {
    /// It may begin, if the hub says so in its next [`Certificates`].
    Begin {
        /// From when on the certificate is good that the edge has; none if it has none.
        held_not_before_ms: Option<u64>,
    },
    /// This is to be shown.
    Challenge(Challenge),
    /// There is no certificate.
    #[serde(deserialize_with = "no_fields")]
    Failed,
}

/// Edge to hub: these challenges are shown here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengesShown {
    /// By their tokens.
    pub tokens: Vec<String>,
}
