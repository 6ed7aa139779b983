//! q1: access units from a camera's capture task to its decode thread.
//!
//! When the decoder falls behind, dropping one encoded picture would spoil every picture that
//! refers to it. So the queue drops only between key units:
//! * when it is full, or its oldest unit is older than [`MAX_AGE`], the arriving unit is dropped,
//!   and with it everything up to the next key unit;
//! * a key unit that meets such a queue throws out what waits and begins anew: what waits is stale
//!   already, and the newest pictures matter.
//!
//! Invariant: every run of units the receiver sees begins at a key unit and has no hole. Every unit
//! offered is either received or counted as dropped, by reason. The sender never waits, except for
//! a file that plays as fast as the pipeline takes it.
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::unit::AccessUnit;
use crate::base::metrics::{Counter, Metric, Metrics};

/// Most units that wait.
pub const CAPACITY: usize = 32;
/// Oldest a waiting unit may get, by receipt times, before the decoder counts as behind.
pub const MAX_AGE: Duration = Duration::from_secs(1);

/// What became of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for the decoder.
    Queued,
    /// It was dropped and counted.
    Dropped,
    /// The decoder is gone.
    Closed,
}

/// Why no unit came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoUnit {
    /// None within the limit.
    TimedOut,
    /// None within the limit that stands alone: some came and were dropped, for they need a key unit.
    NoKey,
    /// The camera task is gone and the queue is empty.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<AccessUnit>,
    /// Set at the start and from the first dropped unit until the next key unit.
    awaiting_key: bool,
    /// Units dropped for lack of a key unit since the receiver last asked.
    no_key: u64,
    sender_gone: bool,
    receiver_gone: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    taken: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts of one camera's drops, by reason.
#[derive(Clone, Debug)]
pub struct QueueDrops {
    /// The queue was full.
    pub queue_full: Counter,
    /// The oldest waiting unit was too old.
    pub too_old: Counter,
    /// A key unit had to come first.
    pub awaiting_key: Counter,
}

impl QueueDrops {
    /// The counters of `camera`.
    pub fn new(metrics: &Metrics, camera: &str) -> Self {
        let counter = |reason| {
            metrics.counter(
                Metric::CaptureUnitsDropped,
                &[("camera", camera), ("reason", reason)],
            )
        };
        Self {
            queue_full: counter("queue_full"),
            too_old: counter("too_old"),
            awaiting_key: counter("awaiting_key"),
        }
    }
}

/// The capture side.
#[derive(Debug)]
pub struct UnitSender {
    shared: Arc<Shared>,
    drops: QueueDrops,
}

/// The decode side.
#[derive(Debug)]
pub struct UnitReceiver(Arc<Shared>);

/// A queue for one camera.
pub fn unit_queue(drops: QueueDrops) -> (UnitSender, UnitReceiver) {
    let state = Mutex::new(State {
        awaiting_key: true,
        ..State::default()
    });
    let shared = Arc::new(Shared {
        state,
        arrived: Condvar::new(),
        taken: Notify::new(),
    });
    (
        UnitSender {
            shared: shared.clone(),
            drops,
        },
        UnitReceiver(shared),
    )
}

impl UnitSender {
    /// Never waits: the RTSP reader must keep draining its socket.
    pub fn offer(&self, unit: AccessUnit) -> Offered {
        let mut s = self.shared.lock();
        if s.receiver_gone {
            return Offered::Closed;
        }
        if s.awaiting_key && !unit.is_key {
            s.no_key += 1;
            self.drops.awaiting_key.add(1);
            return Offered::Dropped;
        }
        let oldest = s.waiting.front().map(|u| u.stamp.received);
        let too_old = oldest.is_some_and(|t| unit.stamp.received.since(t) > MAX_AGE);
        let behind = if too_old {
            Some(&self.drops.too_old)
        } else if s.waiting.len() >= CAPACITY {
            Some(&self.drops.queue_full)
        } else {
            None
        };
        if let Some(counter) = behind {
            if !unit.is_key {
                s.awaiting_key = true;
                counter.add(1);
                return Offered::Dropped;
            }
            counter.add(s.waiting.len() as u64);
            s.waiting.clear();
        }
        s.awaiting_key = false;
        s.waiting.push_back(unit);
        drop(s);
        self.shared.arrived.notify_one();
        Offered::Queued
    }

    /// Waits for room instead of dropping: for files only. The receiver's age limit does not
    /// apply, because the reader is as late as the decoder.
    pub async fn offer_waiting(&self, unit: AccessUnit) -> Offered {
        loop {
            let taken = self.shared.taken.notified();
            {
                let s = self.shared.lock();
                if s.receiver_gone || s.waiting.len() < CAPACITY / 2 {
                    break;
                }
            }
            taken.await;
        }
        let mut s = self.shared.lock();
        if s.receiver_gone {
            return Offered::Closed;
        }
        if s.awaiting_key && !unit.is_key {
            s.no_key += 1;
            self.drops.awaiting_key.add(1);
            return Offered::Dropped;
        }
        s.awaiting_key = false;
        s.waiting.push_back(unit);
        drop(s);
        self.shared.arrived.notify_one();
        Offered::Queued
    }

    /// The stream broke (a new session, lost packets): nothing before the next key unit is of use.
    pub fn await_key(&self) {
        self.shared.lock().awaiting_key = true;
    }
}

impl Drop for UnitSender {
    fn drop(&mut self) {
        self.shared.lock().sender_gone = true;
        self.shared.arrived.notify_all();
    }
}

impl UnitReceiver {
    /// The next unit, waiting at most `limit`.
    ///
    /// # Errors
    /// [`NoUnit`]; what waits is received before `Closed` is.
    pub fn receive(&self, limit: Duration) -> Result<AccessUnit, NoUnit> {
        let (mut s, _) = self
            .0
            .arrived
            .wait_timeout_while(self.0.lock(), limit, |s| {
                s.waiting.is_empty() && !s.sender_gone
            })
            .unwrap_or_else(PoisonError::into_inner);
        match s.waiting.pop_front() {
            Some(unit) => {
                drop(s);
                self.0.taken.notify_one();
                Ok(unit)
            }
            None if s.sender_gone => Err(NoUnit::Closed),
            None if std::mem::take(&mut s.no_key) > 0 => Err(NoUnit::NoKey),
            None => Err(NoUnit::TimedOut),
        }
    }
}

impl Drop for UnitReceiver {
    fn drop(&mut self) {
        self.0.lock().receiver_gone = true;
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraIx;
    use crate::base::time::{FrameStamp, MonoMicros};
    use crate::capture::unit::Codec;
    use proptest::prelude::*;

    fn unit(seq: u64, is_key: bool, received_ms: u64) -> AccessUnit {
        AccessUnit {
            camera: CameraIx(0),
            stamp: FrameStamp {
                seq,
                received: MonoMicros(received_ms * 1000),
                ..FrameStamp::default()
            },
            codec: Codec::H264,
            is_key,
            is_disposable: false,
            packets_lost: 0,
            data: bytes::Bytes::new(),
        }
    }

    fn queue() -> (UnitSender, UnitReceiver, Metrics) {
        let metrics = Metrics::default();
        let (tx, rx) = unit_queue(QueueDrops::new(&metrics, "wok"));
        (tx, rx, metrics)
    }

    #[test]
    fn nothing_passes_before_the_first_key_unit() {
        let (tx, rx, metrics) = queue();
        assert_eq!(tx.offer(unit(1, false, 0)), Offered::Dropped);
        assert_eq!(tx.offer(unit(2, true, 0)), Offered::Queued);
        assert_eq!(rx.receive(Duration::ZERO).unwrap().stamp.seq, 2);
        assert_eq!(metrics.total(Metric::CaptureUnitsDropped), 1);
    }

    #[test]
    fn a_full_queue_drops_up_to_the_next_key_unit_which_begins_anew() {
        let (tx, rx, metrics) = queue();
        for seq in 0..CAPACITY as u64 {
            assert_eq!(tx.offer(unit(seq, seq == 0, 0)), Offered::Queued);
        }
        assert_eq!(tx.offer(unit(100, false, 0)), Offered::Dropped);
        rx.receive(Duration::ZERO).unwrap();
        assert_eq!(
            tx.offer(unit(101, false, 0)),
            Offered::Dropped,
            "room, but a hole before it"
        );
        assert_eq!(tx.offer(unit(102, true, 0)), Offered::Queued);
        assert_eq!(metrics.total(Metric::CaptureUnitsDropped), 2);
    }

    #[test]
    fn a_key_unit_throws_out_what_is_a_second_old() {
        let (tx, rx, metrics) = queue();
        tx.offer(unit(0, true, 0));
        tx.offer(unit(1, false, 40));
        tx.offer(unit(2, true, 1500));
        assert_eq!(rx.receive(Duration::ZERO).unwrap().stamp.seq, 2);
        assert_eq!(metrics.total(Metric::CaptureUnitsDropped), 2);
    }

    #[test]
    fn each_side_notices_that_the_other_is_gone() {
        let (tx, rx, _) = queue();
        tx.offer(unit(0, true, 0));
        drop(tx);
        assert!(rx.receive(Duration::ZERO).is_ok());
        assert_eq!(rx.receive(Duration::ZERO).unwrap_err(), NoUnit::Closed);
        let (tx, rx, _) = queue();
        drop(rx);
        assert_eq!(tx.offer(unit(0, true, 0)), Offered::Closed);
    }

    #[tokio::test]
    async fn a_file_waits_for_room_instead_of_dropping() {
        let (tx, rx, metrics) = queue();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while let Ok(u) = rx.receive(Duration::from_secs(10)) {
                seen.push(u.stamp.seq);
            }
            seen
        });
        for seq in 0..500 {
            assert_eq!(
                tx.offer_waiting(unit(seq, seq == 0, seq * 1000)).await,
                Offered::Queued
            );
        }
        drop(tx);
        assert_eq!(reader.join().unwrap(), (0..500).collect::<Vec<_>>());
        assert_eq!(metrics.total(Metric::CaptureUnitsDropped), 0);
    }

    proptest! {
        /// Whatever the arrival pattern and however slow the reader: no holes, and
        /// offered = received + dropped.
        #[test]
        fn the_reader_never_sees_a_hole_and_nothing_vanishes(
            steps in prop::collection::vec((prop::bool::weighted(0.2), 0usize..3, 0u64..300), 1..300),
        ) {
            let (tx, rx, metrics) = queue();
            let (mut got, mut now_ms) = (Vec::new(), 0);
            let offered = steps.len() as u64;
            for (seq, (key, reads, gap_ms)) in (0u64..).zip(steps) {
                now_ms += gap_ms;
                tx.offer(unit(seq, key, now_ms));
                for _ in 0..reads {
                    got.extend(rx.receive(Duration::ZERO));
                }
            }
            drop(tx);
            while let Ok(u) = rx.receive(Duration::ZERO) {
                got.push(u);
            }
            prop_assert_eq!(got.len() as u64 + metrics.total(Metric::CaptureUnitsDropped), offered);
            for (i, u) in got.iter().enumerate() {
                let follows = i > 0 && got[i - 1].stamp.seq + 1 == u.stamp.seq;
                prop_assert!(u.is_key || follows, "{:?} follows a hole", u);
            }
        }
    }

    #[test]
    fn units_without_a_key_unit_are_told_apart_from_silence() {
        let (tx, rx, _) = queue();
        assert_eq!(rx.receive(Duration::ZERO).unwrap_err(), NoUnit::TimedOut);
        assert_eq!(tx.offer(unit(1, false, 0)), Offered::Dropped);
        assert_eq!(rx.receive(Duration::ZERO).unwrap_err(), NoUnit::NoKey);
        assert_eq!(rx.receive(Duration::ZERO).unwrap_err(), NoUnit::TimedOut);
    }
}
