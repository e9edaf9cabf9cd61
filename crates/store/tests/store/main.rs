//! The store against a real Postgres: each test has a database of its own on the server in `DATABASE_URL`
//! (`cargo xtask postgres -- cargo test`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deployments;
mod errors;
mod fixture;
mod jobs;
mod logs;
mod records;
mod routes;
