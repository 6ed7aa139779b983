//! What a camera's capture needs to be told.
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::base::secret::Secret;

/// How RTP comes from the camera.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Interleaved in the RTSP connection (RFC 2326 section 10.12): the default, nothing is lost.
    #[default]
    Tcp,
    /// RTP over UDP: for cameras that do no interleaving.
    Udp,
}

/// How fast a file plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As its timestamps say, like a camera.
    #[default]
    RealTime,
    /// As fast as the pipeline takes it; nothing is dropped, the reader waits instead.
    Fastest,
}

/// Where a camera's pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// A live RTSP camera.
    Rtsp {
        /// `rtsp://host[:port]/path`, without credentials.
        url: Url,
        /// User name and password, if the camera asks for them.
        login: Option<(String, Secret)>,
        /// How RTP comes.
        transport: Transport,
    },
    /// A recorded clip.
    File {
        /// Any container libavformat reads, with an H.264 or H.265 track.
        path: PathBuf,
        /// How fast.
        pace: Pace,
        /// Begin again at the end, for demos and soak tests.
        repeat: bool,
    },
}

/// One camera's capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Where from.
    pub source: SourceConfig,
    /// Limit for each of connect, describe, setup and play.
    pub step_timeout: Duration,
    /// No access unit for this long means that the camera is lost.
    pub silence: Duration,
}

impl CaptureConfig {
    /// Default of `step_timeout`: with `silence` it keeps "lost within 10 s" true.
    pub const STEP_TIMEOUT: Duration = Duration::from_secs(8);
    /// Default of `silence`.
    pub const SILENCE: Duration = Duration::from_secs(8);
}
