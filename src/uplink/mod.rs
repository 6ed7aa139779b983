//! Findings → broker, durably.
//!
//! ```text
//! rules ── commit_finding ──> store (thread, SQLite) ── read ──> run (tokio) ── mqtt ──> broker
//!                               ^                                 |  delivery: who is on the way
//!                               +────────── acked, park ──────────+
//! ```
//! What must not be here: what a violation is, pictures, and any wait for the network by the store
//! or by whoever commits. A record is on the disk before it is published, and leaves the disk only
//! when the broker (or, with `ack = "centre"`, the centre) says that it has it.
mod command_args;
mod commands;
mod config;
mod config_report;
mod delivery;
mod evidence;
mod evidence_headers;
mod inbox;
mod mqtt;
mod outbox_budget;
mod payload;
mod receipts;
mod record;
mod run;
mod store;
mod subscriber;
mod topics;

pub use command_args::{
    ClipArgs, CoverageArgs, DesiredConfig, DiagnoseArgs, Judgement, MOST_MUTE_MINUTES, MuteArgs,
    REINSPECT_DEFAULT_SECONDS, ReceiptArgs, RectifyArgs, ReinspectArgs, ResendArgs, SnapshotArgs,
    Task, UnmuteArgs, VerdictArgs,
};
pub use commands::{
    Admission, Command, Entry, Flood, Journal, MOST_BYTES, MOST_CONFIG_BYTES, Unreadable,
};
pub use config::{AckBy, SiteIdentity, TlsConfig, UplinkConfig};
pub use config_report::{
    ConfigProblem, ConfigRejection, ConfigReport, ConfigSource, MOST_PROBLEMS,
};
pub use evidence::{EvidenceItem, EvidenceOutbox};
pub use evidence_headers::EvidenceHeaders;
pub use inbox::{Answer, Inbox, InboxEvent, Incoming, WhatFor};
pub use mqtt::{Asked, LinkError, Message};
pub use outbox_budget::{OUTBOX_BEAT, OutboxBudget};
pub use payload::{
    CameraRef, CameraReport, CameraState, CameraStatus, ClockRef, Event, EvidenceRef, FindingData,
    FindingEvent, FindingPhase, MissingEvidence, ModelRef, MutedRef, ObjectRef, OutboxStatus,
    Receipt, RuleRef, SiteRef, SiteStatus, Telemetry, ZoneRef,
};
pub use receipts::{ReceiptOrder, ReceiptOrders, Receipted, receipt_orders};
pub use record::{
    CameraCoverage, Change, CommandResult, CoverageReport, EvidenceHead, Notice, RecordBody,
    RecordKind, Shelf,
};
pub use run::{SiteState, Uplink, UplinkHealth, check};
pub use store::{
    Again, Batch, Cursor, LedgerEntry, Record, Store, StoreError, StoreHandle, StoreHealth,
};
pub use subscriber::{Heard, Subscriber};
pub use topics::{ALL_SITES, TopicKind, Topics};
