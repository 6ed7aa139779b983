//! The centre speaks: commands, answers, and the config it wants.
use std::io::Write as _;
use std::process::{Command, Stdio};

use mingchu::base::time::{Clock as _, SystemClock, UtcMicros};
use serde_json::{Value, json};

use crate::support::{
    Heard, Listener, Mosquitto, Process, QUICK_RULE, SiteDir, camera_table, demo_clip, free_port,
};

const BASE: &str = "mingchu/v1/410724/site-000123";

/// Publishes at QoS 1 as a client that is not ours; each line of `lines` is a message.
fn publish(port: u16, topic: &str, lines: &str, more: &[&str]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-q", "1", "-h", "127.0.0.1", "-p"])
        .arg(port.to_string())
        .args(["-t", &format!("{BASE}/{topic}"), "-l"])
        .args(more)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{lines}").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn now(plus_s: i64) -> String {
    UtcMicros(SystemClock.utc().0 + plus_s * 1_000_000).to_string()
}

fn command(id: &str, args: &Value) -> Value {
    json!({"id": id, "issued": now(0), "by": "officer 7", "args": args})
}

fn result_of(id: &str) -> impl Fn(&Heard) -> bool {
    let id = id.to_owned();
    move |m: &Heard| m.topic.ends_with("/result") && m.payload["data"]["id"] == id.as_str()
}

/// Sends a command and waits for its answer.
pub fn ask(listener: &mut Listener, port: u16, name: &str, id: &str, args: &Value) -> Value {
    publish(
        port,
        &format!("command/{name}"),
        &command(id, args).to_string(),
        &[],
    );
    let answer = listener.wait_for(&format!("the answer to {name} {id}"), result_of(id));
    assert_eq!(answer.topic, format!("{BASE}/command/{name}/result"));
    assert_eq!(answer.payload["data"]["command"], name);
    answer.payload["data"].clone()
}

/// A looped clip with a face that comes and goes; findings do not end. And a camera that is not there.
fn site(broker: &str) -> SiteDir {
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    let nobody = format!("rtsp://127.0.0.1:{}/x", free_port());
    let rule = QUICK_RULE.replace("clear_ms = 2000", "clear_ms = 600000");
    SiteDir::new(
        broker,
        &(camera_table("wok", &url, "repeat = true") + &camera_table("gone", &nobody, "") + &rule),
    )
}

#[test]
fn each_command_is_done_once_and_answered_and_a_wrong_one_is_told_what_is_wrong() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let finding = opened["data"]["finding"].as_str().unwrap().to_owned();

    // A verdict, and the same command again with another content.
    let args = json!({"finding": finding, "verdict": "confirmed", "note": "seen on the still"});
    let first = ask(&mut listener, port, "verdict", "v-1", &args);
    assert_eq!(first["outcome"], "done", "{first}");
    assert_eq!(first["data"]["camera"], "wok");
    let other = json!({"finding": finding, "verdict": "false-positive"});
    let again = ask(&mut listener, port, "verdict", "v-1", &other);
    assert_eq!(again, first, "the first answer, and nothing done");
    let unknown =
        json!({"finding": "01935c3a-0000-7000-8000-000000000001", "verdict": "confirmed"});
    let refused = ask(&mut listener, port, "verdict", "v-2", &unknown);
    assert_eq!(refused["outcome"], "refused");
    assert!(
        refused["text"].as_str().unwrap().contains("01935c3a"),
        "{refused}"
    );
    let order = json!({"finding": finding, "order": "wear it", "deadline": now(3600)});
    assert_eq!(
        ask(&mut listener, port, "rectify", "r-1", &order)["outcome"],
        "done"
    );

    // What is wrong is said.
    for (name, id, args, text) in [
        ("dance", "w-1", json!({}), "there is no command `dance`"),
        (
            "mute",
            "w-2",
            json!({"minutes": 5}),
            "missing field `reason`",
        ),
        (
            "mute",
            "w-3",
            json!({"camera": "walk", "minutes": 5, "reason": "x"}),
            "there are wok, gone",
        ),
        (
            "reinspect",
            "w-4",
            json!({"camera": "wok", "code": "pest.rodent"}),
            "ppe.mask.missing",
        ),
        ("unmute", "w-5", json!({"mute": "none"}), "no mute `none`"),
        (
            "verdict",
            "w-6",
            json!({"finding": "x".repeat(20_000)}),
            "more than 16384",
        ),
    ] {
        let answer = ask(&mut listener, port, name, id, &args);
        assert_eq!(answer["outcome"], "refused", "{answer}");
        assert!(answer["text"].as_str().unwrap().contains(text), "{answer}");
    }
    let late =
        json!({"id": "late", "issued": now(-7200), "expires": now(-3600), "by": "x", "args": {}});
    publish(port, "command/unmute", &late.to_string(), &[]);
    let late = listener.wait_for("the late one's answer", result_of("late"));
    assert_eq!(late.payload["data"]["outcome"], "expired");
    publish(port, "command/mute", "{\"id\": \"torn", &[]);
    listener.wait_for("the count of unreadable ones", |m| {
        m.payload["counters"]["commands_dropped_total{reason=\"unreadable\"}"].as_u64() >= Some(1)
    });

    // An answer where MQTT 5 says, beside the record.
    let mut reply = Process::start(
        "mosquitto_sub",
        Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-V", "mqttv5", "-d", "-q", "1"])
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-t",
                "reply/#",
                "-F",
                "REPLY %t %D %p",
            ]),
    );
    reply.wait_for_text("Subscribed (mid");
    let properties = [
        "-D",
        "publish",
        "response-topic",
        "reply/7",
        "-D",
        "publish",
        "correlation-data",
        "c7",
    ];
    let diagnose = command("d-1", &json!({"camera": "wok"}));
    publish(port, "command/diagnose", &diagnose.to_string(), &properties);
    let line = reply.wait_for("the reply", |l| l.contains("\"d-1\""));
    assert!(line.contains("REPLY reply/7 c7 "), "{line}");
    let answer = listener.wait_for("the diagnosis", result_of("d-1")).payload;
    let data = &answer["data"]["data"];
    assert_eq!(data["cameras"].as_array().unwrap().len(), 1);
    assert_eq!(data["open"][0]["finding"], finding.as_str());
    assert!(data["counters"]["outbox_records"].is_u64(), "{data}");

    let snapshot = ask(
        &mut listener,
        port,
        "snapshot",
        "s-1",
        &json!({"camera": "wok"}),
    );
    assert_ne!(snapshot["outcome"], "refused", "{snapshot}");

    let coverage = ask(&mut listener, port, "coverage", "k-1", &json!({}));
    assert_eq!(coverage["data"]["partial"], true, "{coverage}");
    assert_eq!(coverage["data"]["cameras"].as_array().unwrap().len(), 2);

    // Once more, as a replay under its own number. A record that is still on its first way is none: then again.
    let is_replayed = (0..20).any(|n| {
        let id = format!("e-1-{n}");
        let wanted = json!({"finding": finding});
        let resent = ask(&mut listener, port, "resend", &id, &wanted);
        assert_eq!(resent["outcome"], "done", "{resent}");
        let seq = resent["data"]["last"].as_u64().unwrap();
        let is_replay =
            |m: &Heard| m.payload["seq"] == seq && m.payload["data"]["replayed"] == true;
        let heard = listener.eventually("the replay or the next update", |m| {
            let is_next = m.payload["seq"].as_u64().is_some_and(|next| next > seq);
            m.topic.contains("/finding/") && (is_next || is_replay(m))
        });
        is_replay(&heard)
    });
    assert!(is_replayed);
    let none = ask(
        &mut listener,
        port,
        "resend",
        "e-2",
        &json!({"from": 900_000, "to": 900_001}),
    );
    assert_eq!(none["outcome"], "refused");

    // Looked at again: seen; and where nobody watches, no judgement.
    let look = json!({"camera": "wok", "code": "ppe.mask.missing", "seconds": 20});
    let seen = ask(&mut listener, port, "reinspect", "i-1", &look);
    assert_eq!(seen["data"]["answer"], "seen", "{seen}");
    let blind = ask(
        &mut listener,
        port,
        "reinspect",
        "i-2",
        &json!({"camera": "gone", "seconds": 5}),
    );
    assert_eq!(blind["data"]["answer"], "cannot-tell", "{blind}");
    assert_eq!(blind["data"]["watched_seconds"], 0);
    assert!(daemon.terminate().success());
}

#[test]
fn a_receipt_as_a_command_frees_excepts_and_is_answered_where_the_centre_frees() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let by_broker = site.read_config();
    let by_centre = by_broker.replace("[uplink]\n", "[uplink]\nack = \"centre\"\n");
    site.write_config(&by_centre);
    let mut daemon = site.daemon();
    let seq = |event: &Value| event["seq"].as_u64().unwrap();

    // What was never issued is refused.
    let opened = seq(&listener.finding("opened"));
    let beyond = json!({"through": 1_000_000});
    let refused = ask(&mut listener, port, "receipt", "c-1", &beyond);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    let text = refused["text"].as_str().unwrap();
    assert!(text.contains("1000000 was never issued"), "{text}");
    assert!(refused["data"]["newest"].as_u64() >= Some(opened));

    // The centre has it; then another, which it says it has not: that one comes again at once.
    let known = json!({"through": opened});
    let done = ask(&mut listener, port, "receipt", "c-2", &known);
    assert_eq!(done["outcome"], "done", "{done}");
    assert!(done["data"]["freed"].as_u64() >= Some(1), "{done}");
    let updated = seq(&listener.finding("updated"));
    let but_one = json!({"through": updated, "except": [updated]});
    let done = ask(&mut listener, port, "receipt", "c-3", &but_one);
    assert_eq!(done["data"]["again"], 1, "{done}");
    let of_updated = |m: &&Heard| m.topic.contains("/finding/") && m.payload["seq"] == updated;
    if listener.heard.iter().filter(of_updated).count() < 2 {
        listener.wait_for("the record that it has not", |m| of_updated(&m));
    }
    let rest = json!({"through": updated});
    let done = ask(&mut listener, port, "receipt", "c-4", &rest);
    assert!(done["data"]["freed"].as_u64() >= Some(1), "{done}");

    // Where the broker's word frees, there is nothing for it to do.
    site.write_config(&by_broker);
    daemon.signal("-HUP");
    reported(&mut listener, "another line to the broker", |r| {
        r["restarted"] == json!(["uplink"])
    });
    let refused = ask(&mut listener, port, "receipt", "c-5", &rest);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("uplink.ack"));
    // A repetition is not done again, and gets the answer again.
    assert_eq!(ask(&mut listener, port, "receipt", "c-5", &beyond), refused);
    assert!(daemon.terminate().success());
}

#[test]
fn a_mute_marks_findings_survives_a_restart_and_is_audited() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let mut daemon = site.daemon();
    listener.finding("opened");
    let args = json!({"camera": "wok", "minutes": 5, "reason": "lens is being cleaned"});
    let answer = ask(&mut listener, port, "mute", "m-1", &args);
    assert_eq!(
        (&answer["outcome"], &answer["data"]["mute"]),
        (&json!("done"), &json!("m-1"))
    );
    let audit = |m: &Heard, event: &str| {
        m.topic.ends_with("/notice") && m.payload["data"]["data"]["event"] == event
    };
    let begun = listener.eventually("the audit", |m| audit(m, "begun"));
    assert_eq!(begun.payload["type"], "cn.mingchu.notice.mute.v1");
    let muted = |m: &Heard| m.topic.contains("/finding/") && m.payload["data"]["muted"].is_object();
    let finding = listener.wait_for("a muted finding", muted).payload;
    assert_eq!(finding["data"]["muted"]["by"], "officer 7");
    assert_eq!(finding["data"]["muted"]["reason"], "lens is being cleaned");

    daemon.kill();
    let mut daemon = site.daemon();
    listener.status("online again", |s| s["online"] == true);
    listener.wait_for("a muted finding after a power cut", muted);
    let answer = ask(&mut listener, port, "unmute", "u-1", &json!({}));
    assert_eq!(answer["data"]["ended"], json!(["m-1"]), "{answer}");
    listener.eventually("the audit of the end", |m| audit(m, "lifted"));
    listener.wait_for("a finding like any other", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["muted"].is_null()
    });
    assert!(daemon.terminate().success());
}

#[test]
fn what_is_commanded_while_the_site_is_away_waits_and_is_done_once_after_a_power_cut() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let mut daemon = site.daemon();
    // From here on the broker keeps for it what is commanded.
    daemon.wait_for_text("commands can come");
    daemon.kill();
    let args = json!({"minutes": 5, "reason": "works"});
    publish(
        port,
        "command/mute",
        &command("while-away", &args).to_string(),
        &[],
    );
    let mut daemon = site.daemon();
    let answer = listener
        .wait_for("the answer", result_of("while-away"))
        .payload["data"]
        .clone();
    assert_eq!(answer["outcome"], "done", "{answer}");
    daemon.kill();
    let mut daemon = site.daemon();
    listener.status("online again", |s| s["online"] == true);
    let again = ask(&mut listener, port, "mute", "while-away", &args);
    assert_eq!(again, answer, "not done again: a new mute would end later");
    assert!(daemon.terminate().success());
}

#[test]
fn a_flood_of_commands_is_limited_counted_and_told() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let mut daemon = site.daemon();
    daemon.wait_for_text("commands can come");
    let flood: Vec<String> = (0..400)
        .map(|i| command(&format!("flood-{i}"), &json!({})).to_string())
        .collect();
    publish(port, "command/unmute", &flood.join("\n"), &[]);
    listener.eventually("the problem in the status", |m| {
        m.topic.ends_with("site-000123/status")
            && m.payload["problems"]
                .to_string()
                .contains("commands come faster")
    });
    listener.wait_for("the count", |m| {
        m.payload["counters"]["commands_dropped_total{reason=\"rate\"}"].as_u64() > Some(100)
    });
    assert!(daemon.terminate().success());
}

fn reported(listener: &mut Listener, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let heard = listener.eventually(what, |m| {
        m.topic.ends_with("/config/reported") && wanted(&m.payload)
    });
    heard.payload
}

#[test]
fn the_centres_config_is_checked_whole_taken_up_kept_and_taken_back() {
    let broker = Mosquitto::start();
    let port = broker.port;
    let mut listener = Listener::start(port);
    let site = site(&broker.url());
    let mut daemon = site.daemon();
    reported(&mut listener, "the site's own", |r| r["source"] == "file");
    let toml = "[[rule]]\nid = \"hat\"\ncode = \"ppe.hat.missing\"\nlabels = [\"face-bare\"]\n";
    let want = |revision: u64, toml: &str| {
        let desired = json!({"revision": revision, "toml": toml}).to_string();
        publish(port, "config/desired", &desired, &["-r"]);
    };
    want(3, toml);
    let report = reported(&mut listener, "the centre's", |r| r["desired"] == 3);
    assert_eq!(
        (&report["source"], &report["restarted"]),
        (&json!("desired"), &json!(["rules"]))
    );
    listener.eventually("a finding of its rule", |m| {
        m.topic.contains("/finding/") && m.payload["data"]["rule"]["id"] == "hat"
    });

    // All mistakes at once, none of it taken up.
    let wrong = "[uplink]\nbroker = \"mqtt://evil.example\"\n[[rule]]\nid = \"hat\"\n\
         code = \"ppe.hat.missing\"\ndwel_ms = 1\n";
    want(4, wrong);
    let report = reported(&mut listener, "the refusal", |r| r["rejected"].is_object());
    assert_eq!(
        (&report["desired"], &report["rejected"]["source"]),
        (&json!(3), &json!("desired"))
    );
    let keys = report["rejected"]["problems"].as_array().unwrap().iter();
    let keys: Vec<_> = keys
        .map(|p| (p["file"].clone(), p["line"].clone(), p["key"].clone()))
        .collect();
    assert!(
        keys.contains(&(json!("desired"), json!(1), json!("uplink"))),
        "{keys:?}"
    );
    assert!(
        keys.contains(&(json!("desired"), json!(6), json!("rule[0].dwel_ms"))),
        "{keys:?}"
    );
    listener.eventually("the notice", |m| {
        m.topic.ends_with("/notice") && m.payload["data"]["kind"] == "config.rejected"
    });
    // As a command it is answered; an older one changes nothing.
    let old = ask(
        &mut listener,
        port,
        "config.desired",
        "c-1",
        &json!({"revision": 2, "toml": ""}),
    );
    assert_eq!(
        (&old["outcome"], &old["data"]["known"]),
        (&json!("refused"), &json!(3))
    );

    daemon.kill();
    let mut daemon = site.daemon();
    let report = listener.wait_for("the centre's after a restart", |m| {
        m.topic.ends_with("/config/reported") && m.payload["restarted"] == json!(["all"])
    });
    assert_eq!(
        (&report.payload["source"], &report.payload["desired"]),
        (&json!("desired"), &json!(3))
    );
    let back = ask(
        &mut listener,
        port,
        "config.desired",
        "c-2",
        &json!({"revision": 5, "toml": ""}),
    );
    assert_eq!(back["outcome"], "done", "{back}");
    let report = reported(&mut listener, "the site's own again", |r| r["desired"] == 5);
    assert_eq!(report["source"], "file");
    assert!(daemon.terminate().success());
}
