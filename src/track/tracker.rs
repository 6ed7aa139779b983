//! Two-threshold association: ByteTrack (Zhang et al. 2022, <https://arxiv.org/abs/2110.06864>)
//! for few and irregular pictures a second.
//!
//! What must not be here: what a class means, rules, a clock. One [`Tracker`] per camera, called
//! with that camera's pictures in order.
//!
//! # Operation, for each picture
//!
//! 1. Boxes that are no boxes (not a number, no area) are dropped. Of two that overlap by
//!    [`SAME_OBJECT_IOU`] within a class group the lower is dropped: detectors suppress per class,
//!    and one face seen both as bare and as masked must not become two tracks, one of them bare
//!    for good.
//! 2. Every track is predicted to the picture's time.
//! 3. High detections (at or above `score_high`, or, for some classes, a lower score of their own: see
//!    [`Tracker::with_starts`]) are matched to confirmed and lost tracks, then low ones to the confirmed
//!    tracks left over, then the high ones left over to tentative tracks.
//! 4. High detections still left over begin tracks. Tentative tracks that were not matched end,
//!    confirmed ones become lost, lost ones end after `lost_ms`.
//!
//! # Decisions
//!
//! 1. **Matching is optimal**, not greedy: see `assignment.rs`.
//! 2. **Overlap alone is not enough.** At 4 pictures a second a head of 6 % of the width that walks
//!    by moves more than its own size from one to the next, a rat two or three, and there is no
//!    velocity yet when the second picture comes. So a pair's weight is its overlap plus
//!    [`NEARNESS_WEIGHT`] × nearness, where nearness falls from 1 to 0 as the middles part to the
//!    *reach*: so many object sizes, growing with the time since the track was seen, up to
//!    [`REACH_MOST_SIZES`]. A pair is possible with `match_iou` of overlap, or within reach and of
//!    like size. In simulated scenes (4 pictures a second, 15 % of boxes missed, six heads walking
//!    and pausing) a head's id changed 9.3 times a minute by overlap alone and 2.1 times so.
//! 3. **Nearness is for high detections only**; a low one must overlap. Low boxes are often noise,
//!    and noise nearby must not keep a track alive.
//! 4. **A low detection never confirms**: a tentative track needs high ones in successive pictures.
//! 5. **A gap between pictures is not a miss.** A camera that is analysed every few seconds leaves
//!    more than `lost_ms` between two pictures. A track seen in the picture just before may so
//!    be matched across a gap of up to [`BRIDGE`], though by overlap only.
//!
//! # Invariants
//!
//! Ids rise and are never reused; a detection makes at most one hit and at most one track; groups
//! never mix; the tracker's own time never runs backward, whatever the stamps do; equal input
//! gives equal output.
use std::sync::Arc;
use std::time::Duration;

use super::assignment::assign;
use super::config::TrackConfig;
use super::motion::{Motion, size_of};
use super::tracks::{Track, TrackId, TrackSet, TrackState};
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::time::MonoMicros;
use crate::detect::{Detection, Detections};

/// Overlap at which two boxes of one class group in one picture are taken for one object. Two
/// people one behind the other may overlap by half, and must not become one.
const SAME_OBJECT_IOU: f32 = 0.65;
/// What nearness may add to a pair's weight; overlap adds up to 1. In the simulation, persons
/// changed ids 10 to 20 % more often at 0.25; heads at 10 pictures a second did so by 8 % at 2.
const NEARNESS_WEIGHT: f64 = 1.0;
/// How far the middle may be from the predicted one at once, in object sizes.
const REACH_LEAST_SIZES: f64 = 0.5;
/// How much the reach grows, in object sizes per second since the track was seen: a rat runs about
/// ten of its lengths.
const REACH_SIZES_PER_SEC: f64 = 8.0;
/// Where the reach ends, in object sizes: about the distance of two people side by side, in heads.
const REACH_MOST_SIZES: f64 = 2.5;
/// Within reach, boxes may differ in size by this factor.
const LIKE_SIZE: f64 = 2.0;
/// Longest gap between two pictures that a track may cross. Above 10 s, the interval of the
/// slowest analysis allowed (`DecodeConfig::analyse_fps` of 0.1).
const BRIDGE: Duration = Duration::from_secs(12);

/// A class group; classes that the group table does not know are each their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Known(u16),
    Alone(ClassId),
}

/// A track with what only the tracker needs.
#[derive(Clone, Debug)]
struct Live {
    track: Track,
    motion: Motion,
    group: Group,
}

/// A detection worth matching.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    detection: Detection,
    group: Group,
}

/// How a pair may come about, by association stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    OverlapOrNearness,
    Overlap,
}

/// The tracks of one camera.
#[derive(Clone, Debug)]
pub struct Tracker {
    camera: CameraIx,
    config: TrackConfig,
    groups: Arc<[u16]>,
    /// By class, where it is not `score_high`: the score from which a detection is high.
    starts: Arc<[f32]>,
    /// The newest receipt so far.
    now: MonoMicros,
    next_id: u64,
    /// By rising id.
    live: Vec<Live>,
}

impl Tracker {
    /// A tracker of `camera` that has seen nothing. `groups[class.0]` is the group of a class:
    /// classes of one group are looks of one kind of object (face-bare and face-masked), and only
    /// they are matched with each other. From the model cards.
    pub fn new(camera: CameraIx, config: TrackConfig, groups: Arc<[u16]>) -> Self {
        Self {
            camera,
            config,
            groups,
            starts: Arc::new([]),
            now: MonoMicros::default(),
            next_id: 0,
            live: Vec::new(),
        }
    }

    /// The same with a score of its own for each class from which a detection is high, where that is
    /// below `score_high`: scores of different models do not mean the same, and a rule must be able
    /// to trust a class from its own threshold on.
    #[must_use]
    pub fn with_starts(mut self, starts: Arc<[f32]>) -> Self {
        self.starts = starts;
        self
    }

    /// Other thresholds from the next picture on; the tracks go on. The classes must be the same:
    /// with other models a new tracker is needed.
    pub fn retune(&mut self, config: TrackConfig, starts: Arc<[f32]>) {
        (self.config, self.starts) = (config, starts);
    }

    fn is_high(&self, detection: &Detection) -> bool {
        let own = self.starts.get(usize::from(detection.class.0));
        let high = self.config.score_high;
        detection.score >= own.map_or(high, |own| own.min(high))
    }

    /// Takes one picture's detections and says which objects there are now, lost and tentative
    /// ones included. Pictures without detections count: they age the tracks.
    ///
    /// Time is `stamp.received`. Stamps should rise; one that is equal or earlier is taken as "no
    /// time has passed".
    pub fn update(&mut self, detections: &Detections) -> TrackSet {
        debug_assert_eq!(
            detections.camera, self.camera,
            "one tracker serves one camera"
        );
        // The first step may be the machine's whole uptime; there is nothing to predict then.
        let dt = detections.stamp.received.since(self.now);
        self.now = self.now.max(detections.stamp.received);
        let (high, low): (Vec<_>, Vec<_>) = self
            .candidates(&detections.items)
            .into_iter()
            .partition(|c| self.is_high(&c.detection));

        self.end_forgotten();
        for live in &mut self.live {
            live.motion.predict(dt.as_secs_f64());
        }
        let mut seen = vec![false; self.live.len()];
        let mut high_left = vec![true; high.len()];
        let mut low_left = vec![true; low.len()];

        // Indices into `live`; the states are still those of the picture before.
        let by_state = |live: &[Live], seen: &[bool], states: &[TrackState]| -> Vec<usize> {
            (0..live.len())
                .filter(|&i| !seen[i] && states.contains(&live[i].track.state))
                .collect()
        };
        let known = by_state(
            &self.live,
            &seen,
            &[TrackState::Confirmed, TrackState::Lost],
        );
        let pairs = self.pairs(&known, &high, &high_left, By::OverlapOrNearness);
        self.hit(&pairs, &high, &mut seen, &mut high_left);

        let active = by_state(&self.live, &seen, &[TrackState::Confirmed]);
        let pairs = self.pairs(&active, &low, &low_left, By::Overlap);
        self.hit(&pairs, &low, &mut seen, &mut low_left);

        let tentative = by_state(&self.live, &seen, &[TrackState::Tentative]);
        let pairs = self.pairs(&tentative, &high, &high_left, By::OverlapOrNearness);
        self.hit(&pairs, &high, &mut seen, &mut high_left);

        self.age(&seen);
        for (candidate, left) in high.iter().zip(high_left) {
            if left {
                self.begin(candidate);
            }
        }
        TrackSet {
            camera: self.camera,
            stamp: detections.stamp,
            tracks: self.live.iter().map(|l| l.track.clone()).collect(),
        }
    }

    fn group(&self, class: ClassId) -> Group {
        let known = self.groups.get(usize::from(class.0));
        known.map_or(Group::Alone(class), |&g| Group::Known(g))
    }

    /// The detections that are boxes and pass `score_low`, highest score first, one per object.
    fn candidates(&self, items: &[Detection]) -> Vec<Candidate> {
        let mut sound: Vec<Detection> = items
            .iter()
            .filter(|d| {
                let r = d.rect;
                d.score >= self.config.score_low
                    && [r.x0, r.y0, r.x1, r.y1].iter().all(|v| !v.is_nan())
            })
            .map(|d| Detection {
                class: d.class,
                score: d.score.clamp(0.0, 1.0),
                rect: NormRect::clipped(d.rect.x0, d.rect.y0, d.rect.x1, d.rect.y1),
                head: None,
            })
            .filter(|d| d.rect.area() > 0.0)
            .collect();
        sound.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Candidate> = Vec::with_capacity(sound.len());
        for detection in sound {
            let group = self.group(detection.class);
            if !kept.iter().any(|k| {
                k.group == group && k.detection.rect.iou(&detection.rect) >= SAME_OBJECT_IOU
            }) {
                kept.push(Candidate { detection, group });
            }
        }
        kept
    }

    /// Ends tracks that no detection may continue any more, see decision 5.
    fn end_forgotten(&mut self) {
        let (now, lost_ms) = (self.now, self.config.lost_ms);
        self.live.retain(|l| {
            let gap = now.since(l.track.last_seen);
            let bridged = l.track.state != TrackState::Lost && gap <= BRIDGE;
            bridged || gap <= Duration::from_millis(lost_ms)
        });
    }

    /// How well a detection goes on from a track; 0 if it does not.
    fn weight(&self, live: &Live, candidate: &Candidate, by: By) -> f64 {
        if live.group != candidate.group {
            return 0.0;
        }
        let rect = &candidate.detection.rect;
        let iou = live.motion.rect().iou(rect);
        let overlaps = iou > 0.0 && iou >= self.config.match_iou;
        let gap = self.now.since(live.track.last_seen);
        let mut nearness = 0.0;
        if gap <= Duration::from_millis(self.config.lost_ms) {
            let (ours, theirs) = (live.motion.size(), size_of(rect));
            let reach_sizes =
                (REACH_LEAST_SIZES + REACH_SIZES_PER_SEC * gap.as_secs_f64()).min(REACH_MOST_SIZES);
            let (a, b) = (live.motion.center(), rect.center());
            let apart = f64::from(a.x - b.x).hypot(f64::from(a.y - b.y));
            if ours.max(theirs) <= LIKE_SIZE * ours.min(theirs) {
                let reach = reach_sizes * f64::midpoint(ours, theirs);
                nearness = (1.0 - apart / reach).max(0.0);
            }
        }
        if overlaps || (by == By::OverlapOrNearness && nearness > 0.0) {
            f64::from(iou) + NEARNESS_WEIGHT * nearness
        } else {
            0.0
        }
    }

    /// Pairs (index into `live`, index into `candidates`) among the given tracks and the
    /// candidates still left.
    fn pairs(
        &self,
        tracks: &[usize],
        candidates: &[Candidate],
        left: &[bool],
        by: By,
    ) -> Vec<(usize, usize)> {
        let free: Vec<usize> = (0..candidates.len()).filter(|&c| left[c]).collect();
        let weights: Vec<f64> = tracks
            .iter()
            .flat_map(|&t| free.iter().map(move |&c| (t, c)))
            .map(|(t, c)| self.weight(&self.live[t], &candidates[c], by))
            .collect();
        assign(tracks.len(), free.len(), &weights)
            .into_iter()
            .zip(tracks)
            .filter_map(|(c, &t)| c.map(|c| (t, free[c])))
            .collect()
    }

    /// Gives each pair's detection to its track.
    fn hit(
        &mut self,
        pairs: &[(usize, usize)],
        candidates: &[Candidate],
        seen: &mut [bool],
        left: &mut [bool],
    ) {
        for &(t, c) in pairs {
            let (live, detection) = (&mut self.live[t], &candidates[c].detection);
            live.motion.correct(&detection.rect);
            let track = &mut live.track;
            track.class = detection.class;
            track.rect = detection.rect;
            track.score = detection.score;
            track.last_seen = self.now;
            track.hits = track.hits.saturating_add(1);
            if track.state != TrackState::Tentative || track.hits >= self.config.confirm_hits {
                track.state = TrackState::Confirmed;
            }
            (seen[t], left[c]) = (true, false);
        }
    }

    /// Tracks that this picture did not show become lost or end.
    fn age(&mut self, seen: &[bool]) {
        let (now, lost) = (self.now, Duration::from_millis(self.config.lost_ms));
        let mut seen = seen.iter();
        self.live.retain_mut(|live| {
            if *seen.next().expect("one flag per track") {
                return true;
            }
            if live.track.state == TrackState::Tentative || now.since(live.track.last_seen) > lost {
                return false;
            }
            live.track.state = TrackState::Lost;
            live.track.rect = live.motion.rect();
            true
        });
    }

    fn begin(&mut self, candidate: &Candidate) {
        let Candidate { detection, group } = *candidate;
        let id = TrackId(self.next_id);
        self.next_id += 1;
        let state = if self.config.confirm_hits <= 1 {
            TrackState::Confirmed
        } else {
            TrackState::Tentative
        };
        self.live.push(Live {
            track: Track {
                id,
                class: detection.class,
                state,
                rect: detection.rect,
                score: detection.score,
                first_seen: self.now,
                last_seen: self.now,
                hits: 1,
            },
            motion: Motion::new(&detection.rect),
            group,
        });
    }

    /// Panics if the state contradicts itself; for unit, property and fuzz tests.
    pub fn check_invariants(&self) {
        assert!(
            self.live.windows(2).all(|w| w[0].track.id < w[1].track.id),
            "ids rise"
        );
        for live in &self.live {
            let t = &live.track;
            live.motion.check_invariants();
            assert!(t.id.0 < self.next_id && t.hits >= 1, "{t:?}");
            assert!(
                t.first_seen <= t.last_seen && t.last_seen <= self.now,
                "{t:?}"
            );
            assert!((0.0..=1.0).contains(&t.score), "{t:?}");
            let r = t.rect;
            assert!(0.0 <= r.x0 && r.x0 <= r.x1 && r.x1 <= 1.0, "{t:?}");
            assert!(0.0 <= r.y0 && r.y0 <= r.y1 && r.y1 <= 1.0, "{t:?}");
            assert_eq!(live.group, self.group(t.class), "{t:?}");
            let confirmed = t.hits >= self.config.confirm_hits.max(1);
            assert_eq!(t.state != TrackState::Tentative, confirmed, "{t:?}");
            let in_newest = t.last_seen == self.now;
            assert!(in_newest || t.state == TrackState::Lost, "{t:?}");
        }
    }
}
