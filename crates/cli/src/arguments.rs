//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use wisehosting_lab::state::DEFAULT_STATE_DIR;

use crate::sizes::{self, Moment};

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  it failed: a deployment, or the lab's start
  2  the command line is wrong
  3  the control plane refused it, or does not know what was named
  4  the control plane cannot be reached, or failed
  5  no token, or one that is not valid
  6  this machine lacks something: root, a program, a free port
  7  a lab is already running";

/// Deploy code to machines of your own, and try it all on one machine first.
#[derive(Debug, Parser)]
#[command(name = "wisehosting", version, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Address of the control plane. By default the one in ~/.config/wisehosting/config.toml, else this machine's lab.
    #[arg(long, global = true, value_name = "URL", env = "WISEHOSTING_SERVER")]
    pub(crate) server: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a control plane, a worker and a proxy on this machine, and deploy a first app.
    Up(Up),
    /// End the lab of this machine, or remove what a killed one left.
    Down(Down),
    /// Deploy a git repository and follow it until it is live.
    Deploy(Box<Deploy>),
    /// Restart an app without losing a request: the same version, with its settings of now.
    Restart(Begin),
    /// Stop an app: it is no longer served, but kept.
    Stop {
        /// Name of the app.
        app: String,
    },
    /// Start an app that was stopped.
    Start(Begin),
    /// Cancel what is being deployed of an app.
    Cancel {
        /// Name of the app.
        app: String,
    },
    /// Delete an app: it is no longer served, and its containers, images and logs are removed.
    Delete {
        /// Name of the app.
        app: String,
    },
    /// List apps, or show one.
    Apps {
        #[command(subcommand)]
        command: Option<Apps>,
    },
    /// List deployments, or cancel one.
    Deployments(Deployments),
    /// Show what apps write, or the log of an app's newest build.
    Logs(Logs),
    /// Show what apps use now, or what each instance of one does.
    Stats(Stats),
    /// List the workers and the proxies.
    Workers,
    /// Look at the mesh between the machines.
    Mesh {
        #[command(subcommand)]
        command: MeshCommand,
    },
    /// Find out what is wrong: walk from the control plane to each machine, or to an app, and name the hop that fails.
    Doctor {
        /// The app whose way is walked.
        app: Option<String>,
    },
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Process 1 of a host of the lab; started by `up`.
    #[command(hide = true)]
    LabInit {
        /// What makes this host different, as JSON.
        spec: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Do it all once, request the app, print the receipt and leave.
    #[arg(long)]
    pub(crate) once: bool,
    /// Port of the apps on 127.0.0.1 [default: 8080, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) http_port: Option<u16>,
    /// Port of the apps with TLS [default: 8443, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) https_port: Option<u16>,
    /// Port of the dashboard and the API [default: 8081, or a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Where wisehosting-control-plane, -worker and -edge are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lab: Down,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Folder of the lab.
    #[arg(long, value_name = "DIR", env = "WISEHOSTING_LAB_DIR", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Address of a git repository, or (in a lab) the path of one. Built by the Dockerfile at its root, or,
    /// without one, as what it looks like.
    pub(crate) repository: String,
    /// Name of the app: it is served at NAME.DOMAIN. An app of yours with this name is deployed anew.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: String,
    /// Branch or tag: of a new app for all its deployments, else for this one [default: the app's, or the repository's]
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) branch: Option<String>,
    /// File with the token or password for a private repository; - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "no_login")]
    pub(crate) login_file: Option<PathBuf>,
    /// User of that login [default: x-access-token, which takes a token of GitHub and of most others]
    #[arg(long, value_name = "NAME", requires = "login_file")]
    pub(crate) login_user: Option<String>,
    /// Forget the login of the app's repository.
    #[arg(long)]
    pub(crate) no_login: bool,
    /// Port on which the app listens, where its image exposes none or several [default: 8080]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Memory of an instance, such as 256M or 1G.
    #[arg(long, value_parser = sizes::memory_bytes)]
    pub(crate) memory: Option<u64>,
    /// Processor cores of an instance, such as 0.5.
    #[arg(long, value_parser = sizes::cpu_millis)]
    pub(crate) cpus: Option<u32>,
    /// Processes and threads of an instance.
    #[arg(long)]
    pub(crate) pids: Option<u32>,
    /// Traffic of an instance in each direction, such as 500kbit, 10mbit or 1gbit a second, or none for no limit.
    #[arg(long, value_parser = sizes::bandwidth)]
    pub(crate) bandwidth: Option<sizes::Bandwidth>,
    /// What an instance may write to its disk and keep there, such as 2G, or none for no limit.
    #[arg(long, value_parser = sizes::disk)]
    pub(crate) disk: Option<sizes::Disk>,
    /// How to build it: next, vite, node, go, python or static [default: by its Dockerfile, or as what it looks like]
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Whether its container may write to /tmp only: true, false, or auto for where its preset (vite, go, static) or its
    /// image (label wisehosting.read-only=true) says that it needs no more [default: auto]
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) read_only: Option<ReadOnly>,
    /// Environment variable of the app; may be repeated. A secret is better in a file: others may see this command.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = sizes::variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// File with variables, KEY=VALUE a line, where lines that begin with # are none; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Environment variable to remove; may be repeated.
    #[arg(long, value_name = "KEY")]
    pub(crate) remove_env: Vec<String>,
    /// Path that answers when the app is healthy [default: /]
    #[arg(long, value_name = "PATH")]
    pub(crate) health_path: Option<String>,
    /// How long the app may take to become healthy [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) health_timeout: Option<u32>,
    /// Leave as soon as the deployment is queued.
    #[arg(long)]
    pub(crate) no_follow: bool,
}

/// Whether a container may write to `/tmp` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadOnly {
    True,
    False,
    Auto,
}

impl From<ReadOnly> for Value {
    fn from(read_only: ReadOnly) -> Self {
        match read_only {
            ReadOnly::True => Self::Bool(true),
            ReadOnly::False => Self::Bool(false),
            ReadOnly::Auto => Self::Null,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Apps {
    /// List them (the default).
    List,
    /// Show one.
    Show {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Begin {
    /// Name of the app.
    pub(crate) app: String,
    /// Leave as soon as it is queued.
    #[arg(long)]
    pub(crate) no_follow: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum MeshCommand {
    /// Show how each machine reaches the others: directly or by the control plane, and how fast.
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Deployments {
    /// Only those of this app.
    pub(crate) app: Option<String>,
    /// Cancel this deployment.
    #[arg(long, value_name = "ID", conflicts_with = "app")]
    pub(crate) cancel: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Names of the apps; of several the lines are put in the order of their times.
    #[arg(required = true, value_name = "APP")]
    pub(crate) apps: Vec<String>,
    /// The log of the app's newest build instead.
    #[arg(long, conflicts_with = "since")]
    pub(crate) build: bool,
    /// Go on with what is written from now on, until interrupted.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines: 100 if neither this nor --since is given.
    #[arg(long)]
    pub(crate) tail: Option<usize>,
    /// Only what was written since: so long ago (90s, 10m, 2h, 7d), or a time such as 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", value_parser = sizes::moment)]
    pub(crate) since: Option<Moment>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Only this app, instance by instance.
    pub(crate) app: Option<String>,
    /// Show it again every ten seconds, until it is interrupted.
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_tells_to_type_is_understood() {
        let pages = [include_str!("../../../docs/operating.md"), include_str!("../../../README.md")];
        let typed = pages.iter().flat_map(|page| page.lines()).filter_map(|line| line.strip_prefix("# "));
        let ours = typed.filter_map(|line| {
            let (program, _) = line.split_once(' ')?;
            // Up to a remark, and with a word in the place of what the reader is to think of.
            let command =
                line.split("  #").next()?.replace("<url or path of a git repository>", "REPOSITORY");
            (program.rsplit('/').next()? == "wisehosting").then_some(command)
        });
        let ours: Vec<String> = ours.collect();
        assert!(ours.len() > 5, "{ours:?}");
        for command in ours {
            let understood = Arguments::try_parse_from(command.split_whitespace());
            assert!(understood.is_ok(), "{command}: {}", understood.unwrap_err());
        }
    }
}
