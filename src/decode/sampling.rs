//! Access units → the frames worth analysing: late decode, decoder, sampling by media time, motion gate.
//!
//! It knows no thread and no queue: the live decode thread and the replay of clips both feed it, so
//! that both look at the same pictures.
use std::collections::VecDeque;
use std::time::Duration;

use super::config::{DecodeConfig, MotionConfig};
use super::ffmpeg::{DecodeError, Decoder, Picture};
use super::frame::{Frame, FramePool};
use super::late::{LateDecode, Sign, Verdict};
use super::motion::MotionDetector;
use super::picture_health::{PictureFault, PictureHealth, PictureSample};
use super::quiet::Quiet;
use super::scan::{LumaScan, Scan};
use crate::base::geometry::{NormRect, SizePx};
use crate::base::ids::CameraIx;
use crate::base::laps::{Part, lap};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::pool::{Pool, Pooled};
use crate::base::time::{Clock, FrameStamp, MonoMicros};
use crate::capture::nal::sub_layers;
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

    /// Whether the picture at `stamp` would not be taken. What is due only moves on, but for jumps.
    fn is_early(&self, stamp: &FrameStamp) -> bool {
        let slack = (self.period_90k / 8).min(900);
        let Some((session, due)) = self.due else {
            return false;
        };
        let early = due.saturating_sub(stamp.pts.0);
        session == stamp.session && early > slack && early <= self.period_90k
    }
}

#[derive(Debug)]
struct Counters {
    frames: Counter,
    missing: Counter,
    left_out: Counter,
    idle: Counter,
    /// By [`Sign`].
    wakes: [Counter; Sign::ALL.len()],
    missed: Counter,
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
    /// Units that are not decoded: of a still scene, or because nothing refers to them and they are not due.
    LeftOut {
        /// How many.
        units: u64,
    },
    /// The same picture, copied, because it is due and moves.
    Frame(Frame),
}

/// One camera's decoder with what decides which of its pictures are analysed.
#[derive(Debug)]
pub struct FrameSampler {
    camera: CameraIx,
    /// Its name, for the log.
    id: Box<str>,
    config: DecodeConfig,
    counters: Counters,
    decoder: Option<Decoder>,
    codec: Option<Codec>,
    session: u32,
    /// Of the newest unit of the session that went into the decoder or was left out.
    fed: Option<u64>,
    stamps: VecDeque<FrameStamp>,
    sampler: Sampler,
    motion: MotionDetector,
    last_motion: Option<MonoMicros>,
    /// Where it moved last, and when.
    moving: (MonoMicros, Vec<NormRect>),
    /// Where it moves in the picture that was measured last.
    clusters: Vec<NormRect>,
    last_passed: Option<MonoMicros>,
    key_units: u64,
    /// Of an H.265 stream, by its newest key unit.
    has_one_layer: bool,
    scan: LumaScan,
    health: PictureHealth,
    late: Option<LateDecode>,
    quiet: Quiet,
    pool: FramePool,
    rects: Pool<NormRect>,
    /// Session and number of the newest key unit whose picture was told when it was looked at: it may be
    /// decoded again with its group.
    told: Option<(u32, u64)>,
    /// To be decoded, in order. More than one only after a still scene has moved.
    backlog: VecDeque<AccessUnit>,
    /// Receipt of the newest unit that was kept when it did.
    kept_until: MonoMicros,
}

/// What a sampled picture showed.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Share of the picture.
    changed: f32,
    /// `None`: its luma cannot be read.
    scan: Option<Scan>,
}

impl FrameSampler {
    /// For one camera, called `id` in the metrics.
    pub fn new(camera: CameraIx, id: &str, config: DecodeConfig, metrics: &Metrics) -> Self {
        let counter = |metric| metrics.counter(metric, &[("camera", id)]);
        let late = (config.late && config.motion.is_some())
            .then(|| LateDecode::new(config.quiet.look_every));
        Self {
            camera,
            id: id.into(),
            sampler: Sampler::new(config.analyse_fps),
            health: PictureHealth::new(&config.picture),
            config,
            counters: Counters {
                frames: counter(Metric::DecodeFrames),
                missing: counter(Metric::DecodeMissing),
                left_out: counter(Metric::DecodeLeftOut),
                idle: counter(Metric::DecodeIdle),
                wakes: Sign::ALL.map(|sign| {
                    let labels = [("camera", id), ("reason", sign.word())];
                    metrics.counter(Metric::DecodeWakes, &labels)
                }),
                missed: counter(Metric::DecodeMissed),
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
            clusters: Vec::new(),
            last_passed: None,
            key_units: 0,
            has_one_layer: false,
            scan: LumaScan::new(),
            late,
            quiet: Quiet::default(),
            pool: FramePool::default(),
            rects: Pool::default(),
            told: None,
            backlog: VecDeque::new(),
            kept_until: MonoMicros::default(),
        }
    }

    /// What is wrong with the pictures, as of the newest one that was sampled.
    pub fn picture_fault(&self) -> Option<PictureFault> {
        self.health.fault()
    }

    /// Takes the buffers of pictures from `pool`, which others may share.
    #[must_use]
    pub fn with_pool(self, pool: FramePool) -> Self {
        Self { pool, ..self }
    }

    /// Tells what rules counted in the pictures that were handed on.
    pub fn set_quiet(&mut self, quiet: Quiet) {
        self.quiet = quiet;
    }

    /// Forgets the decoder and what waits for it: the next unit must be a key unit.
    pub fn reset(&mut self) {
        self.begin_stream();
        self.counters.missing.add(self.backlog.len() as u64);
        let late = self.late.as_ref();
        let newest = self.backlog.back().map(|unit| unit.stamp.seq);
        // Counted here, so not again as a gap before the next unit.
        let newest = newest.or_else(|| late.and_then(LateDecode::newest_held));
        self.fed = self.fed.map(|fed| fed.max(newest.unwrap_or(fed)));
        self.backlog.clear();
        if let Some(late) = &mut self.late {
            let gaps = late.newest_held().map(|last| late.gaps_before(last + 1));
            self.counters.missing.add(gaps.unwrap_or_default());
            self.counters.left_out.add(late.let_go());
            late.begin_anew();
            self.counters.idle.set(0);
        }
    }

    fn begin_stream(&mut self) {
        self.decoder = None;
        self.counters.missing.add(self.stamps.len() as u64);
        self.stamps.clear();
    }

    /// Takes `unit`, decodes what is to be decoded and hands on what comes of it, in order of
    /// presentation.
    ///
    /// # Errors
    /// [`DecodeError`]; call [`reset`](Self::reset) before the next unit then.
    pub fn feed(
        &mut self,
        unit: AccessUnit,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        self.push(unit, clock, take)?;
        while self.step(clock, take)? {}
        lap(Part::Decode);
        Ok(())
    }

    /// Takes `unit` without decoding more than, of a still scene, its key unit. The rest is
    /// [`step`](Self::step)'s.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn push(
        &mut self,
        unit: AccessUnit,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        let now = unit.stamp.received;
        let is_still = self.is_still(now);
        let is_quiet = self.quiet.holds(&unit.stamp, self.config.quiet);
        let Some(late) = &mut self.late else {
            self.backlog.push_back(unit);
            return Ok(());
        };
        match late.take(&unit, is_still, is_quiet) {
            Verdict::Decode => self.backlog.push_back(unit),
            Verdict::Hold => late.hold(unit),
            Verdict::Wake(sign) => {
                late.hold(unit);
                if sign == Sign::Size {
                    self.narrow(clock, take)?;
                }
                self.wake(now, sign);
            }
            Verdict::Look => return self.look(unit, clock, take),
        }
        Ok(())
    }

    /// No unit came for a while: what is kept of a still scene is decoded after all, for it may be the last
    /// that is seen of it.
    pub fn wake_up(&mut self) {
        let Some(late) = self.late.as_ref().filter(|late| late.is_idle()) else {
            return;
        };
        if let Some(newest) = late.newest() {
            self.wake(newest, Sign::Ended);
        }
    }

    /// Whether only key units are decoded now, because the scene is still.
    pub fn is_idle(&self) -> bool {
        self.late.as_ref().is_some_and(LateDecode::is_idle)
    }

    /// Units that wait for [`step`](Self::step).
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Receipt of the first of them, if it was kept while the scene was still. What came after the scene moved is
    /// live, however late its turn comes.
    pub fn kept_since(&self) -> Option<MonoMicros> {
        let first = self.backlog.front().map(|unit| unit.stamp.received);
        first.filter(|first| *first <= self.kept_until)
    }

    /// Decodes the next unit that waits; false if none does.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn step(
        &mut self,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<bool, DecodeError> {
        let Some(unit) = self.backlog.pop_front() else {
            return Ok(false);
        };
        let mut decoder = self.prepare(&unit)?;
        if self.is_not_due(&unit) {
            self.decoder = Some(decoder);
            self.leave_out(1, take);
            return Ok(true);
        }
        if self.stamps.len() == REORDER {
            self.counters.missing.add(1);
            self.stamps.pop_front();
        }
        self.stamps.push_back(unit.stamp);
        decoder.send(&unit.data, unit.stamp.seq as i64)?;
        self.drain(&mut decoder, clock, take)?;
        self.decoder = Some(decoder);
        Ok(true)
    }

    /// Hands on what the decoder has held back, and what was kept of a still scene: for the end of a clip.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn finish(
        &mut self,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        self.wake_up();
        while self.step(clock, take)? {}
        let Some(mut decoder) = self.decoder.take() else {
            return Ok(());
        };
        decoder.finish()?;
        self.drain(&mut decoder, clock, take)
    }

    /// Nothing waits to be decoded, and nothing has moved for as long as the gate stays open.
    fn is_still(&self, now: MonoMicros) -> bool {
        let hold = self.config.motion.as_ref().map(|gate| gate.hold);
        let newest = self.last_motion.zip(hold);
        self.backlog.is_empty() && newest.is_some_and(|(t, hold)| now.since(t) > hold)
    }

    fn wake(&mut self, now: MonoMicros, sign: Sign) {
        if let Some(late) = &mut self.late {
            self.kept_until = late.newest().unwrap_or(now);
            self.backlog.extend(late.wake(now, sign));
            self.counters.wakes[sign as usize].add(1);
            self.counters.idle.set(0);
        }
    }

    /// The decoder for `unit`, and the count of those before it that did not come.
    fn prepare(&mut self, unit: &AccessUnit) -> Result<Decoder, DecodeError> {
        if self.codec != Some(unit.codec) || self.session != unit.stamp.session {
            // A new session may bring new parameter sets, and its pictures refer to nothing older.
            self.begin_stream();
            self.codec = Some(unit.codec);
            self.session = unit.stamp.session;
            self.fed = None;
        }
        // A key unit that was looked at may come again with its group.
        let seq = unit.stamp.seq;
        if self.fed.is_none_or(|before| seq > before) {
            let next = self.fed.map_or(seq, |before| before + 1);
            self.counters.missing.add(seq - next);
            self.key_units += u64::from(unit.is_key);
            self.fed = Some(seq);
        }
        if unit.is_key && unit.codec == Codec::H265 {
            self.has_one_layer = sub_layers(&unit.data) == Some(1);
        }
        match self.decoder.take() {
            Some(decoder) => Ok(decoder),
            None => Decoder::with(unit.codec, self.config.loop_filter),
        }
    }

    /// Looks at a key unit of a scene that seems still. If it is, its picture is what is seen of all before it that
    /// is kept; if not, that is decoded first, and then the unit again, in its turn.
    fn look(
        &mut self,
        unit: AccessUnit,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        let now = unit.stamp.received;
        if let Some(late) = &self.late
            && let Some(last) = late.newest_held()
        {
            self.counters.missing.add(late.gaps_before(last + 1));
            self.fed = self.fed.max(Some(last));
        }
        let audits = LateDecode::is_audit_due;
        let sign = self.look_at(&unit, audits, clock, take)?;
        let Some(late) = &mut self.late else {
            return Ok(());
        };
        if let Some(sign) = sign {
            if sign == Sign::Audit {
                let units = late.keep_newest_group();
                self.leave_out(units, take);
            }
            // It comes again in its turn.
            self.wake(now, sign);
            self.backlog.push_back(unit);
        } else {
            let units = late.let_go();
            late.hold(unit);
            self.counters.idle.set(1);
            self.leave_out(units, take);
        }
        Ok(())
    }

    /// A quiet scene begins to move. If the key unit of the newest group shows none of it yet, the groups before
    /// need not be decoded.
    fn narrow(
        &mut self,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        let Some(key) = self.late.as_ref().and_then(LateDecode::unseen_key) else {
            return Ok(());
        };
        let before = (self.fed, self.key_units);
        self.fed = self.fed.max(key.stamp.seq.checked_sub(1));
        if self.look_at(&key, |_, _| false, clock, take)?.is_some() {
            (self.fed, self.key_units) = before;
        } else if let Some(late) = &mut self.late {
            self.counters.missing.add(late.gaps_before(key.stamp.seq));
            let units = late.keep_newest_group();
            self.leave_out(units, take);
        }
        Ok(())
    }

    /// Decodes a key unit alone; what wakes the camera, if anything does. If nothing, its picture was handed on.
    fn look_at(
        &mut self,
        unit: &AccessUnit,
        audits: impl FnOnce(&LateDecode, MonoMicros) -> bool,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<Option<Sign>, DecodeError> {
        let mut decoder = self.prepare(unit)?;
        if !self.stamps.is_empty() {
            // The first one after moving pictures, of which the decoder holds some back.
            decoder.finish()?;
            self.drain(&mut decoder, clock, take)?;
            self.counters.missing.add(self.stamps.len() as u64);
            self.stamps.clear();
        }
        decoder.restart();
        let before = self.motion.clone();
        let looked = self.look_with(&mut decoder, unit, audits, clock, take);
        decoder.restart();
        self.decoder = Some(decoder);
        // What does not stand alone after all, or is damaged, is full decoding's to judge, and must not take the
        // group before it along.
        let sign = looked.unwrap_or_else(|_| {
            self.begin_stream();
            Some(Sign::Key)
        });
        if sign.is_some() {
            self.motion = before;
        }
        Ok(sign)
    }

    fn look_with(
        &mut self,
        decoder: &mut Decoder,
        unit: &AccessUnit,
        audits: impl FnOnce(&LateDecode, MonoMicros) -> bool,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<Option<Sign>, DecodeError> {
        decoder.send(&unit.data, unit.stamp.seq as i64)?;
        decoder.finish()?;
        let Some(picture) = decoder.picture()? else {
            return Ok(Some(Sign::Key));
        };
        self.counters.frames.add(1);
        lap(Part::Decode);
        let measured = self.measure(&picture);
        lap(Part::Motion);
        let gate = self.config.motion.as_ref();
        let least = gate.map_or(0.0, |gate| gate.min_area);
        let now = unit.stamp.received;
        if measured.changed >= least {
            return Ok(Some(Sign::Key));
        }
        if let Some(late) = &mut self.late {
            late.looked(now);
            if audits(late, now) {
                return Ok(Some(Sign::Audit));
            }
        }
        self.hand_on(picture, &unit.stamp, Some(measured), clock, take)?;
        self.told = Some((unit.stamp.session, unit.stamp.seq));
        Ok(None)
    }

    fn leave_out(&self, units: u64, take: &mut dyn FnMut(Sampled)) {
        if units > 0 {
            self.counters.left_out.add(units);
            take(Sampled::LeftOut { units });
        }
    }

    /// Nothing refers to it, and it comes too early to be sampled. In a stream of several sub-layers H.265 says
    /// only that none of the same sub-layer does.
    fn is_not_due(&self, unit: &AccessUnit) -> bool {
        let is_alone = unit.codec == Codec::H264 || self.has_one_layer;
        is_alone && unit.is_disposable && !unit.is_key && self.sampler.is_early(&unit.stamp)
    }

    fn drain(
        &mut self,
        decoder: &mut Decoder,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        while let Some(picture) = decoder.picture()? {
            self.counters.frames.add(1);
            let Some(at) = self.stamps.iter().position(|s| s.seq as i64 == picture.tag) else {
                continue;
            };
            let stamp = self.stamps.remove(at).expect("just found");
            self.hand_on(picture, &stamp, None, clock, take)?;
        }
        Ok(())
    }

    /// Tells of a picture, and hands it on if it is due and shows motion. `measured`, if it was already.
    fn hand_on(
        &mut self,
        picture: Picture<'_>,
        stamp: &FrameStamp,
        measured: Option<Measured>,
        clock: &dyn Clock,
        take: &mut dyn FnMut(Sampled),
    ) -> Result<(), DecodeError> {
        lap(Part::Decode);
        let was_told = self.told == Some((stamp.session, stamp.seq));
        if !was_told {
            take(Sampled::Picture {
                size: picture.size,
                stamp: *stamp,
            });
        }
        if was_told || !self.sampler.takes(stamp) {
            return Ok(());
        }
        self.counters.sampled.add(1);
        let measured = match measured {
            Some(measured) => measured,
            None => self.measure(&picture),
        };
        let moves = self.moves(measured, stamp);
        lap(Part::Motion);
        if !moves {
            self.counters.still.add(1);
            return Ok(());
        }
        let mut frame = Frame {
            camera: self.camera,
            stamp: *stamp,
            moving: self.moving(stamp.received),
            next_within: self.next_within(),
            ..Frame::new(picture.size, self.pool.take())
        };
        picture.copy_into(&mut frame)?;
        lap(Part::Copy);
        frame.decoded = clock.mono();
        take(Sampled::Frame(frame));
        Ok(())
    }

    /// See [`Frame::next_within`].
    fn next_within(&self) -> Duration {
        let look = self.late.as_ref().and_then(LateDecode::next_look);
        let refresh = self.config.motion.as_ref().map(|gate| gate.refresh);
        let every = Duration::from_secs_f32(1.0 / self.config.analyse_fps.max(0.01));
        every
            .max(refresh.unwrap_or_default())
            .max(look.unwrap_or_default())
    }

    /// Where it moved last, while the gate stays open for it: what stops for a moment is still there.
    fn moving(&self, now: MonoMicros) -> Pooled<NormRect> {
        let hold = match &self.config.motion {
            Some(gate) => gate.hold,
            None => MotionConfig::default().hold,
        };
        let mut moving = self.rects.take();
        if now.since(self.moving.0) <= hold {
            moving.extend_from_slice(&self.moving.1);
        }
        moving
    }

    /// Compares a picture with the background, which learns from it. Without a gate too: where it moves, the
    /// detector looks more closely.
    fn measure(&mut self, picture: &Picture<'_>) -> Measured {
        self.clusters.clear();
        if !picture.has_8_bit_luma() {
            return Measured {
                changed: 1.0,
                scan: None,
            };
        }
        let scan = &mut self.scan;
        let rows = |step: usize, row: &mut dyn FnMut(&[u8])| {
            picture.luma_rows(step, |pixels| {
                scan.row(pixels);
                row(pixels);
            });
        };
        let changed = self.motion.changed(picture.size, 2, rows);
        self.motion.clusters(&mut self.clusters);
        Measured {
            changed,
            scan: Some(self.scan.finish()),
        }
    }

    /// The motion gate: motion now, motion a moment ago, or time to look again.
    fn moves(&mut self, measured: Measured, stamp: &FrameStamp) -> bool {
        let now = stamp.received;
        if let Some(scan) = measured.scan {
            self.health.take(&PictureSample {
                at: now,
                session: stamp.session,
                key_units: self.key_units,
                scan,
                cells: self.motion.means(),
                has_cells: self.motion.has_all_cells(),
            });
        }
        if !self.clusters.is_empty() {
            self.moving.0 = now;
            std::mem::swap(&mut self.moving.1, &mut self.clusters);
        }
        let Some(gate) = &self.config.motion else {
            return true;
        };
        if measured.changed >= gate.min_area {
            self.last_motion = Some(now);
            if self.late.as_mut().is_some_and(|late| late.moved(now)) {
                self.counters.missed.add(1);
                tracing::warn!(camera = %self.id, "something moved in a scene that was taken for still: the camera is decoded in full for a while; if this comes often, set late_decode = false");
            }
        }
        let moved = self.last_motion.is_some_and(|t| now.since(t) <= gate.hold);
        // Of a still scene the next picture comes with the next key unit: not later than asked.
        let ahead = self.late.as_ref().and_then(LateDecode::next_look);
        let due = self.last_passed.is_none_or(|t| {
            let since = now.since(t);
            since >= gate.refresh || ahead.is_some_and(|ahead| since + ahead > gate.refresh)
        });
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
            let mut unit = unit.clone().as_sent(CameraIx(0), codec, seq);
            unit.stamp.session = session;
            sampler.feed(unit, &*clock, &mut |_| {}).unwrap();
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
    fn what_waits_when_the_decoder_is_given_up_is_missing_once() {
        use crate::base::time::{ManualClock, UtcMicros};
        use crate::capture::OpenContainer as _;
        for name in ["kitchen.mp4", "kitchen-h265.mp4"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(".runtime/demo")
                .join(name);
            let mut clip = crate::decode::Clips.open(&path).unwrap();
            let codec = clip.info().codec;
            let mut units = Vec::new();
            while let Some(unit) = clip.next_unit().unwrap() {
                let mut unit = unit.as_sent(CameraIx(0), codec, units.len() as u64);
                unit.stamp.received = MonoMicros(units.len() as u64 * 40_000);
                units.push(unit);
            }
            let metrics = Metrics::default();
            let config = DecodeConfig::default();
            let mut sampler = FrameSampler::new(CameraIx(0), "wok", config, &metrics);
            let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
            // A key unit that is looked at and then decoded with its group is told once.
            let mut pictures = 0;
            let mut take =
                |sampled| pictures += u64::from(matches!(sampled, Sampled::Picture { .. }));
            for unit in &units[..10] {
                sampler.feed(unit.clone(), &*clock, &mut take).unwrap();
            }
            let is_one_layer = codec == Codec::H264 || sampler.has_one_layer;
            assert!(is_one_layer, "{name} has no sub-layers");
            for unit in &units[10..15] {
                sampler.push(unit.clone(), &*clock, &mut take).unwrap();
            }
            sampler.reset();
            let key = (15..units.len()).find(|n| units[*n].is_key).unwrap();
            for unit in &units[key..] {
                sampler.feed(unit.clone(), &*clock, &mut take).unwrap();
            }
            sampler.finish(&*clock, &mut take).unwrap();
            let total = |metric| metrics.total(metric);
            assert_eq!(
                pictures + total(Metric::DecodeLeftOut) + total(Metric::DecodeMissing),
                units.len() as u64,
                "{name}: each is decoded, left out or missing, and once"
            );
        }
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
