//! Writes `web/openapi.json`, from which the dashboard's client is generated.
//!
//! The control plane's program is asked for it, so that xtask can be built when the control plane cannot.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use crate::command;

const FILE: &str = "web/openapi.json";

/// Writes the file, or with `check` compares it.
pub(crate) fn write(root: &Path, check: bool) -> anyhow::Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["run", "--quiet", "--package=wisehosting-control-plane", "--", "openapi"]).current_dir(root);
    let fresh = command::output(&mut cargo)?;
    if fresh.is_empty() {
        bail!("wisehosting-control-plane openapi printed nothing");
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
