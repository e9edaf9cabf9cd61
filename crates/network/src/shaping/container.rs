//! The links of one container: observed, compared, shaped.

use crate::{Netlink, NetworkError, NetworkNamespace, TokenBucket};

/// One round shapes, one finds it right; another program may have been at work in between.
const MAX_ROUNDS: usize = 3;

/// One end of a veth pair of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the container: what it sends leaves here.
    Container,
    /// In the host: what the container receives leaves here.
    Host,
}

/// One end as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapedLink {
    /// Which end.
    pub side: Side,
    /// Its name there.
    pub name: String,
    /// What shapes what leaves by it.
    pub bucket: Option<TokenBucket>,
}

/// One change to a container's shaping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShapingOp {
    /// Shape what leaves by this end, in place of what shaped it before.
    Set(Side, String, TokenBucket),
    /// Stop shaping what leaves by this end.
    Remove(Side, String),
}

/// The changes that turn `observed` into `desired` in each direction. Pure.
#[must_use]
pub fn diff_shaping(observed: &[ShapedLink], desired: Option<TokenBucket>) -> Vec<ShapingOp> {
    let differing = observed.iter().filter(|link| link.bucket != desired);
    let op = |link: &ShapedLink| match desired {
        Some(bucket) => ShapingOp::Set(link.side, link.name.clone(), bucket),
        None => ShapingOp::Remove(link.side, link.name.clone()),
    };
    differing.map(op).collect()
}

/// Reads how both ends of each veth pair between a container and this host are shaped. `host` is a connection into the
/// namespace in which the other ends are. Empty if there is no pair.
///
/// # Errors
/// `NotPermitted`, or `Failed` if the namespace is gone.
pub async fn observe_shaping(
    container: &NetworkNamespace,
    host: &Netlink,
) -> Result<Vec<ShapedLink>, NetworkError> {
    Container::of(container, host)?.observe().await
}

/// Gives a container the same limit in each direction, or none, and says what had to be done. Nothing is touched that is
/// right already.
///
/// # Errors
/// `NoSuchInterface` if a limit is desired and no veth pair joins the container to the host, `NotPermitted`,
/// `NotSupported` by a kernel without `tbf`, `Unsettled` if another program changes it back.
pub async fn shape(
    container: &NetworkNamespace,
    host: &Netlink,
    desired: Option<TokenBucket>,
) -> Result<Vec<ShapingOp>, NetworkError> {
    let container = Container::of(container, host)?;
    let mut done = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let observed = container.observe().await?;
        if observed.is_empty() && desired.is_some() {
            let interface = "the veth pair of a container".to_owned();
            return Err(NetworkError::NoSuchInterface { operation: "shape", interface });
        }
        let ops = diff_shaping(&observed, desired);
        if ops.is_empty() {
            return Ok(done);
        }
        for op in &ops {
            container.apply(op).await?;
        }
        done.extend(ops);
    }
    Err(NetworkError::Unsettled { interface: "the veth pair of a container".to_owned() })
}

/// Connections to both ends.
struct Container<'a> {
    inside: Netlink,
    host: &'a Netlink,
}

impl<'a> Container<'a> {
    fn of(namespace: &NetworkNamespace, host: &'a Netlink) -> Result<Self, NetworkError> {
        Ok(Self { inside: Netlink::inside(namespace)?, host })
    }

    fn side(&self, side: Side) -> &Netlink {
        match side {
            Side::Container => &self.inside,
            Side::Host => self.host,
        }
    }

    async fn observe(&self) -> Result<Vec<ShapedLink>, NetworkError> {
        let hosts = self.host.links().await?;
        let mut observed = Vec::new();
        for link in self.inside.links().await? {
            let Some(other) = hosts.iter().find(|other| link.is_pair_with(other)) else { continue };
            for (side, name) in [(Side::Container, &link.name), (Side::Host, &other.name)] {
                let bucket = self.side(side).token_bucket(name).await?;
                observed.push(ShapedLink { side, name: name.clone(), bucket });
            }
        }
        Ok(observed)
    }

    async fn apply(&self, op: &ShapingOp) -> Result<(), NetworkError> {
        match op {
            ShapingOp::Set(side, name, bucket) => self.side(*side).set_token_bucket(name, *bucket).await,
            ShapingOp::Remove(side, name) => self.side(*side).delete_token_bucket(name).await,
        }
    }
}
