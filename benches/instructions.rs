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
//! took. The pictures are those of the clip, and so are the network's outputs, which this run makes before
//! and leaves in a file: ONNX Runtime under valgrind takes minutes, and nothing in it is ours.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints"
)]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use mingchu::app::config::rule_of;
use mingchu::base::ids::{CameraIx, ClassId, Name};
use mingchu::base::time::{FrameStamp, MonoMicros, Pts90k, UtcMicros};
use mingchu::decode::{Frame, MotionDetector};
use mingchu::detect::{
    Detection, Detections, Letterbox, LoadedModel, Network, Preprocessor, RawBox, Runtime,
    TensorMut, decode_yolox, suppress,
};
use mingchu::rules::{FindingChange, RuleConfig, RuleEngine};
use mingchu::track::{TrackConfig, TrackSet, Tracker};

use common::{decode_all, report, root};

/// Name the clip and the network's outputs to the run that is counted.
const COUNTED: &str = "MINGCHU_COUNTED_CLIP";
const OUTPUTS: &str = "MINGCHU_COUNTED_OUTPUTS";
/// Every so many pictures one is looked at, as at 25 pictures a second and 4 of them analysed.
const EVERY: usize = 6;
/// Under valgrind everything takes some fifty times as long.
const PICTURES: usize = 24;
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
    let mut found = Vec::new();
    decode_yolox(&model.card, at, out, &mut found);
    suppress(&mut found, model.card.thresholds.nms_iou, |class| {
        groups[class]
    });
    found
}

#[inline(never)]
fn part_track(tracker: &mut Tracker, seen: &Detections) -> TrackSet {
    tracker.update(seen)
}

#[inline(never)]
fn part_rules(engine: &mut RuleEngine, tracks: &TrackSet) -> Vec<FindingChange> {
    engine.on_tracks(tracks)
}

fn shipped() -> LoadedModel {
    LoadedModel::load(&root("models/kitchen.toml")).expect("the shipped model")
}

/// The pictures that are looked at.
fn each_picture(clip: &Path, mut look: impl FnMut(usize, &Frame)) {
    let mut pictures = 0;
    decode_all(clip, EVERY, |frame| {
        if pictures < PICTURES {
            look(pictures, &frame);
            pictures += 1;
        }
    });
}

/// What the network says to each picture, little-endian, one behind the other.
fn outputs(clip: &Path) -> Vec<u8> {
    let library = root(".runtime/onnxruntime/libonnxruntime.so");
    let runtime = Runtime::load(Some(&library)).expect("ONNX Runtime, from `.ci/setup`");
    let model = shipped();
    let mut network = Network::load(&runtime, &model).expect("a session");
    let mut preprocessor = Preprocessor::new(model.card.input.clone(), model.card.step());
    let mut all = Vec::new();
    each_picture(clip, |_, frame| {
        let size = preprocessor.letterbox(frame.size).tensor;
        let fill = |tensor: TensorMut<'_>| preprocessor.fill_whole(frame, tensor);
        let write = |out: &[f32]| out.iter().for_each(|v| all.extend(v.to_le_bytes()));
        network.run(size, fill, write).expect("an output");
    });
    all
}

/// Each part once for each picture. How many there were.
fn counted(clip: &Path, outputs: &[u8]) -> usize {
    let model = shipped();
    let classes = &model.card.classes;
    let group = |i: usize| classes[i].group.as_ref().unwrap_or(&classes[i].name);
    let first_of = |i: usize| (0..=i).find(|j| group(*j) == group(i)).unwrap_or(i) as u16;
    let groups: Vec<u16> = (0..classes.len()).map(first_of).collect();
    let class = |name: &str| classes.iter().position(|c| c.name == name);
    let name = |text: &str| Name::new(text).expect("a name");
    let rule = |code: &str, labels: &[&str]| RuleConfig {
        cameras: vec![CameraIx(0)],
        classes: labels
            .iter()
            .filter_map(|l| class(l))
            .map(|c| ClassId(c as u16))
            .collect(),
        threshold: 0.5,
        ..rule_of(name(code), name(code), None)
    };
    let rules = vec![
        rule("ppe.mask.missing", &["face-bare", "face-chin"]),
        rule("pest.rodent", &["rat"]),
    ];
    assert!(
        rules.iter().all(|r| !r.classes.is_empty()),
        "classes of other names"
    );
    let mut motion = MotionDetector::new();
    let mut preprocessor = Preprocessor::new(model.card.input.clone(), model.card.step());
    let mut tracker = Tracker::new(CameraIx(0), TrackConfig::default(), groups.clone().into());
    let mut engine = RuleEngine::new(rules, "bench");
    let values = outputs
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let values: Vec<f32> = values.collect();
    let (mut tensor, mut pictures, mut next) = (Vec::new(), 0, 0);
    each_picture(clip, |n, frame| {
        pictures = n + 1;
        let at_us = n as u64 * 240_000;
        part_motion(&mut motion, frame);
        let at = part_preprocess(&mut preprocessor, frame, &mut tensor);
        let end = next + model.card.output_len(at.tensor);
        let boxes = part_postprocess(&model, &groups, &at, &values[next..end]);
        next = end;
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
            items: items.collect::<Vec<_>>().into(),
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
    if let (Some(clip), Some(of)) = (std::env::var_os(COUNTED), std::env::var_os(OUTPUTS)) {
        let outputs = std::fs::read(of).expect("the network's outputs");
        println!("{}", counted(Path::new(&clip), &outputs));
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
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("no valgrind here (Debian: apt-get install valgrind): nothing was counted");
        return;
    }
    let folder = std::env::temp_dir().join(format!("mingchu-callgrind-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder for callgrind's books");
    let (books, of) = (folder.join("books"), folder.join("outputs"));
    std::fs::write(&of, outputs(&clip)).expect("a file of some megabytes");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", books.display()))
        .arg(std::env::current_exe().expect("this program"))
        .env(COUNTED, &clip)
        .env(OUTPUTS, &of)
        .output()
        .expect("valgrind");
    let table = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&books)
        .output();
    // In the folder for what may go.
    drop(std::fs::remove_dir_all(&folder));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "under valgrind: {said}");
    let pictures = String::from_utf8_lossy(&ran.stdout);
    let pictures: u64 = pictures.trim().parse().expect("a number");
    let table = table.expect("callgrind_annotate, which comes with valgrind");
    let table = String::from_utf8_lossy(&table.stdout);
    let line = |(function, words): (&str, &str)| {
        let all = instructions(&table, function);
        let all = all.unwrap_or_else(|| panic!("callgrind's books have no {function}"));
        let each = all as f64 / pictures.max(1) as f64 / 1000.0;
        format!("{words:<14} {each:>12.1}")
    };
    let clip = clip.file_stem().unwrap_or_default().to_string_lossy();
    report(
        &format!(
            "Instructions of our own parts, thousands a picture, {pictures} pictures of {clip}"
        ),
        &format!("{:<14} {:>12}", "part", "thousands"),
        &PARTS.map(line),
    );
}
