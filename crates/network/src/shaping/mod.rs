//! How much a container may send and receive: a token bucket in each direction, over netlink.
//!
//! A qdisc shapes what leaves a link. What the container sends leaves by its own end of the veth pair, in its namespace;
//! what it receives leaves by the other end, in the host's. So each limit is a plain root qdisc: nothing has to be
//! redirected, and a container without the right to change its network cannot lift either. Both go away with the pair.
//!
//! Invariant: when `shape` has returned without an error, the difference to what was desired is empty.

mod container;
mod token_bucket;

pub use container::{ShapedLink, ShapingOp, Side, diff_shaping, observe_shaping, shape};
pub use token_bucket::TokenBucket;

use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use crate::{Netlink, NetworkError};

impl Netlink {
    /// Shapes what leaves a link, in place of what shaped it before.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`, `NotSupported` by a kernel without `tbf`.
    pub async fn set_token_bucket(&self, name: &str, bucket: TokenBucket) -> Result<(), NetworkError> {
        let index = self.index("shape", name)?;
        let mut message = TcMessage::with_index(to_signed(index));
        bucket.write(&mut message);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|error| NetworkError::from_netlink("shape", name, error))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(refusal) = answer.payload
                && refusal.code.is_some()
            {
                let error = rtnetlink::Error::NetlinkError(refusal);
                return Err(kind_unknown("shape", name, NetworkError::from_netlink("shape", name, error)));
            }
        }
        Ok(())
    }

    /// Stops shaping what leaves a link. One that is not shaped is no error; what is not a token bucket stays.
    ///
    /// # Errors
    /// `NoSuchInterface`, `NotPermitted`.
    pub async fn delete_token_bucket(&self, name: &str) -> Result<(), NetworkError> {
        if self.token_bucket(name).await?.is_none() {
            return Ok(());
        }
        let index = self.index("stop shaping", name)?;
        let mut request = self.handle.qdisc().del(to_signed(index));
        request.message_mut().header.parent = TcHandle::ROOT;
        let Err(error) = request.execute().await else { return Ok(()) };
        let error = NetworkError::from_netlink("stop shaping", name, error);
        // Somebody else was faster.
        if error.errno() == Some(Errno::ENOENT) { Ok(()) } else { Err(error) }
    }

    /// The token bucket that shapes what leaves a link, if one does.
    ///
    /// # Errors
    /// `NoSuchInterface`.
    pub async fn token_bucket(&self, name: &str) -> Result<Option<TokenBucket>, NetworkError> {
        let index = to_signed(self.index("read the shaping of", name)?);
        let mut answers = std::pin::pin!(self.handle.qdisc().get().index(index).execute());
        let mut found = None;
        // The kernel gives those of all links, whatever is asked for; an answer that is not read would be a later one's.
        while let Some(message) = answers
            .try_next()
            .await
            .map_err(|error| NetworkError::from_netlink("read the shaping of", name, error))?
        {
            if message.header.index == index && is_root_bucket(&message) {
                found = TokenBucket::read(&message);
            }
        }
        Ok(found)
    }
}

fn is_root_bucket(message: &TcMessage) -> bool {
    let kind = TcAttribute::Kind(token_bucket::KIND.to_owned());
    message.header.parent == TcHandle::ROOT && message.attributes.contains(&kind)
}

/// A kernel that has no such qdisc says that there is no such thing.
fn kind_unknown(operation: &'static str, subject: &str, error: NetworkError) -> NetworkError {
    match error {
        NetworkError::Failed { .. } if error.errno() == Some(Errno::ENOENT) => NetworkError::NotSupported {
            operation,
            subject: subject.to_owned(),
            source: Errno::ENOENT.into(),
        },
        other => other,
    }
}

/// The same number: the kernel's indices are positive.
fn to_signed(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
