//! Whether anything moved: decides which sampled pictures are worth a detector's time.
//!
//! Luma is averaged over cells of a coarse grid and compared with what the cell showed in the last
//! few pictures. What stands still is background within a second or two, a person who waits as well
//! as the place they left: the gate then only slows the detector down (`refresh`), it never stops
//! it. A change of the whole picture's brightness (lamps, auto exposure) is taken off before
//! comparing.
//! Averaging over a cell takes sensor noise down by the square root of its pixels, so a fixed
//! difference serves day and night pictures.
//!
//! Where it moved is kept too: the detector looks at such places in the camera's own pixels.
use crate::base::geometry::{NormRect, SizePx};

/// Cells across and down. At 1280x720 a cell is 10x10 pixels: a rodent of 3 % of the width covers a
/// dozen of them.
pub(super) const GRID: (usize, usize) = (128, 72);
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
    means: Vec<f32>,
    diffs: Vec<f32>,
    moved: Vec<bool>,
    scratch: Scratch,
}

/// Lists that are filled anew with each picture, kept for their memory.
#[derive(Clone, Debug, Default)]
struct Scratch {
    sorted: Vec<f32>,
    left: Vec<bool>,
    reached: Vec<(usize, usize)>,
    found: Vec<(usize, NormRect)>,
}

/// Clusters of moving cells that are handed on at most, the largest: more than kitchens have people,
/// since a rat beside them is the smallest.
pub const MAX_CLUSTERS: usize = 16;
/// Share of moving cells above which there are no clusters: the camera itself moves, or cuts.
const EVERYWHERE: f32 = 0.4;
/// Cells from one moving cell to the next up to which both are one thing: one still cell between.
const GAP: usize = 2;

impl MotionDetector {
    /// Knows nothing yet.
    pub fn new() -> Self {
        let n = GRID.0 * GRID.1;
        Self {
            size: SizePx::default(),
            background: Vec::new(),
            cells: vec![0; n],
            counts: vec![0; n],
            means: vec![0.0; n],
            diffs: vec![0.0; n],
            moved: vec![false; n],
            scratch: Scratch::default(),
        }
    }

    /// Puts into `clusters`, in the place of what was there, where the last picture moved, as fractions of it, the largest first, at most
    /// `MAX_CLUSTERS`: boxes around cells that touch or nearly do. A lone cell is noise. Empty where
    /// nothing moved, and where everything did.
    pub fn clusters(&mut self, clusters: &mut Vec<NormRect>) {
        clusters.clear();
        let count = self.moved.iter().filter(|m| **m).count();
        if count as f32 > EVERYWHERE * self.moved.len() as f32 {
            return;
        }
        let Scratch {
            left,
            reached,
            found,
            ..
        } = &mut self.scratch;
        left.clone_from(&self.moved);
        found.clear();
        for start in 0..left.len() {
            if !std::mem::take(&mut left[start]) {
                continue;
            }
            let (x, y) = (start % GRID.0, start / GRID.0);
            let (mut cells, mut low, mut high) = (0, (x, y), (x, y));
            reached.clear();
            reached.push((x, y));
            while let Some((x, y)) = reached.pop() {
                cells += 1;
                low = (low.0.min(x), low.1.min(y));
                high = (high.0.max(x), high.1.max(y));
                let near = |v: usize, n: usize| v.saturating_sub(GAP)..(v + GAP + 1).min(n);
                for ny in near(y, GRID.1) {
                    for nx in near(x, GRID.0) {
                        if std::mem::take(&mut left[ny * GRID.0 + nx]) {
                            reached.push((nx, ny));
                        }
                    }
                }
            }
            if cells > 1 {
                let part = |v: usize, n: usize| v as f32 / n as f32;
                let rect = NormRect {
                    x0: part(low.0, GRID.0),
                    y0: part(low.1, GRID.1),
                    x1: part(high.0 + 1, GRID.0),
                    y1: part(high.1 + 1, GRID.1),
                };
                found.push((cells, rect));
            }
        }
        found.sort_by_key(|(cells, _)| std::cmp::Reverse(*cells));
        found.truncate(MAX_CLUSTERS);
        clusters.extend(found.iter().map(|(_, rect)| *rect));
    }

    /// Mean luma of each cell of the last picture, row by row; 0 where the picture is too small to give
    /// a cell pixels of its own.
    pub(super) fn means(&self) -> &[f32] {
        &self.means
    }

    /// Whether each cell of the last picture had pixels of its own.
    pub(super) fn has_all_cells(&self) -> bool {
        !self.counts.contains(&0)
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
        for ((mean, sum), count) in self.means.iter_mut().zip(&self.cells).zip(&self.counts) {
            *mean = *sum as f32 / (*count).max(1) as f32;
        }
        if self.size != size || self.background.is_empty() {
            self.size = size;
            self.background.clone_from(&self.means);
            self.moved.fill(false);
            return 1.0;
        }
        for i in 0..self.cells.len() {
            self.diffs[i] = self.means[i] - self.background[i];
        }
        let sorted = &mut self.scratch.sorted;
        sorted.clone_from(&self.diffs);
        let lighting = median(sorted);
        let mut moved = 0;
        for (i, diff) in self.diffs.iter().enumerate() {
            let has_moved = self.counts[i] > 0 && (diff - lighting).abs() > DIFFERENCE;
            moved += usize::from(has_moved);
            self.moved[i] = has_moved;
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

    fn clusters(m: &mut MotionDetector) -> Vec<NormRect> {
        let mut clusters = vec![NormRect::clipped(0.0, 0.0, 1.0, 1.0)];
        m.clusters(&mut clusters);
        clusters
    }

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
    fn where_it_moves_is_known_and_not_where_all_moves() {
        let mut m = MotionDetector::new();
        feed(&mut m, &picture(60, 0, 0, 1));
        assert!(
            clusters(&mut m).is_empty(),
            "the first picture shows no motion"
        );
        feed(&mut m, &picture(60, 20, 300, 2));
        let found = clusters(&mut m);
        assert_eq!(found.len(), 1, "{found:?}");
        let square = NormRect::clipped(300.0 / 640.0, 100.0 / 360.0, 320.0 / 640.0, 120.0 / 360.0);
        assert!(found[0].iou(&square) > 0.5, "{found:?}");
        let mut m = MotionDetector::new();
        feed(&mut m, &picture(60, 0, 0, 3));
        feed(&mut m, &picture(60, 250, 0, 4));
        assert_eq!(clusters(&mut m).len(), 1);
        let halves: Vec<u8> = (0..640 * 360)
            .map(|i| if i % 640 < 320 { 0 } else { 255 })
            .collect();
        feed(&mut m, &halves);
        assert!(clusters(&mut m).is_empty(), "a cut to another scene");
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
