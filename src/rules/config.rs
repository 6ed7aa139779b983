//! What a rule is.
use super::schedule::When;
use crate::base::geometry::{Point, Polygon};
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

/// A named part of the picture: a polygon, less what is excluded from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name in payloads.
    pub name: Name,
    /// An object is in the zone if the middle of its box is.
    pub polygon: Polygon,
    /// And is in none of these.
    pub exclude: Vec<Polygon>,
}

/// Where a point lies, as a zone sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the zone.
    Inside,
    /// Not in its polygon.
    Outside,
    /// In its polygon, but in the excluded area of this index.
    Excluded(usize),
}

/// Points along each side of a zone's bounds by which it is decided whether anything is left of it.
const GRID: u16 = 128;

impl Zone {
    /// Where `point` lies.
    pub fn place(&self, point: Point) -> Place {
        if !self.polygon.contains(point) {
            return Place::Outside;
        }
        let excluded = self.exclude.iter().position(|p| p.contains(point));
        excluded.map_or(Place::Inside, Place::Excluded)
    }

    /// Whether the excluded areas leave nothing of the polygon, as far as a grid of
    /// 128 × 128 points over its bounds can tell.
    pub fn is_nothing(&self) -> bool {
        let corners = self.polygon.corners().iter();
        let axis = |values: &mut dyn Iterator<Item = f32>| {
            values.fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)))
        };
        let (left, right) = axis(&mut corners.clone().map(|p| p.x));
        let (top, bottom) = axis(&mut corners.map(|p| p.y));
        let along =
            |lo: f32, hi: f32, n: u16| lo + (hi - lo) * (f32::from(n) + 0.5) / f32::from(GRID);
        let point = |x, y| Point {
            x: along(left, right, x),
            y: along(top, bottom, y),
        };
        let mut points = (0..GRID).flat_map(|y| (0..GRID).map(move |x| (x, y)));
        !points.any(|(x, y)| self.place(point(x, y)) == Place::Inside)
    }
}

/// What a track must show at a moment for a finding to open.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gate {
    /// See [`RuleConfig::threshold`].
    pub threshold: f32,
    /// See [`RuleConfig::samples`]; at least 1.
    pub samples: usize,
    /// See [`RuleConfig::hits`].
    pub hits: Option<usize>,
    /// See [`RuleConfig::dwell_ms`].
    pub dwell_ms: u64,
    /// Whether [`RuleConfig::off_hours`] made it easier.
    pub off_hours: bool,
}

/// Outside business hours a rule may need less evidence: nobody is there to see the rat, and nobody
/// who could be taken for one.
#[derive(Clone, Debug, PartialEq)]
pub struct OffHours {
    /// When business is; outside of it this holds.
    pub business: When,
    /// `threshold` and `dwell_ms` are multiplied by this, `0.0..=1.0`.
    pub factor: f32,
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
    /// So many samples in a row must be in the zone before a track counts as in it, and out of it
    /// before it counts as out; at least 1 (0 is taken as 1).
    pub zone_samples: u32,
    /// When it watches.
    pub when: When,
    /// What the scores in a track's window must reach, `0.0..=1.0`: their median, or `hits` of them. A
    /// picture that shows the track as another class counts as score 0, which never passes.
    pub threshold: f32,
    /// Pictures in the window, at least 1 (0 is taken as 1). Without `hits` a window of fewer than
    /// this and fewer than 3 does not pass yet.
    pub samples: usize,
    /// So many of the scores in the window must reach `threshold`; `None`: their median must.
    pub hits: Option<usize>,
    /// How long a track must pass the gate before a finding opens, in milliseconds of watched time;
    /// 0: with the first picture that passes.
    pub dwell_ms: u64,
    /// What changes outside business hours.
    pub off_hours: Option<OffHours>,
    /// An object that has not moved since it was first seen, and for so long, is a thing; in
    /// milliseconds of watched time. 0: all objects count, however still.
    pub still_ms: u64,
    /// Watched time without the violation before it closes, in milliseconds.
    pub clear_ms: u64,
    /// A violation that returns within so long of the closing reopens the finding, in milliseconds; 0:
    /// each return is a finding of its own.
    pub cooldown_ms: u64,
    /// Least time between two `updated` revisions, in milliseconds.
    pub update_ms: u64,
    /// An open finding that is still seen so long after it was last told as news is told as news
    /// again, in milliseconds; 0: never.
    pub realert_ms: u64,
}

impl RuleConfig {
    /// A rule of the whole picture, day and night, with the times that suit most; without cameras,
    /// classes and threshold, which nobody can guess.
    pub fn new(id: Name, code: Name, urgency: Urgency) -> Self {
        Self {
            id,
            version: 1,
            code,
            urgency,
            cameras: Vec::new(),
            classes: Vec::new(),
            zone: None,
            zone_samples: 2,
            when: When::Always,
            threshold: 0.0,
            samples: 5,
            hits: None,
            dwell_ms: 3000,
            off_hours: None,
            still_ms: 0,
            clear_ms: 20_000,
            cooldown_ms: 300_000,
            update_ms: 60_000,
            realert_ms: 1_800_000,
        }
    }

    /// What it asks for, outside business hours or in them.
    pub fn gate(&self, is_off_hours: bool) -> Gate {
        let off = self.off_hours.as_ref().filter(|_| is_off_hours);
        let factor = off.map_or(1.0, |o| o.factor);
        Gate {
            threshold: self.threshold * factor,
            samples: self.samples.max(1),
            hits: self.hits,
            dwell_ms: (self.dwell_ms as f64 * f64::from(factor)).round() as u64,
            off_hours: off.is_some(),
        }
    }

    /// Whether both decide the same of the same tracks: all but the name of things and the cameras.
    pub(super) fn decides_like(&self, other: &Self) -> bool {
        let same_cameras = Self {
            cameras: self.cameras.clone(),
            ..other.clone()
        };
        *self == same_cameras
    }

    /// The lowest threshold that it ever asks for.
    pub fn least_threshold(&self) -> f32 {
        self.gate(false).threshold.min(self.gate(true).threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x0: f32, y0: f32, x1: f32, y1: f32) -> Polygon {
        let p = |x, y| Point { x, y };
        Polygon::new(vec![p(x0, y0), p(x1, y0), p(x1, y1), p(x0, y1)]).unwrap()
    }

    fn zone(exclude: Vec<Polygon>) -> Zone {
        Zone {
            name: Name::new("wok").unwrap(),
            polygon: rect(0.2, 0.2, 0.8, 0.8),
            exclude,
        }
    }

    #[test]
    fn a_point_is_inside_outside_or_excluded() {
        let zone = zone(vec![rect(0.0, 0.0, 0.3, 0.3), rect(0.7, 0.7, 1.0, 1.0)]);
        let place = |x, y| zone.place(Point { x, y });
        assert_eq!(place(0.5, 0.5), Place::Inside);
        assert_eq!(place(0.1, 0.1), Place::Outside);
        assert_eq!(place(0.25, 0.25), Place::Excluded(0));
        assert_eq!(place(0.75, 0.75), Place::Excluded(1));
    }

    #[test]
    fn a_zone_that_is_excluded_whole_is_nothing() {
        assert!(!zone(vec![]).is_nothing());
        assert!(!zone(vec![rect(0.2, 0.2, 0.8, 0.79)]).is_nothing());
        assert!(zone(vec![rect(0.0, 0.0, 1.0, 1.0)]).is_nothing());
        let halves = vec![rect(0.0, 0.0, 0.5, 1.0), rect(0.5, 0.0, 1.0, 1.0)];
        assert!(zone(halves).is_nothing());
    }
}
