//! The command `join` of the agents' programs.

use super::{
    Applicant, JoinUrl, client,
    keys::Keys,
    proof::JoinToken,
    settings::{self, KeyFiles},
};
use crate::program::Program;
use anyhow::{Context as _, ensure};
use serde_json::json;
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};
use wisehosting_domain::name::Label;
use zeroize::Zeroizing;

/// Where `wisehosting-keys@.service` makes keys, and units take them from.
const KEYS_DIR: &str = "/var/lib/wisehosting-keys";
/// A token has 48.
const TOKEN_BYTES_MAX: u64 = 1024;

/// What the command is given.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArguments {
    /// Address of the control plane's dashboard. Plain http is safe: the token does not cross the wire, and answers are proved.
    #[arg(long, value_name = "URL")]
    control_plane: JoinUrl,
    /// File with the token that `wisehosting-control-plane node token create` printed; - for standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Name of this machine in the platform.
    #[arg(long)]
    name: Label,
    /// Where this machine's keys are, or are made [default: /var/lib/wisehosting-keys, from where the unit takes them]
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Joins, and writes down beside `configuration` what the program needs to start.
///
/// # Errors
/// Why it did not join.
pub(crate) fn run(program: Program, configuration: &Path, options: &JoinArguments) -> anyhow::Result<()> {
    let token: JoinToken = read_token(&options.token_file)?.trim().parse()?;
    let keys = Keys::open(options.keys_dir.as_deref().unwrap_or(Path::new(KEYS_DIR)))?;
    let who = Applicant {
        role: program.role,
        name: options.name.clone(),
        private_key: keys.private_key()?,
        api_key_sha256: keys.api_key_sha256()?,
    };
    let public_key = who.private_key.public_key();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = runtime
        .block_on(client::join(&options.control_plane, &token, &who))
        .with_context(|| format!("{} with the key {public_key} has not joined", who.name))?;
    let files = options.keys_dir.is_some().then(|| KeyFiles { mesh: keys.mesh(), api: keys.api() });
    let path = settings::beside(configuration);
    settings::write(&path, who.role, &who.name, &joined, files.as_ref())?;
    let address = joined.answer.address.addr();
    if options.json {
        let (name, key) = (&who.name, public_key.to_string());
        let result = json!({ "name": name, "address": address, "public_key": key, "settings": path });
        println!("{result}");
    } else {
        let Program { name: program, role, .. } = program;
        let name = &who.name;
        println!("{name} is a {role} of the platform, at {address} in its mesh: {}", path.display());
        println!("restart {program}, and it is there");
    }
    Ok(())
}

/// The first line of a file or of standard input.
fn read_token(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let is_stdin = file == Path::new("-");
    let read = if is_stdin {
        std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("--token-file: cannot read {}", file.display()))?;
    ensure!(!text.trim().is_empty(), "--token-file: {} is empty", file.display());
    Ok(text)
}
