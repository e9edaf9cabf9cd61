//! Where a reader of a container's log is, as data that outlives the reader.
//!
//! Invariant: who reads on from a [`LogPosition`] gets exactly the lines that come after those he had with it, also a line
//! of which a part was read before.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::{fmt, str::FromStr};
use time::OffsetDateTime;

/// Where a program wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line that a program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the engine read it, to the nanosecond.
    pub at: OffsetDateTime,
    /// Where it was written.
    pub stream: LogStream,
    /// Without its line end; at most [`LINE_BYTES_MAX`] bytes, since a longer line comes as several. What is no UTF-8 is
    /// replaced.
    pub text: String,
}

/// Longest [`LogLine::text`], unless replacements make it longer: three times that at most.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Lines in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// Whether the engine has thrown lines away between the batch before and this one.
    pub lost: bool,
    /// In the order in which they were written.
    pub lines: Vec<LogLine>,
    /// Where the next batch begins.
    pub position: LogPosition,
}

/// A place in a container's log. The default is its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// What tells the file from the one that takes its place when it is full: the time of its first line, as it stands
    /// there. Empty if nothing was read of it.
    pub(crate) file: String,
    /// Bytes of the file that were read.
    pub(crate) offset: u64,
    /// What was read of a line of standard output, and of one of standard error, that was not at its end.
    pub(crate) partial: [Vec<u8>; 2],
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [stdout, stderr] = self.partial.each_ref().map(|bytes| BASE64_STANDARD.encode(bytes));
        write!(f, "{},{},{stdout},{stderr}", self.file, self.offset)
    }
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place in a log")]
pub struct NotAPosition;

impl FromStr for LogPosition {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let parts: Vec<&str> = text.split(',').collect();
        let &[file, offset, stdout, stderr] = parts.as_slice() else { return Err(NotAPosition) };
        let bytes = |text| BASE64_STANDARD.decode(text).map_err(|_| NotAPosition);
        Ok(Self {
            file: file.to_owned(),
            offset: offset.parse().map_err(|_| NotAPosition)?,
            partial: [bytes(stdout)?, bytes(stderr)?],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_same_after_it_was_written_down() {
        let position = LogPosition {
            file: "2026-11-21T07:30:00.123456789+00:00".to_owned(),
            offset: 4_711,
            partial: [b"half a l\xc3".to_vec(), Vec::new()],
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!(LogPosition::default().to_string().parse(), Ok(LogPosition::default()));
        for text in ["", "x", "x,1,", "x,y,,", "x,1,?,"] {
            assert_eq!(text.parse::<LogPosition>(), Err(NotAPosition), "{text}");
        }
    }
}
