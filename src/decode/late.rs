//! Late decode: of a still scene only key units are decoded; the units in between are kept until the next
//! key unit shows that nothing moved, and decoded after all if something did. Of a quiet scene ([`super::quiet`]),
//! in which no rule counts anything either, not even every key unit.
//!
//! It knows no decoder and no clock: it is told of each unit, and whether pictures moved, and says what to do
//! with the unit. Time is the stamps', so that a clip gives the same answer twice.
//!
//! # When a camera wakes
//!
//! | sign | what it finds | what is decoded then |
//! | --- | --- | --- |
//! | the newest units are larger than those of the still scene were | what begins to move, within some units | the group from its key unit on, and those before it that were not looked at if that shows another picture |
//! | the next key unit that is looked at shows another picture than the last one | what was too slow or too small for that | all since then |
//! | no unit comes for a second, the session or the clip ends | what came last before a camera was lost | all since the last look |
//! | every [`AUDIT_EVERY`] | what the first two did not, see below | the newest group |
//!
//! What is decoded late has the stamps it came with: tracks and rules see it in its time.
//!
//! # Decisions
//!
//! 1. **Sizes are compared with the camera's own**, of the newest seconds in which decoded pictures showed no
//!    motion: an encoder with a constant bit rate has a narrow spread and a low bar, a noisy night picture a
//!    wide one. Eight units together, because an encoder that reorders pictures makes every fourth or so large.
//! 2. **A guess that is never checked is no watch.** Every [`AUDIT_EVERY`] a group that looked still is decoded
//!    whole. If it shows motion that neither its sizes nor the next key unit gave away, the camera is decoded
//!    in full for [`BARRED`], each time twice as long, and `late_missed_total` counts it.
//! 3. **Key units must come at least every [`LONGEST_GOP`]**: rules count a stretch as unbroken only while it is
//!    seen so often (`rules::history::MAX_STREAK_GAP`). Other cameras are decoded in full.
//! 4. **A key unit costs as much as all others of its group together**, so that one in two seconds is what an idle
//!    camera costs. In a quiet scene a finding can only come of what moves; one look in
//!    [`QuietConfig::look_every`](super::QuietConfig) serves, as the sizes of all units go on being compared.
//! 5. **What waits is bounded** by [`MOST_HELD_BYTES`], and a key unit is looked at as soon as half of that waits; the
//!    bytes are shared with the ring of pictures for clips.
//!
//! What is still missed: a camera whose encoder repeats a few seconds of a quiet scene is not found frozen before
//! something moves, but for a repeat of a single group; and what comes and goes between two looks, moves no unit's size and happens between two
//! audits.
use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::MonoMicros;
use crate::capture::AccessUnit;

/// Longest time between two key units; see the module docs, decision 3.
pub const LONGEST_GOP: Duration = Duration::from_millis(2500);
/// Units whose sizes are taken together.
const TOGETHER: usize = 8;
/// Sums kept of the still scene: five seconds of 25 pictures a second.
const SUMS: usize = 125;
/// Fewer say nothing of a camera yet.
const LEAST_SUMS: usize = 24;
/// After waking without motion, so long all is decoded: the sizes that woke it are then known.
const AWAKE: Duration = Duration::from_millis(1500);
/// See the module docs, decision 2.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// See the module docs, decision 2.
const BARRED: Duration = Duration::from_secs(600);
/// Longest time that a camera is decoded in full after audits that failed.
const MOST_BARRED: Duration = Duration::from_secs(24 * 3600);
/// Four seconds at 16 Mbit/s.
const MOST_HELD_BYTES: usize = 8 << 20;

/// What to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Decode it.
    Decode,
    /// A key unit between still groups: look at it by itself, then tell if it shows the [same](LateDecode::looked).
    Look,
    /// Keep it with [`LateDecode::hold`].
    Hold,
    /// Keep it, and decode all that is kept.
    Wake(Sign),
}

/// What woke a camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Units became larger.
    Size,
    /// A key unit shows something else.
    Key,
    /// Nothing came any more.
    Ended,
    /// Nothing: it is checked.
    Audit,
    /// Too much is kept.
    Limit,
}

impl Sign {
    /// The word in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Key => "key",
            Self::Ended => "ended",
            Self::Audit => "audit",
            Self::Limit => "limit",
        }
    }

    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::Size, Self::Key, Self::Ended, Self::Audit, Self::Limit];
}

/// Sizes of units that are no key units.
#[derive(Clone, Debug, Default)]
struct Sizes {
    newest: VecDeque<usize>,
    /// Of the still scene.
    sums: VecDeque<usize>,
}

impl Sizes {
    /// The newest units together, once there are enough.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        if self.newest.len() == TOGETHER {
            self.newest.pop_front();
        }
        self.newest.push_back(bytes);
        (self.newest.len() == TOGETHER).then(|| self.newest.iter().sum())
    }

    fn learn(&mut self, sum: usize) {
        if self.sums.len() == SUMS {
            self.sums.pop_front();
        }
        self.sums.push_back(sum);
    }

    /// What no sum of the still scene comes near: above the largest by as much again as that is above the
    /// median, but by no less than a twentieth and no more than a quarter of it.
    fn bar(&self) -> Option<usize> {
        if self.sums.len() < LEAST_SUMS {
            return None;
        }
        let mut sorted: Vec<usize> = self.sums.iter().copied().collect();
        let middle = sorted.len() / 2;
        let median = *sorted.select_nth_unstable(middle).1;
        let largest = self.sums.iter().copied().max()?;
        let room = (2 * (largest - median)).clamp(largest / 20, largest / 4);
        Some(largest + room)
    }
}

/// One camera's late decode.
#[derive(Clone, Debug)]
pub(super) struct LateDecode {
    sizes: Sizes,
    /// Computed on becoming idle; `None`: awake.
    bar: Option<usize>,
    /// The group so far, of a still camera.
    held: Vec<AccessUnit>,
    held_bytes: usize,
    session: Option<u32>,
    newest_key: Option<MonoMicros>,
    /// The newest key unit that was looked at.
    looked_at: Option<MonoMicros>,
    /// Of a quiet scene, how often one is.
    look_every: Duration,
    /// Whether the scene was quiet with the newest key unit.
    is_quiet: bool,
    /// Between the newest two.
    gop: Option<Duration>,
    woken: Option<MonoMicros>,
    audited: Option<MonoMicros>,
    /// A group that is decoded to see whether it moved.
    audit: Option<(MonoMicros, MonoMicros)>,
    barred_until: Option<MonoMicros>,
    barred: Duration,
}

impl LateDecode {
    /// Of a quiet scene a key unit is looked at every `look_every`.
    pub(super) fn new(look_every: Duration) -> Self {
        Self {
            sizes: Sizes::default(),
            bar: None,
            held: Vec::new(),
            held_bytes: 0,
            session: None,
            newest_key: None,
            looked_at: None,
            look_every,
            is_quiet: false,
            gop: None,
            woken: None,
            audited: None,
            audit: None,
            barred_until: None,
            barred: BARRED,
        }
    }

    /// Whether only key units are decoded now.
    pub(super) fn is_idle(&self) -> bool {
        self.bar.is_some()
    }

    /// Receipt of the newest unit that is kept.
    pub(super) fn newest(&self) -> Option<MonoMicros> {
        self.held.last().map(|unit| unit.stamp.received)
    }

    /// Its number.
    pub(super) fn newest_held(&self) -> Option<u64> {
        self.held.last().map(|unit| unit.stamp.seq)
    }

    /// How many units did not come between the first one that is kept and the one numbered `seq`.
    pub(super) fn gaps_before(&self, seq: u64) -> u64 {
        let kept = self.held.partition_point(|unit| unit.stamp.seq < seq) as u64;
        let first = self.held.first().map_or(seq, |unit| unit.stamp.seq);
        seq.saturating_sub(first + kept)
    }

    /// While only key units are decoded: how long it is from one that is looked at to the next.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let gop = self.gop.filter(|_| self.is_idle())?;
        Some(if self.is_quiet {
            gop.max(self.look_every)
        } else {
            gop
        })
    }

    /// What is to be done with `unit`. `is_still`: all before it is decoded, and nothing has moved for as long
    /// as the motion gate stays open. `is_quiet`: nor did anything count.
    pub(super) fn take(&mut self, unit: &AccessUnit, is_still: bool, is_quiet: bool) -> Verdict {
        let now = unit.stamp.received;
        if self.session != Some(unit.stamp.session) {
            self.session = Some(unit.stamp.session);
            (self.newest_key, self.gop, self.looked_at) = (None, None, None);
            self.sizes = Sizes::default();
            if self.is_idle() {
                return Verdict::Wake(Sign::Ended);
            }
        }
        if unit.is_key {
            if let Some(before) = self.newest_key.replace(now) {
                self.gop = Some(now.since(before));
            }
            self.is_quiet = is_quiet;
            return self.take_key(now, is_still);
        }
        let sum = self.sizes.take(unit.data.len());
        let Some(bar) = self.bar else {
            match sum {
                Some(sum) if is_still => self.sizes.learn(sum),
                _ if !is_still => self.sizes.sums.clear(),
                _ => {}
            }
            return Verdict::Decode;
        };
        if sum.is_some_and(|sum| sum > bar) {
            return Verdict::Wake(Sign::Size);
        }
        if self.held_bytes + unit.data.len() > MOST_HELD_BYTES {
            return Verdict::Wake(Sign::Limit);
        }
        if let Some(sum) = sum {
            self.sizes.learn(sum);
        }
        Verdict::Hold
    }

    fn take_key(&mut self, now: MonoMicros, is_still: bool) -> Verdict {
        let is_short = self.gop.is_some_and(|gop| gop <= LONGEST_GOP);
        if self.is_idle() {
            self.bar = self.sizes.bar();
            return if !is_short {
                Verdict::Wake(Sign::Limit)
            } else if self.can_wait(now) {
                Verdict::Hold
            } else {
                Verdict::Look
            };
        }
        let was_long_ago =
            |then: Option<MonoMicros>, span| then.is_none_or(|t| now.since(t) > span);
        let is_barred = self.barred_until.is_some_and(|until| now < until);
        if is_still && is_short && !is_barred && was_long_ago(self.woken, AWAKE) {
            self.bar = self.sizes.bar();
        }
        if self.is_idle() {
            self.audited.get_or_insert(now);
            Verdict::Look
        } else {
            Verdict::Decode
        }
    }

    /// Whether a key unit of an idle camera need not be looked at: the next one comes in time.
    fn can_wait(&self, now: MonoMicros) -> bool {
        let next = self.gop.zip(self.looked_at);
        let in_time = next.is_some_and(|(gop, t)| now.since(t) + gop <= self.look_every);
        self.is_quiet && in_time && self.held_bytes <= MOST_HELD_BYTES / 2
    }

    /// A key unit shows the picture of before.
    pub(super) fn looked(&mut self, now: MonoMicros) {
        self.looked_at = Some(now);
    }

    /// Whether the group before a key unit that was [looked](Self::looked) at is to be decoded to check on it.
    pub(super) fn is_audit_due(&self, now: MonoMicros) -> bool {
        let is_due = self.audited.is_some_and(|t| now.since(t) >= AUDIT_EVERY);
        is_due && !self.held.is_empty()
    }

    /// Keeps a unit.
    pub(super) fn hold(&mut self, unit: AccessUnit) {
        self.held_bytes += unit.data.len();
        self.held.push(unit);
    }

    /// The key unit of the newest group, if groups before it are kept that were not looked at since.
    pub(super) fn unseen_key(&self) -> Option<AccessUnit> {
        let newest = self.held.iter().skip(1).rfind(|unit| unit.is_key);
        newest.cloned()
    }

    /// Lets go of all but the newest group: nothing moved before it. How many units are not decoded for that.
    pub(super) fn keep_newest_group(&mut self) -> u64 {
        let newest = self.held.iter().rposition(|unit| unit.is_key);
        let before = self.held.drain(..newest.unwrap_or(0));
        let (mut units, mut bytes) = (0, 0);
        for unit in before {
            units += 1;
            bytes += unit.data.len();
        }
        self.held_bytes -= bytes;
        // The first key unit was decoded when it was looked at.
        u64::saturating_sub(units, 1)
    }

    /// Lets go of what was kept: nothing moved in it. How many units it had that are not decoded.
    pub(super) fn let_go(&mut self) -> u64 {
        self.held_bytes = 0;
        // The first key unit was decoded when it was looked at.
        let skipped = self.held.len().saturating_sub(1);
        self.held.clear();
        skipped as u64
    }

    /// The stream broke: nothing is known of it but how it was audited.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            audited: self.audited,
            barred_until: self.barred_until,
            barred: self.barred,
            ..Self::new(self.look_every)
        };
    }

    /// Decodes all from here on; first what was kept, all of it.
    pub(super) fn wake(&mut self, now: MonoMicros, sign: Sign) -> Vec<AccessUnit> {
        self.bar = None;
        self.held_bytes = 0;
        self.woken = Some(now);
        let held = std::mem::take(&mut self.held);
        if sign == Sign::Audit {
            self.audited = Some(now);
            let first = held.first().map(|u| u.stamp.received);
            self.audit = first.zip(held.last().map(|u| u.stamp.received));
        }
        held
    }

    /// A decoded picture of that time showed motion. Whether that is news: an audit found what had been missed.
    pub(super) fn moved(&mut self, at: MonoMicros) -> bool {
        let Some((from, to)) = self.audit else {
            return false;
        };
        if at > to {
            // Nothing in it; the next time begins with a short ban again.
            (self.audit, self.barred) = (None, BARRED);
            return false;
        }
        if at < from {
            return false;
        }
        self.audit = None;
        self.barred_until = Some(to.plus(self.barred));
        self.barred = (2 * self.barred).min(MOST_BARRED);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraIx;
    use crate::base::time::FrameStamp;
    use crate::capture::Codec;
    use proptest::prelude::*;

    const LOOK_EVERY: Duration = Duration::from_secs(10);

    /// 25 units a second, a key unit every two seconds, of the sizes that are asked for.
    struct Stream {
        late: LateDecode,
        is_quiet: bool,
        seq: u64,
        verdicts: Vec<Verdict>,
        decoded: u64,
    }

    impl Stream {
        fn new() -> Self {
            Self {
                late: LateDecode::new(LOOK_EVERY),
                is_quiet: false,
                seq: 0,
                verdicts: Vec::new(),
                decoded: 0,
            }
        }

        fn unit(&mut self, bytes: usize, is_key: bool, session: u32) -> AccessUnit {
            let received = MonoMicros(self.seq * 40_000);
            self.seq += 1;
            AccessUnit {
                camera: CameraIx(0),
                stamp: FrameStamp {
                    seq: self.seq,
                    session,
                    received,
                    ..FrameStamp::default()
                },
                codec: Codec::H264,
                is_key,
                is_disposable: false,
                packets_lost: 0,
                data: vec![9; bytes].into(),
            }
        }

        /// Feeds one unit; a key unit that is looked at shows motion or not.
        fn feed(&mut self, bytes: usize, is_key: bool, key_moves: bool) -> Verdict {
            let unit = self.unit(bytes, is_key, 1);
            let now = unit.stamp.received;
            let verdict = self.late.take(&unit, true, self.is_quiet);
            let mut woken = None;
            match verdict {
                Verdict::Decode => self.decoded += 1,
                Verdict::Hold => self.late.hold(unit),
                Verdict::Wake(sign) => {
                    self.late.hold(unit);
                    woken = Some(sign);
                }
                Verdict::Look => {
                    self.decoded += 1;
                    if key_moves {
                        woken = Some(Sign::Key);
                    } else {
                        self.late.looked(now);
                        if self.late.is_audit_due(now) {
                            self.late.keep_newest_group();
                            woken = Some(Sign::Audit);
                        }
                    }
                    if woken.is_none() {
                        self.late.let_go();
                        self.late.hold(unit);
                    }
                }
            }
            if let Some(sign) = woken {
                self.decoded += self.late.wake(now, sign).len() as u64;
            }
            self.verdicts.push(verdict);
            verdict
        }

        fn seconds(&mut self, seconds: u64, size: impl Fn(u64) -> usize) {
            for _ in 0..seconds * 25 {
                let n = self.seq;
                self.feed(size(n), n.is_multiple_of(50), false);
            }
        }
    }

    fn noise(n: u64) -> usize {
        1000 + (n * 7919 % 200) as usize
    }

    #[test]
    fn a_still_scene_costs_its_key_units_only() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        assert!(stream.late.is_idle());
        let before = stream.decoded;
        stream.seconds(60, noise);
        assert_eq!(stream.decoded - before, 30);
    }

    #[test]
    fn a_quiet_scene_costs_one_key_unit_in_ten_seconds() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        stream.is_quiet = true;
        let before = stream.decoded;
        stream.seconds(60, noise);
        assert_eq!(stream.decoded - before, 6);
        assert_eq!(stream.late.next_look(), Some(LOOK_EVERY));
        stream.is_quiet = false;
        let before = stream.decoded;
        stream.seconds(20, noise);
        assert_eq!(stream.decoded - before, 10, "something counts");
    }

    #[test]
    fn what_a_quiet_scene_sent_since_it_was_looked_at_waits_for_the_next_look() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        stream.is_quiet = true;
        stream.seconds(7, noise);
        let (held, before) = (stream.late.held.len() as u64, stream.decoded);
        assert!(held > 150, "{held}");
        let key = stream.late.unseen_key().expect("groups that were not seen");
        assert!(key.is_key && key.stamp.seq > stream.late.held[0].stamp.seq);
        let mut narrowed = stream.late.clone();
        let skipped = narrowed.keep_newest_group();
        assert_eq!(narrowed.held[0].stamp.seq, key.stamp.seq);
        assert_eq!(skipped + 1 + narrowed.held.len() as u64, held);
        assert_eq!(narrowed.unseen_key().map(|key| key.stamp.seq), None);
        // Nothing is known of the groups: all of them.
        let seconds = stream.seq;
        stream.feed(2 * noise(seconds) * TOGETHER, false, false);
        assert_eq!(stream.decoded - before, held + 1);
    }

    #[test]
    fn units_that_did_not_come_are_known_among_those_that_are_kept() {
        let mut late = LateDecode::new(LOOK_EVERY);
        let mut stream = Stream::new();
        for seq in 1..=10 {
            let unit = stream.unit(10, false, 1);
            if ![4, 5, 9].contains(&seq) {
                late.hold(unit);
            }
        }
        assert_eq!(late.gaps_before(4), 0);
        assert_eq!(late.gaps_before(6), 2);
        assert_eq!(late.gaps_before(11), 3);
    }

    #[test]
    fn a_quiet_scene_of_many_bits_is_looked_at_as_soon_as_half_of_what_may_wait_does() {
        let mut stream = Stream::new();
        stream.seconds(10, |n| 60 * noise(n));
        stream.is_quiet = true;
        let before = stream.decoded;
        stream.seconds(60, |n| 60 * noise(n));
        assert_eq!(stream.decoded - before, 15, "each second key unit");
    }

    #[test]
    fn units_that_grow_wake_it_and_its_group_is_decoded_from_the_key_unit_on() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        stream.seconds(1, noise);
        let before = stream.decoded;
        for n in 0..8 {
            let verdict = stream.feed(noise(n) * 3 / 2, false, false);
            if verdict == Verdict::Wake(Sign::Size) {
                assert!(!stream.late.is_idle());
                assert_eq!(
                    stream.decoded - before,
                    25 + n + 1,
                    "the second before, too"
                );
                return;
            }
        }
        panic!("not woken: {:?}", stream.late.bar);
    }

    #[test]
    fn a_key_unit_that_shows_something_else_wakes_it() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        stream.seconds(2, noise);
        assert_eq!(stream.feed(20_000, true, true), Verdict::Look);
        assert!(!stream.late.is_idle());
        assert!(stream.late.held.is_empty());
    }

    #[test]
    fn the_same_noise_does_not_wake_it_twice() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        // It becomes night: three times the noise for good.
        let woken = |stream: &Stream| {
            let wakes = stream.verdicts.iter();
            wakes.filter(|v| matches!(v, Verdict::Wake(_))).count()
        };
        stream.seconds(60, |n| 3 * noise(n));
        assert_eq!(woken(&stream), 1);
        assert!(stream.late.is_idle());
    }

    #[test]
    fn a_camera_whose_key_units_are_far_apart_is_decoded_in_full() {
        let mut stream = Stream::new();
        for n in 0..25 * 60 {
            assert_eq!(stream.feed(noise(n), n % 100 == 0, false), Verdict::Decode);
        }
    }

    #[test]
    fn a_scene_that_looks_still_is_checked_now_and_then() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        let before = stream.decoded;
        stream.seconds(3600, noise);
        let audits = 12 * (50 + 50);
        let decoded = stream.decoded - before;
        assert!(
            (1800..1800 + audits + 200).contains(&decoded),
            "{decoded} of 90000"
        );
    }

    #[test]
    fn what_an_audit_finds_bars_late_decode_each_time_for_longer() {
        let mut late = LateDecode::new(LOOK_EVERY);
        let mut stream = Stream::new();
        let mut at = MonoMicros(0);
        for barred in [600, 1200, 2400] {
            for _ in 0..3 {
                late.hold(stream.unit(10, false, 1));
            }
            at = late.held[2].stamp.received;
            late.wake(at, Sign::Audit);
            assert!(late.moved(late.audit.unwrap().0));
            assert!(!late.moved(at), "once");
            assert_eq!(
                late.barred_until,
                Some(at.plus(Duration::from_secs(barred)))
            );
        }
        for _ in 0..3 {
            late.hold(stream.unit(10, false, 1));
        }
        late.wake(at, Sign::Audit);
        let later = late.audit.unwrap().1.plus(Duration::from_secs(1));
        assert!(!late.moved(later), "not in the group that was checked");
        assert_eq!(late.barred, BARRED);
    }

    #[test]
    fn another_session_ends_what_is_kept() {
        let mut stream = Stream::new();
        stream.seconds(10, noise);
        stream.seconds(1, noise);
        let unit = stream.unit(30_000, true, 2);
        assert_eq!(
            stream.late.take(&unit, true, false),
            Verdict::Wake(Sign::Ended)
        );
    }

    proptest! {
        #[test]
        fn what_is_kept_is_within_the_limit_and_one_group_if_not_quiet_and_every_unit_is_accounted_for(
            sizes in proptest::collection::vec((0usize..900_000, 0u8..8, proptest::bool::ANY), 1..400),
            is_quiet in proptest::bool::ANY,
        ) {
            let mut stream = Stream::new();
            stream.seconds(10, noise);
            stream.is_quiet = is_quiet;
            for (bytes, kind, moves) in sizes {
                let (before, held) = (stream.decoded, stream.late.held.len() as u64);
                stream.feed(if kind == 1 { bytes } else { bytes % 1500 }, kind == 0, moves);
                let late = &stream.late;
                prop_assert!(late.held_bytes <= MOST_HELD_BYTES);
                prop_assert_eq!(late.held_bytes, late.held.iter().map(|u| u.data.len()).sum::<usize>());
                prop_assert!(is_quiet || late.held.iter().skip(1).all(|u| !u.is_key));
                prop_assert!(late.held.first().is_none_or(|u| u.is_key));
                prop_assert!(late.is_idle() || late.held.is_empty());
                // Decoded, kept, or let go with its group.
                let is_new = stream.decoded > before || late.held.len() as u64 > held || late.held.len() == 1;
                prop_assert!(is_new);
            }
        }
    }
}
