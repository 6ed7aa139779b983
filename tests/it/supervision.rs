//! Parts of the program that panic or hang, and what must be seen of it: DESIGN's failure policy, stage by
//! stage, on a whole site in this process with a real camera, broker and models.
//!
//! Nothing in the program is there for these tests. Every stage asks the site's clock for the time, on
//! its own thread or task, and whoever composes the site gives it the clock: here one that panics, or does
//! not come back, when the chosen stage asks.
//!
//! | what fails | what must be seen | test |
//! | --- | --- | --- |
//! | capture panics, in its task or in the session's thread | that camera's session ends and begins anew; the others watch on | `a_panic_of_capture_costs_one_session` |
//! | decode panics | the decoder is built anew from the next key unit | `a_panic_of_decoding_costs_a_group_of_pictures` |
//! | decode panics five times in a minute | the camera is `failed`, rests five minutes, and is watched again | `five_panics_of_decoding_rest_the_camera_for_five_minutes` |
//! | the decoder hangs | 503 and the stage by name, the watchdog is not fed; the others watch on | `a_stuck_decoder_is_named_and_the_other_camera_is_watched` |
//! | an inference hangs | the same | `a_stuck_inference_is_named` |
//! | a detect worker panics | the picture is lost and counted, the sessions are built anew | `a_panic_of_a_worker_costs_a_picture` |
//! | it panics on every picture | after ten and ten more the site ends in order, exit 70 | `a_worker_that_keeps_panicking_ends_the_site` |
//! | an inference fails on every picture | the same, with errors instead of panics | `inference_that_keeps_failing_ends_the_site` |
//! | track or rules, the evidence thread, the store, the uplink, the inbox, the commands | exit 70 in order, said in the last status; what was committed is there, and the next start goes on with it | `a_panic_of_…_ends_the_site_and_loses_nothing` |
//! | blurring a clip | the command is answered `failed`, the site goes on | `a_panic_while_blurring_fails_the_command_alone` |
//! | the status page | that reader gets no answer, the next one does | `a_panic_of_the_status_page_costs_one_reader` |
//! | the wall clock is set a day ahead, and back | cameras, sessions and durations unmoved | `a_clock_that_jumps_a_day_moves_no_camera` |
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mingchu::app::config;
use mingchu::app::exit::{ExitCode, Outcome};
use mingchu::app::run::run_by;
use mingchu::app::site::{STORE_FILE, Site};
use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{SystemClock, UtcMicros};
use mingchu::uplink::Store;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::centre::ask;
use crate::faults::{At, DETECTOR, Fault, FaultyClock, SAMPLER, failing_model};
use crate::support::{
    Camera, Heard, Listener, Mosquitto, Page, QUICK_RULE, SiteDir, camera_table, demo_clip,
    free_port, get, root,
};

/// A whole site in this process.
struct Running {
    clock: Arc<FaultyClock>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Outcome>>,
    broker: Mosquitto,
    listener: Listener,
    /// Of the status page.
    address: String,
    site: SiteDir,
    _camera: Camera,
}

fn new_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .unwrap()
}

impl Running {
    /// A site with these cameras, which runs until it is told to stop.
    fn start(cameras: &[&str]) -> Self {
        Self::start_with(cameras, |_| ())
    }

    fn start_with(cameras: &[&str], change: impl FnOnce(&SiteDir)) -> Self {
        Self::run(cameras, change, |site, clock, stop| {
            new_runtime().block_on(async move {
                let config = config::load(&site).unwrap();
                let built = std::thread::spawn(|| Site::build(config, clock));
                let mut site = built.join().unwrap()?.start()?;
                tokio::select! {
                    () = stop.cancelled() => {}
                    fault = site.fault() => panic!("it ended: {fault:#}"),
                }
                site.stop().await;
                Ok(())
            })
        })
    }

    /// A site as `mingchu run` runs it, which ends by a fault.
    fn until_it_ends(cameras: &[&str], change: impl FnOnce(&SiteDir)) -> Self {
        Self::run(cameras, change, |site, clock, _| {
            new_runtime().block_on(run_by(&site, clock))
        })
    }

    fn run(
        cameras: &[&str],
        change: impl FnOnce(&SiteDir),
        work: impl FnOnce(PathBuf, Arc<FaultyClock>, CancellationToken) -> Outcome + Send + 'static,
    ) -> Self {
        let camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
        let broker = Mosquitto::start();
        let listener = Listener::start(broker.port);
        let tables: Vec<String> = cameras
            .iter()
            .map(|id| camera_table(id, &camera.url("kitchen"), "analyse_fps = 4"))
            .collect();
        let site = SiteDir::new(&broker.url(), &(tables.concat() + QUICK_RULE));
        let address = format!("127.0.0.1:{}", free_port());
        site.write_config(&site.read_config().replace("127.0.0.1:0", &address));
        change(&site);
        let (clock, stop) = (Arc::new(FaultyClock::default()), CancellationToken::new());
        let (path, with, told) = (site.config(), clock.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("site".to_owned());
        Self {
            clock,
            stop,
            thread: Some(thread.spawn(move || work(path, with, told)).unwrap()),
            broker,
            listener,
            address,
            site,
            _camera: camera,
        }
    }

    fn page(&self) -> Page {
        Page::read(&self.address)
    }

    /// Waits until the page says so.
    fn page_says(&self, what: &str, wanted: impl Fn(&Page) -> bool) -> Page {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let page = self.page();
            if wanted(&page) {
                return page;
            }
            assert!(Instant::now() < deadline, "no {what}");
            std::thread::yield_now();
        }
    }

    fn restarts(&self, stage: &str, times: u64) {
        let key = format!("mingchu_stage_restarts_total{{stage=\"{stage}\"}}");
        self.page_says(&key, |page| page.value(&key) >= times);
    }

    /// Pictures of this camera are analysed now.
    fn watches(&self, camera: &str) {
        let key = format!("mingchu_detect_frames_total{{camera=\"{camera}\"}}");
        let before = self.page().value(&key);
        self.page_says("watching", |page| page.value(&key) > before + 4);
    }

    fn stuck(&self) -> (String, Value) {
        let (status, body) = get(&self.address, "/healthz", "");
        let health: Value = serde_json::from_str(&body).unwrap();
        (status, health["stuck"].clone())
    }

    /// Its end in good order.
    fn stop(mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// Its end by a fault: exit 70, in order.
    fn ended(&mut self) -> String {
        let thread = self.thread.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
        let failure = thread.join().unwrap().unwrap_err();
        assert_eq!(failure.code, ExitCode::Internal, "{failure}");
        failure.to_string()
    }
}

#[test]
fn a_panic_of_capture_costs_one_session() {
    let mut site = Running::start(&["wok-1", "wash-2"]);
    for id in ["wok-1", "wash-2"] {
        let topic = format!("/camera/{id}/status");
        site.listener.eventually("an online camera", |m| {
            m.topic.ends_with(&topic) && m.payload["state"] == "online"
        });
    }
    let stages = "mingchu_stage_restarts_total{stage=\"capture/";
    for (n, at) in [At::Thread("rtsp", ""), At::Task("src/capture/camera.rs")]
        .into_iter()
        .enumerate()
    {
        let told = site.listener.heard.len();
        site.clock.arm(at, Fault::Panic, 1);
        site.clock.met();
        site.page_says("a session begun anew", |page| {
            page.sum(stages) == n as u64 + 1
        });
        let lost = site.listener.wait_for("a lost camera", |m| {
            m.topic.contains("/camera/") && m.payload["state"] == "offline"
        });
        assert_eq!(
            lost.payload["detail"],
            "a fault in this program ended the session; the log says where"
        );
        site.listener.wait_for("the camera back", |m| {
            m.topic == lost.topic && m.payload["state"] == "online"
        });
        let since = site.listener.heard[told..].iter();
        let of_other = since.filter(|m| m.topic.contains("/camera/") && m.topic != lost.topic);
        assert!(of_other.clone().all(|m| m.payload["state"] == "online"));
    }
    // Three sessions of two cameras, but for the second panic's.
    assert_eq!(site.page().sum("mingchu_capture_sessions_total"), 4);
    site.watches("wok-1");
    site.watches("wash-2");
    site.stop();
}

#[test]
fn a_panic_of_decoding_costs_a_group_of_pictures() {
    let mut site = Running::start(&["wok-1"]);
    site.listener.camera("wok-1", "online");
    site.clock
        .arm(At::Thread("decode/wok-1", SAMPLER), Fault::Panic, 1);
    site.restarts("decode/wok-1", 1);
    site.watches("wok-1");
    let page = site.page();
    for metric in ["decode_errors", "decode_rebuilds", "capture_sessions"] {
        let key = format!("mingchu_{metric}_total{{camera=\"wok-1\"}}");
        assert_eq!(page.value(&key), 1, "{key}");
    }
    site.listener.finding("opened");
    site.stop();
}

#[test]
fn five_panics_of_decoding_rest_the_camera_for_five_minutes() {
    let mut site = Running::start(&["wok-1", "wash-2"]);
    site.listener.eventually("an online camera", |m| {
        m.topic.ends_with("/camera/wok-1/status") && m.payload["state"] == "online"
    });
    site.clock
        .arm(At::Thread("decode/wok-1", SAMPLER), Fault::Panic, 5);
    site.restarts("decode/wok-1", 5);
    let failed = site.listener.camera("wok-1", "failed");
    assert!(!failed["detail"].as_str().unwrap().is_empty(), "{failed}");
    site.watches("wash-2");
    site.clock.goes_by(Duration::from_secs(270));
    site.watches("wash-2");
    let key = "mingchu_camera_state{camera=\"wok-1\",state=\"failed\"}";
    assert_eq!(site.page().value(key), 1);
    site.clock.goes_by(Duration::from_secs(60));
    site.page_says("the camera again", |page| page.value(key) == 0);
    site.watches("wok-1");
    site.stop();
}

/// Waits until nobody but these is stuck.
fn is_stuck(site: &Running, stages: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, stuck) = site.stuck();
        if stuck == serde_json::json!(stages) {
            let wanted = if stages.is_empty() { "200" } else { "503" };
            assert!(status.contains(wanted), "{status}");
            return;
        }
        assert!(Instant::now() < deadline, "stuck: {stuck}");
        std::thread::yield_now();
    }
}

#[test]
fn a_stuck_decoder_is_named_and_the_other_camera_is_watched() {
    let mut site = Running::start(&["wok-1", "wash-2"]);
    site.listener.eventually("an online camera", |m| {
        m.topic.ends_with("/camera/wok-1/status") && m.payload["state"] == "online"
    });
    site.clock
        .arm(At::Thread("decode/wok-1", ""), Fault::Hang, 1);
    site.clock.met();
    site.clock.goes_by(Duration::from_secs(61));
    is_stuck(&site, &["decode/wok-1"]);
    let page = site.page();
    assert_eq!(page.value("mingchu_stage_stuck{stage=\"decode/wok-1\"}"), 1);
    assert_eq!(page.value("mingchu_health{status=\"stuck\"}"), 1);
    // Its queue does not grow: what comes is dropped and counted.
    let dropped = "mingchu_capture_units_dropped_total{camera=\"wok-1\"";
    site.page_says("dropped units", |page| page.sum(dropped) > 0);
    site.watches("wash-2");
    site.clock.release();
    is_stuck(&site, &[]);
    site.watches("wok-1");
    site.stop();
}

#[test]
fn a_stuck_inference_is_named() {
    let mut site = Running::start(&["wok-1"]);
    site.listener.camera("wok-1", "online");
    site.watches("wok-1");
    site.clock.arm(At::Thread("detect/0", ""), Fault::Hang, 1);
    site.clock.met();
    site.clock.goes_by(Duration::from_secs(61));
    is_stuck(&site, &["detect/0"]);
    let replaced = "mingchu_frames_replaced_total{camera=\"wok-1\"}";
    site.page_says("replaced pictures", |page| page.value(replaced) > 0);
    site.clock.release();
    is_stuck(&site, &[]);
    site.watches("wok-1");
    site.stop();
}

#[test]
fn a_panic_of_a_worker_costs_a_picture() {
    let mut site = Running::start(&["wok-1"]);
    site.listener.camera("wok-1", "online");
    site.watches("wok-1");
    site.clock
        .arm(At::Thread("detect/0", DETECTOR), Fault::Panic, 1);
    site.clock.met();
    site.restarts("detect/0", 1);
    site.watches("wok-1");
    let errors = "mingchu_detect_errors_total{camera=\"wok-1\"}";
    assert!(site.page().value(errors) <= 1);
    site.stop();
}

/// What was committed when the site ended is in the store, and the program as it is goes on with it.
fn nothing_is_lost(site: &mut Running, opened: &Value) {
    let id = opened["data"]["finding"].as_str().unwrap();
    let told = opened["data"]["revision"].as_u64().unwrap();
    let clock = SystemClock::shared();
    let path = site.site.path("state").join(STORE_FILE);
    let beats = Heartbeats::new(clock.clone());
    let (store, thread) = Store::open(&path, clock, &Metrics::default(), &beats).unwrap();
    let open = store.open_findings().unwrap();
    let kept = open.iter().find(|f| f.data.finding.to_string() == id);
    let closed = store.closed_since(UtcMicros(0)).unwrap();
    let kept = kept.or(closed.iter().find(|f| f.data.finding.to_string() == id));
    assert!(
        kept.is_some_and(|f| u64::from(f.data.revision) >= told),
        "{id} is not there"
    );
    store.close();
    thread.join().unwrap();
    drop(store);
    let is_offline =
        |m: &Heard| m.topic.ends_with("site-000123/status") && m.payload["online"] == false;
    site.listener.wait_for("the site's end", is_offline);
    let mut daemon = site.site.daemon();
    site.listener.wait_for("the site again", |m| {
        m.topic.ends_with("site-000123/status") && m.payload["online"] == true
    });
    assert!(daemon.terminate().success());
}

/// A site whose stage panics at `at` once a finding is open.
fn ends_by(at: At, says: &str) -> (Running, Value) {
    let mut site = Running::until_it_ends(&["wok-1"], |_| ());
    let opened = site.listener.finding("opened");
    site.clock.arm(at, Fault::Panic, 1);
    let why = site.ended();
    assert!(why.contains(says), "{why}");
    nothing_is_lost(&mut site, &opened);
    (site, opened)
}

/// The last status says why.
fn is_told(site: &mut Running, why: &str) {
    let status = site.listener.eventually("the last status", |m| {
        let problems = &m.payload["problems"];
        m.topic.ends_with("site-000123/status")
            && m.payload["online"] == false
            && problems[0].as_str().is_some_and(|p| p.contains(why))
    });
    let zh = status.payload["problems_zh"][0].as_str().unwrap();
    assert!(zh.contains("故障"), "{zh}");
}

#[test]
fn a_panic_of_track_or_rules_ends_the_site_and_loses_nothing() {
    let (mut site, _) = ends_by(At::Thread("analytics", ""), "analytics panicked");
    is_told(&mut site, "analytics panicked");
}

#[test]
fn a_panic_of_the_evidence_thread_ends_the_site_and_loses_nothing() {
    let (mut site, _) = ends_by(At::Thread("evidence", ""), "evidence panicked");
    is_told(&mut site, "evidence panicked");
}

#[test]
fn a_panic_of_the_store_ends_the_site_and_loses_nothing() {
    ends_by(At::Thread("store", ""), "the store ended");
}

#[test]
fn a_panic_of_the_uplink_ends_the_site_and_loses_nothing() {
    ends_by(At::Task("src/uplink/run.rs"), "uplink panicked");
}

#[test]
fn a_panic_of_the_inbox_ends_the_site_and_loses_nothing() {
    let (mut site, _) = ends_by(At::Task("src/uplink/inbox.rs"), "inbox panicked");
    is_told(&mut site, "inbox panicked");
}

#[test]
fn a_panic_of_the_commands_ends_the_site_and_loses_nothing() {
    let (mut site, _) = ends_by(At::Task("src/app/commands.rs"), "commands panicked");
    is_told(&mut site, "commands panicked");
}

#[test]
fn a_worker_that_keeps_panicking_ends_the_site() {
    let mut site = Running::until_it_ends(&["wok-1"], |_| ());
    let opened = site.listener.finding("opened");
    // Each inference asks the clock more than once, so as often as it takes.
    site.clock
        .arm(At::Thread("detect/0", DETECTOR), Fault::Panic, 10_000);
    let why = site.ended();
    assert!(why.contains("panicked"), "{why}");
    site.clock.release();
    nothing_is_lost(&mut site, &opened);
    is_told(&mut site, "panicked");
}

#[test]
fn inference_that_keeps_failing_ends_the_site() {
    let mut site = Running::until_it_ends(&["wok-1"], |site| {
        let shipped = root("models/kitchen.toml").display().to_string();
        let failing = failing_model(site).display().to_string();
        site.write_config(&site.read_config().replace(&shipped, &failing));
    });
    site.listener.camera("wok-1", "online");
    // Ten pictures that nobody looked at, new sessions, and ten more.
    site.restarts("detect/0", 1);
    let page = site.page();
    let of_camera = |metric: &str| page.value(&format!("mingchu_{metric}{{camera=\"wok-1\"}}"));
    assert!(of_camera("detect_errors_total") >= 10);
    assert_eq!(of_camera("detect_frames_total"), 0);
    let why = site.ended();
    assert!(why.contains("inference failed"), "{why}");
    is_told(&mut site, "inference failed");
}

#[test]
fn a_panic_while_blurring_fails_the_command_alone() {
    let mut site = Running::start_with(&["wok-1"], |site| {
        let more = "\n[evidence]\npre_roll_ms = 1000\npost_roll_ms = 1000\n";
        site.write_config(&(site.read_config() + more));
    });
    let later = site
        .listener
        .wait_for("a revision that knows the clip", |m| {
            let evidence = m.payload["data"]["evidence"].as_array();
            evidence.is_some_and(|e| e.iter().any(|e| e["kind"] == "clip"))
        });
    let id = &later.payload["data"]["finding"];
    let asking = serde_json::json!({"finding": id});
    site.clock.arm(At::Thread("blur", ""), Fault::Panic, 1);
    let port = site.broker.port;
    let answer = ask(&mut site.listener, port, "clip", "clip-1", &asking);
    assert_eq!(answer["outcome"], "failed", "{answer}");
    let answer = ask(&mut site.listener, port, "clip", "clip-2", &asking);
    assert_eq!(answer["outcome"], "done", "{answer}");
    let page = site.page();
    let clips = |o: &str| {
        page.value(&format!(
            "mingchu_evidence_clips_blurred_total{{outcome=\"{o}\"}}"
        ))
    };
    assert_eq!((clips("failed"), clips("made")), (1, 1));
    site.stop();
}

#[test]
fn a_panic_of_the_status_page_costs_one_reader() {
    let mut site = Running::start(&["wok-1"]);
    site.listener.camera("wok-1", "online");
    site.watches("wok-1");
    site.clock
        .arm(At::Task("src/app/status.rs"), Fault::Panic, 1);
    let mut reader = TcpStream::connect(&site.address).unwrap();
    reader
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: box\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    // Reset or empty: either way no answer.
    let read = std::io::Read::read_to_string(&mut reader, &mut answer);
    assert!(read.is_err() || answer.is_empty(), "{answer}");
    site.clock.met();
    is_stuck(&site, &[]);
    site.watches("wok-1");
    site.stop();
}

#[test]
fn a_clock_that_jumps_a_day_moves_no_camera() {
    const DAY_US: i64 = 86_400_000_000;
    let mut site = Running::start(&["wok-1"]);
    site.listener.camera("wok-1", "online");
    let opened = site.listener.finding("opened");
    let told = site.listener.heard.len();
    for by in [DAY_US, -2 * DAY_US, DAY_US] {
        site.clock.is_set(by);
        site.watches("wok-1");
        is_stuck(&site, &[]);
    }
    let page = site.page();
    assert_eq!(
        page.value("mingchu_capture_sessions_total{camera=\"wok-1\"}"),
        1
    );
    assert_eq!(page.sum("mingchu_capture_failures_total{"), 0);
    let of_camera = site.listener.heard[told..].iter();
    let other = of_camera.filter(|m| m.topic.ends_with("/camera/wok-1/status"));
    for m in other {
        assert_eq!(m.payload["state"], "online", "{:#}", m.payload);
    }
    // Closed two seconds after the face is gone, by the pictures and not by the clock.
    let closed = site.listener.finding("closed");
    assert_eq!(closed["data"]["finding"], opened["data"]["finding"]);
    site.stop();
}
