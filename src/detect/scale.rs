//! From a picture's planes into the input tensor in one pass: crop, scaling, YUV → RGB and
//! normalisation, sixteen rows of the tensor at a time, so that no picture is ever made in between
//! and the working rows stay in the cache nearest to the core.
//!
//! What must not be here: which part of which picture goes where (`preprocess.rs`). One thread. After
//! the first picture of a size nothing is allocated.
//!
//! # How
//! 1. *down*: the rows of a plane that an output row covers are added up by their weights, in order,
//!    which any SIMD unit does at the speed of its memory;
//! 2. the sixteen rows are turned into columns of sixteen, so that
//! 3. *across*, columns by their weights, is again the same for sixteen numbers that lie side by
//!    side, whatever the ratio is: no gathering, no special cases for 2:1 or 3:1;
//! 4. turned back, the three planes' rows become RGB in the card's order and scale, floats or bytes.
//!
//! While one band is worked on, the next one's pixels are on their way from memory (`touch`).
//!
//! # Precision
//! Up to 4., numbers are 16 bits: 8 of the pixel, 8 of fraction. A product with a weight (16 bits of
//! fraction) keeps its upper 16 bits, of which every SIMD unit makes twice as many at once as of
//! floats, and loses half of 1/256 of a level on average, which the sum begins with. So of up to
//! [`FEW`] pixels a sum is exact to (`FEW` + 1)/256 of a level, twice, times what the matrix makes of it: a
//! quarter of a level (of 255) at the most, a fiftieth as a rule. Of more pixels, which only crops
//! of large pictures into small tensors have, sums are of 32 bits. `reference.rs` is what a test
//! holds this against.
//!
//! # SIMD
//! Loops that the compiler vectorises, compiled once for each instruction set of `fearless_simd`
//! and chosen when the program runs; only the turning is written in its vectors. Everything is inlined
//! into the function that is compiled for the instruction set: what is called, or handed over as a
//! function, is compiled for the plainest. All give the same numbers to the last bit.
#![allow(
    clippy::inline_always,
    reason = "what is not inlined is compiled for the plainest instruction set"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "indices within a known range are what the compiler vectorises"
)]
use std::array::from_fn;
use std::ops::Range;

use fearless_simd::{Level, Simd, SimdBase, dispatch, u16x8};

/// Output rows at a time: a register of AVX2, and for a plane of 1920 pixels 60 KB of working rows.
const BAND: usize = 16;
/// Numbers that are turned at a time, in both directions.
const TURN: usize = 8;
/// Bytes that come from memory together.
const LINE: usize = 64;
/// Up to so many pixels to a sum, 16 bits do.
const FEW: usize = 8;

/// One weight of 1: 16 bits of fraction. It needs 17, so a weight of 1 is less by one.
const ONE: u32 = 1 << 16;

/// The same column of [`BAND`] rows.
type Column = [u16; BAND];

/// How one axis is scaled: for each output position where its pixels begin and what each of them
/// weighs, [`Self::taps`] of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axis {
    taps: usize,
    first: Vec<usize>,
    weights: Vec<u16>,
    /// All pixels that are needed.
    span: Range<usize>,
}

impl Axis {
    /// `to` positions out of the `length` source positions from `start` on, both within
    /// `0.0..=limit`. Shrinking averages over what a position covers, enlarging is bilinear.
    fn set(&mut self, start: f64, length: f64, limit: usize, to: usize) {
        let ratio = length / to as f64;
        let end = (start + length).min(limit as f64);
        // A sliver of a pixel is a rounding error, and would cost as much as a pixel.
        let snap = |v: f64| {
            if (v - v.round()).abs() < 1e-6 {
                v.round()
            } else {
                v
            }
        };
        let covered = |o: usize| {
            if ratio > 1.0 {
                let a = start + o as f64 * ratio;
                (snap(a), snap((a + ratio).min(end)))
            } else {
                // Between two pixels' middles, their shares are what a box of a pixel's length covers.
                let at = start + (o as f64 + 0.5) * ratio - 0.5;
                let at = snap(at.clamp(start.floor(), (end.ceil() - 1.0).max(start.floor())));
                (at, at + 1.0)
            }
        };
        let pixels = |(a, b): (f64, f64)| {
            let first = (a as usize).min(limit - 1);
            first..(b.ceil() as usize).clamp(first + 1, limit)
        };
        self.taps = (0..to).map(|o| pixels(covered(o)).len()).max().unwrap_or(1);
        self.first.clear();
        self.weights.clear();
        // What any other window of this plane would need.
        self.weights.reserve(limit + 3 * to);
        self.span = limit..0;
        for o in 0..to {
            let (a, b) = covered(o);
            let pixels = pixels((a, b));
            // All positions have as many pixels, some of them of no weight.
            let first = pixels.start.min(limit - self.taps);
            let mut before = 0;
            for pixel in first..first + self.taps {
                // Differences of rounded sums: together they are exactly one.
                let sum = if pixel < pixels.start {
                    0
                } else if pixel + 1 >= pixels.end {
                    ONE
                } else {
                    ((((pixel + 1) as f64 - a) / (b - a)).clamp(0.0, 1.0) * f64::from(ONE)).round()
                        as u32
                };
                self.weights.push((sum - before).min(ONE - 1) as u16);
                before = sum;
            }
            self.first.push(first);
            self.span.start = self.span.start.min(first);
            self.span.end = self.span.end.max(first + self.taps);
        }
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    fn of(&self, position: usize) -> (usize, &[u16]) {
        let weights = &self.weights[position * self.taps..][..self.taps];
        (self.first[position], weights)
    }
}

/// A window of a plane: start and length of x, then of y, in the plane's pixels.
pub(super) type Window = [(f64, f64); 2];

/// How a window of a plane is scaled.
#[derive(Clone, Debug, Default, PartialEq)]
struct Grid {
    across: Axis,
    down: Axis,
}

/// How a window of a picture is scaled: its luma, and both of its chroma planes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tables {
    grids: [Grid; 2],
}

impl Tables {
    /// For windows of the luma and of the chroma planes of so many pixels, to `to` columns and rows.
    pub(super) fn set(&mut self, planes: [[usize; 2]; 2], windows: [Window; 2], to: [usize; 2]) {
        for (grid, (limits, window)) in self.grids.iter_mut().zip(planes.iter().zip(windows)) {
            grid.across.set(window[0].0, window[0].1, limits[0], to[0]);
            grid.down.set(window[1].0, window[1].1, limits[1], to[1]);
        }
    }
}

/// What a channel's value is: `y·Y + u·U + v·V + offset`, within `low..=high`. Y, U and V have 8 bits of
/// fraction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Channel {
    pub y: f32,
    pub u: f32,
    pub v: f32,
    pub offset: f32,
    pub low: f32,
    pub high: f32,
}

/// What a tensor holds.
pub trait Value: Copy + Default {
    /// Whether it holds no more than a pixel.
    const IS_BYTE: bool;

    /// The value nearest to `value`, which is within what it can hold.
    fn of(value: f32) -> Self;
}

impl Value for f32 {
    const IS_BYTE: bool = false;

    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
}

impl Value for u8 {
    const IS_BYTE: bool = true;

    /// Of 0 to 255. Where a float's last bit is one, its lowest byte is the number: no conversion, whose limits would
    /// be checked one number at a time.
    #[inline(always)]
    fn of(value: f32) -> Self {
        (value + 8_388_608.0).to_bits() as Self
    }
}

/// Where the scaled window goes: three planes of a tensor `width` wide, and its corner in them.
pub(super) struct Target<'t, T> {
    /// Red, green, blue.
    pub planes: [&'t mut [T]; 3],
    pub width: usize,
    /// Column and row.
    pub at: [usize; 2],
}

/// Working rows, and the instruction set they are worked on with.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    level: Level,
    rows: Vec<u16>,
    columns: Vec<Column>,
    lines: [Vec<u16>; 3],
}

impl Scaler {
    /// With an instruction set of this machine; [`Level::new`] is the best.
    pub(super) fn new(level: Level) -> Self {
        Self {
            level,
            rows: Vec::new(),
            columns: Vec::new(),
            lines: from_fn(|_| Vec::new()),
        }
    }

    /// Scales the window that `tables` are for out of `planes` (Y, U, V, without gaps between rows,
    /// `strides` of luma and chroma) into `target`, by `channels` (red, green, blue).
    pub(super) fn run<T: Value>(
        &mut self,
        tables: &Tables,
        planes: [&[u8]; 3],
        strides: [usize; 2],
        channels: &[Channel; 3],
        target: Target<'_, T>,
    ) {
        let line = tables.grids[0].across.len().next_multiple_of(TURN);
        let spans = tables.grids.each_ref().map(|g| g.across.span.len());
        let row = spans[0].max(spans[1]).next_multiple_of(TURN);
        grow(&mut self.rows, BAND * row, 0);
        grow(&mut self.columns, row, [0; BAND]);
        for lines in &mut self.lines {
            grow(lines, BAND * line, 0);
        }
        let level = self.level;
        dispatch!(level, simd => scale(simd, self, tables, planes, strides, channels, target));
    }
}

/// Longer, never shorter: sizes change with every crop.
fn grow<T: Clone>(rows: &mut Vec<T>, least: usize, of: T) {
    if rows.len() < least {
        rows.resize(least, of);
    }
}

#[inline(always)]
fn scale<S: Simd, T: Value>(
    simd: S,
    scaler: &mut Scaler,
    tables: &Tables,
    planes: [&[u8]; 3],
    strides: [usize; 2],
    channels: &[Channel; 3],
    target: Target<'_, T>,
) {
    let Scaler {
        rows,
        columns,
        lines,
        ..
    } = scaler;
    let (to_width, to_height) = (tables.grids[0].across.len(), tables.grids[0].down.len());
    let line = to_width.next_multiple_of(TURN);
    let [red, green, blue] = target.planes;
    for (plane, pixels) in planes.iter().enumerate() {
        touch(
            &tables.grids[plane.min(1)],
            pixels,
            strides[plane.min(1)],
            0,
        );
    }
    for top in (0..to_height).step_by(BAND) {
        let here = BAND.min(to_height - top);
        for (plane, lines) in planes.iter().zip(lines.iter_mut()).enumerate() {
            let (pixels, lines) = lines;
            let (grid, stride) = (&tables.grids[plane.min(1)], strides[plane.min(1)]);
            let Range { start, end } = grid.across.span;
            let row = (end - start).next_multiple_of(TURN);
            for (r, out) in rows.chunks_exact_mut(row).take(here).enumerate() {
                let (first, weights) = grid.down.of(top + r);
                down(
                    &pixels[first * stride + start..],
                    stride,
                    weights,
                    &mut out[..end - start],
                );
            }
            to_columns(simd, rows, row, &mut columns[..row]);
            across(simd, &grid.across, &columns[..row], lines, line);
            touch(grid, pixels, stride, top + BAND);
        }
        let [y, u, v] = &*lines;
        for r in 0..here {
            let from = r * line..r * line + to_width;
            let to = (target.at[1] + top + r) * target.width + target.at[0];
            let to = to..to + to_width;
            colour(
                channels,
                [&y[from.clone()], &u[from.clone()], &v[from]],
                [&mut red[to.clone()], &mut green[to.clone()], &mut blue[to]],
            );
        }
    }
}

/// Reads a byte of nearly each cache line that the band at `top` needs of a plane. Nothing waits for these bytes, so the
/// core asks for many lines at a time, and they are there when the band is worked on; by itself it asks for a few,
/// since [`down`] has something to do with each. Pictures of 1080p that were in no cache take 0.7 of the time (0.65 ms,
/// 0.45 ms), those of 720p 0.74, and those that are in the cache no more than before.
#[inline(always)]
fn touch(grid: &Grid, pixels: &[u8], stride: usize, top: usize) {
    let end = (top + BAND).min(grid.down.len());
    if top >= end {
        return;
    }
    let (from, to) = (
        grid.down.first[top],
        grid.down.first[end - 1] + grid.down.taps,
    );
    let Range { start, end } = grid.across.span;
    let mut any = 0;
    for row in from..to {
        for pixel in pixels[row * stride + start..row * stride + end]
            .iter()
            .step_by(LINE)
        {
            any ^= pixel;
        }
    }
    std::hint::black_box(any);
}

/// A share of a number: the upper half of the product.
#[inline(always)]
fn share(of: u16, weight: u16) -> u16 {
    ((u32::from(of) * u32::from(weight)) >> 16) as u16
}

/// What a sum of so many shares begins with: half of what they lose.
#[inline(always)]
fn lost(taps: usize) -> u16 {
    taps.div_ceil(2) as u16
}

/// One output row of a plane: rows of bytes by their weights.
#[inline(always)]
fn down(source: &[u8], stride: usize, weights: &[u16], out: &mut [u16]) {
    // A last row of no weight is not read.
    let used = weights.iter().rposition(|w| *w > 0).map_or(1, |at| at + 1);
    let weights = &weights[..used];
    match used {
        1 => down_few::<1>(source, stride, weights, out),
        2 => down_few::<2>(source, stride, weights, out),
        3 => down_few::<3>(source, stride, weights, out),
        4 => down_few::<4>(source, stride, weights, out),
        5 => down_few::<5>(source, stride, weights, out),
        6 => down_few::<6>(source, stride, weights, out),
        7 => down_few::<7>(source, stride, weights, out),
        FEW => down_few::<FEW>(source, stride, weights, out),
        _ => down_many(source, stride, weights, out),
    }
}

#[inline(always)]
fn down_few<const N: usize>(source: &[u8], stride: usize, weights: &[u16], out: &mut [u16]) {
    let rows: [&[u8]; N] = from_fn(|k| &source[k * stride..][..out.len()]);
    let weights: [u16; N] = from_fn(|k| weights[k]);
    for (x, out) in out.iter_mut().enumerate() {
        let mut sum = lost(N);
        for k in 0..N {
            sum = sum.wrapping_add(share(u16::from(rows[k][x]) << 8, weights[k]));
        }
        *out = sum;
    }
}

#[inline(always)]
fn down_many(source: &[u8], stride: usize, weights: &[u16], out: &mut [u16]) {
    for (part, out) in out.chunks_mut(64).enumerate() {
        let mut sums = [1_u32 << 7; 64];
        for (k, weight) in weights.iter().enumerate() {
            let row = &source[k * stride + part * 64..][..out.len()];
            for (sum, pixel) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(u32::from(*pixel) * u32::from(*weight));
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (sum >> 8) as u16;
        }
    }
}

/// Eight rows of eight become columns, or columns rows.
#[inline(always)]
fn turn<S: Simd>(simd: S, mut v: [u16x8<S>; TURN]) -> [u16x8<S>; TURN] {
    // Each step moves one bit of the row's number into the place of one of the column's.
    for _ in 0..TURN.ilog2() {
        let (a, b) = simd.interleave_u16x8(v[0], v[4]);
        let (c, d) = simd.interleave_u16x8(v[1], v[5]);
        let (e, f) = simd.interleave_u16x8(v[2], v[6]);
        let (g, h) = simd.interleave_u16x8(v[3], v[7]);
        v = [a, b, c, d, e, f, g, h];
    }
    v
}

/// [`BAND`] rows, each `row` long, become columns.
#[inline(always)]
fn to_columns<S: Simd>(simd: S, rows: &[u16], row: usize, columns: &mut [Column]) {
    for (block, columns) in columns.chunks_exact_mut(TURN).enumerate() {
        for half in 0..BAND / TURN {
            let of = |r: usize| {
                let at = (half * TURN + r) * row + block * TURN;
                u16x8::from_slice(simd, &rows[at..at + TURN])
            };
            let turned = turn(simd, eight(of));
            for c in 0..TURN {
                turned[c].store_slice(&mut columns[c][half * TURN..][..TURN]);
            }
        }
    }
}

/// Written out, because a loop over vectors that is not unrolled in time keeps them in memory: compiled
/// incrementally, the whole took six times as long.
#[inline(always)]
fn eight<T>(of: impl Fn(usize) -> T) -> [T; TURN] {
    [of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7)]
}

/// All rows of a band: columns by their weights, turned back into rows of `line` numbers.
#[inline(always)]
fn across<S: Simd>(simd: S, axis: &Axis, columns: &[Column], lines: &mut [u16], line: usize) {
    match axis.taps {
        1 => across_by::<S, 1>(simd, axis, columns, lines, line),
        2 => across_by::<S, 2>(simd, axis, columns, lines, line),
        3 => across_by::<S, 3>(simd, axis, columns, lines, line),
        4 => across_by::<S, 4>(simd, axis, columns, lines, line),
        5 => across_by::<S, 5>(simd, axis, columns, lines, line),
        6 => across_by::<S, 6>(simd, axis, columns, lines, line),
        7 => across_by::<S, 7>(simd, axis, columns, lines, line),
        FEW => across_by::<S, FEW>(simd, axis, columns, lines, line),
        _ => across_by::<S, 0>(simd, axis, columns, lines, line),
    }
}

/// With `N` pixels to a position; 0: with any number of them.
#[inline(always)]
fn across_by<S: Simd, const N: usize>(
    simd: S,
    axis: &Axis,
    columns: &[Column],
    lines: &mut [u16],
    line: usize,
) {
    let weights = axis.weights.chunks_exact(axis.taps);
    let mut positions = axis.first.iter().zip(weights);
    for x in (0..line).step_by(TURN) {
        let mut block = [[0; BAND]; TURN];
        for (out, (first, weights)) in block.iter_mut().zip(&mut positions) {
            let columns = &columns[first - axis.span.start..][..axis.taps];
            *out = if N > 0 {
                across_few::<N>(columns, weights)
            } else {
                across_many(columns, weights)
            };
        }
        for half in 0..BAND / TURN {
            let of = |c: usize| u16x8::from_slice(simd, &block[c][half * TURN..][..TURN]);
            let turned = turn(simd, eight(of));
            for r in 0..TURN {
                turned[r].store_slice(&mut lines[(half * TURN + r) * line + x..][..TURN]);
            }
        }
    }
}

#[inline(always)]
fn across_few<const N: usize>(columns: &[Column], weights: &[u16]) -> Column {
    let mut sum = [lost(N); BAND];
    for k in 0..N {
        for r in 0..BAND {
            sum[r] = sum[r].wrapping_add(share(columns[k][r], weights[k]));
        }
    }
    sum
}

#[inline(always)]
fn across_many(columns: &[Column], weights: &[u16]) -> Column {
    let mut sum = [1_u32 << 15; BAND];
    for (column, weight) in columns.iter().zip(weights) {
        for r in 0..BAND {
            sum[r] = sum[r].wrapping_add(u32::from(column[r]) * u32::from(*weight));
        }
    }
    sum.map(|sum| (sum >> 16) as u16)
}

/// One row of YUV becomes one of each channel.
#[inline(always)]
fn colour<T: Value>(channels: &[Channel; 3], yuv: [&[u16]; 3], rgb: [&mut [T]; 3]) {
    let [y, u, v] = yuv;
    let [red, green, blue] = rgb;
    let n = y.len();
    let (u, v) = (&u[..n], &v[..n]);
    let (red, green, blue) = (&mut red[..n], &mut green[..n], &mut blue[..n]);
    let [r, g, b] = *channels;
    for x in 0..n {
        let (y, u, v) = (f32::from(y[x]), f32::from(u[x]), f32::from(v[x]));
        red[x] = T::of(within(&r, y * r.y + v * r.v + r.offset));
        green[x] = T::of(within(&g, y * g.y + u * g.u + v * g.v + g.offset));
        blue[x] = T::of(within(&b, y * b.y + u * b.u + b.offset));
    }
}

/// `f32::clamp` without its assertion, which keeps a loop from being vectorised.
#[inline(always)]
fn within(channel: &Channel, value: f32) -> f32 {
    let value = if value < channel.low {
        channel.low
    } else {
        value
    };
    if value > channel.high {
        channel.high
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_are_of_pixels_that_are_there_and_sum_to_one(
            limit in 1usize..500, to in 1usize..500, a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let start = a * (limit as f64 - 0.5);
            let length = (b * (limit as f64 - start)).max(0.5);
            let mut axis = Axis::default();
            for (start, length) in [(0.0, limit as f64), (start, length)] {
                axis.set(start, length, limit, to);
                prop_assert_eq!(axis.len(), to);
                prop_assert!(axis.span.end <= limit);
                for o in 0..to {
                    let (first, weights) = axis.of(o);
                    prop_assert!(first >= axis.span.start && first + weights.len() <= axis.span.end);
                    let sum: u32 = weights.iter().map(|w| u32::from(*w)).sum();
                    // A single weight of one is less by one.
                    prop_assert!(sum == ONE || sum == ONE - 1, "{weights:?}");
                }
            }
        }
    }

    #[test]
    fn a_pixel_that_is_covered_by_a_rounding_error_is_not_read() {
        let mut axis = Axis::default();
        for (limit, to, taps) in [
            (1920, 640, 3),
            (1080, 360, 3),
            (960, 640, 2),
            (1920, 576, 4),
        ] {
            axis.set(0.0, limit as f64, limit, to);
            assert_eq!(axis.taps, taps, "{limit} to {to}");
        }
    }
}
