//! What the site says of its config: which one it runs by, and which one it refused.
//!
//! What must not be here: the config itself, which holds what is nobody's business at a broker.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::payload::rfc3339;
use crate::base::time::UtcMicros;

/// Problems of a refused config that are told; the log has them all.
pub const MOST_PROBLEMS: usize = 100;

/// Where a config came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigSource {
    /// The site's own file.
    File,
    /// The site's own file with what the centre wants of it.
    Desired,
}

/// One mistake in a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigProblem {
    /// The file it is in; `desired` for what came from the centre.
    pub file: String,
    /// From 1; 0 if it is about the whole file.
    pub line: usize,
    /// In characters, from 1; 0 if it is about the whole file.
    pub column: usize,
    /// Where in the config, e.g. `camera[1].url`; the index counts from 0. Empty for the whole file.
    pub key: String,
    /// What is wrong, in English.
    pub message: String,
    /// What to do, in English.
    pub remedy: String,
}

/// A config that was refused. The one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigRejection {
    /// Of the refused config, as in [`ConfigReport`].
    pub revision: String,
    /// Where it came from.
    pub source: ConfigSource,
    /// When it was refused.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub at: UtcMicros,
    /// What is wrong with it, in the order of the file; at most 100.
    pub problems: Vec<ConfigProblem>,
}

/// The config in force, retained on `config/reported`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigReport {
    /// SHA-256 of the text in force, 64 hex digits.
    pub revision: String,
    /// Where it came from.
    pub source: ConfigSource,
    /// Since when it is in force.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub applied: UtcMicros,
    /// What began anew for it: `all` at the start of the daemon, else `camera {id}`, `rules`, `track`,
    /// `models`, `workers`, `evidence`, `uplink`. Empty: nothing had to.
    pub restarted: Vec<String>,
    /// Revision of the centre's config that was taken up last; absent: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u64>,
    /// The newest config that was refused, if that was after this one came into force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<ConfigRejection>,
}
