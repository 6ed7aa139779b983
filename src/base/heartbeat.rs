//! Who is still making progress: each thread and task beats, the watchdog looks.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::time::{MonoMicros, SharedClock};

#[derive(Debug)]
struct Pulse {
    name: String,
    limit: Duration,
    last: AtomicU64,
}

/// All pulses of a site. Clones share them.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    clock: SharedClock,
    pulses: Arc<Mutex<Vec<Arc<Pulse>>>>,
}

/// One thread's or task's pulse. Dropping it takes it off the list: a stage that ended in good
/// order is not a stuck one.
#[derive(Debug)]
pub struct Heartbeat {
    all: Heartbeats,
    pulse: Arc<Pulse>,
}

impl Heartbeats {
    /// No pulses yet.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            pulses: Arc::default(),
        }
    }

    /// Registers `name`, which promises to beat at least once per `limit`. It counts as having
    /// beaten now.
    pub fn register(&self, name: impl Into<String>, limit: Duration) -> Heartbeat {
        let last = AtomicU64::new(self.clock.mono().0);
        let pulse = Arc::new(Pulse {
            name: name.into(),
            limit,
            last,
        });
        self.pulses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pulse.clone());
        Heartbeat {
            all: self.clone(),
            pulse,
        }
    }

    /// Names of those that have been silent for longer than they promised, with the silence.
    pub fn stuck(&self) -> Vec<(String, Duration)> {
        let now = self.clock.mono();
        let pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = |p: &Arc<Pulse>| now.since(MonoMicros(p.last.load(Ordering::Relaxed)));
        pulses
            .iter()
            .filter(|p| silent(p) > p.limit)
            .map(|p| (p.name.clone(), silent(p)))
            .collect()
    }
}

impl Heartbeat {
    /// Still here.
    pub fn beat(&self) {
        self.pulse
            .last
            .store(self.all.clock.mono().0, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let mut pulses = self
            .all
            .pulses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pulses.retain(|p| !Arc::ptr_eq(p, &self.pulse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{ManualClock, UtcMicros};

    #[test]
    fn a_pulse_is_stuck_after_its_limit_and_forgotten_when_dropped() {
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let all = Heartbeats::new(clock.clone());
        let a = all.register("decode/wok", Duration::from_secs(5));
        let b = all.register("store", Duration::from_secs(20));
        clock.advance(Duration::from_secs(6));
        assert_eq!(
            all.stuck(),
            [("decode/wok".to_owned(), Duration::from_secs(6))]
        );
        a.beat();
        assert!(all.stuck().is_empty());
        clock.advance(Duration::from_secs(30));
        assert_eq!(all.stuck().len(), 2);
        drop((a, b));
        assert!(all.stuck().is_empty());
    }
}
