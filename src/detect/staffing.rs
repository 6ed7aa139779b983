//! How many detect workers a site has, decided by what its workers and the frame board count.
//!
//! A site begins with one worker. Pictures that wait for a worker longer than [`LONG_WAIT`] on the average of
//! [`WINDOW`], while the workers are at work and cores are left, call for another; after [`QUIET_FOR`] in which
//! one fewer would have been idle most of the time, one ends. What lies between the two (a wait of 40 ms and one
//! of 20 ms, a quarter of the time and a third of one worker fewer) keeps the number from going to and fro.
//!
//! A worker costs memory (its sessions, `onnx`) and no CPU: the same pictures are looked at. It is worth having
//! where pictures would wait.
//!
//! Decisions:
//! 1. **Waiting counts, losses do not.** A camera whose own picture is still being looked at replaces pictures
//!    however many workers there are; one that is ready and not taken waits, and that is measured.
//! 2. **No worker beside workers that do little.** Pictures wait for workers also when track and rules are behind
//!    and the workers wait for them.
//! 3. **No worker without a core for it.** When this process uses all cores, one more thread only takes them from
//!    the decoders.
//!
//! What must not be here: threads, sessions, a clock. Times and counts are handed in.
use std::collections::VecDeque;
use std::time::Duration;

use crate::base::time::MonoMicros;

/// How often to look.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Over how long waits and work are averaged before a worker is added.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Pictures that wait so long, on the average, wait too long. The slowest in a hundred wait some four times the
/// average; with decoding, looking and sending that keeps them below 300 ms.
pub const LONG_WAIT: Duration = Duration::from_millis(40);
/// For how long little must have been done before a worker ends.
pub const QUIET_FOR: Duration = Duration::from_secs(300);
/// Wait before sessions that would not load are tried again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Share of the time below which the workers cannot be what pictures wait for.
const AT_WORK: f64 = 0.25;
/// Cores that this process must leave for a further worker.
const CORE_LEFT: f64 = 0.1;
/// Of the time of one worker fewer, what makes a worker one too many.
const LITTLE: f64 = 0.35;

/// What has been counted since the start, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// When.
    pub at: MonoMicros,
    /// Pictures that workers have looked at.
    pub taken: u64,
    /// How long they were ready before, all together.
    pub waited: Duration,
    /// Time that workers spent on them.
    pub busy: Duration,
    /// CPU time of the whole process.
    pub cpu: Duration,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug)]
struct Between {
    /// On the average.
    wait: Duration,
    /// Workers that were at work, on the average.
    at_work: f64,
    /// Cores that the process used.
    cores: f64,
}

impl Between {
    fn new(from: &Load, to: &Load) -> Self {
        let seconds = to.at.since(from.at).as_secs_f64().max(1e-6);
        let taken = u32::try_from(to.taken - from.taken).unwrap_or(u32::MAX);
        Self {
            wait: (to.waited.saturating_sub(from.waited))
                .checked_div(taken)
                .unwrap_or_default(),
            at_work: to.busy.saturating_sub(from.busy).as_secs_f64() / seconds,
            cores: to.cpu.saturating_sub(from.cpu).as_secs_f64() / seconds,
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Stay,
    /// A further worker is called for.
    Add,
    /// One is too many.
    End,
}

/// See the module docs.
#[derive(Clone, Debug)]
pub struct Staffing {
    least: usize,
    most: usize,
    cores: usize,
    /// Of the last [`WINDOW`], and the one before.
    recent: VecDeque<Load>,
    /// Since when no worker was missing.
    quiet: Option<Load>,
    not_before: MonoMicros,
    settled: bool,
}

impl Staffing {
    /// As the config says: so many workers, or by the load as many as there are cores.
    pub fn new(workers: Option<usize>, cores: usize) -> Self {
        let cores = cores.max(1);
        Self {
            least: workers.unwrap_or(1),
            most: workers.unwrap_or(cores),
            cores,
            recent: VecDeque::new(),
            quiet: None,
            not_before: MonoMicros(0),
            settled: false,
        }
    }

    /// The most workers there will be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many to begin with where `before` worked already.
    pub fn first(&self, before: usize) -> usize {
        before.clamp(self.least, self.most)
    }

    /// Whether nothing calls for another number of workers, as far as can be told by now.
    pub fn is_settled(&self) -> bool {
        self.settled || self.least == self.most
    }

    /// Takes down what was counted, of `workers`, and says what is to be done. Call every [`LOOK_EVERY`].
    pub fn look(&mut self, workers: usize, load: Load) -> Change {
        self.recent.push_back(load);
        while self
            .recent
            .get(1)
            .is_some_and(|l| load.at.since(l.at) >= WINDOW)
        {
            self.recent.pop_front();
        }
        let oldest = *self.recent.front().unwrap_or(&load);
        if load.at.since(oldest.at) < WINDOW {
            return Change::Stay;
        }
        let lately = Between::new(&oldest, &load);
        if lately.wait > LONG_WAIT && lately.at_work >= AT_WORK * workers as f64 {
            self.quiet = None;
            let room = workers < self.most && lately.cores < self.cores as f64 - CORE_LEFT;
            self.settled = !room;
            if room && self.may_add(load.at) {
                self.recent.clear();
                return Change::Add;
            }
            return Change::Stay;
        }
        self.settled = true;
        let since = *self.quiet.get_or_insert(load);
        if load.at.since(since.at) < QUIET_FOR {
            return Change::Stay;
        }
        self.quiet = Some(load);
        let quiet = Between::new(&since, &load);
        let fewer = workers.saturating_sub(1);
        if fewer >= self.least
            && quiet.at_work < LITTLE * fewer as f64
            && quiet.wait < LONG_WAIT / 2
        {
            self.recent.clear();
            return Change::End;
        }
        Change::Stay
    }

    /// Whether a worker may begin by now, as far as earlier failures go.
    pub fn may_add(&self, now: MonoMicros) -> bool {
        now >= self.not_before
    }

    /// The worker that was called for could not begin.
    pub fn failed(&mut self, now: MonoMicros) {
        self.not_before = now.plus(AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORES: usize = 4;

    /// A site's counters, second by second.
    struct Site {
        staffing: Staffing,
        workers: usize,
        load: Load,
    }

    impl Site {
        fn new(workers: Option<usize>) -> Self {
            Self::on(workers, CORES)
        }

        fn on(workers: Option<usize>, cores: usize) -> Self {
            let staffing = Staffing::new(workers, cores);
            let workers = staffing.first(0);
            Self {
                staffing,
                workers,
                load: Load::default(),
            }
        }

        /// `seconds` in which each of 20 pictures a second waited `wait_ms`, so many workers were at work and the
        /// process used so many cores. What was done, and when.
        fn lives(
            &mut self,
            seconds: u64,
            wait_ms: u64,
            at_work: f64,
            cores: f64,
        ) -> Vec<(u64, Change)> {
            let mut done = Vec::new();
            for _ in 0..seconds {
                let load = &mut self.load;
                load.at = load.at.plus(LOOK_EVERY);
                load.taken += 20;
                load.waited += Duration::from_millis(20 * wait_ms);
                load.busy += Duration::from_secs_f64(at_work);
                load.cpu += Duration::from_secs_f64(cores);
                match self.staffing.look(self.workers, *load) {
                    Change::Stay => continue,
                    Change::Add => self.workers += 1,
                    Change::End => self.workers -= 1,
                }
                let change = if self.workers > 1 {
                    Change::Add
                } else {
                    Change::End
                };
                done.push((load.at.0 / 1_000_000, change));
            }
            done
        }
    }

    #[test]
    fn one_worker_is_enough_while_pictures_do_not_wait_for_it() {
        let mut site = Site::new(None);
        assert_eq!(site.workers, 1);
        // Busy nearly all the time, and nobody waits for long.
        assert_eq!(site.lives(900, 35, 0.9, 1.5), []);
        assert!(site.staffing.is_settled());
    }

    #[test]
    fn another_begins_when_pictures_wait_too_long_and_the_next_only_when_they_still_do() {
        let mut site = Site::new(None);
        assert!(!site.staffing.is_settled(), "nothing is known yet");
        site.lives(20, 90, 1.0, 1.5);
        // The first look is the beginning of the window.
        assert_eq!(site.workers, 1 + 3, "6, 12 and 18 s after the start");
        assert_eq!(site.lives(60, 90, 1.0, 1.5), [], "there are no more cores");
        assert!(site.staffing.is_settled());
        let mut other = Site::new(None);
        other.lives(6, 90, 1.0, 1.5);
        other.lives(60, 5, 1.0, 1.5);
        assert_eq!(other.workers, 2);
    }

    #[test]
    fn a_wait_of_a_moment_calls_for_nobody() {
        let mut site = Site::new(None);
        for _ in 0..50 {
            // Seven late pictures on the average of five seconds, and quiet again.
            assert_eq!(site.lives(1, 150, 1.0, 1.5), []);
            assert_eq!(site.lives(4, 10, 0.6, 1.0), []);
        }
    }

    #[test]
    fn none_is_added_while_the_workers_wait_for_the_rules() {
        let mut site = Site::new(None);
        assert_eq!(site.lives(60, 500, 0.2, 0.5), []);
    }

    #[test]
    fn none_is_added_when_the_process_uses_every_core() {
        let mut site = Site::new(None);
        assert_eq!(site.lives(60, 500, 1.0, 3.95), []);
        assert!(site.staffing.is_settled(), "there is nothing to be done");
        assert_eq!(site.lives(6, 500, 1.0, 3.5).len(), 1);
    }

    #[test]
    fn one_ends_after_minutes_in_which_one_fewer_would_have_done_and_never_the_last() {
        let mut site = Site::new(None);
        site.lives(6, 90, 1.0, 1.5);
        assert_eq!(site.workers, 2);
        // 40 % of one worker: it could, but not by much.
        assert_eq!(site.lives(1200, 5, 0.4, 0.6), []);
        // Little is done, but what is there waits.
        assert_eq!(site.lives(1200, 30, 0.2, 0.6), []);
        let done = site.lives(700, 5, 0.2, 0.6);
        assert_eq!(site.workers, 1, "{done:?}");
        assert_eq!(done.len(), 1);
        assert_eq!(site.lives(1200, 5, 0.0, 0.1), []);
    }

    #[test]
    fn a_rush_within_those_minutes_begins_them_anew() {
        let mut site = Site::on(None, 2);
        site.lives(6, 90, 1.0, 1.5);
        for _ in 0..5 {
            assert_eq!(site.lives(290, 5, 0.1, 0.2), []);
            assert_eq!(site.lives(6, 300, 2.0, 1.95), []);
        }
        assert_eq!(site.workers, 2);
        assert_eq!(site.lives(310, 5, 0.1, 0.2).len(), 1);
    }

    #[test]
    fn what_does_not_load_is_tried_again_a_minute_later() {
        let mut site = Site::new(None);
        assert_eq!(site.lives(6, 90, 1.0, 1.5).len(), 1);
        site.workers = 1;
        site.staffing.failed(site.load.at);
        assert!(!site.staffing.is_settled());
        let again = site.lives(80, 90, 1.0, 1.5);
        assert_eq!(again[0].0, 6 + AGAIN_AFTER.as_secs(), "{again:?}");
    }

    #[test]
    fn a_number_in_the_config_is_kept_whatever_comes() {
        let mut site = Site::new(Some(2));
        assert_eq!(site.workers, 2);
        assert!(site.staffing.is_settled());
        assert_eq!(site.lives(60, 500, 2.0, 2.5), []);
        assert_eq!(site.lives(1200, 0, 0.0, 0.0), []);
        assert_eq!(Staffing::new(Some(9), CORES).first(2), 9);
    }

    #[test]
    fn a_reload_keeps_the_number_as_far_as_the_new_config_allows() {
        assert_eq!(Staffing::new(None, CORES).first(3), 3);
        assert_eq!(Staffing::new(None, CORES).first(6), 4);
        assert_eq!(Staffing::new(None, 0).most(), 1);
    }
}
