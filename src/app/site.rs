//! Builds, runs and stops the pipeline of a site.
//!
//! Stopping tells only the sources; each stage ends when its input closes, in the order
//! capture → decode → detect → analytics (track, rules, store) → evidence → uplink → store. What can be
//! begun and ended by itself while the rest goes on is a unit: a camera (`camera_unit`), the workers,
//! the uplink. `reload` begins and ends them when the config changes.
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::analytics::{self, Analytics, Facts, Order};
use super::blocking::on_thread;
use super::camera_unit::{CameraUnit, Wiring};
use super::commands::{self, Commander};
use super::config::{Desired, Problems as ConfigProblems, SiteConfig, check_labels, resolve_rules};
use super::desired::in_force;
use super::desk::{Desk, Wanted};
use super::evidence::{ClipWriter, EvidenceDesk, Words, make_room, teller};
use super::exit::{ExitCode, Failure, OrExit as _};
use super::footage::SiteFootage;
use super::health::{Problems, first_report, follow_store};
use super::models::starts;
use super::mutes::Mutes;
use super::oversight::{Oversight, Terms};
use super::reload::{cards_digest, report};
use super::status;
use super::workers::{Tools, Workers, detectors, staffing};
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::{CameraId, CameraIx, CameraSlots};
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::SharedClock;
use crate::capture::RtspHosts;
use crate::decode::{FrameBoard, FramePool};
use crate::detect::{Analysed, Models, ModelsError, Runtime};
use crate::evidence::{
    Around, BEAT as EVIDENCE_BEAT, Blurrer, EvidenceSettings, Redact, SiteRings,
};
use crate::rules::RuleEngine;
use crate::track::Tracker;
use crate::uplink::{
    Answer, CoverageReport, EvidenceOutbox, Inbox, InboxEvent, Journal, OUTBOX_BEAT, OutboxBudget,
    ReceiptOrders, Shelf, SiteState, Store, StoreError, StoreHandle, Uplink, UplinkConfig,
    UplinkHealth, receipt_orders,
};

/// The store's file in the state directory.
pub const STORE_FILE: &str = "store.sqlite";
/// Name of the problem in the site's status while records alone are over the outbox's budget.
const OUTBOX_PROBLEM: &str = "outbox";
/// Faults that are remembered; the first one ends the site.
const FAULTS: usize = 8;
/// Messages between inbox and commands.
const MAIL: usize = 8;
/// Orders that wait for the analytics thread.
const ORDERS: usize = 16;
/// A decode thread or worker promises a beat a second; the first pictures of a slow model on a slow
/// box, and a model of many tiles, take longer.
pub(super) const THREAD_BEAT: std::time::Duration = std::time::Duration::from_secs(60);

/// A site that is built and checked, but not running.
#[derive(Debug)]
pub struct Site {
    config: SiteConfig,
    clock: SharedClock,
    metrics: Metrics,
    heartbeats: Heartbeats,
    models: Models,
    store: StoreHandle,
    store_thread: JoinHandle<()>,
}

/// Why a running site cannot go on: a bug, or an inference that keeps failing. The process should
/// stop in good order and be started again.
pub type Fault = anyhow::Error;

/// A running site.
#[derive(Debug)]
pub struct RunningSite {
    /// The site's metrics.
    pub metrics: Metrics,
    /// Who makes progress.
    pub heartbeats: Heartbeats,
    /// Where the records are.
    pub store: StoreHandle,
    /// The running hour's coverage so far, at most a second old.
    pub coverage: watch::Receiver<CoverageReport>,
    /// What it runs by.
    pub(super) config: SiteConfig,
    pub(super) models: Models,
    /// What the centre wants of it, if it is known.
    pub(super) desired: Option<Desired>,
    /// What the centre wanted last and did not get.
    pub(super) refused: Option<(Desired, ConfigProblems)>,
    /// Digest of the cards they were loaded from.
    pub(super) cards: String,
    pub(super) wiring: Wiring,
    pub(super) problems: Problems,
    pub(super) slots: CameraSlots,
    pub(super) cameras: BTreeMap<CameraId, CameraUnit>,
    /// None only while others are begun in their place.
    pub(super) workers: Option<Workers>,
    pub(super) uplink: UplinkUnit,
    /// Pictures and clips that are to leave.
    pub(super) outbox: EvidenceOutbox,
    /// q3, for workers yet to come.
    pub(super) analysed: SyncSender<Analysed>,
    pub(super) orders: SyncSender<Order>,
    /// Where the centre's messages go, and answers to them come from.
    pub(super) mail: Mail,
    /// Cameras and rules in force, for the commands.
    pub(super) facts: watch::Sender<Arc<Facts>>,
    commands_stop: CancellationToken,
    commands: tokio::task::JoinHandle<()>,
    wanted: mpsc::Receiver<Wanted>,
    faults: mpsc::Receiver<Fault>,
    stopping: CancellationToken,
    analytics: JoinHandle<()>,
    /// Where faces in clips are found.
    pub(super) footage: SiteFootage,
    /// None if evidence cannot be kept.
    keeper: Option<JoinHandle<()>>,
    /// The same.
    blurrer: Option<JoinHandle<()>>,
    store_thread: JoinHandle<()>,
}

/// The lines to the broker.
#[derive(Debug)]
pub struct UplinkUnit {
    stop: CancellationToken,
    records: tokio::task::JoinHandle<()>,
    inbox: tokio::task::JoinHandle<()>,
    budget: tokio::task::JoinHandle<()>,
}

/// Between the inbox, which may begin anew, and the commands, which do not.
#[derive(Clone, Debug)]
pub struct Mail {
    events: mpsc::Sender<InboxEvent>,
    answers: Arc<tokio::sync::Mutex<mpsc::Receiver<Answer>>>,
    receipts: ReceiptOrders,
}

/// What a running site asks of whoever runs it.
#[derive(Debug)]
pub enum Asks {
    /// It cannot go on.
    End(Fault),
    /// To take up a config of the centre.
    Config(Wanted),
}

/// Loads the models that a config names.
///
/// # Errors
/// [`ModelsError`] names the file and what to do.
pub fn load_models(config: &SiteConfig) -> Result<Models, ModelsError> {
    let runtime = Runtime::load(config.detect.onnxruntime.as_deref())?;
    let runtime = runtime.on(config.detect.provider);
    let limits = config.detect.region_limits();
    Models::load_with(runtime, &config.detect.models, limits)
}

fn code_of_store(e: &StoreError) -> ExitCode {
    match e {
        StoreError::Unwritable { .. } | StoreError::Full(_) | StoreError::Io(_) => {
            ExitCode::CannotCreate
        }
        StoreError::Locked { .. } => ExitCode::Unavailable,
        StoreError::NewerSchema { .. } => ExitCode::Config,
        StoreError::Corrupt(_) | StoreError::Stale { .. } | StoreError::Closed => {
            ExitCode::Internal
        }
    }
}

fn store_failure(e: StoreError) -> Failure {
    let code = code_of_store(&e);
    if e.is_temporary() {
        let why = e.chain();
        return Failure::new(
            code,
            anyhow::anyhow!("{why}: make room on the disk or look at it; systemd tries again"),
        );
    }
    Failure::new(code, e)
}

/// Runs `work` on a named thread. What it returns as an error, and a panic, end the site.
pub(super) fn spawn(
    name: String,
    faults: &mpsc::Sender<Fault>,
    work: impl FnOnce() -> Result<(), Fault> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let faults = faults.clone();
    let thread = std::thread::Builder::new().name(name.clone());
    let started = thread.spawn(move || {
        let fault = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(_) => anyhow::anyhow!("{name} panicked; the lines above say where"),
        };
        // The first fault ends the site; nobody needs more of them, or listens once it stops.
        drop(faults.try_send(fault));
    });
    started.or_exit(ExitCode::Internal)
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic was told as a fault already.
        drop(thread.join());
    }
}

impl UplinkUnit {
    pub(super) fn start(
        config: UplinkConfig,
        site: &SiteConfig,
        wiring: &Wiring,
        store: &StoreHandle,
        outbox: &EvidenceOutbox,
        mail: &Mail,
    ) -> Self {
        let stop = CancellationToken::new();
        let inbox = Inbox {
            config: config.clone(),
            site: site.identity.clone(),
            events: mail.events.clone(),
            answers: mail.answers.clone(),
            heartbeats: wiring.heartbeats.clone(),
            stop: stop.clone(),
        };
        let problems = wiring.problems.clone();
        let budget = OutboxBudget {
            max_bytes: config.outbox_bytes,
            store: store.clone(),
            outbox: outbox.clone(),
            tell: Box::new(move |problem| match problem {
                Some(problem) => problems.set(OUTBOX_PROBLEM, problem),
                None => problems.clear(OUTBOX_PROBLEM),
            }),
            metrics: wiring.metrics.clone(),
            clock: wiring.clock.clone(),
            heartbeat: wiring.heartbeats.register("outbox", OUTBOX_BEAT),
            stop: stop.clone(),
        };
        let uplink = Uplink {
            config,
            site: site.identity.clone(),
            store: store.clone(),
            state: wiring.state.subscribe(),
            health: wiring.uplink_health.clone(),
            metrics: wiring.metrics.clone(),
            clock: wiring.clock.clone(),
            evidence: Some(outbox.clone()),
            receipts: mail.receipts.clone(),
            heartbeats: wiring.heartbeats.clone(),
            stop: stop.clone(),
        };
        Self {
            stop,
            records: spawn_task("uplink", &wiring.faults, uplink.run()),
            inbox: spawn_task("inbox", &wiring.faults, inbox.run()),
            budget: spawn_task("outbox", &wiring.faults, budget.run()),
        }
    }

    /// Ends it in good order: what goes within 3 s goes.
    pub(super) async fn end(&mut self) {
        self.stop.cancel();
        drop((&mut self.budget).await);
        drop((&mut self.inbox).await);
        drop((&mut self.records).await);
    }
}

/// What findings must say by `config`, with cameras and rules by slot.
pub(super) fn facts(
    config: &SiteConfig,
    slots: &CameraSlots,
    models: &Models,
) -> Result<Facts, crate::base::ids::NoSlot> {
    let by_config: Vec<CameraIx> = config
        .cameras
        .iter()
        .map(|c| slots.slot(&c.id))
        .collect::<Result<_, _>>()?;
    let mut rules = resolve_rules(&config.rules, models);
    for rule in &mut rules {
        for camera in &mut rule.cameras {
            *camera = by_config[camera.index()];
        }
    }
    let gb28181 = |id: &CameraId| {
        let camera = config.cameras.iter().find(|c| c.id == *id);
        camera.and_then(|c| c.gb28181.clone())
    };
    let names = slots.names().into_iter();
    Ok(Facts {
        site: config.identity.clone(),
        cameras: names
            .map(|id| {
                let code = gb28181(&id);
                (id, code)
            })
            .collect(),
        rules,
        models: models.clone(),
    })
}

impl Site {
    /// Loads the models and opens store and evidence. Blocking, for a second or so. Nothing runs yet
    /// but the store's thread.
    ///
    /// # Errors
    /// What a person must put right, with the exit code: a model, the runtime library, a label, the
    /// state directory.
    pub fn build(config: SiteConfig, clock: SharedClock) -> Result<Self, Failure> {
        crate::uplink::check(&config.uplink)
            .map_err(|e| Failure::new(ExitCode::Config, anyhow::anyhow!("{}", e.chain())))?;
        let models = load_models(&config).or_exit(ExitCode::Config)?;
        let labels: Vec<_> = config.rules.iter().flat_map(|r| r.labels.clone()).collect();
        let unknown = check_labels(&config.file, &labels, &models);
        if !unknown.is_empty() {
            return Err(Failure::new(ExitCode::Config, ConfigProblems(unknown)));
        }
        let metrics = Metrics::default();
        let heartbeats = Heartbeats::new(clock.clone());
        let path = config.state_dir.join(STORE_FILE);
        let open = || Store::open(&path, clock.clone(), &metrics, &heartbeats);
        let (store, store_thread) = match open() {
            Err(e) if e.is_temporary() => {
                tracing::error!(err = %e.chain(), "store cannot be opened: evidence gives way if the disk is full");
                let told = make_room(&config.evidence, &config.identity, &metrics, &clock);
                let opened = open().map_err(store_failure)?;
                opened.0.commit(told).map_err(store_failure)?;
                opened
            }
            other => other.map_err(store_failure)?,
        };
        Ok(Self {
            config,
            clock,
            metrics,
            heartbeats,
            models,
            store,
            store_thread,
        })
    }

    /// Starts all stages, the last one first. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// The ledger cannot be read, or the system gives no threads.
    pub fn start(self) -> Result<RunningSite, Failure> {
        let Self {
            config,
            clock,
            metrics,
            heartbeats,
            models,
            store,
            store_thread,
        } = self;
        let slots = CameraSlots::default();
        let facts = facts(&config, &slots, &models).or_exit(ExitCode::Config)?;
        let desired = in_force(&config.state_dir).filter(|d| match config.desired {
            Some(place) => place.revision == d.revision,
            None => d.text.trim().is_empty(),
        });
        let (state, _) = watch::channel(initial_state(&config, desired.as_ref(), &clock));
        let (faults, fault_seen) = mpsc::channel(FAULTS);
        let stopping = CancellationToken::new();
        let replaced =
            |id: &CameraId| metrics.counter(Metric::FramesReplaced, &[("camera", id.as_str())]);
        let problems = Problems::new(state.clone());
        let told = follow_store(store.health(), problems.clone());
        drop(spawn_task("store health", &faults, told));
        let settings = EvidenceSettings::new(config.evidence.clone());
        let wiring = Wiring {
            pool: FramePool::default(),
            board: Arc::new(FrameBoard::new(
                slots.names().iter().map(replaced).collect(),
                clock.clone(),
            )),
            hosts: RtspHosts::default(),
            state,
            uplink_health: watch::channel(UplinkHealth::default()).0,
            faults,
            metrics: metrics.clone(),
            clock: clock.clone(),
            heartbeats: heartbeats.clone(),
            rings: SiteRings::default(),
            evidence: settings.clone(),
            problems: problems.clone(),
        };
        let outbox = EvidenceOutbox::open(
            &store,
            &config.evidence.dir,
            config.evidence.redact == Redact::Off,
        )
        .map_err(store_failure)?;
        let (evidence_desk, keeper) = EvidenceDesk::open(
            settings,
            &config.identity,
            Words::new(&models, config.revision.clone()),
            outbox.clone(),
            problems.clone(),
            &metrics,
            clock.clone(),
        );
        let footage = SiteFootage::new(models.clone(), clock.clone());
        let (blurrer, blurs) = evidence_desk
            .blurrer(Box::new(footage.clone()), clock.clone())
            .unzip();
        // No pulse: a clip that takes its time, or never ends, is no reason to end the site.
        let blur = |blurrer: Blurrer| {
            let work = move || {
                blurrer.run();
                Ok(())
            };
            spawn("blur".to_owned(), &wiring.faults, work)
        };
        let blurrer = blurrer.map(blur).transpose()?;
        let pictures = evidence_desk.answers(
            store.clone(),
            slots.clone(),
            wiring.board.clone(),
            clock.clone(),
            blurs,
        );
        let keeper = match keeper {
            None => None,
            Some(keeper) => {
                let tell = teller(
                    &config.identity,
                    store.clone(),
                    problems.clone(),
                    clock.clone(),
                );
                let around = Around {
                    rings: wiring.rings.clone(),
                    remux: Box::new(ClipWriter),
                    tell: Box::new(tell),
                    heartbeat: heartbeats.register("evidence", EVIDENCE_BEAT),
                };
                Some(spawn("evidence".to_owned(), &wiring.faults, move || {
                    keeper.run(&around);
                    Ok(())
                })?)
            }
        };
        let shelf = store.shelf(Shelf::Commands).map_err(store_failure)?;
        let mutes = Mutes::of(&shelf);
        let facts = Arc::new(facts);
        let seed = format!("{}/{}", config.identity.region, config.identity.site);
        let staffing = staffing(&config);
        // DESIGN section 2: q3 holds two results a worker. More workers by a later config share it.
        let (analysed, results) = sync_channel(2 * staffing.most());
        let (orders, orders_seen) = sync_channel(ORDERS);
        let terms = Terms::of(&config, &slots).or_exit(ExitCode::Config)?;
        let seen = wiring.state.subscribe();
        let chain = evidence_desk.index();
        let oversight =
            Oversight::start(terms, &seed, &store, &metrics, seen, chain, clock.clone());
        let oversight = oversight.map_err(store_failure)?;
        let coverage = oversight.so_far();
        let mut analytics =
            Analytics {
                oversight,
                board: wiring.board.clone(),
                analysed: results,
                orders: orders_seen,
                trackers: (0..slots.len())
                    .map(|i| {
                        let camera = CameraIx(i as u16);
                        Tracker::new(camera, config.track.clone(), models.groups())
                            .with_starts(starts(&models, &facts.rules, camera))
                    })
                    .collect(),
                engine: RuleEngine::new(facts.rules.clone(), &seed),
                facts: facts.clone(),
                desk: evidence_desk,
                store: store.clone(),
                mutes: mutes.clone(),
                problems: problems.clone(),
                metrics: metrics.clone(),
                clock: clock.clone(),
                heartbeat: heartbeats.register("analytics", analytics::BEAT),
                stopping: stopping.clone(),
            };
        let restored = analytics.restore().map_err(store_failure)?;
        if restored > 0 {
            tracing::info!(findings = restored, "findings still open from before");
        }
        let analytics = spawn("analytics".to_owned(), &wiring.faults, move || {
            analytics.run();
            Ok(())
        })?;
        let (facts, facts_seen) = watch::channel(facts);
        let (wanted_by, wanted) = mpsc::channel(1);
        let (events, events_seen) = mpsc::channel(MAIL);
        let (answers_by, answers) = mpsc::channel(MAIL);
        let (receipts_by, receipts) = receipt_orders();
        let mail = Mail {
            events,
            answers: Arc::new(tokio::sync::Mutex::new(answers)),
            receipts,
        };
        let commands_stop = CancellationToken::new();
        let commander = Commander {
            desk: Desk {
                store: store.clone(),
                state: wiring.state.subscribe(),
                coverage: coverage.clone(),
                facts: facts_seen,
                orders: orders.clone(),
                mutes,
                pictures: Some(Arc::new(pictures)),
                receipts: receipts_by,
                wanted: wanted_by,
                metrics: metrics.clone(),
                clock: clock.clone(),
            },
            journal: Journal::of(&shelf),
            events: events_seen,
            answers: answers_by,
            problems: problems.clone(),
            heartbeat: heartbeats.register("commands", commands::BEAT),
            stop: commands_stop.clone(),
        };
        let commands = spawn_task("commands", &wiring.faults, commander.run());
        let uplink = UplinkUnit::start(
            config.uplink.clone(),
            &config,
            &wiring,
            &store,
            &outbox,
            &mail,
        );
        let detectors = detectors(&models, staffing.first(0)).or_exit(ExitCode::Config)?;
        let tools = Tools {
            wiring: wiring.clone(),
            slots: slots.clone(),
            models: models.clone(),
            analysed: analysed.clone(),
        };
        let workers = Workers::start(tools, staffing, detectors)?;
        let mut cameras = BTreeMap::new();
        for camera in &config.cameras {
            let slot = slots.slot(&camera.id).or_exit(ExitCode::Config)?;
            cameras.insert(camera.id.clone(), CameraUnit::start(&wiring, slot, camera)?);
        }
        let source = status::Source {
            metrics: metrics.clone(),
            heartbeats: heartbeats.clone(),
            state: wiring.state.subscribe(),
            uplink: wiring.uplink_health.subscribe(),
            store: store.clone(),
            clock: wiring.clock.clone(),
        };
        drop(spawn_task(
            "store watch",
            &wiring.faults,
            watch_store(store.clone(), wiring.faults.clone(), stopping.clone()),
        ));
        let (page, told, stop) = (config.status.clone(), problems.clone(), stopping.clone());
        drop(spawn_task(
            "status page",
            &wiring.faults,
            status::serve(page, source, told, stop),
        ));
        Ok(RunningSite {
            metrics,
            heartbeats,
            store,
            coverage,
            cards: cards_digest(&config.detect.models),
            desired,
            refused: None,
            config,
            models,
            wiring,
            problems,
            slots,
            cameras,
            workers: Some(workers),
            uplink,
            outbox,
            analysed,
            orders,
            mail,
            facts,
            commands_stop,
            commands,
            wanted,
            faults: fault_seen,
            stopping,
            analytics,
            footage,
            keeper,
            blurrer,
            store_thread,
        })
    }
}

/// The store's thread has nobody to tell of its own panic; but what it tells others ends with it, and
/// then nothing is stored any more.
async fn watch_store(store: StoreHandle, faults: mpsc::Sender<Fault>, stopping: CancellationToken) {
    let mut lives = store.last_seq();
    while lives.changed().await.is_ok() {}
    if !stopping.is_cancelled() {
        let fault = anyhow::anyhow!("the store ended, or panicked; the lines above say where");
        // The first fault ends the site.
        drop(faults.try_send(fault));
    }
}

/// Runs a task whose panic ends the site.
pub(super) fn spawn_task(
    name: &str,
    faults: &mpsc::Sender<Fault>,
    work: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let (faults, name) = (faults.clone(), name.to_owned());
    tokio::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            let fault = anyhow::anyhow!("{name} panicked; the lines above say where");
            // The first fault ends the site; nobody needs more of them, or listens once it stops.
            drop(faults.try_send(fault));
        }
    })
}

fn initial_state(config: &SiteConfig, desired: Option<&Desired>, clock: &SharedClock) -> SiteState {
    let now = clock.utc();
    let cameras = config.cameras.iter();
    SiteState {
        started: now,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        provider: config.detect.provider.word().to_owned(),
        cameras: cameras.map(|c| first_report(&c.id, now)).collect(),
        problems: Vec::new(),
        config: Some(report(config, desired, now, vec!["all".to_owned()])),
    }
}

impl RunningSite {
    /// What ends the site, if ever.
    pub async fn fault(&mut self) -> Fault {
        match self.faults.recv().await {
            Some(fault) => fault,
            // All stages have ended in good order: there is nothing that could still fail.
            None => std::future::pending().await,
        }
    }

    /// What it asks of whoever runs it, if ever. A site whose caller has no use for configs of the
    /// centre may be asked for its fault alone.
    pub async fn asks(&mut self) -> Asks {
        tokio::select! {
            Some(fault) = self.faults.recv() => Asks::End(fault),
            Some(wanted) = self.wanted.recv() => Asks::Config(wanted),
        }
    }

    /// Stops in good order: what is decided is stored, what the line takes in 3 s is sent, open
    /// findings stay open. Takes a few seconds at most, unless a disk hangs.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.stopping.cancel();
        self.commands_stop.cancel();
        drop(self.commands.await);
        for camera in self.cameras.values() {
            camera.tell_to_stop();
        }
        for (_, camera) in self.cameras {
            camera.ended().await;
        }
        let (board, workers, analytics) = (self.wiring.board, self.workers, self.analytics);
        let (analysed, keeper, blurrer) = (self.analysed, self.keeper, self.blurrer);
        let upstream = on_thread("join", move || {
            board.close();
            if let Some(workers) = workers {
                workers.join();
            }
            // The analytics thread ends when nobody can hand it a picture any more.
            drop(analysed);
            drop(analytics.join());
            // The commands have ended, so nobody waits for a blurred clip.
            join_all(blurrer.into_iter().collect());
            // And the evidence thread when it has none left to complete.
            join_all(keeper.into_iter().collect());
        });
        drop(upstream.await);
        for camera in &self.coverage.borrow().cameras {
            tracing::debug!(camera = %camera.camera, watched_ms = camera.watched_ms, "coverage of the running hour written down");
        }
        self.uplink.end().await;
        self.store.close();
        let store_thread = self.store_thread;
        drop(on_thread("join", move || drop(store_thread.join())).await);
        tracing::info!("stopped");
    }
}

/// Whether `dir` looks like a checkout or installation that holds `file`; looked for here and upwards
/// of the program.
pub fn find_upwards(file: &Path) -> Option<std::path::PathBuf> {
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let folders = here
        .iter()
        .flat_map(|d| d.ancestors())
        .chain(program.iter().flat_map(|p| p.ancestors().skip(1)));
    folders.map(|d| d.join(file)).find(|p| p.is_file())
}
