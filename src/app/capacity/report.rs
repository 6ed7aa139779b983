//! What was found, as a table for people and as one JSON document.
use serde::Serialize;

use super::CapacityOptions;
use super::cameras::About;
use super::pipeline::{Bench, Measured};
use super::search::Found;
use super::synthetic;
use super::threads::StageLoad;
use super::verdict::{Limit, Wanted, Why, percentile_ms};
use crate::app::terminal::{Terminal, Tone};

/// Of what a box carries, as much as one should give it: a rule of thumb. What is measured is every
/// camera's share of an ordinary minute; a rush hour, evidence and a line that catches up come on top.
const PLAN: f64 = 0.8;

/// What is measured with.
pub struct Facts<'b> {
    about: &'b About,
    models: Vec<String>,
    seconds: u64,
    wanted: Wanted,
}

/// One number of cameras, measured.
pub struct Trial {
    /// What was seen.
    pub measured: Measured,
    whys: Vec<Why>,
    wanted: Wanted,
}

/// The JSON document. `mingchu capacity --help` says what its keys mean.
#[derive(Debug, Serialize)]
pub struct Answer<'b> {
    clip: &'b About,
    models: Vec<String>,
    cores: usize,
    detect_workers: usize,
    analyse_fps: f64,
    limit_p95_ms: f64,
    seconds: u64,
    cameras: usize,
    verdict: Verdict,
    plan_for: usize,
    limit: Option<LimitWords>,
    other_programs: Option<String>,
    trials: Vec<TrialWords>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Exactly,
    AtLeast,
    None,
    Interrupted,
}

#[derive(Debug, Serialize)]
struct LimitWords {
    #[serde(flatten)]
    what: LimitKind,
    words: String,
    advice: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct LimitKind {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<super::threads::Stage>,
}

#[derive(Debug, Serialize)]
struct TrialWords {
    cameras: usize,
    fits: bool,
    why: Vec<Why>,
    silent_cameras: usize,
    seconds: f64,
    workers: usize,
    latency_ms: Latency,
    analysed_per_s: f64,
    sampled_per_s: f64,
    received_per_s: f64,
    frames_replaced: u64,
    units_dropped: u64,
    errors: u64,
    box_cpu: f64,
    used_cores: f64,
    camera_cores: f64,
    other_cores: f64,
    stages: Vec<StageLoad>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl From<Limit> for LimitKind {
    fn from(limit: Limit) -> Self {
        let (kind, stage) = match limit {
            Limit::Cores(stage) => ("cores", Some(stage)),
            Limit::Threads(stage) => ("threads", Some(stage)),
            Limit::OtherPrograms => ("other_programs", None),
            Limit::Turns => ("turns", None),
        };
        Self { kind, stage }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Latency {
    fn of(measured: &Measured) -> Self {
        let at = |share| percentile_ms(&measured.latencies_us, share).map(rounded);
        Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

impl Trial {
    /// Judged.
    pub fn new(measured: Measured, wanted: &Wanted) -> Self {
        Self {
            whys: measured.whys(wanted),
            measured,
            wanted: *wanted,
        }
    }

    /// Whether so many cameras are carried.
    pub fn fits(&self) -> bool {
        self.whys.is_empty()
    }

    fn box_cpu(&self) -> f64 {
        self.measured.used_cores() / self.wanted.cores as f64
    }

    /// Its line of the table.
    pub fn print(&self, terminal: Terminal) {
        let m = &self.measured;
        if m.silent > 0 {
            let word = terminal.paint(Tone::Bad, Why::SilentCameras.words());
            terminal.line(format_args!(
                "{:9}  {} of them: {word}",
                m.cameras, m.silent
            ));
            return;
        }
        let Latency { p50, p95, p99, .. } = Latency::of(m);
        let ms = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.0}"));
        let verdict = if self.fits() {
            terminal.paint(Tone::Good, "fits")
        } else {
            let whys: Vec<&str> = self.whys.iter().map(|w| w.words()).collect();
            terminal.paint(Tone::Bad, whys.join(", "))
        };
        terminal.line(format_args!(
            "{:9} {:5.0} % {:>6} {:>6} {:>6} {:11.1} {:9} {:8}  {verdict}",
            m.cameras,
            100.0 * self.box_cpu(),
            ms(p50),
            ms(p95),
            ms(p99),
            m.analysed_per_s(),
            m.replaced,
            m.dropped,
        ));
    }

    fn words(&self) -> TrialWords {
        let m = &self.measured;
        let per_s = |n: u64| rounded(n as f64 / m.elapsed.as_secs_f64().max(1e-6));
        let stage = |s: &StageLoad| StageLoad {
            cores: rounded(s.cores),
            busiest: rounded(s.busiest),
            ..*s
        };
        TrialWords {
            cameras: m.cameras,
            fits: self.fits(),
            why: self.whys.clone(),
            silent_cameras: m.silent,
            seconds: rounded(m.elapsed.as_secs_f64()),
            workers: m.workers,
            latency_ms: Latency::of(m),
            analysed_per_s: rounded(m.analysed_per_s()),
            sampled_per_s: rounded(m.sampled_per_s()),
            received_per_s: per_s(m.received),
            frames_replaced: m.replaced,
            units_dropped: m.dropped,
            errors: m.errors,
            box_cpu: rounded(self.box_cpu()),
            used_cores: rounded(m.used_cores()),
            camera_cores: rounded(m.camera_cores()),
            other_cores: rounded(m.other_cores()),
            stages: m.stages.iter().map(stage).collect(),
        }
    }
}

/// A clip in one line.
pub fn clip_words(about: &About) -> String {
    format!(
        "{}: {} x {} {}, {:.0} pictures/s, {:.0} kbit/s",
        about.path, about.width_px, about.height_px, about.codec, about.fps, about.kbit_per_s
    )
}

impl<'b> Facts<'b> {
    /// Of a bench.
    pub fn new(bench: &'b Bench, options: &CapacityOptions, wanted: Wanted) -> Self {
        Self {
            about: bench.about(),
            models: model_names(bench),
            seconds: options.measure.as_secs(),
            wanted,
        }
    }

    /// Above the table.
    pub fn print(&self, terminal: Terminal) {
        let Wanted {
            analyse_fps,
            p95_ms,
            cores,
            workers,
            ..
        } = self.wanted;
        terminal.line(terminal.paint(Tone::Bold, "mingchu capacity"));
        terminal.line(format_args!("  each camera  {}", clip_words(self.about)));
        terminal.line(format_args!(
            "  looked at    {analyse_fps} pictures/s by {}",
            self.models.join(", ")
        ));
        terminal.line(format_args!(
            "  this box     {cores} cores, up to {workers} threads for the models"
        ));
        terminal.line(format_args!(
            "  fits         for {} s no picture is lost and 95 of 100 are looked at within {p95_ms} ms",
            self.seconds
        ));
        if self.about.path == synthetic::NAME {
            let words = "  Nobody is in the built-in clip. Name one of the kitchen at a busy time for a figure to plan by.";
            terminal.line(terminal.paint(Tone::Warn, words));
        }
        terminal.line("");
        let heads = "  cameras     box    p50    p95    p99  analysed/s  replaced  dropped";
        terminal.line(terminal.paint(Tone::Faint, heads));
    }

    /// What came of it.
    pub fn answer(&self, found: Found, trials: &[Trial], is_complete: bool) -> Answer<'b> {
        let (cameras, verdict) = match found {
            Found::None => (0, Verdict::None),
            Found::Exactly(n) => (n, Verdict::Exactly),
            Found::AtLeast(n) if is_complete => (n, Verdict::AtLeast),
            Found::AtLeast(n) => (n, Verdict::Interrupted),
        };
        // What broke first says what is in the way.
        let failed = trials
            .iter()
            .rev()
            .filter(|t| !t.fits() && t.measured.cameras > cameras);
        let failed = failed
            .min_by_key(|t| t.measured.cameras)
            .map(|t| &t.measured);
        let limit = failed
            .map(|m| m.limit(&self.wanted))
            .map(|limit| LimitWords {
                what: limit.into(),
                words: limit.words(&self.wanted),
                advice: limit.advice(),
            });
        Answer {
            clip: self.about,
            models: self.models.clone(),
            cores: self.wanted.cores,
            detect_workers: self.wanted.workers,
            analyse_fps: self.wanted.analyse_fps,
            limit_p95_ms: self.wanted.p95_ms,
            seconds: self.seconds,
            cameras,
            verdict,
            plan_for: (cameras as f64 * PLAN) as usize,
            limit,
            other_programs: trials.last().and_then(|t| t.measured.others()),
            trials: trials.iter().map(Trial::words).collect(),
        }
    }
}

/// What the models are called.
pub fn model_names(bench: &Bench) -> Vec<String> {
    let models = bench.models.models().iter();
    models.map(|m| m.card.name.clone()).collect()
}

impl Answer<'_> {
    fn headline(&self) -> (Tone, String) {
        let n = match self.cameras {
            1 => "1 camera".to_owned(),
            n => format!("{n} cameras"),
        };
        match self.verdict {
            Verdict::Exactly => (Tone::Good, format!("This box carries {n} like this one.")),
            Verdict::AtLeast => (
                Tone::Good,
                format!("This box carries {n} like this one, and more were not tried (--most)."),
            ),
            Verdict::None => (
                Tone::Bad,
                "This box does not carry even one camera like this one.".to_owned(),
            ),
            Verdict::Interrupted => (
                Tone::Warn,
                format!("Ended before the number was found; {n} fit so far."),
            ),
        }
    }

    /// Below the table.
    pub fn print(&self, terminal: Terminal) {
        let (tone, headline) = self.headline();
        terminal.line("");
        terminal.line(terminal.paint(tone, headline));
        if self.plan_for > 0 && self.plan_for < self.cameras {
            let plan = self.plan_for;
            terminal.line(format_args!(
                "Plan for {plan}: a fifth is for rush hours, evidence and what comes on top."
            ));
        }
        if let Some(limit) = &self.limit {
            terminal.line(format_args!("In the way of more: {}.", limit.words));
            for advice in limit.advice {
                terminal.line(format_args!("  - {advice}"));
            }
        }
        if let Some(others) = &self.other_programs {
            terminal.line(terminal.paint(Tone::Warn, others));
        }
    }
}
