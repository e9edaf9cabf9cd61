//! What keeps a container reachable while others come and go beside it.
//!
//! A Linux bridge takes the lowest hardware address of its ports, so its own may change with every container that starts
//! or ends, and the others go on sending to the old one: for up to a minute their answers are lost. Invariant: the
//! kernel tells them at once. It does so only if asked (`arp_notify`).

use std::{fs, io, path::Path};

const ARP_NOTIFY: &str = "/proc/sys/net/ipv4/conf/all/arp_notify";

/// Has changes of hardware addresses announced in this network namespace, for as long as it exists.
pub(super) fn announce_changes() {
    if let Err(error) = set(Path::new(ARP_NOTIFY), "1") {
        tracing::warn!(
            %error,
            "cannot set {ARP_NOTIFY}: containers may be out of reach for a minute when another one starts or ends; \
             set net.ipv4.conf.all.arp_notify = 1 on this host"
        );
    }
}

/// Writes only if it must: a hardened service may read here but not write.
fn set(file: &Path, value: &str) -> io::Result<()> {
    if fs::read_to_string(file)?.trim() == value { Ok(()) } else { fs::write(file, value) }
}
