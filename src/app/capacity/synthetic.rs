//! A clip for a box that has none: made on the spot, so that the command needs nothing but itself.
//!
//! A textured room with a sensor's noise, through which something as large as a person walks to and fro, so
//! that it is decoded, gated, converted and looked at as a kitchen would be. There is no face and no head
//! in it: what the models look at once more in a picture with people is not in what it costs.
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::cameras::Load;
use crate::base::geometry::SizePx;
use crate::base::time::Pts90k;
use crate::decode::{Film, Frame, YuvMatrix};

/// What people are told it is.
pub const NAME: &str = "built-in clip without people";
const SIZE: SizePx = SizePx {
    width_px: 1280,
    height_px: 720,
};
const FPS: u32 = 15;
/// Eight seconds: once to and fro.
const PICTURES: u32 = 120;
/// Who walks, in pixels.
const WALKER: (usize, usize) = (130, 380);

/// The folder goes, whatever comes.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(err = %e, "the folder {} stays", self.0.display());
        }
    }
}

/// Makes it, reads it, and leaves no file behind. Takes a few seconds.
///
/// # Errors
/// libavcodec has no H.264 encoder here, or there is no room for a file of a megabyte.
pub fn make() -> anyhow::Result<Load> {
    make_in(&std::env::temp_dir())
}

fn make_in(parent: &Path) -> anyhow::Result<Load> {
    let name = format!("mingchu-capacity-{:016x}", fastrand::u64(..));
    let folder = Folder(parent.join(name));
    // Fails if it exists: what somebody else put there is not ours to use or to remove.
    std::fs::create_dir(&folder.0).with_context(|| folder.0.display().to_string())?;
    let path = folder.0.join("clip.mp4");
    let mut random = fastrand::Rng::with_seed(1);
    // One noise for all pictures, each from another place in it on; no two pictures are alike.
    let (width, height) = (SIZE.width_px as usize, SIZE.height_px as usize);
    let noise: Vec<u8> = (0..width * height * 2).map(|_| random.u8(0..24)).collect();
    let room: Vec<u8> = (0..width * height)
        .map(|at| {
            let (x, y) = (at % width, at / width);
            let tile = (x / 40 + y / 40) % 2;
            (60 + 90 * x / width + 30 * tile) as u8
        })
        .collect();
    let mut frame = Frame {
        matrix: YuvMatrix::Bt709,
        ..Frame::new(SIZE, vec![128; Frame::byte_len(SIZE)])
    };
    let mut film = Film::begin(&path, &frame, f64::from(FPS))?;
    for n in 0..PICTURES {
        frame.stamp.pts = Pts90k(i64::from(n * 90_000 / FPS));
        let from = random.usize(0..width * height);
        for (at, pixel) in frame.pixels[..width * height].iter_mut().enumerate() {
            *pixel = room[at] + noise[from + at];
        }
        let way = width - WALKER.0;
        let there = (n * 2).min(2 * PICTURES - n * 2) as usize * way / PICTURES as usize;
        for y in height - WALKER.1 - 20..height - 20 {
            for at in y * width + there..y * width + there + WALKER.0 {
                frame.pixels[at] = 30 + noise[from + at];
            }
        }
        film.add(&frame)?;
    }
    film.finish()?;
    let mut load = Load::read(&path)?;
    NAME.clone_into(&mut load.about.path);
    Ok(load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::CameraIx;
    use crate::base::metrics::{Metric, Metrics};
    use crate::base::time::{FrameStamp, MonoMicros, SystemClock};
    use crate::capture::{AccessUnit, Codec};
    use crate::decode::{DecodeConfig, FrameSampler, can_film};

    #[test]
    fn it_moves_all_the_time_and_leaves_no_file() {
        assert!(can_film(), "libavcodec has no H.264 encoder here");
        let parent = tempfile::tempdir().unwrap();
        let load = make_in(parent.path()).unwrap();
        assert_eq!((load.clip.codec, load.clip.units.len()), (Codec::H264, 120));
        assert!(load.clip.units.iter().filter(|u| u.is_key).count() > 1);
        assert!((7.5..8.5).contains(&load.about.seconds), "{:?}", load.about);
        let metrics = Metrics::default();
        let config = DecodeConfig::default();
        let mut sampler = FrameSampler::new(CameraIx(0), "camera-1", config, &metrics);
        for (seq, unit) in (1..).zip(&load.clip.units) {
            let unit = AccessUnit {
                camera: CameraIx(0),
                stamp: FrameStamp {
                    seq,
                    session: 1,
                    pts: Pts90k(unit.pts_90k),
                    received: MonoMicros(unit.pts_90k as u64 * 100 / 9),
                    ..FrameStamp::default()
                },
                codec: load.clip.codec,
                is_key: unit.is_key,
                is_disposable: false,
                packets_lost: 0,
                data: unit.data.clone(),
            };
            sampler.feed(unit, &SystemClock, &mut |_| {}).unwrap();
        }
        assert!(metrics.total(Metric::FramesSampled) >= 31);
        assert_eq!(metrics.total(Metric::FramesStill), 0);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
