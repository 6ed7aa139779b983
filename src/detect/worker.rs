//! Detect workers: OS threads that claim pictures from the board, run the models, and hand the
//! result on while the claim is held, so that one camera's results stay in order.
//!
//! A picture whose inference fails, or panics, is lost and counted, and its time is not watched time.
//! [`ERROR_LIMIT`] in a row rebuild the sessions, a panic at once; as many again end the worker, and with
//! it the process, which is started anew.
//!
//! q3 is a bounded channel: when track and rules are behind, workers wait, so that the board
//! overflows (and counts) instead.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::detections::Detections;
use super::detector::{Detector, Models};
use super::onnx::OnnxError;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CameraIx, CameraSlots};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::SharedClock;
use crate::decode::{Frame, FrameBoard, NoFrame};

/// Pictures lost in a row that rebuild the sessions; as many again end the worker.
pub const ERROR_LIMIT: u32 = 10;
const TICK: Duration = Duration::from_secs(1);

/// Why a picture was lost, or the worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The models cannot be run, or not be loaded any more.
    #[error(transparent)]
    Inference(#[from] OnnxError),
    /// A fault of ours in what is done around them.
    #[error("looking at a picture panicked; the log says where")]
    Panicked,
}

/// A picture with what was seen in it. The picture goes on as evidence.
#[derive(Debug)]
pub struct Analysed {
    /// What was seen.
    pub detections: Detections,
    /// Where.
    pub frame: Frame,
}

/// Everything one worker owns.
#[derive(Debug)]
pub struct DetectWorker {
    /// Its name in metrics: `detect/<n>`.
    pub name: String,
    /// Where pictures come from.
    pub board: Arc<FrameBoard<Frame>>,
    /// The site's models.
    pub models: Models,
    /// This worker's sessions.
    pub detector: Detector,
    /// q3.
    pub analysed: SyncSender<Analysed>,
    /// Names of the cameras.
    pub cameras: CameraSlots,
    /// Set when it is to end, others take over: after the picture at hand.
    pub stop: Arc<AtomicBool>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Beaten at least once a second while the worker is not stuck in an inference.
    pub heartbeat: Heartbeat,
}

/// One metric of each camera, found as cameras come.
struct PerCamera {
    metric: Metric,
    counters: Vec<Counter>,
}

impl PerCamera {
    fn add(&mut self, worker: &DetectWorker, camera: CameraIx) {
        if self.counters.len() <= camera.index() {
            let names = worker.cameras.names();
            let counter = |n: &crate::base::ids::CameraId| {
                let labels = [("camera", n.as_str())];
                worker.metrics.counter(self.metric, &labels)
            };
            self.counters = names.iter().map(counter).collect();
        }
        self.counters[camera.index()].add(1);
    }
}

impl DetectWorker {
    /// Rare: more to look at in one picture than the limits of the cards and of the classifier.
    fn count_left_out(&mut self, camera: CameraIx) {
        for (kind, n) in self.detector.take_left_out().by_kind() {
            if n > 0 {
                let name = &self.cameras.names()[camera.index()];
                let labels = [("camera", name.as_str()), ("kind", kind)];
                let counter = self.metrics.counter(Metric::DetectLooksLeftOut, &labels);
                counter.add(n);
            }
        }
    }

    /// Runs until it is told to stop, the board is closed and empty, or track and rules are gone.
    /// Call on a thread of its own.
    ///
    /// # Errors
    /// [`WorkerError`] when inference failed [`ERROR_LIMIT`] times in a row, and again with new
    /// sessions: the process should end and be started again.
    pub fn run(mut self) -> Result<(), WorkerError> {
        let per_camera = |metric| PerCamera {
            metric,
            counters: Vec::new(),
        };
        let mut frames = per_camera(Metric::DetectFrames);
        let mut errors = per_camera(Metric::DetectErrors);
        let busy = self.metrics.counter(Metric::DetectBusyMicros, &[]);
        let waited = self.metrics.counter(Metric::DetectWaitMicros, &[]);
        let restarts = self
            .metrics
            .counter(Metric::StageRestarts, &[("stage", &self.name)]);
        let (mut in_a_row, mut rebuilt) = (0, false);
        let board = self.board.clone();
        while !self.stop.load(Ordering::Relaxed) {
            self.heartbeat.beat();
            let claim = match board.claim(TICK) {
                Ok(claim) => claim,
                Err(NoFrame::TimedOut) => continue,
                Err(NoFrame::Closed) => return Ok(()),
            };
            let camera = claim.camera();
            waited.add(claim.waited.as_micros() as u64);
            let began = self.clock.mono();
            // Of odd pictures too: one must not end the process.
            let look = || self.detector.detect(&claim.frame, &*self.clock);
            let result = catch_unwind(AssertUnwindSafe(look));
            let panicked = result.is_err();
            let result = result.map_or(Err(WorkerError::Panicked), |seen| {
                seen.map_err(WorkerError::Inference)
            });
            busy.add(self.clock.mono().since(began).as_micros() as u64);
            self.count_left_out(camera);
            match result {
                Ok(detections) => {
                    (in_a_row, rebuilt) = (0, false);
                    frames.add(&self, camera);
                    let (frame, held) = claim.into_parts();
                    let sent = self.analysed.send(Analysed { detections, frame });
                    drop(held);
                    if sent.is_err() {
                        return Ok(());
                    }
                }
                Err(e) => {
                    errors.add(&self, camera);
                    in_a_row += 1;
                    let name = &self.cameras.names()[camera.index()];
                    tracing::warn!(camera = %name, err = %e, in_a_row, "picture lost to an inference error");
                    let too_many = in_a_row >= ERROR_LIMIT;
                    if too_many && rebuilt {
                        return Err(e);
                    }
                    // After a panic nobody knows what the sessions hold.
                    if !too_many && !panicked {
                        continue;
                    }
                    drop(claim);
                    tracing::error!(err = %e, "building new inference sessions");
                    self.detector = self.models.detector().map_err(WorkerError::Inference)?;
                    restarts.add(1);
                    if too_many {
                        (in_a_row, rebuilt) = (0, true);
                    }
                }
            }
        }
        Ok(())
    }
}
