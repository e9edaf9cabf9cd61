//! Lines on their way to the control plane: gathered into messages, bounded when nobody takes them.
//!
//! Invariant: a message stays far below the protocol's limit, memory stays below a fixed bound, and a gap is marked by a
//! line that says how many are missing.

use std::collections::VecDeque;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use wisehosting_protocol::payload::{LogLine, Stream};

/// Longest line; the rest of a longer one is cut off. JSON makes a byte six at most, so a full message stays below the
/// protocol's limit of 2 MiB.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Text in one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Lines in one message.
const MESSAGE_LINES_MAX: usize = 500;
/// Lines that wait.
const WAITING_MAX: usize = 5_000;

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

/// Lines that wait to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    lines: VecDeque<LogLine>,
    missing: u64,
    sent: u64,
}

impl Waiting {
    /// Adds a line; the oldest one gives way if there are too many.
    pub(crate) fn push(&mut self, line: LogLine) {
        if self.lines.len() >= WAITING_MAX {
            self.lines.pop_front();
            self.missing += 1;
        }
        self.lines.push_back(line);
    }

    /// Offers the waiting lines message by message: the number of the first one, and the lines. Those that are not taken
    /// wait on.
    pub(crate) fn send(&mut self, mut offer: impl FnMut(u64, Vec<LogLine>) -> bool) {
        self.mark_missing();
        while !self.lines.is_empty() {
            let count = self.next_message();
            let message: Vec<LogLine> = self.lines.iter().take(count).cloned().collect();
            if !offer(self.sent, message) {
                return;
            }
            self.lines.drain(..count);
            self.sent += u64::try_from(count).unwrap_or_default();
        }
    }

    fn mark_missing(&mut self) {
        if let Some(first) = self.lines.front().filter(|_| self.missing > 0) {
            let text = format!("({} lines are missing here)", self.missing);
            let mark = LogLine { at: first.at.clone(), stream: Stream::System, text };
            self.lines.push_front(mark);
            self.missing = 0;
        }
    }

    fn next_message(&self) -> usize {
        let mut bytes = 0;
        let fits = |line: &&LogLine| {
            bytes += line.text.len();
            bytes <= MESSAGE_BYTES_MAX
        };
        self.lines.iter().take(MESSAGE_LINES_MAX).take_while(fits).count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> LogLine {
        line(OffsetDateTime::UNIX_EPOCH, Stream::Stdout, text)
    }

    fn sent(waiting: &mut Waiting) -> Vec<(u64, Vec<String>)> {
        let mut messages = Vec::new();
        waiting.send(|first, lines| {
            messages.push((first, lines.into_iter().map(|line| line.text).collect()));
            true
        });
        messages
    }

    #[test]
    fn lines_are_numbered_across_messages() {
        let mut waiting = Waiting::default();
        waiting.push(text("a"));
        waiting.push(text("b"));
        assert_eq!(sent(&mut waiting), [(0, vec!["a".to_owned(), "b".to_owned()])]);
        waiting.push(text("c"));
        waiting.send(|_, _| false);
        assert_eq!(sent(&mut waiting), [(2, vec!["c".to_owned()])], "what was not taken is offered again");
    }

    #[test]
    fn messages_are_bounded() {
        let mut waiting = Waiting::default();
        for _ in 0..100 {
            waiting.push(text(&"ä".repeat(10_000)));
        }
        let messages = sent(&mut waiting);
        assert!(
            messages
                .iter()
                .all(|(_, lines)| lines.iter().map(String::len).sum::<usize>() <= MESSAGE_BYTES_MAX)
        );
        assert_eq!(messages.iter().map(|(_, lines)| lines.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_gap_is_marked() {
        let mut waiting = Waiting::default();
        for number in 0..WAITING_MAX + 3 {
            waiting.push(text(&number.to_string()));
        }
        let messages = sent(&mut waiting);
        assert_eq!(messages[0].1[..2], ["(3 lines are missing here)", "3"]);
    }

    #[test]
    fn a_time_is_written_as_the_protocol_wants_it() {
        assert_eq!(text("x").at, "1970-01-01T00:00:00Z");
    }
}
