//! Frame → input tensor in one pass: crop-free letterbox, scaling and colour conversion together,
//! so that no full-size RGB picture is ever made.
//!
//! Shrinking averages over the area an output pixel covers (what OpenCV calls `INTER_AREA`), because
//! small faces alias away otherwise; enlarging is bilinear. Y, U and V are scaled first and
//! converted at the small size: both steps are linear, so the order does not change the result,
//! and the conversion touches a fraction of the pixels.
use super::card::{Channels, InputCard};
use crate::base::geometry::{NormRect, SizePx};
use crate::decode::{Frame, YuvMatrix};

/// Where the picture lies in the input tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    /// Size of the scaled picture in the tensor's top-left corner.
    pub scaled: SizePx,
}

impl Letterbox {
    /// The largest size with the picture's aspect that fits into the tensor, at least one pixel.
    pub fn new(picture: SizePx, input: &InputCard) -> Self {
        let scale = (input.width_px as f32 / picture.width_px as f32)
            .min(input.height_px as f32 / picture.height_px as f32);
        let fit =
            |length: u32, limit: u32| ((length as f32 * scale).round() as u32).clamp(1, limit);
        Self {
            scaled: SizePx {
                width_px: fit(picture.width_px, input.width_px),
                height_px: fit(picture.height_px, input.height_px),
            },
        }
    }

    /// A box in tensor pixels (corners) as fractions of the original picture.
    pub fn to_picture(&self, x0: f32, y0: f32, x1: f32, y1: f32) -> NormRect {
        let (w, h) = (self.scaled.width_px as f32, self.scaled.height_px as f32);
        NormRect::clipped(x0 / w, y0 / h, x1 / w, y1 / h)
    }
}

/// Weights of one output position: source positions `first..first + weights.len()`.
#[derive(Clone, Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// How one axis is scaled.
fn axis(from: usize, to: usize) -> Vec<Taps> {
    let ratio = from as f64 / to as f64;
    (0..to)
        .map(|o| {
            if ratio > 1.0 {
                let (a, b) = (o as f64 * ratio, ((o + 1) as f64 * ratio).min(from as f64));
                let first = a.floor() as usize;
                let last = (b.ceil() as usize).min(from).max(first + 1);
                let cover = |s: usize| ((s + 1) as f64).min(b) - (s as f64).max(a);
                let weights = (first..last).map(|s| (cover(s) / (b - a)) as f32).collect();
                Taps { first, weights }
            } else {
                let at = ((o as f64 + 0.5) * ratio - 0.5).clamp(0.0, (from - 1) as f64);
                let first = at.floor() as usize;
                let part = (at - first as f64) as f32;
                let weights = if part > 0.0 {
                    vec![1.0 - part, part]
                } else {
                    vec![1.0]
                };
                Taps { first, weights }
            }
        })
        .collect()
}

/// Scales one plane of bytes to floats: rows first (contiguous, so it runs at memory speed), then
/// columns on what is left.
#[derive(Clone, Debug)]
struct PlaneScaler {
    from: (usize, usize),
    across: Vec<Taps>,
    down: Vec<Taps>,
    row: Vec<f32>,
    out: Vec<f32>,
}

impl PlaneScaler {
    fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self {
            from,
            across: axis(from.0, to.0),
            down: axis(from.1, to.1),
            row: vec![0.0; from.0],
            out: vec![0.0; to.0 * to.1],
        }
    }

    fn scale(&mut self, plane: &[u8]) {
        let width = self.from.0;
        let to_width = self.across.len();
        for (taps, out) in self.down.iter().zip(self.out.chunks_exact_mut(to_width)) {
            self.row.fill(0.0);
            for (k, weight) in taps.weights.iter().enumerate() {
                let y = taps.first + k;
                let source = &plane[y * width..(y + 1) * width];
                for (sum, value) in self.row.iter_mut().zip(source) {
                    *sum += f32::from(*value) * weight;
                }
            }
            for (taps, out) in self.across.iter().zip(out) {
                let source = &self.row[taps.first..taps.first + taps.weights.len()];
                *out = source.iter().zip(&taps.weights).map(|(s, w)| s * w).sum();
            }
        }
    }
}

/// Turns frames into one model's input. Keeps its tables while the picture size stays.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    input: InputCard,
    size: SizePx,
    luma: Option<PlaneScaler>,
    chroma: Option<[PlaneScaler; 2]>,
}

impl Preprocessor {
    /// For a model's input.
    pub fn new(input: InputCard) -> Self {
        Self {
            input,
            size: SizePx::default(),
            luma: None,
            chroma: None,
        }
    }

    /// Floats of the input tensor.
    pub fn tensor_len(&self) -> usize {
        3 * self.input.width_px as usize * self.input.height_px as usize
    }

    /// Fills `tensor` (planes in the card's order, row-major, [`Self::tensor_len`] floats) with
    /// `frame`, and says where the picture lies in it.
    pub fn fill(&mut self, frame: &Frame, tensor: &mut [f32]) -> Letterbox {
        assert_eq!(
            tensor.len(),
            self.tensor_len(),
            "the tensor is the card's size"
        );
        let letterbox = Letterbox::new(frame.size, &self.input);
        let to = (
            letterbox.scaled.width_px as usize,
            letterbox.scaled.height_px as usize,
        );
        if self.size != frame.size {
            let (w, h) = (frame.size.width_px as usize, frame.size.height_px as usize);
            let half = (w.div_ceil(2), h.div_ceil(2));
            self.luma = Some(PlaneScaler::new((w, h), to));
            let chroma = PlaneScaler::new(half, to);
            self.chroma = Some([chroma.clone(), chroma]);
            self.size = frame.size;
        }
        let [y, u, v] = frame.planes();
        let luma = self.luma.as_mut().expect("made above");
        let [cb, cr] = self.chroma.as_mut().expect("made above");
        luma.scale(y);
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
        let InputCard {
            mean,
            scale,
            pad,
            channels,
            ..
        } = self.input;
        let (tw, plane) = (self.input.width_px as usize, tensor.len() / 3);
        for (mean, plane) in mean.iter().zip(tensor.chunks_exact_mut(plane)) {
            plane.fill((pad - mean) * scale);
        }
        let (first, rest) = tensor.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let (red, blue) = match channels {
            Channels::Bgr => (third, first),
            Channels::Rgb => (first, third),
        };
        let (mean_r, mean_b) = match channels {
            Channels::Bgr => (mean[2], mean[0]),
            Channels::Rgb => (mean[0], mean[2]),
        };
        for row in 0..to.1 {
            let (s, d) = (row * to.0, row * tw);
            let luma = &luma.out[s..s + to.0];
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
        letterbox
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
            let mut p = Preprocessor::new(card(32, 32));
            let mut t = vec![0.0; p.tensor_len()];
            p.fill(&frame(64, 64, yuv.0, yuv.1, yuv.2, false), &mut t);
            for (got, want) in rgb_at(&t, 32, 5, 5).iter().zip(rgb) {
                assert!((got - want).abs() < 2.0, "{yuv:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_picture_lies_top_left_and_the_rest_is_padding() {
        let mut p = Preprocessor::new(card(64, 64));
        let mut t = vec![0.0; p.tensor_len()];
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
        let mut rgb = Preprocessor::new(card(32, 32));
        let mut bgr = Preprocessor::new(InputCard {
            channels: Channels::Bgr,
            ..card(32, 32)
        });
        let (mut a, mut b) = (vec![0.0; rgb.tensor_len()], vec![0.0; bgr.tensor_len()]);
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
        let mut p = Preprocessor::new(card(4, 4));
        let mut t = vec![0.0; p.tensor_len()];
        p.fill(&f, &mut t);
        assert!(t.iter().all(|v| (v - 127.5).abs() < 0.01), "{t:?}");
    }

    proptest! {
        #[test]
        fn weights_sum_to_one_and_stay_inside(from in 1usize..500, to in 1usize..500) {
            for taps in axis(from, to) {
                prop_assert!(taps.first + taps.weights.len() <= from);
                prop_assert!((taps.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            }
        }

        #[test]
        fn a_box_survives_the_round_trip(w in 16u32..4000, h in 16u32..4000, b in prop::array::uniform4(0.0f32..1.0)) {
            let l = Letterbox::new(SizePx { width_px: w, height_px: h }, &card(640, 384));
            let r = NormRect::clipped(b[0], b[1], b[2], b[3]);
            let (sw, sh) = (l.scaled.width_px as f32, l.scaled.height_px as f32);
            let back = l.to_picture(r.x0 * sw, r.y0 * sh, r.x1 * sw, r.y1 * sh);
            prop_assert!((back.x0 - r.x0).abs() < 1e-5 && (back.y1 - r.y1).abs() < 1e-5);
            prop_assert!(l.scaled.width_px <= 640 && l.scaled.height_px <= 384);
        }
    }
}
