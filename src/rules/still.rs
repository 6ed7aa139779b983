//! What stands still for long is a thing: a toy rat on a shelf, a dark plug on a wall.
//!
//! What must not be here: what a finding makes of it.
//!
//! A *spot* is a place where an object of the rule's classes is seen. It remembers for how long, over
//! all tracks that were there: a detector that sees a toy now and then gives it many short tracks.
//! A track that has moved by more than its own size since it was first seen is alive, is never
//! suppressed and leaves nothing at the spots it passes: a rat that runs onto a glue board and stays
//! there is still a rat. What has not moved since it was first seen counts until its spot has
//! been still for the rule's `still_ms`: a trapped rat is told before it can be taken for a toy.
use std::time::Duration;

use crate::base::geometry::NormRect;

/// Two boxes are of one spot if their middles are no farther apart than this share of its width and
/// height: more than a detector's boxes of a still object tremble.
const SAME_SPOT: f32 = 0.5;
/// A track has moved once its middle is farther from where it began than this share of its first
/// width or height.
const MOVED: f32 = 1.0;
/// A spot that shows nothing for so long of watched time is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// Spots remembered per rule and camera; the least still go first.
const MAX_SPOTS: usize = 16;

/// Distance of the middles in widths or heights of `a`, whichever is more.
fn distance(a: &NormRect, b: &NormRect) -> f32 {
    let (from, to) = (a.center(), b.center());
    let share = |d: f32, size: f32| d.abs() / size.max(f32::EPSILON);
    share(from.x - to.x, a.width()).max(share(from.y - to.y, a.height()))
}

/// Whether an object that began at `first` and is at `now` has moved.
pub fn has_moved(first: &NormRect, now: &NormRect) -> bool {
    distance(first, now) > MOVED
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    rect: NormRect,
    still: Duration,
    /// Watched time since something was there.
    unseen: Duration,
}

/// Where one rule saw something that had not moved, on one camera.
#[derive(Clone, Debug, Default)]
pub struct Spots(Vec<Spot>);

impl Spots {
    /// `watched` has passed since the last picture.
    pub fn pass(&mut self, watched: Duration) {
        for spot in &mut self.0 {
            spot.unseen += watched;
        }
        self.0.retain(|s| s.unseen <= FORGET);
    }

    /// Something is at `rect` in this picture, `watched` after the last one; returns how long that
    /// spot has been still.
    pub fn see(&mut self, rect: &NormRect, watched: Duration) -> Duration {
        let near = |s: &&mut Spot| distance(&s.rect, rect) <= SAME_SPOT;
        let by_distance = |a: &&mut Spot, b: &&mut Spot| {
            distance(&a.rect, rect).total_cmp(&distance(&b.rect, rect))
        };
        if let Some(spot) = self.0.iter_mut().filter(near).min_by(by_distance) {
            // Twice in one picture is once; after a gap the gap is not known to have been still.
            if spot.unseen == watched {
                spot.still += watched;
            }
            spot.unseen = Duration::ZERO;
            return spot.still;
        }
        if self.0.len() >= MAX_SPOTS {
            let least = self.0.iter().enumerate();
            let least = least.min_by_key(|(_, s)| (s.still, std::cmp::Reverse(s.unseen)));
            if let Some((at, _)) = least {
                self.0.remove(at);
            }
        }
        self.0.push(Spot {
            rect: *rect,
            still: Duration::ZERO,
            unseen: Duration::ZERO,
        });
        Duration::ZERO
    }

    /// For [`super::RuleEngine::check_invariants`].
    pub fn check_invariants(&self) {
        assert!(self.0.len() <= MAX_SPOTS, "{} spots", self.0.len());
        assert!(self.0.iter().all(|s| s.unseen <= FORGET), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    fn at(x: f32) -> NormRect {
        NormRect::clipped(x, 0.5, x + 0.1, 0.6)
    }

    #[test]
    fn a_spot_grows_while_something_is_there_and_is_forgotten_long_after() {
        let mut spots = Spots::default();
        let mut still = Duration::ZERO;
        for _ in 0..9 {
            spots.pass(STEP);
            still = spots.see(&at(0.5), STEP);
        }
        assert_eq!(still, STEP * 8);
        // A gap does not count, and does not begin anew.
        for _ in 0..100 {
            spots.pass(STEP);
        }
        spots.pass(STEP);
        assert_eq!(spots.see(&at(0.52), STEP), STEP * 8);
        spots.pass(STEP);
        assert_eq!(spots.see(&at(0.48), STEP), STEP * 9);
        for _ in 0..=2400 {
            spots.pass(STEP);
        }
        assert_eq!(spots.see(&at(0.5), STEP), Duration::ZERO);
    }

    #[test]
    fn two_boxes_in_one_picture_do_not_count_twice() {
        let mut spots = Spots::default();
        spots.see(&at(0.5), STEP);
        spots.pass(STEP);
        assert_eq!(spots.see(&at(0.5), STEP), STEP);
        assert_eq!(spots.see(&at(0.51), STEP), STEP);
    }

    #[test]
    fn what_runs_past_does_not_push_out_what_stands_still() {
        let mut spots = Spots::default();
        for _ in 0..40 {
            spots.pass(STEP);
            spots.see(&at(0.0), STEP);
        }
        for n in 0..200_u8 {
            spots.pass(STEP);
            spots.see(
                &NormRect::clipped(0.3, f32::from(n) / 200.0, 0.301, f32::from(n) / 200.0),
                STEP,
            );
            spots.check_invariants();
        }
        assert_eq!(spots.see(&at(0.0), STEP), STEP * 39);
    }

    #[test]
    fn moving_by_more_than_its_size_is_being_alive() {
        assert!(!has_moved(&at(0.5), &at(0.59)));
        assert!(has_moved(&at(0.5), &at(0.61)));
        let empty = NormRect::default();
        assert!(has_moved(&empty, &at(0.5)));
    }
}
