//! The account of what was watched: per camera and hour of UTC, each millisecond exactly once.
//!
//! What must not be here: a clock, the store, payloads, how it is known that a camera is watched. One
//! [`CoverageLedger`] per site, told about once a second what each camera does.
//!
//! # How it adds up
//!
//! An hour of a camera is a line of 3,600,000 ms, cut into pieces that each have one [`What`]. Telling
//! it what happened paints a stretch of the line. Whatever is painted, in whatever order and however
//! often, the pieces stay a partition of the line; so the sums are exact by construction, not by care.
//!
//! # Clocks
//!
//! Hours are UTC, lengths are monotonic. While both go on alike, the time since the last call is
//! painted with what it was. If they part by more than [`STEP`], the clock was stepped:
//!
//! * **forward**: the time that really passed is painted as what it was, the rest, up to the new
//!   time, as [`Cause::ClockStep`];
//! * **back**: the running hour is reported as it stands, its rest as `clock_step`, and the account
//!   goes on at the new time. Hours that are lived again are painted over and reported with a higher
//!   revision: what was reported stays reported, and the newest revision is what the corrected clock
//!   says.
//!
//! A back step of less is waited out: nothing is painted until the old time is reached again. UTC has
//! no daylight saving, so there is nothing to do about it.
//!
//! # Decisions
//!
//! 1. **Time between the last checkpoint and the start is `stopped`**, also what of it was watched:
//!    what was not written down does not count.
//! 2. **A call that comes more than [`LONGEST_CALL`] after the one before** paints `stopped`: the
//!    process or the machine stood still.
//! 3. **More than [`MOST_HOURS`] missing hours are not reported one by one** (a box without a clock of
//!    its own wakes up in 1970) but as one [`Gap`].
//! 4. **Revisions rise, not always by one**: of an hour that is lived again and no longer remembered
//!    the revision begins with a hundred for each backward step so far.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::{MonoMicros, UtcMicros};

/// An hour.
pub const HOUR_MS: u32 = 3_600_000;
const HOUR: i64 = HOUR_MS as i64;
/// Clocks that part by more were stepped; less is an NTP client at work.
pub const STEP: Duration = Duration::from_secs(2);
/// See decision 2.
pub const LONGEST_CALL: Duration = Duration::from_secs(30);
/// See decision 3: 31 days.
pub const MOST_HOURS: i64 = 31 * 24;
/// Hours remembered, reported or not, for when they are lived again.
const REMEMBERED: usize = MOST_HOURS as usize + 48;

/// Why a camera was not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Not reachable, silent, lost, or it refuses the login.
    Offline,
    /// Reachable, but without pictures that can be decoded.
    NoVideo,
    /// A session is being opened, or the first picture is waited for.
    Connecting,
    /// The picture does not change.
    Frozen,
    /// Too dark to see.
    Dark,
    /// Something covers the lens.
    Occluded,
    /// It looks elsewhere than it did.
    Moved,
    /// Softer than it was.
    Defocused,
    /// Pictures come, and none was analysed: the machine is behind.
    Overloaded,
    /// Pictures come, and the models fail.
    DetectorDown,
    /// One plain colour, as when the camera's privacy mask is on.
    Masked,
    /// Not watched, and not expected to be at this hour.
    OffSchedule,
    /// The daemon was not running, or the machine stood still.
    Stopped,
    /// A clip that does not repeat is over.
    Ended,
    /// The clock was set forward over it, or back before it.
    ClockStep,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Offline,
        Self::NoVideo,
        Self::Connecting,
        Self::Frozen,
        Self::Dark,
        Self::Occluded,
        Self::Moved,
        Self::Defocused,
        Self::Overloaded,
        Self::DetectorDown,
        Self::Masked,
        Self::OffSchedule,
        Self::Stopped,
        Self::Ended,
        Self::ClockStep,
    ];

    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::NoVideo => "no_video",
            Self::Connecting => "connecting",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
            Self::Occluded => "occluded",
            Self::Moved => "moved",
            Self::Defocused => "defocused",
            Self::Overloaded => "overloaded",
            Self::DetectorDown => "detector_down",
            Self::Masked => "masked",
            Self::OffSchedule => "off_schedule",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
            Self::ClockStep => "clock_step",
        }
    }
}

/// What a camera's time was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Looked at.
    Watched,
    /// Not looked at.
    Blind(Cause),
}

/// One camera's hour: pieces with their ends, in order; the last one ends with the hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line(Vec<(u32, What)>);

impl Line {
    fn all(what: What) -> Self {
        Self(vec![(HOUR_MS, what)])
    }

    /// Makes `from_ms..until_ms` be `what`.
    fn paint(&mut self, from_ms: u32, until_ms: u32, what: What) {
        if from_ms >= until_ms {
            return;
        }
        let mut pieces: Vec<(u32, What)> = Vec::with_capacity(self.0.len() + 2);
        let mut push = |begin: u32, end: u32, what: What| {
            if begin >= end {
                return;
            }
            match pieces.last_mut() {
                Some((last, same)) if *same == what => *last = end,
                _ => pieces.push((end, what)),
            }
        };
        let mut begin = 0;
        let mut painted = false;
        for &(end, old) in &self.0 {
            push(begin, end.min(from_ms), old);
            if !painted && end >= from_ms {
                push(from_ms, until_ms, what);
                painted = true;
            }
            push(begin.max(until_ms), end, old);
            begin = end;
        }
        self.0 = pieces;
    }

    /// Milliseconds by what, up to `until_ms`.
    fn totals(&self, until_ms: u32) -> Totals {
        let mut totals = Totals::default();
        let mut begin = 0;
        for &(end, what) in &self.0 {
            let ms = u64::from(end.min(until_ms).saturating_sub(begin));
            begin = end.min(until_ms);
            match what {
                _ if ms == 0 => {}
                What::Watched => totals.watched_ms += ms,
                What::Blind(cause) => *totals.blind_ms.entry(cause).or_default() += ms,
            }
        }
        totals
    }

    /// Whether it is a partition of the hour, as it must be; a line from a damaged disk may not be.
    fn is_whole(&self) -> bool {
        self.0.last().is_some_and(|(end, _)| *end == HOUR_MS)
            && self.0.windows(2).all(|w| w[0].0 < w[1].0)
            && self.0[0].0 > 0
    }
}

/// What a camera's hour came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Looked at.
    pub watched_ms: u64,
    /// Not looked at; causes with nothing are left out.
    pub blind_ms: BTreeMap<Cause, u64>,
}

impl Totals {
    /// All together.
    pub fn sum_ms(&self) -> u64 {
        self.watched_ms + self.blind_ms.values().sum::<u64>()
    }
}

/// The account of one hour; what the store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourAccount {
    /// Hours since 1970.
    hour: i64,
    /// The newest that was reported; 0: none.
    revision: u32,
    /// UTC in milliseconds up to which it is painted; `None`: it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    /// Backward steps of the clock so far, in the whole life of the site.
    #[serde(default)]
    steps_back: u32,
    cameras: BTreeMap<String, Line>,
}

impl HourAccount {
    /// Its key in the store: sorts by time.
    pub fn key(&self) -> String {
        hour_key(self.hour)
    }

    fn is_whole(&self) -> bool {
        self.cameras.values().all(Line::is_whole)
    }

    fn report(&self, is_partial: bool, until_ms: u32) -> HourReport {
        let cameras = self.cameras.iter();
        HourReport {
            hour: UtcMicros(self.hour * HOUR * 1000),
            revision: self.revision,
            is_partial,
            covered_ms: until_ms,
            cameras: cameras
                .map(|(camera, line)| (camera.clone(), line.totals(until_ms)))
                .collect(),
        }
    }
}

fn hour_key(hour: i64) -> String {
    let at = UtcMicros(hour.saturating_mul(HOUR * 1000));
    at.to_string().chars().take("2026-11-24T03".len()).collect()
}

/// What an hour came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourReport {
    /// Its beginning.
    pub hour: UtcMicros,
    /// Higher than that of any report of this hour before; of a partial one that of the newest whole
    /// one.
    pub revision: u32,
    /// The hour is not over: the sums are `covered_ms`.
    pub is_partial: bool,
    /// What the sum of each camera is.
    pub covered_ms: u32,
    /// By camera.
    pub cameras: BTreeMap<String, Totals>,
}

/// Hours that are accounted for by this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first one's beginning.
    pub from: UtcMicros,
    /// The last one's end.
    pub until: UtcMicros,
    /// Why.
    pub cause: Cause,
}

/// What a call brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hours that are over, in the order in which they ended, with what the store keeps of them.
    pub hours: Vec<(HourReport, HourAccount)>,
    /// Hours nobody needs any more, by key.
    pub forgotten: Vec<String>,
    /// Hours too many to report one by one.
    pub gaps: Vec<Gap>,
    /// The clock was stepped by so many milliseconds, forward above 0; at the start by so many at least,
    /// and only back: forward looks like time that the site was stopped.
    pub stepped_ms: Option<i64>,
}

/// The site's account.
#[derive(Clone, Debug)]
pub struct CoverageLedger {
    cameras: Vec<String>,
    running: HourAccount,
    /// UTC in milliseconds up to which all is painted.
    painted_ms: i64,
    read: (MonoMicros, i64),
    /// The longest untouched first.
    remembered: VecDeque<HourAccount>,
    newest_hour: i64,
    steps_back: u32,
}

impl CoverageLedger {
    /// Goes on from what the store kept (`saved`, in any order), at the first moment of this run.
    /// Accounts that contradict themselves are left out and counted: the disk is damaged.
    pub fn start(
        cameras: Vec<String>,
        saved: Vec<HourAccount>,
        at: MonoMicros,
        utc: UtcMicros,
    ) -> (Self, Outcome, usize) {
        let count = saved.len();
        let mut saved: Vec<_> = saved.into_iter().filter(HourAccount::is_whole).collect();
        let damaged = count - saved.len();
        saved.sort_by_key(|a| a.hour);
        let now_ms = utc.0.div_euclid(1000);
        let steps_back = saved.iter().map(|a| a.steps_back).max().unwrap_or(0);
        let newest_hour = saved.iter().map(|a| a.hour).max();
        let running = saved.iter().position(|a| a.until_ms.is_some());
        let running = running.map(|at| saved.remove(at));
        // There is one running hour at most; of more the rest is over.
        for account in &mut saved {
            account.until_ms = None;
        }
        let hour = now_ms.div_euclid(HOUR);
        let stopped = What::Blind(Cause::Stopped);
        let mut ledger = Self {
            cameras,
            painted_ms: hour * HOUR,
            running: HourAccount::default(),
            read: (at, now_ms),
            remembered: saved.into(),
            newest_hour: newest_hour.unwrap_or(hour - 1),
            steps_back,
        };
        match running {
            Some(running) => {
                let begin = running.hour * HOUR;
                let until = running.until_ms.unwrap_or(begin);
                ledger.painted_ms = until.clamp(begin, begin + HOUR - 1);
                ledger.running = running;
            }
            None => ledger.open(hour, hour * HOUR),
        }
        for camera in &ledger.cameras {
            let cameras = &mut ledger.running.cameras;
            cameras
                .entry(camera.clone())
                .or_insert_with(|| Line::all(stopped));
        }
        let mut outcome = Outcome::default();
        if now_ms >= ledger.painted_ms {
            ledger.paint_to(now_ms, |_| stopped, &mut outcome);
        } else {
            // It went on while nobody looked, so it went back by this much at least.
            let back_ms = now_ms - ledger.painted_ms;
            outcome.stepped_ms = Some(back_ms).filter(|ms| -ms > STEP.as_millis() as i64);
            ledger.go_back(now_ms, &mut outcome);
        }
        (ledger, outcome, damaged)
    }

    /// Time has passed; `what` it was for each camera, by index.
    pub fn step(
        &mut self,
        at: MonoMicros,
        utc: UtcMicros,
        mut what: impl FnMut(usize) -> What,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let now_ms = utc.0.div_euclid(1000);
        let passed = at.since(self.read.0);
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let expected_ms = self.read.1.saturating_add(passed_ms);
        self.read = (at.max(self.read.0), now_ms);
        let stood_still = passed > LONGEST_CALL;
        let mut what = |camera: usize| {
            if stood_still {
                What::Blind(Cause::Stopped)
            } else {
                what(camera)
            }
        };
        let stepped_ms = now_ms.saturating_sub(expected_ms);
        let limit_ms = STEP.as_millis() as i64;
        let is_step = stepped_ms.saturating_abs() > limit_ms || self.painted_ms - now_ms > limit_ms;
        if !is_step {
            self.paint_to(now_ms, &mut what, &mut outcome);
            return outcome;
        }
        outcome.stepped_ms = Some(stepped_ms);
        if now_ms >= self.painted_ms {
            let lived = expected_ms.min(now_ms);
            self.paint_to(lived, &mut what, &mut outcome);
            self.paint_to(now_ms, |_| What::Blind(Cause::ClockStep), &mut outcome);
        } else {
            self.paint_to(expected_ms, &mut what, &mut outcome);
            self.go_back(now_ms, &mut outcome);
        }
        outcome
    }

    /// From here on these are the cameras. The rest of the hour of one that is gone, and the hour so far of
    /// one that is new, is [`Cause::Stopped`].
    pub fn retune(&mut self, cameras: Vec<String>) {
        self.cameras = cameras;
        for camera in &self.cameras {
            let line = Line::all(What::Blind(Cause::Stopped));
            self.running.cameras.entry(camera.clone()).or_insert(line);
        }
    }

    /// The running hour so far.
    pub fn partial(&self) -> HourReport {
        let until = self.painted_ms - self.running.hour * HOUR;
        self.running.report(true, until.clamp(0, HOUR) as u32)
    }

    /// The running hour as the store should keep it.
    pub fn checkpoint(&self) -> HourAccount {
        HourAccount {
            until_ms: Some(self.painted_ms),
            steps_back: self.steps_back,
            ..self.running.clone()
        }
    }

    /// Panics if the state contradicts itself; for tests.
    pub fn check_invariants(&self) {
        assert!(self.running.is_whole(), "{:?}", self.running);
        assert!(self.remembered.iter().all(HourAccount::is_whole));
        assert!(self.remembered.len() <= REMEMBERED);
        let begin = self.running.hour * HOUR;
        assert!((begin..begin + HOUR).contains(&self.painted_ms));
    }

    fn paint_to(
        &mut self,
        until_ms: i64,
        mut what: impl FnMut(usize) -> What,
        outcome: &mut Outcome,
    ) {
        let what: Vec<What> = (0..self.cameras.len()).map(&mut what).collect();
        let missing = until_ms.div_euclid(HOUR) - self.running.hour;
        if missing > MOST_HOURS {
            self.skip_to(until_ms, what.first().copied(), outcome);
        }
        while self.painted_ms < until_ms {
            let begin = self.running.hour * HOUR;
            let end = until_ms.min(begin + HOUR);
            self.paint_running(end, &what);
            if end == begin + HOUR {
                self.finish(outcome);
                self.open(self.running.hour + 1, self.painted_ms);
            }
        }
    }

    fn paint_running(&mut self, end_ms: i64, what: &[What]) {
        let begin = self.running.hour * HOUR;
        let (from, until) = ((self.painted_ms - begin) as u32, (end_ms - begin) as u32);
        for (camera, line) in &mut self.running.cameras {
            let index = self.cameras.iter().position(|c| c == camera);
            // One that the config no longer has was not looked at.
            let what = index.map_or(What::Blind(Cause::Stopped), |i| what[i]);
            line.paint(from, until, what);
        }
        self.painted_ms = end_ms;
    }

    /// Ends the running hour and begins the one that holds `until_ms`, with one word for those between.
    fn skip_to(&mut self, until_ms: i64, what: Option<What>, outcome: &mut Outcome) {
        let cause = match what {
            Some(What::Blind(cause)) => cause,
            _ => Cause::ClockStep,
        };
        let all = vec![What::Blind(cause); self.cameras.len()];
        let end = (self.running.hour + 1) * HOUR;
        self.paint_running(end, &all);
        self.finish(outcome);
        let hour = until_ms.div_euclid(HOUR);
        outcome.gaps.push(Gap {
            from: UtcMicros(end * 1000),
            until: UtcMicros(hour * HOUR * 1000),
            cause,
        });
        self.open(hour, hour * HOUR);
    }

    /// Reports the running hour as it stands and goes on at `now_ms`.
    fn go_back(&mut self, now_ms: i64, outcome: &mut Outcome) {
        let lost = vec![What::Blind(Cause::ClockStep); self.cameras.len()];
        let end = (self.running.hour + 1) * HOUR;
        self.paint_running(end, &lost);
        self.finish(outcome);
        self.steps_back = self.steps_back.saturating_add(1);
        self.open(now_ms.div_euclid(HOUR), now_ms);
    }

    fn finish(&mut self, outcome: &mut Outcome) {
        self.running.revision += 1;
        self.running.until_ms = None;
        self.running.steps_back = self.steps_back;
        let report = self.running.report(false, HOUR_MS);
        outcome.hours.push((report, self.running.clone()));
        self.remembered.push_back(self.running.clone());
        if self.remembered.len() > REMEMBERED
            && let Some(oldest) = self.remembered.pop_front()
        {
            outcome.forgotten.push(oldest.key());
        }
    }

    fn recall(&mut self, hour: i64) -> Option<HourAccount> {
        let at = self.remembered.iter().position(|a| a.hour == hour)?;
        self.remembered.remove(at)
    }

    /// Makes `hour` the running one, painted up to `at_ms`.
    fn open(&mut self, hour: i64, at_ms: i64) {
        let unknown = What::Blind(Cause::ClockStep);
        let is_new = hour > self.newest_hour;
        self.newest_hour = self.newest_hour.max(hour);
        self.running = self.recall(hour).unwrap_or_else(|| HourAccount {
            hour,
            revision: if is_new {
                0
            } else {
                self.steps_back.saturating_mul(100)
            },
            until_ms: None,
            steps_back: self.steps_back,
            cameras: BTreeMap::new(),
        });
        for camera in &self.cameras {
            let cameras = &mut self.running.cameras;
            cameras
                .entry(camera.clone())
                .or_insert_with(|| Line::all(unknown));
        }
        self.painted_ms = at_ms;
    }
}

#[cfg(test)]
mod tests;
