//! One camera's part of the pipeline, begun and ended by itself: its capture task, its decode thread
//! and what follows its health. The other cameras notice nothing of either.
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::blocking::on_thread;
use super::config::CameraConfig;
use super::exit::Failure;
use super::health::{Problems, follow, follow_main};
use super::site::{Fault, THREAD_BEAT, spawn, spawn_task};
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::{CameraId, CameraIx};
use crate::base::metrics::Metrics;
use crate::base::time::SharedClock;
use crate::capture::{
    CameraTask, CaptureConfig, CaptureHealth, FileOpener, GopRing, QueueDrops, RingLimits,
    RtspHosts, RtspOpener, SourceConfig, SourceOpener, unit_queue,
};
use crate::decode::{Clips, DecodeHealth, DecodeThread, Frame, FrameBoard, FramePool};
use crate::evidence::{CameraRings, EvidenceConfig, EvidenceSettings, SiteRings};
use crate::uplink::{SiteState, UplinkHealth};

/// Margin on the beats that capture promises, for a loaded machine.
const BEAT_MARGIN: u32 = 6;

/// What a camera shares with the rest of the site.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// q2.
    pub board: Arc<FrameBoard<Frame>>,
    /// Buffers of pictures.
    pub pool: FramePool,
    /// Session groups, one per camera host.
    pub hosts: RtspHosts,
    /// Where its report stands.
    pub state: watch::Sender<SiteState>,
    /// Where the line to the broker says how it is.
    pub uplink_health: watch::Sender<UplinkHealth>,
    /// Where a panic of it is told.
    pub faults: mpsc::Sender<Fault>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Where its thread and task beat.
    pub heartbeats: Heartbeats,
    /// Where its newest seconds are found for clips.
    pub rings: SiteRings,
    /// How many seconds that are.
    pub evidence: EvidenceSettings,
    /// Where it is said that its main stream is away.
    pub problems: Problems,
}

/// A camera that is being watched.
#[derive(Debug)]
pub struct CameraUnit {
    stop: CancellationToken,
    capture: tokio::task::JoinHandle<()>,
    /// Capture and follower of its main stream, if it has one.
    main: Vec<tokio::task::JoinHandle<()>>,
    decoder: JoinHandle<()>,
    follower: tokio::task::JoinHandle<()>,
}

fn opener(config: &CaptureConfig, hosts: &RtspHosts, clock: &SharedClock) -> Arc<dyn SourceOpener> {
    match &config.source {
        SourceConfig::Rtsp {
            url,
            login,
            transport,
        } => Arc::new(RtspOpener {
            url: url.clone(),
            login: login.clone(),
            transport: *transport,
            step_timeout: config.step_timeout,
            silence: config.silence,
            hosts: hosts.clone(),
            clock: clock.clone(),
        }),
        SourceConfig::File { path, pace, repeat } => Arc::new(FileOpener {
            path: path.clone(),
            pace: *pace,
            repeat: *repeat,
            container: Arc::new(Clips),
            clock: clock.clone(),
        }),
    }
}

/// A camera's main stream in logs and metrics.
fn main_name(camera: &CameraId) -> String {
    format!("{camera}.main")
}

fn ring_limits(evidence: &EvidenceConfig) -> RingLimits {
    RingLimits {
        bytes: evidence.ring_bytes,
        span: evidence.ring_span(),
    }
}

/// Another config of the evidence: all rings hold as much as it says.
pub fn limit_rings(wiring: &Wiring, evidence: &EvidenceConfig) {
    let limits = ring_limits(evidence);
    for rings in wiring.rings.all() {
        rings.sub.limit(limits);
        if let Some(main) = rings.main {
            main.limit(limits);
        }
    }
}

/// The rings of a camera's streams.
fn camera_rings(wiring: &Wiring, camera: &CameraConfig) -> CameraRings {
    let limits = ring_limits(&wiring.evidence.now());
    let ring = |stream: &str| GopRing::new(limits, &wiring.metrics, stream);
    CameraRings {
        sub: ring(camera.id.as_str()),
        main: camera.main.as_ref().map(|_| ring(&main_name(&camera.id))),
    }
}

/// Receives a main stream into its ring, and says so while it is away.
fn start_main(
    wiring: &Wiring,
    camera: CameraIx,
    id: &CameraId,
    config: &CaptureConfig,
    ring: GopRing,
    stop: &CancellationToken,
) -> Vec<tokio::task::JoinHandle<()>> {
    let (health, seen) = watch::channel(CaptureHealth::starting(wiring.clock.utc()));
    let name = format!("capture/{}", main_name(id));
    let beat = CameraTask::BEAT * BEAT_MARGIN;
    let capture = CameraTask {
        camera,
        // Too long for a name only if the camera's is.
        id: CameraId::new(&main_name(id)).unwrap_or_else(|_| id.clone()),
        opener: opener(config, &wiring.hosts, &wiring.clock),
        units: None,
        ring,
        health,
        metrics: wiring.metrics.clone(),
        clock: wiring.clock.clone(),
        heartbeat: wiring.heartbeats.register(name.clone(), beat),
        stop: stop.clone(),
    };
    vec![
        spawn_task(&name, &wiring.faults, capture.run()),
        spawn_task(
            &format!("health/{}", main_name(id)),
            &wiring.faults,
            follow_main(id.clone(), seen, wiring.problems.clone()),
        ),
    ]
}

impl CameraUnit {
    /// Begins to watch. The board has the camera's slot already, and the state its report.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(wiring: &Wiring, ix: CameraIx, camera: &CameraConfig) -> Result<Self, Failure> {
        let Wiring {
            board,
            pool,
            hosts,
            state,
            faults,
            metrics,
            clock,
            heartbeats,
            rings,
            ..
        } = wiring;
        let id = camera.id.clone();
        let stop = CancellationToken::new();
        let of_camera = camera_rings(wiring, camera);
        rings.insert(ix, of_camera.clone());
        let main = match (&camera.main, of_camera.main) {
            (Some(config), Some(ring)) => start_main(wiring, ix, &id, config, ring, &stop),
            _ => Vec::new(),
        };
        let (units, received) = unit_queue(QueueDrops::new(metrics, id.as_str()));
        let (capture_health, capture_seen) = watch::channel(CaptureHealth::starting(clock.utc()));
        let (decode_health, decode_seen) = watch::channel(DecodeHealth::default());
        let decode = DecodeThread {
            camera: ix,
            id: id.clone(),
            config: camera.decode.clone(),
            units: received,
            board: board.clone(),
            pool: pool.clone(),
            health: decode_health,
            metrics: metrics.clone(),
            clock: clock.clone(),
            heartbeat: heartbeats.register(format!("decode/{id}"), THREAD_BEAT),
        };
        let decoder = spawn(format!("decode/{id}"), faults, move || {
            decode.run();
            Ok(())
        })?;
        let capture = CameraTask {
            camera: ix,
            id: id.clone(),
            opener: opener(&camera.capture, hosts, clock),
            units: Some(units),
            ring: of_camera.sub,
            health: capture_health,
            metrics: metrics.clone(),
            clock: clock.clone(),
            heartbeat: heartbeats.register(format!("capture/{id}"), CameraTask::BEAT * BEAT_MARGIN),
            stop: stop.clone(),
        };
        let capture = spawn_task(&format!("capture/{id}"), faults, capture.run());
        let limit = camera.clock_limit.unwrap_or(Duration::MAX);
        let name = format!("health/{id}");
        let follower = follow(
            id,
            capture_seen,
            decode_seen,
            state.clone(),
            clock.clone(),
            limit,
        );
        Ok(Self {
            stop,
            capture,
            main,
            decoder,
            follower: spawn_task(&name, faults, follower),
        })
    }

    /// Tells the capture to end; the rest follows.
    pub fn tell_to_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until nothing of the camera runs any more: its session is taken down, its last picture
    /// is on the board, its report changes no more.
    pub async fn ended(self) {
        // A panic was told as a fault already; here and below.
        drop(self.capture.await);
        for task in self.main {
            drop(task.await);
        }
        let decoder = self.decoder;
        drop(on_thread("join", move || drop(decoder.join())).await);
        drop(self.follower.await);
    }
}
