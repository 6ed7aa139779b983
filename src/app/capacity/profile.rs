//! `mingchu capacity --profile`: what the CPU time of one camera goes to, clip by clip.
//!
//! Two runs of each clip:
//! * **alone**: its pictures go through the daemon's stages one after the other on one thread, which takes
//!   laps ([`crate::base::laps`]); each stage gets what the one before made of the real pictures;
//! * **live**: the built-in camera plays the same seconds to the whole pipeline over RTSP, in real time. The
//!   session's thread is what receiving costs, and the process's CPU time, less the built-in camera's and
//!   less all of the above, is everything else: queues, waking up, tasks, and what caches cost when threads
//!   take turns. It is a difference of two runs, so small values of it may be noise, below zero too.
//!
//! Receiving and depacketising are one row: the RTSP library does both in one poll. So are converting and copying: what
//! the decoder gave becomes planar 4:2:0 in memory of the site's own pool, which for most cameras is a copy.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::cameras::About;
use super::pipeline::{Bench, Measured, Pipeline};
use super::report::{clip_words, model_names};
use super::threads::Stage;
use super::{CapacityOptions, until_signal, wait};
use crate::app::blocking::on_thread;
use crate::app::exit::{ExitCode, Failure, OrExit as _, Outcome};
use crate::app::run::Signals;
use crate::app::terminal::{LiveLine, Terminal, Tone};
use crate::base::ids::CameraIx;
use crate::base::laps::{self, Laps, Part, lap};
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{FrameStamp, MonoMicros, Pts90k, SystemClock, UtcMicros};
use crate::capture::{AccessUnit, nal};
use crate::decode::{Frame, FrameSampler, Quiet, Sampled};
use crate::rules::RuleEngine;

/// Clips beside each other in the table.
const COLUMNS: usize = 4;
const COLUMN: usize = 16;

/// The JSON document. `mingchu capacity --help` says what its keys mean.
#[derive(Debug, Serialize)]
struct Document {
    unit: &'static str,
    analyse_fps: f32,
    models: Vec<String>,
    is_complete: bool,
    clips: Vec<Profile>,
}

/// What one clip costs, milliseconds of one core for each second of a camera.
#[derive(Debug, Serialize)]
struct Profile {
    clip: About,
    seconds: f64,
    /// Of the sampled pictures, those in which something moved a moment ago.
    moving: f64,
    sampled_per_s: f64,
    analysed_per_s: f64,
    stages: Stages,
    total_ms: f64,
    /// What its threads took in the live run, as a check of the stages above.
    live: Live,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "a name carries its unit")]
struct Stages {
    receive_ms: f64,
    decode_ms: f64,
    motion_ms: f64,
    copy_ms: f64,
    preprocess_ms: f64,
    infer_ms: f64,
    postprocess_ms: f64,
    track_ms: f64,
    rules_ms: f64,
    everything_else_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "a name carries its unit")]
struct Live {
    decode_thread_ms: f64,
    detect_threads_ms: f64,
    analytics_thread_ms: f64,
    tasks_ms: f64,
    builtin_camera_ms: f64,
}

/// What the run alone gave.
struct Alone {
    laps: Laps,
    media: Duration,
    sampled: u64,
    still: u64,
    analysed: u64,
}

impl Stages {
    fn rows(&self) -> [(&'static str, f64); 10] {
        [
            ("receive, depacketise", self.receive_ms),
            ("decode", self.decode_ms),
            ("motion, picture health", self.motion_ms),
            ("convert, copy", self.copy_ms),
            ("pre-process", self.preprocess_ms),
            ("infer", self.infer_ms),
            ("post-process", self.postprocess_ms),
            ("track", self.track_ms),
            ("rules", self.rules_ms),
            ("everything else", self.everything_else_ms),
        ]
    }
}

/// The beginning of the clip, as the camera's task would hand it on: as many seconds as asked, the clip
/// round and round.
fn units(bench: &Bench, asked: Duration) -> impl Iterator<Item = AccessUnit> {
    let clip = bench.load.clip.clone();
    let most_90k = asked.as_millis() as i64 * 90;
    let first_90k = clip.units.iter().map(|u| u.pts_90k).min().unwrap_or(0);
    let round = clip.units.len().max(1);
    let unit = move |n: usize| {
        let unit = clip.units.get(n % round)?;
        let at_90k = unit.pts_90k - first_90k + (n / round) as i64 * clip.duration_90k;
        let at_us = u64::try_from(at_90k).unwrap_or(0) * 100 / 9;
        (at_90k < most_90k).then(|| AccessUnit {
            camera: CameraIx(0),
            stamp: FrameStamp {
                seq: n as u64 + 1,
                session: 1,
                pts: Pts90k(at_90k),
                received: MonoMicros(at_us),
                received_utc: UtcMicros(at_us as i64),
            },
            codec: clip.codec,
            is_key: unit.is_key,
            is_disposable: nal::classify(clip.codec, &unit.data).is_disposable,
            packets_lost: 0,
            data: unit.data.clone(),
        })
    };
    (0..).map_while(unit)
}

/// Runs the stages one after the other on this thread. `None`: told to stop.
fn alone(bench: &Bench, asked: Duration, stop: &AtomicBool) -> Result<Option<Alone>, Failure> {
    let config = bench.config_of_one()?;
    let (mut trackers, rules) = bench.scene(&config);
    let mut engine = RuleEngine::new(rules, "capacity");
    let mut detector = bench.models.detector().or_exit(ExitCode::Config)?;
    // Its pictures have the clip's time, the live ones the machine's.
    detector.begin_anew();
    let clock = SystemClock;
    let metrics = Metrics::default();
    let decode = config.cameras[0].decode.clone();
    let mut sampler = FrameSampler::new(CameraIx(0), "camera-1", decode, &metrics);
    let mut frames: Vec<Frame> = Vec::new();
    let mut quiet = Quiet::default();
    let (mut sent, mut analysed) = (0_u32, 0);
    laps::begin();
    for unit in units(bench, asked) {
        if stop.load(Ordering::Relaxed) {
            laps::end();
            return Ok(None);
        }
        sent += 1;
        lap(Part::Rest);
        let fed = sampler.feed(unit, &clock, &mut |sampled| {
            if let Sampled::Frame(frame) = sampled {
                frames.push(frame);
            }
        });
        if fed.is_err() {
            // As the decode thread: from the next key unit on. What it costs counts as it does there.
            sampler.reset();
        }
        for frame in frames.drain(..) {
            lap(Part::Rest);
            let detections = detector
                .detect(&frame, &clock)
                .or_exit(ExitCode::Internal)?;
            let tracks = trackers[0].update(&detections);
            lap(Part::Track);
            let changes = engine.on_tracks(&tracks);
            quiet.saw(&tracks.stamp, !engine.is_quiet(tracks.camera));
            lap(Part::Rules);
            tracing::debug!(changes = changes.len(), "analysed");
            analysed += 1;
        }
        sampler.set_quiet(quiet);
    }
    lap(Part::Rest);
    let laps = laps::end();
    Ok(Some(Alone {
        laps,
        media: Duration::from_secs_f64(f64::from(sent) / bench.about().fps.max(0.001)),
        sampled: metrics.total(Metric::FramesSampled),
        still: metrics.total(Metric::FramesStill),
        analysed,
    }))
}

/// The same seconds over RTSP, from the first connection on.
async fn live(
    bench: &Bench,
    asked: Duration,
    line: &LiveLine,
    signals: &mut Signals,
) -> Result<Option<Measured>, Failure> {
    let pipeline = tokio::select! {
        pipeline = Pipeline::start(bench, 1) => pipeline?,
        () = signals.next() => return Ok(None),
    };
    let what = format!("{}, live", bench.about().path);
    let measured = until_signal(pipeline, signals, async |pipeline| {
        let before = pipeline.begin();
        pipeline.watch().await?;
        wait(asked, line, &what).await;
        pipeline.measured(&before)
    });
    measured.await
}

fn profile_of(bench: &Bench, alone: &Alone, live: &Measured) -> Profile {
    let media_s = alone.media.as_secs_f64().max(1e-6);
    let live_s = live.elapsed.as_secs_f64().max(1e-6);
    let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
    let part = |part| rounded(alone.laps.of(part).as_secs_f64() * 1000.0 / media_s);
    let threads = |stage| {
        let of = live.stages.iter().find(|s| s.stage == stage);
        rounded(of.map_or(0.0, |s| s.cores * 1000.0))
    };
    let mut stages = Stages {
        receive_ms: threads(Stage::Receive),
        decode_ms: part(Part::Decode),
        motion_ms: part(Part::Motion),
        copy_ms: part(Part::Copy),
        preprocess_ms: part(Part::Preprocess),
        infer_ms: part(Part::Infer),
        postprocess_ms: part(Part::Postprocess),
        track_ms: part(Part::Track),
        rules_ms: part(Part::Rules),
        everything_else_ms: 0.0,
    };
    let builtin_camera_ms = threads(Stage::Cameras);
    let total_ms = rounded(live.process.as_secs_f64() * 1000.0 / live_s - builtin_camera_ms);
    let known: f64 = stages.rows().iter().map(|(_, ms)| ms).sum();
    stages.everything_else_ms = rounded(total_ms - known);
    Profile {
        clip: bench.about().clone(),
        seconds: rounded(media_s),
        moving: rounded(1.0 - alone.still as f64 / (alone.sampled as f64).max(1.0)),
        sampled_per_s: rounded(alone.sampled as f64 / media_s),
        analysed_per_s: rounded(alone.analysed as f64 / media_s),
        stages,
        total_ms,
        live: Live {
            decode_thread_ms: threads(Stage::Decode),
            detect_threads_ms: threads(Stage::Detect),
            analytics_thread_ms: threads(Stage::Analytics),
            tasks_ms: threads(Stage::Tasks),
            builtin_camera_ms,
        },
    }
}

/// Both runs of a clip; `None`: a signal came.
async fn profile(
    bench: &Bench,
    asked: Duration,
    line: &LiveLine,
    signals: &mut Signals,
) -> Result<Option<Profile>, Failure> {
    line.show(format_args!("{}, alone", bench.about().path));
    let stop = Arc::new(AtomicBool::new(false));
    let (of_thread, stopped) = (bench.clone(), stop.clone());
    let run = on_thread("profile", move || alone(&of_thread, asked, &stopped));
    tokio::pin!(run);
    let ran = tokio::select! {
        ran = &mut run => ran,
        () = signals.next() => {
            stop.store(true, Ordering::Relaxed);
            run.await
        }
    };
    let Some(ran) = ran.or_exit(ExitCode::Internal)?? else {
        return Ok(None);
    };
    let live = live(bench, ran.media, line, signals).await?;
    Ok(live.map(|live| profile_of(bench, &ran, &live)))
}

/// Profiles all clips, and prints what came of those that were done when a signal came.
///
/// # Errors
/// A network that cannot be run, or a part of the pipeline that panicked.
pub async fn run(
    options: &CapacityOptions,
    benches: &[Bench],
    line: &LiveLine,
    signals: &mut Signals,
    terminal: Terminal,
) -> Outcome {
    let mut clips = Vec::new();
    for bench in benches {
        match profile(bench, options.measure, line, signals).await? {
            Some(profile) => clips.push(profile),
            None => break,
        }
    }
    line.clear();
    let document = Document {
        unit: "milliseconds of one core for each second of a camera",
        analyse_fps: options.fps,
        models: benches.first().map(model_names).unwrap_or_default(),
        is_complete: clips.len() == benches.len(),
        clips,
    };
    if options.json {
        terminal.line(serde_json::to_string_pretty(&document).or_exit(ExitCode::Internal)?);
        return Ok(());
    }
    document.print(terminal);
    Ok(())
}

impl Document {
    fn print(&self, terminal: Terminal) {
        terminal.line(terminal.paint(Tone::Bold, "mingchu capacity --profile"));
        terminal.line(format_args!(
            "{}, {} pictures/s looked at by {}",
            self.unit,
            self.analyse_fps,
            self.models.join(", ")
        ));
        terminal.line("");
        for (n, profile) in self.clips.iter().enumerate() {
            terminal.line(format_args!(
                "[{}] {}; moves in {:.0} % of the pictures, {:.1}/s analysed",
                n + 1,
                clip_words(&profile.clip),
                100.0 * profile.moving,
                profile.analysed_per_s
            ));
        }
        for (n, some) in self.clips.chunks(COLUMNS).enumerate() {
            terminal.line("");
            let row = |name: &str, cells: Vec<String>| {
                let mut text = format!("{name:24}");
                for cell in cells {
                    text += &format!("{cell:>COLUMN$}");
                }
                text
            };
            let heads = (0..some.len()).map(|i| format!("[{}]", n * COLUMNS + i + 1));
            terminal.line(terminal.paint(Tone::Faint, row("", heads.collect())));
            let cell =
                |ms: f64, total: f64| format!("{ms:.2} {:3.0} %", 100.0 * ms / total.max(1e-9));
            let rows: Vec<_> = some.iter().map(|p| (p.stages.rows(), p.total_ms)).collect();
            for (i, (name, _)) in rows[0].0.iter().enumerate() {
                let cells = rows.iter().map(|(rows, total)| cell(rows[i].1, *total));
                terminal.line(row(name, cells.collect()));
            }
            let totals = some.iter().map(|p| cell(p.total_ms, p.total_ms));
            terminal.line(terminal.paint(Tone::Bold, row("all", totals.collect())));
        }
        if !self.is_complete {
            terminal.line(terminal.paint(Tone::Warn, "Ended before all clips were done."));
        }
    }
}
