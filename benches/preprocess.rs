//! A picture's planes into an input tensor: ours in one pass, the plain reference, and what one would
//! write with swscale (scaling and conversion to planar RGB, then normalisation), in turns, one
//! thread each, in CPU time.
//!
//! The pictures are of a real clip, scaled by swscale (bicubic) to the sizes of the table. Each way meets a picture
//! twice: first when nothing of it is in a cache, then at once again.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
#![allow(
    clippy::inline_always,
    reason = "what is not inlined is compiled for the plainest instruction set"
)]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use fearless_simd::{Level, Simd, dispatch};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame::Video;
use ffmpeg_next::software::scaling::{Context, Flags};
use mingchu::base::geometry::SizePx;
use mingchu::decode::Frame;
use mingchu::detect::{
    Channels, CropPx, Fit, InputCard, LoadedModel, Preprocessor, Reference, Value, ValueType,
    tensor_size,
};

use common::{clips, decode_all, empty_frame, median, report, root, timed};

/// What pushes everything else out of the caches.
const CACHES: usize = 64 << 20;
const PAIRS: usize = 151;

fn size(width_px: u32, height_px: u32) -> SizePx {
    SizePx {
        width_px,
        height_px,
    }
}

/// A window of `frame` that begins at even pixels, as libav holds pictures.
fn video(frame: &Frame, at: (usize, usize), of: SizePx) -> Video {
    let mut video = Video::new(Pixel::YUV420P, of.width_px, of.height_px);
    let (w, h) = (of.width_px as usize, of.height_px as usize);
    let full = frame.size.width_px as usize;
    for (i, plane) in frame.planes().into_iter().enumerate() {
        let half = usize::from(i > 0);
        let (stride, w, h) = (
            (full + half) >> half,
            (w + half) >> half,
            (h + half) >> half,
        );
        let (x, y) = (at.0 >> half, at.1 >> half);
        let to = video.stride(i);
        let rows = video.data_mut(i).chunks_mut(to).take(h);
        for (row, out) in rows.enumerate() {
            out[..w].copy_from_slice(&plane[(y + row) * stride + x..][..w]);
        }
    }
    video
}

fn context(from: SizePx, to: (Pixel, SizePx), flags: Flags) -> Context {
    let (pixel, to) = to;
    let (fw, fh) = (from.width_px, from.height_px);
    Context::get(
        Pixel::YUV420P,
        fw,
        fh,
        pixel,
        to.width_px,
        to.height_px,
        flags,
    )
    .expect("a context of swscale")
}

/// `frame` in another size.
fn resized(frame: &Frame, to: SizePx) -> Frame {
    if frame.size == to {
        return frame.clone();
    }
    let mut out = Video::empty();
    context(frame.size, (Pixel::YUV420P, to), Flags::BICUBIC)
        .run(&video(frame, (0, 0), frame.size), &mut out)
        .expect("a picture");
    let mut resized = empty_frame(to);
    (resized.full_range, resized.matrix) = (frame.full_range, frame.matrix);
    for i in 0..3 {
        let half = u32::from(i > 0);
        let (w, h) = (
            ((to.width_px + half) >> half) as usize,
            ((to.height_px + half) >> half) as usize,
        );
        for row in out.data(i).chunks(out.stride(i)).take(h) {
            resized.pixels.extend_from_slice(&row[..w]);
        }
    }
    resized
}

/// What an integrator writes: swscale, then bytes to floats; the floats' loop for this machine's
/// instruction set, as ours.
struct Swscale {
    context: Context,
    rgb: Video,
    level: Level,
}

impl Swscale {
    fn new(from: SizePx, to: SizePx, flags: Flags) -> Self {
        Self {
            context: context(from, (Pixel::GBRP, to), flags),
            rgb: Video::empty(),
            level: Level::new(),
        }
    }

    fn fill(&mut self, picture: &Video, input: &InputCard, tensor: &mut [f32]) {
        self.context.run(picture, &mut self.rgb).expect("a picture");
        let plane = tensor.len() / 3;
        // GBRP: green, blue, red.
        let order = match input.channels {
            Channels::Bgr => [1, 0, 2],
            Channels::Rgb => [2, 0, 1],
        };
        for ((channel, out), mean) in order
            .into_iter()
            .zip(tensor.chunks_exact_mut(plane))
            .zip(input.mean)
        {
            let stride = self.rgb.stride(channel);
            let width = self.rgb.width() as usize;
            let bytes = self.rgb.data(channel);
            let level = self.level;
            dispatch!(level, simd => normalise(simd, bytes, stride, out, width, mean, input.scale));
        }
    }
}

#[inline(always)]
fn normalise<S: Simd>(
    _: S,
    bytes: &[u8],
    stride: usize,
    out: &mut [f32],
    width: usize,
    mean: f32,
    scale: f32,
) {
    for (row, out) in bytes.chunks(stride).zip(out.chunks_exact_mut(width)) {
        for (byte, out) in row.iter().zip(out) {
            *out = (f32::from(*byte) - mean) * scale;
        }
    }
}

/// One row of the table: which part of the pictures goes into which tensor.
struct Case {
    name: String,
    input: InputCard,
    step: u32,
    crop: Option<CropPx>,
    tensor: SizePx,
}

fn cases(picture: SizePx) -> Vec<Case> {
    let load = |card: &str| LoadedModel::load(&root(card)).expect("the shipped model");
    let (detector, heads) = (load("models/kitchen.toml"), load("models/heads.toml"));
    let of = |name: &str| format!("{}x{} to {name}", picture.width_px, picture.height_px);
    let input = detector.card.input.clone();
    let plain = InputCard {
        width_px: 640,
        height_px: 360,
        fit: Fit::Card,
        ..input.clone()
    };
    let step = detector.card.step();
    let tensor = tensor_size(picture, &input, step);
    // A head as large as the shop's: a seventh of the picture's height and its surroundings.
    let side = |share: f64| (share * f64::from(picture.height_px) / 2.0).round() * 2.0;
    let (x0, y0) = (side(0.5), side(0.3));
    let crop = CropPx {
        x0,
        y0,
        x1: x0 + side(0.3),
        y1: y0 + side(0.4),
    };
    let head = size(heads.card.input.width_px, heads.card.input.height_px);
    vec![
        Case {
            name: of("640x360"),
            input: plain,
            step: 1,
            crop: None,
            tensor: size(640, 360),
        },
        Case {
            name: of(&format!(
                "detector {}x{}",
                tensor.width_px, tensor.height_px
            )),
            input,
            step,
            crop: None,
            tensor,
        },
        Case {
            name: of("a head 96x128"),
            input: heads.card.input.clone(),
            step: 1,
            crop: Some(crop),
            tensor: head,
        },
    ]
}

fn preprocess(c: &mut Criterion) {
    let clips = clips();
    let clip = clips
        .iter()
        .find(|(name, _)| name == "shop-masks")
        .or(clips.first());
    let Some((clip, path)) = clip else { return };
    let mut frames = Vec::new();
    decode_all(path, 50, |frame| frames.push(frame));
    frames.truncate(8);
    let mut table = Vec::new();
    for picture in [size(1920, 1080), size(1280, 720), size(640, 360)] {
        let frames: Vec<Frame> = frames.iter().map(|f| resized(f, picture)).collect();
        for case in cases(picture) {
            table.push(measure(c, &frames, &case));
        }
    }
    let level = format!("{:?}", Level::new());
    let level = level.split('(').next().unwrap_or_default();
    let title = format!(
        "Preprocessing: CPU ms per picture of {clip}, one thread, {level}; area, fast: swscale with SWS_AREA and \
         SWS_FAST_BILINEAR, and normalisation; to bytes: as the shipped networks take it; again: the same picture once \
         more, its bytes in the cache; between the bars: how many times ours to floats; off by: furthest from the \
         reference, in levels of 255"
    );
    let head = format!(
        "{:<40} {:>8} {:>8} {:>9} {:>8} {:>8} | {:>9} {:>8} {:>8} | {:>7}",
        "",
        "mingchu",
        "to bytes",
        "reference",
        "area",
        "fast",
        "reference",
        "area",
        "fast",
        "off by"
    );
    report(&title, &head, &table);
}

/// What the case asks of our way.
fn fill<T: Value>(ours: &mut Preprocessor, case: &Case, frame: &Frame, out: &mut Vec<T>) {
    match case.crop {
        Some(crop) => ours.fill_part(frame, crop, case.tensor, out),
        None => drop(ours.fill(frame, out)),
    }
}

fn measure(c: &mut Criterion, frames: &[Frame], case: &Case) -> String {
    let Case {
        name,
        input,
        step,
        crop,
        tensor,
    } = case;
    let picture = frames[0].size;
    let mut ours = Preprocessor::new(input.clone(), *step);
    let mut fill = |frame: &Frame, out: &mut Vec<f32>| fill(&mut ours, case, frame, out);
    let of_bytes = InputCard {
        of: ValueType::U8,
        ..input.clone()
    };
    let (mut to_bytes, mut bytes) = (Preprocessor::new(of_bytes, *step), Vec::<u8>::new());
    let mut reference = match crop {
        Some(crop) => Reference::part(picture, *crop, *tensor, input),
        None => Reference::whole(picture, input, *step),
    };
    // As the reference was used for crops before: a table for each.
    let mut plain = |frame: &Frame, out: &mut Vec<f32>| {
        if let Some(crop) = crop {
            reference = Reference::part(picture, *crop, *tensor, input);
        }
        reference.fill(frame, out);
    };
    let (at, from) = match crop {
        Some(c) => (
            (c.x0 as usize, c.y0 as usize),
            size((c.x1 - c.x0) as u32, (c.y1 - c.y0) as u32),
        ),
        None => ((0, 0), picture),
    };
    let videos: Vec<Video> = frames.iter().map(|f| video(f, at, from)).collect();
    let mut area = Swscale::new(from, *tensor, Flags::AREA);
    let mut fast = Swscale::new(from, *tensor, Flags::FAST_BILINEAR);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut rgb = vec![0.0; (3 * tensor.width_px * tensor.height_px) as usize];

    let mut group = c.benchmark_group(format!("preprocess/{name}"));
    group.sample_size(20);
    let mut next = frames.iter().cycle();
    group.bench_function("mingchu", |b| {
        b.iter(|| fill(next.next().expect("frames"), &mut a));
    });
    group.bench_function("reference", |bench| {
        bench.iter(|| plain(next.next().expect("frames"), &mut b));
    });
    let mut next_video = videos.iter().cycle();
    group.bench_function("swscale, area", |b| {
        b.iter(|| area.fill(next_video.next().expect("frames"), input, &mut rgb));
    });
    group.finish();

    let mut off: f32 = 0.0;
    let mut elsewhere = vec![0_u8; CACHES];
    let pairs: Vec<[[f64; 2]; 5]> = (0..PAIRS)
        .map(|i| {
            let (frame, video) = (&frames[i % frames.len()], &videos[i % frames.len()]);
            let ms = |((), time): ((), std::time::Duration)| time.as_secs_f64() * 1000.0;
            let mut time = |mut work: Box<dyn FnMut() + '_>| {
                for byte in elsewhere.iter_mut().step_by(64) {
                    *byte = byte.wrapping_add(1);
                }
                [ms(timed(&mut work)), ms(timed(&mut work))]
            };
            let times = [
                time(Box::new(|| fill(frame, &mut a))),
                time(Box::new(|| plain(frame, &mut b))),
                time(Box::new(|| area.fill(video, input, &mut rgb))),
                time(Box::new(|| fast.fill(video, input, &mut rgb))),
                time(Box::new(|| {
                    self::fill(&mut to_bytes, case, frame, &mut bytes);
                })),
            ];
            let furthest = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
            off = off.max(furthest.fold(0.0, f32::max) / input.scale);
            times
        })
        .collect();
    let line = |near: usize| {
        let time = |i: usize| median(pairs.iter().map(|p| p[i][near]).collect());
        let ratio = |i: usize| median(pairs.iter().map(|p| p[i][near] / p[0][near]).collect());
        format!(
            "{:<40} {:>8.3} {:>8.3} {:>9.3} {:>8.3} {:>8.3} | {:>9.1} {:>8.1} {:>8.1} | {off:>7.3}",
            format!("{name}{}", ["", ", again"][near]),
            time(0),
            time(4),
            time(1),
            time(2),
            time(3),
            ratio(1),
            ratio(2),
            ratio(3),
        )
    };
    format!("{}\n{}", line(0), line(1))
}

criterion_group!(benches, preprocess);
criterion_main!(benches);
