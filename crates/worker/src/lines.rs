//! Lines of a log on their way to the control plane, gathered into messages.
//!
//! Invariant: a message stays far below the protocol's limit.

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use wisehosting_protocol::payload::{LogLine, Stream};

/// Longest line; the rest of a longer one is cut off. JSON makes a byte six at most, so a full message stays below the
/// protocol's limit of 2 MiB.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Text in one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Lines in one message.
const MESSAGE_LINES_MAX: usize = 500;

/// A line of a log.
#[must_use]
pub(crate) fn line(at: OffsetDateTime, stream: Stream, text: &str) -> LogLine {
    let mut end = text.len().min(LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    LogLine { at: time_text(at), stream, text: text[..end].to_owned() }
}

/// A time as the protocol wants it.
#[must_use]
pub(crate) fn time_text(at: OffsetDateTime) -> String {
    // The format takes every time of a sane clock; one that is not is better shown empty than not at all.
    at.to_offset(UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
}

/// The lines of a log in order, of which the first ones were sent.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<LogLine>,
    sent: usize,
}

impl From<Vec<LogLine>> for Lines {
    /// A log of which nothing was sent.
    fn from(lines: Vec<LogLine>) -> Self {
        Self { lines, sent: 0 }
    }
}

impl Lines {
    /// Adds a line.
    pub(crate) fn push(&mut self, line: LogLine) {
        self.lines.push(line);
    }

    /// All of them, from the first.
    pub(crate) fn all(&self) -> &[LogLine] {
        &self.lines
    }

    /// Begins anew: what was sent may not have arrived.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Offers what is not sent, message by message: the number of the first line, and the lines. Answers whether all was
    /// taken.
    pub(crate) fn send(&mut self, mut offer: impl FnMut(u64, Vec<LogLine>) -> bool) -> bool {
        while self.sent < self.lines.len() {
            let message = self.next_message();
            let count = message.len();
            if !offer(u64::try_from(self.sent).unwrap_or(u64::MAX), message.to_vec()) {
                return false;
            }
            self.sent += count;
        }
        true
    }

    /// Of the lines that are not sent, as many as fit; one at least.
    fn next_message(&self) -> &[LogLine] {
        let mut bytes = 0;
        let fits = |line: &&LogLine| {
            bytes += line.text.len();
            bytes <= MESSAGE_BYTES_MAX
        };
        let waiting = &self.lines[self.sent..];
        &waiting[..waiting.iter().take(MESSAGE_LINES_MAX).take_while(fits).count().max(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> LogLine {
        line(OffsetDateTime::UNIX_EPOCH, Stream::Stdout, text)
    }

    fn sent(lines: &mut Lines) -> Vec<(u64, Vec<String>)> {
        let mut messages = Vec::new();
        let all = lines.send(|first, lines| {
            messages.push((first, lines.into_iter().map(|line| line.text).collect()));
            true
        });
        assert!(all);
        messages
    }

    #[test]
    fn lines_are_numbered_across_messages() {
        let mut lines = Lines::default();
        lines.push(text("a"));
        lines.push(text("b"));
        assert_eq!(sent(&mut lines), [(0, vec!["a".to_owned(), "b".to_owned()])]);
        lines.push(text("c"));
        assert!(!lines.send(|_, _| false));
        assert_eq!(sent(&mut lines), [(2, vec!["c".to_owned()])], "what was not taken is offered again");
        lines.rewind();
        assert_eq!(sent(&mut lines), [(0, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])]);
    }

    #[test]
    fn messages_are_bounded() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.push(text(&"ä".repeat(10_000)));
        }
        let messages = sent(&mut lines);
        let bytes = |lines: &[String]| lines.iter().map(String::len).sum::<usize>();
        assert!(messages.iter().all(|(_, lines)| bytes(lines) <= MESSAGE_BYTES_MAX));
        assert_eq!(messages.iter().map(|(_, lines)| lines.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_time_is_written_as_the_protocol_wants_it() {
        assert_eq!(text("x").at, "1970-01-01T00:00:00Z");
    }
}
