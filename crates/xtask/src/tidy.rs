//! `cargo xtask tidy`: the rules of CONTRIBUTING.md that neither the compiler nor clippy checks.
//!
//! Each rule looks at one file and yields [`Finding`]s; no rule changes anything. What clippy can check (`allow`
//! attributes, `unwrap`, `todo!`, clocks) is left to clippy; tidy makes sure that every crate lets it.

mod layout;
mod rust;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{command, graph};

/// One broken rule, at the place where it is broken.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    /// Counted from 1.
    line: usize,
    sentence: String,
}

impl Finding {
    fn new(path: &Path, line: usize, sentence: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, sentence: sentence.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path.display(), self.line, self.sentence)
    }
}

/// Prints every broken rule; fails when there is one.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let files = source_files(root)?;
    let mut findings = Vec::new();
    for path in &files {
        findings.extend(layout::check_path(path));
        if is_read(path) {
            let text =
                fs::read_to_string(root.join(path)).with_context(|| format!("read {}", path.display()))?;
            findings.extend(check_text(path, &text));
        }
    }
    findings.extend(layout::check_migrations(&files));
    findings.extend(check_architecture(root)?);
    findings.extend(check_names(root)?);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} rules broken", findings.len());
    }
    println!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

fn check_text(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = layout::check_length(path, text);
    if path.extension().is_some_and(|extension| extension == "rs") {
        findings.extend(rust::check(path, text));
    }
    if path.ends_with("Cargo.toml") {
        findings.extend(layout::check_manifest(path, text));
    }
    findings
}

/// The crate table of ARCHITECTURE.md is generated: it must say what Cargo says.
fn check_architecture(root: &Path) -> anyhow::Result<Option<Finding>> {
    let path = Path::new("ARCHITECTURE.md");
    let text = fs::read_to_string(root.join(path)).context("read ARCHITECTURE.md")?;
    if graph::with_table(&text, &graph::Graph::load(root)?.markdown()).as_ref() == Some(&text) {
        return Ok(None);
    }
    let line = text.lines().position(|line| line.starts_with("| crate |")).map_or(1, |index| index + 1);
    Ok(Some(Finding::new(path, line, "the crate table is out of date: run `cargo xtask graph --write`")))
}

/// The table of names says where each is found: there must be such a file.
fn check_names(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let path = Path::new("docs/names.md");
    let text = fs::read_to_string(root.join(path)).context("read docs/names.md")?;
    let crates = root.join("crates");
    let missing = layout::named_paths(&text).filter(|(_, named)| !crates.join(named).exists());
    Ok(missing
        .map(|(line, named)| Finding::new(path, line, format!("there is no {}", named.display())))
        .collect())
}

/// All files that are, or could be, committed; relative to `root`.
fn source_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = String::from_utf8(command::output(&mut git)?).context("a file's name is not UTF-8")?;
    // A file that was deleted and not yet committed is still listed.
    let files = listed.split_terminator('\0').map(PathBuf::from).filter(|path| root.join(path).is_file());
    Ok(files.collect())
}

fn is_read(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "ts" | "tsx" | "css" | "nix" | "sql")) || path.ends_with("Cargo.toml")
}
