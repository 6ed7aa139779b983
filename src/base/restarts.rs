//! How often a part of the pipeline may be begun anew before it is given a rest.
//!
//! A part that breaks every few seconds would only burn the cores that the others need.
use std::collections::VecDeque;
use std::time::Duration;

use super::time::MonoMicros;

/// Failures within [`WINDOW`] that ask for a rest.
pub const LIMIT: usize = 5;
/// See [`LIMIT`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// How long a rest is.
pub const REST: Duration = Duration::from_secs(300);

/// The newest failures of one part.
#[derive(Debug, Default)]
pub struct Restarts(VecDeque<MonoMicros>);

impl Restarts {
    /// Takes note of a failure. Whether it was one too many: then the part should rest, and the count
    /// begins anew.
    pub fn too_many(&mut self, now: MonoMicros) -> bool {
        self.0.push_back(now);
        self.0.retain(|t| now.since(*t) <= WINDOW);
        let too_many = self.0.len() >= LIMIT;
        if too_many {
            self.0.clear();
        }
        too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_within_a_minute_are_too_many_and_five_in_five_are_not() {
        let at = |s: u64| MonoMicros(s * 1_000_000);
        let mut seldom = Restarts::default();
        assert!((0..50).all(|n| !seldom.too_many(at(n * 16))));
        let mut often = Restarts::default();
        let asked: Vec<bool> = (0..10).map(|n| often.too_many(at(n * 10))).collect();
        assert_eq!(asked.iter().filter(|rest| **rest).count(), 2);
        assert!(asked[4] && asked[9]);
    }
}
