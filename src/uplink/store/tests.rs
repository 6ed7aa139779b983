use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::base::time::{Clock as _, ManualClock};
use crate::uplink::payload::tests::{T, finding};

mod damage;

const FIRST: FindingPhase = FindingPhase::Opened;

/// A store in a directory of its own, that can be opened again and again.
struct Bench {
    dir: TempDir,
    clock: Arc<ManualClock>,
    metrics: Metrics,
    open: Option<(StoreHandle, JoinHandle<()>)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            clock: ManualClock::new(MonoMicros(0), T),
            metrics: Metrics::default(),
            open: None,
        }
    }

    /// In memory, where there is such a place: for those that are opened often.
    fn in_memory() -> Self {
        let dir = TempDir::new_in("/dev/shm");
        Self {
            dir: dir.unwrap_or_else(|_| TempDir::new().unwrap()),
            ..Self::new()
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state").join("mingchu.db")
    }

    fn try_open(&self, path: &Path) -> Result<(StoreHandle, JoinHandle<()>), StoreError> {
        let heartbeats = Heartbeats::new(self.clock.clone());
        Store::open(path, self.clock.clone(), &self.metrics, &heartbeats)
    }

    fn open(&mut self) -> StoreHandle {
        let opened = self.try_open(&self.path()).unwrap();
        let handle = opened.0.clone();
        self.open = Some(opened);
        handle
    }

    /// Returns when the thread is gone, and with it the lock.
    fn close(&mut self) {
        if let Some((handle, thread)) = self.open.take() {
            handle.close();
            thread.join().unwrap();
        }
    }

    fn reopen(&mut self) -> StoreHandle {
        self.close();
        self.open()
    }

    /// The file as SQLite sees it, without our code in between.
    fn sql(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn set_aside(&self) -> Vec<PathBuf> {
        let dir = self.path().parent().unwrap().to_owned();
        let names = files::set_aside(&self.path()).into_iter();
        names.map(|name| dir.join(name)).collect()
    }
}

/// Replies come from the store's thread, so no runtime is needed to wait for them.
fn wait<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// What waits, but for the store's own word on damage.
fn waiting(store: &StoreHandle) -> Vec<u64> {
    let batch = wait(store.read(Cursor::default(), 1000)).unwrap();
    let others = batch.records.iter().filter(|r| !is_damage(r));
    others.map(|r| r.seq).collect()
}

fn is_damage(record: &Record) -> bool {
    matches!(&record.body, RecordBody::Notice(n) if n.kind == "store.damaged")
}

fn data_of(record: &Record) -> &FindingData {
    record.body.finding().unwrap()
}

fn urgent(n: u128) -> FindingData {
    FindingData {
        class: 1,
        ..finding(n, 1, FIRST)
    }
}

#[test]
fn a_committed_record_reads_back_as_it_was_after_reopening() {
    let mut bench = Bench::new();
    let store = bench.open();
    let data = finding(1, 1, FIRST);
    assert_eq!(store.commit_finding(data.clone()).unwrap(), 1);
    let store = bench.reopen();
    let batch = wait(store.read(Cursor::default(), 10)).unwrap();
    let [record] = batch.records.try_into().unwrap();
    assert_eq!((record.seq, record.created, record.latest), (1, T, true));
    // Scores are kept as they go over the wire, with four decimals.
    assert_eq!(data_of(&record).scores, [0.9123, 0.83]);
    assert_eq!(data_of(&record).finding, data.finding);
    assert!(!batch.more);
}

#[test]
fn the_same_revision_committed_twice_is_one_record() {
    let mut bench = Bench::new();
    let store = bench.open();
    let data = finding(1, 1, FIRST);
    let seq = store.commit_finding(data.clone()).unwrap();
    assert_eq!(store.commit_finding(data.clone()).unwrap(), seq);
    let store = bench.reopen();
    assert_eq!(store.commit_finding(data.clone()).unwrap(), seq);
    assert_eq!(store.stats().records, 1);
    // Also when the record has left the outbox in the meantime.
    wait(store.acked(vec![seq])).unwrap();
    assert_eq!(store.commit_finding(data).unwrap(), seq);
    assert_eq!(waiting(&store), [] as [u64; 0]);
    assert_eq!(*store.last_seq().borrow(), seq);
}

#[test]
fn a_revision_older_than_the_ledgers_is_refused_by_name() {
    let mut bench = Bench::new();
    let store = bench.open();
    store
        .commit_finding(finding(1, 2, FindingPhase::Updated))
        .unwrap();
    let refused = store.commit_finding(finding(1, 1, FIRST)).unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Stale {
                revision: 1,
                known: 2,
                ..
            }
        ),
        "{refused}"
    );
    assert!(!refused.is_temporary());
    assert_eq!(*store.last_seq().borrow(), 1, "a refusal takes no number");
}

#[test]
fn numbers_have_no_gaps_and_rise_across_reopening_even_when_the_outbox_is_empty() {
    let mut bench = Bench::new();
    for round in 0..4 {
        let store = bench.reopen();
        assert_eq!(*store.last_seq().borrow(), round * 3);
        for n in 1..=3 {
            let seq = round * 3 + n;
            let committed = store.commit_finding(finding(seq.into(), 1, FIRST)).unwrap();
            assert_eq!(committed, seq);
        }
        wait(store.acked((1..=round * 3 + 3).collect())).unwrap();
    }
    assert_eq!(bench.metrics.total(Metric::StoreRecords), 12);
}

#[test]
fn commits_from_many_threads_get_every_number_once() {
    let mut bench = Bench::new();
    let store = bench.open();
    let threads: Vec<_> = (0..8_u128)
        .map(|t| {
            let store = store.clone();
            let commit = move |n| {
                store
                    .commit_finding(finding(t * 100 + n, 1, FIRST))
                    .unwrap()
            };
            thread::spawn(move || (0..20).map(commit).collect::<Vec<u64>>())
        })
        .collect();
    let mut seqs = Vec::new();
    for thread in threads {
        let own = thread.join().unwrap();
        assert!(own.is_sorted(), "each thread's numbers rise: {own:?}");
        seqs.extend(own);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=160).collect::<Vec<u64>>());
}

#[test]
fn an_acknowledged_record_is_gone_for_good_and_unknown_numbers_do_no_harm() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=4 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    wait(store.acked(vec![1, 3, 3, 77])).unwrap();
    assert_eq!(waiting(&store), [2, 4]);
    let store = bench.reopen();
    assert_eq!(waiting(&store), [2, 4]);
    assert_eq!(store.stats().records, 2);
}

#[test]
fn a_read_goes_on_where_the_last_one_ended_with_class_1_first() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=6 {
        let data = if n % 3 == 0 {
            urgent(n)
        } else {
            finding(n, 1, FIRST)
        };
        store.commit_finding(data).unwrap();
    }
    let seqs = |batch: &Batch| batch.records.iter().map(|r| r.seq).collect::<Vec<_>>();
    let first = wait(store.read(Cursor::default(), 3)).unwrap();
    // Two of class 1 fill their share of the room; the rest of it is class 2's.
    assert_eq!((seqs(&first), first.more), (vec![3, 6, 1], true));
    store.commit_finding(urgent(7)).unwrap();
    let second = wait(store.read(first.cursor, 10)).unwrap();
    assert_eq!((seqs(&second), second.more), (vec![7, 2, 4, 5], false));
    let third = wait(store.read(second.cursor, 10)).unwrap();
    assert!(third.records.is_empty() && !third.more);
}

#[test]
fn news_are_read_before_what_is_late_in_their_class_and_an_eighth_is_the_oldest() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=40 {
        let data = match n {
            1..=10 => FindingData {
                class: 3,
                ..finding(n, 1, FIRST)
            },
            11..=30 => urgent(n),
            _ => finding(n, 1, FIRST),
        };
        store.commit_finding(data).unwrap();
    }
    // The connection began after record 25: five of class 1 are news, and all of class 2.
    let mut cursor = Cursor::live_after(25);
    let mut read = Vec::new();
    for expected in [
        vec![26, 27, 28, 29, 30, 11, 12, 13, 14, 15, 16, 17, 18, 19, 1, 2],
        vec![20, 21, 22, 23, 24, 25, 31, 32, 33, 34, 35, 36, 37, 38, 3, 4],
        vec![39, 40, 5, 6, 7, 8, 9, 10],
    ] {
        let batch = wait(store.read(cursor, 16)).unwrap();
        let seqs: Vec<u64> = batch.records.iter().map(|r| r.seq).collect();
        assert_eq!(seqs, expected);
        cursor = batch.cursor;
        read.extend(seqs);
    }
    read.sort_unstable();
    assert_eq!(read, (1..=40).collect::<Vec<_>>(), "each once");
}

#[test]
fn commits_that_wait_together_share_one_transaction() {
    let mut bench = Bench::new();
    let store = bench.open();
    // Another program has the file for a moment, so that all that is asked meanwhile waits.
    let other = bench.sql();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = transactions(&bench.path());
    let commits = (1..=40).map(|n| {
        let data = Box::new(finding(n, 1, FIRST));
        store.commit_soon(vec![Change::Record(RecordBody::Finding(data))])
    });
    let release = async {
        tokio::task::yield_now().await;
        other.execute_batch("ROLLBACK").unwrap();
    };
    let (seqs, ()) = wait(async { tokio::join!(futures::future::join_all(commits), release) });
    let mut seqs: Vec<u64> = seqs.into_iter().flat_map(Result::unwrap).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
    // The thread may have taken the first few before it found the file locked.
    let shared = transactions(&bench.path()) - before;
    assert!(
        (1..=4).contains(&shared),
        "{shared} transactions for 40 commits"
    );
}

/// Transactions in the write-ahead log: the frames that say how large the file is after them.
fn transactions(path: &Path) -> usize {
    let log = std::fs::read(beside(path, "-wal")).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page_bytes, salt) = (word(8) as usize, word(16));
    let frames = (32..log.len()).step_by(24 + page_bytes);
    frames
        .filter(|&at| word(at + 4) > 0 && word(at + 8) == salt)
        .count()
}

#[test]
fn a_parked_finding_that_is_asked_for_again_waits_again() {
    let mut bench = Bench::new();
    let store = bench.open();
    let data = finding(1, 1, FIRST);
    store.commit_finding(data.clone()).unwrap();
    let stats = store.stats();
    wait(store.park(1, "refused".to_owned())).unwrap();
    assert!(waiting(&store).is_empty());
    let again = wait(store.resend(Again::Finding(data.finding))).unwrap();
    assert_eq!(again, [1]);
    assert_eq!(waiting(&store), [1]);
    assert_eq!(store.stats(), stats);
}

#[test]
fn a_record_knows_whether_a_newer_revision_came_after_it() {
    let mut bench = Bench::new();
    let store = bench.open();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    store.commit_finding(finding(2, 1, FIRST)).unwrap();
    store
        .commit_finding(finding(1, 2, FindingPhase::Updated))
        .unwrap();
    let batch = wait(store.read(Cursor::default(), 10)).unwrap();
    let latest: Vec<_> = batch.records.iter().map(|r| r.latest).collect();
    assert_eq!(latest, [false, true, true]);
}

#[test]
fn a_parked_record_is_not_read_until_it_is_unparked() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    let all = store.stats();
    wait(store.park(2, "refused".to_owned())).unwrap();
    wait(store.park(2, "refused again".to_owned())).unwrap();
    assert_eq!(waiting(&store), [1, 3]);
    let store = bench.reopen();
    let stats = store.stats();
    assert_eq!((stats.records, stats.parked), (2, 1));
    assert!(stats.bytes < all.bytes);
    assert_eq!(wait(store.unpark_all()).unwrap(), 1);
    assert_eq!(waiting(&store), [1, 2, 3]);
    assert_eq!(store.stats(), all);
}

#[test]
fn what_was_parked_for_its_size_is_unparked_without_the_others() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=4 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    let all = store.stats();
    for (seq, reason) in [
        (1, format!("{TOO_LARGE}: 9 bytes")),
        (2, "refused".to_owned()),
        (3, TOO_LARGE.to_owned()),
    ] {
        wait(store.park(seq, reason)).unwrap();
    }
    assert_eq!(wait(store.unpark_too_large()).unwrap(), 2);
    assert_eq!(waiting(&store), [1, 3, 4]);
    assert_eq!((store.stats().records, store.stats().parked), (3, 1));
    assert_eq!(wait(store.unpark_all()).unwrap(), 1);
    assert_eq!(store.stats(), all);
}

#[test]
fn a_record_that_cannot_be_read_is_parked_and_does_not_stop_the_others() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    bench
        .sql()
        .execute("UPDATE outbox SET payload = '{' WHERE seq = 2", [])
        .unwrap();
    assert_eq!(waiting(&store), [1, 3]);
    let sql = "SELECT parked FROM outbox WHERE seq = 2";
    let reason: String = bench.sql().query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(reason.starts_with("unreadable: "), "{reason}");
}

#[test]
fn the_epoch_rises_across_reopening_and_begins_at_the_clock() {
    let mut bench = Bench::new();
    let store = bench.open();
    let first = wait(store.next_epoch()).unwrap();
    // A file that was lost must not take the site back to epochs the centre has seen.
    assert!(first > (T.0 / 1_000_000) as u64);
    assert_eq!(wait(store.next_epoch()).unwrap(), first + 1);
    let store = bench.reopen();
    assert_eq!(wait(store.next_epoch()).unwrap(), first + 2);
}

#[test]
fn open_findings_survive_with_their_newest_revision_and_vanish_when_closed() {
    let mut bench = Bench::new();
    let store = bench.open();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    store.commit_finding(finding(2, 1, FIRST)).unwrap();
    store
        .commit_finding(finding(1, 2, FindingPhase::Updated))
        .unwrap();
    wait(store.acked(vec![1, 2, 3])).unwrap();
    let store = bench.reopen();
    let brief = |open: Vec<LedgerEntry>| {
        let brief = |r: &LedgerEntry| (r.seq, r.data.finding.as_u128() & 0xff, r.data.revision);
        open.iter().map(brief).collect::<Vec<_>>()
    };
    assert_eq!(
        brief(store.open_findings().unwrap()),
        [(2, 2, 1), (3, 1, 2)]
    );
    store
        .commit_finding(finding(2, 2, FindingPhase::Closed))
        .unwrap();
    assert_eq!(
        brief(wait(store.read_open_findings()).unwrap()),
        [(3, 1, 2)]
    );
    let store = bench.reopen();
    assert_eq!(brief(store.open_findings().unwrap()), [(3, 1, 2)]);
}

#[test]
fn closed_findings_leave_the_ledger_after_90_days_and_open_ones_never() {
    let mut bench = Bench::new();
    let store = bench.open();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    store
        .commit_finding(finding(2, 1, FindingPhase::Closed))
        .unwrap();
    bench.close();
    bench.clock.advance(LEDGER_KEPT + Duration::from_secs(1));
    let store = bench.open();
    let sql = "SELECT count(*) FROM ledger";
    let kept: i64 = bench.sql().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 1);
    assert_eq!(store.open_findings().unwrap().len(), 1);
    // The records wait in the outbox for as long as it takes.
    assert_eq!(waiting(&store), [1, 2]);
}

#[test]
fn a_second_daemon_on_the_same_file_is_refused_until_the_first_is_gone() {
    let mut bench = Bench::new();
    let _first = bench.open();
    let refused = bench.try_open(&bench.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Locked { path } if *path == bench.path()));
    let text = refused.to_string();
    assert!(
        text.contains("stop that one first") && text.contains("state_dir"),
        "{text}"
    );
    bench.close();
    bench.open();
}

#[test]
fn a_file_that_is_no_database_is_set_aside_unchanged_and_the_store_opens() {
    let mut bench = Bench::new();
    std::fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
    let rubbish = b"this is not a database, however long one looks at it".repeat(100);
    std::fs::write(bench.path(), &rubbish).unwrap();
    let store = bench.open();
    // The first number is the word on what happened.
    assert_eq!(store.commit_finding(finding(1, 1, FIRST)).unwrap(), 2);
    let aside = bench.set_aside();
    assert_eq!(
        aside,
        [beside(
            &bench.path(),
            &format!(".corrupt-{}", T.0 / 1_000_000)
        )]
    );
    assert_eq!(std::fs::read(&aside[0]).unwrap(), rubbish);
}

#[test]
fn a_directory_that_cannot_be_made_is_reported_with_the_remedy() {
    let bench = Bench::new();
    let file = bench.dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    // Root may write anywhere, so the obstacle is a file where a directory should be.
    let refused = bench
        .try_open(&file.join("state").join("mingchu.db"))
        .unwrap_err();
    assert!(
        matches!(refused, StoreError::Unwritable { .. }),
        "{refused:?}"
    );
    assert!(!refused.is_temporary());
    let text = refused.chain();
    assert!(text.contains("give the directory to the user"), "{text}");
    assert!(
        text.contains("state_dir") && text.contains("a-file"),
        "{text}"
    );
}

#[test]
fn a_read_only_directory_is_reported_with_the_remedy() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("locked");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o500)).unwrap();
    if File::create(dir.join("probe")).is_ok() {
        // Root is not stopped by permissions, so there is nothing to see here.
        return;
    }
    let refused = bench.try_open(&dir.join("mingchu.db")).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unwritable { .. }),
        "{refused:?}"
    );
}

#[test]
fn a_directory_in_place_of_the_file_is_reported_with_the_remedy() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path()).unwrap();
    let refused = bench.try_open(&bench.path()).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unwritable { .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("mingchu.db"), "{refused}");
}

#[test]
fn a_newer_versions_file_is_refused_and_left_untouched() {
    let mut bench = Bench::new();
    bench.open().commit_finding(finding(1, 1, FIRST)).unwrap();
    bench.close();
    bench
        .sql()
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    let before = std::fs::read(bench.path()).unwrap();
    let refused = bench.try_open(&bench.path()).unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::NewerSchema {
                found: 3,
                known: SCHEMA_VERSION,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("run the newer mingchu"),
        "{refused}"
    );
    assert_eq!(std::fs::read(bench.path()).unwrap(), before);
    assert!(bench.set_aside().is_empty());
}

#[test]
fn the_figures_tell_what_waits_how_much_and_how_long() {
    let mut bench = Bench::new();
    let store = bench.open();
    assert_eq!(store.stats(), OutboxStatus::default());
    let data = finding(1, 1, FIRST);
    let bytes = serde_json::to_string(&data).unwrap().len() as u64;
    store.commit_finding(data).unwrap();
    bench.clock.advance(Duration::from_secs(90));
    store.commit_finding(finding(2, 1, FIRST)).unwrap();
    let expected = OutboxStatus {
        records: 2,
        bytes: 2 * bytes,
        oldest_seconds: 90,
        parked: 0,
    };
    assert_eq!(store.stats(), expected);
    wait(store.acked(vec![1])).unwrap();
    let expected = OutboxStatus {
        records: 1,
        bytes,
        oldest_seconds: 0,
        parked: 0,
    };
    assert_eq!(store.stats(), expected);
    assert_eq!(bench.metrics.total(Metric::OutboxRecords), 1);
    assert_eq!(bench.metrics.total(Metric::OutboxBytes), bytes);
    let store = bench.reopen();
    assert_eq!(store.stats(), expected);
}

#[test]
fn a_failed_transaction_leaves_nothing_behind_and_wastes_no_number() {
    let mut bench = Bench::new();
    let store = bench.open();
    // A trigger stands in for the disk: it fails the statement in the middle of the transaction.
    let sql = "CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN new.revision = 13
               BEGIN SELECT raise(ABORT, 'no'); END";
    bench.sql().execute_batch(sql).unwrap();
    let refused = store.commit_finding(finding(1, 13, FIRST)).unwrap_err();
    assert!(
        matches!(refused, StoreError::Io(_)) && refused.is_temporary(),
        "{refused:?}"
    );
    assert_eq!(*store.last_seq().borrow(), 0);
    assert_eq!(waiting(&store), [] as [u64; 0]);
    assert_eq!(store.commit_finding(finding(1, 14, FIRST)).unwrap(), 1);
    assert_eq!(bench.metrics.total(Metric::StoreFailures), 1);
}

#[test]
fn a_full_disk_is_told_apart_from_other_failures() {
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    let full = StoreError::from(rusqlite::Error::SqliteFailure(full, None));
    assert!(matches!(full, StoreError::Full(_)) && full.is_temporary());
    assert!(
        full.chain()
            .starts_with("the disk with the store is full: "),
        "{}",
        full.chain()
    );
}

#[test]
fn a_closed_store_says_so_and_finishes_what_was_asked_before() {
    let mut bench = Bench::new();
    let store = bench.open();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    bench.close();
    let refused = store.commit_finding(finding(2, 1, FIRST)).unwrap_err();
    assert!(matches!(refused, StoreError::Closed) && !refused.is_temporary());
    assert!(matches!(
        wait(store.read(Cursor::default(), 1)),
        Err(StoreError::Closed)
    ));
    assert_eq!(waiting(&bench.open()), [1]);
}

#[test]
fn waiting_for_the_newest_number_wakes_with_a_commit() {
    let mut bench = Bench::new();
    let store = bench.open();
    let mut newest = store.last_seq();
    let commit = thread::spawn(move || store.commit_finding(finding(1, 1, FIRST)).unwrap());
    wait(newest.changed()).unwrap();
    assert_eq!(*newest.borrow(), 1);
    commit.join().unwrap();
}

#[test]
fn everything_answered_is_there_when_the_process_dies_without_closing() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=20 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    wait(store.acked(vec![1, 2])).unwrap();
    let epoch = wait(store.next_epoch()).unwrap();
    // What lies on the disk at this moment is what a power cut would leave.
    let after = TempDir::new().unwrap();
    let copy = after.path().join("mingchu.db");
    for end in ["", "-wal"] {
        std::fs::copy(beside(&bench.path(), end), beside(&copy, end)).unwrap();
    }
    let (revived, thread) = bench.try_open(&copy).unwrap();
    assert_eq!(waiting(&revived), (3..=20).collect::<Vec<u64>>());
    assert_eq!(revived.open_findings().unwrap().len(), 20);
    assert!(wait(revived.next_epoch()).unwrap() > epoch);
    assert_eq!(revived.commit_finding(finding(21, 1, FIRST)).unwrap(), 21);
    revived.close();
    thread.join().unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Commit {
        finding: u8,
        close: bool,
        again: bool,
    },
    Ack(Vec<u64>),
    Park(u64),
    Unpark,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(finding, close, again)| Step::Commit { finding, close, again }),
        3 => prop::collection::vec(1..30_u64, 0..5).prop_map(Step::Ack),
        1 => (1..30_u64).prop_map(Step::Park),
        1 => Just(Step::Unpark),
        1 => Just(Step::Reopen),
    ]
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    /// Finding and revision by number, and whether it is parked.
    outbox: BTreeMap<u64, (u8, u32, bool)>,
    /// Newest revision, its number, and whether it is open.
    ledger: BTreeMap<u8, (u32, u64, bool)>,
    last_seq: u64,
}

impl Model {
    fn check(&self, store: &StoreHandle) {
        let live = self.outbox.iter().filter(|(_, (.., parked))| !parked);
        let live: Vec<_> = live
            .map(|(seq, (f, revision, _))| (*seq, *f, *revision))
            .collect();
        let batch = wait(store.read(Cursor::default(), 1000)).unwrap();
        let name = |data: &FindingData| data.finding.as_u128() as u8;
        let read = batch
            .records
            .iter()
            .map(|r| (r.seq, name(data_of(r)), data_of(r).revision));
        assert_eq!(read.collect::<Vec<_>>(), live);
        for record in &batch.records {
            assert_eq!(
                record.latest,
                self.ledger[&name(data_of(record))].0 == data_of(record).revision
            );
        }
        let mut open: Vec<_> = self
            .ledger
            .iter()
            .filter(|(_, (.., open))| *open)
            .map(|(f, (revision, seq, _))| (*seq, *f, *revision))
            .collect();
        open.sort_unstable();
        let found = store.open_findings().unwrap();
        let found = found
            .iter()
            .map(|r| (r.seq, name(&r.data), r.data.revision));
        assert_eq!(found.collect::<Vec<_>>(), open);
        let stats = store.stats();
        assert_eq!(stats.records, live.len() as u64);
        assert_eq!(stats.parked, (self.outbox.len() - live.len()) as u64);
        assert_eq!(*store.last_seq().borrow(), self.last_seq);
    }

    fn apply(&mut self, step: Step, bench: &mut Bench, store: &mut StoreHandle) {
        match step {
            Step::Commit {
                finding: f,
                close,
                again,
            } => {
                let known = self.ledger.get(&f).copied();
                let (revision, expected) = match known {
                    Some((revision, seq, _)) if again => (revision, seq),
                    known => (known.map_or(1, |k| k.0 + 1), self.last_seq + 1),
                };
                let phase = if close {
                    FindingPhase::Closed
                } else {
                    FindingPhase::Updated
                };
                let seq = store
                    .commit_finding(finding(f.into(), revision, phase))
                    .unwrap();
                assert_eq!(seq, expected);
                if seq > self.last_seq {
                    self.last_seq = seq;
                    self.outbox.insert(seq, (f, revision, false));
                    self.ledger.insert(f, (revision, seq, !close));
                }
            }
            Step::Ack(seqs) => {
                for seq in &seqs {
                    self.outbox.remove(seq);
                }
                wait(store.acked(seqs)).unwrap();
            }
            Step::Park(seq) => {
                if let Some(record) = self.outbox.get_mut(&seq) {
                    record.2 = true;
                }
                wait(store.park(seq, "why not".to_owned())).unwrap();
            }
            Step::Unpark => {
                let mut parked = 0;
                for record in self.outbox.values_mut() {
                    parked += u64::from(std::mem::take(&mut record.2));
                }
                assert_eq!(wait(store.unpark_all()).unwrap(), parked);
            }
            Step::Reopen => *store = bench.reopen(),
        }
    }
}

proptest! {
    // Every step waits for a real disk.
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_model_whatever_is_asked(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut bench = Bench::new();
        let mut store = bench.open();
        let mut model = Model::default();
        for step in steps {
            model.apply(step, &mut bench, &mut store);
            model.check(&store);
        }
        bench.close();
    }
}

fn notice(n: u128) -> RecordBody {
    RecordBody::Notice(Box::new(crate::uplink::Notice {
        id: Uuid::from_u128(n),
        kind: "config.rejected".to_owned(),
        at: T,
        text: "two mistakes".to_owned(),
        data: serde_json::Value::Null,
        text_zh: "两处错误".to_owned(),
    }))
}

fn shelved(store: &StoreHandle) -> Vec<(String, String)> {
    store.shelf(Shelf::Commands).unwrap()
}

#[test]
fn records_of_all_kinds_and_shelf_entries_are_committed_together_and_read_back() {
    let mut bench = Bench::new();
    let store = bench.open();
    let changes = vec![
        Change::put(Shelf::Commands, "b", &1),
        Change::Record(notice(1)),
        Change::Record(RecordBody::Finding(Box::new(finding(1, 1, FIRST)))),
        Change::put(Shelf::Commands, "a", &2),
        Change::put(Shelf::Evidence, "a", &3),
    ];
    assert_eq!(store.commit(changes.clone()).unwrap(), [1, 2]);
    // Again, as after an answer that was lost: nothing is stored twice.
    assert_eq!(store.commit(changes).unwrap(), [1, 2]);
    let store = bench.reopen();
    let batch = wait(store.read(Cursor::default(), 10)).unwrap();
    let told: Vec<_> = batch
        .records
        .iter()
        .map(|r| (r.seq, r.topic_tail.as_str(), r.body.kind()))
        .collect();
    assert_eq!(
        told,
        [
            (2, "finding/ppe.hat.missing", RecordKind::Finding),
            (1, "notice", RecordKind::Notice)
        ]
    );
    let entries = [("a", "2"), ("b", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(shelved(&store), entries);
    let gone = Change::Delete {
        shelf: Shelf::Commands,
        key: "a".to_owned(),
    };
    assert_eq!(store.commit(vec![gone]).unwrap(), [] as [u64; 0]);
    assert_eq!(shelved(&store), entries[1..]);
}

#[test]
fn a_refused_record_takes_what_was_committed_with_it_along() {
    let mut bench = Bench::new();
    let store = bench.open();
    store
        .commit_finding(finding(1, 2, FindingPhase::Updated))
        .unwrap();
    let stale = RecordBody::Finding(Box::new(finding(1, 1, FIRST)));
    let refused = store.commit(vec![
        Change::put(Shelf::Commands, "a", &1),
        Change::Record(notice(1)),
        Change::Record(stale),
    ]);
    assert!(matches!(refused, Err(StoreError::Stale { .. })));
    assert_eq!(shelved(&store), []);
    assert_eq!(waiting(&store), [1]);
    assert_eq!(store.commit(vec![Change::Record(notice(1))]).unwrap(), [2]);
}

#[test]
fn a_file_of_the_first_layout_is_upgraded_with_all_that_is_in_it() {
    let mut bench = Bench::new();
    let store = bench.open();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    store.commit_finding(urgent(2)).unwrap();
    bench.close();
    // What layout 1 was.
    bench
        .sql()
        .execute_batch(
            "DROP TABLE shelf; DROP INDEX outbox_others; DROP INDEX outbox_lane;
             CREATE INDEX outbox_urgent ON outbox(seq) WHERE class = 1; ALTER TABLE outbox DROP COLUMN kind;
             ALTER TABLE outbox RENAME COLUMN subject TO finding; PRAGMA user_version = 1;",
        )
        .unwrap();
    let store = bench.open();
    assert_eq!(waiting(&store), [2, 1]);
    assert_eq!(store.open_findings().unwrap().len(), 2);
    assert_eq!(store.commit(vec![Change::Record(notice(1))]).unwrap(), [3]);
}

#[test]
fn what_was_closed_lately_can_be_asked_for() {
    let mut bench = Bench::new();
    let store = bench.open();
    let close = |n| {
        store
            .commit_finding(finding(n, 2, FindingPhase::Closed))
            .unwrap()
    };
    close(1);
    bench.clock.advance(Duration::from_secs(60));
    let since = bench.clock.utc();
    close(2);
    store.commit_finding(finding(3, 1, FIRST)).unwrap();
    let seqs = |entries: Vec<LedgerEntry>| entries.iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.closed_since(since).unwrap()), [2]);
    assert_eq!(seqs(store.open_findings().unwrap()), [3]);
}
