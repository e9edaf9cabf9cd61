//! `cargo xtask graph`: which crate may see which, checked against what Cargo resolved.
//!
//! Dependencies point one way, down the [`LAYERS`]; some crates must never see some libraries, not even through
//! another crate. Development dependencies are free: they are in no program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::command;

const PREFIX: &str = "wisehosting-";
const TABLE_HEAD: &str = "| crate | uses | what it is |";
/// A crate may use crates of the layers above its own, never its neighbours or what is below.
const LAYERS: [&[&str]; 7] = [
    &["domain"],
    &["protocol", "network", "containers", "store"],
    &["node"],
    &["control-plane", "worker", "edge"],
    &["lab"],
    &["cli"],
    &["bench"],
];
/// What a crate must not see, directly or through others, and why.
const FORBIDDEN: [(&str, &[&str], &str); 5] = [
    ("domain", &["tokio", "sqlx", "hyper", "rustix"], "it decides and does nothing else"),
    ("protocol", &["tokio", "sqlx", "hyper"], "it is sans-IO"),
    ("node", &["wisehosting-store", "sqlx"], "agents have no database"),
    ("worker", &["wisehosting-store", "sqlx"], "agents have no database"),
    (
        "edge",
        &["wisehosting-store", "sqlx", "bollard"],
        "agents have no database, and the edge no containers",
    ),
];
/// What nothing may contain: ring is the only cryptography. (`cargo deny` says so, too, but takes minutes to install.)
const NOWHERE: [&str; 4] = ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"];
/// Libraries that one crate alone names in its manifest, so that all use of them is in one place.
const OWNED: [(&str, &str); 3] = [("sqlx", "store"), ("bollard", "containers"), ("gotatun", "network")];

/// The crates of the workspace and everything that they use.
pub(crate) struct Graph {
    /// Package name to what it uses outside of tests, for every package.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// Our crates' descriptions by package name.
    descriptions: BTreeMap<String, String>,
}

impl Graph {
    /// Asks Cargo.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        let mut cargo = command::cargo();
        cargo.args(["metadata", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"]);
        let metadata = command::output(cargo.current_dir(root))?;
        Ok(Self::from_metadata(serde_json::from_slice(&metadata).context("read cargo's metadata")?))
    }

    fn from_metadata(metadata: Metadata) -> Self {
        let names: BTreeMap<_, _> =
            metadata.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
        for node in &metadata.resolve.nodes {
            let shipped =
                node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(Kind::is_shipped));
            // Two versions of a package are one here: what is forbidden is forbidden in every version.
            let used = shipped.map(|dependency| names[dependency.pkg.as_str()].to_owned());
            uses.entry(names[node.id.as_str()].to_owned()).or_default().extend(used);
        }
        let ours = metadata.packages.into_iter().filter(|package| package.name.starts_with(PREFIX));
        let descriptions =
            ours.map(|package| (package.name, package.description.unwrap_or_default())).collect();
        Self { uses, descriptions }
    }

    /// Every dependency that should not be, as a sentence.
    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.descriptions.keys().flat_map(|name| self.problems_of(name)).collect();
        for (short, forbidden, reason) in FORBIDDEN {
            let package = format!("{PREFIX}{short}");
            let seen = self.seen_by(&package);
            let wrong = forbidden.iter().filter(|library| seen.contains(**library));
            problems.extend(wrong.map(|library| format!("{short} sees {library}: {reason}")));
        }
        problems
    }

    /// What holds for each of our packages.
    fn problems_of(&self, package: &str) -> Vec<String> {
        let short = &package[PREFIX.len()..];
        let Some(layer) = layer_of(short) else {
            return vec![format!("{short} is in no layer: add it to crates/xtask/src/graph.rs")];
        };
        let (used, seen) = (&self.uses[package], self.seen_by(package));
        let ours = used.iter().filter_map(|used| used.strip_prefix(PREFIX));
        let upward = ours.filter(|used| layer_of(used).is_none_or(|used| used >= layer));
        let owned = OWNED.iter().filter(|(library, owner)| short != *owner && used.contains(*library));
        let nowhere = NOWHERE.iter().filter(|library| seen.contains(**library));
        upward
            .map(|used| format!("{short} uses {used}: dependencies point one way"))
            .chain(owned.map(|(library, owner)| format!("{short} names {library}: only {owner} does")))
            .chain(nowhere.map(|library| format!("{short} sees {library}: ring is our only cryptography")))
            .collect()
    }

    /// All that a program with `package` in it contains.
    fn seen_by<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package];
        while let Some(package) = open.pop() {
            let used = self.uses.get(package).into_iter().flatten().map(String::as_str);
            open.extend(used.filter(|used| seen.insert(*used)));
        }
        seen
    }

    /// The table of ARCHITECTURE.md, in the order of the layers.
    pub(crate) fn markdown(&self) -> String {
        let mut table = format!("{TABLE_HEAD}\n|---|---|---|\n");
        for short in LAYERS.into_iter().flatten() {
            let name = format!("{PREFIX}{short}");
            let Some(description) = self.descriptions.get(&name) else { continue };
            let used: Vec<_> = self.uses[&name].iter().filter_map(|used| used.strip_prefix(PREFIX)).collect();
            table.push_str(&format!("| `{short}` | {} | {description} |\n", used.join(", ")));
        }
        table
    }
}

/// `text` with its crate table replaced by `table`; `None` if it has none.
pub(crate) fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, old) = text.split_once(TABLE_HEAD)?;
    let after = old.find("\n\n").map_or("", |end| &old[end + 1..]);
    Some(format!("{before}{table}{after}"))
}

/// Writes the crate table into ARCHITECTURE.md.
pub(crate) fn write(root: &Path) -> anyhow::Result<()> {
    let file = root.join("ARCHITECTURE.md");
    let text = fs::read_to_string(&file).context("read ARCHITECTURE.md")?;
    let text =
        with_table(&text, &Graph::load(root)?.markdown()).context("ARCHITECTURE.md has no crate table")?;
    fs::write(&file, text).context("write ARCHITECTURE.md")
}

/// Prints every dependency that should not be; fails when there is one.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let graph = Graph::load(root)?;
    let problems = graph.problems();
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} dependencies point where they must not", problems.len());
    }
    println!("graph: {} crates, all dependencies point one way", graph.descriptions.len());
    Ok(())
}

fn layer_of(short: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&short))
}

/// The part of `cargo metadata` that we read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Kind {
    fn is_shipped(&self) -> bool {
        self.kind.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let uses: BTreeMap<_, BTreeSet<_>> = edges
            .iter()
            .map(|(name, used)| ((*name).to_owned(), used.iter().map(|used| (*used).to_owned()).collect()))
            .collect();
        let ours = uses.keys().filter(|name| name.starts_with(PREFIX));
        let descriptions = ours.map(|name| (name.clone(), "A crate".to_owned())).collect();
        Graph { uses, descriptions }
    }

    #[test]
    fn one_way_is_fine() {
        let graph = graph(&[
            ("wisehosting-domain", &["serde"]),
            ("wisehosting-store", &["wisehosting-domain", "sqlx"]),
            ("wisehosting-control-plane", &["wisehosting-store", "wisehosting-domain"]),
        ]);
        assert_eq!(graph.problems(), [""; 0]);
    }

    #[test]
    fn neighbours_and_the_way_back_are_problems() {
        let graph = graph(&[
            ("wisehosting-domain", &["wisehosting-worker"]),
            ("wisehosting-edge", &["wisehosting-worker"]),
            ("wisehosting-worker", &[]),
        ]);
        assert_eq!(
            graph.problems(),
            [
                "domain uses worker: dependencies point one way",
                "edge uses worker: dependencies point one way"
            ]
        );
    }

    #[test]
    fn what_is_forbidden_is_found_behind_other_packages() {
        let graph = graph(&[
            ("wisehosting-domain", &["clever"]),
            ("clever", &["tokio"]),
            ("tokio", &[]),
            ("wisehosting-worker", &["sqlx"]),
        ]);
        assert_eq!(
            graph.problems(),
            [
                "worker names sqlx: only store does",
                "domain sees tokio: it decides and does nothing else",
                "worker sees sqlx: agents have no database"
            ]
        );
    }

    #[test]
    fn a_crate_without_a_layer_is_a_problem() {
        assert!(graph(&[("wisehosting-new", &[])]).problems()[0].starts_with("new is in no layer"));
    }

    #[test]
    fn the_table_follows_the_layers() {
        let graph =
            graph(&[("wisehosting-store", &["wisehosting-domain", "sqlx"]), ("wisehosting-domain", &[])]);
        let rows = "| `domain` |  | A crate |\n| `store` | domain | A crate |\n";
        let table = format!("| crate | uses | what it is |\n|---|---|---|\n{rows}");
        assert_eq!(graph.markdown(), table);
        let old =
            "Before\n\n| crate | uses | what it is |\n|---|---|---|\n| `old` |  | |\n\nAfter\n\n| x |\n";
        assert_eq!(with_table(old, &table), Some(format!("Before\n\n{table}\nAfter\n\n| x |\n")));
        assert_eq!(with_table("No table", &table), None);
    }
}
