//! Findings → evidence.
mod config;

pub use config::EvidenceConfig;
