use std::collections::BTreeSet;
use std::path::Path;

use super::keys::{Absent, KEYS};
use super::parse::read;
use super::section::Reading;
use super::*;
use crate::capture::{SourceConfig, Transport};

const EXAMPLE: &str = include_str!("../../../config/site.example.toml");
const MINIMAL: &str = include_str!("../../../config/site.minimal.toml");
const REFERENCE: &str = include_str!("../../../config/README.md");

/// The example with its files made in `dir`.
fn example_in(dir: &Path) -> String {
    let here = dir.display().to_string();
    let text = EXAMPLE
        .replace("/etc/mingchu", &here)
        .replace("/var/lib/mingchu/clips", &here);
    let names = [
        "broker.password",
        "ca.pem",
        "site.pem",
        "site.key",
        "wok-1.password",
        "kitchen.mp4",
    ];
    for name in names {
        std::fs::write(dir.join(name), "secret\n").unwrap();
    }
    text
}

fn good(text: &str) -> SiteConfig {
    let parsed = parse(Path::new("site.toml"), text);
    assert_eq!(parsed.problems, [], "{text}");
    parsed.config.unwrap()
}

/// The problems of the minimal config with `from` replaced by `to`, as lines.
fn problems_with(from: &str, to: &str) -> Vec<String> {
    assert!(MINIMAL.contains(from), "{from}");
    let parsed = parse(Path::new("site.toml"), &MINIMAL.replace(from, to));
    assert_eq!(parsed.config.is_none(), !parsed.problems.is_empty());
    parsed.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_minimal_config_is_good() {
    let config = good(MINIMAL);
    assert_eq!(config.uplink.client_id, "mingchu-410724-site-000123");
    assert_eq!(config.rules[0].config.cameras.len(), 1);
}

#[test]
fn the_example_is_good_and_secrets_come_from_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = good(&example_in(dir.path()));
    let SourceConfig::Rtsp {
        login: Some((user, password)),
        transport,
        ..
    } = &config.cameras[0].capture.source
    else {
        panic!("{:?}", config.cameras[0]);
    };
    assert_eq!((user.as_str(), password.expose()), ("viewer", "secret"));
    assert_eq!(*transport, Transport::Tcp);
    assert!(
        config
            .uplink
            .tls
            .as_ref()
            .is_some_and(|t| t.client.is_some())
    );
    assert!(
        !format!("{config:?}").contains("secret\""),
        "a secret shows in Debug"
    );
}

#[test]
fn catalogue_reader_example_and_reference_name_the_same_keys() {
    let catalogue: BTreeSet<_> = KEYS.iter().map(|k| (k.section, k.name)).collect();
    assert_eq!(
        catalogue.len(),
        KEYS.len(),
        "a key is in the catalogue twice"
    );
    let reading = Reading::new(Path::new("site.toml"), MINIMAL);
    read(&reading, Path::new("site.toml"), MINIMAL);
    assert_eq!(reading.asked(), catalogue, "what the reader asks for");

    let table: toml::Table = toml::from_str(EXAMPLE).unwrap();
    let mut example = BTreeSet::new();
    for (section, value) in &table {
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Array(tables) => tables.iter().filter_map(|t| t.as_table()).collect(),
            other => other.as_table().into_iter().collect(),
        };
        for key in tables.iter().flat_map(|t| t.keys()) {
            let known = catalogue.iter().find(|(s, k)| s == section && k == key);
            example.insert(*known.unwrap_or_else(|| panic!("{section}.{key} is in no catalogue")));
        }
    }
    assert_eq!(example, catalogue, "what the example shows");
    let reference = reference();
    assert!(
        // A newcomer's checkout may have other line ends.
        REFERENCE.replace("\r\n", "\n").contains(&reference),
        "config/README.md must hold this between its introduction and its end:\n{reference}"
    );
}

#[test]
fn writing_a_default_changes_nothing() {
    let plain = good(MINIMAL);
    // Keys of a clip have a base of their own.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kitchen.mp4"), "x").unwrap();
    let url = "rtsp://192.168.1.64/Streaming/Channels/102";
    let clip = MINIMAL.replace(url, &format!("file:{}/kitchen.mp4", dir.path().display()));
    for key in KEYS {
        let Absent::Value(default) = key.default else {
            continue;
        };
        let is_clip_key = matches!(key.name, "pace" | "repeat");
        let base = if is_clip_key { &clip } else { MINIMAL };
        let heading = super::keys::heading(key.section);
        let line = format!("{heading}\n{} = {default}\n", key.name);
        let text = if base.contains(heading) {
            base.replace(&format!("{heading}\n"), &line)
        } else {
            format!("{base}\n{line}")
        };
        let mut with = good(&text);
        let mut without = if is_clip_key {
            good(base)
        } else {
            plain.clone()
        };
        // An added line moves what follows it.
        for config in [&mut with, &mut without] {
            for label in config.rules.iter_mut().flat_map(|r| &mut r.labels) {
                label.place.line = 0;
            }
        }
        assert_eq!(with, without, "{}.{} = {default}", key.section, key.name);
    }
}

#[test]
fn each_example_value_of_the_catalogue_is_valid_toml() {
    for key in KEYS {
        let text = format!("{} = {}", key.name, key.example);
        toml::from_str::<toml::Table>(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}

#[test]
fn all_mistakes_come_at_once_with_their_places() {
    let text = r#"
[site]
region = "410724"
id = "Site 1"
colour = "red"

[uplink]
broker = "http://centre"
window = "many"

[detect]
modles = ["a.toml"]

[[camera]]
id = "wok-1"
url = "rtsp://admin:hunter2@192.168.1.64/"
analyse_fps = 99

[[camera]]
id = "wok-1"
url = "rtsp://192.168.1.65/"

[[rule]]
id = "mask"
code = "ppe.mask.missing"
labels = ["face-bare"]
cameras = ["wok-2"]
zone = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
"#;
    let parsed = parse(Path::new("site.toml"), text);
    let shown: Vec<_> = parsed.problems.iter().map(ToString::to_string).collect();
    let shown = shown.join("\n");
    assert!(
        !shown.contains("hunter2"),
        "a password in an error: {shown}"
    );
    insta::assert_snapshot!(shown, @r#"
    site.toml:4:6: site.id: `Site 1` may hold only a-z, 0-9, '-' and '.', and begins with a letter or digit
        expected: 1 to 48 of `a-z 0-9 - .`; for example `id = "site-000123"`
    site.toml:5:1: site.colour: is no key of this table
        known here: id, region, state_dir, uscc
    site.toml:8:10: uplink.broker: `http://` is not MQTT
        write `mqtt://host[:1883]` or `mqtts://host[:8883]`
    site.toml:9:10: uplink.window: is a string
        expected: whole number, 1 to 1000; for example `window = 32`
    site.toml:11:2: detect.models: is missing
        add `models = ["/usr/share/mingchu/models/kitchen.toml", "/usr/share/mingchu/models/heads.toml", "/usr/share/mingchu/models/smoking.toml"]` (list of paths, at least one)
    site.toml:12:1: detect.modles: is no key of this table
        did you mean `models`?
    site.toml:16:7: camera[0].url: holds a user name or password
        take them out of the URL: they belong into `username` and `password_file`
    site.toml:17:15: camera[0].analyse_fps: is 99
        expected: number, 0.1 to 30; for example `analyse_fps = 4.0`
    site.toml:20:6: camera[1].id: `wok-1` is there twice
        give each an id of its own
    site.toml:27:11: rule[0].cameras: there is no camera `wok-2`
        did you mean `wok-1`?
    site.toml:28:8: rule[0].zone: crosses itself
        list the corners in order, once around the area
    "#);
}

#[test]
fn syntax_errors_have_a_place_too() {
    let problems = problems_with("id = \"wok-1\"", "id = wok-1");
    assert!(problems[0].starts_with("site.toml:15:6:"), "{problems:#?}");
}

#[test]
fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
    let problems = problems_with("[detect]\n", "[detect]\nanalyse_fps = 4\n");
    assert!(
        problems[0].contains("belongs into `[[camera]]`"),
        "{problems:#?}"
    );
}

#[test]
fn a_site_without_cameras_or_rules_is_refused() {
    let start = MINIMAL.find("[[camera]]").unwrap();
    let parsed = parse(Path::new("site.toml"), &MINIMAL[..start]);
    let keys: Vec<_> = parsed.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["camera", "rule"]);
}

#[test]
fn tls_is_never_half_configured() {
    let tls = problems_with("mqtt://127.0.0.1\"", "mqtts://127.0.0.1\"");
    assert!(tls[0].contains("needs `ca_file`"), "{tls:#?}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), "x").unwrap();
    let line = format!(
        "mqtt://127.0.0.1\"\nca_file = \"{}/ca.pem\"",
        dir.path().display()
    );
    let clear = problems_with("mqtt://127.0.0.1\"", &line);
    assert!(clear[0].contains("has no use with `mqtt://`"), "{clear:#?}");
}

#[test]
fn a_missing_password_file_is_named() {
    let url = "url = \"rtsp://192.168.1.64/Streaming/Channels/102\"";
    let line = format!("{url}\nusername = \"viewer\"\npassword_file = \"nowhere/at-all\"");
    let problems = problems_with(url, &line);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("camera[0].password_file: nowhere/at-all"),
        "{problems:#?}"
    );
}

#[test]
fn a_camera_with_a_mistake_does_not_make_its_rules_wrong() {
    let from = "url = \"rtsp://192.168.1.64/Streaming/Channels/102\"";
    let text = MINIMAL
        .replace(from, "url = \"ftp://x\"")
        .replace("labels =", "cameras = [\"wok-1\"]\nlabels =");
    let parsed = parse(Path::new("site.toml"), &text);
    let keys: Vec<_> = parsed.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["camera[0].url"]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", cut in 0..EXAMPLE.len()) {
        parse(Path::new("site.toml"), &text);
        let cut = (0..=cut).rev().find(|i| EXAMPLE.is_char_boundary(*i)).unwrap_or(0);
        parse(Path::new("site.toml"), &format!("{}{text}", &EXAMPLE[..cut]));
    }
}
