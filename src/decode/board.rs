//! q2: pictures from the cameras' decode threads to the detect workers; the newest wins. Whether rules
//! count anything in them comes back to the decode threads, for late decode.
//!
//! Invariants:
//! * at most one waiting picture per camera; a newer one replaces it, and that is counted;
//! * at most one claimed picture per camera, so that results of one camera stay in order;
//! * cameras are served in the order in which they became ready, so a fast camera cannot starve a
//!   slow one;
//! * posted = claimed + replaced + waiting, for each camera.
//!
//! A claim tells how long its camera was ready before a worker came: what a further worker could have saved it.
//! The time that a picture waits behind its own camera's last one is not in it.
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::quiet::Quiet;
use crate::base::ids::CameraIx;
use crate::base::metrics::Counter;
use crate::base::time::{FrameStamp, MonoMicros, SharedClock};

#[derive(Debug)]
struct Slot<T> {
    waiting: Option<T>,
    claimed: bool,
    replaced: Counter,
    quiet: Quiet,
}

#[derive(Debug)]
struct State<T> {
    slots: Vec<Slot<T>>,
    /// Slots whose picture a worker may take, and since when.
    ready: VecDeque<(usize, MonoMicros)>,
    closed: bool,
}

/// See the module docs.
#[derive(Debug)]
pub struct FrameBoard<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    /// A picture was taken off the board.
    taken: Condvar,
    clock: SharedClock,
}

/// What became of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It waits for a worker.
    Queued,
    /// It waits in the place of an older one, which is gone.
    Replaced,
    /// The board is closed; the picture is gone.
    Closed,
}

/// A picture taken off the board. Dropping it lets its camera be claimed again.
#[derive(Debug)]
pub struct Claim<'b, T> {
    /// The picture.
    pub frame: T,
    /// How long its camera was ready before it was claimed.
    pub waited: Duration,
    held: Held<'b, T>,
}

/// The claim on a camera without the picture, so that the picture can be moved on while the camera
/// stays claimed. Dropping it lets the camera be claimed again.
#[derive(Debug)]
pub struct Held<'b, T> {
    board: &'b FrameBoard<T>,
    slot: usize,
}

/// Why there was nothing to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// Nothing came within the limit.
    TimedOut,
    /// The board is closed and empty.
    Closed,
}

impl<T> Slot<T> {
    fn new(replaced: Counter) -> Self {
        Self {
            waiting: None,
            claimed: false,
            replaced,
            quiet: Quiet::default(),
        }
    }
}

impl<T> State<T> {
    /// Closed, and nothing waits.
    fn is_over(&self) -> bool {
        self.closed && self.slots.iter().all(|s| s.waiting.is_none())
    }
}

impl<T> FrameBoard<T> {
    /// A board with a slot per camera; `replaced` counts each camera's losses.
    pub fn new(replaced: Vec<Counter>, clock: SharedClock) -> Self {
        let ready = VecDeque::with_capacity(replaced.len());
        let slots = replaced.into_iter().map(Slot::new).collect();
        Self {
            state: Mutex::new(State {
                slots,
                ready,
                closed: false,
            }),
            wake: Condvar::new(),
            taken: Condvar::new(),
            clock,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more slot behind the others, for a camera that is added at run time.
    pub fn add_slot(&self, replaced: Counter) {
        self.lock().slots.push(Slot::new(replaced));
    }

    /// Puts up a camera's newest picture. Never waits for longer than the lock.
    pub fn post(&self, camera: CameraIx, frame: T) -> Posted {
        let now = self.clock.mono();
        let mut state = self.lock();
        if state.closed {
            return Posted::Closed;
        }
        let slot = &mut state.slots[camera.index()];
        if slot.waiting.replace(frame).is_some() {
            slot.replaced.add(1);
            return Posted::Replaced;
        }
        if !slot.claimed {
            state.ready.push_back((camera.index(), now));
            self.wake.notify_one();
        }
        Posted::Queued
    }

    /// A camera's picture was analysed; `anything`: a rule counts something in it, or may soon.
    pub fn saw(&self, camera: CameraIx, stamp: &FrameStamp, anything: bool) {
        self.lock().slots[camera.index()].quiet.saw(stamp, anything);
    }

    /// Somebody asks for a picture of the camera: its next key unit is looked at, however quiet the scene is.
    pub fn disturb(&self, camera: CameraIx) {
        self.lock().slots[camera.index()].quiet.disturb();
    }

    /// What rules counted on a camera.
    pub fn quiet(&self, camera: CameraIx) -> Quiet {
        self.lock().slots[camera.index()].quiet
    }

    /// Waits until no picture of the camera waits for a worker, or `limit` passes; whether none does. A closed
    /// board is waited for no longer.
    pub fn wait_taken(&self, camera: CameraIx, limit: Duration) -> bool {
        let waits = |s: &mut State<T>| !s.closed && s.slots[camera.index()].waiting.is_some();
        let (mut state, _) = self
            .taken
            .wait_timeout_while(self.lock(), limit, waits)
            .unwrap_or_else(PoisonError::into_inner);
        !waits(&mut state)
    }

    /// Waits until some camera has a picture, `limit` passes, or the board is closed and empty.
    ///
    /// # Errors
    /// [`NoFrame`]; what waits is claimed before `Closed` is given.
    pub fn claim(&self, limit: Duration) -> Result<Claim<'_, T>, NoFrame> {
        // After the close a picture may still wait behind one that is in flight: it is waited for.
        let idle = |s: &mut State<T>| s.ready.is_empty() && !s.is_over();
        let (mut state, _) = self
            .wake
            .wait_timeout_while(self.lock(), limit, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let Some((slot, since)) = state.ready.pop_front() else {
            return Err(if state.is_over() {
                NoFrame::Closed
            } else {
                NoFrame::TimedOut
            });
        };
        state.slots[slot].claimed = true;
        let frame = state.slots[slot]
            .waiting
            .take()
            .expect("a ready camera has a picture");
        self.taken.notify_all();
        if state.is_over() {
            // Others may be waiting to learn that nothing is left.
            self.wake.notify_all();
        }
        // Nobody waits for the clock.
        drop(state);
        let held = Held { board: self, slot };
        let waited = self.clock.mono().since(since);
        Ok(Claim {
            frame,
            waited,
            held,
        })
    }

    /// Takes no more pictures; those that wait are still claimed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
        self.taken.notify_all();
    }
}

impl<'b, T> Claim<'b, T> {
    /// Whose picture it is.
    pub fn camera(&self) -> CameraIx {
        CameraIx(self.held.slot as u16)
    }

    /// The picture, and the claim that keeps the camera's next one back.
    pub fn into_parts(self) -> (T, Held<'b, T>) {
        (self.frame, self.held)
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        let now = self.board.clock.mono();
        let mut state = self.board.lock();
        let slot = &mut state.slots[self.slot];
        slot.claimed = false;
        if slot.waiting.is_some() {
            state.ready.push_back((self.slot, now));
            self.board.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{ManualClock, SystemClock, UtcMicros};
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    const NOW: Duration = Duration::ZERO;

    fn board(cameras: usize) -> (FrameBoard<u64>, Vec<Counter>) {
        let counters: Vec<_> = (0..cameras).map(|_| Counter::default()).collect();
        (
            FrameBoard::new(counters.clone(), SystemClock::shared()),
            counters,
        )
    }

    #[test]
    fn a_newer_frame_replaces_the_waiting_one() {
        let (b, replaced) = board(1);
        assert_eq!(b.post(CameraIx(0), 1), Posted::Queued);
        assert_eq!(b.post(CameraIx(0), 2), Posted::Replaced);
        assert_eq!((b.claim(NOW).unwrap().frame, replaced[0].value()), (2, 1));
    }

    #[test]
    fn a_camera_is_claimed_by_one_worker_at_a_time() {
        let (b, _) = board(1);
        b.post(CameraIx(0), 1);
        let first = b.claim(NOW).unwrap();
        b.post(CameraIx(0), 2);
        assert_eq!(b.claim(NOW).unwrap_err(), NoFrame::TimedOut);
        drop(first);
        assert_eq!(b.claim(NOW).unwrap().frame, 2);
    }

    #[test]
    fn cameras_are_served_in_ready_order() {
        let (b, _) = board(3);
        b.post(CameraIx(2), 0);
        b.post(CameraIx(0), 0);
        b.post(CameraIx(2), 1); // replaces; keeps its place
        let order: Vec<_> = (0..2).map(|_| b.claim(NOW).unwrap().camera().0).collect();
        assert_eq!(order, [2, 0]);
    }

    #[test]
    fn a_slot_added_while_others_wait_is_served_like_them() {
        let (b, _) = board(1);
        b.post(CameraIx(0), 1);
        let counter = Counter::default();
        b.add_slot(counter.clone());
        b.post(CameraIx(1), 2);
        b.post(CameraIx(1), 3);
        let seen: Vec<_> = (0..2).map(|_| b.claim(NOW).unwrap().frame).collect();
        assert_eq!((seen, counter.value()), (vec![1, 3], 1));
    }

    #[test]
    fn a_claim_tells_how_long_a_worker_was_missing_but_not_how_long_the_camera_was_in_its_own_way()
    {
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let b = FrameBoard::new(vec![Counter::default()], clock.clone());
        let ms = Duration::from_millis;
        b.post(CameraIx(0), 1);
        clock.advance(ms(30));
        b.post(CameraIx(0), 2); // replaces; it has been ready since the first one came
        clock.advance(ms(10));
        let first = b.claim(NOW).unwrap();
        assert_eq!(first.waited, ms(40));
        b.post(CameraIx(0), 3);
        clock.advance(ms(500));
        drop(first);
        clock.advance(ms(7));
        assert_eq!(b.claim(NOW).unwrap().waited, ms(7));
    }

    #[test]
    fn close_drains_what_waits_even_behind_a_claim() {
        let (b, _) = board(1);
        b.post(CameraIx(0), 7);
        let claimed = b.claim(NOW).unwrap();
        b.post(CameraIx(0), 8);
        b.close();
        assert_eq!(b.post(CameraIx(0), 9), Posted::Closed);
        assert_eq!(
            b.claim(NOW).unwrap_err(),
            NoFrame::TimedOut,
            "8 waits behind the claim"
        );
        drop(claimed);
        assert_eq!(b.claim(NOW).unwrap().frame, 8);
        assert_eq!(b.claim(NOW).unwrap_err(), NoFrame::Closed);
    }

    #[test]
    fn under_load_each_camera_is_seen_in_order_and_nothing_is_lost_or_doubled() {
        const CAMERAS: usize = 4;
        const PER_CAMERA: u64 = 20_000;
        let (b, replaced) = board(CAMERAS);
        let b = Arc::new(b);
        let last: Arc<Vec<AtomicU64>> = Arc::new((0..CAMERAS).map(|_| AtomicU64::new(0)).collect());
        let seen = Arc::new(AtomicU64::new(0));
        let backwards = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (b, last) = (b.clone(), last.clone());
                let (seen, backwards) = (seen.clone(), backwards.clone());
                thread::spawn(move || {
                    loop {
                        match b.claim(Duration::from_secs(60)) {
                            Ok(c) => {
                                let before =
                                    last[c.camera().index()].swap(c.frame, Ordering::SeqCst);
                                backwards.fetch_or(before >= c.frame, Ordering::SeqCst);
                                seen.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(NoFrame::Closed) => return,
                            Err(NoFrame::TimedOut) => panic!("starved"),
                        }
                    }
                })
            })
            .collect();
        let posters: Vec<_> = (0..CAMERAS)
            .map(|camera| {
                let b = b.clone();
                thread::spawn(move || {
                    for seq in 1..=PER_CAMERA {
                        b.post(CameraIx(camera as u16), seq);
                    }
                })
            })
            .collect();
        for p in posters {
            p.join().unwrap();
        }
        b.close();
        for w in workers {
            w.join().unwrap();
        }
        assert!(!backwards.load(Ordering::SeqCst), "a camera went backwards");
        let replaced: u64 = replaced.iter().map(Counter::value).sum();
        assert_eq!(
            seen.load(Ordering::SeqCst) + replaced,
            PER_CAMERA * CAMERAS as u64
        );
        for l in last.iter() {
            assert_eq!(
                l.load(Ordering::SeqCst),
                PER_CAMERA,
                "the newest picture is always seen"
            );
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Post(u16),
        Claim,
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u16..4).prop_map(Step::Post),
            2 => Just(Step::Claim),
            2 => (0usize..4).prop_map(Step::Release),
        ]
    }

    proptest! {
        /// posted = claimed + replaced + waiting; one claim per camera; newest wins; nobody waits
        /// while a later-ready camera is served.
        #[test]
        fn the_board_keeps_its_promises(steps in prop::collection::vec(step(), 1..200)) {
            let (b, replaced) = board(4);
            let mut claims: Vec<Claim<'_, u64>> = Vec::new();
            let (mut newest, mut posted, mut claimed) = ([0u64; 4], 0u64, 0u64);
            for (n, s) in (1u64..).zip(steps) {
                match s {
                    Step::Post(c) => {
                        b.post(CameraIx(c), n);
                        newest[usize::from(c)] = n;
                        posted += 1;
                    }
                    Step::Claim => if let Ok(c) = b.claim(NOW) {
                        prop_assert_eq!(c.frame, newest[c.camera().index()]);
                        prop_assert!(claims.iter().all(|o| o.camera() != c.camera()));
                        claims.push(c);
                        claimed += 1;
                    },
                    Step::Release(i) => if i < claims.len() { claims.remove(i); },
                }
            }
            claims.clear();
            let mut waiting = 0;
            while let Ok(c) = b.claim(NOW) {
                waiting += 1;
                drop(c);
            }
            let replaced: u64 = replaced.iter().map(Counter::value).sum();
            prop_assert_eq!(posted, claimed + replaced + waiting);
        }
    }
}
