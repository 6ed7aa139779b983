//! The same as `scale.rs`, plainly: every weight and every number a 32-bit float, a plane after the
//! other. What the fast way is held against by a property test and in `benches/preprocess.rs`; the
//! daemon does not run it.
//!
//! Shrinking averages over the area an output pixel covers (what OpenCV calls `INTER_AREA`), because
//! small faces alias away otherwise; enlarging is bilinear. Y, U and V are scaled first and
//! converted at the small size: both steps are linear, so the order does not change the result,
//! and the conversion touches a fraction of the pixels.
use std::ops::Range;

use super::card::{Channels, InputCard};
use super::preprocess::{Coefficients, CropPx, Place};
use super::scale::Window;
use crate::base::geometry::SizePx;
use crate::decode::Frame;

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

impl PlaneScaler {
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
    fn new(picture: SizePx, windows: [Window; 2], to: (usize, usize)) -> Self {
        let (w, h) = (picture.width_px as usize, picture.height_px as usize);
        let half = (w.div_ceil(2), h.div_ceil(2));
        let chroma = PlaneScaler::of_window(half, windows[1], to);
        Self {
            to,
            luma: PlaneScaler::of_window((w, h), windows[0], to),
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

/// Fills tensors with pictures of one size, or one part of them, as [`super::Preprocessor`] does.
#[derive(Clone, Debug)]
pub struct Reference {
    input: InputCard,
    tensor: SizePx,
    at: (usize, usize),
    /// `None`: nothing of the part is in the picture.
    scaler: Option<Scaler>,
}

impl Reference {
    /// Whole pictures; `step` is what sides of the tensor are multiples of.
    pub fn whole(picture: SizePx, input: &InputCard, step: u32) -> Self {
        let (_, tensor, place) = Place::of_whole(picture, input, step);
        Self::new(picture, input, tensor, Some(place))
    }

    /// A part of each picture in a tensor of `size`.
    pub fn part(picture: SizePx, crop: CropPx, size: SizePx, input: &InputCard) -> Self {
        Self::new(picture, input, size, Place::of_part(picture, crop, size))
    }

    fn new(picture: SizePx, input: &InputCard, tensor: SizePx, place: Option<Place>) -> Self {
        Self {
            input: input.clone(),
            tensor,
            at: place.as_ref().map_or((0, 0), |p| p.at.into()),
            scaler: place.map(|p| Scaler::new(picture, p.windows, p.to.into())),
        }
    }

    /// Fills `tensor` with a picture of that size.
    pub fn fill(&mut self, frame: &Frame, tensor: &mut Vec<f32>) {
        let (w, h) = (
            self.tensor.width_px as usize,
            self.tensor.height_px as usize,
        );
        tensor.resize(3 * w * h, 0.0);
        let InputCard {
            mean, scale, pad, ..
        } = self.input;
        for (mean, plane) in mean.iter().zip(tensor.chunks_exact_mut(w * h)) {
            plane.fill((pad - mean) * scale);
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.fill(frame, &self.input, tensor, w, self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
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
    }
}
