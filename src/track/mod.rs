//! Detections → tracks. Pure: no clock, no I/O, no async.
//!
//! What must not be here: what a class means, zones, thresholds of rules. Time comes from the
//! pictures' stamps alone, so the same detections give the same tracks, live or replayed.
mod assignment;
mod config;
mod motion;
mod tracker;
mod tracks;

#[cfg(test)]
mod tests;

pub use config::TrackConfig;
pub use tracker::Tracker;
pub use tracks::{Track, TrackId, TrackSet, TrackState};
