//! The seam at the process's edge: whatever gives access units is a [`Source`].
//!
//! An RTSP camera, a recorded clip and a test double all stand behind these traits, so the camera
//! task above them has one loop, one back-off and one account of what went wrong.
use bytes::Bytes;
use futures::future::BoxFuture;
use std::time::Duration;

use super::unit::StreamInfo;
use crate::base::geometry::SizePx;
use crate::base::time::{MonoMicros, Pts90k, UtcMicros};

/// Why a session could not begin or went on no longer. Each variant is a different decision.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// 401 or 403: trying again soon would only lock the account.
    #[error(
        "the camera refused the login ({status}): check its user name and password; the next try is in minutes, as cameras lock accounts"
    )]
    Unauthorised {
        /// RTSP status code.
        status: u16,
    },
    /// Nobody answers there.
    #[error(
        "the camera cannot be reached: {0}. Check its power, its cable and the host in its URL"
    )]
    Unreachable(String),
    /// A step took too long.
    #[error("no answer to {step} within {} s", limit.as_secs_f32())]
    Timeout {
        /// `describe` (which includes connecting), `setup`, `play`.
        step: &'static str,
        /// The limit it ran into.
        limit: Duration,
    },
    /// The session plays, but no picture comes.
    #[error("no picture for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The source has no video track we can decode.
    #[error("no H.264 or H.265 video: {0}")]
    NoVideo(String),
    /// 453 or 503: it has no session to spare. Often one of ours is in the way that it has not
    /// forgotten yet, so it is asked again soon.
    #[error(
        "the camera has no session to spare ({status}): too many viewers, or it has not forgotten our last session yet"
    )]
    Busy {
        /// RTSP status code.
        status: u16,
    },
    /// Its pictures are larger than anything here takes.
    #[error(
        "its pictures have {} x {} pixels, more than the {} million that are taken: set a smaller size in the camera, or give the URL of its sub stream",
        .0.width_px,
        .0.height_px,
        super::camera::MOST_PIXELS / 1_000_000
    )]
    TooLarge(SizePx),
    /// It sends and sends, and no picture comes of it.
    #[error("the camera sent more than {} MB that make no picture", .0 / 1_000_000)]
    Flood(u64),
    /// Our own fault, met while its session was served.
    #[error("a fault in this program ended the session; the log says where")]
    Panicked,
    /// The source ended a session that should go on.
    #[error("the camera ended the session")]
    Ended,
    /// The camera said something that RTSP, RTP or the codec's payload format does not allow.
    #[error("the camera broke the protocol: {0}")]
    Protocol(String),
    /// A file cannot be opened or read.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: String,
        /// What was wrong with it.
        why: String,
    },
}

impl CaptureError {
    /// Label of `capture_failures_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthorised { .. } => "unauthorised",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Silent(_) => "silent",
            Self::NoVideo(_) => "no_video",
            Self::Busy { .. } => "busy",
            Self::TooLarge(_) => "too_large",
            Self::Flood(_) => "flood",
            Self::Panicked => "panic",
            Self::Ended => "ended",
            Self::Protocol(_) => "protocol",
            Self::File { .. } => "file",
        }
    }
}

/// One encoded picture as it comes from a source; the camera task adds what only it knows.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUnit {
    /// Annex B, parameter sets before each key unit.
    pub data: Bytes,
    /// Media time since the session began.
    pub pts: Pts90k,
    /// When the last byte arrived, monotonic.
    pub received: MonoMicros,
    /// The same moment in UTC.
    pub received_utc: UtcMicros,
    /// See [`super::AccessUnit::is_key`].
    pub is_key: bool,
    /// See [`super::AccessUnit::is_disposable`].
    pub is_disposable: bool,
    /// Packets lost just before.
    pub packets_lost: u16,
}

impl std::fmt::Debug for SourceUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceUnit")
            .field("pts", &self.pts.0)
            .field("is_key", &self.is_key)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A session with a camera or file.
pub trait Source: Send {
    /// What it said of its video.
    fn info(&self) -> StreamInfo;

    /// The next picture; `None` when a file has ended and does not repeat. Has its own limit on
    /// silence. Safe to cancel.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<SourceUnit>, CaptureError>>;

    /// How far the camera's own clock is ahead of ours, in microseconds, from the newest RTCP sender
    /// report (RFC 3550 section 6.4.1); `None` until one came, and for files.
    fn clock_ahead_us(&self) -> Option<i64> {
        None
    }

    /// Whether the reader may be slowed down to the pipeline's pace instead of dropping.
    fn can_wait(&self) -> bool {
        false
    }

    /// Ends the session in good order, within a limit of its own.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Opens sessions.
pub trait SourceOpener: Send + Sync {
    /// Begins a session. Has its own time-outs. Cancelling drops what was begun.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Source>, CaptureError>>;
}
