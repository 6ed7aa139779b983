//! What detection needs to be told.
use std::path::PathBuf;

use super::onnx::Provider;

/// The site's models and workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DetectConfig {
    /// Model cards (`*.toml`), at least one.
    pub models: Vec<PathBuf>,
    /// Worker threads; `None` sizes them from the cores. Each has one single-threaded session per
    /// model: on small boxes more sessions use the cores better than more threads per session.
    pub workers: Option<usize>,
    /// Native-resolution regions looked at in one frame at most; `None`: as many as the cards say.
    pub regions: Option<usize>,
    /// What runs the networks.
    pub provider: Provider,
    /// ONNX Runtime's shared library; `None` looks in the usual places.
    pub onnxruntime: Option<PathBuf>,
}
