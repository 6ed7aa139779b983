//! `--explain`: for a moment of a clip, or for all of it, what each rule lacked to open a finding.
//!
//! The rules themselves say what they lack ([`RuleEngine::explain`]); here is only which moments are
//! worth telling. Going through a recording costs microseconds a picture, so each question is a pass
//! of its own.
use serde::Serialize;

use super::evaluate::{Found, Scene};
use super::lines::rounded;
use super::recording::Recording;
use super::setup::Setup;
use crate::app::explain::{Explained, explained};
use crate::app::truth::Judged;
use crate::base::ids::CameraIx;
use crate::base::time::UtcMicros;
use crate::base::words::{self, Texts, why};
use crate::rules::{RuleEngine, RuleState, Shortfall, Standing};
use crate::track::TrackSet;

/// Candidates further apart than this, in seconds, are two approaches.
const APART_S: f64 = 2.0;

/// What one rule lacked in one picture.
#[derive(Clone, Debug)]
pub struct Miss {
    /// From the clip's beginning.
    pub at_s: f64,
    /// What the rule says.
    pub state: RuleState,
    /// Labels of what else was there.
    pub others: Vec<String>,
}

/// A time in which something came near to a rule's finding and opened none.
#[derive(Clone, Debug)]
pub struct Approach {
    /// Begin and end, from the clip's beginning.
    pub span_s: (f64, f64),
    /// The picture in which it came nearest.
    pub nearest: Miss,
}

/// The best that the models gave for a rule, followed or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestDetection {
    /// From the clip's beginning.
    pub at_s: f64,
    /// What.
    pub label: String,
    /// How sure.
    pub score: f64,
}

/// Why a question was asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    /// For a moment.
    Moment,
    /// What came nearest in the whole clip.
    Nearest,
    /// Why an event of the truth was missed.
    Missed {
        /// Its begin and end, from the clip's beginning.
        event_s: (f64, f64),
    },
}

/// An answer, for people and machines.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Why.
    pub asked: Asked,
    /// Which rule, by index.
    pub rule: usize,
    /// `None`: no picture was analysed then.
    pub miss: Option<Miss>,
    /// The best that was seen for the rule in the time asked for; with nothing better to say.
    pub best: Option<BestDetection>,
}

#[derive(Serialize)]
struct AnswerLine<'a> {
    explain: &'static str,
    clip: &'a str,
    camera: &'a str,
    rule: &'a str,
    code: &'a str,
    event_s: Option<[f64; 2]>,
    at_s: Option<f64>,
    text: String,
    text_zh: String,
    best_detection: &'a Option<BestDetection>,
    /// What the site's `diagnose` would have answered at that picture.
    said: Option<Explained>,
}

impl Miss {
    /// How near it was, the higher the nearer: what lacks fewer things is nearer, and of equals what
    /// lacks less of the first.
    pub fn nearness(&self) -> f64 {
        let Some(first) = self.state.lacks.first() else {
            return 100.0;
        };
        if self.state.nearest.is_none() {
            return 0.0;
        }
        let part = |have: f64, needs: f64| {
            if needs > 0.0 {
                (have / needs).clamp(0.0, 1.0)
            } else {
                1.0
            }
        };
        let share = match *first {
            Shortfall::LowScore {
                median, threshold, ..
            } => part(median.into(), threshold.into()),
            Shortfall::ShortDwell { dwelt_ms, needs_ms } => part(dwelt_ms as f64, needs_ms as f64),
            Shortfall::FewHits { hits, needs, .. } => part(hits as f64, needs as f64),
            Shortfall::FewSamples { have, needs } => part(have as f64, needs as f64),
            _ => 0.5,
        };
        20.0 - self.state.lacks.len() as f64 + share * 0.99
    }

    /// What was lacking, in words; what follows from something else that lacks is left out.
    pub fn words(&self) -> Texts {
        let lacks = &self.state.lacks;
        let follows = |l: &&Shortfall| {
            lacks.len() > 1 && matches!(l, Shortfall::ShortDwell { dwelt_ms: 0, .. })
        };
        Texts::joined(lacks.iter().filter(|l| !follows(l)).map(Shortfall::text))
    }

    /// The same with what it is about: `head-bare (track 4), score 0.35: 0.31 is below …`.
    pub fn sentence(&self, scene: &Scene) -> Texts {
        let about = |said: Texts| match &self.state.nearest {
            Some(n) => {
                let label = words::label_beside(scene.label(n.class));
                let what = why::track(&label, n.track.0, format_args!("{:.2}", n.score));
                why::of_track(&what, &said)
            }
            None => said,
        };
        match self.state.standing {
            Standing::Open { .. } if self.state.lacks.is_empty() => about(why::shows_and_open()),
            Standing::Open { unseen_ms, .. } => {
                let unseen = why::open_unseen(format_args!("{:.1}", unseen_ms as f64 / 1000.0));
                Texts::joined([unseen, about(self.words())])
            }
            Standing::Idle | Standing::CoolingDown { .. } => {
                let said = about(self.words());
                if self.state.nearest.is_some() || self.others.is_empty() {
                    return said;
                }
                let others = Texts::listed(self.others.iter().map(|l| words::label_beside(l)));
                Texts::joined([said, why::seen_were(&others)])
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state.standing, Standing::Open { .. })
    }
}

/// Labels of what is there, each once.
fn labels(scene: &Scene, tracks: &TrackSet) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for track in &tracks.tracks {
        let label = scene.label(track.class);
        if !labels.iter().any(|l| l == label) {
            labels.push(label.to_owned());
        }
    }
    labels
}

/// Calls `each` with what each rule lacked in each picture.
fn pass(scene: &Scene, recording: &Recording, each: &mut dyn FnMut(Miss)) {
    let mut watch = |tracks: &TrackSet, engine: &RuleEngine, at: UtcMicros, camera: CameraIx| {
        for state in engine.explain(camera) {
            each(Miss {
                at_s: scene.seconds(at),
                others: if state.nearest.is_none() {
                    labels(scene, tracks)
                } else {
                    Vec::new()
                },
                state,
            });
        }
    };
    scene.evaluate(recording, &mut |tracks, engine, _| {
        watch(tracks, engine, tracks.stamp.received_utc, tracks.camera);
    });
}

/// What each rule of the clip's camera said of the newest picture at `at_s`; empty: there was none.
pub fn at_moment(scene: &Scene, recording: &Recording, at_s: f64) -> Vec<Answer> {
    let mut newest: Vec<Option<Miss>> = vec![None; scene.rules.len()];
    pass(scene, recording, &mut |miss| {
        if miss.at_s <= at_s + 1e-6 {
            let rule = usize::from(miss.state.rule.0);
            newest[rule] = Some(miss);
        }
    });
    let said = newest.into_iter().enumerate();
    said.filter_map(|(rule, miss)| {
        miss.map(|miss| Answer {
            asked: Asked::Moment,
            rule,
            miss: Some(miss),
            best: None,
        })
    })
    .collect()
}

/// All approaches, by rule, in order of time.
pub fn approaches(scene: &Scene, recording: &Recording) -> Vec<Vec<Approach>> {
    let mut done: Vec<Vec<Approach>> = vec![Vec::new(); scene.rules.len()];
    let mut under_way: Vec<Option<Approach>> = vec![None; scene.rules.len()];
    pass(scene, recording, &mut |miss| {
        let rule = usize::from(miss.state.rule.0);
        let now = &mut under_way[rule];
        if miss.is_open() {
            // It led to the finding.
            *now = None;
            return;
        }
        if now
            .as_ref()
            .is_some_and(|a| miss.at_s - a.span_s.1 > APART_S)
        {
            done[rule].extend(now.take());
        }
        if miss.state.nearest.is_none() {
            return;
        }
        match now {
            None => {
                *now = Some(Approach {
                    span_s: (miss.at_s, miss.at_s),
                    nearest: miss,
                });
            }
            Some(approach) => {
                approach.span_s.1 = miss.at_s;
                if miss.nearness() > approach.nearest.nearness() {
                    approach.nearest = miss;
                }
            }
        }
    });
    for (rule, approach) in under_way.into_iter().enumerate() {
        done[rule].extend(approach);
    }
    done
}

/// What came nearest to a finding of each rule in the whole clip and opened none. Of a rule that found
/// something and nothing else came near, there is nothing to say.
pub fn nearest(scene: &Scene, recording: &Recording, findings: &[Found]) -> Vec<Answer> {
    let by_rule = approaches(scene, recording).into_iter().enumerate();
    let watching = |rule: &usize| scene.rules[*rule].cameras.contains(&recording.camera);
    by_rule
        .filter(|(rule, _)| watching(rule))
        .filter_map(|(rule, approaches)| {
            let mut findings = findings.iter();
            let has_found = findings.any(|f| usize::from(f.opened().rule.0) == rule);
            let nearest = approaches.into_iter().map(|a| a.nearest).reduce(nearer);
            let best = best_detection(scene, recording, rule, (0.0, f64::MAX));
            (nearest.is_some() || !has_found).then(|| Answer {
                asked: Asked::Nearest,
                rule,
                best: best.filter(|_| nearest.is_none()),
                miss: nearest,
            })
        })
        .collect()
}

/// The rule and span of each event that was missed.
pub fn missed_events(
    scene: &Scene,
    camera: CameraIx,
    judged: &[Judged],
) -> Vec<(usize, (f64, f64))> {
    let missed = judged.iter().filter(|j| j.outcome == "missed");
    let of_rules = missed.flat_map(|j| {
        let rules = scene.rules.iter().enumerate();
        let mine = rules.filter(|(_, r)| r.code.as_str() == j.code && r.cameras.contains(&camera));
        mine.map(|(i, _)| (i, (j.start_s, j.end_s)))
    });
    of_rules.collect()
}

/// Why each of `events`, (rule, begin and end), was missed.
pub fn missed(scene: &Scene, recording: &Recording, events: &[(usize, (f64, f64))]) -> Vec<Answer> {
    let mut nearest: Vec<Option<Miss>> = vec![None; events.len()];
    pass(scene, recording, &mut |miss| {
        for ((rule, span), best) in events.iter().zip(&mut nearest) {
            let is_in = miss.at_s >= span.0 && miss.at_s <= span.1;
            if is_in && usize::from(miss.state.rule.0) == *rule {
                *best = Some(match best.take() {
                    Some(best) => nearer(best, miss.clone()),
                    None => miss.clone(),
                });
            }
        }
    });
    let asked = events.iter().zip(nearest);
    asked
        .map(|(&(rule, event_s), miss)| {
            let followed = miss.as_ref().is_some_and(|m| m.state.nearest.is_some());
            let best = best_detection(scene, recording, rule, event_s);
            Answer {
                asked: Asked::Missed { event_s },
                rule,
                best: best.filter(|_| !followed),
                miss,
            }
        })
        .collect()
}

fn nearer(a: Miss, b: Miss) -> Miss {
    // A finding that was open says nothing of why none opened.
    let rank = |m: &Miss| (!m.is_open(), m.nearness());
    if rank(&b) > rank(&a) { b } else { a }
}

fn best_detection(
    scene: &Scene,
    recording: &Recording,
    rule: usize,
    span_s: (f64, f64),
) -> Option<BestDetection> {
    let classes = &scene.rules[rule].classes;
    let pictures = recording.pictures_seen.iter();
    let seen = pictures.flat_map(|p| p.items.iter().map(move |item| (p.at_us as f64 / 1e6, item)));
    seen.filter(|(at_s, item)| {
        *at_s >= span_s.0 && *at_s <= span_s.1 && classes.contains(&item.class)
    })
    .max_by(|a, b| a.1.score.total_cmp(&b.1.score).then(b.0.total_cmp(&a.0)))
    .map(|(at_s, item)| BestDetection {
        at_s,
        label: scene.label(item.class).to_owned(),
        score: rounded(item.score.into()),
    })
}

impl Answer {
    /// In words, without the rule.
    pub fn words(&self, scene: &Scene) -> Texts {
        let said = match (&self.miss, self.asked) {
            (Some(miss), _) => miss.sentence(scene),
            (None, Asked::Nearest) => why::nothing_followed(),
            (None, _) => why::no_picture(),
        };
        let Some(best) = &self.best else {
            return said;
        };
        let threshold = scene.rules[self.rule].least_threshold();
        let best = why::best(
            words::label_beside(&best.label),
            format_args!("{:.2}", best.score),
            format_args!("{:.1}", best.at_s),
            format_args!("{threshold:.2}"),
        );
        Texts::joined([said, best])
    }

    /// As one line for people.
    pub fn line(&self, scene: &Scene) -> Texts {
        let tenth = |s: f64| format!("{s:.1}");
        let at = self.miss.as_ref().map(|m| tenth(m.at_s));
        let when = match (self.asked, at) {
            (Asked::Moment, Some(at)) => why::at(at),
            (Asked::Nearest, Some(at)) => why::nearest_at(at),
            (Asked::Missed { event_s }, Some(at)) => {
                why::missed_nearest(tenth(event_s.0), tenth(event_s.1), at)
            }
            (Asked::Missed { event_s }, None) => why::missed(tenth(event_s.0), tenth(event_s.1)),
            (_, None) => why::nearest(),
        };
        why::line(&scene.rules[self.rule].id, &when, self.words(scene))
    }

    /// As one object for machines.
    pub fn object<'a>(&'a self, setup: &'a Setup, recording: &'a Recording) -> impl Serialize {
        let scene = &setup.scene;
        let rule = &scene.rules[self.rule];
        let said = |miss: &Miss| explained(&miss.state, &scene.rules, &setup.facts.models);
        let text = self.words(scene);
        AnswerLine {
            explain: match self.asked {
                Asked::Moment => "moment",
                Asked::Nearest => "nearest",
                Asked::Missed { .. } => "missed",
            },
            clip: &recording.clip,
            camera: setup.facts.cameras[recording.camera.index()].0.as_str(),
            rule: rule.id.as_str(),
            code: rule.code.as_str(),
            event_s: match self.asked {
                Asked::Missed { event_s } => Some([event_s.0, event_s.1]),
                Asked::Moment | Asked::Nearest => None,
            },
            at_s: self.miss.as_ref().map(|m| m.at_s),
            text: text.en,
            text_zh: text.zh,
            best_detection: &self.best,
            said: self.miss.as_ref().map(said),
        }
    }
}
