//! The whole daemon with 1, 4 and 8 cameras of 1080p: memory, CPU time and how long a picture takes to the
//! county centre's broker, with real RTSP cameras (GStreamer's) and a real broker (mosquitto).
//!
//! Latency is the time from the receipt of a picture to the moment at which a client of the broker has the
//! finding that it led to, dwell not counted: each `updated` revision of what goes on names the picture that it
//! was decided on. What the listener and the broker take is in it.
//!
//! Load is set, not met by chance: two rates of analysis of eight cameras give a line, and by that line the rates are
//! chosen at which the box is 50 and 80 % busy. Busy counts the daemon, the cameras, the broker and the listener,
//! for they share its cores; what the load came to is in the table. All rates together show whether the cost grows
//! with the pictures that are looked at and with nothing else.
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
const WARM_UP: Duration = Duration::from_secs(18);
const MEASURED: Duration = Duration::from_secs(30);
/// Shares of the box at which latency is measured.
const LOADS: [f64; 2] = [0.5, 0.8];
/// Cameras at which rates are varied.
const MANY: usize = 8;
/// What the clips have.
const CAMERA_FPS: f64 = 25.0;

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

#[derive(Clone, Copy)]
struct Case {
    still: bool,
    cameras: usize,
    fps: f64,
    /// What the box was to be loaded with.
    load: Option<f64>,
}

struct Measured {
    /// CPU time of the daemon, of a second.
    cpu_ms: f64,
    /// Cores that the daemon, the cameras, the broker and the listener took together.
    cores: f64,
    analysed: f64,
    workers: u64,
    rss_mb: f64,
    ring_mb: f64,
    replaced: u64,
    dropped: u64,
    latencies_ms: Vec<f64>,
}

/// Parent of a process, and its user and system time in seconds.
fn of_process(pid: u32) -> Option<(u32, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    // CLK_TCK is 100 on every Linux there is.
    Some((number(1)? as u32, (number(11)? + number(12)?) / 100.0))
}

/// CPU seconds of this program and all it has started: cameras, broker, listener, daemon.
fn all_seconds() -> f64 {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, of_process(pid)?)))
        .filter(|(pid, (parent, _))| *pid == own || *parent == own)
        .map(|(_, (_, seconds))| seconds)
        .sum()
}

fn utc_ms() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
        * 1000.0
}

fn measure(clip: &Path, case: Case) -> Measured {
    let Case { cameras, fps, .. } = case;
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
    // As many workers as the daemon finds right.
    site.write_config(&site.read_config().replace("workers = 1\n", ""));
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    let pid = daemon.id();
    let own = || of_process(pid).map_or(0.0, |p| p.1);
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
    let (before, cpu, began) = (Page::read(&address), own(), Instant::now());
    let all = all_seconds();
    hear(MEASURED, true);
    let (after, seconds) = (Page::read(&address), began.elapsed().as_secs_f64());
    let (cpu, all) = (own() - cpu, all_seconds() - all);
    let grown = |name: &str| after.sum(name) - before.sum(name);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let measured = Measured {
        cpu_ms: 1000.0 * cpu / seconds,
        cores: all / seconds,
        workers: after.value("mingchu_detect_workers"),
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

/// The line through the points with the least squares: where it begins, and how steep it is.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let over = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    let slope = over / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    (y - slope * x, slope)
}

const HEAD: &str = "scene  cameras   fps  box %  daemon % workers analysed/s   CPU ms   RSS MB less ring    p50 ms    p99 ms replaced  dropped";

fn row(case: Case, m: &mut Measured, cores: f64) -> String {
    let scene = match (case.still, case.load) {
        (true, _) => "still".to_owned(),
        (false, None) => "busy".to_owned(),
        (false, Some(load)) => format!("{:.0} %", 100.0 * load),
    };
    format!(
        "{scene:<6} {:>7} {:>5.1} {:>6.1} {:>9.1} {:>7} {:>10.1} {:>8.1} {:>8.0} {:>9.0} {:>9} {:>9} {:>8} {:>8}",
        case.cameras,
        case.fps,
        100.0 * m.cores / cores,
        m.cpu_ms / 10.0 / cores,
        m.workers,
        m.analysed,
        m.cpu_ms / m.analysed.max(0.01),
        m.rss_mb,
        m.rss_mb - m.ring_mb,
        percentile(&mut m.latencies_ms, 0.5),
        percentile(&mut m.latencies_ms, 0.99),
        m.replaced,
        m.dropped,
    )
}

/// What it costs against what is looked at, at the same number of cameras.
fn scaling(measured: &[(Case, Measured)]) {
    let point = |m: &Measured| (m.analysed, m.cpu_ms);
    let points: Vec<_> = measured.iter().map(|(_, m)| point(m)).collect();
    let (fixed, each) = line(&points);
    let rows = measured.iter().map(|(case, m)| {
        let on_line = fixed + each * m.analysed;
        format!(
            "{:>5.1} {:>10.1} {:>10.0} {:>10.0} {:>8.1}",
            case.fps,
            m.analysed,
            m.cpu_ms,
            on_line,
            100.0 * (m.cpu_ms / on_line - 1.0)
        )
    });
    let title = format!(
        "Scaling: CPU ms of the daemon in a second against pictures analysed in it, {MANY} busy cameras; the line: \
         {fixed:.0} ms for receiving and decoding, {each:.1} ms for each picture"
    );
    let head = format!(
        "{:>5} {:>10} {:>10} {:>10} {:>8}",
        "fps", "analysed/s", "CPU ms/s", "line", "off by %"
    );
    report(&title, &head, &rows.collect::<Vec<_>>());
}

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = clips().pop().expect("a clip").1;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let clips = [true, false].map(|still| made(dir.path(), &source, still));
    let [Some(still), Some(busy)] = clips else {
        println!("no ffmpeg to make a clip with");
        return;
    };
    let case = |still, cameras, fps| Case {
        still,
        cameras,
        fps,
        load: None,
    };
    let mut table = Vec::new();
    let mut many = Vec::new();
    let mut look = |case: Case| {
        let mut m = measure(if case.still { &still } else { &busy }, case);
        table.push(row(case, &mut m, cores));
        eprintln!("{}", table[table.len() - 1]);
        m
    };
    for case in [
        case(true, 1, 4.0),
        case(true, 4, 4.0),
        case(true, MANY, 4.0),
        case(false, 1, 4.0),
        case(false, 4, 4.0),
    ] {
        look(case);
    }
    for case in [case(false, MANY, 1.0), case(false, MANY, 3.0)] {
        many.push((case, look(case)));
    }
    for load in LOADS {
        // Each row makes the next guess better.
        let points: Vec<_> = many.iter().map(|(c, m)| (c.fps, m.cores / cores)).collect();
        let (fixed, each) = line(&points);
        let fps = ((load - fixed) / each).clamp(0.1, CAMERA_FPS);
        let case = Case {
            load: Some(load),
            ..case(false, MANY, (10.0 * fps).round() / 10.0)
        };
        many.push((case, look(case)));
    }
    let title = format!(
        "Site: the whole daemon at 1080p, {cores} cores; box %: of all cores, with cameras and broker; daemon %: the daemon alone; \
         CPU ms: for each analysed picture, all of the daemon included; 50 % and 80 %: rates chosen for that load of the box"
    );
    report(&title, HEAD, &table);
    scaling(&many);
}
