//! Access units → the frames worth analysing: decoder, sampling by media time, motion gate.
//!
//! It knows no thread and no queue: the live decode thread and the replay of clips both feed it, so
//! that both look at the same pictures.
use std::collections::VecDeque;

use super::config::{DecodeConfig, MotionConfig};
use super::ffmpeg::{DecodeError, Decoder, Picture};
use super::frame::{Frame, YuvMatrix};
use super::motion::MotionDetector;
use super::picture_health::{PictureFault, PictureHealth, PictureSample};
use super::scan::LumaScan;
use crate::base::geometry::{NormRect, SizePx};
use crate::base::ids::CameraIx;
use crate::base::laps::{Part, lap};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::{Clock, FrameStamp, MonoMicros};
use crate::capture::{AccessUnit, Codec};

/// Stamps kept for pictures that the decoder holds back for reordering (H.264 and H.265 allow 16).
const REORDER: usize = 32;

/// Decides which pictures are sampled, by media time.
#[derive(Clone, Copy, Debug)]
struct Sampler {
    period_90k: i64,
    due: Option<(u32, i64)>,
}

impl Sampler {
    fn new(fps: f32) -> Self {
        Self {
            period_90k: (90_000.0 / f64::from(fps.max(0.01))).round() as i64,
            due: None,
        }
    }

    /// Whether to take the picture at `stamp`. A new session, a step back or a jump of more than
    /// two periods begins anew with this picture.
    fn takes(&mut self, stamp: &FrameStamp) -> bool {
        let pts = stamp.pts.0;
        // A quarter of a picture's time early is on time: RTP timestamps jitter.
        let slack = (self.period_90k / 8).min(900);
        let next = match self.due {
            Some((session, due)) if session == stamp.session => {
                let early = due.saturating_sub(pts);
                if early > slack && early <= self.period_90k {
                    return false;
                }
                if early.unsigned_abs() <= self.period_90k as u64 {
                    due.saturating_add(self.period_90k)
                } else {
                    pts.saturating_add(self.period_90k)
                }
            }
            _ => pts.saturating_add(self.period_90k),
        };
        self.due = Some((stamp.session, next));
        true
    }
}

#[derive(Debug)]
struct Counters {
    frames: Counter,
    missing: Counter,
    sampled: Counter,
    still: Counter,
}

/// What comes out of an access unit.
#[derive(Debug)]
pub enum Sampled {
    /// A picture was decoded. Most go no further.
    Picture {
        /// Its size.
        size: SizePx,
        /// Of the unit that held it.
        stamp: FrameStamp,
    },
    /// The same picture, copied, because it is due and moves.
    Frame(Frame),
}

/// One camera's decoder with what decides which of its pictures are analysed.
#[derive(Debug)]
pub struct FrameSampler {
    camera: CameraIx,
    config: DecodeConfig,
    counters: Counters,
    decoder: Option<Decoder>,
    codec: Option<Codec>,
    session: u32,
    /// Of the newest unit of the session that went into the decoder.
    fed: Option<u64>,
    stamps: VecDeque<FrameStamp>,
    sampler: Sampler,
    motion: MotionDetector,
    last_motion: Option<MonoMicros>,
    /// Where it moved last, and when.
    moving: (MonoMicros, Vec<NormRect>),
    last_passed: Option<MonoMicros>,
    key_units: u64,
    scan: LumaScan,
    health: PictureHealth,
}

impl FrameSampler {
    /// For one camera, called `id` in the metrics.
    pub fn new(camera: CameraIx, id: &str, config: DecodeConfig, metrics: &Metrics) -> Self {
        let counter = |metric| metrics.counter(metric, &[("camera", id)]);
        Self {
            camera,
            sampler: Sampler::new(config.analyse_fps),
            health: PictureHealth::new(&config.picture),
            config,
            counters: Counters {
                frames: counter(Metric::DecodeFrames),
                missing: counter(Metric::DecodeMissing),
                sampled: counter(Metric::FramesSampled),
                still: counter(Metric::FramesStill),
            },
            decoder: None,
            codec: None,
            session: 0,
            fed: None,
            stamps: VecDeque::with_capacity(REORDER),
            motion: MotionDetector::new(),
            last_motion: None,
            moving: (MonoMicros::default(), Vec::new()),
            last_passed: None,
            key_units: 0,
            scan: LumaScan::new(),
        }
    }

    /// What is wrong with the pictures, as of the newest one that was sampled.
    pub fn picture_fault(&self) -> Option<PictureFault> {
        self.health.fault()
    }

    /// Forgets the decoder: the next unit must be a key unit.
    pub fn reset(&mut self) {
        self.decoder = None;
        self.counters.missing.add(self.stamps.len() as u64);
        self.stamps.clear();
    }

    /// Decodes `unit` and hands on what comes of it, in order of presentation.
    ///
    /// # Errors
    /// [`DecodeError`]; call [`reset`](Self::reset) before the next unit then.
    pub fn feed(
        &mut self,
        unit: &AccessUnit,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        if self.codec != Some(unit.codec) || self.session != unit.stamp.session {
            // A new session may bring new parameter sets, and its pictures refer to nothing older.
            self.reset();
            self.codec = Some(unit.codec);
            self.session = unit.stamp.session;
            self.fed = None;
        }
        if let Some(before) = self.fed.replace(unit.stamp.seq) {
            let between = unit.stamp.seq.saturating_sub(before + 1);
            self.counters.missing.add(between);
        }
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => Decoder::new(unit.codec)?,
        };
        if self.stamps.len() == REORDER {
            self.counters.missing.add(1);
            self.stamps.pop_front();
        }
        self.stamps.push_back(unit.stamp);
        self.key_units += u64::from(unit.is_key);
        decoder.send(&unit.data, unit.stamp.seq as i64)?;
        self.drain(&mut decoder, clock, take)?;
        self.decoder = Some(decoder);
        Ok(())
    }

    /// Hands on what the decoder has held back: for the end of a clip.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn finish(
        &mut self,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        let Some(mut decoder) = self.decoder.take() else {
            return Ok(());
        };
        decoder.finish()?;
        self.drain(&mut decoder, clock, take)
    }

    fn drain(
        &mut self,
        decoder: &mut Decoder,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        while let Some(picture) = decoder.picture()? {
            lap(Part::Decode);
            self.counters.frames.add(1);
            let Some(at) = self.stamps.iter().position(|s| s.seq as i64 == picture.tag) else {
                continue;
            };
            let stamp = self.stamps.remove(at).expect("just found");
            take(Sampled::Picture {
                size: picture.size,
                stamp,
            });
            if !self.sampler.takes(&stamp) {
                continue;
            }
            self.counters.sampled.add(1);
            let moves = self.moves(&picture, &stamp);
            lap(Part::Motion);
            if !moves {
                self.counters.still.add(1);
                continue;
            }
            let mut frame = Frame {
                camera: self.camera,
                stamp,
                size: picture.size,
                full_range: false,
                matrix: YuvMatrix::default(),
                pixels: Vec::new(),
                moving: self.moving(stamp.received),
                decoded: MonoMicros::default(),
            };
            picture.copy_into(&mut frame)?;
            lap(Part::Copy);
            frame.decoded = clock.mono();
            take(Sampled::Frame(frame));
        }
        lap(Part::Decode);
        Ok(())
    }

    /// Where it moved last, while the gate stays open for it: what stops for a moment is still there.
    fn moving(&self, now: MonoMicros) -> Vec<NormRect> {
        let hold = match &self.config.motion {
            Some(gate) => gate.hold,
            None => MotionConfig::default().hold,
        };
        if now.since(self.moving.0) <= hold {
            self.moving.1.clone()
        } else {
            Vec::new()
        }
    }

    /// The motion gate: motion now, motion a moment ago, or time to look again.
    fn moves(&mut self, picture: &Picture<'_>, stamp: &FrameStamp) -> bool {
        let now = stamp.received;
        // Without a gate too: where it moves, the detector looks more closely.
        let changed = if picture.has_8_bit_luma() {
            let scan = &mut self.scan;
            let rows = |step: usize, row: &mut dyn FnMut(&[u8])| {
                picture.luma_rows(step, |pixels| {
                    scan.row(pixels);
                    row(pixels);
                });
            };
            let changed = self.motion.changed(picture.size, 2, rows);
            self.health.take(&PictureSample {
                at: now,
                session: stamp.session,
                key_units: self.key_units,
                scan: self.scan.finish(),
                cells: self.motion.means(),
                has_cells: self.motion.has_all_cells(),
            });
            let clusters = self.motion.clusters();
            if !clusters.is_empty() {
                self.moving = (now, clusters);
            }
            changed
        } else {
            1.0
        };
        let Some(gate) = &self.config.motion else {
            return true;
        };
        if changed >= gate.min_area {
            self.last_motion = Some(now);
        }
        let moved = self.last_motion.is_some_and(|t| now.since(t) <= gate.hold);
        let due = self
            .last_passed
            .is_none_or(|t| now.since(t) >= gate.refresh);
        if moved || due {
            self.last_passed = Some(now);
        }
        moved || due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts90k;

    fn at(session: u32, pts: i64) -> FrameStamp {
        FrameStamp {
            session,
            pts: Pts90k(pts),
            ..FrameStamp::default()
        }
    }

    #[test]
    fn pictures_are_sampled_at_the_asked_rate_whatever_the_camera_rate() {
        for (camera_fps, asked, want) in [
            (25.0, 4.0, 40),
            (30.0, 10.0, 100),
            (15.0, 15.0, 150),
            (5.0, 10.0, 50),
        ] {
            let mut s = Sampler::new(asked);
            let n = (camera_fps * 10.0) as i64;
            let taken = (0..n)
                .filter(|i| s.takes(&at(1, (*i as f64 * 90_000.0 / camera_fps) as i64)))
                .count();
            assert!(
                (taken as i64 - want).abs() <= 1,
                "{camera_fps} -> {asked}: {taken}"
            );
        }
    }

    #[test]
    fn each_unit_without_a_picture_is_counted_and_a_new_session_is_no_gap() {
        use crate::base::time::{ManualClock, UtcMicros};
        use crate::capture::OpenContainer as _;
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/demo/kitchen.mp4");
        let mut clip = crate::decode::Clips.open(&path).unwrap();
        let codec = clip.info().codec;
        let metrics = Metrics::default();
        let mut sampler = FrameSampler::new(CameraIx(0), "wok", DecodeConfig::default(), &metrics);
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let mut feed = |seq: u64, session, unit: &crate::capture::ContainerUnit| {
            let unit = AccessUnit {
                camera: CameraIx(0),
                stamp: FrameStamp {
                    seq,
                    session,
                    pts: unit.pts,
                    ..FrameStamp::default()
                },
                codec,
                is_key: unit.is_key,
                is_disposable: unit.is_disposable,
                packets_lost: 0,
                data: unit.data.clone(),
            };
            sampler.feed(&unit, &*clock, &mut |_| {}).unwrap();
        };
        let mut units = Vec::new();
        while let Some(unit) = clip.next_unit().unwrap() {
            units.push(unit);
        }
        // Its first number need not be 1: what came before the first key unit was never to be shown.
        for (n, unit) in units.iter().enumerate().take(90) {
            // Two that are not handed on, and another one.
            if ![60, 61, 75].contains(&n) {
                feed(7 + n as u64, 1, unit);
            }
        }
        assert_eq!(metrics.total(Metric::DecodeMissing), 3);
        for (n, unit) in units.iter().enumerate().take(20) {
            feed(300 + n as u64, 2, unit);
        }
        assert_eq!(metrics.total(Metric::DecodeMissing), 3);
        assert_eq!(metrics.total(Metric::DecodeFrames), 87 + 20);
    }

    #[test]
    fn a_clock_that_jumps_does_not_stop_the_sampling() {
        let mut s = Sampler::new(5.0);
        assert!(s.takes(&at(1, 1_000_000)));
        assert!(s.takes(&at(1, 0)), "a step back begins anew");
        assert!(!s.takes(&at(1, 3600)));
        assert!(s.takes(&at(1, i64::MAX)), "a jump ahead begins anew");
        assert!(s.takes(&at(1, i64::MIN)));
        assert!(s.takes(&at(2, 5)), "so does a new session");
        assert!(
            !s.takes(&at(2, 5)),
            "an equal timestamp is not sampled twice"
        );
    }
}
