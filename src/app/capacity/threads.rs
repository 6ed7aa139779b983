//! What each stage's threads take of the cores, and what else runs on the machine: read from `/proc`, by
//! the names that `app::site` and `capture` give the threads.
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::Serialize;

/// `/proc` counts in hundredths of a second on every Linux that we run on (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Whose threads they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// One thread per RTSP session: socket, RTP, access units.
    Receive,
    /// One per camera.
    Decode,
    /// The workers that run the models.
    Detect,
    /// Track and rules.
    Analytics,
    /// Tasks: what hands units on, health.
    Tasks,
    /// The built-in cameras; no part of the daemon.
    Cameras,
    /// All others.
    Other,
}

impl Stage {
    /// Of the thread called `name`, of which the system keeps 15 characters.
    fn of(name: &str) -> Self {
        match name {
            "rtsp" => Self::Receive,
            "analytics" => Self::Analytics,
            "tokio" => Self::Tasks,
            super::cameras::THREAD => Self::Cameras,
            _ if name.starts_with("decode/") => Self::Decode,
            _ if name.starts_with("detect/") => Self::Detect,
            _ => Self::Other,
        }
    }
}

/// CPU time of each thread of this process at a moment.
#[derive(Clone, Debug, Default)]
pub struct Threads(BTreeMap<u32, (Stage, Duration)>);

/// What a stage took between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageLoad {
    /// Which.
    pub stage: Stage,
    /// Threads that took any.
    pub threads: usize,
    /// Cores, of all its threads together.
    pub cores: f64,
    /// Of a core, the thread that took most.
    pub busiest: f64,
}

/// Nanoseconds on a core, the first number of `schedstat`; without that file the ticks of `stat`.
fn cpu_of(folder: &std::path::Path) -> Option<Duration> {
    if let Ok(text) = fs::read_to_string(folder.join("schedstat"))
        && let Some(ns) = text.split(' ').next().and_then(|n| n.parse().ok())
    {
        return Some(Duration::from_nanos(ns));
    }
    let text = fs::read_to_string(folder.join("stat")).ok()?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th behind it.
    let behind = text.rsplit_once(") ")?.1;
    let ticks = |at: usize| behind.split(' ').nth(at)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

impl Threads {
    /// As they are now. A thread that ends meanwhile is left out.
    pub fn now() -> Self {
        let entries = fs::read_dir("/proc/self/task").into_iter().flatten();
        let thread = |entry: fs::DirEntry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((id, (Stage::of(name.trim_end()), cpu_of(&entry.path())?)))
        };
        Self(entries.filter_map(|e| thread(e.ok()?)).collect())
    }

    /// What each stage's threads took since `before`, within `elapsed`.
    pub fn since(&self, before: &Self, elapsed: Duration) -> Vec<StageLoad> {
        let mut loads: BTreeMap<Stage, StageLoad> = BTreeMap::new();
        for (id, (stage, cpu)) in &self.0 {
            let earlier = before.0.get(id).map_or(Duration::ZERO, |(_, cpu)| *cpu);
            let cores = cpu.saturating_sub(earlier).as_secs_f64() / elapsed.as_secs_f64().max(1e-6);
            if cores == 0.0 {
                continue;
            }
            let load = loads.entry(*stage).or_insert(StageLoad {
                stage: *stage,
                threads: 0,
                cores: 0.0,
                busiest: 0.0,
            });
            load.threads += 1;
            load.cores += cores;
            load.busiest = load.busiest.max(cores);
        }
        loads.into_values().collect()
    }
}

/// CPU time that all programs of this machine have used since it began, where the system says so.
pub fn machine_cpu() -> Option<Duration> {
    busy(&fs::read_to_string("/proc/stat").ok()?)
}

/// Of the line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal. What a hypervisor has taken
/// away is time that others had.
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let all: u64 = ticks.iter().take(8).sum();
    Some(Duration::from_millis(10 * (all - idle)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::thread_cpu;

    #[test]
    fn a_stage_has_what_its_threads_took() {
        let work = || {
            let enough = thread_cpu() + Duration::from_millis(60);
            while thread_cpu() < enough {
                std::hint::spin_loop();
            }
        };
        let before = Threads::now();
        let (done, wait) = std::sync::mpsc::sync_channel(0);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let named = std::thread::Builder::new().name("decode/a-camera-of-a-long-name".to_owned());
        let thread = named.spawn(move || {
            work();
            done.send(()).unwrap();
            assert!(ended.recv().is_err(), "nobody sends");
        });
        wait.recv().unwrap();
        let loads = Threads::now().since(&before, Duration::from_millis(600));
        drop(end);
        thread.unwrap().join().unwrap();
        let decode = loads.iter().find(|l| l.stage == Stage::Decode).unwrap();
        assert_eq!(decode.threads, 1);
        assert!((0.08..0.3).contains(&decode.cores), "{decode:?}");
        assert_eq!(decode.cores.to_bits(), decode.busiest.to_bits());
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idle_and_waiting() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 900 90\ncpu0 1 2 3\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1710)));
        assert_eq!(busy("intr 1"), None);
        assert!(machine_cpu().is_some());
    }
}
