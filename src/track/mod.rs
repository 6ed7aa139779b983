//! Detections → tracks. Pure: no clock, no I/O, no async.
mod config;
mod tracks;

pub use config::TrackConfig;
pub use tracks::{Track, TrackId, TrackSet, TrackState};
