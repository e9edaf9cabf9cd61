//! `/v1`

mod apps;
mod deployments;
mod events;
mod nodes;
mod session;
