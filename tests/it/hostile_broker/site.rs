//! A site without cameras: what rules would commit, a real store on the disk, and the real uplink.
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::ids::Name;
use mingchu::base::metrics::{Metric, Metrics};
use mingchu::base::time::{Clock, MonoMicros, SystemClock, UtcMicros};
use mingchu::uplink::{
    AckBy, CameraCoverage, Change, CoverageReport, Cursor, FindingData, Notice, RecordBody,
    SiteIdentity, SiteState, Store, StoreHandle, Uplink, UplinkConfig, UplinkHealth,
    receipt_orders,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const BASE: &str = "mingchu/v1/410724/site-000123";
pub const SOURCE: &str = "//mingchu/410724/site-000123";
/// Nothing in these tests takes that long; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at something that cannot be waited for.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits for something, or fails by its name.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(result) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what}: not within {PATIENCE:?}");
    };
    result
}

/// The machine's clocks, so many times as fast, that can leap.
#[derive(Debug)]
pub struct FastClock {
    begun: (MonoMicros, UtcMicros),
    factor: u32,
    leapt_us: AtomicU64,
}

impl FastClock {
    pub fn new(factor: u32) -> Arc<Self> {
        Arc::new(Self {
            begun: (SystemClock.mono(), SystemClock.utc()),
            factor,
            leapt_us: AtomicU64::new(0),
        })
    }

    pub fn leap(&self, by: Duration) {
        let us = by.as_micros() as u64;
        self.leapt_us.fetch_add(us, Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        let leapt = Duration::from_micros(self.leapt_us.load(Ordering::SeqCst));
        SystemClock.mono().since(self.begun.0) * self.factor + leapt
    }
}

impl Clock for FastClock {
    fn mono(&self) -> MonoMicros {
        self.begun.0.plus(self.passed())
    }

    fn utc(&self) -> UtcMicros {
        UtcMicros(self.begun.1.0 + self.passed().as_micros() as i64)
    }
}

pub fn config(port: u16, ack: AckBy) -> UplinkConfig {
    UplinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: "mingchu-site-000123".to_owned(),
        login: None,
        ack,
        window: 16,
        keep_alive: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(120),
        telemetry_every: Duration::from_secs(300),
        evidence_kbps: 0,
        outbox_bytes: 500 << 20,
    }
}

/// A site with a store and, while it runs, an uplink.
pub struct Site {
    pub config: UplinkConfig,
    pub clock: Arc<FastClock>,
    pub metrics: Metrics,
    pub store: StoreHandle,
    pub health: watch::Receiver<UplinkHealth>,
    /// What was committed, by number.
    pub committed: BTreeMap<u64, RecordBody>,
    state: watch::Sender<SiteState>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    thread: Option<JoinHandle<()>>,
    /// Removed last.
    _dir: TempDir,
}

impl Site {
    pub fn new(config: UplinkConfig, clock: Arc<FastClock>) -> Self {
        let dir = TempDir::new().unwrap();
        let metrics = Metrics::default();
        let heartbeats = Heartbeats::new(clock.clone());
        let path = dir.path().join("mingchu.db");
        let (store, thread) = Store::open(&path, clock.clone(), &metrics, &heartbeats).unwrap();
        let state = SiteState {
            started: clock.utc(),
            version: "0.0.0-test".to_owned(),
            ..SiteState::default()
        };
        Self {
            config,
            clock,
            metrics,
            store,
            health: watch::channel(UplinkHealth::default()).1,
            committed: BTreeMap::new(),
            state: watch::channel(state).0,
            stop: CancellationToken::new(),
            task: None,
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// Starts the uplink, as after a restart of the daemon.
    pub fn start(&mut self) {
        let (health, health_rx) = watch::channel(UplinkHealth::default());
        self.health = health_rx;
        self.stop = CancellationToken::new();
        let name = |text| Name::new(text).unwrap();
        let uplink = Uplink {
            config: self.config.clone(),
            site: SiteIdentity {
                region: name("410724"),
                site: name("site-000123"),
                uscc: None,
            },
            store: self.store.clone(),
            state: self.state.subscribe(),
            health,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            evidence: None,
            receipts: receipt_orders().1,
            heartbeats: Heartbeats::new(self.clock.clone()),
            stop: self.stop.clone(),
        };
        self.task = Some(tokio::spawn(uplink.run()));
    }

    /// Stops the uplink in good order.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        let task = self.task.take().expect("the uplink runs");
        within("the stop", task).await.unwrap();
    }

    /// Ends it as a crash would.
    pub async fn abort(&mut self) {
        let task = self.task.take().expect("the uplink runs");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub async fn commit(&mut self, bodies: Vec<RecordBody>) -> Vec<u64> {
        let changes = bodies.iter().cloned().map(Change::Record).collect();
        let seqs = self.store.commit_soon(changes).await.unwrap();
        self.committed.extend(seqs.iter().copied().zip(bodies));
        seqs
    }

    /// Waits until nothing waits; what was put aside may stay.
    pub async fn emptied(&self) {
        let emptied = async {
            while self.store.stats().records > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(PATIENCE, emptied).await.is_err() {
            let (stats, health) = (self.store.stats(), self.health.borrow().clone());
            panic!("the outbox is not emptied: {stats:?}, {health:?}");
        }
    }

    /// The same, or until something else is so.
    pub async fn emptied_or(&self, otherwise: impl Fn() -> bool) {
        while self.store.stats().records > 0 && !otherwise() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn connected(&mut self) {
        let connected = self.health.wait_for(|health| health.connected);
        within("a connection", connected).await.unwrap();
    }

    pub async fn disconnected(&mut self) {
        let lost = self.health.wait_for(|health| !health.connected);
        within("the loss", lost).await.unwrap();
    }

    /// The numbers of what was put aside. They wait again from here on.
    pub async fn take_parked(&self) -> Vec<u64> {
        assert!(self.task.is_none(), "the uplink would take them");
        assert_eq!(self.store.stats().records, 0);
        self.store.unpark_all().await.unwrap();
        let mut seqs = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let batch = self.store.read(cursor, 64).await.unwrap();
            if batch.records.is_empty() {
                return seqs;
            }
            seqs.extend(batch.records.iter().map(|r| r.seq));
            cursor = batch.cursor;
        }
    }

    pub fn total(&self, metric: Metric) -> u64 {
        self.metrics.total(metric)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.store.close();
        if let Some(thread) = self.thread.take() {
            // A failed test says more than a failed thread.
            drop(thread.join());
        }
    }
}

/// What an event says, without what differs from one delivery to the next or is the clock's.
pub fn content(mut event: Value) -> Value {
    event["time"] = Value::Null;
    if let Some(replayed) = event["data"].get_mut("replayed") {
        *replayed = Value::Null;
    }
    event
}

/// The same for the same content.
pub fn digest(content: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.to_string().hash(&mut hasher);
    hasher.finish()
}

/// What a receiver must get for a record.
pub fn expected(seq: u64, body: &RecordBody) -> Value {
    let event = body.event(SOURCE, seq, UtcMicros(0), false);
    content(serde_json::from_slice(&event).unwrap())
}

/// A kitchen's records, one after the other, the same for the same seed: findings that open, go on and
/// close, an hour's coverage, a notice.
#[derive(Debug)]
pub struct Kitchen {
    rng: fastrand::Rng,
    open: Vec<FindingData>,
    opened: u128,
    hours: i64,
    notices: u128,
}

/// Code, class, model's label.
const CODES: [(&str, u8, &str); 4] = [
    ("pest.rodent", 1, "rat"),
    ("ppe.hat.missing", 2, "head-bare"),
    ("act.phone.use", 3, "phone"),
    ("device.camera.offline", 3, "camera"),
];
pub const CAMERAS: usize = 8;

impl Kitchen {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            open: Vec::new(),
            opened: 0,
            hours: 0,
            notices: 0,
        }
    }

    /// Anything.
    pub fn record(&mut self) -> RecordBody {
        match self.rng.u8(..100) {
            0..4 => self.coverage(),
            4..8 => self.notice(),
            8..45 => self.opened(None),
            _ => self.revision(),
        }
    }

    /// Findings that are open, with their newest revision.
    pub fn open(&self) -> BTreeMap<String, u64> {
        let open = self.open.iter();
        open.map(|data| (data.finding.to_string(), u64::from(data.revision)))
            .collect()
    }

    /// A new finding, of the code of this number: rodent, hat, phone, camera.
    pub fn opened(&mut self, code: Option<usize>) -> RecordBody {
        self.opened += 1;
        let (code, class, label) = CODES[code.unwrap_or_else(|| self.rng.usize(..CODES.len()))];
        let camera = self.rng.usize(..CAMERAS);
        let evidence: Vec<Value> = (1..=self.rng.u32(..4))
            .map(|n| {
                json!({"kind": "frame", "media": "image/jpeg", "sha256": "ab".repeat(32),
                    "bytes": 81_234, "redacted": true, "n": n})
            })
            .collect();
        let model = json!({"name": "kitchen", "version": "3", "sha256": "cd".repeat(32)});
        let data = json!({
            "finding": Uuid::from_u128(0x0193_5c3a_0000_7000_8000_0000_0000_0000 + self.opened),
            "revision": 1, "phase": "opened", "code": code, "class": class, "replayed": false,
            "site": {"id": "site-000123", "uscc": null},
            "camera": {"id": format!("camera-{camera}"), "gb28181": null, "zone": "wok-line"},
            "rule": {"id": format!("rule-{code}"), "version": 7, "dwell_ms": 5000, "threshold": 0.5,
                "window": 5, "clear_ms": 10_000, "when": "business", "off_hours": false,
                "cooldown_ms": 300_000},
            "model": model, "models": [model],
            "first_seen": "2026-11-24T03:12:02.412Z", "last_seen": "2026-11-24T03:12:07.412Z",
            "closed_at": null, "samples": 9, "scores": [0.5, 0.75, 0.875],
            "objects": [{"label": label, "score": 0.75, "box": [0.25, 0.125, 0.5, 0.375], "track": 17}],
            "evidence": evidence,
            "clock": {"synced": true, "source": "ntp", "uncertainty_ms": 12},
            "zone": {"name": "wok-line", "polygon": [[0.25, 0.25], [0.75, 0.25], [0.5, 0.875]],
                "exclude": []},
            "title": {"en": code, "zh": code},
        });
        let data: FindingData = serde_json::from_value(data).unwrap();
        self.open.push(data.clone());
        RecordBody::Finding(Box::new(data))
    }

    /// An open finding goes on or closes.
    pub fn revision(&mut self) -> RecordBody {
        if self.open.is_empty() {
            return self.opened(None);
        }
        let at = self.rng.usize(..self.open.len());
        let mut data = self.open[at].clone();
        let closes = self.rng.u8(..3) == 0;
        let phase = if closes { "closed" } else { "updated" };
        data.phase = serde_json::from_value(json!(phase)).unwrap();
        data.revision += 1;
        data.samples += self.rng.u32(1..9);
        data.closed_at = closes.then_some(data.last_seen);
        data.reason = closes.then(|| "clear".to_owned());
        if closes {
            self.open.swap_remove(at);
        } else {
            self.open[at] = data.clone();
        }
        RecordBody::Finding(Box::new(data))
    }

    /// The next hour's.
    pub fn coverage(&mut self) -> RecordBody {
        self.hours += 1;
        let camera = |n| CameraCoverage {
            camera: format!("camera-{n}"),
            watched_ms: 3_600_000,
            blind_ms: BTreeMap::new(),
        };
        RecordBody::Coverage(Box::new(CoverageReport {
            hour: UtcMicros(1_795_489_200_000_000 + self.hours * 3_600_000_000),
            revision: 1,
            partial: false,
            cameras: (0..CAMERAS).map(camera).collect(),
            covered_ms: 3_600_000,
            evidence_head: None,
        }))
    }

    pub fn notice(&mut self) -> RecordBody {
        self.notices += 1;
        RecordBody::Notice(Box::new(Notice {
            id: Uuid::from_u128(self.notices),
            kind: "clock.step".to_owned(),
            at: UtcMicros(1_795_489_200_000_000),
            text: "the clock was set".to_owned(),
            data: json!({"by_ms": self.rng.u32(..)}),
            text_zh: "时钟被调整".to_owned(),
        }))
    }
}
