//! RTSP in, findings out.
use crate::support::{
    Camera, Listener, Mosquitto, Process, QUICK_RULE, SiteDir, camera_table, demo_clip, mingchu,
};

#[test]
fn two_cameras_with_digest_logins_give_findings_that_are_cloud_events() {
    let clips = [
        format!("h264={}", demo_clip("kitchen.mp4").display()),
        format!("h265={}", demo_clip("kitchen-h265.mp4").display()),
    ];
    let camera = Camera::start(&["--auth", "viewer:opensesame:digest", &clips[0], &clips[1]]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let login = "username = \"viewer\"\npassword_file = \"camera.password\"\nanalyse_fps = 3";
    let tables = camera_table("wok-1", &camera.url("h264"), login)
        + &camera_table("wash-2", &camera.url("h265"), login)
        + QUICK_RULE
        + "zone_name = \"line\"\nzone = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]\n";
    let site = SiteDir::new(&broker.url(), &tables);
    std::fs::write(site.path("camera.password"), "opensesame\n").unwrap();
    let mut daemon = site.daemon();

    let status = listener.status("online status", |s| s["online"] == true);
    assert_eq!(status["cameras"], 2);
    let mut open: Vec<String> = Vec::new();
    while open.len() < 2 {
        let finding = listener.finding("opened");
        assert_eq!(finding["data"]["replayed"], false);
        assert_eq!(finding["data"]["camera"]["zone"], "line");
        let still = &finding["data"]["evidence"][0];
        assert_eq!(still["redacted"], true);
        open.push(finding["data"]["camera"]["id"].as_str().unwrap().to_owned());
    }
    open.sort();
    assert_eq!(open, ["wash-2", "wok-1"]);
    let closed = listener.finding("closed");
    let id = closed["data"]["finding"].as_str().unwrap();
    let active = format!("/active/{id}");
    listener.eventually("the end of the retained finding", |m| {
        m.topic.ends_with(&active) && m.payload.is_null()
    });
    for (id, codec) in [("wok-1", "h264"), ("wash-2", "h265")] {
        let topic = format!("/camera/{id}/status");
        let online = listener.eventually("an online camera", |m| {
            m.topic.ends_with(&topic) && m.payload["state"] == "online"
        });
        let online = online.payload;
        assert_eq!(
            (online["codec"].as_str(), online["width"].as_u64()),
            (Some(codec), Some(1280))
        );
    }
    listener.wait_for("telemetry", |m| {
        m.topic.ends_with("/telemetry") && m.payload["counters"]["outbox_records"] == 0
    });
    assert!(daemon.terminate().success());
    listener.status("goodbye", |s| s["online"] == false);
    let said = daemon.said();
    assert!(!said.contains("opensesame"), "the log shows a password");
}

#[test]
fn the_demo_needs_nothing_and_tells_a_finding() {
    let mut command = mingchu();
    let mut demo = Process::start("demo", command.args(["demo", "--seconds", "12"]));
    demo.wait_for_text("FOUND     ppe.mask.missing  No mask  wok-1");
    assert!(demo.wait().success());
    let said = demo.said();
    assert!(said.contains("OFFLINE"), "{said}");
    // The astronaut has no hat either.
    assert!(
        said.contains("FOUND     ppe.hat.missing  No hat  wok-1") && said.contains("0 waiting"),
        "{said}"
    );
}

#[test]
fn the_demo_takes_a_clip_of_the_users_own_and_speaks_chinese_where_the_locale_does() {
    let clip = demo_clip("kitchen-h265.mp4");
    let mut command = mingchu();
    command.env("LC_ALL", "zh_CN.UTF-8");
    let mut demo = Process::start("demo", command.args(["demo", "--source"]).arg(&clip));
    demo.wait_for_text("发现      ppe.mask.missing  未戴口罩  wok-1");
    demo.signal("-INT");
    assert!(demo.wait().success());
}

/// A real person, who takes a mask off and puts it on.
#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn a_real_bare_face_is_found_and_a_masked_one_is_not() {
    #[cfg(has_shared)]
    {
        let clip = crate::support::shared_clip("mask-on-off-closeup.mp4");
        let camera = Camera::start(&[&format!("closeup={}", clip.display())]);
        let broker = Mosquitto::start();
        let mut listener = Listener::start(broker.port);
        let tables = camera_table("closeup", &camera.url("closeup"), "") + QUICK_RULE;
        let site = SiteDir::new(&broker.url(), &tables);
        let mut daemon = site.daemon();
        listener.finding("opened");
        // The mask goes on: the violation ends.
        listener.finding("closed");
        assert!(daemon.terminate().success());
    }
}
