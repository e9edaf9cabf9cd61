//! The secrets of one lab: made at its start, kept in files that only root reads, thrown away with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

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
        let secret = hex::encode(wisehosting_node::random::bytes::<32>());
        fs::create_dir_all(directory)?;
        let path = directory.join(name);
        write_private(&path, &secret)?;
        Ok(Self { path, sha256: hex::encode(Sha256::digest(secret)) })
    }

    /// What whoever verifies the secret is told.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }
}
