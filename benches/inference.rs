//! One picture through the detector (letterbox, network, decoding of its output, NMS) beside a bare
//! loop of ONNX Runtime over the same network with the same tensor, in turns, one thread each, in
//! CPU time; what is letterboxed is a picture that was not looked at for a while. And pictures in batches
//! beside one by one: a region's size, and whole pictures as of several cameras.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use mingchu::base::geometry::SizePx;
use mingchu::base::time::SystemClock;
use mingchu::decode::Frame;
use mingchu::detect::{
    LoadedModel, Models, Network, Preprocessor, Runtime, TensorMut, ValueType, tensor_size,
};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use common::{clips, decode_all, median, report, root, timed};

const PAIRS: usize = 31;

/// The detector's tensor, of what its card says.
struct Letterboxed {
    preprocessor: Preprocessor,
    of: ValueType,
    floats: Vec<f32>,
    bytes: Vec<u8>,
    shape: [usize; 4],
}

impl Letterboxed {
    fn of(model: &LoadedModel) -> Self {
        Self {
            preprocessor: Preprocessor::new(model.card.input.clone(), model.card.step()),
            of: model.card.input.of,
            floats: Vec::new(),
            bytes: Vec::new(),
            shape: [0; 4],
        }
    }

    fn fill(&mut self, frame: &Frame) -> usize {
        let size = match self.of {
            ValueType::F32 => self.preprocessor.fill(frame, &mut self.floats),
            ValueType::U8 => self.preprocessor.fill(frame, &mut self.bytes),
        }
        .tensor;
        let side = |px: u32| px as usize;
        self.shape = [1, 3, side(size.height_px), side(size.width_px)];
        self.shape.iter().product()
    }

    /// What the tensor says to a session of its own.
    fn run(&self, bare: &mut Session) -> usize {
        let input = match self.of {
            ValueType::F32 => TensorRef::from_array_view((self.shape, &self.floats[..]))
                .map(SessionInputValue::from),
            ValueType::U8 => TensorRef::from_array_view((self.shape, &self.bytes[..]))
                .map(SessionInputValue::from),
        };
        bare.run([input.expect("a tensor")])
            .expect("an output")
            .len()
    }
}

fn inference(c: &mut Criterion) {
    let library = root(".runtime/onnxruntime/libonnxruntime.so");
    let card = root("models/kitchen.toml");
    let runtime = match Runtime::load(Some(&library)) {
        Ok(runtime) => runtime,
        Err(e) => {
            println!("{e}");
            return;
        }
    };
    let models =
        Models::load(runtime.clone(), std::slice::from_ref(&card)).expect("the shipped model");
    let mut detector = models.detector().expect("sessions");
    let model = LoadedModel::load(&card).expect("the shipped model");
    // As the daemon's own sessions are set.
    let mut bare = Session::builder(runtime.environment())
        .and_then(|b| Ok(b.with_intra_threads(1)?))
        .and_then(|b| Ok(b.with_inter_threads(1)?))
        .and_then(|b| Ok(b.with_intra_op_spinning(false)?))
        .and_then(|b| Ok(b.with_optimization_level(GraphOptimizationLevel::All)?))
        .and_then(|mut b| b.commit_from_memory(&model.network))
        .expect("a session");
    let mut letterboxed = Letterboxed::of(&model);
    let mut table = Vec::new();
    for (name, path) in clips() {
        let mut frames = Vec::new();
        decode_all(&path, 25, |frame| frames.push(frame));
        letterboxed.fill(&frames[0]);
        let mut group = c.benchmark_group(format!("inference/{name}"));
        group.sample_size(20);
        let mut next = frames.iter().cycle();
        group.bench_function("mingchu", |b| {
            b.iter(|| {
                detector
                    .detect(next.next().expect("frames"), &SystemClock)
                    .expect("boxes")
            });
        });
        group.bench_function("bare", |b| b.iter(|| letterboxed.run(&mut bare)));
        group.bench_function("letterbox only", |b| {
            b.iter(|| letterboxed.fill(next.next().expect("frames")));
        });
        group.finish();
        let pairs: Vec<_> = (0..PAIRS)
            .map(|_| {
                let mut frame = || next.next().expect("frames");
                let ms = |(_, time): (usize, std::time::Duration)| time.as_secs_f64() * 1000.0;
                // Each meets a picture of its own: one that was just read is in the cache.
                let first = frame();
                let fill = ms(timed(|| letterboxed.fill(first)));
                let second = frame();
                let detect = || {
                    let boxes = detector.detect(second, &SystemClock);
                    boxes.expect("boxes").items.len()
                };
                let ours = ms(timed(detect));
                letterboxed.fill(second);
                let bare = ms(timed(|| letterboxed.run(&mut bare)));
                (ours, bare, fill)
            })
            .collect();
        table.push(format!(
            "{name:<16} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.3}",
            median(pairs.iter().map(|p| p.0).collect()),
            median(pairs.iter().map(|p| p.1).collect()),
            median(pairs.iter().map(|p| p.0 - p.1).collect()),
            median(pairs.iter().map(|p| p.2).collect()),
            median(pairs.iter().map(|p| p.0 / p.1).collect()),
        ));
    }
    let head = format!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "clip", "mingchu", "bare", "overhead", "letterbox", "ratio"
    );
    let title = "Inference: CPU ms per picture, one thread, beside a bare loop of ONNX Runtime on the same tensors";
    report(title, &head, &table);
}

/// Pictures of a round, each way: ones, twos and fours.
const ROUND: usize = 4;

/// What a picture costs alone, and in batches as a share of that.
fn batches(_: &mut Criterion) {
    let library = root(".runtime/onnxruntime/libonnxruntime.so");
    let Ok(runtime) = Runtime::load(Some(&library)) else {
        return;
    };
    let hd = SizePx {
        width_px: 1920,
        height_px: 1080,
    };
    let mut table = Vec::new();
    for name in ["kitchen", "kitchen-int8"] {
        let card = root(&format!("models/{name}.toml"));
        let model = LoadedModel::load(&card).expect("a shipped model");
        let mut network = Network::load(&runtime, &model).expect("a session");
        if network.most_at_once() < ROUND {
            println!("{name}: its batch is not free");
            continue;
        }
        let side_px = model.card.regions.map_or(224, |r| r.side_px);
        let region = SizePx {
            width_px: side_px,
            height_px: side_px,
        };
        let whole = tensor_size(hd, &model.card.input, model.card.step());
        for (what, size) in [("region", region), ("whole picture", whole)] {
            // No two values beside each other are alike, and none is odd to a network.
            let fill = |tensor: TensorMut<'_>| {
                let values = (0..).map(|i| (i * 37 % 251) as u8);
                match tensor {
                    TensorMut::F32(tensor) => {
                        (tensor.iter_mut().zip(values)).for_each(|(to, v)| *to = f32::from(v));
                    }
                    TensorMut::U8(tensor) => {
                        (tensor.iter_mut().zip(values)).for_each(|(to, v)| *to = v);
                    }
                }
            };
            for at_once in [1, 2, 4] {
                let made = network.run_each(size, at_once, fill, |_, _| ());
                made.expect("an output");
            }
            let mut ms = |at_once: usize| {
                let run = || {
                    for _ in 0..ROUND / at_once {
                        let look = |_, out: &[f32]| {
                            std::hint::black_box(out);
                        };
                        let taken = network.run_each(size, at_once, |_| (), look);
                        taken.expect("an output");
                    }
                };
                timed(run).1.as_secs_f64() * 1000.0 / ROUND as f64
            };
            let rounds: Vec<[f64; 3]> = (0..PAIRS).map(|_| [1, 2, 4].map(&mut ms)).collect();
            let share = |i: usize| median(rounds.iter().map(|r| r[i] / r[0]).collect());
            table.push(format!(
                "{name:<16} {what:<14} {:>9} {:>9.2} {:>9.2} {:>9.2}",
                format!("{}x{}", size.width_px, size.height_px),
                median(rounds.iter().map(|r| r[0]).collect()),
                share(1),
                share(2),
            ));
        }
    }
    let head = format!(
        "{:<16} {:<14} {:>9} {:>9} {:>9} {:>9}",
        "network", "", "tensor", "alone", "in twos", "in fours"
    );
    let title = "Batches: CPU ms of a picture alone, one thread, and in a batch as a share of that";
    report(title, &head, &table);
}

criterion_group!(benches, batches, inference);
criterion_main!(benches);
