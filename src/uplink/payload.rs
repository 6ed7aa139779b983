//! What goes over the wire, as the centre reads it: findings, status, telemetry, receipts.
//!
//! What must not be here: topics, and how anything is delivered. Names, order and meaning of the
//! fields are a public contract (v1): a field may be added at the end of its object, none may change
//! or go. Times are RFC 3339 in UTC with milliseconds; scores have at most four decimals.
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::config::SiteIdentity;
use crate::base::time::UtcMicros;
use crate::base::words::Texts;

/// Media type of a finding's message, for the MQTT 5 content type.
pub const FINDING_CONTENT_TYPE: &str = "application/cloudevents+json";
/// Media type of every other payload.
pub const JSON_CONTENT_TYPE: &str = "application/json";

/// Times as RFC 3339 text. Reading keeps microseconds if they are given.
pub(super) mod rfc3339 {
    use super::{Deserialize, Deserializer, Serializer, UtcMicros};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
    pub fn serialize<S: Serializer>(t: &UtcMicros, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(t)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<UtcMicros, D::Error> {
        let text = String::deserialize(d)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(UtcMicros(time.as_microsecond()))
    }

    pub mod option {
        use super::{Deserializer, Serializer, UtcMicros};
        use serde::Deserialize;

        #[expect(clippy::ref_option, reason = "serde gives references")]
        pub fn serialize<S: Serializer>(t: &Option<UtcMicros>, s: S) -> Result<S::Ok, S::Error> {
            match t {
                Some(t) => s.collect_str(t),
                None => s.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<UtcMicros>, D::Error> {
            #[derive(Deserialize)]
            struct Time(#[serde(with = "super")] UtcMicros);
            Ok(Option::<Time>::deserialize(d)?.map(|t| t.0))
        }
    }
}

impl JsonSchema for UtcMicros {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // What is read may be any RFC 3339 time; what is sent is always the same form of it.
        if generator.contract().is_deserialize() {
            return schemars::json_schema!({"type": "string", "format": "date-time"});
        }
        let form = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$";
        schemars::json_schema!({"type": "string", "format": "date-time", "pattern": form})
    }
}

/// Four decimals; what is not a number becomes 0, for JSON has no word for it. In double precision,
/// so that every serializer writes 0.9123 and none 0.912299990654.
fn rounded(v: f32) -> f64 {
    if v.is_finite() {
        (f64::from(v) * 1e4).round() / 1e4
    } else {
        0.0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn one_rounded<S: Serializer>(v: &f32, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(rounded(*v))
}

fn all_rounded<S: Serializer>(v: &[f32], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(v.iter().map(|v| rounded(*v)))
}

fn points_rounded<S: Serializer>(points: &[[f32; 2]], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(points.iter().map(|p| p.map(rounded)))
}

fn areas_rounded<S: Serializer>(areas: &[Vec<[f32; 2]>], s: S) -> Result<S::Ok, S::Error> {
    let area = |a: &Vec<[f32; 2]>| a.iter().map(|p| p.map(rounded)).collect::<Vec<_>>();
    s.collect_seq(areas.iter().map(area))
}

/// A record as a CloudEvent 1.0 in structured JSON. Receivers upsert on (`source`, `id`): duplicates
/// are expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event<T> {
    /// Always `1.0`.
    #[schemars(extend("const" = "1.0"))]
    pub specversion: String,
    /// The same however often it is sent; of a finding `<finding>.<revision>`.
    pub id: String,
    /// `//mingchu/{region}/{site}`.
    #[schemars(regex(pattern = "^//mingchu/[a-z0-9.-]+/[a-z0-9.-]+$"))]
    pub source: String,
    /// `cn.mingchu.….v1`; of a finding `cn.mingchu.finding.{opened|updated|closed|reopened}.v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about; of a finding `camera/{id}`.
    pub subject: String,
    /// When the record was committed; the same however often it is sent.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub time: UtcMicros,
    /// Always `application/json`.
    #[schemars(extend("const" = "application/json"))]
    pub datacontenttype: String,
    /// Number of the record in its site, from 1, without gaps.
    #[schemars(range(min = 1))]
    pub seq: u64,
    /// The record itself.
    pub data: T,
}

/// A revision of a finding over the wire.
pub type FindingEvent = Event<FindingData>;

impl<T> Event<T> {
    /// Wraps `data`, committed as record `seq` at `time`.
    pub fn wrap(
        source: &str,
        seq: u64,
        time: UtcMicros,
        id: String,
        kind: String,
        subject: String,
        data: T,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id,
            source: source.to_owned(),
            kind,
            subject,
            time,
            datacontenttype: "application/json".to_owned(),
            seq,
            data,
        }
    }
}

/// Who speaks, in an event's `source`.
pub fn source_of(site: &SiteIdentity) -> String {
    format!("//mingchu/{}/{}", site.region, site.site)
}

/// Where a finding is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FindingPhase {
    /// Revision 1.
    Opened,
    /// It goes on.
    Updated,
    /// It is over.
    Closed,
    /// It came back within its rule's cool-down after it was closed.
    Reopened,
}

impl FindingPhase {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Closed => "closed",
            Self::Reopened => "reopened",
        }
    }
}

/// One revision of a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FindingData {
    /// UUID v7, the same for all revisions.
    pub finding: Uuid,
    /// 1, 2, 3 … without gaps.
    #[schemars(range(min = 1))]
    pub revision: u32,
    /// See [`FindingPhase`].
    pub phase: FindingPhase,
    /// Violation code, e.g. `ppe.mask.missing`; also the last level of the topic, so it holds only
    /// `[a-z0-9-.]`.
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9.-]*$"))]
    pub code: String,
    /// 1 immediate, 2 time-limited, 3 routine. Class 1 is delivered first.
    #[schemars(range(min = 1, max = 3))]
    pub class: u8,
    /// Set by the uplink when it sends: this is not news, it was committed before the connection
    /// began or was sent before.
    pub replayed: bool,
    /// Where it happened.
    pub site: SiteRef,
    /// Which camera saw it.
    pub camera: CameraRef,
    /// Which rule decided.
    pub rule: RuleRef,
    /// Which model saw it; absent if none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// Receipt of the first picture of the incident.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub first_seen: UtcMicros,
    /// Receipt of the newest picture that showed it.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub last_seen: UtcMicros,
    /// Receipt of the picture that closed it; null while it is open.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<UtcMicros>")]
    pub closed_at: Option<UtcMicros>,
    /// Pictures that showed it since `first_seen`.
    #[schemars(range(min = 1))]
    pub samples: u32,
    /// The scores in the rule's window, oldest first, `0.0..=1.0`.
    #[serde(serialize_with = "all_rounded")]
    #[schemars(with = "Vec<f32>", inner(range(min = 0.0, max = 1.0)))]
    pub scores: Vec<f32>,
    /// What was seen in the newest picture that showed it.
    pub objects: Vec<ObjectRef>,
    /// What there is to look at.
    pub evidence: Vec<EvidenceRef>,
    /// How far the times can be trusted.
    pub clock: ClockRef,
    /// All models whose classes the rule counts, in the order of the site's.
    #[serde(default)]
    pub models: Vec<ModelRef>,
    /// The part of the picture the rule watches; absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneRef>,
    /// It has gone on for so long that people should be told again. Only of `updated`.
    #[serde(default)]
    pub realert: bool,
    /// Why it closed: `clear` (not seen any more), `still` (it is still there, and a thing),
    /// `off-schedule` (the rule's hours are over), `config` (the site no longer has the rule or
    /// the camera); null while it is open.
    #[serde(default)]
    pub reason: Option<String>,
    /// The centre has asked not to be bothered with it; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted: Option<MutedRef>,
    /// What is wrong with the camera, for people, in English; only of `device.camera.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Evidence that should be there and is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingEvidence>,
    /// What `code` means, for people; a code of the site's own is its own title.
    #[serde(default)]
    pub title: Texts,
    /// `detail` in Chinese.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail_zh: Option<String>,
    /// Fields that were left out because the broker takes no larger messages; the site has them, and
    /// another connection may bring them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reduced: Vec<String>,
}

/// The names of what is left out, and how.
type Reduction = (&'static [&'static str], fn(&mut FindingData));

impl FindingData {
    /// The same, ever shorter: what explains it goes last, what can be asked for goes first.
    pub fn reductions(&self) -> impl Iterator<Item = Self> {
        let mut left = self.clone();
        let steps: [Reduction; 3] = [
            (&["evidence", "missing"], |f| {
                f.evidence = Vec::new();
                f.missing = Vec::new();
            }),
            (&["objects", "zone", "models"], |f| {
                f.objects = Vec::new();
                f.zone = None;
                f.models = Vec::new();
            }),
            (&["scores"], |f| f.scores = Vec::new()),
        ];
        steps.into_iter().map(move |(names, leave_out)| {
            leave_out(&mut left);
            let names = names.iter().map(|n| (*n).to_owned());
            left.reduced.extend(names);
            left.clone()
        })
    }
}

/// Why a finding need not be acted on at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MutedRef {
    /// Who asked for it.
    pub by: String,
    /// When it ends.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub until: UtcMicros,
    /// Why.
    pub reason: String,
}

/// A part of a picture; points are `[x, y]` as fractions of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneRef {
    /// Its name in the site's config.
    pub name: String,
    /// Its corners.
    #[serde(serialize_with = "points_rounded")]
    #[schemars(with = "Vec<[f32; 2]>")]
    pub polygon: Vec<[f32; 2]>,
    /// The corners of each area that does not count.
    #[serde(serialize_with = "areas_rounded")]
    #[schemars(with = "Vec<Vec<[f32; 2]>>")]
    pub exclude: Vec<Vec<[f32; 2]>>,
}

/// The premises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteRef {
    /// As in the topic.
    pub id: String,
    /// Unified social credit code of the business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uscc: Option<String>,
}

/// The camera.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CameraRef {
    /// Its name in the site.
    pub id: String,
    /// Its GB/T 28181 device id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]{20}$"))]
    pub gb28181: Option<String>,
    /// The part of the picture the rule watches; absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// The rule, with what it asked for, so that the finding explains itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleRef {
    /// Its name in the site's config.
    pub id: String,
    /// As its author counts.
    #[schemars(range(min = 1))]
    pub version: u32,
    /// How long it had to last before a finding opened, in milliseconds; as it was asked for at that
    /// hour.
    pub dwell_ms: u64,
    /// What the median score, or `hits` of the scores, had to reach, `0.0..=1.0`; as it was asked for
    /// at that hour.
    #[serde(serialize_with = "one_rounded")]
    #[schemars(with = "f32", range(min = 0.0, max = 1.0))]
    pub threshold: f32,
    /// Pictures in the window of scores.
    #[schemars(range(min = 1))]
    pub window: u32,
    /// Watched time without the violation before it closes, in milliseconds.
    pub clear_ms: u64,
    /// So many scores of the window had to reach the threshold; null: their median had to.
    #[serde(default)]
    pub hits: Option<u32>,
    /// When it watches: `always`, `business`, `off-hours` or `hours` (of its own).
    #[serde(default)]
    pub when: String,
    /// It was outside business hours, and less evidence was enough.
    #[serde(default)]
    pub off_hours: bool,
    /// A return within so long of the closing reopens it, in milliseconds; 0: never.
    #[serde(default)]
    pub cooldown_ms: u64,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// Name on its card.
    pub name: String,
    /// Version on its card.
    pub version: String,
    /// Digest of its file, 64 hex digits.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

/// One object seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// What it shows.
    pub label: String,
    /// `0.0..=1.0`.
    #[serde(serialize_with = "one_rounded")]
    #[schemars(with = "f32", range(min = 0.0, max = 1.0))]
    pub score: f32,
    /// Left, top, right, bottom as fractions of the picture.
    #[serde(rename = "box", serialize_with = "all_rounded")]
    #[schemars(with = "[f32; 4]", inner(range(min = 0.0, max = 1.0)))]
    pub rect: [f32; 4],
    /// Ephemeral: means nothing outside the finding.
    pub track: u64,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceRef {
    /// What it is: `frame`, `annotated`, `clip`.
    pub kind: String,
    /// Media type, e.g. `image/jpeg`.
    pub media: String,
    /// Digest of the file, 64 hex digits.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Size of the file.
    #[schemars(range(min = 1))]
    pub bytes: u64,
    /// Whether faces in it are blurred: in the file of this digest.
    pub redacted: bool,
    /// Last level of the topic `evidence/{finding}/{n}` on which it comes, or came, or on which it can
    /// be asked for with the command `clip`; absent if nothing of it may leave. Where `withheld` is
    /// there too, what comes is a copy with faces blurred, with a digest of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Why the file of this digest stays at the site, in English; absent if it may leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// Evidence that could not be made or kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingEvidence {
    /// As in [`EvidenceRef`].
    pub kind: String,
    /// Why, in English.
    pub why: String,
}

/// The state of the site's clock when the revision was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockRef {
    /// Whether something kept it right.
    pub synced: bool,
    /// What kept it: `ntp`, `rtc`, `none`.
    #[schemars(extend("enum" = ["ntp", "rtc", "none"]))]
    pub source: String,
    /// How far it may be off; null if nobody knows.
    pub uncertainty_ms: Option<u64>,
}

/// The site's word on itself, retained. The last will is the same with `online: false`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteStatus {
    /// Whether the daemon is connected.
    pub online: bool,
    /// Rises with every connection, for ever: a status with a lower epoch than one already seen is
    /// old, whenever it arrives.
    pub epoch: u64,
    /// The daemon's version.
    pub version: String,
    /// What runs the networks: `cpu`, `openvino` or `cuda`.
    #[serde(default)]
    pub provider: String,
    /// When the daemon started.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub started: UtcMicros,
    /// When this was written; for the will, when the connection began.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub time: UtcMicros,
    /// How many cameras there are, whatever their state.
    pub cameras: u32,
    /// What waits; absent in a will, which cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxStatus>,
    /// What a person should look at, in English, one line each. Empty: all is well.
    pub problems: Vec<String>,
    /// `problems` in Chinese, line by line.
    #[serde(default)]
    pub problems_zh: Vec<String>,
}

/// The outbox in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxStatus {
    /// Records waiting or on their way.
    pub records: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_seconds: u64,
    /// Records the broker refused for good; kept, and tried again after a restart.
    pub parked: u64,
}

/// What a camera is doing. A receiver takes a word that it does not know for a camera that does not see:
/// there may be more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CameraState {
    /// Pictures come and are looked at.
    Online,
    /// A session is being opened.
    Connecting,
    /// The camera refuses the login.
    Unauthorised,
    /// Not reachable, silent or lost.
    Offline,
    /// Reachable, but there is no video we can decode.
    NoVideo,
    /// One plain colour, as when the camera's privacy mask is on.
    Masked,
    /// The picture does not change at all.
    Frozen,
    /// Something covers the lens.
    Occluded,
    /// Too dark to see.
    Dark,
    /// Out of focus.
    Defocused,
    /// It looks elsewhere than it did.
    Moved,
    /// Its clock is off.
    ClockSkew,
    /// Its decoder failed too often; tried again later.
    Failed,
    /// A file that does not repeat is over.
    Ended,
}

/// A camera's state as the site knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraReport {
    /// Its name; a topic level.
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9.-]*$"))]
    pub camera: String,
    /// See [`CameraState`].
    pub state: CameraState,
    /// Since when.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub since: UtcMicros,
    /// Why, for people, in English; empty while online.
    pub detail: String,
    /// `h264` or `h265`; null until known.
    #[schemars(extend("enum" = ["h264", "h265", null]))]
    pub codec: Option<String>,
    /// Columns; null until known.
    pub width: Option<u32>,
    /// Rows; null until known.
    pub height: Option<u32>,
    /// Pictures a second as received; null until known.
    pub fps: Option<f32>,
    /// What `state` means, for people.
    #[serde(default)]
    pub title: Texts,
    /// `detail` in Chinese.
    #[serde(default)]
    pub detail_zh: String,
}

impl CameraReport {
    /// What there is to say of the state, in both languages.
    pub fn details(&self) -> Texts {
        Texts {
            en: self.detail.clone(),
            zh: self.detail_zh.clone(),
        }
    }
}

/// A camera's word, retained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraStatus {
    /// The state.
    #[serde(flatten)]
    pub report: CameraReport,
    /// When this was written.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub time: UtcMicros,
    /// As in [`SiteStatus`]. A camera has no will of its own: once the site's status is offline, all
    /// its cameras' are void.
    pub epoch: u64,
}

/// Counters and gauges, not kept by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Telemetry {
    /// When they were read.
    #[serde(with = "rfc3339")]
    #[schemars(with = "UtcMicros")]
    pub time: UtcMicros,
    /// Since the daemon started.
    pub uptime_seconds: u64,
    /// `name{label="value"}` to value. Counters begin at 0 when the daemon starts.
    pub counters: BTreeMap<String, u64>,
}

/// The centre's word on what it has: all records up to `through`, but for `except`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The highest `seq` this speaks of.
    pub through: u64,
    /// Records up to `through` that the centre does not have: they are sent again at once.
    #[serde(default)]
    pub except: Vec<u64>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::ids::Name;

    /// 2026-11-24T03:12:07.412Z
    pub const T: UtcMicros = UtcMicros(1_795_489_927_412_000);

    pub fn site() -> SiteIdentity {
        SiteIdentity {
            region: Name::new("410724").unwrap(),
            site: Name::new("site-000123").unwrap(),
            uscc: Some("91410724MA00000000".to_owned()),
        }
    }

    pub fn finding(n: u128, revision: u32, phase: FindingPhase) -> FindingData {
        FindingData {
            finding: Uuid::from_u128(0x0193_5c3a_0000_7000_8000_0000_0000_0000 + n),
            revision,
            phase,
            code: "ppe.hat.missing".to_owned(),
            class: 2,
            replayed: false,
            site: SiteRef {
                id: "site-000123".to_owned(),
                uscc: Some("91410724MA00000000".to_owned()),
            },
            camera: CameraRef {
                id: "wok-1".to_owned(),
                gb28181: None,
                zone: Some("wok-line".to_owned()),
            },
            rule: RuleRef {
                id: "hat-wok".to_owned(),
                version: 7,
                dwell_ms: 5000,
                threshold: 0.55,
                window: 5,
                clear_ms: 10_000,
                hits: None,
                when: "business".to_owned(),
                off_hours: false,
                cooldown_ms: 300_000,
            },
            model: Some(ModelRef {
                name: "masked-face".to_owned(),
                version: "2".to_owned(),
                sha256: "00".repeat(32),
            }),
            first_seen: UtcMicros(T.0 - 5_000_000),
            last_seen: T,
            closed_at: (phase == FindingPhase::Closed).then_some(T),
            samples: 9,
            scores: vec![0.912_345_6, 0.83],
            objects: vec![ObjectRef {
                label: "head-bare".to_owned(),
                score: 0.912_345_6,
                rect: [0.412, 0.133, 0.468, 0.241],
                track: 17,
            }],
            evidence: vec![EvidenceRef {
                kind: "frame".to_owned(),
                media: "image/jpeg".to_owned(),
                sha256: "11".repeat(32),
                bytes: 81_234,
                redacted: true,
                n: Some(1),
                withheld: None,
            }],
            clock: ClockRef {
                synced: true,
                source: "ntp".to_owned(),
                uncertainty_ms: Some(12),
            },
            models: vec![ModelRef {
                name: "masked-face".to_owned(),
                version: "2".to_owned(),
                sha256: "00".repeat(32),
            }],
            zone: Some(ZoneRef {
                name: "wok-line".to_owned(),
                polygon: vec![[0.1, 0.2], [0.9, 0.2], [0.5, 0.987_7]],
                exclude: vec![vec![[0.1, 0.2], [0.2, 0.2], [0.1, 0.3]]],
            }),
            realert: false,
            reason: (phase == FindingPhase::Closed).then(|| "clear".to_owned()),
            missing: Vec::new(),
            muted: None,
            detail: None,
            title: crate::base::words::title("ppe.hat.missing"),
            detail_zh: None,
            reduced: Vec::new(),
        }
    }

    pub fn camera_report() -> CameraReport {
        CameraReport {
            camera: "wok-1".to_owned(),
            state: CameraState::NoVideo,
            since: T,
            detail: "the camera offers only audio".to_owned(),
            codec: Some("h264".to_owned()),
            width: Some(1920),
            height: Some(1080),
            fps: Some(25.0),
            title: crate::base::words::state_of("no_video"),
            detail_zh: "摄像头仅提供音频".to_owned(),
        }
    }

    /// Pretty JSON, after checking that it reads back as what was written.
    fn wire<T>(value: &T) -> String
    where
        T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug,
    {
        let text = serde_json::to_string_pretty(value).unwrap();
        let back: T = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string_pretty(&back).unwrap(), text);
        text
    }

    #[test]
    fn a_finding_is_a_cloud_event() {
        let data = finding(1, 3, FindingPhase::Updated);
        let body = crate::uplink::RecordBody::Finding(Box::new(data));
        let event = body.event(&source_of(&site()), 48_211, T, false);
        let event: FindingEvent = serde_json::from_slice(&event).unwrap();
        insta::assert_snapshot!(wire(&event), @r#"
        {
          "specversion": "1.0",
          "id": "01935c3a-0000-7000-8000-000000000001.3",
          "source": "//mingchu/410724/site-000123",
          "type": "cn.mingchu.finding.updated.v1",
          "subject": "camera/wok-1",
          "time": "2026-11-24T03:12:07.412Z",
          "datacontenttype": "application/json",
          "seq": 48211,
          "data": {
            "finding": "01935c3a-0000-7000-8000-000000000001",
            "revision": 3,
            "phase": "updated",
            "code": "ppe.hat.missing",
            "class": 2,
            "replayed": false,
            "site": {
              "id": "site-000123",
              "uscc": "91410724MA00000000"
            },
            "camera": {
              "id": "wok-1",
              "zone": "wok-line"
            },
            "rule": {
              "id": "hat-wok",
              "version": 7,
              "dwell_ms": 5000,
              "threshold": 0.55,
              "window": 5,
              "clear_ms": 10000,
              "hits": null,
              "when": "business",
              "off_hours": false,
              "cooldown_ms": 300000
            },
            "model": {
              "name": "masked-face",
              "version": "2",
              "sha256": "0000000000000000000000000000000000000000000000000000000000000000"
            },
            "first_seen": "2026-11-24T03:12:02.412Z",
            "last_seen": "2026-11-24T03:12:07.412Z",
            "closed_at": null,
            "samples": 9,
            "scores": [
              0.9123,
              0.83
            ],
            "objects": [
              {
                "label": "head-bare",
                "score": 0.9123,
                "box": [
                  0.412,
                  0.133,
                  0.468,
                  0.241
                ],
                "track": 17
              }
            ],
            "evidence": [
              {
                "kind": "frame",
                "media": "image/jpeg",
                "sha256": "1111111111111111111111111111111111111111111111111111111111111111",
                "bytes": 81234,
                "redacted": true,
                "n": 1
              }
            ],
            "clock": {
              "synced": true,
              "source": "ntp",
              "uncertainty_ms": 12
            },
            "models": [
              {
                "name": "masked-face",
                "version": "2",
                "sha256": "0000000000000000000000000000000000000000000000000000000000000000"
              }
            ],
            "zone": {
              "name": "wok-line",
              "polygon": [
                [
                  0.1,
                  0.2
                ],
                [
                  0.9,
                  0.2
                ],
                [
                  0.5,
                  0.9877
                ]
              ],
              "exclude": [
                [
                  [
                    0.1,
                    0.2
                  ],
                  [
                    0.2,
                    0.2
                  ],
                  [
                    0.1,
                    0.3
                  ]
                ]
              ]
            },
            "realert": false,
            "reason": null,
            "title": {
              "en": "No hat",
              "zh": "未戴工作帽"
            }
          }
        }
        "#);
    }

    #[test]
    fn a_status_says_what_waits_and_what_is_wrong() {
        let status = SiteStatus {
            online: true,
            epoch: 12,
            version: "0.1.0".to_owned(),
            provider: "cpu".to_owned(),
            started: UtcMicros(0),
            time: T,
            cameras: 4,
            outbox: Some(OutboxStatus {
                records: 3,
                bytes: 4096,
                oldest_seconds: 61,
                parked: 1,
            }),
            problems: vec!["camera wok-1: no video".to_owned()],
            problems_zh: vec!["摄像头 wok-1：无视频".to_owned()],
        };
        insta::assert_snapshot!(wire(&status), @r#"
        {
          "online": true,
          "epoch": 12,
          "version": "0.1.0",
          "provider": "cpu",
          "started": "1970-01-01T00:00:00.000Z",
          "time": "2026-11-24T03:12:07.412Z",
          "cameras": 4,
          "outbox": {
            "records": 3,
            "bytes": 4096,
            "oldest_seconds": 61,
            "parked": 1
          },
          "problems": [
            "camera wok-1: no video"
          ],
          "problems_zh": [
            "摄像头 wok-1：无视频"
          ]
        }
        "#);
        let will = SiteStatus {
            online: false,
            outbox: None,
            problems: Vec::new(),
            problems_zh: Vec::new(),
            ..status
        };
        insta::assert_snapshot!(wire(&will), @r#"
        {
          "online": false,
          "epoch": 12,
          "version": "0.1.0",
          "provider": "cpu",
          "started": "1970-01-01T00:00:00.000Z",
          "time": "2026-11-24T03:12:07.412Z",
          "cameras": 4,
          "problems": [],
          "problems_zh": []
        }
        "#);
    }

    #[test]
    fn a_cameras_status_is_one_flat_object() {
        let status = CameraStatus {
            report: camera_report(),
            time: T,
            epoch: 12,
        };
        insta::assert_snapshot!(wire(&status), @r#"
        {
          "camera": "wok-1",
          "state": "no_video",
          "since": "2026-11-24T03:12:07.412Z",
          "detail": "the camera offers only audio",
          "codec": "h264",
          "width": 1920,
          "height": 1080,
          "fps": 25.0,
          "title": {
            "en": "no video",
            "zh": "无视频"
          },
          "detail_zh": "摄像头仅提供音频",
          "time": "2026-11-24T03:12:07.412Z",
          "epoch": 12
        }
        "#);
    }

    #[test]
    fn telemetry_is_a_map_of_counters() {
        let counters = [
            ("outbox_records", 3),
            ("decode_frames_total{camera=\"wok-1\"}", 9),
        ];
        let telemetry = Telemetry {
            time: T,
            uptime_seconds: 3600,
            counters: counters.map(|(k, v)| (k.to_owned(), v)).into(),
        };
        insta::assert_snapshot!(wire(&telemetry), @r#"
        {
          "time": "2026-11-24T03:12:07.412Z",
          "uptime_seconds": 3600,
          "counters": {
            "decode_frames_total{camera=\"wok-1\"}": 9,
            "outbox_records": 3
          }
        }
        "#);
    }

    #[test]
    fn a_receipt_may_leave_out_its_exceptions() {
        let receipt: Receipt = serde_json::from_str(r#"{"through":7}"#).unwrap();
        assert_eq!(
            receipt,
            Receipt {
                through: 7,
                except: Vec::new()
            }
        );
        insta::assert_snapshot!(wire(&receipt), @r#"
        {
          "through": 7,
          "except": []
        }
        "#);
    }

    #[test]
    fn a_score_that_is_not_a_number_is_written_as_zero() {
        let mut data = finding(1, 1, FindingPhase::Opened);
        data.scores = vec![f32::NAN, 0.123_456];
        let json = serde_json::to_value(&data).unwrap();
        assert_eq!(json["scores"].to_string(), "[0.0,0.1235]");
    }
}
