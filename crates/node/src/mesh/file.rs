//! The nodes that the control plane named last, on disk: whom a node talks to after a restart while it is away.

use crate::private_file;
use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};
use wisehosting_protocol::payload::MeshPeers;

const NAME: &str = "mesh-peers.json";

/// The set that was saved last in this directory; none if none ever was.
///
/// # Errors
/// There is a file that is none, or it cannot be read.
pub(super) fn load(directory: &Path) -> io::Result<Option<MeshPeers>> {
    match fs::read(directory.join(NAME)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Saves a set. Blocks until the disk has it.
///
/// # Errors
/// It cannot be written; the one before is still there.
pub(super) fn save(directory: &Path, set: &MeshPeers) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    private_file::write(&directory.join(NAME), &serde_json::to_vec(set)?)
}
