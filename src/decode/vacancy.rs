//! Whether a scene is vacant: for a while nothing was seen in any picture that was analysed. Late decode looks at
//! such a scene less often.
//!
//! It comes back from track and rules, by way of the board, or in a replay directly. Time is the stamps', so that
//! a clip gives the same answer twice.
use std::time::Duration;

use super::late::LONGEST_GOP;
use crate::base::time::{FrameStamp, MonoMicros};

/// Nothing seen for so long makes a scene vacant: by then tracks have ended, findings have closed and windows are
/// empty, but for a rule whose `clear_ms` is longer, which clears more slowly then.
pub const VACANT_AFTER: Duration = Duration::from_secs(30);

/// How a vacant scene is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VacantConfig {
    /// Longest time from one look to the next, if key units come that often; below the time between two of them
    /// each is looked at.
    pub look_every: Duration,
}

impl Default for VacantConfig {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(10),
        }
    }
}

/// What was seen in the pictures of a camera that were analysed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacancy {
    /// Of the newest of them.
    session: u32,
    /// Receipt of the first picture that showed nothing, after all that showed something.
    since: Option<MonoMicros>,
    /// Receipt of the newest picture.
    newest: MonoMicros,
}

impl Vacancy {
    /// A picture was analysed; `anything`: something was seen in it that a rule may count.
    pub fn saw(&mut self, stamp: &FrameStamp, anything: bool) {
        if self.session != stamp.session {
            *self = Self {
                session: stamp.session,
                ..Self::default()
            };
        }
        self.newest = stamp.received;
        if anything {
            self.since = None;
        } else {
            self.since.get_or_insert(stamp.received);
        }
    }

    /// Whether the scene is vacant when the unit of `stamp` comes. Not if no picture was analysed for longer than one
    /// should have come: then nobody knows.
    pub(super) fn holds(&self, stamp: &FrameStamp, config: VacantConfig) -> bool {
        let is_known = self.session == stamp.session
            && stamp.received.since(self.newest) <= config.look_every + 2 * LONGEST_GOP;
        let lasts = |since| self.newest.since(since) >= VACANT_AFTER;
        is_known && self.since.is_some_and(lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(session: u32, seconds: u64) -> FrameStamp {
        FrameStamp {
            session,
            received: MonoMicros(seconds * 1_000_000),
            ..FrameStamp::default()
        }
    }

    #[test]
    fn a_scene_is_vacant_once_nothing_was_seen_for_half_a_minute_and_until_something_is() {
        let (mut vacancy, config) = (Vacancy::default(), VacantConfig::default());
        let mut vacant = |second, anything| {
            vacancy.saw(&at(1, second), anything);
            vacancy.holds(&at(1, second + 1), config)
        };
        assert!(!vacant(1, true));
        let first = (2..60).find(|second| vacant(*second, false));
        assert_eq!(first, Some(32));
        assert!(!vacant(61, true));
        assert!(!vacant(62, false));
    }

    #[test]
    fn it_is_not_when_pictures_are_no_longer_analysed_or_the_camera_was_lost() {
        let (mut vacancy, config) = (Vacancy::default(), VacantConfig::default());
        assert!(!vacancy.holds(&at(0, 100), config), "nothing is known");
        (0..40).for_each(|second| vacancy.saw(&at(1, second), false));
        assert!(vacancy.holds(&at(1, 54), config));
        assert!(!vacancy.holds(&at(1, 55), config));
        assert!(!vacancy.holds(&at(2, 41), config));
        vacancy.saw(&at(2, 42), false);
        assert!(!vacancy.holds(&at(2, 42), config));
    }
}
