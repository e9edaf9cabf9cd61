//! The secrets of one lab: made at its start, kept in files that only root reads, thrown away with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use sha2::{Digest, Sha256};
use wisehosting_node::random;

use crate::certificates::write_private;

/// A secret that stands in a file.
#[derive(Debug, Clone)]
pub(crate) struct SecretFile {
    pub(crate) path: PathBuf,
    sha256: String,
}

impl SecretFile {
    /// Makes 32 random bytes, written as hexadecimal text.
    pub(crate) fn create(directory: &Path, name: &str) -> io::Result<Self> {
        Self::write(directory, name, &hex::encode(random::bytes::<32>()))
    }

    /// Makes 32 random bytes, written in base64.
    pub(crate) fn create_key(directory: &Path, name: &str) -> io::Result<Self> {
        Self::write(directory, name, &BASE64.encode(random::bytes::<32>()))
    }

    fn write(directory: &Path, name: &str, secret: &str) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(name);
        write_private(&path, secret)?;
        Ok(Self { path, sha256: hex::encode(Sha256::digest(secret)) })
    }

    /// What whoever verifies the secret is told.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }
}
