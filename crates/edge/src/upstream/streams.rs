//! HTTP/2 towards the instances, in clear and without asking first: for gRPC, which needs streams both ways and trailers.
//!
//! All streams of a thread to one instance share a connection. Nothing is sent twice but what was surely not sent.

use super::{
    connect,
    request::{Forwarded, forwarded_headers, is_for_instance},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, request::Parts, uri::PathAndQuery};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http2::{Builder, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    error::Error,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;
use wisehosting_domain::{
    id::InstanceId,
    routes::{RouteTable, Upstream},
};

/// How long a connection without streams is kept.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// Spawns the tasks of an HTTP/2 connection on the thread that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The instance does not take a connection.
    #[error("cannot connect to the instance")]
    Connect(#[source] io::Error),
    /// The visitor sent more than may be.
    #[error("the request is too large")]
    TooLarge,
    /// It broke off, or does not speak HTTP/2.
    #[error("the instance did not answer")]
    Broken(#[source] hyper::Error),
}

/// The connections of one thread, by instance.
#[derive(Debug, Default)]
pub struct Streams {
    open: RefCell<HashMap<InstanceId, Open>>,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<RequestBody>,
    used_at: Instant,
}

impl Streams {
    /// Sends a request to an instance and waits for the head of its response. The body is taken only if a connection is there.
    ///
    /// # Errors
    /// There is no response.
    pub async fn send(
        &self,
        upstream: &Upstream,
        parts: &Parts,
        forwarded: Forwarded<'_>,
        body: &mut Option<RequestBody>,
    ) -> Result<Response<Incoming>, StreamError> {
        loop {
            let (mut sender, is_new) = self.sender(upstream).await.map_err(StreamError::Connect)?;
            let Some(sent) = body.take() else { return Err(StreamError::TooLarge) };
            let progress = sent.progress.clone();
            let error = match sender.try_send_request(request(parts, forwarded, sent)).await {
                Ok(response) => return Ok(response),
                Err(error) if progress.exceeded.get() => {
                    tracing::debug!(error = &error.into_error() as &dyn Error, "a request is too large");
                    return Err(StreamError::TooLarge);
                }
                Err(error) => error,
            };
            let mut error = error;
            match error.take_message() {
                // The instance had closed it before.
                Some(unsent) if !is_new => *body = Some(unsent.into_body()),
                _ => return Err(StreamError::Broken(error.into_error())),
            }
        }
    }

    /// A connection that is open, and whether it is new.
    async fn sender(&self, upstream: &Upstream) -> io::Result<(SendRequest<RequestBody>, bool)> {
        if let Some(open) = self.open.borrow_mut().get_mut(&upstream.instance_id)
            && !open.sender.is_closed()
        {
            open.used_at = Instant::now();
            return Ok((open.sender.clone(), false));
        }
        let stream = TokioIo::new(connect(upstream.address).await?);
        let (sender, connection) =
            Builder::new(LocalExecutor).handshake(stream).await.map_err(io::Error::other)?;
        let instance = upstream.instance_id;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(instance.id = %instance, error = &error as &dyn Error, "a connection to an instance broke");
            }
        });
        let open = Open { sender: sender.clone(), used_at: Instant::now() };
        self.open.borrow_mut().insert(instance, open);
        Ok((sender, true))
    }

    /// Keeps connections to the instances of this table only. Streams under way go on.
    pub fn keep_only(&self, table: &RouteTable) {
        let upstreams = table.routes.values().flat_map(|route| &route.upstreams);
        let routed: HashSet<_> = upstreams.map(|upstream| upstream.instance_id).collect();
        self.open.borrow_mut().retain(|instance, _| routed.contains(instance));
    }

    /// Drops what was not used for a while or was closed by its instance. Streams under way go on.
    pub fn sweep(&self) {
        let is_needed = |open: &Open| open.used_at.elapsed() < IDLE_TIME_MAX && !open.sender.is_closed();
        self.open.borrow_mut().retain(|_, open| is_needed(open));
    }
}

/// Whether a request is gRPC's, which no other version of HTTP carries. (gRPC for browsers is made for HTTP/1.1.)
#[must_use]
pub fn is_grpc(request: &Parts) -> bool {
    let content_type = request.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    request.version == Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The time that a request of gRPC has, if it says so.
#[must_use]
pub fn grpc_timeout(request: &Parts) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;
    let text = request.headers.get("grpc-timeout")?.to_str().ok()?;
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.len() > DIGITS_MAX || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u32 = amount.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_hours(1),
        "M" => Duration::from_mins(1),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    Some(unit * amount)
}

/// The request as the instance gets it.
fn request(parts: &Parts, forwarded: Forwarded<'_>, body: RequestBody) -> Request<RequestBody> {
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority(forwarded.host).path_and_query(path).build();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri.expect("its parts come out of one");
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for (name, value) in &parts.headers {
        if is_for_instance(name, parts) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for (name, value) in forwarded_headers(forwarded) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    request
}

/// The visitor's body, of which there may be so much.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    bytes_left: u64,
    progress: Rc<Progress>,
}

/// How a request's body gets on, for who has given it away.
#[derive(Debug)]
pub struct Progress {
    exceeded: Cell<bool>,
    moved_at: Cell<Instant>,
}

impl Progress {
    /// When the last of it was sent, or it was made.
    #[must_use]
    pub fn moved_at(&self) -> Instant {
        self.moved_at.get()
    }
}

impl RequestBody {
    /// With at most `bytes_max`.
    #[must_use]
    pub fn new(body: Incoming, bytes_max: u64) -> Self {
        let progress = Progress { exceeded: Cell::new(false), moved_at: Cell::new(Instant::now()) };
        Self { body, bytes_left: bytes_max, progress: Rc::new(progress) }
    }

    /// Tells of it after it was given away.
    #[must_use]
    pub fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        let length = frame.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        let Some(left) = self.bytes_left.checked_sub(length) else {
            self.progress.exceeded.set(true);
            return Poll::Ready(Some(Err(Box::new(StreamError::TooLarge))));
        };
        self.bytes_left = left;
        self.progress.moved_at.set(Instant::now());
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_grpc_says_how_much_time_it_has() {
        let read = |text: &str| {
            let request = Request::builder().header("grpc-timeout", text).body(()).unwrap();
            grpc_timeout(&request.into_parts().0)
        };
        for (text, time) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("10S", Duration::from_secs(10)),
            ("250m", Duration::from_millis(250)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0m", Duration::ZERO),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for text in ["", "S", "10", "10s", "-1S", "+1S", "1.5S", "100000000S", "1 S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
