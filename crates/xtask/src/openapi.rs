//! Writes `web/openapi.json`, from which the dashboard's client is generated.
//!
//! The control plane's program is asked for it, so that xtask can be built when the control plane cannot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::command;

const FILE: &str = "web/openapi.json";
/// Built beside xtask.
const PROGRAM: &str = "wisehosting-control-plane";

/// Writes the file as `program` says, or with `check` compares it.
pub(crate) fn write(root: &Path, check: bool, program: Option<PathBuf>) -> anyhow::Result<()> {
    let program = program.map_or_else(|| build(root), Ok)?;
    let fresh = command::output(Command::new(program).arg("openapi"))?;
    if fresh.is_empty() {
        bail!("{PROGRAM} openapi printed nothing");
    }
    let file = root.join(FILE);
    if check {
        let committed = fs::read(&file).with_context(|| format!("read {FILE}"))?;
        if committed != fresh {
            bail!("{FILE} is not what the control plane serves: run `cargo xtask openapi`");
        }
        println!("openapi: {FILE} is up to date");
        return Ok(());
    }
    fs::create_dir_all(root.join("web")).context("create web")?;
    fs::write(&file, fresh).with_context(|| format!("write {FILE}"))?;
    println!("openapi: wrote {FILE}");
    Ok(())
}

/// Builds the control plane, and says where it is.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    // With the whole workspace: alone it would have other features, and all libraries with it.
    command::run(command::cargo().args(["build", "--quiet", "--workspace", "--bins"]).current_dir(root))?;
    Ok(std::env::current_exe().context("find this program")?.with_file_name(PROGRAM))
}
