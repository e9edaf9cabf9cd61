//! The replay window: each sequence number is accepted once, and only near the newest one.
//!
//! A number more than [`WIDTH`] behind the newest is refused as too old, one more than [`WIDTH`] ahead as a jump. The
//! jump rule is what keeps an envelope of another connection out: that one counts from another random start.

/// How far behind or ahead of the newest number a number may lie.
pub const WIDTH: u64 = 256;

/// The last [`WIDTH`] sequence numbers, as a bitmap.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The number that a fresh connection expects next, or one past the newest seen.
    next: u64,
    /// Bit `n` of the whole: `next - 1 - n` was seen.
    seen: [u64; (WIDTH / 64) as usize],
    /// The first number of this connection; nothing below it is ever accepted.
    start: u64,
}

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Seen before.
    #[error("sequence number {0} was used before")]
    Replayed(u64),
    /// Below the window or below the start of the connection.
    #[error("sequence number {0} is too old")]
    TooOld(u64),
    /// Too far above the newest.
    #[error("sequence number {0} is too far ahead")]
    TooFarAhead(u64),
}

impl ReplayWindow {
    /// A window that expects `start` first.
    #[must_use]
    pub fn starting_at(start: u64) -> Self {
        Self { next: start, seen: [0; (WIDTH / 64) as usize], start }
    }

    /// Takes `sequence` if it is new.
    ///
    /// # Errors
    /// Why it is not; the window is then unchanged.
    pub fn accept(&mut self, sequence: u64) -> Result<(), SequenceError> {
        if sequence >= self.next {
            let ahead = sequence - self.next;
            if ahead >= WIDTH {
                return Err(SequenceError::TooFarAhead(sequence));
            }
            self.next = sequence.checked_add(1).ok_or(SequenceError::TooFarAhead(sequence))?;
            self.shift(ahead + 1);
            self.mark(0);
            return Ok(());
        }
        let behind = self.next - 1 - sequence;
        if behind >= WIDTH || sequence < self.start {
            return Err(SequenceError::TooOld(sequence));
        }
        if self.is_marked(behind) {
            return Err(SequenceError::Replayed(sequence));
        }
        self.mark(behind);
        Ok(())
    }

    fn mark(&mut self, bit: u64) {
        self.seen[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    fn is_marked(&self, bit: u64) -> bool {
        self.seen[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    /// Moves every mark `by` places (1 to [`WIDTH`]) towards the old end.
    fn shift(&mut self, by: u64) {
        let (words, bits) = ((by / 64) as usize, by % 64);
        for i in (0..self.seen.len()).rev() {
            let high = i.checked_sub(words).map_or(0, |from| self.seen[from] << bits);
            let low = match i.checked_sub(words + 1) {
                Some(from) if bits > 0 => self.seen[from] >> (64 - bits),
                _ => 0,
            };
            self.seen[i] = high | low;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_taken_once() {
        let mut window = ReplayWindow::starting_at(1_000);
        assert_eq!(window.accept(999), Err(SequenceError::TooOld(999)));
        assert_eq!(window.accept(1_000), Ok(()));
        assert_eq!(window.accept(1_000), Err(SequenceError::Replayed(1_000)));
        assert_eq!(window.accept(1_002), Ok(()));
        assert_eq!(window.accept(1_001), Ok(()));
        assert_eq!(window.accept(1_001), Err(SequenceError::Replayed(1_001)));
        assert_eq!(window.accept(1_003 + WIDTH), Err(SequenceError::TooFarAhead(1_003 + WIDTH)));
        assert_eq!(window.accept(1_002 + WIDTH), Ok(()));
        assert_eq!(window.accept(1_002), Err(SequenceError::TooOld(1_002)));
    }
}
