//! The program `wisehosting-control-plane`: its command line, and what each command does.

mod certificate_commands;
mod commands;
mod listing;
mod node_commands;
mod serve;

use std::{path::PathBuf, process::ExitCode};

use certificate_commands::CertificateCommand;
use clap::{Args, Parser, Subcommand};
use node_commands::NodeCommand;
use wisehosting_control_plane::{config::Config, openapi};
use wisehosting_domain::name::Label;
use wisehosting_node::{
    config::{self, ConfigError},
    listen::PassedSockets,
    log,
};

/// The control plane of WiseHosting: dashboard, REST API, agent hub, scheduler.
#[derive(Parser)]
#[command(name = "wisehosting-control-plane", version)]
struct Arguments {
    /// Configuration file (TOML). Every command but `openapi` needs it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane (the default).
    Run,
    /// Read and check the configuration and its secrets, then exit.
    CheckConfig,
    /// Print the description of the REST API.
    Openapi,
    /// Print a link that signs a user in once, within 15 minutes. A user who does not exist is made.
    LoginLink(User),
    /// Manage API tokens.
    #[command(subcommand)]
    Token(Token),
    /// Empty workers, and fill them again.
    #[command(subcommand)]
    Worker(Worker),
    /// Manage the nodes that join, and are not declared.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Manage the certificates that edges share.
    #[command(subcommand)]
    Certificate(CertificateCommand),
}

#[derive(Args)]
struct User {
    /// The user's address.
    #[arg(long)]
    email: String,
}

#[derive(Subcommand)]
enum Token {
    /// Print a new API token. It is shown this once. A user who does not exist is made.
    Create {
        #[command(flatten)]
        user: User,
        /// What the token is for; unique among the user's tokens.
        #[arg(long)]
        name: String,
    },
    /// End an API token: whoever uses it is refused from now on.
    Revoke {
        #[command(flatten)]
        user: User,
        /// The name that it was made under.
        #[arg(long)]
        name: String,
    },
}

#[derive(Subcommand)]
enum Worker {
    /// Move all apps of a worker to others, and give it no new ones until it is resumed. No request is lost.
    Drain(OneWorker),
    /// Give a worker that was drained new apps again. Those that were moved stay where they are.
    Resume(OneWorker),
}

#[derive(Args)]
struct OneWorker {
    /// The worker's name.
    #[arg(long)]
    name: Label,
}

fn main() -> ExitCode {
    // First, while there is one thread: it changes the environment.
    let sockets = PassedSockets::from_environment();
    let arguments = Arguments::parse();
    let result = match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi => print_openapi(),
        command => {
            read_config(arguments.config).map_err(anyhow::Error::from).and_then(|config| match command {
                Command::CheckConfig => commands::check_config(&config),
                Command::LoginLink(user) => commands::login_link(&config, &user.email),
                Command::Token(Token::Create { user, name }) => {
                    commands::create_token(&config, &user.email, &name)
                }
                Command::Token(Token::Revoke { user, name }) => {
                    commands::revoke_token(&config, &user.email, &name)
                }
                Command::Worker(Worker::Drain(OneWorker { name })) => commands::drain(&config, &name, true),
                Command::Worker(Worker::Resume(OneWorker { name })) => commands::drain(&config, &name, false),
                Command::Node(command) => node_commands::run(&config, command),
                Command::Certificate(command) => certificate_commands::run(&config, command),
                Command::Run | Command::Openapi => {
                    config.check()?;
                    log::init(&config.log)?;
                    serve::run(config, sockets?)
                }
            })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wisehosting-control-plane: {error:#}");
            let bad_configuration = error.chain().any(|cause| cause.is::<ConfigError>());
            if bad_configuration { ExitCode::from(config::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

fn read_config(file: Option<PathBuf>) -> Result<Config, ConfigError> {
    let Some(file) = file else {
        return Err(ConfigError::invalid("--config", "is not given: name the configuration file"));
    };
    config::load(&file)
}

fn print_openapi() -> anyhow::Result<()> {
    print!("{}", openapi::to_json()?);
    Ok(())
}
