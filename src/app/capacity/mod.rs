//! `mingchu capacity`: how many cameras this very box carries, found by trying: the daemon's own pipeline
//! watches ever more built-in cameras until it is late or loses something.
//!
//! `search` says which number is tried next, `cameras` plays the clip (`synthetic` makes one where there is none), `pipeline` runs and measures,
//! `verdict` judges, `report` prints; `profile` says what one camera's CPU time goes to.
//!
//! What must not be here: other figures than measured ones.
mod cameras;
mod pipeline;
mod profile;
mod report;
mod search;
mod synthetic;
mod threads;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use self::cameras::Load;
use self::pipeline::{Bench, Measured, Pipeline};
use self::report::{Facts, Trial};
use self::search::Search;
use self::verdict::Wanted;
use super::blocking::on_thread;
use super::demo;
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::models::shipped_or;
use super::probe;
use super::run::Signals;
use super::site::find_upwards;
use super::terminal::{LiveLine, Terminal};
use super::workers::staffing;
use crate::detect::{Models, Runtime};

/// How often the line of progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Clone, Debug)]
pub struct CapacityOptions {
    /// What the cameras show; none: the demo's clip, or one that is made.
    pub clips: Vec<PathBuf>,
    /// Pictures a second that are looked at.
    pub fps: f32,
    /// Model cards; none: the shipped ones.
    pub models: Vec<PathBuf>,
    /// How long each number of cameras is measured, after a warm-up.
    pub measure: Duration,
    /// Most cameras that are tried.
    pub most: usize,
    /// Latency that 95 of 100 pictures must not exceed.
    pub p95_ms: u32,
    /// What one camera's CPU time goes to, instead of how many there can be.
    pub profile: bool,
    /// JSON instead of text.
    pub json: bool,
}

/// What to do about a file that is none.
const CLIPS: &str = "Give an MP4, MKV or TS file with an H.264 or H.265 track.";

/// Reads a clip; what is wrong with it is said with what to do.
fn read(path: &Path) -> Result<Load, Failure> {
    Load::read(path).map_err(|e| {
        let code = e.downcast_ref().map_or(ExitCode::Data, probe::code_of);
        // The name stands in most of the words, but not in all.
        let path = path.display().to_string();
        let why = e.to_string();
        let named = if why.contains(&path) {
            why
        } else {
            format!("{path}: {why}")
        };
        Failure::new(code, anyhow::anyhow!("{named}. {CLIPS}"))
    })
}

/// What the cameras play: the clips that are named, else the demo's, else one that is made.
fn loads(options: &CapacityOptions) -> Result<Vec<Load>, Failure> {
    if !options.clips.is_empty() {
        return options.clips.iter().map(|path| read(path)).collect();
    }
    if let Some(demo) = find_upwards(Path::new(demo::CLIP)) {
        return Ok(vec![read(&demo)?]);
    }
    let made = synthetic::make().context(
        "no clip could be made: name one of the kitchen, H.264 or H.265 (mingchu capacity kitchen.mp4)",
    );
    Ok(vec![made.or_exit(ExitCode::CannotCreate)?])
}

/// Clips first: they are read in no time, and the models are not.
fn benches(options: &CapacityOptions) -> Result<Vec<Bench>, Failure> {
    let loads = loads(options)?;
    let cards = shipped_or(&options.models)?;
    let runtime = Runtime::load(None).or_exit(ExitCode::Config)?;
    let models = Models::load(runtime, &cards).or_exit(ExitCode::Config)?;
    let bench = |load| Bench {
        load,
        models: models.clone(),
        cards: cards.clone(),
        analyse_fps: options.fps,
        late_decode: options.profile,
    };
    Ok(loads.into_iter().map(bench).collect())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Waits, and says how far it is.
async fn wait(duration: Duration, live: &LiveLine, what: &str) {
    let begun = tokio::time::Instant::now();
    let mut draw = tokio::time::interval(DRAW);
    let over = tokio::time::sleep(duration);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            _ = draw.tick() => {
                let (done, all) = (begun.elapsed().as_secs(), duration.as_secs());
                live.show(format_args!("{what}: {done} of {all} s"));
            }
        }
    }
}

/// Runs `work` on a pipeline that has begun; the end in good order, whatever comes. `None`: a signal came
/// first.
async fn until_signal<T>(
    mut pipeline: Pipeline,
    signals: &mut Signals,
    work: impl AsyncFnOnce(&mut Pipeline) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let done = tokio::select! {
        done = work(&mut pipeline) => done.map(Some),
        () = signals.next() => Ok(None),
    };
    tokio::select! {
        () = pipeline.stop() => done,
        () = signals.next() => std::process::exit(130),
    }
}

/// Measures so many cameras; `None`: a signal came.
async fn trial(
    bench: &Bench,
    cameras: usize,
    measure: Duration,
    live: &LiveLine,
    signals: &mut Signals,
) -> Result<Option<Measured>, Failure> {
    let what = match cameras {
        1 => "1 camera".to_owned(),
        n => format!("{n} cameras"),
    };
    live.show(format_args!("{what}: starting"));
    let pipeline = tokio::select! {
        pipeline = Pipeline::start(bench, cameras) => pipeline?,
        () = signals.next() => return Ok(None),
    };
    let measured = until_signal(pipeline, signals, async |pipeline| {
        pipeline.watch().await?;
        let silent = pipeline.warm_up().await?;
        if silent > 0 {
            return Ok(Measured {
                cameras,
                silent,
                ..Measured::default()
            });
        }
        let before = pipeline.begin();
        wait(measure, live, &what).await;
        pipeline.measured(&before)
    });
    let measured = measured.await;
    live.clear();
    measured
}

/// Runs the command until the number is found or a signal comes.
///
/// # Errors
/// A clip, model or runtime library that cannot be used, or a part of the pipeline that panicked.
pub async fn run(options: CapacityOptions, terminal: Terminal) -> Outcome {
    let mut signals = Signals::catch().or_exit(ExitCode::Internal)?;
    if options.clips.len() > 1 && !options.profile {
        let reason = anyhow::anyhow!(
            "one clip at a time: every camera plays the same; only --profile takes several"
        );
        return Err(Failure::new(ExitCode::Usage, reason));
    }
    let live = LiveLine::new();
    live.show("loading the models");
    let asked = options.clone();
    let benches = on_thread("load", move || benches(&asked)).await;
    live.clear();
    let benches = benches.or_exit(ExitCode::Internal)??;
    if options.profile {
        return profile::run(&options, &benches, &live, &mut signals, terminal).await;
    }
    let Some(bench) = benches.first() else {
        return Ok(());
    };
    let wanted = Wanted {
        camera_fps: bench.about().fps,
        // As it was typed: 0.1 and not 0.10000000149.
        analyse_fps: (f64::from(options.fps) * 1000.0).round() / 1000.0,
        p95_ms: f64::from(options.p95_ms),
        cores: cores(),
        workers: staffing(&bench.config_of_one()?).most(),
    };
    let facts = Facts::new(bench, &options, wanted);
    if !options.json {
        facts.print(terminal);
    }
    let mut search = Search::new(options.most);
    let mut trials: Vec<Trial> = Vec::new();
    let mut is_complete = true;
    while let Some(cameras) = search.next() {
        let measured = trial(bench, cameras, options.measure, &live, &mut signals).await?;
        let Some(measured) = measured else {
            is_complete = false;
            break;
        };
        let trial = Trial::new(measured, &wanted);
        if !options.json {
            trial.print(terminal);
        }
        // Somebody else may have had the cores for a moment: once more.
        let first_look = trials.last().is_none_or(|t| t.measured.cameras != cameras);
        let again = !trial.fits() && first_look && trial.measured.is_close(&wanted);
        if !again {
            search.tell(trial.fits());
        }
        trials.push(trial);
    }
    let answer = facts.answer(search.found(), &trials, is_complete);
    if options.json {
        terminal.line(serde_json::to_string_pretty(&answer).or_exit(ExitCode::Internal)?);
    } else {
        answer.print(terminal);
    }
    Ok(())
}
