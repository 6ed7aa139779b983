//! Why not: what each rule of a camera lacked at its newest picture. Data only, with plain words
//! for people; who shows it adds the names of rules, labels and cameras.
use std::time::Duration;

use uuid::Uuid;

use super::config::Gate;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId, RuleIx};
use crate::base::time::{FrameStamp, UtcMicros};
use crate::base::words::{Texts, why};
use crate::track::TrackId;

/// One rule on one camera, at the camera's newest picture.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleState {
    /// Which rule.
    pub rule: RuleIx,
    /// Which camera.
    pub camera: CameraIx,
    /// The picture.
    pub stamp: FrameStamp,
    /// What the rule asked for.
    pub gate: Gate,
    /// What it has to do with findings.
    pub standing: Standing,
    /// The track that lacked least; `None`: nothing of the rule's classes is there.
    pub nearest: Option<Nearest>,
    /// What it lacked, in the order in which the rule asks. Empty: the picture shows the violation,
    /// and a finding is open.
    pub lacks: Vec<Shortfall>,
}

/// What a rule has to do with findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Idle,
    /// One is open.
    Open {
        /// Which.
        finding: Uuid,
        /// Watched time since it was last seen, in milliseconds; it closes at the rule's `clear_ms`.
        unseen_ms: u64,
    },
    /// One has closed and would reopen.
    CoolingDown {
        /// Which.
        finding: Uuid,
        /// For so long, in milliseconds.
        left_ms: u64,
    },
}

/// A track, as a rule sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest {
    /// Which track.
    pub track: TrackId,
    /// Its class in the newest picture that showed it.
    pub class: ClassId,
    /// Its score there.
    pub score: f32,
    /// Where it is.
    pub rect: NormRect,
    /// The scores in its window, oldest first; 0: seen as another class.
    pub scores: Vec<f32>,
    /// What is held against the threshold: the scores' median, or the lowest of the `hits` highest.
    /// `None`: there are too few.
    pub value: Option<f32>,
    /// How long it has passed the gate, in milliseconds of watched time.
    pub dwelt_ms: u64,
}

/// One thing that a rule lacked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shortfall {
    /// It does not watch at this hour.
    OffSchedule {
        /// When it will; `None`: not within a year.
        until: Option<UtcMicros>,
    },
    /// Nothing of its classes was seen of late.
    NothingSeen {
        /// Objects of other classes.
        others: usize,
    },
    /// The tracker has seen the object too few times in a row.
    Unconfirmed {
        /// Pictures that showed it.
        seen: u32,
    },
    /// The object is not seen in this picture; the tracker only guesses where it is.
    Lost,
    /// The middle of its box is not in the zone.
    OutsideZone,
    /// The middle of its box is in an area that the zone excludes.
    Excluded {
        /// Which of `exclude`, from 0.
        area: usize,
    },
    /// It is in the zone, but not yet for long enough to count.
    EnteringZone {
        /// Samples in a row that showed it inside.
        inside: u32,
        /// So many are needed.
        needs: u32,
    },
    /// Too few pictures showed it.
    FewSamples {
        /// So many did.
        have: usize,
        /// So many are needed.
        needs: usize,
    },
    /// The median of its scores is too low.
    LowScore {
        /// The median.
        median: f32,
        /// What it must reach.
        threshold: f32,
        /// Of so many scores.
        samples: usize,
    },
    /// Too few of its scores are high enough.
    FewHits {
        /// So many are.
        hits: usize,
        /// So many must be.
        needs: usize,
        /// Of so many.
        samples: usize,
        /// What they must reach.
        threshold: f32,
    },
    /// It has stood still for so long that it is taken for a thing.
    Still {
        /// How long, in milliseconds of watched time.
        still_ms: u64,
        /// From when on.
        limit_ms: u64,
    },
    /// This very picture shows it as another class.
    OtherClass {
        /// Which.
        class: ClassId,
    },
    /// It has not lasted long enough.
    ShortDwell {
        /// How long it has, in milliseconds of watched time.
        dwelt_ms: u64,
        /// How long it must.
        needs_ms: u64,
    },
}

impl Shortfall {
    /// A stable word for it, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OffSchedule { .. } => "off-schedule",
            Self::NothingSeen { .. } => "nothing-seen",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Lost => "lost",
            Self::OutsideZone => "outside-zone",
            Self::Excluded { .. } => "excluded",
            Self::EnteringZone { .. } => "entering-zone",
            Self::FewSamples { .. } => "few-samples",
            Self::LowScore { .. } => "low-score",
            Self::FewHits { .. } => "few-hits",
            Self::Still { .. } => "still",
            Self::OtherClass { .. } => "other-class",
            Self::ShortDwell { .. } => "short-dwell",
        }
    }
}

impl Shortfall {
    /// What was lacking, for people; of another class without its name, which only the models know.
    pub fn text(&self) -> Texts {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        match *self {
            Self::OffSchedule { until: Some(until) } => why::off_until(until),
            Self::OffSchedule { until: None } => why::off_for_a_year(),
            Self::NothingSeen { others: 0 } => why::nothing(),
            Self::NothingSeen { others } => why::only_others(others),
            Self::Unconfirmed { seen } => why::unconfirmed(seen),
            Self::Lost => why::lost(),
            Self::OutsideZone => why::outside_zone(),
            Self::Excluded { area } => why::excluded(area + 1),
            Self::EnteringZone { inside, needs } => why::entering(inside, needs),
            Self::FewSamples { have, needs } => why::few_samples(have, needs),
            Self::LowScore {
                median,
                threshold,
                samples,
            } => why::low_score(
                format_args!("{median:.2}"),
                format_args!("{threshold:.2}"),
                samples,
            ),
            Self::FewHits {
                hits,
                needs,
                samples,
                threshold,
            } => why::few_hits(hits, needs, format_args!("{threshold:.2}"), samples),
            Self::Still { still_ms, limit_ms } => why::still(
                format_args!("{:.0}", seconds(still_ms)),
                format_args!("{:.0}", seconds(limit_ms)),
            ),
            Self::OtherClass { .. } => why::other_class(),
            Self::ShortDwell { dwelt_ms, needs_ms } => why::short(
                format_args!("{:.1}", seconds(dwelt_ms)),
                format_args!("{:.1}", seconds(needs_ms)),
            ),
        }
    }
}
