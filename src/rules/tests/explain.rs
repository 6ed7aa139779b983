//! Why not: each shortfall once.
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::*;

fn state(engine: &RuleEngine) -> RuleState {
    let mut states = engine.explain(WOK);
    assert_eq!(states.len(), 1);
    states.remove(0)
}

/// What the rule lacks after `to_ms` of `tracks`, in words, and its codes.
fn lacks(
    rule: RuleConfig,
    to_ms: u64,
    tracks: impl Fn(u64) -> Vec<Track>,
) -> (Vec<String>, Vec<&'static str>) {
    let mut e = RuleEngine::new(vec![rule], SEED);
    play(&mut e, 0, to_ms, tracks);
    let state = state(&e);
    let words = state.lacks.iter().map(|l| l.text().en);
    (
        words.collect(),
        state.lacks.iter().map(Shortfall::code).collect(),
    )
}

fn one(rule: RuleConfig, to_ms: u64, tracks: impl Fn(u64) -> Vec<Track>) -> (String, &'static str) {
    let (mut words, codes) = lacks(rule, to_ms, tracks);
    assert_eq!(words.len(), 1, "{words:?}");
    (words.remove(0), codes[0])
}

#[test]
fn before_the_first_picture_there_is_nothing_to_explain() {
    assert_eq!(engine().explain(WOK), []);
    assert_eq!(engine().explain(CameraIx(9)), []);
}

#[test]
fn nothing_of_its_labels_is_seen() {
    let (words, code) = one(mask_rule(), 1000, nobody);
    assert_eq!((words.as_str(), code), ("nothing is seen", "nothing-seen"));
    let (words, _) = one(mask_rule(), 1000, |_| vec![face(7, MASKED, 0.9)]);
    assert_eq!(words, "nothing of its labels is seen (1 of others)");
}

#[test]
fn the_tracker_is_not_sure() {
    let rule = || RuleConfig {
        dwell_ms: 0,
        ..mask_rule()
    };
    let tentative = |_| {
        vec![Track {
            state: TrackState::Tentative,
            hits: 1,
            ..face(7, BARE, 0.9)
        }]
    };
    assert_eq!(
        one(rule(), 5000, tentative).0,
        "not seen often enough to count (1 so far)"
    );
    let leaves = |ms: u64| {
        let track = face(7, BARE, 0.9);
        vec![if ms < 1000 { track } else { lost(track) }]
    };
    let mut e = RuleEngine::new(vec![rule()], SEED);
    play(&mut e, 0, 1250, leaves);
    let state = state(&e);
    assert_eq!(state.lacks, [Shortfall::Lost]);
    assert!(matches!(
        state.standing,
        Standing::Open { unseen_ms: 250, .. }
    ));
}

#[test]
fn it_is_outside_the_zone_or_excluded_or_only_just_in_it() {
    let rule = || RuleConfig {
        zone: Some(Zone {
            name: name("wok-line"),
            polygon: rect(0.0, 0.0, 0.6, 1.0),
            exclude: vec![rect(0.3, 0.0, 0.31, 1.0), rect(0.4, 0.0, 0.5, 1.0)],
        }),
        zone_samples: 4,
        dwell_ms: 0,
        ..mask_rule()
    };
    let right = |_| {
        vec![Track {
            rect: NormRect::clipped(0.7, 0.2, 0.8, 0.4),
            ..face(8, BARE, 0.9)
        }]
    };
    assert_eq!(one(rule(), 1000, right).0, "outside the zone");
    assert_eq!(one(rule(), 1000, bare).0, "in excluded area 2");
    let left = |_| {
        vec![Track {
            rect: NormRect::clipped(0.1, 0.2, 0.2, 0.4),
            ..face(8, BARE, 0.9)
        }]
    };
    assert_eq!(one(rule(), 750, left).0, "in the zone for 3 of 4 pictures");
}

#[test]
fn the_scores_are_too_few_or_too_low() {
    let rule = || RuleConfig {
        dwell_ms: 0,
        threshold: 0.55,
        ..mask_rule()
    };
    assert_eq!(one(rule(), 500, bare).0, "2 of 3 pictures");
    let weak = |_| vec![face(7, BARE, 0.41)];
    let (words, code) = one(rule(), 5000, weak);
    assert_eq!(words, "0.41 is below 0.55 (median of 5)");
    assert_eq!(code, "low-score");
    let hits = RuleConfig {
        samples: 3,
        hits: Some(2),
        ..rule()
    };
    let once = |ms: u64| vec![face(7, BARE, if ms == 500 { 0.6 } else { 0.41 })];
    assert_eq!(
        one(hits, 1000, once).0,
        "1 of 2 scores reach 0.55 (window of 3)"
    );
}

#[test]
fn it_has_not_lasted_long_enough() {
    let mut e = engine();
    play(&mut e, 0, 2000, bare);
    let state = state(&e);
    assert_eq!(state.lacks[0].text().en, "has lasted 1.2 s of 2.0 s");
    assert_eq!(state.standing, Standing::Idle);
    let nearest = state.nearest.unwrap();
    assert_eq!((nearest.track, nearest.class), (TrackId(7), BARE));
    assert_eq!((nearest.value, nearest.dwelt_ms), (Some(0.9), 1250));
    assert_eq!(nearest.scores, [0.9; 5]);
}

#[test]
fn this_very_picture_shows_it_as_something_else() {
    let rule = RuleConfig {
        dwell_ms: 0,
        cooldown_ms: 0,
        ..mask_rule()
    };
    let masked_now = |ms: u64| vec![face(7, if ms == 1250 { MASKED } else { BARE }, 0.9)];
    let (words, code) = one(rule, 1500, masked_now);
    assert_eq!(words, "this picture shows it as something else");
    assert_eq!(code, "other-class");
}

#[test]
fn it_has_stood_still_for_long() {
    let rule = RuleConfig {
        still_ms: 60_000,
        dwell_ms: 0,
        ..mask_rule()
    };
    let (words, code) = one(rule, 90_000, bare);
    assert_eq!(
        words,
        "has not moved for 90 s: from 60 s on it is taken for a thing"
    );
    assert_eq!(code, "still");
}

#[test]
fn the_rule_does_not_watch() {
    let mut hours = Schedule::new(TimeZone::UTC);
    hours.add_hours("daily 12:00-20:00").unwrap();
    let rule = RuleConfig {
        when: When::Business(Arc::new(hours)),
        ..mask_rule()
    };
    let (words, code) = one(rule, 1000, bare);
    assert_eq!(
        words,
        "the rule does not watch until 2026-11-18T12:00:00.000Z"
    );
    assert_eq!(code, "off-schedule");
    assert_eq!(
        Shortfall::OffSchedule { until: None }.text().en,
        "the rule does not watch within a year"
    );
}

#[test]
fn a_finding_that_is_open_or_may_reopen_is_named() {
    let mut e = RuleEngine::new(
        vec![RuleConfig {
            cooldown_ms: 30_000,
            ..mask_rule()
        }],
        SEED,
    );
    let finding = play(&mut e, 0, 3000, bare)[0].finding;
    let open = state(&e);
    assert_eq!(open.lacks, []);
    assert_eq!(
        open.standing,
        Standing::Open {
            finding,
            unseen_ms: 0
        }
    );
    play(&mut e, 3000, 13_000, nobody);
    let closed = state(&e);
    assert_eq!(
        closed.standing,
        Standing::CoolingDown {
            finding,
            left_ms: 30_000
        }
    );
    assert_eq!(closed.lacks, [Shortfall::NothingSeen { others: 0 }]);
}

#[test]
fn the_track_that_lacks_least_is_the_nearest() {
    let mut e = engine();
    let three = |ms| {
        let mut tracks = bare(ms);
        tracks.push(face(8, BARE, 0.45));
        tracks.push(face(9, BARE, 0.95));
        tracks
    };
    play(&mut e, 0, 1500, three);
    assert_eq!(state(&e).nearest.unwrap().track, TrackId(9));
    let weak = |_| vec![face(7, BARE, 0.2), face(8, BARE, 0.45), face(9, BARE, 0.3)];
    let mut e = engine();
    play(&mut e, 0, 1500, weak);
    let state = state(&e);
    assert_eq!(state.nearest.unwrap().track, TrackId(8));
    let codes: Vec<_> = state.lacks.iter().map(Shortfall::code).collect();
    assert_eq!(codes, ["low-score", "short-dwell"]);
}
