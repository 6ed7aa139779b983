//! One camera's decode thread: takes access units, samples pictures at `analyse_fps`, passes those
//! with motion to the board.
//!
//! A decoder that fails is rebuilt at the next key unit; five failures within a minute rest the
//! camera for five minutes, because a stream that breaks decoders every few seconds would only burn
//! the cores that other cameras need.
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::board::FrameBoard;
use super::config::DecodeConfig;
use super::ffmpeg::{DecodeError, Decoder};
use super::frame::{Frame, YuvMatrix};
use super::motion::MotionDetector;
use crate::base::geometry::SizePx;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CameraId, CameraIx};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::{FrameStamp, MonoMicros, SharedClock};
use crate::capture::{AccessUnit, NoUnit, UnitReceiver};

/// Failures within [`FAILURE_WINDOW`] that rest a camera.
pub const FAILURE_LIMIT: usize = 5;
/// See [`FAILURE_LIMIT`].
pub const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// How long a camera rests.
pub const REST: Duration = Duration::from_secs(300);
/// See [`DecodeHealth::stalled`]; longer than the GOP of most cameras.
pub const STALL: Duration = Duration::from_secs(10);
/// Longest wait for a unit before the thread beats again.
const TICK: Duration = Duration::from_secs(1);
/// Stamps kept for pictures that the decoder holds back for reordering (H.264 and H.265 allow 16).
const REORDER: usize = 32;

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
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Beaten at least once a second while the thread is not stuck in the decoder.
    pub heartbeat: Heartbeat,
}

struct Counters {
    frames: Counter,
    errors: Counter,
    rebuilds: Counter,
    busy: Counter,
    sampled: Counter,
    still: Counter,
    dropped: Counter,
}

impl Counters {
    fn new(metrics: &Metrics, camera: &str) -> Self {
        let c = |metric| metrics.counter(metric, &[("camera", camera)]);
        Self {
            frames: c(Metric::DecodeFrames),
            errors: c(Metric::DecodeErrors),
            rebuilds: c(Metric::DecodeRebuilds),
            busy: c(Metric::DecodeBusyMicros),
            sampled: c(Metric::FramesSampled),
            still: c(Metric::FramesStill),
            dropped: metrics.counter(
                Metric::CaptureUnitsDropped,
                &[("camera", camera), ("reason", "decoder_failed")],
            ),
        }
    }
}

/// Decides which pictures are sampled, by media time.
#[derive(Clone, Copy, Debug)]
struct Sampler {
    period_90k: i64,
    due: Option<(u32, i64)>,
}

impl Sampler {
    fn new(fps: f32) -> Self {
        Self {
            period_90k: (90_000.0 / f64::from(fps.max(0.01))).round() as i64,
            due: None,
        }
    }

    /// Whether to take the picture at `stamp`. A new session, a step back or a jump of more than
    /// two periods begins anew with this picture.
    fn takes(&mut self, stamp: &FrameStamp) -> bool {
        let pts = stamp.pts.0;
        // A quarter of a picture's time early is on time: RTP timestamps jitter.
        let slack = (self.period_90k / 8).min(900);
        let next = match self.due {
            Some((session, due)) if session == stamp.session => {
                let early = due.saturating_sub(pts);
                if early > slack && early <= self.period_90k {
                    return false;
                }
                if early.unsigned_abs() <= self.period_90k as u64 {
                    due.saturating_add(self.period_90k)
                } else {
                    pts.saturating_add(self.period_90k)
                }
            }
            _ => pts.saturating_add(self.period_90k),
        };
        self.due = Some((stamp.session, next));
        true
    }
}

/// Pictures per second over a sliding window of receipt times.
#[derive(Debug, Default)]
struct Rate(VecDeque<MonoMicros>);

impl Rate {
    const WINDOW: Duration = Duration::from_secs(5);

    fn add(&mut self, at: MonoMicros) -> f32 {
        self.0.push_back(at);
        while self.0.front().is_some_and(|t| at.since(*t) > Self::WINDOW) || self.0.len() > 600 {
            self.0.pop_front();
        }
        let span = at
            .since(*self.0.front().expect("just pushed"))
            .as_secs_f32();
        if span > 0.5 {
            (self.0.len() - 1) as f32 / span
        } else {
            0.0
        }
    }
}

struct Working {
    decoder: Option<Decoder>,
    codec: Option<crate::capture::Codec>,
    stamps: VecDeque<FrameStamp>,
    sampler: Sampler,
    motion: MotionDetector,
    last_motion: Option<MonoMicros>,
    last_passed: Option<MonoMicros>,
    rate: Rate,
    session: u32,
    /// Receipt of the unit that gave the newest picture, or of the first unit waiting for one.
    progress: Option<MonoMicros>,
}

impl DecodeThread {
    /// Runs until the capture task is gone. Call on a thread of its own.
    pub fn run(self) {
        let counters = Counters::new(&self.metrics, self.id.as_str());
        let mut work = Working {
            decoder: None,
            codec: None,
            stamps: VecDeque::with_capacity(REORDER),
            sampler: Sampler::new(self.config.analyse_fps),
            motion: MotionDetector::new(),
            last_motion: None,
            last_passed: None,
            rate: Rate::default(),
            session: 0,
            progress: None,
        };
        let mut failures: VecDeque<MonoMicros> = VecDeque::new();
        let mut rest_until: Option<MonoMicros> = None;
        let mut awaiting_key = true;
        loop {
            self.heartbeat.beat();
            let unit = match self.units.receive(TICK) {
                Ok(unit) => unit,
                Err(NoUnit::TimedOut) => {
                    work.progress = None;
                    self.health
                        .send_if_modified(|h| std::mem::take(&mut h.fps) > 0.0);
                    continue;
                }
                Err(NoUnit::Closed) => break,
            };
            let now = self.clock.mono();
            let stalled = now.since(*work.progress.get_or_insert(now)) > STALL;
            self.health.send_if_modified(|h| {
                let begins = stalled && !h.stalled;
                if begins {
                    (h.stalled, h.fps) = (true, 0.0);
                }
                begins
            });
            if rest_until.is_some_and(|until| now < until) {
                counters.dropped.add(1);
                continue;
            }
            if rest_until.take().is_some() {
                self.health.send_modify(|h| h.failed = false);
                failures.clear();
            }
            if awaiting_key && !unit.is_key {
                counters.dropped.add(1);
                continue;
            }
            awaiting_key = false;
            // A panic in a decoder's binding, the motion gate or the copy costs this camera one
            // GOP, never the process.
            let decoded = catch_unwind(AssertUnwindSafe(|| {
                self.decode(&unit, &mut work, &counters)
            }));
            counters
                .busy
                .add(self.clock.mono().since(now).as_micros() as u64);
            let why = match decoded {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "the decode thread panicked".to_owned(),
            };
            counters.errors.add(1);
            counters.rebuilds.add(1);
            work.decoder = None;
            work.stamps.clear();
            awaiting_key = true;
            failures.push_back(now);
            failures.retain(|t| now.since(*t) <= FAILURE_WINDOW);
            if failures.len() >= FAILURE_LIMIT {
                tracing::error!(camera = %self.id, err = %why, rest_s = REST.as_secs(), "decoding keeps failing: the camera rests; look at its stream with `mingchu probe`");
                rest_until = Some(now.plus(REST));
                self.health.send_modify(|h| (h.failed, h.fps) = (true, 0.0));
            } else {
                tracing::warn!(camera = %self.id, err = %why, "decoder rebuilt at the next key unit");
            }
        }
    }

    fn decode(
        &self,
        unit: &AccessUnit,
        work: &mut Working,
        counters: &Counters,
    ) -> Result<(), DecodeError> {
        if work.codec != Some(unit.codec) || work.session != unit.stamp.session {
            // A new session may bring new parameter sets, and its pictures refer to nothing older.
            work.decoder = None;
            work.stamps.clear();
            work.codec = Some(unit.codec);
            work.session = unit.stamp.session;
        }
        let mut decoder = match work.decoder.take() {
            Some(decoder) => decoder,
            None => Decoder::new(unit.codec)?,
        };
        if work.stamps.len() == REORDER {
            work.stamps.pop_front();
        }
        work.stamps.push_back(unit.stamp);
        decoder.send(&unit.data, unit.stamp.seq as i64)?;
        while let Some(picture) = decoder.picture()? {
            counters.frames.add(1);
            let Some(at) = work.stamps.iter().position(|s| s.seq as i64 == picture.tag) else {
                continue;
            };
            let stamp = work.stamps.remove(at).expect("just found");
            let (size, fps) = (picture.size, work.rate.add(stamp.received));
            work.progress = Some(self.clock.mono());
            self.health.send_if_modified(|h| {
                let seen = (Some(size), Some(stamp.session), false);
                let changed = (h.size, h.session, h.stalled) != seen
                    || (h.fps - fps).abs() > 0.2 * h.fps.max(0.5);
                if changed {
                    ((h.size, h.session, h.stalled), h.fps) = (seen, fps);
                }
                changed
            });
            if !work.sampler.takes(&stamp) {
                continue;
            }
            counters.sampled.add(1);
            if !self.moves(&picture, &stamp, work) {
                counters.still.add(1);
                continue;
            }
            let mut frame = Frame {
                camera: self.camera,
                stamp,
                size,
                full_range: false,
                matrix: YuvMatrix::default(),
                pixels: Vec::new(),
                decoded: MonoMicros::default(),
            };
            picture.copy_into(&mut frame)?;
            frame.decoded = self.clock.mono();
            // Closed means that the site is stopping; the units still queued are worth nothing.
            self.board.post(self.camera, frame);
        }
        work.decoder = Some(decoder);
        Ok(())
    }

    /// The motion gate: motion now, motion a moment ago, or time to look again.
    fn moves(
        &self,
        picture: &super::ffmpeg::Picture<'_>,
        stamp: &FrameStamp,
        work: &mut Working,
    ) -> bool {
        let Some(gate) = &self.config.motion else {
            return true;
        };
        let now = stamp.received;
        if picture.has_8_bit_luma() {
            let rows = |step: usize, row: &mut dyn FnMut(&[u8])| picture.luma_rows(step, row);
            if work.motion.changed(picture.size, 2, rows) >= gate.min_area {
                work.last_motion = Some(now);
            }
        } else {
            work.last_motion = Some(now);
        }
        let moved = work.last_motion.is_some_and(|t| now.since(t) <= gate.hold);
        let due = work
            .last_passed
            .is_none_or(|t| now.since(t) >= gate.refresh);
        if moved || due {
            work.last_passed = Some(now);
        }
        moved || due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts90k;

    fn at(session: u32, pts: i64) -> FrameStamp {
        FrameStamp {
            session,
            pts: Pts90k(pts),
            ..FrameStamp::default()
        }
    }

    #[test]
    fn pictures_are_sampled_at_the_asked_rate_whatever_the_camera_rate() {
        for (camera_fps, asked, want) in [
            (25.0, 4.0, 40),
            (30.0, 10.0, 100),
            (15.0, 15.0, 150),
            (5.0, 10.0, 50),
        ] {
            let mut s = Sampler::new(asked);
            let n = (camera_fps * 10.0) as i64;
            let taken = (0..n)
                .filter(|i| s.takes(&at(1, (*i as f64 * 90_000.0 / camera_fps) as i64)))
                .count();
            assert!(
                (taken as i64 - want).abs() <= 1,
                "{camera_fps} -> {asked}: {taken}"
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_does_not_stop_the_sampling() {
        let mut s = Sampler::new(5.0);
        assert!(s.takes(&at(1, 1_000_000)));
        assert!(s.takes(&at(1, 0)), "a step back begins anew");
        assert!(!s.takes(&at(1, 3600)));
        assert!(s.takes(&at(1, i64::MAX)), "a jump ahead begins anew");
        assert!(s.takes(&at(1, i64::MIN)));
        assert!(s.takes(&at(2, 5)), "so does a new session");
        assert!(
            !s.takes(&at(2, 5)),
            "an equal timestamp is not sampled twice"
        );
    }
}
