//! The program itself: its command line, its configuration, its end, and its patience with Postgres.
//!
//! Each test has a database of its own on the server in `DATABASE_URL` (`cargo xtask postgres -- cargo test`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod configuration;
mod control_plane;
mod dashboard;
mod joins;
mod postgres_away;
mod shutdown;
