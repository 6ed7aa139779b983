//! What evidence needs to be told.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is done to pictures before they may leave the site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redact {
    /// Faces and heads are blurred; what cannot be blurred stays here.
    #[default]
    Faces,
    /// Nothing: the site's policy allows pictures to leave as the camera saw them.
    Off,
}

impl Redact {
    /// The word in config and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Faces => "faces",
            Self::Off => "off",
        }
    }
}

/// The site's evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// Folder of the chain and the bundles, inside the state directory.
    pub dir: PathBuf,
    /// The site's signing key; made at the first start.
    pub key_file: PathBuf,
    /// JPEG quality, `1..=100`.
    pub jpeg_quality: u8,
    /// See [`Redact`].
    pub redact: Redact,
    /// What a clip shows before the first picture of the incident.
    pub pre_roll: Duration,
    /// And after the picture that opened the finding.
    pub post_roll: Duration,
    /// Compressed video that each ring may hold.
    pub ring_bytes: usize,
    /// Clips, then stills are removed, and the removal signed, to stay below this many bytes.
    pub max_bytes: u64,
    /// And none is kept for longer than this.
    pub max_age: Duration,
    /// Of the disk so much is left to others: below it evidence is removed as above, below half of it
    /// no new one is kept.
    pub min_free_bytes: u64,
}

impl EvidenceConfig {
    /// Longest time from the first picture of an incident to the finding that a clip shows: a rule
    /// with a longer dwell gets the end of it.
    pub const MAX_DWELL_SHOWN: Duration = Duration::from_secs(20);

    /// Below this no new evidence is kept: findings need the room.
    pub fn keep_above(&self) -> u64 {
        self.min_free_bytes / 2
    }

    /// How much time a ring must hold.
    pub fn ring_span(&self) -> Duration {
        self.pre_roll + Self::MAX_DWELL_SHOWN + self.post_roll
    }
}

/// The settings in force, for all who work by them; clones share it. Folder and key stay what they were
/// at the start.
#[derive(Clone, Debug)]
pub struct EvidenceSettings(Arc<Mutex<EvidenceConfig>>);

impl EvidenceSettings {
    /// These.
    pub fn new(config: EvidenceConfig) -> Self {
        Self(Arc::new(Mutex::new(config)))
    }

    /// As they are now.
    pub fn now(&self) -> EvidenceConfig {
        let config = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        config.clone()
    }

    /// From now on `to`, but for folder and key.
    pub fn change(&self, to: &EvidenceConfig) {
        let mut config = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (dir, key_file) = (config.dir.clone(), config.key_file.clone());
        *config = EvidenceConfig {
            dir,
            key_file,
            ..to.clone()
        };
    }
}
