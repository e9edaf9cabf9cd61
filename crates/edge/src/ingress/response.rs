//! The body that a visitor gets: a page, or what an instance sends.
//!
//! It holds the request's lease on its route table until it is dropped, so a table is free of requests only when the
//! last byte of the last response is sent.

use super::{access::Entry, connection::InFlight, thread::Lease};
use crate::upstream::exchange::{ExchangeError, ResponseBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A response's body, and what must live as long as it.
pub(super) struct VisitorBody {
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
    /// An instance, by HTTP/2, with trailers.
    Stream(Incoming),
}

impl VisitorBody {
    pub(super) fn new(content: Content, lease: Lease, in_flight: InFlight) -> Self {
        Self { content, entry: None, _lease: lease, _in_flight: in_flight }
    }

    /// Has the request logged when this body is sent or dropped.
    pub(super) fn log(&mut self, entry: Option<Box<Entry>>) {
        self.entry = entry;
    }
}

impl Body for VisitorBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let frame = match &mut self.content {
            Content::Page(page) => page.take().map(|page| Ok(Frame::data(page))),
            Content::Instance(body) => ready!(body.poll_data(cx)).map(|data| data.map(Frame::data)),
            Content::Stream(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(ExchangeError::Stream))
            }
        };
        if let (Some(Ok(frame)), Some(entry)) = (&frame, &mut self.entry) {
            entry.count(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(page) => page.is_none(),
            Content::Instance(body) => body.is_end(),
            Content::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Content::Instance(body) => body.size_hint(),
            Content::Stream(body) => body.size_hint(),
        }
    }
}
