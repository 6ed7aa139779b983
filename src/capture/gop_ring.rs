//! The newest seconds of a stream, compressed, for the beginning of a clip that nobody knew would be
//! wanted.
//!
//! Written by the camera's capture task (a unit's bytes are shared, not copied) and cut by evidence;
//! both hold the lock for moments. Bounded in bytes and in time.
//!
//! # Invariants
//!
//! * The ring begins at a key unit, and every group in it does: what is cut from it decodes.
//! * Within a group no unit is missing: after a loss nothing is taken until the next key unit.
//! * Bytes never exceed the limit. Whole groups go, the oldest first. A group that is larger than the
//!   limit all by itself goes too, and the ring waits for the next key unit.
//! * A group goes by age once the group after it is old enough to begin a clip: the ring holds `span`
//!   and up to one group more.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::nal::annex_b_units;
use super::unit::{AccessUnit, Codec};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::MonoMicros;

/// How much a ring may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Of compressed video.
    pub bytes: usize,
    /// From the oldest moment a clip may begin at to the newest unit.
    pub span: Duration,
}

#[derive(Debug)]
struct Gop {
    units: Vec<AccessUnit>,
    bytes: usize,
    /// Changes with the session and with the parameter sets: units of two streams do not fit into one
    /// file.
    stream: u32,
}

impl Gop {
    fn begun(&self) -> MonoMicros {
        self.units[0].stamp.received
    }
}

#[derive(Debug)]
struct State {
    limits: RingLimits,
    gops: VecDeque<Gop>,
    bytes: usize,
    awaiting_key: bool,
    stream: u32,
    session: Option<u32>,
    /// Parameter sets of the newest key unit that had some.
    parameters: Vec<u8>,
}

/// A handle on one stream's ring; clones share it.
#[derive(Clone, Debug)]
pub struct GopRing {
    state: Arc<Mutex<State>>,
    held_bytes: Counter,
    over_bytes: Counter,
    skipped: Counter,
}

/// Part of a ring, decodable from its first unit.
#[derive(Clone, Debug)]
pub struct RingCut {
    /// In the order they are decoded, all of one session and one set of parameters.
    pub units: Vec<AccessUnit>,
    /// How much later than asked it begins; zero if it does not.
    pub late: Duration,
}

impl GopRing {
    /// An empty ring for the stream called `camera` in metrics.
    pub fn new(limits: RingLimits, metrics: &Metrics, camera: &str) -> Self {
        let labels = [("camera", camera)];
        Self {
            state: Arc::new(Mutex::new(State {
                limits,
                gops: VecDeque::new(),
                bytes: 0,
                awaiting_key: true,
                stream: 0,
                session: None,
                parameters: Vec::new(),
            })),
            held_bytes: metrics.counter(Metric::GopRingBytes, &labels),
            over_bytes: metrics.counter(Metric::GopRingOverBytes, &labels),
            skipped: metrics.counter(Metric::GopRingSkipped, &labels),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a unit. Never waits for anybody but a cut.
    pub fn push(&self, unit: AccessUnit) {
        let mut s = self.lock();
        if s.awaiting_key && !unit.is_key {
            self.skipped.add(1);
            return;
        }
        let (bytes, newest) = (unit.data.len(), unit.stamp.received);
        if unit.is_key {
            s.begin(&unit);
        }
        s.bytes += bytes;
        let Some(gop) = s.gops.back_mut() else {
            return;
        };
        gop.bytes += bytes;
        gop.units.push(unit);
        self.shed(&mut s, newest);
    }

    /// Holds as much from here on; what is too much goes at once.
    pub fn limit(&self, limits: RingLimits) {
        let mut s = self.lock();
        s.limits = limits;
        let last = s.gops.back().and_then(|g| g.units.last());
        if let Some(newest) = last.map(|u| u.stamp.received) {
            self.shed(&mut s, newest);
        }
    }

    /// Lets go of what is over the limits.
    fn shed(&self, s: &mut State, newest: MonoMicros) {
        while s.bytes > s.limits.bytes {
            self.over_bytes.add(1);
            s.evict();
        }
        while s
            .gops
            .get(1)
            .is_some_and(|next| newest.since(next.begun()) > s.limits.span)
        {
            s.evict();
        }
        self.held_bytes.set(s.bytes as u64);
    }

    /// The stream broke (a new session, lost packets): nothing before the next key unit is of use.
    pub fn await_key(&self) {
        self.lock().awaiting_key = true;
    }

    /// What came from `from` to `until`, from the key unit before it on. Where the stream changed in
    /// between, the part that holds the moment `deciding`. None if there is nothing of that time.
    pub fn cut(
        &self,
        from: MonoMicros,
        deciding: MonoMicros,
        until: MonoMicros,
    ) -> Option<RingCut> {
        let s = self.lock();
        let before = |t: MonoMicros| s.gops.iter().rposition(|g| g.begun() <= t);
        let stream = s.gops[before(deciding).or_else(|| before(until))?].stream;
        let begin = before(from).unwrap_or(0);
        let units: Vec<AccessUnit> = s
            .gops
            .iter()
            .skip(begin)
            .filter(|g| g.stream == stream)
            .flat_map(|g| &g.units)
            .take_while(|u| u.stamp.received <= until)
            .cloned()
            .collect();
        let late = units.first()?.stamp.received.since(from);
        // An older stream's last group may end long before.
        let reaches = units.last()?.stamp.received >= from;
        reaches.then_some(RingCut { units, late })
    }

    /// Whether a unit came at or after `moment`: a clip that ends there is whole.
    pub fn reaches(&self, moment: MonoMicros) -> bool {
        let s = self.lock();
        let newest = s.gops.back().and_then(|g| g.units.last());
        newest.is_some_and(|u| u.stamp.received >= moment)
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let s = self.lock();
        assert!(s.bytes <= s.limits.bytes, "{} bytes", s.bytes);
        assert_eq!(s.bytes, s.gops.iter().map(|g| g.bytes).sum::<usize>());
        for gop in &s.gops {
            assert!(gop.units[0].is_key);
            let size: usize = gop.units.iter().map(|u| u.data.len()).sum();
            assert_eq!(size, gop.bytes);
        }
        if let (Some(second), Some(last)) = (s.gops.get(1), s.gops.back()) {
            let newest = last.units[last.units.len() - 1].stamp.received;
            assert!(newest.since(second.begun()) <= s.limits.span);
        }
    }
}

impl State {
    fn begin(&mut self, key: &AccessUnit) {
        self.awaiting_key = false;
        let parameters = parameter_sets(key);
        let other = !parameters.is_empty() && parameters != self.parameters;
        if self.session != Some(key.stamp.session) || other {
            self.stream = self.stream.wrapping_add(1);
        }
        self.session = Some(key.stamp.session);
        if other {
            self.parameters = parameters;
        }
        self.gops.push_back(Gop {
            units: Vec::new(),
            bytes: 0,
            stream: self.stream,
        });
    }

    fn evict(&mut self) {
        if let Some(gop) = self.gops.pop_front() {
            self.bytes -= gop.bytes;
        }
        if self.gops.is_empty() {
            self.awaiting_key = true;
        }
    }
}

/// The parameter sets in a unit, as Annex B; empty if there are none.
pub fn parameter_sets(unit: &AccessUnit) -> Vec<u8> {
    let mut sets = Vec::new();
    for nal in annex_b_units(&unit.data) {
        let is_set = match unit.codec {
            Codec::H264 => matches!(nal[0] & 0x1f, 7 | 8),
            Codec::H265 => matches!(nal[0] >> 1 & 0x3f, 32..=34),
        };
        if is_set {
            sets.extend_from_slice(&[0, 0, 0, 1]);
            sets.extend_from_slice(nal);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraIx;
    use crate::base::time::FrameStamp;
    use proptest::prelude::*;

    fn unit(seq: u64, is_key: bool, ms: u64, bytes: usize, session: u32) -> AccessUnit {
        AccessUnit {
            camera: CameraIx(0),
            stamp: FrameStamp {
                seq,
                session,
                received: MonoMicros(ms * 1000),
                ..FrameStamp::default()
            },
            codec: Codec::H264,
            is_key,
            is_disposable: false,
            packets_lost: 0,
            data: vec![9; bytes].into(),
        }
    }

    fn ring(bytes: usize, span_ms: u64) -> (GopRing, Metrics) {
        let metrics = Metrics::default();
        let limits = RingLimits {
            bytes,
            span: Duration::from_millis(span_ms),
        };
        (GopRing::new(limits, &metrics, "wok"), metrics)
    }

    fn ms(ms: u64) -> MonoMicros {
        MonoMicros(ms * 1000)
    }

    fn seqs(cut: &RingCut) -> Vec<u64> {
        cut.units.iter().map(|u| u.stamp.seq).collect()
    }

    /// A unit each 100 ms, a key unit each second.
    fn filled(span_ms: u64, seconds: u64) -> GopRing {
        let (ring, _) = ring(1 << 20, span_ms);
        for n in 0..seconds * 10 {
            ring.push(unit(n, n % 10 == 0, n * 100, 10, 1));
        }
        ring
    }

    #[test]
    fn a_cut_begins_at_the_key_unit_before_it_and_ends_where_asked() {
        let ring = filled(10_000, 8);
        let cut = ring.cut(ms(2500), ms(3000), ms(4200)).unwrap();
        assert_eq!(seqs(&cut), (20..=42).collect::<Vec<_>>());
        assert_eq!(cut.late, Duration::ZERO);
    }

    #[test]
    fn a_ring_that_begins_too_late_says_by_how_much() {
        let ring = filled(3000, 8);
        // The newest unit is of 7.9 s, so the group of 4 s may still begin a clip.
        let cut = ring.cut(ms(1000), ms(6000), ms(9000)).unwrap();
        assert_eq!(cut.units[0].stamp.seq, 40);
        assert_eq!(cut.late, Duration::from_secs(3));
        assert!(ring.reaches(ms(7900)) && !ring.reaches(ms(7901)));
    }

    #[test]
    fn nothing_of_the_time_asked_is_none() {
        let ring = filled(3000, 8);
        assert!(ring.cut(ms(0), ms(1000), ms(2000)).is_none());
        assert!(ring.cut(ms(20_000), ms(21_000), ms(22_000)).is_none());
        assert!(
            super::tests::ring(1, 1)
                .0
                .cut(ms(0), ms(0), ms(1))
                .is_none()
        );
    }

    #[test]
    fn a_new_session_is_not_mixed_with_the_old() {
        let (ring, _) = ring(1 << 20, 60_000);
        for n in 0..20 {
            ring.push(unit(n, n % 10 == 0, n * 100, 10, 1));
        }
        ring.await_key();
        for n in 20..40 {
            ring.push(unit(n, n % 10 == 5, n * 100, 10, 2));
        }
        let old = ring.cut(ms(0), ms(1500), ms(4000)).unwrap();
        assert_eq!(seqs(&old), (0..20).collect::<Vec<_>>());
        let new = ring.cut(ms(0), ms(3000), ms(4000)).unwrap();
        assert_eq!(seqs(&new), (25..40).collect::<Vec<_>>());
    }

    #[test]
    fn other_parameter_sets_are_another_stream() {
        let (ring, _) = ring(1 << 20, 60_000);
        for n in 0..4u8 {
            let mut key = unit(u64::from(n), true, u64::from(n) * 1000, 0, 1);
            key.data = vec![0, 0, 1, 0x67, 1 + n / 2, 0, 0, 1, 0x65, 1].into();
            ring.push(key);
        }
        let cut = ring.cut(ms(0), ms(3000), ms(4000)).unwrap();
        assert_eq!(seqs(&cut), [2, 3]);
        assert_eq!(parameter_sets(&cut.units[0]), [0, 0, 0, 1, 0x67, 2]);
    }

    #[test]
    fn a_group_larger_than_the_ring_is_not_kept() {
        let (ring, metrics) = ring(100, 60_000);
        for n in 0..30 {
            ring.push(unit(n, n == 0 || n == 20, n * 100, 10, 1));
            ring.check_invariants();
        }
        let cut = ring.cut(ms(0), ms(2500), ms(4000)).unwrap();
        assert_eq!(seqs(&cut), (20..30).collect::<Vec<_>>());
        assert_eq!(metrics.total(Metric::GopRingOverBytes), 1);
        assert_eq!(metrics.total(Metric::GopRingSkipped), 9);
    }

    #[test]
    fn other_limits_count_at_once_in_both_directions() {
        let (ring, _) = ring(1 << 20, 60_000);
        let fill = |seconds: std::ops::Range<u64>| {
            for n in seconds.start * 10..seconds.end * 10 {
                ring.push(unit(n, n % 10 == 0, n * 100, 10, 1));
            }
        };
        let limit = |bytes, span_ms| {
            ring.limit(RingLimits {
                bytes,
                span: Duration::from_millis(span_ms),
            });
            ring.check_invariants();
        };
        let begins = || seqs(&ring.cut(ms(0), ms(4900), ms(60_000)).unwrap())[0];
        fill(0..5);
        assert_eq!(begins(), 0);
        // Room for two groups of 100 bytes: what came before them goes without another unit.
        limit(250, 60_000);
        assert_eq!(begins(), 30);
        limit(1 << 20, 60_000);
        fill(5..9);
        assert_eq!(begins(), 30, "and what comes from here on stays");
        limit(1 << 20, 1000);
        assert_eq!(begins(), 70);
    }

    proptest! {
        #[test]
        fn whatever_comes_the_bounds_hold_and_every_cut_decodes(
            steps in prop::collection::vec((prop::bool::weighted(0.2), 0usize..60, 0u64..400, prop::bool::weighted(0.05)), 1..200),
            limit in 1usize..400, span_ms in 1u64..3000,
            from in 0u64..40_000, length in 0u64..5000,
        ) {
            let (ring, _) = ring(limit, span_ms);
            let (mut now, mut session) = (0, 0);
            for (seq, (key, bytes, gap_ms, lost)) in (0u64..).zip(steps) {
                now += gap_ms;
                if lost {
                    ring.await_key();
                    session += u32::from(bytes % 2 == 0);
                    // The lost unit.
                    continue;
                }
                ring.push(unit(seq, key, now, bytes, session));
                ring.check_invariants();
            }
            if let Some(cut) = ring.cut(ms(from), ms(from + length / 2), ms(from + length)) {
                prop_assert!(cut.units[0].is_key);
                for pair in cut.units.windows(2) {
                    let follows = pair[0].stamp.seq + 1 == pair[1].stamp.seq;
                    prop_assert!(pair[1].is_key || follows);
                    prop_assert_eq!(pair[0].stamp.session, pair[1].stamp.session);
                }
                prop_assert!(cut.units.iter().all(|u| u.stamp.received <= ms(from + length)));
            }
        }
    }
}
