//! The analytics thread: detections → tracks → findings → stills → store, in the order of each
//! camera's pictures.
//!
//! One OS thread for the site: track and rules cost microseconds a picture, and what takes time here
//! (a JPEG, a commit) must block it, because a finding that is decided must be on the disk before the
//! next one is. While it waits the workers wait too, and the frame board overflows and counts.
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::evidence::{EvidenceDesk, Words, Written};
use super::health::Problems;
use super::models::starts;
use super::mutes::Mutes;
use super::oversight::{Oversight, Terms};
use crate::base::backoff::Backoff;
use crate::base::geometry::Polygon;
use crate::base::heartbeat::Heartbeat;
use crate::base::ids::{CameraId, CameraIx, RuleIx};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::{SharedClock, UtcMicros};
use crate::base::words;
use crate::decode::{Frame, FrameBoard};
use crate::detect::{Analysed, Models};
use crate::evidence::EvidenceConfig;
use crate::rules::{
    CODE_PREFIX, FindingChange, OpenFinding, Phase, RuleConfig, RuleEngine, RuleState, Zone,
};
use crate::track::{TrackConfig, Tracker};
use crate::uplink::{
    CameraRef, Change, ClockRef, FindingData, FindingPhase, LedgerEntry, ModelRef, ObjectRef,
    RecordBody, RuleRef, SiteIdentity, SiteRef, StoreError, StoreHandle, ZoneRef,
};

const TICK: Duration = Duration::from_secs(1);
/// The thread promises to beat at least this often; a commit that hangs is the store's own pulse.
pub const BEAT: Duration = Duration::from_secs(60);
/// Waits between attempts at a commit that the disk refused.
const COMMIT_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Once the site stops, a disk that refuses is given this long.
const LAST_TRY: Duration = Duration::from_secs(3);
/// Name of the problem in the site's status while the disk refuses.
const STORE_PROBLEM: &str = "store";

/// What the site knows that findings must say.
#[derive(Debug)]
pub struct Facts {
    /// Who we are.
    pub site: SiteIdentity,
    /// Cameras by slot: name and GB/T 28181 code. Those of an earlier config are among them.
    pub cameras: Vec<(CameraId, Option<String>)>,
    /// Rules by index.
    pub rules: Vec<RuleConfig>,
    /// Whose classes the rules name.
    pub models: Models,
}

impl Facts {
    /// The camera called `id`.
    pub fn camera_ix(&self, id: &str) -> Option<CameraIx> {
        let at = self.cameras.iter().position(|(c, _)| c.as_str() == id);
        at.map(|i| CameraIx(i as u16))
    }

    fn rule_ix(&self, id: &str) -> Option<RuleIx> {
        let at = self.rules.iter().position(|r| r.id.as_str() == id);
        at.map(|i| RuleIx(i as u16))
    }

    /// A finding of the ledger as the rules know it, if the config still has its camera and rule.
    fn known(&self, data: &FindingData) -> Option<OpenFinding> {
        if data.code.starts_with(CODE_PREFIX) {
            return None;
        }
        Some(OpenFinding {
            finding: data.finding,
            revision: data.revision,
            rule: self.rule_ix(&data.rule.id)?,
            camera: self.camera_ix(&data.camera.id)?,
            first_seen: data.first_seen,
            last_seen: data.last_seen,
            samples: data.samples,
            closed_at: data.closed_at,
        })
    }

    /// The payload of a change, without its evidence.
    pub fn data(&self, change: &FindingChange) -> FindingData {
        let rule = &self.rules[usize::from(change.rule.0)];
        let (camera, gb28181) = &self.cameras[change.camera.index()];
        let classes = self.models.classes();
        let models = self.models_of(rule);
        let objects = change.objects.iter().map(|o| ObjectRef {
            label: classes[usize::from(o.class.0)].label.clone(),
            score: o.score,
            rect: [o.rect.x0, o.rect.y0, o.rect.x1, o.rect.y1],
            track: o.track.0,
        });
        FindingData {
            finding: change.finding,
            revision: change.revision,
            phase: phase_of(change.phase),
            code: rule.code.to_string(),
            class: rule.urgency.class(),
            replayed: false,
            site: SiteRef {
                id: self.site.site.to_string(),
                uscc: self.site.uscc.clone(),
            },
            camera: CameraRef {
                id: camera.to_string(),
                gb28181: gb28181.clone(),
                zone: rule.zone.as_ref().map(|z| z.name.to_string()),
            },
            rule: RuleRef {
                id: rule.id.to_string(),
                version: rule.version,
                dwell_ms: change.gate.dwell_ms,
                threshold: change.gate.threshold,
                window: change.gate.samples as u32,
                clear_ms: rule.clear_ms,
                hits: change.gate.hits.map(|h| h as u32),
                when: rule.when.word().to_owned(),
                off_hours: change.gate.off_hours,
                cooldown_ms: rule.cooldown_ms,
            },
            model: models.first().cloned(),
            first_seen: change.first_seen,
            last_seen: change.last_seen,
            closed_at: change.closed_at,
            samples: change.samples,
            scores: change.scores.clone(),
            objects: objects.collect(),
            evidence: Vec::new(),
            clock: clock_state(),
            models,
            zone: rule.zone.as_ref().map(zone_ref),
            realert: change.realert,
            reason: change.reason.map(|r| r.word().to_owned()),
            missing: Vec::new(),
            muted: None,
            detail: None,
            title: words::title(rule.code.as_str()),
            detail_zh: None,
            reduced: Vec::new(),
        }
    }

    /// Every model whose classes the rule counts, the first class's first.
    fn models_of(&self, rule: &RuleConfig) -> Vec<ModelRef> {
        let mut seen = Vec::new();
        for class in &rule.classes {
            let model = self.models.classes()[usize::from(class.0)].model;
            if !seen.contains(&model) {
                seen.push(model);
            }
        }
        let card = |model: usize| &self.models.models()[model].card;
        let each = seen.into_iter().map(|model| ModelRef {
            name: card(model).name.clone(),
            version: card(model).version.clone(),
            sha256: card(model).sha256.clone(),
        });
        each.collect()
    }
}

/// A phase over the wire.
pub fn phase_of(phase: Phase) -> FindingPhase {
    match phase {
        Phase::Opened => FindingPhase::Opened,
        Phase::Updated => FindingPhase::Updated,
        Phase::Closed => FindingPhase::Closed,
        Phase::Reopened => FindingPhase::Reopened,
    }
}

fn zone_ref(zone: &Zone) -> ZoneRef {
    let corners = |p: &Polygon| p.corners().iter().map(|c| [c.x, c.y]).collect();
    ZoneRef {
        name: zone.name.to_string(),
        polygon: corners(&zone.polygon),
        exclude: zone.exclude.iter().map(corners).collect(),
    }
}

/// Whether something keeps the system clock right. systemd-timesyncd says so by a file; another NTP
/// client leaves no word that can be read without its own tools, so its clocks count as not known
/// to be right.
pub fn clock_state() -> ClockRef {
    let synced = Path::new("/run/systemd/timesync/synchronized").exists();
    let source = if synced { "ntp" } else { "none" };
    ClockRef {
        synced,
        source: source.to_owned(),
        uncertainty_ms: None,
    }
}

/// Another config for the thread, taken up between two pictures.
#[derive(Debug)]
pub struct Retuning {
    /// What findings must say from here on; holds rules, cameras by slot and models.
    pub facts: Arc<Facts>,
    /// How objects are followed.
    pub track: TrackConfig,
    /// The models are others: what is still queued is taken as the old ones' first, and all tracks
    /// begin anew. No worker may be running.
    pub other_models: bool,
    /// What becomes of deciding frames from here on.
    pub evidence: EvidenceConfig,
    /// What bundles say of models and config.
    pub words: Words,
    /// What is said of the cameras themselves from here on.
    pub terms: Terms,
}

/// What the thread is asked between two pictures.
#[derive(Debug)]
pub enum Order {
    /// Take up another config; answered once it counts.
    Retune(Box<Retuning>, oneshot::Sender<()>),
    /// What is open?
    Open(oneshot::Sender<Vec<OpenFinding>>),
    /// What does each rule lack, on this camera or on all?
    Explain(Option<CameraIx>, oneshot::Sender<Vec<RuleState>>),
}

/// Everything the thread owns.
#[derive(Debug)]
pub struct Analytics {
    /// q3.
    pub analysed: Receiver<Analysed>,
    /// Where what was seen goes back to the decode threads.
    pub board: Arc<FrameBoard<Frame>>,
    /// What it is asked by the rest of the site.
    pub orders: Receiver<Order>,
    /// One per camera, by slot.
    pub trackers: Vec<Tracker>,
    /// All rules.
    pub engine: RuleEngine,
    /// What is said of the cameras themselves.
    pub oversight: Oversight,
    /// What findings must say.
    pub facts: Arc<Facts>,
    /// What becomes of deciding frames.
    pub desk: EvidenceDesk,
    /// Where findings become durable.
    pub store: StoreHandle,
    /// Findings that the centre does not want to be bothered with.
    pub mutes: Mutes,
    /// What the site's status should say is wrong.
    pub problems: Problems,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// See [`BEAT`].
    pub heartbeat: Heartbeat,
    /// The site is stopping: do not wait for a broken disk for ever.
    pub stopping: CancellationToken,
}

impl Analytics {
    /// Takes up the findings that were open when the daemon last stopped, and those that have closed so
    /// lately that they may reopen. Open ones that the config no longer knows are closed: they must
    /// not stay open at the centre for ever.
    ///
    /// # Errors
    /// The ledger cannot be read, or the closing cannot be stored.
    pub fn restore(&mut self) -> Result<usize, StoreError> {
        let (devices, records): (Vec<_>, Vec<_>) = self
            .store
            .open_findings()?
            .into_iter()
            .partition(|r| r.data.code.starts_with(CODE_PREFIX));
        let count = devices.len() + records.len();
        let devices = devices.into_iter().map(|r| r.data).collect();
        for data in self.oversight.findings.restore(devices, &self.facts) {
            self.store.commit_finding(self.orphaned(data))?;
        }
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for record in records {
            match self.facts.known(&record.data) {
                Some(open) => known.push((open, record.data)),
                None => unknown.push(record.data),
            }
        }
        let orphans = self
            .engine
            .restore(known.iter().map(|(open, _)| open.clone()).collect());
        for (open, data) in known {
            if orphans.contains(&open) {
                unknown.push(data);
            } else {
                self.desk.remember(&data);
            }
        }
        // The newest first: only one of an incident can reopen.
        let closed = self.lately_closed()?;
        for record in &closed {
            self.desk.remember(&record.data);
        }
        let closed = closed.iter().rev();
        let none_left = self
            .engine
            .restore(closed.filter_map(|r| self.facts.known(&r.data)).collect());
        debug_assert_eq!(none_left, [], "only open findings can be left over");
        for data in unknown {
            self.store.commit_finding(self.orphaned(data))?;
        }
        Ok(count)
    }

    /// The end of a finding that the config gives nobody to decide on any more.
    fn orphaned(&self, mut data: FindingData) -> FindingData {
        tracing::warn!(finding = %data.finding, rule = %data.rule.id, camera = %data.camera.id, "closed: the config no longer has its rule or camera");
        data.revision += 1;
        data.phase = FindingPhase::Closed;
        data.closed_at = Some(self.clock.utc());
        data.reason = Some("config".to_owned());
        data.realert = false;
        data.clock = clock_state();
        data
    }

    /// Findings that are still within the longest cool-down of all rules.
    fn lately_closed(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        let longest_ms = self.facts.rules.iter().map(|r| r.cooldown_ms).max();
        let longest_ms = i64::try_from(longest_ms.unwrap_or(0)).unwrap_or(i64::MAX);
        let since = self
            .clock
            .utc()
            .0
            .saturating_sub(longest_ms.saturating_mul(1000));
        self.store.closed_since(UtcMicros(since))
    }

    /// Runs until all workers are gone. Call on a thread of its own.
    pub fn run(mut self) {
        let queued = self.metrics.counter(Metric::DetectionsQueued, &[]);
        let mut taken = 0;
        loop {
            self.heartbeat.beat();
            while let Ok(order) = self.orders.try_recv() {
                taken += self.obey(order);
            }
            match self.analysed.recv_timeout(TICK) {
                Ok(analysed) => {
                    taken += 1;
                    self.take(&analysed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.oversight.stop(&self.store, &self.facts);
                    return;
                }
            }
            for data in self.oversight.look(&self.store, &self.facts) {
                self.commit(&data, Vec::new());
            }
            queued.set(
                self.metrics
                    .total(Metric::DetectFrames)
                    .saturating_sub(taken),
            );
        }
    }

    /// How many pictures were taken meanwhile.
    fn obey(&mut self, order: Order) -> u64 {
        match order {
            Order::Retune(to, done) => {
                let taken = self.retune(*to);
                // Whoever asked may be gone: the site is stopping.
                let _gone = done.send(()).is_err();
                taken
            }
            Order::Open(reply) => {
                // Whoever asked may have given up.
                let _gone = reply.send(self.engine.open()).is_err();
                0
            }
            Order::Explain(camera, reply) => {
                let all = (0..self.trackers.len()).map(|i| CameraIx(i as u16));
                let asked = all.filter(|c| camera.is_none_or(|asked| asked == *c));
                let states = asked.flat_map(|c| self.engine.explain(c)).collect();
                let _gone = reply.send(states).is_err();
                0
            }
        }
    }

    fn retune(&mut self, to: Retuning) -> u64 {
        let mut taken = 0;
        while to.other_models
            && let Ok(analysed) = self.analysed.try_recv()
        {
            taken += 1;
            self.take(&analysed);
        }
        let Retuning { facts, track, .. } = to;
        self.desk.change(&to.evidence, to.words);
        let (models, rules) = (&facts.models, &facts.rules);
        for slot in 0..facts.cameras.len() {
            let camera = CameraIx(slot as u16);
            let starts = starts(models, rules, camera);
            match self.trackers.get_mut(slot) {
                Some(known) if !to.other_models => known.retune(track.clone(), starts),
                known => {
                    let new =
                        Tracker::new(camera, track.clone(), models.groups()).with_starts(starts);
                    match known {
                        Some(known) => *known = new,
                        None => self.trackers.push(new),
                    }
                }
            }
        }
        let orphans = self.engine.reload(rules.clone(), to.other_models);
        let mut gone: Vec<Uuid> = orphans.iter().map(|o| o.finding).collect();
        gone.extend(self.oversight.retune(to.terms, &self.metrics));
        self.facts = facts;
        if !gone.is_empty() {
            self.close(&gone);
        }
        taken
    }

    /// Closes findings that no rule of the new config continues.
    fn close(&self, gone: &[Uuid]) {
        let records = match self.store.open_findings() {
            Ok(records) => records,
            Err(e) => {
                // The next start finds them without a rule and closes them.
                tracing::error!(err = %e.chain(), "findings without a rule stay open for now");
                return;
            }
        };
        for record in records {
            if gone.contains(&record.data.finding) {
                self.commit(&self.orphaned(record.data), Vec::new());
            }
        }
    }

    fn take(&mut self, analysed: &Analysed) {
        let camera = analysed.detections.camera;
        self.oversight.analysed(camera, analysed.frame.next_within);
        self.desk.answer_snapshots(analysed);
        let set = self.trackers[camera.index()].update(&analysed.detections);
        let changes = self.engine.on_tracks(&set);
        let is_quiet = self.engine.is_quiet(camera);
        self.board.saw(camera, &set.stamp, !is_quiet);
        let any_new = changes.iter().any(|c| c.phase == Phase::Opened);
        for change in changes {
            let mut data = self.facts.data(&change);
            data.muted = self.mutes.word(&data, self.clock.utc());
            self.desk.attach(&mut data);
            let written = matches!(change.phase, Phase::Opened | Phase::Reopened)
                .then(|| self.desk.take(analysed, &change, &mut data))
                .flatten();
            let beside = written.as_ref().map(Written::changes);
            self.commit(&data, beside.unwrap_or_default());
            if let Some(written) = written {
                self.desk.complete(written);
            }
        }
        if any_new {
            let engine = &self.engine;
            self.desk.forget_unless(|finding| engine.remembers(finding));
        }
    }

    /// Makes `data`, and what belongs to it, durable, however long the disk takes: later findings wait
    /// behind it.
    fn commit(&self, data: &FindingData, beside: Vec<Change>) {
        let finding_record = RecordBody::Finding(Box::new(data.clone()));
        let mut changes = vec![Change::Record(finding_record)];
        changes.extend(beside);
        let phase = data.phase.as_str();
        let (finding, revision) = (data.finding, data.revision);
        let camera = data.camera.id.clone();
        let begun = self.clock.mono();
        let mut backoff = Backoff::new(COMMIT_AGAIN.0, COMMIT_AGAIN.1);
        let mut stop_seen = None;
        loop {
            match self.store.commit(changes.clone()) {
                Ok(seqs) => {
                    let seq = seqs.first().copied().unwrap_or_default();
                    let waited = self.clock.mono().since(begun);
                    self.waited().add(waited.as_micros() as u64);
                    self.metrics
                        .counter(Metric::FindingChanges, &[("phase", phase)])
                        .add(1);
                    self.problems.clear(STORE_PROBLEM);
                    tracing::info!(%finding, revision, %camera, code = %data.code, seq, "finding {phase}");
                    return;
                }
                Err(e) if e.is_temporary() => {
                    self.metrics.counter(Metric::StoreFailures, &[]).add(1);
                    let message = words::problem::findings_wait(e.chain());
                    self.problems.set(STORE_PROBLEM, message);
                    tracing::error!(%finding, revision, err = %e.chain(), "not stored yet: trying again");
                    let now = self.clock.mono();
                    if self.stopping.is_cancelled()
                        && now.since(*stop_seen.get_or_insert(now)) > LAST_TRY
                    {
                        // The log is the last place that can take it.
                        let lost = serde_json::to_string(data).unwrap_or_default();
                        tracing::error!(%finding, revision, data = %lost, "stopped before the disk took this revision");
                        return;
                    }
                }
                Err(e) => {
                    // The log is the last place that can take it.
                    let lost = serde_json::to_string(data).unwrap_or_default();
                    tracing::error!(%finding, revision, err = %e.chain(), data = %lost, "revision not stored");
                    return;
                }
            }
            // A disk that refuses is not a stuck thread: a restart would only lose what waits here.
            self.heartbeat.beat();
            std::thread::sleep(backoff.next_wait());
        }
    }

    fn waited(&self) -> Counter {
        self.metrics.counter(Metric::StoreWaitMicros, &[])
    }
}
