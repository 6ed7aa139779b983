//! Whether anything moved: decides which sampled pictures are worth a detector's time.
//!
//! Luma is averaged over cells of a coarse grid and compared with what the cell showed in the last
//! few pictures. What stands still is background within a second or two, a person who waits as well
//! as the place they left: the gate then only slows the detector down (`refresh`), it never stops
//! it. A change of the whole picture's brightness (lamps, auto exposure) is taken off before
//! comparing.
//! Averaging over a cell takes sensor noise down by the square root of its pixels, so a fixed
//! difference serves day and night pictures.
use crate::base::geometry::SizePx;

/// Cells across and down. At 1280x720 a cell is 10x10 pixels: a rodent of 3 % of the width covers a
/// dozen of them.
const GRID: (usize, usize) = (128, 72);
/// Luma levels, of 256, by which a cell must differ from its background.
const DIFFERENCE: f32 = 7.0;
/// How fast a cell is learnt, per picture. Slower learning of cells that differ would keep ghosts of
/// whoever stood still and left: on the demo's clip it left out no picture at all, this a fifth.
const LEARN: f32 = 0.25;

/// One camera's background.
#[derive(Clone, Debug)]
pub struct MotionDetector {
    size: SizePx,
    background: Vec<f32>,
    cells: Vec<u32>,
    counts: Vec<u32>,
    diffs: Vec<f32>,
}

impl MotionDetector {
    /// Knows nothing yet.
    pub fn new() -> Self {
        let n = GRID.0 * GRID.1;
        Self {
            size: SizePx::default(),
            background: Vec::new(),
            cells: vec![0; n],
            counts: vec![0; n],
            diffs: vec![0.0; n],
        }
    }

    /// Takes one picture (`rows` calls back with luma rows, top to bottom, every `step`-th) and
    /// returns the share of cells that changed, `0.0..=1.0`. The first picture of a size is all
    /// change.
    pub fn changed(
        &mut self,
        size: SizePx,
        step: usize,
        rows: impl FnOnce(usize, &mut dyn FnMut(&[u8])),
    ) -> f32 {
        let (w, h) = (size.width_px as usize, size.height_px as usize);
        if w == 0 || h == 0 {
            return 0.0;
        }
        self.cells.fill(0);
        self.counts.fill(0);
        let mut y = 0;
        let (cells, counts) = (&mut self.cells, &mut self.counts);
        rows(step, &mut |row| {
            let first = (y * GRID.1 / h).min(GRID.1 - 1) * GRID.0;
            for cx in 0..GRID.0 {
                let (a, b) = (cx * w / GRID.0, (cx + 1) * w / GRID.0);
                if let Some(part) = row.get(a..b) {
                    cells[first + cx] += part.iter().map(|&v| u32::from(v)).sum::<u32>();
                    counts[first + cx] += (b - a) as u32;
                }
            }
            y += step;
        });
        let mean = |i: usize, c: &[u32], n: &[u32]| c[i] as f32 / n[i].max(1) as f32;
        if self.size != size || self.background.is_empty() {
            self.size = size;
            self.background = (0..self.cells.len())
                .map(|i| mean(i, &self.cells, &self.counts))
                .collect();
            return 1.0;
        }
        for i in 0..self.cells.len() {
            self.diffs[i] = mean(i, &self.cells, &self.counts) - self.background[i];
        }
        let lighting = median(&mut self.diffs.clone());
        let mut moved = 0;
        for (i, diff) in self.diffs.iter().enumerate() {
            let has_moved = self.counts[i] > 0 && (diff - lighting).abs() > DIFFERENCE;
            moved += usize::from(has_moved);
            self.background[i] += diff * LEARN;
        }
        moved as f32 / self.cells.len() as f32
    }
}

impl Default for MotionDetector {
    fn default() -> Self {
        Self::new()
    }
}

fn median(values: &mut [f32]) -> f32 {
    let mid = values.len() / 2;
    *values.select_nth_unstable_by(mid, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SizePx = SizePx {
        width_px: 640,
        height_px: 360,
    };

    /// A grey picture with noise, brightness `level`, and a bright square of `side` at `x`.
    fn picture(level: u8, side: usize, x: usize, seed: u64) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut p: Vec<u8> = (0..640 * 360).map(|_| level + rng.u8(0..6)).collect();
        for y in 100..100 + side {
            p[y * 640 + x..y * 640 + x + side].fill(220);
        }
        p
    }

    fn feed(m: &mut MotionDetector, p: &[u8]) -> f32 {
        m.changed(SIZE, 2, |step, row| {
            p.chunks(640).step_by(step).for_each(row);
        })
    }

    #[test]
    fn a_still_noisy_scene_does_not_move() {
        let mut m = MotionDetector::new();
        assert!(feed(&mut m, &picture(60, 0, 0, 1)) > 0.99);
        for seed in 2..20 {
            assert!(feed(&mut m, &picture(60, 0, 0, seed)) < 0.0005);
        }
    }

    #[test]
    fn a_thing_the_size_of_a_mouse_moves() {
        let mut m = MotionDetector::new();
        for seed in 1..5 {
            feed(&mut m, &picture(60, 0, 0, seed));
        }
        let share = feed(&mut m, &picture(60, 20, 300, 9));
        assert!(share > 0.001, "{share}");
    }

    #[test]
    fn what_stands_still_and_what_it_leaves_behind_are_background_soon() {
        let mut m = MotionDetector::new();
        for (n, side) in [0, 0, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60]
            .into_iter()
            .enumerate()
        {
            let share = feed(&mut m, &picture(60, side, 300, n as u64));
            assert!(n != 2 || share > 0.01, "{share}");
            assert!(n < 13 || share < 0.001, "still: {share}");
        }
        assert!(feed(&mut m, &picture(60, 0, 0, 20)) > 0.01, "it leaves");
        let after: Vec<f32> = (21..36)
            .map(|n| feed(&mut m, &picture(60, 0, 0, n)))
            .collect();
        assert!(after[14] < 0.001, "{after:?}");
    }

    #[test]
    fn a_lamp_that_dims_is_no_motion() {
        let mut m = MotionDetector::new();
        for (seed, level) in [100, 100, 100, 97, 94, 90, 85].into_iter().enumerate() {
            let share = feed(&mut m, &picture(level, 0, 0, seed as u64));
            assert!(seed == 0 || share < 0.001, "{level}: {share}");
        }
    }

    #[test]
    fn a_picture_without_pixels_is_no_motion() {
        let mut m = MotionDetector::new();
        assert!(m.changed(SizePx::default(), 2, |_, _| {}).abs() < f32::EPSILON);
    }
}
