//! Why a deploy failed, in a sentence for the app's owner that says what to do.

use crate::{git::GitError, health::Unhealthy, preset::PresetError, space::Full};
use std::{io, time::Duration};
use wisehosting_containers::{BuildError, EngineError};
use wisehosting_network::NetworkError;

/// Exit status of a program that was ended by SIGKILL. The engine does not always know that it was for its memory.
const KILLED: i64 = 128 + 9;
/// Longest piece of a program's output in a message.
const LAST_WORDS_CHARS_MAX: usize = 500;

/// Why a deploy failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// The source was not fetched.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The folder for it was not made.
    #[error("the worker could not make a folder for the build")]
    Workspace(#[source] io::Error),
    /// No preset builds it.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// Its Dockerfile is not one.
    #[error(
        "The Dockerfile of the repository is a folder, or a link that leads out of it. Replace it by a file, then \
         deploy again."
    )]
    NoDockerfile,
    /// The build has a time limit of its own.
    #[error("The build took longer than {} s and was stopped. Make it faster, or have its operator raise the limit.", .0.as_secs())]
    BuildTimeout(Duration),
    /// The build broke one of its limits.
    #[error("The build was stopped: {0}. Make it use less, or have the worker's operator raise the limit.")]
    BuildLimit(BuildError),
    /// The worker's disk is too full for it.
    #[error(
        "The worker's disk is too full for a build: {} MiB are free, {} MiB have to be. Delete apps that are not needed, \
         or have the worker's operator make room; then deploy again.",
        mib(.0.free_bytes), mib(.0.needed_bytes)
    )]
    DiskFull(Full),
    /// Its repository has filled the worker's disk.
    #[error(
        "Fetching the repository was stopped: its files filled the worker's disk, of which {} MiB have to stay free. Make \
         them smaller, or have the worker's operator make room.",
        mib(.0.needed_bytes)
    )]
    FetchDisk(Full),
    /// It has filled the worker's disk.
    #[error(
        "The build was stopped: it filled the worker's disk, of which {} MiB have to stay free. Make it write less, or have \
         the worker's operator make room.",
        mib(.0.needed_bytes)
    )]
    BuildDisk(Full),
    /// The image was not built.
    #[error("{0}. The build log shows what it printed.")]
    Build(BuildError),
    /// The engine did not do its part.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Every port is taken.
    #[error("the worker has no free port for another instance: remove apps, or widen worker.ports")]
    NoPort,
    /// Its traffic cannot be limited.
    #[error(
        "the worker cannot limit the traffic of the app: remove the bandwidth limit, or ask the operator"
    )]
    Bandwidth(#[source] NetworkError),
    /// The program ended before it answered.
    #[error("{}", describe_end(*.code, .last_lines))]
    Ended {
        /// Its exit status.
        code: i64,
        /// What it wrote last.
        last_lines: Vec<String>,
    },
    /// The program used more memory than it has.
    #[error(
        "The program was ended because it used more than its {} MiB of memory. Raise the app's memory limit, \
         or make it use less.",
        .limit_bytes / (1024 * 1024)
    )]
    OutOfMemory {
        /// What it may use.
        limit_bytes: u64,
    },
    /// The program runs and does not answer well.
    #[error("{}", describe_silence(*.last, *.port, .path, *.waited))]
    Unhealthy {
        /// What the last attempt came to.
        last: Unhealthy,
        /// Where it should listen.
        port: u16,
        /// What was asked for.
        path: String,
        /// How long it was given.
        waited: Duration,
    },
    /// The path of the health probe is not one.
    #[error("{0:?} is not a path for the health probe: begin it with / and use no spaces")]
    HealthPath(String),
    /// The job has a deadline.
    #[error("The deploy took longer than {} s and was stopped.", .0.as_secs())]
    Deadline(Duration),
    /// The worker ends.
    #[error("the worker is shutting down: deploy again")]
    ShuttingDown,
}

impl From<BuildError> for DeployError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Dockerfile(_) => Self::NoDockerfile,
            BuildError::OutOfMemory { .. }
            | BuildError::TooManyProcesses { .. }
            | BuildError::NoSpace { .. } => Self::BuildLimit(error),
            BuildError::Engine(error) => Self::Engine(error),
            error => Self::Build(error),
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

fn describe_end(code: i64, last_lines: &[String]) -> String {
    let words: String = last_lines.join(" / ").chars().take(LAST_WORDS_CHARS_MAX).collect();
    let end = match code {
        0 => "The program ended by itself before it answered: it must keep running and listen on $PORT."
            .to_owned(),
        KILLED => {
            "The program was killed before it answered (exit status 137), most often because it used more \
                   memory than it has: raise the app's memory limit, or make it use less."
                .to_owned()
        }
        code => format!("The program ended with exit status {code} before it answered."),
    };
    if words.is_empty() {
        format!("{end} It wrote nothing.")
    } else {
        format!("{end} Its last lines: {words}")
    }
}

fn describe_silence(last: Unhealthy, port: u16, path: &str, waited: Duration) -> String {
    let seconds = waited.as_secs();
    match last {
        Unhealthy::Refused => format!(
            "Nothing listens on port {port} of the container after {seconds} s. Listen on 0.0.0.0 and the port in \
             $PORT, or set the app's port."
        ),
        Unhealthy::Silent | Unhealthy::NotHttp => {
            format!(
                "Port {port} of the container is open but gave no HTTP answer within {seconds} s: {last}."
            )
        }
        Unhealthy::Status(status) => format!(
            "GET {path} on port {port} still answers with status {status} after {seconds} s. A healthy program \
             answers with a status below 500."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_the_last_words() {
        let error = DeployError::Ended { code: 3, last_lines: vec!["boom".to_owned(), "bang".to_owned()] };
        let expected = "The program ended with exit status 3 before it answered. Its last lines: boom / bang";
        assert_eq!(error.to_string(), expected);
        let error = DeployError::Ended { code: 1, last_lines: Vec::new() };
        assert!(error.to_string().ends_with("It wrote nothing."));
    }

    #[test]
    fn silence_is_told_with_what_to_do() {
        let unhealthy = |last| {
            let waited = Duration::from_secs(60);
            DeployError::Unhealthy { last, port: 8080, path: "/up".to_owned(), waited }.to_string()
        };
        assert!(unhealthy(Unhealthy::Refused).contains("Nothing listens on port 8080"));
        assert!(
            unhealthy(Unhealthy::Status(503)).contains("GET /up on port 8080 still answers with status 503")
        );
    }
}
