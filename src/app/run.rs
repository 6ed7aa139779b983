//! `mingchu run`: the daemon, from config to the last word at the broker.
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::blocking::on_thread;
use super::config;
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::site::Site;
use super::watchdog;
use crate::base::time::SystemClock;

/// SIGINT, SIGTERM, or SIGHUP (the terminal is gone): the end in good order.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Runs the daemon until a signal or a fault.
///
/// # Errors
/// [`Failure`] with the exit code: config, models, state directory, or a fault of ours.
pub async fn run(path: &Path) -> Outcome {
    let config = config::load(path).or_exit(ExitCode::Config)?;
    let mut signals = Signals::catch().or_exit(ExitCode::Internal)?;
    let cameras = config.cameras.len();
    let broker = format!("{}:{}", config.uplink.host, config.uplink.port);
    let (region, id) = (config.identity.region.clone(), config.identity.site.clone());
    let built = on_thread("build", || Site::build(config, SystemClock::shared()));
    let mut site = built.await.or_exit(ExitCode::Internal)??.start()?;
    tracing::info!(%region, site = %id, cameras, %broker, "running");
    watchdog::ready(cameras);
    let watchdog_stop = CancellationToken::new();
    let fed = tokio::spawn(watchdog::feed(
        site.heartbeats.clone(),
        watchdog_stop.clone(),
    ));
    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        fault = site.fault() => Err(Failure::new(ExitCode::Internal, fault)),
    };
    if let Err(failure) = &outcome {
        tracing::error!(err = %failure, "stopping because of a fault");
    }
    watchdog::stopping();
    tokio::select! {
        () = site.stop() => {}
        () = signals.next() => {
            tracing::warn!("second signal: ending at once; what is stored stays stored");
            std::process::exit(130);
        }
    }
    watchdog_stop.cancel();
    drop(fed.await);
    outcome
}
