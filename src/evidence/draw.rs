//! Boxes and their labels drawn into a picture, as YUV.
use crate::base::geometry::NormRect;
use crate::decode::Frame;

/// Luma, Cb and Cr that stand out from kitchens and from each other.
pub const COLOURS: [[u8; 3]; 6] = [
    [110, 90, 230],
    [170, 60, 60],
    [200, 30, 150],
    [150, 190, 60],
    [120, 200, 110],
    [210, 110, 190],
];
const BLACK: [u8; 3] = [16, 128, 128];

fn paint(frame: &mut Frame, x: usize, y: usize, colour: [u8; 3]) {
    let (w, h) = (frame.size.width_px as usize, frame.size.height_px as usize);
    if x >= w || y >= h {
        return;
    }
    let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
    frame.pixels[y * w + x] = colour[0];
    let chroma = y / 2 * half_w + x / 2;
    frame.pixels[w * h + chroma] = colour[1];
    frame.pixels[w * h + half_w * half_h + chroma] = colour[2];
}

/// A box with its label in a bar above it, or inside where there is no room above.
pub fn draw(frame: &mut Frame, rect: &NormRect, colour: [u8; 3], label: &str) {
    let (w, h) = (frame.size.width_px as usize, frame.size.height_px as usize);
    let thick = (w.max(h) / 320).max(2);
    let at = |v: f32, n: usize| ((v.max(0.0) * n as f32) as usize).min(n.saturating_sub(1));
    let (x0, x1) = (at(rect.x0, w), at(rect.x1, w));
    let (y0, y1) = (at(rect.y0, h), at(rect.y1, h));
    for y in y0..=y1 {
        for x in x0..=x1 {
            let inside = x >= x0 + thick && x + thick <= x1 && y >= y0 + thick && y + thick <= y1;
            if !inside {
                paint(frame, x, y, colour);
            }
        }
    }
    let scale = (w.max(h) / 640).max(1);
    let (glyph, count) = (8 * scale, label.chars().count());
    let left = x0.min(w.saturating_sub(count * glyph));
    let top = if y0 >= glyph + 2 * scale {
        y0 - glyph - 2 * scale
    } else {
        y0
    };
    for y in 0..glyph + 2 * scale {
        for x in 0..count * glyph {
            paint(frame, left + x, top + y, colour);
        }
    }
    for (n, letter) in label.chars().enumerate() {
        let rows = font8x8::legacy::BASIC_LEGACY
            .get(letter as usize)
            .copied()
            .unwrap_or_default();
        for (y, row) in rows.iter().enumerate() {
            for x in (0..8).filter(|x| row >> x & 1 == 1) {
                for (dx, dy) in (0..scale * scale).map(|i| (i % scale, i / scale)) {
                    let (px, py) = (
                        left + n * glyph + x * scale + dx,
                        top + scale + y * scale + dy,
                    );
                    paint(frame, px, py, BLACK);
                }
            }
        }
    }
}
