//! The centre's config over the site's own.
use super::*;

const OWN: &str = r#"
[site]
region = "410724"
id = "site-1"
state_dir = "state"
[uplink]
broker = "mqtt://centre.example"
[detect]
models = ["kitchen.toml"]
[[camera]]
id = "wok"
url = "rtsp://10.0.0.1/a"
username = "viewer"
password_file = "wok.password"
[[rule]]
id = "mask"
code = "ppe.mask.missing"
"#;

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        fs::write(dir.path().join("site.toml"), OWN).unwrap();
        fs::write(dir.path().join("wok.password"), "secret").unwrap();
        Self(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("site.toml")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn over(&self, text: &str) -> Result<SiteConfig, Vec<(String, usize, String)>> {
        let loaded = load_over(&self.file(), OWN, &desired(3, text));
        loaded.map_err(|r| {
            let problems = r.problems.0.into_iter();
            problems.map(|p| (p.file, p.line, p.key)).collect()
        })
    }
}

fn desired(revision: u64, text: &str) -> Desired {
    Desired {
        revision,
        text: text.to_owned(),
    }
}

#[test]
fn the_centres_tables_take_the_place_of_the_sites_and_keys_are_laid_over() {
    let site = Site::new();
    let config = site
        .over(
            "[[rule]]\nid = \"hat\"\ncode = \"ppe.hat.missing\"\n[track]\nlost_ms = 900\n\
             [detect]\nregions = 0\n[evidence]\nmax_mb = 20\n",
        )
        .unwrap();
    let rules: Vec<_> = config.rules.iter().map(|r| r.config.id.as_str()).collect();
    assert_eq!(rules, ["hat"]);
    assert_eq!(config.cameras[0].id.as_str(), "wok");
    assert_eq!(
        (config.track.lost_ms, config.detect.regions),
        (900, Some(0))
    );
    assert_eq!(config.detect.models.len(), 1, "the site's own stay");
    assert_eq!(config.desired.unwrap().revision, 3);
}

#[test]
fn mistakes_are_told_in_the_lines_of_the_centres_text() {
    let site = Site::new();
    let e = site
        .over("[[rule]]\nid = \"hat\"\ncode = \"ppe.hat.missing\"\ndwel_ms = 1\n")
        .unwrap_err();
    let place = |key: &str| ("desired".to_owned(), 4, key.to_owned());
    assert!(e.contains(&place("rule[0].dwel_ms")), "{e:?}");
    let e = site.over("[track\n").unwrap_err();
    assert_eq!((e[0].0.as_str(), e[0].1), ("desired", 1));
}

#[test]
fn what_is_not_for_the_centre_is_refused() {
    let site = Site::new();
    for (text, key) in [
        ("[uplink]\nbroker = \"mqtt://evil.example\"\n", "uplink"),
        ("[site]\nid = \"other\"\n", "site"),
        ("[detect]\nmodels = [\"/tmp/x.toml\"]\n", "detect.models"),
        (
            "[detect]\nonnxruntime = \"/tmp/x.so\"\n",
            "detect.onnxruntime",
        ),
        (
            "[[camera]]\nid = \"wok\"\nurl = \"file:/etc/shadow\"\n",
            "camera[0].url",
        ),
        (
            "[[camera]]\nid = \"wok\"\nurl = \"rtsp://evil.example/a\"\nusername = \"viewer\"\npassword_file = \"wok.password\"\n",
            "camera[0].password_file",
        ),
        (
            "[[camera]]\nid = \"wok\"\nurl = \"rtsp://10.0.0.1/a\"\nusername = \"viewer\"\npassword_file = \"/etc/shadow\"\n",
            "camera[0].password_file",
        ),
    ] {
        let e = site.over(text).unwrap_err();
        assert!(
            e.iter().any(|p| p.2 == key && p.0 == "desired"),
            "{text}: {e:?}"
        );
    }
    let same_host = "[[camera]]\nid = \"stove\"\nurl = \"rtsp://10.0.0.1/b\"\nusername = \"viewer\"\npassword_file = \"wok.password\"\n";
    assert!(site.over(same_host).is_ok());
}

#[test]
fn the_one_before_and_then_the_sites_own_count_where_the_newest_cannot_be_used() {
    let site = Site::new();
    let settle = |revision, text: &str| {
        write(&site.state(), &desired(revision, text))
            .unwrap()
            .settle()
            .unwrap();
    };
    let first = || load_first(&site.file()).unwrap();
    assert_eq!(first().0.desired, None);
    settle(1, "[track]\nlost_ms = 900\n");
    assert_eq!(
        in_force(&site.state()),
        Some(desired(1, "[track]\nlost_ms = 900\n"))
    );
    assert_eq!((first().0.track.lost_ms, first().1), (900, None));
    // A version that knows no such key.
    settle(2, "[track]\nlost_sm = 900\n");
    let (config, rejected) = first();
    assert_eq!(
        (config.track.lost_ms, config.desired.unwrap().revision),
        (900, 1)
    );
    assert_eq!(rejected.unwrap().problems.0[0].key, "track.lost_sm");
    assert!(
        load(&site.file()).1.is_err(),
        "a running site stays as it is"
    );
    settle(3, "nonsense");
    let (config, rejected) = first();
    assert_eq!(config.desired, None);
    assert!(rejected.is_some());
    settle(4, "");
    assert_eq!((first().0.desired, first().1), (None, None));
}

#[test]
fn what_was_written_and_not_settled_does_not_count() {
    let site = Site::new();
    write(&site.state(), &desired(1, "[track]\nlost_ms = 900\n")).unwrap();
    assert_eq!(in_force(&site.state()), None);
}
