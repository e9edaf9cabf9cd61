//! The files of one log, in the format of Kubernetes: `TIME STREAM P|F TEXT`, where `P` says that the line goes on in the
//! next record of its stream.
//!
//! Invariant: a file is left for the one that took its place only when it can grow no more and was read to its end.

use super::rotations::{Rotations, Watch};
use crate::log::{LINE_BYTES_MAX, LogBatch, LogLine, LogPosition, LogStream};
use std::{
    fs::File,
    io,
    mem::take,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Bytes that are read at a time, and so of text in a batch, beside what was read of a line before.
const READ_BYTES: usize = 192 * 1024;
/// Records in a batch; each ends four lines at most.
const RECORDS_MAX: usize = 2_000;

/// A log that is read.
pub(super) struct LogFile {
    path: PathBuf,
    watch: Watch,
    current: Option<Source>,
    /// What has taken the place of `current`.
    next: Option<Source>,
    position: LogPosition,
    lost: bool,
}

/// An open file.
struct Source {
    file: File,
    /// How many were before it.
    number: u64,
}

impl LogFile {
    /// Begins to read at this position, or, if the file is not the one that it is in, at the beginning.
    pub(super) fn open(path: PathBuf, position: LogPosition, rotations: &Rotations) -> io::Result<Self> {
        let watch = rotations.watch(&path)?;
        let current = open(&path, &watch)?;
        let mut log = Self { path, watch, current, next: None, position, lost: false };
        if !log.position.file.is_empty() && !log.is_at_its_file()? {
            log.position = LogPosition::default();
            log.lost = true;
        }
        Ok(log)
    }

    fn is_at_its_file(&self) -> io::Result<bool> {
        let Some(Source { file, .. }) = &self.current else { return Ok(false) };
        let mut first = vec![0; self.position.file.len() + 1];
        let read = file.read_at(&mut first, 0)?;
        let same = read == first.len() && first.strip_prefix(self.position.file.as_bytes()) == Some(b" ");
        Ok(same && file.metadata()?.len() >= self.position.offset)
    }

    /// Opens what has taken the place of the file, if something has, before it is replaced in its turn.
    pub(super) fn look(&mut self) {
        let newest = self.current.as_ref().map(|current| current.number);
        if self.next.is_none() && newest != Some(self.watch.count()) {
            // One that cannot be opened now is missed later.
            self.next = open(&self.path, &self.watch).ok().flatten();
        }
    }

    /// Whether so much waits to be read that a batch will not get larger by waiting.
    pub(super) fn is_behind(&self) -> bool {
        let read =
            |current: &Source| Some(current.file.metadata().ok()?.len().saturating_sub(self.position.offset));
        self.next.is_some()
            || self.current.as_ref().and_then(read).is_some_and(|left| left >= READ_BYTES as u64)
    }

    /// What is there and was not read. Empty at the end of what is written.
    pub(super) fn next(&mut self) -> io::Result<LogBatch> {
        loop {
            self.look();
            let Some(Source { file, number }) = &self.current else {
                self.current = self.next.take();
                let Some(first) = &self.current else { return Ok(self.batch(Vec::new())) };
                self.lost |= first.number != 0;
                continue;
            };
            let (number, size) = (*number, file.metadata()?.len());
            // Nothing, most of the time.
            let waits = size.saturating_sub(self.position.offset).min(READ_BYTES as u64);
            let mut bytes = vec![0; usize::try_from(waits).unwrap_or(READ_BYTES)];
            let length = file.read_at(&mut bytes, self.position.offset)?;
            if length == 0 && size < self.position.offset {
                self.begin_file();
                self.lost = true;
                continue;
            }
            let before = self.position.offset;
            let lines = self.take_records(&bytes[..length]);
            if !lines.is_empty() {
                return Ok(self.batch(lines));
            }
            if self.position.offset != before {
                continue;
            }
            let Some(next) = self.next.take() else { return Ok(self.batch(lines)) };
            self.lost |= next.number != number + 1;
            self.current = Some(next);
            self.begin_file();
        }
    }

    /// The lines that have no end, now that none will come.
    pub(super) fn rest(&mut self) -> Option<LogBatch> {
        let at = self.written_at().unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut lines = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let text = take(&mut self.position.partial[stream as usize]);
            if !text.is_empty() {
                lines.push(LogLine { at, stream, text: lossy(&text) });
            }
        }
        (!lines.is_empty()).then(|| self.batch(lines))
    }

    /// When the file was written to.
    fn written_at(&self) -> Option<OffsetDateTime> {
        let written = self.current.as_ref()?.file.metadata().ok()?.modified().ok()?;
        Some(written.into())
    }

    fn begin_file(&mut self) {
        self.position.file.clear();
        self.position.offset = 0;
    }

    fn batch(&mut self, lines: Vec<LogLine>) -> LogBatch {
        let lost = !lines.is_empty() && take(&mut self.lost);
        LogBatch { lost, lines, position: self.position.clone() }
    }

    /// Takes the whole records at the beginning of `bytes`.
    fn take_records(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for record in bytes.split_inclusive(|byte| *byte == b'\n').take(RECORDS_MAX) {
            let is_whole = record.ends_with(b"\n");
            // No record fills the buffer; whatever this is, it must not stop the log for ever.
            if !is_whole && record.len() < READ_BYTES {
                break;
            }
            match Record::parse(record) {
                Some(record) if is_whole => self.take_record(&record, &mut lines),
                _ => self.lost = true,
            }
            self.position.offset += record.len() as u64;
        }
        lines
    }

    fn take_record(&mut self, record: &Record<'_>, lines: &mut Vec<LogLine>) {
        let Record { time, at, stream, ends, text } = *record;
        if self.position.offset == 0 {
            time.clone_into(&mut self.position.file);
        }
        let partial = &mut self.position.partial[stream as usize];
        partial.extend_from_slice(text);
        while partial.len() > LINE_BYTES_MAX {
            let rest = partial.split_off(boundary(partial));
            lines.push(LogLine { at, stream, text: lossy(partial) });
            *partial = rest;
        }
        if ends {
            let text = take(partial);
            lines.push(LogLine { at, stream, text: lossy(&text) });
        }
    }
}

/// Where to cut a line that is too long: before the character that would be cut in two.
fn boundary(text: &[u8]) -> usize {
    let is_continuation = |at: &usize| text[*at] & 0b1100_0000 == 0b1000_0000;
    let end = LINE_BYTES_MAX;
    (end - 3..=end).rev().find(|at| !is_continuation(at)).unwrap_or(end)
}

fn lossy(text: &[u8]) -> String {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    String::from_utf8_lossy(text).into_owned()
}

/// The file that has this path now; none if there is no such file yet, or no more.
fn open(path: &Path, watch: &Watch) -> io::Result<Option<Source>> {
    loop {
        let number = watch.count();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if watch.count() == number {
            return Ok(Some(Source { file, number }));
        }
    }
}

#[derive(Clone, Copy)]
struct Record<'a> {
    time: &'a str,
    at: OffsetDateTime,
    stream: LogStream,
    ends: bool,
    text: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(record: &'a [u8]) -> Option<Self> {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let mut words = record.splitn(4, |byte| *byte == b' ');
        let time = str::from_utf8(words.next()?).ok()?;
        let stream = match words.next()? {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        let ends = words.next()? == b"F";
        let at = OffsetDateTime::parse(time, &Rfc3339).ok()?;
        Some(Self { time, at, stream, ends, text: words.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt};
    use tempfile::TempDir;

    /// Writes as the engine's monitor does.
    struct Writer {
        dir: TempDir,
        written: u32,
    }

    impl Writer {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().expect("a folder"), written: 0 }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("ctr.log")
        }

        fn write(&mut self, stream: &str, ends: bool, text: &[u8]) {
            let mut options = fs::OpenOptions::new();
            let mut file = options.append(true).create(true).mode(0o640).open(self.path()).expect("the file");
            let flag = if ends { "F" } else { "P" };
            self.written += 1;
            let head = format!("2026-11-21T07:30:00.{:09}+00:00 {stream} {flag} ", self.written);
            file.write_all(&[head.as_bytes(), text, b"\n"].concat()).expect("written");
        }

        fn say(&mut self, text: &str) {
            self.write("stdout", true, text.as_bytes());
        }

        fn rotate(&mut self) {
            let new = self.dir.path().join("ctr.log.tmp");
            File::create(&new).expect("a new file");
            fs::rename(new, self.path()).expect("put in its place");
        }

        fn read_on(&self, position: &LogPosition) -> LogFile {
            // As it is known to the next program.
            let position = position.to_string().parse().expect("a position");
            LogFile::open(self.path(), position, &Rotations::default()).expect("the log")
        }
    }

    fn all(log: &mut LogFile) -> (Vec<String>, bool, LogPosition) {
        let (mut texts, mut lost) = (Vec::new(), false);
        loop {
            let batch = log.next().expect("a batch");
            lost |= batch.lost;
            if batch.lines.is_empty() {
                return (texts, lost, batch.position);
            }
            texts.extend(batch.lines.into_iter().map(|line| line.text));
        }
    }

    #[test]
    fn a_log_is_read_on_from_where_it_was_read_to() {
        let mut writer = Writer::new();
        let mut log = writer.read_on(&LogPosition::default());
        assert_eq!(all(&mut log).0, [""; 0], "not made yet");
        writer.say(" two  words");
        writer.write("stderr", true, b"\xff\r");
        let first = log.next().expect("a batch");
        assert_eq!(first.lines[0].at.nanosecond(), 1);
        assert_eq!(
            first.lines.iter().map(|line| line.stream).collect::<Vec<_>>(),
            [LogStream::Stdout, LogStream::Stderr]
        );
        assert_eq!(
            first.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            [" two  words", "\u{fffd}"]
        );
        writer.say("");
        drop(log);
        assert_eq!(
            all(&mut writer.read_on(&first.position)),
            (vec![String::new()], false, all(&mut writer.read_on(&first.position)).2)
        );
    }

    #[test]
    fn parts_of_a_line_are_put_together_across_readers_and_files() {
        let mut writer = Writer::new();
        let mut log = writer.read_on(&LogPosition::default());
        writer.write("stdout", false, b"one ");
        writer.write("stderr", true, b"other");
        let position = all(&mut log).2;
        let mut log = writer.read_on(&position);
        writer.write("stdout", false, "h\u{e4}".as_bytes().split_at(2).0);
        writer.rotate();
        writer.write("stdout", true, "h\u{e4}lf".as_bytes().split_at(2).1);
        writer.write("stdout", false, b"no end");
        assert_eq!(all(&mut log).0, ["one h\u{e4}lf"]);
        assert_eq!(log.rest().expect("the rest").lines[0].text, "no end");
        assert!(log.rest().is_none());
    }

    #[test]
    fn a_long_line_comes_as_several() {
        let mut writer = Writer::new();
        let text = "\u{20ac}".repeat(10_000);
        for part in text.as_bytes().chunks(8_191) {
            writer.write("stdout", false, part);
        }
        writer.write("stdout", true, b"");
        let (texts, lost, _) = all(&mut writer.read_on(&LogPosition::default()));
        assert!(texts.iter().all(|text| text.len() <= LINE_BYTES_MAX) && !lost);
        assert_eq!(texts.concat(), text);
    }

    #[test]
    fn letters_without_an_end_hold_nothing_up() {
        let mut writer = Writer::new();
        for _ in 0..RECORDS_MAX + 10 {
            writer.write("stdout", false, b"x");
        }
        let mut log = writer.read_on(&LogPosition::default());
        writer.rotate();
        writer.write("stdout", true, b"y");
        let (texts, lost, _) = all(&mut log);
        assert_eq!((texts[0].len(), lost), (RECORDS_MAX + 11, false));
    }

    #[test]
    fn a_file_that_is_full_is_read_to_its_end_and_what_was_missed_is_said() {
        let mut writer = Writer::new();
        writer.say("1");
        let mut log = writer.read_on(&LogPosition::default());
        writer.say("2");
        writer.rotate();
        writer.say("3");
        log.look();
        writer.rotate();
        writer.say("4");
        assert_eq!(
            (all(&mut log).0, all(&mut log).1),
            (["1", "2", "3", "4"].map(str::to_owned).to_vec(), false)
        );
        writer.rotate();
        writer.say("5");
        writer.rotate();
        writer.say("6");
        let batch = log.next().expect("a batch");
        assert_eq!((batch.lost, batch.lines[0].text.as_str()), (true, "6"));
        writer.say("7");
        assert!(!log.next().expect("a batch").lost, "said once");
    }

    #[test]
    fn another_file_than_the_position_s_is_read_from_its_beginning() {
        let mut writer = Writer::new();
        writer.say("1");
        let position = all(&mut writer.read_on(&LogPosition::default())).2;
        writer.rotate();
        writer.say("2");
        writer.say("3");
        let (texts, lost, _) = all(&mut writer.read_on(&position));
        assert_eq!((texts, lost), (vec!["2".to_owned(), "3".to_owned()], true));
    }

    #[test]
    fn what_is_no_record_is_passed_over_and_said() {
        let mut writer = Writer::new();
        writer.say("1");
        fs::OpenOptions::new()
            .append(true)
            .open(writer.path())
            .expect("the file")
            .write_all(b"torn\n")
            .expect("written");
        writer.say("2");
        let mut log = writer.read_on(&LogPosition::default());
        let (texts, lost, _) = all(&mut log);
        assert_eq!((texts, lost), (vec!["1".to_owned(), "2".to_owned()], true));
    }
}
