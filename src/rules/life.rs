//! A finding's life: opened, revised, closed, and reopened within its cool-down.
//!
//! What must not be here: which tracks show a violation.
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::config::{Gate, RuleConfig};
use super::engine::Moment;
use super::finding::{CloseReason, FindingChange, FindingObject, OpenFinding, Phase};
use super::history::Streak;
use crate::base::ids::{CameraIx, RuleIx};
use crate::base::time::{FrameStamp, MonoMicros, UtcMicros};

/// A track that shows the violation in the current picture.
#[derive(Clone, Debug)]
pub struct Violator {
    /// What it looks like.
    pub object: FindingObject,
    /// What the gate held against the threshold.
    pub value: f32,
    /// For how long it has passed.
    pub streak: Streak,
    /// What the gate saw.
    pub scores: Vec<f32>,
}

/// What an incident has to do with findings at a moment.
#[derive(Clone, Debug, Default)]
pub enum Life {
    /// Nothing.
    #[default]
    Idle,
    /// One is open.
    Open(Finding),
    /// One has closed and may reopen.
    CoolingDown(Closed),
}

/// A finding, as it was last told.
#[derive(Clone, Debug)]
pub struct Finding {
    pub id: Uuid,
    pub revision: u32,
    pub first_seen: UtcMicros,
    pub last_seen: UtcMicros,
    pub samples: u32,
    /// Watched time since it was last seen.
    pub unseen: Duration,
    /// Receipt of the picture of the newest revision; `None` after a restart.
    revised: Option<MonoMicros>,
    /// The same of the newest revision that is news: opened, reopened or a re-alert.
    alerted: Option<MonoMicros>,
    gate: Gate,
    scores: Vec<f32>,
    objects: Vec<FindingObject>,
}

/// A finding that has closed.
#[derive(Clone, Debug)]
pub struct Closed {
    pub finding: Finding,
    at: UtcMicros,
    /// Since when the cool-down is counted, and how much of it there was then; `None` after a restart,
    /// until the first picture.
    cooling: Option<(MonoMicros, Duration)>,
}

impl Closed {
    /// The first picture after a restart: from here on the monotonic clock counts.
    fn begin(&mut self, rule: &RuleConfig, moment: &Moment) {
        let whole = Duration::from_millis(rule.cooldown_ms);
        self.cooling.get_or_insert_with(|| {
            // Only the wall clock knows how long the restart took.
            let micros = moment.stamp.received_utc.0.saturating_sub(self.at.0);
            let gone = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
            (moment.now, whole.saturating_sub(gone))
        });
    }

    /// What is left of the cool-down.
    pub fn left(&self, now: MonoMicros) -> Duration {
        let left = |(since, left): (MonoMicros, Duration)| left.saturating_sub(now.since(since));
        self.cooling.map_or(Duration::ZERO, left)
    }
}

impl From<&OpenFinding> for Finding {
    fn from(known: &OpenFinding) -> Self {
        Self {
            id: known.finding,
            revision: known.revision,
            first_seen: known.first_seen,
            last_seen: known.last_seen,
            samples: known.samples,
            unseen: Duration::ZERO,
            revised: None,
            alerted: None,
            gate: Gate::default(),
            scores: Vec::new(),
            objects: Vec::new(),
        }
    }
}

/// What a picture is judged by: whose incident, and what was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub seed: &'a str,
    pub ix: RuleIx,
    pub rule: &'a RuleConfig,
    pub gate: Gate,
    pub moment: &'a Moment,
}

impl Life {
    /// Goes on with a finding from before a restart; says whether it can.
    pub fn restore(&mut self, rule: &RuleConfig, known: &OpenFinding) -> bool {
        let mut finding = Finding::from(known);
        finding.gate = rule.gate(false);
        match (&self, known.closed_at) {
            (Self::Open(_), None) => return false,
            (Self::Idle | Self::CoolingDown(_), None) => *self = Self::Open(finding),
            (Self::Idle, Some(closed_at)) if rule.cooldown_ms > 0 => {
                *self = Self::CoolingDown(Closed {
                    finding,
                    at: closed_at,
                    cooling: None,
                });
            }
            // What has closed needs nobody: something newer is here, or it may not come back.
            (_, Some(_)) => {}
        }
        true
    }

    /// The finding there is, if any.
    pub fn known(&self, rule: RuleIx, camera: CameraIx) -> Option<OpenFinding> {
        let (finding, closed_at) = match self {
            Self::Idle => return None,
            Self::Open(finding) => (finding, None),
            Self::CoolingDown(closed) => (&closed.finding, Some(closed.at)),
        };
        Some(OpenFinding {
            finding: finding.id,
            revision: finding.revision,
            rule,
            camera,
            first_seen: finding.first_seen,
            last_seen: finding.last_seen,
            samples: finding.samples,
            closed_at,
        })
    }

    /// The cool-down ends by itself.
    pub fn pass(&mut self, rule: &RuleConfig, moment: &Moment) {
        if let Self::CoolingDown(closed) = self {
            closed.begin(rule, moment);
            if closed.left(moment.now).is_zero() {
                *self = Self::Idle;
            }
        }
    }

    /// What the violators of a picture do to it.
    pub fn take(&mut self, case: &Case<'_>, violators: Vec<Violator>) -> Option<FindingChange> {
        if let Self::Open(finding) = self {
            return finding.see(case, violators);
        }
        // The longest dwelt tells when it began; of those that dwelt long enough the surest decides.
        let dwell = Duration::from_millis(case.gate.dwell_ms);
        let ready = || violators.iter().filter(|v| v.streak.dwelt >= dwell);
        let surest = deciding(ready())?.clone();
        let longest = ready().reduce(|a, b| {
            if b.streak.dwelt > a.streak.dwelt {
                b
            } else {
                a
            }
        });
        let streak = longest?.streak;
        let (phase, mut finding) = match std::mem::take(self) {
            Self::CoolingDown(Closed { mut finding, .. }) => {
                finding.revision += 1;
                finding.samples = finding.samples.saturating_add(streak.shown);
                (Phase::Reopened, finding)
            }
            Self::Idle | Self::Open(_) => (Phase::Opened, Finding::begin(case, &streak)),
        };
        finding.show(case, surest.scores, violators);
        finding.revised = Some(case.moment.now);
        finding.alerted = Some(case.moment.now);
        let change = finding.change(phase, case);
        *self = Self::Open(finding);
        Some(change)
    }

    /// Closes what is open.
    pub fn close(&mut self, case: &Case<'_>, reason: CloseReason) -> Option<FindingChange> {
        let mut finding = match std::mem::take(self) {
            Self::Open(finding) => finding,
            other => {
                *self = other;
                return None;
            }
        };
        finding.revision += 1;
        let change = FindingChange {
            closed_at: Some(case.moment.stamp.received_utc),
            reason: Some(reason),
            ..finding.change(Phase::Closed, case)
        };
        if case.rule.cooldown_ms > 0 {
            *self = Self::CoolingDown(Closed {
                finding,
                at: case.moment.stamp.received_utc,
                cooling: Some((
                    case.moment.now,
                    Duration::from_millis(case.rule.cooldown_ms),
                )),
            });
        }
        Some(change)
    }
}

impl Finding {
    fn begin(case: &Case<'_>, streak: &Streak) -> Self {
        Self {
            id: finding_id(case.seed, case.moment.camera, case.rule, &streak.first),
            revision: 1,
            first_seen: streak.first.received_utc,
            last_seen: case.moment.stamp.received_utc,
            samples: streak.shown,
            unseen: Duration::ZERO,
            revised: None,
            alerted: None,
            gate: case.gate,
            scores: Vec::new(),
            objects: Vec::new(),
        }
    }

    fn show(&mut self, case: &Case<'_>, scores: Vec<f32>, violators: Vec<Violator>) {
        self.gate = case.gate;
        self.scores = scores;
        self.objects = objects(violators);
        self.last_seen = case.moment.stamp.received_utc;
        self.unseen = Duration::ZERO;
    }

    /// A picture of an open finding: seen, and perhaps worth a revision, or not seen.
    fn see(&mut self, case: &Case<'_>, violators: Vec<Violator>) -> Option<FindingChange> {
        let moment = case.moment;
        let Some(surest) = deciding(violators.iter()) else {
            self.unseen += moment.watched;
            return None;
        };
        let scores = surest.scores.clone();
        self.show(case, scores, violators);
        self.samples = self.samples.saturating_add(1);
        let alerted = *self.alerted.get_or_insert(moment.now);
        let every = case.rule.realert_ms;
        let realert = every > 0 && moment.now.ms_since(alerted) >= every;
        let update = Duration::from_millis(case.rule.update_ms);
        let early = |at| moment.now.since(at) < update;
        if !realert && self.revised.is_some_and(early) {
            return None;
        }
        if realert {
            self.alerted = Some(moment.now);
        }
        self.revised = Some(moment.now);
        self.revision += 1;
        Some(FindingChange {
            realert,
            ..self.change(Phase::Updated, case)
        })
    }

    fn change(&self, phase: Phase, case: &Case<'_>) -> FindingChange {
        FindingChange {
            finding: self.id,
            revision: self.revision,
            phase,
            rule: case.ix,
            camera: case.moment.camera,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            closed_at: None,
            reason: None,
            realert: false,
            gate: self.gate,
            samples: self.samples,
            scores: self.scores.clone(),
            objects: self.objects.clone(),
            stamp: case.moment.stamp,
        }
    }
}

/// The one with the highest value, then the highest score, then the lowest track id.
fn deciding<'a>(violators: impl Iterator<Item = &'a Violator>) -> Option<&'a Violator> {
    violators.reduce(|a, b| {
        let by_value = b.value.total_cmp(&a.value);
        let more = by_value.then(b.object.score.total_cmp(&a.object.score));
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
