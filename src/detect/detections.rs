//! What detect hands to track: the boxes found in one picture.
use super::heads::HeadState;
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::pool::Pooled;
use crate::base::time::{FrameStamp, MonoMicros};

/// One box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// What it shows.
    pub class: ClassId,
    /// `0.0..=1.0`.
    pub score: f32,
    /// Where, as fractions of the original picture.
    pub rect: NormRect,
    /// What the classifier of heads says, where this is a head that it looked at.
    pub head: Option<HeadState>,
}

/// Everything the models saw in one picture, highest score first. May be empty: "looked and saw
/// nothing" is a result, and the rules count it as watched time.
#[derive(Clone, Debug, PartialEq)]
pub struct Detections {
    /// Whose picture.
    pub camera: CameraIx,
    /// When it was received.
    pub stamp: FrameStamp,
    /// The boxes.
    pub items: Pooled<Detection>,
    /// When inference ended.
    pub inferred: MonoMicros,
}
