//! Brokers and daemons that die with findings in flight: none lost, none double in effect.
use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{
    Listener, Mosquitto, Process, QUICK_RULE, SiteDir, camera_table, demo_clip, free_port,
};

/// A clip in a loop whose face, while there, gives a revision a second.
pub fn busy_site(broker: &str) -> SiteDir {
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    SiteDir::new(
        broker,
        &(camera_table("wok-1", &url, "repeat = true") + QUICK_RULE),
    )
}

/// Number of the record that a log line says was stored.
pub fn seq_in(line: &str) -> Option<u64> {
    let rest = &line[line.find(" seq=")? + 5..];
    rest.split_whitespace().next()?.parse().ok()
}

/// Waits until the daemon has stored `n` more records, and returns the newest `seq`.
pub fn stored(daemon: &mut Process, n: usize) -> u64 {
    let mut newest = 0;
    for _ in 0..n {
        newest = seq_in(&daemon.wait_for("a stored finding", |l| seq_in(l).is_some())).unwrap();
    }
    newest
}

/// What a centre that upserts on (source, id) has: by `seq`. Fails if one id came with two contents.
fn upserted<'a>(findings: impl Iterator<Item = &'a Value>) -> BTreeMap<u64, Value> {
    let mut by_id: BTreeMap<String, Value> = BTreeMap::new();
    let mut by_seq = BTreeMap::new();
    for finding in findings {
        let mut content = finding.clone();
        content["data"]["replayed"] = Value::Null;
        let id = finding["id"].as_str().unwrap().to_owned();
        if let Some(before) = by_id.insert(id, content.clone()) {
            assert_eq!(before, content, "one id, two contents");
        }
        by_seq.insert(finding["seq"].as_u64().unwrap(), content);
    }
    assert_eq!(by_id.len(), by_seq.len(), "one event under two numbers");
    by_seq
}

pub fn wait_for_seq(listener: &mut Listener, seq: u64) {
    let done = |m: &Value| m["seq"].as_u64().is_some_and(|s| s >= seq);
    listener.eventually(&format!("record {seq}"), |m| {
        m.topic.contains("/finding/") && done(&m.payload)
    });
}

#[test]
fn a_broker_killed_and_restarted_gets_every_finding() {
    let mut broker = Mosquitto::start();
    let mut before = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let mut daemon = site.daemon();
    before.finding("opened");
    broker.kill();
    // Several while nobody is there to take them.
    let during = stored(&mut daemon, 4);
    broker.restart();
    let mut after = Listener::start(broker.port);
    let last = stored(&mut daemon, 1).max(during);
    wait_for_seq(&mut after, last);
    after.wait_for("an empty outbox", |m| {
        m.topic.ends_with("/telemetry") && m.payload["counters"]["outbox_records"] == 0
    });
    let all = upserted(before.findings().chain(after.findings()));
    let missing: Vec<_> = (1..=last).filter(|seq| !all.contains_key(seq)).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    let late = after
        .findings()
        .find(|f| f["seq"].as_u64() == Some(during))
        .unwrap();
    assert_eq!(late["data"]["replayed"], true, "{late}");
    let epochs: Vec<_> = [&before, &after]
        .iter()
        .filter_map(|l| l.heard.iter().rev().find(|m| m.payload["epoch"].is_u64()))
        .map(|m| m.payload["epoch"].as_u64().unwrap())
        .collect();
    assert!(epochs[1] > epochs[0], "{epochs:?}");
    assert!(daemon.terminate().success());
}

#[test]
fn a_daemon_killed_in_the_middle_of_an_outage_loses_no_finding() {
    // Nobody listens there yet: the outage has begun before the daemon does.
    let port = free_port();
    let site = busy_site(&format!("mqtt://127.0.0.1:{port}"));
    let mut daemon = site.daemon();
    let first = stored(&mut daemon, 3);
    daemon.kill();
    let mut second = site.daemon();
    let last = stored(&mut second, 2);
    assert!(last > first, "{last} after {first}");
    second.kill();

    let broker = Mosquitto::start();
    let text = site
        .read_config()
        .replace(&format!(":{port}\""), &format!(":{}\"", broker.port));
    site.write_config(&text);
    let mut listener = Listener::start(broker.port);
    let mut third = site.daemon();
    wait_for_seq(&mut listener, last);
    let all = upserted(listener.findings());
    let missing: Vec<_> = (1..=last).filter(|seq| !all.contains_key(seq)).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    // A finding that was open when the power went goes on under its name, with the next revision.
    let mut revisions: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for finding in all.values() {
        let data = &finding["data"];
        let of = revisions
            .entry(data["finding"].as_str().unwrap())
            .or_default();
        of.push(data["revision"].as_u64().unwrap());
    }
    for (finding, of) in revisions {
        let expected: Vec<_> = (1..=of.len() as u64).collect();
        assert_eq!(of, expected, "{finding}");
    }
    assert!(third.terminate().success());
}

#[test]
fn the_broker_tells_when_a_daemon_dies_and_old_news_cannot_undo_it() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let mut daemon = site.daemon();
    let first = listener.status("online", |s| s["online"] == true);
    daemon.kill();
    let will = listener.status("the last will", |s| s["online"] == false);
    assert_eq!(will["epoch"], first["epoch"]);
    let mut again = site.daemon();
    let second = listener.status("online again", |s| s["online"] == true);
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64());
    assert!(again.terminate().success());
}

#[test]
fn an_open_finding_stays_open_across_a_restart_and_its_end_is_told() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = busy_site(&broker.url());
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    assert!(daemon.terminate().success());
    let id = opened["data"]["finding"].as_str().unwrap().to_owned();
    // Whoever subscribes now learns of it from the retained message.
    let mut late = Listener::start(broker.port);
    let active = late.wait_for("the open finding", |m| m.topic.ends_with(&id));
    assert!(active.retained);
    // Its rule is gone from the config: it must not stay open for ever.
    let text = site
        .read_config()
        .replace("id = \"mask\"", "id = \"mask-2\"");
    site.write_config(&text);
    let mut again = site.daemon();
    let closed = listener.wait_for("its end", |m| {
        m.topic.contains("/finding/")
            && m.payload["data"]["finding"] == id.as_str()
            && m.payload["data"]["phase"] == "closed"
    });
    assert!(closed.payload["data"]["closed_at"].is_string());
    assert!(again.terminate().success());
}

#[test]
fn nobody_subscribed_is_not_delivered() {
    let broker = Mosquitto::start();
    let site = busy_site(&broker.url());
    let mut daemon = site.daemon();
    let newest = stored(&mut daemon, 3);
    let mut listener = Listener::start(broker.port);
    // In any order: what was refused waits before it is tried again, what is new does not.
    for seq in 1..=newest {
        listener.eventually(
            &format!("record {seq}, not acknowledged without a receiver"),
            |m| m.topic.contains("/finding/") && m.payload["seq"] == seq,
        );
    }
    assert!(upserted(listener.findings()).len() as u64 >= newest);
    assert!(daemon.terminate().success());
}
