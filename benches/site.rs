//! The whole daemon with 1, 4 and 8 cameras of 1080p: memory, CPU time and how long a picture takes to the
//! county centre's broker, with real RTSP cameras (GStreamer's) and a real broker (mosquitto).
//!
//! Latency is the time from the receipt of a picture to the moment at which a client of the broker has the
//! finding that it led to, dwell not counted: each `updated` revision of what goes on names the picture that it
//! was decided on. What the listener and the broker take is in it.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, may panic, and takes the time"
)]
#[path = "common/mod.rs"]
mod common;
#[path = "../tests/it/faulty_disk.rs"]
#[allow(dead_code, reason = "the tests' own")]
mod faulty_disk;
#[path = "../tests/it/support.rs"]
#[allow(dead_code, reason = "the tests' own")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{clips, report};
use support::{Camera, Listener, Mosquitto, Page, SiteDir, camera_table, page_of};

/// Before it is measured: sessions, models, what is usual of each camera.
const WARM_UP: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(40);

/// People all the time, told every second.
const RULE: &str = "[[rule]]\nid = \"person\"\ncode = \"person.present\"\nlabels = [\"person\"]\nclass = 3\n\
    samples = 3\ndwell_ms = 500\nclear_ms = 2000\nupdate_ms = 1000\n";

/// A clip of `source` at 1080p as a camera would send it; `still`: of its first picture, with sensor noise.
fn made(dir: &Path, source: &Path, still: bool) -> Option<PathBuf> {
    let path = dir.join(if still { "still.mp4" } else { "busy.mp4" });
    let filter = if still {
        "trim=end_frame=1,loop=-1:1,scale=-2:1080,noise=alls=5:allf=t,setpts=N/25/TB"
    } else {
        "fps=25,scale=-2:1080"
    };
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(source)
        .args([
            "-vf", filter, "-an", "-r", "25", "-c:v", "libx264", "-preset", "veryfast",
        ])
        .args([
            "-bf", "0", "-g", "50", "-b:v", "3000k", "-maxrate", "4000k", "-bufsize", "4000k",
        ])
        .args(["-t", "12"])
        .arg(&path)
        .status()
        .ok()?;
    status.success().then_some(path)
}

struct Measured {
    cpu_percent: f64,
    analysed: f64,
    rss_mb: f64,
    ring_mb: f64,
    replaced: u64,
    dropped: u64,
    latencies_ms: Vec<f64>,
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // CLK_TCK is 100 on every Linux there is.
    ticks / 100.0
}

fn utc_ms() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        * 1000.0
}

fn measure(clip: &Path, cameras: usize, fps: f64) -> Measured {
    let camera = Camera::start(&[&format!("kitchen={}", clip.display())]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables: String = (0..cameras)
        .map(|n| {
            let more = format!("analyse_fps = {fps:.1}");
            camera_table(&format!("camera-{n}"), &camera.url("kitchen"), &more)
        })
        .collect();
    let site = SiteDir::new(&broker.url(), &(tables + RULE));
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    let pid = daemon.id();
    let mut latencies_ms = Vec::new();
    let mut hear = |until: Duration, take: bool| {
        let began = Instant::now();
        while began.elapsed() < until {
            // Telemetry comes every two seconds at the latest.
            let heard = listener.wait_for("anything", |_| true);
            let data = &heard.payload["data"];
            if take && heard.topic.contains("/finding/") && data["phase"] == "updated" {
                let seen: jiff::Timestamp = data["last_seen"].as_str().unwrap().parse().unwrap();
                latencies_ms.push(utc_ms() - seen.as_millisecond() as f64);
            }
        }
    };
    hear(WARM_UP, false);
    let (before, cpu, began) = (Page::read(&address), cpu_seconds(pid), Instant::now());
    hear(MEASURED, true);
    let (after, seconds) = (Page::read(&address), began.elapsed().as_secs_f64());
    let cpu = cpu_seconds(pid) - cpu;
    let grown = |name: &str| after.sum(name) - before.sum(name);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let measured = Measured {
        cpu_percent: 100.0 * cpu / seconds,
        analysed: grown("mingchu_detect_frames_total") as f64 / seconds,
        rss_mb: mb(after.value("mingchu_process_resident_bytes")),
        ring_mb: mb(after.sum("mingchu_gop_ring_bytes")),
        replaced: grown("mingchu_frames_replaced_total"),
        dropped: grown("mingchu_capture_units_dropped_total"),
        latencies_ms,
    };
    assert!(daemon.terminate().success());
    measured
}

fn percentile(values: &mut [f64], share: f64) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.sort_by(f64::total_cmp);
    let at = ((values.len() - 1) as f64 * share).round() as usize;
    format!("{:.0}", values[at])
}

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = clips().pop().expect("a clip").1;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let head = format!(
        "{:<6} {:>7} {:>5} {:>7} {:>10} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "scene",
        "cameras",
        "fps",
        "% CPU",
        "analysed/s",
        "CPU ms",
        "RSS MB",
        "less ring",
        "p50 ms",
        "p99 ms",
        "replaced",
        "dropped"
    );
    let mut table = Vec::new();
    for (still, cameras, fps) in [
        (true, 1, 4.0),
        (true, 4, 4.0),
        (true, 8, 4.0),
        (false, 1, 4.0),
        (false, 4, 2.0),
        (false, 4, 4.0),
        (false, 8, 1.0),
        (false, 8, 2.0),
    ] {
        let Some(clip) = made(dir.path(), &source, still) else {
            println!("no ffmpeg to make a clip with");
            return;
        };
        let mut m = measure(&clip, cameras, fps);
        table.push(format!(
            "{:<6} {cameras:>7} {fps:>5.1} {:>7.1} {:>10.1} {:>8.1} {:>8.0} {:>9.0} {:>9} {:>9} {:>8} {:>8}",
            if still { "still" } else { "busy" },
            m.cpu_percent / cores as f64,
            m.analysed,
            10.0 * m.cpu_percent / m.analysed.max(0.01),
            m.rss_mb,
            m.rss_mb - m.ring_mb,
            percentile(&mut m.latencies_ms, 0.5),
            percentile(&mut m.latencies_ms, 0.99),
            m.replaced,
            m.dropped,
        ));
        eprintln!("{}", table[table.len() - 1]);
    }
    let title = format!(
        "Site: the whole daemon at 1080p; % CPU of all {cores} cores, cameras and broker not counted; CPU ms for \
         each analysed picture, all included"
    );
    report(&title, &head, &table);
}
