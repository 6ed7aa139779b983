//! How often a camera is tried, in simulated time: hours go by while nobody waits.
use std::io::Write;
use std::sync::Mutex;

use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::base::heartbeat::Heartbeats;
use crate::base::restarts::LIMIT;
use crate::base::time::Clock;
use crate::capture::gop_ring::RingLimits;

/// The test's clock, which stands still until everybody waits.
#[derive(Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn mono(&self) -> MonoMicros {
        MonoMicros(self.0.elapsed().as_micros() as u64)
    }

    fn utc(&self) -> UtcMicros {
        UtcMicros(self.mono().0 as i64)
    }
}

/// What happens at each attempt.
#[derive(Clone, Copy)]
enum Attempt {
    /// A real connection to a port where nobody listens, and none that another program is given.
    Connects(u16),
    RefusesLogin,
    Panics,
}

struct Opener {
    attempt: Attempt,
    clock: SharedClock,
    at: Mutex<Vec<MonoMicros>>,
}

impl SourceOpener for Opener {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Source>, CaptureError>> {
        Box::pin(async {
            self.at.lock().unwrap().push(self.clock.mono());
            match self.attempt {
                Attempt::Connects(port) => {
                    let refused = TcpStream::connect(("127.0.0.1", port)).await;
                    Err(CaptureError::Unreachable(refused.unwrap_err().to_string()))
                }
                Attempt::RefusesLogin => Err(CaptureError::Unauthorised { status: 401 }),
                Attempt::Panics => panic!("as a fault of ours would"),
            }
        })
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Watched {
    /// When it was tried, from the beginning.
    at: Vec<MonoMicros>,
    health: CaptureHealth,
    metrics: Metrics,
    log: String,
}

/// One camera for so long.
async fn watched(attempt: Attempt, how_long: Duration) -> Watched {
    let log = Log::default();
    let to = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || to.clone())
        .finish();
    let logged = tracing::subscriber::set_default(subscriber);
    let clock: SharedClock = Arc::new(PausedClock(Instant::now()));
    let opener = Arc::new(Opener {
        attempt,
        clock: clock.clone(),
        at: Mutex::default(),
    });
    let metrics = Metrics::default();
    let (tell, health) = watch::channel(CaptureHealth::starting(UtcMicros(0)));
    let limits = RingLimits {
        bytes: 1000,
        span: Duration::from_secs(1),
    };
    let heartbeats = Heartbeats::new(clock.clone());
    let stop = CancellationToken::new();
    let task = CameraTask {
        camera: CameraIx(0),
        id: CameraId::new("wok").unwrap(),
        opener: opener.clone(),
        units: None,
        ring: GopRing::new(limits, &metrics, "wok"),
        health: tell,
        metrics: metrics.clone(),
        clock,
        heartbeat: heartbeats.register("capture/wok", CameraTask::BEAT * 2),
        stop: stop.clone(),
    };
    let running = tokio::spawn(task.run());
    tokio::time::sleep(how_long).await;
    assert!(heartbeats.stuck().is_empty());
    stop.cancel();
    running.await.unwrap();
    drop(logged);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    Watched {
        at: opener.at.lock().unwrap().clone(),
        health: health.borrow().clone(),
        metrics,
        log,
    }
}

fn gaps(at: &[MonoMicros]) -> impl Iterator<Item = Duration> {
    at.windows(2).map(|w| w[1].since(w[0]))
}

#[tokio::test(start_paused = true)]
async fn a_day_without_a_camera_is_one_attempt_every_three_seconds_and_one_change_of_state() {
    const DAY: Duration = Duration::from_secs(86_400);
    let day = watched(Attempt::Connects(1), DAY).await;
    let tries = day.at.len();
    assert!((28_800..60_000).contains(&tries), "{tries}");
    let longest = gaps(&day.at).max().unwrap();
    assert!(longest <= Duration::from_millis(3010), "{longest:?}");
    // What is beyond the first few waits is never faster than half of the longest.
    let shortest = gaps(&day.at).skip(4).min().unwrap();
    assert!(shortest >= Duration::from_millis(1490), "{shortest:?}");
    assert_eq!(day.health.state, CaptureState::Offline);
    assert_eq!(day.health.since, UtcMicros(0), "its state changed again");
    let failures = day.metrics.total(Metric::CaptureFailures);
    assert!(failures.abs_diff(tries as u64) <= 1);
    let lines = day.log.matches("camera lost").count();
    assert!((1..20).contains(&lines), "{lines} lines:\n{}", day.log);
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_tried_again_after_five_minutes() {
    let hour = watched(Attempt::RefusesLogin, Duration::from_secs(3600)).await;
    assert_eq!(hour.health.state, CaptureState::Unauthorised);
    assert!((12..=13).contains(&hour.at.len()), "{}", hour.at.len());
    assert!(gaps(&hour.at).all(|g| g >= UNAUTHORISED_WAIT));
}

#[tokio::test(start_paused = true)]
async fn five_panics_within_a_minute_rest_the_camera_for_five_minutes() {
    let hour = watched(Attempt::Panics, Duration::from_secs(3600)).await;
    assert_eq!(hour.health.state, CaptureState::Failed);
    let rests: Vec<usize> = gaps(&hour.at)
        .enumerate()
        .filter_map(|(n, g)| (g >= REST).then_some(n + 1))
        .collect();
    let every_fifth: Vec<usize> = (1..=rests.len()).map(|n| n * LIMIT).collect();
    assert!(rests.len() >= 10);
    assert_eq!(rests, every_fifth);
    let restarts = hour.metrics.total(Metric::StageRestarts);
    assert_eq!(restarts, hour.at.len() as u64);
}
