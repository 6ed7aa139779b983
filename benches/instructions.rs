//! Instructions a picture for the parts that are ours, counted by callgrind: a figure that nothing else on
//! the machine moves, and that a change of one part shows in that part alone. `mingchu capacity --profile`
//! has the times of all parts, the libraries' included.
//!
//! ```sh
//! cargo bench --locked --bench instructions            # the demo's clip
//! cargo bench --locked --bench instructions -- FILE    # another
//! ```
//! The bench runs itself once more under valgrind (Debian: `apt-get install valgrind`). There each part is
//! called through a function of its own, by whose name callgrind's books have what it and all it calls
//! took. The pictures, the network's outputs, boxes and tracks are those of the clip.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints"
)]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use mingchu::app::config;
use mingchu::base::ids::{CameraIx, ClassId};
use mingchu::base::time::{FrameStamp, MonoMicros, Pts90k, UtcMicros};
use mingchu::decode::{Frame, MotionDetector};
use mingchu::detect::{
    Detection, Detections, Letterbox, LoadedModel, Models, Network, Preprocessor, RawBox, Runtime,
    decode_yolox, suppress,
};
use mingchu::rules::{FindingChange, RuleEngine};
use mingchu::track::{TrackConfig, TrackSet, Tracker};

use common::{decode_all, root};

/// Names the clip to the run that is counted.
const COUNTED: &str = "MINGCHU_COUNTED_CLIP";
/// Every so many pictures one is looked at, as at 25 pictures a second and 4 of them analysed.
const EVERY: usize = 6;
/// Under valgrind everything takes some fifty times as long.
const PICTURES: usize = 60;
const PARTS: [(&str, &str); 5] = [
    ("part_motion", "motion"),
    ("part_preprocess", "pre-process"),
    ("part_postprocess", "post-process"),
    ("part_track", "track"),
    ("part_rules", "rules"),
];

#[inline(never)]
fn part_motion(motion: &mut MotionDetector, frame: &Frame) -> f32 {
    let width = frame.size.width_px as usize;
    let [luma, ..] = frame.planes();
    motion.changed(frame.size, 2, |step, row| {
        luma.chunks_exact(width).step_by(step).for_each(row);
    })
}

#[inline(never)]
fn part_preprocess(with: &mut Preprocessor, frame: &Frame, tensor: &mut Vec<f32>) -> Letterbox {
    with.fill(frame, tensor)
}

#[inline(never)]
fn part_postprocess(
    model: &LoadedModel,
    groups: &[u16],
    at: &Letterbox,
    out: &[f32],
) -> Vec<RawBox> {
    let raw = decode_yolox(&model.card, at, out);
    suppress(raw, model.card.thresholds.nms_iou, |class| groups[class])
}

#[inline(never)]
fn part_track(tracker: &mut Tracker, seen: &Detections) -> TrackSet {
    tracker.update(seen)
}

#[inline(never)]
fn part_rules(engine: &mut RuleEngine, tracks: &TrackSet) -> Vec<FindingChange> {
    engine.on_tracks(tracks)
}

/// Each part once for each picture. How many there were.
fn counted(clip: &Path) -> usize {
    let library = root(".runtime/onnxruntime/libonnxruntime.so");
    let card = root("models/kitchen.toml");
    let runtime = Runtime::load(Some(&library)).expect("ONNX Runtime, from `.ci/setup`");
    let models = Models::load(runtime.clone(), std::slice::from_ref(&card)).expect("the model");
    let model = LoadedModel::load(&card).expect("the shipped model");
    let mut network = Network::load(&runtime, &model).expect("a session");
    let text = format!(
        "[site]\nregion = \"000000\"\nid = \"bench\"\nstate_dir = \"/tmp/none\"\n\
         [uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n[detect]\nmodels = [{}]\n\
         [[camera]]\nid = \"clip\"\nurl = \"rtsp://127.0.0.1/clip\"\n\
         [[rule]]\nid = \"mask\"\ncode = \"ppe.mask.missing\"\n\
         [[rule]]\nid = \"rodent\"\ncode = \"pest.rodent\"\n",
        config::toml_text(&card.display().to_string()),
    );
    let parsed = config::parse(Path::new("bench"), &text);
    let site = parsed.config.expect("a config");
    let rules = config::resolve_rules(&site.rules, &models);
    let mut motion = MotionDetector::new();
    let mut preprocessor = Preprocessor::new(model.card.input.clone(), model.card.step());
    let groups = models.groups();
    let mut tracker = Tracker::new(CameraIx(0), TrackConfig::default(), groups.clone());
    let mut engine = RuleEngine::new(rules, "bench");
    let (mut tensor, mut pictures) = (Vec::new(), 0);
    decode_all(clip, EVERY, |frame| {
        if pictures == PICTURES {
            return;
        }
        let at_us = pictures as u64 * 240_000;
        pictures += 1;
        part_motion(&mut motion, &frame);
        let at = part_preprocess(&mut preprocessor, &frame, &mut tensor);
        let out = network
            .run(&tensor, at.tensor, <[f32]>::to_vec)
            .expect("an output");
        let boxes = part_postprocess(&model, &groups, &at, &out);
        let items = boxes.into_iter().map(|b| Detection {
            class: ClassId(b.class as u16),
            score: b.score,
            rect: b.rect,
            head: None,
        });
        let seen = Detections {
            camera: CameraIx(0),
            stamp: FrameStamp {
                seq: pictures as u64,
                session: 1,
                pts: Pts90k((at_us * 9 / 100) as i64),
                received: MonoMicros(at_us),
                received_utc: UtcMicros(at_us as i64),
            },
            items: items.collect(),
            inferred: MonoMicros(at_us),
        };
        let tracks = part_track(&mut tracker, &seen);
        part_rules(&mut engine, &tracks);
    });
    pictures
}

/// The instructions of a function and all it calls, from a table of `callgrind_annotate`:
/// `1,234,567 ( 1.2%)  file:function [object]`.
fn instructions(table: &str, function: &str) -> Option<u64> {
    let line = table.lines().find(|l| l.contains(function))?;
    let digits = line.trim_start().split([' ', '(']).next()?;
    digits.replace(',', "").parse().ok()
}

fn main() {
    if let Some(clip) = std::env::var_os(COUNTED) {
        println!("{}", counted(Path::new(&clip)));
        return;
    }
    let named = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let clip = named.map_or_else(|| root(".runtime/demo/kitchen.mp4"), PathBuf::from);
    if !clip.is_file() {
        println!(
            "{} is not there: `.ci/setup test` makes the demo's clip",
            clip.display()
        );
        return;
    }
    let books = std::env::temp_dir().join(format!("mingchu-callgrind-{}", std::process::id()));
    let this = std::env::current_exe().expect("this program");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", books.display()))
        .arg(this)
        .env(COUNTED, &clip)
        .output();
    let Ok(ran) = ran else {
        println!("no valgrind here (Debian: apt-get install valgrind): nothing was counted");
        return;
    };
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "under valgrind: {said}");
    let pictures: u64 = String::from_utf8_lossy(&ran.stdout)
        .trim()
        .parse()
        .expect("a number");
    let table = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&books)
        .output()
        .expect("callgrind_annotate, which comes with valgrind");
    // Some megabytes, in the folder for what may go.
    drop(std::fs::remove_file(&books));
    let table = String::from_utf8_lossy(&table.stdout);
    println!(
        "{}, {pictures} pictures, thousand instructions a picture",
        clip.display()
    );
    for (function, words) in PARTS {
        let all = instructions(&table, function);
        let all = all.unwrap_or_else(|| panic!("callgrind's books have no {function}"));
        println!(
            "{words:<14} {:>12.1}",
            all as f64 / pictures.max(1) as f64 / 1000.0
        );
    }
}
