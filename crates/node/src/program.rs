//! The frame of a program: its command line, its configuration, its log, its exit status.
//!
//! A configuration error is found before the program does anything, and exits with [`config::EXIT_CODE`].

use crate::{
    config::{self, ConfigError, LogConfig},
    join::{self, JoinArguments},
    listen::PassedSockets,
    log, tls,
};
use clap::{Args as _, FromArgMatches as _};
use serde::de::DeserializeOwned;
use std::{path::PathBuf, process::ExitCode};
use wisehosting_domain::role::Role;

/// What a program is called.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What its host is in the platform.
    pub role: Role,
}

/// A program's whole configuration.
pub trait Settings: DeserializeOwned {
    /// The section `[log]`.
    fn log(&self) -> &LogConfig;

    /// Checks what a type cannot: values that must fit together, files that must be there.
    ///
    /// # Errors
    /// What is wrong, naming the setting.
    fn check(&self) -> Result<(), ConfigError>;
}

#[derive(clap::Args)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the program (the default).
    Run,
    /// Read and check the configuration, then exit.
    CheckConfig,
    /// Join a platform whose hosts do not declare this one, and write down beside the configuration file what that gave.
    Join(JoinArguments),
}

/// Runs a program: reads the command line and the configuration, starts the log, and calls `run` with the sockets that
/// the parent passed. `run` makes its own runtime.
pub fn main<S: Settings>(
    program: Program,
    run: impl FnOnce(S, PassedSockets) -> anyhow::Result<()>,
) -> ExitCode {
    let sockets = PassedSockets::from_environment();
    let command = clap::Command::new(program.name).about(program.about).version(program.version);
    let matches = Arguments::augment_args(command).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = if let Some(Command::Join(options)) = &arguments.command {
        join::run(program, &arguments.config, options)
    } else {
        prepare::<S>(&arguments).map_err(anyhow::Error::from).and_then(|settings| {
            if let Some(Command::CheckConfig) = arguments.command {
                println!("{}: the configuration is good", arguments.config.display());
                return Ok(());
            }
            log::init(settings.log())?;
            tls::install_provider();
            run(settings, sockets?)
        })
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", program.name);
            exit_code(&error)
        }
    }
}

fn prepare<S: Settings>(arguments: &Arguments) -> Result<S, ConfigError> {
    let settings: S = config::load(&arguments.config)?;
    settings.check()?;
    Ok(settings)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let bad_configuration = error.chain().any(|cause| cause.is::<ConfigError>());
    if bad_configuration { ExitCode::from(config::EXIT_CODE) } else { ExitCode::FAILURE }
}
