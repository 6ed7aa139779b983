//! Faces out of a picture, for good.
//!
//! Each box is grown, cut into blocks of which every pixel gets the block's mean, and then blurred
//! over the blocks' edges. What is left of a face are at most [`BLOCKS_ACROSS`] means across its
//! grown box: nothing that a sharper picture could be made from. Runs on the frame's own planes, so
//! that what is encoded never held the face.
use crate::base::geometry::NormRect;
use crate::decode::Frame;

/// Blocks across the longer side of a box.
pub const BLOCKS_ACROSS: usize = 6;
/// A block has at least so many pixels a side: small faces get fewer blocks.
const LEAST_BLOCK_PX: usize = 8;
/// How much a box grows on each side, as a share of its size: chin, ears and hair tell people apart.
const MARGIN: f32 = 0.3;
/// And by this much of the picture's longer side at least: a box is a pixel or two off.
const LEAST_MARGIN: f32 = 0.004;

/// One plane of a picture.
struct Plane<'f> {
    pixels: &'f mut [u8],
    width: usize,
    height: usize,
}

/// Pixels from, to (exclusive), across and down.
type Area = (usize, usize, usize, usize);

/// Blurs all `faces` in `frame`.
pub fn blur(frame: &mut Frame, faces: &[NormRect]) {
    let (w, h) = (frame.size.width_px as usize, frame.size.height_px as usize);
    let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
    for face in faces {
        let Some((x0, y0, x1, y1)) = area(face, w, h) else {
            continue;
        };
        let block = (x1 - x0).max(y1 - y0).div_ceil(BLOCKS_ACROSS);
        let block = block.max(LEAST_BLOCK_PX).next_multiple_of(2);
        let (luma, chroma) = frame.pixels.split_at_mut(w * h);
        let (cb, cr) = chroma.split_at_mut(half_w * half_h);
        let mut luma = Plane {
            pixels: luma,
            width: w,
            height: h,
        };
        luma.coarsen((x0, y0, x1, y1), block);
        for pixels in [cb, cr] {
            let mut plane = Plane {
                pixels,
                width: half_w,
                height: half_h,
            };
            let half = (x0 / 2, y0 / 2, x1.div_ceil(2), y1.div_ceil(2));
            plane.coarsen(half, block / 2);
        }
    }
}

/// The grown box in pixels, its corners on chroma samples; none if it is empty.
fn area(face: &NormRect, w: usize, h: usize) -> Option<Area> {
    let (fw, fh) = (w as f32, h as f32);
    let least = LEAST_MARGIN * fw.max(fh);
    let (dx, dy) = (
        (face.width() * fw * MARGIN).max(least),
        (face.height() * fh * MARGIN).max(least),
    );
    let low = |v: f32| (v.max(0.0) as usize) / 2 * 2;
    let high = |v: f32, n: usize| (v.max(0.0).ceil() as usize).next_multiple_of(2).min(n);
    let (x0, x1) = (low(face.x0 * fw - dx), high(face.x1 * fw + dx, w));
    let (y0, y1) = (low(face.y0 * fh - dy), high(face.y1 * fh + dy, h));
    (x0 < x1 && y0 < y1).then_some((x0, y0, x1, y1))
}

impl Plane<'_> {
    fn coarsen(&mut self, (x0, y0, x1, y1): Area, block: usize) {
        let (x1, y1) = (x1.min(self.width), y1.min(self.height));
        for top in (y0..y1).step_by(block) {
            for left in (x0..x1).step_by(block) {
                let (right, bottom) = ((left + block).min(x1), (top + block).min(y1));
                self.level((left, top, right, bottom));
            }
        }
        self.smooth((x0, y0, x1, y1), block / 2);
    }

    /// Every pixel of the area becomes its mean.
    fn level(&mut self, (x0, y0, x1, y1): Area) {
        let rows = || (y0..y1).map(|y| y * self.width + x0..y * self.width + x1);
        let sum: u64 = rows()
            .flat_map(|row| &self.pixels[row])
            .map(|p| u64::from(*p))
            .sum();
        let count = ((x1 - x0) * (y1 - y0)) as u64;
        let mean = (sum / count.max(1)) as u8;
        for y in y0..y1 {
            self.pixels[y * self.width + x0..y * self.width + x1].fill(mean);
        }
    }

    /// Means over `2 * radius + 1` pixels across, then down, within the area: no block edges are left
    /// that would look like something.
    fn smooth(&mut self, (x0, y0, x1, y1): Area, radius: usize) {
        let mut line = Vec::new();
        for y in y0..y1 {
            let at = y * self.width;
            line.clear();
            line.extend_from_slice(&self.pixels[at + x0..at + x1]);
            let out = &mut self.pixels[at + x0..at + x1];
            running_means(&line, radius, |i, mean| out[i] = mean);
        }
        for x in x0..x1 {
            line.clear();
            line.extend((y0..y1).map(|y| self.pixels[y * self.width + x]));
            let (pixels, width) = (&mut *self.pixels, self.width);
            running_means(&line, radius, |i, mean| pixels[(y0 + i) * width + x] = mean);
        }
    }
}

fn running_means(line: &[u8], radius: usize, mut put: impl FnMut(usize, u8)) {
    let (mut sum, mut from, mut to) = (0u32, 0, 0);
    for i in 0..line.len() {
        while to < (i + radius + 1).min(line.len()) {
            sum += u32::from(line[to]);
            to += 1;
        }
        while from + radius < i {
            sum -= u32::from(line[from]);
            from += 1;
        }
        put(i, (sum / (to - from) as u32) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::SizePx;

    use proptest::prelude::*;

    fn noise(width_px: u32, height_px: u32) -> Frame {
        let size = SizePx {
            width_px,
            height_px,
        };
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels: Vec<u8> = (0..Frame::byte_len(size)).map(|_| next()).collect();
        Frame::new(size, pixels)
    }

    /// Mean square of the difference between neighbours: detail.
    fn detail(frame: &Frame, (x0, y0, x1, y1): Area) -> f64 {
        let w = frame.size.width_px as usize;
        let luma = frame.planes()[0];
        let mut sum = 0.0;
        for y in y0..y1 {
            for x in x0 + 1..x1 {
                let d = f64::from(luma[y * w + x]) - f64::from(luma[y * w + x - 1]);
                sum += d * d;
            }
        }
        sum / ((x1 - x0 - 1) * (y1 - y0)) as f64
    }

    #[test]
    fn nothing_of_a_face_is_left_and_nothing_else_is_touched() {
        let before = noise(320, 180);
        let mut after = before.clone();
        let face = NormRect::clipped(0.4, 0.3, 0.55, 0.6);
        blur(&mut after, &[face]);
        let inside = area(&face, 320, 180).unwrap();
        assert!(detail(&before, inside) > 5000.0);
        assert!(detail(&after, inside) < 20.0, "{}", detail(&after, inside));
        let (x0, y0, x1, y1) = inside;
        assert!(
            x0 < 120 && x1 > 184 && y0 < 50 && y1 > 112,
            "the box is grown: {inside:?}"
        );
        for y in 0..180 {
            for x in 0..320 {
                let outside = x < x0 || x >= x1 || y < y0 || y >= y1;
                let same = before.pixels[y * 320 + x] == after.pixels[y * 320 + x];
                assert!(same || !outside, "pixel {x}, {y}");
            }
        }
    }

    #[test]
    fn pictures_that_differ_in_a_face_only_become_the_same() {
        // The face is replaced by one of the same means in every block: nobody can tell them apart.
        let one = noise(128, 128);
        let face = NormRect::clipped(0.25, 0.25, 0.75, 0.75);
        let (x0, y0, x1, y1) = area(&face, 128, 128).unwrap();
        let block = (x1 - x0).max(y1 - y0).div_ceil(BLOCKS_ACROSS);
        let block = block.next_multiple_of(2);
        let mut other = one.clone();
        for top in (y0..y1).step_by(block) {
            for left in (x0..x1).step_by(block) {
                let (right, bottom) = ((left + block).min(x1), (top + block).min(y1));
                let mut values = Vec::new();
                for y in top..bottom {
                    values.extend_from_slice(&one.pixels[y * 128 + left..y * 128 + right]);
                }
                values.reverse();
                for (y, row) in (top..bottom).zip(values.chunks(right - left)) {
                    other.pixels[y * 128 + left..y * 128 + right].copy_from_slice(row);
                }
            }
        }
        assert_ne!(one.pixels, other.pixels);
        let (mut a, mut b) = (one, other);
        blur(&mut a, &[face]);
        blur(&mut b, &[face]);
        assert_eq!(a.pixels, b.pixels);
    }

    proptest! {
        #[test]
        fn no_box_and_no_size_makes_it_panic(
            w in 1u32..70, h in 1u32..70,
            corners in prop::array::uniform4(-0.5f32..1.5),
        ) {
            let mut frame = noise(w, h);
            let [x0, y0, x1, y1] = corners;
            blur(&mut frame, &[NormRect::clipped(x0, y0, x1, y1), NormRect { x0, y0, x1, y1 }]);
            prop_assert_eq!(frame.pixels.len(), Frame::byte_len(frame.size));
        }
    }
}
