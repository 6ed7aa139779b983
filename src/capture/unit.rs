//! What capture hands to decode: one encoded picture.
use bytes::Bytes;

use crate::base::geometry::SizePx;
use crate::base::ids::CameraIx;
use crate::base::time::FrameStamp;

/// The video codecs the pipeline takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
}

impl Codec {
    /// The name used in payloads and logs: `h264` or `h265`.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
        }
    }
}

/// What a source said of its video when the session began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// The codec.
    pub codec: Codec,
    /// Picture size from the parameter sets, if they came with the description.
    pub size: Option<SizePx>,
    /// `Server` or tool name, for people; `None` if the source gave none.
    pub tool: Option<String>,
}

/// One encoded picture.
#[derive(Clone)]
pub struct AccessUnit {
    /// Whose picture.
    pub camera: CameraIx,
    /// When it came.
    pub stamp: FrameStamp,
    /// How it is encoded.
    pub codec: Codec,
    /// Decodable by itself, and nothing after it refers to anything before it.
    pub is_key: bool,
    /// Nothing refers to it: it can be skipped without harm.
    pub is_disposable: bool,
    /// RTP packets lost just before this unit.
    pub packets_lost: u16,
    /// Annex B byte stream (ITU-T H.264/H.265 annex B), parameter sets before each key unit.
    pub data: Bytes,
}

impl std::fmt::Debug for AccessUnit {
    /// Everything but the picture's bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessUnit")
            .field("camera", &self.camera.0)
            .field("stamp", &self.stamp)
            .field("codec", &self.codec)
            .field("is_key", &self.is_key)
            .field("packets_lost", &self.packets_lost)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}
