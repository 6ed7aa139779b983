//! Access units → frames.
mod config;
mod frame;

pub use config::{DecodeConfig, MotionConfig};
pub use frame::{Frame, YuvMatrix};
