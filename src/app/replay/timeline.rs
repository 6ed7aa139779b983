//! What the report draws of a clip, collected picture by picture while track and rules run.
use super::evaluate::Scene;
use super::recording::Recording;
use crate::decode::PictureFault;
use crate::rules::{MAX_WATCHED_GAP, RuleEngine, Standing};
use crate::track::{TrackId, TrackSet, TrackState};

/// A clip as it is drawn. Times are seconds from its beginning.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Of each rule of the site, by index; those of other cameras are empty.
    pub rules: Vec<RuleLane>,
    /// Objects, in order of appearance.
    pub tracks: Vec<TrackLane>,
    /// When no picture was analysed for longer than a still scene explains.
    pub blind: Vec<(f64, f64)>,
    /// From when to when something was wrong with the pictures.
    pub health: Vec<(f64, f64, PictureFault)>,
}

/// What a rule saw.
#[derive(Clone, Debug, Default)]
pub struct RuleLane {
    /// When, and the highest score of an object of its classes.
    pub scores: Vec<(f64, f64)>,
    /// When, what it held against its threshold, and the threshold.
    pub values: Vec<(f64, f64, f64)>,
    /// When, and which part of its dwell had passed, `0.0..=1.0`.
    pub dwell: Vec<(f64, f64)>,
}

/// One object.
#[derive(Clone, Debug)]
pub struct TrackLane {
    /// Its number.
    pub id: TrackId,
    /// From when to when it was seen as what.
    pub parts: Vec<(f64, f64, u16)>,
    /// Highest score.
    pub best_score: f32,
}

impl TrackLane {
    /// From its first picture to its last.
    pub fn span_s(&self) -> (f64, f64) {
        let first = self.parts.first().map_or(0.0, |p| p.0);
        (first, self.parts.last().map_or(first, |p| p.1))
    }
}

impl Timeline {
    /// Of a recording.
    pub fn of(scene: &Scene, recording: &Recording) -> Self {
        let seconds = |us: u64| us as f64 / 1e6;
        let faults = recording.faults.iter();
        let mut timeline = Self {
            health: faults
                .map(|f| (seconds(f.from_us), seconds(f.to_us), f.fault))
                .collect(),
            rules: vec![RuleLane::default(); scene.rules.len()],
            ..Self::default()
        };
        let mut last_s = 0.0;
        scene.evaluate(recording, &mut |tracks, engine, _| {
            let at_s = scene.seconds(tracks.stamp.received_utc);
            if at_s - last_s > MAX_WATCHED_GAP.as_secs_f64() {
                timeline.blind.push((last_s, at_s));
            }
            last_s = at_s;
            timeline.tracks_at(at_s, tracks);
            timeline.rules_at(at_s, scene, tracks, engine);
        });
        let end_s = recording.seconds();
        if end_s - last_s > MAX_WATCHED_GAP.as_secs_f64() {
            timeline.blind.push((last_s, end_s));
        }
        timeline
    }

    fn tracks_at(&mut self, at_s: f64, tracks: &TrackSet) {
        for track in tracks
            .tracks
            .iter()
            .filter(|t| t.state == TrackState::Confirmed)
        {
            let known = self.tracks.iter().rposition(|l| l.id == track.id);
            let at = known.unwrap_or_else(|| {
                self.tracks.push(TrackLane {
                    id: track.id,
                    parts: Vec::new(),
                    best_score: 0.0,
                });
                self.tracks.len() - 1
            });
            let lane = &mut self.tracks[at];
            lane.best_score = lane.best_score.max(track.score);
            match lane.parts.last_mut() {
                Some(part) if part.2 == track.class.0 => part.1 = at_s,
                Some(part) => {
                    // Without a gap: it was one of the two in between.
                    part.1 = at_s;
                    lane.parts.push((at_s, at_s, track.class.0));
                }
                None => lane.parts.push((at_s, at_s, track.class.0)),
            }
        }
    }

    fn rules_at(&mut self, at_s: f64, scene: &Scene, tracks: &TrackSet, engine: &RuleEngine) {
        for state in engine.explain(tracks.camera) {
            let ix = usize::from(state.rule.0);
            let (rule, lane) = (&scene.rules[ix], &mut self.rules[ix]);
            let seen = tracks
                .tracks
                .iter()
                .filter(|t| t.state != TrackState::Lost && rule.classes.contains(&t.class));
            if let Some(best) = seen.map(|t| t.score).max_by(f32::total_cmp) {
                lane.scores.push((at_s, best.into()));
            }
            let Some(nearest) = state.nearest else {
                continue;
            };
            if let Some(value) = nearest.value {
                lane.values
                    .push((at_s, value.into(), state.gate.threshold.into()));
            }
            let share = match state.standing {
                // The finding's own bar says it.
                Standing::Open { .. } => 1.0,
                _ if state.gate.dwell_ms == 0 => 0.0,
                _ => (nearest.dwelt_ms as f64 / state.gate.dwell_ms as f64).min(1.0),
            };
            lane.dwell.push((at_s, share));
        }
    }
}
