//! Findings → evidence that can be checked: pictures, clip, a signed manifest of both.
//!
//! ```text
//! analytics: still (blur, draw, JPEG) → writer (bundle on the disk) ── committed ──> keeper (thread "evidence")
//! capture: gop_ring ── cut ──> clip ──────────────────────────────────────────────────^  seal, clip, sign, budget
//! the centre asks for a clip ──> blurred (thread "blur") ── copy without faces ───────^  sign
//! ```
//! What must not be here: what a class or a code means, how video is muxed, brokers. `verify` needs
//! nothing of a running daemon.
mod blurred;
mod budget;
mod bundle;
mod carry;
mod chain;
mod clip;
mod config;
mod disk;
mod draw;
mod index;
mod keeper;
mod key;
mod manifest;
mod redact;
mod still;
mod verify;
mod writer;

pub use blurred::{
    BlurAnswer, BlurError, Blurrer, Blurs, Each, FindFaces, Footage, MOST_PX, WriteFilm,
};
pub use bundle::{FRAME, folder_of};
pub use chain::Head;
pub use clip::{CameraRings, ClipSpan, Remux, SiteRings};
pub use config::{EvidenceConfig, EvidenceSettings, Redact};
pub use draw::{COLOURS, draw};
pub use index::{ClipFile, ClipState, EvidenceIndex};
pub use keeper::{Around, BEAT, Job, Jobs, Keeper, OpenError, Told};
pub use key::{KeyError, PublicKey};
pub use manifest::{
    ClockWord, DeletedBody, DerivedBody, Draft, ModelWord, RedactionWord, SiteName, SnapshotBody,
};
pub use still::{EncodeError, Faces, Marked, Picture, Pictures, encode_jpeg, pictures};
pub use verify::{Break, KeyFrom, Verdict, VerifyError, verify, verify_with_head};
pub use writer::{BundleWriter, WriteError};
