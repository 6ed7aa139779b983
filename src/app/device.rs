//! Camera states → findings `device.camera.*`: what the pure watch says, put into the words of the
//! wire. Driven by [`super::oversight`]; no thread of its own.
use std::collections::BTreeMap;

use uuid::Uuid;

use super::analytics::{Facts, clock_state, phase_of};
use crate::base::ids::CameraIx;
use crate::base::time::{MonoMicros, UtcMicros};
use crate::base::words::{self, Texts};
use crate::rules::{DeviceChange, DeviceConfig, DeviceFault, DeviceWatch, Look, OpenDevice, Sight};
use crate::uplink::{CameraRef, CameraState, FindingData, RuleRef, SiteRef, SiteState};

/// Named as the rule of these findings.
const RULE: &str = "camera-health";
/// Counted up when what is looked at changes its meaning.
const RULE_VERSION: u32 = 2;
/// Routine: delivered after what happens in the kitchen. A camera that does not see is told at once
/// by its status, and hour by hour in the coverage.
pub const CLASS: u8 = 3;

/// What a camera's state says to the watch.
fn sight_of(state: CameraState) -> Sight {
    match state {
        CameraState::Online => Sight::Fine,
        CameraState::Connecting | CameraState::Ended => Sight::Unknown,
        CameraState::Unauthorised | CameraState::Offline => Sight::Fault(DeviceFault::Offline),
        CameraState::NoVideo | CameraState::Failed => Sight::Fault(DeviceFault::NoVideo),
        CameraState::Masked => Sight::Fault(DeviceFault::Masked),
        CameraState::Frozen => Sight::Fault(DeviceFault::Frozen),
        CameraState::Occluded => Sight::Fault(DeviceFault::Occluded),
        CameraState::Dark => Sight::Fault(DeviceFault::Dark),
        CameraState::Defocused => Sight::Fault(DeviceFault::Defocused),
        CameraState::Moved => Sight::Fault(DeviceFault::Moved),
        CameraState::ClockSkew => Sight::Fault(DeviceFault::Clock),
    }
}

/// The findings about a site's cameras.
#[derive(Debug)]
pub struct DeviceFindings {
    watch: DeviceWatch,
    configs: BTreeMap<CameraIx, DeviceConfig>,
}

impl DeviceFindings {
    /// Nothing is open. `seed` is the site's full name.
    pub fn new(configs: BTreeMap<CameraIx, DeviceConfig>, seed: &str) -> Self {
        Self {
            watch: DeviceWatch::new(configs.clone(), seed),
            configs,
        }
    }

    /// Takes up another config; the findings that nothing continues.
    pub fn retune(&mut self, configs: BTreeMap<CameraIx, DeviceConfig>) -> Vec<Uuid> {
        self.configs.clone_from(&configs);
        self.watch.retune(configs)
    }

    /// Goes on with those of the ledger's findings that are about cameras; returns those that the
    /// config no longer has.
    pub fn restore(&mut self, ledger: Vec<FindingData>, facts: &Facts) -> Vec<FindingData> {
        let mut over = Vec::new();
        for data in ledger {
            let fault = DeviceFault::from_code(&data.code);
            let camera = facts.camera_ix(&data.camera.id);
            let open = fault.zip(camera).map(|(fault, camera)| OpenDevice {
                finding: data.finding,
                revision: data.revision,
                fault,
                camera,
                first_seen: data.first_seen,
                last_seen: data.last_seen,
                looks: data.samples,
                detail: Texts {
                    en: data.detail.clone().unwrap_or_default(),
                    zh: data.detail_zh.clone().unwrap_or_default(),
                },
            });
            let is_known = open.is_some_and(|open| self.watch.restore(vec![open]).is_empty());
            if !is_known {
                over.push(data);
            }
        }
        over
    }

    /// Looks at all cameras; the revisions that come of it.
    pub fn look(
        &mut self,
        state: &SiteState,
        facts: &Facts,
        at: MonoMicros,
        utc: UtcMicros,
        is_business: bool,
    ) -> Vec<FindingData> {
        let mut found = Vec::new();
        for report in &state.cameras {
            let Some(camera) = facts.camera_ix(&report.camera) else {
                continue;
            };
            let changes = self.watch.look(&Look {
                camera,
                sight: sight_of(report.state),
                detail: &report.details(),
                at,
                utc,
                is_business,
            });
            found.extend(changes.iter().map(|change| self.data(change, facts)));
        }
        found
    }

    /// Whether `state` is a fault in business hours only.
    pub fn is_business_only(&self, camera: CameraIx, state: CameraState) -> bool {
        match sight_of(state) {
            Sight::Fault(fault) => {
                let config = self.configs.get(&camera);
                config.is_some_and(|c| c.business_hours_only.contains(&fault))
            }
            Sight::Fine | Sight::Unknown => false,
        }
    }

    fn data(&self, change: &DeviceChange, facts: &Facts) -> FindingData {
        let (camera, gb28181) = &facts.cameras[change.camera.index()];
        let config = &self.configs[&change.camera];
        let business_only = config.business_hours_only.contains(&change.fault);
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        FindingData {
            finding: change.finding,
            revision: change.revision,
            phase: phase_of(change.phase),
            code: change.fault.code(),
            class: CLASS,
            replayed: false,
            site: SiteRef {
                id: facts.site.site.to_string(),
                uscc: facts.site.uscc.clone(),
            },
            camera: CameraRef {
                id: camera.to_string(),
                gb28181: gb28181.clone(),
                zone: None,
            },
            rule: RuleRef {
                id: RULE.to_owned(),
                version: RULE_VERSION,
                dwell_ms: ms(config.after(change.fault)),
                threshold: 0.0,
                window: 1,
                clear_ms: ms(config.clear),
                hits: None,
                when: if business_only { "business" } else { "always" }.to_owned(),
                off_hours: false,
                cooldown_ms: 0,
            },
            model: None,
            first_seen: change.first_seen,
            last_seen: change.last_seen,
            closed_at: change.closed_at,
            samples: change.looks,
            scores: Vec::new(),
            objects: Vec::new(),
            evidence: Vec::new(),
            clock: clock_state(),
            models: Vec::new(),
            zone: None,
            realert: false,
            reason: change.reason.map(|r| r.word().to_owned()),
            missing: Vec::new(),
            muted: None,
            detail: Some(change.detail.en.clone()).filter(|d| !d.is_empty()),
            title: words::title(&change.fault.code()),
            detail_zh: Some(change.detail.zh.clone()).filter(|d| !d.is_empty()),
            reduced: Vec::new(),
        }
    }
}
