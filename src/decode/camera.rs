//! One camera's decode thread: takes access units, and passes the pictures that
//! [`FrameSampler`] picks to the board.
//!
//! A scene that was still is decoded late, all at once: the pictures of such a group wait for one another on
//! the board, while what comes meanwhile is taken off the queue.
//!
//! A decoder that fails is rebuilt at the next key unit, and so is all that a panic of the thread may
//! have left behind; five failures within a minute rest the camera for five minutes, because a stream that
//! breaks decoders every few seconds would only burn the cores that other cameras need.
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::board::FrameBoard;
use super::config::DecodeConfig;
use super::ffmpeg::DecodeError;
use super::frame::{Frame, FramePool};
use super::picture_health::PictureFault;
use super::sampling::{FrameSampler, Sampled};
use crate::base::geometry::SizePx;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CameraId, CameraIx};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::restarts::{REST, Restarts};
use crate::base::time::{Clock, MonoMicros, SharedClock};
use crate::capture::{NoUnit, UnitReceiver};

/// See [`DecodeHealth::stalled`]; longer than the GOP of most cameras.
pub const STALL: Duration = Duration::from_secs(10);
/// How long a picture of a group that is decoded late waits at once for the one before it to be analysed.
const PATIENCE: Duration = Duration::from_millis(20);
/// How late such a picture may be and still wait, more than what is kept of a quiet scene: two groups of the
/// longest that are decoded late.
const MOST_BEHIND: Duration = Duration::from_secs(5);
/// Longest wait for a unit before the thread beats again.
const TICK: Duration = Duration::from_secs(1);

/// How a camera's decoding is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DecodeHealth {
    /// Too many failures: resting for [`REST`].
    pub failed: bool,
    /// Access units come, but for [`STALL`] none has given a picture.
    pub stalled: bool,
    /// Session of the newest picture.
    pub session: Option<u32>,
    /// Size of the newest picture.
    pub size: Option<SizePx>,
    /// Pictures per second, over the last seconds; 0 when none come.
    pub fps: f32,
    /// What is wrong with the pictures, as of the newest sampled one.
    pub picture: Option<PictureFault>,
}

/// Everything one camera's decode thread owns.
#[derive(Debug)]
pub struct DecodeThread {
    /// Index in the site.
    pub camera: CameraIx,
    /// Name, for logs and metrics.
    pub id: CameraId,
    /// What it was told.
    pub config: DecodeConfig,
    /// Where units come from.
    pub units: UnitReceiver,
    /// Where pictures go.
    pub board: Arc<FrameBoard<Frame>>,
    /// Where health goes.
    pub health: watch::Sender<DecodeHealth>,
    /// The site's buffers of pictures.
    pub pool: FramePool,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Beaten at least once a second while the thread is not stuck in the decoder.
    pub heartbeat: Heartbeat,
}

struct Counters {
    errors: Counter,
    rebuilds: Counter,
    restarts: Counter,
    busy: Counter,
    dropped: Counter,
}

impl Counters {
    fn new(metrics: &Metrics, camera: &str) -> Self {
        let c = |metric| metrics.counter(metric, &[("camera", camera)]);
        let stage = format!("decode/{camera}");
        Self {
            errors: c(Metric::DecodeErrors),
            rebuilds: c(Metric::DecodeRebuilds),
            restarts: metrics.counter(Metric::StageRestarts, &[("stage", &stage)]),
            busy: c(Metric::DecodeBusyMicros),
            dropped: metrics.counter(
                Metric::CaptureUnitsDropped,
                &[("camera", camera), ("reason", "decoder_failed")],
            ),
        }
    }
}

/// Units per second over a sliding window of receipt times.
#[derive(Debug, Default)]
struct Rate {
    times: VecDeque<MonoMicros>,
    now: f32,
}

impl Rate {
    const WINDOW: Duration = Duration::from_secs(5);

    fn add(&mut self, at: MonoMicros) -> f32 {
        let times = &mut self.times;
        times.push_back(at);
        while times.front().is_some_and(|t| at.since(*t) > Self::WINDOW) || times.len() > 600 {
            times.pop_front();
        }
        let span = at.since(*times.front().expect("just pushed")).as_secs_f32();
        self.now = if span > 0.5 {
            (times.len() - 1) as f32 / span
        } else {
            0.0
        };
        self.now
    }

    /// As of the newest unit.
    fn now(&self) -> f32 {
        self.now
    }
}

/// What was seen of the pictures so far.
#[derive(Default)]
struct Seen {
    rate: Rate,
    /// When the newest picture came out, or the first unit that waits for one came in.
    progress: Option<MonoMicros>,
}

/// What the thread keeps from one unit to the next.
struct Work {
    sampler: FrameSampler,
    seen: Seen,
    restarts: Restarts,
    rest_until: Option<MonoMicros>,
    awaiting_key: bool,
}

impl DecodeThread {
    /// Runs until the capture task is gone. Call on a thread of its own.
    pub fn run(self) {
        let counters = Counters::new(&self.metrics, self.id.as_str());
        let sampler = FrameSampler::new(
            self.camera,
            self.id.as_str(),
            self.config.clone(),
            &self.metrics,
        )
        .with_pool(self.pool.clone());
        let mut work = Work {
            sampler,
            seen: Seen::default(),
            restarts: Restarts::default(),
            rest_until: None,
            awaiting_key: true,
        };
        loop {
            // A panic in a decoder's binding, the motion gate or the copy costs this camera one
            // GOP, never the process.
            let next = catch_unwind(AssertUnwindSafe(|| self.take_one(&counters, &mut work)));
            let why = match next {
                Ok(Ok(ControlFlow::Continue(()))) => continue,
                Ok(Ok(ControlFlow::Break(()))) => break,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "the decode thread panicked".to_owned(),
            };
            self.begin_anew(&counters, &mut work, &why);
        }
    }

    /// The next unit, if one comes within a second. The end: none comes any more.
    fn take_one(
        &self,
        counters: &Counters,
        work: &mut Work,
    ) -> Result<ControlFlow<()>, DecodeError> {
        const NEXT: ControlFlow<()> = ControlFlow::Continue(());
        self.heartbeat.beat();
        let is_behind = work.sampler.backlog() > 0;
        let limit = if is_behind { Duration::ZERO } else { TICK };
        let unit = match self.units.receive(limit) {
            Ok(unit) => unit,
            Err(_) if is_behind => {
                self.catch_up(counters, work)?;
                return Ok(NEXT);
            }
            Err(NoUnit::TimedOut) => {
                work.sampler.wake_up();
                work.seen.progress = None;
                self.health
                    .send_if_modified(|h| std::mem::take(&mut h.fps) > 0.0);
                return Ok(NEXT);
            }
            Err(NoUnit::NoKey) => {
                self.note_stall(&mut work.seen);
                return Ok(NEXT);
            }
            Err(NoUnit::Closed) => {
                // What is kept of a still scene is the last that was seen.
                work.sampler.wake_up();
                return Ok(if work.sampler.backlog() > 0 {
                    NEXT
                } else {
                    ControlFlow::Break(())
                });
            }
        };
        let now = self.note_stall(&mut work.seen);
        if work.rest_until.is_some_and(|until| now < until) {
            counters.dropped.add(1);
            return Ok(NEXT);
        }
        if work.rest_until.take().is_some() {
            self.health.send_modify(|h| h.failed = false);
        }
        if work.awaiting_key && !unit.is_key {
            counters.dropped.add(1);
            return Ok(NEXT);
        }
        work.awaiting_key = false;
        if unit.is_key {
            work.sampler.set_quiet(self.board.quiet(self.camera));
        }
        let fps = work.seen.rate.add(unit.stamp.received);
        self.timed(counters, work, |sampler, clock, take| {
            sampler.push(unit, clock, take)
        })?;
        if work.sampler.is_idle() {
            // What is not decoded on purpose is no stall.
            work.seen.progress = Some(now);
            self.note_fps(fps);
        }
        self.catch_up(counters, work)?;
        Ok(NEXT)
    }

    /// Decodes the next unit that waits. After a still scene has moved there are many, and each picture of
    /// them that is due has its turn with the detector: while the one before it still waits on the board,
    /// this waits too, for at most [`PATIENCE`] and while it is not too late for that, see [`MOST_BEHIND`].
    /// What came since waits for nobody: of that the newest wins, as ever.
    fn catch_up(&self, counters: &Counters, work: &mut Work) -> Result<(), DecodeError> {
        if work.sampler.backlog() > 1 {
            let now = self.clock.mono();
            let since = work.sampler.kept_since();
            let is_near =
                since.is_some_and(|t| now.since(t) < self.config.quiet.look_every + MOST_BEHIND);
            if is_near && !self.board.wait_taken(self.camera, PATIENCE) {
                return Ok(());
            }
        }
        self.timed(counters, work, |sampler, clock, take| {
            sampler.step(clock, take).map(drop)
        })
    }

    /// After a failure: with another decoder from the next key unit on, or after a rest.
    fn begin_anew(&self, counters: &Counters, work: &mut Work, why: &str) {
        counters.errors.add(1);
        counters.rebuilds.add(1);
        counters.restarts.add(1);
        work.sampler.reset();
        work.awaiting_key = true;
        let now = self.clock.mono();
        if work.restarts.too_many(now) {
            tracing::error!(camera = %self.id, err = %why, rest_s = REST.as_secs(), "decoding keeps failing: the camera rests; look at its stream with `mingchu probe`");
            work.rest_until = Some(now.plus(REST));
            self.health.send_modify(|h| (h.failed, h.fps) = (true, 0.0));
        } else {
            tracing::warn!(camera = %self.id, err = %why, "decoder rebuilt at the next key unit");
        }
    }

    /// Video has come: whether none of it has given a picture for too long. The time.
    fn note_stall(&self, seen: &mut Seen) -> MonoMicros {
        let now = self.clock.mono();
        let stalled = now.since(*seen.progress.get_or_insert(now)) > STALL;
        self.health.send_if_modified(|h| {
            let begins = stalled && !h.stalled;
            if begins {
                (h.stalled, h.fps) = (true, 0.0);
            }
            begins
        });
        now
    }

    fn note_fps(&self, fps: f32) {
        self.health.send_if_modified(|h| {
            let changed = (h.fps - fps).abs() > 0.2 * h.fps.max(0.5);
            if changed {
                h.fps = fps;
            }
            changed
        });
    }

    /// Has the sampler do something, hands on what comes of it, and takes the time.
    fn timed(
        &self,
        counters: &Counters,
        work: &mut Work,
        go: impl FnOnce(
            &mut FrameSampler,
            &dyn Clock,
            &mut dyn FnMut(Sampled),
        ) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let began = self.clock.mono();
        let Work { sampler, seen, .. } = work;
        let done = go(sampler, &*self.clock, &mut |sampled| match sampled {
            // Closed means that the site is stopping; the units still queued are worth nothing.
            Sampled::Frame(frame) => {
                self.board.post(self.camera, frame);
            }
            Sampled::Picture { size, stamp } => {
                seen.progress = Some(self.clock.mono());
                let fps = seen.rate.now();
                self.health.send_if_modified(|h| {
                    let now = (Some(size), Some(stamp.session), false);
                    let changed = (h.size, h.session, h.stalled) != now
                        || (h.fps - fps).abs() > 0.2 * h.fps.max(0.5);
                    if changed {
                        ((h.size, h.session, h.stalled), h.fps) = (now, fps);
                    }
                    changed
                });
            }
            Sampled::LeftOut { .. } => {}
        });
        let fault = work.sampler.picture_fault();
        self.health.send_if_modified(|h| {
            let changed = h.picture != fault;
            if changed {
                tracing::info!(camera = %self.id, from = ?h.picture, to = ?fault, "picture fault");
                h.picture = fault;
            }
            changed
        });
        let busy = self.clock.mono().since(began);
        counters.busy.add(busy.as_micros() as u64);
        done
    }
}
