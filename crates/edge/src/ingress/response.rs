//! The body that a visitor gets: a page, or what an instance sends.
//!
//! It holds the request's lease on its route table until it is dropped or cut off, so a table is free of requests only when the
//! last byte of the last response is sent. It is cut off by its connection, which may not ask for it any more: a visitor
//! that takes nothing is one of the reasons.

use super::{
    access::Entry,
    connection::{InFlight, Requests},
    thread::Lease,
};
use crate::upstream::exchange::{ExchangeError, ResponseBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

/// A response's body, as HTTP takes it.
pub(super) struct VisitorBody {
    delivery: Rc<Delivery>,
    requests: Rc<Requests>,
    place: usize,
}

/// A response on its way, as its connection looks after it.
pub(super) struct Delivery {
    /// None after it was cut off.
    held: RefCell<Option<Held>>,
    /// How many parts were taken to be sent.
    parts: Cell<u64>,
    /// As many at the last look.
    parts_seen: Cell<u64>,
    /// The last look at which something had moved.
    moved_at: Cell<Option<Instant>>,
    /// Whether the next part must come from the instance first; if not, the visitor must take the one before.
    waits_for_instance: Cell<bool>,
    /// Whom to tell when it is cut off meanwhile.
    waker: RefCell<Option<Waker>>,
}

/// What must live as long as a response.
struct Held {
    content: Content,
    entry: Option<Box<Entry>>,
    _lease: Lease,
    _in_flight: InFlight,
}

/// Where the bytes come from.
pub(super) enum Content {
    /// A page of the edge's own, until it was taken.
    Page(Option<Bytes>),
    /// An instance.
    Instance(ResponseBody),
    /// An instance that speaks when something happens.
    Events(ResponseBody),
    /// An instance, by HTTP/2, with trailers.
    Stream(Incoming),
}

impl VisitorBody {
    pub(super) fn new(content: Content, lease: Lease, in_flight: InFlight) -> Self {
        let requests = in_flight.requests();
        let held = Held { content, entry: None, _lease: lease, _in_flight: in_flight };
        let delivery = Rc::new(Delivery {
            held: RefCell::new(Some(held)),
            parts: Cell::new(0),
            parts_seen: Cell::new(0),
            moved_at: Cell::new(None),
            waits_for_instance: Cell::new(false),
            waker: RefCell::new(None),
        });
        let place = requests.enter(delivery.clone());
        Self { delivery, requests, place }
    }

    /// Has the request logged when this body is sent, cut off or dropped.
    pub(super) fn log(&mut self, entry: Option<Box<Entry>>) {
        if let Some(held) = &mut *self.delivery.held.borrow_mut() {
            held.entry = entry;
        }
    }
}

impl Drop for VisitorBody {
    fn drop(&mut self) {
        self.requests.leave(self.place);
    }
}

impl Delivery {
    /// Looks whether anything has moved, and says whether nothing has for so long. Streams of gRPC have deadlines and keepalives of
    /// their own; events may be rare, but are to be taken.
    pub(super) fn is_stalled(&self, now: Instant, patience: Duration) -> bool {
        let held = self.held.borrow();
        let Some(Held { content, .. }) = &*held else { return false };
        let (may_be_silent, request_moved_at) = match content {
            Content::Page(_) => (false, None),
            Content::Instance(body) => (false, body.request_moved_at()),
            Content::Events(body) => (self.waits_for_instance.get(), body.request_moved_at()),
            Content::Stream(_) => (true, None),
        };
        let parts = self.parts.get();
        let has_moved = self.parts_seen.replace(parts) != parts || self.moved_at.get().is_none();
        if has_moved || may_be_silent {
            self.moved_at.set(Some(now));
        }
        let moved_at = self.moved_at.get().max(request_moved_at);
        moved_at.is_some_and(|at| now.duration_since(at) >= patience)
    }

    /// Lets go of all that it holds. What HTTP gets is no whole response.
    pub(super) fn cut(&self) {
        self.held.take();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn note<T>(&self, polled: &Poll<T>, cx: &Context<'_>) {
        self.waits_for_instance.set(polled.is_pending());
        if polled.is_ready() {
            self.parts.set(self.parts.get() + 1);
            return;
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl Body for VisitorBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let mut held = self.delivery.held.borrow_mut();
        let Some(Held { content, entry, .. }) = &mut *held else {
            return Poll::Ready(Some(Err(ExchangeError::Stalled)));
        };
        let frame = match content {
            Content::Page(page) => Poll::Ready(page.take().map(|page| Ok(Frame::data(page)))),
            Content::Instance(body) | Content::Events(body) => body.poll_data(cx).map_ok(Frame::data),
            Content::Stream(body) => Pin::new(body).poll_frame(cx).map_err(ExchangeError::Stream),
        };
        self.delivery.note(&frame, cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(entry)) = (&frame, entry) {
            entry.count(frame.data_ref().map_or(0, Bytes::len));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.delivery.held.borrow().as_ref().is_some_and(|held| match &held.content {
            Content::Page(page) => page.is_none(),
            Content::Instance(body) | Content::Events(body) => body.is_end(),
            Content::Stream(body) => body.is_end_stream(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.delivery.held.borrow().as_ref().map_or_else(SizeHint::default, |held| match &held.content {
            Content::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Content::Instance(body) | Content::Events(body) => body.size_hint(),
            Content::Stream(body) => body.size_hint(),
        })
    }
}
