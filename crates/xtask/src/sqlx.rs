//! Regenerates `.sqlx/`: what each `sqlx::query!` takes and returns, so that a build needs no database.
//!
//! The macros write these files themselves when they see a live `DATABASE_URL` and an `SQLX_OFFLINE_DIR`. So we
//! apply the migrations to a private Postgres and check the store against it; files of queries that are gone
//! disappear because the folder is written anew.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, bail};

use crate::{command, postgres::Postgres};

/// Query descriptions by file name.
type Descriptions = BTreeMap<String, Vec<u8>>;

/// Writes `.sqlx/`, or with `check` compares it.
pub(crate) fn prepare(root: &Path, check: bool) -> anyhow::Result<()> {
    let postgres = Postgres::start()?;
    migrate(root, &postgres)?;
    let fresh = describe(root, &postgres)?;
    let folder = root.join(".sqlx");
    let committed = read(&folder)?;
    if check {
        return compare(&committed, &fresh);
    }
    fs::create_dir_all(&folder).context("create .sqlx")?;
    for name in committed.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(folder.join(name)).with_context(|| format!("remove .sqlx/{name}"))?;
    }
    for (name, content) in fresh.iter().filter(|(name, content)| committed.get(*name) != Some(content)) {
        fs::write(folder.join(name), content).with_context(|| format!("write .sqlx/{name}"))?;
    }
    println!("sqlx: {} queries described in .sqlx", fresh.len());
    Ok(())
}

/// The migrations in the order of their names, which begin with a time.
fn migrations(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = root.join("migrations");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).context("read migrations")? {
        files.push(entry.context("read migrations")?.path());
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    Ok(files)
}

/// psql, not the store: the store cannot be built before its queries are described.
fn migrate(root: &Path, postgres: &Postgres) -> anyhow::Result<()> {
    for file in migrations(root)? {
        let mut psql = postgres.client("psql");
        psql.args(["--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1"]);
        psql.arg("--dbname").arg(postgres.url()).arg("--file").arg(&file);
        command::run(&mut psql).with_context(|| format!("apply {}", file.display()))?;
    }
    Ok(())
}

fn describe(root: &Path, postgres: &Postgres) -> anyhow::Result<Descriptions> {
    let folder = tempfile::tempdir().context("create a folder for the descriptions")?;
    // cargo does not know that the macros read a database: to build again, it must see a newer file.
    touch(&root.join("crates/store/src/lib.rs")).context("touch the store")?;
    let mut cargo = command::cargo();
    cargo.args(["check", "--quiet", "--package=wisehosting-store", "--all-targets"]).current_dir(root);
    cargo
        .env("DATABASE_URL", postgres.url())
        .env("SQLX_OFFLINE_DIR", folder.path())
        .env("SQLX_OFFLINE", "false");
    command::run(&mut cargo)?;
    read(folder.path())
}

#[expect(clippy::disallowed_methods, reason = "a file's time is the machine's time")]
fn touch(file: &Path) -> std::io::Result<()> {
    File::options().append(true).open(file)?.set_modified(SystemTime::now())
}

fn compare(committed: &Descriptions, fresh: &Descriptions) -> anyhow::Result<()> {
    if committed != fresh {
        bail!("the committed .sqlx is not what the queries and migrations say: run `cargo xtask sqlx`");
    }
    println!("sqlx: .sqlx is up to date ({} queries)", fresh.len());
    Ok(())
}

/// The descriptions in `folder`; none when it does not exist.
fn read(folder: &Path) -> anyhow::Result<Descriptions> {
    let mut found = Descriptions::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| name.starts_with("query-")) else { continue };
        found.insert(name.to_owned(), fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(found)
}
