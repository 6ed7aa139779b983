//! The coverage ledger of a running site: what each camera's time is, kept on the `Coverage` shelf and
//! reported hour by hour. Driven by [`super::oversight`]; no thread of its own.
//!
//! # When a camera is watched
//!
//! If its pictures show something and one of them was analysed within [`WATCHED_FOR`], or within two
//! of its own intervals if those are longer. Pictures that the motion gate leaves out need no account
//! of their own: of a still scene one is analysed at least every `motion_refresh_ms`. While only key units are
//! decoded, and in a quiet scene not all of those, a picture says itself when the next one comes: it holds for
//! [`WATCHED_FOR`] more than that, unless another one was handed on meanwhile, or failed. The sizes of all units are compared meanwhile, so that what moves is seen.
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::clock_steps::{ClockSteps, while_stopped};
use super::oversight::CameraTerms;
use crate::base::digest::sha256_hex;
use crate::base::ids::CameraIx;
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::{MonoMicros, UtcMicros};
use crate::base::words;
use crate::evidence::EvidenceIndex;
use crate::rules::{Cause, CoverageLedger, Gap, HourAccount, HourReport, Outcome, What};
use crate::uplink::{
    CameraCoverage, CameraState, Change, CoverageReport, EvidenceHead, Notice, RecordBody, Shelf,
    StoreError, StoreHandle,
};

/// Since its newest analysed picture a camera counts as watched for so long.
pub const WATCHED_FOR: Duration = Duration::from_secs(5);
/// The running hour is written down so often: what a power cut costs.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// Changes that wait for a disk that refuses: two months of hours. The oldest go first, and are
/// counted.
const WAITING: usize = 2000;

/// What is known of one camera's pictures.
#[derive(Debug)]
struct Camera {
    slot: CameraIx,
    watched_for: Duration,
    analysed: Option<MonoMicros>,
    /// From that picture to the next, if nothing moves.
    next_within: Duration,
    /// Pictures that moved or were due, handed on for analysis; and how many when that picture was analysed.
    sampled: Counter,
    still: Counter,
    handed_on: u64,
    errors: Counter,
    errors_seen: u64,
    /// When an inference of it failed last.
    failed: Option<MonoMicros>,
    /// Since when it has been online without a picture analysed.
    online: Option<MonoMicros>,
}

/// The account of a running site.
#[derive(Debug)]
pub struct Coverage {
    ledger: CoverageLedger,
    cameras: Vec<Camera>,
    steps: ClockSteps,
    waiting: VecDeque<Vec<Change>>,
    lost: Counter,
    reports: Counter,
    saved: MonoMicros,
    /// None where no evidence is kept.
    evidence: Option<EvidenceIndex>,
    so_far: watch::Sender<CoverageReport>,
}

impl Coverage {
    /// Goes on from what the store kept.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub fn start(
        cameras: &[CameraTerms],
        store: &StoreHandle,
        metrics: &Metrics,
        evidence: Option<EvidenceIndex>,
        at: MonoMicros,
        utc: UtcMicros,
    ) -> Result<Self, StoreError> {
        let saved = store.shelf(Shelf::Coverage)?;
        let count = saved.len();
        let saved: Vec<HourAccount> = saved
            .iter()
            .filter_map(|(_, text)| serde_json::from_str(text).ok())
            .collect();
        let unreadable = count - saved.len();
        let ids = cameras.iter().map(|c| c.id.to_string()).collect();
        let (ledger, outcome, damaged) = CoverageLedger::start(ids, saved, at, utc);
        if unreadable + damaged > 0 {
            tracing::error!(
                hours = unreadable + damaged,
                "coverage of some hours cannot be read and is left out: the disk may be failing"
            );
        }
        let mut coverage = Self {
            cameras: cameras.iter().map(|c| Camera::new(c, metrics)).collect(),
            so_far: watch::Sender::new(report_of(&ledger.partial(), evidence.as_ref())),
            evidence,
            ledger,
            steps: ClockSteps::default(),
            waiting: VecDeque::new(),
            lost: metrics.counter(Metric::CoverageLost, &[]),
            reports: metrics.counter(Metric::CoverageReports, &[]),
            saved: at,
        };
        if let Some(by_ms) = outcome.stepped_ms {
            tracing::warn!(
                by_ms,
                "the system clock is behind what was written down last"
            );
            coverage.wait(vec![while_stopped(by_ms, utc)]);
        }
        coverage.take(outcome);
        coverage.save(at);
        coverage.write(store);
        Ok(coverage)
    }

    /// The running hour so far, for whoever asks: at most a second old.
    pub fn so_far(&self) -> watch::Receiver<CoverageReport> {
        self.so_far.subscribe()
    }

    /// From here on these are the cameras.
    pub fn retune(&mut self, cameras: &[CameraTerms], metrics: &Metrics) {
        let ids = cameras.iter().map(|c| c.id.to_string()).collect();
        self.ledger.retune(ids);
        let mut before = std::mem::take(&mut self.cameras);
        for terms in cameras {
            let known = before.iter().position(|c| c.slot == terms.slot);
            let camera = known.map(|at| Camera {
                watched_for: terms.watched_for,
                ..before.swap_remove(at)
            });
            let camera = camera.unwrap_or_else(|| Camera::new(terms, metrics));
            self.cameras.push(camera);
        }
    }

    /// A picture of the camera was analysed, and the next one comes within `next_within`.
    pub fn analysed(&mut self, camera: CameraIx, at: MonoMicros, next_within: Duration) {
        if let Some(camera) = self.cameras.iter_mut().find(|c| c.slot == camera) {
            camera.analysed = Some(at);
            camera.next_within = next_within;
            camera.handed_on = camera.handed_on();
        }
    }

    /// Time has passed; `state` says what a camera does, and whether its fault is none at this hour.
    pub fn step(
        &mut self,
        state: impl Fn(CameraIx) -> (CameraState, bool),
        store: &StoreHandle,
        at: MonoMicros,
        utc: UtcMicros,
    ) {
        let what: Vec<What> = self
            .cameras
            .iter_mut()
            .map(|camera| {
                let (state, is_off_schedule) = state(camera.slot);
                match camera.what(state, at) {
                    What::Blind(_) if is_off_schedule => What::Blind(Cause::OffSchedule),
                    what => what,
                }
            })
            .collect();
        let outcome = self.ledger.step(at, utc, |i| what[i]);
        if let Some(by_ms) = outcome.stepped_ms {
            tracing::warn!(
                by_ms,
                "the system clock was stepped: coverage of the hours between says so"
            );
        }
        if let Some(notice) = self.steps.look(outcome.stepped_ms, at, utc) {
            self.wait(vec![notice]);
        }
        let has_ended = !outcome.hours.is_empty();
        self.take(outcome);
        let so_far = report_of(&self.ledger.partial(), self.evidence.as_ref());
        self.so_far.send_replace(so_far);
        if has_ended || at.since(self.saved) >= CHECKPOINT_EVERY {
            self.save(at);
        }
        self.write(store);
    }

    /// Writes the running hour down: the site stops.
    pub fn stop(&mut self, store: &StoreHandle, at: MonoMicros) {
        if let Some(notice) = self.steps.rest() {
            self.wait(vec![notice]);
        }
        self.save(at);
        self.write(store);
        if !self.waiting.is_empty() {
            tracing::error!(
                changes = self.waiting.len(),
                "stopped before the disk took the coverage: that time will count as stopped"
            );
        }
    }

    fn take(&mut self, outcome: Outcome) {
        for (report, account) in outcome.hours {
            self.reports.add(1);
            let report = report_of(&report, self.evidence.as_ref());
            let record = RecordBody::Coverage(Box::new(report));
            self.wait(vec![Change::Record(record), put(&account)]);
        }
        for key in outcome.forgotten {
            self.wait(vec![Change::Delete {
                shelf: Shelf::Coverage,
                key,
            }]);
        }
        for gap in outcome.gaps {
            tracing::warn!(from = %gap.from, until = %gap.until, cause = gap.cause.word(), "hours without a coverage report of their own");
            let notice = RecordBody::Notice(Box::new(gap_notice(&gap)));
            self.wait(vec![Change::Record(notice)]);
        }
    }

    fn save(&mut self, at: MonoMicros) {
        self.saved = at;
        let account = put(&self.ledger.checkpoint());
        self.wait(vec![account]);
    }

    fn wait(&mut self, changes: Vec<Change>) {
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
            self.lost.add(1);
        }
        self.waiting.push_back(changes);
    }

    /// Commits what waits, in order, until the disk refuses; then later.
    fn write(&mut self, store: &StoreHandle) {
        while let Some(changes) = self.waiting.front() {
            match store.commit(changes.clone()) {
                Ok(_) => {}
                Err(e) if e.is_temporary() => {
                    tracing::error!(err = %e.chain(), waiting = self.waiting.len(), "coverage not stored yet: trying again");
                    return;
                }
                Err(e) => {
                    self.lost.add(1);
                    tracing::error!(err = %e.chain(), "coverage not stored");
                }
            }
            self.waiting.pop_front();
        }
    }
}

impl Camera {
    fn new(terms: &CameraTerms, metrics: &Metrics) -> Self {
        let counter = |metric| metrics.counter(metric, &[("camera", terms.id.as_str())]);
        let errors = counter(Metric::DetectErrors);
        Self {
            slot: terms.slot,
            watched_for: terms.watched_for,
            analysed: None,
            next_within: Duration::ZERO,
            sampled: counter(Metric::FramesSampled),
            still: counter(Metric::FramesStill),
            handed_on: 0,
            errors_seen: errors.value(),
            errors,
            failed: None,
            online: None,
        }
    }

    fn handed_on(&self) -> u64 {
        self.sampled.value().saturating_sub(self.still.value())
    }

    fn what(&mut self, state: CameraState, at: MonoMicros) -> What {
        let errors = self.errors.value();
        if std::mem::replace(&mut self.errors_seen, errors) != errors {
            self.failed = Some(at);
        }
        let cause = match state {
            CameraState::Online | CameraState::ClockSkew => {
                let since = *self.online.get_or_insert(at);
                let within = |t: MonoMicros| at.since(t) <= self.watched_for;
                // Another picture has come since, or failed: what the last one said of the next is past.
                let is_past = self.handed_on() > self.handed_on || self.failed > self.analysed;
                let next_within = if is_past {
                    Duration::ZERO
                } else {
                    self.next_within
                };
                let holds = self.watched_for.max(next_within + WATCHED_FOR);
                if self.analysed.is_some_and(|t| at.since(t) <= holds) {
                    return What::Watched;
                }
                if self.failed.is_some_and(within) {
                    return What::Blind(Cause::DetectorDown);
                }
                // Its first picture has not been through yet.
                if within(since) {
                    Cause::Connecting
                } else {
                    Cause::Overloaded
                }
            }
            CameraState::Connecting => Cause::Connecting,
            CameraState::Unauthorised | CameraState::Offline => Cause::Offline,
            CameraState::NoVideo | CameraState::Failed => Cause::NoVideo,
            CameraState::Masked => Cause::Masked,
            CameraState::Frozen => Cause::Frozen,
            CameraState::Occluded => Cause::Occluded,
            CameraState::Dark => Cause::Dark,
            CameraState::Defocused => Cause::Defocused,
            CameraState::Moved => Cause::Moved,
            CameraState::Ended => Cause::Ended,
        };
        if !matches!(state, CameraState::Online | CameraState::ClockSkew) {
            self.online = None;
        }
        What::Blind(cause)
    }
}

fn put(account: &HourAccount) -> Change {
    Change::Put {
        shelf: Shelf::Coverage,
        key: account.key(),
        body: serde_json::to_string(account).expect("text keys and plain values always serialise"),
    }
}

fn report_of(report: &HourReport, evidence: Option<&EvidenceIndex>) -> CoverageReport {
    let head = evidence.and_then(EvidenceIndex::head);
    let cameras = report.cameras.iter();
    CoverageReport {
        hour: report.hour,
        revision: report.revision,
        partial: report.is_partial,
        cameras: cameras
            .map(|(camera, totals)| CameraCoverage {
                camera: camera.clone(),
                watched_ms: totals.watched_ms,
                blind_ms: totals
                    .blind_ms
                    .iter()
                    .map(|(cause, ms)| (cause.word().to_owned(), *ms))
                    .collect(),
            })
            .collect(),
        covered_ms: report.covered_ms,
        evidence_head: head.map(|head| EvidenceHead {
            entry: head.entry,
            sha256: head.sha256,
        }),
    }
}

/// The same gap gives the same id.
fn gap_notice(gap: &Gap) -> Notice {
    let about = format!(
        "coverage.gap {} {} {}",
        gap.from,
        gap.until,
        gap.cause.word()
    );
    let digest = sha256_hex(about.as_bytes());
    let mut bits = [0; 10];
    bits.copy_from_slice(&digest.as_bytes()[..10]);
    let ms = u64::try_from(gap.until.0.div_euclid(1000)).unwrap_or(0);
    let id: Uuid = uuid::Builder::from_unix_timestamp_millis(ms, &bits).into_uuid();
    let cause = words::cause_of(gap.cause.word());
    let text = words::notice::not_watched(gap.from, gap.until, &cause);
    Notice {
        id,
        kind: "coverage.gap".to_owned(),
        at: gap.until,
        text: text.en,
        text_zh: text.zh,
        data: serde_json::json!({
            "from": gap.from.to_string(),
            "until": gap.until.to_string(),
            "cause": gap.cause.word(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::heartbeat::Heartbeats;
    use crate::base::ids::CameraId;
    use crate::base::time::{Clock as _, ManualClock};
    use crate::rules::DeviceConfig;
    use crate::uplink::{Cursor, FindingData, Store};

    /// 2026-11-24T03:00:00Z
    const T: UtcMicros = UtcMicros(1_795_489_200_000_000);
    const ONLINE: (CameraState, bool) = (CameraState::Online, false);

    struct Bench {
        dir: tempfile::TempDir,
        clock: Arc<ManualClock>,
        metrics: Metrics,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                clock: ManualClock::new(MonoMicros(1_000_000), T),
                metrics: Metrics::default(),
            }
        }

        /// Runs a site with one camera.
        fn run(&self, life: impl FnOnce(&mut Coverage, &StoreHandle)) {
            let path = self.dir.path().join("store.sqlite");
            let beats = Heartbeats::new(self.clock.clone());
            let (store, thread) =
                Store::open(&path, self.clock.clone(), &self.metrics, &beats).unwrap();
            let cameras = [CameraTerms {
                slot: CameraIx(0),
                id: CameraId::new("wok-1").unwrap(),
                device: DeviceConfig::default(),
                watched_for: WATCHED_FOR,
            }];
            let (at, utc) = (self.clock.mono(), self.clock.utc());
            let mut coverage =
                Coverage::start(&cameras, &store, &self.metrics, None, at, utc).unwrap();
            life(&mut coverage, &store);
            coverage.stop(&store, self.clock.mono());
            store.close();
            thread.join().unwrap();
        }

        fn step(&self, coverage: &mut Coverage, store: &StoreHandle, state: (CameraState, bool)) {
            self.clock.advance(Duration::from_secs(1));
            coverage.step(|_| state, store, self.clock.mono(), self.clock.utc());
        }
    }

    fn of_camera(coverage: &Coverage) -> CameraCoverage {
        coverage.so_far().borrow().cameras[0].clone()
    }

    #[test]
    fn a_camera_without_analysed_pictures_is_not_watched_and_the_cause_is_told() {
        let bench = Bench::new();
        bench.run(|coverage, store| {
            for second in 0..60 {
                if second < 20 {
                    coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::ZERO);
                }
                if second == 40 {
                    let labels = [("camera", "wok-1")];
                    bench.metrics.counter(Metric::DetectErrors, &labels).add(1);
                }
                bench.step(coverage, store, ONLINE);
            }
            for _ in 0..10 {
                bench.step(coverage, store, (CameraState::Dark, true));
            }
            for _ in 0..10 {
                bench.step(coverage, store, (CameraState::Unauthorised, false));
            }
            let camera = of_camera(coverage);
            let ms = |cause: &str| camera.blind_ms.get(cause).copied().unwrap_or(0);
            // Each for as long after its last sign.
            assert_eq!(camera.watched_ms, 24_000, "{camera:?}");
            assert_eq!(ms("detector_down"), 6_000, "{camera:?}");
            assert_eq!(ms("overloaded"), 30_000, "{camera:?}");
            assert_eq!(ms("off_schedule"), 10_000, "{camera:?}");
            assert_eq!(ms("offline"), 10_000, "{camera:?}");
        });
    }

    #[test]
    fn a_picture_that_says_when_the_next_one_comes_holds_until_then_and_no_other_does() {
        let bench = Bench::new();
        bench.run(|coverage, store| {
            // A quiet scene, looked at every ten seconds.
            for second in 0..60 {
                if second % 10 == 0 {
                    let next_within = Duration::from_secs(10);
                    coverage.analysed(CameraIx(0), bench.clock.mono(), next_within);
                }
                bench.step(coverage, store, ONLINE);
            }
            assert_eq!(of_camera(coverage).watched_ms, 60_000);
            // Something moves, and then none is analysed any more.
            coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::from_secs(1));
            for _ in 0..20 {
                bench.step(coverage, store, ONLINE);
            }
            let camera = of_camera(coverage);
            assert_eq!(camera.watched_ms, 60_000 + 6_000, "{camera:?}");
            assert_eq!(camera.blind_ms.get("overloaded"), Some(&14_000));
        });
    }

    #[test]
    fn what_a_picture_says_of_the_next_is_past_once_another_is_handed_on_or_fails() {
        for metric in [Metric::FramesSampled, Metric::DetectErrors] {
            let bench = Bench::new();
            bench.run(|coverage, store| {
                coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::from_secs(10));
                for second in 0..20 {
                    if second == 3 {
                        let labels = [("camera", "wok-1")];
                        bench.metrics.counter(metric, &labels).add(1);
                    }
                    bench.step(coverage, store, ONLINE);
                }
                assert_eq!(of_camera(coverage).watched_ms, 5_000, "{metric:?}");
            });
        }
    }

    #[test]
    fn an_hour_goes_into_the_outbox_and_the_next_run_goes_on_with_it() {
        let bench = Bench::new();
        bench.run(|coverage, store| {
            for _ in 0..120 {
                coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::ZERO);
                bench.step(coverage, store, ONLINE);
            }
            assert_eq!(store.stats().records, 0);
        });
        bench.clock.advance(Duration::from_secs(3600));
        bench.run(|coverage, store| {
            let so_far = of_camera(coverage);
            assert_eq!(so_far.blind_ms.get("stopped"), Some(&120_000), "{so_far:?}");
            assert_eq!(store.stats().records, 1, "the hour that ended meanwhile");
            for _ in 0..3480 {
                bench.step(coverage, store, (CameraState::Offline, false));
            }
            assert_eq!(store.stats().records, 2);
            assert_eq!(store.shelf(Shelf::Coverage).unwrap().len(), 3);
        });
        assert_eq!(bench.metrics.total(Metric::CoverageReports), 2);
        assert_eq!(bench.metrics.total(Metric::CoverageLost), 0);
    }

    #[test]
    fn a_step_of_the_clock_is_a_notice_and_what_was_recorded_before_stays() {
        const DAY_US: i64 = 86_400_000_000;
        let bench = Bench::new();
        let finding: FindingData =
            serde_json::from_str(include_str!("mutes/finding.json")).unwrap();
        bench.run(|coverage, store| {
            store.commit_finding(finding.clone()).unwrap();
            for _ in 0..60 {
                coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::ZERO);
                bench.step(coverage, store, ONLINE);
            }
            bench.clock.step_utc(-DAY_US);
            coverage.analysed(CameraIx(0), bench.clock.mono(), Duration::ZERO);
            bench.step(coverage, store, ONLINE);
            // The hour so far, as it stood, and the word about the clock: both before anything else.
            let told = records(store);
            assert!(matches!(told[0], RecordBody::Finding(_)), "{told:?}");
            let RecordBody::Notice(notice) = &told[1] else {
                panic!("{told:?}");
            };
            assert_eq!(notice.kind, "clock.step");
            assert_eq!(notice.data["by_ms"], -86_400_000);
            assert!(notice.text.contains("back by 1 d"), "{}", notice.text);
            let RecordBody::Coverage(report) = &told[2] else {
                panic!("{told:?}");
            };
            assert_eq!(report.hour, T);
            assert_eq!(report.cameras[0].watched_ms, 61_000);
            assert_eq!(told.len(), 3);

            // Forward again, by two days: told apart from the first step, a minute later.
            bench.clock.step_utc(2 * DAY_US);
            for _ in 0..61 {
                bench.step(coverage, store, ONLINE);
            }
            let told = records(store);
            let notices: Vec<_> = told
                .iter()
                .filter_map(|r| match r {
                    RecordBody::Notice(notice) => Some(notice.data["by_ms"].as_i64()),
                    _ => None,
                })
                .collect();
            assert_eq!(notices, [Some(-86_400_000), Some(2 * 86_400_000)]);
            // The hour that was lived before the clock went back still says what was watched in it.
            let shelf = store.shelf(Shelf::Coverage).unwrap();
            assert!(shelf.iter().any(|(key, _)| key == "2026-11-24T03"));
            let ledger = store.open_findings().unwrap();
            assert_eq!(ledger[0].data.first_seen, finding.first_seen);
        });
        // And back while nobody looked.
        bench.clock.step_utc(-3 * DAY_US);
        bench.run(|_, store| {
            let told = records(store);
            let Some(RecordBody::Notice(notice)) =
                told.iter().rfind(|r| matches!(r, RecordBody::Notice(_)))
            else {
                panic!("{told:?}");
            };
            assert_eq!(notice.data["while_stopped"], true);
            assert!(notice.text.contains("at least 3 d"), "{}", notice.text);
        });
    }

    /// What is in the outbox, in the order in which it was committed.
    fn records(store: &StoreHandle) -> Vec<RecordBody> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let batch = runtime.block_on(store.read(Cursor::default(), 1000));
        let mut records = batch.unwrap().records;
        records.sort_by_key(|r| r.seq);
        records.into_iter().map(|r| r.body).collect()
    }
}
