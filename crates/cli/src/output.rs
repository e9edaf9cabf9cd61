//! What is printed, and how: plain lines, colour only where a person looks, JSON where a program does.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::error::CliError;

/// How this run of the command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    colour: bool,
}

/// A colour, or the lack of one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && !json && std::env::var_os("NO_COLOR").is_none();
        Self { json, terminal, colour }
    }

    /// Whether lines that were printed can be replaced.
    pub(crate) fn is_terminal(self) -> bool {
        self.terminal && !self.json
    }

    pub(crate) fn styled(self, style: Style, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A line for people; nothing with `--json`.
    pub(crate) fn line(self, text: &str) {
        if !self.json {
            print(text);
        }
    }

    /// A value for programs; nothing without `--json`.
    pub(crate) fn value(self, value: &Value) {
        if self.json {
            print(&value.to_string());
        }
    }

    /// Columns that line up; nothing with `--json`.
    pub(crate) fn table(self, head: &[&str], rows: &[Vec<String>]) {
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max()
            })
            .map(|width| width.unwrap_or_default())
            .collect();
        let join = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(&self.styled(Style::Dim, &join(head.to_vec())));
        for row in rows {
            self.line(&join(row.iter().map(String::as_str).collect()));
        }
    }

    /// The reason why there is no result.
    pub(crate) fn error(self, error: &CliError) {
        let text = if self.json {
            error.to_json().to_string()
        } else {
            let red = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let label = if red { "\x1b[31merror:\x1b[0m" } else { "error:" };
            let hint = error.hint().map(|hint| format!("\n{hint}")).unwrap_or_default();
            format!("{label} {}{hint}", error.whole_message())
        };
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A reader that has left (`| head`) is no reason to panic, and a terminal that is gone none to leave things behind.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}
