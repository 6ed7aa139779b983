//! Exponential back-off with jitter.
//!
//! Jitter matters at a county's scale: 1,600 boxes that lost the same broker must not come back in
//! the same second.
use std::time::Duration;

/// Doubles from `first` to `max`; each wait is drawn evenly from half to all of the step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits begin at `first` and never pass `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempt: 0,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let step = self
            .first
            .saturating_mul(1 << self.attempt.min(20))
            .min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        step.mul_f64(0.5 + fastrand::f64() * 0.5)
    }

    /// How many waits have been asked for since the last success.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// After a success: the next wait is short again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_reset_on_success() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut b = Backoff::new(first, max);
        for n in 0..40 {
            let step = first.saturating_mul(1 << n.min(6)).min(max);
            let wait = b.next_wait();
            assert!(wait >= step / 2 && wait <= step, "{n}: {wait:?}");
        }
        b.reset();
        assert!(b.next_wait() <= first);
    }
}
