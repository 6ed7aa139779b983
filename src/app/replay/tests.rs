//! Replays of recordings written by hand: a bare head at the wok, a rat that is not sure enough.
use super::evaluate::Scene;
use super::explain;
use super::recording::{FaultSpan, ModelDigest, Recording, read, write};
use super::report::{Report, plot};
use super::sweep::Sweep;
use super::{Judged, Played, Score, Seen, Truth};
use crate::base::ids::{CameraIx, ClassId, Name};
use crate::base::time::UtcMicros;
use crate::base::words::Lang;
use crate::decode::PictureFault;
use crate::detect::ClassInfo;
use crate::rules::{RuleConfig, RuleEngine, Urgency};
use crate::track::TrackConfig;

fn scene() -> Scene {
    let class = |(i, label): (usize, &&str)| ClassInfo {
        label: (*label).to_owned(),
        group: i as u16,
        model: 0,
        threshold: 0.5,
    };
    let name = |t| Name::new(t).unwrap();
    let rule = |id, code, class, samples, dwell_ms| RuleConfig {
        cameras: vec![CameraIx(0)],
        classes: vec![ClassId(class)],
        threshold: 0.5,
        samples,
        dwell_ms,
        clear_ms: 3000,
        ..RuleConfig::new(name(id), name(code), Urgency::TimeLimited)
    };
    let labels = ["head-bare", "rat", "person"];
    Scene {
        classes: labels.iter().enumerate().map(class).collect(),
        track: TrackConfig::default(),
        rules: vec![
            rule("hat-wok", "ppe.hat.missing", 0, 5, 3000),
            rule("rats", "pest.rodent", 1, 3, 500),
        ],
        begins: UtcMicros(1_795_490_400_000_000),
    }
}

/// Four pictures a second for 20 s: a person all the time, a bare head from 2 to 10 s, a rat that is
/// never surer than 0.42 from 12 to 15 s.
fn recording(clip: &str) -> Recording {
    let mut text = format!("{{\"recording\":1,\"clip\":{}}}\n", serde_json::json!(clip));
    for i in 0..80 {
        let at_us = i * 250_000;
        let mut objects =
            vec![r#"{"label":"person","score":0.9,"box":[0.1,0.1,0.3,0.9]}"#.to_owned()];
        if (8..40).contains(&i) {
            let score = if i % 4 == 0 { 0.55 } else { 0.7 };
            objects.push(format!(
                r#"{{"label":"head-bare","score":{score},"box":[0.15,0.1,0.25,0.25]}}"#
            ));
        }
        if (48..60).contains(&i) {
            let x = 0.4 + 0.01 * (i - 48) as f32;
            objects.push(format!(
                r#"{{"label":"rat","score":0.42,"box":[{x},0.8,{},0.9]}}"#,
                x + 0.1
            ));
        }
        text.push_str(&format!(
            "{{\"at_us\":{at_us},\"seq\":{i},\"objects\":[{}]}}\n",
            objects.join(",")
        ));
    }
    text.push_str("{\"end_us\":20000000,\"pictures\":500}\n");
    read(&text, &scene().classes, &[]).unwrap().remove(0)
}

fn truth(clip: &str) -> Truth {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("truth.jsonl");
    let line = serde_json::json!({"clip": clip, "events": [
        {"code": "head-bare", "start_s": 2.0, "end_s": 10.0},
        {"code": "rodent", "start_s": 12.0, "end_s": 15.0}]});
    std::fs::write(&path, line.to_string()).unwrap();
    Truth::load(&path).unwrap()
}

fn quiet(_: &crate::track::TrackSet, _: &RuleEngine, _: &[crate::rules::FindingChange]) {}

fn played(scene: &Scene, truth: &Truth, clip: &str) -> Played {
    let recording = recording(clip);
    let findings = scene.evaluate(&recording, &mut quiet);
    let seen: Vec<Seen> = findings.iter().map(|f| scene.seen(f)).collect();
    let judged = truth.judge(clip, &scene.codes_of(recording.camera), &seen);
    Played {
        recording,
        findings,
        judged,
    }
}

#[test]
fn the_same_recording_gives_the_same_findings_read_again_or_not() {
    let (scene, recording) = (scene(), recording("wok.mp4"));
    let first = scene.evaluate(&recording, &mut quiet);
    assert_eq!(first, scene.evaluate(&recording, &mut quiet));
    let text = write([&recording], &scene.classes, &[]);
    let again = read(&text, &scene.classes, &[]).unwrap().remove(0);
    assert_eq!(first, scene.evaluate(&again, &mut quiet));

    let lives: Vec<String> = first
        .iter()
        .map(|f| {
            let seconds = |at| scene.seconds(at);
            let spans: Vec<(f64, Option<f64>)> = f
                .spans()
                .into_iter()
                .map(|(from, to)| (seconds(from), to.map(seconds)))
                .collect();
            let phases: Vec<String> = f.changes.iter().map(|c| format!("{:?}", c.phase)).collect();
            format!(
                "{} first {:.2} last {:.2} {spans:?} {}",
                f.opened().finding,
                seconds(f.opened().first_seen),
                seconds(f.last_seen),
                phases.join(" ")
            )
        })
        .collect();
    insta::assert_snapshot!(lives.join("\n"), @"01a20b91-50c4-79bb-ad39-64bb2877db09 first 2.50 last 9.75 [(5.5, Some(12.75))] Opened Closed");
}

#[test]
fn a_sweep_gives_what_a_replay_with_that_value_gives() {
    let clip = "wok.mp4";
    let (scene, truth) = (scene(), truth(clip));
    let sweep = Sweep::parse("pest.rodent.threshold=0.3..0.6:0.1", &scene.rules).unwrap();
    let points = sweep.run(&scene, &[played(&scene, &truth, clip)], &truth);
    assert_eq!(points.len(), 4);
    for point in &points {
        let mut other = scene.clone();
        other.rules[1].threshold = point.value as f32;
        let again = played(&other, &truth, clip);
        let seen: Vec<Seen> = again.findings.iter().map(|f| other.seen(f)).collect();
        let mut score = Score::default();
        score.add(&again.judged.unwrap(), &seen, 20.0);
        let row = score.rows().into_iter().find(|r| r.code == "pest.rodent");
        assert_eq!(point.row, row.unwrap(), "at {}", point.value);
    }
    let found: Vec<usize> = points.iter().map(|p| p.row.found).collect();
    assert_eq!(found, [1, 1, 0, 0]);
    let drawing = plot(&sweep, &points, true, Lang::En);
    assert!(drawing.starts_with("<svg xmlns=") && drawing.contains("dotted line: now, 0.500"));
}

#[test]
fn a_rule_or_key_that_is_not_there_is_answered_with_those_that_are() {
    let rules = scene().rules;
    let refused = |text: &str| {
        let error = Sweep::parse(text, &rules).err();
        format!("{:#}", error.expect("refused"))
    };
    let got = refused("rat.threshold=0.3..0.6");
    assert!(
        got.contains("no rule or code `rat`; there are hat-wok, rats"),
        "{got}"
    );
    let got = refused("rats.treshold=0.3..0.6");
    assert!(
        got.contains("`treshold` cannot be varied; what can: threshold"),
        "{got}"
    );
    assert!(refused("rats.threshold").contains("expected RULE.KEY=LOW..HIGH"));
    // A code stands for all its rules, an id for one.
    let sweep = Sweep::parse("rats.hits=1..3", &rules).unwrap();
    assert_eq!(
        (sweep.code.as_str(), sweep.values.len()),
        ("pest.rodent", 3)
    );
}

#[test]
fn why_nothing_was_found_is_said_for_a_moment_for_the_clip_and_for_what_was_missed() {
    let clip = "wok.mp4";
    let (scene, truth) = (scene(), truth(clip));
    let played = played(&scene, &truth, clip);
    let judged: &[Judged] = played.judged.as_deref().unwrap();
    let missed = explain::missed_events(&scene, CameraIx(0), judged);
    let mut answers = explain::at_moment(&scene, &played.recording, 3.5);
    answers.extend(explain::at_moment(&scene, &played.recording, 6.0));
    answers.extend(explain::at_moment(&scene, &played.recording, 13.0));
    answers.extend(explain::missed(&scene, &played.recording, &missed));
    answers.extend(explain::nearest(
        &scene,
        &played.recording,
        &played.findings,
    ));
    let lines: Vec<String> = answers.iter().map(|a| a.line(&scene).en).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    hat-wok  at 3.5 s: head-bare (track 1), score 0.70: has lasted 1.0 s of 3.0 s
    rats  at 3.5 s: nothing of its labels is seen (2 of others); seen were person, head-bare
    hat-wok  at 6.0 s: head-bare (track 1), score 0.55: shows the violation, and a finding is open
    rats  at 6.0 s: nothing of its labels is seen (2 of others); seen were person, head-bare
    hat-wok  at 13.0 s: nothing of its labels is seen (2 of others); seen were person, rat
    rats  at 13.0 s: rat (track 2), score 0.42: 0.42 is below 0.50 (median of 3)
    rats  missed 12.0 to 15.0 s, nearest at 12.5 s: rat (track 2), score 0.42: 0.42 is below 0.50 (median of 3)
    rats  nearest at 12.5 s: rat (track 2), score 0.42: 0.42 is below 0.50 (median of 3)
    ");
}

/// Whether each element of `page` is closed in order.
fn is_well_formed(page: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let tag = &piece[..piece.find('>').ok_or("a tag without an end")?];
        let name = tag
            .split([' ', '/', '\n'])
            .find(|n| !n.is_empty())
            .unwrap_or("");
        if tag.starts_with('!') || name == "meta" || tag.ends_with('/') {
            continue;
        }
        if tag.starts_with('/') {
            match open.pop() {
                Some(last) if last == name => {}
                last => return Err(format!("</{name}> after <{}>", last.unwrap_or("nothing"))),
            }
        } else {
            open.push(name);
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(format!("left open: {open:?}"))
    }
}

#[test]
fn a_report_holds_every_finding_and_needs_nothing_else() {
    // A name that would be markup if nobody looked.
    let clip = "<b>wok & \"co\"</b>.mp4";
    let (scene, truth) = (scene(), truth(clip));
    let played = [played(&scene, &truth, clip)];
    let sweep = Sweep::parse("rats.threshold=0.3..0.6:0.1", &scene.rules).unwrap();
    let points = sweep.run(&scene, &played, &truth);
    let report = |played: &[Played], lang: Lang| {
        Report {
            scene: &scene,
            cameras: &["wok-1"],
            models: &[ModelDigest {
                name: "kitchen".to_owned(),
                version: "3".to_owned(),
                sha256: "ab".repeat(32),
            }],
            played,
            failed: &[("broken.mp4".to_owned(), "not a video file".to_owned())],
            truth: Some(&truth),
            score: &Score::default(),
            sweep: Some((&sweep, &points)),
            lang,
        }
        .page()
    };
    let page = report(&played, Lang::En);
    assert_eq!(
        page,
        report(&played, Lang::En),
        "the same for the same clips"
    );
    assert_eq!(is_well_formed(&page), Ok(()));
    assert!(!played[0].findings.is_empty());
    for found in &played[0].findings {
        assert!(page.contains(&found.opened().finding.to_string()));
    }
    for foreign in [
        "http:", "https:", "src=", "url(", "@import", "<script", "<link", clip,
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for needed in [
        "&lt;b&gt;wok &amp; &quot;co&quot;&lt;/b&gt;.mp4",
        "broken.mp4 could not be replayed: not a video file",
        "<b>No hat</b>, ",
        "because head without hat was seen for at least 3.0 s",
        "0.42 is below 0.50",
        "camera wok-1",
        "kitchen 3 (sha256 abababababab…)",
    ] {
        assert!(page.contains(needed), "{needed}");
    }

    let page = report(&played, Lang::Zh);
    assert_eq!(is_well_formed(&page), Ok(()));
    let needed = [
        "<html lang=\"zh-CN\">",
        "<b>未戴工作帽</b>",
        "因为看到未戴帽的头部",
        "为何未报",
    ];
    for needed in needed {
        assert!(page.contains(needed), "{needed}");
    }
    // What is still English is a name, a unit or an error from elsewhere.
    let names = [
        "mingchu",
        "wok",
        "co",
        "mp4",
        "b",
        "amp",
        "lt",
        "gt",
        "quot",
        "broken",
        "not",
        "a",
        "video",
        "file",
        "kitchen",
        "sha256",
        "abababababab",
        "rats",
        "threshold",
        "hats",
        "v1",
        "F1",
        "hat",
        "mask",
        "zone",
        "line",
        "x",
    ];
    let body = page.split_once("</style>").unwrap().1;
    let shown = body
        .split('<')
        .filter_map(|tag| tag.split_once('>'))
        .map(|(_, text)| text);
    let abouts = body
        .split("<title>")
        .skip(1)
        .filter_map(|t| t.split('<').next());
    for text in shown.chain(abouts) {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
            let is_word = word.chars().any(|c| c.is_ascii_alphabetic());
            assert!(!is_word || names.contains(&word), "`{word}` in `{text}`");
        }
    }
}

#[test]
fn what_was_wrong_with_the_picture_is_in_the_report() {
    let clip = "night.mp4";
    let (scene, truth) = (scene(), truth(clip));
    let mut played = played(&scene, &truth, clip);
    played.recording.faults = vec![FaultSpan {
        from_us: 2_000_000,
        to_us: 7_500_000,
        fault: PictureFault::Dark,
    }];
    let played = [played];
    let page_in = |lang| {
        Report {
            scene: &scene,
            cameras: &["wok-1"],
            models: &[],
            played: &played,
            failed: &[],
            truth: None,
            score: &Score::default(),
            sweep: None,
            lang,
        }
        .page()
    };
    let page = page_in(Lang::En);
    assert_eq!(is_well_formed(&page), Ok(()));
    let said = "<b>Picture too dark from 2.0 s to 7.5 s.</b> Nothing can be said of this time.";
    assert!(page.contains(said), "{page}");
    assert_eq!(page.matches("class=\"health\"").count(), 1);
    let page = page_in(Lang::Zh);
    assert!(
        page.contains("<b>2.0 秒 至 7.5 秒 画面过暗。</b>"),
        "{page}"
    );
}

#[test]
fn a_long_clip_is_cut_into_strips_and_thinned() {
    let clip = "day.mp4";
    let (scene, truth) = (scene(), truth(clip));
    let mut played = played(&scene, &truth, clip);
    let pictures = played.recording.pictures_seen.clone();
    // The same 20 s for an hour, with ten minutes that nobody saw.
    for turn in 1..180u64 {
        if (60..90).contains(&turn) {
            continue;
        }
        played
            .recording
            .pictures_seen
            .extend(pictures.iter().map(|p| {
                let mut later = p.clone();
                later.at_us += turn * 20_000_000;
                later
            }));
    }
    played.recording.length_us = 3600 * 1_000_000;
    played.findings = scene.evaluate(&played.recording, &mut quiet);
    let page = Report {
        scene: &scene,
        cameras: &["wok-1"],
        models: &[],
        played: &[played],
        failed: &[],
        truth: None,
        score: &Score::default(),
        sweep: None,
        lang: Lang::En,
    }
    .page();
    assert_eq!(is_well_formed(&page), Ok(()));
    assert_eq!(page.matches("<svg").count(), 12);
    assert!(
        page.contains("No picture from 0:19:59 to 0:30:00."),
        "blind"
    );
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}
