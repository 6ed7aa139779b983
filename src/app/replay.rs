//! `mingchu replay CLIP…`: the daemon's own path from access unit to finding, on recorded clips, as
//! fast as it goes and with the clip's time: the same clip gives the same findings, ids included.
//! Nothing is stored or published. With `--truth` it says which events were found, missed, or are
//! not there.
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::config::{
    CODES, SiteConfig, check_labels, load, operating_point, resolve_rules, rule_of,
};
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::models::{shipped_or, starts};
use super::terminal::{Terminal, Tone};
use super::truth::{Judged, Score, Seen, Truth};
use crate::base::ids::{CameraIx, Name};
use crate::base::metrics::Metrics;
use crate::base::time::{Clock, FrameStamp, ManualClock, MonoMicros, UtcMicros};
use crate::capture::{AccessUnit, OpenContainer as _};
use crate::decode::{Clips, DecodeConfig, Frame, FrameSampler, Sampled};
use crate::detect::{Detector, Models, Runtime};
use crate::rules::{FindingChange, Phase, RuleConfig, RuleEngine};
use crate::track::{TrackConfig, Tracker};

/// The only camera of a replay.
const CAMERA: CameraIx = CameraIx(0);
const METRICS_NAME: &str = "replay";

/// What to replay and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Clips: H.264 or H.265 in any container that FFmpeg reads.
    pub clips: Vec<PathBuf>,
    /// The site's config; without it the shipped models and their codes' defaults.
    pub config: Option<PathBuf>,
    /// Whose rules and sampling count; without it the config's first camera.
    pub camera: Option<String>,
    /// Model cards instead of the config's or the shipped ones.
    pub models: Vec<PathBuf>,
    /// What is to be seen in the clips.
    pub truth: Option<PathBuf>,
    /// JSON lines.
    pub json: bool,
}

/// What a replay runs with, the same for each clip.
struct Setup {
    decode: DecodeConfig,
    track: TrackConfig,
    rules: Vec<RuleConfig>,
    models: Models,
}

/// A finding's life in clip time.
#[derive(Clone, Debug, Serialize)]
struct FindingLine {
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
    /// Median of the deciding window.
    score: f32,
    label: String,
}

#[derive(Debug, Serialize)]
struct ClipLine<'a> {
    clip: &'a str,
    seconds: f64,
    pictures: u64,
    analysed: u64,
    findings: usize,
}

fn without_config(models: Models) -> Setup {
    let rules = CODES.iter().filter_map(|c| {
        let classes: Vec<_> = c.labels.iter().filter_map(|l| models.class(l)).collect();
        let code = Name::new(c.code).expect("codes are valid names");
        (!classes.is_empty()).then(|| RuleConfig {
            cameras: vec![CAMERA],
            threshold: operating_point(&classes, &models),
            classes,
            ..rule_of(code.clone(), code, None)
        })
    });
    Setup {
        decode: DecodeConfig::default(),
        track: TrackConfig::default(),
        rules: rules.collect(),
        models,
    }
}

fn camera_index(config: &SiteConfig, camera: Option<&str>) -> Result<usize, Failure> {
    let Some(id) = camera else { return Ok(0) };
    let at = config.cameras.iter().position(|c| c.id.as_str() == id);
    let known: Vec<&str> = config.cameras.iter().map(|c| c.id.as_str()).collect();
    at.with_context(|| format!("--camera {id}: the config has {}", known.join(", ")))
        .or_exit(ExitCode::Usage)
}

impl Setup {
    fn of(options: &ReplayOptions) -> Result<Self, Failure> {
        let Some(path) = &options.config else {
            let runtime = Runtime::load(None).or_exit(ExitCode::Config)?;
            let cards = shipped_or(&options.models)?;
            let models = Models::load(runtime, &cards).or_exit(ExitCode::Config)?;
            return Ok(without_config(models));
        };
        let config = load(path).or_exit(ExitCode::Config)?;
        let runtime =
            Runtime::load(config.detect.onnxruntime.as_deref()).or_exit(ExitCode::Config)?;
        let cards = if options.models.is_empty() {
            &config.detect.models
        } else {
            &options.models
        };
        let models = Models::load_with(runtime, cards, config.detect.regions);
        let models = models.or_exit(ExitCode::Config)?;
        let labels: Vec<_> = config.rules.iter().flat_map(|r| r.labels.clone()).collect();
        if let Some(problem) = check_labels(path, &labels, &models).into_iter().next() {
            return Err(Failure::new(ExitCode::Config, anyhow::anyhow!("{problem}")));
        }
        let at = camera_index(&config, options.camera.as_deref())?;
        let mut rules = resolve_rules(&config.rules, &models);
        rules.retain(|r| r.cameras.contains(&CameraIx(at as u16)));
        for rule in &mut rules {
            rule.cameras = vec![CAMERA];
        }
        Ok(Self {
            decode: config.cameras[at].decode.clone(),
            track: config.track.clone(),
            rules,
            models,
        })
    }
}

/// One clip on its way through the stages.
struct Replay<'s> {
    setup: &'s Setup,
    detector: &'s mut Detector,
    tracker: Tracker,
    engine: RuleEngine,
    clip: String,
    findings: Vec<FindingLine>,
    analysed: u64,
}

fn seconds(at: UtcMicros) -> f64 {
    at.0 as f64 / 1e6
}

impl Replay<'_> {
    fn analyse(&mut self, frame: &Frame, clock: &dyn Clock) -> Result<(), Failure> {
        self.analysed += 1;
        let seen = self
            .detector
            .detect(frame, clock)
            .or_exit(ExitCode::Internal)?;
        let tracks = self.tracker.update(&seen);
        for change in self.engine.on_tracks(&tracks) {
            self.note(&change);
        }
        Ok(())
    }

    fn note(&mut self, change: &FindingChange) {
        let rule = &self.setup.rules[usize::from(change.rule.0)];
        let mut scores = change.scores.clone();
        scores.sort_by(f32::total_cmp);
        let score = scores.get(scores.len().saturating_sub(1) / 2).copied();
        match change.phase {
            Phase::Opened => {
                let label = change.objects.first().map(|o| {
                    self.setup.models.classes()[usize::from(o.class.0)]
                        .label
                        .clone()
                });
                self.findings.push(FindingLine {
                    clip: self.clip.clone(),
                    finding: change.finding,
                    code: rule.code.to_string(),
                    rule: rule.id.to_string(),
                    first_seen_s: seconds(change.first_seen),
                    opened_s: seconds(change.stamp.received_utc),
                    closed_s: None,
                    last_seen_s: seconds(change.last_seen),
                    score: score.unwrap_or(0.0),
                    label: label.unwrap_or_default(),
                });
            }
            Phase::Updated | Phase::Closed | Phase::Reopened => {
                let mine = self
                    .findings
                    .iter_mut()
                    .find(|f| f.finding == change.finding);
                if let Some(finding) = mine {
                    finding.last_seen_s = seconds(change.last_seen);
                    finding.closed_s = change.closed_at.map(seconds);
                }
            }
        }
    }

    /// Runs the clip; returns its length in seconds and its pictures.
    fn run(&mut self, path: &Path) -> Result<(f64, u64), Failure> {
        let mut clip = Clips.open(path).or_exit(ExitCode::Data)?;
        let codec = clip.info().codec;
        let metrics = Metrics::default();
        let mut sampler =
            FrameSampler::new(CAMERA, METRICS_NAME, self.setup.decode.clone(), &metrics);
        let (mut seq, mut pictures, mut last_us) = (0, 0, 0);
        let mut frames = Vec::new();
        loop {
            let unit = clip.next_unit().or_exit(ExitCode::Data)?;
            let ended = unit.is_none();
            // Presentation time is the clip's clock: the moment at which a live camera would have
            // shown the picture.
            let mut take = |sampled: Sampled| match sampled {
                Sampled::Picture { .. } => pictures += 1,
                Sampled::Frame(frame) => frames.push(frame),
            };
            let clock = ManualClock::new(MonoMicros(last_us), UtcMicros(last_us as i64));
            let fed = match unit {
                Some(unit) => {
                    let us = u64::try_from(unit.pts.0).unwrap_or(0) * 100 / 9;
                    last_us = last_us.max(us);
                    let unit = AccessUnit {
                        camera: CAMERA,
                        stamp: FrameStamp {
                            seq,
                            session: 1,
                            pts: unit.pts,
                            received: MonoMicros(us),
                            received_utc: UtcMicros(us as i64),
                        },
                        codec,
                        is_key: unit.is_key,
                        is_disposable: unit.is_disposable,
                        packets_lost: 0,
                        data: unit.data,
                    };
                    seq += 1;
                    sampler.feed(&unit, &*clock, &mut take)
                }
                None => sampler.finish(&*clock, &mut take),
            };
            if let Err(e) = fed {
                tracing::warn!(clip = %self.clip, err = %e, "part of the clip was not decoded");
                sampler.reset();
            }
            for frame in frames.drain(..) {
                self.analyse(&frame, &*clock)?;
            }
            if ended {
                // What is open may have been seen since its last revision.
                for open in self.engine.open() {
                    let mine = self.findings.iter_mut().find(|f| f.finding == open.finding);
                    if let Some(finding) = mine {
                        finding.last_seen_s = seconds(open.last_seen);
                    }
                }
                return Ok((last_us as f64 / 1e6, pictures));
            }
        }
    }
}

/// Replays all clips and prints their findings, and with a truth how they compare.
///
/// # Errors
/// A command line, config or model that cannot be used; [`ExitCode::Data`] if a clip or the truth
/// cannot be read, after the other clips.
pub fn run(options: &ReplayOptions, terminal: Terminal) -> Outcome {
    let truth = options.truth.as_deref().map(Truth::load).transpose();
    let truth = truth.or_exit(ExitCode::Data)?;
    let setup = Setup::of(options)?;
    let mut detector = setup.models.detector().or_exit(ExitCode::Config)?;
    let mut score = Score::default();
    let mut failed = 0;
    for path in &options.clips {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let clip = name.unwrap_or_else(|| path.display().to_string());
        let seed = format!("replay/{clip}");
        let mut replay = Replay {
            tracker: Tracker::new(CAMERA, setup.track.clone(), setup.models.groups())
                .with_starts(starts(&setup.models, &setup.rules, CAMERA)),
            engine: RuleEngine::new(setup.rules.clone(), &seed),
            setup: &setup,
            detector: &mut detector,
            clip: clip.clone(),
            findings: Vec::new(),
            analysed: 0,
        };
        let (length, pictures) = match replay.run(path) {
            Ok(done) => done,
            Err(failure) if failure.code == ExitCode::Data => {
                failed += 1;
                print_error(&clip, &failure, options.json, terminal);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        print_clip(&replay, length, pictures, options.json, terminal);
        if let Some(truth) = &truth {
            let seen: Vec<Seen> = replay.findings.iter().map(seen_of).collect();
            // Two rules of one code, for two zones, are one question to the truth.
            let mut codes: Vec<(&str, f64)> = Vec::new();
            for rule in &setup.rules {
                let dwell_s = rule.dwell_ms as f64 / 1000.0;
                match codes
                    .iter_mut()
                    .find(|(code, _)| *code == rule.code.as_str())
                {
                    Some((_, least)) => *least = dwell_s.min(*least),
                    None => codes.push((rule.code.as_str(), dwell_s)),
                }
            }
            match truth.judge(&clip, &codes, &seen) {
                Some(judged) => {
                    print_judged(&judged, options.json, terminal);
                    score.add(judged, length);
                }
                None => print_error(
                    &clip,
                    &"the truth says nothing about it",
                    options.json,
                    terminal,
                ),
            }
        }
    }
    if truth.is_some() && !options.json {
        print_score(&score, terminal);
    }
    if failed > 0 {
        let reason = anyhow::anyhow!(
            "{failed} of {} clips could not be replayed",
            options.clips.len()
        );
        return Err(Failure::new(ExitCode::Data, reason));
    }
    Ok(())
}

fn print_error(clip: &str, error: &dyn std::fmt::Display, json: bool, terminal: Terminal) {
    if json {
        let line = serde_json::json!({"clip": clip, "error": error.to_string()});
        terminal.line(line);
    } else {
        terminal.line(terminal.paint(Tone::Bad, format_args!("{clip}: {error}")));
    }
}

fn seen_of(finding: &FindingLine) -> Seen {
    Seen {
        code: finding.code.clone(),
        first_seen_s: finding.first_seen_s,
        opened_s: finding.opened_s,
        last_seen_s: finding.last_seen_s,
    }
}

fn print_clip(replay: &Replay<'_>, length: f64, pictures: u64, json: bool, terminal: Terminal) {
    let clip = &replay.clip;
    if json {
        let line = ClipLine {
            clip,
            seconds: length,
            pictures,
            analysed: replay.analysed,
            findings: replay.findings.len(),
        };
        terminal.line(serde_json::to_string(&line).unwrap_or_default());
        for finding in &replay.findings {
            terminal.line(serde_json::to_string(finding).unwrap_or_default());
        }
        return;
    }
    terminal.line(format_args!(
        "{}  {length:.1} s, {pictures} pictures, {} analysed",
        terminal.paint(Tone::Bold, clip),
        replay.analysed
    ));
    for f in &replay.findings {
        let end = f.closed_s.map_or_else(
            || format!("last seen {:.1} s, open at the end", f.last_seen_s),
            |at| format!("last seen {:.1} s, closed {at:.1} s", f.last_seen_s),
        );
        terminal.line(format_args!(
            "  {}  {:<18} {:<12} {:.2}  {end}",
            terminal.paint(Tone::Bad, format_args!("{:6.1} s", f.opened_s)),
            f.code,
            f.label,
            f.score
        ));
    }
}

fn print_judged(judged: &[Judged], json: bool, terminal: Terminal) {
    for one in judged {
        if json {
            terminal.line(serde_json::to_string(one).unwrap_or_default());
            continue;
        }
        let tone = match one.outcome.as_str() {
            "found" | "short" => Tone::Good,
            _ => Tone::Bad,
        };
        let delay = one
            .delay_s
            .map_or_else(String::new, |d| format!(", {d:.1} s after it began"));
        terminal.line(format_args!(
            "  {:<8} {:<18} {:5.1} to {:5.1} s{delay}",
            terminal.paint(tone, &one.outcome),
            one.code,
            one.start_s,
            one.end_s
        ));
    }
}

fn print_score(score: &Score, terminal: Terminal) {
    terminal.line(format_args!(
        "\n{:<20} {:>6} {:>6} {:>7} {:>6} {:>9}",
        "code", "events", "found", "missed", "false", "delay s"
    ));
    for row in score.rows() {
        let delay = row
            .median_delay_s
            .map_or_else(|| "-".to_owned(), |d| format!("{d:.1}"));
        terminal.line(format_args!(
            "{:<20} {:>6} {:>6} {:>7} {:>6} {:>9}",
            row.code, row.events, row.found, row.missed, row.wrong, delay
        ));
    }
    terminal.line(format_args!(
        "{} clips, {:.0} s; delay: median of the found ones, from the event's begin to the finding",
        score.clips, score.seconds
    ));
}
