//! Reading a container's log.
//!
//! Invariant: each line carries the moment at which the engine read it, and no line from before `since` is sent.

use super::Podman;
use crate::engine::{ContainerId, EngineError, LogLine, LogQuery, LogStream};
use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures_util::StreamExt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::mpsc;

pub(super) async fn run(
    podman: &Podman,
    id: &ContainerId,
    query: LogQuery,
    lines: mpsc::Sender<LogLine>,
) -> Result<(), EngineError> {
    let since = query.since.map_or(0, |at| i32::try_from(at.unix_timestamp()).unwrap_or(i32::MAX));
    let tail = query.tail.map_or_else(|| "all".to_owned(), |count| count.to_string());
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(query.follow)
        .since(since)
        .tail(&tail)
        .build();
    let docker = podman.docker()?;
    let mut output = docker.logs(id.as_str(), Some(options));
    while let Some(piece) = output.next().await {
        let piece = match piece.map_err(|e| podman.failure("read a log", e)) {
            Ok(piece) => piece,
            Err(failure) => return Err(failure.about(id).into()),
        };
        let Some(line) = parse(piece) else { continue };
        let wanted = query.since.is_none_or(|since| line.at >= since);
        if wanted && lines.send(line).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
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
