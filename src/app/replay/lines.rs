//! What a replay prints: for people, or as JSON lines.
use serde::Serialize;

use super::evaluate::Found;
use super::recording::Recording;
use super::setup::Setup;
use crate::app::terminal::{Terminal, Tone};
use crate::app::truth::{Judged, Row, Score};
use crate::base::words::{self, Lang, Texts, padded, padded_left};
use crate::uplink::FindingData;

/// Where lines go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Standard output.
    pub terminal: Terminal,
    /// JSON lines.
    pub json: bool,
}

/// A finding's life in clip time, with everything that the daemon would have sent of it.
#[derive(Clone, Debug, Serialize)]
pub struct FindingLine {
    clip: String,
    finding: uuid::Uuid,
    code: String,
    rule: String,
    /// Seconds from the clip's beginning.
    first_seen_s: f64,
    /// The same; when the daemon would have told.
    opened_s: f64,
    /// The same; `null`: still open at the end.
    closed_s: Option<f64>,
    last_seen_s: f64,
    /// Median of the window that decided that it opens.
    score: f32,
    label: String,
    camera: String,
    /// The payloads, oldest first; their times are the clip's, from `--begins` on.
    revisions: Vec<FindingData>,
}

#[derive(Debug, Serialize)]
struct ClipLine<'a> {
    clip: &'a str,
    seconds: f64,
    pictures: u64,
    analysed: usize,
    findings: usize,
    camera: &'a str,
}

#[derive(Debug, Serialize)]
struct RowLine<'a> {
    /// Tells this line from a finding's, which has a `code` too.
    score_of: &'a str,
    events: usize,
    found: usize,
    missed: usize,
    #[serde(rename = "false")]
    wrong: usize,
    findings: usize,
    recall: Option<f64>,
    recall_interval: Option<[f64; 2]>,
    precision: Option<f64>,
    precision_interval: Option<[f64; 2]>,
    median_delay_s: Option<f64>,
}

/// Four decimals.
pub fn rounded(v: f64) -> f64 {
    (v * 1e4).round() / 1e4
}

/// Median of the deciding window.
pub fn median(scores: &[f32]) -> f32 {
    let mut scores = scores.to_vec();
    scores.sort_by(f32::total_cmp);
    let middle = scores.get(scores.len().saturating_sub(1) / 2);
    middle.copied().unwrap_or(0.0)
}

impl FindingLine {
    /// The line of `found`.
    pub fn of(setup: &Setup, clip: &str, found: &Found) -> Self {
        let opened = found.opened();
        let rule = &setup.scene.rules[usize::from(opened.rule.0)];
        let at = |t| setup.scene.seconds(t);
        let label = opened.objects.first().map(|o| setup.scene.label(o.class));
        let payload = |change| {
            let mut data = setup.facts.data(change);
            // The clip's time is nobody's clock, and what this machine's is must not show.
            data.clock.synced = false;
            "none".clone_into(&mut data.clock.source);
            data.clock.uncertainty_ms = None;
            data
        };
        Self {
            clip: clip.to_owned(),
            finding: opened.finding,
            code: rule.code.to_string(),
            rule: rule.id.to_string(),
            first_seen_s: at(opened.first_seen),
            opened_s: at(opened.stamp.received_utc),
            closed_s: found.newest().closed_at.map(at),
            last_seen_s: at(found.last_seen),
            score: median(&opened.scores),
            label: label.unwrap_or_default().to_owned(),
            camera: setup.facts.cameras[opened.camera.index()].0.to_string(),
            revisions: found.changes.iter().map(payload).collect(),
        }
    }
}

impl Lines {
    /// One JSON line.
    pub fn object(self, value: &impl Serialize) {
        self.terminal
            .line(serde_json::to_string(value).unwrap_or_default());
    }

    /// What is wrong with one clip.
    pub fn error(self, clip: &str, error: &dyn std::fmt::Display) {
        if self.json {
            self.object(&serde_json::json!({"clip": clip, "error": error.to_string()}));
        } else {
            let text = format_args!("{clip}: {error}");
            self.terminal.line(self.terminal.paint(Tone::Bad, text));
        }
    }

    /// A clip and its findings.
    pub fn clip(self, setup: &Setup, recording: &Recording, findings: &[Found]) {
        let clip = &recording.clip;
        let found = findings.iter().map(|f| FindingLine::of(setup, clip, f));
        let (seconds, pictures) = (recording.seconds(), recording.pictures);
        let analysed = recording.pictures_seen.len();
        if self.json {
            self.object(&ClipLine {
                clip,
                seconds,
                pictures,
                analysed,
                findings: findings.len(),
                camera: setup.facts.cameras[recording.camera.index()].0.as_str(),
            });
            found.for_each(|line| self.object(&line));
            return;
        }
        let about = words::replay::clip(format_args!("{seconds:.1}"), pictures, analysed);
        self.terminal.line(format_args!(
            "{}  {}",
            self.terminal.paint(Tone::Bold, clip),
            self.say(&about)
        ));
        for f in found {
            let last = format!("{:.1}", f.last_seen_s);
            let end = match f.closed_s {
                None => words::replay::open_at_end(last),
                Some(at) => words::replay::closed(last, format_args!("{at:.1}")),
            };
            self.terminal.line(format_args!(
                "  {}  {} {} {:.2}  {}",
                self.terminal
                    .paint(Tone::Bad, format_args!("{:6.1} s", f.opened_s)),
                self.title(&f.code),
                padded(self.say(&words::label_beside(&f.label)), 12),
                f.score,
                self.say(&end)
            ));
        }
    }

    /// How a clip's findings compare with the truth.
    pub fn judged(self, judged: &[Judged]) {
        for one in judged {
            if self.json {
                self.object(one);
                continue;
            }
            let tone = match one.outcome.as_str() {
                "found" | "short" => Tone::Good,
                _ => Tone::Bad,
            };
            let delay = one.delay_s.map_or_else(Texts::default, |d| {
                words::replay::late(format_args!("{d:.1}"))
            });
            let outcome = match one.outcome.as_str() {
                "found" => words::replay::found(),
                "missed" => words::replay::missed(),
                "false" => words::replay::wrong(),
                "short" => words::replay::short(),
                other => Texts::same(other),
            };
            let outcome = padded(self.say(&outcome), 8);
            let span = words::replay::span(
                format_args!("{:5.1}", one.start_s),
                format_args!("{:5.1}", one.end_s),
            );
            self.terminal.line(format_args!(
                "  {} {} {}{}",
                self.terminal.paint(tone, outcome),
                self.title(&one.code),
                self.say(&span),
                self.say(&delay)
            ));
        }
    }

    /// All clips together.
    pub fn score(self, score: &Score) {
        if self.json {
            score
                .rows()
                .iter()
                .for_each(|row| self.object(&row_line(row)));
            return;
        }
        let head = [
            (words::replay::events(), 6),
            (words::replay::found(), 6),
            (words::replay::missed(), 7),
            (words::replay::wrong(), 6),
            (words::replay::delay_s(), 8),
            (words::replay::recall(), 19),
            (words::replay::precision(), 19),
        ];
        let head = head.map(|(text, to)| padded_left(self.say(&text), to));
        let code = padded(self.say(&words::replay::code()), 20);
        self.terminal
            .line(format_args!("\n{code} {}", head.join(" ")));
        for row in score.rows() {
            let delay = row
                .median_delay_s
                .map_or_else(|| "-".to_owned(), |d| format!("{d:.1}"));
            self.terminal.line(format_args!(
                "{:<20} {:>6} {:>6} {:>7} {:>6} {:>8}  {:>18} {:>19}",
                row.code,
                row.events,
                row.found,
                row.missed,
                row.wrong,
                delay,
                share(row.recall(), row.recall_interval()),
                share(row.precision(), row.precision_interval()),
            ));
        }
        let legend = words::replay::legend(score.clips, format_args!("{:.0}", score.seconds));
        self.terminal.line(self.say(&legend));
    }

    fn say(self, texts: &Texts) -> &str {
        texts.of(self.terminal.lang())
    }

    /// A code in its column: as it is, and in Chinese with what it means.
    fn title(self, code: &str) -> String {
        match self.terminal.lang() {
            Lang::En => padded(code, 18),
            Lang::Zh => {
                let title = words::title(code);
                padded(&format!("{code} {}", title.zh), 32)
            }
        }
    }
}

/// `71 % (36 to 92 %)`, the same in every language.
pub fn share(value: Option<f64>, interval: Option<(f64, f64)>) -> String {
    match (value, interval) {
        (Some(v), Some((low, high))) => format!(
            "{:.0} % ({:.0} – {:.0} %)",
            v * 100.0,
            low * 100.0,
            high * 100.0
        ),
        (Some(v), None) => format!("{:.0} %", v * 100.0),
        _ => "-".to_owned(),
    }
}

fn row_line(row: &Row) -> RowLine<'_> {
    let pair = |i: Option<(f64, f64)>| i.map(|(low, high)| [rounded(low), rounded(high)]);
    RowLine {
        score_of: &row.code,
        events: row.events,
        found: row.found,
        missed: row.missed,
        wrong: row.wrong,
        findings: row.findings,
        recall: row.recall().map(rounded),
        recall_interval: pair(row.recall_interval()),
        precision: row.precision().map(rounded),
        precision_interval: pair(row.precision_interval()),
        median_delay_s: row.median_delay_s,
    }
}
