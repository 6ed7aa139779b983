//! What a reload touches, without a site.
use super::*;

fn config(text: &str) -> SiteConfig {
    let parsed = config::parse(Path::new("site.toml"), text);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    parsed.config.unwrap()
}

const TEXT: &str = r#"
[site]
region = "410724"
id = "site-1"
state_dir = "state"
[uplink]
broker = "mqtt://centre.example"
[detect]
models = ["kitchen.toml"]
workers = 1
[[camera]]
id = "wok"
url = "rtsp://10.0.0.1/a"
[[camera]]
id = "wash"
url = "rtsp://10.0.0.2/a"
[[rule]]
id = "mask"
code = "ppe.mask.missing"
"#;

fn changed(from: &str, to: &str) -> Difference {
    assert!(TEXT.contains(from), "{from}");
    Difference::between(&config(TEXT), &config(&TEXT.replace(from, to)), false)
}

#[test]
fn only_what_changed_begins_anew() {
    let parts = |from, to| changed(from, to).restarted();
    assert_eq!(
        parts("10.0.0.2/a", "10.0.0.2/b"),
        ["camera wash"],
        "a camera's stream"
    );
    assert_eq!(
        parts("id = \"wok\"", "id = \"wok\"\nanalyse_fps = 2"),
        ["camera wok"]
    );
    assert_eq!(
        parts(
            "id = \"wok\"",
            "id = \"wok\"\ngb28181 = \"41072400001320000001\""
        ),
        ["rules"],
        "what findings say of a camera does not touch its stream"
    );
    assert_eq!(
        parts("id = \"wok\"", "id = \"stove\""),
        ["camera stove", "camera wok", "rules"]
    );
    assert_eq!(parts("[[rule]]", "[[rule]]\ndwell_ms = 900"), ["rules"]);
    assert_eq!(
        parts("[[rule]]", "[track]\nlost_ms = 900\n[[rule]]"),
        ["track"]
    );
    assert_eq!(parts("kitchen.toml", "other.toml"), ["models"]);
    assert_eq!(parts("workers = 1", "workers = 2"), ["workers"]);
    assert_eq!(parts("workers = 1", "workers = 2\nregions = 0"), ["models"]);
    assert_eq!(
        parts("workers = 1", "workers = 1\nregions_per_s = 9"),
        ["models"]
    );
    assert_eq!(
        parts("[detect]", "[evidence]\nmax_mb = 20\n[detect]"),
        ["evidence"]
    );
    assert_eq!(parts("centre.example", "centre.example:99"), ["uplink"]);
}

#[test]
fn a_comment_or_another_order_of_tables_changes_nothing() {
    assert_eq!(
        changed("[[rule]]", "# a rule\n[[rule]]"),
        Difference::default()
    );
    let detect = "[detect]\nmodels = [\"kitchen.toml\"]\nworkers = 1\n";
    let moved = TEXT.replace(detect, "") + detect;
    let difference = Difference::between(&config(TEXT), &config(&moved), false);
    assert_eq!(difference, Difference::default());
}

#[test]
fn other_cards_behind_the_same_names_are_other_models() {
    let same = config(TEXT);
    let difference = Difference::between(&same, &same, true);
    assert_eq!(difference.restarted(), ["models"]);
}

#[test]
fn what_only_a_restart_can_change_is_refused_by_name() {
    let refused = |from: &str, to: &str| -> Vec<String> {
        let new = config(&TEXT.replace(from, to));
        let problems = unchangeable(&config(TEXT), &new).into_iter();
        problems.map(|p| p.key).collect()
    };
    assert_eq!(refused("site-1", "site-2"), ["site.id"]);
    assert_eq!(refused("410724", "410725"), ["site.region"]);
    assert_eq!(refused("\"state\"", "\"other\""), ["site.state_dir"]);
    assert_eq!(
        refused("workers = 1", "onnxruntime = \"x.so\""),
        ["detect.onnxruntime"]
    );
    assert!(refused("centre", "other").is_empty());
}

#[test]
fn a_file_counts_as_changed_once_it_rests_with_another_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.toml");
    std::fs::write(&path, "one").unwrap();
    let look = |at: u64, len: u64| Some((SystemTime::UNIX_EPOCH + Duration::from_secs(at), len));
    let mut watch = FileWatch::new(&path);
    let mut seen =
        |looks: &[Look]| -> Vec<bool> { looks.iter().map(|l| watch.is_changed(*l)).collect() };
    assert_eq!(seen(&[look(1, 3), look(1, 3)]), [false, false], "as it was");
    std::fs::write(&path, "two").unwrap();
    // Half written, whole, at rest.
    assert_eq!(
        seen(&[look(2, 1), look(3, 3), look(3, 3), look(3, 3)]),
        [false, false, true, false]
    );
    assert_eq!(
        seen(&[None, None, look(4, 3), look(4, 3)]),
        [false; 4],
        "replaced by the same content"
    );
}
