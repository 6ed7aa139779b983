//! One pass over a picture's luma rows: a digest that tells identical pictures, and how sharp it is.
//!
//! It sees the same rows, in the same pass, as the motion gate. What must not be here: what any of
//! it means; that is `picture_health.rs`.

/// Every so many fed rows one is measured for sharpness: with every second row fed, every 16th.
const MEASURED: usize = 8;
/// Pixels over which the coarse difference is taken.
const APART: usize = 8;
/// Of the pixels of a measured row every so many tells the noise.
const SPARSE: usize = 8;
/// Differences below this are never taken for an edge.
const LEAST_EDGE: u8 = 8;
/// Times the median difference that an edge must exceed: white noise passes five medians (3.4 sigma)
/// once in 1500, so that sharpness hardly sees it.
const EDGE_OVER_NOISE: u8 = 5;

/// What one picture gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scan {
    /// Equal for bit-for-bit equal rows; different for different ones, but for a chance of 2^-64.
    pub digest: u64,
    /// Mean squared difference of neighbours, edges only.
    pub fine: f32,
    /// Mean squared difference over 8 pixels, edges only: the picture's contrast.
    pub coarse: f32,
    /// Median difference of neighbours: sensor noise, and texture.
    pub noise: f32,
}

/// Takes the rows of one picture after the other.
#[derive(Clone, Debug)]
pub struct LumaScan {
    lanes: [u64; 4],
    rows: usize,
    fine: u64,
    coarse: u64,
    pixels: u64,
    histogram: [u32; 256],
    /// From the picture before; what a picture's noise is is known only after it.
    edge: u8,
}

const MULTIPLIERS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

impl LumaScan {
    /// Before the first picture.
    pub fn new() -> Self {
        Self {
            lanes: MULTIPLIERS,
            rows: 0,
            fine: 0,
            coarse: 0,
            pixels: 0,
            histogram: [0; 256],
            edge: LEAST_EDGE,
        }
    }

    /// Takes the next row.
    pub fn row(&mut self, row: &[u8]) {
        self.digest(row);
        if self.rows.is_multiple_of(MEASURED) && row.len() > APART {
            self.measure(row);
        }
        self.rows += 1;
    }

    /// Four independent multiply-and-rotate lanes, so that the multiplier's latency is hidden. Against
    /// accidents, not against an attacker: a camera that is under somebody's control can send any
    /// picture it likes.
    fn digest(&mut self, row: &[u8]) {
        let mix = |lane: u64, word: u64, by: u64| (lane ^ word).wrapping_mul(by).rotate_left(29);
        let mut lanes = self.lanes;
        let (blocks, rest) = row.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for ((lane, word), by) in lanes.iter_mut().zip(words).zip(MULTIPLIERS) {
                *lane = mix(*lane, u64::from_le_bytes(*word), by);
            }
        }
        for &byte in rest {
            lanes[0] = mix(lanes[0], u64::from(byte), MULTIPLIERS[1]);
        }
        self.lanes = lanes;
    }

    fn measure(&mut self, row: &[u8]) {
        let edge = self.edge;
        let n = row.len() - APART;
        let square = |a: u8, b: u8| {
            let d = a.abs_diff(b);
            let d = u32::from(if d < edge { 0 } else { d });
            d * d
        };
        // A row of up to 65,535 pixels fits 32 bits, which vectorises.
        let (mut fine, mut coarse) = (0_u32, 0_u32);
        for ((&a, &b), &c) in row[..n].iter().zip(&row[1..=n]).zip(&row[APART..]) {
            fine = fine.wrapping_add(square(a, b));
            coarse = coarse.wrapping_add(square(a, c));
        }
        self.fine += u64::from(fine);
        self.coarse += u64::from(coarse);
        self.pixels += n as u64;
        for pair in row.chunks_exact(SPARSE) {
            self.histogram[usize::from(pair[0].abs_diff(pair[1]))] += 1;
        }
    }

    /// What the picture gave; the next row begins the next picture.
    pub fn finish(&mut self) -> Scan {
        let total: u32 = self.histogram.iter().sum();
        let mut below = 0;
        let median = self.histogram.iter().position(|n| {
            below += n;
            below * 2 > total
        });
        let median = median.unwrap_or(0).min(255) as u8;
        let mean = |sum: u64| sum as f32 / self.pixels.max(1) as f32;
        let [a, b, c, d] = self.lanes;
        let digest = [b, c, d, self.rows as u64]
            .iter()
            .zip(MULTIPLIERS)
            .fold(a, |all, (lane, by)| {
                (all ^ lane).wrapping_mul(by).rotate_left(31)
            });
        let scan = Scan {
            digest,
            fine: mean(self.fine),
            coarse: mean(self.coarse),
            noise: f32::from(median),
        };
        *self = Self {
            edge: median
                .saturating_mul(EDGE_OVER_NOISE)
                .saturating_add(1)
                .max(LEAST_EDGE),
            ..Self::new()
        };
        scan
    }
}

impl Default for LumaScan {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(rows: &[Vec<u8>]) -> Scan {
        let mut scan = LumaScan::new();
        for row in rows {
            scan.row(row);
        }
        scan.finish()
    }

    fn stripes(width: usize) -> Vec<Vec<u8>> {
        let row: Vec<u8> = (0..width)
            .map(|x| if x / 40 % 2 == 0 { 60 } else { 180 })
            .collect();
        vec![row; 200]
    }

    #[test]
    fn one_pixel_by_one_level_is_another_picture() {
        let a = stripes(1283);
        for (y, x) in [(0, 0), (17, 640), (199, 1282)] {
            let mut b = a.clone();
            b[y][x] += 1;
            assert_ne!(scan(&a).digest, scan(&b).digest, "{y} {x}");
        }
        assert_eq!(scan(&a), scan(&a.clone()));
        assert_ne!(scan(&a).digest, scan(&a[..199]).digest);
    }

    #[test]
    fn blur_takes_the_fine_share_and_noise_does_not_bring_it_back() {
        let sharp = stripes(1280);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut noisy = |rows: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let row = |r: &Vec<u8>| r.iter().map(|v| v + rng.u8(0..8)).collect();
            rows.iter().map(row).collect()
        };
        let blurred: Vec<Vec<u8>> = sharp
            .iter()
            .map(|r| {
                let mean = |x: usize| {
                    let part = &r[x.saturating_sub(4)..(x + 5).min(r.len())];
                    (part.iter().map(|v| u32::from(*v)).sum::<u32>() / part.len() as u32) as u8
                };
                (0..r.len()).map(mean).collect()
            })
            .collect();
        let share = |rows: &[Vec<u8>]| {
            // Its noise is known from the picture before.
            let mut scan = LumaScan::new();
            let mut twice = [Scan::default(); 2];
            for seen in &mut twice {
                for row in rows {
                    scan.row(row);
                }
                *seen = scan.finish();
            }
            let s = twice[1];
            s.fine / s.coarse
        };
        let (clean, soft) = (share(&sharp), share(&noisy(&blurred)));
        assert!(soft < 0.3 * clean, "{clean} {soft}");
        let kept = share(&noisy(&sharp)) / clean;
        assert!((0.8..1.25).contains(&kept), "{kept}");
    }

    #[test]
    fn rows_too_short_to_measure_are_no_panic() {
        assert!(scan(&[vec![], vec![1, 2, 3]]).fine.abs() < f32::EPSILON);
    }
}
