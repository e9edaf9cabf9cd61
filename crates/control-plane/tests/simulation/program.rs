//! An agent's program, which runs on a runtime and a clock of its own until it is killed.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use wisehosting_node::{
    channel::{self, ChannelHandle, Event, Waiting},
    clock::Clock,
};
use wisehosting_protocol::{message::AgentMessage, payload::Register};

use crate::clocks::WallClock;

/// Events that wait for the program.
const EVENTS_MAX: usize = 256;

pub(crate) struct Program {
    runtime: Runtime,
    began: Instant,
    began_ms: u64,
    pub(crate) events: mpsc::Sender<Event>,
    /// What it has said and nobody has sent yet.
    pub(crate) waiting: Waiting,
    registration: Registration,
}

/// What a program is given when it starts.
pub(crate) struct Start {
    pub(crate) channel: ChannelHandle,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) clock: LocalClock,
    pub(crate) registration: Registration,
}

/// How a program makes the first message of a connection, once it is ready for one.
#[derive(Clone, Default)]
pub(crate) struct Registration(Arc<Mutex<Option<MakeRegister>>>);

type MakeRegister = Box<dyn Fn() -> Register + Send>;

impl Registration {
    pub(crate) fn is_ready(&self, register: impl Fn() -> Register + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(register));
    }
}

impl Program {
    /// Starts it on a machine with this clock.
    pub(crate) fn start<F>(now_ms: u64, wall: &WallClock, program: impl FnOnce(Start) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (channel, waiting) = channel::queue();
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let registration = Registration::default();
        let began = {
            let _entered = runtime.enter();
            let began = Instant::now();
            let clock = LocalClock { began, began_ms: now_ms, wall: wall.clone() };
            runtime.spawn(program(Start { channel, events, clock, registration: registration.clone() }));
            began
        };
        Self { runtime, began, began_ms: now_ms, events: events_in, waiting, registration }
    }

    /// The first message of a connection, once the program is ready for one.
    pub(crate) fn register(&self) -> Option<Register> {
        self.registration.0.lock().unwrap().as_ref().map(|register| register())
    }

    /// Goes on until this time, or until it says something that can be sent, and when it did.
    pub(crate) fn run_until(&mut self, ms: u64, can_send: bool) -> Option<(u64, AgentMessage)> {
        let (began, began_ms, waiting) = (self.began, self.began_ms, &mut self.waiting);
        let end = began + Duration::from_millis(ms.saturating_sub(began_ms));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                Some(message) = waiting.next(), if can_send => {
                    let passed = u64::try_from(began.elapsed().as_millis()).unwrap();
                    Some((began_ms + passed, message))
                }
                () = sleep_until(end) => None,
            }
        })
    }
}

/// The clock of one machine.
pub(crate) struct LocalClock {
    began: Instant,
    began_ms: u64,
    wall: WallClock,
}

impl Clock for LocalClock {
    fn now(&self) -> OffsetDateTime {
        self.wall.at(self.began_ms) + self.began.elapsed()
    }
}
