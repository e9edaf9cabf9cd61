//! The end of what a program has written.
//!
//! Invariant: it is bounded, however much the program writes.

use std::collections::VecDeque;
use wisehosting_containers::LogLine;

/// What is kept, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// What an empty line counts.
const LINE_COST_BYTES: usize = 16;

/// The last lines, in order.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// Whether there were others before.
    cut: bool,
}

impl Tail {
    /// Adds a line.
    pub(super) fn push(&mut self, line: LogLine) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > BYTES_MAX
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= cost(&first);
            self.cut = true;
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// The texts of the last lines, so many at most.
    pub(super) fn last_texts(&self, count: usize) -> Vec<String> {
        let before = self.lines.len().saturating_sub(count);
        self.lines.iter().skip(before).map(|line| line.text.clone()).collect()
    }

    pub(super) fn into_lines(self) -> impl Iterator<Item = LogLine> {
        self.lines.into_iter()
    }
}

fn cost(line: &LogLine) -> usize {
    line.text.len() + LINE_COST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;
    use wisehosting_containers::LogStream;

    #[test]
    fn the_last_lines_are_kept_and_no_more_than_fit() {
        let line = |number: usize| LogLine {
            at: OffsetDateTime::UNIX_EPOCH,
            stream: LogStream::Stderr,
            text: format!("{number:01000}"),
        };
        let mut tail = Tail::default();
        (0..60).for_each(|number| tail.push(line(number)));
        assert!(!tail.is_cut());
        (60..1_000).for_each(|number| tail.push(line(number)));
        assert!(tail.is_cut());
        assert_eq!(tail.last_texts(2), [line(998).text, line(999).text]);
        let lines: Vec<LogLine> = tail.into_lines().collect();
        assert_eq!(lines, (1_000 - lines.len()..1_000).map(line).collect::<Vec<_>>());
        assert!((60_000..=BYTES_MAX).contains(&(lines.len() * 1_000)), "{}", lines.len());
    }
}
