//! Recovery of the store: its file and its log, damaged anywhere, cut anywhere.
//!
//! The input says where a good store is to be damaged. Whatever is left of it, opening succeeds or says
//! why not, and once it is open a finding can be stored and read again: damage never stops the findings
//! to come.
#![no_main]
use std::path::Path;
use std::sync::OnceLock;

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use mingchu::base::heartbeat::Heartbeats;
use mingchu::base::metrics::Metrics;
use mingchu::base::time::{ManualClock, MonoMicros, UtcMicros};
use mingchu::uplink::{
    Change, Cursor, FindingData, RecordBody, Shelf, Store, StoreError, StoreHandle,
};
use uuid::Uuid;

/// 2026-11-25.
const NOW: UtcMicros = UtcMicros(1_795_564_800_000_000);
/// Findings in the good store.
const FINDINGS: u128 = 12;

/// File and log of a good store, as a power cut would leave them.
struct Good {
    file: Vec<u8>,
    log: Vec<u8>,
}

fn finding(n: u128) -> FindingData {
    let mut data: FindingData =
        serde_json::from_str(include_str!("finding.json")).expect("our own finding");
    data.finding = Uuid::from_u128(0x0193_5c3a_0000_7000_8000_0000_0000_0000 + n);
    data
}

fn open(path: &Path) -> Result<(StoreHandle, std::thread::JoinHandle<()>), StoreError> {
    let clock = ManualClock::new(MonoMicros(0), NOW);
    let heartbeats = Heartbeats::new(clock.clone());
    Store::open(path, clock, &Metrics::default(), &heartbeats)
}

fn close(store: StoreHandle, thread: std::thread::JoinHandle<()>) {
    store.close();
    thread.join().expect("the store's thread does not panic");
}

/// In memory where there is such a place: thousands of stores a minute are made here.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .expect("a folder")
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let dir = folder();
        let path = dir.path().join("mingchu.db");
        // Half of it in the file itself, half in the log.
        let (store, thread) = open(&path).expect("a new store");
        for n in 0..FINDINGS / 2 {
            store.commit_finding(finding(n)).expect("a commit");
        }
        block_on(store.acked(vec![1, 2])).expect("an acknowledgement");
        close(store, thread);
        let (store, thread) = open(&path).expect("the same store");
        for n in FINDINGS / 2..FINDINGS {
            store.commit_finding(finding(n)).expect("a commit");
        }
        let entry = Change::Put {
            shelf: Shelf::Commands,
            key: "command/a".to_owned(),
            body: "{}".to_owned(),
        };
        store.commit(vec![entry]).expect("a shelf's entry");
        block_on(store.park(7, "a reason".to_owned())).expect("parked");
        let read = |name: &str| std::fs::read(dir.path().join(name)).expect("the store's file");
        let good = Good {
            file: read("mingchu.db"),
            log: read("mingchu.db-wal"),
        };
        close(store, thread);
        good
    })
}

/// Bytes to change, and where what is left ends.
type Damage = (Vec<(u16, u8)>, Option<u16>);

fn damaged(bytes: &[u8], (changes, end): &Damage) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, to) in changes {
        let at = usize::from(*at) * bytes.len() / (usize::from(u16::MAX) + 1);
        bytes[at] = *to;
    }
    if let Some(end) = end {
        bytes.truncate(usize::from(*end) * bytes.len() / (usize::from(u16::MAX) + 1));
    }
    bytes
}

fuzz_target!(|input: (Damage, Option<Damage>)| {
    let good = good();
    let (file, log) = input;
    let dir = folder();
    let path = dir.path().join("mingchu.db");
    std::fs::write(&path, damaged(&good.file, &file)).expect("the file");
    if let Some(log) = log {
        let log_path = dir.path().join("mingchu.db-wal");
        std::fs::write(log_path, damaged(&good.log, &log)).expect("the log");
    }
    let (store, thread) = match open(&path) {
        Ok(opened) => opened,
        // A newer version's file is left alone; nothing else may stop the daemon.
        Err(StoreError::NewerSchema { .. }) => return,
        Err(e) => panic!("not opened: {}", e.chain()),
    };
    let fresh = finding(1_000_000);
    let seq = store
        .commit_finding(fresh.clone())
        .expect("a commit after damage");
    assert!(seq > 0);
    let (mut cursor, mut found, mut read) = (Cursor::default(), false, 0);
    loop {
        let batch = block_on(store.read(cursor, 64)).expect("a read after damage");
        found |= batch.records.iter().any(|record| {
            matches!(&record.body, RecordBody::Finding(data) if data.finding == fresh.finding)
        });
        read += batch.records.len();
        assert!(read < 1000, "the same records again and again");
        cursor = batch.cursor;
        if !batch.more {
            break;
        }
    }
    assert!(found, "the finding stored after the damage is not there");
    store.open_findings().expect("the ledger");
    store.shelf(Shelf::Commands).expect("a shelf");
    close(store, thread);
    // What was just stored outlives a restart.
    let (store, thread) = open(&path).unwrap_or_else(|e| panic!("not opened again: {}", e.chain()));
    let kept = block_on(store.read_finding(fresh.finding)).expect("the ledger");
    assert!(kept.is_some(), "the finding is gone after a restart");
    close(store, thread);
});
