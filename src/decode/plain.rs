//! Whether a picture is one plain colour that no sensor gives: what a camera sends while its privacy
//! mask is on, with or without a logo, a line of text or a running clock.
//!
//! Pure; what comes of it is `picture_health.rs`'s.
//!
//! # How it is told
//! A sensor has noise, and a scene has gradients: hardly a cell of the motion grid has the same luma in
//! all of its pixels. A synthetic area does, and coding leaves it so. Measured is the share of cells
//! whose mean is an integer within a level of the commonest one:
//!
//! | pictures | share |
//! | --- | --- |
//! | 18 real clips, as they are and at a quantiser of 42 | at most 0.16, and 0.29 |
//! | the same dimmed to 0.45 and 0.7, with noise, coded coarsely | at most 0.57 |
//! | a soft gradient close to the lens, with and without noise, at a quantiser of 24 and 36 | at most 0.13 |
//! | a scene blurred beyond recognition, dim and with noise, at a quantiser of 36 | at most 0.53 |
//! | one plain colour with a running clock and a logo, 1280x720 | 0.97 to 0.98 |
//! | the same at 640x360, where they cover a twelfth | 0.90 to 0.92 |
//!
//! Two cases are near a sensor's. **Black**: a night picture whose noise the coder takes away has up to 1.0
//! of its cells at one level, though not in every picture (0.80 at the least within two groups of
//! pictures, where a synthetic one has 0.90 and more in all of them). **White**, to which any sensor
//! clips: 0.95 for a room in far too much light. So white is never plain, and black is only if its cells
//! are at exactly one level. What stays: a surface without any gradient, coded so coarsely (a quantiser of
//! 42) that nothing of its noise is left, is taken for plain.
use super::motion::GRID;

/// Share of the cells that must be plain.
const PLAIN: f32 = 0.85;
/// The same for what is as dark as night.
const PLAIN_BLACK: f32 = 0.95;
/// Darker than this is near a night picture; the darkest clip that shows something has its commonest
/// level at 41.
const NIGHT: u8 = 40;
/// Where video clips to white.
const WHITE: u8 = 235;

/// The level of a plain picture; `None`: it is none.
pub(super) fn plain_level(cells: &[f32]) -> Option<u8> {
    debug_assert_eq!(cells.len(), GRID.0 * GRID.1);
    let mut levels = [0_u32; 256];
    for &cell in cells {
        // A mean of integers is exact if they are all the same.
        if cell.fract() == 0.0 {
            levels[usize::from(cell as u8)] += 1;
        }
    }
    let (level, _) = levels.iter().enumerate().max_by_key(|(_, n)| **n)?;
    let is_night = level < usize::from(NIGHT);
    let (reach, least) = if is_night {
        (0, PLAIN_BLACK)
    } else {
        (1, PLAIN)
    };
    let near = &levels[level.saturating_sub(reach)..=(level + reach).min(255)];
    let share = near.iter().sum::<u32>() as f32 / cells.len().max(1) as f32;
    (share >= least && level < usize::from(WHITE)).then_some(level as u8)
}

/// Whether a plain picture of this level could be a night's.
pub(super) fn is_night(level: u8) -> bool {
    level < NIGHT
}
