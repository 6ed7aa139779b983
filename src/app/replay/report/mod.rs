//! `--report FILE`: what was found in the clips, and why, for people who write no config files. One
//! file, nothing loaded from anywhere, the same for the same clips.
//!
//! `sentences` has what is said of a finding, `lanes` the timelines, `plot` the sweep, `svg` and `page` what they are
//! drawn with.
mod lanes;
mod page;
mod plot;
mod sentences;
mod svg;

use self::lanes::Lanes;
use self::sentences::{because, ending, length, span, time};
use self::svg::escape;
use super::Played;
use super::evaluate::{Found, Scene};
use super::explain::{self, Miss};
use super::lines::share;
use super::recording::ModelDigest;
use super::setup::NO_CAMERA;
use super::sweep::{Point, Sweep};
use super::timeline::Timeline;
use crate::app::health::fault_title;
use crate::app::truth::{Score, Truth};
use crate::base::words::{Lang, Texts, report as words, title};

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
    /// What people read it in.
    pub lang: Lang,
}

impl Report<'_> {
    /// The page.
    pub fn page(&self) -> String {
        let mut body = format!("<h1>{}</h1>\n", self.say(&words::heading()));
        self.summary(&mut body);
        if self.truth.is_some() {
            self.comparison(&mut body);
        }
        if let Some((sweep, points)) = self.sweep {
            body.push_str(&format!(
                "<h2>{}</h2>\n<div class=\"scroll\">{}</div>\n",
                self.say(&words::other_values(plot::title(sweep))),
                plot::element(sweep, points, self.lang)
            ));
        }
        self.key(&mut body);
        for (i, played) in self.played.iter().enumerate() {
            self.clip(&mut body, i, played);
        }
        self.colophon(&mut body);
        page::page(self.lang, words::title().of(self.lang), &body)
    }

    /// In the report's language, as markup.
    fn say(&self, texts: &Texts) -> String {
        escape(texts.of(self.lang))
    }

    /// Cells of a table's head; those that begin with `#` are of figures.
    fn head(&self, cells: &[(bool, Texts)]) -> String {
        let cell = |(is_figure, texts): &(bool, Texts)| {
            let class = if *is_figure { " class=\"n\"" } else { "" };
            format!("<th{class}>{}</th>", self.say(texts))
        };
        let cells: String = cells.iter().map(cell).collect();
        format!("<tr>{cells}</tr>\n")
    }

    fn summary(&self, body: &mut String) {
        let findings: usize = self.played.iter().map(|p| p.findings.len()).sum();
        let with = self
            .played
            .iter()
            .filter(|p| !p.findings.is_empty())
            .count();
        let seconds: f64 = self.played.iter().map(|p| p.recording.seconds()).sum();
        let count = |n: usize, one: Texts, many: Texts| if n == 1 { one } else { many };
        let clips = self.played.len();
        let about = words::summary(
            count(
                findings,
                words::finding_one(),
                words::findings_many(findings),
            ),
            with,
            count(clips, words::clip_one(), words::clips_many(clips)),
            length(seconds),
        );
        body.push_str(&format!(
            "<p>{}</p>\n<ul class=\"news\">\n",
            self.say(&about)
        ));
        let all = self.played.iter().enumerate();
        let each = all.flat_map(|(i, p)| p.findings.iter().map(move |f| (i, p, f)));
        for (i, played, found) in each.take(MOST_NEWS) {
            body.push_str(&format!(
                "<li>{} <a href=\"#clip-{i}\">{}</a></li>\n",
                self.sentence(played, found),
                escape(&played.recording.clip)
            ));
        }
        let mut item = |class: &str, texts: Texts| {
            body.push_str(&format!(
                "<li class=\"{class}\">{}</li>\n",
                self.say(&texts)
            ));
        };
        if findings > MOST_NEWS {
            item("near", words::more(findings - MOST_NEWS));
        }
        if findings == 0 {
            item("calm", words::calm());
        }
        for (clip, error) in self.failed {
            item("near", words::not_replayed(clip, error));
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
        // The title stands out, so it is put in as markup once the sentence is made.
        let said = words::sentence(
            "\u{e000}",
            zone.map_or_else(Texts::default, |z| words::in_zone(&z.name)),
            time(scene.seconds(opened.first_seen), long),
            time(scene.seconds(found.last_seen), long),
            because(scene, opened),
            ending(scene, found, rule, long),
        );
        let title = format!("<b>{}</b>", self.say(&title(rule.code.as_str())));
        let said = self.say(&said).replacen('\u{e000}', &title, 1);
        if !is_false {
            return said;
        }
        format!(
            "{said} <b class=\"bad\">{}</b>",
            self.say(&words::nothing_there())
        )
    }

    fn comparison(&self, body: &mut String) {
        let head = self.head(&[
            (false, words::what()),
            (true, words::events()),
            (true, words::found()),
            (true, words::missed()),
            (true, words::wrong()),
            (true, words::delay()),
            (false, words::of_events()),
            (false, words::of_findings()),
        ]);
        let title_of_part = self.say(&words::beside_truth());
        body.push_str(&format!("<h2>{title_of_part}</h2>\n<table>\n{head}"));
        for row in self.score.rows() {
            let delay = row.median_delay_s;
            let seconds = |d: f64| self.say(&words::seconds(format_args!("{d:.1}")));
            body.push_str(&format!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
                self.say(&title(&row.code)),
                row.events,
                row.found,
                row.missed,
                row.wrong,
                delay.map_or_else(|| "-".to_owned(), seconds),
                share(row.recall(), row.recall_interval()),
                share(row.precision(), row.precision_interval()),
            ));
        }
        body.push_str(&format!(
            "</table>\n<p class=\"soft\">{}</p>\n",
            self.say(&words::brackets())
        ));
    }

    /// What the drawings' colours mean.
    fn key(&self, body: &mut String) {
        let entries = [
            ("background:var(--c0);opacity:.5", words::key_score()),
            (
                "background:var(--c0);height:3px;vertical-align:middle",
                words::key_value(),
            ),
            (
                "background:var(--c1);height:2px;vertical-align:middle",
                words::key_asked(),
            ),
            ("background:var(--c4)", words::key_dwell()),
            ("background:var(--bad)", words::key_finding()),
            ("background:var(--c2)", words::key_truth()),
            ("background:var(--c3)", words::key_health()),
        ];
        let entry = |(style, texts): &(&str, Texts)| {
            format!("<span><i style=\"{style}\"></i>{}</span>", self.say(texts))
        };
        let entries: String = entries.iter().map(entry).collect();
        let title_of_part = self.say(&words::clips());
        body.push_str(&format!(
            "<h2>{title_of_part}</h2>\n<p class=\"key\">{entries}</p>\n"
        ));
    }

    fn clip(&self, body: &mut String, i: usize, played: &Played) {
        let scene = self.scene;
        let recording = &played.recording;
        let long = recording.seconds();
        let camera = match self.cameras.get(recording.camera.index()) {
            None | Some(&NO_CAMERA) => Texts::default(),
            Some(camera) => words::camera(camera),
        };
        let about = words::about_clip(
            &camera,
            length(long),
            recording.pictures,
            recording.pictures_seen.len(),
        );
        body.push_str(&format!(
            "<h2 id=\"clip-{i}\">{}</h2>\n<p class=\"soft\">{}</p>\n",
            escape(&recording.clip),
            self.say(&about)
        ));
        let timeline = Timeline::of(scene, recording);
        let mut untold = |texts: Texts| {
            body.push_str(&format!(
                "<p><b>{}</b> {}</p>\n",
                self.say(&texts),
                self.say(&words::nothing_to_say())
            ));
        };
        for blind in &timeline.blind {
            untold(words::no_picture(time(blind.0, long), time(blind.1, long)));
        }
        for (from, to, fault) in &timeline.health {
            let what = fault_title(*fault);
            untold(words::picture_was(
                &what,
                time(*from, long),
                time(*to, long),
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
            lang: self.lang,
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
        let head = self.head(&[
            (false, words::what()),
            (false, words::rule()),
            (true, words::seen_from()),
            (true, words::to()),
            (true, words::told_at()),
            (false, words::because_head()),
            (false, words::in_the_end()),
        ]);
        let title_of_part = self.say(&words::findings());
        body.push_str(&format!("<h3>{title_of_part}</h3>\n<table>\n{head}"));
        for found in &played.findings {
            let opened = found.opened();
            let rule = &scene.rules[usize::from(opened.rule.0)];
            body.push_str(&format!(
                "<tr id=\"{}\"><td><b>{}</b></td><td>{} v{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
                opened.finding,
                self.say(&title(rule.code.as_str())),
                escape(rule.id.as_str()),
                rule.version,
                self.say(&time(scene.seconds(opened.first_seen), long)),
                self.say(&time(scene.seconds(found.last_seen), long)),
                self.say(&time(scene.seconds(opened.stamp.received_utc), long)),
                self.say(&because(scene, opened)),
                self.say(&ending(scene, found, rule, long)),
            ));
        }
        body.push_str("</table>\n");
    }

    /// What was missed, what was false, and what came near.
    fn misses(&self, body: &mut String, played: &Played) {
        let scene = self.scene;
        let long = played.recording.seconds();
        let mut rows: Vec<(String, Texts, Texts, Texts)> = Vec::new();
        let bad = |texts: Texts| format!("<b class=\"bad\">{}</b>", self.say(&texts));
        let judged = played.judged.as_deref().unwrap_or_default();
        for false_one in judged.iter().filter(|j| j.outcome == "false") {
            rows.push((
                bad(words::wrong()),
                title(&false_one.code),
                span(false_one.start_s, false_one.end_s, long),
                words::false_finding(),
            ));
        }
        let missed = explain::missed_events(scene, played.recording.camera, judged);
        for answer in explain::missed(scene, &played.recording, &missed) {
            let explain::Asked::Missed { event_s } = answer.asked else {
                continue;
            };
            rows.push((
                bad(words::missed()),
                title(scene.rules[answer.rule].code.as_str()),
                span(event_s.0, event_s.1, long),
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
            rows.push((
                self.say(&words::near()),
                title(scene.rules[rule].code.as_str()),
                span(span_s.0, span_s.1, long),
                miss.sentence(scene),
            ));
        }
        if rows.is_empty() {
            return;
        }
        let head = self.head(&[
            (false, Texts::default()),
            (false, words::what()),
            (true, words::when()),
            (false, words::what_lacked()),
        ]);
        let title_of_part = self.say(&words::why_not());
        body.push_str(&format!("<h3>{title_of_part}</h3>\n<table>\n{head}"));
        for (kind, what, when, why) in rows {
            body.push_str(&format!(
                "<tr><td>{kind}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td></tr>\n",
                self.say(&what),
                self.say(&when),
                self.say(&why)
            ));
        }
        body.push_str("</table>\n");
        if all > MOST_MISSES {
            let nearest = self.say(&words::nearest_of(MOST_MISSES, all));
            body.push_str(&format!("<p class=\"soft\">{nearest}</p>\n"));
        }
    }

    fn colophon(&self, body: &mut String) {
        let models: Vec<String> = self.models.iter().map(ToString::to_string).collect();
        let made_by = words::made_by(env!("CARGO_PKG_VERSION"), models.join(", "));
        body.push_str(&format!(
            "<h2>{}</h2>\n<p>{}</p>\n<p class=\"soft\">{}</p>\n",
            self.say(&words::how_to_read()),
            self.say(&words::reading()),
            self.say(&made_by)
        ));
    }
}
