//! What a camera does → findings that it does not see: `device.camera.*`.
//!
//! What must not be here: a clock (time comes with each look), payloads, how a camera's state is found
//! out. One [`DeviceWatch`] per site, given each camera's state about once a second.
//!
//! # Operation
//!
//! A camera has one state at a time, and a worse one hides the others: nothing can be said of the
//! focus of a camera that is offline. For each fault that is not switched off, a look says *it is
//! there*, *it is not*, or *cannot tell*. There: its streak goes on, and after the fault's time a
//! finding opens. Not there: after `clear` of such looks the finding closes. Cannot tell: all stays as
//! it is, so that a finding of a moved camera is still open when the camera comes back from being
//! offline, and closes only when it was seen to look where it should.
//!
//! # Decisions
//!
//! 1. **The wording is about the camera**, never about who may have caused it.
//! 2. **Hours.** A fault that counts in business hours only (by default the dark) is "not there" outside
//!    of them.
//! 3. **While a session is being opened nobody can tell**: neither better nor worse.
//! 4. **Bad time counts, good time forgives slowly**: good looks of [`FORGIVEN`] in a row undo a streak
//!    that has not become a finding yet; a camera that comes and goes is lost.
//! 5. **The id** is a UUID v7 of site, camera, fault and the moment it began, so that the same input
//!    gives the same id.
//!
//! # Invariants
//!
//! Per finding: revisions 1, 2, 3 … without gaps; opened, updated …, closed; nothing after closed. Per
//! camera and fault at most one is open.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::finding::{CloseReason, Phase};
use crate::base::ids::CameraIx;
use crate::base::streak::Streak;
use crate::base::time::{MonoMicros, UtcMicros};
use crate::base::words::Texts;

/// See decision 4.
pub const FORGIVEN: Duration = Duration::from_secs(10);
/// A look stands for no longer than this: what is longer was no look at all.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Why a camera does not see. Each hides those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceFault {
    /// Not reachable, silent, lost, or it refuses the login.
    Offline,
    /// Reachable, but without pictures that can be decoded.
    NoVideo,
    /// One plain colour, as when a privacy mask is on.
    Masked,
    /// The picture does not change.
    Frozen,
    /// Too dark to see.
    Dark,
    /// Something covers the lens.
    Occluded,
    /// It looks elsewhere than it did.
    Moved,
    /// Softer than it was.
    Defocused,
    /// Its clock is off.
    Clock,
}

impl DeviceFault {
    /// All of them, in the order in which they hide each other.
    pub const ALL: [Self; 9] = [
        Self::Offline,
        Self::NoVideo,
        Self::Masked,
        Self::Frozen,
        Self::Dark,
        Self::Occluded,
        Self::Moved,
        Self::Defocused,
        Self::Clock,
    ];

    /// The word in the config.
    pub fn word(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::NoVideo => "no-video",
            Self::Masked => "masked",
            Self::Frozen => "frozen",
            Self::Dark => "dark",
            Self::Occluded => "occluded",
            Self::Moved => "moved",
            Self::Defocused => "defocused",
            Self::Clock => "clock",
        }
    }

    /// The finding's code: `device.camera.…`.
    pub fn code(self) -> String {
        format!("{CODE_PREFIX}{}", self.word())
    }

    /// From a finding's code.
    pub fn from_code(code: &str) -> Option<Self> {
        let word = code.strip_prefix(CODE_PREFIX)?;
        Self::ALL.into_iter().find(|f| f.word() == word)
    }
}

/// What the codes of these findings begin with.
pub const CODE_PREFIX: &str = "device.camera.";

/// What a look at a camera says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It sees.
    Fine,
    /// It does not, and this is the worst that is known.
    Fault(DeviceFault),
    /// Nobody can tell: a session is being opened, or a clip is over.
    Unknown,
}

/// One camera's faults and how long each must last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// How long a camera must be offline.
    pub offline: Duration,
    /// How long it must be without video.
    pub no_video: Duration,
    /// How long its clock must be off.
    pub clock: Duration,
    /// Good time in a row after which a finding closes.
    pub clear: Duration,
    /// Time between two updates of a finding that goes on.
    pub update: Duration,
    /// Faults that make no finding.
    pub off: BTreeSet<DeviceFault>,
    /// Faults that count in business hours only.
    pub business_hours_only: BTreeSet<DeviceFault>,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            offline: Duration::from_secs(60),
            no_video: Duration::from_secs(60),
            clock: Duration::from_secs(300),
            clear: Duration::from_secs(10),
            update: Duration::from_secs(3600),
            off: BTreeSet::new(),
            business_hours_only: BTreeSet::from([DeviceFault::Dark]),
        }
    }
}

impl DeviceConfig {
    /// How long `fault` must last here. What is found in pictures has lasted its time already when it
    /// becomes the camera's state.
    pub fn after(&self, fault: DeviceFault) -> Duration {
        match fault {
            DeviceFault::Offline => self.offline,
            DeviceFault::NoVideo => self.no_video,
            DeviceFault::Clock => self.clock,
            _ => Duration::ZERO,
        }
    }
}

/// One look at one camera.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Which camera.
    pub camera: CameraIx,
    /// What it does.
    pub sight: Sight,
    /// Why, for people.
    pub detail: &'a Texts,
    /// When.
    pub at: MonoMicros,
    /// The same moment in UTC.
    pub utc: UtcMicros,
    /// Whether the kitchen works now.
    pub is_business: bool,
}

/// One revision of a finding about a camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    /// The same for all revisions.
    pub finding: Uuid,
    /// 1, 2, 3 … without gaps.
    pub revision: u32,
    /// See [`Phase`].
    pub phase: Phase,
    /// What it is about.
    pub fault: DeviceFault,
    /// Which camera.
    pub camera: CameraIx,
    /// When the fault was first seen.
    pub first_seen: UtcMicros,
    /// When it was last seen.
    pub last_seen: UtcMicros,
    /// When it was seen to be over long enough.
    pub closed_at: Option<UtcMicros>,
    /// Why it was closed: it is over, or it does not count at this hour.
    pub reason: Option<CloseReason>,
    /// Looks that showed it.
    pub looks: u32,
    /// Why, for people: of the newest look that showed it.
    pub detail: Texts,
}

/// What is needed to go on with an open finding after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDevice {
    /// As in [`DeviceChange`].
    pub finding: Uuid,
    /// The newest revision.
    pub revision: u32,
    /// As in [`DeviceChange`].
    pub fault: DeviceFault,
    /// As in [`DeviceChange`].
    pub camera: CameraIx,
    /// As in [`DeviceChange`].
    pub first_seen: UtcMicros,
    /// As in [`DeviceChange`].
    pub last_seen: UtcMicros,
    /// As in [`DeviceChange`].
    pub looks: u32,
    /// As in [`DeviceChange`].
    pub detail: Texts,
}

#[derive(Clone, Debug)]
struct Open {
    finding: Uuid,
    revision: u32,
    first_seen: UtcMicros,
    last_seen: UtcMicros,
    looks: u32,
    detail: Texts,
    /// Good time since it was last seen.
    gone: Duration,
    /// Of the newest revision; `None` after a restart.
    revised: Option<MonoMicros>,
}

/// One fault of one camera.
#[derive(Clone, Debug)]
struct Case {
    fault: DeviceFault,
    streak: Streak,
    begun: Option<UtcMicros>,
    looks: u32,
    open: Option<Open>,
}

#[derive(Clone, Debug)]
struct Camera {
    config: DeviceConfig,
    last: Option<MonoMicros>,
    cases: Vec<Case>,
}

/// All cameras of a site and what is open about them.
#[derive(Clone, Debug)]
pub struct DeviceWatch {
    seed: String,
    cameras: BTreeMap<CameraIx, Camera>,
}

impl Camera {
    fn new(config: DeviceConfig) -> Self {
        Self {
            last: None,
            cases: DeviceFault::ALL
                .into_iter()
                .filter(|fault| !config.off.contains(fault))
                .map(|fault| Case {
                    fault,
                    streak: Streak::new(config.after(fault), FORGIVEN),
                    begun: None,
                    looks: 0,
                    open: None,
                })
                .collect(),
            config,
        }
    }
}

impl DeviceWatch {
    /// Nothing is open. `seed` is the site's full name (`region/site`).
    pub fn new(configs: BTreeMap<CameraIx, DeviceConfig>, seed: &str) -> Self {
        let cameras = configs.into_iter();
        Self {
            seed: seed.to_owned(),
            cameras: cameras.map(|(ix, c)| (ix, Camera::new(c))).collect(),
        }
    }

    /// From here on these are the cameras. What is open goes on, and a camera that is told nothing new
    /// notices nothing. Returns the findings that nothing continues; the caller has to close them.
    #[must_use = "findings that nothing continues must be closed by the caller"]
    pub fn retune(&mut self, configs: BTreeMap<CameraIx, DeviceConfig>) -> Vec<Uuid> {
        let mut orphans = Vec::new();
        let mut before = std::mem::take(&mut self.cameras);
        for (ix, config) in configs {
            let camera = match before.remove(&ix) {
                Some(same) if same.config == config => same,
                Some(other) => {
                    let mut camera = Camera::new(config);
                    camera.last = other.last;
                    for mut case in other.cases {
                        let open = case.open.take();
                        match camera.cases.iter_mut().find(|c| c.fault == case.fault) {
                            Some(next) if open.is_some() => {
                                next.streak.set_on();
                                (next.begun, next.looks, next.open) =
                                    (case.begun, case.looks, open);
                            }
                            Some(_) => {}
                            None => orphans.extend(open.map(|o| o.finding)),
                        }
                    }
                    camera
                }
                None => Camera::new(config),
            };
            self.cameras.insert(ix, camera);
        }
        let gone = before.into_values().flat_map(|c| c.cases);
        orphans.extend(gone.filter_map(|case| Some(case.open?.finding)));
        orphans
    }

    /// Goes on with findings that were open when the site last stopped. Returns those that nothing
    /// continues, because the config has changed; the caller has to close them.
    #[must_use = "findings that nothing continues must be closed by the caller"]
    pub fn restore(&mut self, findings: Vec<OpenDevice>) -> Vec<OpenDevice> {
        let mut orphans = Vec::new();
        for f in findings {
            let camera = self.cameras.get_mut(&f.camera);
            let case = camera.and_then(|c| c.cases.iter_mut().find(|k| k.fault == f.fault));
            match case {
                Some(case) if case.open.is_none() && f.revision > 0 => {
                    case.streak.set_on();
                    case.open = Some(Open {
                        finding: f.finding,
                        revision: f.revision,
                        first_seen: f.first_seen,
                        last_seen: f.last_seen,
                        looks: f.looks,
                        detail: f.detail,
                        gone: Duration::ZERO,
                        revised: None,
                    });
                }
                _ => orphans.push(f),
            }
        }
        orphans
    }

    /// Takes one look and says which findings changed.
    pub fn look(&mut self, look: &Look<'_>) -> Vec<DeviceChange> {
        let Some(camera) = self.cameras.get_mut(&look.camera) else {
            return Vec::new();
        };
        let before = camera.last.unwrap_or(look.at);
        let elapsed = look.at.since(before).min(LONGEST_LOOK);
        camera.last = Some(before.max(look.at));
        let (seed, config) = (&self.seed, &camera.config);
        let each = camera.cases.iter_mut();
        each.filter_map(|case| {
            let is_there = config.is_there(case.fault, look)?;
            case.step(seed, config, is_there, elapsed, look)
        })
        .collect()
    }

    /// Panics if the state contradicts itself; for tests.
    pub fn check_invariants(&self) {
        for camera in self.cameras.values() {
            for case in &camera.cases {
                let Some(open) = &case.open else { continue };
                assert!(open.revision >= 1, "{case:?}");
                assert!(open.gone < camera.config.clear, "{case:?} should be closed");
            }
        }
    }
}

impl DeviceConfig {
    /// `None`: the look cannot tell.
    fn is_there(&self, fault: DeviceFault, look: &Look<'_>) -> Option<bool> {
        match look.sight {
            Sight::Unknown => None,
            Sight::Fine => Some(false),
            Sight::Fault(worst) if worst < fault => None,
            Sight::Fault(worst) => {
                let counts = look.is_business || !self.business_hours_only.contains(&fault);
                Some(worst == fault && counts)
            }
        }
    }
}

impl Case {
    fn step(
        &mut self,
        seed: &str,
        config: &DeviceConfig,
        is_there: bool,
        elapsed: Duration,
        look: &Look<'_>,
    ) -> Option<DeviceChange> {
        let is_on = self.streak.step(is_there, elapsed);
        if is_there {
            self.begun.get_or_insert(look.utc);
            self.looks = self.looks.saturating_add(1);
        } else if !self.streak.has_begun() {
            (self.begun, self.looks) = (None, 0);
        }
        let Some(open) = &mut self.open else {
            if !(is_there && is_on) {
                return None;
            }
            let first_seen = self.begun.unwrap_or(look.utc);
            let open = self.open.insert(Open {
                finding: finding_id(seed, look.camera, self.fault, first_seen),
                revision: 1,
                first_seen,
                last_seen: look.utc,
                looks: self.looks,
                detail: look.detail.clone(),
                gone: Duration::ZERO,
                revised: Some(look.at),
            });
            return Some(open.change(Phase::Opened, self.fault, look));
        };
        if is_there {
            open.last_seen = look.utc;
            open.looks = open.looks.saturating_add(1);
            open.gone = Duration::ZERO;
            look.detail.clone_into(&mut open.detail);
            if open
                .revised
                .is_some_and(|t| look.at.since(t) < config.update)
            {
                return None;
            }
            open.revised = Some(look.at);
            open.revision += 1;
            return Some(open.change(Phase::Updated, self.fault, look));
        }
        open.gone += elapsed;
        if open.gone < config.clear {
            return None;
        }
        open.revision += 1;
        let change = open.change(Phase::Closed, self.fault, look);
        self.open = None;
        self.streak = self.streak.anew();
        (self.begun, self.looks) = (None, 0);
        Some(change)
    }
}

impl Open {
    fn change(&self, phase: Phase, fault: DeviceFault, look: &Look<'_>) -> DeviceChange {
        DeviceChange {
            finding: self.finding,
            revision: self.revision,
            phase,
            fault,
            camera: look.camera,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            closed_at: (phase == Phase::Closed).then_some(look.utc),
            reason: (phase == Phase::Closed).then_some(if look.sight == Sight::Fault(fault) {
                CloseReason::OffSchedule
            } else {
                CloseReason::Clear
            }),
            looks: self.looks,
            detail: self.detail.clone(),
        }
    }
}

/// See decision 5; RFC 9562, section 5.7.
fn finding_id(seed: &str, camera: CameraIx, fault: DeviceFault, first: UtcMicros) -> Uuid {
    let mut hash = Sha256::new();
    // Texts carry their length, so that no two different incidents give the same bytes.
    for text in [seed, fault.code().as_str()] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.update(camera.0.to_be_bytes());
    hash.update(first.0.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bits = [0; 10];
    bits.copy_from_slice(&digest[..10]);
    // A clock before 1970 is broken; its findings sort first.
    let ms = u64::try_from(first.0.div_euclid(1000)).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &bits).into_uuid()
}

#[cfg(test)]
mod tests;
