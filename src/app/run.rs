//! `mingchu run`: the daemon, from config to the last word at the broker.
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::blocking::on_thread;
use super::config::{self, Problem, Problems, SiteConfig};
use super::desired::{self, Rejected};
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::reload::{FileWatch, ReloadError};
use super::site::{Asks, Site};
use super::watchdog;
use crate::base::time::{SharedClock, SystemClock};
use crate::base::words;
use crate::uplink::ConfigSource;

/// Name of the problem in the site's last status.
const FAULT_PROBLEM: &str = "fault";

/// SIGINT, SIGTERM and SIGHUP. For a command at a terminal all three mean the end (at a hang-up the
/// terminal is gone); for the daemon a hang-up means to read the config again.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal means to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Stop,
    Reload,
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

    /// The next one, whichever.
    pub async fn next(&mut self) {
        self.ask().await;
    }

    async fn ask(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Stop,
            _ = self.terminate.recv() => Ask::Stop,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.ask().await != Ask::Stop {}
    }
}

async fn build(config: SiteConfig, clock: &SharedClock) -> Result<Result<Site, Failure>, Failure> {
    let clock = clock.clone();
    let built = on_thread("build", || Site::build(config, clock));
    built.await.or_exit(ExitCode::Internal)
}

/// Why the centre's config was left aside at the start.
fn not_used(failure: &Failure) -> Rejected {
    Rejected {
        revision: String::new(),
        problems: Problems(vec![Problem {
            file: config::DESIRED.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            message: failure.to_string(),
            remedy: "the site's own file is in force alone; send a config that fits".to_owned(),
        }]),
    }
}

/// Runs the daemon until a signal or a fault; takes up other configs meanwhile.
///
/// # Errors
/// [`Failure`] with the exit code: config, models, state directory, or a fault of ours.
pub async fn run(path: &Path) -> Outcome {
    run_by(path, SystemClock::shared()).await
}

/// The same by another clock, which every stage asks on its own thread or task: a test can make a stage
/// fail there, or hang, and the program needs nothing for it.
///
/// # Errors
/// As [`run`].
pub async fn run_by(path: &Path, clock: SharedClock) -> Outcome {
    let mut file = FileWatch::new(path);
    let (config, mut rejected) = desired::load_first(path).or_exit(ExitCode::Config)?;
    let mut signals = Signals::catch().or_exit(ExitCode::Internal)?;
    let cameras = config.cameras.len();
    let broker = format!("{}:{}", config.uplink.host, config.uplink.port);
    let (region, id) = (config.identity.region.clone(), config.identity.site.clone());
    let over = config.desired.is_some();
    let mut built = build(config, &clock).await?;
    if let (Err(failure), true) = (&built, over)
        && failure.code == ExitCode::Config
    {
        // The centre's config must not keep a site from watching.
        rejected = Some(not_used(failure));
        built = build(config::load(path).or_exit(ExitCode::Config)?, &clock).await?;
    }
    let mut site = built?.start()?;
    if let Some(rejected) = rejected {
        site.refuse(&rejected, ConfigSource::Desired).await;
    }
    tracing::info!(%region, site = %id, cameras, %broker, "running");
    watchdog::ready(cameras);
    let watchdog_stop = CancellationToken::new();
    let fed = tokio::spawn(watchdog::feed(
        site.heartbeats.clone(),
        watchdog_stop.clone(),
    ));
    let outcome = loop {
        let reload = tokio::select! {
            ask = signals.ask() => match ask {
                Ask::Stop => break Ok(()),
                Ask::Reload => None,
            },
            () = file.changed() => None,
            asks = site.asks() => match asks {
                Asks::End(fault) => break Err(Failure::new(ExitCode::Internal, fault)),
                Asks::Config(wanted) => Some(wanted),
            },
        };
        let outcome = match reload {
            Some(wanted) => site.take(wanted).await,
            None => match site.reload(&mut file).await {
                Ok(_) | Err(ReloadError::Refused(_)) => Ok(()),
                Err(ReloadError::Broken(failure)) => Err(failure),
            },
        };
        if let Err(failure) = outcome {
            break Err(failure);
        }
    };
    if let Err(failure) = &outcome {
        tracing::error!(err = %failure, "stopping because of a fault");
        // The last the broker hears of us before the next start.
        site.problems
            .set(FAULT_PROBLEM, words::problem::ends_for_fault(failure));
    }
    watchdog::stopping();
    tokio::select! {
        () = site.stop() => {}
        () = signals.stop() => {
            tracing::warn!("second signal: ending at once; what is stored stays stored");
            std::process::exit(130);
        }
    }
    watchdog_stop.cancel();
    drop(fed.await);
    outcome
}
