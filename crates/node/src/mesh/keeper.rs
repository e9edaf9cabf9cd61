//! The task that keeps the interface: looks, decides, repairs.
//!
//! It looks every second, which is how fast a way to a node changes, and repairs every half minute what somebody else has
//! changed; what a hub sends on, and what it does not, every second, since a way out of the mesh must not stay open. What the
//! control plane says is in force at once, and on disk after that; its own keys are on disk before a node says that it knows them.

use super::{
    Member, MeshConfig, MeshError, PeerSets, PeerSight, Sight, Told, file,
    peers::{self, Paths, PeerSet},
    succession::{BadHubKey, Declared, HubKeys, Shown},
    with_causes,
};
use std::{
    error::Error,
    io,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use wisehosting_network::{
    Backend, Interface, InterfaceName, IpNet, KeyError, Netlink, NetworkError, PathTiming, Peer, PeerPath,
    PublicKey, WireGuardInterface, end_relay, relay, relays,
};
use wisehosting_protocol::payload::MeshPeers;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const REPAIR_EVERY: Duration = Duration::from_secs(30);
/// Discards what it gets, if anybody listens.
const DISCARD_PORT: u16 = 9;

/// The interface with all that decides how it should be.
pub(super) struct Keeper {
    interface: WireGuardInterface,
    declared: Declared,
    /// The declared peers, each with the key that spoke last.
    in_force: Interface,
    role: Role,
    /// Whether it is as it should be, as far as is known.
    settled: bool,
    /// Whether the last look failed.
    failing: bool,
    repaired_at: Instant,
    sight: watch::Sender<Sight>,
}

enum Role {
    Hub(Leader),
    Node(Follower),
}

/// What a hub knows of the nodes that have joined.
struct Leader {
    netlink: Netlink,
    relay: Relay,
    joined: PeerSets,
    set: Option<PeerSet>,
    /// Of the nodes of the set, each with the key that spoke last.
    peers: Vec<Peer>,
    /// Peers of an earlier process that may be joined nodes: theirs is the interface until it is known who has joined.
    adopted: Vec<Peer>,
}

/// What is known of a hub's relay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relay {
    /// An earlier process may have left it, with other rules.
    Unmade,
    Made,
    Failing,
}

/// What a node knows of the nodes that the control plane names.
struct Follower {
    state_dir: PathBuf,
    sets: PeerSets,
    timing: PathTiming,
    set: Option<PeerSet>,
    paths: Paths,
    /// Whether the keys that the control plane has told of itself last are followed, and on disk. Who changes a key waits for
    /// that, so until then this host does not say that it knows what it was told.
    keeps_hub_keys: bool,
}

impl Keeper {
    /// Makes the interface, or takes it over, with what was said last.
    pub(super) async fn bring_up(
        config: &MeshConfig,
        member: Member,
    ) -> Result<(Self, watch::Receiver<Sight>), MeshError> {
        let mut declared = config.declared()?;
        let pool = match &member {
            Member::Hub { pool, .. } => *pool,
            Member::Node { .. } => None,
        };
        let mut interface = WireGuardInterface::new(config.interface.clone(), config.backend)?;
        let role = match member {
            Member::Hub { joined, .. } => {
                let (peers, adopted) = (Vec::new(), Vec::new());
                let (netlink, relay) = (Netlink::here()?, Relay::Unmade);
                Role::Hub(Leader { netlink, relay, joined, set: None, peers, adopted })
            }
            Member::Node { state_dir, sets, timing } => {
                declared.hub_keys = last_hub_keys(&state_dir, &declared);
                let set = last_set(&state_dir, &declared);
                let (paths, keeps_hub_keys) = (Paths::new(), true);
                Role::Node(Follower { state_dir, sets, timing, set, paths, keeps_hub_keys })
            }
        };
        let opened = interface.open().await;
        let (sight, sight_out) = watch::channel(Sight::default());
        let (in_force, repaired_at) = (declared.in_force(&Shown::new()), Instant::now());
        let mut keeper =
            Self { interface, declared, in_force, role, settled: false, failing: false, repaired_at, sight };
        let looked = async {
            opened?;
            keeper.adopt(pool).await?;
            keeper.look().await
        };
        let looked = looked.await;
        if let Err(error) = looked {
            if let Err(error) = keeper.interface.close().await {
                tracing::error!(error = with_causes(&error), "cannot remove the mesh interface");
            }
            return Err(error.into());
        }
        keeper.keep_relay().await;
        Ok((keeper, sight_out))
    }

    pub(super) fn backend(&self) -> Backend {
        self.interface.backend().expect("an interface that was opened has a backend")
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.in_force.private_key.public_key()
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sets = match &self.role {
            Role::Node(follower) => follower.sets.subscribe(),
            Role::Hub(leader) => leader.joined.subscribe(),
        };
        // One may have come before.
        sets.mark_changed();
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => break,
                told = next(&mut sets) => Some(told),
                _ = looks.tick() => None,
            };
            match told {
                None => self.look_and_tell().await,
                Some(told) => self.follow(told).await,
            }
        }
        self.release().await;
    }

    /// Puts a set in force, and a node's on disk.
    async fn follow(&mut self, Told { set: told, next_keys }: Told) {
        let mut set = match self.understand(&told).await {
            Ok(set) => set,
            Err(error) => {
                let error: &dyn Error = &error;
                tracing::error!(
                    error,
                    generation = told.generation,
                    "cannot use the nodes that the control plane names"
                );
                return;
            }
        };
        tracing::info!(
            generation = set.generation,
            nodes = set.nodes.len(),
            "the control plane names the nodes of the mesh"
        );
        let directory = match &mut self.role {
            Role::Hub(leader) => {
                set.change_keys(&next_keys, &self.declared);
                leader.set = Some(set);
                None
            }
            Role::Node(follower) => {
                follower.set = Some(set);
                Some(follower.state_dir.clone())
            }
        };
        self.settled = false;
        self.look_and_tell().await;
        let Some(directory) = directory else { return };
        if let Err(error) = on_disk(move || file::save(&directory, &told)).await {
            let error: &dyn Error = &error;
            tracing::error!(
                error,
                "the nodes of the mesh are not saved: after a restart the ones before would be used"
            );
        }
    }

    /// What of a set is used, once a node follows what the set says of the control plane's own keys.
    async fn understand(&mut self, told: &MeshPeers) -> Result<PeerSet, KeyError> {
        let Role::Node(follower) = &mut self.role else {
            return peers::usable(told, &self.declared);
        };
        let (hub_keys, bad) = peers::hub_keys(told, &self.declared)?;
        let before = std::mem::replace(&mut self.declared.hub_keys, hub_keys);
        let usable = peers::usable(told, &self.declared)?;
        let were_kept =
            std::mem::replace(&mut follower.keeps_hub_keys, bad.is_none_or(BadHubKey::is_harmless));
        if let Some(bad) = bad {
            let reason = bad.to_string();
            tracing::error!(
                reason,
                "what the control plane says of its own keys is not followed: it is reached by the key that it has"
            );
        }
        if hub_keys != before || !were_kept {
            let next = hub_keys.and_then(|keys| keys.next).map(tracing::field::display);
            tracing::info!(key = %told.hub, next, "the control plane names the keys by which it is reached");
            let directory = follower.state_dir.clone();
            if let Err(error) = on_disk(move || file::save_hub_keys(&directory, hub_keys)).await {
                follower.keeps_hub_keys = false;
                let error: &dyn Error = &error;
                tracing::error!(
                    error,
                    "the control plane's keys are not saved: after a restart it would not be reached by one that is new"
                );
            }
        }
        Ok(usable)
    }

    async fn look_and_tell(&mut self) {
        let looked = self.look().await;
        if let Err(error) = &looked {
            self.settled = false;
            if !self.failing {
                tracing::error!(
                    interface = %self.in_force.name,
                    error = with_causes(error),
                    "cannot keep the mesh interface as it should be, trying again"
                );
            }
        } else if self.failing {
            tracing::info!(interface = %self.in_force.name, "the mesh interface is as it should be again");
        }
        self.failing = looked.is_err();
        self.keep_relay().await;
    }

    /// Looks at the interface, decides on the ways, and makes the interface be as it should.
    async fn look(&mut self) -> Result<(), NetworkError> {
        let shown = self.interface.observe().await?.map(|seen| seen.device.peers).unwrap_or_default();
        let now = Instant::now();
        self.settled &= !self.follow_keys(&shown);
        self.settled &= match &mut self.role {
            Role::Node(follower) => !follower.decide(&shown, now),
            Role::Hub(leader) => !leader.follow_keys(&shown),
        };
        let due = now.duration_since(self.repaired_at) >= REPAIR_EVERY;
        if !self.settled || due {
            let changes = self.interface.reconcile(&self.desired()).await?;
            if self.settled && !changes.is_empty() {
                tracing::warn!(
                    interface = %self.in_force.name,
                    changes = changes.len(),
                    "the mesh interface was not as it should be and was repaired"
                );
            }
            (self.settled, self.repaired_at) = (true, now);
        }
        if let (Role::Node(follower), Some(Backend::Userspace)) = (&self.role, self.interface.backend()) {
            follower.speak();
        }
        self.sight.send_replace(self.seen(&shown));
        Ok(())
    }

    /// Takes the key that each declared peer used last for the peer; says whether any peer is another one than before.
    fn follow_keys(&mut self, shown: &Shown) -> bool {
        let in_force = self.declared.in_force(shown);
        for ((now, before), name) in in_force.peers.iter().zip(&self.in_force.peers).zip(&self.declared.names)
        {
            if now.public_key != before.public_key {
                tracing::info!(peer.name = %name, "a host of the mesh speaks with its other key");
            }
        }
        let before = std::mem::replace(&mut self.in_force, in_force);
        before.peers != self.in_force.peers
    }

    fn desired(&self) -> Interface {
        match &self.role {
            Role::Node(Follower { set: Some(set), paths, timing, .. }) => {
                peers::interface(&self.in_force, set, paths, timing.keepalive_s)
            }
            Role::Node(_) => self.in_force.clone(),
            Role::Hub(leader) => {
                let mut interface = self.in_force.clone();
                let joined = if leader.set.is_some() { &leader.peers } else { &leader.adopted };
                interface.peers.extend(joined.iter().cloned());
                interface
            }
        }
    }

    /// Lets peers of this network stay that an earlier process left in the kernel.
    async fn adopt(&mut self, pool: Option<IpNet>) -> Result<(), NetworkError> {
        let (Role::Hub(leader), Some(pool)) = (&mut self.role, pool) else { return Ok(()) };
        let shown = self.interface.observe().await?.map(|seen| seen.device.peers).unwrap_or_default();
        leader.adopted = peers::adopted(&shown, pool, &self.declared);
        Ok(())
    }

    fn seen(&self, shown: &Shown) -> Sight {
        let declared = self.in_force.peers.iter().zip(&self.declared.names).map(|(peer, name)| PeerSight {
            name: name.clone(),
            public_key: peer.public_key,
            address: peer.networks().into_iter().find(is_one_host).map(|network| network.addr()),
            direct: true,
            status: shown.get(&peer.public_key).cloned(),
        });
        let mut sight = Sight { generation: None, mtu: self.in_force.mtu, peers: declared.collect() };
        let (nodes, paths) = match &self.role {
            Role::Hub(leader) => (&leader.set, None),
            Role::Node(follower) => {
                let set = follower.set.as_ref().filter(|_| follower.keeps_hub_keys);
                sight.generation = set.map(|set| set.generation);
                (&follower.set, Some(&follower.paths))
            }
        };
        let is_direct =
            |key: &PublicKey| paths.is_none_or(|paths| paths.get(key).is_some_and(|path| path.is_direct()));
        sight.peers.extend(nodes.iter().flat_map(|set| &set.nodes).map(|node| {
            let public_key = node.key_in_use(shown);
            PeerSight {
                name: node.name.clone(),
                public_key,
                address: Some(node.address.addr()),
                direct: is_direct(&public_key),
                status: shown.get(&public_key).cloned(),
            }
        }));
        sight
    }

    /// A hub sends on what is for others. One that cannot is no worse for who has a direct way.
    async fn keep_relay(&mut self) {
        let Role::Hub(leader) = &mut self.role else { return };
        let kept = leader.keep_relay(&self.in_force.name).await;
        match (&kept, leader.relay) {
            (Err(error), before) if before != Relay::Failing => {
                let error = with_causes(error);
                tracing::warn!(
                    error,
                    "nodes that cannot reach each other directly cannot do so by this host either, trying again"
                );
            }
            (Ok(true), Relay::Made) => {
                tracing::warn!(
                    "what this host sends on in the mesh was not as it should be and was repaired; does something empty the packet filter?"
                );
            }
            (Ok(_), Relay::Failing) => tracing::info!("this host sends on in the mesh again"),
            _ => {}
        }
        leader.relay = if kept.is_ok() { Relay::Made } else { Relay::Failing };
    }

    async fn release(self) {
        let ends = matches!(self.role, Role::Hub(_)) && self.backend() == Backend::Userspace;
        let released = self.interface.release().await;
        if let Err(error) = released.and_then(|()| if ends { end_relay() } else { Ok(()) }) {
            tracing::error!(error = with_causes(&error), "cannot remove the mesh interface");
        }
    }
}

impl Leader {
    /// Makes the relay if it is not there; says whether it had to.
    async fn keep_relay(&self, mesh: &InterfaceName) -> Result<bool, NetworkError> {
        if self.relay == Relay::Made && relays(&self.netlink, mesh).await? {
            return Ok(false);
        }
        relay(&self.netlink, mesh).await.map(|()| true)
    }

    /// Gives the address of each node to the key that it used last; says whether any peer is another one than before.
    fn follow_keys(&mut self, shown: &Shown) -> bool {
        let nodes = self.set.iter().flat_map(|set| &set.nodes);
        let now = nodes.flat_map(|node| peers::of_hub(node, shown)).collect();
        let before = std::mem::replace(&mut self.peers, now);
        before != self.peers
    }
}

impl Follower {
    /// Decides on the way to each node; says whether any is another one than before.
    fn decide(&mut self, shown: &Shown, now: Instant) -> bool {
        let before = std::mem::take(&mut self.paths);
        let mut changed = false;
        for node in self.set.iter().flat_map(|set| &set.nodes) {
            let status = shown.get(&node.public_key);
            let old = before.get(&node.public_key);
            let new = match old {
                Some(path) => path.next(status, now, self.timing),
                None => PeerPath::begin(node.address, status, now),
            };
            let kind = |path: PeerPath| (path.is_direct(), path.has_peer());
            if old.map(|old| kind(*old)) != Some(kind(new)) {
                changed = true;
                let way = if new.is_direct() { "direct" } else { "hub" };
                tracing::info!(peer.name = %node.name, path = way, "the way to a node of the mesh");
            }
            self.paths.insert(node.public_key, new);
        }
        changed
    }

    /// Says something to each node that is reached directly: the other end must hear of it, and a tunnel in userspace does
    /// not count keepalives.
    fn speak(&self) {
        let nodes = self.set.iter().flat_map(|set| &set.nodes);
        let direct =
            nodes.filter(|node| self.paths.get(&node.public_key).is_some_and(|path| path.is_direct()));
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return };
        for node in direct {
            // One that is lost is followed by another.
            let _ = socket.send_to(&[0], (node.address.addr(), DISCARD_PORT));
        }
    }
}

fn is_one_host(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

/// What was said of the control plane's keys. If that cannot be used, the configuration has one.
fn last_hub_keys(state_dir: &Path, declared: &Declared) -> Option<HubKeys> {
    let loaded = file::load_hub_keys(state_dir).map_err(Into::<Box<dyn Error + Send + Sync>>::into);
    let usable = loaded.and_then(|kept| Ok(kept.map(|kept| declared.hub_keys_kept(kept)).transpose()?));
    usable.map(Option::flatten).unwrap_or_else(|error| {
        tracing::error!(error = with_causes(&*error), "cannot use the saved keys of the control plane");
        None
    })
}

/// What was said last. A file that cannot be used must not keep a node out of the mesh: the control plane says it again.
fn last_set(state_dir: &Path, declared: &Declared) -> Option<PeerSet> {
    let loaded = file::load(state_dir).map_err(Into::<Box<dyn Error + Send + Sync>>::into);
    let usable = loaded.and_then(|told| Ok(told.map(|told| peers::usable(&told, declared)).transpose()?));
    usable.unwrap_or_else(|error| {
        tracing::error!(error = with_causes(&*error), "cannot use the saved nodes of the mesh");
        None
    })
}

/// Does what waits for the disk elsewhere.
async fn on_disk(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}

/// The next set; never, if there is nobody to say one.
async fn next(sets: &mut watch::Receiver<Option<Told>>) -> Told {
    while sets.changed().await.is_ok() {
        if let Some(set) = sets.borrow_and_update().clone() {
            return set;
        }
    }
    std::future::pending().await
}
