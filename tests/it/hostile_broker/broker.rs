//! A broker that does one thing wrong on each connection, and then behaves.
//!
//! It keeps books of all it was sent and of all it answered for: what it acknowledged it has (or, where
//! the centre's word counts, what the centre has got from it), and nothing else. A fault that could not
//! happen before its connection ended is tried again on the next.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mingchu::uplink::AckBy;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::packets::{
    CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBLISH, Packet, Publish, SUBSCRIBE, Wire, client_id,
    connack, packet, puback, publish, suback,
};
use super::site::{BASE, content, digest};

/// What a broker can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Closes with messages read, and forgets them; for a centre also some that it has acknowledged.
    Forgets,
    /// Refuses half of the records, with every reason there is.
    Refuses,
    /// Says that nobody subscribes.
    FindsNobody,
    /// Acknowledges in another order.
    Shuffles,
    /// Leaves the connection open and reads nothing more.
    StopsReading,
    /// Takes smaller messages than before.
    LowersMaximum,
    /// Ends in the middle of an acknowledgement.
    ClosesMidPacket,
    /// Acknowledges twice.
    AcksTwice,
    /// Acknowledges what it was never sent.
    AcksUnknown,
    /// Reads on and acknowledges nothing more.
    NeverAcks,
    /// Acknowledges all but one.
    LosesOneAck,
    /// Sends what is no MQTT.
    TalksRubbish,
    /// Says that it shuts down.
    SaysGoodbye,
    /// Lets nobody in.
    RefusesWelcome,
    /// Lets us in and takes 0 messages at once, which the protocol forbids.
    TakesNothing,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::Forgets,
        Self::Refuses,
        Self::FindsNobody,
        Self::Shuffles,
        Self::StopsReading,
        Self::LowersMaximum,
        Self::ClosesMidPacket,
        Self::AcksTwice,
        Self::AcksUnknown,
        Self::NeverAcks,
        Self::LosesOneAck,
        Self::TalksRubbish,
        Self::SaysGoodbye,
        Self::RefusesWelcome,
        Self::TakesNothing,
    ];
}

/// Unspecified, implementation specific, not authorised, topic, quota, payload format.
const REFUSALS: [u8; 6] = [0x80, 0x83, 0x87, 0x90, 0x97, 0x99];
const NOBODY_SUBSCRIBES: u8 = 0x10;
/// How long a connection is good before its fault comes.
const CALM_MS: std::ops::Range<u64> = 550..900;
/// How long a fault that does not end the connection goes on.
const FAULTY: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(20);

/// A record as it came.
#[derive(Debug)]
pub struct Received {
    pub seq: u64,
    /// Of what it says, see [`digest`].
    pub digest: u64,
    pub replayed: bool,
    /// Null where only digests are kept.
    pub event: Value,
}

/// What the books keep of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Events,
    /// For so many that their events would fill the memory.
    Digests,
}

/// What the broker knows.
#[derive(Debug, Default)]
pub struct Books {
    /// In order of arrival.
    pub received: Vec<Received>,
    /// What is somebody else's business from here on.
    pub delivered: BTreeSet<u64>,
    /// Answers of 0x80 and above, by record.
    pub refusals: BTreeMap<u64, u32>,
    /// Answers of 0x10.
    pub unheard: u32,
    /// Faults that came to pass.
    pub happened: Vec<Fault>,
    pub connections: u32,
    /// Those of them without a fault.
    pub good_connections: u32,
    /// Packets larger than it had announced.
    pub too_large: u32,
    /// The most records from the oldest it had not acknowledged to the newest it got.
    pub widest_window: usize,
    /// The most publishes at once beyond what it had announced to take.
    pub over_receive_maximum: usize,
    /// The newest status.
    pub status: Value,
    /// The most records put aside that a status told of.
    pub most_parked: u64,
    /// What is retained of open findings: revision by id.
    pub active: BTreeMap<String, u64>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    ack: AckBy,
    keeps: Keeps,
    books: Mutex<Books>,
    plan: Mutex<VecDeque<Fault>>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

/// Ends with all its connections when dropped.
#[derive(Debug)]
pub struct Broker {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broker {
    /// Goes through `plan`, one fault for each connection, and behaves from then on.
    pub async fn start(seed: u64, plan: Vec<Fault>, ack: AckBy) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::on(listener, seed, plan, ack, Keeps::Events)
    }

    /// The same on a port that is there already.
    pub fn on(
        listener: TcpListener,
        seed: u64,
        plan: Vec<Fault>,
        ack: AckBy,
        keeps: Keeps,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            ack,
            keeps,
            books: Mutex::default(),
            plan: Mutex::new(plan.into()),
        });
        let task = tokio::spawn(accept(listener, seed, shared.clone()));
        Self { port, shared, task }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books()
    }

    /// Whether all that was planned has happened, and a good connection begun.
    pub fn behaves(&self) -> bool {
        self.books().good_connections > 0
    }
}

async fn accept(listener: TcpListener, seed: u64, shared: Arc<Shared>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = Connection {
            fault: None,
            happened: false,
            rng: rng.fork(),
            due: Instant::now() + Duration::from_millis(rng.u64(CALM_MS)),
            receive_maximum: None,
            maximum: None,
            records: VecDeque::new(),
            open: 0,
            held: Vec::new(),
            lost_one: false,
            takes_receipts: false,
            receipt: Value::Null,
            shared: shared.clone(),
        };
        connections.spawn(connection.serve(stream));
    }
}

/// What becomes of a connection.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
    /// Leave it open for as long as the broker lives, and never read it again.
    Ignore,
}

struct Connection {
    fault: Option<Fault>,
    happened: bool,
    rng: fastrand::Rng,
    /// When the fault comes.
    due: Instant,
    receive_maximum: Option<u16>,
    maximum: Option<u32>,
    /// Packet ids of the records from the oldest not acknowledged on, and whether they are.
    records: VecDeque<(u16, bool)>,
    /// Publishes of any kind that are not acknowledged.
    open: usize,
    /// Acknowledgements to come: packet id, record.
    held: Vec<(u16, Option<u64>)>,
    lost_one: bool,
    takes_receipts: bool,
    /// The last one told.
    receipt: Value,
    shared: Arc<Shared>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let mut wire = Wire::new(stream);
        let connect = wire.next().await.filter(|packet| packet.kind() == CONNECT);
        let Some(connect) = connect else { return };
        // The line that commands come in by is left in peace.
        if !client_id(&connect).ends_with("-commands") {
            self.fault = self.shared.plan.lock().unwrap().front().copied();
            let mut books = self.shared.books();
            books.connections += 1;
            books.good_connections += u32::from(self.fault.is_none());
        }
        let mut then = self.welcome(&mut wire).await;
        let mut tick = tokio::time::interval(TICK);
        while then == Then::GoOn {
            then = tokio::select! {
                packet = wire.next() => match packet {
                    Some(packet) => self.on_packet(&mut wire, &packet).await,
                    None => Then::Close,
                },
                _ = tick.tick() => self.on_tick(&mut wire).await,
            };
        }
        if then == Then::Ignore {
            std::future::pending::<()>().await;
        }
    }

    /// The fault has come to pass: the next connection gets the next one.
    fn happens(&mut self) {
        if let (Some(fault), false) = (self.fault, self.happened) {
            self.happened = true;
            self.shared.books().happened.push(fault);
            self.shared.plan.lock().unwrap().pop_front();
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    async fn welcome(&mut self, wire: &mut Wire) -> Then {
        // Against a second acknowledgement the client has only that packet ids come again late.
        // And of one at a time there is no other order.
        let any = self.is(Fault::AcksTwice) || self.is(Fault::Shuffles);
        if self.fault.is_some() && !any {
            let choices = [None, None, Some(1), Some(4), Some(30)];
            self.receive_maximum = self.rng.choice(choices).unwrap();
        }
        if self.is(Fault::TakesNothing) {
            self.receive_maximum = Some(0);
        }
        if self.is(Fault::LowersMaximum) {
            self.maximum = Some(self.rng.u32(1100..1700));
        }
        // Busy, or nothing.
        let refuses = self.is(Fault::RefusesWelcome);
        let reason = if refuses { 0x89 } else { 0 };
        // That it has a session for a client that begins clean is a lie.
        let session = !refuses && self.rng.bool();
        let welcome = connack(session, reason, self.receive_maximum, self.maximum);
        if !wire.write(&welcome).await {
            return Then::Close;
        }
        if refuses || self.is(Fault::TakesNothing) {
            self.happens();
        }
        if refuses { Then::Close } else { Then::GoOn }
    }

    async fn on_packet(&mut self, wire: &mut Wire, packet: &Packet) -> Then {
        if self.maximum.is_some_and(|max| packet.bytes > max as usize) {
            self.shared.books().too_large += 1;
        }
        let answered = match packet.kind() {
            PUBLISH => return self.on_publish(wire, &Publish::of(packet)).await,
            SUBSCRIBE => {
                self.takes_receipts = true;
                wire.write(&suback(packet)).await
            }
            PINGREQ => wire.write(&[PINGRESP, 0]).await,
            DISCONNECT => false,
            kind => panic!("a client does not send {kind:#x}"),
        };
        if answered { Then::GoOn } else { Then::Close }
    }

    async fn on_publish(&mut self, wire: &mut Wire, publish: &Publish) -> Then {
        let tail = publish
            .topic
            .strip_prefix(BASE)
            .expect("a topic of the site");
        if tail == "/status" {
            let status: Value = serde_json::from_slice(&publish.payload).unwrap();
            let parked = status["outbox"]["parked"].as_u64().unwrap_or_default();
            let mut books = self.shared.books();
            books.status = status;
            books.most_parked = books.most_parked.max(parked);
        }
        if let Some(finding) = tail.strip_prefix("/active/") {
            let mut books = self.shared.books();
            if publish.payload.is_empty() {
                books.active.remove(finding);
            } else {
                let event: Value = serde_json::from_slice(&publish.payload).unwrap();
                let revision = event["data"]["revision"].as_u64().unwrap();
                books.active.insert(finding.to_owned(), revision);
            }
        }
        if publish.id == 0 {
            return Then::GoOn;
        }
        self.open += 1;
        let limit = usize::from(self.receive_maximum.unwrap_or(u16::MAX));
        let over = self.open.saturating_sub(limit);
        let is_record = tail.starts_with("/finding/") || ["/coverage", "/notice"].contains(&tail);
        if !is_record {
            self.shared.books().over_receive_maximum += over;
            let silent = self.is(Fault::NeverAcks) && self.is_due();
            return if silent || self.answer(wire, publish.id, None, 0).await {
                Then::GoOn
            } else {
                Then::Close
            };
        }
        let event: Value = serde_json::from_slice(&publish.payload).unwrap();
        let seq = event["seq"].as_u64().unwrap();
        let received = Received {
            seq,
            digest: digest(&content(event.clone())),
            replayed: event["data"]["replayed"] == true,
            event: match self.shared.keeps {
                Keeps::Events => event,
                Keeps::Digests => Value::Null,
            },
        };
        self.records.push_back((publish.id, false));
        {
            let mut books = self.shared.books();
            books.received.push(received);
            books.over_receive_maximum += over;
            books.widest_window = books.widest_window.max(self.records.len());
        }
        self.on_record(wire, publish.id, seq).await
    }

    async fn on_record(&mut self, wire: &mut Wire, id: u16, seq: u64) -> Then {
        let mut reason = 0;
        match self.fault {
            Some(Fault::Refuses) if self.rng.bool() => {
                reason = self.rng.choice(REFUSALS).unwrap();
                self.happens();
            }
            Some(Fault::FindsNobody) if !self.is_due() => {
                reason = NOBODY_SUBSCRIBES;
                self.happens();
            }
            Some(Fault::Shuffles) => {
                self.held.push((id, Some(seq)));
                return Then::GoOn;
            }
            Some(fault) if self.is_due() => match fault {
                Fault::StopsReading => {
                    self.happens();
                    return Then::Ignore;
                }
                Fault::Forgets => {
                    self.happens();
                    // A few more are read before it ends.
                    return if self.rng.u8(..4) == 0 {
                        Then::Close
                    } else {
                        Then::GoOn
                    };
                }
                Fault::NeverAcks => {
                    self.happens();
                    return Then::GoOn;
                }
                Fault::LosesOneAck if !self.lost_one => {
                    self.lost_one = true;
                    self.happens();
                    return Then::GoOn;
                }
                Fault::ClosesMidPacket => {
                    self.happens();
                    // Gone already, or not: it is over.
                    let _written = wire.write(&puback(id, 0)[..2]).await;
                    return Then::Close;
                }
                Fault::AcksTwice => {
                    self.happens();
                    let twice = [puback(id, 0), puback(id, 0)].concat();
                    if wire.write(&twice).await {
                        self.deliver(seq);
                    }
                    return Then::GoOn;
                }
                Fault::AcksUnknown => {
                    self.happens();
                    let written = wire.write(&puback(u16::MAX, 0)).await;
                    return if written { Then::GoOn } else { Then::Close };
                }
                Fault::TalksRubbish => {
                    self.happens();
                    let rubbish: Vec<u8> = (0..64).map(|_| self.rng.u8(..)).collect();
                    let _written = wire.write(&[&[0xff, 0x7f], &rubbish[..]].concat()).await;
                    return Then::Close;
                }
                Fault::SaysGoodbye => {
                    self.happens();
                    let _written = wire.write(&packet(DISCONNECT, &[0x8b, 0])).await;
                    return Then::Close;
                }
                _ => {}
            },
            _ => {}
        }
        if self.answer(wire, id, Some(seq), reason).await {
            Then::GoOn
        } else {
            Then::Close
        }
    }

    /// False: the client is gone.
    async fn answer(&mut self, wire: &mut Wire, id: u16, seq: Option<u64>, reason: u8) -> bool {
        // Before it is written: the client may go on at once.
        self.open = self.open.saturating_sub(1);
        if let Some(record) = self
            .records
            .iter_mut()
            .find(|(open, acked)| *open == id && !acked)
        {
            record.1 = true;
        }
        while self.records.front().is_some_and(|(_, acked)| *acked) {
            self.records.pop_front();
        }
        if !wire.write(&puback(id, reason)).await {
            return false;
        }
        let Some(seq) = seq else { return true };
        match reason {
            0 => {
                // What it acknowledged and lost all the same, only a centre can tell.
                let loses = self.shared.ack == AckBy::Centre
                    && self.is(Fault::Forgets)
                    && self.rng.u8(..4) == 0;
                if !loses {
                    self.deliver(seq);
                }
            }
            NOBODY_SUBSCRIBES => self.shared.books().unheard += 1,
            _ => *self.shared.books().refusals.entry(seq).or_default() += 1,
        }
        true
    }

    fn deliver(&self, seq: u64) {
        self.shared.books().delivered.insert(seq);
    }

    async fn on_tick(&mut self, wire: &mut Wire) -> Then {
        // One alone does not wait for ever.
        if self.held.len() > 2 || (!self.held.is_empty() && self.rng.u8(..8) == 0) {
            let mut held = std::mem::take(&mut self.held);
            let before = held.clone();
            self.rng.shuffle(&mut held);
            if held != before {
                self.happens();
            }
            for (id, seq) in held {
                if !self.answer(wire, id, seq, 0).await {
                    return Then::Close;
                }
            }
        }
        if self.is(Fault::LowersMaximum) && self.is_due() {
            self.happens();
        }
        if self.shared.ack == AckBy::Centre && self.takes_receipts && !self.tell_receipt(wire).await
        {
            return Then::Close;
        }
        // Only these end by themselves; the others wait to be found out.
        let goes_on = [
            Fault::Refuses,
            Fault::FindsNobody,
            Fault::Shuffles,
            Fault::LowersMaximum,
            Fault::Forgets,
        ];
        let over = self.happened && Instant::now() >= self.due + FAULTY;
        if over && self.fault.is_some_and(|fault| goes_on.contains(&fault)) {
            return Then::Close;
        }
        Then::GoOn
    }

    /// Tells what the centre has, if that has changed; now and then nonsense before it.
    async fn tell_receipt(&mut self, wire: &mut Wire) -> bool {
        let receipt = {
            let books = self.shared.books();
            let has = |seq: &u64| books.delivered.contains(seq);
            let newest = books.delivered.last().copied().unwrap_or_default();
            let except: Vec<u64> = (1..=newest).filter(|seq| !has(seq)).collect();
            json!({"through": newest, "except": except})
        };
        if receipt == self.receipt {
            return true;
        }
        let topic = format!("{BASE}/receipt");
        let mut bytes = Vec::new();
        if self.fault.is_some() && self.rng.u8(..8) == 0 {
            let nonsense: [&[u8]; 3] = [b"{", b"{\"through\":99999999}", b"[]"];
            bytes.extend(publish(&topic, 0, self.rng.choice(nonsense).unwrap()));
        }
        bytes.extend(publish(&topic, 0, receipt.to_string().as_bytes()));
        self.receipt = receipt;
        wire.write(&bytes).await
    }
}
