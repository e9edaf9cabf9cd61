//! What the control plane said last, on disk: whom a node talks to after a restart while it is away, and by which key it is
//! reached itself.

use super::succession::HubKeys;
use crate::private_file;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};
use wisehosting_protocol::payload::MeshPeers;

const PEERS: &str = "mesh-peers.json";
const HUB: &str = "mesh-hub.json";

/// [`HubKeys`] as they are written: in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHubKeys {
    declared: String,
    hub: String,
    next: Option<String>,
}

/// The set that was saved last in this directory; none if none ever was.
///
/// # Errors
/// There is a file that is none, or it cannot be read.
pub(super) fn load(directory: &Path) -> io::Result<Option<MeshPeers>> {
    read(&directory.join(PEERS))
}

/// Saves a set. Blocks until the disk has it.
///
/// # Errors
/// It cannot be written; the one before is still there.
pub(super) fn save(directory: &Path, set: &MeshPeers) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    private_file::write(&directory.join(PEERS), &serde_json::to_vec(set)?)
}

/// The control plane's keys that were saved last in this directory, if the configuration did not have them.
///
/// # Errors
/// There is a file that is none, or it cannot be read.
pub(super) fn load_hub_keys(directory: &Path) -> io::Result<Option<HubKeys>> {
    let Some(WrittenHubKeys { declared, hub, next }) = read(&directory.join(HUB))? else { return Ok(None) };
    let key = |text: &str| text.parse().map_err(io::Error::other);
    let next = next.as_deref().map(key).transpose()?;
    Ok(Some(HubKeys { declared: key(&declared)?, hub: key(&hub)?, next }))
}

/// Saves the control plane's keys, or that the configuration has them. Blocks until the disk has it.
///
/// # Errors
/// It cannot be written; what was said before is still there.
pub(super) fn save_hub_keys(directory: &Path, keys: Option<HubKeys>) -> io::Result<()> {
    let path = directory.join(HUB);
    let Some(HubKeys { declared, hub, next }) = keys else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let (declared, hub) = (declared.to_string(), hub.to_string());
    let written = WrittenHubKeys { declared, hub, next: next.map(|key| key.to_string()) };
    fs::create_dir_all(directory)?;
    private_file::write(&path, &serde_json::to_vec(&written)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wisehosting_network::PublicKey;

    #[test]
    fn the_hubs_keys_come_back_until_there_is_nothing_to_keep() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("state");
        save_hub_keys(&directory, None).unwrap();
        assert_eq!(load_hub_keys(&directory).unwrap(), None);
        let [declared, hub, next] = [1, 2, 3].map(|number| PublicKey::from_bytes([number; 32]));
        for next in [Some(next), None] {
            let keys = HubKeys { declared, hub, next };
            save_hub_keys(&directory, Some(keys)).unwrap();
            assert_eq!(load_hub_keys(&directory).unwrap(), Some(keys));
        }
        fs::write(directory.join(HUB), r#"{"declared": "x", "hub": "y", "next": null}"#).unwrap();
        load_hub_keys(&directory).unwrap_err();
        save_hub_keys(&directory, None).unwrap();
        assert_eq!(load_hub_keys(&directory).unwrap(), None);
    }
}
