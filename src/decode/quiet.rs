//! Whether a scene is quiet: for a while no rule counted anything in the pictures that were analysed. Late decode
//! looks at such a scene less often.
//!
//! It comes back from the rules, by way of the board, or in a replay directly. Time is the stamps', so that
//! a clip gives the same answer twice.
use std::time::Duration;

use super::late::LONGEST_GOP;
use crate::base::time::{FrameStamp, MonoMicros};

/// Nothing counted for so long makes a scene quiet: no finding is open, and no track on its way to one.
pub const QUIET_AFTER: Duration = Duration::from_secs(30);

/// How a quiet scene is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuietConfig {
    /// Longest time from one look to the next, if key units come that often; below the time between two of them
    /// each is looked at.
    pub look_every: Duration,
}

impl Default for QuietConfig {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(10),
        }
    }
}

/// What rules counted in the pictures of a camera that were analysed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// Of the newest of them.
    session: u32,
    /// Receipt of the first picture in which nothing counted, after all in which something did.
    since: Option<MonoMicros>,
    /// Receipt of the newest picture.
    newest: MonoMicros,
}

impl Quiet {
    /// A picture was analysed; `anything`: a rule counts something in it, or may soon.
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

    /// Somebody wants to see it: it is not quiet for another [`QUIET_AFTER`].
    pub fn disturb(&mut self) {
        self.since = None;
    }

    /// Whether the scene is quiet when the unit of `stamp` comes. Not if no picture was analysed for longer than one
    /// should have come: then nobody knows.
    pub(super) fn holds(&self, stamp: &FrameStamp, config: QuietConfig) -> bool {
        let is_known = self.session == stamp.session
            && stamp.received.since(self.newest) <= config.look_every + 2 * LONGEST_GOP;
        let lasts = |since| self.newest.since(since) >= QUIET_AFTER;
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
    fn a_scene_is_quiet_once_nothing_counted_for_half_a_minute_and_until_something_does() {
        let (mut quiet, config) = (Quiet::default(), QuietConfig::default());
        let mut quiet = |second, anything| {
            quiet.saw(&at(1, second), anything);
            quiet.holds(&at(1, second + 1), config)
        };
        assert!(!quiet(1, true));
        let first = (2..60).find(|second| quiet(*second, false));
        assert_eq!(first, Some(32));
        assert!(!quiet(61, true));
        assert!(!quiet(62, false));
        assert!((63..100).any(|second| quiet(second, false)));
    }

    #[test]
    fn who_wants_to_see_it_disturbs_it_for_half_a_minute() {
        let (mut quiet, config) = (Quiet::default(), QuietConfig::default());
        (0..40).for_each(|second| quiet.saw(&at(1, second), false));
        quiet.disturb();
        assert!(!quiet.holds(&at(1, 40), config));
        (40..70).for_each(|second| quiet.saw(&at(1, second), false));
        assert!(!quiet.holds(&at(1, 69), config));
        quiet.saw(&at(1, 70), false);
        assert!(quiet.holds(&at(1, 70), config));
    }

    #[test]
    fn it_is_not_when_pictures_are_no_longer_analysed_or_the_camera_was_lost() {
        let (mut quiet, config) = (Quiet::default(), QuietConfig::default());
        assert!(!quiet.holds(&at(0, 100), config), "nothing is known");
        (0..40).for_each(|second| quiet.saw(&at(1, second), false));
        assert!(quiet.holds(&at(1, 54), config));
        assert!(!quiet.holds(&at(1, 55), config));
        assert!(!quiet.holds(&at(2, 41), config));
        quiet.saw(&at(2, 42), false);
        assert!(!quiet.holds(&at(2, 42), config));
    }
}
