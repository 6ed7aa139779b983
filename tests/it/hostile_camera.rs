//! Cameras that break the rules, or go away, and what must be seen of it.
//!
//! | what the camera does | what must be seen | test |
//! | --- | --- | --- |
//! | accepts and never answers; answers what is no RTSP; a header line, header lines or a body without end; a picture without end; reports but no pictures; pictures of 8K; no picture that stands alone; no session to spare; a clip of parameter sets only | its state and why, in words; its memory let go; the other cameras watch on in their first session | `each_hostile_camera_is_told_apart_and_the_others_watch_on_with_flat_memory` |
//! | the same timestamp for ever; timestamps that run backwards; another codec or size in mid-stream; a session that is remembered after its connection is gone | pictures of one session, or of the next at once | `odd_cameras_are_watched_all_the_same` |
//! | accepts and never answers, and one day does | online within 5 s, whatever it was asked before | `a_camera_that_hung_is_back_within_five_seconds` |
//! | goes off; comes back after a long time | offline within 10 s, online within 5 s of its return | `a_camera_that_was_away_for_long_is_back_within_five_seconds` |
//! | falls silent while its reports go on | offline within 10 s, by the default limits | `reports_without_pictures_are_silence` |
//! | answers what made the RTSP library panic when it was fuzzed | a lost session, and the camera again once it answers as it should | `what_fuzzing_found_costs_a_session` |
//! | goes off and on every second | one state at a time, no thread or file left behind | `a_camera_that_flaps_leaves_nothing_behind` |
//! | all are down for a day | as many attempts as a day has leave no memory, thread or file behind | `a_day_of_attempts_leaves_nothing_behind` |
//! | one is down for a simulated day | one attempt every three seconds at most, one change of state, seldom a line in the log | `src/capture/camera/tests.rs` |
//! | refuses the login | five minutes | `src/capture/camera/tests.rs` |
//! | breaks something in this program | five faults in a minute rest the camera for five minutes | `src/capture/camera/tests.rs` |
//! | the wall clock is set a day ahead or back | cameras, sessions and durations unmoved | `supervision.rs` |
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::ids::{CameraId, CameraIx};
use mingchu::base::metrics::{Metric, Metrics};
use mingchu::base::time::{SystemClock, UtcMicros};
use mingchu::capture::{
    CameraTask, CaptureConfig, CaptureError, CaptureHealth, CaptureState, GopRing, NoUnit,
    QueueDrops, RingLimits, RtspHosts, RtspOpener, SourceOpener as _, Transport, unit_queue,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::rtsp_peer::{Peer, Ways, clip};
use crate::support::{
    Camera, LIMIT, Listener, Mosquitto, Page, QUICK_RULE, SiteDir, camera_table, demo_clip,
    page_of, root,
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn opener(url: &str) -> RtspOpener {
    RtspOpener {
        url: Url::parse(url).unwrap(),
        login: None,
        transport: Transport::Tcp,
        step_timeout: CaptureConfig::STEP_TIMEOUT,
        silence: CaptureConfig::SILENCE,
        hosts: RtspHosts::default(),
        clock: SystemClock::shared(),
    }
}

/// A camera's capture as the daemon has it, by the default limits, with somebody who takes its units.
struct Capture {
    health: watch::Receiver<CaptureHealth>,
    metrics: Metrics,
    taken: Arc<AtomicU64>,
    stop: CancellationToken,
    runtime: Runtime,
    decoder: Option<JoinHandle<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Capture {
    fn start(url: &str) -> Self {
        let (metrics, clock) = (Metrics::default(), SystemClock::shared());
        let (units, received) = unit_queue(QueueDrops::new(&metrics, "wok-1"));
        let (tell, health) = watch::channel(CaptureHealth::starting(UtcMicros(0)));
        let limits = RingLimits {
            bytes: 4 << 20,
            span: Duration::from_secs(5),
        };
        let heartbeat = Heartbeats::new(clock.clone()).register("capture", CameraTask::BEAT);
        let (stop, taken) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let task = CameraTask {
            camera: CameraIx(0),
            id: CameraId::new("wok-1").unwrap(),
            opener: Arc::new(opener(url)),
            units: Some(units),
            ring: GopRing::new(limits, &metrics, "wok-1"),
            health: tell,
            metrics: metrics.clone(),
            clock,
            heartbeat,
            stop: stop.clone(),
        };
        let runtime = runtime();
        let counted = taken.clone();
        let decoder = std::thread::spawn(move || {
            loop {
                match received.receive(Duration::from_secs(1)) {
                    Ok(_) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                    Err(NoUnit::Closed) => return,
                    Err(_) => {}
                }
            }
        });
        Self {
            health,
            metrics,
            taken,
            stop,
            task: Some(runtime.spawn(task.run())),
            runtime,
            decoder: Some(decoder),
        }
    }

    /// Waits for a state; how long it took.
    fn until(&mut self, state: CaptureState, limit: Duration) -> Duration {
        let began = Instant::now();
        let health = &mut self.health;
        let seen = self.runtime.block_on(async {
            tokio::time::timeout(limit, health.wait_for(|h| h.state == state))
                .await
                .map(|h| h.unwrap().clone())
        });
        assert!(
            seen.is_ok(),
            "not {state:?} within {limit:?}: {:?}",
            self.health.borrow()
        );
        began.elapsed()
    }

    fn detail(&self) -> String {
        self.health.borrow().detail.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.cancel();
        let task = self.task.take().unwrap();
        drop(self.runtime.block_on(task));
        drop(self.decoder.take().unwrap().join());
    }
}

/// Threads and open files of this process, and its memory in megabytes.
fn footprint() -> (usize, usize, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (field("Threads:") as usize, files, field("VmRSS:") / 1024.0)
}

/// Waits until no more than so many threads and files are left.
fn settles(threads: usize, files: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (now, open, _) = footprint();
        if now <= threads && open <= files {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{now} threads of {threads}, {open} files of {files}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_camera_that_was_away_for_long_is_back_within_five_seconds() {
    let peer = Peer::start(Ways::Plays(clip(&demo_clip("kitchen.mp4"))));
    let mut capture = Capture::start(&peer.url());
    capture.until(CaptureState::Online, Duration::from_secs(20));
    peer.goes_off();
    let noticed = capture.until(CaptureState::Offline, Duration::from_secs(10));
    // Long enough for the longest wait between two attempts.
    let failures = |c: &Capture| c.metrics.total(Metric::CaptureFailures);
    let deadline = Instant::now() + Duration::from_secs(30);
    while failures(&capture) < 5 {
        assert!(Instant::now() < deadline, "it does not try again");
        std::thread::yield_now();
    }
    assert!(
        capture.detail().contains("cannot be reached"),
        "{}",
        capture.detail()
    );
    peer.comes_back();
    let back = capture.until(CaptureState::Online, Duration::from_secs(5));
    eprintln!("noticed after {noticed:?}, back after {back:?}");
}

#[test]
fn a_camera_that_hung_is_back_within_five_seconds() {
    let peer = Peer::start(Ways::Mute);
    let mut capture = Capture::start(&peer.url());
    capture.until(CaptureState::Offline, Duration::from_secs(10));
    assert_eq!(capture.detail(), "no answer to describe within 8 s");
    // The worst moment: it has just been asked, and will not answer that.
    let asked = peer.connections();
    let deadline = Instant::now() + Duration::from_secs(10);
    while peer.connections() == asked {
        assert!(Instant::now() < deadline, "it is not asked again");
        std::thread::yield_now();
    }
    peer.becomes(Ways::Plays(clip(&demo_clip("kitchen.mp4"))));
    let back = capture.until(CaptureState::Online, Duration::from_secs(5));
    eprintln!("back after {back:?}");
}

#[test]
fn reports_without_pictures_are_silence() {
    let kitchen = clip(&demo_clip("kitchen.mp4"));
    let peer = Peer::start(Ways::Plays(kitchen.clone()));
    let mut capture = Capture::start(&peer.url());
    capture.until(CaptureState::Online, Duration::from_secs(20));
    peer.becomes(Ways::ReportsOnly(kitchen.clone()));
    let noticed = capture.until(CaptureState::Offline, Duration::from_secs(10));
    assert_eq!(capture.detail(), "no picture for 8 s");
    peer.becomes(Ways::Plays(kitchen));
    let back = capture.until(CaptureState::Online, Duration::from_secs(5));
    eprintln!("noticed after {noticed:?}, back after {back:?}");
}

#[test]
fn what_fuzzing_found_costs_a_session() {
    let found = root("tests/fuzz/corpus/rtsp/sdp-without-media-line-order");
    let text = std::fs::read(found).unwrap();
    let cut: &[u8] = b"\n--8<--\n";
    let mut answers = vec![Vec::new()];
    for byte in text {
        let answer: &mut Vec<u8> = answers.last_mut().unwrap();
        answer.push(byte);
        if answer.ends_with(cut) {
            answer.truncate(answer.len() - cut.len());
            answers.push(Vec::new());
        }
    }
    assert!(answers.len() > 2);
    let peer = Peer::start(Ways::Says(Arc::new(answers)));
    let mut capture = Capture::start(&peer.url());
    capture.until(CaptureState::Offline, Duration::from_secs(10));
    assert!(!capture.detail().is_empty());
    eprintln!("{}", capture.detail());
    peer.becomes(Ways::Plays(clip(&demo_clip("kitchen.mp4"))));
    capture.until(CaptureState::Online, Duration::from_secs(5));
}

#[test]
fn a_camera_that_flaps_leaves_nothing_behind() {
    let peer = Peer::start(Ways::Plays(clip(&demo_clip("kitchen.mp4"))));
    let mut capture = Capture::start(&peer.url());
    capture.until(CaptureState::Online, Duration::from_secs(20));
    let (threads, files, before) = footprint();
    for _ in 0..4 {
        peer.goes_off();
        capture.until(CaptureState::Offline, Duration::from_secs(10));
        peer.comes_back();
        capture.until(CaptureState::Online, Duration::from_secs(5));
        // It plays for a second; by its pictures, not by the clock.
        let until = capture.taken.load(Ordering::SeqCst) + 25;
        let deadline = Instant::now() + Duration::from_secs(20);
        while capture.taken.load(Ordering::SeqCst) < until {
            assert!(Instant::now() < deadline, "no pictures");
            std::thread::yield_now();
        }
    }
    // One thread and what it holds may still be on its way out; the camera's are its connection's.
    settles(threads + 2, files + 4);
    let after = footprint().2;
    assert!(after < before + 60.0, "{before:.0} MB, then {after:.0} MB");
    assert_eq!(capture.metrics.total(Metric::CaptureSessions), 5);
}

/// A camera that is tried every three seconds sees 28,800 attempts in a day; eight of them here, at
/// once, an eighth each.
#[test]
fn a_day_of_attempts_leaves_nothing_behind() {
    const CAMERAS: usize = 8;
    // Nobody may take that port meanwhile: it is no ephemeral one.
    let url = "rtsp://127.0.0.1:1/stream";
    let runtime = runtime();
    let tries = |n: usize| {
        let all = (0..CAMERAS).map(|_| {
            let opener = opener(url);
            runtime.spawn(async move {
                for _ in 0..n / CAMERAS {
                    let failed = opener.open().await.err().expect("nobody listens there");
                    assert!(matches!(failed, CaptureError::Unreachable(_)), "{failed}");
                }
            })
        });
        for task in all.collect::<Vec<_>>() {
            runtime.block_on(task).unwrap();
        }
    };
    tries(400);
    let (threads, files, before) = footprint();
    tries(28_800);
    settles(threads, files);
    let after = footprint().2;
    assert!(after < before + 20.0, "{before:.1} MB, then {after:.1} MB");
}

/// Runs ffmpeg on the demo's kitchen.
fn made(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(demo_clip("kitchen.mp4"))
        .args(args)
        .arg(&path)
        .status();
    assert!(status.unwrap().success(), "ffmpeg made no {name}");
    path
}

/// Few pictures, fast: what is in them does not matter.
const QUICKLY: &[&str] = &[
    "-an",
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-crf",
    "40",
    "-bf",
    "0",
];

fn memory_mb(page: &Page) -> u64 {
    page.value("mingchu_process_resident_bytes") / 1_000_000
}

/// The most memory seen while each of the cameras is tried three times more.
fn most_held_mb(address: &str, cameras: &[&str]) -> u64 {
    let tried = |page: &Page, id: &str| {
        page.sum(&format!("mingchu_capture_failures_total{{camera=\"{id}\""))
    };
    let page = Page::read(address);
    let aims: Vec<u64> = cameras.iter().map(|id| tried(&page, id) + 3).collect();
    let deadline = Instant::now() + LIMIT;
    let mut most = memory_mb(&page);
    loop {
        let page = Page::read(address);
        most = most.max(memory_mb(&page));
        let mut tries = cameras.iter().zip(&aims);
        if tries.all(|(id, aim)| tried(&page, id) >= *aim) {
            return most;
        }
        assert!(
            Instant::now() < deadline,
            "a camera is not tried again within {LIMIT:?}: {cameras:?}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn each_hostile_camera_is_told_apart_and_the_others_watch_on_with_flat_memory() {
    let dir = tempfile::tempdir().unwrap();
    let kitchen = clip(&demo_clip("kitchen.mp4"));
    let eight_k = [
        &["-vf", "scale=7680:4320", "-frames:v", "3", "-g", "1"],
        QUICKLY,
    ]
    .concat();
    let eight_k = clip(&made(dir.path(), "8k.mp4", &eight_k));
    let parameters = &[
        "-c",
        "copy",
        "-an",
        "-bsf:v",
        "filter_units=remove_types=1|5",
    ];
    let parameters = made(dir.path(), "parameters.mp4", parameters);
    let cases: Vec<(&str, Ways, &str, &str)> = vec![
        (
            "mute",
            Ways::Mute,
            "offline",
            "no answer to describe within 2 s",
        ),
        ("garbage", Ways::Garbage, "offline", "broke the protocol"),
        ("line", Ways::EndlessLine, "offline", "sent more than 33 MB"),
        (
            "headers",
            Ways::EndlessHeaders,
            "offline",
            "sent more than 33 MB",
        ),
        ("body", Ways::EndlessBody, "offline", "sent more than 33 MB"),
        (
            "picture",
            Ways::EndlessPicture(kitchen.clone()),
            "offline",
            "sent more than 33 MB",
        ),
        (
            "reports",
            Ways::ReportsOnly(kitchen.clone()),
            "offline",
            "no picture for 2 s",
        ),
        (
            "large",
            Ways::Plays(eight_k),
            "no_video",
            "its pictures have 7680 x 4320 pixels, more than the 16 million that are taken",
        ),
        ("keyless", Ways::Keyless(kitchen), "no_video", ""),
        (
            "busy",
            Ways::Refuses(453),
            "offline",
            "no session to spare (453)",
        ),
    ];
    let peers: Vec<(Peer, _)> = cases
        .into_iter()
        .map(|(id, ways, state, detail)| (Peer::start(ways), (id, state, detail)))
        .collect();
    let good = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let limits = "step_timeout_ms = 2000\nsilence_ms = 2000";
    let mut tables = camera_table("good", &good.url("kitchen"), "");
    let url = format!("file:{}", parameters.display());
    tables += &camera_table("parameters", &url, "repeat = true");
    for (peer, (id, ..)) in &peers {
        tables += &camera_table(id, &peer.url(), limits);
    }
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = SiteDir::new(&broker.url(), &(tables + QUICK_RULE));
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    let file = ("parameters", "no_video", "decoded by itself");
    for (id, state, detail) in peers.iter().map(|(_, of)| *of).chain([file]) {
        let topic = format!("/camera/{id}/status");
        listener.eventually(&format!("{id}: {state}, {detail}"), |m| {
            let said = m.payload["detail"].as_str().unwrap_or_default();
            m.topic.ends_with(&topic) && m.payload["state"] == state && said.contains(detail)
        });
    }
    listener.eventually("a finding of the good camera", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["camera"]["id"] == "good"
    });
    // Every flood is tried again and again. What counts is the most that was held over some attempts of each,
    // not a moment of it: floods come and go, each with up to 33 MB.
    let floods = ["line", "headers", "body", "picture"];
    let before = Page::read(&address);
    let first_mb = most_held_mb(&address, &floods);
    let second_mb = most_held_mb(&address, &floods);
    let after = Page::read(&address);
    eprintln!("{first_mb} MB, then {second_mb} MB");
    assert!(
        second_mb < first_mb + 150,
        "{first_mb} MB, then {second_mb} MB"
    );
    assert!(second_mb < 1200, "{second_mb} MB");
    // Nobody else noticed.
    assert_eq!(
        after.value("mingchu_capture_sessions_total{camera=\"good\"}"),
        1
    );
    let decoded = "mingchu_decode_frames_total{camera=\"good\"}";
    assert!(after.value(decoded) > before.value(decoded));
    assert!(daemon.terminate().success());
}

#[test]
fn odd_cameras_are_watched_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let kitchen = clip(&demo_clip("kitchen.mp4"));
    let h265 = clip(&demo_clip("kitchen-h265.mp4"));
    let small = [
        &["-vf", "scale=640:360", "-frames:v", "50", "-g", "10"],
        QUICKLY,
    ]
    .concat();
    let small = clip(&made(dir.path(), "small.mp4", &small));
    let same = Peer::start(Ways::SameTimestamps(kitchen.clone()));
    let back = Peer::start(Ways::BackwardTimestamps(kitchen.clone()));
    let codec = Peer::start(Ways::Plays(kitchen.clone()));
    let size = Peer::start(Ways::Plays(kitchen.clone()));
    let remembered = Duration::from_secs(4);
    let busy = Peer::start(Ways::OneSession(kitchen, remembered));
    let tables = [
        ("same", &same),
        ("back", &back),
        ("codec", &codec),
        ("size", &size),
        ("busy", &busy),
    ]
    .map(|(id, peer)| camera_table(id, &peer.url(), ""))
    .concat();
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = SiteDir::new(&broker.url(), &(tables + QUICK_RULE));
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    let online = |listener: &mut Listener, id: &str, key: &str, value: serde_json::Value| {
        let topic = format!("/camera/{id}/status");
        listener.eventually(&format!("{id} online with {key} {value}"), |m| {
            let said = &m.payload;
            m.topic.ends_with(&topic) && said["state"] == "online" && said[key] == value
        });
    };
    for id in ["same", "back", "codec", "size", "busy"] {
        online(&mut listener, id, "width", 1280.into());
    }
    codec.becomes(Ways::Plays(h265));
    size.becomes(Ways::Plays(small));
    // Its connection breaks; for four seconds it has no session to spare.
    busy.goes_off();
    busy.comes_back();
    online(&mut listener, "codec", "codec", "h265".into());
    online(&mut listener, "size", "width", 640.into());
    let topic = "/camera/busy/status";
    let said = |m: &crate::support::Heard, state: &str, why: &str| {
        let detail = m.payload["detail"].as_str().unwrap_or_default();
        m.topic.ends_with(topic) && m.payload["state"] == state && detail.contains(why)
    };
    listener.eventually("a camera without a session to spare", |m| {
        said(m, "offline", "no session to spare (453)")
    });
    // The newest word on it, so not that of before.
    if !listener
        .heard
        .iter()
        .rev()
        .find(|m| m.topic.ends_with(topic))
        .is_some_and(|m| said(m, "online", ""))
    {
        listener.wait_for("the camera with a session again", |m| said(m, "online", ""));
    }
    let frames = |page: &Page, id: &str| {
        page.value(&format!("mingchu_decode_frames_total{{camera=\"{id}\"}}"))
    };
    let before = Page::read(&address);
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let page = Page::read(&address);
        if ["same", "back", "size"]
            .iter()
            .all(|id| frames(&page, id) > frames(&before, id) + 25)
        {
            break page;
        }
        assert!(Instant::now() < deadline, "no pictures of an odd camera");
        std::thread::yield_now();
    };
    for id in ["same", "back", "size"] {
        let sessions = format!("mingchu_capture_sessions_total{{camera=\"{id}\"}}");
        assert_eq!(after.value(&sessions), 1, "{id} was left and opened again");
    }
    assert!(daemon.terminate().success());
}
