//! `mingchu replay CLIP…`: the daemon's own path from access unit to finding, on recorded clips, as
//! fast as it goes and with the clip's time: the same clip gives the same findings, ids included,
//! however many cores there are. Nothing is stored or published, and nothing here could: no file of
//! this folder may name the store, the uplink or the site (`tests/it/architecture.rs`).
//!
//! Two steps, because the first takes nearly all the time:
//!
//! ```text
//! clip ── record (decode, detect) ──> Recording ── evaluate (track, rules) ──> findings ──> lines
//!                                       ^   |          ^ again and again: sweep
//!                          --save / *.jsonl +          + watched: report
//! ```
mod evaluate;
mod explain;
mod lines;
mod record;
mod recording;
mod report;
mod setup;
mod sweep;
mod timeline;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use self::evaluate::Found;
use self::lines::Lines;
use self::record::{ClipOf, claimed_us, clip_name, record_all};
use self::recording::Recording;
use self::report::Report;
use self::setup::Setup;
use self::sweep::{Point, Sweep};
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::terminal::{Progress, Terminal};
use super::truth::{Judged, Score, Seen, Truth};
use crate::base::ids::CameraIx;
use crate::base::time::{SystemClock, UtcMicros};

/// What to replay and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Clips: H.264 or H.265 in any container that FFmpeg reads, each for `camera` or, as
    /// `CLIP@CAMERA`, for one of its own; or recordings (`*.jsonl`).
    pub inputs: Vec<PathBuf>,
    /// The site's config; without it the shipped models and their codes' defaults.
    pub config: Option<PathBuf>,
    /// Whose rules and sampling count; without it the config's first camera.
    pub camera: Option<String>,
    /// Model cards instead of the config's or the shipped ones.
    pub models: Vec<PathBuf>,
    /// The moment at which each clip begins; without it 1970, which no rule with hours can mean.
    pub begins: Option<UtcMicros>,
    /// What is to be seen in the clips.
    pub truth: Option<PathBuf>,
    /// Clips at a time; without it one per core.
    pub jobs: Option<usize>,
    /// Where what the models saw is kept.
    pub save: Option<PathBuf>,
    /// A key of a rule to vary: `RULE.KEY=LOW..HIGH[:STEP]`; needs the truth.
    pub sweep: Option<String>,
    /// Where the plot of the sweep is written, as SVG or HTML.
    pub plot: Option<PathBuf>,
    /// Where the report is written.
    pub report: Option<PathBuf>,
    /// What each rule lacked.
    pub explain: Option<Explain>,
    /// JSON lines.
    pub json: bool,
}

/// When it is asked what each rule lacked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Explain {
    /// At a moment.
    At {
        /// From the clip's beginning.
        at_s: f64,
    },
    /// All over: what came nearest, and why events were missed.
    All,
}

/// A replayed clip.
struct Played {
    recording: Recording,
    findings: Vec<Found>,
    /// `None`: no truth, or none about this clip.
    judged: Option<Vec<Judged>>,
}

/// One argument of the command line.
enum Input {
    Clip(ClipOf),
    Recordings(Vec<Recording>),
}

/// A replay under way.
struct Replay<'o> {
    options: &'o ReplayOptions,
    lines: Lines,
    setup: &'o Setup,
    sweep: Option<Sweep>,
    truth: Option<Truth>,
    score: Score,
    played: Vec<Played>,
    /// Clips that could not be replayed, and why.
    failed: Vec<(String, String)>,
}

/// Whether anything is to be done with all clips together.
fn is_kept(options: &ReplayOptions) -> bool {
    options.save.is_some() || options.sweep.is_some() || options.report.is_some()
}

/// Replays all clips and prints their findings, and with a truth how they compare.
///
/// # Errors
/// A command line, config or model that cannot be used; [`ExitCode::Data`] if a clip, a recording or
/// the truth cannot be read, for a clip after the other clips.
pub fn run(options: &ReplayOptions, terminal: Terminal) -> Outcome {
    let truth = options.truth.as_deref().map(Truth::load).transpose();
    let truth = truth.or_exit(ExitCode::Data)?;
    let mut setup = Setup::of(options)?;
    let sweep = options.sweep.as_deref();
    let sweep = sweep.map(|text| Sweep::parse(text, &setup.scene.rules));
    let sweep = sweep.transpose().or_exit(ExitCode::Usage)?;
    if is_kept(options) {
        // What is drawn, or would have counted with other thresholds, must be in the recording.
        for decode in &mut setup.decode {
            decode.quiet.look_every = Duration::ZERO;
        }
    }
    let setup = setup;
    let mut inputs = inputs(options, &setup)?;
    let clips: Vec<ClipOf> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Clip(clip) => Some(clip.clone()),
            Input::Recordings(_) => None,
        })
        .collect();
    let progress = Progress::new(claimed_us(&clips), SystemClock::shared());
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let jobs = options.jobs.unwrap_or(cores).min(clips.len());
    let detectors = (0..jobs).map(|_| setup.facts.models.detector());
    let detectors = detectors
        .collect::<Result<_, _>>()
        .or_exit(ExitCode::Config)?;
    let mut replay = Replay {
        options,
        lines: Lines {
            terminal,
            json: options.json,
        },
        setup: &setup,
        sweep,
        truth,
        score: Score::default(),
        played: Vec::new(),
        failed: Vec::new(),
    };
    let mut take = |at: usize, recorded| {
        progress.clear();
        replay.take_recordings(&mut inputs);
        inputs.pop_front();
        replay.take(&clip_name(&clips[at].path), recorded)
    };
    record_all(&setup, &clips, detectors, &progress, &mut take)?;
    progress.clear();
    replay.take_recordings(&mut inputs);
    replay.finish(clips.len())
}

/// What the command line names, in its order; recordings are read already.
fn inputs(options: &ReplayOptions, setup: &Setup) -> Result<VecDeque<Input>, Failure> {
    let camera = match &options.camera {
        Some(id) => setup.camera(id, &format!("--camera {id}"))?,
        None => CameraIx(0),
    };
    let input = |path: &PathBuf| {
        let (path, camera) = match of_camera(path) {
            Some((clip, id)) => (clip, setup.camera(&id, &path.display().to_string())?),
            None => (path.clone(), camera),
        };
        if path.extension().is_none_or(|e| e != "jsonl") {
            return Ok(Input::Clip(ClipOf { path, camera }));
        }
        let loaded = recording::load(&path, &setup.scene.classes, &setup.digests());
        let mut recordings = loaded.or_exit(ExitCode::Data)?;
        for recording in &mut recordings {
            recording.camera = camera;
        }
        Ok(Input::Recordings(recordings))
    };
    options.inputs.iter().map(input).collect()
}

/// `CLIP@CAMERA`, unless there is a file of that very name.
fn of_camera(path: &Path) -> Option<(PathBuf, String)> {
    let text = path.to_str().filter(|_| !path.exists())?;
    let (clip, camera) = text.rsplit_once('@')?;
    let is_name = !camera.is_empty() && !camera.contains('/');
    is_name.then(|| (clip.into(), camera.to_owned()))
}

impl Replay<'_> {
    /// Takes the recordings that come before the next clip.
    fn take_recordings(&mut self, inputs: &mut VecDeque<Input>) {
        while let Some(Input::Recordings(recordings)) = inputs.front_mut() {
            for recording in std::mem::take(recordings) {
                self.play(recording);
            }
            inputs.pop_front();
        }
    }

    fn take(&mut self, clip: &str, recorded: Result<Recording, Failure>) -> Result<(), Failure> {
        match recorded {
            Ok(recording) => self.play(recording),
            Err(failure) if failure.code == ExitCode::Data => {
                self.failed.push((clip.to_owned(), failure.to_string()));
                self.lines.error(clip, &failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Track and rules on what was recorded, and what came of it.
    fn play(&mut self, recording: Recording) {
        let scene = &self.setup.scene;
        let findings = scene.evaluate(&recording, &mut |_, _, _| {});
        let is_told = self.sweep.is_none();
        if is_told {
            self.lines.clip(self.setup, &recording, &findings);
        }
        let mut judged = None;
        if let Some(truth) = &self.truth {
            let seen: Vec<Seen> = findings.iter().map(|f| scene.seen(f)).collect();
            judged = truth.judge(&recording.clip, &scene.codes_of(recording.camera), &seen);
            match &judged {
                Some(judged) => {
                    if is_told {
                        self.lines.judged(judged);
                    }
                    self.score.add(judged, &seen, recording.seconds());
                }
                None => self
                    .lines
                    .error(&recording.clip, &"the truth says nothing about it"),
            }
        }
        if let Some(explain) = self.options.explain {
            let judged = judged.as_deref().unwrap_or_default();
            self.explain(&recording, &findings, judged, explain);
        }
        if is_kept(self.options) {
            self.played.push(Played {
                recording,
                findings,
                judged,
            });
        }
    }

    /// What is told of all clips together.
    fn finish(&self, clips: usize) -> Outcome {
        let mut points = Vec::new();
        match (&self.sweep, &self.truth) {
            (Some(sweep), Some(truth)) => points = self.vary(sweep, truth)?,
            (None, Some(_)) => self.lines.score(&self.score),
            _ => {}
        }
        if let Some(path) = &self.options.report {
            let report = Report {
                scene: &self.setup.scene,
                cameras: &self.setup.names(),
                models: &self.setup.digests(),
                played: &self.played,
                failed: &self.failed,
                truth: self.truth.as_ref(),
                score: &self.score,
                sweep: self.sweep.as_ref().map(|s| (s, points.as_slice())),
                lang: self.lines.terminal.lang(),
            };
            keep(path, &report.page())?;
        }
        if let Some(path) = &self.options.save {
            let recordings = self.played.iter().map(|p| &p.recording);
            let text =
                recording::write(recordings, &self.setup.scene.classes, &self.setup.digests());
            keep(path, &text)?;
        }
        let failed = self.failed.len();
        if failed > 0 {
            let reason = anyhow::anyhow!("{failed} of {clips} clips could not be replayed");
            return Err(Failure::new(ExitCode::Data, reason));
        }
        Ok(())
    }
}

impl Replay<'_> {
    fn vary(&self, sweep: &Sweep, truth: &Truth) -> Result<Vec<Point>, Failure> {
        let points = sweep.run(&self.setup.scene, &self.played, truth);
        sweep::print(sweep, &points, self.lines);
        if let Some(path) = &self.options.plot {
            let is_svg = path.extension().is_some_and(|e| e == "svg");
            keep(
                path,
                &report::plot(sweep, &points, is_svg, self.lines.terminal.lang()),
            )?;
        }
        Ok(points)
    }

    /// What each rule lacked in one clip.
    fn explain(
        &self,
        recording: &Recording,
        findings: &[Found],
        judged: &[Judged],
        explain: Explain,
    ) {
        let scene = &self.setup.scene;
        let answers = match explain {
            Explain::At { at_s } => explain::at_moment(scene, recording, at_s),
            Explain::All => {
                let missed = explain::missed_events(scene, recording.camera, judged);
                let mut answers = explain::missed(scene, recording, &missed);
                answers.extend(explain::nearest(scene, recording, findings));
                answers
            }
        };
        if answers.is_empty() {
            self.lines.error(
                &recording.clip,
                &"no picture was analysed up to this moment",
            );
        }
        for answer in answers {
            if self.lines.json {
                self.lines.object(&answer.object(self.setup, recording));
            } else {
                let text = format!("  {}", answer.line(scene).of(self.lines.terminal.lang()));
                self.lines.terminal.line(text);
            }
        }
    }
}

/// Writes a file that the command line asked for.
fn keep(path: &Path, text: &str) -> Outcome {
    std::fs::write(path, text)
        .with_context(|| format!("{}", path.display()))
        .or_exit(ExitCode::CannotCreate)
}
