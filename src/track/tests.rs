//! The tracker, by short hand-written scenes and by properties.
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::time::{FrameStamp, MonoMicros, UtcMicros};
use crate::detect::{Detection, Detections};

const CAMERA: CameraIx = CameraIx(3);
const PERSON: u16 = 0;
const BARE: u16 = 1;
const MASKED: u16 = 2;
const RODENT: u16 = 3;
/// Bare and masked faces are one group.
const GROUPS: [u16; 4] = [0, 1, 1, 2];

fn tracker() -> Tracker {
    Tracker::new(CAMERA, TrackConfig::default(), GROUPS.into())
}

/// A box of `w` × `h` around (`x`, `y`).
fn at(class: u16, score: f32, x: f32, y: f32, w: f32, h: f32) -> Detection {
    Detection {
        class: ClassId(class),
        score,
        rect: NormRect::clipped(x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0),
        head: None,
    }
}

fn head(class: u16, score: f32, x: f32) -> Detection {
    at(class, score, x, 0.3, 0.06, 0.1)
}

fn picture(ms: u64, items: Vec<Detection>) -> Detections {
    Detections {
        camera: CAMERA,
        stamp: FrameStamp {
            seq: ms,
            received: MonoMicros(ms * 1000),
            received_utc: UtcMicros(1_795_000_000_000_000 + ms as i64 * 1000),
            ..FrameStamp::default()
        },
        items: items.into(),
        inferred: MonoMicros(ms * 1000 + 20_000),
    }
}

/// Feeds pictures of (milliseconds, boxes) and returns what came out.
fn run(tracker: &mut Tracker, pictures: Vec<(u64, Vec<Detection>)>) -> Vec<TrackSet> {
    pictures
        .into_iter()
        .map(|(ms, items)| {
            let set = tracker.update(&picture(ms, items));
            tracker.check_invariants();
            set
        })
        .collect()
}

fn ids(set: &TrackSet) -> Vec<u64> {
    set.tracks.iter().map(|t| t.id.0).collect()
}

/// The id of the track that stands at `x`.
fn id_near(set: &TrackSet, x: f32) -> u64 {
    let off = |t: &&Track| ((t.rect.center().x - x).abs() * 1e6) as u64;
    set.tracks.iter().min_by_key(off).expect("a track").id.0
}

#[test]
fn a_class_may_begin_tracks_at_a_score_of_its_own_but_never_above_the_common_one() {
    let starts = [0.9, 0.9, 0.9, 0.2].into();
    let mut t = tracker().with_starts(starts);
    let rat = at(RODENT, 0.25, 0.2, 0.2, 0.1, 0.1);
    let faint = at(BARE, 0.25, 0.5, 0.5, 0.1, 0.1);
    let sure = at(PERSON, 0.5, 0.8, 0.8, 0.1, 0.1);
    let tracks = t.update(&picture(0, vec![rat, faint, sure])).tracks;
    let classes: Vec<u16> = tracks.iter().map(|t| t.class.0).collect();
    assert_eq!(classes, [PERSON, RODENT]);
}

#[test]
fn an_object_is_tentative_until_it_was_seen_often_enough() {
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(BARE, 0.9, 0.5)]),
            (250, vec![head(BARE, 0.8, 0.51)]),
        ],
    );
    let (a, b) = (&sets[0].tracks[0], &sets[1].tracks[0]);
    assert_eq!((a.state, a.hits), (TrackState::Tentative, 1));
    assert_eq!((b.state, b.hits), (TrackState::Confirmed, 2));
    assert_eq!(a.id, b.id);
    assert_eq!(b.first_seen, MonoMicros(0));
    assert_eq!(b.last_seen, MonoMicros(250_000));
    assert!((b.score - 0.8).abs() < 1e-6);
    assert_eq!(b.rect, head(BARE, 0.8, 0.51).rect);
    assert_eq!(sets[1].camera, CAMERA);
    assert_eq!(sets[1].stamp.seq, 250);
}

#[test]
fn one_hit_is_enough_where_the_config_says_so() {
    let config = TrackConfig {
        confirm_hits: 1,
        ..TrackConfig::default()
    };
    let mut t = Tracker::new(CAMERA, config, GROUPS.into());
    let sets = run(&mut t, vec![(0, vec![head(BARE, 0.9, 0.5)])]);
    assert_eq!(sets[0].tracks[0].state, TrackState::Confirmed);
}

#[test]
fn a_flicker_of_one_picture_ends_with_the_next() {
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(BARE, 0.9, 0.5)]),
            (250, vec![]),
            (500, vec![head(BARE, 0.9, 0.5)]),
        ],
    );
    assert!(sets[1].tracks.is_empty());
    assert_eq!(sets[2].tracks[0].state, TrackState::Tentative);
    assert_eq!(ids(&sets[2]), [1]);
}

#[test]
fn crossing_objects_keep_their_ids() {
    // Two people walk past each other at 4 pictures a second; where they meet, the one behind is
    // not seen for two pictures.
    let mut t = tracker();
    let mut first = None;
    let mut last = None;
    for n in 0..17u64 {
        let right = 0.1 + 0.05 * n as f32;
        let left = 0.9 - 0.05 * n as f32;
        let mut items = vec![at(PERSON, 0.9, right, 0.5, 0.12, 0.6)];
        if (right - left).abs() > 0.06 {
            items.push(at(PERSON, 0.8, left, 0.48, 0.12, 0.56));
        }
        let set = run(&mut t, vec![(n * 250, items)]).remove(0);
        if n == 4 {
            first = Some((id_near(&set, right), id_near(&set, left)));
        }
        if n == 16 {
            last = Some((id_near(&set, right), id_near(&set, left)));
        }
        assert!(set.tracks.len() <= 2, "picture {n}: {set:?}");
    }
    assert_eq!(first, Some((0, 1)));
    assert_eq!(last, first);
}

#[test]
fn an_occluded_object_is_lost_and_comes_back_as_itself() {
    let mut t = tracker();
    let walk = |n: u64| 0.2 + 0.02 * n as f32;
    for n in 0..6 {
        run(&mut t, vec![(n * 250, vec![head(BARE, 0.9, walk(n))])]);
    }
    for n in 6..12 {
        let set = run(&mut t, vec![(n * 250, vec![])]).remove(0);
        assert_eq!(set.tracks[0].state, TrackState::Lost, "picture {n}");
        assert_eq!(set.tracks[0].last_seen, MonoMicros(1_250_000));
        assert_eq!(set.tracks[0].hits, 6);
        assert!(set.tracks[0].rect.center().x > walk(5), "it is predicted");
    }
    let set = run(&mut t, vec![(3000, vec![head(BARE, 0.9, walk(12))])]).remove(0);
    assert_eq!(ids(&set), [0]);
    assert_eq!(set.tracks[0].state, TrackState::Confirmed);
    assert_eq!(set.tracks[0].first_seen, MonoMicros(0));
}

#[test]
fn empty_pictures_age_tracks_until_they_end() {
    let mut t = tracker();
    let seen = vec![head(BARE, 0.9, 0.5)];
    let sets = run(
        &mut t,
        vec![
            (0, seen.clone()),
            (250, seen.clone()),
            (500, vec![]),
            (2750, vec![]),
            (2751, vec![]),
            (3000, seen),
        ],
    );
    assert_eq!(sets[3].tracks.len(), 1, "exactly lost_ms is not longer");
    assert!(sets[4].tracks.is_empty());
    assert_eq!(ids(&sets[5]), [1], "the old id is not used again");
}

#[test]
fn low_detections_never_begin_tracks() {
    let low = |ms| (ms, vec![head(BARE, 0.3, 0.5)]);
    let sets = run(&mut tracker(), vec![low(0), low(250), low(500)]);
    assert!(sets.iter().all(|s| s.tracks.is_empty()));
}

#[test]
fn low_detections_keep_confirmed_tracks_but_confirm_none() {
    let (high, low) = (vec![head(BARE, 0.9, 0.5)], vec![head(BARE, 0.2, 0.5)]);
    let sets = run(
        &mut tracker(),
        vec![(0, high.clone()), (250, high.clone()), (500, low.clone())],
    );
    let kept = &sets[2].tracks[0];
    assert_eq!((kept.state, kept.hits), (TrackState::Confirmed, 3));
    assert!((kept.score - 0.2).abs() < 1e-6);

    let sets = run(&mut tracker(), vec![(0, high), (250, low)]);
    assert!(sets[1].tracks.is_empty());
}

#[test]
fn a_low_detection_nearby_that_does_not_overlap_keeps_nothing() {
    let high = vec![head(BARE, 0.9, 0.5)];
    let sets = run(
        &mut tracker(),
        vec![
            (0, high.clone()),
            (250, high),
            (500, vec![head(BARE, 0.3, 0.58)]),
        ],
    );
    assert_eq!(sets[2].tracks[0].state, TrackState::Lost);
}

#[test]
fn a_high_detection_is_preferred_to_a_low_one() {
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(BARE, 0.9, 0.5)]),
            (250, vec![head(BARE, 0.9, 0.5)]),
            (500, vec![head(BARE, 0.3, 0.5), head(BARE, 0.6, 0.53)]),
        ],
    );
    assert!((sets[2].tracks[0].score - 0.6).abs() < 1e-6);
    assert_eq!(sets[2].tracks.len(), 1);
}

#[test]
fn different_groups_never_merge() {
    use TrackState::{Confirmed, Lost, Tentative};
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(BARE, 0.9, 0.5)]),
            (250, vec![head(BARE, 0.9, 0.5)]),
            (500, vec![head(RODENT, 0.9, 0.5)]),
            (750, vec![head(RODENT, 0.9, 0.5), head(BARE, 0.9, 0.5)]),
        ],
    );
    let of = |n: usize| -> Vec<_> {
        let each = sets[n].tracks.iter();
        each.map(|t| (t.id.0, t.class.0, t.state)).collect()
    };
    assert_eq!(of(2), [(0, BARE, Lost), (1, RODENT, Tentative)]);
    assert_eq!(of(3), [(0, BARE, Confirmed), (1, RODENT, Confirmed)]);
}

#[test]
fn classes_without_a_group_are_each_their_own() {
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(70, 0.9, 0.5)]),
            (250, vec![head(71, 0.9, 0.5)]),
            (500, vec![head(71, 0.9, 0.5)]),
        ],
    );
    assert_eq!(ids(&sets[1]), [1]);
    assert_eq!(sets[2].tracks[0].state, TrackState::Confirmed);
}

#[test]
fn a_change_of_class_within_a_group_keeps_the_id() {
    let sets = run(
        &mut tracker(),
        vec![
            (0, vec![head(MASKED, 0.9, 0.5)]),
            (250, vec![head(MASKED, 0.9, 0.51)]),
            (500, vec![head(BARE, 0.7, 0.52)]),
        ],
    );
    assert_eq!(ids(&sets[2]), [0]);
    assert_eq!(sets[2].tracks[0].class, ClassId(BARE));
}

#[test]
fn one_face_seen_as_two_classes_is_one_track() {
    // Detectors suppress overlaps per class only.
    let both = |ms| (ms, vec![head(MASKED, 0.6, 0.5), head(BARE, 0.5, 0.503)]);
    let sets = run(&mut tracker(), vec![both(0), both(250), both(500)]);
    assert_eq!(ids(&sets[2]), [0]);
    assert_eq!(sets[2].tracks[0].class, ClassId(MASKED));
}

#[test]
fn a_running_rat_whose_boxes_never_overlap_is_one_track() {
    // 4 pictures a second, two and a bit body lengths from one to the next.
    let rat = |n: u64| {
        let x = 0.1 + 0.08 * n as f32;
        (n * 250, vec![at(RODENT, 0.6, x, 0.9, 0.04, 0.03)])
    };
    let sets = run(&mut tracker(), (0..10).map(rat).collect());
    assert!(sets.iter().all(|s| ids(s) == [0]), "{sets:?}");
    assert_eq!(sets[9].tracks[0].hits, 10);
}

#[test]
fn heads_side_by_side_are_not_exchanged_when_one_is_missed() {
    // Three heads a head apart; the middle one is missed. Nearness alone must not shift the rest.
    let row = |xs: &[f32]| xs.iter().map(|&x| head(BARE, 0.9, x)).collect::<Vec<_>>();
    let all = row(&[0.3, 0.42, 0.54]);
    let sets = run(
        &mut tracker(),
        vec![
            (0, all.clone()),
            (250, all.clone()),
            (500, row(&[0.305, 0.535])),
            (750, all),
        ],
    );
    for set in [&sets[1], &sets[3]] {
        let found = [0.3, 0.42, 0.54].map(|x| id_near(set, x));
        assert_eq!(found, [0, 1, 2]);
    }
    assert_eq!(sets[2].tracks[1].state, TrackState::Lost);
}

#[test]
fn an_object_of_another_size_is_not_the_same_for_being_near() {
    let near = |ms| (ms, vec![at(PERSON, 0.9, 0.5, 0.5, 0.2, 0.6)]);
    let sets = run(
        &mut tracker(),
        vec![
            near(0),
            near(250),
            (500, vec![at(PERSON, 0.9, 0.65, 0.5, 0.03, 0.1)]),
        ],
    );
    assert_eq!(ids(&sets[2]), [0, 1]);
}

#[test]
fn pictures_further_apart_than_lost_ms_still_join_what_stands_still() {
    let sets = run(
        &mut tracker(),
        (0..4)
            .map(|n| (n * 10_000, vec![head(BARE, 0.9, 0.5)]))
            .collect(),
    );
    assert_eq!(ids(&sets[3]), [0]);
    assert_eq!(sets[3].tracks[0].state, TrackState::Confirmed);
}

#[test]
fn a_long_blind_period_ends_all_tracks() {
    let seen = vec![head(BARE, 0.9, 0.5)];
    let sets = run(
        &mut tracker(),
        vec![(0, seen.clone()), (250, seen.clone()), (60_000, seen)],
    );
    assert_eq!(ids(&sets[2]), [1]);
}

#[test]
fn repeated_and_backward_stamps_are_taken_as_no_time() {
    let seen = |ms| (ms, vec![head(BARE, 0.9, 0.5)]);
    let sets = run(
        &mut tracker(),
        vec![seen(1000), seen(1000), seen(400), (300, vec![]), seen(1250)],
    );
    assert!(sets.iter().all(|s| ids(s) == [0]));
    assert_eq!(sets[2].tracks[0].last_seen, MonoMicros(1_000_000));
    assert_eq!(sets[2].stamp.received, MonoMicros(400_000), "as it came");
}

#[test]
fn boxes_that_are_no_boxes_are_dropped() {
    let mut nan = head(BARE, 0.9, 0.5);
    nan.rect.x1 = f32::NAN;
    let mut unscored = head(BARE, 0.9, 0.5);
    unscored.score = f32::NAN;
    let flat = at(BARE, 0.9, 0.5, 0.5, 0.0, 0.2);
    let outside = at(BARE, 0.9, 1.5, 0.5, 0.1, 0.2);
    let sets = run(
        &mut tracker(),
        vec![(0, vec![nan, unscored, flat, outside])],
    );
    assert!(sets[0].tracks.is_empty());
}

/// Any number a broken model may give, but mostly plausible ones.
fn fraction() -> impl Strategy<Value = f32> {
    prop_oneof![8 => 0f32..1.0, 1 => any::<f32>(), 1 => -0.2f32..1.2]
}

fn any_detection() -> impl Strategy<Value = Detection> {
    let corners = (fraction(), fraction(), fraction(), fraction());
    (0u16..6, fraction(), corners).prop_map(|(class, score, (x0, y0, x1, y1))| Detection {
        class: ClassId(class),
        score,
        rect: NormRect { x0, y0, x1, y1 },
        head: None,
    })
}

/// A few slowly moving heads, so that there is something to match.
fn any_head() -> impl Strategy<Value = Detection> {
    (0u16..4, 0f32..1.0, 0u8..6, -0.02f32..0.02)
        .prop_map(|(class, score, slot, off)| head(class, score, 0.1 + 0.15 * slot as f32 + off))
}

fn any_pictures() -> impl Strategy<Value = Vec<(u64, Vec<Detection>)>> {
    let step = prop_oneof![6 => 50u64..1000, 1 => Just(0), 1 => 1000u64..20_000];
    let box_ = prop_oneof![3 => any_head(), 1 => any_detection()];
    let items = prop::collection::vec(box_, 0..7);
    let back = prop::bool::weighted(0.05);
    prop::collection::vec((step, items, back), 0..40).prop_map(|pictures| {
        let mut ms = 1_000_000u64;
        let each = pictures.into_iter().map(|(step, items, back)| {
            ms = if back { ms - step } else { ms + step };
            (ms, items)
        });
        each.collect()
    })
}

proptest! {
    #[test]
    fn whatever_comes_in_the_tracks_stay_sound(
        pictures in any_pictures(),
        confirm_hits in 0u32..4,
    ) {
        let config = TrackConfig { confirm_hits, ..TrackConfig::default() };
        let mut tracker = Tracker::new(CAMERA, config, GROUPS.into());
        let mut again = tracker.clone();
        let (mut detections, mut ended) = (0u64, HashSet::<TrackId>::new());
        let mut before: Vec<TrackId> = Vec::new();
        for (ms, items) in pictures {
            detections += items.len() as u64;
            let boxes = items.len();
            let input = picture(ms, items);
            let set = tracker.update(&input);
            tracker.check_invariants();
            // Compared as text, so that a not-a-number would show too.
            let text = format!("{set:?}");
            prop_assert_eq!(format!("{:?}", again.update(&input)), text.clone());
            prop_assert!(!text.contains("NaN"), "{}", text);
            prop_assert_eq!(set.stamp, input.stamp);

            let now: Vec<TrackId> = set.tracks.iter().map(|t| t.id).collect();
            prop_assert!(now.windows(2).all(|w| w[0] < w[1]));
            // Never more tracks than detections ever seen, nor more hits than boxes.
            prop_assert!(now.iter().all(|id| id.0 < detections));
            let shown = set.tracks.iter().filter(|t| t.state != TrackState::Lost).count();
            prop_assert!(shown <= boxes);
            // Ids are never reused.
            ended.extend(before.iter().filter(|&id| !now.contains(id)));
            prop_assert!(now.iter().all(|id| !ended.contains(id)));
            before = now;
        }
    }
}
