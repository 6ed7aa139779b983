//! The daemon on disks that are full, broken, read-only, damaged or cut off: findings go on, the site
//! says what is wrong, and nothing that was promised is lost. The faults happen between the program and
//! the system, see `faulty_disk.rs`.
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::broker::{busy_site, stored, wait_for_seq};
use crate::faulty_disk::{FULL, Fault, FaultyDisk, READ_ONLY};
use crate::support::{
    Heard, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip, get, page_of, run,
};

/// Numbers up to `last` of which no record was heard.
fn not_heard(listener: &Listener, last: u64) -> Vec<u64> {
    let records = ["/finding/", "/coverage", "/notice"];
    let of_record = |topic: &str| records.iter().any(|r| topic.contains(r));
    let heard = listener.heard.iter().filter(|m| of_record(&m.topic));
    let heard: BTreeSet<u64> = heard.filter_map(|m| m.payload["seq"].as_u64()).collect();
    (1..=last).filter(|seq| !heard.contains(seq)).collect()
}

/// Whether one of the site's problems says so, in both languages.
fn says(status: &Value, en: &str, zh: &str) -> bool {
    let says = |key: &str, text: &str| {
        let problems = status[key].as_array();
        problems.is_some_and(|p| {
            p.iter()
                .any(|p| p.as_str().is_some_and(|p| p.contains(text)))
        })
    };
    says("problems", en) && says("problems_zh", zh)
}

fn is_well(status: &Value) -> bool {
    status["problems"] == serde_json::json!([])
}

fn health(page: &str) -> Value {
    let (status, body) = get(page, "/healthz", "");
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    serde_json::from_str(&body).unwrap()
}

fn metric(page: &str, name: &str) -> u64 {
    let (_, body) = get(page, "/metrics", "");
    let lines = body.lines().filter(|l| !l.starts_with('#'));
    let ours = lines.filter(|l| l.split(['{', ' ']).next() == Some(name));
    ours.map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn while_the_disk_refuses_findings_wait_in_memory_and_the_site_says_so() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let disk = FaultyDisk::new(&site.path("state"));
    let mut daemon = site.daemon_on(&disk);
    let page = page_of(&mut daemon);
    listener.finding("opened");
    for (error, why) in [(FULL, "is full"), (READ_ONLY, "cannot be read or written")] {
        disk.fail_all(error);
        // A finding is decided, and is not let go of.
        daemon.wait_for_text("not stored yet: trying again");
        listener.status("a store that fails", |s| {
            says(s, "the store cannot be written", "本地存储无法写入")
                && says(s, "findings wait in memory", "暂存内存")
                && says(s, why, why)
        });
        assert_eq!(health(&page)["status"], "degraded");
        assert!(metric(&page, "mingchu_store_failures_total") > 0);
        assert!(disk.hits() > 0);
        disk.heal();
        listener.status("a site that is well again", is_well);
        assert_eq!(health(&page)["status"], "ok");
    }
    let newest = stored(&mut daemon, 2);
    wait_for_seq(&mut listener, newest);
    assert_eq!(not_heard(&listener, newest), [] as [u64; 0]);
    assert!(daemon.terminate().success());
}

#[test]
fn a_daemon_that_starts_on_a_full_disk_says_what_to_do_and_starts_once_there_is_room() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let disk = FaultyDisk::new(&site.path("state"));
    let mut daemon = site.daemon_on(&disk);
    stored(&mut daemon, 2);
    daemon.kill();
    disk.fail_all(FULL);
    let mut daemon = site.daemon_on(&disk);
    daemon.wait_for_text("make room on the disk");
    // EX_CANTCREAT: systemd tries again.
    assert_eq!(daemon.wait().code(), Some(73));
    disk.heal();
    let mut daemon = site.daemon_on(&disk);
    let newest = stored(&mut daemon, 1);
    wait_for_seq(&mut listener, newest);
    assert_eq!(not_heard(&listener, newest), [] as [u64; 0]);
    assert!(daemon.terminate().success());
}

#[test]
fn evidence_that_finds_no_room_is_named_as_missing_and_findings_go_on() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    let mut tables = camera_table("wok-1", &url, "repeat = true");
    // Each time the face is there it is four findings, one after the other.
    for n in 0..4 {
        let rule = QUICK_RULE.replace("\"mask\"", &format!("\"mask-{n}\""));
        let rule = rule.replace("dwell_ms = 500", &format!("dwell_ms = {}", 500 + 1500 * n));
        tables += &format!("{rule}cooldown_ms = 0\n");
    }
    let site = SiteDir::new(&broker.url(), &tables);
    // Only the evidence's part of the disk fails: the store's is another one here.
    let disk = FaultyDisk::new(&site.path("state/evidence"));
    let mut daemon = site.daemon_on(&disk);
    let page = page_of(&mut daemon);
    let first = listener.finding("opened");
    assert_eq!(first["data"]["missing"], Value::Null);
    assert_eq!(first["data"]["evidence"].as_array().unwrap().len(), 2);
    disk.fail_all(FULL);
    let evidence = |m: &Heard| m.payload["data"]["evidence"].as_array().map(Vec::len);
    let opened =
        |m: &Heard| m.payload["data"]["phase"] == "opened" && m.topic.contains("/finding/");
    let without = listener.wait_for("a finding without pictures", |m| {
        opened(m) && evidence(m) == Some(0)
    });
    let missing = without.payload["data"]["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 3, "{missing:?}");
    // The status may have come before the finding.
    listener.eventually("findings without pictures", |m| {
        says(&m.payload, "findings go without pictures", "没有图片可附")
    });
    assert_eq!(health(&page)["status"], "degraded");
    assert!(metric(&page, "mingchu_evidence_failures_total") > 0);
    disk.heal();
    listener.wait_for("a finding with pictures", |m| {
        opened(m) && evidence(m) == Some(2)
    });
    listener.eventually("pictures again", |m| {
        m.topic.ends_with("000123/status") && is_well(&m.payload)
    });
    assert!(daemon.terminate().success());
    let chain = site.path("state/evidence");
    let (code, out, err) = run(&["verify", chain.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
}

/// Makes a page of the store what it was not: of the index of open findings, which can be made anew.
fn damage(store: &Path) {
    let mut bytes = std::fs::read(store).unwrap();
    bytes[6 * 4096..7 * 4096].fill(0xff);
    std::fs::write(store, bytes).unwrap();
}

#[test]
fn a_damaged_store_is_set_aside_told_to_the_centre_and_the_site_goes_on() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let before = stored(&mut daemon, 2);
    // In good order, so that all of it is in one file.
    assert!(daemon.terminate().success());
    damage(&site.path("state/store.sqlite"));
    let mut daemon = site.daemon();
    let page = page_of(&mut daemon);
    let notice = listener.wait_for("word of it", |m| {
        m.payload["type"] == "cn.mingchu.notice.store.damaged.v1"
    });
    let said = &notice.payload["data"];
    let file = said["data"]["file"].as_str().unwrap().to_owned();
    assert!(said["text"].as_str().unwrap().contains(&file), "{said}");
    assert!(
        said["data"]["through"].as_u64().unwrap() >= before,
        "{said}"
    );
    listener.status("a store that was set aside", |s| {
        says(s, &file, "已另行保存")
    });
    assert_eq!(health(&page)["status"], "degraded");
    assert_eq!(metric(&page, "mingchu_store_damaged_total"), 1);
    assert!(site.path("state").join(&file).is_file());
    // What was open is still open, under its name.
    let id = opened["data"]["finding"].as_str().unwrap().to_owned();
    listener.wait_for("the same finding", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["finding"] == id.as_str()
    });
    let newest = stored(&mut daemon, 1);
    wait_for_seq(&mut listener, newest);
    assert_eq!(not_heard(&listener, newest), [] as [u64; 0]);
    assert!(daemon.terminate().success());
}

#[test]
fn a_daemon_killed_at_any_write_step_again_and_again_loses_nothing() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let disk = FaultyDisk::new(&site.path("state"));
    // In the middle of opening the store, of a finding's pictures, of its commit, of its removal.
    for (fault, at) in [
        (Fault::DieHalf, 9),
        (Fault::Die, 47),
        (Fault::DieHalf, 71),
        (Fault::Die, 97),
        (Fault::DieHalf, 120),
    ] {
        disk.count_anew();
        disk.arm(fault, at, 1, u64::MAX);
        let mut daemon = site.daemon_on(&disk);
        assert!(!daemon.wait().success());
        assert_eq!(disk.hits(), 1, "{fault:?} at {at}: it ended of itself");
    }
    disk.heal();
    let mut daemon = site.daemon_on(&disk);
    let page = page_of(&mut daemon);
    let newest = stored(&mut daemon, 2);
    wait_for_seq(&mut listener, newest);
    assert_eq!(not_heard(&listener, newest), [] as [u64; 0]);
    assert_eq!(health(&page)["status"], "ok");
    assert!(daemon.terminate().success());
    let chain = site.path("state/evidence");
    let (code, out, err) = run(&["verify", chain.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn what_waits_beyond_the_budget_is_given_up_by_class_told_and_findings_all_arrive() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    let mut tables = camera_table("wok-1", &url, "repeat = true");
    for n in 0..15 {
        let class = n % 3 + 1;
        let rule = QUICK_RULE.replace("\"mask\"", &format!("\"mask-{n}\""));
        tables += &format!("{rule}class = {class}\n");
    }
    let site = SiteDir::new(&broker.url(), &tables);
    let config = site.read_config();
    site.write_config(&config.replace(
        "[uplink]\n",
        "[uplink]\nevidence_kbps = 100000\noutbox_mb = 1\n",
    ));
    let mut daemon = site.daemon();
    let page = page_of(&mut daemon);
    daemon.wait_for_text("the outbox is over its budget");
    assert!(metric(&page, "mingchu_outbox_shed_total") > 0);
    let newest = stored(&mut daemon, 1);
    broker.restart();
    let mut listener = Listener::start(broker.port);
    wait_for_seq(&mut listener, newest);
    listener.wait_for("all that is left to send", |m| {
        let counters = &m.payload["counters"];
        m.topic.ends_with("/telemetry")
            && counters["uplink_evidence_waiting"] == 0
            && counters["outbox_records"] == 0
    });
    assert!(daemon.terminate().success());
    assert_eq!(not_heard(&listener, newest), [] as [u64; 0]);
    let shed: Vec<&Value> = listener
        .heard
        .iter()
        .filter(|m| m.topic.ends_with("/notice") && m.payload["data"]["kind"] == "outbox.shed")
        .map(|m| &m.payload["data"]["data"])
        .collect();
    let files = |of: &Value| of["files"].as_u64().unwrap();
    let of_class = |class| shed.iter().filter(move |s| s["class"] == class);
    let of_class = |class| of_class(class).map(|s| files(s)).sum::<u64>();
    let given_up = of_class(3) + of_class(2);
    assert!(of_class(3) > 0 && of_class(3) >= of_class(2), "{shed:#?}");
    assert_eq!(of_class(1), 0, "{shed:#?}");
    // What was promised with a finding either came or was told to have been given up.
    let promised = listener
        .findings()
        .filter(|f| f["data"]["phase"] == "opened");
    let promised: u64 = promised
        .map(|f| f["data"]["evidence"].as_array().unwrap().len() as u64)
        .sum();
    let came = listener
        .heard
        .iter()
        .filter(|m| m.topic.contains("/evidence/"));
    assert_eq!(came.count() as u64 + given_up, promised);
}
