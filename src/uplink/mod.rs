//! Findings → broker, durably.
mod config;

pub use config::{AckBy, SiteIdentity, TlsConfig, UplinkConfig};
