//! The site's config file: text → checked [`SiteConfig`], all mistakes at once with line, column,
//! key and remedy.
//!
//! Each stage's config struct lives in its stage; this module composes them. `keys` is the
//! catalogue that the reference in `config/README.md` is printed from; a test holds catalogue,
//! reader, example and reference together.
mod codes;
mod evidence;
mod health;
mod hours;
mod keys;
mod layers;
mod parse;
mod problem;
mod resolve;
mod rules;
mod section;
mod status;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use crate::base::ids::CameraId;
use crate::capture::CaptureConfig;
use crate::decode::DecodeConfig;
use crate::detect::DetectConfig;
use crate::evidence::EvidenceConfig;
use crate::rules::{DeviceConfig, RuleConfig};
use crate::track::TrackConfig;
use crate::uplink::{SiteIdentity, UplinkConfig};

pub use codes::{CODES, CodeDefaults, defaults_of, rule_of};
pub use health::HealthConfig;
pub use hours::Calendar;
pub use keys::reference;
pub use layers::{DESIRED, Desired, LayerPlace, parse_over};
pub use parse::{
    BrokerAddress, Parsed, SourceUrl, broker_address, load, parse, read_file, source_url,
};
pub use problem::{Problem, Problems};
pub use resolve::{check_labels, operating_point, resolve_rules};
pub use section::{Located, Place};
pub use status::StatusConfig;

/// A whole site, checked as far as it can be without models and network.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteConfig {
    /// Where it was read from.
    pub file: PathBuf,
    /// SHA-256 of its text, 64 hex digits.
    pub revision: String,
    /// `[site]`.
    pub identity: SiteIdentity,
    /// `site.state_dir`.
    pub state_dir: PathBuf,
    /// `site.timezone` and what hangs on it.
    pub calendar: Calendar,
    /// `[uplink]`.
    pub uplink: UplinkConfig,
    /// `[evidence]`.
    pub evidence: EvidenceConfig,
    /// `[detect]`.
    pub detect: DetectConfig,
    /// `[track]`.
    pub track: TrackConfig,
    /// `[health]`.
    pub health: HealthConfig,
    /// `[status]`.
    pub status: StatusConfig,
    /// `[[camera]]`; a [`crate::base::ids::CameraIx`] is an index into it.
    pub cameras: Vec<CameraConfig>,
    /// `[[rule]]`; a [`crate::base::ids::RuleIx`] is an index into it.
    pub rules: Vec<RuleDraft>,
    /// What the centre wants of it, if that is laid over the file.
    pub desired: Option<LayerPlace>,
}

/// One camera.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraConfig {
    /// Its name.
    pub id: CameraId,
    /// GB/T 28181 code, 20 digits.
    pub gb28181: Option<String>,
    /// How its stream is received.
    pub capture: CaptureConfig,
    /// How its main stream is, which is kept for clips and not looked at.
    pub main: Option<CaptureConfig>,
    /// How it is decoded and sampled.
    pub decode: DecodeConfig,
    /// What makes a finding about it.
    pub device: DeviceConfig,
    /// How far its clock may be off; `None`: not judged.
    pub clock_limit: Option<Duration>,
}

/// One rule before the models are loaded; [`resolve_rules`] finishes it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleDraft {
    /// All but `classes`, and `threshold` only if it is written.
    pub config: RuleConfig,
    /// What its labels are called.
    pub labels: Vec<Located<String>>,
    /// As written.
    pub threshold: Option<f32>,
    /// Whether its cameras may be decoded late.
    pub late_decode: bool,
}

/// `text` as a TOML basic string. JSON's strings are a subset of those (TOML 1.0, section String), but
/// for DEL, which no path or name here holds.
pub fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
