//! Frame → input tensor in one pass: letterbox or crop, scaling and colour conversion together, so
//! that no full-size RGB picture is ever made.
//!
//! Shrinking averages over the area an output pixel covers (what OpenCV calls `INTER_AREA`), because
//! small faces alias away otherwise; enlarging is bilinear. Y, U and V are scaled first and
//! converted at the small size: both steps are linear, so the order does not change the result,
//! and the conversion touches a fraction of the pixels.
use std::ops::Range;

use super::card::{Channels, Fit, InputCard};
use crate::base::geometry::{NormRect, SizePx};
use crate::decode::{Frame, YuvMatrix};

/// Picture sizes whose tables a [`Preprocessor`] keeps: a worker meets all cameras of its site.
const SIZES_KEPT: usize = 8;

/// Where the picture lies in the input tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Size of the scaled picture in the tensor's top-left corner.
    pub scaled: SizePx,
    /// Size of the tensor.
    pub tensor: SizePx,
}

impl Letterbox {
    /// The largest size with the picture's aspect that fits into the tensor, at least one pixel.
    pub fn new(picture: SizePx, tensor: SizePx) -> Self {
        let scale = (tensor.width_px as f32 / picture.width_px as f32)
            .min(tensor.height_px as f32 / picture.height_px as f32);
        let fit =
            |length: u32, limit: u32| ((length as f32 * scale).round() as u32).clamp(1, limit);
        let scaled = SizePx {
            width_px: fit(picture.width_px, tensor.width_px),
            height_px: fit(picture.height_px, tensor.height_px),
        };
        Self { scaled, tensor }
    }

    /// A box in tensor pixels (corners) as fractions of the original picture.
    pub fn to_picture(&self, x0: f32, y0: f32, x1: f32, y1: f32) -> NormRect {
        let (w, h) = (self.scaled.width_px as f32, self.scaled.height_px as f32);
        NormRect::clipped(x0 / w, y0 / h, x1 / w, y1 / h)
    }
}

/// The tensor's size for pictures of a size.
///
/// [`Fit::Card`]: the card's. [`Fit::Frame`]: of all multiples of `step` that cover no more than the
/// card's area, the pair in which the picture is largest, cut down to what the picture covers: a
/// 16:9 camera then pays for no padding.
pub fn tensor_size(picture: SizePx, input: &InputCard, step: u32) -> SizePx {
    let card = SizePx {
        width_px: input.width_px,
        height_px: input.height_px,
    };
    if input.fit == Fit::Card {
        return card;
    }
    let area = card.width_px * card.height_px;
    let (pw, ph) = (f64::from(picture.width_px), f64::from(picture.height_px));
    let (mut scale, mut size) = (0.0, card);
    for width_px in (1..=area / step / step).map(|n| n * step) {
        let height_px = area / width_px / step * step;
        let s = (f64::from(width_px) / pw).min(f64::from(height_px) / ph);
        let smaller = width_px * height_px < size.width_px * size.height_px;
        if s > scale || (s >= scale && smaller) {
            (scale, size) = (
                s,
                SizePx {
                    width_px,
                    height_px,
                },
            );
        }
    }
    let snug = |side: f64, limit: u32| {
        let needed = (side * scale - 1e-6).ceil() as u32;
        (needed.div_ceil(step) * step).clamp(step, limit)
    };
    SizePx {
        width_px: snug(pw, size.width_px),
        height_px: snug(ph, size.height_px),
    }
}

/// Weights of one output position: source positions `first..first + weights.len()`.
#[derive(Clone, Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// How one axis is scaled: `to` positions out of the `length` source positions from `start` on, both
/// within `0.0..=limit`.
fn axis(start: f64, length: f64, limit: usize, to: usize) -> Vec<Taps> {
    let ratio = length / to as f64;
    let end = (start + length).min(limit as f64);
    (0..to)
        .map(|o| {
            if ratio > 1.0 {
                let a = start + o as f64 * ratio;
                let b = (a + ratio).min(end);
                let first = (a.floor() as usize).min(limit - 1);
                let last = (b.ceil() as usize).min(limit).max(first + 1);
                let cover = |s: usize| (((s + 1) as f64).min(b) - (s as f64).max(a)).max(0.0);
                let sum: f64 = (first..last).map(cover).sum();
                let weight = |s| {
                    if sum > 0.0 {
                        (cover(s) / sum) as f32
                    } else {
                        1.0
                    }
                };
                let weights = (first..last).map(weight).collect();
                Taps { first, weights }
            } else {
                let at = start + (o as f64 + 0.5) * ratio - 0.5;
                let at = at.clamp(start.floor(), (end.ceil() - 1.0).max(start.floor()));
                let first = (at.floor() as usize).min(limit - 1);
                let part = (at - first as f64) as f32;
                let weights = if part > 0.0 && first + 1 < limit {
                    vec![1.0 - part, part]
                } else {
                    vec![1.0]
                };
                Taps { first, weights }
            }
        })
        .collect()
}

/// Scales a window of one plane of bytes to floats: rows first (contiguous, so it runs at memory
/// speed), then columns on what is left.
#[derive(Clone, Debug)]
struct PlaneScaler {
    stride: usize,
    columns: Range<usize>,
    across: Vec<Taps>,
    down: Vec<Taps>,
    row: Vec<f32>,
    out: Vec<f32>,
}

/// A window of a plane: start and length of x, then of y, in the plane's pixels.
type Window = [(f64, f64); 2];

impl PlaneScaler {
    /// The whole plane of `from` pixels.
    fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self::of_window(from, [(0.0, from.0 as f64), (0.0, from.1 as f64)], to)
    }

    fn of_window(from: (usize, usize), window: Window, to: (usize, usize)) -> Self {
        let across = axis(window[0].0, window[0].1, from.0, to.0);
        let first = across.iter().map(|t| t.first).min().unwrap_or(0);
        let last = across.iter().map(|t| t.first + t.weights.len()).max();
        let columns = first..last.unwrap_or(first);
        Self {
            stride: from.0,
            row: vec![0.0; columns.len()],
            columns,
            across,
            down: axis(window[1].0, window[1].1, from.1, to.1),
            out: vec![0.0; to.0 * to.1],
        }
    }

    fn scale(&mut self, plane: &[u8]) {
        let to_width = self.across.len();
        for (taps, out) in self.down.iter().zip(self.out.chunks_exact_mut(to_width)) {
            self.row.fill(0.0);
            for (k, weight) in taps.weights.iter().enumerate() {
                let at = (taps.first + k) * self.stride;
                let source = &plane[at + self.columns.start..at + self.columns.end];
                for (sum, value) in self.row.iter_mut().zip(source) {
                    *sum += f32::from(*value) * weight;
                }
            }
            for (taps, out) in self.across.iter().zip(out) {
                let first = taps.first - self.columns.start;
                let source = &self.row[first..first + taps.weights.len()];
                *out = source.iter().zip(&taps.weights).map(|(s, w)| s * w).sum();
            }
        }
    }
}

/// The three planes of a picture, or a window of it, on their way to one size.
#[derive(Clone, Debug)]
struct Scaler {
    to: (usize, usize),
    luma: PlaneScaler,
    chroma: [PlaneScaler; 2],
}

impl Scaler {
    fn whole(size: SizePx, to: (usize, usize)) -> Self {
        let (w, h) = (size.width_px as usize, size.height_px as usize);
        let chroma = PlaneScaler::new((w.div_ceil(2), h.div_ceil(2)), to);
        Self {
            to,
            luma: PlaneScaler::new((w, h), to),
            chroma: [chroma.clone(), chroma],
        }
    }

    fn of_window(size: SizePx, window: Window, to: (usize, usize)) -> Self {
        let (w, h) = (size.width_px as usize, size.height_px as usize);
        let half = window.map(|(start, length)| (start / 2.0, length / 2.0));
        let chroma = PlaneScaler::of_window((w.div_ceil(2), h.div_ceil(2)), half, to);
        Self {
            to,
            luma: PlaneScaler::of_window((w, h), window, to),
            chroma: [chroma.clone(), chroma],
        }
    }

    /// Scales `frame` into the tensor, its corner at `at` (column, row); `width` is the tensor's.
    fn fill(
        &mut self,
        frame: &Frame,
        input: &InputCard,
        tensor: &mut [f32],
        width: usize,
        at: (usize, usize),
    ) {
        let [y, u, v] = frame.planes();
        self.luma.scale(y);
        let [cb, cr] = &mut self.chroma;
        cb.scale(u);
        cr.scale(v);
        let Coefficients {
            y_scale,
            y_offset,
            r_v,
            g_u,
            g_v,
            b_u,
        } = Coefficients::of(frame);
        let InputCard { mean, scale, .. } = *input;
        let plane = tensor.len() / 3;
        let (first, rest) = tensor.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let (red, blue, mean_r, mean_b) = match input.channels {
            Channels::Bgr => (third, first, mean[2], mean[0]),
            Channels::Rgb => (first, third, mean[0], mean[2]),
        };
        let to = self.to;
        for row in 0..to.1 {
            let (s, d) = (row * to.0, (at.1 + row) * width + at.0);
            let luma = &self.luma.out[s..s + to.0];
            let (cb, cr) = (&cb.out[s..s + to.0], &cr.out[s..s + to.0]);
            let red = &mut red[d..d + to.0];
            let green = &mut second[d..d + to.0];
            let blue = &mut blue[d..d + to.0];
            for i in 0..to.0 {
                let y = (luma[i] - y_offset) * y_scale;
                let (u, v) = (cb[i] - 128.0, cr[i] - 128.0);
                let byte = |x: f32| x.clamp(0.0, 255.0);
                red[i] = (byte(y + r_v * v) - mean_r) * scale;
                green[i] = (byte(y - g_u * u - g_v * v) - mean[1]) * scale;
                blue[i] = (byte(y + b_u * u) - mean_b) * scale;
            }
        }
    }
}

/// A part of a picture in its pixels; may reach beyond it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropPx {
    /// Left.
    pub x0: f64,
    /// Top.
    pub y0: f64,
    /// Right.
    pub x1: f64,
    /// Bottom.
    pub y1: f64,
}

/// Turns frames into one model's input. Keeps its tables for the picture sizes it meets.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    input: InputCard,
    step: u32,
    /// Newest use last.
    known: Vec<(SizePx, Letterbox, Scaler)>,
}

impl Preprocessor {
    /// For a model's input; `step` is what sides of its tensor are multiples of.
    pub fn new(input: InputCard, step: u32) -> Self {
        Self {
            input,
            step: step.max(1),
            known: Vec::new(),
        }
    }

    fn pad(&self, tensor: &mut [f32]) {
        let InputCard {
            mean, scale, pad, ..
        } = self.input;
        let plane = tensor.len() / 3;
        for (mean, plane) in mean.iter().zip(tensor.chunks_exact_mut(plane)) {
            plane.fill((pad - mean) * scale);
        }
    }

    /// Fills `tensor` (planes in the card's order, row-major; resized to the letterbox's tensor) with
    /// `frame`, and says where the picture lies in it.
    pub fn fill(&mut self, frame: &Frame, tensor: &mut Vec<f32>) -> Letterbox {
        if let Some(at) = self.known.iter().position(|k| k.0 == frame.size) {
            let used = self.known.remove(at);
            self.known.push(used);
        } else {
            let size = tensor_size(frame.size, &self.input, self.step);
            let letterbox = Letterbox::new(frame.size, size);
            let SizePx {
                width_px,
                height_px,
            } = letterbox.scaled;
            let scaler = Scaler::whole(frame.size, (width_px as usize, height_px as usize));
            if self.known.len() == SIZES_KEPT {
                self.known.remove(0);
            }
            self.known.push((frame.size, letterbox, scaler));
        }
        let (_, letterbox, _) = self.known.last().expect("put there above");
        let letterbox = *letterbox;
        let (w, h) = (
            letterbox.tensor.width_px as usize,
            letterbox.tensor.height_px as usize,
        );
        tensor.resize(3 * w * h, 0.0);
        self.pad(tensor);
        let (_, _, scaler) = self.known.last_mut().expect("put there above");
        scaler.fill(frame, &self.input, tensor, w, (0, 0));
        letterbox
    }

    /// Fills `tensor` (the card's size) with a part of `frame`, stretched to it; what lies outside
    /// the picture is padding. Returns the tensor's size.
    pub fn fill_crop(&self, frame: &Frame, crop: CropPx, tensor: &mut Vec<f32>) -> SizePx {
        let card = SizePx {
            width_px: self.input.width_px,
            height_px: self.input.height_px,
        };
        self.fill_part(frame, crop, card, tensor);
        card
    }

    /// The same into a tensor of any size.
    pub fn fill_part(&self, frame: &Frame, crop: CropPx, size: SizePx, tensor: &mut Vec<f32>) {
        let to = [size.width_px as usize, size.height_px as usize];
        tensor.resize(3 * to[0] * to[1], 0.0);
        self.pad(tensor);
        let size = [frame.size.width_px, frame.size.height_px].map(f64::from);
        let mut window = [(0.0, 0.0); 2];
        let mut place = [(0, 0); 2];
        for (i, (low, high)) in [(crop.x0, crop.x1), (crop.y0, crop.y1)]
            .into_iter()
            .enumerate()
        {
            let factor = to[i] as f64 / (high - low).max(1.0);
            let (first, last) = (low.floor().max(0.0), high.ceil().min(size[i]));
            let position = |v: f64| ((v - low) * factor).round().clamp(0.0, to[i] as f64) as usize;
            let (begin, end) = (position(first), position(last));
            if last <= first || end <= begin {
                return;
            }
            window[i] = (first, last - first);
            place[i] = (begin, end - begin);
        }
        let mut scaler = Scaler::of_window(frame.size, window, (place[0].1, place[1].1));
        scaler.fill(frame, &self.input, tensor, to[0], (place[0].0, place[1].0));
    }
}

/// YUV to RGB: R = Y' + r_v·V, G = Y' - g_u·U - g_v·V, B = Y' + b_u·U, with
/// Y' = (Y - y_offset)·y_scale. ITU-R BT.601-7 section 2.5 and BT.709-6 section 3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub y_scale: f32,
    pub y_offset: f32,
    pub r_v: f32,
    pub g_u: f32,
    pub g_v: f32,
    pub b_u: f32,
}

impl Coefficients {
    pub fn of(frame: &Frame) -> Self {
        let (kr, kb) = match frame.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
        };
        let kg = 1.0 - kr - kb;
        let (y_scale, y_offset, c) = if frame.full_range {
            (1.0, 0.0, 1.0)
        } else {
            (255.0 / 219.0, 16.0, 255.0 / 224.0)
        };
        Self {
            y_scale,
            y_offset,
            r_v: 2.0 * (1.0 - kr) * c,
            g_u: 2.0 * kb * (1.0 - kb) / kg * c,
            g_v: 2.0 * kr * (1.0 - kr) / kg * c,
            b_u: 2.0 * (1.0 - kb) * c,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraIx;
    use crate::base::time::{FrameStamp, MonoMicros};
    use proptest::prelude::*;

    fn card(width_px: u32, height_px: u32) -> InputCard {
        InputCard {
            width_px,
            height_px,
            channels: Channels::Rgb,
            mean: [0.0; 3],
            scale: 1.0,
            pad: 114.0,
            fit: Fit::Card,
        }
    }

    fn frame(w: u32, h: u32, y: u8, u: u8, v: u8, full_range: bool) -> Frame {
        let size = SizePx {
            width_px: w,
            height_px: h,
        };
        let (n, c) = ((w * h) as usize, (w.div_ceil(2) * h.div_ceil(2)) as usize);
        let pixels = [vec![y; n], vec![u; c], vec![v; c]].concat();
        assert_eq!(pixels.len(), Frame::byte_len(size));
        Frame {
            camera: CameraIx(0),
            stamp: FrameStamp::default(),
            size,
            full_range,
            matrix: YuvMatrix::Bt601,
            pixels,
            moving: Vec::new(),
            decoded: MonoMicros(0),
        }
    }

    fn rgb_at(tensor: &[f32], w: usize, x: usize, y: usize) -> [f32; 3] {
        let plane = tensor.len() / 3;
        [0, 1, 2].map(|c| tensor[c * plane + y * w + x])
    }

    #[test]
    fn colours_come_out_as_the_standard_says() {
        // BT.601 limited range: white, black, and 75 % red of the colour bars.
        for (yuv, rgb) in [
            ((235, 128, 128), [255.0, 255.0, 255.0]),
            ((16, 128, 128), [0.0, 0.0, 0.0]),
            ((65, 100, 212), [191.0, 0.0, 0.0]),
        ] {
            let mut p = Preprocessor::new(card(32, 32), 32);
            let mut t = Vec::new();
            p.fill(&frame(64, 64, yuv.0, yuv.1, yuv.2, false), &mut t);
            for (got, want) in rgb_at(&t, 32, 5, 5).iter().zip(rgb) {
                assert!((got - want).abs() < 2.0, "{yuv:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_picture_lies_top_left_and_the_rest_is_padding() {
        let mut p = Preprocessor::new(card(64, 64), 32);
        let mut t = Vec::new();
        let l = p.fill(&frame(128, 64, 200, 128, 128, true), &mut t);
        assert_eq!(
            l.scaled,
            SizePx {
                width_px: 64,
                height_px: 32
            }
        );
        let close = |a: [f32; 3], b: f32| a.iter().all(|v| (v - b).abs() < 0.01);
        assert!(close(rgb_at(&t, 64, 63, 31), 200.0));
        assert!(close(rgb_at(&t, 64, 0, 32), 114.0));
    }

    #[test]
    fn bgr_swaps_the_outer_planes() {
        let f = frame(64, 64, 81, 90, 240, false);
        let mut rgb = Preprocessor::new(card(32, 32), 32);
        let mut bgr = Preprocessor::new(
            InputCard {
                channels: Channels::Bgr,
                ..card(32, 32)
            },
            32,
        );
        let (mut a, mut b) = (Vec::new(), Vec::new());
        rgb.fill(&f, &mut a);
        bgr.fill(&f, &mut b);
        let (mut x, y) = (rgb_at(&a, 32, 3, 3), rgb_at(&b, 32, 3, 3));
        x.reverse();
        assert!(x.iter().zip(y).all(|(a, b)| (a - b).abs() < 1e-3));
        assert!(y[2] > 200.0, "red is the last plane of bgr");
    }

    #[test]
    fn shrinking_averages_over_the_covered_area() {
        let mut f = frame(8, 8, 0, 128, 128, true);
        // A checkerboard averages to grey; picking pixels would give black or white.
        for (i, p) in f.pixels[..64].iter_mut().enumerate() {
            *p = if (i / 8 + i % 8) % 2 == 0 { 255 } else { 0 };
        }
        let mut p = Preprocessor::new(card(4, 4), 4);
        let mut t = Vec::new();
        p.fill(&f, &mut t);
        assert!(t.iter().all(|v| (v - 127.5).abs() < 0.01), "{t:?}");
    }

    fn size(width_px: u32, height_px: u32) -> SizePx {
        SizePx {
            width_px,
            height_px,
        }
    }

    #[test]
    fn a_tensor_that_follows_the_frame_wastes_nothing_on_padding() {
        let input = InputCard {
            fit: Fit::Frame,
            ..card(416, 416)
        };
        for (picture, tensor) in [
            (size(416, 416), size(416, 416)),
            (size(1920, 1080), size(512, 288)),
            (size(1280, 720), size(512, 288)),
            (size(720, 1280), size(288, 512)),
            (size(640, 480), size(480, 352)),
            (size(10, 4000), size(32, 4000 / 32 * 32)),
        ] {
            let found = tensor_size(picture, &input, 32);
            assert!(found.width_px * found.height_px <= 416 * 416, "{found:?}");
            if picture.height_px < 4000 {
                assert_eq!(found, tensor, "for {picture:?}");
            }
        }
        assert_eq!(
            tensor_size(size(1920, 1080), &card(416, 416), 32),
            size(416, 416)
        );
    }

    #[test]
    fn a_crop_beyond_the_picture_is_padded_and_a_crop_within_is_stretched() {
        let f = frame(64, 64, 200, 128, 128, true);
        let p = Preprocessor::new(card(32, 32), 1);
        let mut t = Vec::new();
        let crop = |x0, y0, x1, y1| CropPx { x0, y0, x1, y1 };
        p.fill_crop(&f, crop(10.0, 10.0, 30.0, 50.0), &mut t);
        assert!(t.iter().all(|v| (v - 200.0).abs() < 0.01));
        // The upper half lies above the picture.
        p.fill_crop(&f, crop(0.0, -32.0, 64.0, 32.0), &mut t);
        assert!(t[..16 * 32].iter().all(|v| (v - 114.0).abs() < 0.01));
        assert!(t[16 * 32..32 * 32].iter().all(|v| (v - 200.0).abs() < 0.01));
        for nowhere in [crop(-90.0, 0.0, -70.0, 20.0), crop(f64::NAN, 0.0, 5.0, 5.0)] {
            p.fill_crop(&f, nowhere, &mut t);
            assert!(t.iter().all(|v| (v - 114.0).abs() < 0.01), "{nowhere:?}");
        }
    }

    proptest! {
        #[test]
        fn no_crop_makes_it_panic(c in prop::array::uniform4(-300f64..300.0), w in 2u32..90, h in 2u32..90) {
            let p = Preprocessor::new(card(24, 32), 1);
            let crop = CropPx { x0: c[0], y0: c[1], x1: c[2], y1: c[3] };
            p.fill_crop(&frame(w, h, 90, 100, 140, true), crop, &mut Vec::new());
        }

        #[test]
        fn weights_sum_to_one_and_stay_inside(
            limit in 1usize..500, to in 1usize..500, a in 0.0f64..1.0, b in 0.0f64..1.0,
        ) {
            let start = a * (limit as f64 - 0.5);
            let length = (b * (limit as f64 - start)).max(0.5);
            let all = axis(0.0, limit as f64, limit, to);
            for taps in all.into_iter().chain(axis(start, length, limit, to)) {
                prop_assert!(taps.first + taps.weights.len() <= limit);
                prop_assert!((taps.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            }
        }

        #[test]
        fn a_box_survives_the_round_trip(w in 16u32..4000, h in 16u32..4000, b in prop::array::uniform4(0.0f32..1.0)) {
            let l = Letterbox::new(SizePx { width_px: w, height_px: h }, SizePx { width_px: 640, height_px: 384 });
            let r = NormRect::clipped(b[0], b[1], b[2], b[3]);
            let (sw, sh) = (l.scaled.width_px as f32, l.scaled.height_px as f32);
            let back = l.to_picture(r.x0 * sw, r.y0 * sh, r.x1 * sw, r.y1 * sh);
            prop_assert!((back.x0 - r.x0).abs() < 1e-5 && (back.y1 - r.y1).abs() < 1e-5);
            prop_assert!(l.scaled.width_px <= 640 && l.scaled.height_px <= 384);
        }
    }
}
