//! RTSP camera or file → access units.
mod config;
mod unit;

pub use config::{CaptureConfig, Pace, SourceConfig, Transport};
pub use unit::{AccessUnit, Codec, StreamInfo};
