//! Cameras that do not see: findings about them, and the account of what was watched.
use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::SystemClock;
use mingchu::uplink::{Change, Shelf, Store};
use serde_json::Value;

use crate::support::{Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip};

const HOUR_MS: i64 = 3_600_000;

fn device_finding(listener: &mut Listener, phase: &str) -> Value {
    let what = format!("{phase} finding about a camera");
    let heard = listener.wait_for(&what, |m| {
        m.topic.ends_with("/finding/device.camera.offline") && m.payload["data"]["phase"] == phase
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
    let opened = device_finding(&mut listener, "opened");
    assert_eq!(opened["class"], 3);
    assert_eq!(opened["camera"]["id"], "wok-1");
    assert!(!opened["detail"].as_str().unwrap().is_empty(), "{opened}");
    camera.restart();
    let closed = device_finding(&mut listener, "closed");
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
