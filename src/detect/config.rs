//! What detection needs to be told.
use std::path::PathBuf;

use super::onnx::Provider;

/// The site's models and workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectConfig {
    /// Model cards (`*.toml`), at least one.
    pub models: Vec<PathBuf>,
    /// Worker threads; `None`: by the load and the cores ([`Staffing`](super::Staffing)). Each has one
    /// single-threaded session per model: on small boxes more sessions use the cores better than more threads
    /// per session.
    pub workers: Option<usize>,
    /// Native-resolution regions looked at in one frame at most; `None`: as many as the cards say.
    pub regions: Option<usize>,
    /// Native-resolution regions looked at in a second at most, by all workers together.
    pub regions_per_s: u32,
    /// What runs the networks.
    pub provider: Provider,
    /// ONNX Runtime's shared library; `None` looks in the usual places.
    pub onnxruntime: Option<PathBuf>,
}

impl DetectConfig {
    /// What it says of regions.
    pub fn region_limits(&self) -> RegionLimits {
        RegionLimits {
            per_frame: self.regions,
            per_s: Some(self.regions_per_s),
        }
    }
}

/// Native-resolution regions in a second, of the whole site, where nothing else is said. One costs 2 ms of a core
/// here (`benches/inference.rs`), so all of them 12 % of one core, 3 % of a box with four; where a core is three
/// times slower, 36 % and 9 %. Eight busy cameras at four pictures a second and two regions each want 64.
pub const REGIONS_PER_S: u32 = 60;

/// How many native-resolution regions are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionLimits {
    /// In one frame; `None`: as many as the cards say.
    pub per_frame: Option<usize>,
    /// In a second, of all cameras and workers together; `None`: no limit, where time does not pass (stills).
    pub per_s: Option<u32>,
}

impl Default for RegionLimits {
    fn default() -> Self {
        Self {
            per_frame: None,
            per_s: Some(REGIONS_PER_S),
        }
    }
}
