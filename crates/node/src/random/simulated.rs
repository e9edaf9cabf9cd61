//! Random numbers that repeat, for simulations. No program that ships is built with this.
//!
//! Invariant: a thread draws from the operating system unless it was given another source.

use std::cell::RefCell;

/// Fills a buffer.
type Source = Box<dyn FnMut(&mut [u8])>;

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// From now on this thread draws its random numbers from `source`.
pub fn draw_from(source: impl FnMut(&mut [u8]) + 'static) {
    SOURCE.set(Some(Box::new(source)));
}

/// Whether this thread has such a source, which has filled `bytes`.
pub(super) fn fill(bytes: &mut [u8]) -> bool {
    SOURCE.with_borrow_mut(|source| source.as_mut().map(|fill| fill(bytes)).is_some())
}
