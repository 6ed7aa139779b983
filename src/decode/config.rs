//! What a camera's decoding needs to be told.
use std::time::Duration;

use super::picture_health::PictureConfig;
use super::quiet::QuietConfig;

/// One camera's decoding, sampling and motion gate.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeConfig {
    /// Pictures per second that go on to detection, `0.1..=30`.
    pub analyse_fps: f32,
    /// `None`: every sampled picture is analysed.
    pub motion: Option<MotionConfig>,
    /// Of a still scene only key units are decoded, see `late.rs`; needs the motion gate.
    pub late: bool,
    /// How a scene in which no rule counts anything is then looked at.
    pub quiet: QuietConfig,
    /// See [`Decoder::with`](super::ffmpeg::Decoder::with).
    pub loop_filter: bool,
    /// How long what is wrong with its pictures must last.
    pub picture: PictureConfig,
}

/// When a sampled picture counts as still and is not analysed.
#[derive(Clone, Debug, PartialEq)]
pub struct MotionConfig {
    /// Share of the picture's cells that must change, `0.0..=1.0`.
    pub min_area: f32,
    /// After motion, pictures go on for this long.
    pub hold: Duration,
    /// A still picture goes on at least this often, so that "nothing there" is seen, not assumed; while only key
    /// units are decoded, no oftener than those come.
    pub refresh: Duration,
}

impl Default for MotionConfig {
    fn default() -> Self {
        Self {
            min_area: 0.001,
            hold: Duration::from_secs(3),
            refresh: Duration::from_secs(1),
        }
    }
}

impl Default for DecodeConfig {
    fn default() -> Self {
        Self {
            analyse_fps: 4.0,
            motion: Some(MotionConfig::default()),
            late: true,
            quiet: QuietConfig::default(),
            loop_filter: true,
            picture: PictureConfig::default(),
        }
    }
}
