//! What is said of the cameras themselves: once a second, on the analytics thread, their states become
//! findings and coverage.
//!
//! It reads the newest state of the site (a watch, so nothing queues) and shares the thread with the
//! rules so that revisions of all findings are committed in order.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::coverage::Coverage;
use super::device::DeviceFindings;
use crate::base::ids::CameraIx;
use crate::base::time::{MonoMicros, SharedClock, UtcMicros};
use crate::uplink::{CameraState, FindingData, SiteState, StoreHandle};

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Whether the kitchen works at a moment; `None`: the site has not said when it does.
pub type IsBusiness = Arc<dyn Fn(UtcMicros) -> Option<bool> + Send + Sync>;

/// The cameras' overseer.
pub struct Oversight {
    /// Findings about cameras.
    pub findings: DeviceFindings,
    /// What was watched.
    pub coverage: Coverage,
    /// What the cameras do.
    pub state: watch::Receiver<SiteState>,
    /// The site's hours.
    pub is_business: IsBusiness,
    /// The site's clock.
    pub clock: SharedClock,
    /// When it looked last.
    pub looked: Option<MonoMicros>,
}

impl std::fmt::Debug for Oversight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Oversight")
    }
}

impl Oversight {
    /// A picture was analysed now.
    pub fn analysed(&mut self, camera: CameraIx) {
        self.coverage.analysed(camera.index(), self.clock.mono());
    }

    /// Looks, if it is time. Returns the revisions of findings that are to be committed.
    pub fn look(&mut self, store: &StoreHandle) -> Vec<FindingData> {
        let (at, utc) = (self.clock.mono(), self.clock.utc());
        if self.looked.is_some_and(|t| at.since(t) < EVERY) {
            return Vec::new();
        }
        self.looked = Some(at);
        let state = self.state.borrow().clone();
        let is_business = (self.is_business)(utc);
        let is_closed = is_business == Some(false);
        let each = state.cameras.iter().enumerate();
        let states: Vec<(CameraState, bool)> = each
            .map(|(i, report)| {
                let off = is_closed && self.findings.is_business_only(i, report.state);
                (report.state, off)
            })
            .collect();
        self.coverage.step(&states, store, at, utc);
        // Where nobody has said when it is dark by right, the dark is no finding; the coverage has it.
        self.findings
            .look(&state, at, utc, is_business.unwrap_or(false))
    }

    /// The site stops: the running hour is written down.
    pub fn stop(&mut self, store: &StoreHandle) {
        self.looked = None;
        // Findings stay open across restarts.
        drop(self.look(store));
        self.coverage.stop(store, self.clock.mono());
    }
}
