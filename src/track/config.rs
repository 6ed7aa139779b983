//! What tracking needs to be told.

/// Two-threshold association (ByteTrack, Zhang et al. 2022, <https://arxiv.org/abs/2110.06864>).
#[derive(Clone, Debug, PartialEq)]
pub struct TrackConfig {
    /// Detections at or above begin tracks and are matched first, `0.0..=1.0`; for some classes from a
    /// lower score on, see [`crate::track::Tracker::with_starts`].
    pub score_high: f32,
    /// Detections from here to `score_high` only keep tracks alive, `0.0..=score_high`.
    pub score_low: f32,
    /// Least overlap of a detection with a track's predicted box, `0.0..=1.0`. Low because a few
    /// pictures a second leave people time to move. High detections may also
    /// be matched without it, by nearness: see [`crate::track::Tracker`].
    pub match_iou: f32,
    /// Pictures in a row that must show an object before it counts, at least 1 (0 is taken as 1).
    pub confirm_hits: u32,
    /// A track not seen for longer than this ends, in milliseconds.
    pub lost_ms: u64,
}

impl Default for TrackConfig {
    fn default() -> Self {
        Self {
            score_high: 0.4,
            score_low: 0.1,
            match_iou: 0.15,
            confirm_hits: 2,
            lost_ms: 2500,
        }
    }
}
