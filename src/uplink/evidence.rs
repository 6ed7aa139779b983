//! Pictures and clips → broker, behind all records and within a budget of bandwidth.
//!
//! What must not be here: what is in a file and who may see it, beyond one guard: what is not redacted
//! leaves only where the site's policy says so, whatever was queued before the policy changed.
//!
//! # Operation
//!
//! What is to leave waits on the shelf `evidence`, put there in the transaction of the finding that
//! names it, and goes from there when the broker has acknowledged it: a restart goes on where it was.
//! Pictures go before clips, then by class, then the oldest first; one at a time, and only while no
//! record waits to be fed and the bucket is full enough: each second it fills by `evidence_kbps`, and
//! it holds one second.
//!
//! # Failure
//!
//! | what | what happens |
//! | --- | --- |
//! | nobody subscribes (0x10), or a refusal (from 0x80) | tried again after 1 s, doubled up to 5 min |
//! | refused [`REFUSALS`] times, larger than the broker takes, the file gone or changed | it is taken off the shelf, counted, and a notice says so |
//! | the connection ends | read and sent again |
//! | more waits than `uplink.outbox_mb` | it is taken off the shelf and told, see `outbox_budget.rs` |
use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::evidence_headers::EvidenceHeaders;
use super::mqtt::{BinaryMessage, Link, PublishError};
use super::record::{Change, Notice, RecordBody, Shelf};
use super::store::{StoreError, StoreHandle};
use super::topics::Topics;
use crate::base::digest::sha256_hex;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{MonoMicros, SharedClock, UtcMicros};
use crate::base::words;

/// What a publish of evidence is called among the others.
pub const EVIDENCE: &str = "evidence";
/// Refusals (not "nobody subscribes") after which a file is given up.
const REFUSALS: u32 = 5;
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// After a failure of the store.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// A line that carries less than this is no line: how long a file may take without being acknowledged.
const LEAST_BYTES_PER_S: u64 = 4096;
const KEY_PREFIX: &str = "send/";

/// One file that is to leave the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceItem {
    /// Whose; a level of the topic.
    pub finding: Uuid,
    /// The last level of the topic.
    pub n: u32,
    /// `frame`, `annotated`, `clip`, `snapshot`.
    pub kind: String,
    /// Media type.
    pub media: String,
    /// The file, below the evidence folder.
    pub file: String,
    /// Its digest; what has another one is not sent.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Whether faces in it are blurred.
    pub redacted: bool,
    /// Class of the finding.
    pub class: u8,
    /// When it was queued.
    pub queued_us: i64,
}

/// Pictures before clips, then class, then age.
type Order = (bool, u8, i64, Uuid, u32);

impl EvidenceItem {
    fn order(&self) -> Order {
        let is_clip = self.kind == "clip";
        (is_clip, self.class, self.queued_us, self.finding, self.n)
    }

    fn key(&self) -> String {
        format!("{KEY_PREFIX}{}/{}", self.finding, self.n)
    }

    /// The shelf's entry, to be committed with what names the file. Then [`EvidenceOutbox::add`] it.
    pub fn change(&self) -> Change {
        Change::Put {
            shelf: Shelf::Evidence,
            key: self.key(),
            body: serde_json::to_string(self).unwrap_or_default(),
        }
    }
}

/// What waits, by order.
#[derive(Debug, Default)]
struct Waiting {
    items: BTreeMap<Order, EvidenceItem>,
    /// What is being sent.
    taken: Option<Order>,
}

/// What waits to leave; clones share it.
#[derive(Clone, Debug)]
pub struct EvidenceOutbox {
    waiting: Arc<Mutex<Waiting>>,
    dir: Arc<Path>,
    unredacted_may_leave: Arc<AtomicBool>,
}

impl EvidenceOutbox {
    /// What was left on the shelf. Blocking.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub fn open(
        store: &StoreHandle,
        dir: &Path,
        unredacted_may_leave: bool,
    ) -> Result<Self, StoreError> {
        let outbox = Self {
            waiting: Arc::default(),
            dir: dir.into(),
            unredacted_may_leave: Arc::new(AtomicBool::new(unredacted_may_leave)),
        };
        for (key, body) in store.shelf(Shelf::Evidence)? {
            if !key.starts_with(KEY_PREFIX) {
                continue;
            }
            match serde_json::from_str(&body) {
                Ok(item) => outbox.add(item),
                Err(e) => tracing::error!(err = %e, key, "evidence to be sent is unreadable"),
            }
        }
        Ok(outbox)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what is on the shelf.
    pub fn add(&self, item: EvidenceItem) {
        self.lock().items.insert(item.order(), item);
    }

    /// Bytes of the files that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().items.values().map(|item| item.bytes).sum()
    }

    /// Takes out what `choose` names of the files that wait and are not being sent.
    pub(super) fn take_out(
        &self,
        choose: impl FnOnce(Vec<&EvidenceItem>) -> Vec<EvidenceItem>,
    ) -> Vec<EvidenceItem> {
        let mut waiting = self.lock();
        let free = waiting.items.iter();
        let free = free.filter(|(order, _)| Some(**order) != waiting.taken);
        let chosen = choose(free.map(|(_, item)| item).collect());
        for item in &chosen {
            waiting.items.remove(&item.order());
        }
        chosen
    }

    /// The policy changed.
    pub fn let_unredacted_leave(&self, may: bool) {
        self.unredacted_may_leave.store(may, Ordering::Relaxed);
    }

    /// The folder that files are named below.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The next to be sent; nobody takes it out from here on.
    fn first(&self) -> Option<EvidenceItem> {
        let mut waiting = self.lock();
        let first = waiting.items.values().next().cloned();
        waiting.taken = first.as_ref().map(EvidenceItem::order);
        first
    }

    fn remove(&self, item: &EvidenceItem) {
        let mut waiting = self.lock();
        waiting.items.remove(&item.order());
        waiting.taken = None;
    }

    fn len(&self) -> usize {
        self.lock().items.len()
    }
}

/// How many bytes may go.
#[derive(Debug)]
struct Bucket {
    bytes_per_s: f64,
    held: f64,
    filled: MonoMicros,
}

impl Bucket {
    fn new(kbps: u32, now: MonoMicros) -> Self {
        let bytes_per_s = f64::from(kbps) * 125.0;
        Self {
            bytes_per_s,
            held: bytes_per_s,
            filled: now,
        }
    }

    /// Whether `bytes` may go now: what is more than a second's worth needs a full bucket, and leaves
    /// a debt.
    fn allows(&mut self, bytes: u64, now: MonoMicros) -> bool {
        let passed = now.since(self.filled).as_secs_f64();
        self.filled = now;
        self.held = (self.held + passed * self.bytes_per_s).min(self.bytes_per_s);
        self.bytes_per_s > 0.0 && self.held >= (bytes as f64).min(self.bytes_per_s)
    }

    fn spend(&mut self, bytes: u64) {
        self.held -= bytes as f64;
    }
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The file is being read, or the store told.
    Busy,
    Ready(EvidenceItem, Bytes),
    OnTheWay(EvidenceItem),
}

enum Step {
    Read(EvidenceItem, Result<Bytes, Unfit>),
    Settled(EvidenceItem, Vec<Change>, Result<(), StoreError>),
}

/// Why a file does not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unfit {
    /// Label of `uplink_evidence_withheld_total`.
    reason: &'static str,
    /// For people.
    why: String,
}

/// Sends one file after the other; outlives connections.
pub struct EvidenceSender {
    outbox: EvidenceOutbox,
    store: StoreHandle,
    bucket: Bucket,
    stage: Stage,
    step: Option<BoxFuture<'static, Step>>,
    hold_until: MonoMicros,
    attempt: u32,
    refused: u32,
    metrics: Metrics,
    clock: SharedClock,
}

impl EvidenceSender {
    /// Nothing on the way yet.
    pub fn new(
        outbox: EvidenceOutbox,
        store: StoreHandle,
        kbps: u32,
        metrics: Metrics,
        clock: SharedClock,
    ) -> Self {
        Self {
            bucket: Bucket::new(kbps, clock.mono()),
            outbox,
            store,
            stage: Stage::Idle,
            step: None,
            hold_until: MonoMicros(0),
            attempt: 0,
            refused: 0,
            metrics,
            clock,
        }
    }

    /// Waits until a file is read or the store was told; for ever while neither is under way. Safe to
    /// cancel.
    pub async fn step(&mut self) {
        let step = match &mut self.step {
            Some(step) => step.await,
            None => pending().await,
        };
        self.step = None;
        match step {
            Step::Read(item, Ok(payload)) => self.stage = Stage::Ready(item, payload),
            Step::Read(item, Err(unfit)) => self.withhold(item, &unfit),
            Step::Settled(item, _, Ok(())) => {
                self.outbox.remove(&item);
                self.stage = Stage::Idle;
            }
            Step::Settled(item, changes, Err(e)) => {
                tracing::warn!(err = %e.chain(), "store does not take that evidence was sent");
                self.settle(item, changes, STORE_AGAIN);
            }
        }
    }

    /// Sends if something is ready and may go. `quiet`: no record waits.
    ///
    /// True if a publish was handed to the link.
    pub fn pump(&mut self, link: &Link, topics: &Topics, quiet: bool) -> bool {
        let now = self.clock.mono();
        self.metrics
            .counter(Metric::UplinkEvidenceWaiting, &[])
            .set(self.outbox.len() as u64);
        if now < self.hold_until || self.bucket.bytes_per_s <= 0.0 {
            return false;
        }
        match &self.stage {
            Stage::Idle => {
                self.read_next();
                false
            }
            Stage::Ready(item, payload)
                if quiet && self.bucket.allows(payload.len() as u64, now) =>
            {
                let (item, payload) = (item.clone(), payload.clone());
                self.publish(link, topics, item, payload)
            }
            Stage::Ready(..) | Stage::Busy | Stage::OnTheWay(_) => false,
        }
    }

    fn publish(
        &mut self,
        link: &Link,
        topics: &Topics,
        item: EvidenceItem,
        payload: Bytes,
    ) -> bool {
        let bytes = payload.len() as u64;
        let message = BinaryMessage {
            topic: topics.evidence(item.finding, item.n),
            payload,
            content_type: item.media.clone(),
            properties: EvidenceHeaders::of(&item).properties(),
        };
        match link.publish_binary(message) {
            Ok(()) => {
                self.bucket.spend(bytes);
                self.metrics
                    .counter(Metric::UplinkEvidencePublished, &[])
                    .add(1);
                self.metrics
                    .counter(Metric::UplinkEvidenceBytes, &[])
                    .add(bytes);
                self.stage = Stage::OnTheWay(item);
                true
            }
            Err(PublishError::Busy) => false,
            Err(e @ PublishError::TooLarge { .. }) => {
                let unfit = Unfit {
                    reason: "too_large",
                    why: format!("larger than the broker takes: {e}"),
                };
                self.withhold(item, &unfit);
                false
            }
        }
    }

    fn read_next(&mut self) {
        let Some(item) = self.outbox.first() else {
            return;
        };
        if !item.redacted && !self.outbox.unredacted_may_leave.load(Ordering::Relaxed) {
            let unfit = Unfit {
                reason: "policy",
                why: "faces in it are not blurred, and evidence.redact = \"faces\"".to_owned(),
            };
            return self.withhold(item, &unfit);
        }
        let path = self.outbox.dir.join(&item.file);
        self.stage = Stage::Busy;
        self.step = Some(async move { read(item, path).await }.boxed());
    }

    /// The broker answered the publish of evidence that is on the way.
    pub fn acked(&mut self, reason: u8) {
        let Stage::OnTheWay(item) = &self.stage else {
            return;
        };
        let item = item.clone();
        if reason == 0 {
            self.metrics
                .counter(Metric::UplinkEvidenceAcked, &[])
                .add(1);
            (self.attempt, self.refused) = (0, 0);
            let gone = delete(&item);
            return self.settle(item, vec![gone], Duration::ZERO);
        }
        let wait = HOLD.0.saturating_mul(1 << self.attempt.min(20)).min(HOLD.1);
        self.hold_until = self.clock.mono().plus(wait);
        self.attempt += 1;
        self.refused += u32::from(reason >= 0x80);
        self.stage = Stage::Idle;
        if self.refused >= REFUSALS {
            self.refused = 0;
            let unfit = Unfit {
                reason: "refused",
                why: format!("refused by the broker, reason {reason:#04x}"),
            };
            self.withhold(item, &unfit);
        }
    }

    /// The connection ended: what was on the way is sent again.
    pub fn connection_lost(&mut self) {
        if matches!(self.stage, Stage::OnTheWay(_)) {
            self.stage = Stage::Idle;
        }
        // A new connection may meet another broker, or one put right.
        self.hold_until = MonoMicros(0);
    }

    /// How much longer than usual the next acknowledgement may take.
    pub fn allowance(&self) -> Duration {
        match &self.stage {
            Stage::OnTheWay(item) => Duration::from_secs(item.bytes / LEAST_BYTES_PER_S),
            _ => Duration::ZERO,
        }
    }

    fn withhold(&mut self, item: EvidenceItem, unfit: &Unfit) {
        self.metrics
            .counter(Metric::UplinkEvidenceWithheld, &[("reason", unfit.reason)])
            .add(1);
        tracing::warn!(finding = %item.finding, kind = item.kind, err = %unfit.why, "evidence is not sent");
        let notice = withheld(&item, unfit, self.clock.utc());
        let changes = vec![
            delete(&item),
            Change::Record(RecordBody::Notice(Box::new(notice))),
        ];
        self.settle(item, changes, Duration::ZERO);
    }

    /// Takes an item off the shelf, after a while.
    fn settle(&mut self, item: EvidenceItem, changes: Vec<Change>, after: Duration) {
        let store = self.store.clone();
        self.stage = Stage::Busy;
        let step = async move {
            tokio::time::sleep(after).await;
            let result = store.commit_soon(changes.clone()).await.map(drop);
            Step::Settled(item, changes, result)
        };
        self.step = Some(step.boxed());
    }
}

/// What takes it off the shelf.
pub(super) fn delete(item: &EvidenceItem) -> Change {
    Change::Delete {
        shelf: Shelf::Evidence,
        key: item.key(),
    }
}

fn withheld(item: &EvidenceItem, unfit: &Unfit, now: UtcMicros) -> Notice {
    let name = format!("{}/{}/{}", item.finding, item.n, unfit.reason);
    let queued_ms = u64::try_from(item.queued_us.div_euclid(1000)).unwrap_or(0);
    let text = words::notice::not_sent(&item.kind, item.finding, &unfit.why);
    Notice {
        id: id_of(queued_ms, &name),
        kind: "evidence.withheld".to_owned(),
        at: now,
        text: text.en,
        text_zh: text.zh,
        data: serde_json::json!({
            "finding": item.finding,
            "n": item.n,
            "kind": item.kind,
            "reason": unfit.reason,
            "bytes": item.bytes,
            "sha256": item.sha256,
        }),
    }
}

/// The same each time for the same millisecond and name.
pub(super) fn id_of(ms: u64, name: &str) -> Uuid {
    let digest = sha256_hex(name.as_bytes());
    let bits = u128::from_str_radix(&digest[..20], 16).unwrap_or_default();
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&bits.to_be_bytes()[6..]);
    uuid::Builder::from_unix_timestamp_millis(ms, &bytes).into_uuid()
}

/// Reads a file on a thread of its own: a slow disk must not hold up the broker's connection.
async fn read(item: EvidenceItem, path: PathBuf) -> Step {
    let (tx, rx) = oneshot::channel();
    let sha256 = item.sha256.clone();
    let reader = std::thread::Builder::new().name("evidence/read".to_owned());
    let work = move || {
        let gone = |e: std::io::Error| Unfit {
            reason: "gone",
            why: format!("{}: {e}", path.display()),
        };
        let bytes = std::fs::read(&path).map_err(gone);
        let fit = bytes.and_then(|bytes| {
            let same = sha256_hex(&bytes) == sha256;
            same.then(|| Bytes::from(bytes)).ok_or_else(|| Unfit {
                reason: "changed",
                why: format!("{} is not the file that was queued", path.display()),
            })
        });
        // The connection may have ended.
        let _gone = tx.send(fit).is_err();
    };
    let started = reader.spawn(work);
    let unfit = |why: String| Unfit {
        reason: "gone",
        why,
    };
    let fit = match started {
        Ok(_) => rx
            .await
            .unwrap_or_else(|_| Err(unfit("its reader ended".to_owned()))),
        Err(e) => Err(unfit(format!("no thread to read it: {e}"))),
    };
    Step::Read(item, fit)
}

#[cfg(test)]
mod tests;
