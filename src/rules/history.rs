//! What a rule remembers of a live track: its newest scores, whether it is in the zone, whether it has
//! moved, and for how long it has passed the gate.
//!
//! What must not be here: a finding's life.
use std::collections::VecDeque;
use std::time::Duration;

use super::config::{Gate, Place, RuleConfig, Zone};
use super::engine::Moment;
use super::explain::Shortfall;
use super::still::{Spots, has_moved};
use crate::base::geometry::NormRect;
use crate::base::time::FrameStamp;
use crate::track::{Track, TrackState};

/// How long a track may fail the gate, in watched time, without its dwell beginning anew. As long
/// as the tracker's default patience with lost tracks (`TrackConfig::lost_ms`).
pub const MAX_STREAK_GAP: Duration = Duration::from_millis(2500);
/// A window of fewer values than this passes only if the rule asks for no more.
const LEAST_SAMPLES: usize = 3;

/// One rule's memory of one track.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Sample values, oldest first.
    window: VecDeque<f32>,
    zone: Presence,
    /// Where it was when it first showed one of the rule's classes.
    first: Option<NormRect>,
    moved: bool,
    /// How long its spot has been still; zero once it has moved.
    still: Duration,
    streak: Option<Streak>,
}

/// A track passing the gate, short gaps included.
#[derive(Clone, Copy, Debug)]
pub struct Streak {
    /// The picture with which it began.
    pub first: FrameStamp,
    /// Watched time since `first`.
    pub dwelt: Duration,
    /// Watched time since it last passed.
    pub gap: Duration,
    /// Pictures that showed the violation.
    pub shown: u32,
}

/// Whether a track counts as in the zone: changes only after several samples that say so.
#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    inside: bool,
    /// Samples in a row that say otherwise.
    against: u32,
}

impl Presence {
    fn sample(&mut self, inside: bool, needs: u32) {
        if inside == self.inside {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= needs {
            *self = Self { inside, against: 0 };
        }
    }
}

impl History {
    /// Takes what a picture shows of the track; `offends`: as one of the rule's classes.
    pub fn sample(
        &mut self,
        rule: &RuleConfig,
        track: &Track,
        offends: bool,
        spots: &mut Spots,
        watched: Duration,
    ) {
        self.window
            .push_back(if offends { track.score } else { 0.0 });
        while self.window.len() > rule.samples.max(1) {
            self.window.pop_front();
        }
        if let Some(zone) = &rule.zone {
            let inside = zone.place(track.rect.center()) == Place::Inside;
            self.zone.sample(inside, rule.zone_samples);
        }
        if rule.still_ms > 0 && offends {
            let first = self.first.get_or_insert(track.rect);
            self.moved = self.moved || has_moved(first, &track.rect);
            self.still = if self.moved {
                Duration::ZERO
            } else {
                spots.see(&track.rect, watched)
            };
        }
    }

    /// What keeps the track from passing the gate; nothing: it passes.
    pub fn lacks(&self, rule: &RuleConfig, gate: &Gate, track: &Track) -> [Option<Shortfall>; 4] {
        [
            unseen(track),
            rule.zone
                .as_ref()
                .and_then(|z| self.zone_lacks(rule, z, track)),
            self.score_lacks(gate),
            self.still_lacks(rule),
        ]
    }

    /// Whether the track lacks nothing, as of the newest picture of it, but to be seen for longer.
    pub fn may_pass(&self, rule: &RuleConfig, gate: &Gate) -> bool {
        let newest = self.window.back().copied().unwrap_or(0.0);
        let in_zone = rule.zone.is_none() || self.zone.inside || self.zone.against > 0;
        newest > 0.0 && newest >= gate.threshold && in_zone && self.still_lacks(rule).is_none()
    }

    fn zone_lacks(&self, rule: &RuleConfig, zone: &Zone, track: &Track) -> Option<Shortfall> {
        if self.zone.inside {
            return None;
        }
        Some(match zone.place(track.rect.center()) {
            Place::Outside => Shortfall::OutsideZone,
            Place::Excluded(area) => Shortfall::Excluded { area },
            Place::Inside => Shortfall::EnteringZone {
                inside: self.zone.against,
                needs: rule.zone_samples,
            },
        })
    }

    fn score_lacks(&self, gate: &Gate) -> Option<Shortfall> {
        let have = self.window.len();
        let needs = gate.samples.clamp(1, LEAST_SAMPLES);
        if gate.hits.is_none() && have < needs {
            return Some(Shortfall::FewSamples { have, needs });
        }
        let value = self.value(gate).unwrap_or(0.0);
        if value > 0.0 && value >= gate.threshold {
            return None;
        }
        let over = |v: &&f32| **v > 0.0 && **v >= gate.threshold;
        Some(match gate.hits {
            Some(needs) => Shortfall::FewHits {
                hits: self.window.iter().filter(over).count(),
                needs,
                samples: gate.samples,
                threshold: gate.threshold,
            },
            None => Shortfall::LowScore {
                median: value,
                threshold: gate.threshold,
                samples: have,
            },
        })
    }

    fn still_lacks(&self, rule: &RuleConfig) -> Option<Shortfall> {
        let limit = Duration::from_millis(rule.still_ms);
        (rule.still_ms > 0 && self.still >= limit).then_some(Shortfall::Still {
            still_ms: self.still.as_millis() as u64,
            limit_ms: rule.still_ms,
        })
    }

    /// What is held against the threshold: with `hits` the lowest of the `hits` highest scores, else the
    /// lower middle of all. `None`: the window holds too few.
    pub fn value(&self, gate: &Gate) -> Option<f32> {
        let mut sorted: Vec<f32> = self.window.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        let at = match gate.hits {
            Some(hits) => sorted.len().checked_sub(hits)?,
            None => sorted.len().checked_sub(1)? / 2,
        };
        sorted.get(at).copied()
    }

    /// Whether anything of late looked like one of the rule's classes.
    pub fn is_candidate(&self) -> bool {
        self.window.iter().any(|v| *v > 0.0)
    }

    /// The scores, oldest first.
    pub fn scores(&self) -> Vec<f32> {
        self.window.iter().copied().collect()
    }

    /// Its streak, if it passes or did a moment ago.
    pub fn streak(&self) -> Option<Streak> {
        self.streak
    }

    /// Whatever comes next dwells anew.
    pub fn end_streak(&mut self) {
        self.streak = None;
    }

    /// Lets the streak go on, begin or end.
    pub fn step(&mut self, passes: bool, offends: bool, moment: &Moment) {
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

    /// For [`super::RuleEngine::check_invariants`].
    pub fn check_invariants(&self, rule: &RuleConfig) {
        assert!(self.window.len() <= rule.samples.max(1), "{self:?}");
        assert!(self.window.iter().all(|v| v.is_finite()), "{self:?}");
        assert!(self.zone.against < rule.zone_samples.max(1), "{self:?}");
        assert!(!self.moved || self.still.is_zero(), "{self:?}");
        if let Some(s) = &self.streak {
            assert!(s.gap <= MAX_STREAK_GAP && s.gap <= s.dwelt, "{self:?}");
        }
    }
}

/// Whether the tracker is sure of the track in this picture.
fn unseen(track: &Track) -> Option<Shortfall> {
    match track.state {
        TrackState::Confirmed => None,
        TrackState::Tentative => Some(Shortfall::Unconfirmed { seen: track.hits }),
        TrackState::Lost => Some(Shortfall::Lost),
    }
}
