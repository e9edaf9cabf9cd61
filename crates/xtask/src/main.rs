//! Checks and generators that the repository runs on itself: `cargo xtask <command>`.
//!
//! Nothing here is shipped. Every generator has a `--check` mode that changes no file and fails on drift, so that
//! what is committed is always what the generator would write.

mod bench;
mod command;
mod graph;
mod openapi;
mod postgres;
mod sqlx;
mod tidy;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Checks and generators of the WiseHosting repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the rules of CONTRIBUTING.md that neither the compiler nor clippy checks.
    Tidy,
    /// Check that the crates' dependencies point one way.
    Graph {
        /// Write the crate table of ARCHITECTURE.md instead.
        #[arg(long)]
        write: bool,
    },
    /// Write `web/openapi.json` from the control plane's routes.
    Openapi {
        /// Change nothing; fail when the file is not what would be written.
        #[arg(long)]
        check: bool,
        /// The control plane's program; built, if absent.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Run a command with DATABASE_URL pointing at a private, empty Postgres that lives as long as the command.
    Postgres {
        /// The command and its arguments, after `--`.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Regenerate `.sqlx/`, the description of every SQL query that lets the store build without a database.
    Sqlx {
        /// Change nothing; fail when `.sqlx/` is not what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Run the benchmarks against release builds.
    Bench {
        /// Passed on to each benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let root = workspace_root()?;
    match task {
        Task::Tidy => tidy::run(&root)?,
        Task::Graph { write: true } => graph::write(&root)?,
        Task::Graph { write: false } => graph::check(&root)?,
        Task::Openapi { check, program } => openapi::write(&root, check, program)?,
        Task::Postgres { command } => return postgres::run_command(&command),
        Task::Sqlx { check } => sqlx::prepare(&root, check)?,
        Task::Bench { arguments } => bench::run(&root, &arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of the workspace's `Cargo.toml`, two above this crate's.
fn workspace_root() -> anyhow::Result<PathBuf> {
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    crate_dir.join("../..").canonicalize().context("find the workspace's folder")
}
