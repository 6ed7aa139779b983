//! The three clocks: monotonic for durations, UTC for people, RTP media time for pictures.
//!
//! Stages do not read clocks of their own: whoever needs the time holds a [`Clock`], and the pure
//! stages take time from the [`FrameStamp`] that comes with the data, so that replay is repeatable.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Microseconds on the site's monotonic clock (`CLOCK_BOOTTIME`: it runs on through suspend). All
/// durations are taken here. Comparable within one boot only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoMicros(pub u64);

impl MonoMicros {
    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Milliseconds since `earlier`; zero if `earlier` is later.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }

    /// This moment plus `d`.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

/// Microseconds since 1970-01-01T00:00:00Z. For payloads and logs only: it may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcMicros(pub i64);

impl fmt::Display for UtcMicros {
    /// RFC 3339 in UTC with milliseconds: `2026-11-24T03:12:07.412Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.div_euclid(1000);
        match jiff::Timestamp::from_millisecond(ms) {
            Ok(t) => write!(f, "{t:.3}"),
            // Outside the years -9999..9999: only a broken clock gets here.
            Err(_) => write!(f, "invalid-time({ms})"),
        }
    }
}

/// RTP media time in 1/90,000 s since the capture session began; restarts on reconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pts90k(pub i64);

/// When a picture was received, on all three clocks. Carried unchanged from capture to the finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameStamp {
    /// Rises by one per access unit per camera, across reconnects, until the process restarts.
    pub seq: u64,
    /// Rises by one per capture session, so that `pts` is compared only within one.
    pub session: u32,
    /// Media time within the session.
    pub pts: Pts90k,
    /// When its last byte arrived, on the monotonic clock.
    pub received: MonoMicros,
    /// The same moment in UTC.
    pub received_utc: UtcMicros,
}

/// Where stages get the time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, monotonic.
    fn mono(&self) -> MonoMicros;
    /// Now, in UTC.
    fn utc(&self) -> UtcMicros;
}

/// A clock shared by everyone in a site.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// A shared handle.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn mono(&self) -> MonoMicros {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        MonoMicros(t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1000)
    }

    fn utc(&self) -> UtcMicros {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        UtcMicros(t.tv_sec * 1_000_000 + t.tv_nsec / 1000)
    }
}

/// CPU time that this thread has used so far. For measuring only; what others do does not count.
pub fn thread_cpu() -> Duration {
    cpu_time(rustix::time::ClockId::ThreadCPUTime)
}

/// CPU time that this process has used so far, of all cores together.
pub fn process_cpu() -> Duration {
    cpu_time(rustix::time::ClockId::ProcessCPUTime)
}

fn cpu_time(of: rustix::time::ClockId) -> Duration {
    let t = rustix::time::clock_gettime(of);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// A clock that stands still until told to move; for tests and replay.
#[derive(Debug, Default)]
pub struct ManualClock {
    mono: AtomicU64,
    utc: AtomicI64,
}

impl ManualClock {
    /// Starts at the given moments.
    pub fn new(mono: MonoMicros, utc: UtcMicros) -> Arc<Self> {
        Arc::new(Self {
            mono: AtomicU64::new(mono.0),
            utc: AtomicI64::new(utc.0),
        })
    }

    /// Moves both clocks forward by `d`.
    pub fn advance(&self, d: Duration) {
        let us = u64::try_from(d.as_micros()).expect("a test does not wait 500,000 years");
        self.mono.fetch_add(us, Ordering::SeqCst);
        self.utc.fetch_add(us as i64, Ordering::SeqCst);
    }

    /// Sets UTC alone, by so many microseconds: somebody set the clock.
    pub fn step_utc(&self, by_us: i64) {
        self.utc.fetch_add(by_us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn mono(&self) -> MonoMicros {
        MonoMicros(self.mono.load(Ordering::SeqCst))
    }

    fn utc(&self) -> UtcMicros {
        UtcMicros(self.utc.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_is_written_as_rfc_3339_with_milliseconds() {
        assert_eq!(UtcMicros(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            UtcMicros(1_795_490_400_412_999).to_string(),
            "2026-11-24T03:20:00.412Z"
        );
    }

    #[test]
    fn a_duration_is_never_negative() {
        assert_eq!(MonoMicros(5).since(MonoMicros(9)), Duration::ZERO);
        assert_eq!(MonoMicros(9_000).ms_since(MonoMicros(5_000)), 4);
    }

    #[test]
    fn the_system_clocks_move_forward() {
        let c = SystemClock;
        let (a, b) = (c.mono(), c.mono());
        assert!(b >= a);
        assert!(c.utc().0 > 1_700_000_000_000_000);
    }
}
