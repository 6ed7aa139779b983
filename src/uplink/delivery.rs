//! Who is on the way: the delivery state machine, pure.
//!
//! What must not be here: I/O, clocks, tokio, and what a record says. It is told what was loaded, fed,
//! sent and answered, and says what to feed next and what has left the outbox.
//!
//! # Constraints
//! * A record is done only when the broker said success for the very publish that carried it, or the
//!   centre's receipt names it. Nothing else removes it, whatever the order of events.
//! * At most `records` of them are taken from the oldest that is not answered to the newest, whatever
//!   was answered in between, and at most `publishes` QoS 1 publishes of any kind lie between the oldest
//!   not answered and the newest: packet ids are given in a circle of that size, so no id is in use
//!   twice.
//! * All publishes go through one FIFO, whatever they carry: what is fed first is sent first.
//! * Memory is bounded: `loaded` records, and [`AWAITING_RECEIPT`] that wait for the centre.
//!
//! # Operation
//! A record is *waiting* → *on the way* (taken by [`Delivery::next`] until the broker answers or the
//! connection ends) → *done* until the store has removed it; with `ack = "centre"` it *awaits its
//! receipt* in between, and goes back to waiting when none comes within [`RECEIPT_WAIT`], doubled each
//! time up to [`RECEIPT_WAIT_MAX`]. Class 1 goes first, then 2, then 3; within a class what is news
//! (committed after the connection began) before what is late, each by number; every eighth is the oldest
//! of all. So a newer revision of a finding may go before an older one, as it does after any lost
//! connection: whoever receives them goes by the revision.
//!
//! # Failure
//! | answer | what happens |
//! | --- | --- |
//! | 0x10, nobody subscribes | not delivered. The topic is held: after 1 s, doubled up to 60 s, one record of it tries again. Records of other topics go on |
//! | 0x80 and above | the same, up to 5 min; a record refused [`Limits::refusals`] times is to be parked. Since only one record of a held topic tries, a broker whose access list is wrong does not sweep the outbox into the parking place |
//! | none, connection lost | what was on the way waits again, and will be marked as replayed |
//! | for a packet id not in use | ignored |
//!
//! A record that was evicted because its topic is held is read from the store again later: see
//! [`Delivery::take_rewind`].
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::config::AckBy;
use crate::base::time::MonoMicros;

/// First wait for a receipt after the broker took a record.
pub const RECEIPT_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for a receipt.
pub const RECEIPT_WAIT_MAX: Duration = Duration::from_secs(900);
/// Records that may wait for their receipts; more are not sent meanwhile.
pub const AWAITING_RECEIPT: usize = 1024;
const HOLD_FIRST: Duration = Duration::from_secs(1);
const HOLD_MAX_UNHEARD: Duration = Duration::from_secs(60);
const HOLD_MAX_REFUSED: Duration = Duration::from_secs(300);
/// Of so many records taken one is the oldest that waits, whatever its class: a flood of one class
/// must not keep the others for ever.
const OLDEST_EVERY: u64 = 8;
const NOBODY_SUBSCRIBES: u8 = 0x10;
const FIRST_REFUSAL: u8 = 0x80;

/// What the machine needs to know of a record.
pub trait Deliverable {
    /// Its number.
    fn seq(&self) -> u64;
    /// What is of a lower class goes first.
    fn class(&self) -> u8;
    /// What its topic depends on: refusals hold back what shares it.
    fn topic_key(&self) -> &str;
    /// `newer` may go first: where it replaces this one, this one must not undo what it says.
    fn note_newer(&mut self, newer: &Self);
}

/// How much may be under way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records from the oldest not answered to the newest taken; at least 1.
    pub records: usize,
    /// QoS 1 publishes from the oldest not answered to the newest; at least 1.
    pub publishes: usize,
    /// Records in memory that do not wait for a receipt.
    pub loaded: usize,
    /// Refusals after which a record is parked.
    pub refusals: u32,
}

/// What a QoS 1 publish carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// The record of this number.
    Record(u64),
    /// Anything else, by a word for logs.
    Other(&'static str),
}

/// What an answer of the broker means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No such packet id is in use, or its record is done already.
    Unknown,
    /// It was not a record.
    Other {
        /// What it was.
        what: &'static str,
        /// The broker's reason code.
        reason: u8,
    },
    /// Remove it from the outbox.
    Delivered(u64),
    /// The broker has it, the centre's receipt is awaited.
    Awaiting(u64),
    /// It will be tried again.
    NotDelivered(u64),
    /// Put it aside.
    Poison(u64),
}

/// The order of events broke: the connection cannot be trusted and must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet id {0} does not fit what was fed")]
pub struct PairingLost(pub u16);

/// A receipt speaks of records that never were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receipt speaks of record {through}, the newest is {newest}")]
pub struct ReceiptTooFar {
    /// What it said.
    pub through: u64,
    /// The newest there is.
    pub newest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    OnTheWay,
    AwaitingReceipt(MonoMicros),
    Done,
}

#[derive(Debug)]
struct Entry<R> {
    record: R,
    state: State,
    /// Times it was taken.
    tries: u32,
    /// Answers of 0x80 and above.
    refused: u32,
}

/// Why a topic is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// 0x10.
    NobodySubscribes,
    /// This reason code.
    Refused(u8),
}

#[derive(Debug)]
struct Hold {
    until: MonoMicros,
    attempt: u32,
    reason: HoldReason,
    /// Records of the topic were dropped from memory.
    evicted: bool,
}

#[derive(Debug)]
struct Slot {
    tag: Tag,
    answered: bool,
}

/// The machine. `R` is a record as loaded from the store.
#[derive(Debug)]
pub struct Delivery<R> {
    limits: Limits,
    ack: AckBy,
    /// Publishes allowed on this connection.
    publishes: usize,
    entries: BTreeMap<u64, Entry<R>>,
    /// Waiting entries by lane and number.
    waiting: BTreeSet<(u16, u64)>,
    /// Records taken, to find the turn of the oldest.
    taken: u64,
    on_the_way: HashMap<String, usize>,
    on_the_way_total: usize,
    /// Taken and not yet fed.
    unfed: usize,
    awaiting: usize,
    holds: HashMap<String, Hold>,
    rewind: bool,
    /// Records up to this were committed before the connection.
    old_through: u64,
    /// Records up to this may be in the outbox again after they were delivered.
    resent_through: u64,
    /// Records of the topic up to this may have been sent before.
    tried_through: HashMap<String, u64>,
    /// Publishes fed and not yet reported as sent; `None`: QoS 0.
    fifo: VecDeque<Option<u64>>,
    slots: VecDeque<Slot>,
    /// Ordinal of the first slot.
    first_slot: u64,
    packet_ids: HashMap<u16, u64>,
}

impl<R: Deliverable> Delivery<R> {
    /// Nothing loaded, no connection.
    pub fn new(limits: Limits, ack: AckBy) -> Self {
        Self {
            limits,
            ack,
            publishes: 0,
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            taken: 0,
            on_the_way: HashMap::new(),
            on_the_way_total: 0,
            unfed: 0,
            awaiting: 0,
            holds: HashMap::new(),
            rewind: false,
            old_through: 0,
            resent_through: 0,
            tried_through: HashMap::new(),
            fifo: VecDeque::new(),
            slots: VecDeque::new(),
            first_slot: 0,
            packet_ids: HashMap::new(),
        }
    }

    /// A connection begins: `newest` is the newest record committed, `receive_maximum` the broker's.
    pub fn connected(&mut self, newest: u64, receive_maximum: u16) {
        self.connection_lost();
        self.old_through = newest;
        let waiting = self.waiting.iter().map(|(_, seq)| *seq);
        self.waiting = waiting.map(|seq| (self.lane(seq), seq)).collect();
        self.publishes = self
            .limits
            .publishes
            .min(usize::from(receive_maximum))
            .max(1);
        // A new connection may meet another broker, or one put right.
        for hold in self.holds.values_mut() {
            hold.until = MonoMicros(0);
        }
    }

    /// The connection ended: packet ids mean nothing any more, what was on the way waits again.
    pub fn connection_lost(&mut self) {
        self.publishes = 0;
        self.unfed = 0;
        self.fifo.clear();
        self.slots.clear();
        self.first_slot = 0;
        self.packet_ids.clear();
        let back: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, e)| e.state == State::OnTheWay)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in back {
            self.wait_again(seq);
        }
    }

    /// How many records may be loaded now.
    pub fn wants(&self) -> usize {
        if self.awaiting >= AWAITING_RECEIPT {
            return 0;
        }
        self.limits
            .loaded
            .saturating_sub(self.entries.len() - self.awaiting)
    }

    /// A record read from the store. One that is known already, or whose topic is held, is dropped.
    pub fn offer(&mut self, record: R) {
        let seq = record.seq();
        if self.entries.contains_key(&seq) {
            return;
        }
        let known = self.known_of(record.topic_key());
        if let Some(hold) = self.holds.get_mut(record.topic_key())
            && known
        {
            hold.evicted = true;
            return;
        }
        for (_, older) in &self.waiting {
            if let Some(older) = self.entries.get_mut(older) {
                older.record.note_newer(&record);
            }
        }
        let entry = Entry {
            record,
            state: State::Waiting,
            tries: 0,
            refused: 0,
        };
        self.entries.insert(seq, entry);
        self.waiting.insert((self.lane(seq), seq));
    }

    /// True once after records were dropped that can be sent now: read from the beginning.
    pub fn take_rewind(&mut self) -> bool {
        std::mem::take(&mut self.rewind)
    }

    /// Records up to `through` may have been put into the outbox again: they are replays, and the store
    /// must be read from its beginning.
    pub fn resent(&mut self, through: u64) {
        self.resent_through = self.resent_through.max(through);
        self.rewind = true;
    }

    /// QoS 1 publishes that may be fed now.
    pub fn room(&self) -> usize {
        self.publishes.saturating_sub(self.slots.len())
    }

    /// Takes the next record to send, with whether it is a replay. It is on the way from here on.
    pub fn next(&mut self, now: MonoMicros) -> Option<(&R, bool)> {
        if !self.has_room() {
            return None;
        }
        let free = |seq: &u64| {
            let key = self.entries[seq].record.topic_key();
            self.holds
                .get(key)
                .is_none_or(|hold| hold.until <= now && !self.on_the_way.contains_key(key))
        };
        let mut takeable = self.waiting.iter().filter(|(_, seq)| free(seq));
        let (lane, seq) = if self.taken % OLDEST_EVERY == OLDEST_EVERY - 1 {
            *takeable.min_by_key(|(_, seq)| seq)?
        } else {
            *takeable.next()?
        };
        self.waiting.remove(&(lane, seq));
        self.taken += 1;
        let entry = self.entries.get_mut(&seq)?;
        entry.state = State::OnTheWay;
        entry.tries += 1;
        let key = entry.record.topic_key();
        *self.on_the_way.entry(key.to_owned()).or_default() += 1;
        self.on_the_way_total += 1;
        self.unfed += 1;
        let tried = self.tried_through.get(key).is_some_and(|t| seq <= *t);
        let old = seq <= self.old_through.max(self.resent_through);
        let replayed = old || entry.tries > 1 || tried;
        Some((&entry.record, replayed))
    }

    /// Whether this is the first time the record is taken.
    pub fn first_try(&self, seq: u64) -> bool {
        self.entries.get(&seq).is_some_and(|e| e.tries <= 1)
    }

    /// A QoS 1 publish was handed to the connection.
    pub fn fed(&mut self, tag: Tag) {
        if let Tag::Record(_) = tag {
            self.unfed = self.unfed.saturating_sub(1);
        }
        let ordinal = self.first_slot + self.slots.len() as u64;
        self.slots.push_back(Slot {
            tag,
            answered: false,
        });
        self.fifo.push_back(Some(ordinal));
    }

    /// A QoS 0 publish was handed to the connection.
    pub fn fed_unacked(&mut self) {
        self.fifo.push_back(None);
    }

    /// The connection reports the oldest publish not yet reported.
    ///
    /// # Errors
    /// It cannot be that one.
    pub fn sent(&mut self, packet_id: u16) -> Result<(), PairingLost> {
        let lost = Err(PairingLost(packet_id));
        match (self.fifo.pop_front(), packet_id) {
            (Some(None), 0) => Ok(()),
            (Some(Some(ordinal)), 1..) => match self.packet_ids.insert(packet_id, ordinal) {
                None => Ok(()),
                Some(_) => lost,
            },
            _ => lost,
        }
    }

    /// The broker answered a publish.
    pub fn acked(&mut self, packet_id: u16, reason: u8, now: MonoMicros) -> Verdict {
        let Some(ordinal) = self.packet_ids.remove(&packet_id) else {
            return Verdict::Unknown;
        };
        let slot = &mut self.slots[(ordinal - self.first_slot) as usize];
        slot.answered = true;
        let tag = slot.tag;
        while self.slots.front().is_some_and(|s| s.answered) {
            self.slots.pop_front();
            self.first_slot += 1;
        }
        let seq = match tag {
            Tag::Other(what) => return Verdict::Other { what, reason },
            Tag::Record(seq) => seq,
        };
        let Some(entry) = self.entries.get_mut(&seq) else {
            return Verdict::Unknown;
        };
        if entry.state != State::OnTheWay {
            return Verdict::Unknown;
        }
        let key = entry.record.topic_key().to_owned();
        if reason == 0 {
            self.release(&key);
            return match self.ack {
                AckBy::Broker => {
                    self.finish(seq);
                    Verdict::Delivered(seq)
                }
                AckBy::Centre => {
                    let doublings = (self.entries[&seq].tries - 1).min(10);
                    let wait = RECEIPT_WAIT
                        .saturating_mul(1 << doublings)
                        .min(RECEIPT_WAIT_MAX);
                    self.leave_the_way(seq);
                    self.set(seq, State::AwaitingReceipt(now.plus(wait)));
                    self.awaiting += 1;
                    Verdict::Awaiting(seq)
                }
            };
        }
        if reason >= FIRST_REFUSAL {
            entry.refused += 1;
        }
        let poison = entry.refused >= self.limits.refusals;
        self.hold(&key, reason, now);
        if poison {
            self.finish(seq);
            return Verdict::Poison(seq);
        }
        self.wait_again(seq);
        Verdict::NotDelivered(seq)
    }

    /// Takes a record that cannot be sent at all off the way: the caller parks it.
    pub fn give_up(&mut self, seq: u64) {
        self.unfed = self.unfed.saturating_sub(1);
        self.finish(seq);
    }

    /// The centre has all up to `through` but `except`; returns what leaves the outbox. Only records
    /// that were sent at least once by this process count: a receipt frees nothing it cannot know.
    ///
    /// # Errors
    /// It speaks of records beyond `newest`: it was meant for a store that is lost, and is ignored.
    pub fn receipt(
        &mut self,
        through: u64,
        except: &[u64],
        newest: u64,
        now: MonoMicros,
    ) -> Result<Vec<u64>, ReceiptTooFar> {
        if through > newest {
            return Err(ReceiptTooFar { through, newest });
        }
        let except: BTreeSet<u64> = except.iter().copied().collect();
        let named: Vec<(u64, State)> = self
            .entries
            .range(..=through)
            .filter(|(_, e)| e.tries > 0 && e.state != State::Done)
            .map(|(seq, e)| (*seq, e.state))
            .collect();
        let mut done = Vec::new();
        for (seq, state) in named {
            if !except.contains(&seq) {
                self.finish(seq);
                done.push(seq);
            } else if matches!(state, State::AwaitingReceipt(_)) {
                self.set(seq, State::AwaitingReceipt(now));
            }
        }
        self.expire_receipts(now);
        Ok(done)
    }

    /// Whether the broker has this record and the centre's word on it is awaited.
    pub fn awaits_receipt(&self, seq: u64) -> bool {
        let entry = self.entries.get(&seq);
        entry.is_some_and(|e| matches!(e.state, State::AwaitingReceipt(_)))
    }

    /// Records whose receipt did not come in time wait to be sent again; how many. For a timer.
    pub fn expire_receipts(&mut self, now: MonoMicros) -> usize {
        let late = |e: &Entry<R>| matches!(e.state, State::AwaitingReceipt(until) if until <= now);
        let late: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, e)| late(e))
            .map(|(seq, _)| *seq)
            .collect();
        for &seq in &late {
            self.wait_again(seq);
        }
        late.len()
    }

    /// The store has removed or parked these.
    pub fn forget(&mut self, seqs: &[u64]) {
        for seq in seqs {
            if self
                .entries
                .get(seq)
                .is_some_and(|e| e.state == State::Done)
            {
                self.entries.remove(seq);
            }
        }
    }

    /// Topics that are held, with the reason, in order.
    pub fn holds(&self) -> Vec<(&str, HoldReason)> {
        let mut holds: Vec<_> = self
            .holds
            .iter()
            .map(|(key, h)| (key.as_str(), h.reason))
            .collect();
        holds.sort_unstable_by_key(|(key, _)| *key);
        holds
    }

    /// Whether the connection owes something: a publish not yet sent, or an answer.
    pub fn is_owed(&self) -> bool {
        !self.fifo.is_empty() || !self.slots.is_empty()
    }

    /// Whether the connection has not yet taken what it was given.
    pub fn is_congested(&self) -> bool {
        !self.fifo.is_empty()
    }

    /// Whether more records may be on the way: if [`Delivery::next`] gives none all the same, none waits
    /// that could go.
    pub fn has_room(&self) -> bool {
        self.window_used() < self.limits.records.max(1) && self.awaiting < AWAITING_RECEIPT
    }

    /// What the broker has owed for longest, by the order of feeding; `None` if it owes nothing. As long
    /// as it stays the same, nothing moves, whatever else is answered.
    pub fn oldest_owed(&self) -> Option<u64> {
        self.is_owed().then_some(self.first_slot)
    }

    /// Records from the oldest not answered to the newest taken.
    fn window_used(&self) -> usize {
        let is_record = |slot: &&Slot| matches!(slot.tag, Tag::Record(_));
        let records = self.slots.iter().filter(is_record);
        records.skip_while(|slot| slot.answered).count() + self.unfed
    }

    fn lane(&self, seq: u64) -> u16 {
        let class = self.entries.get(&seq).map_or(0, |e| e.record.class());
        2 * u16::from(class) + u16::from(seq <= self.old_through)
    }

    /// Whether a record could be taken now, or is on the way.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.on_the_way_total > 0
    }

    fn known_of(&self, key: &str) -> bool {
        // Few records are in memory, and this is asked only while a topic is held.
        self.holds.contains_key(key)
            && self.entries.values().any(|e| {
                matches!(e.state, State::Waiting | State::OnTheWay) && e.record.topic_key() == key
            })
    }

    fn set(&mut self, seq: u64, state: State) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.state = state;
        }
    }

    /// Takes the entry out of whatever it was counted in, except `waiting`.
    fn leave_the_way(&mut self, seq: u64) {
        let Some(entry) = self.entries.get(&seq) else {
            return;
        };
        match entry.state {
            State::OnTheWay => {
                self.on_the_way_total -= 1;
                let key = entry.record.topic_key();
                if let Some(n) = self.on_the_way.get_mut(key) {
                    *n -= 1;
                    if *n == 0 {
                        self.on_the_way.remove(key);
                    }
                }
            }
            State::AwaitingReceipt(_) => self.awaiting -= 1,
            State::Waiting | State::Done => {}
        }
    }

    fn finish(&mut self, seq: u64) {
        let Some(entry) = self.entries.get(&seq) else {
            return;
        };
        let key = entry.record.topic_key().to_owned();
        self.waiting.remove(&(self.lane(seq), seq));
        self.leave_the_way(seq);
        self.set(seq, State::Done);
        self.refill(&key);
    }

    /// If the last record of a held topic left the memory, another must come in to try.
    fn refill(&mut self, key: &str) {
        let known = self.known_of(key);
        if let Some(hold) = self.holds.get_mut(key)
            && hold.evicted
            && !known
        {
            hold.evicted = false;
            self.rewind = true;
        }
    }

    fn wait_again(&mut self, seq: u64) {
        self.leave_the_way(seq);
        self.set(seq, State::Waiting);
        let Some(entry) = self.entries.get(&seq) else {
            return;
        };
        let key = entry.record.topic_key().to_owned();
        self.waiting.insert((self.lane(seq), seq));
        self.trim(&key);
    }

    /// Of a held topic only the oldest waiting record stays in memory, so that held topics cannot
    /// fill it.
    fn trim(&mut self, key: &str) {
        let Some(hold) = self.holds.get_mut(key) else {
            return;
        };
        let of_key = |(_, seq): &&(u16, u64)| self.entries[seq].record.topic_key() == key;
        let mut waiting: Vec<(u16, u64)> = self.waiting.iter().filter(of_key).copied().collect();
        if waiting.len() < 2 {
            return;
        }
        waiting.sort_unstable_by_key(|(_, seq)| *seq);
        for (lane, seq) in waiting.split_off(1) {
            self.waiting.remove(&(lane, seq));
            let gone = self.entries.remove(&seq);
            if gone.is_some_and(|e| e.tries > 0) {
                let tried = self.tried_through.entry(key.to_owned()).or_default();
                *tried = (*tried).max(seq);
            }
            hold.evicted = true;
        }
    }

    fn hold(&mut self, key: &str, reason: u8, now: MonoMicros) {
        let (reason, longest) = if reason < FIRST_REFUSAL {
            debug_assert_eq!(reason, NOBODY_SUBSCRIBES);
            (HoldReason::NobodySubscribes, HOLD_MAX_UNHEARD)
        } else {
            (HoldReason::Refused(reason), HOLD_MAX_REFUSED)
        };
        let fresh = Hold {
            until: MonoMicros(0),
            attempt: 0,
            reason,
            evicted: false,
        };
        let hold = self.holds.entry(key.to_owned()).or_insert(fresh);
        hold.reason = reason;
        // Answers to what was on the way together count once.
        if hold.until <= now {
            let wait = HOLD_FIRST
                .saturating_mul(1 << hold.attempt.min(20))
                .min(longest);
            hold.until = now.plus(wait);
            hold.attempt += 1;
        }
        self.trim(key);
    }

    fn release(&mut self, key: &str) {
        if let Some(hold) = self.holds.remove(key) {
            self.rewind |= hold.evicted;
        }
    }

    /// Panics if the books do not agree; for tests.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let count =
            |f: &dyn Fn(State) -> bool| self.entries.values().filter(|e| f(e.state)).count();
        assert_eq!(count(&|s| s == State::OnTheWay), self.on_the_way_total);
        assert_eq!(
            self.on_the_way.values().sum::<usize>(),
            self.on_the_way_total
        );
        assert_eq!(count(&|s| s == State::Waiting), self.waiting.len());
        assert_eq!(
            count(&|s| matches!(s, State::AwaitingReceipt(_))),
            self.awaiting
        );
        assert!(self.on_the_way_total <= self.limits.records.max(1));
        assert!(self.window_used() <= self.limits.records.max(1));
        assert!(
            self.waiting
                .iter()
                .all(|(lane, seq)| *lane == self.lane(*seq))
        );
        assert!(self.slots.len() <= self.publishes.max(self.slots.len().min(1)));
        assert!(self.packet_ids.len() + self.fifo.iter().flatten().count() <= self.slots.len());
        assert!(self.slots.front().is_none_or(|s| !s.answered));
        for (key, hold) in &self.holds {
            assert!(
                !hold.evicted || self.rewind || self.known_of(key),
                "{key} would starve"
            );
        }
    }
}

#[cfg(test)]
mod tests;
