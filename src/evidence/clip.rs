//! Which part of the rings becomes a finding's clip.
//!
//! What must not be here: how a file is written; that is whoever implements [`Remux`].
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::config::EvidenceConfig;
use crate::base::ids::CameraIx;
use crate::base::time::{MonoMicros, UtcMicros};
use crate::capture::{AccessUnit, GopRing, RingCut};

/// Later than this, a clip's beginning counts as missed: a key unit that came a moment after is none.
const LATE: Duration = Duration::from_millis(500);

/// Writes compressed pictures into a file as they are.
pub trait Remux: Send {
    /// Writes `units` to `to`, which is made or replaced.
    ///
    /// # Errors
    /// Why not, for people.
    fn remux(&self, units: &[AccessUnit], to: &Path) -> Result<(), String>;
}

/// The rings of one camera.
#[derive(Clone, Debug)]
pub struct CameraRings {
    /// Of the stream that is analysed.
    pub sub: GopRing,
    /// Of the main stream, where there is one.
    pub main: Option<GopRing>,
}

/// The rings of all cameras, which come and go with the config; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SiteRings(Arc<Mutex<BTreeMap<CameraIx, Kept>>>);

#[derive(Clone, Debug)]
struct Kept {
    rings: CameraRings,
    /// When its camera was taken out of the config.
    gone: Option<MonoMicros>,
}

impl SiteRings {
    /// A camera's capture begins.
    pub fn insert(&self, camera: CameraIx, rings: CameraRings) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(camera, Kept { rings, gone: None });
    }

    /// A camera is watched no more. Its rings stay for clips that are yet to be cut, see
    /// `forget_gone`.
    pub fn end(&self, camera: CameraIx, now: MonoMicros) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get_mut(&camera) {
            kept.gone.get_or_insert(now);
        }
    }

    /// Lets go of the rings of cameras that have been gone since before `until`, but for those that are
    /// `wanted`.
    pub(super) fn forget_gone(&self, until: MonoMicros, wanted: impl Fn(CameraIx) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|camera, kept| kept.gone.is_none_or(|at| at >= until) || wanted(*camera));
    }

    /// All of them.
    pub fn all(&self) -> Vec<CameraRings> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|kept| kept.rings.clone()).collect()
    }

    /// The rings of a camera whose capture began, also for a while after it has ended.
    pub fn of(&self, camera: CameraIx) -> Option<CameraRings> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&camera).map(|kept| kept.rings.clone())
    }
}

/// What a clip should show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipSpan {
    /// Whose.
    pub camera: CameraIx,
    /// From here on.
    pub from: MonoMicros,
    /// Receipt of the picture that decided.
    pub deciding: MonoMicros,
    /// Up to here.
    pub until: MonoMicros,
}

impl ClipSpan {
    /// Around a finding that `deciding` opened and whose incident was first seen at `first_seen`.
    pub fn around(
        config: &EvidenceConfig,
        camera: CameraIx,
        first_seen: UtcMicros,
        opened: UtcMicros,
        deciding: MonoMicros,
    ) -> Self {
        // A clock that is set in between must not make an endless clip.
        let dwelt = Duration::from_micros(opened.0.saturating_sub(first_seen.0).max(0) as u64)
            .min(EvidenceConfig::MAX_DWELL_SHOWN);
        let before = config.pre_roll + dwelt;
        let before_us = u64::try_from(before.as_micros()).unwrap_or(u64::MAX);
        Self {
            camera,
            from: MonoMicros(deciding.0.saturating_sub(before_us)),
            deciding,
            until: deciding.plus(config.post_roll),
        }
    }
}

impl CameraRings {
    /// The units of a clip: of the main stream if it holds the deciding moment, else of the other.
    pub fn cut(&self, span: &ClipSpan) -> Option<RingCut> {
        let cut = |ring: &GopRing| ring.cut(span.from, span.deciding, span.until);
        let holds = |cut: &RingCut| {
            let first = cut.units.first().map(|u| u.stamp.received);
            let last = cut.units.last().map(|u| u.stamp.received);
            first.is_some_and(|t| t <= span.deciding) && last.is_some_and(|t| t >= span.deciding)
        };
        let main = self.main.as_ref().and_then(cut).filter(holds);
        main.or_else(|| cut(&self.sub))
    }

    /// Whether all of `span` has come.
    pub fn reach(&self, span: &ClipSpan) -> bool {
        self.main.as_ref().unwrap_or(&self.sub).reaches(span.until)
    }
}

/// Whether a cut lacks some of the pre-roll.
pub fn is_short(cut: &RingCut) -> bool {
    cut.late > LATE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metrics::Metrics;
    use crate::capture::RingLimits;

    #[test]
    fn rings_of_a_camera_that_is_gone_go_once_no_clip_wants_them() {
        let limits = RingLimits {
            bytes: 1 << 20,
            span: Duration::from_secs(5),
        };
        let ring = || CameraRings {
            sub: GopRing::new(limits, &Metrics::default(), "wok"),
            main: None,
        };
        let rings = SiteRings::default();
        let (gone, back) = (CameraIx(0), CameraIx(1));
        rings.insert(gone, ring());
        rings.insert(back, ring());
        rings.end(gone, MonoMicros(10));
        rings.end(back, MonoMicros(10));
        rings.insert(back, ring());
        rings.forget_gone(MonoMicros(10), |_| false);
        assert!(rings.of(gone).is_some(), "too early");
        rings.forget_gone(MonoMicros(11), |camera| camera == gone);
        assert!(rings.of(gone).is_some(), "a clip is yet to be cut");
        rings.forget_gone(MonoMicros(11), |_| false);
        assert!(rings.of(gone).is_none());
        assert!(rings.of(back).is_some(), "it came back");
    }
}
