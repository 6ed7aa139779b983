//! Tracks + time → finding transitions. Pure: no clock, no I/O, no async.
mod config;
mod finding;

pub use config::{RuleConfig, Urgency, Zone};
pub use finding::{FindingChange, FindingObject, OpenFinding, Phase};
