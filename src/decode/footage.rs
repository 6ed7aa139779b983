//! All pictures of a recorded clip, one after the other: for what is done to a clip as a whole.
//!
//! What must not be here: the clock, cameras, queues; a live camera's pictures are `sampling.rs`'s.
use std::path::Path;

use super::ffmpeg::{Clips, DecodeError, Decoder, Picture};
use super::frame::Frame;
use crate::base::geometry::SizePx;
use crate::base::time::{FrameStamp, Pts90k};
use crate::capture::{CaptureError, OpenContainer as _};

/// Why a clip was not shown to its end.
#[derive(Debug, thiserror::Error)]
pub enum FootageError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CaptureError),
    /// What is in it cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Whoever looked at the pictures wants no more of them.
    #[error("{0}")]
    Stopped(String),
}

/// Shows every picture of `clip` that decodes to `each`, in the order of their times, which are in
/// `stamp.pts`, from the clip's beginning; `stamp.seq` counts them. Those that are longer than
/// `most_px` on a side are shrunk to that; sides are even. Blocking.
///
/// The same file gives the same pictures each time.
///
/// # Errors
/// [`FootageError`]. Damage in the middle is none: the pictures up to the next key unit are left out.
pub fn each_picture(
    clip: &Path,
    most_px: u32,
    each: &mut dyn FnMut(&mut Frame) -> Result<(), String>,
) -> Result<(), FootageError> {
    let mut container = Clips.open(clip)?;
    let codec = container.info().codec;
    let mut decoder = Decoder::new(codec)?;
    let mut show = Show {
        frame: Frame::new(SizePx::default(), Vec::new()),
        most_px,
        shown: 0,
        each,
    };
    let mut wait_for_key = true;
    while let Some(unit) = container.next_unit()? {
        if wait_for_key && !unit.is_key {
            continue;
        }
        wait_for_key = false;
        let decoded = decoder.send(&unit.data, unit.pts.0);
        let decoded = decoded
            .map_err(FootageError::from)
            .and_then(|()| show.all(&mut decoder));
        match decoded {
            Ok(()) => {}
            Err(FootageError::Decode(DecodeError::Refused(_))) => {
                decoder = Decoder::new(codec)?;
                wait_for_key = true;
            }
            Err(e) => return Err(e),
        }
    }
    decoder.finish()?;
    match show.all(&mut decoder) {
        Err(FootageError::Decode(DecodeError::Refused(_))) => Ok(()),
        other => other,
    }
}

struct Show<'e> {
    frame: Frame,
    most_px: u32,
    shown: u64,
    each: &'e mut dyn FnMut(&mut Frame) -> Result<(), String>,
}

impl Show<'_> {
    fn all(&mut self, decoder: &mut Decoder) -> Result<(), FootageError> {
        while let Some(picture) = decoder.picture()? {
            self.one(picture)?;
        }
        Ok(())
    }

    fn one(&mut self, picture: Picture<'_>) -> Result<(), FootageError> {
        self.frame.stamp = FrameStamp {
            seq: self.shown,
            pts: Pts90k(picture.tag),
            ..FrameStamp::default()
        };
        let size = shrunk(picture.size, self.most_px);
        picture.copy_at(size, &mut self.frame)?;
        self.shown += 1;
        (self.each)(&mut self.frame).map_err(FootageError::Stopped)
    }
}

/// `size`, at most `most_px` on a side, with even sides.
fn shrunk(size: SizePx, most_px: u32) -> SizePx {
    let longer = size.width_px.max(size.height_px).max(1);
    let scale = f64::from(most_px.min(longer)) / f64::from(longer);
    let side = |px: u32| ((f64::from(px) * scale) as u32 / 2 * 2).max(2);
    SizePx {
        width_px: side(size.width_px),
        height_px: side(size.height_px),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Film, FilmError, YuvMatrix};

    /// A bright square that goes to the right.
    fn picture(n: usize, width_px: u32, height_px: u32) -> Frame {
        let size = SizePx {
            width_px,
            height_px,
        };
        let mut pixels = vec![128; Frame::byte_len(size)];
        for y in 8..24 {
            pixels[y * width_px as usize + 4 * n..][..16].fill(220);
        }
        Frame {
            stamp: FrameStamp {
                pts: Pts90k(n as i64 * 3600),
                ..FrameStamp::default()
            },
            matrix: YuvMatrix::Bt709,
            ..Frame::new(size, pixels)
        }
    }

    #[test]
    fn what_is_filmed_comes_back_picture_for_picture() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.part");
        let mut film = Film::begin(&path, &picture(0, 128, 64), 25.0).unwrap();
        for n in 0..20 {
            film.add(&picture(n, 128, 64)).unwrap();
        }
        film.finish().unwrap();
        let mut shown = 0;
        each_picture(&path, 960, &mut |frame| {
            let sent = picture(shown, 128, 64);
            assert_eq!((frame.stamp.pts, frame.size), (sent.stamp.pts, sent.size));
            assert_eq!(frame.stamp.seq, shown as u64);
            assert_eq!((frame.full_range, frame.matrix), (false, YuvMatrix::Bt709));
            let off = frame
                .pixels
                .iter()
                .zip(sent.pixels.iter())
                .map(|(a, b)| u64::from(a.abs_diff(*b)));
            let off = off.sum::<u64>() / sent.pixels.len() as u64;
            assert!(off < 4, "picture {shown} is {off} off on average");
            shown += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(shown, 20);
        // Whoever looks may have seen enough.
        let stopped = each_picture(&path, 64, &mut |frame| {
            assert_eq!(frame.size.width_px, 64);
            Err("enough".to_owned())
        });
        assert!(matches!(stopped, Err(FootageError::Stopped(why)) if why == "enough"));
    }

    #[test]
    fn a_film_takes_no_odd_size_and_no_picture_of_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.part");
        for (w, h) in [(127, 64), (128, 63), (8, 64)] {
            let first = Frame {
                size: SizePx {
                    width_px: w,
                    height_px: h,
                },
                ..picture(0, 128, 64)
            };
            let refused = Film::begin(&path, &first, 25.0).unwrap_err();
            assert!(matches!(refused, FilmError::Misfit(_)), "{refused}");
        }
        let mut film = Film::begin(&path, &picture(0, 128, 64), 25.0).unwrap();
        let refused = film.add(&picture(0, 64, 128)).unwrap_err();
        assert!(matches!(refused, FilmError::Misfit(_)), "{refused}");
        let nowhere = dir.path().join("no/film.part");
        let refused = Film::begin(&nowhere, &picture(0, 128, 64), 25.0).unwrap_err();
        assert!(matches!(refused, FilmError::Unwritable { .. }), "{refused}");
    }

    #[test]
    fn what_is_no_clip_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.mp4");
        std::fs::write(&path, "no clip").unwrap();
        let error = each_picture(&path, 960, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("clip.mp4"), "{error}");
    }

    #[test]
    fn a_picture_is_shrunk_to_even_sides_and_never_enlarged() {
        let to = |w, h, most| {
            let size = SizePx {
                width_px: w,
                height_px: h,
            };
            let size = shrunk(size, most);
            (size.width_px, size.height_px)
        };
        assert_eq!(to(1920, 1080, 960), (960, 540));
        assert_eq!(to(1080, 1920, 960), (540, 960));
        assert_eq!(to(640, 359, 960), (640, 358));
        assert_eq!(to(4000, 3, 960), (960, 2));
        assert_eq!(to(0, 0, 960), (2, 2));
    }
}
