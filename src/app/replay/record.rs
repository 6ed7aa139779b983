//! Clip → recording: the daemon's own path from access unit to detections, as fast as it goes and
//! with the clip's time. Several clips go at once, each on a thread with sessions of its own; what is
//! recorded of a clip does not depend on the others.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use super::evaluate::Scene;
use super::recording::{FaultSpan, Picture, Recording};
use super::setup::Setup;
use crate::app::exit::{ExitCode, Failure, OrExit as _};
use crate::app::terminal::Progress;
use crate::base::ids::CameraIx;
use crate::base::metrics::Metrics;
use crate::base::time::{ManualClock, MonoMicros, UtcMicros};
use crate::capture::{AccessUnit, Container, OpenContainer as _};
use crate::decode::{Clips, FrameSampler, PictureFault, Quiet, Sampled};
use crate::detect::Detector;
use crate::rules::RuleEngine;
use crate::track::Tracker;

const METRICS_NAME: &str = "replay";

/// A clip and the camera whose rules and sampling count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipOf {
    /// The file.
    pub path: PathBuf,
    /// The camera.
    pub camera: CameraIx,
}

/// What a clip or recording is called in findings and truths: its file name.
pub fn clip_name(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_else(|| path.display().to_string())
}

/// How long the clips say they are, together, in microseconds; what cannot be opened counts nothing.
pub fn claimed_us(clips: &[ClipOf]) -> u64 {
    let length = |clip: &ClipOf| Clips.open(&clip.path).ok()?.claimed_length();
    let lengths = clips.iter().filter_map(length);
    lengths.map(|l| l.as_micros() as u64).sum()
}

/// Records `clips` on `detectors.len()` threads and hands each to `take` in their order, as soon as it
/// and those before it are done.
///
/// # Errors
/// What `take` says, or the first failure that is not one clip's alone; either ends the others.
pub fn record_all(
    setup: &Setup,
    clips: &[ClipOf],
    detectors: Vec<Detector>,
    progress: &Progress,
    take: &mut dyn FnMut(usize, Result<Recording, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = sync_channel(detectors.len());
    std::thread::scope(|scope| {
        for mut detector in detectors {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(clip) = clips.get(at) else { return };
                    let recorded = record(setup, clip, &mut detector, progress);
                    // Nobody waits for more once a failure ended the replay.
                    if sender.send((at, recorded)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let handed = in_order(receiver, take);
        // Those still at work finish their clip, and find no other.
        next.store(clips.len(), Ordering::Relaxed);
        handed
    })
}

fn in_order(
    receiver: Receiver<(usize, Result<Recording, Failure>)>,
    take: &mut dyn FnMut(usize, Result<Recording, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut waiting = std::collections::BTreeMap::new();
    let mut due = 0;
    for (at, recorded) in receiver {
        waiting.insert(at, recorded);
        while let Some(recorded) = waiting.remove(&due) {
            take(due, recorded)?;
            due += 1;
        }
    }
    Ok(())
}

/// Records one clip.
///
/// # Errors
/// [`ExitCode::Data`]: it cannot be read; anything else is not the clip's fault.
fn record(
    setup: &Setup,
    clip: &ClipOf,
    detector: &mut Detector,
    progress: &Progress,
) -> Result<Recording, Failure> {
    let container = Clips.open(&clip.path).or_exit(ExitCode::Data)?;
    let decode = setup.decode[clip.camera.index()].clone();
    // As one camera alone would find the site's budget of regions; what was played before must not matter.
    detector.begin_anew();
    let mut recorder = Recorder {
        sampler: FrameSampler::new(clip.camera, METRICS_NAME, decode, &Metrics::default()),
        detector,
        scene: &setup.scene,
        tracker: setup.scene.tracker(clip.camera),
        engine: setup.scene.engine(&clip_name(&clip.path)),
        quiet: Quiet::default(),
        recording: Recording {
            clip: clip_name(&clip.path),
            camera: clip.camera,
            length_us: 0,
            pictures: 0,
            pictures_seen: Vec::new(),
            faults: Vec::new(),
        },
        fault: None,
    };
    recorder.run(container, progress)?;
    Ok(recorder.recording)
}

/// One clip on its way to a recording.
struct Recorder<'d> {
    sampler: FrameSampler,
    detector: &'d mut Detector,
    scene: &'d Scene,
    /// As the daemon does: how often a still scene is looked at depends on what rules count in it.
    tracker: Tracker,
    engine: RuleEngine,
    quiet: Quiet,
    recording: Recording,
    /// What is wrong with the newest pictures.
    fault: Option<PictureFault>,
}

impl Recorder<'_> {
    fn run(&mut self, mut clip: Box<dyn Container>, progress: &Progress) -> Result<(), Failure> {
        let codec = clip.info().codec;
        for seq in 0.. {
            let unit = clip.next_unit().or_exit(ExitCode::Data)?;
            let before_us = self.recording.length_us;
            // Presentation time is the clip's clock: the moment at which a live camera would have
            // shown the picture.
            let camera = self.recording.camera;
            let unit = unit.map(|unit| unit.as_sent(camera, codec, seq));
            let at_us = unit.as_ref().map_or(0, |unit| unit.stamp.received.0);
            self.recording.length_us = before_us.max(at_us);
            let is_last = unit.is_none();
            let pictures = self.feed(unit)?;
            progress.advance(self.recording.length_us - before_us, pictures);
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Decodes `unit`, or what the decoder still holds, and looks at what is due; returns how many
    /// pictures there were.
    fn feed(&mut self, unit: Option<AccessUnit>) -> Result<u64, Failure> {
        let now_us = self.recording.length_us;
        let clock = ManualClock::new(MonoMicros(now_us), UtcMicros(now_us as i64));
        let (mut pictures, mut failed) = (0, None);
        let Self {
            sampler,
            detector,
            scene,
            tracker,
            engine,
            quiet,
            recording,
            ..
        } = self;
        let mut take = |sampled: Sampled| match sampled {
            Sampled::Picture { .. } => pictures += 1,
            Sampled::LeftOut { units } => pictures += units,
            Sampled::Frame(frame) => match detector.detect(&frame, &*clock) {
                Ok(seen) => {
                    let mut tracks = tracker.update(&seen);
                    tracks.stamp = scene.stamp(seen.stamp.received.0, seen.stamp);
                    engine.on_tracks(&tracks);
                    quiet.saw(&seen.stamp, !engine.is_quiet(recording.camera));
                    recording.pictures_seen.push(Picture {
                        at_us: seen.stamp.received.0,
                        stamp: seen.stamp,
                        items: seen.items.into_vec(),
                    });
                }
                Err(e) => failed = Some(e),
            },
        };
        let fed = match unit {
            Some(unit) => sampler.feed(unit, &*clock, &mut take),
            None => sampler.finish(&*clock, &mut take),
        };
        if let Some(e) = failed {
            return Err(e).or_exit(ExitCode::Internal);
        }
        if let Err(e) = fed {
            tracing::warn!(clip = %self.recording.clip, err = %e, "part of the clip was not decoded");
            self.sampler.reset();
        }
        self.sampler.set_quiet(self.quiet);
        self.recording.pictures += pictures;
        self.note_fault(now_us);
        Ok(pictures)
    }

    /// What is wrong with the pictures now goes on, begins or is over.
    fn note_fault(&mut self, now_us: u64) {
        let fault = self.sampler.picture_fault();
        let was = std::mem::replace(&mut self.fault, fault);
        let faults = &mut self.recording.faults;
        if let (Some(_), Some(last)) = (was, faults.last_mut()) {
            last.to_us = now_us;
        }
        if let Some(fault) = fault.filter(|f| was != Some(*f)) {
            faults.push(FaultSpan {
                from_us: now_us,
                to_us: now_us,
                fault,
            });
        }
    }
}
