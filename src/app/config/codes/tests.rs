//! The codes' own rules on recorded detections, into snapshots of what they found and what they
//! lacked until then.
//!
//! A line of a recording is a picture of a real clip, four a second: its milliseconds, and label, score and
//! box of each object that the shipped models saw (`mingchu detect --json --min-score 0.1`).
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::time::{FrameStamp, MonoMicros, UtcMicros};
use crate::detect::{Detection, Detections};
use crate::rules::{RuleEngine, Schedule, Shortfall};
use crate::track::{TrackConfig, Tracker};

const CAMERA: CameraIx = CameraIx(0);
/// Labels with the group of each.
const LABELS: &[(&str, u16)] = &[
    ("face-bare", 0),
    ("face-masked", 0),
    ("face-chin", 0),
    ("cigarette", 1),
    ("phone", 2),
    ("rat", 3),
];

fn class(label: &str) -> Option<ClassId> {
    let at = LABELS.iter().position(|(l, _)| *l == label)?;
    Some(ClassId(at as u16))
}

fn detections(picture: &Value) -> Detections {
    let number = |v: &Value| v.as_f64().unwrap() as f32;
    let ms = picture["ms"].as_u64().unwrap();
    let item = |o: &Value| Detection {
        class: class(o[0].as_str().unwrap()).unwrap(),
        score: number(&o[1]),
        rect: NormRect::clipped(
            number(&o[2][0]),
            number(&o[2][1]),
            number(&o[2][2]),
            number(&o[2][3]),
        ),
        head: None,
    };
    let stamp = FrameStamp {
        seq: ms / 250,
        received: MonoMicros(ms * 1000),
        received_utc: UtcMicros(ms as i64 * 1000),
        ..FrameStamp::default()
    };
    let objects = picture["objects"].as_array().unwrap().iter();
    Detections {
        camera: CAMERA,
        stamp,
        items: objects.map(item).collect::<Vec<_>>().into(),
        inferred: stamp.received,
    }
}

/// One line for each change of a finding and for each change of what is lacking.
fn told(recording: &str, code: &str, threshold: f32, business: Option<&When>) -> String {
    let name = Name::new(code).unwrap();
    let labels = defaults_of(code).unwrap().labels;
    let rule = RuleConfig {
        cameras: vec![CAMERA],
        classes: labels.iter().filter_map(|l| class(l)).collect(),
        threshold,
        ..rule_of(name.clone(), name, business)
    };
    let groups: Arc<[u16]> = LABELS.iter().map(|(_, group)| *group).collect();
    let starts: Arc<[f32]> = LABELS.iter().map(|_| rule.least_threshold()).collect();
    let mut tracker = Tracker::new(CAMERA, TrackConfig::default(), groups).with_starts(starts);
    let mut engine = RuleEngine::new(vec![rule], "test/recorded");
    let mut lines = Vec::new();
    let mut lacked = None;
    for line in recording.lines() {
        let seen = detections(&serde_json::from_str(line).unwrap());
        let at = format!("{:5.2} s", seen.stamp.received.0 as f64 / 1e6);
        for c in engine.on_tracks(&tracker.update(&seen)) {
            let scores: Vec<String> = c.scores.iter().map(|s| format!("{s:.2}")).collect();
            lines.push(format!(
                "{at}  {:?}: {} pictures, {}",
                c.phase,
                c.samples,
                scores.join(" ")
            ));
        }
        engine.check_invariants();
        let state = engine.explain(CAMERA).remove(0);
        let codes: Vec<_> = state.lacks.iter().map(Shortfall::code).collect();
        if lacked.as_ref() != Some(&codes) {
            let words: Vec<_> = state.lacks.iter().map(|l| l.text().en).collect();
            let track = state.nearest.map(|n| format!("track {}: ", n.track.0));
            let what = if words.is_empty() {
                "shown".to_owned()
            } else {
                words.join("; ")
            };
            lines.push(format!("{at}  {}{what}", track.unwrap_or_default()));
            lacked = Some(codes);
        }
    }
    lines.join("\n")
}

const RAT: &str = include_str!("../../../../tests/detections/rat-trap-night-cctv.jsonl");
const MASK: &str = include_str!("../../../../tests/detections/mask-on-off-closeup.jsonl");
const SMOKING: &str = include_str!("../../../../tests/detections/smoking-desk-lowlight.jsonl");

#[test]
fn a_rat_at_night_on_a_security_camera() {
    insta::assert_snapshot!(told(RAT, "pest.rodent", 0.45, None));
}

#[test]
fn the_same_rat_outside_business_hours_needs_less_evidence() {
    let mut hours = Schedule::new(jiff::tz::TimeZone::UTC);
    hours.add_hours("daily 08:00-21:00").unwrap();
    let business = When::Business(Arc::new(hours));
    insta::assert_snapshot!(told(RAT, "pest.rodent", 0.45, Some(&business)));
}

#[test]
fn a_mask_that_is_put_on_and_taken_off() {
    insta::assert_snapshot!(told(MASK, "ppe.mask.missing", 0.55, None));
}

#[test]
fn a_cigarette_seen_now_and_then_does_not_open() {
    insta::assert_snapshot!(told(SMOKING, "act.smoking", 0.3, None));
}

#[test]
fn nobody_smokes_where_a_mask_is_put_on() {
    insta::assert_snapshot!(told(MASK, "act.smoking", 0.3, None));
}
