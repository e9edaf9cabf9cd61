//! The REST API against a real Postgres: one folder or file per part of the URL.
//!
//! Each test has a database of its own on the server in `DATABASE_URL` (`cargo xtask postgres -- cargo test`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod headers;
mod healthz;
mod openapi;
mod server;
mod strangers;
mod v1;
