//! One camera's capture task: opens sessions for ever, hands access units on, says how it goes.
//!
//! Runs on tokio. It never waits for the decoder (a live socket is always drained), backs off
//! between sessions, and ends only when told to stop or when a file that does not repeat is over.
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::gop_ring::GopRing;
use super::skew::ClockSkew;
use super::source::{CaptureError, Source, SourceOpener, SourceUnit};
use super::unit::{AccessUnit, StreamInfo};
use super::unit_queue::{Offered, UnitSender};
use crate::base::backoff::Backoff;
use crate::base::geometry::SizePx;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CameraId, CameraIx};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::restarts::{REST, Restarts};
use crate::base::time::{FrameStamp, MonoMicros, SharedClock, UtcMicros};

/// Wait after a refused login: faster retries lock accounts (seen with Hikvision and Dahua, whose
/// default is a lock after five to seven failures).
pub const UNAUTHORISED_WAIT: Duration = Duration::from_secs(300);
/// First and longest wait after any other failure. Short, because a camera that is back must be seen
/// within five seconds; an attempt at one that is away costs a fraction of a millisecond.
pub const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// Shortest wait before another attempt, however long the last one took.
const LEAST_WAIT: Duration = Duration::from_millis(500);
/// Most pixels of a picture. Decoders keep up to 16 pictures, so that one camera of 8K would take a
/// gigabyte; 12 megapixels, the most that kitchen cameras have, pass.
pub const MOST_PIXELS: u64 = 16_777_216;
/// A session that played this long counts as a success: the next wait is short again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// How a camera's capture is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureState {
    /// A session is being opened.
    Connecting,
    /// Pictures come.
    Online,
    /// 401 or 403; tried again after [`UNAUTHORISED_WAIT`].
    Unauthorised,
    /// Not reachable, silent, or lost.
    Offline,
    /// Reachable, but there is no video we can decode.
    NoVideo,
    /// Serving it met faults of ours again and again: it rests.
    Failed,
    /// A file that does not repeat is over.
    Ended,
}

/// The newest word on a camera's capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureHealth {
    /// See [`CaptureState`].
    pub state: CaptureState,
    /// Since when, in UTC.
    pub since: UtcMicros,
    /// Why, for people; empty while online.
    pub detail: String,
    /// What the source said of its video, from the newest session that opened.
    pub info: Option<StreamInfo>,
    /// The newest session that opened; its pictures carry it in their stamps.
    pub session: u32,
    /// How far the camera's clock is ahead of ours, in milliseconds, smoothed; `None` until it has said
    /// so often enough, and for files.
    pub clock_ahead_ms: Option<i64>,
}

impl CaptureHealth {
    /// Before the first session.
    pub fn starting(now: UtcMicros) -> Self {
        Self {
            state: CaptureState::Connecting,
            since: now,
            detail: String::new(),
            info: None,
            session: 0,
            clock_ahead_ms: None,
        }
    }
}

/// Everything one camera's task owns.
pub struct CameraTask {
    /// Index in the site.
    pub camera: CameraIx,
    /// Name, for logs and metrics.
    pub id: CameraId,
    /// Who opens sessions.
    pub opener: Arc<dyn SourceOpener>,
    /// Where units go to be decoded; none for a main stream, which is kept for clips only.
    pub units: Option<UnitSender>,
    /// Where the newest seconds are kept.
    pub ring: GopRing,
    /// Where health goes.
    pub health: watch::Sender<CaptureHealth>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Beaten at least every [`CameraTask::BEAT`] while alive, whatever the camera does.
    pub heartbeat: Heartbeat,
    /// Told to stop.
    pub stop: CancellationToken,
}

struct Progress {
    seq: u64,
    session: u32,
    skew: ClockSkew,
    sessions: Counter,
    units: Counter,
    bytes: Counter,
    lost: Counter,
}

enum SessionEnd {
    Stopped,
    FileOver,
    DecoderGone,
    Failed(CaptureError),
}

fn is_too_large(size: SizePx) -> bool {
    u64::from(size.width_px) * u64::from(size.height_px) > MOST_PIXELS
}

impl CameraTask {
    /// Longest time between two beats.
    pub const BEAT: Duration = Duration::from_secs(5);

    /// Runs until stopped or the file is over.
    pub async fn run(self) {
        let labels = [("camera", self.id.as_str())];
        let mut progress = Progress {
            seq: 0,
            session: 0,
            skew: ClockSkew::default(),
            sessions: self.metrics.counter(Metric::CaptureSessions, &labels),
            units: self.metrics.counter(Metric::CaptureUnits, &labels),
            bytes: self.metrics.counter(Metric::CaptureBytes, &labels),
            lost: self.metrics.counter(Metric::CapturePacketsLost, &labels),
        };
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut restarts = Restarts::default();
        let mut told = String::new();
        loop {
            let begun = self.clock.mono();
            // What a camera sends must not end the process, whatever it finds to break.
            let end = AssertUnwindSafe(self.session(&mut progress))
                .catch_unwind()
                .await
                .unwrap_or(SessionEnd::Failed(CaptureError::Panicked));
            let error = match end {
                SessionEnd::Stopped | SessionEnd::DecoderGone => return,
                SessionEnd::FileOver => {
                    self.report(CaptureState::Ended, "the file is over");
                    return;
                }
                SessionEnd::Failed(error) => error,
            };
            let now = self.clock.mono();
            if now.since(begun) > HEALTHY_AFTER {
                backoff.reset();
            }
            let rests =
                matches!(error, CaptureError::Panicked) && self.panicked(&mut restarts, now);
            self.note_failure(&error, rests);
            let wait = match error {
                CaptureError::Unauthorised { .. } => UNAUTHORISED_WAIT,
                _ if rests => REST,
                // An attempt that took its time was a wait as well.
                _ => backoff
                    .next_wait()
                    .saturating_sub(now.since(begun))
                    .max(LEAST_WAIT),
            };
            self.log_failure(&error, &mut told, backoff.attempt(), wait);
            if self.while_beating(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            // "Connecting" is told of a first attempt only: a camera that stays away is offline
            // between attempts too, and its status should not flap.
        }
    }

    /// `work`, unless told to stop first; beats meanwhile.
    async fn while_beating<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut beat = tokio::time::interval(Self::BEAT);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                done = &mut work => return Some(done),
                _ = beat.tick() => self.heartbeat.beat(),
            }
        }
    }

    async fn session(&self, progress: &mut Progress) -> SessionEnd {
        match self.while_beating(self.opener.open()).await {
            None => SessionEnd::Stopped,
            Some(Err(e)) => SessionEnd::Failed(e),
            Some(Ok(source)) => {
                progress.sessions.add(1);
                progress.session = progress.session.wrapping_add(1);
                self.play(source, progress).await
            }
        }
    }

    async fn play(&self, mut source: Box<dyn Source>, progress: &mut Progress) -> SessionEnd {
        let codec = source.info().codec;
        let mut info = source.info();
        self.health
            .send_modify(|h| (h.info, h.session) = (Some(info.clone()), progress.session));
        self.await_key();
        progress.skew.begin();
        let end = loop {
            let unit = match self.while_beating(source.next()).await {
                None => break SessionEnd::Stopped,
                Some(Err(e)) => break SessionEnd::Failed(e),
                Some(Ok(None)) => break SessionEnd::FileOver,
                Some(Ok(Some(unit))) => unit,
            };
            // Some cameras send parameter sets in the stream only, and others while it runs.
            if unit.is_key || info.size.is_none() {
                let newest = source.info();
                if newest != info {
                    info = newest;
                    self.health.send_modify(|h| h.info = Some(info.clone()));
                }
                if let Some(size) = info.size.filter(|s| is_too_large(*s)) {
                    break SessionEnd::Failed(CaptureError::TooLarge(size));
                }
            }
            self.report(CaptureState::Online, "");
            if let Some(ahead_ms) = progress.skew.take(source.clock_ahead_us()) {
                self.health
                    .send_modify(|h| h.clock_ahead_ms = Some(ahead_ms));
            }
            let unit = self.stamped(unit, codec, progress);
            self.ring.push(unit.clone());
            let Some(units) = &self.units else { continue };
            let offered = if source.can_wait() {
                match self.while_beating(units.offer_waiting(unit)).await {
                    None => break SessionEnd::Stopped,
                    Some(offered) => offered,
                }
            } else {
                units.offer(unit)
            };
            if offered == Offered::Closed {
                break SessionEnd::DecoderGone;
            }
        };
        source.close().await;
        end
    }

    /// The stream broke: nothing before the next key unit is of use to anybody.
    fn await_key(&self) {
        self.ring.await_key();
        if let Some(units) = &self.units {
            units.await_key();
        }
    }

    fn stamped(
        &self,
        unit: SourceUnit,
        codec: super::Codec,
        progress: &mut Progress,
    ) -> AccessUnit {
        progress.seq += 1;
        progress.units.add(1);
        progress.bytes.add(unit.data.len() as u64);
        if unit.packets_lost > 0 {
            progress.lost.add(u64::from(unit.packets_lost));
            // A picture with a hole decodes to smears, and smears look like things. Wait for the
            // next picture that stands alone.
            self.await_key();
        }
        AccessUnit {
            camera: self.camera,
            stamp: FrameStamp {
                seq: progress.seq,
                session: progress.session,
                pts: unit.pts,
                received: unit.received,
                received_utc: unit.received_utc,
            },
            codec,
            is_key: unit.is_key,
            is_disposable: unit.is_disposable,
            packets_lost: unit.packets_lost,
            data: unit.data,
        }
    }

    /// Counts it. Whether it was one too many.
    fn panicked(&self, restarts: &mut Restarts, now: MonoMicros) -> bool {
        let stage = format!("capture/{}", self.id);
        self.metrics
            .counter(Metric::StageRestarts, &[("stage", &stage)])
            .add(1);
        restarts.too_many(now)
    }

    /// Once when it is news, and then ever more seldom: a camera may be away for weeks.
    fn log_failure(&self, error: &CaptureError, told: &mut String, attempt: u32, wait: Duration) {
        let (why, wait_ms) = (error.to_string(), wait.as_millis() as u64);
        if *told != why || attempt.is_power_of_two() {
            tracing::warn!(camera = %self.id, err = %why, attempt, backoff_ms = wait_ms, "camera lost");
        } else {
            tracing::debug!(camera = %self.id, err = %why, attempt, backoff_ms = wait_ms, "camera still lost");
        }
        *told = why;
    }

    fn note_failure(&self, error: &CaptureError, rests: bool) {
        let labels = [("camera", self.id.as_str()), ("reason", error.reason())];
        self.metrics
            .counter(Metric::CaptureFailures, &labels)
            .add(1);
        let state = match error {
            CaptureError::Unauthorised { .. } => CaptureState::Unauthorised,
            CaptureError::NoVideo(_) | CaptureError::TooLarge(_) => CaptureState::NoVideo,
            CaptureError::Panicked if rests => CaptureState::Failed,
            _ => CaptureState::Offline,
        };
        self.report(state, &error.to_string());
    }

    fn report(&self, state: CaptureState, detail: &str) {
        self.health.send_if_modified(|h| {
            let changed = h.state != state || h.detail != detail;
            if h.state != state {
                h.since = self.clock.utc();
                tracing::info!(camera = %self.id, from = ?h.state, to = ?state, "camera state");
            }
            if changed {
                h.state = state;
                detail.clone_into(&mut h.detail);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
