//! `/v1`

mod apps;
mod deployments;
mod events;
mod join;
mod nodes;
mod session;
