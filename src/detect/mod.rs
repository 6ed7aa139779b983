//! Frames → detections, on worker threads.
//!
//! ```text
//! board (q2) ──> worker::DetectWorker: preprocess → onnx → postprocess ──> Analysed (q3)
//!                  of the frame, then of native-resolution regions where it moves (regions, as
//!                  far as the site's budget goes), then of each head (heads)
//! ```
//! What must not be here: memory of earlier pictures (that is `track`), and what a violation is.
mod budget;
mod card;
mod config;
mod detections;
mod detector;
mod heads;
mod onnx;
mod postprocess;
mod preprocess;
mod reference;
mod regions;
mod scale;
mod staffing;
mod turns;
mod worker;

pub use card::{
    Card, CardError, Channels, ClassCard, Decoder, Fit, HeadsCard, InputCard, LoadedModel,
    OutputCard, RegionsCard, SmokingCard, ThresholdsCard, ValueType,
};
pub use config::{DetectConfig, REGIONS_PER_S, RegionLimits};
pub use detections::{Detection, Detections};
pub use detector::{ClassInfo, Detector, Models, ModelsError};
pub use heads::{COVERS, CoverScores, FACES, FaceScores, HeadLabel, HeadState};
pub use onnx::{MOST_AT_ONCE, Network, OnnxError, Provider, Runtime};
pub use postprocess::{RawBox, decode_yolox, suppress};
pub use preprocess::{CropPx, Letterbox, Preprocessor, TensorMut, tensor_size};
pub use reference::Reference;
pub use scale::Value;
pub use staffing::{AGAIN_AFTER, Change, LONG_WAIT, LOOK_EVERY, Load, QUIET_FOR, Staffing, WINDOW};
pub use turns::LeftOut;
pub use worker::{Analysed, DetectWorker, ERROR_LIMIT, WorkerError};
