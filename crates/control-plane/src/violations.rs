//! Limits that instances broke, as users see them.

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use wisehosting_store::violations as store;

/// A limit that an instance broke. Its worker keeps it from running until the app is deployed again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Violation {
    /// Which limit: `out_of_memory`, `disk_quota` or `crash_loop`.
    #[schema(example = "out_of_memory")]
    pub kind: String,
    /// What happened and what to do.
    pub message: String,
    /// When, by the worker's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub observed_at: OffsetDateTime,
}

impl From<store::Violation> for Violation {
    fn from(violation: store::Violation) -> Self {
        let store::Violation { kind, message, observed_at } = violation;
        Self { kind: kind.to_string(), message, observed_at }
    }
}
