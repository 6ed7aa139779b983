//! What handing a picture from stage to stage costs: the unit queue (q1) and the frame board (q2)
//! beside a plain bounded channel of the standard library, with the same items.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes the time"
)]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mingchu::base::geometry::SizePx;
use mingchu::base::ids::CameraIx;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::FrameStamp;
use mingchu::capture::{AccessUnit, Codec, Offered, QueueDrops, unit_queue};
use mingchu::decode::{Frame, FrameBoard};

use common::empty_frame;

const WAIT: Duration = Duration::from_secs(10);
const SIZE: SizePx = SizePx {
    width_px: 1280,
    height_px: 720,
};

fn unit(seq: u64) -> AccessUnit {
    AccessUnit {
        camera: CameraIx(0),
        stamp: FrameStamp {
            seq,
            ..FrameStamp::default()
        },
        codec: Codec::H264,
        is_key: true,
        is_disposable: false,
        packets_lost: 0,
        data: Bytes::from_static(&[0; 64]),
    }
}

fn frame() -> Frame {
    let mut frame = empty_frame(SIZE);
    frame.pixels = vec![0; Frame::byte_len(SIZE)].into();
    frame
}

fn handoff(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff, one thread");
    group.throughput(Throughput::Elements(1));
    let metrics = Metrics::default();
    let (sender, receiver) = unit_queue(QueueDrops::new(&metrics, "bench"));
    group.bench_function("unit queue", |b| {
        b.iter(|| {
            assert_ne!(sender.offer(unit(1)), Offered::Closed);
            black_box(receiver.receive(WAIT).expect("a unit"))
        });
    });
    let (to, from) = sync_channel(32);
    group.bench_function("std channel, units", |b| {
        b.iter(|| {
            to.send(unit(1)).expect("room");
            black_box(from.recv().expect("a unit"))
        });
    });
    let board = FrameBoard::new(
        (0..8)
            .map(|_| mingchu::base::metrics::Counter::default())
            .collect(),
        mingchu::base::time::SystemClock::shared(),
    );
    let mut spare = Some(frame());
    group.bench_function("frame board, 8 cameras", |b| {
        b.iter(|| {
            board.post(CameraIx(3), spare.take().expect("a frame"));
            let (frame, _held) = board.claim(WAIT).expect("a frame").into_parts();
            spare = Some(frame);
        });
    });
    let (to, from) = sync_channel(2);
    let mut spare = Some(frame());
    group.bench_function("std channel, frames", |b| {
        b.iter(|| {
            to.send(spare.take().expect("a frame")).expect("room");
            spare = Some(from.recv().expect("a frame"));
        });
    });
    group.finish();

    let mut group = c.benchmark_group("handoff, two threads");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("unit queue", |b| b.iter_custom(units_across));
    group.bench_function("std channel, units", |b| {
        b.iter_custom(|n| {
            let (to, from) = sync_channel(32);
            let began = Instant::now();
            std::thread::scope(|s| {
                s.spawn(move || (0..n).for_each(|i| to.send(unit(i)).expect("a receiver")));
                (0..n).for_each(|_| drop(black_box(from.recv().expect("a unit"))));
            });
            began.elapsed()
        });
    });
    group.bench_function("frame board, 8 cameras", |b| b.iter_custom(frames_across));
    group.finish();
}

/// The producer waits when the queue is full, so that nothing is dropped and each unit counts.
fn units_across(n: u64) -> Duration {
    let metrics = Metrics::default();
    let (sender, receiver) = unit_queue(QueueDrops::new(&metrics, "bench"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let began = Instant::now();
    std::thread::scope(|s| {
        s.spawn(move || {
            runtime.block_on(async {
                for i in 0..n {
                    assert_ne!(sender.offer_waiting(unit(i)).await, Offered::Closed);
                }
            });
        });
        (0..n).for_each(|_| drop(black_box(receiver.receive(WAIT).expect("a unit"))));
    });
    began.elapsed()
}

/// Each frame goes over the board to a worker and its buffer comes back, as one camera's would if
/// nothing were replaced.
fn frames_across(n: u64) -> Duration {
    let counters = (0..8)
        .map(|_| mingchu::base::metrics::Counter::default())
        .collect();
    let board = Arc::new(FrameBoard::new(
        counters,
        mingchu::base::time::SystemClock::shared(),
    ));
    let (back, returned) = sync_channel(1);
    let worker = board.clone();
    let began = Instant::now();
    std::thread::scope(|s| {
        s.spawn(move || {
            for _ in 0..n {
                let (frame, held) = worker.claim(WAIT).expect("a frame").into_parts();
                drop(held);
                back.send(frame).expect("a receiver");
            }
        });
        let mut spare = Some(frame());
        for i in 0..n {
            board.post(CameraIx((i % 8) as u16), spare.take().expect("a frame"));
            spare = returned.recv().ok();
        }
    });
    began.elapsed()
}

criterion_group!(benches, handoff);
criterion_main!(benches);
