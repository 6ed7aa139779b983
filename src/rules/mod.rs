//! Tracks + time → finding transitions. Pure: no clock, no I/O, no async.
//!
//! What must not be here: evidence, payloads, storage, what a violation code means. Time comes from
//! the pictures' stamps alone, so the same tracks give the same findings, live or replayed.
mod config;
mod engine;
mod explain;
mod finding;
mod history;
mod life;
mod schedule;
mod still;

#[cfg(test)]
mod tests;

pub use config::{Gate, OffHours, Place, RuleConfig, Urgency, Zone};
pub use engine::{MAX_WATCHED_GAP, RuleEngine};
pub use explain::{Nearest, RuleState, Shortfall, Standing};
pub use finding::{CloseReason, FindingChange, FindingObject, OpenFinding, Phase};
pub use history::MAX_STREAK_GAP;
pub use schedule::{Cursor, HoursError, Schedule, Span, When};
