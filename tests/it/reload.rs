//! Another config for a running daemon: only what changed begins anew.
use serde_json::{Value, json};

use crate::support::{Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip};

fn clip(name: &str) -> String {
    format!("{name}={}", demo_clip("kitchen.mp4").display())
}

fn reported(listener: &mut Listener, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let heard = listener.wait_for(what, |m| {
        m.topic.ends_with("/config/reported") && wanted(&m.payload)
    });
    heard.payload
}

fn counter(telemetry: &Value, metric: &str, camera: &str) -> u64 {
    let key = format!("{metric}{{camera=\"{camera}\"}}");
    telemetry["counters"][key].as_u64().unwrap_or(0)
}

/// Telemetry in which the camera has given at least so many pictures.
fn after_pictures(listener: &mut Listener, camera: &str, pictures: u64) -> Value {
    let heard = listener.wait_for("telemetry with more pictures", |m| {
        m.topic.ends_with("/telemetry")
            && counter(&m.payload, "decode_frames_total", camera) >= pictures
    });
    heard.payload
}

#[test]
fn a_changed_camera_begins_anew_and_another_loses_no_picture() {
    let camera = Camera::start(&[&clip("one"), &clip("two")]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = camera_table("wok", &camera.url("one"), "")
        + &camera_table("wash", &camera.url("two"), "")
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    let first = reported(&mut listener, "the config in force", |r| {
        r["source"] == "file"
    });
    assert_eq!(first["restarted"], json!(["all"]));
    let before = after_pictures(&mut listener, "wash", 10);
    let text = site.read_config();
    assert_eq!(
        first["revision"],
        mingchu::base::digest::sha256_hex(text.as_bytes())
    );

    // The file alone changes: nobody says so.
    site.write_config(&text.replacen("id = \"wok\"", "id = \"wok\"\nanalyse_fps = 2", 1));
    let changed = reported(&mut listener, "another config", |r| {
        r["revision"] != first["revision"]
    });
    assert_eq!(changed["restarted"], json!(["camera wok"]));
    assert_eq!(changed["rejected"], Value::Null);
    let seen = counter(&before, "decode_frames_total", "wash");
    let after = after_pictures(&mut listener, "wash", seen + 50);
    assert_eq!(counter(&after, "capture_sessions_total", "wok"), 2);
    assert_eq!(
        counter(&after, "capture_sessions_total", "wash"),
        1,
        "its session goes on"
    );
    // No packet is missing in the numbers of RTP, and no picture in those of the camera's stream: from
    // its first on, each that came was decoded.
    for metric in [
        "capture_packets_lost_total",
        "decode_pictures_missing_total",
    ] {
        let key = format!("{metric}{{camera=\"wash\"}}");
        assert_eq!(after["counters"][key], json!(0), "{metric}");
    }
    let gone_on = |t: &Value| counter(t, "capture_units_total", "wash");
    assert!(gone_on(&after) >= gone_on(&before) + 50, "{after:#}");
    let counters = after["counters"].as_object().unwrap();
    for (name, n) in counters.iter().filter(|(k, _)| k.contains("\"wash\"")) {
        let loss = [
            "capture_units_dropped",
            "capture_failures",
            "decode_errors",
            "decode_pictures_missing",
            "decode_rebuilds",
        ];
        let is_loss = loss.iter().any(|l| name.starts_with(l));
        // Before the first key picture nothing can be shown.
        assert!(
            !is_loss || name.contains("awaiting_key") || *n == json!(0),
            "{name} {n}"
        );
    }
    assert!(daemon.terminate().success());
}

#[test]
fn a_wrong_config_is_refused_with_all_its_mistakes_and_the_one_before_stays() {
    let camera = Camera::start(&[&clip("one")]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = camera_table("wok", &camera.url("one"), "") + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    listener.camera("wok", "online");
    let good = site.read_config();
    let wrong = good
        .replace("id = \"wok\"", "id = \"wok\"\nanalyse_fsp = 2")
        .replace("dwell_ms = 500", "dwell_ms = -1");
    site.write_config(&wrong);
    daemon.signal("-HUP");
    let notice = listener.wait_for("a notice", |m| m.topic.ends_with("/notice"));
    let event = &notice.payload;
    assert_eq!(event["type"], "cn.mingchu.notice.config.rejected.v1");
    let problems = event["data"]["data"]["problems"].as_array().unwrap();
    let keys: Vec<_> = problems
        .iter()
        .map(|p| p["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["camera[0].analyse_fsp", "rule[0].dwell_ms"]);
    assert!(
        problems.iter().all(|p| p["line"].as_u64().unwrap() > 0),
        "{problems:#?}"
    );
    assert_eq!(problems[0]["file"], "site.toml");
    let report = listener.eventually("the refusal", |m| {
        m.topic.ends_with("/config/reported") && m.payload["rejected"].is_object()
    });
    let report = report.payload;
    assert_eq!(report["restarted"], json!(["all"]));
    assert_eq!(
        report["rejected"]["revision"],
        mingchu::base::digest::sha256_hex(wrong.as_bytes())
    );
    let told = |s: &Value| {
        s["problems"]
            .to_string()
            .contains("a new config is refused")
    };
    listener.eventually("the problem in the status", |m| {
        m.topic.ends_with("site-000123/status") && told(&m.payload)
    });

    // Another site in the same process is refused too, although there is no mistake in it.
    site.write_config(&good.replace("site-000123", "site-000124"));
    daemon.signal("-HUP");
    let report = reported(&mut listener, "another refusal", |r| {
        r["rejected"]["problems"][0]["key"] == "site.id"
    });
    assert_eq!(report["rejected"]["problems"].as_array().unwrap().len(), 1);

    site.write_config(&good);
    daemon.signal("-HUP");
    let report = reported(&mut listener, "peace", |r| r["rejected"].is_null());
    assert_eq!(report["restarted"], json!([]));
    listener.status("a status without the problem", |s| {
        s["online"] == true && !told(s)
    });
    assert!(daemon.terminate().success());
}

#[test]
fn rules_cameras_and_the_broker_change_without_a_restart() {
    let camera = Camera::start(&[&clip("one"), &clip("two")]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let slow = QUICK_RULE.replace("clear_ms = 2000", "clear_ms = 600000");
    let tables = camera_table("wok", &camera.url("one"), "") + &slow;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let id = opened["data"]["finding"].as_str().unwrap().to_owned();

    // A camera comes, in front of the other; the open finding goes on.
    let text = site.read_config();
    let new = camera_table("wash", &camera.url("two"), "") + "[[camera]]\nid = \"wok\"";
    let two = text.replace("[[camera]]\nid = \"wok\"", &new);
    site.write_config(&two);
    daemon.signal("-HUP");
    let changed = reported(&mut listener, "two cameras", |r| {
        r["restarted"] == json!(["camera wash", "rules"])
    });
    assert_eq!(changed["rejected"], Value::Null);
    let again = listener.wait_for("the finding of the new camera", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["camera"]["id"] == "wash"
    });
    assert_eq!(again.payload["data"]["phase"], "opened");
    let of_first = |m: &crate::support::Heard| {
        m.topic.contains("/finding/") && m.payload["data"]["finding"] == id.as_str()
    };
    let goes_on = listener.wait_for("the finding that was open", of_first);
    assert_eq!(goes_on.payload["data"]["phase"], "updated");
    assert_eq!(goes_on.payload["data"]["camera"]["id"], "wok");

    // The rule goes to another name: its findings end. The broker is another one.
    let other = Mosquitto::start();
    let mut there = Listener::start(other.port);
    let moved = two
        .replace("id = \"mask\"", "id = \"mask-2\"")
        .replace(&broker.url(), &other.url());
    site.write_config(&moved);
    daemon.signal("-HUP");
    let online = there.status("the site at the other broker", |s| s["online"] == true);
    assert_eq!(online["cameras"], 2);
    there.eventually("a finding of the new rule", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["rule"]["id"] == "mask-2"
    });
    // It was decided before the line was given up, so the broker of that time has it.
    listener.eventually("the end of the finding", |m| {
        of_first(m) && m.payload["data"]["phase"] == "closed"
    });

    // A camera goes: the broker forgets it.
    site.write_config(&moved.replace(&camera_table("wash", &camera.url("two"), ""), ""));
    daemon.signal("-HUP");
    there.wait_for("the end of the camera's status", |m| {
        m.topic.ends_with("/camera/wash/status") && m.payload.is_null()
    });
    assert!(daemon.terminate().success());
}
