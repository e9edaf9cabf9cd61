//! The control plane with simulated agents: real Postgres, real WebSockets, the agents' own channel code; only what a
//! worker does with Podman and an edge with requests is played by the test.
//!
//! Each test has a database of its own on the server in `DATABASE_URL` (`cargo xtask postgres -- cargo test`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod certificates;
mod channel;
mod deploy;
mod drain;
mod jobs;
mod joined;
mod leases;
mod logins;
mod logs;
mod mesh;
mod outage;
mod platform;
mod removal;
mod sealing;
mod stats;
mod traefik;
mod violations;
