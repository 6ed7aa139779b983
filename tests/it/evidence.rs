//! Evidence from the camera to the broker and the inspector: clips that play, pictures without faces,
//! a chain that verifies.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mingchu::base::digest::sha256_hex;
use mingchu::base::geometry::NormRect;
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{MonoMicros, SystemClock};
use mingchu::capture::{AccessUnit, GopRing, OpenContainer as _, RingLimits};
use mingchu::decode::{Clips, Decoder, Frame, each_picture, remux};
use mingchu::detect::{Models, Runtime};
use serde_json::Value;

use crate::centre::ask;
use crate::support::{
    Camera, Listener, Mosquitto, QUICK_RULE, SiteDir, camera_table, demo_clip, mingchu, root, run,
};

/// The clip's units as a camera would have sent them: received when they are decoded.
fn units(clip: &Path) -> Vec<AccessUnit> {
    let mut container = Clips.open(clip).unwrap();
    let codec = container.info().codec;
    let mut units = Vec::new();
    while let Some(unit) = container.next_unit().unwrap() {
        let received = MonoMicros(unit.dts.0.max(0) as u64 * 100 / 9);
        let mut unit = unit.as_sent(CameraIx(0), codec, units.len() as u64);
        unit.stamp.received = received;
        units.push(unit);
    }
    units
}

/// Pictures that decode, from the first unit on, in the order they are shown; their tags are times.
fn decoded(units: &[AccessUnit]) -> Vec<i64> {
    let mut decoder = Decoder::new(units[0].codec).unwrap();
    let mut shown = Vec::new();
    let mut take = |decoder: &mut Decoder| {
        while let Some(picture) = decoder.picture().unwrap() {
            shown.push(picture.tag);
        }
    };
    for unit in units {
        decoder.send(&unit.data, unit.stamp.pts.0).unwrap();
        take(&mut decoder);
    }
    decoder.finish().unwrap();
    take(&mut decoder);
    shown
}

fn ffprobe(clip: &Path) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "json"])
        .args([
            "-show_entries",
            "stream=codec_name,codec_tag_string,nb_read_frames,start_time,duration,width,height",
        ])
        .arg(clip)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaints}");
    assert_eq!(complaints, "", "ffprobe has nothing to complain of");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["streams"][0].clone()
}

/// Cuts the middle out of a clip by way of the ring, writes it, and looks at it from all sides.
fn check_remux(clip: &Path, tag: &str) {
    let all = units(clip);
    let limits = RingLimits {
        bytes: 64 << 20,
        span: Duration::from_secs(3600),
    };
    let ring = GopRing::new(limits, &Metrics::default(), "clip");
    for unit in &all {
        ring.push(unit.clone());
    }
    let end = all[all.len() - 1].stamp.received.0;
    let (from, until) = (MonoMicros(end / 3), MonoMicros(end * 2 / 3));
    let cut = ring.cut(from, until, until).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.part");
    remux(&cut.units, &path).unwrap();

    let again = units(&path);
    assert!(again[0].is_key);
    let expected = decoded(&cut.units);
    assert_eq!(again.len(), expected.len(), "nothing that cannot be shown");
    let first = expected[0];
    let shown = decoded(&again);
    assert_eq!(shown.len(), expected.len(), "every picture decodes");
    for (a, b) in shown.iter().zip(&expected) {
        let off = (a - shown[0]) - (b - first);
        assert!(off.abs() <= 2, "a picture is shown {off}/90000 s off");
    }
    let report = ffprobe(&path);
    assert_eq!(report["codec_tag_string"], tag, "{report}");
    let frames: usize = report["nb_read_frames"].as_str().unwrap().parse().unwrap();
    assert_eq!(frames, expected.len());
    let number = |key: &str| -> f64 { report[key].as_str().unwrap().parse().unwrap() };
    assert!(number("start_time").abs() < 0.001, "{report}");
    let span = (expected[expected.len() - 1] - first) as f64 / 90_000.0;
    let duration = number("duration");
    assert!(
        duration > span && duration < span + 0.5,
        "{duration} s for {span} s of pictures"
    );
    // The index comes before the pictures.
    let bytes = std::fs::read(&path).unwrap();
    let at = |word: &[u8]| bytes.windows(4).position(|w| w == word).unwrap();
    assert!(at(b"moov") < at(b"mdat"));
}

#[test]
fn a_cut_of_the_ring_plays_in_both_codecs() {
    check_remux(&demo_clip("kitchen.mp4"), "avc1");
    check_remux(&demo_clip("kitchen-h265.mp4"), "hvc1");
}

/// Real ones, with B-frames and open groups among them.
#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn cuts_of_real_clips_play() {
    #[cfg(has_shared)]
    for (name, tag) in [
        ("kitchen-cook.mp4", "avc1"),
        ("shop-masks.mp4", "avc1"),
        ("shop-masks-h265.mp4", "hvc1"),
        ("rat-trap-night-cctv-h265.mp4", "hvc1"),
    ] {
        check_remux(&crate::support::shared_clip(name), tag);
    }
}

fn verify(site: &SiteDir, more: &[&str]) -> (i32, Value) {
    let state = site.path("state");
    let mut args = vec!["verify", "--json", state.to_str().unwrap()];
    args.extend(more);
    let (code, out, err) = run(&args);
    let verdict = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    (code, verdict)
}

#[test]
fn a_finding_comes_with_pictures_without_faces_and_a_chain_that_verifies() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    let site = SiteDir::new(
        &broker.url(),
        &(camera_table("wok-1", &url, "repeat = true") + QUICK_RULE),
    );
    let more = "\n[evidence]\npre_roll_ms = 1000\npost_roll_ms = 1000\n";
    site.write_config(&(site.read_config() + more));
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let data = &opened["data"];
    let id = data["finding"].as_str().unwrap();
    let refs = data["evidence"].as_array().unwrap();
    let kinds: Vec<_> = refs.iter().map(|r| r["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["frame", "annotated"]);
    for reference in refs {
        let topic = format!("/evidence/{id}/{}", reference["n"]);
        let picture = listener.eventually("a picture", |m| m.topic.ends_with(&topic));
        let sha256 = reference["sha256"].as_str().unwrap();
        assert_eq!(sha256_hex(&picture.bytes), sha256);
        assert_eq!(
            picture.bytes.len() as u64,
            reference["bytes"].as_u64().unwrap()
        );
        assert_eq!(reference["redacted"], true);
        for property in [
            format!("sha256:{sha256}"),
            "redacted:true".to_owned(),
            "media:image/jpeg".to_owned(),
        ] {
            assert!(
                picture.properties.contains(&property),
                "{}",
                picture.properties
            );
        }
    }
    // The clip is there with a later revision, and stays at the site.
    let later = listener.eventually("a revision that knows the clip", |m| {
        let evidence = m.payload["data"]["evidence"].as_array();
        m.payload["data"]["finding"] == id
            && evidence.is_some_and(|e| e.iter().any(|e| e["kind"] == "clip"))
    });
    let clip = &later.payload["data"]["evidence"][2];
    let withheld = "it stays at the site; the command `clip` sends a copy with faces blurred";
    assert_eq!(
        (&clip["withheld"], &clip["redacted"]),
        (&Value::from(withheld), &Value::Bool(false))
    );
    assert!(daemon.terminate().success());

    let (code, verdict) = verify(&site, &[]);
    assert_eq!((code, &verdict["ok"]), (0, &Value::Bool(true)), "{verdict}");
    let public = site.path("state/evidence/site.pub");
    let (code, _) = verify(&site, &["--key", public.to_str().unwrap()]);
    assert_eq!(code, 0);

    let bundle = find(&site.path("state/evidence"), id);
    let read = |name: &str| std::fs::read(bundle.join(name)).unwrap();
    assert_eq!(sha256_hex(&read("frame.jpg")), refs[0]["sha256"]);
    assert_eq!(sha256_hex(&read("sealed/clip.mp4")), clip["sha256"]);
    assert_ne!(read("frame.jpg"), read("sealed/frame.jpg"));
    let played = ffprobe(&bundle.join("sealed/clip.mp4"));
    let duration: f64 = played["duration"].as_str().unwrap().parse().unwrap();
    assert!((1.0..12.0).contains(&duration), "{duration}");
    faces_differ(&bundle, data);

    // An inspector who gets a changed bundle sees which file.
    let mut frame = read("frame.jpg");
    let middle = frame.len() / 2;
    frame[middle] ^= 1;
    std::fs::write(bundle.join("frame.jpg"), frame).unwrap();
    let (code, verdict) = verify(&site, &[]);
    assert_eq!(code, 65);
    let first = verdict["broken"][0]["file"].as_str().unwrap();
    assert!(first.ends_with(&format!("{id}/frame.jpg")), "{verdict}");
}

/// The finding's objects are faces: there the picture that left is another one, and elsewhere the same.
fn faces_differ(bundle: &Path, data: &Value) {
    let left = mingchu::decode::read_picture(&bundle.join("frame.jpg")).unwrap();
    let sealed = mingchu::decode::read_picture(&bundle.join("sealed/frame.jpg")).unwrap();
    let (w, h) = (left.size.width_px as usize, left.size.height_px as usize);
    let rect: Vec<f64> = data["objects"][0]["box"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    let inside = |x: usize, y: usize, grow: f64| {
        let (fx, fy) = (x as f64 / w as f64, y as f64 / h as f64);
        let (gw, gh) = ((rect[2] - rect[0]) * grow, (rect[3] - rect[1]) * grow);
        fx > rect[0] - gw && fx < rect[2] + gw && fy > rect[1] - gh && fy < rect[3] + gh
    };
    let (mut face, mut faces, mut other, mut others) = (0.0, 0, 0.0, 0);
    for y in 0..h {
        for x in 0..w {
            let d = f64::from(left.pixels[y * w + x]) - f64::from(sealed.pixels[y * w + x]);
            if inside(x, y, 0.0) {
                (face, faces) = (face + d.abs(), faces + 1);
            } else if !inside(x, y, 1.0) {
                (other, others) = (other + d.abs(), others + 1);
            }
        }
    }
    let (face, other) = (face / f64::from(faces), other / f64::from(others));
    assert!(face > 8.0, "a face's pixels differ by {face} on average");
    assert!(other < 3.0, "elsewhere they differ by {other}");
}

/// Luma of every picture of a clip, and what else there is to know of it.
fn all_pictures(clip: &Path) -> Vec<Frame> {
    let mut pictures = Vec::new();
    let mut keep = |frame: &mut Frame| {
        pictures.push(frame.clone());
        Ok(())
    };
    each_picture(clip, 960, &mut keep).unwrap();
    pictures
}

/// Mean square of the difference between neighbours in a box: what can be told of a face.
fn detail(frame: &Frame, rect: &NormRect) -> f64 {
    let (w, h) = (frame.size.width_px as usize, frame.size.height_px as usize);
    let at = |share: f32, side: usize| ((share * side as f32) as usize).min(side - 1);
    let (mut sum, mut count) = (0.0, 0);
    for y in at(rect.y0, h)..=at(rect.y1, h) {
        for x in at(rect.x0, w) + 1..=at(rect.x1, w) {
            let pixels = &frame.pixels[y * w + x - 1..][..2];
            sum += (f64::from(pixels[0]) - f64::from(pixels[1])).powi(2);
            count += 1;
        }
    }
    sum / f64::from(count.max(1))
}

#[test]
fn who_asks_for_a_clip_gets_it_with_every_face_blurred_and_signed() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let camera = Camera::start(&[&format!("kitchen={}", demo_clip("kitchen.mp4").display())]);
    let site = SiteDir::new(
        &broker.url(),
        // A finding that reopens has another clip then.
        &(camera_table("wok-1", &camera.url("kitchen"), "") + QUICK_RULE + "cooldown_ms = 0\n"),
    );
    let config = site.read_config();
    let config = config.replace("[uplink]\n", "[uplink]\nevidence_kbps = 1000000\n");
    let more = "\n[evidence]\npre_roll_ms = 1000\npost_roll_ms = 1000\n";
    site.write_config(&(config + more));
    let mut daemon = site.daemon();
    let opened = listener.finding("opened");
    let id = opened["data"]["finding"].as_str().unwrap().to_owned();
    let later = listener.eventually("a revision that knows the clip", |m| {
        let evidence = m.payload["data"]["evidence"].as_array();
        m.payload["data"]["finding"] == id.as_str()
            && evidence.is_some_and(|e| e.iter().any(|e| e["kind"] == "clip"))
    });
    let original = &later.payload["data"]["evidence"][2];
    assert_eq!(original["n"], 3, "{original}");

    let asking = serde_json::json!({"finding": id});
    let answer = ask(&mut listener, broker.port, "clip", "clip-1", &asking);
    assert_eq!(answer["outcome"], "done", "{answer}");
    let sent = &answer["data"];
    assert_eq!(sent["redacted"], true);
    assert_eq!(sent["made_from"], original["sha256"]);
    assert_ne!(sent["sha256"], original["sha256"]);
    let topic = format!("/evidence/{id}/3");
    let clip = listener.eventually("the clip", |m| m.topic.ends_with(&topic));
    assert_eq!(sha256_hex(&clip.bytes), sent["sha256"]);
    assert!(
        clip.properties.contains("redacted:true"),
        "{}",
        clip.properties
    );
    // It is made once.
    let again = ask(&mut listener, broker.port, "clip", "clip-2", &asking);
    assert_eq!(again["data"]["sha256"], sent["sha256"], "{again}");
    let look = serde_json::json!({"camera": "wok-1"});
    let look = ask(&mut listener, broker.port, "snapshot", "look-1", &look);
    assert_eq!(look["outcome"], "done", "{look}");
    let topic = look["data"]["topic"].as_str().unwrap().to_owned();
    let seen = listener.eventually("the snapshot", |m| m.topic.ends_with(&topic));
    assert_eq!(sha256_hex(&seen.bytes), look["data"]["sha256"]);
    // The hour so far is looked at once a second: soon it knows all three entries, and the centre with it.
    let mut told = (0..200).map(|n| {
        let id = format!("cover-{n}");
        let hour = ask(
            &mut listener,
            broker.port,
            "coverage",
            &id,
            &serde_json::json!({}),
        );
        hour["data"]["evidence_head"].clone()
    });
    let head = told.find(|h| h["entry"].as_u64() >= Some(2)).unwrap();
    assert!(daemon.terminate().success());

    let received = site.path("received.mp4");
    std::fs::write(&received, &clip.bytes).unwrap();
    let played = ffprobe(&received);
    assert_eq!(played["codec_tag_string"], "avc1", "{played}");
    let bundle = find(&site.path("state/evidence"), &id);
    no_face_is_left(&bundle.join("sealed/clip.mp4"), &received);

    let (code, verdict) = verify(&site, &[]);
    assert_eq!((code, &verdict["ok"]), (0, &Value::Bool(true)), "{verdict}");
    assert_eq!(verdict["notes"], serde_json::json!([]));
    let blurred = bundle.join("blurred.mp4");
    assert_eq!(std::fs::read(&blurred).unwrap(), clip.bytes);
    let head = format!("{}:{}", head["entry"], head["sha256"].as_str().unwrap());
    let (code, verdict) = verify(&site, &["--head", &head]);
    assert_eq!(
        (code, &verdict["head"]),
        (0, &Value::Bool(true)),
        "{verdict}"
    );
    let gone = format!("999:{}", "ab".repeat(32));
    let (code, verdict) = verify(&site, &["--head", &gone]);
    assert_eq!(
        (code, &verdict["head"]),
        (65, &Value::Bool(false)),
        "{verdict}"
    );
    let snapshot = topic.split('/').nth(1).unwrap();
    let snapshot = find(&site.path("state/evidence"), snapshot);
    assert_eq!(
        std::fs::read(snapshot.join("frame.jpg")).unwrap(),
        seen.bytes
    );
    let mut changed = clip.bytes;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&blurred, changed).unwrap();
    let (code, verdict) = verify(&site, &[]);
    let first = verdict["broken"][0]["file"].as_str().unwrap();
    assert!(
        code == 65 && first.ends_with(&format!("{id}/blurred.mp4")),
        "{verdict}"
    );
}

/// Wherever the site's detector is sure of a face in the original, nothing can be told of it in the copy,
/// and the detector finds none there.
fn no_face_is_left(original: &Path, copy: &Path) {
    let cards = [root("models/kitchen.toml")];
    let models = Models::load(
        Runtime::load(Some(&root(".runtime/onnxruntime/libonnxruntime.so"))).unwrap(),
        &cards,
    )
    .unwrap();
    let bare = models.class("face-bare").unwrap();
    let mut detector = models.detector().unwrap();
    let mut faces = |frame: &Frame, least: f32| -> Vec<NormRect> {
        let seen = detector.detect(frame, &SystemClock).unwrap();
        let sure = seen
            .items
            .iter()
            .filter(|d| d.class == bare && d.score >= least);
        sure.map(|d| d.rect).collect()
    };
    let (before, after) = (all_pictures(original), all_pictures(copy));
    assert_eq!(before.len(), after.len());
    let mut compared = 0;
    for (was, is) in before.iter().zip(&after).step_by(3) {
        for face in faces(was, 0.5) {
            let (sharp, soft) = (detail(was, &face), detail(is, &face));
            assert!(soft * 10.0 < sharp, "{soft} of {sharp} is left at {face:?}");
            let left = faces(is, 0.3);
            let there = left.iter().filter(|f| f.iou(&face) > 0.3);
            assert_eq!(there.count(), 0, "{face:?}");
            compared += 1;
        }
    }
    assert!(
        compared > 5,
        "{compared} faces in {} pictures",
        before.len()
    );
}

/// The bundle of a finding, whatever the day.
fn find(evidence: &Path, id: &str) -> std::path::PathBuf {
    let mut folders = vec![evidence.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if folder.ends_with(id) {
            return folder;
        }
        let inner = std::fs::read_dir(&folder).unwrap();
        folders.extend(inner.map(|e| e.unwrap().path()).filter(|p| p.is_dir()));
    }
    panic!("no bundle of {id}");
}

#[test]
fn a_damaged_key_stops_evidence_and_no_finding() {
    let broker = Mosquitto::start();
    let mut listener = Listener::start(broker.port);
    let url = format!("file:{}", demo_clip("kitchen.mp4").display());
    let site = SiteDir::new(
        &broker.url(),
        &(camera_table("wok-1", &url, "repeat = true") + QUICK_RULE),
    );
    std::fs::create_dir_all(site.path("state")).unwrap();
    std::fs::write(site.path("state/site.key"), "not a key").unwrap();
    let mut daemon = site.daemon();
    listener.status("the problem", |s| {
        let problems = s["problems"].to_string();
        problems.contains("findings go without evidence") && problems.contains("site.key")
    });
    let opened = listener.finding("opened");
    let data = &opened["data"];
    assert_eq!(data["evidence"].as_array().unwrap().len(), 0);
    let why = data["missing"][0]["why"].as_str().unwrap();
    assert!(why.contains("site.key is damaged"), "{why}");
    assert!(daemon.terminate().success());
}

#[test]
fn verify_says_what_is_no_evidence_and_what_it_would_take() {
    let dir = tempfile::tempdir().unwrap();
    let output = mingchu().arg("verify").arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("holds neither chain.jsonl nor manifest.json"),
        "{said}"
    );
}
