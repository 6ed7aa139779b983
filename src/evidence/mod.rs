//! Findings → evidence. For now the deciding frame as a JPEG on the box.
mod config;
mod still;

pub use config::EvidenceConfig;
pub use still::{EvidenceError, Still, StillStore, encode_jpeg};
