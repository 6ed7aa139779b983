//! From recorded detections to findings: track and rules alone, microseconds a picture.
//!
//! What must not be here: decoding, models, files, printing. The same recording and the same rules
//! give the same findings, ids included, whether the detections were just made or read from a file.
use super::recording::Recording;
use crate::app::models::starts_of;
use crate::app::truth::Seen;
use crate::base::ids::CameraIx;
use crate::base::time::{FrameStamp, MonoMicros, UtcMicros};
use crate::detect::{ClassInfo, Detections};
use crate::rules::{FindingChange, Phase, RuleConfig, RuleEngine};
use crate::track::{TrackConfig, TrackSet, Tracker};

/// What track and rules need to know.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What the models can see, by class id.
    pub classes: Vec<ClassInfo>,
    /// How objects are followed.
    pub track: TrackConfig,
    /// All rules; each names the cameras it watches.
    pub rules: Vec<RuleConfig>,
    /// The moment at which each clip begins, for rules that ask the time of day.
    pub begins: UtcMicros,
}

/// One finding with all its revisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// At least one, oldest first.
    pub changes: Vec<FindingChange>,
    /// The newest picture of it, also if no revision says so yet.
    pub last_seen: UtcMicros,
}

impl Found {
    /// The revision that opened it.
    pub fn opened(&self) -> &FindingChange {
        &self.changes[0]
    }

    /// The newest revision.
    pub fn newest(&self) -> &FindingChange {
        self.changes.last().unwrap_or(&self.changes[0])
    }

    /// When it was open: from a revision that opened it to the one that closed it; `None`: still open
    /// at the end.
    pub fn spans(&self) -> Vec<(UtcMicros, Option<UtcMicros>)> {
        let mut spans: Vec<(UtcMicros, Option<UtcMicros>)> = Vec::new();
        for change in &self.changes {
            let at = change.stamp.received_utc;
            let is_open = spans.last().is_some_and(|s| s.1.is_none());
            match (change.phase, is_open) {
                (Phase::Closed, true) => spans.iter_mut().for_each(|s| s.1 = s.1.or(Some(at))),
                (Phase::Closed, false) | (_, true) => {}
                (_, false) => spans.push((at, None)),
            }
        }
        spans
    }
}

impl Scene {
    /// Seconds from the clip's beginning.
    pub fn seconds(&self, at: UtcMicros) -> f64 {
        (at.0 - self.begins.0) as f64 / 1e6
    }

    /// The rules that watch `camera`.
    pub fn rules_of(&self, camera: CameraIx) -> impl Iterator<Item = &RuleConfig> {
        self.rules
            .iter()
            .filter(move |r| r.cameras.contains(&camera))
    }

    /// The label of a class.
    pub fn label(&self, class: crate::base::ids::ClassId) -> &str {
        let known = self.classes.get(usize::from(class.0));
        known.map_or("?", |c| c.label.as_str())
    }

    /// A finding as far as a truth judges it.
    pub fn seen(&self, found: &Found) -> Seen {
        let opened = found.opened();
        Seen {
            code: self.rules[usize::from(opened.rule.0)].code.to_string(),
            first_seen_s: self.seconds(opened.first_seen),
            opened_s: self.seconds(opened.stamp.received_utc),
            last_seen_s: self.seconds(found.last_seen),
        }
    }

    /// Each code that a camera's rules look for, with the least dwell in seconds: two rules of one
    /// code, for two zones, are one question to the truth.
    pub fn codes_of(&self, camera: CameraIx) -> Vec<(&str, f64)> {
        let mut codes: Vec<(&str, f64)> = Vec::new();
        for rule in self.rules_of(camera) {
            let dwell_s = rule.dwell_ms as f64 / 1000.0;
            match codes.iter_mut().find(|(c, _)| *c == rule.code.as_str()) {
                Some((_, least)) => *least = dwell_s.min(*least),
                None => codes.push((rule.code.as_str(), dwell_s)),
            }
        }
        codes
    }

    /// The tracker of a camera.
    pub fn tracker(&self, camera: CameraIx) -> Tracker {
        let groups = self.classes.iter().map(|c| c.group).collect();
        let starts = starts_of(&self.classes, &self.rules, camera);
        Tracker::new(camera, self.track.clone(), groups).with_starts(starts)
    }

    /// The rules for a clip.
    pub fn engine(&self, clip: &str) -> RuleEngine {
        RuleEngine::new(self.rules.clone(), &format!("replay/{clip}"))
    }

    /// The stamp of a picture that is shown `at_us` after the clip's beginning.
    pub fn stamp(&self, at_us: u64, stamp: FrameStamp) -> FrameStamp {
        FrameStamp {
            received_utc: UtcMicros(self.begins.0 + at_us as i64),
            received: MonoMicros(at_us),
            ..stamp
        }
    }

    /// Runs track and rules over `recording`; `watch` sees what came of each picture.
    pub fn evaluate(
        &self,
        recording: &Recording,
        watch: &mut dyn FnMut(&TrackSet, &RuleEngine, &[FindingChange]),
    ) -> Vec<Found> {
        let camera = recording.camera;
        let mut tracker = self.tracker(camera);
        let mut engine = self.engine(&recording.clip);
        let mut findings: Vec<Found> = Vec::new();
        for picture in &recording.pictures_seen {
            let stamp = self.stamp(picture.at_us, picture.stamp);
            let tracks = tracker.update(&Detections {
                camera,
                stamp,
                items: picture.items.clone().into(),
                inferred: stamp.received,
            });
            let changes = engine.on_tracks(&tracks);
            watch(&tracks, &engine, &changes);
            for change in changes {
                let known = findings
                    .iter_mut()
                    .find(|f| f.opened().finding == change.finding);
                match known {
                    Some(found) => {
                        found.last_seen = change.last_seen;
                        found.changes.push(change);
                    }
                    None => findings.push(Found {
                        last_seen: change.last_seen,
                        changes: vec![change],
                    }),
                }
            }
        }
        // What is open may have been seen since its last revision.
        for open in engine.open() {
            let known = findings
                .iter_mut()
                .find(|f| f.opened().finding == open.finding);
            if let Some(found) = known {
                found.last_seen = open.last_seen;
            }
        }
        findings
    }
}
