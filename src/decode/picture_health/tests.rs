use std::path::{Path, PathBuf};

use super::*;
use crate::base::geometry::SizePx;
use crate::base::ids::CameraIx;
use crate::base::metrics::Metrics;
use crate::base::time::{ManualClock, UtcMicros};
use crate::capture::OpenContainer as _;
use crate::decode::motion::MotionDetector;
use crate::decode::scan::LumaScan;
use crate::decode::{Clips, DecodeConfig, Decoder, FrameSampler};

const S: Duration = Duration::from_secs(1);
const FPS: u64 = 4;

/// Far shorter than a site's, so that a clip of seconds would show a false alarm.
fn quick() -> PictureConfig {
    PictureConfig {
        masked: Some(3 * S),
        frozen: Some(10 * S),
        dark: Some(3 * S),
        occluded: Some(3 * S),
        moved: Some(5 * S),
        defocused: Some(5 * S),
    }
}

/// A picture's luma.
#[derive(Clone)]
struct Luma {
    width: usize,
    rows: Vec<u8>,
}

impl Luma {
    fn map(&self, f: impl Fn(u8) -> u8) -> Self {
        Self {
            width: self.width,
            rows: self.rows.iter().map(|v| f(*v)).collect(),
        }
    }

    /// What the lens shows when it is out of focus: a mean over `2 radius + 1` pixels, twice.
    fn blurred(&self, radius: usize) -> Self {
        let mut out = self.clone();
        for _ in 0..2 {
            for row in out.rows.chunks_mut(self.width) {
                let line = row.to_vec();
                for (x, v) in row.iter_mut().enumerate() {
                    let part = &line[x.saturating_sub(radius)..(x + radius + 1).min(line.len())];
                    let sum: usize = part.iter().map(|v| usize::from(*v)).sum();
                    *v = (sum / part.len()) as u8;
                }
            }
        }
        out
    }

    /// Turned to the right by `share` of its width; what comes into view is what is at its edge,
    /// mirrored.
    fn turned(&self, share: f32) -> Self {
        let by = (self.width as f32 * share) as usize;
        let mut out = self.clone();
        for (to, from) in out
            .rows
            .chunks_mut(self.width)
            .zip(self.rows.chunks(self.width))
        {
            for (x, v) in to.iter_mut().enumerate() {
                let at = x + by;
                let last = self.width - 1;
                *v = from[if at > last { 2 * last - at } else { at }];
            }
        }
        out
    }

    /// Something large and pale close to the lens: nearly uniform, with a soft gradient.
    fn covered(&self) -> Self {
        let width = self.width;
        Self {
            width,
            rows: (0..self.rows.len())
                .map(|i| 90 + (i % width * 40 / width) as u8)
                .collect(),
        }
    }

    /// What the camera sends while its privacy mask is on: one colour, a logo, and a clock of `digits`
    /// with the soft edges that coding gives them.
    fn privacy_mask(&self, level: u8, digits: u64) -> Self {
        let (width, height) = (self.width, self.rows.len() / self.width);
        let mut out = self.map(|_| level);
        let mut mark = |x0: usize, y0: usize, w: usize, h: usize, seed: u64| {
            let mut rng = fastrand::Rng::with_seed(seed);
            for y in y0..y0 + h {
                for x in (x0..x0 + w).step_by(4) {
                    let v = level.wrapping_add(rng.u8(40..200));
                    out.rows[y * width + x..][..4].copy_from_slice(&[level ^ 1, v, v, level ^ 2]);
                }
            }
        };
        mark(width / 2, height / 2, width / 10, height / 8, 1);
        mark(16, 16, width / 4, height / 30, digits);
        out
    }
}

/// A camera whose pictures are given one by one, four a second.
#[derive(Clone)]
struct Camera {
    health: PictureHealth,
    motion: MotionDetector,
    scan: LumaScan,
    pictures: u64,
    noise: fastrand::Rng,
}

impl Camera {
    fn new(config: &PictureConfig) -> Self {
        Self {
            health: PictureHealth::new(config),
            motion: MotionDetector::new(),
            scan: LumaScan::new(),
            pictures: 0,
            noise: fastrand::Rng::with_seed(7),
        }
    }

    fn see(&mut self, luma: &Luma) -> Option<PictureFault> {
        let size = SizePx {
            width_px: luma.width as u32,
            height_px: (luma.rows.len() / luma.width) as u32,
        };
        let scan = &mut self.scan;
        self.motion.changed(size, 2, |step, row| {
            for pixels in luma.rows.chunks(luma.width).step_by(step) {
                scan.row(pixels);
                row(pixels);
            }
        });
        self.pictures += 1;
        self.health.take(&PictureSample {
            at: MonoMicros(self.pictures * 1_000_000 / FPS),
            session: 1,
            // One key unit every 2 s.
            key_units: self.pictures / (2 * FPS),
            scan: self.scan.finish(),
            cells: self.motion.means(),
            has_cells: self.motion.has_all_cells(),
        })
    }

    /// A sensor never gives the same picture twice.
    fn see_with_noise(&mut self, luma: &Luma) -> Option<PictureFault> {
        let mut luma = luma.clone();
        for v in luma.rows.iter_mut().step_by(31) {
            *v = v.saturating_add(self.noise.u8(0..3));
        }
        self.see(&luma)
    }

    /// Shows `pictures` again and again for `seconds`, altered; the answers.
    fn watch(
        &mut self,
        seconds: u64,
        pictures: &[Luma],
        alter: impl Fn(&Luma) -> Luma,
    ) -> Vec<Option<PictureFault>> {
        let altered: Vec<Luma> = pictures.iter().map(alter).collect();
        let (there, back) = (altered.iter(), altered.iter().rev());
        there
            .chain(back)
            .cycle()
            .take((seconds * FPS) as usize)
            .map(|luma| self.see_with_noise(luma))
            .collect()
    }
}

fn clip_luma(path: &Path) -> Vec<Luma> {
    let mut clip = Clips.open(path).unwrap();
    let mut decoder = Decoder::new(clip.info().codec).unwrap();
    let mut pictures = Vec::new();
    let mut due = 0;
    while let Some(unit) = clip.next_unit().unwrap() {
        decoder.send(&unit.data, unit.pts.0).unwrap();
        while let Some(picture) = decoder.picture().unwrap() {
            if picture.tag >= due {
                due = picture.tag + 90_000 / FPS as i64;
                let mut rows = Vec::new();
                picture.luma_rows(1, |row| rows.extend_from_slice(row));
                pictures.push(Luma {
                    width: picture.size.width_px as usize,
                    rows,
                });
            }
        }
    }
    pictures
}

fn demo_clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/demo/kitchen.mp4")
}

#[cfg(has_shared)]
fn shared(name: &str) -> PathBuf {
    let shared = std::env::var("MINGCHU_SHARED").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    shared.join("data/clips").join(name)
}

/// The clip as the daemon sees it: all faults that were told, each once.
fn faults_of(path: &Path, motion_gate: bool) -> Vec<PictureFault> {
    let mut clip = Clips.open(path).unwrap();
    let codec = clip.info().codec;
    let mut config = DecodeConfig {
        picture: quick(),
        ..DecodeConfig::default()
    };
    if !motion_gate {
        config.motion = None;
    }
    let mut sampler = FrameSampler::new(CameraIx(0), "clip", config, &Metrics::default());
    let clock = ManualClock::new(MonoMicros(0), UtcMicros(0));
    let (mut seq, mut found) = (0, Vec::new());
    while let Some(unit) = clip.next_unit().unwrap() {
        seq += 1;
        let unit = unit.as_sent(CameraIx(0), codec, seq);
        sampler.feed(unit, &*clock, &mut |_| {}).unwrap();
        found.extend(sampler.picture_fault());
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Shows the scene altered, and then as it was: the fault comes within `limit_s`, no other does, and
/// it goes within 5 s.
fn comes_and_goes(
    camera: &Camera,
    pictures: &[Luma],
    fault: PictureFault,
    limit_s: u64,
    alter: impl Fn(&Luma) -> Luma,
) {
    let mut camera = camera.clone();
    let altered = camera.watch(limit_s, pictures, alter);
    assert_eq!(altered.last(), Some(&Some(fault)), "{altered:?}");
    assert!(
        altered.iter().flatten().all(|f| *f == fault),
        "another fault too: {altered:?}"
    );
    let after = camera.watch(8, pictures, Luma::clone);
    assert!(
        after[5 * FPS as usize..].iter().all(Option::is_none),
        "after: {after:?}"
    );
}

/// A camera that knows the scene.
fn used_to(pictures: &[Luma]) -> Camera {
    let mut camera = Camera::new(&quick());
    let told = camera.watch(20, pictures, Luma::clone);
    assert!(told.iter().all(Option::is_none), "{told:?}");
    camera
}

fn each_fault_shows_on(pictures: &[Luma]) {
    let camera = used_to(pictures);
    let shows = |fault, limit_s, alter: &dyn Fn(&Luma) -> Luma| {
        comes_and_goes(&camera, pictures, fault, limit_s, alter);
    };
    shows(PictureFault::Dark, 6, &|p| p.map(|v| 14 + v / 20));
    shows(PictureFault::Occluded, 6, &Luma::covered);
    shows(PictureFault::Moved, 10, &|p| p.turned(0.15));
    shows(PictureFault::Defocused, 30, &|p| p.blurred(5));
}

/// The picture stands still, bit for bit, and then goes on.
fn standing_still_shows_on(pictures: &[Luma]) {
    let mut camera = used_to(pictures);
    let told: Vec<_> = (0..15 * FPS).map(|_| camera.see(&pictures[0])).collect();
    let first = told.iter().position(Option::is_some);
    assert!(first.is_some_and(|n| n as u64 >= 10 * FPS), "{told:?}");
    assert_eq!(told.last(), Some(&Some(PictureFault::Frozen)), "{told:?}");
    let after = camera.watch(8, pictures, Luma::clone);
    assert!(
        after[5 * FPS as usize..].iter().all(Option::is_none),
        "{after:?}"
    );
}

/// The lens is masked for a while, with a clock that runs on and without anything that changes.
fn a_privacy_mask_shows_on(pictures: &[Luma]) {
    let used = used_to(pictures);
    for (level, ticks) in [(16, true), (60, false), (126, true), (180, false)] {
        let mut camera = used.clone();
        let told: Vec<_> = (0..20 * FPS)
            .map(|n| camera.see(&pictures[0].privacy_mask(level, if ticks { n } else { 0 })))
            .collect();
        let first = told.iter().position(Option::is_some).unwrap_or(0) as u64;
        assert!((3 * FPS..4 * FPS + 1).contains(&first), "{level}: {told:?}");
        let others = told
            .iter()
            .flatten()
            .filter(|f| **f != PictureFault::Masked);
        assert_eq!(others.count(), 0, "{level}: {told:?}");
        assert_eq!(told.last(), Some(&Some(PictureFault::Masked)));
        let after = camera.watch(8, pictures, Luma::clone);
        assert!(
            after[3 * FPS as usize..].iter().all(Option::is_none),
            "{level}, after: {after:?}"
        );
    }
}

fn lamps_are_no_fault_on(pictures: &[Luma]) {
    let mut camera = used_to(pictures);
    let mut told = Vec::new();
    told.extend(camera.watch(10, pictures, |p| p.map(|v| 16 + (v - v.min(16)) / 3)));
    told.extend(camera.watch(10, pictures, |p| p.map(|v| v.saturating_add(v / 3))));
    told.extend(camera.watch(10, pictures, |p| p.map(|v| 60 + v / 2)));
    assert!(told.iter().all(Option::is_none), "{told:?}");
}

#[test]
fn each_fault_shows_on_the_demos_clip_and_lamps_show_none() {
    // Its first seconds: the empty kitchen.
    let pictures = clip_luma(&demo_clip());
    each_fault_shows_on(&pictures[..16]);
    lamps_are_no_fault_on(&pictures[..16]);
}

#[test]
fn a_privacy_mask_is_told_apart_from_the_dark_and_from_what_stands_still() {
    let pictures = clip_luma(&demo_clip());
    a_privacy_mask_shows_on(&pictures[..16]);
    let used = used_to(&pictures[..16]);
    let told_of = |seconds: u64, show: &dyn Fn(&mut Camera, u64) -> Option<PictureFault>| {
        let mut camera = used.clone();
        let told: Vec<_> = (0..seconds * FPS).map(|n| show(&mut camera, n)).collect();
        let masked = told
            .iter()
            .flatten()
            .filter(|f| **f == PictureFault::Masked);
        assert_eq!(masked.count(), 0, "{told:?}");
        *told.last().unwrap()
    };
    // Too short; and another colour every second is no mask.
    let plain = |level: u8, n| pictures[0].privacy_mask(level, n);
    assert_eq!(told_of(2, &|c, n| c.see(&plain(126, n))), None);
    told_of(10, &|c, n| c.see(&plain(60 + (n / FPS) as u8 * 9, n)));
    // Black, but for its key pictures, in which the coder keeps the noise.
    let night = |c: &mut Camera, n: u64| {
        if n.is_multiple_of(2 * FPS) {
            c.see_with_noise(&plain(16, n))
        } else {
            c.see(&plain(16, n))
        }
    };
    assert_eq!(told_of(20, &night), Some(PictureFault::Dark));
    // White, to which a sensor clips.
    told_of(20, &|c, n| c.see(&plain(235, n)));
    // A smooth wall with the faintest noise.
    told_of(20, &|c, _| c.see_with_noise(&pictures[0].map(|_| 120)));
}

#[test]
fn the_demos_clip_is_without_fault() {
    assert_eq!(faults_of(&demo_clip(), true), []);
}

#[test]
fn a_frozen_picture_is_told_after_its_time_and_two_key_units() {
    let pictures = clip_luma(&demo_clip());
    let mut camera = Camera::new(&quick());
    let before = camera.watch(5, &pictures, Luma::clone);
    assert!(before.iter().all(Option::is_none));
    let told: Vec<_> = (0..60).map(|_| camera.see(&pictures[0])).collect();
    let first = told.iter().position(Option::is_some).unwrap() as u64;
    assert!((10 * FPS..11 * FPS).contains(&first), "{first}");
    assert_eq!(told[59], Some(PictureFault::Frozen));
    let after = camera.watch(4, &pictures, Luma::clone);
    assert_eq!(after[3 * FPS as usize], None, "{after:?}");

    // Without key units a coded still scene may repeat itself.
    let mut camera = Camera::new(&quick());
    let scan = Scan {
        digest: 1,
        ..Scan::default()
    };
    let mut see = |s: u64, key_units| {
        camera.health.take(&PictureSample {
            at: MonoMicros(s * 1_000_000),
            session: 1,
            key_units,
            scan,
            cells: &[],
            has_cells: false,
        })
    };
    assert!((1..100).all(|s| see(s, 1).is_none()));
    assert_eq!(see(100, 2), None);
    assert_eq!(see(101, 3), Some(PictureFault::Frozen));
}

#[test]
fn a_short_sequence_that_repeats_is_frozen_and_a_long_one_is_not() {
    for (length, want) in [
        (8, Some(PictureFault::Frozen)),
        (14, Some(PictureFault::Frozen)),
        (24, None),
    ] {
        let mut camera = Camera::new(&quick());
        let mut fault = None;
        for n in 0..120_u64 {
            fault = camera.health.take(&PictureSample {
                at: MonoMicros(n * 250_000),
                session: 1,
                key_units: n / 8,
                scan: Scan {
                    digest: n % length,
                    ..Scan::default()
                },
                cells: &[],
                has_cells: false,
            });
        }
        assert_eq!(fault, want, "{length} pictures");
    }
}

#[test]
fn a_new_session_is_not_compared_with_the_one_before() {
    let mut camera = Camera::new(&quick());
    let mut fault = None;
    for n in 0..200_u64 {
        fault = fault.or(camera.health.take(&PictureSample {
            at: MonoMicros(n * 1_000_000),
            // A camera that gives one picture and is lost again, with the same still each time.
            session: n as u32,
            key_units: n,
            scan: Scan::default(),
            cells: &[],
            has_cells: false,
        }));
    }
    assert_eq!(fault, None);
}

#[test]
fn a_new_view_is_the_usual_one_after_an_hour() {
    let pictures = clip_luma(&demo_clip());
    let mut camera = Camera::new(&PictureConfig {
        frozen: None,
        ..quick()
    });
    camera.watch(15, &pictures[..8], Luma::clone);
    let turned = pictures[0].turned(0.2);
    let mut see = |n: u64| {
        camera.pictures += 9 * FPS;
        (0..n).map(|_| camera.see_with_noise(&turned)).last()
    };
    // Ten seconds a picture.
    assert_eq!(
        (0..60).filter_map(|_| see(1).flatten()).last(),
        Some(PictureFault::Moved)
    );
    let told: Vec<_> = (0..400).map(|_| see(1).flatten()).collect();
    assert_eq!(told[200], Some(PictureFault::Moved));
    assert_eq!(told[399], None);
}

#[test]
fn what_is_off_is_not_looked_for() {
    let pictures = clip_luma(&demo_clip());
    let mut camera = Camera::new(&PictureConfig {
        masked: None,
        frozen: None,
        dark: None,
        occluded: None,
        moved: None,
        defocused: None,
    });
    let told = camera.watch(20, &pictures, |p| p.map(|_| 16));
    assert!(told.iter().all(Option::is_none));
}

#[cfg(has_shared)]
const FIXED: &[&str] = &[
    "room-one-by-one.mp4",
    "rat-trap-night-cctv.mp4",
    "street-pedestrians.mp4",
    "shop-masks-h265.mp4",
    "composite-rat-kitchen-night.mp4",
];

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn each_fault_shows_on_real_clips_of_fixed_cameras() {
    #[cfg(has_shared)]
    for name in FIXED {
        let pictures = clip_luma(&shared(name));
        let few = pictures.len().min(16);
        each_fault_shows_on(&pictures[..few]);
        a_privacy_mask_shows_on(&pictures[..few]);
        standing_still_shows_on(&pictures[..few]);
        lamps_are_no_fault_on(&pictures[..few]);
    }
}

/// Clips filmed from the hand, or cut together: their view does move.
#[cfg(has_shared)]
const MOVING: &[&str] = &[
    "cat-kitten.mp4",
    "dog-portrait.mp4",
    "kitchen-cook.mp4",
    "mask-on-off-closeup.mp4",
    "pan-steam.mp4",
    "rats-pet-handheld.mp4",
];

#[test]
#[cfg_attr(not(has_shared), ignore = "needs ../shared/data")]
fn real_clips_are_without_fault() {
    #[cfg(has_shared)]
    {
        let folder = shared("");
        let mut wrong = Vec::new();
        let mut clips = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "mp4") {
                continue;
            }
            clips += 1;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let mut faults = faults_of(&path, clips % 2 == 0);
            if MOVING.contains(&name.as_str()) {
                faults.retain(|f| *f != PictureFault::Moved);
            }
            if !faults.is_empty() {
                wrong.push((name, faults));
            }
        }
        assert!(clips >= 18, "only {clips} clips");
        assert_eq!(wrong, []);
    }
}
