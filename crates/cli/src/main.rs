//! The command `wisehosting`: a lab on one machine, and a client of the REST API.
//!
//! Invariants: standard output carries results (one JSON value, or one per line, with `--json`), standard error the
//! reason why there are none; and the exit status says what kind of reason, see [`error::CliError::exit_code`].

mod answers;
mod arguments;
mod client;
mod connection;
mod control;
mod deploy;
mod doctor;
mod error;
mod inspect;
mod logs;
mod mesh;
mod output;
mod sizes;
mod stats;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    arguments::{Arguments, Command, MeshCommand},
    client::Client,
    error::CliError,
    output::Output,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Process 1 of a host is a single thread: no runtime for it.
    if let Command::LabInit { spec } = &arguments.command {
        return wisehosting_lab::init::run(spec);
    }
    let output = Output::new(arguments.json);
    match run(arguments, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

#[tokio::main]
async fn run(arguments: Arguments, output: Output) -> Result<(), CliError> {
    let connect = || Client::connect(connection::find(arguments.server.as_deref())?);
    match arguments.command {
        Command::Up(options) => up::up(options, output).await,
        Command::Down(options) => up::down(&options, output).await,
        Command::Deploy(options) => deploy::deploy(&connect()?, &options, output).await,
        Command::Restart(options) => control::restart(&connect()?, &options, output).await,
        Command::Stop { app } => control::stop(&connect()?, &app, output).await,
        Command::Start(options) => control::start(&connect()?, &options, output).await,
        Command::Cancel { app } => control::cancel(&connect()?, &app, output).await,
        Command::Delete { app } => control::delete(&connect()?, &app, output).await,
        Command::Apps { command } => inspect::apps(&connect()?, command, output).await,
        Command::Deployments(options) => inspect::deployments(&connect()?, &options, output).await,
        Command::Logs(options) => logs::logs(&connect()?, &options, output).await,
        Command::Stats(options) => stats::stats(&connect()?, &options, output).await,
        Command::Workers => inspect::workers(&connect()?, output).await,
        Command::Mesh { command: MeshCommand::Status } => mesh::status(&connect()?, output).await,
        Command::Doctor { app } => doctor::doctor(&connect()?, app.as_deref(), output).await,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "wisehosting", &mut std::io::stdout());
            Ok(())
        }
        Command::LabInit { .. } => Ok(()),
    }
}
