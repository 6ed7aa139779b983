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
    std::fs::write(dir.join("status.token"), "a long and random word\n").unwrap();
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
            config.revision.clear();
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
        known here: business_hours, holidays, id, open_days, region, state_dir, timezone, uscc
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

/// The problems of the minimal config with `site` and `rule` added to its tables.
fn problems_of(site: &str, rule: &str) -> String {
    let text = MINIMAL.replace("[site]\n", &format!("[site]\n{site}")) + rule;
    let parsed = parse(Path::new("site.toml"), &text);
    assert_eq!(parsed.config.is_none(), !parsed.problems.is_empty());
    let shown: Vec<_> = parsed.problems.iter().map(ToString::to_string).collect();
    shown.join("\n")
}

#[test]
fn hours_that_nobody_can_keep_are_refused() {
    let site = r#"timezone = "Asia/Shangai"
business_hours = ["mon-fry 08:00-21:30", "sat 10-02", "sun"]
holidays = ["1 October"]
open_days = ["2026-10-10", "2026-10-11 08:00-08:00"]
"#;
    insta::assert_snapshot!(problems_of(site, ""), @r#"
    site.toml:5:12: site.timezone: there is no time zone `Asia/Shangai`
        did you mean `Asia/Shanghai`?
    site.toml:6:19: site.business_hours[0]: `fry` is no weekday
        did you mean `fri`?
    site.toml:6:42: site.business_hours[1]: `10-02` is no `HH:MM-HH:MM`
        write days and hours, e.g. `mon-fri 08:00-14:00, 17:00-21:30`, `sat,sun 10:00-02:00` or `daily 00:00-24:00`
    site.toml:6:55: site.business_hours[2]: names no hours
        write days and hours, e.g. `mon-fri 08:00-14:00, 17:00-21:30`, `sat,sun 10:00-02:00` or `daily 00:00-24:00`
    "#);
    // Days are told once the hours are right.
    let site = site
        .replace("mon-fry", "mon-fri")
        .replace(", \"sat 10-02\", \"sun\"", "");
    insta::assert_snapshot!(problems_of(&site, ""), @r#"
    site.toml:5:12: site.timezone: there is no time zone `Asia/Shangai`
        did you mean `Asia/Shanghai`?
    site.toml:7:13: site.holidays[0]: `1 October` is no date
        write `YYYY-MM-DD`, one day each
    site.toml:8:14: site.open_days[0]: names no hours
        write a day with its hours, e.g. `2026-10-10 08:00-21:30`
    site.toml:8:28: site.open_days[1]: `08:00-08:00` begins and ends with the same minute
        write a day with its hours, e.g. `2026-10-10 08:00-21:30`
    "#);
    let twice = r#"business_hours = ["daily 08:00-20:00"]
holidays = ["2026-10-10"]
open_days = ["2026-10-10 10:00-12:00"]
"#;
    insta::assert_snapshot!(problems_of(twice, ""), @r#"
    site.toml:7:14: site.open_days[0]: `2026-10-10 10:00-12:00` is one of the `holidays` too
        take it out of one of the two
    "#);
    insta::assert_snapshot!(problems_of("holidays = [\"2026-10-10\"]\n", ""), @r#"
    site.toml:5:12: site.holidays: needs `business_hours`
        add `business_hours = ["mon-fri 08:00-21:30"]`, or take it out
    "#);
    insta::assert_snapshot!(problems_of("timezone = \"Beijing\"\n", ""), @r#"
    site.toml:5:12: site.timezone: there is no time zone `Beijing`
        write an IANA name, e.g. `Asia/Shanghai`, `Asia/Urumqi` or `Europe/Berlin`
    "#);
}

#[test]
fn a_rule_that_can_never_watch_is_refused() {
    insta::assert_snapshot!(problems_of("", "when = \"business\"\noff_hours_factor = 0.5\n"), @r#"
    site.toml:21:8: rule[0].when: `business` needs `site.business_hours`
        add `business_hours = ["mon-fri 08:00-21:30"]` to `[site]`
    site.toml:22:20: rule[0].off_hours_factor: needs `site.business_hours`
        add `business_hours` to `[site]`, or take it out
    "#);
    let always = "business_hours = [\"daily 00:00-24:00\"]\n";
    insta::assert_snapshot!(problems_of(always, "when = \"off-hours\"\n"), @r#"
    site.toml:22:8: rule[0].when: leaves no hour in which the rule watches
        business is round the clock: write `when = "always"`, or correct `business_hours` in `[site]`
    "#);
    insta::assert_snapshot!(problems_of("", "hours = []\nwhen = \"never\"\n"), @r#"
    site.toml:21:9: rule[0].hours: is empty
        expected: list of days with hours, as in `site.business_hours`; for example `hours = ["daily 22:00-06:00"]`
    site.toml:21:9: rule[0].hours: cannot stand beside `when`
        take one of the two out
    site.toml:22:8: rule[0].when: is "never"
        expected: `"always"`, `"business"` or `"off-hours"`; for example `when = "always"`
    "#);
    // Hours with a mistake are hours: the rule is not blamed for theirs.
    let wrong = "business_hours = [\"daily\"]\n";
    let problems = problems_of(wrong, "when = \"business\"\noff_hours_factor = 0.5\n");
    assert_eq!(problems.lines().count(), 2, "{problems}");
}

#[test]
fn zones_that_enclose_nothing_are_refused() {
    let rule = r"zone = [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]
exclude = [[[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]]
";
    insta::assert_snapshot!(problems_of("", rule), @r#"
    site.toml:21:8: rule[0].zone: has no area
        list corners that enclose a part of the picture
    site.toml:22:12: rule[0].exclude[0]: crosses itself
        list the corners in order, once around the area
    site.toml:22:62: rule[0].exclude[1]: has fewer than 3 corners
        write at least 3 corners `[x, y]`
    "#);
    let rule = r"zone = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]
exclude = [[[0.0, 0.0], [0.6, 0.0], [0.6, 0.6], [0.0, 0.6]]]
";
    insta::assert_snapshot!(problems_of("", rule), @r#"
    site.toml:22:11: rule[0].exclude: leaves nothing of the zone
        make the excluded areas smaller, or take the rule out
    "#);
    insta::assert_snapshot!(problems_of("", "exclude = [[0.0, 0.0], [0.6, 0.0]]\nzone_samples = 0\n"), @r#"
    site.toml:21:11: rule[0].exclude: holds something that is no list of corners
        expected: list of polygons, each as in `zone`; for example `exclude = [[[0.7, 0.2], [1.0, 0.2], [1.0, 0.5]]]`
    site.toml:22:16: rule[0].zone_samples: is 0
        expected: whole number, 1 to 20; for example `zone_samples = 2`
    "#);
}

#[test]
fn more_hits_than_samples_are_refused() {
    insta::assert_snapshot!(problems_of("", "samples = 3\nhits = 4\n"), @r#"
    site.toml:22:8: rule[0].hits: is 4, more than `samples` (3)
        make it the lower of the two
    "#);
    insta::assert_snapshot!(problems_of("", "hits = 6\n"), @r#"
    site.toml:21:8: rule[0].hits: is 6, more than `samples` (5)
        make it the lower of the two
    "#);
}

#[test]
fn an_exclusion_alone_is_of_the_whole_picture() {
    let text = format!("{MINIMAL}exclude = [[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]]\n");
    let config = good(&text);
    let zone = config.rules[0].config.zone.as_ref().unwrap();
    assert_eq!(zone.name.as_str(), "zone");
    assert!((zone.polygon.area() - 1.0).abs() < 1e-6);
    assert_eq!(zone.exclude.len(), 1);
}

#[test]
fn a_code_brings_its_hits_unless_samples_are_written() {
    let rule = |code: &str, more: &str| {
        let text = MINIMAL.replace("ppe.mask.missing", code) + more;
        good(&text).rules.remove(0).config
    };
    let gate = |r: &RuleConfig| (r.samples, r.hits);
    assert_eq!(gate(&rule("act.smoking", "")), (3, Some(2)));
    assert_eq!(gate(&rule("act.smoking", "samples = 5\n")), (5, None));
    assert_eq!(
        gate(&rule("act.smoking", "samples = 5\nhits = 3\n")),
        (5, Some(3))
    );
    assert_eq!(gate(&rule("ppe.hat.missing", "")), (5, None));
    let rat = rule("pest.rodent", "");
    assert_eq!((rat.still_ms, rat.off_hours), (60_000, None));
}

#[test]
fn rodents_need_less_evidence_outside_business_hours_once_those_are_known() {
    let text = MINIMAL.replace("ppe.mask.missing", "pest.rodent").replace(
        "[site]\n",
        "[site]\nbusiness_hours = [\"daily 08:00-20:00\"]\n",
    );
    let rule = good(&text).rules.remove(0).config;
    let (business, off) = (rule.gate(false), rule.gate(true));
    assert_eq!((business.dwell_ms, business.off_hours), (400, false));
    assert_eq!((off.dwell_ms, off.off_hours), (320, true));
    let same = good(&format!("{text}off_hours_factor = 1\n"))
        .rules
        .remove(0);
    assert_eq!(same.config.off_hours, None);
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

#[test]
fn workers_are_a_number_or_left_to_the_load() {
    let with =
        |workers: &str| MINIMAL.replace("[detect]", &format!("[detect]\nworkers = {workers}"));
    assert_eq!(good(MINIMAL).detect.workers, None);
    assert_eq!(good(&with("\"auto\"")).detect.workers, None);
    assert_eq!(good(&with("3")).detect.workers, Some(3));
    for wrong in ["\"many\"", "0", "65", "true"] {
        let problems = parse(Path::new("site.toml"), &with(wrong)).problems;
        let [problem] = &problems[..] else {
            panic!("{wrong}: {problems:?}");
        };
        assert_eq!(problem.key, "detect.workers");
        assert!(problem.remedy.contains("`workers = \"auto\"`"), "{problem}");
    }
}

#[test]
fn a_camera_switches_off_what_it_need_not_be_looked_at_for() {
    let text = MINIMAL.replace("[[camera]]\n", "[[camera]]\nhealth_off = [\"moved\"]\n")
        + "\n[health]\noff = [\"dark\", \"no-video\"]\nbusiness_hours_only = []\nfrozen_s = 20\n";
    let config = good(&text);
    let (device, picture) = (&config.cameras[0].device, &config.cameras[0].decode.picture);
    let off: Vec<&str> = device.off.iter().map(|f| f.word()).collect();
    assert_eq!(off, ["no-video", "dark", "moved"]);
    assert!(device.business_hours_only.is_empty());
    assert_eq!((picture.dark, picture.moved), (None, None));
    assert_eq!(picture.frozen, Some(std::time::Duration::from_secs(20)));
}

#[test]
fn a_word_that_is_no_fault_of_a_camera_is_named() {
    let problems = problems_with(
        "[detect]\n",
        "[health]\noff = [\"dark\", \"ocluded\"]\n[detect]\n",
    );
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(
        problems[0].contains("health.off: holds `ocluded`"),
        "{problems:#?}"
    );
    assert!(
        problems[0].contains("did you mean `occluded`?"),
        "{problems:#?}"
    );
}

#[test]
fn a_rule_may_not_take_the_codes_of_camera_health() {
    let from = "code = \"ppe.mask.missing\"";
    let problems = problems_with(from, "code = \"device.camera.offline\"");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("rule[0].code") && problems[0].contains("[health]"),
        "{problems:?}"
    );
}

#[test]
fn a_status_page_beyond_the_box_needs_a_token() {
    let page = |lines: &str| {
        let with = format!("[status]\n{lines}\n[[camera]]");
        let text = MINIMAL.replacen("[[camera]]", &with, 1);
        let parsed = parse(Path::new("site.toml"), &text);
        let said: Vec<String> = parsed.problems.iter().map(|p| p.message.clone()).collect();
        (parsed.config.map(|c| c.status.listen), said)
    };
    assert_eq!(page("listen = \"off\""), (Some(None), Vec::new()));
    let loopback = page("listen = \"[::1]:9000\"").0.flatten();
    assert!(loopback.is_some_and(|a| a.ip().is_loopback() && a.port() == 9000));
    let (none, said) = page("listen = \"0.0.0.0:9000\"");
    assert!(none.is_none());
    assert!(said[0].contains("needs `token_file`"), "{said:?}");
    assert!(page("listen = \"nine\"").1[0].contains("no address with a port"));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "short").unwrap();
    let lines = format!(
        "listen = \"0.0.0.0:9000\"\ntoken_file = \"{}\"",
        token.display()
    );
    assert!(page(&lines).1[0].contains("fewer than 16"));
    std::fs::write(&token, "long enough to be a token").unwrap();
    assert!(page(&lines).1.is_empty());
}

#[test]
fn late_decode_goes_with_the_motion_gate_and_a_rule_can_forbid_it() {
    assert!(good(MINIMAL).cameras[0].decode.late);
    let with = |camera: &str, rule: &str| {
        let text = MINIMAL.replace("[[camera]]\n", &format!("[[camera]]\n{camera}"));
        text.replace("[[rule]]\n", &format!("[[rule]]\n{rule}"))
    };
    for (camera, rule) in [
        ("late_decode = false\n", ""),
        ("motion_gate = false\n", ""),
        ("", "late_decode = false\n"),
        ("late_decode = true\n", "late_decode = false\n"),
    ] {
        assert!(
            !good(&with(camera, rule)).cameras[0].decode.late,
            "{camera}{rule}"
        );
    }
    let text = with("motion_gate = false\nlate_decode = true\n", "");
    let parsed = parse(Path::new("site.toml"), &text);
    let shown: Vec<_> = parsed.problems.iter().map(ToString::to_string).collect();
    assert!(
        shown.len() == 1 && shown[0].contains("late_decode") && shown[0].contains("motion_gate"),
        "{shown:?}"
    );
}
