//! Clips, and time that other programs on the machine do not distort.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
#![allow(dead_code, reason = "each bench uses its part")]
use std::path::{Path, PathBuf};
use std::time::Duration;

use mingchu::base::geometry::SizePx;
use mingchu::capture::{Codec, OpenContainer as _};
use mingchu::decode::{Clips, Decoder, Frame};
use rustix::time::{ClockId, clock_gettime};

/// A file of the checkout.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The clips: those made at set-up, and real ones where the shared data folder is.
pub fn clips() -> Vec<(String, PathBuf)> {
    let mut clips = Vec::new();
    for name in ["kitchen", "kitchen-h265"] {
        let path = root(".runtime/demo").join(format!("{name}.mp4"));
        if path.is_file() {
            clips.push((name.to_owned(), path));
        } else {
            println!("{} is not there: `.ci/setup test` makes it", path.display());
        }
    }
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(|_| root("../shared"), PathBuf::from);
    for name in ["kitchen-cook", "shop-masks", "shop-masks-h265"] {
        let path = shared.join("data/clips").join(format!("{name}.mp4"));
        if path.is_file() {
            clips.push((name.to_owned(), path));
        } else {
            println!("no shared data folder: without the real clip {name}");
        }
    }
    clips
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// What `work` gives, and the CPU time it took: the machines are shared, and what others do must not
/// count.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = cpu_time();
    let result = work();
    (result, cpu_time().saturating_sub(began))
}

/// A frame without pixels.
pub fn empty_frame(size: SizePx) -> Frame {
    Frame::new(size, Vec::new())
}

/// The middle of `values`.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Opens, reads, decodes all pictures of a clip, and copies every `sample`-th as the daemon does.
/// Returns how many pictures there were.
pub fn decode_all(path: &Path, sample: usize, mut take: impl FnMut(Frame)) -> usize {
    let mut clip = Clips.open(path).expect("a clip");
    let codec: Codec = clip.info().codec;
    let mut decoder = Decoder::new(codec).expect("a decoder");
    let mut pictures = 0;
    let mut drain = |decoder: &mut Decoder| {
        while let Some(picture) = decoder.picture().expect("a picture") {
            if pictures % sample == 0 {
                let mut frame = empty_frame(picture.size);
                picture.copy_into(&mut frame).expect("a copy");
                take(frame);
            }
            pictures += 1;
        }
    };
    let mut tag = 0;
    while let Some(unit) = clip.next_unit().expect("a unit") {
        decoder.send(&unit.data, tag).expect("a unit that decodes");
        tag += 1;
        drain(&mut decoder);
    }
    decoder.finish().expect("an end");
    drain(&mut decoder);
    pictures
}

/// Prints a table, and adds it to the file that `MINGCHU_RESULTS` names, if it names one: `make bench` makes
/// `benches/RESULTS.md` of all of them.
pub fn report(title: &str, head: &str, lines: &[String]) {
    let table = [&[head.to_owned()], lines].concat().join("\n");
    println!("\n{title}\n{table}");
    let Some(path) = std::env::var_os("MINGCHU_RESULTS") else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    let text = format!("## {title}\n\n```text\n{table}\n```\n\n");
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .expect("the file of results can be written");
}
