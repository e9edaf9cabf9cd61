//! From a visitor's request to an instance's response.
//!
//! A request is given to a second instance, or sent a second time, only where that cannot change what it does: when no
//! connection was made, or when it has no body, its method is idempotent and the instance closed the connection
//! without an answer.

use super::{
    Limits,
    access::Entry,
    connection::{InFlight, Visitor},
    host::requested_host,
    page::Page,
    response::{Content, VisitorBody},
    thread::Lease,
    tunnel,
};
use crate::{
    table::Host,
    upstream::{
        Connection,
        exchange::{Exchange, ExchangeError, ResponseBody},
        request::{Forwarded, Framing, wants_upgrade, write_head},
        response::ResponseHead,
        streams::{RequestBody, StreamError, grpc_timeout, is_grpc},
    },
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::{
    body::{Body, Incoming},
    upgrade::OnUpgrade,
};
use std::{convert::Infallible, error::Error, pin::pin, rc::Rc, time::Duration};
use tokio::time::{Instant, timeout_at};
use wisehosting_domain::{id::InstanceId, routes::Upstream};

/// A connection that was idle for longer may be about to be closed by its instance: a request that must not be sent
/// twice is not sent on it.
const SURELY_OPEN: Duration = Duration::from_secs(1);
/// For a request that may be sent again there is no such limit; the pool has its own.
const PERHAPS_OPEN: Duration = Duration::MAX;

/// Answers one request.
pub(super) async fn answer(
    visitor: Rc<Visitor>,
    request: Request<Incoming>,
) -> Result<Response<VisitorBody>, Infallible> {
    let began = Instant::now();
    let (lease, in_flight) = (visitor.local.table(), visitor.begin_request());
    let (mut parts, body) = request.into_parts();
    let upgrade = if wants_upgrade(&parts) { parts.extensions.remove::<OnUpgrade>() } else { None };
    let request =
        Outgoing { framing: framing(&parts, &body), parts, upgrade: upgrade.is_some(), visitor: &visitor };
    let answer = match visitor.local.challenges.file(request.parts.uri.path()) {
        Some(file) => Err(Response::new(file.into())),
        None => request.send(&lease, body).await.map_err(Page::response),
    };
    let instance = answer.as_ref().ok().map(|answer| answer.instance);
    let mut response = match answer {
        Ok(answer) => answer.into_response(&visitor, upgrade, lease, in_flight),
        Err(page) => page.map(|page| VisitorBody::new(Content::Page(Some(page)), lease, in_flight)),
    };
    let entry = Entry::new(began, &visitor, &request.parts, response.status(), instance);
    response.body_mut().log(entry);
    Ok(response)
}

/// A request on its way to an instance, without its body.
struct Outgoing<'a> {
    parts: Parts,
    framing: Framing,
    upgrade: bool,
    visitor: &'a Visitor,
}

/// An instance that answers.
struct Answer {
    instance: InstanceId,
    by: By,
}

/// In which way.
enum By {
    Exchange(ResponseHead, Exchange),
    Stream(Response<Incoming>),
}

impl Outgoing<'_> {
    async fn send(&self, lease: &Lease, body: Incoming) -> Result<Answer, Page> {
        if !is_plain(&self.parts) {
            return Err(Page::BadRequest);
        }
        let requested = requested_host(&self.parts).ok_or(Page::BadRequest)?;
        let unknown = if lease.is_known() { Page::UnknownHost } else { Page::NoRoutes };
        let host = lease.host(&requested.name).ok_or(unknown)?;
        if matches!(self.framing, Framing::Length(length) if length > self.visitor.local.limits.request_bytes_max)
        {
            return Err(Page::TooLarge);
        }
        if is_grpc(&self.parts) {
            return self.stream_to_any(host, requested.authority, body).await;
        }
        let has_body = !matches!(self.framing, Framing::None | Framing::Length(0));
        let body = has_body.then_some(body);
        self.send_to_any(host, requested.authority, body).await
    }

    /// Tries the instances of a host in turn.
    async fn send_to_any(
        &self,
        host: &Host,
        authority: &str,
        mut body: Option<Incoming>,
    ) -> Result<Answer, Page> {
        let repeatable = body.is_none() && self.parts.method.is_idempotent();
        let mut page = Page::NoInstance;
        for upstream in host.in_turn() {
            let pool = &self.visitor.local.pool;
            let idle_max = if repeatable { PERHAPS_OPEN } else { SURELY_OPEN };
            let pooled = pool.take(upstream.instance_id, idle_max);
            if let Some(connection) = pooled {
                match self.exchange(connection, upstream, authority, body.take()).await {
                    Err(Failure::NoAnswer) if repeatable => {}
                    answer => return answer.map_err(Failure::page),
                }
            }
            match Connection::open(upstream.address).await {
                Ok(connection) => match self.exchange(connection, upstream, authority, body.take()).await {
                    Err(Failure::NoAnswer) if repeatable => page = Page::BadAnswer,
                    answer => return answer.map_err(Failure::page),
                },
                Err(error) => {
                    tracing::info!(instance.id = %upstream.instance_id, address = %upstream.address, error = &error as &dyn Error, "cannot connect to an instance");
                }
            }
        }
        Err(page)
    }

    /// The same by HTTP/2.
    async fn stream_to_any(&self, host: &Host, authority: &str, body: Incoming) -> Result<Answer, Page> {
        let local = &self.visitor.local;
        let body = RequestBody::new(body, local.limits.request_bytes_max);
        let (progress, mut body) = (body.progress(), Some(body));
        let deadline = grpc_timeout(&self.parts).map(|time| Instant::now() + time);
        let due = || deadline.unwrap_or_else(|| progress.moved_at() + local.limits.answer_timeout);
        for upstream in host.in_turn() {
            let sent = local.streams.send(upstream, &self.parts, self.forwarded(authority), &mut body);
            let (instance, address) = (upstream.instance_id, upstream.address);
            match until(due, sent).await {
                Some(Ok(response)) => return Ok(Answer { instance, by: By::Stream(response) }),
                Some(Err(error)) => {
                    tracing::info!(instance.id = %instance, %address, error = &error as &dyn Error, "no stream to an instance");
                    match error {
                        StreamError::Connect(_) => {}
                        StreamError::TooLarge => return Err(Page::TooLarge),
                        StreamError::Broken(_) => return Err(Page::BadAnswer),
                    }
                }
                None => {
                    Failure::TooLate.log(upstream);
                    return Err(Page::NoAnswer);
                }
            }
        }
        Err(Page::NoInstance)
    }

    /// How the visitor came.
    fn forwarded<'a>(&'a self, authority: &'a str) -> Forwarded<'a> {
        Forwarded { host: authority, peer: &self.visitor.address, scheme: self.visitor.scheme }
    }

    /// One attempt on one connection.
    async fn exchange(
        &self,
        connection: Connection,
        upstream: &Upstream,
        authority: &str,
        body: Option<Incoming>,
    ) -> Result<Answer, Failure> {
        let forwarded = self.forwarded(authority);
        let head = |out: &mut _| write_head(out, &self.parts, forwarded, self.framing, self.upgrade);
        let Limits { request_bytes_max, answer_timeout, .. } = self.visitor.local.limits;
        let mut exchange = Exchange::new(connection, head, self.framing, body, request_bytes_max);
        let result = loop {
            let due = exchange.moved_at() + answer_timeout;
            match timeout_at(due, exchange.head(&self.parts.method)).await {
                Ok(result) => break result.map_err(Failure::from),
                Err(_) if exchange.moved_at() + answer_timeout > due => {}
                Err(_) if exchange.waits_for_visitor() => break Err(Failure::VisitorTooSlow),
                Err(_) => break Err(Failure::TooLate),
            }
        };
        match result {
            Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS && !self.upgrade => {
                Err(Failure::Broken(ExchangeError::Malformed(crate::upstream::response::Malformed)))
            }
            Ok(head) => Ok(Answer { instance: upstream.instance_id, by: By::Exchange(head, exchange) }),
            Err(failure) => {
                failure.log(upstream);
                Err(failure)
            }
        }
    }
}

/// Why an attempt failed.
enum Failure {
    /// The connection was closed without an answer.
    NoAnswer,
    /// There was none in time.
    TooLate,
    /// The visitor left.
    VisitorLeft,
    /// The visitor does not send the rest.
    VisitorTooSlow,
    /// The visitor sent too much.
    TooLarge,
    /// Anything else.
    Broken(ExchangeError),
}

impl From<ExchangeError> for Failure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::NoAnswer => Self::NoAnswer,
            ExchangeError::Visitor(_) => Self::VisitorLeft,
            ExchangeError::TooLarge => Self::TooLarge,
            error => Self::Broken(error),
        }
    }
}

impl Failure {
    fn page(self) -> Page {
        match self {
            Self::NoAnswer | Self::Broken(_) => Page::BadAnswer,
            Self::TooLate => Page::NoAnswer,
            Self::VisitorLeft => Page::BadRequest,
            Self::VisitorTooSlow => Page::TooSlow,
            Self::TooLarge => Page::TooLarge,
        }
    }

    fn log(&self, upstream: &Upstream) {
        let Upstream { instance_id, address } = upstream;
        match self {
            Self::NoAnswer => {
                tracing::debug!(instance.id = %instance_id, %address, "an instance closed a connection without an answer");
            }
            Self::TooLate => {
                tracing::info!(instance.id = %instance_id, %address, "an instance did not answer in time");
            }
            Self::VisitorLeft | Self::VisitorTooSlow | Self::TooLarge => {}
            Self::Broken(error) => {
                tracing::info!(instance.id = %instance_id, %address, error = error as &dyn Error, "an instance did not answer properly");
            }
        }
    }
}

impl Answer {
    fn into_response(
        self,
        visitor: &Visitor,
        upgrade: Option<OnUpgrade>,
        lease: Lease,
        in_flight: InFlight,
    ) -> Response<VisitorBody> {
        let (head, exchange) = match self.by {
            By::Exchange(head, exchange) => (head, exchange),
            By::Stream(response) => {
                return response.map(|body| VisitorBody::new(Content::Stream(body), lease, in_flight));
            }
        };
        let ResponseHead { status, headers, body, keep_alive } = head;
        let content = match upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
            Some(upgrade) => {
                let connection = exchange.into_connection();
                let tunnel = tunnel::carry(upgrade, connection, lease.clone(), visitor.begin_request());
                visitor.local.tasks.spawn_local(tunnel);
                Content::Page(None)
            }
            None => {
                let pool = visitor.local.pool.clone();
                let body = ResponseBody::new(exchange, body, keep_alive, self.instance, pool);
                if is_event_stream(&headers) { Content::Events(body) } else { Content::Instance(body) }
            }
        };
        let mut response = Response::new(VisitorBody::new(content, lease, in_flight));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// What comes out of `work` before `due`, which may move on meanwhile.
async fn until<T>(due: impl Fn() -> Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let now_due = due();
        match timeout_at(now_due, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if due() > now_due => {}
            Err(_) => return None,
        }
    }
}

/// Whether a response is made of events (server-sent), which come when they come.
fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

/// Whether a request has one meaning: it names a path or a whole address, and its body is in chunks or has a length.
fn is_plain(parts: &Parts) -> bool {
    let target = match (parts.uri.scheme_str(), parts.uri.authority()) {
        (None, None) => parts.uri.path() != "*" || parts.method == Method::OPTIONS,
        (scheme, authority) => authority.is_some() && matches!(scheme, Some("http" | "https")),
    };
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    target && coding && codings.next().is_none() && parts.method != Method::CONNECT
}

/// How the request's body is told to the instance, from how it was told to the edge.
fn framing(parts: &Parts, body: &Incoming) -> Framing {
    match body.size_hint().exact() {
        Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}
