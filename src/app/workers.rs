//! The detect workers of a site: begun, added and ended as `detect::Staffing` says.
//!
//! One thread, `workers`, looks every second, loads the sessions of a worker that is called for, and waits for
//! one that ends; nobody else waits for either. A worker that ends finishes the picture at hand, and what the board
//! holds stays there for the others, so no picture is lost by it. Sessions that do not load are told in the log
//! and tried again; the site goes on with the workers it has.
//!
//! Loading sessions leaves some 7 MB of free memory for each worker, and ending one all it had: both are given back
//! to the system at the next look.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::blocking::on_thread;
use super::camera_unit::Wiring;
use super::config::SiteConfig;
use super::exit::Failure;
use super::site::{Fault, THREAD_BEAT, spawn};
use crate::base::heap;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::CameraSlots;
use crate::base::metrics::{Counter, Metric};
use crate::base::time::process_cpu;
use crate::detect::{
    Analysed, Change, DetectWorker, Detector, LOOK_EVERY, Load, Models, OnnxError, Staffing,
};

/// How a config wants its workers on this machine.
pub(super) fn staffing(config: &SiteConfig) -> Staffing {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    Staffing::new(config.detect.workers, cores)
}

/// Sessions for `count` workers; takes a moment each.
pub(super) fn detectors(models: &Models, count: usize) -> Result<Vec<Detector>, OnnxError> {
    (0..count).map(|_| models.detector()).collect()
}

/// The detect workers, running.
#[derive(Debug)]
pub struct Workers {
    /// A word ends them after the picture at hand; without it they go on until the board is closed and empty.
    at_once: SyncSender<()>,
    thread: JoinHandle<()>,
    settled: Arc<AtomicBool>,
    count: Counter,
}

/// What a worker works with.
#[derive(Debug)]
pub(super) struct Tools {
    /// Board, clock, metrics, heartbeats.
    pub(super) wiring: Wiring,
    /// Names of the cameras.
    pub(super) slots: CameraSlots,
    /// The site's models.
    pub(super) models: Models,
    /// q3.
    pub(super) analysed: SyncSender<Analysed>,
}

/// One worker.
#[derive(Debug)]
struct Hand {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the thread owns.
#[derive(Debug)]
struct Crew {
    tools: Tools,
    staffing: Staffing,
    /// By number; the newest ends first.
    hands: Vec<Hand>,
    settled: Arc<AtomicBool>,
    count: Counter,
    busy: Counter,
    waited: Counter,
    /// Sessions were loaded or ended: what that left free is to be given back.
    untidy: bool,
}

impl Workers {
    /// Begins one for each of `detectors`, and others later if the load asks for them.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(super) fn start(
        tools: Tools,
        staffing: Staffing,
        detectors: Vec<Detector>,
    ) -> Result<Self, Failure> {
        let faults = tools.wiring.faults.clone();
        let heartbeat = tools.wiring.heartbeats.register("workers", THREAD_BEAT);
        let crew = Crew::new(tools, staffing, detectors)?;
        let (settled, count) = (crew.settled.clone(), crew.count.clone());
        let (at_once, ends) = sync_channel(1);
        let thread = spawn("workers".to_owned(), &faults, move || {
            crew.run(&ends, heartbeat);
            Ok(())
        })?;
        Ok(Self {
            at_once,
            thread,
            settled,
            count,
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.value() as usize
    }

    /// Whether their number fits the load, as far as can be told.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Ends them, each after the picture at hand; what the board holds stays there.
    pub(super) async fn end(self) {
        // It may have ended already.
        let _ended = self.at_once.try_send(()).is_err();
        let thread = self.thread;
        drop(on_thread("join", move || drop(thread.join())).await);
    }

    /// Waits until the closed board is empty and they have ended. Blocking.
    pub(super) fn join(self) {
        drop(self.at_once);
        // A panic was told as a fault already.
        drop(self.thread.join());
    }
}

impl Crew {
    fn new(tools: Tools, staffing: Staffing, detectors: Vec<Detector>) -> Result<Self, Failure> {
        let counter = |metric| tools.wiring.metrics.counter(metric, &[]);
        let mut crew = Self {
            settled: Arc::new(AtomicBool::new(staffing.is_settled())),
            count: counter(Metric::DetectWorkers),
            busy: counter(Metric::DetectBusyMicros),
            waited: counter(Metric::DetectWaitMicros),
            hands: Vec::new(),
            untidy: true,
            tools,
            staffing,
        };
        for detector in detectors {
            crew.begin(detector)?;
        }
        Ok(crew)
    }

    /// # Errors
    /// The system gives no thread.
    fn begin(&mut self, detector: Detector) -> Result<(), Failure> {
        let Tools {
            wiring,
            slots,
            models,
            analysed,
        } = &self.tools;
        let name = format!("detect/{}", self.hands.len());
        let stop = Arc::new(AtomicBool::new(false));
        let worker = DetectWorker {
            name: name.clone(),
            board: wiring.board.clone(),
            models: models.clone(),
            detector,
            analysed: analysed.clone(),
            cameras: slots.clone(),
            stop: stop.clone(),
            metrics: wiring.metrics.clone(),
            clock: wiring.clock.clone(),
            heartbeat: wiring.heartbeats.register(name.clone(), THREAD_BEAT),
        };
        let work = move || worker.run().map_err(Fault::new);
        let thread = spawn(name, &wiring.faults, work)?;
        self.hands.push(Hand { stop, thread });
        self.count.set(self.hands.len() as u64);
        Ok(())
    }

    /// Until told to end, or nobody is left to tell it and the workers have ended. Call on a thread of its own.
    fn run(mut self, ends: &Receiver<()>, heartbeat: Heartbeat) {
        loop {
            match ends.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) => {
                    heartbeat.beat();
                    self.look();
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(()) => {
                    for hand in &self.hands {
                        hand.stop.store(true, Ordering::Relaxed);
                    }
                    break;
                }
            }
        }
        // The workers have beats of their own; waiting for them is no fault of this thread.
        drop(heartbeat);
        for hand in self.hands.drain(..) {
            // A panic was told as a fault already.
            drop(hand.thread.join());
        }
        self.count.set(0);
    }

    fn look(&mut self) {
        let load = self.load();
        match self.staffing.look(self.hands.len(), load) {
            Change::Stay => {}
            Change::Add => self.add(),
            Change::End => self.end_newest(),
        }
        let settled = self.staffing.is_settled();
        self.settled.store(settled, Ordering::Relaxed);
        if std::mem::take(&mut self.untidy) {
            heap::give_back();
        }
    }

    fn load(&self) -> Load {
        let Wiring { metrics, clock, .. } = &self.tools.wiring;
        let of = |counter: &Counter| Duration::from_micros(counter.value());
        Load {
            at: clock.mono(),
            taken: metrics.total(Metric::DetectFrames) + metrics.total(Metric::DetectErrors),
            waited: of(&self.waited),
            busy: of(&self.busy),
            cpu: process_cpu(),
        }
    }

    fn add(&mut self) {
        let begun = match self.tools.models.detector() {
            Ok(detector) => self.begin(detector).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let workers = self.hands.len();
        match begun {
            Ok(()) => {
                self.untidy = true;
                tracing::info!(workers, "pictures waited for a worker: one more");
            }
            Err(e) => {
                self.staffing.failed(self.tools.wiring.clock.mono());
                tracing::error!(err = %e, workers, "pictures wait for a worker, and one more cannot begin: tried again in a minute");
            }
        }
    }

    fn end_newest(&mut self) {
        let Some(hand) = self.hands.pop() else {
            return;
        };
        hand.stop.store(true, Ordering::Relaxed);
        drop(hand.thread.join());
        self.count.set(self.hands.len() as u64);
        self.untidy = true;
        let workers = self.hands.len();
        tracing::info!(workers, "little to look at: one worker fewer");
    }
}

#[cfg(test)]
mod tests;
