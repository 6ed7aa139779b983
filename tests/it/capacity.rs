//! `mingchu capacity`: a real search and a real profile on this machine, short; what they find is its
//! affair, what they say of it must agree with itself.
use serde_json::Value;

use crate::support::{Process, demo_clip, mingchu, root, run};

/// The least of the models: these tests are about the search.
const MODEL: &str = "models/kitchen.toml";

fn clip(name: &str) -> String {
    demo_clip(name).display().to_string()
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_short_search_ends_with_a_verdict_that_its_trials_bear_out() {
    let clip = clip("kitchen.mp4");
    let args = [
        "capacity", &clip, "--models", MODEL, "--fps", "2", "--p95-ms", "2000",
    ];
    let (code, out, err) = run(&[&args[..], &["--most", "2", "--seconds", "2", "--json"]].concat());
    assert_eq!(code, 0, "{out}{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["clip"]["codec"], "h264");
    assert_eq!(document["clip"]["width_px"], 1280);
    assert_eq!(document["models"], serde_json::json!(["kitchen"]));
    let trials = document["trials"].as_array().unwrap();
    assert_eq!(trials[0]["cameras"], 1, "{out}");
    for trial in trials {
        let whys = trial["why"].as_array().unwrap();
        assert_eq!(trial["fits"], whys.is_empty(), "{trial}");
        if trial["silent_cameras"] != 0 {
            continue;
        }
        let ms = |of: &str| number(&trial["latency_ms"][of]);
        assert!(0.0 < ms("p50") && ms("p50") <= ms("p95"), "{trial}");
        assert!(ms("p95") <= ms("p99") && ms("p99") <= ms("max"), "{trial}");
        assert!(number(&trial["analysed_per_s"]) > 0.0, "{trial}");
        let sampled = number(&trial["sampled_per_s"]);
        // A picture more or less at each end of the two seconds.
        let asked = 2.0 * number(&trial["cameras"]);
        assert!(sampled <= asked * 1.6, "{trial}");
        let stages = trial["stages"].as_array().unwrap();
        let cores = |stage: &str| {
            let of = stages.iter().find(|s| s["stage"] == stage);
            of.map_or(0.0, |s| number(&s["cores"]))
        };
        // The others may take less than what a kernel without schedstat can tell.
        for stage in ["decode", "detect"] {
            assert!(cores(stage) > 0.0, "{stage}: {trial}");
        }
        assert_eq!(
            cores("cameras").to_bits(),
            number(&trial["camera_cores"]).to_bits()
        );
        assert!(
            cores("decode") + cores("detect") <= number(&trial["used_cores"]) * 1.05 + 0.05,
            "{trial}"
        );
    }
    let carried = document["cameras"].as_u64().unwrap();
    let fits = |n: u64| {
        trials
            .iter()
            .rfind(|t| t["cameras"] == n)
            .map(|t| t["fits"] == true)
    };
    match document["verdict"].as_str().unwrap() {
        "at_least" => assert_eq!((carried, fits(2)), (2, Some(true)), "{out}"),
        "exactly" => assert_eq!(
            (carried, fits(1), fits(2)),
            (1, Some(true), Some(false)),
            "{out}"
        ),
        "none" => assert_eq!((carried, fits(1)), (0, Some(false)), "{out}"),
        other => panic!("{other}: {out}"),
    }
    assert_eq!(
        document["limit"].is_null(),
        document["verdict"] == "at_least",
        "{out}"
    );
}

/// Nothing decodes, looks and hands over within a millisecond.
#[test]
fn a_box_that_does_not_carry_even_one_camera_is_told_so_at_once_and_what_to_change() {
    let clip = clip("kitchen.mp4");
    let (code, out, err) = run(&[
        "capacity",
        &clip,
        "--models",
        MODEL,
        "--p95-ms",
        "1",
        "--seconds",
        "1",
    ]);
    assert_eq!(code, 0, "{out}{err}");
    for words in [
        "does not carry even one camera",
        "In the way of more:",
        "  - ",
    ] {
        assert!(out.contains(words), "no `{words}` in\n{out}");
    }
}

#[test]
fn a_profile_splits_the_cpu_time_of_each_clip_and_its_stages_sum_to_the_total() {
    let (h264, h265) = (clip("kitchen.mp4"), clip("kitchen-h265.mp4"));
    let args = [
        "capacity",
        "--profile",
        &h264,
        &h265,
        "--models",
        MODEL,
        "--seconds",
        "4",
        "--json",
    ];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{out}{err}");
    let document: Value = serde_json::from_str(&out).unwrap();
    let clips = document["clips"].as_array().unwrap();
    let codecs: Vec<&Value> = clips.iter().map(|c| &c["clip"]["codec"]).collect();
    assert_eq!(codecs, ["h264", "h265"], "{out}");
    for clip in clips {
        assert!((3.9..4.1).contains(&number(&clip["seconds"])), "{clip}");
        let stages = clip["stages"].as_object().unwrap();
        assert_eq!(stages.len(), 10, "{clip}");
        let of = |stage: &str| number(&stages[stage]);
        for stage in [
            "receive",
            "decode",
            "motion",
            "copy",
            "preprocess",
            "infer",
            "postprocess",
            "track",
        ] {
            assert!(of(&format!("{stage}_ms")) > 0.0, "{stage}: {clip}");
        }
        let total = number(&clip["total_ms"]);
        let sum: f64 = stages.values().map(number).sum();
        assert!((sum - total).abs() < 0.01, "{sum} and {total}: {clip}");
        // The stages run alone are most of what the whole costs, so they are the ones that it runs.
        let known = sum - of("everything_else_ms");
        assert!(known > 0.4 * total && known < 2.5 * total, "{clip}");
        // Twice a second at the least, even where nothing moves.
        let analysed = number(&clip["analysed_per_s"]);
        assert!((0.7..=4.3).contains(&analysed), "{clip}");
    }
}

#[test]
fn what_cannot_be_measured_with_is_named_with_the_remedy() {
    let clip = clip("kitchen.mp4");
    let text = root("Cargo.toml").display().to_string();
    for (args, wanted, words) in [
        (
            &["nowhere.mp4"][..],
            65,
            &["nowhere.mp4", "Give an MP4"][..],
        ),
        (
            &[&text],
            65,
            &["Cargo.toml", "no video track", "Give an MP4"],
        ),
        (&[&clip, "--models", "nowhere.toml"], 78, &["nowhere.toml"]),
        (&[&clip, &clip], 64, &["one clip at a time", "--profile"]),
        (&[&clip, "--profile", "--most", "3"], 64, &["--most"]),
        (&[&clip, "--fps", "0"], 64, &["0.1 to 30"]),
    ] {
        let (code, out, err) = run(&[&["capacity"], args].concat());
        assert_eq!(code, wanted, "{args:?}: {out}{err}");
        for word in words {
            assert!(err.contains(word), "{args:?}: no `{word}` in\n{err}");
        }
    }
    let mut without_runtime = mingchu();
    let without_runtime = without_runtime.args(["capacity", &clip]);
    let output = without_runtime
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{err}");
    assert!(err.contains("/nowhere/libonnxruntime.so"), "{err}");
}

#[test]
fn an_interrupt_ends_the_search_in_good_order_with_what_is_known() {
    let clip = clip("kitchen.mp4");
    let mut command = mingchu();
    command.args(["capacity", &clip, "--models", MODEL, "--seconds", "600"]);
    let mut capacity = Process::start("capacity", &mut command);
    capacity.wait_for_text("cameras     box");
    // Its first camera is there.
    capacity.wait_for_text("camera state");
    capacity.signal("-INT");
    assert!(capacity.wait().success(), "{}", capacity.said());
    let said = capacity.said();
    assert!(said.contains("Ended before the number was found"), "{said}");
}
