//! Keeps the site connected and the outbox flowing, on tokio.
//!
//! What must not be here: what MQTT packets look like (`mqtt.rs`), which record is on the way
//! (`delivery.rs`), SQL (`store.rs`). Nothing here is waited for by the store or by rules.
//!
//! # Operation
//! One connection after the other, each with a fresh client, no session, a last will on `status` and
//! an epoch higher than any before. After the welcome: subscribe to receipts if the centre
//! acknowledges; `status`, every `camera/…/status` and `active/…` of what is open, all retained; then
//! records, by class, news before what is late, see `delivery.rs`. Before a record goes the
//! `active/{finding}` that it changes (empty when it closes), so that the record's acknowledgement covers
//! it; a record that is not the newest of its finding leaves `active` alone, for the newest has been told
//! already or will be. Pictures go while no record waits (`evidence.rs`).
//!
//! # Failure
//! Whatever ends a connection, the next is tried after 1 s to 60 s. When the oldest message that the
//! broker owes an answer to stays without one for `progress_timeout`, whatever else it answers, the
//! connection is dropped. Records that do not fit the
//! broker's maximum packet size are parked; a finding is reduced first (evidence, then objects, zone and
//! models, then scores are left out, and it says so). A store that cannot take acknowledgements is asked again
//! every second; meanwhile they are remembered.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::config::{AckBy, SiteIdentity, UplinkConfig};
use super::config_report::ConfigReport;
use super::delivery::{Deliverable, Delivery, HoldReason, Limits, Tag, Verdict};
use super::evidence::{EVIDENCE, EvidenceOutbox, EvidenceSender};
use super::mqtt::{
    Link, LinkError, LinkEvent, LinkOptions, Message, Outbound, PublishError, Will, load_tls,
};
use super::payload::{
    CameraReport, CameraStatus, FINDING_CONTENT_TYPE, FindingData, FindingPhase, JSON_CONTENT_TYPE,
    Receipt, SiteStatus, Telemetry, source_of,
};
use super::receipts::{ReceiptOrder, ReceiptOrders};
use super::record::RecordBody;
use super::store::{
    Batch, Cursor, LedgerEntry, Record, Resent, StoreError, StoreHandle, TOO_LARGE,
};
use super::topics::Topics;
use crate::base::backoff::Backoff;
use crate::base::heartbeat::{Heartbeat, Heartbeats};
use crate::base::ids::Name;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{MonoMicros, SharedClock, UtcMicros};
use crate::base::words::{self, Texts};

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A connection that lasted this long was a good one: the next back-off is short again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// The task promises to beat at least this often.
const BEAT: Duration = Duration::from_secs(60);
/// How often time-outs are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Status is sent at least this often: it is also a probe of the line.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// And at most this often.
const STATUS_AT_MOST: Duration = Duration::from_secs(1);
/// What is waiting when the daemon stops may take this long to go.
const DRAIN: Duration = Duration::from_secs(3);
/// And the goodbye this long.
const GOODBYE: Duration = Duration::from_secs(1);
/// After a failure of the store.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Refusals (not "nobody subscribes") after which a record is parked.
const REFUSALS: u32 = 5;
/// The outbox is read when there is room for so many records: each read brings some of the oldest of all,
/// whatever its class, see [`StoreHandle::read`].
const READ_AT_LEAST: usize = 8;
/// Publishes for status, cameras and open findings, beside two for each record on the way.
const SPARE_PUBLISHES: usize = 32;
/// A receipt with many exceptions.
const MAX_INCOMING_BYTES: u32 = 256 * 1024;

/// What the site says of itself; the uplink sends it when it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteState {
    /// When the daemon started.
    pub started: UtcMicros,
    /// The daemon's version.
    pub version: String,
    /// What runs the networks.
    pub provider: String,
    /// All cameras, in the order of the config.
    pub cameras: Vec<CameraReport>,
    /// What a person should look at, one line each; the uplink adds its own.
    pub problems: Vec<Texts>,
    /// The config in force.
    pub config: Option<ConfigReport>,
}

/// How the uplink is, for the local status and health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkHealth {
    /// Whether the broker has let us in.
    pub connected: bool,
    /// Since when this is so.
    pub since: UtcMicros,
    /// Of the newest connection, or the one being tried; 0 before the first.
    pub epoch: u64,
    /// Why the newest connection ended or failed, with the remedy; `None` while connected.
    pub error: Option<String>,
    /// What stands in the way of delivery although connected, one line each.
    pub problems: Vec<Texts>,
}

/// Everything the uplink's task owns.
#[derive(Debug)]
pub struct Uplink {
    /// Where the broker is.
    pub config: UplinkConfig,
    /// Who we are.
    pub site: SiteIdentity,
    /// Where the records are.
    pub store: StoreHandle,
    /// What to say of the site.
    pub state: watch::Receiver<SiteState>,
    /// Where to say how the uplink is.
    pub health: watch::Sender<UplinkHealth>,
    /// The site's metrics; also what telemetry sends.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Pictures and clips that are to leave; `None` if there is no evidence.
    pub evidence: Option<EvidenceOutbox>,
    /// Receipts that come as commands.
    pub receipts: ReceiptOrders,
    /// Where the task beats, as `uplink`.
    pub heartbeats: Heartbeats,
    /// Told to stop. By then all commits should have been answered.
    pub stop: CancellationToken,
}

/// Whether the configuration can work at all: TLS files are there and fit. Blocking, for milliseconds.
///
/// # Errors
/// What a person must put right.
pub fn check(config: &UplinkConfig) -> Result<(), LinkError> {
    match &config.tls {
        Some(tls) => load_tls(tls).map(|_| ()),
        None => Ok(()),
    }
}

impl Deliverable for Record {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn class(&self) -> u8 {
        self.body.class()
    }

    fn topic_key(&self) -> &str {
        &self.topic_tail
    }

    fn note_newer(&mut self, newer: &Self) {
        let revision = |record: &Self| record.body.finding().map(|f| (f.finding, f.revision));
        if let (Some((mine, old)), Some((other, new))) = (revision(self), revision(newer)) {
            self.latest &= mine != other || new < old;
        }
    }
}

impl Uplink {
    /// Runs until told to stop: what waits has 3 s to go, then the site says that it is offline.
    pub async fn run(mut self) {
        let heartbeat = self.heartbeats.register("uplink", BEAT);
        let mut delivery = Delivery::new(self.limits(), self.config.ack);
        let mut books = Books::new(self.store.clone());
        // The uplink before this one has let go of it by now.
        let mut receipts = self.receipts.clone().lock_owned().await;
        let mut evidence = self.evidence.clone().map(|outbox| {
            let (store, kbps) = (self.store.clone(), self.config.evidence_kbps);
            EvidenceSender::new(
                outbox,
                store,
                kbps,
                self.metrics.clone(),
                self.clock.clone(),
            )
        });
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        let mut epoch = 0;
        self.unpark().await;
        while !self.stop.is_cancelled() {
            heartbeat.beat();
            let begun = self.clock.mono();
            let ended = self
                .connection(
                    &mut delivery,
                    &mut books,
                    &mut receipts,
                    evidence.as_mut(),
                    &mut epoch,
                    &heartbeat,
                )
                .await;
            delivery.connection_lost();
            if let Some(evidence) = &mut evidence {
                evidence.connection_lost();
            }
            let Err(error) = ended else { break };
            if self.clock.mono().since(begun) > GOOD_CONNECTION {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            let text = error.chain();
            let (attempt, backoff_ms) = (backoff.attempt(), wait.as_millis() as u64);
            tracing::warn!(err = %text, attempt, backoff_ms, "broker not connected");
            self.note_health(|health| {
                health.error = Some(text);
                health.connected = false;
            });
            self.pause(wait, &mut delivery, &mut books, &mut receipts, &heartbeat)
                .await;
        }
        self.note_health(|health| health.connected = false);
        // Acknowledgements that the store has not taken yet: the records would be sent twice.
        let rest = async {
            while !books.is_settled() {
                books.settled().await;
            }
        };
        if tokio::time::timeout(GOODBYE, rest).await.is_err() {
            tracing::warn!("store did not take the last acknowledgements");
        }
        tracing::info!("uplink stopped");
    }

    fn limits(&self) -> Limits {
        let window = usize::from(self.config.window.max(1));
        Limits {
            records: window,
            publishes: 2 * window + SPARE_PUBLISHES,
            loaded: (2 * window).max(64),
            refusals: REFUSALS,
        }
    }

    /// A restart is a person's act: what was put aside gets another chance.
    async fn unpark(&self) {
        let unparked = tokio::select! {
            unparked = self.store.unpark_all() => unparked,
            () = self.stop.cancelled() => return,
        };
        match unparked {
            Ok(0) => {}
            Ok(records) => tracing::info!(records, "records put aside are tried again"),
            Err(e) => tracing::warn!(err = %e.chain(), "records put aside stay there"),
        }
    }

    /// Waits, beating and writing down what was acknowledged, until `wait` is over or we are told to
    /// stop.
    async fn pause(
        &self,
        wait: Duration,
        delivery: &mut Delivery<Record>,
        books: &mut Books,
        receipts: &mut mpsc::Receiver<ReceiptOrder>,
        heartbeat: &Heartbeat,
    ) {
        let wait = tokio::time::sleep(wait);
        tokio::pin!(wait);
        let mut beat = tokio::time::interval(BEAT / 12);
        loop {
            tokio::select! {
                () = &mut wait => return,
                () = self.stop.cancelled() => return,
                seqs = books.settled() => delivery.forget(&seqs),
                Some(order) = receipts.recv() => self.settle(order, delivery, books),
                _ = beat.tick() => heartbeat.beat(),
            }
        }
    }

    /// A receipt that came as a command.
    fn settle(&self, order: ReceiptOrder, delivery: &mut Delivery<Record>, books: &mut Books) {
        let newest = *self.store.last_seq().borrow();
        let seqs = order.settle(self.config.ack, delivery, newest, self.clock.mono());
        let acked = self.metrics.counter(Metric::UplinkAcked, &[]);
        acked.add(seqs.len() as u64);
        books.done.extend(seqs);
    }

    fn note_health(&self, change: impl FnOnce(&mut UplinkHealth)) {
        let now = self.clock.utc();
        self.health.send_if_modified(|health| {
            let before = health.clone();
            change(health);
            if health.connected != before.connected {
                health.since = now;
            }
            *health != before
        });
    }

    /// One connection, from its first step to its end. `Ok` after an orderly stop.
    async fn connection(
        &mut self,
        delivery: &mut Delivery<Record>,
        books: &mut Books,
        receipts: &mut mpsc::Receiver<ReceiptOrder>,
        evidence: Option<&mut EvidenceSender>,
        epoch: &mut u64,
        heartbeat: &Heartbeat,
    ) -> Result<(), LinkError> {
        let stop = self.stop.clone();
        let next = tokio::select! {
            next = self.store.next_epoch() => next,
            () = stop.cancelled() => return Ok(()),
        };
        *epoch = next.unwrap_or_else(|e| {
            tracing::warn!(err = %e.chain(), "epoch of the connection is not kept");
            *epoch + 1
        });
        self.note_health(|health| health.epoch = *epoch);
        let topics = Topics::new(&self.site);
        let will = SiteStatus {
            online: false,
            ..self.status(*epoch, &[])
        };
        let will = SiteStatus {
            outbox: None,
            problems: Vec::new(),
            problems_zh: Vec::new(),
            ..will
        };
        let options = LinkOptions {
            config: self.config.clone(),
            will: Some(Will {
                topic: topics.status(),
                payload: json(&will),
            }),
            inflight_limit: u16::try_from(self.limits().publishes).unwrap_or(u16::MAX),
            max_incoming_bytes: MAX_INCOMING_BYTES,
            kept: None,
        };
        let (link, welcome) = tokio::select! {
            connected = Link::connect(options) => connected?,
            () = stop.cancelled() => return Ok(()),
        };
        if self.config.ack == AckBy::Centre && link.subscribe(&topics.receipt()).is_err() {
            return Err(lost(&link, "the subscription to receipts was not taken"));
        }
        let newest = self.store.last_seq();
        let committed = *newest.borrow();
        delivery.connected(committed, welcome.receive_maximum);
        let cursor = Cursor::live_after(committed);
        self.metrics.counter(Metric::UplinkConnections, &[]).add(1);
        self.note_health(|health| {
            health.connected = true;
            health.error = None;
        });
        let (broker, waiting) = (link.broker(), self.store.stats().records);
        let (receive_maximum, max_packet_bytes) =
            (welcome.receive_maximum, welcome.max_packet_bytes);
        tracing::info!(
            broker,
            epoch = *epoch,
            waiting,
            receive_maximum,
            max_packet_bytes,
            "broker connected"
        );
        let now = self.clock.mono();
        let mut state = self.state.clone();
        state.mark_unchanged();
        let store = self.store.clone();
        let takes_more = books.takes_more(max_packet_bytes);
        let opening = async move {
            if takes_more {
                match store.unpark_too_large().await {
                    Ok(0) => {}
                    Ok(records) => {
                        tracing::info!(records, "records that were too large are tried again");
                    }
                    Err(e) => {
                        tracing::warn!(err = %e.chain(), "records that were too large stay put aside");
                    }
                }
            }
            store.read_open_findings().await
        };
        let mut session = Session {
            epoch: *epoch,
            opening: Some(opening.boxed()),
            topics,
            delivery,
            books,
            receipts,
            evidence,
            link,
            newest,
            resent: self.store.resent(),
            state,
            state_ended: false,
            begin: cursor,
            cursor,
            exhausted: false,
            reading: None,
            read_at: now,
            status_due: true,
            status_at: None,
            cameras_due: BTreeSet::new(),
            cameras_told: BTreeMap::new(),
            config_told: None,
            actives: VecDeque::new(),
            pending: VecDeque::new(),
            telemetry_at: now,
            progress_at: now,
            oldest_owed: None,
            refused: BTreeMap::new(),
            receipt_problem: None,
            problems: Vec::new(),
            drain_until: None,
            up: self,
        };
        session.compare_cameras();
        session.run(heartbeat).await
    }

    fn status(&self, epoch: u64, problems: &[Texts]) -> SiteStatus {
        let state = self.state.borrow();
        let all = || state.problems.iter().chain(problems);
        SiteStatus {
            online: true,
            epoch,
            version: state.version.clone(),
            provider: state.provider.clone(),
            started: state.started,
            time: self.clock.utc(),
            cameras: state.cameras.len() as u32,
            outbox: Some(self.store.stats()),
            problems: all().map(|p| p.en.clone()).collect(),
            problems_zh: all().map(|p| p.zh.clone()).collect(),
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with text keys always serialise")
}

fn lost(link: &Link, reason: &str) -> LinkError {
    LinkError::Lost {
        broker: link.broker().to_owned(),
        reason: reason.to_owned(),
    }
}

/// Acknowledgements on their way to the store. Outlives connections.
struct Books {
    store: StoreHandle,
    done: Vec<u64>,
    parks: VecDeque<(u64, String)>,
    /// The largest maximum packet size for which a record was put aside as too large.
    too_large_for: Option<u32>,
    job: Option<BoxFuture<'static, Job>>,
}

struct Job {
    seqs: Vec<u64>,
    reason: Option<String>,
    result: Result<(), StoreError>,
}

impl Books {
    fn new(store: StoreHandle) -> Self {
        Self {
            store,
            done: Vec::new(),
            parks: VecDeque::new(),
            too_large_for: None,
            job: None,
        }
    }

    /// Whether records were put aside that a broker with this maximum packet size may take. Asked once for
    /// each connection; while the store does not yet know of them all, the next is to ask again.
    fn takes_more(&mut self, max_packet_bytes: Option<u32>) -> bool {
        let limit = self.too_large_for;
        let more = limit.is_some_and(|limit| max_packet_bytes.is_none_or(|max| max > limit));
        if more && self.parks.is_empty() && self.job.is_none() {
            self.too_large_for = None;
        }
        more
    }

    fn is_settled(&self) -> bool {
        self.done.is_empty() && self.parks.is_empty() && self.job.is_none()
    }

    /// Waits until the store has taken something, and says what. Safe to cancel; waits for ever while
    /// there is nothing.
    async fn settled(&mut self) -> Vec<u64> {
        loop {
            if self.job.is_none() {
                self.job = self.next_job();
            }
            let job = match &mut self.job {
                Some(job) => job.await,
                None => pending().await,
            };
            self.job = None;
            let Err(e) = job.result else { return job.seqs };
            tracing::warn!(err = %e.chain(), "store does not take acknowledgements");
            match job.reason {
                Some(reason) => self
                    .parks
                    .extend(job.seqs.iter().map(|seq| (*seq, reason.clone()))),
                None => self.done.extend(job.seqs),
            }
            self.job = Some(
                async {
                    tokio::time::sleep(STORE_AGAIN).await;
                    Job {
                        seqs: Vec::new(),
                        reason: None,
                        result: Ok(()),
                    }
                }
                .boxed(),
            );
        }
    }

    fn next_job(&mut self) -> Option<BoxFuture<'static, Job>> {
        let store = self.store.clone();
        if let Some((seq, reason)) = self.parks.pop_front() {
            let park = async move {
                let result = store.park(seq, reason.clone()).await;
                Job {
                    seqs: vec![seq],
                    reason: Some(reason),
                    result,
                }
            };
            return Some(park.boxed());
        }
        if self.done.is_empty() {
            return None;
        }
        let seqs = std::mem::take(&mut self.done);
        let acked = async move {
            let result = store.acked(seqs.clone()).await;
            Job {
                seqs,
                reason: None,
                result,
            }
        };
        Some(acked.boxed())
    }
}

/// The future's result, or nothing ever while there is none. Safe to cancel.
async fn maybe<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(f) => {
            let result = f.await;
            *future = None;
            result
        }
        None => pending().await,
    }
}

async fn evidence_step(evidence: &mut Option<&mut EvidenceSender>) {
    match evidence {
        Some(evidence) => evidence.step().await,
        None => pending().await,
    }
}

/// One connection after the broker's welcome.
struct Session<'a> {
    up: &'a Uplink,
    topics: Topics,
    delivery: &'a mut Delivery<Record>,
    books: &'a mut Books,
    receipts: &'a mut mpsc::Receiver<ReceiptOrder>,
    evidence: Option<&'a mut EvidenceSender>,
    link: Link,
    epoch: u64,
    newest: watch::Receiver<u64>,
    resent: watch::Receiver<Resent>,
    state: watch::Receiver<SiteState>,
    /// Nobody will change the state any more.
    state_ended: bool,
    /// Where reading begins.
    begin: Cursor,
    cursor: Cursor,
    /// The last read found no more, or the one under way is to find it all; wait for a commit.
    exhausted: bool,
    /// What is open, read once, before any record.
    opening: Option<BoxFuture<'static, Result<Vec<LedgerEntry>, StoreError>>>,
    reading: Option<BoxFuture<'static, Result<Batch, StoreError>>>,
    /// Not before, after the store failed.
    read_at: MonoMicros,
    status_due: bool,
    status_at: Option<MonoMicros>,
    cameras_due: BTreeSet<Name>,
    /// What the broker keeps of each camera.
    cameras_told: BTreeMap<Name, CameraReport>,
    /// What the broker keeps of the config.
    config_told: Option<ConfigReport>,
    actives: VecDeque<LedgerEntry>,
    /// The record whose `active` goes before it, and what the link had no room for.
    pending: VecDeque<(Tag, Outbound)>,
    telemetry_at: MonoMicros,
    /// When the oldest message owed an answer became that.
    progress_at: MonoMicros,
    oldest_owed: Option<u64>,
    /// Refused publishes that are not records: which, and the newest reason.
    refused: BTreeMap<&'static str, u8>,
    receipt_problem: Option<Texts>,
    problems: Vec<Texts>,
    drain_until: Option<MonoMicros>,
}

impl Session<'_> {
    async fn run(mut self, heartbeat: &Heartbeat) -> Result<(), LinkError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.up.stop.clone();
        loop {
            self.load();
            self.pump();
            self.pump_evidence();
            if self.drain_until.is_some() && self.is_drained() {
                return self.goodbye().await;
            }
            tokio::select! {
                event = self.link.next() => self.on_event(event)?,
                opened = maybe(&mut self.opening) => self.on_opened(opened),
                batch = maybe(&mut self.reading) => self.on_batch(batch),
                seqs = self.books.settled() => self.delivery.forget(&seqs),
                () = evidence_step(&mut self.evidence) => {}
                changed = self.newest.changed() => {
                    if changed.is_err() {
                        return Err(lost(&self.link, "the store is closed"));
                    }
                    self.exhausted = false;
                }
                Some(order) = self.receipts.recv() => {
                    self.up.settle(order, self.delivery, self.books);
                }
                Ok(()) = self.resent.changed() => {
                    let through = self.resent.borrow_and_update().through;
                    self.delivery.resent(through);
                }
                changed = self.state.changed(), if !self.state_ended => {
                    self.state_ended = changed.is_err();
                    self.compare_cameras();
                    self.status_due = true;
                }
                _ = tick.tick() => {
                    heartbeat.beat();
                    self.on_tick()?;
                }
                () = stop.cancelled(), if self.drain_until.is_none() => {
                    self.drain_until = Some(self.up.clock.mono().plus(DRAIN));
                    // The commits just before the stop may not have been noticed yet.
                    self.exhausted = false;
                }
            }
        }
    }

    fn on_event(&mut self, event: LinkEvent) -> Result<(), LinkError> {
        match event {
            LinkEvent::Sent(packet_id) => self
                .delivery
                .sent(packet_id)
                .map_err(|e| lost(&self.link, &e.to_string())),
            LinkEvent::Acked { packet_id, reason } => {
                self.on_ack(packet_id, reason);
                Ok(())
            }
            LinkEvent::Message(message) => {
                self.on_message(&message);
                Ok(())
            }
            LinkEvent::Subscribed(true) => Ok(()),
            LinkEvent::Subscribed(false) => {
                self.receipt_problem = Some(words::problem::receipts_not_subscribed());
                Ok(())
            }
            LinkEvent::Closed(error) => Err(error),
        }
    }

    fn on_ack(&mut self, packet_id: u16, reason: u8) {
        let now = self.up.clock.mono();
        match self.delivery.acked(packet_id, reason, now) {
            Verdict::Unknown | Verdict::Awaiting(_) => {}
            Verdict::Other { what, reason } => {
                if what == EVIDENCE
                    && let Some(evidence) = &mut self.evidence
                {
                    evidence.acked(reason);
                }
                // Nobody need subscribe to what is retained.
                if reason >= 0x80 {
                    self.count_refusal(reason);
                    self.refused.insert(what, reason);
                } else {
                    self.refused.remove(what);
                }
            }
            Verdict::Delivered(seq) => {
                self.up.metrics.counter(Metric::UplinkAcked, &[]).add(1);
                self.books.done.push(seq);
            }
            Verdict::NotDelivered(_) => self.count_refusal(reason),
            Verdict::Poison(seq) => {
                self.count_refusal(reason);
                self.park(seq, format!("refused by the broker, reason {reason:#04x}"));
            }
        }
    }

    fn count_refusal(&self, reason: u8) {
        let reason = format!("{reason:#04x}");
        self.up
            .metrics
            .counter(Metric::UplinkRefused, &[("reason", &reason)])
            .add(1);
    }

    fn park(&mut self, seq: u64, reason: String) {
        tracing::error!(seq, reason, "record cannot be delivered and is put aside");
        self.books.parks.push_back((seq, reason));
    }

    fn on_message(&mut self, message: &Message) {
        if message.topic != self.topics.receipt() {
            return;
        }
        let receipt: Receipt = match serde_json::from_slice(&message.payload) {
            Ok(receipt) => receipt,
            Err(e) => {
                tracing::warn!(err = %e, "receipt is unreadable");
                return;
            }
        };
        let (now, newest) = (self.up.clock.mono(), *self.newest.borrow());
        match self
            .delivery
            .receipt(receipt.through, &receipt.except, newest, now)
        {
            Ok(seqs) => {
                self.receipt_problem = None;
                self.up
                    .metrics
                    .counter(Metric::UplinkAcked, &[])
                    .add(seqs.len() as u64);
                self.books.done.extend(seqs);
            }
            Err(e) => {
                tracing::warn!(err = %e, "receipt ignored");
                self.receipt_problem = Some(words::problem::receipt_ignored(e));
            }
        }
    }

    fn on_opened(&mut self, opened: Result<Vec<LedgerEntry>, StoreError>) {
        match opened {
            Ok(open) => self.actives = open.into(),
            Err(e) => tracing::warn!(err = %e.chain(), "open findings not told"),
        }
    }

    fn on_batch(&mut self, batch: Result<Batch, StoreError>) {
        match batch {
            Ok(batch) => {
                // A commit during the read may have come too late for it: what it said stays.
                if batch.more {
                    self.exhausted = false;
                }
                self.cursor = batch.cursor;
                for record in batch.records {
                    self.delivery.offer(record);
                }
            }
            Err(e) => {
                tracing::warn!(err = %e.chain(), "outbox not read");
                self.read_at = self.up.clock.mono().plus(STORE_AGAIN);
                self.exhausted = false;
            }
        }
    }

    fn on_tick(&mut self) -> Result<(), LinkError> {
        let now = self.up.clock.mono();
        let allowance = self.evidence.as_ref().map(|e| e.allowance());
        let after = self.up.config.progress_timeout + allowance.unwrap_or_default();
        self.note_progress(now);
        if now.since(self.progress_at) > after {
            return Err(LinkError::NoProgress {
                broker: self.link.broker().to_owned(),
                after,
            });
        }
        let late = self.delivery.expire_receipts(now);
        if late > 0 {
            tracing::warn!(
                records = late,
                "no receipt from the centre, records are sent again"
            );
        }
        let problems = self.own_problems();
        if problems != self.problems {
            self.up.note_health(|health| {
                health.problems.clone_from(&problems);
            });
            self.problems = problems;
            self.status_due = true;
        }
        if self
            .status_at
            .is_some_and(|at| now.since(at) >= STATUS_EVERY)
        {
            self.status_due = true;
        }
        if now.since(self.telemetry_at) >= self.up.config.telemetry_every {
            self.telemetry_at = now;
            self.send_telemetry();
        }
        Ok(())
    }

    fn note_progress(&mut self, now: MonoMicros) {
        let oldest = self.delivery.oldest_owed();
        if oldest.is_none() || oldest != self.oldest_owed {
            self.oldest_owed = oldest;
            self.progress_at = now;
        }
    }

    fn own_problems(&self) -> Vec<Texts> {
        let mut problems = Vec::new();
        for (topic, reason) in self.delivery.holds() {
            problems.push(match reason {
                HoldReason::NobodySubscribes => words::problem::nobody_subscribes(topic),
                HoldReason::Refused(reason) => {
                    words::problem::topic_refused(topic, format_args!("{reason:#04x}"))
                }
            });
        }
        for (what, reason) in &self.refused {
            problems.push(words::problem::refused(what, format_args!("{reason:#04x}")));
        }
        let parked = self.up.store.stats().parked;
        if parked > 0 {
            problems.push(words::problem::parked(parked));
        }
        problems.extend(self.receipt_problem.clone());
        problems
    }

    fn send_telemetry(&mut self) {
        let dropped = self.up.metrics.counter(Metric::UplinkTelemetryDropped, &[]);
        if self.delivery.is_congested() {
            dropped.add(1);
            return;
        }
        let time = self.up.clock.utc();
        let started = self.state.borrow().started;
        let samples = self.up.metrics.samples();
        let telemetry = Telemetry {
            time,
            uptime_seconds: (time.0 - started.0).max(0) as u64 / 1_000_000,
            counters: samples.iter().map(|s| (s.key(), s.value)).collect(),
        };
        let message = Outbound {
            topic: self.topics.telemetry(),
            payload: json(&telemetry),
            acked: false,
            retain: false,
            content_type: JSON_CONTENT_TYPE,
        };
        match self.link.publish(message) {
            Ok(()) => self.delivery.fed_unacked(),
            Err(_) => dropped.add(1),
        }
    }

    /// Which cameras the broker must be told of.
    fn compare_cameras(&mut self) {
        let state = self.state.borrow_and_update();
        let mut gone: BTreeSet<Name> = self.cameras_told.keys().cloned().collect();
        for report in &state.cameras {
            let Ok(name) = Name::new(&report.camera) else {
                continue;
            };
            gone.remove(&name);
            if self.cameras_told.get(&name) != Some(report) {
                self.cameras_due.insert(name);
            }
        }
        self.cameras_due.extend(gone);
    }

    /// Asks the store for more if there is room and may be more.
    fn load(&mut self) {
        // The batch under way brings its own cursor, and would undo the rewind.
        if self.reading.is_none() && self.delivery.take_rewind() {
            self.cursor = self.begin;
            self.exhausted = false;
        }
        let limit = self.delivery.wants();
        let now = self.up.clock.mono();
        let idle = self.reading.is_none() && self.opening.is_none();
        let enough = limit >= READ_AT_LEAST || (limit > 0 && !self.delivery.has_work());
        if idle && !self.exhausted && enough && now >= self.read_at {
            let (store, cursor) = (self.up.store.clone(), self.cursor);
            self.exhausted = true;
            self.reading = Some(async move { store.read(cursor, limit).await }.boxed());
        }
    }

    /// Feeds the link as long as it may be fed.
    fn pump(&mut self) {
        let now = self.up.clock.mono();
        self.note_progress(now);
        while self.delivery.room() > 0 {
            let Some((tag, message)) = self.next_publish(now) else {
                break;
            };
            match self.link.publish(message.clone()) {
                Ok(()) => {
                    self.delivery.fed(tag);
                    if matches!(tag, Tag::Record(_)) {
                        self.up.metrics.counter(Metric::UplinkPublished, &[]).add(1);
                    }
                }
                Err(PublishError::Busy) => {
                    self.pending.push_front((tag, message));
                    break;
                }
                Err(e @ PublishError::TooLarge { limit, .. }) => match tag {
                    Tag::Record(seq) => {
                        self.delivery.give_up(seq);
                        self.books.too_large_for = self.books.too_large_for.max(Some(limit));
                        self.park(seq, format!("{TOO_LARGE}: {e}"));
                    }
                    Tag::Other(what) => {
                        tracing::warn!(what, err = %e, topic = message.topic, "message not sent");
                    }
                },
            }
        }
    }

    /// Feeds a picture or clip, if no record waits to be fed.
    fn pump_evidence(&mut self) {
        let quiet = self.exhausted
            && self.reading.is_none()
            && self.opening.is_none()
            && self.pending.is_empty()
            && self.actives.is_empty()
            && !self.delivery.is_congested()
            && self.delivery.has_room()
            && self.delivery.room() > 0
            && self.drain_until.is_none();
        if let Some(evidence) = &mut self.evidence
            && evidence.pump(&self.link, &self.topics, quiet)
        {
            self.delivery.fed(Tag::Other(EVIDENCE));
        }
    }

    fn next_publish(&mut self, now: MonoMicros) -> Option<(Tag, Outbound)> {
        if let Some(pending) = self.pending.pop_front() {
            return Some(pending);
        }
        let status_rests = self
            .status_at
            .is_some_and(|at| now.since(at) < STATUS_AT_MOST);
        if self.status_due && !status_rests {
            self.status_due = false;
            self.status_at = Some(now);
            let status = self.up.status(self.epoch, &self.problems);
            return Some((
                Tag::Other("status"),
                retained(self.topics.status(), json(&status)),
            ));
        }
        if let Some(name) = self.cameras_due.pop_first() {
            return Some((Tag::Other("camera status"), self.camera_status(name)));
        }
        if let Some(report) = self.config_report() {
            return Some((Tag::Other("config"), report));
        }
        if let Some(open) = self.actives.pop_front() {
            let active = self.active(&open.data, open.seq, open.created, true);
            return Some((Tag::Other("active"), active));
        }
        loop {
            let (record, replayed) = self.delivery.next(now)?;
            let record = record.clone();
            let seq = record.seq;
            let Some(topic) = self.topics.of_record(&record.topic_tail) else {
                self.delivery.give_up(seq);
                let reason = format!("{:?} is no topic", record.topic_tail);
                self.park(seq, reason);
                continue;
            };
            let message = |payload| Outbound {
                topic: topic.clone(),
                payload,
                acked: true,
                retain: false,
                content_type: record.body.content_type(),
            };
            let event = |body: &RecordBody| self.event(body, seq, record.created, replayed);
            let sent = message(event(&record.body));
            let Some(data) = record.body.finding() else {
                return Some((Tag::Record(seq), sent));
            };
            let whole = sent.payload.len();
            let sent = self.reduced_to_fit(data, sent, |body| message(event(body)));
            if sent.payload.len() < whole && self.link.fits(&sent) {
                self.up.metrics.counter(Metric::UplinkReduced, &[]).add(1);
                tracing::warn!(seq, finding = %data.finding, "finding reduced: the broker takes no larger messages");
            }
            // Sent once more it says nothing new, but that it is closed may have been lost.
            let tells = self.delivery.first_try(seq) || data.phase == FindingPhase::Closed;
            if !(record.latest && tells) {
                return Some((Tag::Record(seq), sent));
            }
            self.pending.push_back((Tag::Record(seq), sent));
            let active = self.active(data, seq, record.created, replayed);
            return Some((Tag::Other("active"), active));
        }
    }

    /// `whole`, or what `message` makes of a finding that says less: better than one that waits for another
    /// broker. The shortest, if none fits.
    fn reduced_to_fit(
        &self,
        data: &FindingData,
        whole: Outbound,
        message: impl Fn(&RecordBody) -> Outbound,
    ) -> Outbound {
        let mut sent = whole;
        let mut reductions = data.reductions();
        while !self.link.fits(&sent) {
            let Some(reduced) = reductions.next() else {
                break;
            };
            sent = message(&RecordBody::Finding(Box::new(reduced)));
        }
        sent
    }

    fn event(&self, body: &RecordBody, seq: u64, created: UtcMicros, replayed: bool) -> Vec<u8> {
        body.event(&source_of(&self.up.site), seq, created, replayed)
    }

    fn active(&self, data: &FindingData, seq: u64, created: UtcMicros, replayed: bool) -> Outbound {
        let topic = self.topics.active(data.finding);
        if data.phase == FindingPhase::Closed {
            // An empty payload makes the broker forget what it kept.
            return Outbound {
                content_type: "",
                ..retained(topic, Vec::new())
            };
        }
        let message = |body: &RecordBody| Outbound {
            content_type: FINDING_CONTENT_TYPE,
            ..retained(topic.clone(), self.event(body, seq, created, replayed))
        };
        let whole = message(&RecordBody::Finding(Box::new(data.clone())));
        self.reduced_to_fit(data, whole, message)
    }

    fn camera_status(&mut self, name: Name) -> Outbound {
        let topic = self.topics.camera_status(&name);
        let state = self.state.borrow();
        let report = state
            .cameras
            .iter()
            .find(|r| r.camera == name.as_str())
            .cloned();
        drop(state);
        let Some(report) = report else {
            self.cameras_told.remove(&name);
            return Outbound {
                content_type: "",
                ..retained(topic, Vec::new())
            };
        };
        self.cameras_told.insert(name, report.clone());
        let status = CameraStatus {
            report,
            time: self.up.clock.utc(),
            epoch: self.epoch,
        };
        retained(topic, json(&status))
    }

    /// The word on the config, if the broker has another one.
    fn config_report(&mut self) -> Option<Outbound> {
        let state = self.state.borrow();
        if state.config == self.config_told {
            return None;
        }
        let report = state.config.clone()?;
        drop(state);
        let message = retained(self.topics.config_reported(), json(&report));
        self.config_told = Some(report);
        Some(message)
    }

    /// Nothing is left that can still go, or the time for it is over.
    fn is_drained(&self) -> bool {
        let over = self
            .drain_until
            .is_some_and(|until| self.up.clock.mono() >= until);
        let empty = self.exhausted
            && self.reading.is_none()
            && self.opening.is_none()
            && self.pending.is_empty()
            && self.actives.is_empty()
            && !self.delivery.has_work();
        over || empty
    }

    /// Says that the site goes offline, and goodbye, if the broker still takes it.
    async fn goodbye(mut self) -> Result<(), LinkError> {
        let status = SiteStatus {
            online: false,
            ..self.up.status(self.epoch, &self.problems)
        };
        let farewell = async {
            let mut told = false;
            loop {
                if !told && self.delivery.room() > 0 {
                    let message = retained(self.topics.status(), json(&status));
                    if self.link.publish(message).is_ok() {
                        self.delivery.fed(Tag::Other("status"));
                        told = true;
                    }
                }
                if told && !self.delivery.is_owed() {
                    self.link.disconnect();
                }
                let event = self.link.next().await;
                if let LinkEvent::Closed(_) = event {
                    break;
                }
                // Whatever fails now, the connection is about to end anyway.
                if self.on_event(event).is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(GOODBYE, farewell).await.is_err() {
            tracing::warn!(
                broker = self.link.broker(),
                "broker did not take the goodbye"
            );
        }
        Ok(())
    }
}

fn retained(topic: String, payload: Vec<u8>) -> Outbound {
    Outbound {
        topic,
        payload,
        acked: true,
        retain: true,
        content_type: JSON_CONTENT_TYPE,
    }
}

#[cfg(test)]
mod tests;
