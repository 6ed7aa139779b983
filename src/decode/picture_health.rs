//! Whether a camera's pictures show anything: masked, frozen, dark, occluded, moved, defocused.
//!
//! Fed with every sampled picture, before the motion gate, on the camera's decode thread. No clock
//! (time is the stamps'), no threads; equal pictures give equal answers.
//!
//! # What is looked at
//!
//! | fault | sign | against false alarms |
//! | --- | --- | --- |
//! | masked | one plain colour without noise, as `plain.rs` tells | in every picture for its whole time, at one level; white, to which sensors clip, is none |
//! | frozen | the luma is bit for bit that of the picture before, or comes again after others within 4 s | a coded still scene may repeat itself for a GOP: at least two key units must have come |
//! | dark | mean and 95th percentile of the cells are near black | night infrared is far brighter |
//! | occluded | the cells with an edge in them are gone, or all but gone | edges are relative to brightness, so lamps that dim are none |
//! | moved | the map of edges no longer matches the one learnt, or matches better elsewhere | people cover a part only; brightness does not move edges |
//! | defocused | edges have become much softer than they were over days | softness is relative to contrast; not judged in noise or at low contrast |
//!
//! # Decisions
//!
//! 1. **The first that holds is told**, in the order of the table: a picture behind a privacy mask says
//!    nothing of the scene and may stand still by right, a frozen one says nothing else, and in the dark
//!    nothing can be said of focus. What cannot be judged keeps its streak.
//! 2. **What is usual is learnt from the camera itself**, in the first [`FIRST_LOOK`] and slowly from
//!    then on, never from pictures that are suspected of something. It is not kept across a restart:
//!    a lens that was greasy before is then taken for normal, and that is the price.
//! 3. **A new view becomes the usual one after [`ACCEPT_VIEW`]**: otherwise a kitchen that is
//!    rearranged would count as not watched for ever. Until then somebody has been told.
//! 4. **A sequence that repeats within 4 s is frozen**, a longer one is not found: clips that play in
//!    a loop, as in tests and the demo, are longer.
//! 5. **A plain picture that is black is dark as well**, until it has been masked for its time: a sensor
//!    that gives no noise at all in the dark looks the same, and that is the price of telling a black
//!    privacy mask.
use std::collections::VecDeque;
use std::time::Duration;

use super::motion::GRID;
use super::plain::{is_night, plain_level};
use super::scan::Scan;
use crate::base::streak::Streak;
use crate::base::time::MonoMicros;

/// What is wrong with a camera's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PictureFault {
    /// One plain colour, as when a privacy mask is on.
    Masked,
    /// Unchanged or repeated.
    Frozen,
    /// Too dark to see.
    Dark,
    /// Next to no detail.
    Occluded,
    /// It shows another view than it did.
    Moved,
    /// Softer than it was.
    Defocused,
}

impl PictureFault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Masked,
        Self::Frozen,
        Self::Dark,
        Self::Occluded,
        Self::Moved,
        Self::Defocused,
    ];

    /// The word in recordings, and for the camera's state.
    pub fn word(self) -> &'static str {
        match self {
            Self::Masked => "masked",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
            Self::Occluded => "occluded",
            Self::Moved => "moved",
            Self::Defocused => "defocused",
        }
    }
}

/// How long each must last. `None`: not looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureConfig {
    /// See [`PictureFault::Masked`].
    pub masked: Option<Duration>,
    /// See [`PictureFault::Frozen`].
    pub frozen: Option<Duration>,
    /// See [`PictureFault::Dark`].
    pub dark: Option<Duration>,
    /// See [`PictureFault::Occluded`].
    pub occluded: Option<Duration>,
    /// See [`PictureFault::Moved`].
    pub moved: Option<Duration>,
    /// See [`PictureFault::Defocused`].
    pub defocused: Option<Duration>,
}

impl Default for PictureConfig {
    fn default() -> Self {
        let s = |s| Some(Duration::from_secs(s));
        Self {
            masked: s(20),
            frozen: s(15),
            dark: s(30),
            occluded: s(20),
            moved: s(60),
            defocused: s(600),
        }
    }
}

/// Good time in a row after which a fault is over.
pub const RECOVER: Duration = Duration::from_secs(2);
/// Longest time that one picture stands for; what is longer is a camera that gave none.
const LONGEST_STEP: Duration = Duration::from_secs(10);
/// Before anything is compared with what is usual.
pub const FIRST_LOOK: Duration = Duration::from_secs(10);
/// See the module docs, decision 3.
pub const ACCEPT_VIEW: Duration = Duration::from_secs(3600);
/// A sequence that comes again within this is a repetition.
const REPEAT_WITHIN: Duration = Duration::from_secs(4);
/// Digests kept for that: 30 pictures a second for 4 s.
const DIGESTS: usize = 120;
/// Key units that must have come while nothing changed.
const KEY_UNITS: u64 = 2;

/// Dark: mean and 95th percentile of the cells, of 256 levels (black is 16, or 0 in full range). The
/// darkest clip that shows something has 40 and 81.
const DARK: (f32, u8) = (26.0, 40);
/// An edge between cells, as a share of the picture's mean, and at least so many levels: cells of a
/// night picture with strong noise differ by 2.5.
const EDGE: (f32, f32) = (0.05, 3.0);
/// A strong edge counts no more than this in the map, so that one lamp does not outweigh a kitchen.
const STRONGEST_EDGE: f32 = 4.0;
/// Occluded: share of the usual edges that is left.
const DETAIL_LEFT: f32 = 0.25;
/// Occluded whatever was usual: share of all cells with an edge in them.
const NO_DETAIL: f32 = 0.01;
/// Moved for sure below this correlation with the learnt map of edges; fixed cameras with people in
/// front have 0.66 and more on all clips, other scenes 0.1 at the 90th percentile.
const OTHER_VIEW: f32 = 0.4;
/// Not moved from here on.
const SAME_VIEW: f32 = 0.7;
/// Between the two: moved if the map fits so much better elsewhere.
const BETTER_ELSEWHERE: f32 = 0.15;
/// How far elsewhere, in pairs of cells across and down: a quarter of the picture.
const SEARCH: (i32, i32) = (16, 6);
/// The search costs a millisecond: not more often than this.
const SEARCH_EVERY: Duration = Duration::from_secs(2);
/// Defocused: share of the usual sharpness. A blur of 2 pixels at 720p leaves 0.13 to 0.55, of 3
/// pixels 0.07 to 0.47, over all clips; the same fixed scene varies by 0.72 to 1.3.
const SHARPNESS_LEFT: f32 = 0.45;
/// Sharpness is judged only from this share of the usual contrast on. Contrast is the spread of the
/// cells, which blur hardly changes.
const CONTRAST_LEFT: f32 = 0.5;
/// Time constants of what is usual.
const LEARN: Duration = Duration::from_secs(300);
const LEARN_SHARPNESS: Duration = Duration::from_secs(3 * 86_400);
/// Time constants of the sharpness now, falling and rising.
const SMOOTH: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(2)];

/// One sampled picture.
#[derive(Clone, Copy, Debug)]
pub struct PictureSample<'a> {
    /// Its receipt.
    pub at: MonoMicros,
    /// Its capture session.
    pub session: u32,
    /// Key units received so far.
    pub key_units: u64,
    /// Of its rows.
    pub scan: Scan,
    /// Mean luma of the motion grid's cells, row by row.
    pub cells: &'a [f32],
    /// Whether each cell has pixels of its own; a tiny picture is only watched for freezing.
    pub has_cells: bool,
}

/// Several runs of identical pictures, and what came before.
#[derive(Clone, Debug, Default)]
struct Repeats {
    newest: Option<u64>,
    earlier: VecDeque<(MonoMicros, u64)>,
    repeated: Option<MonoMicros>,
    keys_at_begin: u64,
}

impl Repeats {
    /// Nothing is known; its memory is kept.
    fn forget(&mut self) {
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.clear();
        *self = Self {
            earlier,
            ..Self::default()
        };
    }

    /// Whether the picture is no new one.
    fn is_stale(&mut self, at: MonoMicros, digest: u64) -> bool {
        let unchanged = self.newest == Some(digest);
        while self.earlier.len() >= DIGESTS
            || self
                .earlier
                .front()
                .is_some_and(|(t, _)| at.since(*t) > REPEAT_WITHIN)
        {
            self.earlier.pop_front();
        }
        if !unchanged {
            if self.earlier.iter().any(|(_, d)| *d == digest) {
                self.repeated = Some(at);
            }
            if let Some(before) = self.newest.replace(digest) {
                self.earlier.push_back((at, before));
            }
        }
        // Of a sequence whose length is no multiple of the sampling only some pictures come again.
        let repeats = self.repeated.is_some_and(|t| at.since(t) <= REPEAT_WITHIN);
        unchanged || repeats
    }
}

/// An average that learns quickly first.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    value: f32,
    over: Duration,
}

impl Usual {
    fn learn(&mut self, value: f32, step: Duration, constant: Duration) {
        self.over = self.over.saturating_add(step).min(constant);
        let share = if self.over.is_zero() {
            1.0
        } else {
            step.as_secs_f32() / self.over.as_secs_f32()
        };
        self.value += (value - self.value) * share.min(1.0);
    }

    fn is_known(&self) -> bool {
        self.over >= FIRST_LOOK
    }
}

/// One camera's pictures over time.
#[derive(Clone, Debug)]
pub struct PictureHealth {
    masked: Option<Streak>,
    /// Of the plain pictures in a row.
    plain: Option<u8>,
    frozen: Option<Streak>,
    dark: Option<Streak>,
    occluded: Option<Streak>,
    moved: Option<Streak>,
    defocused: Option<Streak>,
    last: Option<(MonoMicros, u32)>,
    repeats: Repeats,
    detail: Usual,
    sharpness: Usual,
    contrast: Usual,
    noise: Usual,
    sharpness_now: Usual,
    edges: Vec<f32>,
    view: View,
}

/// The learnt map of edges.
#[derive(Clone, Debug, Default)]
struct View {
    map: Vec<f32>,
    over: Duration,
    searched: Option<(MonoMicros, bool)>,
    moved_since: Option<MonoMicros>,
}

impl PictureHealth {
    /// Knows nothing yet.
    pub fn new(config: &PictureConfig) -> Self {
        let streak = |after: Option<Duration>| after.map(|after| Streak::new(after, RECOVER));
        Self {
            masked: streak(config.masked),
            plain: None,
            frozen: streak(config.frozen),
            dark: streak(config.dark),
            occluded: streak(config.occluded),
            moved: streak(config.moved),
            defocused: streak(config.defocused),
            last: None,
            repeats: Repeats::default(),
            detail: Usual::default(),
            sharpness: Usual::default(),
            contrast: Usual::default(),
            noise: Usual::default(),
            sharpness_now: Usual::default(),
            edges: Vec::new(),
            view: View::default(),
        }
    }

    /// What is wrong now.
    pub fn fault(&self) -> Option<PictureFault> {
        let on = |streak: &Option<Streak>| streak.as_ref().is_some_and(Streak::is_on);
        [
            (&self.masked, PictureFault::Masked),
            (&self.frozen, PictureFault::Frozen),
            (&self.dark, PictureFault::Dark),
            (&self.occluded, PictureFault::Occluded),
            (&self.moved, PictureFault::Moved),
            (&self.defocused, PictureFault::Defocused),
        ]
        .into_iter()
        .find(|(streak, _)| on(streak))
        .map(|(_, fault)| fault)
    }

    /// Takes the next sampled picture.
    pub fn take(&mut self, picture: &PictureSample<'_>) -> Option<PictureFault> {
        let before = self.last.replace((picture.at, picture.session));
        let step = match before {
            Some((at, session)) if session == picture.session => {
                picture.at.since(at).min(LONGEST_STEP)
            }
            // The camera was away, and nothing is known of that time.
            _ => {
                self.repeats.forget();
                Duration::ZERO
            }
        };
        let has_cells = picture.has_cells && picture.cells.len() == GRID.0 * GRID.1;
        if has_cells && self.judge_masked(picture.cells, step) {
            return self.fault();
        }
        self.judge_frozen(picture, step);
        let is_frozen = self.frozen.as_ref().is_some_and(Streak::is_on);
        if has_cells && !is_frozen {
            self.judge_view(picture, step);
        }
        self.fault()
    }

    /// Whether the picture is plain, so that nothing else can be said of it.
    fn judge_masked(&mut self, cells: &[f32], step: Duration) -> bool {
        let Some(masked) = &mut self.masked else {
            return false;
        };
        let level = plain_level(cells);
        let before = std::mem::replace(&mut self.plain, level);
        // A synthetic picture has no moments of something else, nor does it get brighter.
        let goes_on = level.zip(before).is_some_and(|(a, b)| a.abs_diff(b) <= 1);
        if !goes_on && !masked.is_on() {
            *masked = masked.anew();
        }
        masked.step(level.is_some(), step);
        if level.is_some_and(is_night)
            && let Some(dark) = &mut self.dark
        {
            dark.step(true, step);
        }
        level.is_some()
    }

    fn judge_frozen(&mut self, picture: &PictureSample<'_>, step: Duration) {
        let Some(streak) = &mut self.frozen else {
            return;
        };
        let stale = self.repeats.is_stale(picture.at, picture.scan.digest);
        if !streak.has_begun() {
            self.repeats.keys_at_begin = picture.key_units;
        }
        let keys = picture.key_units.saturating_sub(self.repeats.keys_at_begin);
        // Time before the second key unit counts, but does not decide.
        let step = if streak.is_on() || keys >= KEY_UNITS {
            step
        } else {
            let left = streak.left().saturating_sub(Duration::from_micros(1));
            step.min(left)
        };
        streak.step(stale, step);
    }

    fn judge_view(&mut self, picture: &PictureSample<'_>, step: Duration) {
        let brightness = Brightness::of(picture.cells);
        let is_dark = brightness.mean < DARK.0 && brightness.p95 < DARK.1;
        if let Some(dark) = &mut self.dark {
            dark.step(is_dark, step);
        }
        if is_dark {
            return;
        }
        let detail = edges(picture.cells, brightness.mean, &mut self.edges);
        let is_occluded = detail < NO_DETAIL
            || (self.detail.is_known() && detail < DETAIL_LEFT * self.detail.value);
        if let Some(occluded) = &mut self.occluded {
            occluded.step(is_occluded, step);
        }
        if is_occluded {
            return;
        }
        self.detail.learn(detail, step, LEARN);
        self.judge_moved(picture.at, step);
        self.judge_defocused(&picture.scan, brightness.spread, step);
    }

    fn judge_moved(&mut self, at: MonoMicros, step: Duration) {
        let Some(moved) = &mut self.moved else { return };
        let view = &mut self.view;
        if view.over < FIRST_LOOK {
            view.learn(&self.edges, step);
            return;
        }
        let is_elsewhere = view.is_elsewhere(&self.edges, at);
        let is_on = moved.step(is_elsewhere, step);
        if !is_elsewhere {
            view.learn(&self.edges, step);
        }
        if !is_on {
            view.moved_since = None;
        } else if at.since(*view.moved_since.get_or_insert(at)) >= ACCEPT_VIEW {
            *view = View::default();
            *moved = moved.anew();
            self.detail = Usual::default();
            self.sharpness = Usual::default();
            self.contrast = Usual::default();
        }
    }

    fn judge_defocused(&mut self, scan: &Scan, contrast: f32, step: Duration) {
        let Some(defocused) = &mut self.defocused else {
            return;
        };
        let has_moved = self.moved.as_ref().is_some_and(Streak::has_begun);
        let known = self.sharpness.is_known();
        let is_noisy = known && scan.noise > 2.0 * self.noise.value + 1.0;
        let is_pale = known && contrast < CONTRAST_LEFT * self.contrast.value;
        if has_moved || is_noisy || is_pale {
            return;
        }
        // Nothing that counts as an edge is as soft as can be.
        let sharpness = scan.fine / scan.coarse.max(f32::MIN_POSITIVE);
        let is_rising = sharpness > self.sharpness_now.value;
        self.sharpness_now
            .learn(sharpness, step, SMOOTH[usize::from(is_rising)]);
        let is_soft = known && self.sharpness_now.value < SHARPNESS_LEFT * self.sharpness.value;
        defocused.step(is_soft, step);
        if !is_soft {
            self.sharpness
                .learn(self.sharpness_now.value, step, LEARN_SHARPNESS);
            self.contrast.learn(contrast, step, LEARN);
            self.noise.learn(scan.noise, step, LEARN);
        }
    }
}

impl View {
    fn learn(&mut self, edges: &[f32], step: Duration) {
        if self.map.len() != edges.len() {
            self.map = vec![0.0; edges.len()];
            self.over = Duration::ZERO;
        }
        self.over = self.over.saturating_add(step).min(LEARN);
        if self.over.is_zero() {
            self.map.copy_from_slice(edges);
            return;
        }
        let share = (step.as_secs_f32() / self.over.as_secs_f32()).min(1.0);
        for (usual, now) in self.map.iter_mut().zip(edges) {
            *usual += (now - *usual) * share;
        }
    }

    /// Whether this is another view than the learnt one.
    fn is_elsewhere(&mut self, edges: &[f32], at: MonoMicros) -> bool {
        let here = correlation(edges, &self.map, WIDTH, (0, 0));
        if !(OTHER_VIEW..SAME_VIEW).contains(&here) {
            self.searched = None;
            return here < OTHER_VIEW;
        }
        if let Some((when, found)) = self.searched
            && at.since(when) < SEARCH_EVERY
        {
            return found;
        }
        // Of a map of half the size: a quarter of the work for each shift, and twice as far.
        let (now, usual) = (halved(edges), halved(&self.map));
        let here = correlation(&now, &usual, WIDTH / 2, (0, 0));
        let fits_better = |shift: (i32, i32)| {
            correlation(&now, &usual, WIDTH / 2, shift) >= here + BETTER_ELSEWHERE
        };
        let found = (-SEARCH.1..=SEARCH.1)
            .flat_map(|dy| (-SEARCH.0..=SEARCH.0).map(move |dx| (dx, dy)))
            .any(fits_better);
        self.searched = Some((at, found));
        found
    }
}

struct Brightness {
    mean: f32,
    /// Standard deviation.
    spread: f32,
    p95: u8,
}

impl Brightness {
    fn of(cells: &[f32]) -> Self {
        let mut histogram = [0_u32; 256];
        let (mut sum, mut squares) = (0.0, 0.0);
        for &cell in cells {
            sum += cell;
            squares += cell * cell;
            histogram[usize::from(cell as u8)] += 1;
        }
        let mut above = cells.len() as u32 / 20;
        let p95 = (0..=255_u8).rev().find(|level| {
            let n = histogram[usize::from(*level)];
            let reached = n > above;
            above = above.saturating_sub(n);
            reached
        });
        let n = cells.len().max(1) as f32;
        let mean = sum / n;
        Self {
            mean,
            spread: (squares / n - mean * mean).max(0.0).sqrt(),
            p95: p95.unwrap_or(0),
        }
    }
}

/// Fills `map` with the edge in each cell, as a multiple of what counts as one, and returns the share
/// of cells that have one.
fn edges(cells: &[f32], mean: f32, map: &mut Vec<f32>) -> f32 {
    let (w, h) = (GRID.0, GRID.1);
    let least = (EDGE.0 * mean).max(EDGE.1);
    map.clear();
    let mut count = 0_u32;
    for y in 0..h - 1 {
        let (row, below) = (&cells[y * w..(y + 1) * w], &cells[(y + 1) * w..(y + 2) * w]);
        for x in 0..w - 1 {
            let edge = ((row[x + 1] - row[x]).abs() + (below[x] - row[x]).abs()) / least;
            count += u32::from(edge > 1.0);
            map.push(edge.min(STRONGEST_EDGE));
        }
    }
    count as f32 / map.len().max(1) as f32
}

/// Cells of the map of edges across: one less than of the grid.
const WIDTH: usize = GRID.0 - 1;

/// Sums of two by two cells.
fn halved(map: &[f32]) -> Vec<f32> {
    let pairs = map.chunks_exact(WIDTH).collect::<Vec<_>>();
    let pairs = pairs.chunks_exact(2);
    pairs
        .flat_map(|rows| {
            let sums = rows[0].chunks_exact(2).zip(rows[1].chunks_exact(2));
            sums.map(|(a, b)| a[0] + a[1] + b[0] + b[1])
        })
        .collect()
}

/// Pearson's, of `a` and of `b` shifted by whole cells, where both have cells; 0 where one is flat.
/// Both are `width` across.
fn correlation(a: &[f32], b: &[f32], width: usize, (dx, dy): (i32, i32)) -> f32 {
    let (w, h) = (width as i32, (a.len() / width) as i32);
    let columns = (w - dx.abs()) as usize;
    let (mut n, mut sums) = (0, [0.0_f32; 5]);
    for y in dy.max(0)..h + dy.min(0) {
        let at = |y: i32, x: i32| (y * w + x) as usize;
        let a = &a[at(y, dx.max(0))..][..columns];
        let b = &b[at(y - dy, (-dx).max(0))..][..columns];
        let mut row = [0.0_f32; 5];
        for (&a, &b) in a.iter().zip(b) {
            for (sum, term) in row.iter_mut().zip([a, b, a * a, b * b, a * b]) {
                *sum += term;
            }
        }
        for (sum, row) in sums.iter_mut().zip(row) {
            *sum += row;
        }
        n += columns;
    }
    let [a, b, aa, bb, ab] = sums.map(|s| s / n.max(1) as f32);
    let spread = ((aa - a * a) * (bb - b * b)).max(0.0).sqrt();
    if spread > 1e-6 {
        (ab - a * b) / spread
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
