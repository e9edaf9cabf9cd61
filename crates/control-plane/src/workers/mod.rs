//! The platform's own machines, as everybody who is signed in may see them.

pub mod health;
pub mod list_edges;
pub mod list_workers;
