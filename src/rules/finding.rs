//! What rules hand on: findings as they open, change and close. Data only; what the sequence of
//! changes promises is in `engine.rs`.
use uuid::Uuid;

use super::config::Gate;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId, RuleIx};
use crate::base::time::{FrameStamp, UtcMicros};
use crate::track::TrackId;

/// Where a finding is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Revision 1.
    Opened,
    /// It goes on; sent at most once per `update_ms` of the rule.
    Updated,
    /// Over; [`CloseReason`] says why. Only a return within the rule's cool-down comes after it.
    Closed,
    /// Back within the cool-down.
    Reopened,
}

/// Why a finding closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Not seen for the rule's `clear_ms` of watched time.
    Clear,
    /// The same, but what it was about is still there and has turned out to be a thing.
    Still,
    /// The rule's hours are over. This says nothing about whether the violation went on.
    OffSchedule,
}

impl CloseReason {
    /// The word in payloads.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Still => "still",
            Self::OffSchedule => "off-schedule",
        }
    }
}

/// One object of a finding in the deciding picture.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingObject {
    /// What it shows.
    pub class: ClassId,
    /// Its score in the deciding picture.
    pub score: f32,
    /// Where it is.
    pub rect: NormRect,
    /// Which track.
    pub track: TrackId,
}

/// One revision of a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingChange {
    /// UUID v7, the same for all revisions of one incident. Derived from what it is about (site
    /// seed, camera, rule, moment), so that a replay of the same pictures gives the same id.
    pub finding: Uuid,
    /// 1, 2, 3 … without gaps.
    pub revision: u32,
    /// See [`Phase`].
    pub phase: Phase,
    /// Which rule decided.
    pub rule: RuleIx,
    /// Which camera.
    pub camera: CameraIx,
    /// Receipt of the first picture of the incident: the one from which the track that opened it
    /// passed the gate.
    pub first_seen: UtcMicros,
    /// Receipt of the newest picture that showed it.
    pub last_seen: UtcMicros,
    /// Receipt of the picture that closed it.
    pub closed_at: Option<UtcMicros>,
    /// Why it closed.
    pub reason: Option<CloseReason>,
    /// It has gone on for the rule's `realert_ms`: worth telling people again. Only of `updated`.
    pub realert: bool,
    /// What was asked for when it was last seen.
    pub gate: Gate,
    /// Pictures that showed it since `first_seen`.
    pub samples: u32,
    /// The scores in the deciding track's window, oldest first: what the median gate saw in the
    /// newest picture that showed it. Empty if a restart came between and it was not seen since.
    pub scores: Vec<f32>,
    /// What was seen in the newest picture that showed it, highest score first. Empty if a restart
    /// came between and it was not seen since.
    pub objects: Vec<FindingObject>,
    /// The picture that decided this revision.
    pub stamp: FrameStamp,
}

/// What is needed to go on with a finding after a restart; the ledger keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenFinding {
    /// As in [`FindingChange`].
    pub finding: Uuid,
    /// The newest revision.
    pub revision: u32,
    /// Which rule.
    pub rule: RuleIx,
    /// Which camera.
    pub camera: CameraIx,
    /// As in [`FindingChange`].
    pub first_seen: UtcMicros,
    /// As in [`FindingChange`].
    pub last_seen: UtcMicros,
    /// As in [`FindingChange`].
    pub samples: u32,
    /// As in [`FindingChange`]. One that is closed can be given to [`super::RuleEngine::restore`] too:
    /// within its cool-down it can reopen.
    pub closed_at: Option<UtcMicros>,
}
