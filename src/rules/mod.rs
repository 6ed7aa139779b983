//! Tracks + time → finding transitions. Pure: no clock, no I/O, no async.
//!
//! What must not be here: evidence, payloads, storage, what a violation code means. Time comes from
//! the pictures' stamps alone, so the same tracks give the same findings, live or replayed.
mod config;
mod engine;
mod finding;

#[cfg(test)]
mod tests;

pub use config::{RuleConfig, Urgency, Zone};
pub use engine::{MAX_STREAK_GAP, MAX_WATCHED_GAP, RuleEngine};
pub use finding::{FindingChange, FindingObject, OpenFinding, Phase};
