//! The table that a benchmark prints.

use std::fmt;

/// One line: what was measured, the figure, and what we want it to be.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    figure: String,
    goal: String,
}

/// Rows under a title.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty table.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// A figure that nothing is asked of.
    pub fn figure(&mut self, name: impl Into<String>, figure: impl Into<String>) {
        self.rows.push(Row { name: name.into(), figure: figure.into(), goal: String::new() });
    }

    /// A figure with a goal, and whether it is reached.
    pub fn goal(&mut self, name: impl Into<String>, figure: impl Into<String>, goal: &str, reached: bool) {
        let verdict = if reached { "reached" } else { "MISSED" };
        self.rows.push(Row {
            name: name.into(),
            figure: figure.into(),
            goal: format!("goal {goal}: {verdict}"),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Row) -> &String| self.rows.iter().map(|row| text(row).chars().count()).max();
        let names = width(|row| &row.name).unwrap_or(0);
        let figures = width(|row| &row.figure).unwrap_or(0);
        writeln!(f, "{}", self.title)?;
        for row in &self.rows {
            let line = format!("  {:names$}  {:>figures$}  {}", row.name, row.figure, row.goal);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
