//! Pictures a second of one thread: our decode path (container, decoder, copying what is sampled at
//! about 4 pictures a second) beside `ffmpeg -benchmark` on the same clip, in turns, in CPU time.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use common::{clips, decode_all, median, report, timed};

/// Every how manieth picture is copied: about 4 a second of a 25 fps camera.
const SAMPLE: usize = 6;
/// Pairs for the ratio.
const PAIRS: usize = 9;

/// CPU time that `ffmpeg` needs to decode the clip and throw the pictures away.
fn ffmpeg(path: &Path) -> Option<Duration> {
    let output = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-hide_banner",
            "-benchmark",
            "-threads",
            "1",
            "-i",
        ])
        .arg(path)
        .args(["-map", "0:v:0", "-f", "null", "-"])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|l| l.starts_with("bench: utime="))?;
    let seconds = |key: &str| -> Option<f64> {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix(key)?.strip_suffix('s')?.parse().ok())
    };
    Some(Duration::from_secs_f64(
        seconds("utime=")? + seconds("stime=")?,
    ))
}

fn ours(path: &Path) -> (usize, Duration) {
    timed(|| decode_all(path, SAMPLE, drop))
}

fn decode(c: &mut Criterion) {
    let mut table = Vec::new();
    for (name, path) in clips() {
        let (pictures, _) = ours(&path);
        let mut group = c.benchmark_group(format!("decode/{name}"));
        group
            .sample_size(10)
            .throughput(Throughput::Elements(pictures as u64));
        group.bench_function("mingchu", |b| {
            b.iter_custom(|n| (0..n).map(|_| ours(&path).1).sum());
        });
        if ffmpeg(&path).is_none() {
            println!("there is no ffmpeg program to compare with");
            continue;
        }
        group.bench_function("ffmpeg", |b| {
            b.iter_custom(|n| (0..n).filter_map(|_| ffmpeg(&path)).sum());
        });
        group.finish();
        let pairs: Vec<_> = (0..PAIRS)
            .filter_map(|_| Some((ours(&path).1.as_secs_f64(), ffmpeg(&path)?.as_secs_f64())))
            .collect();
        let rate = |seconds: f64| pictures as f64 / seconds;
        table.push(format!(
            "{name:<16} {:>8.0} {:>8.0} {:>8.2}",
            rate(median(pairs.iter().map(|p| p.0).collect())),
            rate(median(pairs.iter().map(|p| p.1).collect())),
            median(pairs.iter().map(|(a, b)| b / a).collect()),
        ));
    }
    let head = format!(
        "{:<16} {:>8} {:>8} {:>8}",
        "clip", "mingchu", "ffmpeg", "ratio"
    );
    let title = "Decode: pictures per CPU second, one thread, beside `ffmpeg -benchmark`";
    report(title, &head, &table);
}

criterion_group!(benches, decode);
criterion_main!(benches);
