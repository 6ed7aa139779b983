//! `--report FILE`: what was found in the clips, and why, for people who write no config files. One
//! file, nothing loaded from anywhere, the same for the same clips.
//!
//! `words` has the sentences, `lanes` the timelines, `plot` the sweep, `svg` and `page` what they are
//! drawn with.
mod lanes;
mod page;
mod plot;
mod svg;
mod words;

use self::lanes::Lanes;
use self::svg::escape;
use self::words::{because, count, ending, time, title};
use super::Played;
use super::evaluate::{Found, Scene};
use super::explain::{self, Miss};
use super::lines::share;
use super::recording::ModelDigest;
use super::setup::NO_CAMERA;
use super::sweep::{Point, Sweep};
use super::timeline::Timeline;
use crate::app::truth::{Score, Truth};

pub use plot::file as plot;

/// Findings in the summary, at most; the clips have them all.
const MOST_NEWS: usize = 40;
/// Near misses of a clip that are shown, the nearest.
const MOST_MISSES: usize = 8;

/// What a report is about.
pub struct Report<'a> {
    /// What the rules and classes are.
    pub scene: &'a Scene,
    /// Names of the cameras, by index.
    pub cameras: &'a [&'a str],
    /// Which networks looked.
    pub models: &'a [ModelDigest],
    /// The clips.
    pub played: &'a [Played],
    /// Clips that could not be replayed, and why.
    pub failed: &'a [(String, String)],
    /// What is really there, if somebody has said.
    pub truth: Option<&'a Truth>,
    /// How the findings compare with it.
    pub score: &'a Score,
    /// What was varied, and what it gave.
    pub sweep: Option<(&'a Sweep, &'a [Point])>,
}

impl Report<'_> {
    /// The page.
    pub fn page(&self) -> String {
        let mut body = String::from("<h1>What was found in the recordings</h1>\n");
        self.summary(&mut body);
        if self.truth.is_some() {
            self.comparison(&mut body);
        }
        if let Some((sweep, points)) = self.sweep {
            body.push_str(&format!(
                "<h2>What other values of {} would give</h2>\n<div class=\"scroll\">{}</div>\n",
                escape(&plot::title(sweep)),
                plot::element(sweep, points)
            ));
        }
        body.push_str(KEY);
        for (i, played) in self.played.iter().enumerate() {
            self.clip(&mut body, i, played);
        }
        self.colophon(&mut body);
        page::page("mingchu: what was found", &body)
    }

    fn summary(&self, body: &mut String) {
        let findings: usize = self.played.iter().map(|p| p.findings.len()).sum();
        let with = self
            .played
            .iter()
            .filter(|p| !p.findings.is_empty())
            .count();
        let seconds: f64 = self.played.iter().map(|p| p.recording.seconds()).sum();
        body.push_str(&format!(
            "<p>{} in {} of {}, {} of video in all. Times count from the beginning of each clip.</p>\n",
            count(findings, "finding", "findings"),
            with,
            count(self.played.len(), "clip", "clips"),
            length(seconds),
        ));
        body.push_str("<ul class=\"news\">\n");
        let all = self.played.iter().enumerate();
        let each = all.flat_map(|(i, p)| p.findings.iter().map(move |f| (i, p, f)));
        for (i, played, found) in each.take(MOST_NEWS) {
            body.push_str(&format!(
                "<li>{} <a href=\"#clip-{i}\">{}</a></li>\n",
                self.sentence(played, found),
                escape(&played.recording.clip)
            ));
        }
        if findings > MOST_NEWS {
            body.push_str(&format!(
                "<li class=\"near\">and {} more, below with their clips</li>\n",
                findings - MOST_NEWS
            ));
        }
        if findings == 0 {
            body.push_str(
                "<li class=\"calm\">Nothing was found. The clips below say what came near.</li>\n",
            );
        }
        for (clip, error) in self.failed {
            body.push_str(&format!(
                "<li class=\"near\">{} could not be replayed: {}</li>\n",
                escape(clip),
                escape(error)
            ));
        }
        body.push_str("</ul>\n");
    }

    /// A finding in one sentence.
    fn sentence(&self, played: &Played, found: &Found) -> String {
        let scene = self.scene;
        let opened = found.opened();
        let rule = &scene.rules[usize::from(opened.rule.0)];
        let long = played.recording.seconds();
        let zone = rule.zone.as_ref();
        let is_false = played.judged.iter().flatten().any(|j| {
            j.outcome == "false"
                && j.code == rule.code.as_str()
                && (j.start_s - scene.seconds(opened.first_seen)).abs() < 1e-6
        });
        format!(
            "<b>{}</b>{}, {} to {}, because {}; {}.{}",
            escape(title(rule.code.as_str())),
            zone.map_or_else(String::new, |z| format!(" in {}", escape(z.name.as_str()))),
            time(scene.seconds(opened.first_seen), long),
            time(scene.seconds(found.last_seen), long),
            escape(&because(scene, opened)),
            escape(&ending(scene, found, rule, long)),
            if is_false {
                " <b class=\"bad\">Nothing of the kind is there.</b>"
            } else {
                ""
            },
        )
    }

    fn comparison(&self, body: &mut String) {
        body.push_str("<h2>Beside what is really there</h2>\n<table>\n<tr><th>what</th><th class=\"n\">events</th><th class=\"n\">found</th><th class=\"n\">missed</th><th class=\"n\">false</th><th class=\"n\">delay</th><th>found of the events</th><th>right of the findings</th></tr>\n");
        for row in self.score.rows() {
            let delay = row.median_delay_s;
            body.push_str(&format!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(title(&row.code)),
                row.events,
                row.found,
                row.missed,
                row.wrong,
                delay.map_or_else(|| "-".to_owned(), |d| format!("{d:.1} s")),
                share(row.recall(), row.recall_interval()),
                share(row.precision(), row.precision_interval()),
            ));
        }
        body.push_str("</table>\n<p class=\"soft\">In brackets where the share lies with 95 % certainty: few events say little. Delay: half of the findings came sooner after their event began.</p>\n");
    }

    fn clip(&self, body: &mut String, i: usize, played: &Played) {
        let scene = self.scene;
        let recording = &played.recording;
        let long = recording.seconds();
        let camera = match self.cameras.get(recording.camera.index()) {
            None | Some(&NO_CAMERA) => String::new(),
            Some(camera) => format!("camera {}, ", escape(camera)),
        };
        body.push_str(&format!(
            "<h2 id=\"clip-{i}\">{}</h2>\n<p class=\"soft\">{camera}{}, {} pictures, {} of them looked at</p>\n",
            escape(&recording.clip),
            length(long),
            recording.pictures,
            recording.pictures_seen.len()
        ));
        let timeline = Timeline::of(scene, recording);
        for blind in &timeline.blind {
            body.push_str(&format!(
                "<p><b>No picture from {} to {}.</b> Nothing can be said of this time.</p>\n",
                time(blind.0, long),
                time(blind.1, long)
            ));
        }
        let watches = |r: &crate::rules::RuleConfig| r.cameras.contains(&recording.camera);
        let truth = scene.rules.iter().map(|r| {
            let truth = self.truth.filter(|_| watches(r))?;
            truth.events(&recording.clip, r.code.as_str())
        });
        let lanes = Lanes {
            scene,
            timeline: &timeline,
            findings: &played.findings,
            truth: truth.collect(),
            length_s: long,
        };
        body.push_str(&lanes.markup());
        self.findings(body, played);
        self.misses(body, played);
    }

    fn findings(&self, body: &mut String, played: &Played) {
        if played.findings.is_empty() {
            return;
        }
        let scene = self.scene;
        let long = played.recording.seconds();
        body.push_str("<h3>Findings</h3>\n<table>\n<tr><th>what</th><th>rule</th><th class=\"n\">seen from</th><th class=\"n\">to</th><th class=\"n\">told at</th><th>because</th><th>in the end</th></tr>\n");
        for found in &played.findings {
            let opened = found.opened();
            let rule = &scene.rules[usize::from(opened.rule.0)];
            body.push_str(&format!(
                "<tr id=\"{}\"><td><b>{}</b></td><td>{} v{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
                opened.finding,
                escape(title(rule.code.as_str())),
                escape(rule.id.as_str()),
                rule.version,
                time(scene.seconds(opened.first_seen), long),
                time(scene.seconds(found.last_seen), long),
                time(scene.seconds(opened.stamp.received_utc), long),
                escape(&because(scene, opened)),
                escape(&ending(scene, found, rule, long)),
            ));
        }
        body.push_str("</table>\n");
    }

    /// What was missed, what was false, and what came near.
    fn misses(&self, body: &mut String, played: &Played) {
        let scene = self.scene;
        let long = played.recording.seconds();
        let mut rows: Vec<(&str, &str, String, String)> = Vec::new();
        let judged = played.judged.as_deref().unwrap_or_default();
        for false_one in judged.iter().filter(|j| j.outcome == "false") {
            let span = span(false_one.start_s, false_one.end_s, long);
            let why = "a finding, but nothing of the kind is there".to_owned();
            rows.push((
                "<b class=\"bad\">false</b>",
                title(&false_one.code),
                span,
                why,
            ));
        }
        let missed = explain::missed_events(scene, played.recording.camera, judged);
        for answer in explain::missed(scene, &played.recording, &missed) {
            let explain::Asked::Missed { event_s } = answer.asked else {
                continue;
            };
            let code = scene.rules[answer.rule].code.as_str();
            let span = span(event_s.0, event_s.1, long);
            rows.push((
                "<b class=\"bad\">missed</b>",
                title(code),
                span,
                answer.words(scene),
            ));
        }
        let mut near: Vec<(usize, (f64, f64), Miss)> = Vec::new();
        let by_rule = explain::approaches(scene, &played.recording)
            .into_iter()
            .enumerate();
        for (rule, approaches) in by_rule {
            near.extend(approaches.into_iter().map(|a| (rule, a.span_s, a.nearest)));
        }
        let all = near.len();
        near.sort_by(|a, b| b.2.nearness().total_cmp(&a.2.nearness()));
        near.truncate(MOST_MISSES);
        near.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
        for (rule, span_s, miss) in near {
            let code = scene.rules[rule].code.as_str();
            let why = miss.sentence(scene);
            rows.push(("near", title(code), span(span_s.0, span_s.1, long), why));
        }
        if rows.is_empty() {
            return;
        }
        body.push_str("<h3>Why not: what came near, and what it lacked</h3>\n<table>\n<tr><th></th><th>what</th><th class=\"n\">when</th><th>what was seen, and what was lacking</th></tr>\n");
        for (kind, what, when, why) in rows {
            body.push_str(&format!(
                "<tr><td>{kind}</td><td>{}</td><td class=\"n\">{when}</td><td>{}</td></tr>\n",
                escape(what),
                escape(&why)
            ));
        }
        body.push_str("</table>\n");
        if all > MOST_MISSES {
            body.push_str(&format!(
                "<p class=\"soft\">The {MOST_MISSES} nearest of {all}.</p>\n"
            ));
        }
    }

    fn colophon(&self, body: &mut String) {
        let models: Vec<String> = self.models.iter().map(ToString::to_string).collect();
        body.push_str(&format!(
            "<h2>How to read this</h2>\n<p>A model looks at some pictures a second and says what it sees and how sure it is: a score from 0 to 1. Objects are followed from picture to picture. A rule tells when the newest scores of an object are high enough (the dashed line), and stay so for long enough. What a rule tells is for a person to look at; it is no judgement.</p>\n<p class=\"soft\">mingchu {}; models: {}. The same recordings, config and models give the same report.</p>\n",
            env!("CARGO_PKG_VERSION"),
            escape(&models.join(", "))
        ));
    }
}

const KEY: &str = "<h2>The clips</h2>\n<p class=\"key\"><span><i style=\"background:var(--c0);opacity:.5\"></i>score of a picture</span><span><i style=\"background:var(--c0);height:3px;vertical-align:middle\"></i>what the rule goes by</span><span><i style=\"background:var(--c1);height:2px;vertical-align:middle\"></i>what is asked</span><span><i style=\"background:var(--c4)\"></i>how much of the time that it must last has passed</span><span><i style=\"background:var(--bad)\"></i>finding: seen (thick), open (thin), told at the triangle</span><span><i style=\"background:var(--c2)\"></i>really there</span></p>\n";

fn span(from_s: f64, to_s: f64, long: f64) -> String {
    let (from, to) = (time(from_s, long), time(to_s, long));
    if from == to {
        from
    } else {
        format!("{from} to {to}")
    }
}

fn length(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}
