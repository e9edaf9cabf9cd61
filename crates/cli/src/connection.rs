//! Which control plane a command talks to, and with which token.
//!
//! Invariant: a token is read from a file and sent only to the server that was named together with it; the lab's token
//! goes to the lab, never to a server that was named on the command line.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wisehosting_lab::state::{self, DEFAULT_STATE_DIR};

use crate::error::CliError;

/// A control plane and the token for it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) server: String,
    pub(crate) token: Option<String>,
}

/// `~/.config/wisehosting/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    server: Option<String>,
    token_file: Option<PathBuf>,
}

/// Looks, in this order, at what was named (`--server`, `WISEHOSTING_SERVER`), at the configuration file and at the lab.
pub(crate) fn find(server: Option<&str>) -> Result<Connection, CliError> {
    let config = read_config()?;
    let named_token = match env::var_os("WISEHOSTING_TOKEN_FILE") {
        Some(path) => Some(read_token(Path::new(&path))?),
        None => None,
    };
    let lab = lab();
    let Some(server) = server.or(config.server.as_deref()) else {
        let mut lab = lab?.ok_or(CliError::NoServer)?;
        lab.token = named_token.or(lab.token);
        return Ok(lab);
    };
    let server = server.trim_end_matches('/').to_owned();
    let token = match (named_token, config.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file))
            if config.server.as_deref().is_none_or(|own| own.trim_end_matches('/') == server) =>
        {
            Some(read_token(&file)?)
        }
        _ => lab.ok().flatten().filter(|lab| lab.server == server).and_then(|lab| lab.token),
    };
    Ok(Connection { server, token })
}

fn lab() -> Result<Option<Connection>, CliError> {
    let directory = env::var_os("WISEHOSTING_LAB_DIR").unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    let directory = Path::new(&directory);
    let Some(running) = state::running(directory) else {
        return if state::is_claimed(directory) { Err(CliError::LabOfRoot) } else { Ok(None) };
    };
    let token = Some(read_token(&running.token_file)?);
    Ok(Some(Connection { server: running.dashboard_url, token }))
}

fn read_config() -> Result<ConfigFile, CliError> {
    let home = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".config")));
    let Some(path) = home.map(|home| home.join("wisehosting/config.toml")) else {
        return Ok(ConfigFile::default());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(source) => return Err(CliError::File { path, source }),
    };
    toml::from_str(&text).map_err(|error| CliError::Usage(format!("{}: {}", path.display(), error.message())))
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let text = fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}
