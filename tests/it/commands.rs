//! Commands, and input that is wrong: a clear message, the remedy, and the exit code.
use std::process::Command;

use crate::support::{
    Camera, LIMIT, Listener, Mosquitto, Process, QUICK_RULE, SiteDir, camera_table, demo_clip,
    mingchu, root, run,
};

fn site() -> SiteDir {
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    SiteDir::new(
        "mqtt://127.0.0.1:1",
        &(camera_table("wok-1", &url, "repeat = true") + QUICK_RULE),
    )
}

/// Runs the daemon on a site that must refuse to start.
fn refused(site: &SiteDir) -> (i32, String) {
    let mut daemon = site.daemon();
    let code = daemon.wait().code().unwrap_or(-1);
    (code, daemon.said())
}

#[test]
fn the_minimal_config_passes_the_check_from_a_checkout() {
    let (code, out, err) = run(&["check", "config/site.minimal.toml"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("face-bare") && out.contains("good"), "{out}");
}

#[test]
fn a_library_that_cannot_run_models_where_the_config_says_is_refused_and_never_passed_over() {
    let site = site();
    for provider in ["openvino", "cuda"] {
        let text = site.read_config();
        let with = format!("workers = 1\nprovider = \"{provider}\"");
        site.write_config(&text.replace("workers = 1", &with));
        let config = site.config().display().to_string();
        let (code, out, _) = run(&["check", &config]);
        assert_eq!(code, 78, "{out}");
        for part in [
            "detect.provider",
            &format!("cannot run models on {provider}"),
            "set detect.provider = \"cpu\"",
        ] {
            assert!(out.contains(part), "no {part} in:\n{out}");
        }
        let (code, _, err) = run(&["run", "--config", &config]);
        assert_eq!(code, 78, "{err}");
        assert!(
            err.contains(&format!("cannot run models on {provider}")),
            "{err}"
        );
        site.write_config(&text);
    }
    let text = site
        .read_config()
        .replace("workers = 1", "workers = 1\nprovider = \"npu\"");
    site.write_config(&text);
    let (code, out, _) = run(&["check", &site.config().display().to_string()]);
    assert!(code == 78 && out.contains("openvino"), "{out}");
}

#[test]
fn check_tells_all_mistakes_of_config_and_models_at_once() {
    let site = site();
    let text = site
        .read_config()
        .replace("workers = 1", "wokers = 1")
        .replace("\"face-bare\"", "\"face-bear\"")
        .replace("telemetry_s = 2", "telemetry_s = \"often\"");
    site.write_config(&format!("{text}colour = \"red\"\n"));
    let config = site.config().display().to_string();
    let (code, out, _) = run(&["check", &config]);
    assert_eq!(code, 78);
    for part in [
        "did you mean `workers`?",
        "did you mean `face-bare`?",
        "uplink.telemetry_s",
        "rule[0].colour",
    ] {
        assert!(out.contains(part), "no {part} in:\n{out}");
    }
    let (code, out, _) = run(&["check", "--json", &config]);
    assert_eq!(code, 78);
    let problems: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(problems.len(), 4, "{out}");
    assert!(
        problems.iter().all(|p| p["line"].as_u64() > Some(0)),
        "{out}"
    );
}

#[test]
fn a_daemon_does_not_start_on_a_wrong_config() {
    let site = site();
    site.write_config(
        &site
            .read_config()
            .replace("id = \"wok-1\"", "id = \"wok 1\""),
    );
    let (code, said) = refused(&site);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("camera[0].id"), "{said}");
}

#[test]
fn a_model_whose_hash_does_not_match_is_refused_by_name() {
    let site = site();
    std::fs::copy(root("models/kitchen.toml"), site.path("kitchen.toml")).unwrap();
    let mut network = std::fs::read(root("models/kitchen.onnx")).unwrap();
    let middle = network.len() / 2;
    network[middle] ^= 1;
    std::fs::write(site.path("kitchen.onnx"), network).unwrap();
    let card = root("models/kitchen.toml").display().to_string();
    site.write_config(&site.read_config().replace(&card, "kitchen.toml"));
    let (code, said) = refused(&site);
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("kitchen.onnx") && said.contains("SHA-256"),
        "{said}"
    );
}

#[test]
fn a_missing_runtime_library_is_named_with_the_remedy() {
    let site = site();
    let library = root(".runtime/onnxruntime/libonnxruntime.so")
        .display()
        .to_string();
    site.write_config(
        &site
            .read_config()
            .replace(&library, "/nowhere/libonnxruntime.so"),
    );
    let (code, said) = refused(&site);
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("/nowhere/libonnxruntime.so") && said.contains("detect.onnxruntime"),
        "{said}"
    );
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let site = site();
    // A file where a directory should be refuses root too.
    std::fs::write(site.path("state"), "a file").unwrap();
    let (code, said) = refused(&site);
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains("state_dir") && said.contains("cannot write"),
        "{said}"
    );
}

#[test]
fn a_second_daemon_on_one_state_directory_is_refused() {
    let site = site();
    let mut first = site.daemon();
    first.wait_for_text("running");
    let (code, said) = refused(&site);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("in use by another mingchu"), "{said}");
    assert!(first.terminate().success());
}

#[test]
fn an_unreachable_broker_is_told_and_findings_wait() {
    let site = site();
    let mut daemon = site.daemon();
    let line = daemon.wait_for("the broker's absence", |l| {
        l.contains("127.0.0.1:1") && l.contains("WARN")
    });
    assert!(
        line.contains("check the address") && line.contains("backoff_ms"),
        "{line}"
    );
    daemon.wait_for_text("finding opened");
    assert!(daemon.terminate().success());
}

#[test]
fn a_signal_ends_the_daemon_in_good_order_and_a_second_one_at_once() {
    let site = site();
    let mut daemon = site.daemon();
    daemon.wait_for_text("running");
    daemon.signal("-INT");
    daemon.wait_for_text("stopping");
    daemon.signal("-INT");
    // Either the orderly end was faster, or the second signal cut it short.
    let code = daemon.wait().code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
}

#[test]
fn probe_says_what_a_camera_sends_and_what_to_write() {
    let clip = format!("kitchen={}", demo_clip("kitchen-h265.mp4").display());
    let camera = Camera::start(&["--auth", "viewer:right:digest", &clip]);
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "right\n").unwrap();
    let (url, password) = (camera.url("kitchen"), password.display().to_string());
    let args = [
        "probe",
        &url,
        "--username",
        "viewer",
        "--password-file",
        &password,
        "--seconds",
        "5",
    ];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{out}{err}");
    for part in [
        "h265, 1280x720",
        "50 pictures, 2.0 s",
        "[[camera]]",
        "username = \"viewer\"",
        &url,
    ] {
        assert!(out.contains(part), "no {part} in:\n{out}");
    }
    let (code, out, err) = run(&["probe", &url, "--seconds", "2"]);
    assert_eq!(code, 77, "{out}{err}");
    let (code, _, err) = run(&["probe", "Cargo.toml"]);
    assert_eq!(code, 65, "{err}");
    let (code, _, err) = run(&["probe", "rtsp://viewer:right@127.0.0.1/x"]);
    assert_eq!(code, 64);
    assert!(
        err.contains("--password-file") && !err.contains("right@"),
        "{err}"
    );
}

#[test]
fn tail_shows_an_operator_and_a_machine_the_same_findings() {
    let broker = Mosquitto::start();
    let follow = |json: bool| {
        let mut command = mingchu();
        command.args(["tail", "--broker", &broker.url()]);
        Process::start(
            "tail",
            if json {
                command.arg("--json")
            } else {
                &mut command
            },
        )
    };
    let (mut people, mut machine) = (follow(false), follow(true));
    people.wait_for_text("following");
    machine.wait_for_text("following");
    let site = site();
    site.write_config(
        &site
            .read_config()
            .replace("mqtt://127.0.0.1:1\"", &format!("{}\"", broker.url())),
    );
    let mut listener = Listener::start(broker.port);
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let line = people.wait_for_text("FOUND");
    assert!(
        line.contains("site-000123") && line.contains("ppe.mask.missing"),
        "{line}"
    );
    let line = machine.wait_for("the finding", |l| l.contains("finding.opened"));
    let message: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(message["payload"], opened);
    assert!(daemon.terminate().success());
    people.wait_for_text("OFFLINE");
    assert!(people.terminate().success());
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    for args in [
        &["fly"][..],
        &["run"],
        &["tail"],
        &["tail", "--broker", "http://x"],
    ] {
        let (code, _, err) = run(args);
        assert_eq!(code, 64, "{args:?}: {err}");
    }
}

#[test]
fn help_is_worth_reading() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["run", "check", "probe", "tail", "demo", "Exit codes"] {
        assert!(out.contains(word), "{out}");
    }
}

#[test]
fn a_password_can_be_a_systemd_credential() {
    let url = "rtsp://127.0.0.1/x";
    let login = "username = \"viewer\"\npassword_file = \"wok-password\"";
    let site = SiteDir::new(
        "mqtt://127.0.0.1:1",
        &(camera_table("wok-1", url, login) + QUICK_RULE),
    );
    let check = |folder: &std::path::Path| {
        let mut command = mingchu();
        command
            .arg("check")
            .arg(site.config())
            .env("CREDENTIALS_DIRECTORY", folder);
        command.output().unwrap().status.code()
    };
    let credentials = tempfile::tempdir().unwrap();
    assert_eq!(check(credentials.path()), Some(78));
    std::fs::write(credentials.path().join("wok-password"), "right").unwrap();
    assert_eq!(check(credentials.path()), Some(0));
}

/// What systemd would hear (sd_notify(3)).
#[test]
fn systemd_hears_ready_and_the_watchdog_until_stopping() {
    let site = site();
    let path = site.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let wait_for = |wanted: &str| {
        let mut heard = Vec::new();
        let mut packet = [0; 4096];
        loop {
            let n = socket
                .recv(&mut packet)
                .unwrap_or_else(|e| panic!("no {wanted} in {heard:?}: {e}"));
            let text = String::from_utf8_lossy(&packet[..n]).into_owned();
            if text.contains(wanted) {
                return text;
            }
            heard.push(text);
        }
    };
    let mut command = mingchu();
    command.arg("run").arg("--config").arg(site.config());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000");
    let mut daemon = Process::start("mingchu", &mut command);
    assert!(wait_for("READY=1").contains("cameras: 1"));
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    daemon.signal("-TERM");
    wait_for("STOPPING=1");
    assert!(daemon.wait().success());
}

#[test]
fn the_systemd_unit_is_valid() {
    let unit = root("systemd/mingchu.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in [
        "Type=notify",
        "WatchdogSec=",
        "check",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "StateDirectory=",
        "DynamicUser=",
    ] {
        assert!(text.contains(line), "no {line}");
    }
    // A machine without systemd cannot judge more than the lines above.
    let Ok(verify) = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output()
    else {
        return;
    };
    let complaints = String::from_utf8_lossy(&verify.stderr).into_owned();
    // The program is not installed where the unit looks for it.
    let ours = complaints.lines().filter(|l| {
        l.contains("mingchu.service")
            && !l.contains("is not executable")
            && !l.contains("No such file")
    });
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn detect_tells_what_is_in_each_picture_in_the_order_asked() {
    let portrait = root(".runtime/demo/astronaut.png");
    let wall = root(".runtime/demo/brick.png");
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("pictures.txt");
    std::fs::write(&list, format!("{}\n", wall.display())).unwrap();
    let (code, out, err) = run(&[
        "detect",
        "--json",
        "--list",
        &list.display().to_string(),
        &portrait.display().to_string(),
    ]);
    assert_eq!(code, 0, "{out}{err}");
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert_eq!(lines[0]["file"], portrait.display().to_string());
    let objects = lines[0]["objects"].as_array().unwrap();
    let face = objects
        .iter()
        .find(|o| o["class"] == "face-bare" && o["score"].as_f64() > Some(0.5))
        .expect("a bare face");
    let corners: Vec<f64> = face["box"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    // The astronaut's face: about (170..270, 65..180) of 512 x 512.
    assert!(
        corners[0] < 0.45 && corners[2] > 0.45 && corners[1] < 0.25 && corners[3] > 0.25,
        "{corners:?}"
    );
    let sure = |o: &serde_json::Value| o["score"].as_f64() > Some(0.5);
    assert!(!lines[1]["objects"].as_array().unwrap().iter().any(sure));
}

#[test]
fn detect_names_what_is_not_a_picture_and_looks_at_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.jpg");
    std::fs::write(&broken, b"this is no picture").unwrap();
    let broken = broken.display().to_string();
    let portrait = root(".runtime/demo/astronaut.png").display().to_string();
    let (code, out, err) = run(&["detect", "--json", &broken, &portrait]);
    assert_eq!(code, 65, "{out}{err}");
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0]["error"].as_str().is_some_and(|e| !e.is_empty()));
    assert_eq!(lines[0]["file"], broken);
    assert!(lines[1]["objects"].is_array());
    let (code, _, err) = run(&["detect"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = run(&["detect", "--models", "no-such-card.toml", &portrait]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("no-such-card.toml"), "{err}");
}

#[test]
fn a_replay_of_the_same_clip_gives_the_same_findings_ids_included() {
    let clip = demo_clip("kitchen.mp4").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let truth = dir.path().join("truth.jsonl");
    std::fs::write(
        &truth,
        r#"{"clip": "kitchen.mp4", "events": [{"code": "face-bare", "start_s": 0.0, "end_s": 60.0}]}"#,
    )
    .unwrap();
    let truth = truth.display().to_string();
    let replay = || run(&["replay", "--json", "--truth", &truth, &clip]);
    let (code, first, err) = replay();
    assert_eq!(code, 0, "{first}{err}");
    assert_eq!(first, replay().1);
    assert_eq!(err, "", "no bar where nobody looks");
    let lines: Vec<serde_json::Value> = first
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["clip"], "kitchen.mp4");
    let finding = lines.iter().find(|l| l["code"] == "ppe.mask.missing");
    let finding = finding.expect("a finding");
    assert_eq!(finding["label"], "face-bare");
    assert!(finding["opened_s"].as_f64() > finding["first_seen_s"].as_f64());
    assert!(
        lines
            .iter()
            .any(|l| l["outcome"] == "found" && l["delay_s"].as_f64() < Some(30.0)),
        "{first}"
    );
}

#[test]
fn a_replay_by_a_sites_config_uses_its_rules_and_names_what_cannot_be_replayed() {
    let site = site();
    let config = site.config().display().to_string();
    let clip = demo_clip("kitchen-h265.mp4").display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.mp4");
    std::fs::write(&broken, b"no clip").unwrap();
    let broken = broken.display().to_string();
    let (code, out, err) = run(&["replay", "--config", &config, &broken, &clip]);
    assert_eq!(code, 65, "{out}{err}");
    assert!(
        out.contains("broken.mp4: ") && out.contains("not a video file"),
        "{out}"
    );
    assert!(out.contains("ppe.mask.missing"), "{out}");
    let (code, _, err) = run(&["replay", "--config", &config, "--camera", "wok-9", &clip]);
    assert_eq!(code, 64);
    assert!(err.contains("wok-9") && err.contains("wok-1"), "{err}");
}

#[test]
fn a_replay_does_not_depend_on_how_many_clips_go_at_once_nor_on_where_the_detections_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let clips = ["kitchen.mp4", "kitchen-h265.mp4"].map(|c| demo_clip(c).display().to_string());
    let replay = |jobs: &str, save: &str| {
        let (code, out, err) = run(&[
            "replay", "--json", "--jobs", jobs, "--save", save, &clips[0], &clips[1],
        ]);
        assert_eq!(code, 0, "{out}{err}");
        (out, std::fs::read_to_string(save).unwrap())
    };
    let (one, saved) = replay("1", &file("one.jsonl"));
    assert_eq!(
        (one.clone(), saved.clone()),
        replay("2", &file("two.jsonl"))
    );
    let (code, again, err) = run(&["replay", "--json", &file("one.jsonl")]);
    assert_eq!((code, again), (0, one.clone()), "{err}");
    // Everything that the daemon would have sent is in it.
    let lines: Vec<serde_json::Value> = one
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let finding = lines.iter().find(|l| l["code"] == "ppe.mask.missing");
    let payload = &finding.expect("a finding")["revisions"][0];
    assert_eq!(payload["phase"], "opened");
    assert_eq!(payload["model"]["name"], "kitchen");
    assert_eq!(payload["scores"].as_array().map(Vec::len), Some(5));
    assert_eq!(payload["clock"]["synced"], false);

    // What was recorded answers why not, shows what other thresholds would give, and can be read.
    let truth = file("truth.jsonl");
    let events = r#"{"clip": "kitchen.mp4", "events": [{"code": "face-bare", "start_s": 0.0, "end_s": 24.0}]}"#;
    std::fs::write(&truth, events).unwrap();
    let (code, out, err) = run(&["replay", "--json", "--explain=1.0", &file("one.jsonl")]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(r#""explain":"moment""#), "{out}");
    let sweep = "ppe.mask.missing.threshold=0.5..0.9:0.2";
    let (report, plot) = (file("report.html"), file("plot.svg"));
    let (code, out, err) = run(&[
        "replay",
        "--json",
        "--truth",
        &truth,
        "--sweep",
        sweep,
        "--plot",
        &plot,
        "--report",
        &report,
        &file("one.jsonl"),
    ]);
    assert_eq!(code, 0, "{out}{err}");
    let values: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|l: &serde_json::Value| l.get("value").is_some())
        .collect();
    assert_eq!(values.len(), 3, "{out}");
    assert_eq!(
        (&values[0]["found"], &values[2]["found"]),
        (&1.into(), &0.into())
    );
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.contains(finding.expect("a finding")["finding"].as_str().unwrap()));
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
    let (code, _, err) = run(&[
        "replay",
        "--truth",
        &truth,
        "--sweep",
        "x.y=1..2",
        &file("one.jsonl"),
    ]);
    assert!(code == 64 && err.contains("what can: threshold"), "{err}");

    // Made with another network: refused by name, like a file that was cut off.
    let digest = saved.find("sha256").expect("digests") + "sha256\":\"".len();
    let other = format!("{}0000{}", &saved[..digest], &saved[digest + 4..]);
    std::fs::write(file("other.jsonl"), other).unwrap();
    let (code, _, err) = run(&["replay", &file("other.jsonl")]);
    assert_eq!(code, 65, "{err}");
    assert!(
        err.contains("other.jsonl")
            && err.contains("line 1")
            && err.contains("was recorded with kitchen"),
        "{err}"
    );
    let cut: String = saved.lines().take(5).collect::<Vec<_>>().join("\n");
    std::fs::write(file("cut.jsonl"), cut).unwrap();
    let (code, _, err) = run(&["replay", &file("cut.jsonl")]);
    assert_eq!(code, 65, "{err}");
    assert!(
        err.contains("cut.jsonl") && err.contains("cut off"),
        "{err}"
    );
}
