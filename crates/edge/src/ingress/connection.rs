//! One visitor's connection: TLS, the choice between HTTP/1.1 and HTTP/2, its requests, its end.
//!
//! A connection is closed when it has had no request under way for a while; that also ends one that never sends a whole
//! head. A response that does not move for a while is cut off, and the connection with it if nothing else is under way. There is
//! no timer per request: the connection looks at its own clock now and then.

use crate::{acme::challenges::TLS_ALPN, upstream::streams::LocalExecutor};

use super::{
    forward,
    response::Delivery,
    thread::{Accepted, Local},
};
use http::HeaderValue;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    io,
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

/// For what a load balancer says, for the TLS handshake, and for the first byte of a connection.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole request head, from the start of the connection.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For the next request of a connection, head included.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a connection looks at its clock.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most headers in a request.
const HEADERS_MAX: usize = 128;
/// Requests under way at the same time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// What the requests of one connection share.
pub(super) struct Visitor {
    pub(super) local: Rc<Local>,
    /// The address, as it is told to instances.
    pub(super) address: HeaderValue,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    requests: Rc<Requests>,
}

impl Visitor {
    fn new(local: Rc<Local>, address: IpAddr, secure: bool) -> Rc<Self> {
        let address = HeaderValue::try_from(address.to_string())
            .expect("an address has only letters, digits and punctuation");
        let scheme = if secure { "https" } else { "http" };
        Rc::new(Self { local, address, scheme, requests: Requests::new() })
    }

    /// Counts a request as under way until the guard is dropped.
    pub(super) fn begin_request(&self) -> InFlight {
        self.requests.under_way.set(self.requests.under_way.get() + 1);
        InFlight(self.requests.clone())
    }
}

/// How busy a connection is.
pub(super) struct Requests {
    under_way: Cell<u32>,
    /// Whether one ended since the last look at the clock.
    ended: Cell<bool>,
    /// How long the connection may be without a request.
    patience: Cell<Duration>,
    /// The last look at the clock at which it was busy, or its start.
    busy_at: Cell<Instant>,
    /// Responses on their way, each in a place of its own.
    deliveries: RefCell<Vec<Option<Rc<Delivery>>>>,
}

impl Requests {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            under_way: Cell::new(0),
            ended: Cell::new(false),
            patience: Cell::new(FIRST_REQUEST_TIMEOUT),
            busy_at: Cell::new(Instant::now()),
            deliveries: RefCell::default(),
        })
    }

    /// Looks after a response from now on, until its place is left.
    pub(super) fn enter(&self, delivery: Rc<Delivery>) -> usize {
        let mut deliveries = self.deliveries.borrow_mut();
        let place = deliveries.iter().position(Option::is_none).unwrap_or(deliveries.len());
        match deliveries.get_mut(place) {
            Some(free) => *free = Some(delivery),
            None => deliveries.push(Some(delivery)),
        }
        place
    }

    pub(super) fn leave(&self, place: usize) {
        self.deliveries.borrow_mut()[place] = None;
    }

    /// Cuts off responses that have not moved for so long. Says whether nothing else is under way.
    fn cut_stalled(&self, patience: Duration) -> bool {
        let now = Instant::now();
        let is_stalled = |delivery: &&Rc<Delivery>| delivery.is_stalled(now, patience);
        let stalled: Vec<_> = self.deliveries.borrow().iter().flatten().filter(is_stalled).cloned().collect();
        stalled.iter().for_each(|delivery| delivery.cut());
        !stalled.is_empty() && self.under_way.get() == 0
    }

    /// Looks at the clock: was there no request for too long?
    fn idle_for_too_long(&self) -> bool {
        if self.under_way.get() > 0 || self.ended.take() {
            self.patience.set(IDLE_TIMEOUT);
            self.busy_at.set(Instant::now());
        }
        self.busy_at.get().elapsed() >= self.patience.get()
    }
}

/// A request under way.
pub(super) struct InFlight(Rc<Requests>);

impl InFlight {
    /// Those of its connection.
    pub(super) fn requests(&self) -> Rc<Requests> {
        self.0.clone()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.ended.set(true);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(local: Rc<Local>, accepted: Accepted) {
    let peer = accepted.peer;
    if let Err(error) = try_serve(local, accepted).await {
        tracing::debug!(visitor = %peer, %error, "a connection ended badly");
    }
}

async fn try_serve(local: Rc<Local>, accepted: Accepted) -> io::Result<()> {
    let mut stream = TcpStream::from_std(accepted.stream)?;
    let address = local.balancers.visitor(&mut stream, accepted.peer).await?;
    let visitor = Visitor::new(local.clone(), address, accepted.secure);
    match &local.tls {
        Some(tls) if accepted.secure => {
            let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => serve_http2(visitor, stream).await,
                // The handshake was all that a certificate authority wanted.
                Some(TLS_ALPN) => Ok(()),
                _ => serve_http1(visitor, stream).await,
            }
        }
        _ if timeout(HANDSHAKE_TIMEOUT, begins_as_http2(&stream)).await?? => {
            serve_http2(visitor, stream).await
        }
        _ => serve_http1(visitor, stream).await,
    }
}

/// Whether a connection in clear begins like HTTP/2. Its preface comes in one piece; `PRI` is no method of HTTP/1.1.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 4];
    let len = stream.peek(&mut first).await?;
    Ok(first[..len] == *b"PRI ")
}

async fn serve_http1<S>(visitor: Rc<Visitor>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answering = visitor.clone();
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| forward::answer(answering.clone(), request)),
        )
        .with_upgrades();
    drive(&visitor, pin!(connection), |connection| connection.graceful_shutdown()).await
}

async fn serve_http2<S>(visitor: Rc<Visitor>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let answering = visitor.clone();
    let connection = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| forward::answer(answering.clone(), request)),
        );
    drive(&visitor, pin!(connection), |connection| connection.graceful_shutdown()).await
}

/// Runs HTTP on a connection until it ends, is idle or stalls for too long, or the thread closes.
async fn drive<C>(visitor: &Visitor, mut connection: Pin<&mut C>, end: fn(Pin<&mut C>)) -> io::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut closing = pin!(visitor.local.closing.cancelled());
    let stall_timeout = visitor.local.limits.stall_timeout;
    let watch_interval = WATCH_INTERVAL.min(stall_timeout);
    let mut watch = interval_at(Instant::now() + watch_interval, watch_interval);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = closing.as_mut(), if !ending => {
                ending = true;
                end(connection.as_mut());
            }
            _ = watch.tick() => {
                if visitor.requests.cut_stalled(stall_timeout) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if visitor.requests.idle_for_too_long() {
                    if ending {
                        return Ok(());
                    }
                    ending = true;
                    end(connection.as_mut());
                }
            }
        }
    }
}
