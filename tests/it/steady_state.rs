//! What is made for each picture is made in memory that is used again: decoding, the motion gate, the copy, every
//! model and the way from one to the next ask the heap for nothing once they have run for a while. What FFmpeg and
//! ONNX Runtime ask for within themselves is not in it.
use mingchu::base::heap::requests_by_thread;
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::SystemClock;
use mingchu::capture::OpenContainer as _;
use mingchu::decode::{Clips, DecodeConfig, FrameSampler, Sampled};
use mingchu::detect::{Models, Runtime};

use crate::support::{demo_clip, root};

#[test]
fn a_picture_is_analysed_without_asking_for_memory() {
    let cards = ["kitchen", "heads", "smoking"].map(|name| root(&format!("models/{name}.toml")));
    let models = Models::load(Runtime::load(None).unwrap(), &cards).unwrap();
    let mut detector = models.detector().unwrap();
    let metrics = Metrics::default();
    let config = DecodeConfig {
        late: false,
        ..DecodeConfig::default()
    };
    let mut sampler = FrameSampler::new(CameraIx(0), "steady", config, &metrics);
    let clip = demo_clip("kitchen.mp4");
    let mut asked = Vec::new();
    // In the first rounds lists and tensors grow to what the clip's fullest pictures need.
    for session in 1..=3 {
        asked.clear();
        let mut container = Clips.open(&clip).unwrap();
        let codec = container.info().codec;
        for seq in 0.. {
            let Some(unit) = container.next_unit().unwrap() else {
                break;
            };
            let mut unit = unit.as_sent(CameraIx(0), codec, seq);
            unit.stamp.session = session;
            unit.stamp.received.0 += u64::from(session) * 60_000_000;
            let mut seen = None;
            let before = requests_by_thread();
            let mut take = |sampled: Sampled| {
                if let Sampled::Frame(frame) = sampled {
                    let detections = detector.detect(&frame, &SystemClock).unwrap();
                    seen = Some((detections.items.len(), frame.moving.len()));
                }
            };
            sampler.feed(unit, &SystemClock, &mut take).unwrap();
            let requests = requests_by_thread() - before;
            if let Some((items, moving)) = seen {
                asked.push((items, moving, requests));
            }
        }
    }
    assert!(asked.len() > 40, "{asked:?}");
    let heads_and_regions = asked
        .iter()
        .filter(|(items, moving, _)| *items > 0 && *moving > 0);
    assert!(heads_and_regions.count() > 5, "{asked:?}");
    // The first picture of a session comes from a new decoder.
    let steady = &asked[1..];
    assert!(
        steady.iter().all(|(.., requests)| *requests == 0),
        "{steady:?}"
    );
}
