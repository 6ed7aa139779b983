//! RTSP camera or file → access units, on tokio.
//!
//! ```text
//! camera::CameraTask ── opens ──> source::Source (rtsp | container) ── units ──> unit_queue (q1)
//! ```
//! What must not be here: decoding, and any wait for the decoder by a live camera.
mod camera;
mod config;
mod container;
mod gop_ring;
pub mod nal;
mod rtsp;
mod skew;
mod source;
mod unit;
mod unit_queue;

pub use camera::{
    BACKOFF, CameraTask, CaptureHealth, CaptureState, MOST_PIXELS, UNAUTHORISED_WAIT,
};
pub use config::{CaptureConfig, Pace, SourceConfig, Transport};
pub use container::{Container, ContainerUnit, FileOpener, OpenContainer};
pub use gop_ring::{GopRing, RingCut, RingLimits, parameter_sets};
pub use rtsp::{RtspHosts, RtspOpener};
pub use source::{CaptureError, Source, SourceOpener, SourceUnit};
pub use unit::{AccessUnit, Codec, StreamInfo};
pub use unit_queue::{NoUnit, Offered, QueueDrops, UnitReceiver, UnitSender, unit_queue};
