//! What eight cameras that are away cost: CPU time of this process, and memory at the end of it.
//!
//! Real attempts at real sockets: of the eight, five refuse the connection, as a camera that is switched
//! off behind a router that lives, and three accept it and never answer.
//!
//! `cargo bench --bench cameras_away` takes a minute; `-- SECONDS` another time.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
#[path = "common/mod.rs"]
mod common;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::ids::{CameraId, CameraIx};
use mingchu::base::metrics::{Metric, Metrics};
use mingchu::base::time::{SystemClock, UtcMicros};
use mingchu::capture::{
    CameraTask, CaptureConfig, CaptureHealth, GopRing, RingLimits, RtspHosts, RtspOpener, Transport,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

const CAMERAS: u16 = 8;
const MUTE: u16 = 3;

fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    let kb: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
    kb / 1024.0
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let test = std::env::args().any(|a| a == "--test");
    let how_long = Duration::from_secs(seconds.unwrap_or(if test { 1 } else { 60 }));
    let clock = SystemClock::shared();
    let (metrics, stop) = (Metrics::default(), CancellationToken::new());
    let heartbeats = Heartbeats::new(clock.clone());
    let hosts = RtspHosts::default();
    // Those that stay accept connections, by the system's queue, and nobody ever reads from them.
    let mut listeners: Vec<TcpListener> = (0..CAMERAS)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    let ports: Vec<u16> = listeners
        .iter()
        .map(|l| l.local_addr().unwrap().port())
        .collect();
    listeners.truncate(usize::from(MUTE));
    let tasks = ports.iter().zip(0..).map(|(port, n)| {
        let id = CameraId::new(&format!("camera-{n}")).unwrap();
        let limits = RingLimits {
            bytes: 1 << 20,
            span: Duration::from_secs(5),
        };
        let opener = RtspOpener {
            url: Url::parse(&format!("rtsp://127.0.0.1:{port}/stream")).unwrap(),
            login: None,
            transport: Transport::Tcp,
            step_timeout: CaptureConfig::STEP_TIMEOUT,
            silence: CaptureConfig::SILENCE,
            hosts: hosts.clone(),
            clock: clock.clone(),
        };
        let task = CameraTask {
            camera: CameraIx(n),
            ring: GopRing::new(limits, &metrics, id.as_str()),
            heartbeat: heartbeats.register(id.to_string(), CameraTask::BEAT),
            id,
            opener: Arc::new(opener),
            units: None,
            health: watch::channel(CaptureHealth::starting(UtcMicros(0))).0,
            metrics: metrics.clone(),
            clock: clock.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(task.run())
    });
    let tasks: Vec<_> = tasks.collect();
    // The first attempts come faster.
    tokio::time::sleep(how_long / 4).await;
    let (began, cpu, memory) = (Instant::now(), cpu_time(), resident_mb());
    let before = metrics.total(Metric::CaptureFailures);
    tokio::time::sleep(how_long).await;
    let spent = cpu_time().saturating_sub(cpu);
    let attempts = metrics.total(Metric::CaptureFailures) - before;
    let share = 100.0 * spent.as_secs_f64() / began.elapsed().as_secs_f64();
    let line = format!(
        "{attempts:>9} {:>9.1} {share:>9.3} {memory:>9.1} {:>9.1}",
        spent.as_secs_f64() * 1000.0,
        resident_mb()
    );
    let title = format!(
        "Cameras away: {CAMERAS} of them for {:.0} s",
        how_long.as_secs_f64()
    );
    let head = format!(
        "{:>9} {:>9} {:>9} {:>9} {:>9}",
        "attempts", "CPU ms", "% core", "MB", "MB after"
    );
    common::report(&title, &head, &[line]);
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
