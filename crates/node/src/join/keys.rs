//! The machine's own keys: made when they are not there, and never again.
//!
//! The files are those of `wisehosting-keys@.service`. Invariant: a key that was used to join is on the disk before.

use crate::{config::ConfigError, private_file, random, secret};
use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use wisehosting_network::PrivateKey;
use zeroize::Zeroizing;

/// The folder with them, which nobody else joins from meanwhile.
pub(super) struct Keys {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Keys {
    /// Opens the folder; makes it if it is not there.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot use the folder for keys {}: run it as root", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(context)?;
        let file = File::open(folder).with_context(context)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error);
        Ok(Self { folder: folder.to_owned(), _lock: lock.with_context(context)? })
    }

    /// Where the private key is.
    pub(super) fn mesh(&self) -> PathBuf {
        self.folder.join("mesh.key")
    }

    /// Where the API key is.
    pub(super) fn api(&self) -> PathBuf {
        self.folder.join("api.key")
    }

    /// The key in the mesh.
    pub(super) fn private_key(&self) -> anyhow::Result<PrivateKey> {
        let path = self.mesh();
        make(&path, || Zeroizing::new(format!("{}\n", *PrivateKey::generate().to_base64())))?;
        Ok(PrivateKey::read_file(&path)?)
    }

    /// The hash of the API key.
    pub(super) fn api_key_sha256(&self) -> anyhow::Result<[u8; 32]> {
        let path = self.api();
        make(&path, || Zeroizing::new(hex::encode(random::bytes::<32>())))?;
        let key = secret::read("control_plane.api_key", Some(&path)).map_err(|error| match error {
            ConfigError::Invalid { message, .. } => anyhow::anyhow!(message),
            error => error.into(),
        })?;
        Ok(Sha256::digest(key.expose_secret().as_bytes()).into())
    }
}

fn make(path: &Path, secret: impl FnOnce() -> Zeroizing<String>) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => private_file::write(path, secret().as_bytes())
            .with_context(|| format!("cannot write {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("keys");
        let read = || {
            let keys = Keys::open(&folder).unwrap();
            (keys.private_key().unwrap().public_key(), keys.api_key_sha256().unwrap())
        };
        let first = read();
        assert_eq!(read(), first);
        for name in ["mesh.key", "api.key"] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        let text = fs::read_to_string(folder.join("api.key")).unwrap();
        assert_eq!(hex::encode(Sha256::digest(text.as_bytes())), hex::encode(first.1));
    }

    #[test]
    fn a_key_that_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mesh.key"), "not a key\n").unwrap();
        fs::set_permissions(folder.path().join("mesh.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let keys = Keys::open(folder.path()).unwrap();
        let error = format!("{:#}", keys.private_key().unwrap_err());
        assert!(error.contains("not a WireGuard key"), "{error}");
        assert_eq!(fs::read_to_string(keys.mesh()).unwrap(), "not a key\n");
    }
}
