//! Native-resolution regions on films in which a real mouse is less than two hundredths of the picture's width. No
//! recorded clip has one so small in a picture large enough, so the films are made here, of real ones: a picture of a
//! kitchen, enlarged to 1080p, with sensor noise, and in it a mouse that was recorded moving, shrunk.
use std::path::{Path, PathBuf};
use std::process::Command;

use mingchu::base::geometry::NormRect;
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{FrameStamp, ManualClock, MonoMicros, UtcMicros};
use mingchu::capture::{AccessUnit, OpenContainer as _};
use mingchu::decode::{Clips, DecodeConfig, Frame, FrameSampler, Sampled};
use mingchu::detect::{Detections, Detector, LeftOut, Models, RegionLimits, Runtime};

use crate::support::{root, shared_clip};

const SECONDS: &str = "5.5";

/// How a mouse gets into the picture.
struct Film {
    clip: &'static str,
    /// Where the clip begins, seconds.
    from: &'static str,
    filter: &'static str,
    /// Corner and size of what is put in, in pixels of 1920 x 1080.
    at: [u32; 4],
}

/// The mouse alone, cut out of its white floor by its darkness: at most 130 of the clip's pixels from nose to rump, of
/// which 38 are left: 1.95 % of the width.
const CUT_OUT: Film = Film {
    clip: "mouse-arena.mp4",
    from: "11.5",
    filter: "crop=360:370:110:90,format=yuva420p,lumakey=threshold=1:tolerance=0.6:softness=0.15,\
             scale=104:-2:flags=area",
    at: [250, 680, 104, 107],
};

/// The mouse on its table: 4 to 6 % of the clip's width, here 1.2 to 1.8 %.
const ON_ITS_TABLE: Film = Film {
    clip: "mouse-hole-table.mp4",
    from: "0",
    filter: "scale=576:-2:flags=area",
    at: [1200, 30, 576, 324],
};

impl Film {
    fn make(&self, dir: &Path) -> PathBuf {
        let path = dir.join(self.clip);
        let [x, y, ..] = self.at;
        let filter = format!(
            "[0]select='eq(n,0)',scale=1920:1080,loop=-1:1,setpts=N/25/TB,noise=alls=4:allf=t[kitchen];\
             [1]fps=25,{}[mouse];[kitchen][mouse]overlay={x}:{y}:shortest=1",
            self.filter
        );
        let status = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-i"])
            .arg(shared_clip("kitchen-cook.mp4"))
            .args(["-ss", self.from, "-i"])
            .arg(shared_clip(self.clip))
            .args(["-filter_complex", &filter, "-t", SECONDS, "-r", "25", "-an"])
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0"])
            .args(["-g", "50", "-crf", "23", "-pix_fmt", "yuv420p"])
            .arg(&path)
            .status();
        assert!(status.unwrap().success(), "ffmpeg made no {}", self.clip);
        path
    }

    /// Whether a box is where the mouse is.
    fn holds(&self, rect: &NormRect) -> bool {
        let [x, y, w, h] = self.at.map(|v| v as f32);
        let (cx, cy) = (
            f32::midpoint(rect.x0, rect.x1) * 1920.0,
            f32::midpoint(rect.y0, rect.y1) * 1080.0,
        );
        (x..x + w).contains(&cx) && (y..y + h).contains(&cy)
    }
}

/// The pictures of a film that a camera would have had analysed.
fn analysed(film: &Path, camera: u16) -> Vec<Frame> {
    let camera = CameraIx(camera);
    let metrics = Metrics::default();
    let mut sampler = FrameSampler::new(camera, "film", DecodeConfig::default(), &metrics);
    let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
    let mut frames = Vec::new();
    let mut take = |sampled: Sampled| {
        if let Sampled::Frame(frame) = sampled {
            frames.push(frame);
        }
    };
    let mut container = Clips.open(film).unwrap();
    let codec = container.info().codec;
    let mut seq = 0;
    while let Some(unit) = container.next_unit().unwrap() {
        let us = u64::try_from(unit.pts.0).unwrap_or(0) * 100 / 9;
        let unit = AccessUnit {
            camera,
            stamp: FrameStamp {
                seq,
                session: 1,
                pts: unit.pts,
                received: MonoMicros(us),
                ..FrameStamp::default()
            },
            codec,
            is_key: unit.is_key,
            is_disposable: unit.is_disposable,
            packets_lost: 0,
            data: unit.data,
        };
        seq += 1;
        sampler.feed(unit, &*clock, &mut take).unwrap();
    }
    sampler.finish(&*clock, &mut take).unwrap();
    frames
}

fn models(limits: RegionLimits) -> Models {
    let runtime = Runtime::load(Some(&root(".runtime/onnxruntime/libonnxruntime.so"))).unwrap();
    Models::load_with(runtime, &[root("models/kitchen.toml")], limits).unwrap()
}

fn look(detector: &mut Detector, frames: &[Frame]) -> Vec<Detections> {
    let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
    let detect = |frame| detector.detect(frame, &*clock).unwrap();
    frames.iter().map(detect).collect()
}

/// In each picture the best score of a rat where the mouse is.
fn best(film: &Film, models: &Models, seen: &[Detections]) -> Vec<f32> {
    let rat = models.class("rat").unwrap();
    let of_picture = |seen: &Detections| {
        let rats = seen.items.iter().filter(|i| i.class == rat);
        let here = rats.filter(|i| film.holds(&i.rect));
        here.map(|i| i.score).fold(0.0, f32::max)
    };
    seen.iter().map(of_picture).collect()
}

fn threshold(models: &Models) -> f32 {
    models.classes()[usize::from(models.class("rat").unwrap().0)].threshold
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn a_mouse_of_two_hundredths_of_the_width_is_found_in_regions_and_missed_in_the_whole_picture() {
    let dir = tempfile::tempdir().unwrap();
    let with = models(RegionLimits::default());
    let without = models(RegionLimits {
        per_frame: Some(0),
        ..RegionLimits::default()
    });
    let threshold = threshold(&with);
    for film in [CUT_OUT, ON_ITS_TABLE] {
        let frames = analysed(&film.make(dir.path()), 0);
        let best = |models: &Models| {
            let seen = look(&mut models.detector().unwrap(), &frames);
            best(&film, models, &seen)
        };
        let (found, missed) = (best(&with), best(&without));
        let sure = |scores: &[f32]| scores.iter().filter(|s| **s >= threshold).count();
        eprintln!(
            "{}: {found:.2?} with regions, {missed:.2?} without",
            film.clip
        );
        assert_eq!(sure(&missed), 0, "{}: {missed:?}", film.clip);
        assert!(sure(&found) >= 4, "{}: {found:?}", film.clip);
    }
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn a_film_seen_again_is_granted_the_same_regions_whatever_was_seen_before() {
    let dir = tempfile::tempdir().unwrap();
    let frames = analysed(&ON_ITS_TABLE.make(dir.path()), 0);
    let models = models(RegionLimits {
        per_s: Some(1),
        ..RegionLimits::default()
    });
    let mut detector = models.detector().unwrap();
    detector.begin_anew();
    let first = look(&mut detector, &frames);
    let left_out = detector.take_left_out();
    assert!(left_out.over_budget > 0, "{left_out:?}");
    // Where the other left off nothing is saved, and its time is over.
    let after = look(&mut detector, &frames);
    assert!(detector.take_left_out().over_budget > left_out.over_budget);
    assert_ne!(first, after);
    detector.begin_anew();
    assert_eq!(first, look(&mut detector, &frames));
    assert_eq!(detector.take_left_out(), left_out);
}

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn a_shop_full_of_people_does_not_take_the_regions_of_a_mouse() {
    let dir = tempfile::tempdir().unwrap();
    let kitchen = analysed(&CUT_OUT.make(dir.path()), 0);
    let shop = analysed(&shared_clip("shop-masks.mp4"), 1);
    // Of the shop one picture alone could take more than there is in a second.
    let models = models(RegionLimits {
        per_frame: Some(16),
        per_s: Some(6),
    });
    // Two workers: each camera's own.
    let [mut worker, mut other] = [models.detector().unwrap(), models.detector().unwrap()];
    let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
    let (mut seen, mut left_out) = (Vec::new(), [LeftOut::default(); 2]);
    for (frame, busy) in kitchen.iter().zip(shop.iter().skip(1).cycle()) {
        // At the same moment, but the shop's worker is the faster one, and asks for more.
        let mut busy = busy.clone();
        busy.stamp = frame.stamp;
        other.detect(&busy, &*clock).unwrap();
        left_out[1].over_budget += other.take_left_out().over_budget;
        seen.push(worker.detect(frame, &*clock).unwrap());
        left_out[0].over_budget += worker.take_left_out().over_budget;
    }
    let best = best(&CUT_OUT, &models, &seen);
    let sure = best.iter().filter(|s| **s >= threshold(&models)).count();
    eprintln!("{best:.2?}; left out: {left_out:?}");
    assert!(left_out[1].over_budget > 0, "there is enough for both");
    assert!(sure >= 3, "{best:?}, left out: {left_out:?}");
}
