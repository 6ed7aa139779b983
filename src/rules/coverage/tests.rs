use proptest::prelude::*;

use super::*;

/// 2026-11-24T03:00:00Z.
const T: i64 = 1_795_489_200_000;
const WATCHED: What = What::Watched;
const OFFLINE: What = What::Blind(Cause::Offline);

/// A site whose clocks are ours.
struct Site {
    ledger: CoverageLedger,
    cameras: Vec<String>,
    mono_us: u64,
    utc_ms: i64,
    /// What the store holds.
    shelf: BTreeMap<String, HourAccount>,
    reports: Vec<HourReport>,
    gaps: Vec<Gap>,
    steps_ms: Vec<i64>,
}

impl Site {
    fn new(cameras: &[&str], utc_ms: i64) -> Self {
        let cameras: Vec<String> = cameras.iter().map(ToString::to_string).collect();
        let (ledger, outcome, _) = CoverageLedger::start(
            cameras.clone(),
            Vec::new(),
            MonoMicros(0),
            UtcMicros(utc_ms * 1000),
        );
        let mut site = Self {
            ledger,
            cameras,
            mono_us: 0,
            utc_ms,
            shelf: BTreeMap::new(),
            reports: Vec::new(),
            gaps: Vec::new(),
            steps_ms: Vec::new(),
        };
        site.take(outcome);
        site
    }

    fn take(&mut self, outcome: Outcome) {
        for (report, account) in outcome.hours {
            self.shelf.insert(account.key(), account);
            self.reports.push(report);
        }
        for key in outcome.forgotten {
            self.shelf.remove(&key);
        }
        self.gaps.extend(outcome.gaps);
        self.steps_ms.extend(outcome.stepped_ms);
        self.ledger.check_invariants();
    }

    fn pass(&mut self, ms: u64, what: What) {
        self.mono_us += ms * 1000;
        self.utc_ms += ms as i64;
        self.call(what);
    }

    fn call(&mut self, what: What) {
        let (at, utc) = (MonoMicros(self.mono_us), UtcMicros(self.utc_ms * 1000));
        let outcome = self.ledger.step(at, utc, |_| what);
        self.take(outcome);
    }

    /// Second by second.
    fn live(&mut self, seconds: u64, what: What) {
        for _ in 0..seconds {
            self.pass(1000, what);
        }
    }

    fn save(&mut self) {
        let account = self.ledger.checkpoint();
        self.shelf.insert(account.key(), account);
    }

    fn restart(&mut self, away_ms: i64) {
        self.utc_ms += away_ms;
        self.mono_us = 77;
        // As JSON, as the store keeps it.
        let saved = self.shelf.values().map(|a| {
            let text = serde_json::to_string(a).unwrap();
            serde_json::from_str(&text).unwrap()
        });
        let (ledger, outcome, damaged) = CoverageLedger::start(
            self.cameras.clone(),
            saved.collect(),
            MonoMicros(self.mono_us),
            UtcMicros(self.utc_ms * 1000),
        );
        assert_eq!(damaged, 0);
        self.ledger = ledger;
        self.take(outcome);
    }

    fn check(&self) {
        let mut revisions: BTreeMap<i64, u32> = BTreeMap::new();
        for report in &self.reports {
            for (camera, totals) in &report.cameras {
                assert_eq!(totals.sum_ms(), u64::from(HOUR_MS), "{camera} {report:?}");
            }
            assert!(self.cameras.iter().all(|c| report.cameras.contains_key(c)));
            let before = revisions.insert(report.hour.0, report.revision);
            assert!(before < Some(report.revision), "{before:?} {report:?}");
        }
        let partial = self.ledger.partial();
        for totals in partial.cameras.values() {
            assert_eq!(totals.sum_ms(), u64::from(partial.covered_ms));
        }
    }
}

fn totals(watched_ms: u64, blind_ms: &[(Cause, u64)]) -> Totals {
    Totals {
        watched_ms,
        blind_ms: blind_ms.iter().copied().collect(),
    }
}

#[test]
fn an_hour_with_an_outage_adds_up_to_3600_seconds() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(600, WATCHED);
    site.live(61, OFFLINE);
    assert_eq!(
        site.ledger.partial().cameras["wok-1"],
        totals(600_000, &[(Cause::Offline, 61_000)])
    );
    site.live(2940, WATCHED);
    let report = &site.reports[0];
    assert_eq!((report.revision, report.is_partial), (1, false));
    assert_eq!(report.hour, UtcMicros(T * 1000));
    assert_eq!(
        report.cameras["wok-1"],
        totals(3_539_000, &[(Cause::Offline, 61_000)])
    );
    assert_eq!(site.ledger.partial().covered_ms, 1000);
    site.check();
}

#[test]
fn a_start_within_an_hour_and_a_restart_are_stopped_time() {
    let mut site = Site::new(&["wok-1"], T + 600_000);
    site.live(60, WATCHED);
    site.save();
    // Lived, but not written down: it does not count.
    site.live(30, WATCHED);
    site.restart(120_000);
    assert_eq!(
        site.ledger.partial().cameras["wok-1"],
        totals(60_000, &[(Cause::Stopped, 600_000 + 150_000)])
    );
    site.save();
    site.restart(3 * HOUR);
    let hours: Vec<_> = site.reports.iter().map(|r| &r.cameras["wok-1"]).collect();
    assert_eq!(hours.len(), 3);
    assert_eq!(hours[1], &totals(0, &[(Cause::Stopped, 3_600_000)]));
    site.check();
}

#[test]
fn a_clock_stepped_forward_a_day_is_named_and_nothing_recorded_is_lost() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(60, WATCHED);
    site.utc_ms += 24 * HOUR;
    site.pass(1000, WATCHED);
    assert_eq!(site.reports.len(), 24);
    assert_eq!(
        site.reports[0].cameras["wok-1"],
        totals(61_000, &[(Cause::ClockStep, 3_539_000)])
    );
    // And back again: the hours of the day are lived again, with a higher revision.
    site.live(60, WATCHED);
    site.utc_ms -= 24 * HOUR;
    site.pass(1000, WATCHED);
    assert_eq!(site.reports.len(), 25);
    site.live(2 * 3600, OFFLINE);
    let again = &site.reports[25];
    assert_eq!((again.hour, again.revision), (UtcMicros(T * 1000), 2));
    // What was lived before the first step is still there.
    assert_eq!(again.cameras["wok-1"].watched_ms, 61_000);
    assert_eq!(site.steps_ms, [24 * HOUR, -24 * HOUR]);
    site.check();
}

#[test]
fn a_clock_stepped_back_a_day_reports_the_running_hour_first() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(60, WATCHED);
    site.utc_ms -= 24 * HOUR;
    site.pass(1000, OFFLINE);
    let report = &site.reports[0];
    assert_eq!(
        report.cameras["wok-1"],
        totals(
            60_000,
            &[(Cause::Offline, 1000), (Cause::ClockStep, 3_539_000)]
        )
    );
    site.live(3600, WATCHED);
    assert_eq!(
        site.reports[1].hour,
        UtcMicros((T - 24 * HOUR) * 1000),
        "it goes on a day earlier"
    );
    site.check();
}

#[test]
fn a_clock_that_went_back_while_the_site_was_stopped_is_a_step_of_so_much_at_least() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(600, WATCHED);
    site.save();
    site.restart(-24 * HOUR);
    assert_eq!(site.steps_ms, [-24 * HOUR]);
    // A second or so may have been corrected at the start.
    site.live(10, WATCHED);
    site.save();
    site.restart(-1500);
    // Forward it is no step: the site was stopped.
    site.restart(48 * HOUR);
    assert_eq!(site.steps_ms, [-24 * HOUR]);
    site.check();
}

#[test]
fn a_step_back_within_the_hour_gives_a_second_revision() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(1200, OFFLINE);
    site.utc_ms -= 600_000;
    site.live(3600, WATCHED);
    assert_eq!(site.reports[0].revision, 1);
    assert_eq!(
        site.reports[0].cameras["wok-1"].blind_ms[&Cause::Offline],
        1_200_000
    );
    assert_eq!(site.reports[1].revision, 2);
    assert_eq!(
        site.reports[1].cameras["wok-1"],
        totals(2_999_000, &[(Cause::Offline, 601_000)])
    );
    site.check();
}

#[test]
fn a_box_that_wakes_up_in_1970_gives_a_gap_and_not_half_a_million_reports() {
    let mut site = Site::new(&["wok-1"], 5000);
    site.live(10, WATCHED);
    site.utc_ms = T;
    site.pass(1000, WATCHED);
    assert_eq!(site.reports.len(), 1);
    assert_eq!(site.gaps.len(), 1);
    assert_eq!(site.gaps[0].cause, Cause::ClockStep);
    assert_eq!(site.gaps[0].until, UtcMicros(T * 1000));
    site.check();
}

#[test]
fn small_corrections_of_the_clock_are_no_steps() {
    let mut site = Site::new(&["wok-1"], T);
    for n in 0..3600 {
        site.utc_ms += [-900, 900][n % 2];
        site.pass(1000, WATCHED);
    }
    site.live(5, WATCHED);
    assert_eq!(site.reports.len(), 1);
    assert!(site.steps_ms.is_empty());
    assert_eq!(site.reports[0].cameras["wok-1"], totals(3_600_000, &[]));
}

#[test]
fn a_process_that_stood_still_did_not_watch() {
    let mut site = Site::new(&["wok-1"], T);
    site.live(10, WATCHED);
    site.pass(45_000, WATCHED);
    assert_eq!(
        site.ledger.partial().cameras["wok-1"],
        totals(10_000, &[(Cause::Stopped, 45_000)])
    );
}

#[test]
fn cameras_that_come_and_go_with_the_config_add_up_too() {
    let mut site = Site::new(&["wok-1", "sink"], T);
    site.live(60, WATCHED);
    site.save();
    site.cameras = vec!["wok-1".to_owned(), "door".to_owned()];
    site.restart(0);
    site.live(3540, WATCHED);
    let report = &site.reports[0];
    assert_eq!(report.cameras["wok-1"].watched_ms, 3_600_000);
    assert_eq!(report.cameras["sink"].watched_ms, 60_000);
    assert_eq!(report.cameras["door"].watched_ms, 3_540_000);
    site.check();
}

#[test]
fn a_damaged_account_is_left_out_and_counted() {
    let text = r#"{"hour":498747,"revision":1,"cameras":{"wok-1":[[5,"watched"],[5,"watched"]]}}"#;
    let account: HourAccount = serde_json::from_str(text).unwrap();
    let (mut ledger, _, damaged) = CoverageLedger::start(
        vec!["wok-1".to_owned()],
        vec![account],
        MonoMicros(0),
        UtcMicros(T * 1000),
    );
    assert_eq!(damaged, 1);
    ledger.step(MonoMicros(1), UtcMicros(T * 1000), |_| WATCHED);
    ledger.check_invariants();
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64, What),
    Step(i64),
    Save,
    Restart(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let what = prop_oneof![
        3 => Just(WATCHED),
        1 => proptest::sample::select(&Cause::ALL[..]).prop_map(What::Blind),
    ];
    let step = prop_oneof![
        3 => -3000_i64..3000,
        1 => -30 * HOUR..30 * HOUR,
        1 => -900 * HOUR..900 * HOUR,
    ];
    prop_oneof![
        8 => (0_u64..20_000, what.clone()).prop_map(|(ms, what)| Event::Pass(ms, what)),
        2 => (0_u64..3 * HOUR as u64, what).prop_map(|(ms, what)| Event::Pass(ms, what)),
        2 => step.clone().prop_map(Event::Step),
        2 => Just(Event::Save),
        1 => step.prop_map(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, in whatever order: each camera's hour is 3,600,000 ms, and its revisions rise.
    #[test]
    fn every_report_adds_up(events in proptest::collection::vec(event(), 1..60)) {
        let mut site = Site::new(&["wok-1", "sink"], T);
        for event in events {
            match event {
                Event::Pass(ms, what) => site.pass(ms, what),
                Event::Step(ms) => {
                    site.utc_ms += ms;
                    site.call(WATCHED);
                }
                Event::Save => site.save(),
                Event::Restart(ms) => {
                    // A stop writes down what there is.
                    site.save();
                    site.restart(ms);
                }
            }
        }
        site.check();
    }

    /// With clocks that go alike, what was lived is what is reported, to the millisecond.
    #[test]
    fn nothing_is_lost_or_made_up(
        lives in proptest::collection::vec((0_u64..30_000, any::<bool>()), 1..400),
        begin in 0..HOUR,
    ) {
        let mut site = Site::new(&["wok-1"], T + begin);
        let mut lived = 0;
        for (ms, is_watched) in lives {
            site.pass(ms, if is_watched { WATCHED } else { OFFLINE });
            lived += if is_watched { ms } else { 0 };
        }
        site.check();
        let reported: u64 = site.reports.iter().map(|r| r.cameras["wok-1"].watched_ms).sum();
        let running = site.ledger.partial().cameras["wok-1"].watched_ms;
        prop_assert_eq!(reported + running, lived);
    }
}
