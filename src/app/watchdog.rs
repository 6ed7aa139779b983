//! systemd's readiness and watchdog messages, fed only while every part of the pipeline beats.
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::base::heartbeat::Heartbeats;

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, and that is no error.
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(err = %e, "no word to systemd");
    }
}

/// The site runs.
pub fn ready(cameras: usize) {
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("cameras: {cameras}")),
    ]);
}

/// The site is going down in good order.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Pings systemd's watchdog at half its interval for as long as nothing is stuck. A stuck part is
/// named in the log; the missing ping then makes systemd start us again.
pub async fn feed(heartbeats: Heartbeats, stop: CancellationToken) {
    let interval = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |w| w / 2);
    let mut tick = tokio::time::interval(interval.max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if all_beat(&heartbeats) {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether every part of the pipeline makes progress; those that do not are named in the log.
fn all_beat(heartbeats: &Heartbeats) -> bool {
    let stuck = heartbeats.stuck();
    for (name, silent) in &stuck {
        tracing::error!(stage = %name, silent_s = silent.as_secs(), "no progress: the watchdog is not fed");
    }
    stuck.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{ManualClock, MonoMicros, UtcMicros};

    #[test]
    fn one_stuck_stage_starves_the_watchdog_and_its_recovery_feeds_it_again() {
        let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
        let heartbeats = Heartbeats::new(clock.clone());
        let limit = Duration::from_secs(10);
        let (good, bad) = (
            heartbeats.register("good", limit),
            heartbeats.register("bad", limit),
        );
        assert!(all_beat(&heartbeats));
        clock.advance(Duration::from_secs(11));
        good.beat();
        assert!(!all_beat(&heartbeats));
        bad.beat();
        assert!(all_beat(&heartbeats));
        clock.advance(Duration::from_secs(11));
        good.beat();
        // A stage that ended in good order is not a stuck one.
        drop(bad);
        assert!(all_beat(&heartbeats));
    }
}
