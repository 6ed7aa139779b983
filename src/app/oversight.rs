//! What is said of the cameras themselves: once a second, on the analytics thread, their states become
//! findings and coverage.
//!
//! It reads the newest state of the site (a watch, so nothing queues) and shares the thread with the
//! rules so that revisions of all findings are committed in order.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::analytics::Facts;
use super::config::SiteConfig;
use super::coverage::{Coverage, WATCHED_FOR};
use super::device::DeviceFindings;
use crate::base::ids::{CameraId, CameraIx, CameraSlots, NoSlot};
use crate::base::metrics::Metrics;
use crate::base::time::{MonoMicros, SharedClock};
use crate::decode::DecodeConfig;
use crate::evidence::EvidenceIndex;
use crate::rules::{DeviceConfig, Schedule};
use crate::uplink::{CameraState, CoverageReport, FindingData, SiteState, StoreError, StoreHandle};

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// What the config says of one camera itself.
#[derive(Clone, Debug)]
pub struct CameraTerms {
    /// Its slot.
    pub slot: CameraIx,
    /// Its name.
    pub id: CameraId,
    /// What makes a finding about it.
    pub device: DeviceConfig,
    /// For how long after an analysed picture it counts as watched.
    pub watched_for: Duration,
}

/// What the config says of the cameras themselves.
#[derive(Clone, Debug)]
pub struct Terms {
    /// In the config's order.
    pub cameras: Vec<CameraTerms>,
    /// When the kitchen works; `None`: the site has not said.
    pub business: Option<Arc<Schedule>>,
}

impl Terms {
    /// Those of `config`.
    ///
    /// # Errors
    /// Too many cameras came and went.
    pub fn of(config: &SiteConfig, slots: &CameraSlots) -> Result<Self, NoSlot> {
        let cameras = config.cameras.iter().map(|camera| {
            Ok(CameraTerms {
                slot: slots.slot(&camera.id)?,
                id: camera.id.clone(),
                device: camera.device.clone(),
                watched_for: watched_for(&camera.decode),
            })
        });
        Ok(Self {
            cameras: cameras.collect::<Result<_, _>>()?,
            business: config.calendar.business.clone(),
        })
    }

    fn devices(&self) -> BTreeMap<CameraIx, DeviceConfig> {
        let each = self.cameras.iter();
        each.map(|c| (c.slot, c.device.clone())).collect()
    }
}

/// Two of the camera's own intervals, if those are longer than what holds for all.
fn watched_for(decode: &DecodeConfig) -> Duration {
    let every = Duration::from_secs_f32(1.0 / decode.analyse_fps.max(0.01));
    let refresh = decode
        .motion
        .as_ref()
        .map_or(every, |m| m.refresh.max(every));
    WATCHED_FOR.max(2 * refresh)
}

/// The cameras' overseer.
#[derive(Debug)]
pub struct Oversight {
    /// Findings about cameras.
    pub findings: DeviceFindings,
    coverage: Coverage,
    state: watch::Receiver<SiteState>,
    business: Option<Arc<Schedule>>,
    clock: SharedClock,
    looked: Option<MonoMicros>,
}

impl Oversight {
    /// Goes on from what the store kept. `seed` is the site's full name; `evidence` is whose newest entry
    /// the coverage reports name.
    ///
    /// # Errors
    /// The coverage so far cannot be read.
    pub fn start(
        terms: Terms,
        seed: &str,
        store: &StoreHandle,
        metrics: &Metrics,
        state: watch::Receiver<SiteState>,
        evidence: Option<EvidenceIndex>,
        clock: SharedClock,
    ) -> Result<Self, StoreError> {
        let (at, utc) = (clock.mono(), clock.utc());
        Ok(Self {
            findings: DeviceFindings::new(terms.devices(), seed),
            coverage: Coverage::start(&terms.cameras, store, metrics, evidence, at, utc)?,
            state,
            business: terms.business,
            clock,
            looked: None,
        })
    }

    /// Takes up another config; the findings that nothing continues.
    pub fn retune(&mut self, terms: Terms, metrics: &Metrics) -> Vec<Uuid> {
        self.coverage.retune(&terms.cameras, metrics);
        let orphans = self.findings.retune(terms.devices());
        self.business = terms.business;
        orphans
    }

    /// The running hour's coverage so far: at most a second old.
    pub fn so_far(&self) -> watch::Receiver<CoverageReport> {
        self.coverage.so_far()
    }

    /// A picture was analysed now, and the camera's next one comes within `next_within`.
    pub fn analysed(&mut self, camera: CameraIx, next_within: Duration) {
        self.coverage
            .analysed(camera, self.clock.mono(), next_within);
    }

    /// Looks, if it is time. Returns the revisions of findings that are to be committed.
    pub fn look(&mut self, store: &StoreHandle, facts: &Facts) -> Vec<FindingData> {
        let (at, utc) = (self.clock.mono(), self.clock.utc());
        if self.looked.is_some_and(|t| at.since(t) < EVERY) {
            return Vec::new();
        }
        self.looked = Some(at);
        let state = self.state.borrow().clone();
        let is_business = self.business.as_ref().map(|h| h.span_at(utc).open);
        let is_closed = is_business == Some(false);
        let states: HashMap<CameraIx, CameraState> = state
            .cameras
            .iter()
            .filter_map(|report| Some((facts.camera_ix(&report.camera)?, report.state)))
            .collect();
        let findings = &self.findings;
        let what = |camera: CameraIx| {
            let state = states.get(&camera).copied();
            let state = state.unwrap_or(CameraState::Connecting);
            (state, is_closed && findings.is_business_only(camera, state))
        };
        self.coverage.step(what, store, at, utc);
        // Where nobody has said when it is dark by right, the dark is no finding; the coverage has it.
        let is_business = is_business.unwrap_or(false);
        self.findings.look(&state, facts, at, utc, is_business)
    }

    /// The site stops: the running hour is written down.
    pub fn stop(&mut self, store: &StoreHandle, facts: &Facts) {
        self.looked = None;
        // Findings stay open across restarts.
        drop(self.look(store, facts));
        self.coverage.stop(store, self.clock.mono());
    }
}
