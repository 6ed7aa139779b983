//! Hours, zones, hits, off-hours and stillness.
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::*;

/// Business in UTC; the tests begin on a Wednesday at 11:06:40.
fn business(hours: &str) -> Arc<Schedule> {
    let mut schedule = Schedule::new(TimeZone::UTC);
    schedule.add_hours(hours).unwrap();
    Arc::new(schedule)
}

fn with(rule: RuleConfig) -> RuleEngine {
    RuleEngine::new(vec![rule], SEED)
}

/// A milliseconds count at which the wall shows `hh:mm` on the tests' day.
fn at(hour: u64, minute: u64) -> u64 {
    (hour * 3600 + minute * 60) * 1000 - (UTC_START as u64 / 1000) % 86_400_000
}

#[test]
fn outside_its_hours_a_rule_opens_nothing_and_begins_anew_with_them() {
    let mut e = with(RuleConfig {
        when: When::Business(business("daily 12:00-20:00")),
        ..mask_rule()
    });
    let noon = at(12, 0);
    let changes = play(&mut e, noon - 60_000, noon + 4000, bare);
    // As if it had appeared at noon: samples and dwell before it do not count.
    assert_eq!(story(&changes), [(Phase::Opened, noon + 2500)]);
    assert_eq!(changes[0].first_seen, utc(noon + 500));
}

#[test]
fn what_is_open_closes_with_the_hours_and_says_why() {
    let mut e = with(RuleConfig {
        when: When::Business(business("daily 12:00-20:00")),
        ..mask_rule()
    });
    let evening = at(20, 0);
    let changes = play(&mut e, evening - 4000, evening + 60_000, bare);
    let last = changes.last().unwrap();
    assert_eq!(
        story(&changes),
        [(Phase::Opened, evening - 1500), (Phase::Closed, evening)]
    );
    assert_eq!(last.reason, Some(CloseReason::OffSchedule));
    assert_eq!(last.closed_at, Some(utc(evening)));
    assert_eq!(last.last_seen, utc(evening - 250));
}

#[test]
fn off_hours_and_own_hours_are_the_other_side() {
    let noon = at(12, 0);
    let watches = |when: When| {
        let mut e = with(RuleConfig {
            when,
            dwell_ms: 0,
            ..mask_rule()
        });
        let before = !play(&mut e, noon - 10_000, noon, bare).is_empty();
        let mut e2 = e.clone();
        let after = play(&mut e2, noon, noon + 2000, bare);
        (before, after.iter().any(|c| c.phase == Phase::Opened))
    };
    let hours = || business("daily 12:00-20:00");
    assert_eq!(watches(When::Business(hours())), (false, true));
    assert_eq!(watches(When::Hours(hours())), (false, true));
    assert_eq!(watches(When::OffHours(hours())), (true, false));
}

#[test]
fn less_evidence_is_enough_outside_business_hours() {
    let rule = RuleConfig {
        threshold: 0.5,
        dwell_ms: 2000,
        off_hours: Some(OffHours {
            business: When::Business(business("daily 12:00-20:00")),
            factor: 0.5,
        }),
        ..mask_rule()
    };
    assert!((rule.least_threshold() - 0.25).abs() < 1e-6);
    let weak = |_| vec![face(7, BARE, 0.3)];
    let mut e = with(rule.clone());
    let noon = at(12, 0);
    assert_eq!(play(&mut e, noon, noon + 20_000, weak), []);
    let mut e = with(rule);
    let changes = play(&mut e, noon - 20_000, noon - 10_000, weak);
    assert_eq!(changes[0].phase, Phase::Opened);
    assert_eq!(changes[0].stamp, stamp(noon - 20_000 + 500 + 1000));
    let gate = changes[0].gate;
    assert_eq!((gate.dwell_ms, gate.off_hours), (1000, true));
    assert!((gate.threshold - 0.25).abs() < 1e-6);
}

#[test]
fn two_of_three_is_enough_where_the_median_is_not() {
    let rule = RuleConfig {
        samples: 4,
        hits: Some(2),
        dwell_ms: 0,
        ..mask_rule()
    };
    // Seen in every second picture: the lower median of four is 0.
    let blinks = |ms: u64| {
        let seen = (ms / 250).is_multiple_of(2);
        vec![face(7, if seen { BARE } else { MASKED }, 0.9)]
    };
    let median = RuleConfig {
        hits: None,
        ..rule.clone()
    };
    let changes = play(&mut with(rule.clone()), 0, 2000, blinks);
    // With the second hit; the window need not be full.
    assert_eq!(story(&changes), [(Phase::Opened, 500)]);
    assert_eq!(changes[0].scores, [0.9, 0.0, 0.9]);
    assert_eq!(
        story(&play(&mut with(median), 0, 2000, blinks)),
        [(Phase::Opened, 500)]
    );
    // In every third: one hit, or two in four now and then.
    let rarely = |ms: u64| {
        let seen = (ms / 250).is_multiple_of(4);
        vec![face(7, if seen { BARE } else { MASKED }, 0.9)]
    };
    assert_eq!(play(&mut with(rule), 0, 20_000, rarely), []);
}

#[test]
fn a_score_of_zero_is_no_hit() {
    let mut e = with(RuleConfig {
        hits: Some(1),
        threshold: 0.0,
        dwell_ms: 0,
        ..mask_rule()
    });
    assert_eq!(play(&mut e, 0, 5000, |_| vec![face(7, MASKED, 0.9)]), []);
}

fn zoned(zone_samples: u32) -> RuleConfig {
    RuleConfig {
        zone: Some(Zone {
            name: name("wok-line"),
            polygon: rect(0.0, 0.0, 0.6, 1.0),
            exclude: vec![rect(0.0, 0.0, 0.2, 1.0)],
        }),
        zone_samples,
        ..mask_rule()
    }
}

fn face_at(x: f32) -> Vec<Track> {
    vec![Track {
        rect: NormRect::clipped(x - 0.05, 0.2, x + 0.05, 0.4),
        ..face(7, BARE, 0.9)
    }]
}

#[test]
fn what_is_in_an_excluded_area_does_not_count() {
    let mut e = with(zoned(2));
    assert_eq!(play(&mut e, 0, 10_000, |_| face_at(0.1)), []);
    assert_eq!(play(&mut e, 10_000, 20_000, |_| face_at(0.9)), []);
    let changes = play(&mut e, 20_000, 23_000, |_| face_at(0.4));
    assert_eq!(story(&changes), [(Phase::Opened, 22_250)]);
}

#[test]
fn a_zones_edge_neither_opens_by_a_slip_nor_breaks_the_dwell() {
    // Outside, but for one picture in a second.
    let mut e = with(zoned(2));
    let slips = |ms: u64| face_at(if ms.is_multiple_of(1000) { 0.4 } else { 0.7 });
    assert_eq!(play(&mut e, 0, 60_000, slips), []);
    // Inside, but for one picture in a second: as if it had not left at all.
    let mut e = with(zoned(2));
    let leaves = |ms: u64| face_at(if ms.is_multiple_of(1000) { 0.7 } else { 0.4 });
    let changes = play(&mut e, 0, 10_000, leaves);
    // Counts as inside with the second picture in it, at 0.5 s; its window is full enough then.
    assert_eq!(changes[0].stamp, stamp(2500));
    assert_eq!(changes[0].first_seen, utc(500));
    assert_eq!(changes[0].samples, 9);
    // Without inertia the same slips show.
    let mut e = with(RuleConfig {
        dwell_ms: 0,
        ..zoned(1)
    });
    assert!(!play(&mut e, 0, 60_000, slips).is_empty());
}

fn rat_rule() -> RuleConfig {
    RuleConfig {
        samples: 3,
        dwell_ms: 500,
        still_ms: 60_000,
        ..mask_rule()
    }
}

#[test]
fn a_thing_that_never_moves_is_told_once_and_then_taken_for_what_it_is() {
    let mut e = with(rat_rule());
    // A toy: seen always, its box trembling.
    let toy = |ms: u64| {
        face_at(
            0.5 + if (ms / 250).is_multiple_of(2) {
                0.01
            } else {
                0.0
            },
        )
    };
    let changes = play(&mut e, 0, 300_000, toy);
    let opened = changes.iter().filter(|c| c.phase == Phase::Opened).count();
    assert_eq!(opened, 1);
    let closed = changes.last().unwrap();
    assert_eq!(closed.phase, Phase::Closed);
    assert_eq!(closed.reason, Some(CloseReason::Still));
    assert_eq!(closed.stamp, stamp(60_000 + 9750));
    // The detector loses it, and finds it again under another id: still a toy.
    assert_eq!(play(&mut e, 300_000, 330_000, nobody), []);
    let again = |ms| {
        vec![Track {
            id: TrackId(8),
            ..toy(ms).remove(0)
        }]
    };
    assert_eq!(play(&mut e, 330_000, 400_000, again), []);
    // A real one runs past it.
    let runs = |ms: u64| {
        let mut tracks = again(ms);
        tracks.push(Track {
            rect: NormRect::clipped(0.001 * (ms - 400_000) as f32 / 10.0, 0.5, 0.1, 0.6),
            ..face(9, BARE, 0.9)
        });
        tracks
    };
    assert_eq!(play(&mut e, 400_000, 402_000, runs)[0].phase, Phase::Opened);
}

#[test]
fn an_animal_that_was_seen_to_move_counts_however_still_it_lies() {
    let mut e = with(rat_rule());
    let trapped = |ms: u64| face_at(if ms < 1000 { 0.2 } else { 0.5 });
    let changes = play(&mut e, 0, 300_000, trapped);
    assert_eq!(changes[0].phase, Phase::Opened);
    assert!(changes[1..].iter().all(|c| c.phase == Phase::Updated));
    assert_eq!(e.open().len(), 1);
}

#[test]
fn an_animal_that_never_moved_is_told_before_it_can_be_taken_for_a_thing() {
    let mut e = with(rat_rule());
    let changes = play(&mut e, 0, 20_000, |_| face_at(0.5));
    assert_eq!(story(&changes)[0], (Phase::Opened, 1000));
}
