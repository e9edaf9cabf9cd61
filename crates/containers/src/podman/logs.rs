//! Reading a container's log.
//!
//! Invariant: each line carries the moment at which the engine read it, no line from before `since` is sent, and a log
//! that is followed is sent whole: the engine's own following can miss the end of a container that lives for a
//! moment only, with its last lines or for ever, so that what is missing is read once more when the container has ended.

use super::Podman;
use crate::engine::{ContainerId, EngineError, LogLine, LogQuery, LogStream};
use bollard::{
    container::LogOutput,
    query_parameters::{LogsOptions, LogsOptionsBuilder, WaitContainerOptions},
};
use futures_util::StreamExt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::mpsc;

pub(super) async fn run(
    podman: &Podman,
    id: &ContainerId,
    query: LogQuery,
    lines: mpsc::Sender<LogLine>,
) -> Result<(), EngineError> {
    let mut reading = Reading { podman, id, lines, last: None };
    if query.follow {
        tokio::select! {
            followed = reading.read(query) => followed?,
            () = ended(podman, id) => {}
        }
    }
    reading.read(LogQuery { follow: false, ..query }).await
}

/// Waits until the container does not run, or until the engine cannot say.
async fn ended(podman: &Podman, id: &ContainerId) {
    if let Ok(docker) = podman.docker() {
        docker.wait_container(id.as_str(), None::<WaitContainerOptions>).next().await;
    }
}

struct Reading<'a> {
    podman: &'a Podman,
    id: &'a ContainerId,
    lines: mpsc::Sender<LogLine>,
    /// The moment of the last line that was sent, and how many of that very moment were.
    last: Option<(OffsetDateTime, usize)>,
}

impl Reading<'_> {
    /// Sends what was not sent yet, until the log ends or nobody listens.
    async fn read(&mut self, query: LogQuery) -> Result<(), EngineError> {
        let mut output = self.podman.docker()?.logs(self.id.as_str(), Some(self.options(query)));
        let before = self.last;
        let mut again = before.map_or(0, |(_, count)| count);
        while let Some(piece) = output.next().await {
            let piece = match piece.map_err(|e| self.podman.failure("read a log", e)) {
                Ok(piece) => piece,
                Err(failure) => return Err(failure.about(self.id).into()),
            };
            let Some(line) = parse(piece) else { continue };
            if query.since.is_some_and(|since| line.at < since) {
                continue;
            }
            match before {
                Some((last, _)) if line.at < last => continue,
                Some((last, _)) if line.at == last && again > 0 => {
                    again -= 1;
                    continue;
                }
                _ => {}
            }
            if !self.send(line).await {
                break;
            }
        }
        Ok(())
    }

    fn options(&self, query: LogQuery) -> LogsOptions {
        // The engine knows moments to the second.
        let since = self.last.map(|(at, _)| at).or(query.since);
        let since = since.map_or(0, |at| i32::try_from(at.unix_timestamp()).unwrap_or(i32::MAX));
        let tail = query.tail.filter(|_| self.last.is_none());
        LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(query.follow)
            .since(since)
            .tail(&tail.map_or_else(|| "all".to_owned(), |count| count.to_string()))
            .build()
    }

    /// Whether somebody listens. What is cut off here was not sent, and is not counted as sent.
    async fn send(&mut self, line: LogLine) -> bool {
        let at = line.at;
        if self.lines.send(line).await.is_err() {
            return false;
        }
        let count = self.last.filter(|(last, _)| *last == at).map_or(0, |(_, count)| count);
        self.last = Some((at, count + 1));
        true
    }
}

/// The engine sends one line a piece: its moment, a space, its text.
fn parse(piece: LogOutput) -> Option<LogLine> {
    let (stream, bytes) = match piece {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (LogStream::Stdout, message)
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let (at, text) = text.split_once(' ')?;
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?;
    Some(LogLine { at, stream, text: text.trim_end_matches(['\n', '\r']).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_moment_and_its_spaces() {
        let message = "2026-11-21T07:30:00.123456789Z  two  spaces\n".into();
        let line = parse(LogOutput::StdErr { message }).expect("a line");
        assert_eq!((line.stream, line.text.as_str()), (LogStream::Stderr, " two  spaces"));
        assert_eq!(line.at.nanosecond(), 123_456_789);
    }
}
