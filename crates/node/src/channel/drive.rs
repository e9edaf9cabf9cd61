//! Drives a session over a WebSocket, whichever library it is of: reads, writes and waits, and decides nothing.
//!
//! Reading and writing do not wait for each other: each has its half of the WebSocket, and the session is locked for
//! no longer than one look at it.

use crate::{clock::Clock, random};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use std::{
    error::Error,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use wisehosting_protocol::session::{End, Frame, Moment, Received, Session, Speech, Status};

/// A library's WebSocket.
pub trait WebSocket {
    /// Its messages.
    type Message;
    /// Its errors.
    type Error: Error;

    /// What a message that was read is.
    fn received(message: &Self::Message) -> Received<'_>;

    /// The message for a frame.
    fn message(frame: Frame) -> Self::Message;
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Broken<E> {
    /// By the rules of the conversation.
    #[error(transparent)]
    Ended(#[from] End),
    /// The network.
    #[error("the connection failed")]
    Transport(#[source] E),
}

/// A session that is driven: one side's, over a WebSocket `W`.
pub struct Driver<'a, W, Out, In> {
    session: Mutex<Session<Out, In>>,
    clock: &'a dyn Clock,
    began: Instant,
    library: std::marker::PhantomData<fn() -> W>,
}

impl<'a, W: WebSocket, Out: Speech, In: Speech> Driver<'a, W, Out, In> {
    /// Drives the session that `begin` makes.
    pub fn new(clock: &'a dyn Clock, begin: impl FnOnce(Moment) -> Session<Out, In>) -> Self {
        let began = Instant::now();
        let session = begin(Moment { elapsed: Duration::ZERO, unix_ms: clock.now_ms() });
        Self { session: Mutex::new(session), clock, began, library: std::marker::PhantomData }
    }

    /// What the other side says next; first, that it begins.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub async fn next<S>(&self, stream: &mut S) -> Result<In, Broken<W::Error>>
    where
        S: Stream<Item = Result<W::Message, W::Error>> + Unpin,
    {
        self.session().listen(self.now());
        loop {
            let frame = tokio::select! {
                biased;
                frame = stream.next() => frame.transpose().map_err(Broken::Transport)?,
                () = self.until(Session::hear_by) => {
                    self.session().tick(self.now())?;
                    continue;
                }
            };
            let received = frame.as_ref().map_or(Received::Closed(None), W::received);
            if let Some(message) = self.session().receive(received, self.now())? {
                return Ok(message);
            }
        }
    }

    /// Sends a message. One that is too large is not sent.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub async fn send<S>(&self, sink: &mut S, message: &Out) -> Result<(), Broken<W::Error>>
    where
        S: Sink<W::Message, Error = W::Error> + Unpin,
    {
        let frame = self.session().send(message, random::bytes(), self.now());
        match frame {
            Ok(frame) => self.write(sink, frame).await,
            Err(unsent) => {
                let (kind, error) = (message.kind(), &unsent as &dyn Error);
                tracing::error!(kind, error, "a message is not sent");
                Ok(())
            }
        }
    }

    /// Sends what the session itself has to say now.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub async fn flush<S>(&self, sink: &mut S) -> Result<(), Broken<W::Error>>
    where
        S: Sink<W::Message, Error = W::Error> + Unpin,
    {
        loop {
            let frame = self.session().transmit(random::bytes(), self.now());
            match frame {
                Some(frame) => self.write(sink, frame).await?,
                None => return Ok(()),
            }
        }
    }

    /// Waits until the session has something to say.
    pub async fn due(&self) {
        self.until(Session::speak_by).await;
    }

    /// Says why this side closes the connection, if the other one is there to be told.
    pub async fn close<S>(&self, sink: &mut S, status: Status, reason: String)
    where
        S: Sink<W::Message, Error = W::Error> + Unpin,
    {
        self.session().close(status, reason);
        let _ = self.flush(sink).await;
    }

    async fn write<S>(&self, sink: &mut S, frame: Frame) -> Result<(), Broken<W::Error>>
    where
        S: Sink<W::Message, Error = W::Error> + Unpin,
    {
        let mut writing = pin!(sink.send(W::message(frame)));
        loop {
            tokio::select! {
                biased;
                written = &mut writing => {
                    self.session().written(self.now());
                    return written.map_err(Broken::Transport);
                }
                () = self.due() => self.session().tick(self.now())?,
            }
        }
    }

    async fn until(&self, by: impl Fn(&Session<Out, In>) -> Option<Duration>) {
        let by = by(&self.session());
        match by {
            Some(by) => sleep_until(self.began + by).await,
            None => std::future::pending().await,
        }
    }

    fn now(&self) -> Moment {
        Moment { elapsed: self.began.elapsed(), unix_ms: self.clock.now_ms() }
    }

    fn session(&self) -> MutexGuard<'_, Session<Out, In>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
