//! Cameras that fail.
use crate::support::{
    Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip, mute_listener,
};

fn clip() -> String {
    format!("kitchen={}", demo_clip("kitchen.mp4").display())
}

#[test]
fn a_wrong_password_is_told_apart_and_other_cameras_go_on() {
    let strict = Camera::start(&["--auth", "viewer:right:basic", &clip()]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let login = |file| format!("username = \"viewer\"\npassword_file = \"{file}\"");
    let tables = camera_table("good", &strict.url("kitchen"), &login("right"))
        + &camera_table("bad", &strict.url("kitchen"), &login("wrong"))
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    std::fs::write(site.path("right"), "right").unwrap();
    std::fs::write(site.path("wrong"), "hunter2").unwrap();
    let mut daemon = site.daemon();
    let bad = listener.camera("bad", "unauthorised");
    assert!(
        bad["detail"].as_str().unwrap().contains("password"),
        "{bad}"
    );
    if !listener
        .heard
        .iter()
        .any(|m| m.topic.ends_with("/camera/good/status") && m.payload["state"] == "online")
    {
        listener.camera("good", "online");
    }
    assert!(daemon.terminate().success());
    assert!(
        !daemon.said().contains("hunter2"),
        "the log shows a password"
    );
}

#[test]
fn a_killed_camera_goes_offline_and_comes_back_by_itself() {
    let mut camera = Camera::start(&[&clip()]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = camera_table("wok-1", &camera.url("kitchen"), "") + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    listener.camera("wok-1", "online");
    camera.process.kill();
    let offline = listener.camera("wok-1", "offline");
    assert!(!offline["detail"].as_str().unwrap().is_empty(), "{offline}");
    camera.restart();
    listener.camera("wok-1", "online");
    assert!(daemon.terminate().success());
}

#[test]
fn a_camera_that_falls_silent_is_lost_although_its_session_lives() {
    let camera = Camera::start(&["--mute-after", "3", &clip()]);
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let tables = camera_table("wok-1", &camera.url("kitchen"), "silence_ms = 1500") + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    listener.camera("wok-1", "online");
    let offline = listener.camera("wok-1", "offline");
    assert!(
        offline["detail"].as_str().unwrap().contains("no picture"),
        "{offline}"
    );
    assert!(daemon.terminate().success());
}

#[test]
fn a_camera_that_accepts_and_never_answers_is_offline_within_its_limit() {
    let (_held, address) = mute_listener();
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let url = format!("rtsp://{address}/stream");
    let tables = camera_table("wok-1", &url, "step_timeout_ms = 700") + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let mut daemon = site.daemon();
    listener.camera("wok-1", "offline");
    assert!(daemon.terminate().success());
}

#[test]
fn a_file_that_is_no_video_is_told_and_does_not_end_the_daemon() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let clip = demo_clip("kitchen.mp4");
    let site = SiteDir::new(
        &broker.url(),
        &(camera_table("text", "file:not-a-video.mp4", "")
            + &camera_table("good", &format!("file:{}", clip.display()), "repeat = true")
            + QUICK_RULE),
    );
    std::fs::write(site.path("not-a-video.mp4"), "a shopping list").unwrap();
    let mut daemon = site.daemon();
    let what = "a camera that says its file is no video";
    let text = listener.wait_for(what, |m| {
        m.topic.ends_with("/camera/text/status")
            && matches!(m.payload["state"].as_str(), Some("offline" | "no_video"))
    });
    let detail = text.payload["detail"].as_str().unwrap();
    assert!(detail.contains("not-a-video.mp4"), "{detail}");
    listener.finding("opened");
    assert!(daemon.terminate().success());
}
