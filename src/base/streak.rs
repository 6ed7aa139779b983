//! How long something has been wrong: degrade slowly, recover quickly, with a streak for each.
//!
//! No clock in here: the caller says how much time each look stands for.
use std::time::Duration;

/// One condition that holds or not, looked at again and again.
///
/// It is *on* after `after` of bad time, and *off* again after `recover` of good time in a row. Good
/// time shorter than that stops the bad streak but does not undo it, so that a fault that flickers
/// is a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streak {
    after: Duration,
    recover: Duration,
    bad: Duration,
    good: Duration,
    was_bad: bool,
    on: bool,
}

impl Streak {
    /// Off, with nothing seen yet.
    pub fn new(after: Duration, recover: Duration) -> Self {
        Self {
            after,
            recover,
            bad: Duration::ZERO,
            good: Duration::ZERO,
            was_bad: false,
            on: false,
        }
    }

    /// Takes one look, `elapsed` after the one before, and returns whether it is on now. Time between
    /// a good look and a bad one counts for neither.
    pub fn step(&mut self, is_bad: bool, elapsed: Duration) -> bool {
        let elapsed = if is_bad == self.was_bad {
            elapsed
        } else {
            Duration::ZERO
        };
        self.was_bad = is_bad;
        if is_bad {
            self.good = Duration::ZERO;
            self.bad = self.bad.saturating_add(elapsed);
            self.on |= self.bad >= self.after;
        } else {
            self.good = self.good.saturating_add(elapsed);
            if self.good >= self.recover {
                self.bad = Duration::ZERO;
                self.on = false;
            }
        }
        self.on
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether a bad streak has begun and is not undone.
    pub fn has_begun(&self) -> bool {
        self.on || self.was_bad || !self.bad.is_zero()
    }

    /// Bad time so far; zero when off and recovered.
    pub fn bad_for(&self) -> Duration {
        self.bad
    }

    /// Bad time that is missing until it is on.
    pub fn left(&self) -> Duration {
        self.after.saturating_sub(self.bad)
    }

    /// The same, with nothing seen yet.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(self.after, self.recover)
    }

    /// Takes up one that was on before a restart.
    pub fn set_on(&mut self) {
        self.on = true;
        self.bad = self.after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn it_degrades_slowly_and_recovers_quickly() {
        let mut streak = Streak::new(10 * S, 2 * S);
        let on: Vec<bool> = (0..12).map(|_| streak.step(true, S)).collect();
        assert_eq!(on.iter().filter(|on| !**on).count(), 10, "{on:?}");
        assert!(streak.step(false, S), "one good look is not enough");
        assert!(streak.step(false, S));
        assert!(!streak.step(false, S));
        assert!(!streak.step(true, S), "and the count begins anew");
        assert_eq!(streak.bad_for(), Duration::ZERO);
    }

    #[test]
    fn a_fault_that_flickers_is_a_fault() {
        let mut streak = Streak::new(10 * S, 3 * S);
        let mut looks = 0;
        while !streak.step(looks % 3 != 0, S) {
            looks += 1;
            assert!(looks < 40);
        }
        assert!(looks > 20, "only the bad time counts: {looks}");
    }
}
