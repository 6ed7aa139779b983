//! What a rule is.
use crate::base::geometry::Polygon;
use crate::base::ids::{CameraIx, ClassId, Name};

/// How soon a violation must be acted on; decides the order of delivery too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Class 1.
    Immediate,
    /// Class 2.
    TimeLimited,
    /// Class 3.
    Routine,
}

impl Urgency {
    /// 1, 2 or 3, as in payloads and config (`class`).
    pub fn class(self) -> u8 {
        match self {
            Self::Immediate => 1,
            Self::TimeLimited => 2,
            Self::Routine => 3,
        }
    }

    /// From 1, 2 or 3.
    pub fn from_class(class: u8) -> Option<Self> {
        [Self::Immediate, Self::TimeLimited, Self::Routine]
            .into_iter()
            .find(|u| u.class() == class)
    }
}

/// A named part of the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name in payloads.
    pub name: Name,
    /// An object is in the zone if the middle of its box is.
    pub polygon: Polygon,
}

/// "Objects of these classes in this zone for this long are a violation".
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// Its name, unique in the site.
    pub id: Name,
    /// Set by whoever writes the config; goes into every finding.
    pub version: u32,
    /// Violation code, e.g. `ppe.mask.missing`; the last level of the finding's topic.
    pub code: Name,
    /// How soon it must be acted on.
    pub urgency: Urgency,
    /// Cameras it watches.
    pub cameras: Vec<CameraIx>,
    /// Classes that count as the violation.
    pub classes: Vec<ClassId>,
    /// `None`: the whole picture.
    pub zone: Option<Zone>,
    /// The median of a track's scores in its window must reach this, `0.0..=1.0`. A picture that
    /// shows the track as another class counts as score 0, and a median of 0 never passes.
    pub threshold: f32,
    /// Pictures in the window, at least 1 (0 is taken as 1). A window of fewer than this and fewer
    /// than 3 does not pass yet.
    pub samples: usize,
    /// How long a track must pass the gate before a finding opens, in milliseconds of watched time;
    /// 0: with the first picture that passes.
    pub dwell_ms: u64,
    /// Watched time without the violation before it closes, in milliseconds.
    pub clear_ms: u64,
    /// Least time between two `updated` revisions, in milliseconds.
    pub update_ms: u64,
}

impl RuleConfig {
    /// Whether both decide the same of the same tracks: all but the name of things and the cameras.
    pub(super) fn decides_like(&self, other: &Self) -> bool {
        let same_cameras = Self {
            cameras: self.cameras.clone(),
            ..other.clone()
        };
        *self == same_cameras
    }
}
