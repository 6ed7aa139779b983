//! The import rules of `src/lib.rs`, held against the source.
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::root;

/// What each module may import of ours, besides itself: a module, or one item of it.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("capture", &["base"]),
    ("decode", &["base", "capture"]),
    ("detect", &["base", "decode"]),
    ("track", &["base", "detect"]),
    ("rules", &["base", "track"]),
    ("evidence", &["base", "capture", "decode"]),
    ("uplink", &["base"]),
];

/// What track may take of detect, and evidence of capture and decode: data, nothing that works.
const DATA_ONLY: &[(&str, &str, &[&str])] = &[
    ("track", "detect", &["Detection", "Detections"]),
    (
        "rules",
        "track",
        &["Track", "TrackId", "TrackSet", "TrackState"],
    ),
    ("evidence", "decode", &["Frame", "YuvMatrix"]),
    ("evidence", "capture", &["AccessUnit", "GopRing", "RingCut"]),
];

/// Each foreign engine and the one file that names it; its unit tests, in a folder of its name, may too.
const ENGINES: &[(&str, &str)] = &[
    ("retina", "capture/rtsp.rs"),
    ("ffmpeg_next", "decode/ffmpeg.rs"),
    ("ort", "detect/onnx.rs"),
    ("rusqlite", "uplink/store.rs"),
    ("rumqttc", "uplink/mqtt.rs"),
    ("rumqttd", "app/demo/broker.rs"),
    ("rtsp_types", "app/demo/rtsp_server.rs"),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's path below `src`, and its code without comments. Strings are left in: none of them names
/// a path of code.
fn all_code() -> Vec<(String, String)> {
    let src = root("src");
    let files = sources(&src);
    assert!(files.len() > 40, "only {} files found", files.len());
    let code = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let name = |path: &PathBuf| path.strip_prefix(&src).unwrap().display().to_string();
    files.iter().map(|p| (name(p), code(p))).collect()
}

/// What follows each `word` that stands by itself.
fn after<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let alone = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        alone.then(|| &text[at + word.len()..])
    })
}

fn first_name(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// Module and what follows it, of each `crate::module…`.
fn imports(code: &str) -> Vec<(&str, &str)> {
    let paths = after(code, "crate::");
    paths
        .map(|p| (first_name(p), &p[first_name(p).len()..]))
        .collect()
}

#[test]
fn stages_import_only_what_is_upstream() {
    let mut wrong = Vec::new();
    for (file, code) in all_code() {
        let Some(module) = file.split('/').next().filter(|_| file.contains('/')) else {
            continue;
        };
        if module == "app" {
            continue;
        }
        let allowed = ALLOWED.iter().find(|(m, _)| *m == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{module} has no rule"));
        for (import, _) in imports(&code) {
            assert_ne!(
                import, "",
                "{file} imports `crate::{{…}}`: one module at a time, please"
            );
            if import != module && !allowed.contains(&import) {
                wrong.push(format!("{file}: crate::{import}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn pure_stages_and_evidence_take_data_only() {
    let mut wrong = Vec::new();
    for (file, code) in all_code() {
        // Tests may build what they need.
        let code = code.split("#[cfg(test)]").next().unwrap();
        if file.ends_with("tests.rs") {
            continue;
        }
        for (module, upstream, items) in DATA_ONLY {
            if !file.starts_with(&format!("{module}/")) {
                continue;
            }
            for (import, rest) in imports(code) {
                if import != *upstream {
                    continue;
                }
                let rest = rest.trim_start_matches("::");
                let list = match rest.strip_prefix('{') {
                    Some(list) => &list[..list.find('}').unwrap()],
                    None => first_name(rest),
                };
                for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
                    if !items.contains(&item) {
                        wrong.push(format!("{file}: {upstream}::{item}"));
                    }
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_replay_cannot_reach_a_live_topic() {
    // Of the uplink: who the site is and what a finding says. Of app: nothing that runs a site.
    let data = ["FindingData", "SiteIdentity"];
    let live = [
        "Analytics {",
        "Analytics::",
        "StoreHandle",
        "Subscriber",
        "Uplink",
        "app::run",
        "app::site",
        "app::tail",
        "app::demo",
        "tokio",
    ];
    let mut wrong = Vec::new();
    let mut files = 0;
    for (file, code) in all_code() {
        if !file.starts_with("app/replay") {
            continue;
        }
        files += 1;
        for (import, rest) in imports(&code) {
            if import == "uplink" {
                let item = rest.trim_start_matches("::");
                let names = item.trim_start_matches('{').split(['}', ';']).next();
                let names = names.unwrap_or_default().split(',').map(str::trim);
                wrong.extend(
                    names
                        .filter(|n| !n.is_empty() && !data.contains(n))
                        .map(|n| format!("{file}: uplink::{n}")),
                );
            }
        }
        wrong.extend(
            live.iter()
                .filter(|l| code.contains(*l))
                .map(|l| format!("{file}: {l}")),
        );
    }
    assert!(files >= 5, "only {files} files of the replay found");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn each_foreign_engine_is_named_in_one_file() {
    let mut wrong = Vec::new();
    for (file, code) in all_code() {
        for (engine, home) in ENGINES {
            let path = format!("{engine}::");
            let tests = home.replace(".rs", "/tests");
            let is_home = file == *home
                || file == format!("{tests}.rs")
                || file.starts_with(&format!("{tests}/"));
            if !is_home && after(&code, &path).next().is_some() {
                wrong.push(format!("{file} names {engine}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    for (engine, home) in ENGINES {
        let code = fs::read_to_string(root("src").join(home)).unwrap();
        assert!(
            after(&code, &format!("{engine}::")).next().is_some(),
            "{home} does not name {engine}"
        );
    }
}

#[test]
fn track_and_rules_are_pure() {
    let forbidden = [
        "tokio::",
        "std::fs",
        "std::net",
        "std::thread",
        "std::sync::mpsc",
        "Instant",
        "SystemTime",
        "SharedClock",
        "dyn Clock",
        "std::env",
        "async fn",
    ];
    let mut wrong = Vec::new();
    for (file, code) in all_code() {
        if !file.starts_with("track/") && !file.starts_with("rules/") {
            continue;
        }
        wrong.extend(
            forbidden
                .iter()
                .filter(|f| code.contains(*f))
                .map(|f| format!("{file}: {f}")),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn unsafe_code_is_in_two_files_and_explained() {
    // The binding to libav, and the allocator that counts.
    let homes = ["decode/ffmpeg.rs", "base/heap.rs"];
    for (file, code) in all_code() {
        let uses = after(&code, "unsafe ")
            .filter(|rest| rest.starts_with(['{', 'i', 'f']))
            .count();
        if !homes.contains(&file.as_str()) {
            assert_eq!(uses, 0, "{file}");
            continue;
        }
        let text = fs::read_to_string(root("src").join(&file)).unwrap();
        assert_eq!(text.matches("// SAFETY:").count(), uses, "{file}");
    }
}
