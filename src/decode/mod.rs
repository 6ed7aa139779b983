//! Access units → frames, one OS thread per camera.
//!
//! ```text
//! unit_queue (q1) ──> camera::DecodeThread ( sampling::FrameSampler: late → ffmpeg → due? → shows anything? → moves? ) ──> board (q2)
//! ```
//! What must not be here: models, and colour conversion of pictures nobody will look at.
mod board;
mod camera;
mod clip_time;
mod config;
mod ffmpeg;
mod footage;
mod frame;
mod late;
mod motion;
mod picture_health;
mod plain;
mod quiet;
mod sampling;
mod scan;

pub use board::{Claim, FrameBoard, Held, NoFrame, Posted};
pub use camera::{DecodeHealth, DecodeThread, STALL};
pub use config::{DecodeConfig, MotionConfig};
pub use ffmpeg::{
    Clips, DecodeError, Decoder, Film, FilmError, Picture, PictureError, RemuxError, can_film,
    read_picture, remux,
};
pub use footage::{FootageError, each_picture};
pub use frame::{Frame, FramePool, Pixels, YuvMatrix};
pub use late::LONGEST_GOP;
pub use motion::MotionDetector;
pub use picture_health::{PictureConfig, PictureFault};
pub use quiet::{QUIET_AFTER, Quiet, QuietConfig};
pub use sampling::{FrameSampler, Sampled};
