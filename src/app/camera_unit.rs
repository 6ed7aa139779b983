//! One camera's part of the pipeline, begun and ended by itself: its capture task, its decode thread
//! and what follows its health. The other cameras notice nothing of either.
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::blocking::on_thread;
use super::config::CameraConfig;
use super::exit::Failure;
use super::health::follow;
use super::site::{Fault, THREAD_BEAT, spawn, spawn_task};
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::CameraIx;
use crate::base::metrics::Metrics;
use crate::base::time::SharedClock;
use crate::capture::{
    CameraTask, CaptureConfig, CaptureHealth, FileOpener, QueueDrops, RtspHosts, RtspOpener,
    SourceConfig, SourceOpener, unit_queue,
};
use crate::decode::{Clips, DecodeHealth, DecodeThread, Frame, FrameBoard};
use crate::uplink::SiteState;

/// Margin on the beats that capture promises, for a loaded machine.
const BEAT_MARGIN: u32 = 6;

/// What a camera shares with the rest of the site.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// q2.
    pub board: Arc<FrameBoard<Frame>>,
    /// Session groups, one per camera host.
    pub hosts: RtspHosts,
    /// Where its report stands.
    pub state: watch::Sender<SiteState>,
    /// Where a panic of it is told.
    pub faults: mpsc::Sender<Fault>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Where its thread and task beat.
    pub heartbeats: Heartbeats,
}

/// A camera that is being watched.
#[derive(Debug)]
pub struct CameraUnit {
    stop: CancellationToken,
    capture: tokio::task::JoinHandle<()>,
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

impl CameraUnit {
    /// Begins to watch. The board has the camera's slot already, and the state its report.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(wiring: &Wiring, ix: CameraIx, camera: &CameraConfig) -> Result<Self, Failure> {
        let Wiring {
            board,
            hosts,
            state,
            faults,
            metrics,
            clock,
            heartbeats,
        } = wiring;
        let id = camera.id.clone();
        let stop = CancellationToken::new();
        let (units, received) = unit_queue(QueueDrops::new(metrics, id.as_str()));
        let (capture_health, capture_seen) = watch::channel(CaptureHealth::starting(clock.utc()));
        let (decode_health, decode_seen) = watch::channel(DecodeHealth::default());
        let decode = DecodeThread {
            camera: ix,
            id: id.clone(),
            config: camera.decode.clone(),
            units: received,
            board: board.clone(),
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
            units,
            health: capture_health,
            metrics: metrics.clone(),
            clock: clock.clone(),
            heartbeat: heartbeats.register(format!("capture/{id}"), CameraTask::BEAT * BEAT_MARGIN),
            stop: stop.clone(),
        };
        let capture = spawn_task(&format!("capture/{id}"), faults, capture.run());
        let follower = follow(id, capture_seen, decode_seen, state.clone(), clock.clone());
        Ok(Self {
            stop,
            capture,
            decoder,
            follower: tokio::spawn(follower),
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
        let decoder = self.decoder;
        drop(on_thread("join", move || drop(decoder.join())).await);
        drop(self.follower.await);
    }
}
