//! No secret leaves the process but to whom it is meant for: everything the program emits is looked
//! through, at the most talkative log level.
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::support::{
    Camera, Mosquitto, Process, QUICK_RULE, SiteDir, camera_table, demo_clip, mingchu,
};

/// What nobody may read, by the file it is in.
const SECRETS: [(&str, &str); 4] = [
    ("camera.password", "opensesame-7431"),
    ("wrong.password", "swordfish-9925"),
    ("broker.password", "rosebud-1187"),
    ("status.token", "correct-horse-battery-5520"),
];

/// Where a secret shows in `text`, in plain, in Base64, or as URLs write it.
fn shown(what: &str, text: &str) -> Vec<String> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mut found = Vec::new();
    for (file, secret) in SECRETS {
        let basic = engine.encode(format!("viewer:{secret}"));
        let forms = [secret.to_owned(), engine.encode(secret), basic];
        for form in forms {
            if let Some(line) = text.lines().find(|line| line.contains(&form)) {
                found.push(format!("{what} shows {file}: {line}"));
            }
        }
    }
    found
}

/// All that is asked of the page, with the token.
fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let token = SECRETS[3].1;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: box\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Every file under `dir` that is not one of ours.
fn files(dir: &Path, into: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, into);
        } else if !SECRETS.iter().any(|(file, _)| *file == name) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            writeln!(into, "{}: {text}", path.display()).unwrap();
        }
    }
}

#[test]
fn nothing_that_the_daemon_emits_holds_a_secret() {
    let clip = format!("kitchen={}", demo_clip("kitchen.mp4").display());
    let login = format!("viewer:{}", SECRETS[0].1);
    let digest = Camera::start(&["--auth", &format!("{login}:digest"), &clip]);
    let basic = Camera::start(&["--auth", &format!("{login}:basic"), &clip]);
    let broker = Mosquitto::with_login("box", SECRETS[2].1);
    let mut listener = broker.listener();
    let with = |file: &str| format!("username = \"viewer\"\npassword_file = \"{file}\"\n");
    let tables = camera_table("wok-1", &digest.url("kitchen"), &with("camera.password"))
        + &camera_table("wok-2", &basic.url("kitchen"), &with("camera.password"))
        + &camera_table("store", &digest.url("kitchen"), &with("wrong.password"))
        + QUICK_RULE;
    let site = SiteDir::new(&broker.url(), &tables);
    let config = site.read_config();
    let broker_login = "[uplink]\nusername = \"box\"\npassword_file = \"broker.password\"\n";
    let listen = "listen = \"127.0.0.1:0\"\n";
    let token = format!("{listen}token_file = \"status.token\"\n");
    site.write_config(
        &config
            .replace("[uplink]\n", broker_login)
            .replace(listen, &token),
    );
    for (file, secret) in SECRETS {
        std::fs::write(site.path(file), format!("{secret}\n")).unwrap();
    }

    let mut command = mingchu();
    command.arg("run").arg("--config").arg(site.config());
    let mut daemon = Process::start("mingchu", command.env("MINGCHU_LOG", "trace"));
    let line = daemon.wait_for_text("status page address=");
    let address = line.split("address=").nth(1).unwrap().trim().to_owned();
    listener.camera("store", "unauthorised");
    let finding = listener.finding("opened");
    listener.wait_for("telemetry", |m| m.topic.ends_with("/telemetry"));
    listener.wait_for("a picture", |m| m.topic.contains("/evidence/"));

    let mut found = Vec::new();
    for path in ["/metrics", "/healthz", "/"] {
        let text = page(&address, path);
        assert!(
            path == "/" || text.starts_with("HTTP/1.1 200"),
            "{path}: {text}"
        );
        found.extend(shown(path, &text));
    }
    // Who is on the box may see command line and environment of every process of theirs.
    for name in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{name}", daemon.id())).unwrap();
        found.extend(shown(name, &String::from_utf8_lossy(&text)));
    }
    // A config that is refused is told to the centre; so is what it says of the secrets in it.
    let wrong = site
        .read_config()
        .replace("id = \"store\"", "id = \"Store!\"");
    site.write_config(&wrong);
    daemon.signal("-HUP");
    listener.wait_for("the refusal", |m| {
        m.topic.ends_with("/config/reported") && m.payload.to_string().contains("Store!")
    });
    assert!(daemon.terminate().success());
    listener.status("goodbye", |s| s["online"] == false);
    for message in &listener.heard {
        let text = format!("{} {}", message.topic, message.properties);
        found.extend(shown(&message.topic, &text));
        found.extend(shown(
            &message.topic,
            &String::from_utf8_lossy(&message.bytes),
        ));
    }
    let said = daemon.said();
    assert!(
        said.contains("TRACE"),
        "the log is not at its most talkative"
    );
    found.extend(shown("the log", &said));
    let mut on_disk = String::new();
    files(site.path("state").as_path(), &mut on_disk);
    let id = finding["data"]["finding"].as_str().unwrap();
    assert!(on_disk.contains(id), "the state was not read");
    found.extend(shown("the state", &on_disk));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_that_a_command_prints_holds_a_secret() {
    let clip = format!("kitchen={}", demo_clip("kitchen.mp4").display());
    let login = format!("viewer:{}:digest", SECRETS[0].1);
    let camera = Camera::start(&["--auth", &login, &clip]);
    let in_url = camera
        .url("kitchen")
        .replace("://", &format!("://viewer:{}@", SECRETS[0].1));
    let tables = camera_table("wok-1", &in_url, "") + QUICK_RULE;
    let broker = format!("mqtt://box:{}@127.0.0.1:1883", SECRETS[2].1);
    let site = SiteDir::new(&broker, &tables);
    for (file, secret) in SECRETS {
        std::fs::write(site.path(file), format!("{secret}\n")).unwrap();
    }
    let mut found = Vec::new();
    let mut look = |name: &str, command: &mut Command| {
        let output = command.env("MINGCHU_LOG", "trace").output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.is_empty(), "{name} said nothing");
        found.extend(shown(name, &text));
        text
    };
    // Secrets where they must not be are named by key, not by what they are.
    let mut check = mingchu();
    let said = look("check", check.arg("check").arg(site.config()));
    assert!(
        said.contains("camera[0].url") && said.contains("uplink.broker"),
        "{said}"
    );
    let mut probe = mingchu();
    look(
        "probe with the password in the URL",
        probe.args(["probe", &in_url]),
    );
    let mut probe = mingchu();
    probe.args([
        "probe",
        "--seconds",
        "2",
        "--username",
        "viewer",
        "--password-file",
    ]);
    probe
        .arg(site.path("camera.password"))
        .arg(camera.url("kitchen"));
    let said = look("probe", &mut probe);
    assert!(said.contains("1280x720"), "{said}");
    let mut tail = mingchu();
    look("tail", tail.args(["tail", "--broker", &broker]));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
