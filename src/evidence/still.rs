//! The deciding picture as JPEGs: as the camera saw it, and what of it may leave the site.
//!
//! What must not be here: files, and what a class means. Under the policy `faces` no JPEG is made for
//! others from a frame whose faces were not blurred first; if nobody knows where faces are, there is
//! the sealed original only, and it says why.
//! Runs on the analytics thread.
use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType};

use super::bundle::{ANNOTATED, FRAME, SEALED_FRAME};
use super::config::Redact;
use super::draw::{COLOURS, draw};
use super::redact::blur;
use crate::base::digest::sha256_hex;
use crate::base::geometry::NormRect;
use crate::decode::{Frame, YuvMatrix};

/// A picture that leaves the site is at most this large, so that none keeps a thin line busy for
/// minutes: its quality gives way.
pub const MOST_BYTES: usize = 256 * 1024;
/// Below this quality faces of steam and tiles look alike.
const LEAST_QUALITY: u8 = 30;
const QUALITY_STEP: u8 = 15;

/// The picture cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the picture cannot be encoded: {0}")]
pub struct EncodeError(pub String);

/// Feeds planar 4:2:0 to the encoder row by row, as the YCbCr it already is: JPEG (JFIF) wants
/// full-range BT.601, so other frames are converted per pixel and those that fit are only copied.
struct Rows<'f> {
    frame: &'f Frame,
    planes: [&'f [u8]; 3],
}

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.frame.size.width_px as u16
    }

    fn height(&self) -> u16 {
        self.frame.size.height_px as u16
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let w = self.frame.size.width_px as usize;
        let (half, row) = (w.div_ceil(2), usize::from(y));
        let luma = &self.planes[0][row * w..][..w];
        let cb = &self.planes[1][row / 2 * half..][..half];
        let cr = &self.planes[2][row / 2 * half..][..half];
        let byte = |v: f32| v.round().clamp(0.0, 255.0) as u8;
        for x in 0..w {
            let (mut yy, mut u, mut v) = (
                f32::from(luma[x]),
                f32::from(cb[x / 2]),
                f32::from(cr[x / 2]),
            );
            if !self.frame.full_range {
                yy = (yy - 16.0) * (255.0 / 219.0);
                u = (u - 128.0) * (255.0 / 224.0) + 128.0;
                v = (v - 128.0) * (255.0 / 224.0) + 128.0;
            }
            if self.frame.matrix == YuvMatrix::Bt709 {
                // BT.709 to BT.601, both full range (the product of the two standards' matrices).
                let (du, dv) = (u - 128.0, v - 128.0);
                yy += 0.1016 * du + 0.1963 * dv;
                u = 128.0 + 0.9899 * du - 0.1109 * dv;
                v = 128.0 - 0.0725 * du + 0.9834 * dv;
            }
            buffers[0].push(byte(yy));
            buffers[1].push(byte(u));
            buffers[2].push(byte(v));
        }
    }
}

/// The frame as a JPEG.
///
/// # Errors
/// [`EncodeError`], for pictures above 65,535 pixels a side for instance.
pub fn encode_jpeg(frame: &Frame, quality: u8) -> Result<Vec<u8>, EncodeError> {
    let limit = u32::from(u16::MAX);
    if frame.size.width_px > limit || frame.size.height_px > limit {
        return Err(EncodeError(format!("{} is too large for JPEG", frame.size)));
    }
    let mut out = Vec::with_capacity(frame.pixels.len() / 8);
    let mut encoder = Encoder::new(&mut out, quality.clamp(1, 100));
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    encoder
        .encode_image(Rows {
            frame,
            planes: frame.planes(),
        })
        .map_err(|e| EncodeError(e.to_string()))?;
    Ok(out)
}

/// The frame as a JPEG of at most [`MOST_BYTES`], of lower quality if it must be. Where even that
/// does not fit, the smallest.
fn encode_to_fit(frame: &Frame, quality: u8) -> Result<Vec<u8>, EncodeError> {
    let mut quality = quality;
    loop {
        let jpeg = encode_jpeg(frame, quality)?;
        if jpeg.len() <= MOST_BYTES || quality <= LEAST_QUALITY {
            return Ok(jpeg);
        }
        quality = quality.saturating_sub(QUALITY_STEP).max(LEAST_QUALITY);
    }
}

/// Where the faces of a picture are.
#[derive(Clone, Copy, Debug)]
pub enum Faces<'d> {
    /// Here, and nowhere else as far as the models saw.
    At(&'d [NormRect]),
    /// Nobody looked; why, for people.
    Unknown(&'static str),
}

/// A box that a finding speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct Marked {
    /// Where.
    pub rect: NormRect,
    /// What stands above it.
    pub label: String,
    /// Which of [`COLOURS`], modulo.
    pub colour: usize,
}

/// One JPEG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `frame` or `annotated`.
    pub kind: &'static str,
    /// Its file in the bundle.
    pub name: &'static str,
    /// The file's content.
    pub jpeg: Vec<u8>,
    /// Its digest.
    pub sha256: String,
    /// Whether its faces are blurred.
    pub redacted: bool,
    /// Why it stays at the site, if it does.
    pub withheld: Option<String>,
}

impl Picture {
    fn new(kind: &'static str, name: &'static str, jpeg: Vec<u8>, redacted: bool) -> Self {
        let sha256 = sha256_hex(&jpeg);
        Self {
            kind,
            name,
            jpeg,
            sha256,
            redacted,
            withheld: None,
        }
    }
}

/// What was made of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pictures {
    /// In the order they are sent.
    pub pictures: Vec<Picture>,
    /// Faces that were blurred.
    pub faces: u32,
    /// The frame as the camera saw it is not among them and should be sealed.
    pub seal_original: bool,
}

/// The frame for others: clean, and with `marked` drawn into it.
///
/// # Errors
/// [`EncodeError`].
pub fn pictures(
    frame: &Frame,
    marked: &[Marked],
    faces: Faces<'_>,
    redact: Redact,
    quality: u8,
) -> Result<Pictures, EncodeError> {
    let redacted = redact == Redact::Faces;
    let faces = match (faces, redact) {
        (Faces::Unknown(why), Redact::Faces) => {
            let jpeg = encode_jpeg(frame, quality)?;
            let withheld = Some(format!("faces could not be blurred: {why}"));
            let sealed = Picture::new("frame", SEALED_FRAME, jpeg, false);
            return Ok(Pictures {
                pictures: vec![Picture { withheld, ..sealed }],
                ..Pictures::default()
            });
        }
        (Faces::At(faces), Redact::Faces) => faces,
        (_, Redact::Off) => &[],
    };
    let mut copy = frame.clone();
    blur(&mut copy, faces);
    let clean = encode_to_fit(&copy, quality)?;
    // The surest last, on top.
    for m in marked.iter().rev() {
        draw(
            &mut copy,
            &m.rect,
            COLOURS[m.colour % COLOURS.len()],
            &m.label,
        );
    }
    let annotated = encode_to_fit(&copy, quality)?;
    Ok(Pictures {
        pictures: vec![
            Picture::new("frame", FRAME, clean, redacted),
            Picture::new("annotated", ANNOTATED, annotated, redacted),
        ],
        faces: faces.len() as u32,
        seal_original: !faces.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::SizePx;

    fn frame(width_px: u32, height_px: u32) -> Frame {
        let size = SizePx {
            width_px,
            height_px,
        };
        let pixels: Vec<u8> = (0..Frame::byte_len(size))
            .map(|i| (i * 7 % 256) as u8)
            .collect();
        Frame {
            matrix: YuvMatrix::Bt709,
            ..Frame::new(size, pixels)
        }
    }

    fn mark() -> Marked {
        Marked {
            rect: NormRect::clipped(0.2, 0.4, 0.6, 0.8),
            label: "head-bare 0.91".to_owned(),
            colour: 1,
        }
    }

    #[test]
    fn a_picture_is_a_jpeg_with_the_digest_it_claims() {
        let faces = [NormRect::clipped(0.3, 0.4, 0.5, 0.7)];
        let made = pictures(
            &frame(65, 33),
            &[mark()],
            Faces::At(&faces),
            Redact::Faces,
            80,
        );
        let made = made.unwrap();
        assert!(made.seal_original);
        assert_eq!(made.faces, 1);
        let names: Vec<_> = made.pictures.iter().map(|p| p.name).collect();
        assert_eq!(names, [FRAME, ANNOTATED]);
        for p in &made.pictures {
            assert!(p.redacted && p.withheld.is_none());
            assert_eq!(&p.jpeg[..2], [0xff, 0xd8]);
            assert_eq!(&p.jpeg[p.jpeg.len() - 2..], [0xff, 0xd9]);
            assert_eq!(sha256_hex(&p.jpeg), p.sha256);
        }
        assert_ne!(made.pictures[0].jpeg, made.pictures[1].jpeg);
    }

    #[test]
    fn without_a_word_on_faces_nothing_is_made_for_others() {
        let frame = frame(64, 48);
        let unknown = Faces::Unknown("no model here finds faces");
        let made = pictures(&frame, &[mark()], unknown, Redact::Faces, 80).unwrap();
        let [sealed] = &made.pictures[..] else {
            panic!("{made:?}");
        };
        assert_eq!((sealed.name, sealed.redacted), (SEALED_FRAME, false));
        let why = sealed.withheld.as_deref().unwrap();
        assert_eq!(why, "faces could not be blurred: no model here finds faces");
        let off = pictures(&frame, &[mark()], unknown, Redact::Off, 80).unwrap();
        assert!(off.pictures.iter().all(|p| p.withheld.is_none()));
        assert!(!off.seal_original);
    }

    #[test]
    fn a_picture_of_the_faces_policy_never_holds_the_face() {
        let plain = frame(128, 96);
        let face = NormRect::clipped(0.25, 0.25, 0.6, 0.6);
        let mut other = plain.clone();
        // Another face in the same place: rows in the opposite order, block means as good as equal.
        for y in 30..50 {
            other.pixels[y * 128 + 40..y * 128 + 70].reverse();
        }
        let make = |frame: &Frame, redact| {
            let made = pictures(frame, &[], Faces::At(&[face]), redact, 90);
            made.unwrap().pictures.swap_remove(0).jpeg
        };
        assert_ne!(make(&plain, Redact::Off), make(&other, Redact::Off));
        assert_ne!(make(&plain, Redact::Off), make(&plain, Redact::Faces));
    }

    #[test]
    fn a_busy_picture_gives_quality_to_stay_small() {
        let mut state = 1u32;
        let mut busy = frame(1280, 720);
        for p in busy.pixels.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *p = (state >> 26) as u8 + 100;
        }
        let made = pictures(&busy, &[], Faces::At(&[]), Redact::Faces, 90).unwrap();
        assert!(encode_jpeg(&busy, 90).unwrap().len() > MOST_BYTES);
        assert!(made.pictures[0].jpeg.len() <= MOST_BYTES);
        assert!(!made.seal_original, "nothing was blurred");
    }
}
