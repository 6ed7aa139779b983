//! The daemon's pipeline with the built-in cameras before it, and a tally where findings would be stored.
//!
//! Capture, decode, frame board, workers, tracks and rules are the daemon's own parts, begun as
//! `app::site` begins them. Not begun are evidence, store and uplink: they work when something is found,
//! not with each picture.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::cameras::{About, Cameras, GOLDEN, Load};
use super::threads::{StageLoad, Threads, machine_cpu};
use crate::app::blocking::on_thread;
use crate::app::camera_unit::{CameraUnit, Wiring};
use crate::app::config::{self, CODES, SiteConfig, resolve_rules, toml_text};
use crate::app::exit::{ExitCode, Failure, OrExit as _};
use crate::app::health::{Problems, first_report};
use crate::app::models::starts;
use crate::app::site::{Fault, spawn};
use crate::app::workers::{Tools, Workers, detectors, staffing};
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::{CameraId, CameraIx, CameraSlots};
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{MonoMicros, SharedClock, SystemClock, process_cpu};
use crate::capture::RtspHosts;
use crate::decode::{FrameBoard, FramePool};
use crate::detect::{Analysed, LOOK_EVERY, Models, WINDOW};
use crate::evidence::{EvidenceSettings, SiteRings};
use crate::rules::{RuleConfig, RuleEngine};
use crate::track::Tracker;
use crate::uplink::{SiteState, UplinkHealth};

/// After the first analysed picture of each camera, before anything counts: the motion gate has learnt
/// its background by then (it takes a second or two), the decoders are full, and the workers have been
/// seen at work for as long as it takes to tell whether one more is called for.
const WARM_UP: Duration = Duration::from_secs(WINDOW.as_secs() + LOOK_EVERY.as_secs());
/// By then each camera must have given an analysed picture.
const FIRST_PICTURES: Duration = Duration::from_secs(20);
/// How often a wait looks up.
const LOOK: Duration = Duration::from_millis(50);
/// Between the starts of two cameras, of the time between two analysed pictures: so each has a phase of
/// its own.
const LONGEST_STEP: Duration = Duration::from_millis(250);
/// Latencies that are kept; more than 64 cameras give in ten minutes.
const MOST_LATENCIES: usize = 2_000_000;

/// What is tried, but for the number of cameras.
#[derive(Clone, Debug)]
pub struct Bench {
    /// What each camera plays.
    pub load: Load,
    /// What looks at it.
    pub models: Models,
    /// Their cards.
    pub cards: Vec<PathBuf>,
    /// Pictures a second that are looked at.
    pub analyse_fps: f32,
    /// Whether still scenes are decoded late, as they are by default. Off for a search: a box must carry its
    /// cameras at the hour when something moves before all of them.
    pub late_decode: bool,
}

/// What was measured of a number of cameras.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// How many.
    pub cameras: usize,
    /// Of them, those that gave no picture before anything could be measured.
    pub silent: usize,
    /// For how long.
    pub elapsed: Duration,
    /// Threads that ran the models.
    pub workers: usize,
    /// From a unit's last byte to its detections at track and rules, microseconds, rising.
    pub latencies_us: Vec<u32>,
    /// Access units that came.
    pub received: u64,
    /// Pictures taken at the asked rate.
    pub sampled: u64,
    /// Pictures looked at.
    pub analysed: u64,
    /// Frames that newer ones replaced before a worker came.
    pub replaced: u64,
    /// Access units dropped before the decoder.
    pub dropped: u64,
    /// Pictures and units lost to errors.
    pub errors: u64,
    /// CPU time of this process.
    pub process: Duration,
    /// Of all programs of the machine, if it says so.
    pub machine: Option<Duration>,
    /// Of each stage.
    pub stages: Vec<StageLoad>,
}

/// What the analytics thread writes down.
#[derive(Debug, Default)]
struct Tally {
    /// By camera: whether an analysed picture of it came.
    seen: Vec<bool>,
    counts: bool,
    latencies_us: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Tally>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that counts, at a moment.
#[derive(Debug)]
pub struct Snapshot {
    at: MonoMicros,
    process: Duration,
    machine: Option<Duration>,
    threads: Threads,
    metrics: BTreeMap<Metric, u64>,
}

impl Snapshot {
    fn count(&self, metric: Metric) -> u64 {
        self.metrics.get(&metric).copied().unwrap_or(0)
    }
}

/// The parts of a site that work with each picture.
#[derive(Debug)]
pub struct Pipeline {
    config: SiteConfig,
    wiring: Wiring,
    slots: CameraSlots,
    workers: Workers,
    most_workers: usize,
    units: Vec<CameraUnit>,
    analysed: SyncSender<Analysed>,
    analytics: JoinHandle<()>,
    tally: Shared,
    faults: mpsc::Receiver<Fault>,
    step: Duration,
    /// The last to go.
    cameras: Cameras,
}

impl Bench {
    /// The config that an integrator would write for `urls`: each camera as the daemon has it by default
    /// but for late decode, and a rule for each code that the models can see.
    ///
    /// # Errors
    /// It cannot be read, which is a fault of ours.
    pub fn config(&self, urls: &[String]) -> Result<SiteConfig, Failure> {
        let cards = self.cards.iter();
        let cards: Vec<_> = cards.map(|c| toml_text(&c.display().to_string())).collect();
        let mut text = format!(
            "[site]\nregion = \"000000\"\nid = \"capacity\"\nstate_dir = {state_dir}\n\
             [status]\nlisten = \"off\"\n\
             [uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n\
             [detect]\nmodels = [{cards}]\n",
            // Named in the config, as it must be, and never made.
            state_dir = toml_text(&std::env::temp_dir().join("mingchu").display().to_string()),
            cards = cards.join(", "),
        );
        for (n, url) in urls.iter().enumerate() {
            text += &format!(
                "[[camera]]\nid = \"camera-{n}\"\nurl = {url}\nanalyse_fps = {fps:?}\nlate_decode = {late}\n",
                late = self.late_decode,
                n = n + 1,
                url = toml_text(url),
                fps = self.analyse_fps,
            );
        }
        let sees = |labels: &[&str]| labels.iter().all(|l| self.models.class(l).is_some());
        for code in CODES.iter().filter(|c| sees(c.labels)).map(|c| c.code) {
            text += &format!("[[rule]]\nid = \"{code}\"\ncode = \"{code}\"\n");
        }
        let parsed = config::parse(Path::new("capacity"), &text);
        let problems = config::Problems(parsed.problems);
        parsed.config.ok_or(problems).or_exit(ExitCode::Internal)
    }

    /// What track and rules need for each camera of a config.
    pub fn scene(&self, config: &SiteConfig) -> (Vec<Tracker>, Vec<RuleConfig>) {
        let rules = resolve_rules(&config.rules, &self.models);
        let tracker =
            |i: usize| {
                let camera = CameraIx(i as u16);
                Tracker::new(camera, config.track.clone(), self.models.groups())
                    .with_starts(starts(&self.models, &rules, camera))
            };
        let trackers = (0..config.cameras.len()).map(tracker).collect();
        (trackers, rules)
    }

    /// The config of one camera that nobody connects to.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn config_of_one(&self) -> Result<SiteConfig, Failure> {
        self.config(&["rtsp://127.0.0.1/camera".to_owned()])
    }

    /// What the clip is like.
    pub fn about(&self) -> &About {
        &self.load.about
    }
}

/// Track and rules as the site's analytics thread runs them, and a tally instead of a store.
fn analyse(
    results: &Receiver<Analysed>,
    mut trackers: Vec<Tracker>,
    mut engine: RuleEngine,
    tally: &Shared,
    clock: &SharedClock,
) {
    while let Ok(Analysed { detections, frame }) = results.recv() {
        let latency = clock.mono().since(detections.stamp.received);
        {
            let mut tally = tally.lock();
            tally.seen[detections.camera.index()] = true;
            if tally.counts && tally.latencies_us.len() < MOST_LATENCIES {
                let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
                tally.latencies_us.push(us);
            }
        }
        let tracks = trackers[detections.camera.index()].update(&detections);
        let changes = engine.on_tracks(&tracks);
        tracing::debug!(
            camera = detections.camera.0,
            changes = changes.len(),
            "analysed"
        );
        drop(frame);
    }
}

impl Pipeline {
    /// Everything but the cameras: those begin to be watched with [`watch`](Self::watch).
    ///
    /// # Errors
    /// The system gives no threads or ports, or a network cannot be run.
    pub async fn start(bench: &Bench, count: usize) -> Result<Self, Failure> {
        let load = bench.load.clone();
        let cameras = on_thread("start-cameras", move || Cameras::start(&load, count)).await;
        let cameras = cameras
            .or_exit(ExitCode::Internal)?
            .or_exit(ExitCode::Unavailable)?;
        let config = bench.config(&cameras.urls)?;
        let clock = SystemClock::shared();
        let metrics = Metrics::default();
        let slots = CameraSlots::default();
        let replaced =
            |id: &CameraId| metrics.counter(Metric::FramesReplaced, &[("camera", id.as_str())]);
        let mut counters = Vec::new();
        for camera in &config.cameras {
            slots.slot(&camera.id).or_exit(ExitCode::Internal)?;
            counters.push(replaced(&camera.id));
        }
        let now = clock.utc();
        let reports = config.cameras.iter().map(|c| first_report(&c.id, now));
        let (state, _) = watch::channel(SiteState {
            started: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            provider: config.detect.provider.word().to_owned(),
            cameras: reports.collect(),
            problems: Vec::new(),
            config: None,
        });
        let (faults, fault_seen) = mpsc::channel(1);
        let wiring = Wiring {
            board: Arc::new(FrameBoard::new(counters, clock.clone())),
            pool: FramePool::default(),
            hosts: RtspHosts::default(),
            problems: Problems::new(state.clone()),
            state,
            uplink_health: watch::channel(UplinkHealth::default()).0,
            faults,
            metrics: metrics.clone(),
            clock: clock.clone(),
            heartbeats: Heartbeats::new(clock.clone()),
            rings: SiteRings::default(),
            evidence: EvidenceSettings::new(config.evidence.clone()),
        };
        let staffing = staffing(&config);
        let (first, most_workers) = (staffing.first(0), staffing.most());
        let models = bench.models.clone();
        let sessions = on_thread("sessions", move || detectors(&models, first)).await;
        let sessions = sessions
            .or_exit(ExitCode::Internal)?
            .or_exit(ExitCode::Config)?;
        let (analysed, results) = sync_channel(2 * most_workers);
        let (trackers, rules) = bench.scene(&config);
        let engine = RuleEngine::new(rules, "capacity");
        let tally = Shared::default();
        tally.lock().seen = vec![false; config.cameras.len()];
        let of_thread = tally.clone();
        let analytics = spawn("analytics".to_owned(), &wiring.faults, move || {
            analyse(&results, trackers, engine, &of_thread, &clock);
            Ok(())
        })?;
        let tools = Tools {
            wiring: wiring.clone(),
            slots: slots.clone(),
            models: bench.models.clone(),
            analysed: analysed.clone(),
        };
        let workers = Workers::start(tools, staffing, sessions)?;
        let period = Duration::from_secs_f32(1.0 / bench.analyse_fps).min(LONGEST_STEP);
        Ok(Self {
            config,
            wiring,
            slots,
            workers,
            most_workers,
            units: Vec::new(),
            analysed,
            analytics,
            tally,
            faults: fault_seen,
            step: period.mul_f64(GOLDEN),
            cameras,
        })
    }

    /// Begins to watch all cameras, one after the other.
    ///
    /// # Errors
    /// The system gives no threads.
    pub async fn watch(&mut self) -> Result<(), Failure> {
        for camera in &self.config.cameras {
            let slot = self.slots.slot(&camera.id).or_exit(ExitCode::Internal)?;
            self.units
                .push(CameraUnit::start(&self.wiring, slot, camera)?);
            tokio::time::sleep(self.step).await;
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<(), Failure> {
        match self.faults.try_recv() {
            Ok(fault) => Err(Failure::new(ExitCode::Internal, fault)),
            Err(_) => Ok(()),
        }
    }

    /// Waits until all is steady. How many cameras have not given a picture.
    ///
    /// # Errors
    /// A part of the pipeline panicked.
    pub async fn warm_up(&mut self) -> Result<usize, Failure> {
        let begun = self.wiring.clock.mono();
        loop {
            self.fault()?;
            let silent = self.tally.lock().seen.iter().filter(|s| !**s).count();
            if silent == 0 {
                return self.staff_up().await.map(|()| 0);
            }
            if self.wiring.clock.mono().since(begun) > FIRST_PICTURES {
                return Ok(silent);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until there are as many workers as the load calls for, each of them having been seen at work.
    async fn staff_up(&mut self) -> Result<(), Failure> {
        for _ in 0..self.most_workers {
            let workers = self.workers.count();
            tokio::time::sleep(WARM_UP).await;
            self.fault()?;
            if self.workers.is_settled() && self.workers.count() == workers {
                break;
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        let mut metrics = BTreeMap::new();
        for sample in self.wiring.metrics.samples() {
            *metrics.entry(sample.metric).or_default() += sample.value;
        }
        Snapshot {
            at: self.wiring.clock.mono(),
            process: process_cpu(),
            machine: machine_cpu(),
            threads: Threads::now(),
            metrics,
        }
    }

    /// Everything is counted from now on.
    pub fn begin(&self) -> Snapshot {
        let snapshot = self.snapshot();
        let mut tally = self.tally.lock();
        (tally.counts, tally.latencies_us) = (true, Vec::new());
        snapshot
    }

    /// What happened since `before`.
    ///
    /// # Errors
    /// A part of the pipeline panicked.
    pub fn measured(&mut self, before: &Snapshot) -> Result<Measured, Failure> {
        let after = self.snapshot();
        let mut latencies_us = {
            let mut tally = self.tally.lock();
            tally.counts = false;
            std::mem::take(&mut tally.latencies_us)
        };
        self.fault()?;
        latencies_us.sort_unstable();
        let elapsed = after.at.since(before.at);
        let more = |metric| after.count(metric) - before.count(metric);
        let machine = after.machine.zip(before.machine);
        Ok(Measured {
            cameras: self.config.cameras.len(),
            silent: 0,
            elapsed,
            workers: self.workers.count(),
            latencies_us,
            received: more(Metric::CaptureUnits),
            sampled: more(Metric::FramesSampled),
            analysed: more(Metric::DetectFrames),
            replaced: more(Metric::FramesReplaced),
            dropped: more(Metric::CaptureUnitsDropped),
            errors: more(Metric::DetectErrors) + more(Metric::DecodeErrors),
            process: after.process.saturating_sub(before.process),
            machine: machine.map(|(after, before)| after.saturating_sub(before)),
            stages: after.threads.since(&before.threads, elapsed),
        })
    }

    /// Ends everything in order, as a site does.
    pub async fn stop(self) {
        for camera in &self.units {
            camera.tell_to_stop();
        }
        for camera in self.units {
            camera.ended().await;
        }
        self.wiring.board.close();
        self.workers.end().await;
        let (analysed, analytics, cameras) = (self.analysed, self.analytics, self.cameras);
        let rest = on_thread("join", move || {
            // The analytics thread ends when nobody can hand it a picture any more. A panic of it was told
            // as a fault already.
            drop(analysed);
            drop(analytics.join());
            drop(cameras);
        });
        drop(rest.await);
    }
}
