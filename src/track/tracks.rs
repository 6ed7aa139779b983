//! What track hands to rules: the objects of a camera after one picture.
use crate::base::geometry::NormRect;
use crate::base::ids::{CameraIx, ClassId};
use crate::base::time::{FrameStamp, MonoMicros};

/// Unique per camera until the process restarts; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u64);

/// How sure the tracker is that the object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackState {
    /// Seen too few times to count.
    Tentative,
    /// Seen in this picture, and often enough before.
    Confirmed,
    /// Confirmed once, not seen in this picture; its box is predicted.
    Lost,
}

/// One object over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Its name.
    pub id: TrackId,
    /// The class of its newest detection. It may change from picture to picture within one class
    /// group (a face seen masked, then bare, is one track).
    pub class: ClassId,
    /// See [`TrackState`].
    pub state: TrackState,
    /// Where it is: the newest detection's box, or the predicted one while lost.
    pub rect: NormRect,
    /// The newest detection's score, `0.0..=1.0`.
    pub score: f32,
    /// Receipt of the first picture that showed it.
    pub first_seen: MonoMicros,
    /// Receipt of the newest picture that showed it.
    pub last_seen: MonoMicros,
    /// Pictures that showed it.
    pub hits: u32,
}

/// All live tracks of a camera after one picture; the only thing rules see. May be empty.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackSet {
    /// Whose picture.
    pub camera: CameraIx,
    /// When it was received.
    pub stamp: FrameStamp,
    /// The tracks, by rising id.
    pub tracks: Vec<Track>,
}
