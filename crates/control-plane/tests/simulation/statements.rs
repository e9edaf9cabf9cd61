//! The steps of the control plane: after how many statements of SQL something strikes.
//!
//! sqlx tells `tracing` of each statement that has ended, before whoever waits for it goes on. So a control plane can be
//! killed between any two statements, or its database be cut off there, at the same place each time.

use std::{cell::RefCell, panic::resume_unwind};

use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

/// What unwinds a step of a control plane that was killed.
pub(crate) struct Killed;

type Strike = Box<dyn FnOnce()>;

#[derive(Default)]
struct Armed {
    after: u64,
    strike: Option<Strike>,
    ended: u64,
}

thread_local! {
    static ARMED: RefCell<Armed> = RefCell::default();
}

/// Lets something happen on this thread once so many statements more have ended.
pub(crate) fn arm(after: u64, strike: impl FnOnce() + 'static) {
    ARMED.with_borrow_mut(|armed| {
        armed.after = after;
        armed.strike = Some(Box::new(strike));
    });
}

/// The end of the control plane after so many statements.
pub(crate) fn arm_kill(after: u64) {
    arm(after, || resume_unwind(Box::new(Killed)));
}

/// Counts from now on, with nothing that is to strike.
pub(crate) fn begin() {
    ARMED.set(Armed::default());
}

/// What was to strike does not.
pub(crate) fn disarm() {
    ARMED.with_borrow_mut(|armed| armed.strike = None);
}

/// How many statements have ended on this thread.
pub(crate) fn ended() -> u64 {
    ARMED.with_borrow(|armed| armed.ended)
}

fn count() {
    let strike = ARMED.with_borrow_mut(|armed| {
        armed.ended += 1;
        armed.after = armed.after.saturating_sub(1);
        if armed.after == 0 { armed.strike.take() } else { None }
    });
    if let Some(strike) = strike {
        strike();
    }
}

/// Counts statements; of all other things it shows what is asked for.
struct Counter {
    show: bool,
}

/// Begins to count, in the whole process. With `show`, prints what programs log.
pub(crate) fn watch(show: bool) {
    // The first test of the process has done so for all.
    let _ = tracing::subscriber::set_global_default(Counter { show });
}

fn is_statement(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "sqlx::query"
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_statement(metadata) || self.show && metadata.target().starts_with("wisehosting")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if is_statement(event.metadata()) {
            count();
        } else {
            let mut text = String::new();
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                text += &format!(" {}={value:?}", field.name());
            });
            println!("            {}{text}", event.metadata().level());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
