//! Frames → detections.
mod config;
mod detections;

pub use config::DetectConfig;
pub use detections::{Detection, Detections};
