//! Whether a number of cameras fits, what is in the way of more, and what to do about it: pure.
use serde::Serialize;

use super::pipeline::Measured;
use super::threads::{Stage, StageLoad};

/// Busy for so much of the time counts as busy all the time: the rest is waking up and waiting.
const FULL: f64 = 0.85;
/// The same of all cores together; where others run beside us, the kernel's share is in neither figure.
const ALL_CORES: f64 = 0.9;
/// Of what the cameras should have sent, as much must have come.
const SENT: f64 = 0.9;
/// Other programs that take more than this of a core are worth a word.
const OTHERS: f64 = 0.2;
/// A loss of less than one picture in so many may have been a moment in which somebody else had the cores.
const CLOSE: u64 = 100;

/// What a number of cameras must reach to fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Pictures a second that each camera sends.
    pub camera_fps: f64,
    /// Pictures a second of each that are looked at.
    pub analyse_fps: f64,
    /// Latency that 95 of 100 pictures must not exceed.
    pub p95_ms: f64,
    /// Of this machine.
    pub cores: usize,
    /// Threads that run the models at most; there are as many as the load calls for.
    pub workers: usize,
}

/// Why a number of cameras does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Cameras gave no picture.
    SilentCameras,
    /// Access units were dropped: decoding is behind.
    UnitsDropped,
    /// Pictures were replaced before a worker came: detection is behind.
    FramesReplaced,
    /// Too many pictures took too long.
    Latency,
    /// Fewer pictures than asked were looked at.
    Rate,
    /// Pictures were lost to errors.
    Errors,
}

/// What is in the way of more cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// All cores are busy, most of them with this stage.
    Cores(Stage),
    /// All cores are busy, and other programs have a good part of them.
    OtherPrograms,
    /// One thread of this stage is busy all the time, or all workers are, while cores are left.
    Threads(Stage),
    /// Nothing is busy all the time: pictures wait for each other.
    Turns,
}

/// Milliseconds that so much of all pictures took at most; `None` without pictures.
pub fn percentile_ms(rising_us: &[u32], share: f64) -> Option<f64> {
    let last = rising_us.len().checked_sub(1)?;
    let at = (share * rising_us.len() as f64).ceil() as usize;
    Some(f64::from(rising_us[at.saturating_sub(1).min(last)]) / 1000.0)
}

impl Measured {
    fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64().max(1e-6)
    }

    fn load(&self, stage: Stage) -> Option<StageLoad> {
        self.stages.iter().find(|s| s.stage == stage).copied()
    }

    /// Cores that the built-in cameras took.
    pub fn camera_cores(&self) -> f64 {
        self.load(Stage::Cameras).map_or(0.0, |l| l.cores)
    }

    /// Cores that the pipeline took: this process without the built-in cameras.
    pub fn used_cores(&self) -> f64 {
        (self.process.as_secs_f64() / self.seconds() - self.camera_cores()).max(0.0)
    }

    /// Cores that other programs took, as far as is known.
    pub fn other_cores(&self) -> f64 {
        let others = self.machine.map(|all| all.saturating_sub(self.process));
        others.map_or(0.0, |cpu| cpu.as_secs_f64() / self.seconds())
    }

    /// Pictures looked at in a second.
    pub fn analysed_per_s(&self) -> f64 {
        self.analysed as f64 / self.seconds()
    }

    /// Pictures taken at the asked rate in a second, those included in which nothing moved.
    pub fn sampled_per_s(&self) -> f64 {
        self.sampled as f64 / self.seconds()
    }

    /// Why so many cameras do not fit; empty: they do.
    pub fn whys(&self, wanted: &Wanted) -> Vec<Why> {
        if self.silent > 0 {
            return vec![Why::SilentCameras];
        }
        let should = self.cameras as f64 * wanted.analyse_fps.min(wanted.camera_fps);
        let p95_ms = percentile_ms(&self.latencies_us, 0.95);
        [
            (self.dropped > 0, Why::UnitsDropped),
            (self.replaced > 0, Why::FramesReplaced),
            (p95_ms.is_none_or(|ms| ms > wanted.p95_ms), Why::Latency),
            (self.sampled_per_s() < SENT * should, Why::Rate),
            (self.errors > 0, Why::Errors),
        ]
        .into_iter()
        .filter_map(|(is, why)| is.then_some(why))
        .collect()
    }

    /// Whether what does not fit is so little that it is worth a second look.
    pub fn is_close(&self, wanted: &Wanted) -> bool {
        let p95_ms = percentile_ms(&self.latencies_us, 0.95);
        self.silent == 0
            && self.errors == 0
            && self.dropped == 0
            && self.replaced * CLOSE < self.analysed
            && p95_ms.is_some_and(|ms| ms < 1.5 * wanted.p95_ms)
    }

    /// What is in the way of more, judged by what did not fit any more.
    pub fn limit(&self, wanted: &Wanted) -> Limit {
        let cores = wanted.cores as f64;
        let ours = [
            Stage::Receive,
            Stage::Decode,
            Stage::Detect,
            Stage::Analytics,
            Stage::Tasks,
        ];
        let ours = self.stages.iter().filter(|l| ours.contains(&l.stage));
        let most = ours.max_by(|a, b| a.cores.total_cmp(&b.cores));
        let all = self.used_cores() + self.camera_cores() + self.other_cores();
        if all >= ALL_CORES * cores {
            return match most {
                _ if self.other_cores() > 0.25 * cores => Limit::OtherPrograms,
                Some(most) => Limit::Cores(most.stage),
                None => Limit::OtherPrograms,
            };
        }
        let detect = self.load(Stage::Detect).map_or(0.0, |l| l.cores);
        if detect >= FULL * wanted.workers as f64 {
            return Limit::Threads(Stage::Detect);
        }
        let alone = [
            Stage::Cameras,
            Stage::Decode,
            Stage::Analytics,
            Stage::Receive,
        ];
        let full = |s: &&Stage| self.load(**s).is_some_and(|l| l.busiest >= FULL);
        alone
            .iter()
            .find(full)
            .map_or(Limit::Turns, |s| Limit::Threads(*s))
    }

    /// A word on other programs, if they took enough to matter.
    pub fn others(&self) -> Option<String> {
        let cores = self.other_cores();
        (cores > OTHERS).then(|| {
            format!("Other programs took {cores:.1} cores meanwhile: stop them for the figure of the box alone.")
        })
    }
}

impl Stage {
    fn work(self) -> &'static str {
        match self {
            Self::Receive => "receiving",
            Self::Decode => "decoding",
            Self::Detect => "running the models",
            Self::Analytics => "tracks and rules",
            Self::Tasks => "handing pictures on",
            Self::Cameras => "the built-in cameras",
            Self::Other => "everything else",
        }
    }
}

impl Why {
    /// For a table.
    pub fn words(self) -> &'static str {
        match self {
            Self::SilentCameras => "cameras without a picture",
            Self::UnitsDropped => "pictures dropped before decoding",
            Self::FramesReplaced => "pictures not looked at in time",
            Self::Latency => "too slow",
            Self::Rate => "fewer pictures than asked",
            Self::Errors => "errors",
        }
    }
}

impl Limit {
    /// For people.
    pub fn words(self, wanted: &Wanted) -> String {
        let Wanted { cores, workers, .. } = wanted;
        match self {
            Self::Cores(stage) => {
                let work = stage.work();
                format!("all {cores} cores are busy, most of them with {work}")
            }
            Self::OtherPrograms => {
                format!("all {cores} cores are busy, a good part of them with other programs")
            }
            Self::Threads(Stage::Detect) => {
                format!("the {workers} threads that run the models are busy all the time, and cores are left")
            }
            Self::Threads(Stage::Cameras) => {
                "the built-in cameras cannot send more: the box may carry more than this command can show".to_owned()
            }
            Self::Threads(stage) => {
                let work = stage.work();
                format!("the thread for {work} is busy all the time, and cores are left")
            }
            Self::Turns => "pictures wait for each other, though no core is busy all the time".to_owned(),
        }
    }

    /// What an installer can change, the most helpful first.
    pub fn advice(self) -> &'static [&'static str] {
        const FEWER: &str = "watch fewer cameras with this box, or take one with more cores";
        const SLOWER: &str = "look at fewer pictures: a lower analyse_fps (try it with --fps)";
        const SUB: &str = "give the cameras' sub streams as url, or a smaller picture size";
        const LESS: &str = "set fewer pictures a second in the cameras: 10 to 15 are plenty";
        match self {
            Self::Cores(Stage::Decode | Stage::Receive) => &[SUB, LESS, FEWER],
            Self::Threads(Stage::Decode | Stage::Receive) => &[SUB, LESS],
            Self::Threads(Stage::Detect) => &["set a higher detect.workers", SLOWER, FEWER],
            Self::Threads(Stage::Cameras) => {
                &["measure with real cameras: `mingchu run` counts the same things"]
            }
            Self::OtherPrograms => &[
                "stop the other programs, or measure when they rest",
                SLOWER,
                SUB,
            ],
            Self::Cores(_) | Self::Threads(_) | Self::Turns => &[SLOWER, SUB, FEWER],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const WANTED: Wanted = Wanted {
        camera_fps: 25.0,
        analyse_fps: 4.0,
        p95_ms: 300.0,
        cores: 4,
        workers: 3,
    };

    fn load(stage: Stage, threads: usize, cores: f64, busiest: f64) -> StageLoad {
        StageLoad {
            stage,
            threads,
            cores,
            busiest,
        }
    }

    /// Two cameras for ten seconds, all well.
    fn well() -> Measured {
        Measured {
            cameras: 2,
            elapsed: Duration::from_secs(10),
            latencies_us: (1..=100).map(|n| n * 1000).collect(),
            received: 500,
            sampled: 80,
            analysed: 60,
            process: Duration::from_secs(12),
            machine: Some(Duration::from_secs(13)),
            stages: vec![
                load(Stage::Decode, 2, 0.3, 0.2),
                load(Stage::Detect, 3, 0.7, 0.3),
                load(Stage::Cameras, 1, 0.2, 0.2),
            ],
            ..Measured::default()
        }
    }

    #[test]
    fn percentiles_are_those_of_the_pictures() {
        let us = well().latencies_us;
        let ms = |share| percentile_ms(&us, share);
        assert_eq!(
            (ms(0.5), ms(0.95), ms(0.99), ms(1.0)),
            (Some(50.0), Some(95.0), Some(99.0), Some(100.0))
        );
        assert_eq!(percentile_ms(&[], 0.5), None);
        assert_eq!(percentile_ms(&[7000], 0.01), Some(7.0));
    }

    #[test]
    fn the_cameras_own_cpu_is_not_the_boxs() {
        let m = well();
        assert!((m.used_cores() - 1.0).abs() < 1e-9);
        assert!((m.other_cores() - 0.1).abs() < 1e-9);
        assert_eq!(m.others(), None);
    }

    #[test]
    fn each_loss_is_a_reason_and_none_is_none() {
        assert_eq!(well().whys(&WANTED), []);
        let lost = |change: fn(&mut Measured)| {
            let mut m = well();
            change(&mut m);
            m.whys(&WANTED)
        };
        assert_eq!(lost(|m| m.dropped = 1), [Why::UnitsDropped]);
        assert_eq!(lost(|m| m.replaced = 1), [Why::FramesReplaced]);
        assert_eq!(lost(|m| m.errors = 1), [Why::Errors]);
        assert_eq!(lost(|m| m.sampled = 70), [Why::Rate]);
        assert_eq!(lost(|m| m.silent = 1), [Why::SilentCameras]);
        assert_eq!(lost(|m| m.latencies_us.fill(300_001)), [Why::Latency]);
        assert_eq!(lost(|m| m.latencies_us.clear()), [Why::Latency]);
        assert_eq!(lost(|m| m.latencies_us.fill(300_000)), []);
    }

    #[test]
    fn a_little_is_looked_at_again_and_much_is_not() {
        let close = |change: fn(&mut Measured)| {
            let mut m = well();
            m.analysed = 600;
            change(&mut m);
            m.is_close(&WANTED)
        };
        assert!(close(|m| m.replaced = 5));
        assert!(!close(|m| m.replaced = 6));
        assert!(!close(|m| m.dropped = 1));
        assert!(!close(|m| m.latencies_us.fill(450_000)));
    }

    #[test]
    fn the_limit_is_what_is_busy() {
        let of = |stages: Vec<StageLoad>, process_s: u64, machine_s: u64| {
            let m = Measured {
                process: Duration::from_secs(process_s),
                machine: Some(Duration::from_secs(machine_s)),
                stages,
                ..well()
            };
            m.limit(&WANTED)
        };
        let detect = load(Stage::Detect, 3, 2.0, 0.7);
        let decode = load(Stage::Decode, 9, 1.5, 0.2);
        assert_eq!(
            of(vec![detect, decode], 38, 39),
            Limit::Cores(Stage::Detect)
        );
        assert_eq!(of(vec![detect, decode], 20, 39), Limit::OtherPrograms);
        assert_eq!(
            of(vec![load(Stage::Detect, 3, 2.7, 0.9)], 30, 31),
            Limit::Threads(Stage::Detect)
        );
        let one = load(Stage::Decode, 9, 1.5, 0.95);
        assert_eq!(of(vec![one], 20, 20), Limit::Threads(Stage::Decode));
        assert_eq!(of(vec![detect, decode], 20, 20), Limit::Turns);
    }

    #[test]
    fn every_limit_says_what_it_is_and_what_to_do() {
        let stages = [
            Stage::Receive,
            Stage::Decode,
            Stage::Detect,
            Stage::Analytics,
            Stage::Cameras,
        ];
        let limits = stages
            .into_iter()
            .flat_map(|s| [Limit::Cores(s), Limit::Threads(s)]);
        for limit in limits.chain([Limit::OtherPrograms, Limit::Turns]) {
            assert!(!limit.words(&WANTED).is_empty() && !limit.advice().is_empty());
        }
    }
}
