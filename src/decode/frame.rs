//! What decode hands to detect: one decoded picture.
use std::time::Duration;

use crate::base::geometry::{NormRect, SizePx};
use crate::base::ids::CameraIx;
use crate::base::pool::{Pool, Pooled};
use crate::base::time::{FrameStamp, MonoMicros};

/// How luma and chroma become RGB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum YuvMatrix {
    /// ITU-R BT.601: standard definition, and what most cameras mean when they say nothing.
    #[default]
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

/// The bytes of a picture.
pub type Pixels = Pooled<u8>;
/// Where they come from and go to; a site has one.
pub type FramePool = Pool<u8>;

/// One decoded picture in planar YUV 4:2:0, 8 bits, without padding between rows.
///
/// Layout of `pixels`: `width x height` bytes of Y, then `ceil(w/2) x ceil(h/2)` of U, then of V.
#[derive(Clone)]
pub struct Frame {
    /// Whose picture.
    pub camera: CameraIx,
    /// When it was received.
    pub stamp: FrameStamp,
    /// Its size.
    pub size: SizePx,
    /// Y spans 0..=255 if set, else 16..=235.
    pub full_range: bool,
    /// Which matrix turns it into RGB.
    pub matrix: YuvMatrix,
    /// The three planes.
    pub pixels: Pixels,
    /// Where it moves, or did a moment ago, the largest first: for a look at the camera's own pixels.
    /// Empty where nothing is known of motion.
    pub moving: Pooled<NormRect>,
    /// The camera's next picture comes no later than this after it, if the camera goes on. For a picture that was not
    /// decoded from a stream, zero.
    pub next_within: Duration,
    /// When decoding ended; `stamp.received` to here is the decode latency.
    pub decoded: MonoMicros,
}

impl Frame {
    /// A picture of limited range that is from no camera and no time.
    pub fn new(size: SizePx, pixels: impl Into<Pixels>) -> Self {
        Self {
            camera: CameraIx(0),
            stamp: FrameStamp::default(),
            size,
            full_range: false,
            matrix: YuvMatrix::default(),
            pixels: pixels.into(),
            moving: Pooled::default(),
            next_within: Duration::ZERO,
            decoded: MonoMicros::default(),
        }
    }

    /// Bytes that `pixels` must have for `size`.
    pub fn byte_len(size: SizePx) -> usize {
        let (w, h) = (size.width_px as usize, size.height_px as usize);
        w * h + 2 * w.div_ceil(2) * h.div_ceil(2)
    }

    /// The planes Y, U and V.
    pub fn planes(&self) -> [&[u8]; 3] {
        let (w, h) = (self.size.width_px as usize, self.size.height_px as usize);
        let (luma, rest) = self.pixels.split_at(w * h);
        let (u, v) = rest.split_at(w.div_ceil(2) * h.div_ceil(2));
        [luma, u, v]
    }
}

impl std::fmt::Debug for Frame {
    /// Everything but the pixels.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("camera", &self.camera.0)
            .field("stamp", &self.stamp)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
