//! Frame → input tensor: which part of the picture goes where in it, and in which colours. The pixels
//! are `scale.rs`'s, in one pass: no picture is made in between.
//!
//! One [`Preprocessor`] per model and worker. Once it has met a picture size, or for parts of pictures
//! the largest, it allocates nothing.
use fearless_simd::Level;

use super::card::{Channels, Fit, InputCard, ValueType};
use super::scale::{Channel, Scaler, Tables, Target, Value, Window};
use crate::base::geometry::{NormRect, SizePx};
use crate::decode::{Frame, YuvMatrix};

/// Picture sizes whose tables a [`Preprocessor`] keeps: a worker meets all cameras of its site.
const SIZES_KEPT: usize = 8;

/// An input tensor to be filled: three planes in the card's order, row-major.
#[derive(Debug)]
pub enum TensorMut<'t> {
    /// Of floats.
    F32(&'t mut [f32]),
    /// Of the pixels' bytes.
    U8(&'t mut [u8]),
}

impl TensorMut<'_> {
    /// The same everywhere: a grey picture, say.
    pub fn fill(&mut self, value: f32) {
        match self {
            Self::F32(tensor) => tensor.fill(value),
            Self::U8(tensor) => tensor.fill(Value::of(value)),
        }
    }
}

impl<'t> From<&'t mut [f32]> for TensorMut<'t> {
    fn from(tensor: &'t mut [f32]) -> Self {
        Self::F32(tensor)
    }
}

impl<'t> From<&'t mut [u8]> for TensorMut<'t> {
    fn from(tensor: &'t mut [u8]) -> Self {
        Self::U8(tensor)
    }
}

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

/// What goes where: a window of a picture's planes, and where it lies in the tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Of the luma and of the chroma planes.
    pub windows: [Window; 2],
    /// Columns and rows in the tensor.
    pub to: [usize; 2],
    /// Its corner there.
    pub at: [usize; 2],
}

impl Place {
    /// A whole picture; also says how the letterbox lies and how large the tensor is.
    pub(super) fn of_whole(
        picture: SizePx,
        input: &InputCard,
        step: u32,
    ) -> (Letterbox, SizePx, Self) {
        let tensor = tensor_size(picture, input, step);
        let letterbox = Letterbox::new(picture, tensor);
        let SizePx {
            width_px,
            height_px,
        } = letterbox.scaled;
        let windows = sides(picture).map(|plane| plane.map(|side| (0.0, side as f64)));
        let place = Self {
            windows,
            to: [width_px as usize, height_px as usize],
            at: [0, 0],
        };
        (letterbox, tensor, place)
    }

    /// A part of a picture, stretched to a tensor of `size`; `None` if none of it is in the picture.
    pub(super) fn of_part(picture: SizePx, crop: CropPx, size: SizePx) -> Option<Self> {
        let to = [size.width_px as usize, size.height_px as usize];
        let limits = [picture.width_px, picture.height_px].map(f64::from);
        let mut window = [(0.0, 0.0); 2];
        let mut place = [(0, 0); 2];
        for (i, (low, high)) in [(crop.x0, crop.x1), (crop.y0, crop.y1)]
            .into_iter()
            .enumerate()
        {
            let factor = to[i] as f64 / (high - low).max(1.0);
            let (first, last) = (low.floor().max(0.0), high.ceil().min(limits[i]));
            let position = |v: f64| ((v - low) * factor).round().clamp(0.0, to[i] as f64) as usize;
            let (begin, end) = (position(first), position(last));
            if last <= first || end <= begin {
                return None;
            }
            window[i] = (first, last - first);
            place[i] = (begin, end - begin);
        }
        let half = window.map(|(start, length)| (start / 2.0, length / 2.0));
        Some(Self {
            windows: [window, half],
            to: place.map(|(_, length)| length),
            at: place.map(|(begin, _)| begin),
        })
    }
}

/// Columns and rows of the luma and of the chroma planes.
fn sides(picture: SizePx) -> [[usize; 2]; 2] {
    let luma = [picture.width_px as usize, picture.height_px as usize];
    [luma, luma.map(|side| side.div_ceil(2))]
}

/// How pictures of one size are turned into a tensor.
#[derive(Clone, Debug)]
struct Known {
    picture: SizePx,
    letterbox: Letterbox,
    place: Place,
    tables: Tables,
}

/// Turns frames into one model's input. Keeps its tables for the picture sizes it meets.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    input: InputCard,
    step: u32,
    scaler: Scaler,
    /// Newest use last.
    known: Vec<Known>,
    /// Of the part of a picture at hand: no two of them are alike, so their tables are made anew, in
    /// the same memory.
    part: Tables,
}

impl Preprocessor {
    /// For a model's input; `step` is what sides of its tensor are multiples of.
    pub fn new(input: InputCard, step: u32) -> Self {
        Self::with_level(input, step, Level::new())
    }

    /// The same with another instruction set than this machine's best.
    fn with_level(input: InputCard, step: u32, level: Level) -> Self {
        Self {
            input,
            step: step.max(1),
            scaler: Scaler::new(level),
            known: Vec::with_capacity(SIZES_KEPT),
            part: Tables::default(),
        }
    }

    /// The card's size: what parts of pictures become by default.
    pub fn card(&self) -> SizePx {
        SizePx {
            width_px: self.input.width_px,
            height_px: self.input.height_px,
        }
    }

    /// Where a picture of that size lies in its tensor, and how large that is.
    pub fn letterbox(&mut self, picture: SizePx) -> Letterbox {
        self.known(picture).letterbox
    }

    /// What is known of pictures of that size, made if it is not there.
    fn known(&mut self, picture: SizePx) -> &Known {
        let known = if let Some(at) = self.known.iter().position(|k| k.picture == picture) {
            self.known.remove(at)
        } else {
            let (letterbox, _, place) = Place::of_whole(picture, &self.input, self.step);
            let mut tables = if self.known.len() == SIZES_KEPT {
                self.known.remove(0).tables
            } else {
                Tables::default()
            };
            tables.set(sides(picture), place.windows, place.to);
            Known {
                picture,
                letterbox,
                place,
                tables,
            }
        };
        self.known.push(known);
        self.known.last().expect("just pushed")
    }

    /// Fills `tensor` (of what the card says; three times the pixels of the [`letterbox`](Self::letterbox)'s tensor)
    /// with `frame`.
    ///
    /// # Panics
    /// On a tensor of another size, or of bytes where the card says floats.
    pub fn fill_whole<'t>(&mut self, frame: &Frame, tensor: impl Into<TensorMut<'t>>) {
        match tensor.into() {
            TensorMut::F32(tensor) => self.put_whole(frame, tensor),
            TensorMut::U8(tensor) => self.put_whole(frame, tensor),
        }
    }

    /// Fills `tensor` with parts of `frame`, each stretched to `size`, one after the other: a batch. What lies outside
    /// the picture is padding.
    ///
    /// # Panics
    /// On bytes where the card says floats.
    pub fn fill_each<'t>(
        &mut self,
        frame: &Frame,
        crops: &[CropPx],
        size: SizePx,
        tensor: impl Into<TensorMut<'t>>,
    ) {
        match tensor.into() {
            TensorMut::F32(tensor) => self.put_each(frame, crops, size, tensor),
            TensorMut::U8(tensor) => self.put_each(frame, crops, size, tensor),
        }
    }

    fn put_whole<T: Value>(&mut self, frame: &Frame, tensor: &mut [T]) {
        let size = self.known(frame.size).letterbox.tensor;
        let Self {
            scaler,
            input,
            known,
            ..
        } = self;
        let place = known.last().map(|known| (&known.place, &known.tables));
        put(scaler, input, frame, place, size, tensor);
    }

    fn put_each<T: Value>(
        &mut self,
        frame: &Frame,
        crops: &[CropPx],
        size: SizePx,
        tensor: &mut [T],
    ) {
        for (crop, tensor) in crops.iter().zip(tensor.chunks_exact_mut(values(size))) {
            let place = Place::of_part(frame.size, *crop, size);
            if let Some(place) = &place {
                self.part.set(sides(frame.size), place.windows, place.to);
            }
            let place = place.as_ref().map(|p| (p, &self.part));
            put(&mut self.scaler, &self.input, frame, place, size, tensor);
        }
    }

    /// As [`fill_whole`](Self::fill_whole), into a list that is made to fit; says where the picture lies in it. A card
    /// that says bytes may be given floats, which are not rounded.
    pub fn fill<T: Value>(&mut self, frame: &Frame, tensor: &mut Vec<T>) -> Letterbox {
        let letterbox = self.letterbox(frame.size);
        tensor.resize(values(letterbox.tensor), T::default());
        self.put_whole(frame, tensor);
        letterbox
    }

    /// As [`fill_each`](Self::fill_each) with one part, into a list that is made to fit.
    pub fn fill_part<T: Value>(
        &mut self,
        frame: &Frame,
        crop: CropPx,
        size: SizePx,
        tensor: &mut Vec<T>,
    ) {
        tensor.resize(values(size), T::default());
        self.put_each(frame, &[crop], size, tensor);
    }
}

/// Values of a picture's tensor.
fn values(size: SizePx) -> usize {
    3 * size.width_px as usize * size.height_px as usize
}

/// Puts what `place` says of `frame` into a tensor of `size`, and padding around it.
fn put<T: Value>(
    scaler: &mut Scaler,
    input: &InputCard,
    frame: &Frame,
    place: Option<(&Place, &Tables)>,
    size: SizePx,
    tensor: &mut [T],
) {
    assert!(
        !T::IS_BYTE || input.of == ValueType::U8,
        "bytes for a card that says floats"
    );
    let (width, height) = (size.width_px as usize, size.height_px as usize);
    let [first, second, third] = {
        let (first, rest) = tensor.split_at_mut(width * height);
        let (second, third) = rest.split_at_mut(width * height);
        [first, second, third]
    };
    let (at, to) = place.map_or(([0, 0], [0, 0]), |(p, _)| (p.at, p.to));
    for (mean, plane) in input.mean.iter().zip([&mut *first, second, third]) {
        let value = T::of((input.pad - mean) * input.scale);
        pad(plane, value, width, at, to);
    }
    let Some((_, tables)) = place else { return };
    let planes = match input.channels {
        Channels::Rgb => [first, second, third],
        Channels::Bgr => [third, second, first],
    };
    let target = Target { planes, width, at };
    let strides = sides(frame.size).map(|[width, _]| width);
    let channels = channels(input, Coefficients::of(frame));
    scaler.run(tables, frame.planes(), strides, &channels, target);
}

/// Fills a plane with `value`, but for `to` columns and rows from `at` on.
fn pad<T: Value>(plane: &mut [T], value: T, width: usize, at: [usize; 2], to: [usize; 2]) {
    let (top, bottom) = (at[1] * width, (at[1] + to[1]) * width);
    plane[..top].fill(value);
    plane[bottom..].fill(value);
    if to[0] < width {
        for row in plane[top..bottom].chunks_exact_mut(width) {
            row[..at[0]].fill(value);
            row[at[0] + to[0]..].fill(value);
        }
    }
}

/// Red, green and blue as a card wants them.
fn channels(input: &InputCard, of: Coefficients) -> [Channel; 3] {
    let InputCard { mean, scale, .. } = *input;
    let [mean_r, mean_g, mean_b] = match input.channels {
        Channels::Rgb => mean,
        Channels::Bgr => [mean[2], mean[1], mean[0]],
    };
    let channel = |u: f32, v: f32, mean: f32| {
        let (black, white) = ((0.0 - mean) * scale, (255.0 - mean) * scale);
        // Y, U and V come with 8 bits of fraction.
        let by = scale / 256.0;
        Channel {
            y: of.y_scale * by,
            u: u * by,
            v: v * by,
            offset: (-of.y_offset * of.y_scale - 128.0 * (u + v) - mean) * scale,
            low: black.min(white),
            high: black.max(white),
        }
    };
    [
        channel(0.0, of.r_v, mean_r),
        channel(-of.g_u, -of.g_v, mean_g),
        channel(of.b_u, 0.0, mean_b),
    ]
}

/// YUV to RGB: R = Y' + r_v·V, G = Y' - g_u·U - g_v·V, B = Y' + b_u·U, with
/// Y' = (Y - y_offset)·y_scale. ITU-R BT.601-7 section 2.5 and BT.709-6 section 3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
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
mod tests;
