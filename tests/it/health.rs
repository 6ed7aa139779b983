//! Cameras that do not see: findings about them, and the account of what was watched.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mingchu::app::demo::read_clip;
use mingchu::app::demo::rtsp_server::{Clip, Reports, serve};
use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{Clock, MonoMicros, SystemClock, UtcMicros};
use mingchu::uplink::{Change, Shelf, Store};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip};

const HOUR_MS: i64 = 3_600_000;

fn device_finding(listener: &mut Listener, fault: &str, phase: &str) -> Value {
    let what = format!("{phase} finding about a camera");
    let topic = format!("/finding/device.camera.{fault}");
    let heard = listener.wait_for(&what, |m| {
        m.topic.ends_with(&topic) && m.payload["data"]["phase"] == phase
    });
    heard.payload["data"].clone()
}

/// What the daemon wrote down of the running hour, as if it had been the hour before: as after a night
/// without power.
fn an_hour_goes_by(site: &SiteDir) {
    let clock = SystemClock::shared();
    let path = site.path("state/store.sqlite");
    let beats = Heartbeats::new(clock.clone());
    let (store, thread) = Store::open(&path, clock, &Metrics::default(), &beats).unwrap();
    let mut changes = Vec::new();
    for (key, text) in store.shelf(Shelf::Coverage).unwrap() {
        let mut account: Value = serde_json::from_str(&text).unwrap();
        for (field, by) in [("hour", 1), ("until_ms", HOUR_MS)] {
            let value = account[field].as_i64().expect("the hour is running");
            account[field] = Value::from(value - by);
        }
        let shelf = Shelf::Coverage;
        changes.push(Change::Delete { shelf, key });
        changes.push(Change::Put {
            shelf,
            key: "the hour before".to_owned(),
            body: account.to_string(),
        });
    }
    assert_eq!(changes.len(), 2, "one hour was running: {changes:?}");
    store.commit(changes).unwrap();
    store.close();
    thread.join().unwrap();
}

#[test]
fn a_killed_camera_is_a_finding_until_it_is_back_and_its_time_counts_as_offline() {
    let mut camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = "[health]\noffline_s = 2\nclear_s = 1\n".to_owned()
        + &camera_table("wok-1", &camera.url("kitchen"), "silence_ms = 1500")
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    listener.camera("wok-1", "online");
    camera.process.kill();
    let opened = device_finding(&mut listener, "offline", "opened");
    assert_eq!(opened["class"], 3);
    assert_eq!(opened["camera"]["id"], "wok-1");
    assert!(!opened["detail"].as_str().unwrap().is_empty(), "{opened}");
    camera.restart();
    let closed = device_finding(&mut listener, "offline", "closed");
    assert_eq!(closed["finding"], opened["finding"]);
    assert_eq!(closed["revision"], 2);
    assert!(closed["closed_at"].is_string(), "{closed}");
    assert!(daemon.terminate().success());

    an_hour_goes_by(&site);
    let mut daemon = site.daemon();
    let heard = listener.wait_for("a coverage report", |m| m.topic.ends_with("/coverage"));
    let report = &heard.payload["data"];
    assert_eq!(
        (&report["partial"], &report["revision"]),
        (&Value::from(false), &Value::from(1))
    );
    let of_camera = &report["cameras"][0];
    assert_eq!(of_camera["camera"], "wok-1");
    let watched = of_camera["watched_ms"].as_i64().unwrap();
    let blind = of_camera["blind_ms"].as_object().unwrap();
    let offline = blind["offline"].as_i64().unwrap();
    let sum = watched + blind.values().map(|v| v.as_i64().unwrap()).sum::<i64>();
    assert_eq!(sum, HOUR_MS, "{report}");
    assert!(watched > 0 && offline >= 2000, "{report}");
    assert!(daemon.terminate().success());
}

/// A camera's own clock: the machine's, and so many seconds ahead.
#[derive(Debug, Default)]
struct CameraClock {
    ahead_s: AtomicI64,
}

impl Clock for CameraClock {
    fn mono(&self) -> MonoMicros {
        SystemClock.mono()
    }

    fn utc(&self) -> UtcMicros {
        let ahead_us = self.ahead_s.load(Ordering::SeqCst) * 1_000_000;
        UtcMicros(SystemClock.utc().0 + ahead_us)
    }
}

/// A camera of our own, which reports its clock more often than real ones do; its URL.
fn camera_with_clock(
    runtime: &tokio::runtime::Runtime,
    clip: &Arc<Clip>,
    clock: &Arc<CameraClock>,
    stop: &CancellationToken,
) -> String {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("rtsp://{}/kitchen", listener.local_addr().unwrap());
    let reports = Reports {
        clock: clock.clone(),
        every: Duration::from_millis(300),
    };
    runtime.spawn(serve(listener, clip.clone(), reports, stop.clone()));
    url
}

#[test]
fn a_camera_whose_clock_is_off_is_told_with_how_much_until_it_is_right_again() {
    let clip = Arc::new(read_clip(&demo_clip("kitchen.mp4")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let (wok, wash) = (
        Arc::new(CameraClock::default()),
        Arc::new(CameraClock::default()),
    );
    wok.ahead_s.store(-90, Ordering::SeqCst);
    let tables = "[health]\nclock_s = 1\nclear_s = 1\n".to_owned()
        + &camera_table("wok", &camera_with_clock(&runtime, &clip, &wok, &stop), "")
        + &camera_table(
            "wash",
            &camera_with_clock(&runtime, &clip, &wash, &stop),
            "",
        )
        + QUICK_RULE;
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    let state = listener.camera("wok", "clock_skew");
    assert_eq!(state["detail"], "its clock is 90 s behind ours");
    let opened = device_finding(&mut listener, "clock", "opened");
    assert_eq!(
        (&opened["class"], &opened["camera"]["id"]),
        (&Value::from(3), &Value::from("wok"))
    );
    assert_eq!(opened["detail"], "its clock is 90 s behind ours");

    // Set right; the other one goes wrong: so it was looked at all along, and nothing was said of it.
    let is_of_wash = |m: &crate::support::Heard| {
        m.payload["data"]["camera"]["id"] == "wash" && m.topic.contains("device.camera")
    };
    assert!(!listener.heard.iter().any(is_of_wash));
    wok.ahead_s.store(0, Ordering::SeqCst);
    wash.ahead_s.store(3600, Ordering::SeqCst);
    let closed = device_finding(&mut listener, "clock", "closed");
    assert_eq!(closed["finding"], opened["finding"]);
    assert_eq!(closed["reason"], "clear");
    listener.eventually("the camera whose clock was set", |m| {
        m.topic.ends_with("/camera/wok/status")
            && m.payload["state"] == "online"
            && m.payload["since"].as_str() > state["since"].as_str()
    });
    let other = listener.eventually("the other camera's finding", is_of_wash);
    assert_eq!(
        other.payload["data"]["detail"],
        "its clock is 3600 s ahead of ours"
    );
    assert!(daemon.terminate().success());
    stop.cancel();
}

/// The demo's kitchen for 4 s, and 6 s of one plain colour with a running clock and a logo, through a
/// coder: what a camera sends whose privacy mask is switched on.
fn clip_with_privacy_mask(dir: &Path) -> PathBuf {
    let path = dir.join("masked.mp4");
    let graph = "[0:v]trim=end=4,setpts=PTS-STARTPTS,scale=1280:720,fps=15,setsar=1[kitchen];\
         [2:v]trim=end_frame=1,loop=loop=-1:size=1[logo];\
         [1:v][3:v]overlay=x=16:y=16[clock];\
         [clock][logo]overlay=x=(W-w)/2:y=(H-h)/2:shortest=1,setsar=1[mask];\
         [kitchen][mask]concat=n=2:v=1,format=yuv420p[out]";
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(demo_clip("kitchen.mp4"))
        .args(["-f", "lavfi", "-i", "color=c=0x1a3c6e:s=1280x720:r=15:d=6"])
        .args(["-f", "lavfi", "-i", "testsrc=s=120x90:r=15:d=6"])
        .args(["-f", "lavfi", "-i", "testsrc2=s=320x24:r=15:d=6"])
        .args(["-filter_complex", graph, "-map", "[out]", "-an"])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "30"])
        .args(["-g", "30", "-bf", "0"])
        .arg(&path)
        .status();
    assert!(status.unwrap().success(), "ffmpeg made no clip");
    path
}

#[test]
fn a_privacy_mask_is_a_state_a_finding_and_a_cause_until_it_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let clip = clip_with_privacy_mask(dir.path());
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = "[health]\nmasked_s = 2\nclear_s = 1\n".to_owned()
        + &camera_table(
            "wok-1",
            &format!("file:{}", clip.display()),
            "repeat = true",
        )
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    let state = listener.camera("wok-1", "masked");
    let detail = state["detail"].as_str().unwrap();
    assert!(detail.contains("privacy mask"), "{detail}");
    let opened = device_finding(&mut listener, "masked", "opened");
    assert_eq!(opened["detail"], detail);
    let closed = device_finding(&mut listener, "masked", "closed");
    assert_eq!(closed["finding"], opened["finding"]);
    assert!(daemon.terminate().success());
    let others = listener.findings().filter(|f| {
        let code = f["data"]["code"].as_str().unwrap();
        code.starts_with("device.") && code != "device.camera.masked"
    });
    assert_eq!(others.count(), 0);

    an_hour_goes_by(&site);
    let mut daemon = site.daemon();
    let heard = listener.wait_for("a coverage report", |m| m.topic.ends_with("/coverage"));
    let blind = &heard.payload["data"]["cameras"][0]["blind_ms"];
    assert!(blind["masked"].as_i64() >= Some(2000), "{blind}");
    assert!(daemon.terminate().success());
}

/// A real stream whose pictures were damaged on the way into it.
#[test]
fn a_stream_that_cannot_be_decoded_is_a_finding_that_says_no_video() {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("damaged.mp4");
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(demo_clip("kitchen.mp4"))
        .args(["-c", "copy", "-an", "-bsf:v", "noise=amount=3"])
        .arg(&clip)
        .status();
    assert!(status.unwrap().success(), "ffmpeg made no clip");
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let url = format!("file:{}", clip.display());
    let tables = "[health]\nno_video_s = 1\n".to_owned()
        + &camera_table("wok-1", &url, "repeat = true")
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    let opened = device_finding(&mut listener, "no-video", "opened");
    assert_eq!(opened["title"]["en"], "Camera without video");
    assert!(daemon.terminate().success());
}
