//! What may be committed: records of every kind, and entries of the small ledgers beside them.
//!
//! What must not be here: topics with a site in them, SQL, and how anything is delivered. A record is
//! anything that must reach the centre; it gets a `seq` when it is committed and leaves the outbox
//! only when it was acknowledged. A shelf is a durable table of JSON texts by key for one purpose; a
//! [`Change`] of a shelf is committed in the same transaction as the records beside it, so that an
//! effect and the word about it cannot part.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::payload::{Event, FINDING_CONTENT_TYPE, FindingData, rfc3339};
use crate::base::time::UtcMicros;

/// A record's content.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordBody {
    /// A revision of a finding.
    Finding(Box<FindingData>),
    /// What was watched in an hour.
    Coverage(Box<CoverageReport>),
    /// Anything else the centre must be told.
    Notice(Box<Notice>),
    /// The answer to a command.
    CommandResult(Box<CommandResult>),
}

/// The kinds of [`RecordBody`], by the word in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// See [`RecordBody::Finding`].
    Finding,
    /// See [`RecordBody::Coverage`].
    Coverage,
    /// See [`RecordBody::Notice`].
    Notice,
    /// See [`RecordBody::CommandResult`].
    CommandResult,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Finding,
        Self::Coverage,
        Self::Notice,
        Self::CommandResult,
    ];

    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Coverage => "coverage",
            Self::Notice => "notice",
            Self::CommandResult => "command-result",
        }
    }

    /// From the word in the store.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl RecordBody {
    /// Which kind it is.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Finding(_) => RecordKind::Finding,
            Self::Coverage(_) => RecordKind::Coverage,
            Self::Notice(_) => RecordKind::Notice,
            Self::CommandResult(_) => RecordKind::CommandResult,
        }
    }

    /// Order of delivery: 1 before all others.
    pub fn class(&self) -> u8 {
        match self {
            Self::Finding(data) => data.class,
            // Somebody waits for the answer.
            Self::CommandResult(_) => 1,
            Self::Coverage(_) | Self::Notice(_) => 3,
        }
    }

    /// The topic's levels after the site. What shares it is held back together.
    pub fn topic_tail(&self) -> String {
        match self {
            Self::Finding(data) => format!("finding/{}", data.code),
            Self::Coverage(_) => "coverage".to_owned(),
            Self::Notice(_) => "notice".to_owned(),
            Self::CommandResult(result) => format!("command/{}/result", result.command),
        }
    }

    /// The event's id, the same however often it is committed or sent: receivers upsert on
    /// (`source`, `id`).
    pub fn event_id(&self) -> String {
        match self {
            Self::Finding(data) => format!("{}.{}", data.finding, data.revision),
            Self::Coverage(report) => format!("coverage.{}.{}", report.hour, report.revision),
            Self::Notice(notice) => format!("notice.{}", notice.id),
            Self::CommandResult(result) => format!("command.{}", result.id),
        }
    }

    /// As JSON, for the store.
    pub fn to_json(&self) -> String {
        match self {
            Self::Finding(data) => json_text(data),
            Self::Coverage(report) => json_text(report),
            Self::Notice(notice) => json_text(notice),
            Self::CommandResult(result) => json_text(result),
        }
    }

    /// From the store.
    ///
    /// # Errors
    /// It is not of this kind.
    pub fn from_json(kind: RecordKind, text: &[u8]) -> serde_json::Result<Self> {
        Ok(match kind {
            RecordKind::Finding => Self::Finding(serde_json::from_slice(text)?),
            RecordKind::Coverage => Self::Coverage(serde_json::from_slice(text)?),
            RecordKind::Notice => Self::Notice(serde_json::from_slice(text)?),
            RecordKind::CommandResult => Self::CommandResult(serde_json::from_slice(text)?),
        })
    }

    /// The revision, if it is a finding's.
    pub fn finding(&self) -> Option<&FindingData> {
        match self {
            Self::Finding(data) => Some(data),
            _ => None,
        }
    }

    /// Wrapped as the event that goes over the wire. `source`, `seq` and `time` are the record's;
    /// `replayed` goes into findings only.
    pub fn event(&self, source: &str, seq: u64, time: UtcMicros, replayed: bool) -> Vec<u8> {
        let (id, kind, subject) = (self.event_id(), self.event_type(), self.subject());
        let text = match self {
            Self::Finding(data) => {
                let mut data = data.clone();
                data.replayed = replayed;
                json_text(&Event::wrap(source, seq, time, id, kind, subject, data))
            }
            Self::Coverage(report) => {
                json_text(&Event::wrap(source, seq, time, id, kind, subject, report))
            }
            Self::Notice(notice) => {
                json_text(&Event::wrap(source, seq, time, id, kind, subject, notice))
            }
            Self::CommandResult(result) => {
                json_text(&Event::wrap(source, seq, time, id, kind, subject, result))
            }
        };
        text.into_bytes()
    }

    /// Media type of the event.
    pub fn content_type(&self) -> &'static str {
        FINDING_CONTENT_TYPE
    }

    fn event_type(&self) -> String {
        match self {
            Self::Finding(data) => format!("cn.mingchu.finding.{}.v1", data.phase.as_str()),
            Self::Coverage(_) => "cn.mingchu.coverage.v1".to_owned(),
            Self::Notice(notice) => format!("cn.mingchu.notice.{}.v1", notice.kind),
            Self::CommandResult(_) => "cn.mingchu.command.result.v1".to_owned(),
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::Finding(data) => format!("camera/{}", data.camera.id),
            Self::CommandResult(result) => format!("command/{}", result.id),
            Self::Coverage(_) | Self::Notice(_) => "site".to_owned(),
        }
    }
}

fn json_text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain structs with text keys always serialise")
}

/// What was watched of each camera in one hour of UTC. The milliseconds of a camera, watched and
/// blind together, are 3,600,000 in a whole report: silence about a camera is never "not watched".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CoverageReport {
    /// The hour's beginning.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub hour: UtcMicros,
    /// From 1; a later one of the same hour replaces it.
    #[schemars(range(min = 1))]
    pub revision: u32,
    /// The hour is not over: asked for by a command.
    pub partial: bool,
    /// By camera.
    pub cameras: Vec<CameraCoverage>,
    /// What each camera's milliseconds add up to: 3,600,000, or less in a partial report.
    #[serde(default = "whole_hour")]
    pub covered_ms: u32,
    /// The newest entry of the site's chain of evidence when the report was made; absent if there is none.
    /// `mingchu verify --head` tells whether a chain still holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_head: Option<EvidenceHead>,
}

/// An entry of a chain of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceHead {
    /// Its number, from 0.
    pub entry: u64,
    /// SHA-256 of its line, 64 hex digits.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

fn whole_hour() -> u32 {
    3_600_000
}

/// One camera's hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CameraCoverage {
    /// Its name.
    pub camera: String,
    /// Looked at.
    pub watched_ms: u64,
    /// Not looked at, by cause; causes with nothing are left out.
    pub blind_ms: BTreeMap<String, u64>,
}

/// Something the centre must be told that is neither a finding nor coverage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// UUID, the same however often it is sent.
    pub id: Uuid,
    /// What it is about: `[a-z.]`, e.g. `evidence.deleted`, `config.rejected`, `clock.step`,
    /// `mute`.
    #[schemars(regex(pattern = "^[a-z.]+$"))]
    pub kind: String,
    /// When it happened.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub at: UtcMicros,
    /// For people, in English, one line.
    pub text: String,
    /// For machines; its shape depends on `kind`.
    pub data: serde_json::Value,
    /// `text` in Chinese.
    #[serde(default)]
    pub text_zh: String,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CommandResult {
    /// The command's own id.
    pub id: String,
    /// Its name, the topic's level.
    pub command: String,
    /// `done`, `refused`, `expired`, `failed` or `unknown-outcome`.
    #[schemars(extend("enum" = ["done", "refused", "expired", "failed", "unknown-outcome"]))]
    pub outcome: String,
    /// For people, in English, one line; empty if there is nothing to add.
    pub text: String,
    /// When it was answered.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub at: UtcMicros,
    /// The answer; its shape depends on the command.
    pub data: serde_json::Value,
    /// `text` in Chinese.
    #[serde(default)]
    pub text_zh: String,
}

/// A durable table of JSON texts by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shelf {
    /// The running hour of each camera, and hours not yet reported.
    Coverage,
    /// Which evidence there is, and what of it has left.
    Evidence,
    /// Commands taken and answered; mutes, verdicts, orders.
    Commands,
    /// Configs received and applied.
    Config,
}

impl Shelf {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coverage => "coverage",
            Self::Evidence => "evidence",
            Self::Commands => "commands",
            Self::Config => "config",
        }
    }
}

/// One thing to commit; several are committed together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A record for the outbox.
    Record(RecordBody),
    /// An entry of a shelf, new or replaced.
    Put {
        /// Which shelf.
        shelf: Shelf,
        /// Which entry.
        key: String,
        /// JSON.
        body: String,
    },
    /// An entry of a shelf that goes, if it is there.
    Delete {
        /// Which shelf.
        shelf: Shelf,
        /// Which entry.
        key: String,
    },
}

impl Change {
    /// Puts `value` as JSON.
    pub fn put<T: Serialize>(shelf: Shelf, key: impl Into<String>, value: &T) -> Self {
        Self::Put {
            shelf,
            key: key.into(),
            body: json_text(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::payload::FindingPhase;
    use crate::uplink::payload::tests::{T, finding};

    #[test]
    fn every_kind_reads_back_from_the_store_as_it_was() {
        let bodies = [
            RecordBody::Finding(Box::new(FindingData {
                scores: vec![0.5],
                objects: Vec::new(),
                ..finding(1, 2, FindingPhase::Updated)
            })),
            RecordBody::Coverage(Box::new(CoverageReport {
                hour: UtcMicros(T.0 / 1000 * 1000),
                revision: 1,
                partial: false,
                cameras: vec![CameraCoverage {
                    camera: "wok-1".to_owned(),
                    watched_ms: 3_599_000,
                    blind_ms: [("offline".to_owned(), 1000)].into(),
                }],
                covered_ms: 3_600_000,
                evidence_head: Some(EvidenceHead {
                    entry: 41,
                    sha256: "ab".repeat(32),
                }),
            })),
            RecordBody::Notice(Box::new(Notice {
                id: Uuid::from_u128(7),
                kind: "config.rejected".to_owned(),
                at: T,
                text: "two mistakes".to_owned(),
                data: serde_json::json!({"problems": []}),
                text_zh: "两处错误".to_owned(),
            })),
            RecordBody::CommandResult(Box::new(CommandResult {
                id: "c-1".to_owned(),
                command: "mute".to_owned(),
                outcome: "done".to_owned(),
                text: String::new(),
                at: T,
                data: serde_json::Value::Null,
                text_zh: String::new(),
            })),
        ];
        for body in bodies {
            let back = RecordBody::from_json(body.kind(), body.to_json().as_bytes());
            assert_eq!(back.unwrap(), body);
            let kind = RecordKind::from_word(body.kind().as_str());
            assert_eq!(kind, Some(body.kind()));
            let event: serde_json::Value =
                serde_json::from_slice(&body.event("//mingchu/a/b", 9, T, true)).unwrap();
            assert_eq!(event["id"], body.event_id());
            assert_eq!(event["seq"], 9);
            let kind = event["type"].as_str().unwrap();
            assert_eq!(&kind[kind.len() - 3..], ".v1");
        }
    }

    #[test]
    fn a_coverage_report_over_the_wire_is_a_cloud_event() {
        let report = CoverageReport {
            hour: UtcMicros(1_795_489_200_000_000),
            revision: 1,
            partial: false,
            cameras: vec![CameraCoverage {
                camera: "wok-1".to_owned(),
                watched_ms: 3_599_000,
                blind_ms: [("offline".to_owned(), 1000)].into(),
            }],
            covered_ms: 3_600_000,
            evidence_head: None,
        };
        let body = RecordBody::Coverage(Box::new(report));
        let text = String::from_utf8(body.event("//mingchu/410724/site-1", 7, T, false)).unwrap();
        insta::assert_snapshot!(text, @r#"{"specversion":"1.0","id":"coverage.2026-11-24T03:00:00.000Z.1","source":"//mingchu/410724/site-1","type":"cn.mingchu.coverage.v1","subject":"site","time":"2026-11-24T03:12:07.412Z","datacontenttype":"application/json","seq":7,"data":{"hour":"2026-11-24T03:00:00.000Z","revision":1,"partial":false,"cameras":[{"camera":"wok-1","watched_ms":3599000,"blind_ms":{"offline":1000}}],"covered_ms":3600000}}"#);
    }
}
