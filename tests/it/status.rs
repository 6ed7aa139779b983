//! The status page as Prometheus and a watchdog read it, and the papers beside it: the table of
//! metrics, the dashboard, the alerts and the unit.
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use mingchu::app::schema;
use mingchu::app::status::{OF_THE_PAGE, PREFIX, reference};
use mingchu::base::metrics::Metric;
use serde_json::Value;

use crate::support::{
    Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip, get, page_of, root,
};

fn site(broker: &Mosquitto, camera: &Camera) -> SiteDir {
    let tables = camera_table("wok-1", &camera.url("kitchen"), "") + QUICK_RULE;
    SiteDir::new(&broker.url(), &tables)
}

#[test]
fn the_page_tells_every_metric_and_the_health_of_the_box() {
    let camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = site(&broker, &camera);
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    listener.camera("wok-1", "online");
    let opened = listener.finding("opened");
    assert_eq!(opened["data"]["code"], "ppe.mask.missing");

    let (status, body) = get(&address, "/metrics", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let names = Metric::ALL
        .iter()
        .map(|m| m.name())
        .chain(OF_THE_PAGE.iter().map(|m| m.0));
    for name in names {
        assert!(body.contains(&format!("# HELP {PREFIX}{name} ")), "{name}");
        assert!(body.contains(&format!("# TYPE {PREFIX}{name} ")), "{name}");
    }
    let value = |key: &str| -> u64 {
        let line = body
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {key} in\n{body}"))
            .parse()
            .unwrap()
    };
    assert!(value("mingchu_decode_frames_total{camera=\"wok-1\"}") > 0);
    assert!(value("mingchu_process_resident_bytes") > 10_000_000);
    assert_eq!(
        value("mingchu_camera_state{camera=\"wok-1\",state=\"online\"}"),
        1
    );
    assert_eq!(value("mingchu_uplink_connected"), 1);
    assert_eq!(value("mingchu_health{status=\"ok\"}"), 1);
    // Each line is a comment or a sample with a whole number.
    for line in body.lines().filter(|l| !l.starts_with('#')) {
        let (key, number) = line.rsplit_once(' ').unwrap();
        assert!(
            key.starts_with(PREFIX) && number.parse::<u64>().is_ok(),
            "{line}"
        );
    }

    let (status, body) = get(&address, "/healthz", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let health: Value = serde_json::from_str(&body).unwrap();
    let all = schema::all();
    let errors: Vec<_> = jsonschema::validator_for(&all["healthz"])
        .unwrap()
        .iter_errors(&health)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["cameras"][0]["state"], "online");

    assert_eq!(get(&address, "/", "").0, "HTTP/1.1 404 Not Found");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream
        .write_all(b"POST /metrics HTTP/1.1\r\nHost: box\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405"), "{text}");
    assert!(daemon.terminate().success());
}

#[test]
fn a_page_with_a_token_tells_nothing_without_it_and_never_tells_the_token() {
    let camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let broker = Mosquitto::start();
    let site = site(&broker, &camera);
    let token = "correct-horse-battery-staple";
    std::fs::write(site.path("status.token"), format!("{token}\n")).unwrap();
    let listen = "listen = \"127.0.0.1:0\"\n";
    let config = site.read_config();
    assert!(config.contains(listen));
    site.write_config(&config.replace(
        listen,
        "listen = \"127.0.0.1:0\"\ntoken_file = \"status.token\"\n",
    ));
    let mut daemon = site.daemon();
    let address = page_of(&mut daemon);
    for more in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic eDp5\r\n",
    ] {
        let (status, body) = get(&address, "/metrics", more);
        assert_eq!(status, "HTTP/1.1 401 Unauthorized", "{more}");
        assert_eq!(body, "a token is needed\n");
    }
    let right = format!("Authorization: Bearer {token}\r\n");
    let (status, body) = get(&address, "/metrics", &right);
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(!body.contains(token));
    assert!(!get(&address, "/healthz", &right).1.contains(token));
    assert!(daemon.terminate().success());
    assert!(!daemon.said().contains(token), "the log shows the token");
}

#[test]
fn a_port_that_is_taken_is_a_problem_and_the_box_watches_all_the_same() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let site = site(&broker, &camera);
    let config = site.read_config();
    let address = taken.local_addr().unwrap().to_string();
    site.write_config(&config.replace("127.0.0.1:0", &address));
    let mut daemon = site.daemon();
    let said = listener.status("a problem with the page", |s| {
        s["problems"][0]
            .as_str()
            .is_some_and(|p| p.starts_with("no status page at"))
    });
    assert!(said["problems_zh"][0].as_str().unwrap().contains("状态页"));
    listener.finding("opened");
    assert!(daemon.terminate().success());
}

#[test]
fn the_table_of_metrics_is_the_programs_own() {
    let text = std::fs::read_to_string(root("systemd/METRICS.md")).unwrap();
    let reference = reference();
    assert!(
        text.replace("\r\n", "\n").contains(&reference),
        "systemd/METRICS.md must hold this table:\n{reference}"
    );
}

/// All words of a text that look like metrics of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c: char| !is_name(c))
        .filter(|word| word.starts_with(PREFIX))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let known: BTreeSet<String> = Metric::ALL
        .iter()
        .map(|m| m.name())
        .chain(OF_THE_PAGE.iter().map(|m| m.0))
        .map(|name| format!("{PREFIX}{name}"))
        .collect();
    let dashboard = std::fs::read_to_string(root("systemd/grafana.json")).unwrap();
    let board: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(board["panels"].as_array().unwrap().len() >= 8);
    let alerts = std::fs::read_to_string(root("systemd/alerts.yml")).unwrap();
    for text in [&dashboard, &alerts] {
        let named = metrics_in(text);
        assert!(named.len() > 5);
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

/// The queue table of `src/lib.rs` and the code name the same metrics of loss.
#[test]
fn every_loss_in_the_map_has_a_metric_and_every_metric_of_loss_is_in_the_map() {
    let map = std::fs::read_to_string(root("src/lib.rs")).unwrap();
    let rows = map
        .lines()
        .filter(|l| l.starts_with("//! | ") && !l.contains("| --- |"));
    let mut counted = BTreeSet::new();
    for row in rows.skip(1) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let last = cells[cells.len() - 2];
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "counted by nothing: {row}");
        counted.extend(
            names
                .into_iter()
                .map(|n| n.split('{').next().unwrap().to_owned()),
        );
    }
    let known: BTreeSet<String> = Metric::ALL.iter().map(|m| m.name().to_owned()).collect();
    let unknown: Vec<_> = counted.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "the map names metrics that are not there: {unknown:?}"
    );
    // What is lost on purpose, by its name.
    let is_loss = |name: &str| {
        [
            "dropped",
            "replaced",
            "left_out",
            "lost_total",
            "over_bytes",
            "removed",
            "withheld",
            "_shed_",
            "damaged",
        ]
        .iter()
        .any(|w| name.contains(w))
    };
    let missing: Vec<_> = known
        .iter()
        .filter(|n| is_loss(n) && !counted.contains(*n))
        .collect();
    assert!(missing.is_empty(), "not in the map: {missing:?}");
}

/// The sandbox that systemd/README.md promises.
/// `systemd/README.md` states how exposed the service is, by systemd's own count.
#[test]
fn the_exposure_that_is_stated_is_what_systemd_counts() {
    let page = std::fs::read_to_string(root("systemd/README.md")).unwrap();
    let level = |text: &str| {
        let line = text.lines().find(|l| l.contains("Overall exposure level"));
        let (_, after) = line?.rsplit_once(": ")?;
        after.split(' ').next()?.parse::<f32>().ok()
    };
    let stated = level(&page).expect("the page states the level");
    assert!(stated <= 1.5, "{stated}");
    let mut count = Command::new("systemd-analyze");
    count.args(["--offline=true", "--no-pager", "security"]);
    // A system without systemd has nothing to say; nor has one before version 250.
    let Ok(said) = count.arg(root("systemd/mingchu.service")).output() else {
        return;
    };
    if let Some(counted) = level(&String::from_utf8_lossy(&said.stdout)) {
        assert!(counted <= stated, "{counted} is more than the page says");
    }
}

#[test]
fn the_unit_keeps_its_sandbox() {
    let unit = std::fs::read_to_string(root("systemd/mingchu.service")).unwrap();
    let settings: BTreeSet<&str> = unit.lines().filter(|l| !l.starts_with('#')).collect();
    for needed in [
        "Type=notify",
        "WatchdogSec=30",
        "DynamicUser=yes",
        "StateDirectory=mingchu",
        "StateDirectoryMode=0700",
        "UMask=0077",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "PrivateUsers=yes",
        "ProtectProc=invisible",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "RestrictSUIDSGID=yes",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "LockPersonality=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "LimitCORE=0",
    ] {
        assert!(settings.contains(needed), "{needed}");
    }
    for setting in &settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        assert!(
            !(key == "DeviceAllow" || key == "User" || value.starts_with('+')),
            "{setting} opens the sandbox"
        );
    }
}
