//! A camera of a still scene, decoded in full and late, in turns, in CPU time of one thread: `FrameSampler` as the
//! daemon runs it (decoder, motion gate, copies of what is handed on), without capture and detection. Late: with
//! somebody in the scene, who keeps still, each key picture is decoded; of a quiet one, one in ten seconds.
//!
//! The clips are made from one picture of a real clip with sensor noise in it, 1080p and 720p at 25 pictures a
//! second, a key picture every two seconds, as cameras send: by quality, and at a strictly constant bit rate.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::{Metric, Metrics};
use mingchu::base::time::{FrameStamp, ManualClock, MonoMicros, UtcMicros};
use mingchu::capture::{AccessUnit, OpenContainer as _};
use mingchu::decode::{Clips, DecodeConfig, FrameSampler, Quiet, Sampled};

use common::{clips, median, report, timed};

/// Pairs for the ratio.
const PAIRS: usize = 5;
const SECONDS: u64 = 60;
/// When the first picture comes: a scene is quiet after half a minute.
const BEGINS_US: u64 = 40_000_000;

/// A still clip from the first picture of `clip`; `None`: ffmpeg is not there.
fn still(dir: &Path, clip: &Path, height: u32, codec: &str, rate: &[&str]) -> Option<PathBuf> {
    let path = dir.join(format!("{height}-{codec}-{}.mp4", rate.len()));
    let filter =
        format!("trim=end_frame=1,loop=-1:1,scale=-2:{height},noise=alls=5:allf=t,setpts=N/25/TB");
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-i"])
        .arg(clip)
        .args(["-vf", &filter, "-an", "-r", "25", "-c:v", codec])
        .args(["-preset", "veryfast", "-bf", "0", "-g", "50"])
        .args(rate)
        .args(["-t", &SECONDS.to_string()])
        .arg(&path)
        .status()
        .ok()?;
    made.success().then_some(path)
}

fn stamp(us: u64) -> FrameStamp {
    FrameStamp {
        session: 1,
        received: MonoMicros(us),
        ..FrameStamp::default()
    }
}

fn units(clip: &Path) -> Vec<AccessUnit> {
    let mut container = Clips.open(clip).expect("a clip");
    let codec = container.info().codec;
    let mut units = Vec::new();
    while let Some(unit) = container.next_unit().expect("a unit") {
        let mut unit = unit.as_sent(CameraIx(0), codec, units.len() as u64);
        unit.stamp.received.0 += BEGINS_US;
        units.push(unit);
    }
    units
}

/// How a clip is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Full,
    /// Somebody is seen.
    Keys,
    /// Nobody is.
    Quiet,
}

/// CPU time and pictures, for each [`How`].
type Round = [(Duration, u64); 3];

/// CPU time for the last minute less ten seconds, in which a camera has become idle, and pictures decoded.
fn watch(units: &[AccessUnit], how: How) -> (Duration, u64) {
    let config = DecodeConfig {
        late: how != How::Full,
        ..DecodeConfig::default()
    };
    let mut quiet = Quiet::default();
    quiet.saw(&stamp(0), false);
    let metrics = Metrics::default();
    let mut sampler = FrameSampler::new(CameraIx(0), "still", config, &metrics);
    let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
    let (first, rest) = units.split_at(units.len() / 6);
    let mut feed = |unit: &AccessUnit| {
        let mut take = |sampled| {
            if let Sampled::Frame(frame) = sampled {
                quiet.saw(&frame.stamp, how == How::Keys);
            }
        };
        sampler
            .feed(unit.clone(), &*clock, &mut take)
            .expect("a unit that decodes");
        sampler.set_quiet(quiet);
    };
    first.iter().for_each(&mut feed);
    let before = metrics.total(Metric::DecodeFrames);
    let ((), time) = timed(|| rest.iter().for_each(&mut feed));
    (time, metrics.total(Metric::DecodeFrames) - before)
}

fn late_decode(c: &mut Criterion) {
    let dir = std::env::temp_dir().join(format!("mingchu-late-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    let constant: &[&str] = &[
        "-b:v",
        "4000k",
        "-minrate",
        "4000k",
        "-maxrate",
        "4000k",
        "-bufsize",
        "4000k",
        "-x264-params",
        "nal-hrd=cbr",
    ];
    let by_quality: &[&str] = &["-crf", "26"];
    let known = clips();
    let source = known.last().map(|(_, path)| path.clone()).expect("a clip");
    let mut table = Vec::new();
    for (name, height, codec, rate) in [
        ("1080p h264", 1080, "libx264", by_quality),
        ("1080p h264 cbr", 1080, "libx264", constant),
        ("1080p h265", 1080, "libx265", by_quality),
        ("720p h264", 720, "libx264", by_quality),
        ("360p h264", 360, "libx264", by_quality),
    ] {
        let Some(clip) = still(&dir, &source, height, codec, rate) else {
            println!("no ffmpeg with {codec} to make a still clip with");
            continue;
        };
        let units = units(&clip);
        let mut group = c.benchmark_group(format!("late_decode/{name}"));
        group.sample_size(10);
        for how in [How::Full, How::Keys, How::Quiet] {
            group.bench_function(format!("{how:?}"), |b| {
                b.iter_custom(|n| (0..n).map(|_| watch(&units, how).0).sum());
            });
        }
        group.finish();
        let rounds: Vec<_> = (0..PAIRS)
            .map(|_| [How::Full, How::Keys, How::Quiet].map(|how| watch(&units, how)))
            .collect();
        let seconds = (SECONDS * 5 / 6) as f64;
        let each = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        let ms = |n: usize| each(&|round| round[n].0.as_secs_f64() * 1000.0 / seconds);
        let ratio = |n: usize| each(&|round| round[0].0.as_secs_f64() / round[n].0.as_secs_f64());
        let pictures = |n: usize| each(&|round| round[n].1 as f64 / seconds);
        table.push(format!(
            "{name:<16} {:>8.1} {:>8.2} {:>8.2} | {:>8.1} {:>8.1} | {:>8.1} {:>8.2} {:>8.2}",
            ms(0),
            ms(1),
            ms(2),
            ratio(1),
            ratio(2),
            pictures(0),
            pictures(1),
            pictures(2),
        ));
    }
    std::fs::remove_dir_all(&dir).expect("the scratch folder");
    let head = format!(
        "{:<16} {:>8} {:>8} {:>8} | {:>8} {:>8} | {:>8} {:>8} {:>8}",
        "clip", "full", "keys", "quiet", "keys", "quiet", "full", "keys", "quiet"
    );
    let title = "Late decode: CPU ms for a second of a still camera, one thread; how many times fewer than in full; pictures decoded a second";
    report(title, &head, &table);
}

criterion_group!(benches, late_decode);
criterion_main!(benches);
