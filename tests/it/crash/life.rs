//! A process that uses the store until it is killed, and what must be true of the store then.
//!
//! The process says on standard output what it asks of the store before it asks, and what it was
//! answered after; a [`Promise`] is kept of it by whoever killed it. What must not be here: how it is
//! killed.
//!
//! # What must be true
//!
//! * What was answered is there, with the payload that was given; what was never asked is not.
//! * What was asked and not answered is there whole or not at all.
//! * `seq` has no gaps and rises across restarts; so does the epoch.
//! * What was acknowledged does not come back; what was put aside stays aside.
//! * The ledger knows of each finding the newest revision, under the number that the outbox has.
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{SystemClock, UtcMicros};
use mingchu::uplink::{
    Again, CameraRef, Change, ClockRef, Cursor, FindingData, FindingPhase, Notice, ObjectRef,
    Record, RecordBody, RuleRef, Shelf, SiteRef, Store, StoreError, StoreHandle,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One thing that is asked of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Act {
    /// A revision of a finding, and an entry of a shelf with it.
    Finding {
        finding: Uuid,
        revision: u32,
        closed: bool,
        class: u8,
        shelved: bool,
    },
    /// A record that is no finding.
    Notice(Uuid),
    Ack(Vec<u64>),
    Park(u64),
    Resend(Uuid),
    Epoch,
}

/// A line of the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Acts of different lanes are asked at the same time, and touch different records.
    pub lane: usize,
    pub act: Act,
    /// `None`: about to be asked.
    pub answer: Option<Vec<u64>>,
}

/// Lines of ours among whatever a test's process says.
pub const MARK: &str = "life: ";

pub fn parse(line: &str) -> Option<Line> {
    let at = line.find(MARK)?;
    serde_json::from_str(&line[at + MARK.len()..]).ok()
}

fn phase(revision: u32, closed: bool) -> FindingPhase {
    match (revision, closed) {
        (_, true) => FindingPhase::Closed,
        (1, _) => FindingPhase::Opened,
        _ => FindingPhase::Updated,
    }
}

/// The payload of a revision, from its name alone: from half a kilobyte to some pages.
fn finding(finding: Uuid, revision: u32, closed: bool, class: u8) -> FindingData {
    let seed = (finding.as_u128() as u64) ^ u64::from(revision);
    let mut rng = fastrand::Rng::with_seed(seed);
    let objects = if rng.u8(..) < 24 {
        rng.usize(100..400)
    } else {
        rng.usize(0..6)
    };
    let at = UtcMicros(1_795_489_927_412_000);
    FindingData {
        finding,
        revision,
        phase: phase(revision, closed),
        code: "ppe.hat.missing".to_owned(),
        class,
        replayed: false,
        site: SiteRef {
            id: "site-000123".to_owned(),
            uscc: None,
        },
        camera: CameraRef {
            id: format!("wok-{}", rng.u8(1..9)),
            gb28181: None,
            zone: None,
        },
        rule: RuleRef {
            id: "hat".to_owned(),
            version: 1,
            dwell_ms: 5000,
            threshold: 0.5,
            window: 5,
            clear_ms: 10_000,
            hits: None,
            when: "always".to_owned(),
            off_hours: false,
            cooldown_ms: 0,
        },
        model: None,
        first_seen: at,
        last_seen: at,
        closed_at: closed.then_some(at),
        samples: revision,
        scores: vec![0.5; rng.usize(0..9)],
        objects: (0..objects)
            .map(|n| ObjectRef {
                label: "head-bare".to_owned(),
                score: 0.75,
                rect: [0.25, 0.25, 0.5, 0.5],
                track: n as u64,
            })
            .collect(),
        evidence: Vec::new(),
        clock: ClockRef {
            synced: false,
            source: "none".to_owned(),
            uncertainty_ms: None,
        },
        models: Vec::new(),
        zone: None,
        realert: false,
        reason: None,
        muted: None,
        detail: None,
        missing: Vec::new(),
        title: mingchu::base::words::title("ppe.hat.missing"),
        detail_zh: None,
        reduced: Vec::new(),
    }
}

fn body(act: &Act) -> Option<RecordBody> {
    match act {
        Act::Finding {
            finding: id,
            revision,
            closed,
            class,
            ..
        } => Some(RecordBody::Finding(Box::new(finding(
            *id, *revision, *closed, *class,
        )))),
        Act::Notice(id) => Some(RecordBody::Notice(Box::new(Notice {
            id: *id,
            kind: "clock.step".to_owned(),
            at: UtcMicros(1_795_489_927_000_000),
            text: "a notice".to_owned(),
            data: serde_json::json!({"id": id}),
            text_zh: "通知".to_owned(),
        }))),
        _ => None,
    }
}

fn shelf_key(finding: Uuid, revision: u32) -> String {
    format!("send/{finding}/{revision}")
}

fn changes(act: &Act) -> Vec<Change> {
    let mut changes: Vec<Change> = body(act).map(Change::Record).into_iter().collect();
    if let Act::Finding {
        finding,
        revision,
        shelved: true,
        ..
    } = act
    {
        let key = shelf_key(*finding, *revision);
        changes.push(Change::put(Shelf::Commands, key, revision));
    }
    changes
}

/// Opens the store that a process has left.
pub fn open(path: &Path) -> Result<(StoreHandle, std::thread::JoinHandle<()>, Metrics), String> {
    let clock = SystemClock::shared();
    let metrics = Metrics::default();
    let heartbeats = Heartbeats::new(clock.clone());
    let opened = Store::open(path, clock, &metrics, &heartbeats);
    let (store, thread) = opened.map_err(|e| format!("cannot be opened: {}", e.chain()))?;
    Ok((store, thread, metrics))
}

/// Ends it in good order.
pub fn close(store: &StoreHandle, thread: std::thread::JoinHandle<()>) {
    store.close();
    thread.join().unwrap();
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// All that can be read, by number.
pub fn all_records(store: &StoreHandle) -> Result<BTreeMap<u64, Record>, String> {
    let mut cursor = Cursor::default();
    let mut all = BTreeMap::new();
    loop {
        let batch = wait(store.read(cursor, 1000)).map_err(|e| e.chain())?;
        for record in batch.records {
            if all.insert(record.seq, record.clone()).is_some() {
                return Err(format!("record {} is read twice", record.seq));
            }
        }
        if !batch.more {
            return Ok(all);
        }
        cursor = batch.cursor;
    }
}

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub store: PathBuf,
    pub seed: u64,
    pub lanes: usize,
    /// Of each lane; then it ends in good order.
    pub acts: usize,
    /// What a disk refuses is asked again, as rules do.
    pub patient: bool,
    /// Leaves findings alone, and so the pages that only they are on.
    pub notices_only: bool,
}

/// The environment variable that makes a process do a [`Job`].
pub const JOB: &str = "MINGCHU_TEST_LIFE";

impl Job {
    pub fn from_env() -> Option<Self> {
        let text = std::env::var(JOB).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    pub fn to_env(&self) -> String {
        serde_json::to_string(self).unwrap()
    }

    /// In the process that is killed.
    pub fn run(&self) {
        let (store, thread, _) = open(&self.store).unwrap();
        let lanes: Vec<_> = (0..self.lanes)
            .map(|lane| {
                let lane = Lane::new(lane, self, store.clone());
                let acts = self.acts;
                std::thread::spawn(move || lane.live(acts))
            })
            .collect();
        for lane in lanes {
            lane.join().unwrap();
        }
        close(&store, thread);
    }
}

/// What one thread of the process knows of its records.
struct Lane {
    number: usize,
    rng: fastrand::Rng,
    store: StoreHandle,
    patient: bool,
    notices_only: bool,
    /// Findings with their newest revision, whether it is closed, and its number.
    findings: Vec<(Uuid, u32, bool, u8, u64)>,
    waiting: Vec<u64>,
}

fn say(line: &Line) {
    let text = format!("{MARK}{}\n", serde_json::to_string(line).unwrap());
    let mut out = std::io::stdout().lock();
    // One write, so that a line is there whole or not at all.
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

impl Lane {
    fn new(lane: usize, job: &Job, store: StoreHandle) -> Self {
        let of_lane = |id: Uuid| (id.as_u128() >> 32) as usize & 0xf == lane;
        let open = store.open_findings().unwrap();
        let findings = open.iter().filter(|e| of_lane(e.data.finding));
        Self {
            number: lane,
            rng: fastrand::Rng::with_seed(job.seed.wrapping_mul(31).wrapping_add(lane as u64)),
            findings: findings
                .map(|e| (e.data.finding, e.data.revision, false, e.data.class, e.seq))
                .collect(),
            waiting: Vec::new(),
            patient: job.patient,
            notices_only: job.notices_only,
            store,
        }
    }

    fn live(mut self, acts: usize) {
        for _ in 0..acts {
            let act = self.choose();
            say(&Line {
                lane: self.number,
                act: act.clone(),
                answer: None,
            });
            let answer = self.ask(&act);
            self.learn(&act, &answer);
            say(&Line {
                lane: self.number,
                act,
                answer: Some(answer),
            });
        }
    }

    /// The answer, however often it takes to get one.
    fn ask(&self, act: &Act) -> Vec<u64> {
        for _ in 0..2000 {
            match ask(&self.store, act) {
                Ok(answer) => return answer,
                Err(e) => assert!(self.patient && e.is_temporary(), "{}", e.chain()),
            }
            // The disk is well again after so many steps, not after a time.
            std::thread::yield_now();
        }
        panic!("refused for good: {act:?}");
    }

    fn new_id(&mut self) -> Uuid {
        let random = u128::from(self.rng.u32(..));
        let epoch = u128::from(self.rng.u32(..));
        Uuid::from_u128(
            0x0193_5c3a_0000_7000_8000_0000_0000_0000
                | epoch << 64 & 0xfff << 64
                | (self.number as u128) << 32
                | random,
        )
    }

    fn choose(&mut self) -> Act {
        if self.notices_only {
            return Act::Notice(self.new_id());
        }
        let known = self.findings.len();
        match self.rng.u8(0..100) {
            40..65 if known > 0 => {
                let (finding, revision, closed, class, _) = self.findings[self.rng.usize(..known)];
                // Now and then the same revision again, as after an answer that was lost.
                let again = self.rng.u8(..) < 40;
                let closes = self.rng.u8(..) < 60;
                return Act::Finding {
                    finding,
                    revision: revision + u32::from(!again),
                    closed: if again { closed } else { closes },
                    class,
                    shelved: false,
                };
            }
            65..72 => return Act::Notice(self.new_id()),
            72..92 if !self.waiting.is_empty() => {
                let n = self.rng.usize(1..=self.waiting.len().min(6));
                let seqs = (0..n).map(|_| {
                    let at = self.rng.usize(..self.waiting.len());
                    self.waiting.swap_remove(at)
                });
                return Act::Ack(seqs.collect());
            }
            92..94 if !self.waiting.is_empty() => {
                let at = self.rng.usize(..self.waiting.len());
                return Act::Park(self.waiting.swap_remove(at));
            }
            94..97 if known > 0 => return Act::Resend(self.findings[self.rng.usize(..known)].0),
            97.. => return Act::Epoch,
            _ => {}
        }
        Act::Finding {
            finding: self.new_id(),
            revision: 1,
            closed: false,
            class: self.rng.u8(1..=3),
            shelved: self.rng.bool(),
        }
    }

    fn learn(&mut self, act: &Act, answer: &[u64]) {
        match act {
            Act::Finding {
                finding,
                revision,
                closed,
                class,
                ..
            } => {
                let seq = answer[0];
                let is_new = !self.findings.iter().any(|f| f.4 == seq);
                self.findings.retain(|f| f.0 != *finding);
                self.findings
                    .push((*finding, *revision, *closed, *class, seq));
                if is_new {
                    self.waiting.push(seq);
                }
            }
            Act::Notice(_) => self.waiting.push(answer[0]),
            _ => {}
        }
    }
}

fn ask(store: &StoreHandle, act: &Act) -> Result<Vec<u64>, StoreError> {
    match act {
        Act::Finding { .. } | Act::Notice(_) => store.commit(changes(act)),
        Act::Ack(seqs) => wait(store.acked(seqs.clone())).map(|()| Vec::new()),
        Act::Park(seq) => wait(store.park(*seq, "a test".to_owned())).map(|()| Vec::new()),
        Act::Resend(finding) => wait(store.resend(Again::Finding(*finding))),
        Act::Epoch => wait(store.next_epoch()).map(|n| vec![n]),
    }
}

/// What has been promised of a store so far.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// Every record ever committed, by number: what it is called, and its payload.
    records: BTreeMap<u64, (String, String)>,
    gone: BTreeSet<u64>,
    parked: BTreeSet<u64>,
    /// Newest revision of each finding, its number, and whether it is open.
    ledger: BTreeMap<Uuid, (u32, u64, bool)>,
    shelf: BTreeSet<String>,
    epoch: u64,
    /// The store was damaged: it may have set a file aside and have said so.
    pub damaged: bool,
    /// What was asked and not answered, by lane.
    open: BTreeMap<usize, Act>,
}

impl Promise {
    /// A line of the process.
    pub fn hear(&mut self, line: Line) {
        match line.answer {
            None => drop(self.open.insert(line.lane, line.act)),
            Some(answer) => {
                self.open.remove(&line.lane);
                self.done(&line.act, &answer);
            }
        }
    }

    /// Records committed and answered.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Whether a record says that the store was damaged.
    pub fn was_told_of_damage(&self) -> bool {
        let mut payloads = self.records.values().map(|(_, payload)| payload);
        payloads.any(|p| p.contains("store.damaged"))
    }

    /// Whether something was asked and not answered.
    pub fn is_owed(&self) -> bool {
        !self.open.is_empty()
    }

    /// The newest number that was answered.
    pub fn newest(&self) -> u64 {
        self.records.keys().next_back().copied().unwrap_or(0)
    }

    fn done(&mut self, act: &Act, answer: &[u64]) {
        if let Some(body) = body(act) {
            let named = (body.event_id(), body.to_json());
            self.records.insert(answer[0], named);
        }
        match act {
            Act::Finding {
                finding,
                revision,
                closed,
                shelved,
                ..
            } => {
                self.ledger
                    .insert(*finding, (*revision, answer[0], !closed));
                if *shelved {
                    self.shelf.insert(shelf_key(*finding, *revision));
                }
            }
            Act::Ack(seqs) => self.gone.extend(seqs),
            Act::Park(seq) => drop(self.parked.insert(*seq)),
            Act::Resend(_) => {
                for seq in answer {
                    self.gone.remove(seq);
                }
            }
            Act::Epoch => self.epoch = self.epoch.max(answer[0]),
            Act::Notice(_) => {}
        }
    }

    /// Which of the things not answered were done, going by what is there. Each whole or not at all.
    fn settle(
        &mut self,
        waiting: &BTreeMap<u64, Record>,
        all: &BTreeMap<u64, Record>,
    ) -> Result<(), String> {
        for act in std::mem::take(&mut self.open).into_values() {
            let answer = match &act {
                Act::Finding { .. } | Act::Notice(_) => {
                    let id = body(&act).unwrap().event_id();
                    let is_new = |seq: &&u64| !self.records.contains_key(seq);
                    let seq = all.keys().filter(is_new);
                    let seq = seq.clone().find(|seq| all[seq].body.event_id() == id);
                    match seq {
                        Some(seq) => vec![*seq],
                        None => continue,
                    }
                }
                Act::Ack(seqs) => {
                    let there = seqs.iter().filter(|seq| all.contains_key(seq)).count();
                    let were = seqs.iter().filter(|s| !self.gone.contains(s)).count();
                    match there {
                        0 => Vec::new(),
                        n if n == were => continue,
                        n => return Err(format!("{n} of {were} acknowledged in one go are left")),
                    }
                }
                Act::Park(seq) => {
                    if waiting.contains_key(seq) || !all.contains_key(seq) {
                        continue;
                    }
                    Vec::new()
                }
                Act::Resend(finding) => {
                    let seq = self.ledger.get(finding).map(|l| l.1);
                    match seq.filter(|seq| all.contains_key(seq)) {
                        Some(seq) => vec![seq],
                        None => continue,
                    }
                }
                Act::Epoch => continue,
            };
            self.done(&act, &answer);
        }
        Ok(())
    }

    /// Holds the promise against the store in `path`, and learns which of the things not answered were
    /// done. Changes the store: give it a copy.
    pub fn check(&mut self, path: &Path) -> Result<(), String> {
        let (store, thread, _) = open(path)?;
        let checked = self.check_open(&store);
        close(&store, thread);
        let folder = path.parent().unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_string_lossy();
            if name.contains(".corrupt-") && !self.damaged {
                return Err(format!("{name} was set aside: nothing was damaged"));
            }
            if name.contains(".new") || name.contains(".mended") {
                return Err(format!("{name} was left over"));
            }
        }
        checked
    }

    /// The same of a store that is open.
    pub fn check_open(&mut self, store: &StoreHandle) -> Result<(), String> {
        let last = *store.last_seq().borrow();
        let waiting = all_records(store)?;
        let parked = store.stats().parked;
        wait(store.unpark_all()).map_err(|e| e.chain())?;
        let all = all_records(store)?;
        for (seq, record) in &all {
            let told = matches!(&record.body, RecordBody::Notice(n) if n.kind == "store.damaged");
            if self.damaged && told && !self.records.contains_key(seq) {
                let named = (record.body.event_id(), record.body.to_json());
                self.records.insert(*seq, named);
            }
        }
        self.settle(&waiting, &all)?;
        let numbers: Vec<u64> = self.records.keys().copied().collect();
        if numbers != (1..=last).collect::<Vec<_>>() {
            let lost: Vec<_> = (1..=last)
                .filter(|n| !self.records.contains_key(n))
                .collect();
            return Err(format!(
                "{} numbers were given and the last is {last}; nobody knows of {lost:?}",
                numbers.len()
            ));
        }
        for (seq, (id, payload)) in &self.records {
            let there = all.get(seq);
            if there.is_none() && !self.gone.contains(seq) {
                return Err(format!("record {seq} ({id}) is lost"));
            }
            if there.is_some() && self.gone.contains(seq) {
                return Err(format!("record {seq} ({id}) has come back"));
            }
            if there.is_some_and(|record| record.body.to_json() != *payload) {
                return Err(format!("record {seq} ({id}) has another payload"));
            }
        }
        if let Some(seq) = all.keys().find(|seq| !self.records.contains_key(seq)) {
            return Err(format!("record {seq} was never asked for"));
        }
        let aside: BTreeSet<u64> = self.parked.difference(&self.gone).copied().collect();
        let read: BTreeSet<u64> = waiting.keys().copied().collect();
        if parked != aside.len() as u64 || !aside.is_disjoint(&read) {
            return Err(format!("{aside:?} were put aside, {parked} are"));
        }
        self.check_ledger(store)?;
        let shelf = store.shelf(Shelf::Commands).map_err(|e| e.chain())?;
        let shelf: BTreeSet<String> = shelf.into_iter().map(|(key, _)| key).collect();
        if shelf != self.shelf {
            return Err("the shelf holds something else".to_owned());
        }
        let epoch = wait(store.next_epoch()).map_err(|e| e.chain())?;
        if epoch <= self.epoch {
            return Err(format!("epoch {epoch} after {}", self.epoch));
        }
        Ok(())
    }

    fn check_ledger(&self, store: &StoreHandle) -> Result<(), String> {
        for (finding, (revision, seq, _)) in &self.ledger {
            let entry = wait(store.read_finding(*finding)).map_err(|e| e.chain())?;
            let entry = entry.ok_or_else(|| format!("the ledger does not know {finding}"))?;
            let payload = &self.records[seq].1;
            let same = RecordBody::Finding(Box::new(entry.data.clone())).to_json() == *payload;
            if (entry.data.revision, entry.seq) != (*revision, *seq) || !same {
                return Err(format!(
                    "the ledger has revision {} of {finding} as record {}, not {revision} as {seq}",
                    entry.data.revision, entry.seq
                ));
            }
        }
        let open = store.open_findings().map_err(|e| e.chain())?;
        let open: BTreeSet<Uuid> = open.iter().map(|e| e.data.finding).collect();
        let expected = self.ledger.iter().filter(|(_, l)| l.2).map(|(f, _)| *f);
        if open != expected.collect() {
            return Err("other findings are open than should be".to_owned());
        }
        Ok(())
    }
}
