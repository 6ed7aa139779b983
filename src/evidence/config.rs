//! What evidence needs to be told.
use std::path::PathBuf;

/// The site's stills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// Folder, inside the state directory.
    pub dir: PathBuf,
    /// JPEG quality, `1..=100`.
    pub jpeg_quality: u8,
    /// Oldest stills are removed, and counted, to stay below this many bytes.
    pub max_bytes: u64,
}
