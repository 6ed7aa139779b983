//! Cool-down, re-alerts and restarts.
use super::*;

fn cooling(cooldown_ms: u64) -> RuleEngine {
    let rule = RuleConfig {
        cooldown_ms,
        ..mask_rule()
    };
    RuleEngine::new(vec![rule], SEED)
}

#[test]
fn a_return_within_the_cool_down_reopens_the_same_finding() {
    let mut e = cooling(30_000);
    let mut changes = play(&mut e, 0, 3000, bare);
    changes.extend(play(&mut e, 3000, 20_000, nobody));
    changes.extend(play(&mut e, 20_000, 24_000, bare));
    changes.extend(play(&mut e, 24_000, 40_000, nobody));
    // It dwells anew, from the third picture on.
    assert_eq!(
        story(&changes),
        [
            (Phase::Opened, 2500),
            (Phase::Closed, 12_750),
            (Phase::Reopened, 22_500),
            (Phase::Closed, 33_750)
        ]
    );
    assert!(changes.iter().all(|c| c.finding == changes[0].finding));
    assert!(changes.iter().all(|c| c.first_seen == utc(500)));
    let revisions: Vec<u32> = changes.iter().map(|c| c.revision).collect();
    assert_eq!(revisions, [1, 2, 3, 4]);
    let reopened = &changes[2];
    assert_eq!((reopened.closed_at, reopened.reason), (None, None));
    assert_eq!(reopened.last_seen, utc(22_500));
    // Ten pictures showed it the first time, nine now.
    assert_eq!(reopened.samples, 19);
}

#[test]
fn a_return_after_the_cool_down_is_another_finding() {
    let mut e = cooling(5000);
    let first = play(&mut e, 0, 3000, bare);
    play(&mut e, 3000, 17_750, nobody);
    assert!(e.remembers(first[0].finding) || e.remembered().is_empty());
    let changes = play(&mut e, 17_750, 22_000, bare);
    assert_eq!(story(&changes), [(Phase::Opened, 20_250)]);
    assert_ne!(changes[0].finding, first[0].finding);
    assert_eq!(changes[0].revision, 1);
}

#[test]
fn a_cool_down_that_ends_during_the_dwell_ends() {
    let mut e = cooling(9000);
    let first = play(&mut e, 0, 3000, bare);
    play(&mut e, 3000, 20_000, nobody);
    assert!(e.remembers(first[0].finding), "closed at 12.75 s");
    let changes = play(&mut e, 20_000, 23_000, bare);
    assert_eq!(story(&changes), [(Phase::Opened, 22_500)]);
    assert!(!e.remembers(first[0].finding));
}

#[test]
fn a_cool_down_counts_blind_time_too() {
    let mut e = cooling(30_000);
    play(&mut e, 0, 3000, bare);
    play(&mut e, 3000, 13_000, nobody);
    let changes = play(&mut e, 3_600_000, 3_603_000, bare);
    assert_eq!(story(&changes), [(Phase::Opened, 3_602_500)]);
}

#[test]
fn what_goes_on_is_told_as_news_again() {
    let rule = RuleConfig {
        update_ms: 4000,
        realert_ms: 10_000,
        ..mask_rule()
    };
    let mut e = RuleEngine::new(vec![rule], SEED);
    let changes = play(&mut e, 0, 25_000, bare);
    let told: Vec<_> = changes
        .iter()
        .map(|c| (c.stamp.received.0 / 1000, c.realert))
        .collect();
    // The re-alert does not wait for the next update, and updates go on from it.
    assert_eq!(
        told,
        [
            (2500, false),
            (6500, false),
            (10_500, false),
            (12_500, true),
            (16_500, false),
            (20_500, false),
            (22_500, true)
        ]
    );
    // What is not seen is not told again.
    assert_eq!(play(&mut e, 25_000, 34_000, nobody), []);
}

#[test]
fn a_finding_that_reopened_is_news_and_begins_the_interval() {
    let rule = RuleConfig {
        cooldown_ms: 60_000,
        realert_ms: 10_000,
        update_ms: 60_000,
        ..mask_rule()
    };
    let mut e = RuleEngine::new(vec![rule], SEED);
    play(&mut e, 0, 3000, bare);
    play(&mut e, 3000, 20_000, nobody);
    let changes = play(&mut e, 20_000, 33_000, bare);
    assert_eq!(
        story(&changes),
        [(Phase::Reopened, 22_500), (Phase::Updated, 32_500)]
    );
    assert!(changes[1].realert);
}

#[test]
fn a_cool_down_goes_on_over_a_restart_by_the_wall_clock() {
    let mut before = cooling(60_000);
    let first = play(&mut before, 0, 3000, bare);
    play(&mut before, 3000, 13_000, nobody);
    let known = before.remembered();
    assert_eq!(before.open(), []);
    assert_eq!(known[0].closed_at, Some(utc(12_750)));
    // 30 s later it is the same finding, 70 s later it is not.
    for (later_ms, phase) in [(42_000, Phase::Reopened), (82_000, Phase::Opened)] {
        let mut after = cooling(60_000);
        assert_eq!(after.restore(known.clone()), []);
        let changes = play(&mut after, later_ms, later_ms + 3000, bare);
        assert_eq!(story(&changes), [(phase, later_ms + 2500)]);
        assert_eq!(
            changes[0].finding == first[0].finding,
            phase == Phase::Reopened
        );
    }
    // A clock that was set back meanwhile: no longer than a whole cool-down.
    let mut after = cooling(60_000);
    let mut future = known.clone();
    future[0].closed_at = Some(utc(9_000_000));
    assert_eq!(after.restore(future), []);
    play(&mut after, 0, 59_000, nobody);
    assert!(after.remembers(first[0].finding));
    play(&mut after, 59_000, 61_000, nobody);
    assert!(!after.remembers(first[0].finding));
}

#[test]
fn what_has_closed_is_never_handed_back_and_never_in_the_way() {
    let closed = |id: u128, rule: u16| OpenFinding {
        finding: Uuid::from_u128(id),
        revision: 4,
        rule: RuleIx(rule),
        camera: WOK,
        first_seen: utc(0),
        last_seen: utc(9),
        samples: 3,
        closed_at: Some(utc(10)),
    };
    let open = OpenFinding {
        closed_at: None,
        ..closed(2, 0)
    };
    let mut e = cooling(60_000);
    // The rule is gone; an open one comes after a closed one; another closed one after that.
    let all = vec![closed(9, 5), closed(1, 0), open.clone(), closed(3, 0)];
    assert_eq!(e.restore(all), []);
    assert_eq!(e.remembered(), [open]);
    // Of several closed ones the first counts; without a cool-down none does.
    let mut e = cooling(60_000);
    assert_eq!(e.restore(vec![closed(1, 0), closed(3, 0)]), []);
    assert_eq!(e.remembered(), [closed(1, 0)]);
    let mut e = cooling(0);
    assert_eq!(e.restore(vec![closed(1, 0)]), []);
    assert_eq!(e.remembered(), []);
}
