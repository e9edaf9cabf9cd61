//! The control plane: dashboard, REST API, agent hub, scheduler, rollout.
//!
//! One folder per feature; [`router`] lists every route and [`tasks`] every background task. Features share tables and
//! wake each other's tasks; they do not call each other's internals. Nothing is remembered in memory that a restart
//! may not lose: Postgres is the memory.

pub mod apps;
pub mod auth;
pub mod certificates;
pub mod config;
pub mod connections;
pub mod deployments;
pub mod error;
pub mod events;
pub mod extract;
pub mod health;
pub mod hub;
pub mod logs;
pub mod mesh;
mod middleware;
pub mod nodes;
pub mod openapi;
pub mod rollout;
pub mod router;
pub mod routes;
pub mod scheduler;
pub mod sealing;
pub mod state;
pub mod stats;
pub mod tasks;
mod violations;
mod web;
pub mod workers;
