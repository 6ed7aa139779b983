//! From tracks to findings: the hours, the gate, the dwell, and a finding's life.
//!
//! What must not be here: a clock (time is the stamps'), evidence, payloads, what a class or a code
//! means. One [`RuleEngine`] per site, called with each camera's pictures in order.
//!
//! # Operation, for each picture of a camera and each rule that watches it
//!
//! 1. **Hours.** Outside its hours ([`When`](super::When)) a rule neither samples, dwells nor clears, and forgets its
//!    tracks' windows; what is open closes with the first picture outside, for that reason.
//! 2. **Sample.** Each track seen in the picture adds one value to its window of the newest
//!    `samples`: its score if its class is one of the rule's, else 0. Tentative tracks sample too,
//!    so that the window of a newly confirmed one is not empty. So does its place: it counts as in
//!    the zone, or out of it, after `zone_samples` pictures in a row that say so.
//! 3. **Gate.** A track *passes* if it is confirmed, counts as in the zone, its scores are high
//!    enough, and it is no thing that has stood still for `still_ms` (`still.rs`). Scores are
//!    high enough if `hits` of the window reach `threshold`; without `hits`, if the window holds at least
//!    `min(samples, 3)` values and their median reaches it. Of an even number the lower middle is
//!    the median, so more than half of the values reach the threshold. Outside business hours
//!    `off_hours` may lower threshold and dwell.
//! 4. **Violation.** A track *shows* the violation if it passes and its class in this very picture
//!    is one of the rule's. Only such pictures open or update a finding, count in `samples` and
//!    move `last_seen`, so that the still taken from them shows what the finding says.
//! 5. **Dwell.** A streak begins when a track first passes. It goes on while the track passes, and
//!    while it does not, whether lost, at the zone's edge or with a sinking median, for up to
//!    [`MAX_STREAK_GAP`](super::MAX_STREAK_GAP). After `dwell_ms` a picture that shows the violation
//!    opens the finding, or reopens the one that closed no longer than `cooldown_ms` ago.
//! 6. **Life.** While open, a picture that shows the violation on any track of the camera, dwelt or
//!    not, keeps it open, and revises it at most once per `update_ms`. Of these revisions the first that
//!    comes `realert_ms` after the last news (opened, reopened, re-alert) is a re-alert, and does not
//!    wait for `update_ms`. It closes after `clear_ms` without such a picture.
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
//!    it. `clear_ms` is there for that. It does keep its streak for a moment (see 5 above).
//! 4. **Closing takes all streaks of its incident with it**: whatever comes next dwells anew. Within the
//!    cool-down it reopens the same finding with its next revision, after it it opens another one.
//! 5. **The cool-down counts all time**, watched or not: it says how long two sights are one affair,
//!    which does not depend on who looked. One closed finding per incident is remembered, no more.
//! 6. **Hours that end close** (reason `off-schedule`) rather than hold: nobody watches any more,
//!    and a finding that stays open all night would claim that it goes on.
//! 7. **After a restart** windows, streaks and spots are empty: a restored finding is seen again once a
//!    track's window has filled, and the clear time begins with the first picture. A cool-down goes
//!    on by the wall clock, if the caller knows what had closed.
//!
//! # Invariants
//!
//! Per finding: revisions 1, 2, 3 … without gaps; opened first; after closed only reopened, and
//! only within the cool-down. Per (rule, camera): at most one open. Every change names a configured
//! rule and a camera it watches. Outside a rule's hours nothing opens. Equal input gives equal output,
//! ids included. [`explain`](RuleEngine::explain) says "lacks nothing" exactly of what is open and shown.
use std::collections::BTreeMap;
use std::time::Duration;

use super::config::{Gate, RuleConfig};
use super::explain::{Nearest, RuleState, Shortfall, Standing};
use super::finding::{CloseReason, FindingChange, FindingObject, OpenFinding};
use super::history::History;
use super::life::{Case, Life, Violator};
use super::schedule::{Cursor, Span};
use super::still::Spots;
use crate::base::ids::{CameraIx, RuleIx};
use crate::base::time::{FrameStamp, MonoMicros};
use crate::track::{Track, TrackId, TrackSet, TrackState};

/// Time between two successive pictures of a camera counts as watched up to this. While anything counts, pictures
/// come at least once a second even of a still scene (`MotionConfig::refresh`), or every 2.5 s
/// (`decode::LONGEST_GOP`); what is longer than a few of those is a camera that does not see, or a quiet one, in
/// which nothing dwells or clears.
pub const MAX_WATCHED_GAP: Duration = Duration::from_secs(5);

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
    /// What it showed, for [`RuleEngine::explain`].
    newest: Option<TrackSet>,
    incidents: BTreeMap<RuleIx, Incident>,
}

/// One rule on one camera.
#[derive(Clone, Debug, Default)]
struct Incident {
    hours: Cursor,
    business: Cursor,
    /// Asked for in the newest picture.
    gate: Gate,
    /// The hours in which the rule does not watch, if the newest picture fell into such.
    resting: Option<Span>,
    histories: BTreeMap<TrackId, History>,
    spots: Spots,
    life: Life,
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
    /// Each continues with its next revision: *updated* when seen again, *closed* when not. Those that had
    /// closed may be given too, and reopen if they are still within their cool-down.
    ///
    /// Returns the open ones that no rule can continue, because the config has changed: the rule
    /// does not exist or does not watch the camera, a finding is open there already, or the revision
    /// is 0. They stay with the caller, who has to close them.
    #[must_use = "findings that no rule continues must be closed by the caller"]
    pub fn restore(&mut self, findings: Vec<OpenFinding>) -> Vec<OpenFinding> {
        let mut orphans = Vec::new();
        for known in findings {
            let watch = self.cameras.get_mut(&known.camera);
            let incident = watch.and_then(|w| w.incidents.get_mut(&known.rule));
            let continued = incident.is_some_and(|incident| {
                let rule = &self.rules[usize::from(known.rule.0)];
                known.revision > 0 && incident.life.restore(rule, &known)
            });
            if !continued && known.closed_at.is_none() {
                orphans.push(known);
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
        let mut remembered = old.remembered();
        // Open ones first, then the newest: only one of an incident can reopen.
        remembered.sort_by_key(|f| (f.closed_at.is_some(), std::cmp::Reverse(f.closed_at)));
        let same = |a: &RuleConfig, b: &RuleConfig| a.id == b.id && a.code == b.code;
        let mut kept = Vec::new();
        for (camera, watch) in &mut self.cameras {
            let Some(known) = old.cameras.get_mut(camera) else {
                continue;
            };
            watch.now = known.now;
            for (ix, incident) in &mut watch.incidents {
                let rule = &self.rules[usize::from(ix.0)];
                let Some(at) = old.rules.iter().position(|r| same(r, rule)) else {
                    continue;
                };
                if !other_classes
                    && old.rules[at].decides_like(rule)
                    && let Some(known) = known.incidents.remove(&RuleIx(at as u16))
                {
                    *incident = known;
                    kept.push((*camera, *ix));
                }
            }
        }
        let (mut moved, mut orphans) = (Vec::new(), Vec::new());
        for finding in remembered {
            let before = &old.rules[usize::from(finding.rule.0)];
            let at = self.rules.iter().position(|r| same(r, before));
            match at.map(|at| RuleIx(at as u16)) {
                Some(ix) if kept.contains(&(finding.camera, ix)) => {}
                Some(rule) => moved.push(OpenFinding { rule, ..finding }),
                None if finding.closed_at.is_none() => orphans.push(finding),
                None => {}
            }
        }
        orphans.extend(self.restore(moved));
        orphans
    }

    /// Takes the tracks of one picture and says which findings changed, by rising [`RuleIx`].
    ///
    /// Time is `stamp.received`; a stamp that is equal to or earlier than the camera's last is
    /// taken as "no time has passed". Only hours are read from `stamp.received_utc`. Pictures
    /// without tracks count: they are watched time. A camera that no rule watches changes nothing.
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
        match &mut watch.newest {
            Some(newest) => {
                newest.stamp = set.stamp;
                newest.tracks.clone_from(&set.tracks);
            }
            None => watch.newest = Some(set.clone()),
        }
        let (rules, seed) = (&self.rules, &self.seed);
        let each = watch.incidents.iter_mut();
        each.filter_map(|(&ix, incident)| {
            let rule = &rules[usize::from(ix.0)];
            incident.take(seed, ix, rule, &set.tracks, &moment)
        })
        .collect()
    }

    /// What is open now, by rising camera, then rule.
    pub fn open(&self) -> Vec<OpenFinding> {
        let mut open = self.remembered();
        open.retain(|f| f.closed_at.is_none());
        open
    }

    /// What is open or may reopen, by rising camera, then rule, so that the
    /// [`restore`](Self::restore) of another engine can go on with it.
    pub fn remembered(&self) -> Vec<OpenFinding> {
        let incidents = self
            .cameras
            .iter()
            .flat_map(|(&camera, w)| w.incidents.iter().map(move |(&rule, i)| (camera, rule, i)));
        incidents
            .filter_map(|(camera, rule, incident)| incident.life.known(rule, camera))
            .collect()
    }

    /// Whether a finding may still change: it is open, or may reopen.
    pub fn remembers(&self, finding: uuid::Uuid) -> bool {
        let mut incidents = self.cameras.values().flat_map(|w| w.incidents.values());
        incidents.any(|incident| match &incident.life {
            Life::Open(open) => open.id == finding,
            Life::CoolingDown(closed) => closed.finding.id == finding,
            Life::Idle => false,
        })
    }

    /// Whether no rule counts anything on the camera: nothing is open, and nothing in the newest picture would pass
    /// if it had been seen for longer. Then a finding can only come of what moves.
    pub fn is_quiet(&self, camera: CameraIx) -> bool {
        let incidents = self.cameras.get(&camera).map(|watch| &watch.incidents);
        incidents.into_iter().flatten().all(|(ix, incident)| {
            let rule = &self.rules[usize::from(ix.0)];
            incident.is_quiet(rule)
        })
    }

    /// What each rule of a camera saw and lacked in the camera's newest picture, by rising
    /// [`RuleIx`]. Works nothing out that was not asked for: a site that never asks pays for one copy of
    /// the tracks per picture. Empty before the first picture.
    pub fn explain(&self, camera: CameraIx) -> Vec<RuleState> {
        let Some((watch, newest)) = self
            .cameras
            .get(&camera)
            .and_then(|w| w.newest.as_ref().map(|n| (w, n)))
        else {
            return Vec::new();
        };
        let now = watch.now.unwrap_or_default();
        let each = watch.incidents.iter();
        each.map(|(&ix, incident)| {
            let rule = &self.rules[usize::from(ix.0)];
            incident.explain(ix, rule, newest, now)
        })
        .collect()
    }

    /// Panics if the state contradicts itself; for unit, property and fuzz tests.
    pub fn check_invariants(&self) {
        for (camera, watch) in &self.cameras {
            for (ix, incident) in &watch.incidents {
                let rule = &self.rules[usize::from(ix.0)];
                assert!(rule.cameras.contains(camera), "{ix:?} on {camera:?}");
                incident.spots.check_invariants();
                for history in incident.histories.values() {
                    history.check_invariants(rule);
                }
                match &incident.life {
                    Life::Open(open) => {
                        assert!(open.revision >= 1, "{open:?}");
                        let limit = Duration::from_millis(rule.clear_ms);
                        assert!(
                            open.unseen.is_zero() || open.unseen < limit,
                            "{open:?} should be closed"
                        );
                        assert!(incident.resting.is_none(), "{open:?} outside its hours");
                    }
                    Life::CoolingDown(closed) => assert!(rule.cooldown_ms > 0, "{closed:?}"),
                    Life::Idle => {}
                }
            }
        }
    }
}

/// The picture at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub camera: CameraIx,
    pub stamp: FrameStamp,
    /// Its receipt, never earlier than the last one's.
    pub now: MonoMicros,
    /// Watched time since the picture before.
    pub watched: Duration,
}

impl Incident {
    fn take(
        &mut self,
        seed: &str,
        ix: RuleIx,
        rule: &RuleConfig,
        tracks: &[Track],
        moment: &Moment,
    ) -> Option<FindingChange> {
        let utc = moment.stamp.received_utc;
        let off_hours = rule
            .off_hours
            .as_ref()
            .is_some_and(|o| !self.business.span_at(&o.business, utc).open);
        self.gate = rule.gate(off_hours);
        let case = Case {
            seed,
            ix,
            rule,
            gate: self.gate,
            moment,
        };
        self.life.pass(rule, moment);
        let hours = self.hours.span_at(&rule.when, utc);
        self.resting = (!hours.open).then_some(hours);
        if !hours.open {
            self.histories.clear();
            return self.life.close(&case, CloseReason::OffSchedule);
        }
        let (violators, still) = self.violators(&case, tracks);
        let change = self.life.take(&case, violators);
        let clear = Duration::from_millis(rule.clear_ms);
        // Zero: seen in this very picture, or nothing watched since; then nothing has cleared either.
        if change.is_none()
            && let Life::Open(open) = &self.life
            && open.unseen >= clear
            && !open.unseen.is_zero()
        {
            for history in self.histories.values_mut() {
                history.end_streak();
            }
            let reason = if still {
                CloseReason::Still
            } else {
                CloseReason::Clear
            };
            return self.life.close(&case, reason);
        }
        change
    }

    /// Brings the histories up to date and returns the tracks that show the violation, and whether
    /// one does not count only because it stands still.
    fn violators(&mut self, case: &Case<'_>, tracks: &[Track]) -> (Vec<Violator>, bool) {
        let (rule, moment) = (case.rule, case.moment);
        self.histories
            .retain(|id, _| tracks.iter().any(|t| t.id == *id));
        self.spots.pass(moment.watched);
        let mut violators = Vec::new();
        let mut still = false;
        for track in tracks {
            let history = self.histories.entry(track.id).or_default();
            let offends = offends(rule, track);
            if track.state != TrackState::Lost {
                history.sample(rule, track, offends, &mut self.spots, moment.watched);
            }
            let lacks = history.lacks(rule, &case.gate, track);
            still |= matches!(lacks, [None, None, None, Some(Shortfall::Still { .. })]);
            let passes = lacks.iter().all(Option::is_none);
            history.step(passes, offends, moment);
            if let (true, true, Some(streak)) = (passes, offends, history.streak()) {
                violators.push(Violator {
                    object: FindingObject {
                        class: track.class,
                        score: track.score,
                        rect: track.rect,
                        track: track.id,
                    },
                    value: history.value(&case.gate).unwrap_or(0.0),
                    streak,
                    scores: history.scores(),
                });
            }
        }
        (violators, still)
    }

    /// See [`RuleEngine::is_quiet`].
    fn is_quiet(&self, rule: &RuleConfig) -> bool {
        let mut histories = self.histories.values();
        !matches!(self.life, Life::Open(_))
            && histories.all(|h| h.streak().is_none() && !h.may_pass(rule, &self.gate))
    }

    fn explain(&self, ix: RuleIx, rule: &RuleConfig, set: &TrackSet, now: MonoMicros) -> RuleState {
        let standing = match &self.life {
            Life::Idle => Standing::Idle,
            Life::Open(open) => Standing::Open {
                finding: open.id,
                unseen_ms: open.unseen.as_millis() as u64,
            },
            Life::CoolingDown(closed) => Standing::CoolingDown {
                finding: closed.finding.id,
                left_ms: closed.left(now).as_millis() as u64,
            },
        };
        let is_open = matches!(standing, Standing::Open { .. });
        let nearest = set
            .tracks
            .iter()
            .filter_map(|track| self.candidate(rule, track, is_open))
            .reduce(nearer);
        let (nearest, lacks) = match (self.resting, nearest) {
            (Some(Span { until, .. }), _) => (None, vec![Shortfall::OffSchedule { until }]),
            (None, Some((nearest, lacks))) => (Some(nearest), lacks),
            (None, None) => {
                let others = set.tracks.len();
                (None, vec![Shortfall::NothingSeen { others }])
            }
        };
        RuleState {
            rule: ix,
            camera: set.camera,
            stamp: set.stamp,
            gate: self.gate,
            standing,
            nearest,
            lacks,
        }
    }

    /// A track that of late looked like the violation, and all that it lacks.
    fn candidate(
        &self,
        rule: &RuleConfig,
        track: &Track,
        is_open: bool,
    ) -> Option<(Nearest, Vec<Shortfall>)> {
        let history = self.histories.get(&track.id).filter(|h| h.is_candidate())?;
        let mut lacks: Vec<_> = history
            .lacks(rule, &self.gate, track)
            .into_iter()
            .flatten()
            .collect();
        if !offends(rule, track) {
            lacks.push(Shortfall::OtherClass { class: track.class });
        }
        let dwelt = history.streak().map_or(Duration::ZERO, |s| s.dwelt);
        let dwelt_ms = dwelt.as_millis() as u64;
        if !is_open && dwelt < Duration::from_millis(self.gate.dwell_ms) {
            lacks.push(Shortfall::ShortDwell {
                dwelt_ms,
                needs_ms: self.gate.dwell_ms,
            });
        }
        let nearest = Nearest {
            track: track.id,
            class: track.class,
            score: track.score,
            rect: track.rect,
            scores: history.scores(),
            value: history.value(&self.gate),
            dwelt_ms,
        };
        Some((nearest, lacks))
    }
}

/// Whether a track is of the rule's classes in the newest picture that showed it.
fn offends(rule: &RuleConfig, track: &Track) -> bool {
    rule.classes.contains(&track.class) && track.score.is_finite()
}

type Candidate = (Nearest, Vec<Shortfall>);

/// The one that lacks less, then has the higher value, then the lower track id.
fn nearer(a: Candidate, b: Candidate) -> Candidate {
    let value = |c: &Candidate| c.0.value.unwrap_or(0.0);
    let fewer = b.1.len().cmp(&a.1.len());
    let better = fewer.then(value(&a).total_cmp(&value(&b)));
    if better.is_lt() { b } else { a }
}
