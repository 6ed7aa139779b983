//! From tracks to findings: the gate, the dwell, and a finding's life.
//!
//! What must not be here: a clock (time is the stamps'), evidence, payloads, what a class or a code
//! means. One [`RuleEngine`] per site, called with each camera's pictures in order.
//!
//! # Operation, for each picture of a camera and each rule that watches it
//!
//! 1. **Sample.** Each track seen in the picture adds one value to its window of the newest
//!    `samples`: its score if its class is one of the rule's, else 0. Tentative tracks sample too,
//!    so that the window of a newly confirmed one is not empty.
//! 2. **Gate.** A track *passes* if it is confirmed, the middle of its box is in the zone, its
//!    window holds at least `min(samples, 3)` values and their median reaches `threshold`. Of an
//!    even number the lower middle is the median, so more than half of the values reach the
//!    threshold.
//! 3. **Violation.** A track *shows* the violation if it passes and its class in this very picture
//!    is one of the rule's. Only such pictures open or update a finding, count in `samples` and
//!    move `last_seen`, so that the still taken from them shows what the finding says.
//! 4. **Dwell.** A streak begins when a track first passes. It goes on while the track passes, and
//!    while it does not, whether lost, at the zone's edge or with a sinking median, for up to
//!    [`MAX_STREAK_GAP`]. After `dwell_ms` a picture that shows the violation opens the finding.
//! 5. **Life.** While open, a picture that shows the violation on any track of the camera, dwelt or
//!    not, keeps it open, and revises it at most once per `update_ms`. It closes after `clear_ms`
//!    without such a picture.
//!
//! # Decisions
//!
//! 1. **One finding per incident**, which is (rule, camera). More tracks join as objects; a track
//!    that comes back under another id goes on with the same finding. Ids of tracks are ephemeral,
//!    and an officer wants to hear of a bare-headed shift once.
//! 2. **Dwell and clearing count watched time**: the time between successive pictures of a camera,
//!    each step at most [`MAX_WATCHED_GAP`]. While a camera is blind there are no pictures, so
//!    nothing closes: "not seen" is never "not watched".
//! 3. **A lost track does not hold a finding open** by itself: the camera watched and did not see
//!    it. `clear_ms` is there for that. It does keep its streak for a moment (see 4 above).
//! 4. **A closed finding is final**, and takes all streaks of its incident with it: whatever comes
//!    next dwells anew and opens another finding.
//! 5. **After a restart** windows and streaks are empty: a restored finding is seen again once a
//!    track's window has filled, and the clear time begins with the first picture.
//!
//! # Invariants
//!
//! Per finding: revisions 1, 2, 3 … without gaps; phases opened, updated …, closed; nothing after
//! closed. Per (rule, camera): at most one open. Every change names a configured rule and a camera
//! it watches. Equal input gives equal output, ids included.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::config::RuleConfig;
use super::finding::{FindingChange, FindingObject, OpenFinding, Phase};
use crate::base::ids::{CameraIx, RuleIx};
use crate::base::time::{FrameStamp, MonoMicros, UtcMicros};
use crate::track::{Track, TrackId, TrackSet, TrackState};

/// Time between two successive pictures of a camera counts as watched up to this. Pictures come
/// at least once a second even of a still scene (`MotionConfig::refresh`); what is longer than a
/// few of those is a camera that does not see.
pub const MAX_WATCHED_GAP: Duration = Duration::from_secs(5);
/// How long a track may fail the gate, in watched time, without its dwell beginning anew. As long
/// as the tracker's default patience with lost tracks (`TrackConfig::lost_ms`).
pub const MAX_STREAK_GAP: Duration = Duration::from_millis(2500);
/// A window of fewer values than this passes only if the rule asks for no more.
const LEAST_SAMPLES: usize = 3;

/// All rules of a site and the findings they have open.
#[derive(Clone, Debug)]
pub struct RuleEngine {
    rules: Vec<RuleConfig>,
    seed: String,
    /// The cameras that some rule watches.
    cameras: BTreeMap<CameraIx, Watch>,
}

/// One camera's rules.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Receipt of the newest picture; never runs backward.
    now: Option<MonoMicros>,
    incidents: BTreeMap<RuleIx, Incident>,
}

/// One rule on one camera.
#[derive(Clone, Debug, Default)]
struct Incident {
    histories: BTreeMap<TrackId, History>,
    open: Option<Open>,
}

/// What a rule remembers of a live track.
#[derive(Clone, Debug, Default)]
struct History {
    /// Sample values, oldest first.
    window: VecDeque<f32>,
    streak: Option<Streak>,
}

/// A track passing the gate, short gaps included.
#[derive(Clone, Copy, Debug)]
struct Streak {
    first: FrameStamp,
    /// Watched time since `first`.
    dwelt: Duration,
    /// Watched time since it last passed.
    gap: Duration,
    /// Pictures that showed the violation.
    shown: u32,
}

/// A finding that is open.
#[derive(Clone, Debug)]
struct Open {
    finding: Uuid,
    revision: u32,
    first_seen: UtcMicros,
    last_seen: UtcMicros,
    samples: u32,
    /// Watched time since it was last seen.
    unseen: Duration,
    /// Receipt of the picture of the newest revision; `None` after a restart.
    revised: Option<MonoMicros>,
    scores: Vec<f32>,
    objects: Vec<FindingObject>,
}

/// A track that shows the violation in the current picture.
struct Violator {
    object: FindingObject,
    median: f32,
    streak: Streak,
    scores: Vec<f32>,
}

impl RuleEngine {
    /// An engine with nothing open. A rule's [`RuleIx`] is its position in `rules`. `seed` is what
    /// finding ids are derived from besides the incident itself: the site's full name
    /// (`region/site`), so that no two sites make the same id.
    ///
    /// # Panics
    /// On more than 65,536 rules.
    pub fn new(rules: Vec<RuleConfig>, seed: &str) -> Self {
        let mut cameras: BTreeMap<CameraIx, Watch> = BTreeMap::new();
        for (ix, rule) in rules.iter().enumerate() {
            let ix = RuleIx(u16::try_from(ix).expect("a site has at most 65,536 rules"));
            for &camera in &rule.cameras {
                let watch = cameras.entry(camera).or_default();
                watch.incidents.insert(ix, Incident::default());
            }
        }
        Self {
            rules,
            seed: seed.into(),
            cameras,
        }
    }

    /// Goes on with findings that were open when the site last stopped, before the first picture.
    /// Each continues with its next revision: *updated* when seen again, *closed* when not.
    ///
    /// Returns those that no rule can continue, because the config has changed: the rule does not
    /// exist or does not watch the camera, a finding is open there already, or the revision is 0.
    /// They stay with the caller, who has to close them.
    #[must_use = "findings that no rule continues must be closed by the caller"]
    pub fn restore(&mut self, findings: Vec<OpenFinding>) -> Vec<OpenFinding> {
        let mut orphans = Vec::new();
        for f in findings {
            let watch = self.cameras.get_mut(&f.camera);
            match watch.and_then(|w| w.incidents.get_mut(&f.rule)) {
                Some(incident) if incident.open.is_none() && f.revision > 0 => {
                    incident.open = Some(Open {
                        finding: f.finding,
                        revision: f.revision,
                        first_seen: f.first_seen,
                        last_seen: f.last_seen,
                        samples: f.samples,
                        unseen: Duration::ZERO,
                        revised: None,
                        scores: Vec::new(),
                        objects: Vec::new(),
                    });
                }
                _ => orphans.push(f),
            }
        }
        orphans
    }

    /// Other rules from the next picture on. What is open goes on under the rule of the same id, if it
    /// still has the code and watches the camera; a rule that has not changed at all keeps its windows
    /// and streaks too, unless `other_classes` says that ids of classes and tracks mean something else
    /// from here on.
    ///
    /// Returns what no rule continues; the caller has to close it.
    #[must_use = "findings that no rule continues must be closed by the caller"]
    pub fn reload(&mut self, rules: Vec<RuleConfig>, other_classes: bool) -> Vec<OpenFinding> {
        let mut old = std::mem::replace(self, Self::new(rules, &self.seed.clone()));
        let mut orphans = Vec::new();
        for open in old.open() {
            let before = &old.rules[usize::from(open.rule.0)];
            let same = |r: &RuleConfig| r.id == before.id && r.code == before.code;
            let watched = |r: &RuleConfig| r.cameras.contains(&open.camera);
            if !self.rules.iter().any(|r| same(r) && watched(r)) {
                orphans.push(open);
            }
        }
        for (camera, watch) in &mut self.cameras {
            let Some(known) = old.cameras.get_mut(camera) else {
                continue;
            };
            watch.now = known.now;
            for (ix, incident) in &mut watch.incidents {
                let rule = &self.rules[usize::from(ix.0)];
                let at = old
                    .rules
                    .iter()
                    .position(|r| r.id == rule.id && r.code == rule.code);
                let Some(at) = at else { continue };
                let Some(known) = known.incidents.remove(&RuleIx(at as u16)) else {
                    continue;
                };
                *incident = known;
                if other_classes || !old.rules[at].decides_like(rule) {
                    incident.histories.clear();
                    if let Some(open) = &mut incident.open {
                        // A shorter clear time must not close what the new rule has not looked for.
                        open.unseen = Duration::ZERO;
                    }
                }
            }
        }
        orphans
    }

    /// Takes the tracks of one picture and says which findings changed, by rising [`RuleIx`].
    ///
    /// Time is `stamp.received`; a stamp that is equal to or earlier than the camera's last is
    /// taken as "no time has passed". Pictures without tracks count: they are watched time. A
    /// camera that no rule watches changes nothing.
    pub fn on_tracks(&mut self, set: &TrackSet) -> Vec<FindingChange> {
        let Some(watch) = self.cameras.get_mut(&set.camera) else {
            return Vec::new();
        };
        let before = watch.now.unwrap_or(set.stamp.received);
        let now = before.max(set.stamp.received);
        watch.now = Some(now);
        let moment = Moment {
            camera: set.camera,
            stamp: set.stamp,
            now,
            watched: now.since(before).min(MAX_WATCHED_GAP),
        };
        let (rules, seed) = (&self.rules, &self.seed);
        let each = watch.incidents.iter_mut();
        each.filter_map(|(&ix, incident)| {
            let rule = &rules[usize::from(ix.0)];
            let violators = incident.violators(rule, &set.tracks, &moment);
            incident.transition(seed, ix, rule, violators, &moment)
        })
        .collect()
    }

    /// What is open now, by rising camera, then rule; for the ledger, so that
    /// [`restore`](Self::restore) can go on with it.
    pub fn open(&self) -> Vec<OpenFinding> {
        let incidents = self
            .cameras
            .iter()
            .flat_map(|(&camera, w)| w.incidents.iter().map(move |(&rule, i)| (camera, rule, i)));
        incidents
            .filter_map(|(camera, rule, incident)| {
                incident.open.as_ref().map(|open| OpenFinding {
                    finding: open.finding,
                    revision: open.revision,
                    rule,
                    camera,
                    first_seen: open.first_seen,
                    last_seen: open.last_seen,
                    samples: open.samples,
                })
            })
            .collect()
    }

    /// Panics if the state contradicts itself; for unit, property and fuzz tests.
    pub fn check_invariants(&self) {
        for (camera, watch) in &self.cameras {
            for (ix, incident) in &watch.incidents {
                let rule = &self.rules[usize::from(ix.0)];
                assert!(rule.cameras.contains(camera), "{ix:?} on {camera:?}");
                for (id, h) in &incident.histories {
                    assert!(h.window.len() <= rule.samples.max(1), "{id:?} {h:?}");
                    assert!(h.window.iter().all(|v| v.is_finite()), "{id:?} {h:?}");
                    if let Some(s) = &h.streak {
                        assert!(s.gap <= MAX_STREAK_GAP && s.gap <= s.dwelt, "{id:?} {s:?}");
                    }
                }
                if let Some(open) = &incident.open {
                    assert!(open.revision >= 1, "{open:?}");
                    assert!(
                        open.unseen.is_zero() || open.unseen < Duration::from_millis(rule.clear_ms),
                        "{open:?} should be closed"
                    );
                }
            }
        }
    }
}

/// The picture at hand.
struct Moment {
    camera: CameraIx,
    stamp: FrameStamp,
    /// Its receipt, never earlier than the last one's.
    now: MonoMicros,
    /// Watched time since the picture before.
    watched: Duration,
}

impl Incident {
    /// Brings the histories up to date and returns the tracks that show the violation.
    fn violators(&mut self, rule: &RuleConfig, tracks: &[Track], moment: &Moment) -> Vec<Violator> {
        self.histories
            .retain(|id, _| tracks.iter().any(|t| t.id == *id));
        let mut violators = Vec::new();
        for track in tracks {
            let history = self.histories.entry(track.id).or_default();
            let offends = rule.classes.contains(&track.class) && track.score.is_finite();
            if track.state != TrackState::Lost {
                history.sample(if offends { track.score } else { 0.0 }, rule.samples);
            }
            let zone = rule.zone.as_ref();
            let median = history
                .median(rule.samples)
                .filter(|&m| m > 0.0 && m >= rule.threshold)
                .filter(|_| track.state == TrackState::Confirmed)
                .filter(|_| zone.is_none_or(|z| z.polygon.contains(track.rect.center())));
            history.step(median.is_some(), offends, moment);
            if let (Some(median), Some(streak), true) = (median, history.streak, offends) {
                violators.push(Violator {
                    object: FindingObject {
                        class: track.class,
                        score: track.score,
                        rect: track.rect,
                        track: track.id,
                    },
                    median,
                    streak,
                    scores: history.window.iter().copied().collect(),
                });
            }
        }
        violators
    }

    /// What the picture does to the finding.
    fn transition(
        &mut self,
        seed: &str,
        ix: RuleIx,
        rule: &RuleConfig,
        violators: Vec<Violator>,
        moment: &Moment,
    ) -> Option<FindingChange> {
        let dwell = Duration::from_millis(rule.dwell_ms);
        let Some(open) = &mut self.open else {
            // The longest dwelt tells when it began; of those that dwelt long enough the surest
            // decides.
            let ready = || violators.iter().filter(|v| v.streak.dwelt >= dwell);
            let scores = deciding(ready())?.scores.clone();
            let longest = ready().reduce(|a, b| {
                if b.streak.dwelt > a.streak.dwelt {
                    b
                } else {
                    a
                }
            });
            let Streak { first, shown, .. } = longest?.streak;
            let open = self.open.insert(Open {
                finding: finding_id(seed, moment.camera, rule, &first),
                revision: 1,
                first_seen: first.received_utc,
                last_seen: moment.stamp.received_utc,
                samples: shown,
                unseen: Duration::ZERO,
                revised: Some(moment.now),
                scores,
                objects: objects(violators),
            });
            return Some(open.change(Phase::Opened, ix, moment));
        };
        if let Some(surest) = deciding(violators.iter()) {
            open.scores.clone_from(&surest.scores);
            open.objects = objects(violators);
            open.last_seen = moment.stamp.received_utc;
            open.samples = open.samples.saturating_add(1);
            open.unseen = Duration::ZERO;
            let update = Duration::from_millis(rule.update_ms);
            if open.revised.is_some_and(|at| moment.now.since(at) < update) {
                return None;
            }
            open.revised = Some(moment.now);
            open.revision += 1;
            return Some(open.change(Phase::Updated, ix, moment));
        }
        open.unseen += moment.watched;
        if open.unseen < Duration::from_millis(rule.clear_ms) {
            return None;
        }
        open.revision += 1;
        let change = open.change(Phase::Closed, ix, moment);
        self.open = None;
        for history in self.histories.values_mut() {
            history.streak = None;
        }
        Some(change)
    }
}

impl History {
    fn sample(&mut self, value: f32, samples: usize) {
        self.window.push_back(value);
        while self.window.len() > samples.max(1) {
            self.window.pop_front();
        }
    }

    /// The lower middle of the window; `None` while it holds too few values.
    fn median(&self, samples: usize) -> Option<f32> {
        if self.window.len() < samples.clamp(1, LEAST_SAMPLES) {
            return None;
        }
        let mut sorted: Vec<f32> = self.window.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        Some(sorted[(sorted.len() - 1) / 2])
    }

    /// Lets the streak go on, begin or end.
    fn step(&mut self, passes: bool, offends: bool, moment: &Moment) {
        if let Some(s) = &mut self.streak {
            s.dwelt += moment.watched;
            if passes {
                s.gap = Duration::ZERO;
                s.shown = s.shown.saturating_add(u32::from(offends));
            } else {
                s.gap += moment.watched;
                if s.gap > MAX_STREAK_GAP {
                    self.streak = None;
                }
            }
        } else if passes {
            self.streak = Some(Streak {
                first: moment.stamp,
                dwelt: Duration::ZERO,
                gap: Duration::ZERO,
                shown: u32::from(offends),
            });
        }
    }
}

impl Open {
    fn change(&self, phase: Phase, rule: RuleIx, moment: &Moment) -> FindingChange {
        FindingChange {
            finding: self.finding,
            revision: self.revision,
            phase,
            rule,
            camera: moment.camera,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            closed_at: (phase == Phase::Closed).then_some(moment.stamp.received_utc),
            samples: self.samples,
            scores: self.scores.clone(),
            objects: self.objects.clone(),
            stamp: moment.stamp,
        }
    }
}

/// The one with the highest median, then the highest score, then the lowest track id.
fn deciding<'a>(violators: impl Iterator<Item = &'a Violator>) -> Option<&'a Violator> {
    violators.reduce(|a, b| {
        let by_median = b.median.total_cmp(&a.median);
        let more = by_median.then(b.object.score.total_cmp(&a.object.score));
        if more.is_gt() { b } else { a }
    })
}

/// Highest score first, then by track id.
fn objects(violators: Vec<Violator>) -> Vec<FindingObject> {
    let mut objects: Vec<_> = violators.into_iter().map(|v| v.object).collect();
    objects.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.track.cmp(&b.track)));
    objects
}

/// A UUID v7 (RFC 9562, section 5.7) that a replay of the same pictures makes again: the first
/// picture's UTC milliseconds, and for the 74 random bits SHA-256 of what the incident is.
fn finding_id(seed: &str, camera: CameraIx, rule: &RuleConfig, first: &FrameStamp) -> Uuid {
    let utc = first.received_utc.0;
    let mut hash = Sha256::new();
    // Texts carry their length, so that no two different incidents give the same bytes.
    for text in [seed, rule.id.as_str()] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.update(camera.0.to_be_bytes());
    hash.update(utc.to_be_bytes());
    hash.update(first.seq.to_be_bytes());
    hash.update(first.session.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bits = [0; 10];
    bits.copy_from_slice(&digest[..10]);
    // A clock before 1970 is broken; its findings sort first.
    let ms = u64::try_from(utc.div_euclid(1000)).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &bits).into_uuid()
}
