//! The uplink against a real broker.
mod mosquitto;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::base::secret::Secret;
use crate::base::time::{Clock, SystemClock};
use crate::base::words::Texts;
use crate::uplink::config::TlsConfig;
use crate::uplink::evidence::EvidenceItem;
use crate::uplink::payload::tests::{camera_report, finding, site};
use crate::uplink::payload::{FindingData, FindingEvent, OutboxStatus};
use crate::uplink::receipts::receipt_orders;
use crate::uplink::record::Shelf;
use crate::uplink::store::Store;
use crate::uplink::subscriber::{Heard, Subscriber};
use crate::uplink::topics::TopicKind;
use mosquitto::{Mosquitto, certificate, certificate_for, password_file};

/// Nothing here takes that long; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The system's clocks, with the monotonic one so many times as fast, so that the long waits of
/// delivery pass while tokio's short ones stay.
#[derive(Debug)]
struct FastClock {
    begun: MonoMicros,
    factor: u32,
}

impl FastClock {
    fn shared(factor: u32) -> SharedClock {
        let begun = SystemClock.mono();
        Arc::new(Self { begun, factor })
    }
}

impl Clock for FastClock {
    fn mono(&self) -> MonoMicros {
        let passed = SystemClock.mono().since(self.begun);
        self.begun.plus(passed * self.factor)
    }

    fn utc(&self) -> UtcMicros {
        SystemClock.utc()
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(result) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what} did not happen within {PATIENCE:?}");
    };
    result
}

fn config(port: u16) -> UplinkConfig {
    UplinkConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: None,
        client_id: "mingchu-test".to_owned(),
        login: None,
        ack: AckBy::Broker,
        window: 8,
        keep_alive: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(20),
        telemetry_every: Duration::from_secs(3600),
        evidence_kbps: 256,
        outbox_bytes: 500 << 20,
    }
}

/// A site with a store and, while it runs, an uplink.
struct Site {
    config: UplinkConfig,
    clock: SharedClock,
    metrics: Metrics,
    store: StoreHandle,
    state: watch::Sender<SiteState>,
    health: watch::Receiver<UplinkHealth>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    evidence: EvidenceOutbox,
    /// Removed last.
    dir: TempDir,
}

impl Site {
    fn new(config: UplinkConfig) -> Self {
        Self::with_clock(config, SystemClock::shared())
    }

    fn with_clock(config: UplinkConfig, clock: SharedClock) -> Self {
        let dir = TempDir::new().unwrap();
        let metrics = Metrics::default();
        let heartbeats = Heartbeats::new(clock.clone());
        let path = dir.path().join("mingchu.db");
        let (store, _ends_with_the_last_handle) =
            Store::open(&path, clock.clone(), &metrics, &heartbeats).unwrap();
        let state = SiteState {
            started: clock.utc(),
            version: "0.0.0-test".to_owned(),
            provider: "cpu".to_owned(),
            cameras: vec![camera_report()],
            problems: Vec::new(),
            config: None,
        };
        let evidence = EvidenceOutbox::open(&store, dir.path(), false).unwrap();
        Self {
            config,
            clock,
            metrics,
            evidence,
            store,
            state: watch::channel(state).0,
            health: watch::channel(UplinkHealth::default()).1,
            stop: CancellationToken::new(),
            task: None,
            dir,
        }
    }

    /// Starts the uplink, as after a restart of the daemon.
    fn start(&mut self) {
        let (health, health_rx) = watch::channel(UplinkHealth::default());
        self.health = health_rx;
        self.stop = CancellationToken::new();
        let uplink = Uplink {
            config: self.config.clone(),
            site: site(),
            store: self.store.clone(),
            state: self.state.subscribe(),
            health,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            evidence: Some(self.evidence.clone()),
            receipts: receipt_orders().1,
            heartbeats: Heartbeats::new(self.clock.clone()),
            stop: self.stop.clone(),
        };
        self.task = Some(tokio::spawn(uplink.run()));
    }

    /// Stops it in good order.
    async fn stop(&mut self) {
        self.stop.cancel();
        let task = self.task.take().expect("the uplink runs");
        within("the stop", task).await.unwrap();
    }

    /// Ends it as a crash would.
    async fn abort(&mut self) {
        let task = self.task.take().expect("the uplink runs");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    async fn healthy(&mut self, what: &str, is: impl FnMut(&UplinkHealth) -> bool) -> UplinkHealth {
        within(what, self.health.wait_for(is))
            .await
            .unwrap()
            .clone()
    }

    async fn connected(&mut self) -> u64 {
        self.healthy("a connection", |health| health.connected)
            .await
            .epoch
    }

    /// The error of an uplink that does not get in.
    async fn refused(&mut self) -> String {
        let health = self
            .healthy("a failure", |health| health.error.is_some())
            .await;
        assert!(!health.connected);
        health.error.unwrap()
    }

    async fn outbox(&self, what: &str, is: impl Fn(OutboxStatus) -> bool) {
        let figures = async {
            while !is(self.store.stats()) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within(what, figures).await;
    }

    async fn emptied(&self) {
        self.outbox("an empty outbox", |stats| stats.records + stats.parked == 0)
            .await;
    }

    fn published(&self) -> u64 {
        self.metrics.total(Metric::UplinkPublished)
    }

    fn commit(&self, data: FindingData) -> u64 {
        self.store.commit_finding(data).unwrap()
    }

    fn commit_new(&self, numbers: impl IntoIterator<Item = u128>) {
        for n in numbers {
            self.commit(finding(n, 1, FindingPhase::Opened));
        }
    }
}

/// Somebody at the centre.
struct Ear {
    subscriber: Subscriber,
}

impl Ear {
    /// Subscribed when this returns.
    async fn new(port: u16, filter: &str) -> Self {
        let client_id = format!("ear-{}", fastrand::u64(..));
        let config = UplinkConfig {
            client_id,
            ..config(port)
        };
        let mut subscriber =
            Subscriber::new(config, format!("mingchu/v1/410724/site-000123/{filter}"));
        let heard = within("the subscription", subscriber.next()).await;
        assert!(matches!(heard, Heard::Connected), "{heard:?}");
        Self { subscriber }
    }

    /// The next message, through lost connections.
    async fn message(&mut self) -> Message {
        let message = async {
            loop {
                if let Heard::Message(message) = self.subscriber.next().await {
                    return message;
                }
            }
        };
        within("a message", message).await
    }

    async fn event(&mut self) -> FindingEvent {
        serde_json::from_slice(&self.message().await.payload).unwrap()
    }

    async fn status(&mut self) -> SiteStatus {
        serde_json::from_slice(&self.message().await.payload).unwrap()
    }

    /// All events up to the one that makes `count` different ids, by number; sent twice, the first
    /// counts.
    async fn events(&mut self, count: usize) -> BTreeMap<u64, FindingEvent> {
        let mut heard = BTreeMap::new();
        let mut ids = BTreeSet::new();
        while ids.len() < count {
            let event = self.event().await;
            ids.insert((event.source.clone(), event.id.clone()));
            heard.entry(event.seq).or_insert(event);
        }
        heard
    }
}

/// Publishes one message to the site, and waits until the broker has taken it.
async fn tell(port: u16, topic: String, payload: &str) {
    let client_id = format!("mouth-{}", fastrand::u64(..));
    let options = LinkOptions {
        config: UplinkConfig {
            client_id,
            ..config(port)
        },
        will: None,
        inflight_limit: 8,
        max_incoming_bytes: 1024,
        kept: None,
    };
    let (mut link, _) = Link::connect(options).await.unwrap();
    let message = Outbound {
        retain: false,
        ..retained(topic, payload.as_bytes().to_vec())
    };
    link.publish(message).unwrap();
    let taken = async { while !matches!(link.next().await, LinkEvent::Acked { .. }) {} };
    within("the broker's answer", taken).await;
}

async fn receipt(port: u16, text: &str) {
    tell(port, Topics::new(&site()).receipt(), text).await;
}

fn english(problems: &[Texts]) -> Vec<String> {
    problems.iter().map(|p| p.en.clone()).collect()
}

#[tokio::test]
async fn a_committed_finding_reaches_a_subscriber_and_leaves_the_outbox() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    let data = finding(1, 1, FindingPhase::Opened);
    let seq = site.commit(data.clone());
    let message = ear.message().await;
    assert_eq!(
        message.topic,
        "mingchu/v1/410724/site-000123/finding/ppe.hat.missing"
    );
    assert!(!message.retain);
    let event: FindingEvent = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((event.specversion.as_str(), event.seq), ("1.0", seq));
    assert_eq!(event.id, format!("{}.1", data.finding));
    assert_eq!(event.source, "//mingchu/410724/site-000123");
    assert_eq!(event.kind, "cn.mingchu.finding.opened.v1");
    assert!(!event.data.replayed, "this is news");
    assert_eq!(
        (event.data.finding, event.data.class),
        (data.finding, data.class)
    );
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn many_findings_arrive_in_order_while_they_are_still_being_committed() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    let store = site.store.clone();
    let rules = thread::spawn(move || {
        for n in 1..=400 {
            store
                .commit_finding(finding(n, 1, FindingPhase::Opened))
                .unwrap();
        }
    });
    for seq in 1..=400 {
        assert_eq!(ear.event().await.seq, seq);
    }
    rules.join().unwrap();
    site.emptied().await;
    assert_eq!(site.metrics.total(Metric::UplinkAcked), 400);
    site.stop().await;
}

#[tokio::test]
async fn a_finding_committed_while_the_outbox_is_being_read_is_not_forgotten() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    // The test and the uplink share one thread. The first commit of a pair makes the uplink read as
    // soon as it gets the thread; the second then keeps it from looking at the result, so that it
    // finds the news and a result without the news at the same time. No other commit follows that
    // would make it read again.
    for pair in 0..400 {
        site.commit_new([2 * pair + 1]);
        tokio::task::yield_now().await;
        site.commit_new([2 * pair + 2]);
        ear.events(2).await;
    }
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn a_broker_killed_with_findings_in_flight_gets_them_all_when_it_is_back() {
    let mut broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    site.commit_new(1..=10);
    assert_eq!(ear.events(10).await.len(), 10);
    site.emptied().await;
    // From here on the broker takes nothing, so what is published is in flight when it dies.
    broker.freeze();
    site.commit_new(11..=40);
    let in_flight = async {
        while site.published() < 10 + 8 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("a full window", in_flight).await;
    broker.kill();
    site.healthy("the loss", |health| !health.connected).await;
    site.commit_new(41..=50);
    assert_eq!(site.store.stats().records, 40);
    broker.restart();
    let events = ear.events(40).await;
    assert_eq!(
        events.keys().copied().collect::<Vec<_>>(),
        (11..=50).collect::<Vec<_>>()
    );
    let late = events.values().filter(|e| e.data.replayed).count();
    assert_eq!(
        late, 40,
        "all were committed before the connection that delivered them"
    );
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn a_broker_that_goes_silent_is_dropped_and_gets_the_findings_later() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let progress_timeout = Duration::from_millis(500);
    let mut site = Site::new(UplinkConfig {
        progress_timeout,
        ..config(broker.port)
    });
    site.start();
    site.connected().await;
    broker.freeze();
    site.commit_new(1..=20);
    let health = site
        .healthy("the loss", |health| health.error.is_some())
        .await;
    assert!(
        health
            .error
            .unwrap()
            .contains("left a message without acknowledgement")
    );
    broker.thaw();
    assert_eq!(ear.events(20).await.len(), 20);
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn the_status_is_retained_online_with_a_rising_epoch_and_offline_after_the_stop() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "status").await;
    let mut site = Site::new(config(broker.port));
    let mut last_epoch = 0;
    for _ in 0..2 {
        site.start();
        let epoch = site.connected().await;
        assert!(epoch > last_epoch);
        last_epoch = epoch;
        let status = ear.status().await;
        assert_eq!(
            (status.online, status.epoch, status.cameras),
            (true, epoch, 1)
        );
        assert_eq!(status.outbox.map(|outbox| outbox.records), Some(0));
        let mut late = Ear::new(broker.port, "status").await;
        assert!(
            late.message().await.retain,
            "whoever comes later is told too"
        );
        site.stop().await;
        let status = ear.status().await;
        assert_eq!((status.online, status.epoch), (false, epoch));
        assert!(!site.health.borrow().connected);
    }
}

#[tokio::test]
async fn a_changed_state_changes_the_status() {
    let broker = Mosquitto::start();
    let mut site = Site::new(config(broker.port));
    let mut ear = Ear::new(broker.port, "status").await;
    let mut cameras = Ear::new(broker.port, "camera/+/status").await;
    site.start();
    assert!(ear.status().await.problems.is_empty());
    assert!(!cameras.message().await.payload.is_empty());
    site.state.send_modify(|state| {
        state.problems.push(Texts::same("the disk is nearly full"));
        state.cameras.clear();
    });
    let status = ear.status().await;
    assert_eq!(
        (status.problems, status.cameras),
        (vec!["the disk is nearly full".to_owned()], 0)
    );
    let gone = cameras.message().await;
    assert_eq!(
        gone.topic,
        "mingchu/v1/410724/site-000123/camera/wok-1/status"
    );
    assert!(
        gone.payload.is_empty(),
        "a camera taken out of the config is forgotten"
    );
    site.stop().await;
}

#[tokio::test]
async fn the_last_will_speaks_for_a_site_that_vanished() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "status").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    let online = ear.status().await;
    assert!(online.online);
    site.abort().await;
    let will = ear.status().await;
    assert_eq!(
        (will.online, will.epoch, will.outbox),
        (false, online.epoch, None)
    );
    let mut late = Ear::new(broker.port, "status").await;
    assert!(late.message().await.retain, "the will is retained");
}

/// What the broker keeps of open findings: revision by id.
async fn kept(port: u16) -> BTreeMap<Uuid, u32> {
    let mut ear = Ear::new(port, "active/#").await;
    // What is retained comes before what is published after the subscription.
    let end = Uuid::from_u128(u128::MAX);
    tell(port, Topics::new(&site()).active(end), "end").await;
    let mut kept = BTreeMap::new();
    loop {
        let message = ear.message().await;
        let Some((_, _, TopicKind::Active(id))) = Topics::parse(&message.topic) else {
            panic!("{} is not what was asked for", message.topic);
        };
        if id == end {
            return kept;
        }
        let event: FindingEvent = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event.data.finding, id);
        kept.insert(id, event.data.revision);
    }
}

#[tokio::test]
async fn an_open_finding_is_retained_until_it_is_closed() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    let id = |n| finding(n, 1, FindingPhase::Opened).finding;
    site.commit_new(1..=2);
    site.commit(finding(1, 2, FindingPhase::Updated));
    ear.events(3).await;
    assert_eq!(
        kept(broker.port).await,
        BTreeMap::from([(id(1), 2), (id(2), 1)])
    );
    site.commit(finding(1, 3, FindingPhase::Closed));
    ear.events(1).await;
    assert_eq!(kept(broker.port).await, BTreeMap::from([(id(2), 1)]));
    site.stop().await;
}

#[tokio::test]
async fn a_broker_that_lost_its_memory_is_told_again_what_is_open() {
    let mut broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    site.commit_new(1..=2);
    ear.events(2).await;
    site.emptied().await;
    broker.kill();
    site.healthy("the loss", |health| !health.connected).await;
    site.commit(finding(2, 2, FindingPhase::Closed));
    broker.restart();
    site.connected().await;
    ear.events(1).await;
    let id = finding(1, 1, FindingPhase::Opened).finding;
    assert_eq!(kept(broker.port).await, BTreeMap::from([(id, 1)]));
    site.stop().await;
}

#[tokio::test]
async fn with_the_centres_word_records_stay_until_their_receipt() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(UplinkConfig {
        ack: AckBy::Centre,
        ..config(broker.port)
    });
    site.start();
    site.connected().await;
    site.commit_new(1..=3);
    ear.events(3).await;
    assert_eq!(site.store.stats().records, 3);
    receipt(broker.port, r#"{"through":3,"except":[2]}"#).await;
    // What the centre misses is sent again at once.
    let again = ear.event().await;
    assert_eq!((again.seq, again.data.replayed), (2, true));
    site.outbox("the receipt", |stats| stats.records == 1).await;
    receipt(broker.port, r#"{"through":999}"#).await;
    let about = |health: &UplinkHealth| {
        health
            .problems
            .iter()
            .any(|p| p.en.contains("receipt is ignored"))
    };
    site.healthy("the problem", about).await;
    assert_eq!(
        site.store.stats().records,
        1,
        "a receipt for another store frees nothing"
    );
    receipt(broker.port, r#"{"through":3}"#).await;
    site.emptied().await;
    site.healthy("its end", |health| health.problems.is_empty())
        .await;
    site.stop().await;
}

#[tokio::test]
async fn without_a_receipt_a_record_is_sent_again_also_after_a_restart() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    // A receipt is waited for one minute, which passes in half a second here.
    let clock = FastClock::shared(120);
    let config = UplinkConfig {
        ack: AckBy::Centre,
        progress_timeout: Duration::from_secs(3600),
        ..config(broker.port)
    };
    let mut site = Site::with_clock(config, clock);
    site.start();
    site.connected().await;
    site.commit_new([1]);
    let sent = [ear.event().await, ear.event().await].map(|e| (e.seq, e.data.replayed));
    assert_eq!(sent, [(1, false), (1, true)]);
    site.abort().await;
    assert_eq!(site.store.stats().records, 1);
    site.start();
    let again = ear.event().await;
    assert_eq!((again.seq, again.data.replayed), (1, true));
    receipt(broker.port, r#"{"through":1}"#).await;
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn a_record_that_nobody_subscribes_to_waits_and_the_site_says_so() {
    let broker = Mosquitto::start();
    let mut status = Ear::new(broker.port, "status").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    site.commit_new(1..=30);
    let unheard = |problems: &[String]| {
        problems
            .iter()
            .any(|p| p.contains("nobody subscribes to finding/ppe.hat.missing"))
    };
    site.healthy("the problem", |health| unheard(&english(&health.problems)))
        .await;
    assert_eq!(site.store.stats().records, 30);
    while !unheard(&status.status().await.problems) {}
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let events = ear.events(30).await;
    assert_eq!(events.len(), 30);
    site.emptied().await;
    site.healthy("its end", |health| health.problems.is_empty())
        .await;
    site.stop().await;
}

#[tokio::test]
async fn a_record_the_broker_refuses_is_parked_in_the_end_and_tried_again_after_a_restart() {
    let mut list = PathBuf::new();
    let mut broker = Mosquitto::with(|dir| {
        list = dir.join("access");
        // A finding may be read but not written.
        let lines = "topic read mingchu/v1/+/+/finding/#\ntopic write mingchu/v1/+/+/status\n";
        std::fs::write(&list, lines).unwrap();
        format!("allow_anonymous true\nacl_file {}\n", list.display())
    });
    // The waits between five refusals take 15 s, which pass in a fraction of one here.
    let mut config = config(broker.port);
    config.progress_timeout = Duration::from_secs(3600);
    let mut site = Site::with_clock(config, FastClock::shared(100));
    site.start();
    site.connected().await;
    site.commit_new(1..=2);
    site.outbox("the parking", |stats| {
        (stats.records, stats.parked) == (0, 2)
    })
    .await;
    let parked = |problems: &[String]| {
        problems
            .iter()
            .any(|p| p.contains("2 records could not be"))
    };
    let health = site
        .healthy("the problem", |health| parked(&english(&health.problems)))
        .await;
    assert!(
        health
            .problems
            .iter()
            .any(|p| p.en.contains("see its access list")),
        "{health:?}"
    );
    site.stop().await;
    broker.kill();
    std::fs::write(&list, "topic readwrite #\n").unwrap();
    broker.restart();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    site.start();
    assert_eq!(ear.events(2).await.len(), 2);
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn a_finding_too_large_for_the_broker_goes_without_its_evidence_and_says_so() {
    let broker = Mosquitto::with(|_| "allow_anonymous true\nmax_packet_size 4000\n".to_owned());
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    let one = finding(1, 1, FindingPhase::Opened);
    site.commit(FindingData {
        evidence: vec![one.evidence[0].clone(); 30],
        ..one.clone()
    });
    let event = ear.event().await;
    assert_eq!(event.data.reduced, ["evidence", "missing"]);
    assert!(event.data.evidence.is_empty());
    assert_eq!((event.data.scores.len(), event.data.objects.len()), (2, 1));
    site.commit(FindingData {
        scores: vec![0.5; 2000],
        ..finding(2, 1, FindingPhase::Opened)
    });
    let event = ear.event().await;
    let left_out = ["evidence", "missing", "objects", "zone", "models", "scores"];
    assert_eq!(event.data.reduced, left_out);
    assert_eq!(event.data.code, one.code);
    site.emptied().await;
    site.stop().await;
}

#[tokio::test]
async fn a_record_too_large_for_the_broker_is_parked_and_the_others_go() {
    let broker = Mosquitto::with(|_| "allow_anonymous true\nmax_packet_size 4000\n".to_owned());
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    // What cannot be left out is too much.
    let mut large = finding(1, 1, FindingPhase::Opened);
    large.rule.id = "x".repeat(4000);
    site.commit(large);
    site.commit_new([2]);
    assert_eq!(ear.event().await.seq, 2);
    site.outbox("the parking", |stats| {
        (stats.records, stats.parked) == (0, 1)
    })
    .await;
    site.stop().await;
}

#[test]
fn a_revision_that_goes_after_a_newer_one_does_not_undo_what_it_said() {
    let record = |n, revision, phase| {
        let body = RecordBody::Finding(Box::new(finding(n, revision, phase)));
        Record {
            seq: u64::from(revision),
            created: UtcMicros(0),
            topic_tail: body.topic_tail(),
            body,
            latest: true,
        }
    };
    let reopened = record(1, 3, FindingPhase::Reopened);
    let mut closed = record(1, 2, FindingPhase::Closed);
    closed.note_newer(&record(2, 9, FindingPhase::Opened));
    assert!(closed.latest, "another finding's");
    closed.note_newer(&record(1, 1, FindingPhase::Opened));
    assert!(closed.latest, "an older one");
    closed.note_newer(&reopened);
    assert!(!closed.latest);
}

#[tokio::test]
async fn a_reopened_finding_stays_retained_although_its_end_goes_out_late() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    // All of class 2; the finding's end is the last of what is late.
    site.commit_new(2..=300);
    site.commit(finding(1, 1, FindingPhase::Opened));
    site.commit(finding(1, 2, FindingPhase::Closed));
    site.start();
    site.connected().await;
    let reopened = site.commit(finding(1, 3, FindingPhase::Reopened));
    let events = ear.events(302).await;
    assert!(!events[&reopened].data.replayed, "it was news");
    site.emptied().await;
    let id = finding(1, 1, FindingPhase::Opened).finding;
    assert_eq!(kept(broker.port).await.get(&id), Some(&3));
    site.stop().await;
}

#[tokio::test]
async fn what_is_too_large_for_one_broker_goes_to_the_next_that_takes_it() {
    let mut lines = PathBuf::new();
    let mut broker = Mosquitto::with(|dir| {
        lines = dir.join("more");
        std::fs::create_dir(&lines).unwrap();
        std::fs::write(lines.join("a.conf"), "max_packet_size 4000\n").unwrap();
        format!("allow_anonymous true\ninclude_dir {}\n", lines.display())
    });
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    let mut large = finding(1, 1, FindingPhase::Opened);
    large.rule.id = "x".repeat(4000);
    let seq = site.commit(large);
    site.outbox("the parking", |stats| stats.parked == 1).await;
    broker.kill();
    site.healthy("the loss", |health| !health.connected).await;
    std::fs::write(lines.join("a.conf"), "").unwrap();
    broker.restart();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    assert_eq!(ear.event().await.seq, seq);
    site.emptied().await;
    site.stop().await;
}

/// Queues a picture of `bytes` bytes for finding `n`, as analytics does.
fn queue_picture(site: &Site, n: u128, bytes: usize, redacted: bool) -> EvidenceItem {
    let name = format!("{n}.jpg");
    let picture: Vec<u8> = (0..bytes).map(|i| (i as u128 * n % 251) as u8).collect();
    std::fs::write(site.dir.path().join(&name), &picture).unwrap();
    let item = EvidenceItem {
        finding: Uuid::from_u128(n),
        n: 1,
        kind: "frame".to_owned(),
        media: "image/jpeg".to_owned(),
        file: name,
        sha256: crate::base::digest::sha256_hex(&picture),
        bytes: bytes as u64,
        redacted,
        class: 2,
        queued_us: n as i64,
    };
    site.store.commit(vec![item.change()]).unwrap();
    site.evidence.add(item.clone());
    item
}

fn shelf(site: &Site) -> usize {
    site.store.shelf(Shelf::Evidence).unwrap().len()
}

async fn shelf_emptied(site: &Site) {
    let emptied = async {
        while shelf(site) > 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("an empty shelf", emptied).await;
}

/// The finding of the next picture.
async fn picture_of(ear: &mut Ear) -> Uuid {
    loop {
        let message = ear.message().await;
        if let Some((_, _, TopicKind::Evidence(finding, _))) = Topics::parse(&message.topic) {
            return finding;
        }
    }
}

#[tokio::test]
async fn pictures_go_after_all_records_and_leave_the_shelf_when_acknowledged() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "#").await;
    let mut site = Site::new(config(broker.port));
    let first = queue_picture(&site, 1, 20_000, true);
    let second = queue_picture(&site, 2, 10_000, true);
    site.commit_new(1..=100);
    site.start();
    let mut findings = 0;
    for item in [first, second] {
        let picture = loop {
            let message = ear.message().await;
            if message.topic.contains("/evidence/") {
                break message;
            }
            findings += usize::from(message.topic.contains("/finding/"));
        };
        assert_eq!(findings, 100, "text goes before pictures");
        assert!(picture.topic.ends_with(&format!("{}/1", item.finding)));
        let sha256 = crate::base::digest::sha256_hex(&picture.payload);
        assert_eq!(sha256, item.sha256);
    }
    shelf_emptied(&site).await;
    assert_eq!(site.metrics.total(Metric::UplinkEvidenceAcked), 2);
    site.stop().await;
}

#[tokio::test]
async fn pictures_wait_for_the_budget_and_for_a_restart_but_not_for_ever() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "#").await;
    let mut site = Site::new(UplinkConfig {
        evidence_kbps: 8,
        ..config(broker.port)
    });
    // The first takes all there is and a minute's worth of debt.
    let first = queue_picture(&site, 1, 60_000, true);
    let second = queue_picture(&site, 2, 1000, true);
    site.start();
    assert_eq!(picture_of(&mut ear).await, first.finding);
    assert_eq!(site.metrics.total(Metric::UplinkEvidencePublished), 1);
    site.commit_new([7]);
    site.emptied().await;
    let first_gone = async {
        while shelf(&site) > 1 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("the first off the shelf", first_gone).await;
    site.stop().await;
    // What was sent is not sent again, what was not is, by a process that knows only the shelf.
    site.evidence = EvidenceOutbox::open(&site.store, site.dir.path(), false).unwrap();
    site.start();
    assert_eq!(picture_of(&mut ear).await, second.finding);
    shelf_emptied(&site).await;
    site.stop().await;
}

#[tokio::test]
async fn what_may_not_or_cannot_leave_is_said_and_does_not_stop_the_others() {
    let broker = Mosquitto::with(|_| "allow_anonymous true\nmax_packet_size 5000\n".to_owned());
    let mut ear = Ear::new(broker.port, "#").await;
    let mut site = Site::new(config(broker.port));
    queue_picture(&site, 1, 1000, false);
    queue_picture(&site, 2, 9000, true);
    let gone = queue_picture(&site, 3, 1000, true);
    std::fs::remove_file(site.dir.path().join(gone.file)).unwrap();
    let changed = queue_picture(&site, 4, 1000, true);
    std::fs::write(site.dir.path().join(changed.file), "another").unwrap();
    let good = queue_picture(&site, 5, 1000, true);
    site.start();
    let (mut reasons, mut pictures) = (BTreeSet::new(), Vec::new());
    while reasons.len() < 4 || pictures.is_empty() {
        let message = ear.message().await;
        if message.topic.ends_with("/notice") {
            let notice: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            reasons.insert(
                notice["data"]["data"]["reason"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
        } else if message.topic.contains("/evidence/") {
            pictures.push(message.topic);
        }
    }
    let expected = ["changed", "gone", "policy", "too_large"];
    assert_eq!(reasons.iter().collect::<Vec<_>>(), expected);
    assert_eq!(pictures.len(), 1, "{pictures:?}");
    assert!(pictures[0].contains(&good.finding.to_string()));
    shelf_emptied(&site).await;
    assert_eq!(site.metrics.total(Metric::UplinkEvidenceWithheld), 4);
    site.stop().await;
}

#[tokio::test]
async fn what_waits_at_the_stop_still_goes_out() {
    let broker = Mosquitto::start();
    let mut ear = Ear::new(broker.port, "finding/#").await;
    let mut site = Site::new(config(broker.port));
    site.start();
    site.connected().await;
    site.commit_new(1..=50);
    site.stop().await;
    assert_eq!(site.store.stats().records, 0);
    assert_eq!(ear.events(50).await.len(), 50);
}

#[tokio::test]
async fn the_stop_does_not_wait_for_a_broker_that_is_not_there() {
    let mut broker = Mosquitto::start();
    let mut site = Site::new(config(broker.port));
    broker.kill();
    site.start();
    site.commit_new(1..=3);
    let error = site.refused().await;
    assert!(
        error.contains("is not reachable: check the address"),
        "{error}"
    );
    site.stop().await;
    assert_eq!(site.store.stats().records, 3);
}

#[tokio::test]
async fn a_wrong_password_is_said_in_clear_words_and_the_password_is_not() {
    let broker = Mosquitto::with(|dir| {
        let file = password_file(dir, "site-000123", "the-right-one");
        format!("allow_anonymous false\npassword_file {}\n", file.display())
    });
    let login = |password: &str| Some(("site-000123".to_owned(), Secret::new(password)));
    let wrong = UplinkConfig {
        login: login("the-wrong-one"),
        ..config(broker.port)
    };
    let mut site = Site::new(wrong);
    site.start();
    let error = site.refused().await;
    assert!(
        error.contains("check username and password_file"),
        "{error}"
    );
    assert!(!error.contains("the-wrong-one"), "{error}");
    site.stop().await;
    site.config.login = login("the-right-one");
    site.start();
    site.connected().await;
    site.stop().await;
}

fn tls(ca_file: PathBuf) -> TlsConfig {
    TlsConfig {
        ca_file,
        client: None,
    }
}

#[tokio::test]
async fn a_broker_whose_certificate_is_not_known_is_not_trusted() {
    let dir = TempDir::new().unwrap();
    let (own, key) = certificate(dir.path(), "broker");
    let (stranger, _) = certificate(dir.path(), "stranger");
    let broker = Mosquitto::with(|_| {
        let (own, key) = (own.display(), key.display());
        format!("allow_anonymous true\ncertfile {own}\nkeyfile {key}\n")
    });
    let mut site = Site::new(UplinkConfig {
        tls: Some(tls(stranger)),
        ..config(broker.port)
    });
    site.start();
    let error = site.refused().await;
    assert!(
        error.contains("TLS with 127.0.0.1") && error.contains("check ca_file"),
        "{error}"
    );
    assert!(error.contains("UnknownIssuer"), "{error}");
    site.stop().await;
    site.config.tls = Some(tls(own));
    site.start();
    site.connected().await;
    site.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_and_one_for_another_host_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let cases = [
        (
            certificate_for(dir.path(), "old", "IP:127.0.0.1", -1),
            "xpired",
        ),
        (
            certificate_for(dir.path(), "other", "IP:127.0.0.9", 2),
            "not valid for name",
        ),
    ];
    for ((own, key), named) in cases {
        let broker = Mosquitto::with(|_| {
            let (own, key) = (own.display(), key.display());
            format!("allow_anonymous true\ncertfile {own}\nkeyfile {key}\n")
        });
        let mut site = Site::new(UplinkConfig {
            tls: Some(tls(own.clone())),
            ..config(broker.port)
        });
        site.start();
        let error = site.refused().await;
        assert!(error.contains("TLS with 127.0.0.1"), "{error}");
        assert!(error.contains(named), "{error}");
        site.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_of_the_site_gets_it_and_refuses_one_without() {
    let dir = TempDir::new().unwrap();
    let (own, key) = certificate(dir.path(), "broker");
    let (mine, my_key) = certificate(dir.path(), "site-000123");
    let broker = Mosquitto::with(|_| {
        let (own, key, mine) = (own.display(), key.display(), mine.display());
        format!(
            "certfile {own}\nkeyfile {key}\ncafile {mine}\nrequire_certificate true\nuse_identity_as_username true\n"
        )
    });
    let with = |client| TlsConfig {
        ca_file: own.clone(),
        client,
    };
    let mut site = Site::new(UplinkConfig {
        tls: Some(with(None)),
        ..config(broker.port)
    });
    site.start();
    let error = site.refused().await;
    assert!(error.contains("CertificateRequired"), "{error}");
    site.stop().await;
    site.config.tls = Some(with(Some((mine, my_key))));
    site.start();
    site.connected().await;
    site.stop().await;
}

#[tokio::test]
async fn with_tls_nothing_is_ever_sent_in_clear_text() {
    let dir = TempDir::new().unwrap();
    let (ca, _) = certificate(dir.path(), "ca");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = UplinkConfig {
        tls: Some(tls(ca)),
        login: Some(("site-000123".to_owned(), Secret::new("the-right-one"))),
        ..config(listener.local_addr().unwrap().port())
    };
    let mut site = Site::new(config);
    site.start();
    // Twice, for a fallback would come with the second try.
    for _ in 0..2 {
        let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
        let mut sent = vec![0; 4096];
        let n = within("its first bytes", stream.read(&mut sent))
            .await
            .unwrap();
        assert_eq!(sent[0], 0x16, "this is not a TLS handshake");
        assert!(!String::from_utf8_lossy(&sent[..n]).contains("the-right-one"));
    }
    site.refused().await;
    site.stop().await;
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_named_and_nothing_is_sent() {
    let dir = TempDir::new().unwrap();
    let (own, key) = certificate(dir.path(), "own");
    let (_, other_key) = certificate(dir.path(), "other");
    let rubbish = dir.path().join("rubbish.pem");
    std::fs::write(&rubbish, "no PEM at all").unwrap();
    let missing = dir.path().join("missing.pem");
    let with = |ca_file: &PathBuf, client| TlsConfig {
        ca_file: ca_file.clone(),
        client,
    };
    let cases = [
        (with(&missing, None), &missing),
        (with(&rubbish, None), &rubbish),
        (with(&own, Some((missing.clone(), key.clone()))), &missing),
        (with(&own, Some((own.clone(), missing.clone()))), &missing),
        (
            with(&own, Some((own.clone(), other_key.clone()))),
            &other_key,
        ),
    ];
    for (tls, named) in cases {
        let error = check(&UplinkConfig {
            tls: Some(tls.clone()),
            ..config(1)
        })
        .unwrap_err();
        assert!(
            matches!(&error, LinkError::TlsFile { file, .. } if file == named),
            "{error}"
        );
        assert!(
            error.to_string().contains("nothing is sent without"),
            "{error}"
        );
    }
    let fits = UplinkConfig {
        tls: Some(with(&own, Some((own.clone(), key)))),
        ..config(1)
    };
    check(&fits).unwrap();
    check(&config(1)).unwrap();
}

#[tokio::test]
async fn somebody_else_on_the_port_is_told_apart_from_a_broker() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = Site::new(config(listener.local_addr().unwrap().port()));
    site.start();
    let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
    let mut sent = [0; 4096];
    within("its first bytes", stream.read(&mut sent))
        .await
        .unwrap();
    stream
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let error = site.refused().await;
    assert!(
        error.contains("does not speak MQTT 5 in clear text"),
        "{error}"
    );
    site.stop().await;
}

#[tokio::test]
async fn a_broker_that_wants_no_keep_alive_is_not_pinged_to_death() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = LinkOptions {
        config: config(listener.local_addr().unwrap().port()),
        will: None,
        inflight_limit: 8,
        max_incoming_bytes: 1024,
        kept: None,
    };
    let broker = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = [0; 4096];
        let connect = stream.read(&mut sent).await.unwrap();
        assert!(connect > 0 && sent[0] == 0x10);
        // The welcome, with property 0x13, server keep-alive, of 0 s.
        let welcome = [0x20, 6, 0, 0, 3, 0x13, 0, 0];
        stream.write_all(&welcome).await.unwrap();
        let ping = stream.read(&mut sent).await.unwrap();
        assert_eq!(sent[..ping], [0xc0, 0], "the first ping comes at once");
        // The second one follows after the keep-alive of 5 s, and without an answer to the first it
        // would be the end of the connection.
        let next = stream.read(&mut sent);
        let quiet = tokio::time::timeout(Duration::from_millis(300), next).await;
        assert!(quiet.is_err(), "{quiet:?} bytes came");
    };
    let connected = async { Link::connect(options).await.unwrap() };
    let both = Box::pin(async { tokio::join!(connected, broker) });
    // The link lives until the broker has seen enough.
    let _link = within("the pings", both).await;
}
