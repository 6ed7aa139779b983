//! When each picture of a clip is decoded and shown, from the times it is shown at alone.
//!
//! Cameras tell presentation times; a file also needs decoding times, which must rise and never be
//! later than presentation. Pure.
use crate::base::time::Pts90k;

/// Pictures are never put off by more than this; a larger step back is a clock that jumped.
const MOST_REORDER_90K: i64 = 2 * 90_000;
/// Nor is a gap in a clip longer than this; a larger step ahead is one too.
const MOST_GAP_90K: i64 = 60 * 90_000;
/// Between pictures whose times cannot be used.
const STEP_90K: i64 = 3600;

/// A picture's times in 90 kHz. The first picture shown is shown at 0; decoding may begin before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipTime {
    /// Rises strictly.
    pub dts: i64,
    /// Not before `dts`.
    pub pts: i64,
}

/// Times for units in the order they are decoded.
///
/// The n-th picture to be decoded is decoded when the n-th picture is shown, less the longest delay
/// that makes needed: the usual way to lay out B-frames.
pub fn clip_times(shown: &[Pts90k]) -> Vec<ClipTime> {
    let mut pts = forward(shown);
    let mut sorted = pts.clone();
    sorted.sort_unstable();
    let Some(&first) = sorted.first() else {
        return Vec::new();
    };
    for t in pts.iter_mut().chain(&mut sorted) {
        *t -= first;
    }
    let late = |(shown, nth): (&i64, &i64)| nth - shown;
    let delay = pts.iter().zip(&sorted).map(late).max().unwrap_or(0).max(0);
    let mut last = i64::MIN;
    let time = |(&pts, &nth): (&i64, &i64)| {
        let dts = (nth - delay).max(last.saturating_add(1));
        last = dts;
        ClipTime {
            dts,
            pts: pts.max(dts),
        }
    };
    pts.iter().zip(&sorted).map(time).collect()
}

/// Without jumps: a step back, or ahead, that no reordering makes becomes a plain step.
fn forward(shown: &[Pts90k]) -> Vec<i64> {
    let mut shift = 0i64;
    let mut newest: Option<i64> = None;
    let mut out = Vec::with_capacity(shown.len());
    for t in shown {
        let mut at = t.0.saturating_add(shift);
        if let Some(newest) = newest {
            let step = at.saturating_sub(newest);
            if !(-MOST_REORDER_90K..=MOST_GAP_90K).contains(&step) {
                shift = shift.saturating_add(newest.saturating_add(STEP_90K).saturating_sub(at));
                at = newest.saturating_add(STEP_90K);
            }
        }
        newest = Some(newest.map_or(at, |n| n.max(at)));
        out.push(at);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(shown: &[i64]) -> Vec<(i64, i64)> {
        let shown: Vec<Pts90k> = shown.iter().map(|t| Pts90k(*t)).collect();
        let times = clip_times(&shown);
        times.iter().map(|t| (t.dts, t.pts)).collect()
    }

    #[test]
    fn pictures_in_order_are_decoded_when_they_are_shown() {
        assert_eq!(
            times(&[9000, 12_600, 16_200]),
            [(0, 0), (3600, 3600), (7200, 7200)]
        );
        assert_eq!(times(&[]), []);
    }

    #[test]
    fn b_frames_are_decoded_after_what_they_refer_to() {
        // I0 P3 B1 B2 P6 B4 B5
        assert_eq!(
            times(&[0, 300, 100, 200, 600, 400, 500]),
            [
                (-100, 0),
                (0, 300),
                (100, 100),
                (200, 200),
                (300, 600),
                (400, 400),
                (500, 500)
            ]
        );
    }

    #[test]
    fn equal_times_and_a_clock_that_jumps_still_make_a_clip() {
        assert_eq!(times(&[0, 0, 0]), [(0, 0), (1, 1), (2, 2)]);
        let jumped = times(&[9_000_000, 9_003_600, 0, 3600]);
        assert_eq!(
            jumped,
            [(0, 0), (3600, 3600), (7200, 7200), (10_800, 10_800)]
        );
    }

    proptest! {
        #[test]
        fn decoding_rises_and_is_never_after_showing(
            steps in prop::collection::vec(prop_oneof![-400i64..4000, Just(0), any::<i64>()], 0..100),
        ) {
            let mut t = 0i64;
            let shown: Vec<Pts90k> = steps.iter().map(|s| { t = t.saturating_add(*s); Pts90k(t) }).collect();
            let times = clip_times(&shown);
            prop_assert_eq!(times.len(), shown.len());
            for pair in times.windows(2) {
                prop_assert!(pair[0].dts < pair[1].dts);
            }
            for t in &times {
                prop_assert!(t.pts >= t.dts && t.pts >= 0);
            }
        }
    }
}
