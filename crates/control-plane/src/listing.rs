//! How the operator's commands print lists: in columns for people, as JSON for programs, with the same names.

use clap::Args;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How a list is printed.
#[derive(Args)]
pub(crate) struct Listing {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Listing {
    /// Rows of texts in columns, or as a JSON array of objects.
    pub(crate) fn print<const N: usize>(&self, head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
        if self.json {
            let object =
                |row: [String; N]| head.iter().zip(row).map(|(name, text)| ((*name).to_owned(), json!(text)));
            let objects: Vec<_> = rows.map(|row| object(row).collect::<serde_json::Map<_, _>>()).collect();
            println!("{}", json!(objects));
            return;
        }
        let rows: Vec<[String; N]> =
            [head.map(|name| name.to_uppercase().replace('_', " "))].into_iter().chain(rows).collect();
        let widths: [usize; N] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("{}", cells.join("  ").trim_end());
        }
    }
}

/// As people and programs read it, to the second.
pub(crate) fn time(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}
