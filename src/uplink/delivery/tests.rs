use proptest::prelude::*;

use super::*;

const TOPICS: [&str; 2] = ["a", "b"];
const LIMITS: Limits = Limits {
    records: 3,
    publishes: 6,
    loaded: 8,
    refusals: 3,
};

#[derive(Clone, Debug, PartialEq)]
struct Rec {
    seq: u64,
    class: u8,
    topic: &'static str,
    told_of: u64,
}

impl Deliverable for Rec {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn class(&self) -> u8 {
        self.class
    }

    fn topic_key(&self) -> &str {
        self.topic
    }

    fn note_newer(&mut self, newer: &Self) {
        // Whatever goes first, all that waits is told.
        self.told_of = self.told_of.max(newer.seq);
    }
}

fn rec(seq: u64) -> Rec {
    Rec {
        seq,
        class: 2,
        topic: "a",
        told_of: 0,
    }
}

fn secs(s: u64) -> MonoMicros {
    MonoMicros(0).plus(Duration::from_secs(s))
}

/// A machine with records `1..=n` of one topic, connected after they were committed.
fn machine(n: u64, ack: AckBy) -> Delivery<Rec> {
    let mut delivery = Delivery::new(LIMITS, ack);
    for seq in 1..=n {
        delivery.offer(rec(seq));
    }
    delivery.connected(n, u16::MAX);
    delivery
}

/// Takes, feeds and sends the next record as packet `id`; its number, and whether it is a replay.
fn send(delivery: &mut Delivery<Rec>, id: u16, now: MonoMicros) -> Option<(u64, bool)> {
    let (record, replayed) = delivery.next(now)?;
    let seq = record.seq;
    delivery.fed(Tag::Record(seq));
    delivery.sent(id).unwrap();
    delivery.check_invariants();
    Some((seq, replayed))
}

#[test]
fn no_more_than_the_window_is_on_the_way_and_an_acknowledgement_makes_room() {
    let mut delivery = machine(5, AckBy::Broker);
    let sent = [1, 2, 3].map(|id| send(&mut delivery, id, secs(0)).unwrap().0);
    assert_eq!(sent, [1, 2, 3]);
    assert_eq!(delivery.next(secs(0)), None);
    assert_eq!(delivery.acked(1, 0, secs(0)), Verdict::Delivered(1));
    assert_eq!(send(&mut delivery, 4, secs(0)).unwrap().0, 4);
    assert_eq!(delivery.next(secs(0)), None);
}

#[test]
fn a_record_that_is_not_answered_holds_the_window_back_however_many_after_it_are() {
    let mut delivery = machine(8, AckBy::Broker);
    for id in 1..=3 {
        send(&mut delivery, id, secs(0)).unwrap();
    }
    for id in [2, 3] {
        delivery.acked(id, 0, secs(0));
        // One record is on the way, and the window ends three from there.
        assert_eq!(delivery.next(secs(0)), None);
        assert!(!delivery.has_room());
    }
    assert_eq!(delivery.oldest_owed(), Some(0));
    delivery.acked(1, 0, secs(0));
    assert_eq!(delivery.oldest_owed(), None);
    let sent = [4, 5, 6].map(|id| send(&mut delivery, id, secs(0)).unwrap().0);
    assert_eq!(sent, [4, 5, 6]);
    assert_eq!(delivery.next(secs(0)), None);
}

#[test]
fn a_publish_that_is_not_answered_holds_back_packet_ids_however_many_came_after_it() {
    let mut delivery = machine(6, AckBy::Broker);
    delivery.fed(Tag::Other("status"));
    delivery.sent(1).unwrap();
    for id in 2..=6 {
        send(&mut delivery, id, secs(0)).unwrap();
        delivery.acked(id, 0, secs(0));
    }
    // No record is on the way, but the oldest packet id is still in use.
    assert_eq!((delivery.room(), delivery.oldest_owed()), (0, Some(0)));
    delivery.acked(1, 0, secs(0));
    assert_eq!((delivery.room(), delivery.oldest_owed()), (6, None));
}

#[test]
fn what_is_owed_for_longest_stays_the_same_until_it_is_answered() {
    let mut delivery = machine(3, AckBy::Broker);
    assert_eq!(delivery.oldest_owed(), None);
    for id in 1..=3 {
        send(&mut delivery, id, secs(0)).unwrap();
    }
    for (id, oldest) in [(3, 0), (1, 1)] {
        delivery.acked(id, 0x10, secs(0));
        assert_eq!(delivery.oldest_owed(), Some(oldest));
    }
}

#[test]
fn in_a_class_news_go_before_what_is_late_and_what_is_late_is_not_starved() {
    let limits = Limits {
        records: 40,
        publishes: 40,
        loaded: 40,
        ..LIMITS
    };
    let mut delivery = Delivery::new(limits, AckBy::Broker);
    (1..=10).for_each(|seq| delivery.offer(rec(seq)));
    delivery.offer(Rec {
        class: 1,
        ..rec(11)
    });
    delivery.connected(11, u16::MAX);
    for seq in 12..=30 {
        let class = if seq == 30 { 1 } else { 2 };
        delivery.offer(Rec { class, ..rec(seq) });
    }
    let sent: Vec<u64> = (1..=14)
        .map(|id| send(&mut delivery, id, secs(0)).unwrap().0)
        .collect();
    assert_eq!(
        sent,
        [30, 11, 12, 13, 14, 15, 16, 1, 17, 18, 19, 20, 21, 22]
    );
    // A new connection: what was news is late now.
    delivery.connection_lost();
    delivery.connected(30, u16::MAX);
    assert_eq!(send(&mut delivery, 1, secs(0)), Some((11, true)));
}

#[test]
fn what_waits_is_told_of_what_comes_after_it() {
    let mut delivery = machine(2, AckBy::Broker);
    delivery.offer(Rec { class: 1, ..rec(3) });
    let told: Vec<u64> = (1..=3)
        .map(|id| {
            let (record, _) = delivery.next(secs(0)).unwrap();
            let (seq, told_of) = (record.seq, record.told_of);
            delivery.fed(Tag::Record(seq));
            delivery.sent(id).unwrap();
            told_of
        })
        .collect();
    assert_eq!(told, [0, 3, 3]);
}

#[test]
fn the_brokers_receive_maximum_is_kept() {
    let mut delivery = machine(5, AckBy::Broker);
    delivery.connected(5, 2);
    assert_eq!(delivery.room(), 2);
    delivery.fed(Tag::Other("status"));
    assert_eq!(delivery.room(), 1);
    delivery.connection_lost();
    assert_eq!(
        delivery.room(),
        0,
        "nothing may be fed without a connection"
    );
}

#[test]
fn class_1_goes_first_however_late_it_came() {
    let mut delivery = machine(2, AckBy::Broker);
    delivery.offer(Rec { class: 1, ..rec(9) });
    let sent = [1, 2, 3].map(|id| send(&mut delivery, id, secs(0)).unwrap());
    // What was committed after the connection began is no replay.
    assert_eq!(sent, [(9, false), (1, true), (2, true)]);
}

#[test]
fn records_go_by_class_and_every_eighth_is_the_oldest_of_all() {
    let mut delivery = Delivery::new(
        Limits {
            records: 20,
            publishes: 20,
            loaded: 20,
            ..LIMITS
        },
        AckBy::Broker,
    );
    delivery.connected(0, u16::MAX);
    for seq in 1..=12 {
        let class = match seq {
            1 => 3,
            2..=3 => 2,
            _ => 1,
        };
        delivery.offer(Rec { class, ..rec(seq) });
    }
    let sent: Vec<u64> = (1..=12)
        .map(|id| send(&mut delivery, id, secs(0)).unwrap().0)
        .collect();
    assert_eq!(sent, [4, 5, 6, 7, 8, 9, 10, 1, 11, 12, 2, 3]);
}

#[test]
fn what_was_on_the_way_is_sent_again_as_a_replay_after_the_connection_is_lost() {
    let mut delivery = Delivery::new(LIMITS, AckBy::Broker);
    delivery.connected(0, u16::MAX);
    (1..=4).for_each(|seq| delivery.offer(rec(seq)));
    for id in 1..=3 {
        assert!(!send(&mut delivery, id, secs(0)).unwrap().1);
    }
    assert!(delivery.first_try(1));
    delivery.acked(2, 0, secs(0));
    delivery.connection_lost();
    delivery.check_invariants();
    assert!(!delivery.is_owed());
    // An answer that was under way says nothing about the new connection.
    assert_eq!(delivery.acked(1, 0, secs(0)), Verdict::Unknown);
    delivery.connected(3, u16::MAX);
    let sent = [1, 2, 3].map(|id| send(&mut delivery, id, secs(0)).unwrap());
    assert_eq!(sent, [(4, false), (1, true), (3, true)]);
    assert!(!delivery.first_try(1) && delivery.first_try(4));
}

#[test]
fn an_acknowledgement_counts_only_after_its_publish_was_sent() {
    let mut delivery = machine(1, AckBy::Broker);
    delivery.next(secs(0)).unwrap();
    delivery.fed(Tag::Record(1));
    assert_eq!(delivery.acked(1, 0, secs(0)), Verdict::Unknown);
    delivery.sent(1).unwrap();
    assert_eq!(delivery.acked(1, 0, secs(0)), Verdict::Delivered(1));
    assert_eq!(delivery.acked(1, 0, secs(0)), Verdict::Unknown, "once only");
}

#[test]
fn telemetry_and_status_go_through_the_same_queue_without_being_taken_for_records() {
    let mut delivery = machine(1, AckBy::Broker);
    delivery.fed(Tag::Other("status"));
    delivery.fed_unacked();
    let seq = delivery.next(secs(0)).unwrap().0.seq;
    delivery.fed(Tag::Record(seq));
    delivery.sent(1).unwrap();
    delivery.sent(0).unwrap();
    delivery.sent(2).unwrap();
    assert_eq!(
        delivery.acked(1, 0x87, secs(0)),
        Verdict::Other {
            what: "status",
            reason: 0x87
        }
    );
    assert!(delivery.holds().is_empty());
    assert_eq!(delivery.acked(2, 0, secs(0)), Verdict::Delivered(1));
}

#[test]
fn a_packet_id_that_does_not_fit_breaks_the_pairing() {
    let fed = |tags: &[Option<Tag>]| {
        let mut delivery = machine(3, AckBy::Broker);
        for tag in tags {
            match tag {
                Some(tag) => delivery.fed(*tag),
                None => delivery.fed_unacked(),
            }
        }
        delivery
    };
    let status = Some(Tag::Other("status"));
    assert_eq!(fed(&[]).sent(1), Err(PairingLost(1)), "nothing was fed");
    assert_eq!(
        fed(&[status]).sent(0),
        Err(PairingLost(0)),
        "QoS 1 has an id"
    );
    assert_eq!(fed(&[None]).sent(1), Err(PairingLost(1)), "QoS 0 has none");
    let mut twice = fed(&[status, status]);
    twice.sent(1).unwrap();
    assert_eq!(twice.sent(1), Err(PairingLost(1)), "the id is in use");
}

#[test]
fn a_topic_nobody_subscribes_to_is_tried_by_one_record_after_a_growing_wait() {
    let mut delivery = machine(3, AckBy::Broker);
    delivery.offer(Rec {
        topic: "b",
        ..rec(4)
    });
    delivery.connected(4, u16::MAX);
    for id in 1..=3 {
        send(&mut delivery, id, secs(0)).unwrap();
    }
    for id in 1..=3 {
        let verdict = delivery.acked(id, 0x10, secs(0));
        assert_eq!(verdict, Verdict::NotDelivered(id.into()));
        delivery.check_invariants();
    }
    assert_eq!(delivery.holds(), [("a", HoldReason::NobodySubscribes)]);
    assert_eq!(
        send(&mut delivery, 4, secs(0)).unwrap().0,
        4,
        "other topics go on"
    );
    assert_eq!(delivery.acked(4, 0, secs(0)), Verdict::Delivered(4));
    let mut now = secs(0);
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        let early = now.plus(Duration::from_micros(wait * 1_000_000 - 1));
        assert_eq!(delivery.next(early), None);
        now = now.plus(Duration::from_secs(wait));
        assert_eq!(send(&mut delivery, 5, now), Some((1, true)));
        assert_eq!(delivery.next(now), None, "one at a time");
        assert_eq!(
            delivery.acked(5, 0x10, now),
            Verdict::NotDelivered(1),
            "never parked"
        );
    }
    // A new connection may meet another broker.
    delivery.connected(4, u16::MAX);
    assert_eq!(send(&mut delivery, 1, now), Some((1, true)));
    assert_eq!(delivery.acked(1, 0, now), Verdict::Delivered(1));
    assert!(delivery.holds().is_empty());
    assert!(
        delivery.take_rewind(),
        "what was dropped is to be read again"
    );
    assert!(!delivery.take_rewind());
}

#[test]
fn a_record_refused_too_often_is_parked_and_the_next_of_its_topic_tries() {
    let mut delivery = machine(2, AckBy::Broker);
    let mut now = secs(0);
    for wait in [1, 2] {
        assert_eq!(send(&mut delivery, 1, now).unwrap().0, 1);
        assert_eq!(delivery.acked(1, 0x87, now), Verdict::NotDelivered(1));
        assert_eq!(delivery.holds(), [("a", HoldReason::Refused(0x87))]);
        assert_eq!(delivery.next(now), None);
        now = now.plus(Duration::from_secs(wait));
    }
    send(&mut delivery, 1, now).unwrap();
    assert_eq!(delivery.acked(1, 0x99, now), Verdict::Poison(1));
    delivery.check_invariants();
    delivery.forget(&[1]);
    delivery.offer(rec(2));
    assert_eq!(delivery.next(now), None, "the topic is still held");
    assert_eq!(
        send(&mut delivery, 1, now.plus(Duration::from_secs(4)))
            .unwrap()
            .0,
        2
    );
}

#[test]
fn with_the_centres_word_a_record_is_done_only_by_its_receipt() {
    let mut delivery = machine(4, AckBy::Centre);
    for id in 1..=3 {
        send(&mut delivery, id, secs(0)).unwrap();
        assert_eq!(delivery.acked(id, 0, secs(0)), Verdict::Awaiting(id.into()));
    }
    // Record 4 was never sent: a receipt for it was meant for somebody else.
    assert_eq!(delivery.receipt(4, &[2], 4, secs(1)).unwrap(), [1, 3]);
    delivery.check_invariants();
    let again = send(&mut delivery, 4, secs(1)).unwrap();
    assert_eq!(
        again,
        (2, true),
        "what the centre misses is sent again at once"
    );
    let too_far = ReceiptTooFar {
        through: 5,
        newest: 4,
    };
    assert_eq!(delivery.receipt(5, &[], 4, secs(1)), Err(too_far));
    assert_eq!(
        delivery.receipt(2, &[], 4, secs(1)).unwrap(),
        [2],
        "also while on the way"
    );
    assert_eq!(delivery.acked(4, 0, secs(1)), Verdict::Unknown);
    delivery.check_invariants();
}

#[test]
fn without_a_receipt_a_record_is_sent_again_after_a_growing_wait() {
    let mut delivery = machine(1, AckBy::Centre);
    let mut now = secs(0);
    for wait in [60, 120, 240, 480, 900, 900] {
        assert_eq!(send(&mut delivery, 1, now).unwrap().0, 1);
        assert_eq!(delivery.acked(1, 0, now), Verdict::Awaiting(1));
        assert_eq!(
            delivery.expire_receipts(now.plus(Duration::from_secs(wait - 1))),
            0
        );
        assert!(!delivery.has_work());
        now = now.plus(Duration::from_secs(wait));
        assert_eq!(delivery.expire_receipts(now), 1);
    }
}

#[test]
fn records_that_await_receipts_fill_a_place_of_their_own_and_then_hold_back_the_rest() {
    let mut delivery = Delivery::new(LIMITS, AckBy::Centre);
    delivery.connected(0, u16::MAX);
    for seq in 1..=AWAITING_RECEIPT as u64 {
        assert_eq!(delivery.wants(), LIMITS.loaded);
        delivery.offer(rec(seq));
        send(&mut delivery, 1, secs(0)).unwrap();
        delivery.acked(1, 0, secs(0));
    }
    assert_eq!(delivery.wants(), 0);
    delivery.offer(rec(5000));
    assert_eq!(delivery.next(secs(0)), None);
    delivery.receipt(1, &[], 5000, secs(0)).unwrap();
    assert_eq!(send(&mut delivery, 1, secs(0)).unwrap().0, 5000);
}

#[test]
fn a_done_record_is_not_taken_again_before_the_store_has_removed_it() {
    let mut delivery = machine(1, AckBy::Broker);
    send(&mut delivery, 1, secs(0)).unwrap();
    delivery.acked(1, 0, secs(0));
    delivery.offer(rec(1));
    assert_eq!(delivery.next(secs(0)), None);
    assert_eq!(
        delivery.wants(),
        LIMITS.loaded - 1,
        "it takes its place until then"
    );
    delivery.forget(&[1]);
    assert_eq!(delivery.wants(), LIMITS.loaded);
}

/// What may happen, in any order. Numbers choose among what is possible at that moment.
#[derive(Clone, Copy, Debug)]
enum Step {
    Commit {
        class: u8,
        topic: bool,
    },
    Read,
    Feed,
    FeedOther,
    Sent,
    Answer {
        which: usize,
        reason: u8,
    },
    StrayAnswer(u16),
    Lose,
    Connect {
        receive_maximum: u16,
    },
    StoreRemoves,
    Wait(u64),
    /// Reads, feeds, sends and answers all there is, then waits.
    Round(u64),
    /// The broker's access list changes.
    Forbid {
        topic: bool,
        on: bool,
    },
    Receipt {
        through: u64,
        except: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![5 => Just(0), 2 => Just(0x10), 2 => Just(0x80), 1 => Just(0x97)];
    prop_oneof![
        4 => (1..=3_u8, any::<bool>())
            .prop_map(|(class, topic)| Step::Commit { class, topic }),
        3 => Just(Step::Read),
        6 => Just(Step::Feed),
        1 => Just(Step::FeedOther),
        6 => Just(Step::Sent),
        6 => (0..8_usize, reason).prop_map(|(which, reason)| Step::Answer { which, reason }),
        1 => (1..12_u16).prop_map(Step::StrayAnswer),
        1 => Just(Step::Lose),
        1 => (1..10_u16).prop_map(|receive_maximum| Step::Connect { receive_maximum }),
        2 => Just(Step::StoreRemoves),
        4 => (0..70_u64).prop_map(Step::Wait),
        3 => (0..70_u64).prop_map(Step::Round),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(topic, on)| Step::Forbid { topic, on }),
        1 => (0..20_u64, 0..20_u64).prop_map(|(through, except)| Step::Receipt { through, except }),
    ]
}

/// Store, connection and broker around the machine, with books of their own.
struct World {
    ack: AckBy,
    delivery: Delivery<Rec>,
    now: MonoMicros,
    newest: u64,
    /// The store: not removed, not parked.
    stored: BTreeMap<u64, Rec>,
    parked: BTreeSet<u64>,
    cursor: [u64; 3],
    /// Removals the store has not yet made.
    to_remove: Vec<u64>,
    connected: bool,
    publishes: usize,
    /// Fed and not sent, in order; `None` is a publish that carries no record.
    queue: VecDeque<Option<u64>>,
    /// Sent and not answered: packet id and what it carries.
    wire: Vec<(u16, Option<u64>)>,
    last_id: u16,
    refusals: HashMap<u64, u32>,
    /// Topics the broker refuses whatever the step says.
    forbidden: BTreeSet<&'static str>,
    /// Records a publish of which was taken by this process.
    taken: BTreeSet<u64>,
}

impl World {
    fn new(ack: AckBy) -> Self {
        Self {
            ack,
            delivery: Delivery::new(LIMITS, ack),
            now: secs(1),
            newest: 0,
            stored: BTreeMap::new(),
            parked: BTreeSet::new(),
            cursor: [0; 3],
            to_remove: Vec::new(),
            connected: false,
            publishes: 0,
            queue: VecDeque::new(),
            wire: Vec::new(),
            last_id: 0,
            refusals: HashMap::new(),
            forbidden: BTreeSet::new(),
            taken: BTreeSet::new(),
        }
    }

    /// As the session reads: from a cursor for each lane, class 1 first, no more than is wanted.
    fn read(&mut self) -> usize {
        if self.delivery.take_rewind() {
            self.cursor = [0; 3];
        }
        let wanted = self.delivery.wants();
        let mut offered = 0;
        for class in 1..=3 {
            let after = &mut self.cursor[usize::from(class - 1)];
            let lane = self
                .stored
                .values()
                .filter(|r| r.class == class && r.seq > *after);
            let found: Vec<Rec> = lane.take(wanted - offered).cloned().collect();
            offered += found.len();
            for record in found {
                *after = record.seq;
                self.delivery.offer(record);
            }
        }
        offered
    }

    /// Whether a record like that is on the way and not yet done by a receipt.
    fn carries(&self, like: impl Fn(&Rec) -> bool) -> bool {
        let wire = self.wire.iter().map(|(_, seq)| *seq);
        let mut carried = self.queue.iter().copied().chain(wire).flatten();
        carried
            .any(|seq| !self.to_remove.contains(&seq) && self.stored.get(&seq).is_some_and(&like))
    }

    fn feed(&mut self) -> bool {
        if self.delivery.room() == 0 {
            return false;
        }
        let Some((record, _)) = self.delivery.next(self.now) else {
            return false;
        };
        let record = record.clone();
        let held = self.delivery.holds.contains_key(record.topic);
        assert!(
            !held || !self.carries(|r| r.topic == record.topic),
            "two of a held topic"
        );
        // The machine holds only what the store still has, so nothing is sent twice without need.
        assert!(self.stored.contains_key(&record.seq));
        assert!(
            !self.to_remove.contains(&record.seq),
            "{} is done",
            record.seq
        );
        assert!(
            !self.carries(|r| r.seq == record.seq),
            "two publishes of {record:?}"
        );
        self.taken.insert(record.seq);
        self.delivery.fed(Tag::Record(record.seq));
        self.queue.push_back(Some(record.seq));
        true
    }

    /// The next packet id in a circle, as the client library gives them.
    fn send(&mut self) -> bool {
        let Some(what) = self.queue.pop_front() else {
            return false;
        };
        self.last_id = self.last_id % self.publishes as u16 + 1;
        let id = self.last_id;
        assert!(
            self.wire.iter().all(|(other, _)| *other != id),
            "packet id {id} is in use"
        );
        self.wire.push((id, what));
        self.delivery.sent(id).unwrap();
        true
    }

    fn answer(&mut self, which: usize, reason: u8) -> bool {
        if self.wire.is_empty() {
            return false;
        }
        let (id, what) = self.wire.remove(which % self.wire.len());
        let topic = what
            .and_then(|seq| self.stored.get(&seq))
            .map(|record| record.topic);
        let reason = if topic.is_some_and(|t| self.forbidden.contains(t)) {
            0x87
        } else {
            reason
        };
        let verdict = self.delivery.acked(id, reason, self.now);
        let Some(seq) = what else {
            assert_eq!(
                verdict,
                Verdict::Other {
                    what: "status",
                    reason
                }
            );
            return true;
        };
        match verdict {
            Verdict::Delivered(done) => {
                assert_eq!((done, reason, self.ack), (seq, 0, AckBy::Broker));
                self.to_remove.push(seq);
            }
            Verdict::Awaiting(s) => assert_eq!((s, reason, self.ack), (seq, 0, AckBy::Centre)),
            Verdict::NotDelivered(s) => {
                assert_eq!(s, seq);
                assert_ne!(reason, 0);
                if reason >= 0x80 {
                    let refused = self.refusals.entry(seq).or_default();
                    *refused += 1;
                }
            }
            Verdict::Poison(s) => {
                assert_eq!(s, seq);
                assert!(reason >= 0x80);
                let refused = self.refusals.get(&seq).copied().unwrap_or(0) + 1;
                assert!(
                    refused >= LIMITS.refusals,
                    "parked after {refused} refusals"
                );
                self.stored.remove(&seq);
                self.parked.insert(seq);
                self.delivery.forget(&[seq]);
            }
            // A receipt came before the answer.
            Verdict::Unknown => assert_eq!(self.ack, AckBy::Centre),
            Verdict::Other { .. } => panic!("{seq} was a record"),
        }
        true
    }

    fn store_removes(&mut self) {
        for seq in &self.to_remove {
            self.stored.remove(seq);
        }
        self.delivery.forget(&self.to_remove);
        self.to_remove.clear();
    }

    fn lose(&mut self) {
        self.delivery.connection_lost();
        self.connected = false;
        self.publishes = 0;
        self.queue.clear();
        self.wire.clear();
    }

    fn connect(&mut self, receive_maximum: u16) {
        self.lose();
        self.delivery.connected(self.newest, receive_maximum);
        self.connected = true;
        self.publishes = LIMITS.publishes.min(receive_maximum.into());
        self.last_id = 0;
        self.cursor = [0; 3];
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Commit { class, topic } => {
                self.newest += 1;
                let topic = TOPICS[usize::from(topic)];
                let record = Rec {
                    class,
                    topic,
                    ..rec(self.newest)
                };
                self.stored.insert(self.newest, record);
            }
            Step::Read if self.connected => drop(self.read()),
            Step::Feed => drop(self.feed()),
            Step::FeedOther if self.delivery.room() > 0 => {
                self.delivery.fed(Tag::Other("status"));
                self.queue.push_back(None);
            }
            Step::Sent => drop(self.send()),
            Step::Answer { which, reason } => drop(self.answer(which, reason)),
            Step::StrayAnswer(id) if self.wire.iter().all(|(used, _)| *used != id) => {
                assert_eq!(self.delivery.acked(id, 0, self.now), Verdict::Unknown);
            }
            Step::Lose => self.lose(),
            Step::Connect { receive_maximum } => self.connect(receive_maximum),
            Step::StoreRemoves => self.store_removes(),
            Step::Wait(s) => {
                self.now = self.now.plus(Duration::from_secs(s));
                self.delivery.expire_receipts(self.now);
            }
            Step::Round(s) => {
                if self.connected {
                    self.read();
                }
                while self.feed() {}
                while self.send() {}
                while self.answer(0, 0) {}
                self.apply(Step::Wait(s));
            }
            Step::Forbid { topic, on: true } => {
                self.forbidden.insert(TOPICS[usize::from(topic)]);
            }
            Step::Forbid { topic, on: false } => {
                self.forbidden.remove(TOPICS[usize::from(topic)]);
            }
            Step::Receipt { through, except } if self.ack == AckBy::Centre => {
                match self
                    .delivery
                    .receipt(through, &[except], self.newest, self.now)
                {
                    Ok(done) => {
                        for seq in &done {
                            assert!(*seq <= through && *seq != except);
                            assert!(self.taken.contains(seq), "{seq} was never sent");
                            assert!(!self.to_remove.contains(seq), "{seq} was done already");
                        }
                        self.to_remove.extend(done);
                    }
                    Err(e) => assert_eq!((e.through, e.newest), (through, self.newest)),
                }
            }
            _ => {}
        }
        self.check();
    }

    fn check(&self) {
        self.delivery.check_invariants();
        let carried: Vec<u64> = self
            .queue
            .iter()
            .copied()
            .chain(self.wire.iter().map(|(_, s)| *s))
            .flatten()
            .collect();
        if self.ack == AckBy::Broker {
            assert!(
                carried.len() <= LIMITS.records,
                "{carried:?} are on the way"
            );
        }
        assert!(self.queue.len() + self.wire.len() <= self.publishes);
        assert_eq!(
            self.delivery.is_owed(),
            !self.queue.is_empty() || !self.wire.is_empty()
        );
        assert!(self.delivery.entries.len() <= LIMITS.loaded + AWAITING_RECEIPT);
    }

    /// From here on the broker, the centre and the store work: all that is stored must get out.
    fn settle(&mut self) {
        self.forbidden.clear();
        // A new connection would hide what the machine forgot to have read again.
        if !self.connected {
            self.connect(u16::MAX);
        }
        for _ in 0..1000 {
            self.store_removes();
            if self.stored.is_empty() {
                return;
            }
            let mut busy = self.read() > 0;
            while self.feed() {
                busy = true;
            }
            while self.send() {}
            while self.answer(0, 0) {}
            if self.ack == AckBy::Centre {
                let through = self.newest;
                let done = self
                    .delivery
                    .receipt(through, &[], self.newest, self.now)
                    .unwrap();
                self.to_remove.extend(done);
            }
            self.check();
            if !busy {
                self.now = self.now.plus(Duration::from_secs(60));
            }
        }
        panic!("{:?} never got out", self.stored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn no_record_leaves_without_an_answer_and_none_stays_behind(
        centre in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(if centre { AckBy::Centre } else { AckBy::Broker });
        for step in steps {
            world.apply(step);
        }
        world.settle();
        let out: BTreeSet<u64> = (1..=world.newest).filter(|s| !world.parked.contains(s)).collect();
        prop_assert!(out.is_subset(&world.taken), "everything was sent");
    }

    #[test]
    fn while_nothing_is_refused_records_go_out_in_order_on_every_connection(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(AckBy::Broker);
        // Of what is late, and of news.
        let (mut last, mut boundary) = ([0; 2], 0);
        for step in steps {
            match step {
                Step::Feed if world.delivery.room() > 0 => {
                    let before = world.queue.len();
                    world.apply(Step::Feed);
                    if let Some(Some(seq)) = world.queue.get(before) {
                        let last = &mut last[usize::from(*seq > boundary)];
                        prop_assert!(*seq > *last, "{seq} after {last}");
                        *last = *seq;
                    }
                }
                Step::Commit { .. } => world.apply(Step::Commit { class: 2, topic: true }),
                Step::Answer { which, .. } => world.apply(Step::Answer { which, reason: 0 }),
                Step::Lose | Step::Connect { .. } => {
                    // The oldest record the broker has not answered for goes first.
                    last = [0; 2];
                    if let Step::Connect { .. } = step {
                        boundary = world.newest;
                    }
                    world.apply(step);
                }
                // A round would take more than one step.
                Step::Forbid { .. } | Step::Round(_) => {}
                step => world.apply(step),
            }
        }
    }
}
