//! Workers with the shipped detector and a real picture, by a clock that moves as they work.
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::*;
use crate::app::config::{self, SiteConfig};
use crate::app::health::Problems;
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::{CameraId, CameraIx};
use crate::base::metrics::Metrics;
use crate::base::time::{Clock, ManualClock, MonoMicros, UtcMicros};
use crate::capture::RtspHosts;
use crate::decode::{Frame, FrameBoard, FramePool, Posted, read_picture};
use crate::detect::{AGAIN_AFTER, QUIET_FOR, Runtime, WINDOW};
use crate::evidence::{EvidenceSettings, SiteRings};
use crate::uplink::{SiteState, UplinkHealth};

const CAMERAS: u16 = 4;
/// So many that a slow machine's own CPU time, held against the clock of the test, is no reason to stay.
const CORES: usize = 1000;
const LIMIT: Duration = Duration::from_secs(60);

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn config() -> SiteConfig {
    let text = "[site]\nregion = \"410724\"\nid = \"site-1\"\nstate_dir = \"state\"\n\
                [uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n[detect]\nmodels = [\"kitchen.toml\"]\n\
                [[camera]]\nid = \"wok\"\nurl = \"rtsp://127.0.0.1/a\"\n\
                [[rule]]\nid = \"mask\"\ncode = \"ppe.mask.missing\"\n";
    let parsed = config::parse(Path::new("site.toml"), text);
    parsed.config.expect("a config")
}

/// So much time passes, by the clock of the workers, each time that one of them asks for it. A picture takes as
/// long, and the next waits as long, whichever thread the machine runs first.
#[derive(Debug)]
struct Passing {
    clock: Arc<ManualClock>,
    step_us: AtomicU64,
}

impl Clock for Passing {
    fn mono(&self) -> MonoMicros {
        let step = Duration::from_micros(self.step_us.load(Ordering::Relaxed));
        self.clock.advance(step);
        self.clock.mono()
    }

    fn utc(&self) -> UtcMicros {
        self.clock.utc()
    }
}

/// A crew of one worker for four cameras.
struct Kitchen {
    crew: Crew,
    clock: Arc<ManualClock>,
    passing: Arc<Passing>,
    picture: Frame,
    analysed: Receiver<Analysed>,
    faults: mpsc::Receiver<Fault>,
    seen: usize,
}

impl Kitchen {
    fn new() -> Self {
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let runtime = Runtime::load(None).expect("`.ci/setup test` fetches the library");
        let models = Models::load(runtime, &[root("models/kitchen.toml")]).unwrap();
        let metrics = Metrics::default();
        let slots = CameraSlots::default();
        let counters = (0..CAMERAS).map(|n| {
            let id = CameraId::new(&format!("camera-{n}")).unwrap();
            slots.slot(&id).unwrap();
            metrics.counter(Metric::FramesReplaced, &[("camera", id.as_str())])
        });
        let board = FrameBoard::new(counters.collect(), clock.clone());
        let (state, _) = watch::channel(SiteState::default());
        let (tell, faults) = mpsc::channel(1);
        let passing = Arc::new(Passing {
            clock: clock.clone(),
            step_us: AtomicU64::new(0),
        });
        let wiring = Wiring {
            board: Arc::new(board),
            pool: FramePool::default(),
            hosts: RtspHosts::default(),
            problems: Problems::new(state.clone()),
            state,
            uplink_health: watch::channel(UplinkHealth::default()).0,
            faults: tell,
            metrics,
            clock: passing.clone(),
            heartbeats: Heartbeats::new(clock.clone()),
            rings: SiteRings::default(),
            evidence: EvidenceSettings::new(config().evidence),
        };
        let sessions = detectors(&models, 1).unwrap();
        let (to, analysed) = sync_channel(usize::from(CAMERAS));
        let tools = Tools {
            wiring,
            slots,
            models,
            analysed: to,
        };
        let crew = Crew::new(tools, Staffing::new(None, CORES), sessions).unwrap();
        Self {
            crew,
            clock,
            passing,
            picture: read_picture(&root(".runtime/demo/kitchen.mp4")).unwrap(),
            analysed,
            faults,
            seen: 0,
        }
    }

    fn workers(&self) -> u64 {
        let metrics = &self.crew.tools.wiring.metrics;
        assert_eq!(
            metrics.total(Metric::DetectWorkers),
            self.crew.hands.len() as u64
        );
        metrics.total(Metric::DetectWorkers)
    }

    /// A picture of each camera comes.
    fn pictures_come(&mut self) {
        for camera in (0..CAMERAS).map(CameraIx) {
            let mut frame = self.picture.clone();
            (frame.camera, frame.stamp.received) = (camera, self.clock.mono());
            assert_eq!(
                self.crew.tools.wiring.board.post(camera, frame),
                Posted::Queued
            );
        }
    }

    /// They are looked at.
    fn are_looked_at(&mut self) {
        for _ in 0..CAMERAS {
            let seen = self
                .analysed
                .recv_timeout(LIMIT)
                .expect("no picture is lost");
            assert_eq!(seen.detections.stamp.received, seen.frame.stamp.received);
            self.seen += 1;
        }
    }

    /// Pictures wait for one another until something is done about it.
    fn rush(&mut self, until: impl Fn(&Self) -> bool) {
        self.passing.step_us.store(50_000, Ordering::Relaxed);
        for _ in 0..500 {
            self.pictures_come();
            self.are_looked_at();
            self.crew.look();
            if until(self) {
                self.passing.step_us.store(0, Ordering::Relaxed);
                return;
            }
        }
        panic!("nothing is done about pictures that wait");
    }

    fn errors(&mut self) -> Option<Fault> {
        self.faults.try_recv().ok()
    }
}

#[test]
fn a_worker_begins_when_pictures_wait_and_ends_when_few_come_and_every_picture_is_looked_at() {
    let mut kitchen = Kitchen::new();
    assert_eq!(kitchen.workers(), 1);
    kitchen.rush(|k| k.workers() == 2);
    let in_a_rush = kitchen.clock.mono();
    assert!(in_a_rush.since(MonoMicros(0)) >= WINDOW);
    // Few pictures: those that come just before a worker ends are looked at all the same.
    let mut rounds = 0;
    while kitchen.workers() == 2 {
        rounds += 1;
        assert!(rounds < 1000, "it never ends");
        kitchen.clock.advance(Duration::from_secs(5));
        kitchen.pictures_come();
        kitchen.crew.look();
        kitchen.are_looked_at();
    }
    assert!(kitchen.clock.mono().since(in_a_rush) >= QUIET_FOR);
    assert_eq!(kitchen.workers(), 1);
    // And again.
    kitchen.rush(|k| k.workers() == 2);
    let metrics = kitchen.crew.tools.wiring.metrics.clone();
    assert_eq!(metrics.total(Metric::DetectFrames), kitchen.seen as u64);
    assert_eq!(metrics.total(Metric::FramesReplaced), 0);
    assert!(kitchen.errors().is_none());
    kitchen.crew.tools.wiring.board.close();
    for hand in kitchen.crew.hands {
        hand.thread.join().unwrap();
    }
}

#[test]
fn a_worker_that_cannot_begin_is_tried_again_and_the_others_go_on() {
    let mut kitchen = Kitchen::new();
    let models = kitchen.crew.tools.models.clone();
    kitchen.crew.tools.models = models.spoiled();
    let tried = |k: &Kitchen| !k.crew.staffing.may_add(k.clock.mono());
    kitchen.rush(tried);
    assert_eq!(kitchen.workers(), 1);
    let failed = kitchen.clock.mono();
    kitchen.crew.tools.models = models;
    kitchen.rush(|k| k.workers() == 2);
    assert!(kitchen.clock.mono().since(failed) + LOOK_EVERY >= AGAIN_AFTER);
    assert!(kitchen.errors().is_none());
}

#[test]
fn the_thread_of_the_workers_ends_them_when_told_and_leaves_what_waits_on_the_board() {
    let kitchen = Kitchen::new();
    let Crew { tools, hands, .. } = kitchen.crew;
    let board = tools.wiring.board.clone();
    for hand in hands {
        hand.stop.store(true, Ordering::Relaxed);
        hand.thread.join().unwrap();
    }
    let sessions = detectors(&tools.models, 2).unwrap();
    let metrics = tools.wiring.metrics.clone();
    let workers = Workers::start(tools, Staffing::new(Some(2), CORES), sessions).unwrap();
    assert_eq!((workers.count(), workers.is_settled()), (2, true));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(workers.end());
    assert_eq!(metrics.total(Metric::DetectWorkers), 0);
    assert_eq!(board.post(CameraIx(0), kitchen.picture), Posted::Queued);
    assert!(
        board.claim(Duration::ZERO).is_ok(),
        "it waits for other workers"
    );
}
