//! One request and its response on one connection.
//!
//! Both directions move in the task that polls: while the head or the body of the response is waited for, the rest of
//! the request's body is sent, so an instance may answer before it has read everything.

use super::{
    Connection, READ_BYTES,
    body::{BodyError, Decoded, Decoder},
    pool::Pool,
    request::Framing,
    response::{Malformed, ResponseHead, take_head},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Method;
use hyper::body::{Body, Incoming, SizeHint};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite, time::Instant};
use tokio_util::io::poll_read_buf;
use wisehosting_domain::id::InstanceId;

/// The request's body is read ahead of the instance up to this much.
const SEND_BYTES: usize = 64 * 1024;

/// A request that is being sent moves if so much of it goes out. Less than that, again and again, would hold an instance
/// for as long as a visitor likes.
const PIECE_BYTES: u64 = 1024;

/// Why there is no whole response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection was closed before the first byte of a response. On a connection that was idle before, the
    /// instance most likely did not see the request.
    #[error("the instance closed the connection without an answer")]
    NoAnswer,
    /// The network.
    #[error("the connection to the instance failed")]
    Io(#[from] io::Error),
    /// The head of the response.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The body of the response.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The visitor went away while sending.
    #[error("the visitor did not send the whole request")]
    Visitor(#[source] hyper::Error),
    /// The instance, by HTTP/2.
    #[error("the instance broke off")]
    Stream(#[source] hyper::Error),
    /// The visitor sends more than may be.
    #[error("the request is too large")]
    TooLarge,
    /// Neither side moved it on.
    #[error("nothing of the response moved for too long")]
    Stalled,
}

/// A request under way.
#[derive(Debug)]
pub struct Exchange {
    connection: Connection,
    sending: Sending,
    /// Bytes that the instance has taken since the last piece.
    bytes_of_piece: u64,
    moved_at: Instant,
}

/// The request as far as it is not sent; its bytes are in the connection's `unsent`.
#[derive(Debug)]
enum Sending {
    /// The rest of the body follows.
    Body { body: Incoming, chunked: bool, bytes_left: u64 },
    /// Everything is in `unsent`, if anything is left.
    Rest,
    /// The instance takes no more; it may have answered all the same.
    Refused,
}

impl Exchange {
    /// A request on this connection: the head that `write_head` puts into the buffer, and then the body, of which
    /// there may be `bytes_max`.
    #[must_use]
    pub fn new(
        mut connection: Connection,
        write_head: impl FnOnce(&mut BytesMut),
        framing: Framing,
        body: Option<Incoming>,
        bytes_max: u64,
    ) -> Self {
        write_head(&mut connection.unsent);
        let sending = match body {
            Some(body) => Sending::Body { body, chunked: framing == Framing::Chunked, bytes_left: bytes_max },
            None => Sending::Rest,
        };
        Self { connection, sending, bytes_of_piece: 0, moved_at: Instant::now() }
    }

    /// When the instance took the last piece of the request, or its end; grows while a long request is being sent.
    #[must_use]
    pub fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// Whether the instance has taken all that the visitor has sent, and that is not all of the request.
    #[must_use]
    pub fn waits_for_visitor(&self) -> bool {
        matches!(self.sending, Sending::Body { .. }) && self.connection.unsent.is_empty()
    }

    /// Sends the request and waits for the head of its response.
    ///
    /// # Errors
    /// It does not come.
    pub async fn head(&mut self, method: &Method) -> Result<ResponseHead, ExchangeError> {
        poll_fn(|cx| self.poll_head(method, cx)).await
    }

    fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        loop {
            self.poll_send(cx)?;
            match ready!(self.connection.poll_receive(cx)) {
                Ok(0) if self.connection.received.is_empty() => {
                    return Poll::Ready(Err(ExchangeError::NoAnswer));
                }
                Ok(0) => return Poll::Ready(Err(Malformed.into())),
                Ok(_) => {}
                Err(_) if self.connection.received.is_empty() => {
                    return Poll::Ready(Err(ExchangeError::NoAnswer));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if let Some(head) = take_head(&mut self.connection.received, method)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Sends what can be sent now.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        loop {
            let blocked = self.fill(cx)?;
            if self.connection.unsent.is_empty() {
                return Ok(());
            }
            match self.connection.poll_transmit(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(len)) => {
                    self.bytes_of_piece += len as u64;
                    if self.bytes_of_piece >= PIECE_BYTES || self.is_sent() {
                        (self.bytes_of_piece, self.moved_at) = (0, Instant::now());
                    }
                    if blocked && self.connection.unsent.is_empty() {
                        return Ok(());
                    }
                }
                Poll::Ready(Err(_)) => {
                    self.connection.unsent.clear();
                    self.sending = Sending::Refused;
                }
            }
        }
    }

    /// Puts what the visitor sent into `unsent`, up to a limit. Whether that is all that there is for now.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, ExchangeError> {
        while let Sending::Body { body, chunked, bytes_left } = &mut self.sending {
            let out = &mut self.connection.unsent;
            if out.len() >= SEND_BYTES {
                return Ok(false);
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Err(error))) => return Err(ExchangeError::Visitor(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        let left = bytes_left.checked_sub(data.len() as u64);
                        *bytes_left = left.ok_or(ExchangeError::TooLarge)?;
                        put_data(out, &data, *chunked);
                    }
                }
                Poll::Ready(None) => {
                    if *chunked {
                        out.put_slice(b"0\r\n\r\n");
                    }
                    (self.sending, self.moved_at) = (Sending::Rest, Instant::now());
                }
            }
        }
        Ok(true)
    }

    /// Whether the whole request was sent.
    fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Rest) && self.connection.unsent.is_empty()
    }

    /// The connection, for the protocol that it was upgraded to.
    #[must_use]
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}

impl Connection {
    /// Reads once. Zero bytes: the instance closed the connection.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.received.capacity() - self.received.len() < READ_BYTES / 4 {
            self.received.reserve(READ_BYTES);
        }
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.received)
    }

    /// Writes once.
    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))?;
        self.unsent.advance(len);
        Poll::Ready(Ok(len))
    }
}

fn put_data(out: &mut BytesMut, data: &[u8], chunked: bool) {
    if data.is_empty() {
        return;
    }
    if chunked {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    }
    out.extend_from_slice(data);
    if chunked {
        out.extend_from_slice(b"\r\n");
    }
}

/// The body of a response. When it is dropped its connection goes back to the pool, if it can be used again.
#[derive(Debug)]
pub struct ResponseBody {
    exchange: Option<Exchange>,
    decoder: Decoder,
    keep_alive: bool,
    instance: InstanceId,
    pool: Rc<Pool>,
}

impl ResponseBody {
    /// The body that follows the head that said `decoder` and `keep_alive`.
    #[must_use]
    pub fn new(
        exchange: Exchange,
        decoder: Decoder,
        keep_alive: bool,
        instance: InstanceId,
        pool: Rc<Pool>,
    ) -> Self {
        Self { exchange: Some(exchange), decoder, keep_alive, instance, pool }
    }

    /// Bytes of the body that are left, where that is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Done => SizeHint::with_exact(0),
            Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.decoder == Decoder::Done
    }

    /// When a piece of the request moved on last.
    #[must_use]
    pub fn request_moved_at(&self) -> Option<Instant> {
        self.exchange.as_ref().map(Exchange::moved_at)
    }

    /// The next part of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ExchangeError>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        loop {
            if let Err(error) = exchange.poll_send(cx) {
                return Poll::Ready(Some(Err(error)));
            }
            match self.decoder.decode(&mut exchange.connection.received) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(exchange.connection.poll_receive(cx)) {
                Ok(0) => {
                    if let Err(error) = self.decoder.closed() {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take()
            && self.is_end()
            && self.keep_alive
            && exchange.is_sent()
            && exchange.connection.received.is_empty()
        {
            self.pool.put(self.instance, exchange.connection);
        }
    }
}
