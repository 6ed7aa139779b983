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
        NotifyState::Status(&format!("watching {cameras} cameras")),
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
        let stuck = heartbeats.stuck();
        if stuck.is_empty() {
            notify(&[NotifyState::Watchdog]);
        }
        for (name, silent) in stuck {
            tracing::error!(stage = %name, silent_s = silent.as_secs(), "no progress: the watchdog is not fed");
        }
    }
}
