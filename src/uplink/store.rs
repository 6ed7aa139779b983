//! The durable store: outbox, finding ledger, counters that outlive the process.
//!
//! What must not be here: topics, brokers, and any wait for the network. The crate `rusqlite` is
//! named in this file only. Everything that touches the file runs on one thread, named `store`.
//!
//! # Constraints
//! * A record is on the disk before anybody outside sees it: `synchronous=FULL`, and the reply to
//!   [`StoreHandle::commit_finding`] comes after the transaction's fsync.
//! * `seq` has no gaps and never goes back: it is given in the transaction that stores the record.
//! * The ledger changes in the same transaction as the outbox: what rules find open after a restart
//!   is what the centre was or will be told.
//! * Whoever waits for the network must not keep the store waiting, nor the other way round: the
//!   uplink reads in small batches and keeps its own memory of what is on its way.
//!
//! # Format
//! One SQLite file in WAL mode, `user_version` 2 (1 is upgraded when it is opened), and beside it `<file>.lock`, on which the process
//! holds a lock for as long as it lives (a second daemon is refused; SQLite's own locks would let it
//! in between two transactions, and both would publish). It holds a number that `seq` has not reached.
//!
//! | table | what |
//! | --- | --- |
//! | `meta(key, value)` | `last_seq`, `epoch` |
//! | `outbox(seq, subject, revision, code, class, created_utc, bytes, parked, payload, kind)` | records not acknowledged; `parked` is null or the reason; `payload` is the [`RecordBody`] of `kind` as JSON; `subject` is the finding's UUID and `revision` its revision, for other kinds the event's id and 0 |
//! | `ledger(finding, revision, seq, open, updated_utc, payload)` | the newest revision of every finding; closed ones go after 90 days |
//! | `shelf(shelf, key, updated_utc, body)` | small durable tables of JSON by key, one for each [`Shelf`] |
//!
//! # Operation
//! The thread takes what waits in its channel (64 commands at most), puts all writes into one
//! transaction and answers after it: under load many records share one fsync. Reads follow. The
//! epoch of a new file begins at the clock's seconds, so that it goes on rising when the file is lost.
//!
//! # Failure
//! | what | what happens |
//! | --- | --- |
//! | a commit fails (disk full, I/O) | [`StoreError::Full`] or [`StoreError::Io`], counted; nothing of the transaction stays. The caller keeps the finding and calls again after a back-off; a commit that did reach the disk after all is recognised by finding and revision and gets the `seq` it has |
//! | the file is damaged, at start or later | a new one is written with what can still be read, row by row around what cannot; then the damaged one is set aside as `<file>.corrupt-<utc seconds>` and the new one takes its place (`store/files.rs`: a power cut leaves one of them). The log, [`StoreHealth`], a counter and a notice to the centre (`store.damaged`) say so. Where it fails, the damaged one stays and the next call tries again |
//! | outbox rows cannot be read | the newest revision of findings with such numbers is taken from the ledger and sent again; older revisions and other records are lost |
//! | the counters cannot be read | `seq` goes on behind the number that `<file>.lock` holds in reserve: a gap, told by the notice, never a number twice |
//! | the first page is damaged | it is replaced by that of a new file, in a copy: the tables lie where they always do |
//! | a stored record cannot be read | parked by the name of the reason; it does not stop the others |
//! | a newer version's file | refused by name, untouched |
//! | power cut | WAL with `synchronous=FULL`: what was answered is there |
use std::error::Error as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use self::files::{Swap, beside, make_folder};
use super::payload::{FindingData, FindingPhase, OutboxStatus};
use super::record::{Change, Notice, RecordBody, RecordKind, Shelf};
use crate::base::digest::sha256_hex;
use crate::base::heartbeat::{Heartbeat, Heartbeats};
use crate::base::metrics::{Counter, Metric, Metrics};
use crate::base::time::{MonoMicros, SharedClock, UtcMicros};
use crate::base::words;

mod files;

/// Layout of the file this version writes.
const SCHEMA_VERSION: i64 = 2;
/// Commands that may wait. Rules wait when it is full, which takes a stuck disk.
const QUEUE: usize = 256;
/// Commands that share a transaction at most.
const GROUP: usize = 64;
/// The gauges are refreshed and the heart beats this often when nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// The store promises to beat at least this often; an fsync on a dying card takes seconds.
const BEAT: Duration = Duration::from_secs(30);
/// An async caller looks again after this when the queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(5);
/// Closed findings leave the ledger after 90 days.
const LEDGER_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Numbers held in reserve in the lock file: as many may be missing after the counters were lost.
const RESERVE: i64 = 1000;
/// How often it is looked whether files that were set aside are still there.
const LOOK_ASIDE_EVERY: Duration = Duration::from_secs(60);
/// How often the ledger is looked through for them.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY, subject BLOB NOT NULL, revision INTEGER NOT NULL, code TEXT NOT NULL,
  class INTEGER NOT NULL, created_utc INTEGER NOT NULL, bytes INTEGER NOT NULL, parked TEXT,
  payload TEXT NOT NULL, kind TEXT NOT NULL DEFAULT 'finding');
CREATE INDEX outbox_urgent ON outbox(seq) WHERE class = 1;
CREATE TABLE ledger (
  finding BLOB PRIMARY KEY, revision INTEGER NOT NULL, seq INTEGER NOT NULL, open INTEGER NOT NULL,
  updated_utc INTEGER NOT NULL, payload TEXT NOT NULL);
CREATE INDEX ledger_open ON ledger(seq) WHERE open = 1;
";

/// What layout 2 has beside layout 1: records of other kinds, and the shelves.
const SCHEMA_2: &str = "
CREATE INDEX outbox_others ON outbox(subject) WHERE kind <> 'finding';
DROP INDEX outbox_urgent;
CREATE INDEX outbox_lane ON outbox(class, seq);
CREATE TABLE shelf (
  shelf TEXT NOT NULL, key TEXT NOT NULL, updated_utc INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (shelf, key)) WITHOUT ROWID;
";
/// Makes the outbox of layout 1 one of layout 2.
const FROM_1_TO_2: &str = "
ALTER TABLE outbox RENAME COLUMN finding TO subject;
ALTER TABLE outbox ADD COLUMN kind TEXT NOT NULL DEFAULT 'finding';
";

/// What went wrong, by what can be done about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// At start: nothing can be written there. A person must act.
    #[error(
        "cannot write {}: give the directory to the user mingchu runs as, or name another one as state_dir",
        path.display()
    )]
    Unwritable {
        /// The file or directory that was tried.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// At start: another process has the store.
    #[error(
        "{} is in use by another mingchu: stop that one first (systemctl status mingchu), or give this one its own state_dir",
        path.display()
    )]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// At start: the file was written by a newer version.
    #[error(
        "{} has layout {found}, this version knows up to {known}: run the newer mingchu, or move the file away",
        path.display()
    )]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The newest this version knows.
        known: i64,
    },
    /// The disk is full. Nothing was stored; try again after a back-off.
    #[error("the disk with the store is full")]
    Full(#[source] Arc<rusqlite::Error>),
    /// The disk failed. Nothing was stored; try again after a back-off.
    #[error("the store cannot be read or written")]
    Io(#[source] Arc<rusqlite::Error>),
    /// The file is damaged and could not be set aside. Try again after a back-off.
    #[error("the store is damaged")]
    Corrupt(#[source] Arc<rusqlite::Error>),
    /// A revision older than the one the ledger has: the caller's mistake, do not try again.
    #[error("finding {finding} is at revision {known} already, {revision} came after it")]
    Stale {
        /// Which finding.
        finding: Uuid,
        /// The revision refused.
        revision: u32,
        /// The newest in the ledger.
        known: u32,
    },
    /// The store has been closed, or its thread is gone.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything here.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Io(_) | Self::Corrupt(_))
    }

    /// The message with its causes, for logs.
    pub fn chain(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt(_))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        let code = match &e {
            rusqlite::Error::SqlInputError { .. } => Some(ErrorCode::Unknown),
            other => other.sqlite_error_code(),
        };
        let e = Arc::new(e);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full(e),
            // Our own statements are good: what SQLite does not understand of them (a table that is there
            // already, or is not), or answers with what is no text or no number (an error without a code), is
            // a file whose layout is not the one it says.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            | None => Self::Corrupt(e),
            _ => Self::Io(e),
        }
    }
}

/// A committed record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was committed.
    pub created: UtcMicros,
    /// What was committed.
    pub body: RecordBody,
    /// See [`RecordBody::topic_tail`]; kept because delivery asks often.
    pub topic_tail: String,
    /// Of a finding: whether the ledger knows no newer revision, as of the read. True of others.
    pub latest: bool,
}

/// The newest revision of a finding in the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerEntry {
    /// The record's number.
    pub seq: u64,
    /// When it was committed.
    pub created: UtcMicros,
    /// The revision.
    pub data: FindingData,
}

/// How far delivery has read. The default is the beginning, with every record taken for news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// What has a higher number is news.
    boundary: i64,
    /// Of all, by number only.
    oldest: i64,
    /// By class, of what is news and of what is late.
    lanes: [[i64; 2]; 3],
}

impl Cursor {
    /// The beginning, where what has a higher number than `seq` is news, and what has not is late.
    pub fn live_after(seq: u64) -> Self {
        let boundary = seq as i64;
        Self {
            boundary,
            oldest: 0,
            lanes: [[boundary, 0]; 3],
        }
    }
}

/// How the reason of a record begins that is parked for its size: a broker that takes more may get it.
pub const TOO_LARGE: &str = "too large for the broker";

/// Of the room in a read, one part of so many is for the oldest records, whatever their class.
const OLDEST_PART: usize = 8;

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// By class, in it news before what is late, then by `seq`.
    pub records: Vec<Record>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether there may be more now.
    pub more: bool,
}

type Reply<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

enum Command {
    Commit(Vec<Change>, Reply<Vec<u64>>),
    Acked(Vec<u64>, Reply<()>),
    Park(u64, String, Reply<()>),
    Resend(Again, Reply<Vec<u64>>),
    /// Those whose reason begins so.
    Unpark(&'static str, Reply<u64>),
    NextEpoch(Reply<u64>),
    Read(Cursor, usize, Reply<Batch>),
    OpenFindings(Reply<Vec<LedgerEntry>>),
    ClosedSince(UtcMicros, Reply<Vec<LedgerEntry>>),
    Finding(Uuid, Reply<Option<LedgerEntry>>),
    Shelf(Shelf, Reply<Vec<(String, String)>>),
    Close,
}

/// Which findings of the ledger are to be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// This one.
    Finding(Uuid),
    /// Those whose newest revision has a number from the first to the second.
    Range(u64, u64),
}

/// Word that records older than the newest are in the outbox again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// How often that was so since the start.
    pub times: u64,
    /// The highest number among them.
    pub through: u64,
}

/// How the store is, for the site's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// Why the newest write failed; `None`: it did not.
    pub failing: Option<String>,
    /// Names of damaged files that were set aside and are still there.
    pub set_aside: Vec<String>,
}

/// A handle on the store's thread; cheap to clone. The thread ends when all handles are gone or one
/// of them is [closed](StoreHandle::close), after all that was asked before.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    commands: SyncSender<Command>,
    last_seq: watch::Receiver<u64>,
    status: watch::Receiver<OutboxStatus>,
    resent: watch::Receiver<Resent>,
    health: watch::Receiver<StoreHealth>,
}

impl StoreHandle {
    /// Stores one revision of a finding, blocking until it is on the disk, and returns its `seq`.
    /// Not for async code.
    ///
    /// # Errors
    /// [`StoreError::is_temporary`]: nothing was stored, the finding is still the caller's. It must
    /// call again with the same revision after a back-off, and hold back later revisions until then;
    /// calling again is safe even if the disk took it after all. [`StoreError::Stale`] and
    /// [`StoreError::Closed`]: calling again is of no use.
    pub fn commit_finding(&self, data: FindingData) -> Result<u64, StoreError> {
        let seqs = self.commit(vec![Change::Record(RecordBody::Finding(Box::new(data)))])?;
        Ok(seqs.first().copied().unwrap_or_default())
    }

    /// Commits all of `changes` together, blocking until they are on the disk, and returns the `seq`
    /// of each record among them, in order. A record that is in the outbox already, by event id, is
    /// not stored twice. Not for async code.
    ///
    /// # Errors
    /// As [`StoreHandle::commit_finding`]; nothing of `changes` was stored then.
    pub fn commit(&self, changes: Vec<Change>) -> Result<Vec<u64>, StoreError> {
        self.blocking(|reply| Command::Commit(changes, reply))
    }

    /// The same for async code.
    ///
    /// # Errors
    /// As [`StoreHandle::commit`].
    pub async fn commit_soon(&self, changes: Vec<Change>) -> Result<Vec<u64>, StoreError> {
        self.call(|reply| Command::Commit(changes, reply)).await
    }

    /// All entries of a shelf, by key. Blocking; not for async code.
    ///
    /// # Errors
    /// The store cannot be read, or is closed.
    pub fn shelf(&self, shelf: Shelf) -> Result<Vec<(String, String)>, StoreError> {
        self.blocking(|reply| Command::Shelf(shelf, reply))
    }

    /// The same for async code.
    ///
    /// # Errors
    /// As [`StoreHandle::shelf`].
    pub async fn read_shelf(&self, shelf: Shelf) -> Result<Vec<(String, String)>, StoreError> {
        self.call(|reply| Command::Shelf(shelf, reply)).await
    }

    /// The newest revision of a finding, open or not, unless it was forgotten.
    ///
    /// # Errors
    /// The store cannot be read, or is closed.
    pub async fn read_finding(&self, finding: Uuid) -> Result<Option<LedgerEntry>, StoreError> {
        self.call(|reply| Command::Finding(finding, reply)).await
    }

    /// The newest revision of every finding that is open, by `seq`. Blocking; not for async code.
    ///
    /// # Errors
    /// The store cannot be read, or is closed.
    pub fn open_findings(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.blocking(Command::OpenFindings)
    }

    /// The newest revision of every finding that is closed and was told so at `since` or later, by
    /// `seq`: those that may still be reopened. Blocking; not for async code.
    ///
    /// # Errors
    /// The store cannot be read, or is closed.
    pub fn closed_since(&self, since: UtcMicros) -> Result<Vec<LedgerEntry>, StoreError> {
        self.blocking(|reply| Command::ClosedSince(since, reply))
    }

    /// The same for async code.
    ///
    /// # Errors
    /// As [`StoreHandle::open_findings`].
    pub async fn read_open_findings(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.call(Command::OpenFindings).await
    }

    /// A number higher than any this gave before, across restarts. While the store cannot be written
    /// it still rises, but a restart before it can be written again may give one a second time.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn next_epoch(&self) -> Result<u64, StoreError> {
        self.call(Command::NextEpoch).await
    }

    /// Up to `limit` records after `cursor` that are neither acknowledged nor parked: an eighth of them the
    /// oldest of all, the others class 1 first, and in a class news before what is late. So a class with a
    /// long backlog cannot starve the others, nor news the backlog.
    ///
    /// # Errors
    /// The store cannot be read, or is closed.
    pub async fn read(&self, cursor: Cursor, limit: usize) -> Result<Batch, StoreError> {
        self.call(|reply| Command::Read(cursor, limit, reply)).await
    }

    /// Removes delivered records; unknown ones are ignored.
    ///
    /// # Errors
    /// They are all still there; call again, or they will be sent twice after a restart.
    pub async fn acked(&self, seqs: Vec<u64>) -> Result<(), StoreError> {
        self.call(|reply| Command::Acked(seqs, reply)).await
    }

    /// Puts a record aside that cannot be delivered. It stays in the file, and in
    /// [`OutboxStatus::parked`].
    ///
    /// # Errors
    /// It is not parked; call again.
    pub async fn park(&self, seq: u64, reason: String) -> Result<(), StoreError> {
        self.call(|reply| Command::Park(seq, reason, reply)).await
    }

    /// Puts the newest revision of findings that the ledger still has into the outbox again, under the
    /// number it has; which these are, at most 1000. What waits there anyway is among them, and what was
    /// put aside there waits again.
    ///
    /// # Errors
    /// None of them is in the outbox again.
    pub async fn resend(&self, which: Again) -> Result<Vec<u64>, StoreError> {
        self.call(|reply| Command::Resend(which, reply)).await
    }

    /// Changes when old records are in the outbox again, so that the uplink can look for them.
    pub fn resent(&self) -> watch::Receiver<Resent> {
        self.resent.clone()
    }

    /// How the store is; changes with it.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.clone()
    }

    /// Makes all parked records wait again; how many there were.
    ///
    /// # Errors
    /// They are still parked.
    pub async fn unpark_all(&self) -> Result<u64, StoreError> {
        self.call(|reply| Command::Unpark("", reply)).await
    }

    /// The same for those whose reason begins with `TOO_LARGE`.
    ///
    /// # Errors
    /// They are still parked.
    pub async fn unpark_too_large(&self) -> Result<u64, StoreError> {
        self.call(|reply| Command::Unpark(TOO_LARGE, reply)).await
    }

    /// What waits, as of the last commit or second. Never blocks.
    pub fn stats(&self) -> OutboxStatus {
        *self.status.borrow()
    }

    /// The `seq` of the newest record, 0 before the first; changes with every commit, so that async
    /// code can wait for new records.
    pub fn last_seq(&self) -> watch::Receiver<u64> {
        self.last_seq.clone()
    }

    /// Ends the thread after all that was asked before. What is asked later fails with
    /// [`StoreError::Closed`].
    pub fn close(&self) {
        // A thread that is gone already is closed.
        let _gone = self.commands.send(Command::Close).is_err();
    }

    fn blocking<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StoreError> {
        let (tx, rx) = sync_channel(1);
        let reply = Box::new(move |result| {
            // The caller waits for it below.
            let _gone = tx.send(result).is_err();
        });
        self.commands
            .send(command(reply))
            .map_err(|_| StoreError::Closed)?;
        rx.recv().map_err(|_| StoreError::Closed)?
    }

    async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StoreError> {
        let (tx, rx) = oneshot::channel();
        let mut command = command(Box::new(move |result| {
            // A caller that went away needs no answer.
            let _gone = tx.send(result).is_err();
        }));
        loop {
            match self.commands.try_send(command) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
                Err(TrySendError::Full(back)) => command = back,
            }
            tokio::time::sleep(QUEUE_FULL_WAIT).await;
        }
        rx.await.map_err(|_| StoreError::Closed)?
    }
}

/// The store's thread.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    conn: Connection,
    clock: SharedClock,
    totals: Totals,
    last_seq: watch::Sender<u64>,
    status: watch::Sender<OutboxStatus>,
    resent: watch::Sender<Resent>,
    health: watch::Sender<StoreHealth>,
    gauges: Gauges,
    pruned: MonoMicros,
    looked_aside: MonoMicros,
    heartbeat: Heartbeat,
    /// The file could not be used any more and could not be replaced yet.
    damaged: Option<StoreError>,
    /// Held for as long as the store lives.
    lock: File,
    /// What it says: a number that `seq` has not reached.
    reserved: i64,
}

/// What waits, kept by addition, for a sum over 30 days of records takes too long for every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    records: i64,
    bytes: i64,
    parked: i64,
    last_seq: i64,
    epoch: i64,
}

#[derive(Debug)]
struct Gauges {
    records: Counter,
    bytes: Counter,
    oldest_seconds: Counter,
    parked: Counter,
    committed: Counter,
    failures: Counter,
    damaged: Counter,
}

impl Store {
    /// Opens or creates the store in `path`, whose directory is created if need be, and starts its
    /// thread.
    ///
    /// # Errors
    /// [`StoreError::Unwritable`], [`StoreError::Locked`] and [`StoreError::NewerSchema`] want a
    /// person; the others are the disk's.
    pub fn open(
        path: &Path,
        clock: SharedClock,
        metrics: &Metrics,
        heartbeats: &Heartbeats,
    ) -> Result<(StoreHandle, JoinHandle<()>), StoreError> {
        let unwritable = |path: &Path, source| StoreError::Unwritable {
            path: path.to_owned(),
            source: Arc::new(source),
        };
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            make_folder(dir).map_err(|e| unwritable(dir, e))?;
        }
        let lock_path = beside(path, ".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(|e| unwritable(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(unwritable(&lock_path, e)),
        }
        let gauge = |m| metrics.counter(m, &[]);
        let damaged = gauge(Metric::StoreDamaged);
        if let Some(swap) = Swap::unfinished(path).map_err(|e| unwritable(path, e))? {
            swap.finish().map_err(|e| unwritable(path, e))?;
            tracing::warn!(aside = %swap.aside().display(), "a damaged store is set aside, which a power cut had interrupted");
        }
        let floor = Floor {
            reserved: reserved_in(&lock),
            ..Floor::default()
        };
        // A damaged schema can pass SQLite's check and show only when it is asked for.
        let counted = |conn| Ok((Totals::read(&conn)?, conn));
        let (totals, conn) = match open_checked(path, &*clock, Log::Wal).and_then(counted) {
            Err(e) if e.is_corrupt() => counted(renew(path, &*clock, &e, floor, &damaged)?)?,
            other => other?,
        };
        let (last_seq, last_seq_rx) = watch::channel(totals.last_seq as u64);
        let (status, status_rx) = watch::channel(OutboxStatus::default());
        let (resent, resent_rx) = watch::channel(Resent::default());
        let (health, health_rx) = watch::channel(StoreHealth::default());
        let mut store = Self {
            path: path.to_owned(),
            conn,
            totals,
            last_seq,
            status,
            resent,
            health,
            gauges: Gauges {
                records: gauge(Metric::OutboxRecords),
                bytes: gauge(Metric::OutboxBytes),
                oldest_seconds: gauge(Metric::OutboxOldestSeconds),
                parked: gauge(Metric::OutboxParked),
                committed: gauge(Metric::StoreRecords),
                failures: gauge(Metric::StoreFailures),
                damaged,
            },
            pruned: clock.mono(),
            looked_aside: clock.mono(),
            heartbeat: heartbeats.register("store", BEAT),
            clock,
            damaged: None,
            lock,
            reserved: floor.reserved,
        };
        store.prune();
        store.reserve();
        store.look_aside();
        store.publish_totals();
        let (commands, rx) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || store.run(&rx))
            .map_err(|e| unwritable(path, e))?;
        let handle = StoreHandle {
            commands,
            last_seq: last_seq_rx,
            status: status_rx,
            resent: resent_rx,
            health: health_rx,
        };
        Ok((handle, thread))
    }

    fn run(mut self, commands: &Receiver<Command>) {
        let mut open = true;
        while open {
            self.heartbeat.beat();
            self.look_around();
            let mut group = match commands.recv_timeout(TICK) {
                Ok(command) => vec![command],
                Err(RecvTimeoutError::Timeout) => {
                    self.publish_totals();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            group.extend(commands.try_iter().take(GROUP - 1));
            if let Some(end) = group.iter().position(|c| matches!(c, Command::Close)) {
                // Dropped commands answer "closed" by themselves.
                group.truncate(end);
                open = false;
            }
            self.serve(group);
        }
        self.publish_totals();
        if let Err((_, e)) = self.conn.close() {
            tracing::warn!(err = %e, "store not closed cleanly");
        }
    }

    /// What is done now and then, however busy it is.
    fn look_around(&mut self) {
        let now = self.clock.mono();
        if now.since(self.pruned) > PRUNE_EVERY {
            self.prune();
        }
        if now.since(self.looked_aside) > LOOK_ASIDE_EVERY {
            self.look_aside();
        }
    }

    fn serve(&mut self, group: Vec<Command>) {
        let (mut writes, mut answers) = (Vec::new(), Vec::new());
        let mut reads = Vec::new();
        for command in group {
            match command {
                Command::Commit(changes, reply) => {
                    writes.push(Write::Commit(changes));
                    answers.push(Answer::Numbers(reply));
                }
                Command::Acked(seqs, reply) => {
                    writes.push(Write::Acked(seqs));
                    answers.push(Answer::Done(reply));
                }
                Command::Park(seq, reason, reply) => {
                    writes.push(Write::Park(seq, reason));
                    answers.push(Answer::Done(reply));
                }
                Command::Resend(which, reply) => {
                    writes.push(Write::Resend(which));
                    answers.push(Answer::Resent(reply));
                }
                Command::Unpark(why, reply) => {
                    writes.push(Write::Unpark(why));
                    answers.push(Answer::Number(reply));
                }
                Command::NextEpoch(reply) => {
                    writes.push(Write::NextEpoch);
                    answers.push(Answer::Epoch(reply));
                }
                read => reads.push(read),
            }
        }
        if !writes.is_empty() {
            match self.write(&writes) {
                Ok(results) => {
                    self.reserve();
                    self.publish_totals();
                    self.note_failing(None);
                    for (answer, result) in answers.into_iter().zip(results) {
                        if let (Answer::Resent(_), Ok(seqs)) = (&answer, &result)
                            && let Some(through) = seqs.iter().max()
                        {
                            self.resent.send_modify(|r| {
                                (r.times, r.through) = (r.times + 1, r.through.max(*through));
                            });
                        }
                        answer.give(result);
                    }
                }
                Err(e) => {
                    self.gauges.failures.add(1);
                    tracing::error!(err = %e.chain(), "store cannot be written");
                    self.note_failing(Some(e.chain()));
                    for answer in answers {
                        let result = match &answer {
                            Answer::Epoch(_) => Ok(vec![self.unsaved_epoch()]),
                            _ => Err(e.clone()),
                        };
                        answer.give(result);
                    }
                }
            }
        }
        for read in reads {
            match read {
                Command::Read(cursor, limit, reply) => {
                    reply(self.mending(|store| store.read(cursor, limit)));
                }
                Command::OpenFindings(reply) => {
                    reply(self.mending(|store| store.ledger("open = 1", 0)));
                }
                Command::ClosedSince(since, reply) => {
                    let which = "open = 0 AND updated_utc >= ?1";
                    reply(self.mending(|store| store.ledger(which, since.0)));
                }
                Command::Finding(finding, reply) => {
                    reply(self.mending(|store| store.finding(finding)));
                }
                Command::Shelf(shelf, reply) => reply(self.mending(|store| store.shelf(shelf))),
                _ => unreachable!("writes were taken out above"),
            }
        }
    }

    /// All of `writes` in one transaction, or none.
    fn write(&mut self, writes: &[Write]) -> Result<Vec<Numbers>, StoreError> {
        self.mend()?;
        let now = self.clock.utc();
        match apply(&mut self.conn, self.totals, writes, now) {
            Ok((totals, results)) => {
                self.totals = totals;
                Ok(results)
            }
            Err(e) => {
                let e = StoreError::from(e);
                if !e.is_corrupt() {
                    return Err(e);
                }
                self.renew(&e)?;
                let (totals, results) = apply(&mut self.conn, self.totals, writes, now)?;
                self.totals = totals;
                Ok(results)
            }
        }
    }

    /// An epoch for a store that cannot be written: the connection is to say so. The next one that can
    /// be kept is higher; only a restart in between gives the same one again.
    fn unsaved_epoch(&mut self) -> u64 {
        self.totals.epoch += 1;
        self.totals.epoch as u64
    }

    /// What `read` finds; if the file turns out to be damaged, what it finds in the new one.
    fn mending<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.mend()?;
        match read(self) {
            Err(e) if e.is_corrupt() => {
                self.renew(&e)?;
                self.publish_totals();
                read(self)
            }
            other => other,
        }
    }

    /// Sets a damaged file aside and goes on with a new one.
    fn renew(&mut self, error: &StoreError) -> Result<(), StoreError> {
        self.gauges.failures.add(1);
        // The old connection must be gone before its file is moved, and must leave it as it is.
        self.conn
            .set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.conn = Connection::open_in_memory()?;
        self.damaged = Some(error.clone());
        self.mend()
    }

    /// Replaces a damaged file; without one, does nothing. Where it fails, the next call tries again.
    fn mend(&mut self) -> Result<(), StoreError> {
        let Some(damage) = self.damaged.clone() else {
            return Ok(());
        };
        // What we remember is newer than what could be read.
        let floor = Floor {
            last_seq: Some(self.totals.last_seq),
            epoch: self.totals.epoch,
            reserved: self.reserved,
        };
        // One that was sealed and not brought into its place yet is the store already.
        let swapped = Swap::unfinished(&self.path).and_then(|swap| match swap {
            Some(swap) => swap.finish().map(|()| true),
            None => Ok(false),
        });
        let renewed = match swapped {
            Ok(true) => open_checked(&self.path, &*self.clock, Log::Wal),
            Ok(false) => renew(
                &self.path,
                &*self.clock,
                &damage,
                floor,
                &self.gauges.damaged,
            ),
            Err(e) => Err(cannot_write(&self.path, e)),
        };
        let renewed = renewed.and_then(|conn| Ok((Totals::read(&conn)?, conn)));
        match renewed {
            Ok((totals, conn)) => {
                (self.totals, self.conn, self.damaged) = (totals, conn, None);
                self.reserve();
                self.look_aside();
                // What was saved from the ledger waits before what has been read already.
                self.resent.send_modify(|r| {
                    (r.times, r.through) = (r.times + 1, r.through.max(totals.last_seq as u64));
                });
                Ok(())
            }
            Err(e) => {
                tracing::error!(err = %e.chain(), "damaged store cannot be set aside");
                Err(damage)
            }
        }
    }

    fn note_failing(&self, why: Option<String>) {
        self.health.send_if_modified(|health| {
            let is_news = health.failing != why;
            health.failing = why;
            is_news
        });
    }

    fn look_aside(&mut self) {
        self.looked_aside = self.clock.mono();
        let names = files::set_aside(&self.path);
        self.health.send_if_modified(|health| {
            let is_news = health.set_aside != names;
            health.set_aside = names;
            is_news
        });
    }

    /// Keeps the number in the lock file well ahead of `seq`.
    fn reserve(&mut self) {
        if self.totals.last_seq + RESERVE / 2 < self.reserved {
            return;
        }
        let next = self.totals.last_seq + RESERVE;
        let text = format!("{next:020}\n");
        let written = self.lock.write_all_at(text.as_bytes(), 0);
        match written.and_then(|()| self.lock.sync_all()) {
            Ok(()) => self.reserved = next,
            Err(e) => tracing::warn!(err = %e, "number in reserve not written"),
        }
    }

    fn read(&mut self, cursor: Cursor, limit: usize) -> Result<Batch, StoreError> {
        let mut batch = Batch {
            cursor,
            ..Batch::default()
        };
        let mut unreadable = Vec::new();
        let mut left = limit;
        let room = limit / OLDEST_PART;
        let (last, found) = self.read_lane(None, &cursor, room, &mut batch, &mut unreadable)?;
        batch.cursor.oldest = last;
        left -= found;
        for class in 0..3 {
            for late in 0..2 {
                let (lane, from) = (Some((class, late)), batch.cursor);
                let (last, found) =
                    self.read_lane(lane, &from, left, &mut batch, &mut unreadable)?;
                batch.cursor.lanes[class][late] = last;
                batch.more |= found == left;
                left -= found;
            }
        }
        let boundary = cursor.boundary as u64;
        let order = |r: &Record| (r.body.class(), r.seq <= boundary, r.seq);
        batch.records.sort_unstable_by_key(order);
        for (seq, reason) in unreadable {
            tracing::error!(seq, reason, "stored record put aside");
            self.write(&[Write::Park(seq, reason)])?;
            self.publish_totals();
        }
        Ok(batch)
    }

    /// Reads up to `room` records of a lane (class less 1; 0 news, 1 late), or the oldest of all, that no
    /// read since the beginning has found. The number of the last, and how many there were.
    fn read_lane(
        &self,
        lane: Option<(usize, usize)>,
        from: &Cursor,
        room: usize,
        batch: &mut Batch,
        unreadable: &mut Vec<(u64, String)>,
    ) -> Result<(i64, usize), StoreError> {
        let (after, through) = match lane {
            Some((class, 0)) => (from.lanes[class][0], i64::MAX),
            Some((class, late)) => (from.lanes[class][late], from.boundary),
            None => (from.oldest, i64::MAX),
        };
        let (mut last, mut found) = (after, 0);
        if room == 0 || through <= after {
            return Ok((last, found));
        }
        let columns = "SELECT seq, created_utc, payload, revision,
             (SELECT revision FROM ledger l WHERE l.finding = o.subject), kind
           FROM outbox o WHERE parked IS NULL AND seq <= ?1";
        let [[n1, l1], [n2, l2], [n3, l3]] = from.lanes;
        let (mut statement, mut rows);
        if let Some((class, _)) = lane {
            let sql = format!("{columns} AND seq > ?2 AND class = ?3 ORDER BY seq LIMIT ?4");
            statement = self.conn.prepare_cached(&sql)?;
            let after = after.max(from.oldest);
            rows = statement.query(params![through, after, class as i64 + 1, room as i64])?;
        } else {
            let sql = format!(
                "{columns} AND seq > ?2 AND seq > CASE class
                   WHEN 1 THEN iif(seq > ?3, ?4, ?5) WHEN 2 THEN iif(seq > ?3, ?6, ?7)
                   ELSE iif(seq > ?3, ?8, ?9) END ORDER BY seq LIMIT ?10"
            );
            statement = self.conn.prepare_cached(&sql)?;
            let (edge, room) = (from.boundary, room as i64);
            rows = statement.query(params![through, after, edge, n1, l1, n2, l2, n3, l3, room])?;
        }
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            found += 1;
            match record_of(last as u64, row) {
                Ok(record) => batch.records.push(record),
                Err(why) => unreadable.push((last as u64, format!("unreadable: {why}"))),
            }
        }
        Ok((last, found))
    }

    fn shelf(&self, shelf: Shelf) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT key, body FROM shelf WHERE shelf = ?1 ORDER BY key";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([shelf.as_str()])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            match both(row) {
                Ok(entry) => all.push(entry),
                Err(e) => {
                    tracing::error!(shelf = shelf.as_str(), err = %e, "entry is unreadable");
                }
            }
        }
        Ok(all)
    }

    fn finding(&self, finding: Uuid) -> Result<Option<LedgerEntry>, StoreError> {
        let sql = "SELECT seq, updated_utc, payload FROM ledger WHERE finding = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query([finding.as_bytes()])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let entry = entry_of(row)
            .inspect_err(|e| tracing::error!(%finding, err = %e, "ledger entry is unreadable"));
        Ok(entry.ok())
    }

    /// The entries for which `which` holds; its parameter, if it has one, is `since`.
    fn ledger(&self, which: &str, since: i64) -> Result<Vec<LedgerEntry>, StoreError> {
        let sql =
            format!("SELECT seq, updated_utc, payload FROM ledger WHERE {which} ORDER BY seq");
        let mut statement = self.conn.prepare_cached(&sql)?;
        let since = [since];
        let asked = &since[..statement.parameter_count()];
        let mut rows = statement.query(rusqlite::params_from_iter(asked))?;
        let mut open = Vec::new();
        while let Some(row) = rows.next()? {
            match entry_of(row) {
                Ok(entry) => open.push(entry),
                Err(e) => tracing::error!(err = %e, "finding in the ledger is unreadable"),
            }
        }
        Ok(open)
    }

    /// Forgets findings that were closed long ago. A failure waits for the next time.
    fn prune(&mut self) {
        self.pruned = self.clock.mono();
        let before = self.clock.utc().0 - LEDGER_KEPT.as_micros() as i64;
        let sql = "DELETE FROM ledger WHERE open = 0 AND updated_utc < ?1";
        if let Err(e) = self.conn.execute(sql, [before]) {
            tracing::warn!(err = %e, "ledger not pruned");
        }
    }

    fn publish_totals(&mut self) {
        let oldest = "SELECT created_utc FROM outbox WHERE parked IS NULL ORDER BY seq LIMIT 1";
        let oldest = self
            .conn
            .prepare_cached(oldest)
            .and_then(|mut s| s.query_row([], |row| row.get::<_, i64>(0)).optional());
        // A clock that was set back gives an age of 0, not a huge one.
        let age = |created: i64| (self.clock.utc().0 - created).max(0) as u64 / 1_000_000;
        let status = OutboxStatus {
            records: self.totals.records.max(0) as u64,
            bytes: self.totals.bytes.max(0) as u64,
            oldest_seconds: oldest.ok().flatten().map_or(0, age),
            parked: self.totals.parked.max(0) as u64,
        };
        self.gauges.records.set(status.records);
        self.gauges.bytes.set(status.bytes);
        self.gauges.oldest_seconds.set(status.oldest_seconds);
        self.gauges.parked.set(status.parked);
        self.status.send_replace(status);
        let last = self.totals.last_seq as u64;
        let committed = last.saturating_sub(*self.last_seq.borrow());
        if committed > 0 {
            self.gauges.committed.add(committed);
            self.last_seq.send_replace(last);
        }
    }
}

enum Write {
    Commit(Vec<Change>),
    Acked(Vec<u64>),
    Park(u64, String),
    Resend(Again),
    Unpark(&'static str),
    NextEpoch,
}

enum Answer {
    Numbers(Reply<Vec<u64>>),
    /// The same, and the uplink is told.
    Resent(Reply<Vec<u64>>),
    Number(Reply<u64>),
    Epoch(Reply<u64>),
    Done(Reply<()>),
}

impl Answer {
    fn give(self, result: Numbers) {
        match self {
            Self::Numbers(reply) | Self::Resent(reply) => reply(result),
            Self::Number(reply) | Self::Epoch(reply) => {
                reply(result.map(|n| n.first().copied().unwrap_or_default()));
            }
            Self::Done(reply) => reply(result.map(|_| ())),
        }
    }
}

/// What a write answers with: the `seq` of each record, an epoch, a count, or nothing.
type Numbers = Result<Vec<u64>, StoreError>;
type Applied = (Totals, Vec<Numbers>);

fn apply(
    conn: &mut Connection,
    mut totals: Totals,
    writes: &[Write],
    now: UtcMicros,
) -> rusqlite::Result<Applied> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        results.push(match write {
            Write::Commit(changes) => commit(&tx, &mut totals, changes, now)?,
            Write::Acked(seqs) => {
                for &seq in seqs {
                    remove(&tx, &mut totals, seq)?;
                }
                Ok(Vec::new())
            }
            Write::Park(seq, reason) => {
                let sql = "UPDATE outbox SET parked = ?2 WHERE seq = ?1 AND parked IS NULL
                           RETURNING bytes";
                let bytes = tx
                    .prepare_cached(sql)?
                    .query_row(params![*seq as i64, reason], |row| row.get::<_, i64>(0))
                    .optional()?;
                if let Some(bytes) = bytes {
                    totals.records -= 1;
                    totals.bytes -= bytes;
                    totals.parked += 1;
                }
                Ok(Vec::new())
            }
            Write::Resend(which) => Ok(resend(&tx, &mut totals, *which)?),
            Write::Unpark(why) => {
                // `substr` of null is null, which is not equal to anything.
                let parked = "substr(parked, 1, length(?1)) = ?1";
                let sql = format!("SELECT coalesce(sum(bytes), 0) FROM outbox WHERE {parked}");
                totals.bytes += tx.query_row(&sql, [why], |row| row.get::<_, i64>(0))?;
                let sql = format!("UPDATE outbox SET parked = NULL WHERE {parked}");
                let n = tx.execute(&sql, [why])? as i64;
                totals.records += n;
                totals.parked -= n;
                Ok(vec![n as u64])
            }
            Write::NextEpoch => {
                let sql = "UPDATE meta SET value = max(value, ?1) + 1 WHERE key = 'epoch'
                           RETURNING value";
                totals.epoch = tx.query_row(sql, [totals.epoch], |row| row.get(0))?;
                Ok(vec![totals.epoch as u64])
            }
        });
    }
    tx.commit()?;
    Ok((totals, results))
}

/// Records that one command may bring back.
const MOST_RESENT: i64 = 1000;

fn resend(tx: &Transaction<'_>, totals: &mut Totals, which: Again) -> rusqlite::Result<Vec<u64>> {
    let (sql, id, from, to) = match which {
        Again::Finding(id) => ("finding = ?1 AND seq BETWEEN ?2 AND ?3", id, 0, i64::MAX),
        Again::Range(from, to) => {
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let sql = "?1 IS NOT NULL AND seq BETWEEN ?2 AND ?3";
            (sql, Uuid::nil(), number(from), number(to))
        }
    };
    let sql = format!(
        "SELECT seq, updated_utc, payload FROM ledger WHERE {sql} ORDER BY seq LIMIT {MOST_RESENT}"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![id.as_bytes(), from, to])?;
    let mut seqs = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, created): (i64, i64) = (row.get(0)?, row.get(1)?);
        let text = row.get_ref(2)?.as_bytes().map_err(rusqlite::Error::from)?;
        let Ok(data) = serde_json::from_slice(text) else {
            continue;
        };
        seqs.push(seq as u64);
        let parked = tx
            .prepare_cached("SELECT parked IS NOT NULL, bytes FROM outbox WHERE seq = ?1")?
            .query_row([seq], |row| {
                Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        if let Some((true, bytes)) = parked {
            // Whoever asks for it has put right what stood in its way, or wants to try.
            tx.prepare_cached("UPDATE outbox SET parked = NULL WHERE seq = ?1")?
                .execute([seq])?;
            totals.records += 1;
            totals.bytes += bytes;
            totals.parked -= 1;
        } else if parked.is_none() {
            let body = RecordBody::Finding(Box::new(data));
            totals.bytes += insert(tx, seq, created, None, &body)?;
            totals.records += 1;
        }
    }
    Ok(seqs)
}

/// The body of a stored record; why not, if it is none.
/// The record in a row of the outbox. A damaged value costs this record only: SQLite keeps any type in any
/// column, and any bytes in a text.
fn record_of(seq: u64, row: &rusqlite::Row<'_>) -> Result<Record, String> {
    let broken = |e: rusqlite::Error| e.to_string();
    let text = row.get_ref(2).map_err(broken)?;
    let text = text.as_bytes().map_err(|e| e.to_string())?;
    let kind: String = row.get(5).map_err(broken)?;
    let body = body_of(&kind, text)?;
    let revision: u32 = row.get(3).map_err(broken)?;
    let known: Option<u32> = row.get(4).map_err(broken)?;
    Ok(Record {
        seq,
        created: UtcMicros(row.get(1).map_err(broken)?),
        topic_tail: body.topic_tail(),
        body,
        latest: known.is_none_or(|known| known <= revision),
    })
}

/// The same of a row of the ledger: number, time, payload.
fn entry_of(row: &rusqlite::Row<'_>) -> Result<LedgerEntry, String> {
    let broken = |e: rusqlite::Error| e.to_string();
    let text = row.get_ref(2).map_err(broken)?;
    let text = text.as_bytes().map_err(|e| e.to_string())?;
    Ok(LedgerEntry {
        seq: row.get::<_, i64>(0).map_err(broken)? as u64,
        created: UtcMicros(row.get(1).map_err(broken)?),
        data: serde_json::from_slice(text).map_err(|e| e.to_string())?,
    })
}

/// The same of a shelf.
fn both(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn body_of(kind: &str, text: &[u8]) -> Result<RecordBody, String> {
    let kind =
        RecordKind::from_word(kind).ok_or_else(|| format!("no kind of record is {kind:?}"))?;
    RecordBody::from_json(kind, text).map_err(|e| e.to_string())
}

/// All of `changes`, or none if one of them is refused.
fn commit(
    tx: &Transaction<'_>,
    totals: &mut Totals,
    changes: &[Change],
    now: UtcMicros,
) -> rusqlite::Result<Numbers> {
    let mut stored = Vec::new();
    for change in changes {
        if let Change::Record(body) = change {
            match stored_as(tx, body)? {
                Ok(seq) => stored.push(seq),
                Err(stale) => return Ok(Err(stale)),
            }
        }
    }
    let (mut stored, mut seqs) = (stored.into_iter(), Vec::new());
    for change in changes {
        match change {
            Change::Record(body) => {
                let seq = if let Some(seq) = stored.next().flatten() {
                    seq
                } else {
                    let seq = bump(tx, "last_seq")?;
                    let bytes = insert(tx, seq, now.0, None, body)?;
                    totals.last_seq = seq;
                    totals.records += 1;
                    totals.bytes += bytes;
                    seq
                };
                seqs.push(seq as u64);
            }
            Change::Put { shelf, key, body } => put(tx, shelf.as_str(), key, now.0, body)?,
            Change::Delete { shelf, key } => {
                tx.prepare_cached("DELETE FROM shelf WHERE shelf = ?1 AND key = ?2")?
                    .execute(params![shelf.as_str(), key])?;
            }
        }
    }
    Ok(Ok(seqs))
}

/// The number under which the record is stored already, if it is; an error if it is out of date.
fn stored_as(
    tx: &Transaction<'_>,
    body: &RecordBody,
) -> rusqlite::Result<Result<Option<i64>, StoreError>> {
    let Some(data) = body.finding() else {
        let sql = "SELECT seq FROM outbox WHERE kind <> 'finding' AND subject = ?1";
        let id = body.event_id();
        let known = tx
            .prepare_cached(sql)?
            .query_row([id.as_bytes()], |row| row.get::<_, i64>(0))
            .optional()?;
        return Ok(Ok(known));
    };
    let known = tx
        .prepare_cached("SELECT revision, seq FROM ledger WHERE finding = ?1")?
        .query_row([data.finding.as_bytes()], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    Ok(match known {
        Some((known, seq)) if known == data.revision => Ok(Some(seq)),
        Some((known, _)) if known > data.revision => Err(StoreError::Stale {
            finding: data.finding,
            revision: data.revision,
            known,
        }),
        _ => Ok(None),
    })
}

fn put(
    tx: &Transaction<'_>,
    shelf: &str,
    key: &str,
    updated_utc: i64,
    body: &str,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO shelf (shelf, key, updated_utc, body) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (shelf, key) DO UPDATE SET updated_utc = excluded.updated_utc,
           body = excluded.body",
    )?
    .execute(params![shelf, key, updated_utc, body])?;
    Ok(())
}

/// One record into the outbox, and a finding's into the ledger; its size.
fn insert(
    tx: &Transaction<'_>,
    seq: i64,
    created_utc: i64,
    parked: Option<&str>,
    body: &RecordBody,
) -> rusqlite::Result<i64> {
    let text = body.to_json();
    let id = body.event_id();
    let (subject, revision, code): (&[u8], u32, &str) = match body.finding() {
        Some(data) => (data.finding.as_bytes(), data.revision, &data.code),
        None => (id.as_bytes(), 0, ""),
    };
    let bytes = text.len() as i64;
    tx.prepare_cached(
        "INSERT INTO outbox (seq, subject, revision, code, class, created_utc, bytes, parked, payload,
           kind)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        seq,
        subject,
        revision,
        code,
        body.class().clamp(1, 3),
        created_utc,
        bytes,
        parked,
        text,
        body.kind().as_str()
    ])?;
    if let Some(data) = body.finding() {
        note(tx, seq, created_utc, data, &text)?;
    }
    Ok(bytes)
}

/// One revision into the ledger, unless it knows a newer one.
fn note(
    tx: &Transaction<'_>,
    seq: i64,
    updated_utc: i64,
    data: &FindingData,
    text: &str,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO ledger (finding, revision, seq, open, updated_utc, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (finding) DO UPDATE SET revision = excluded.revision, seq = excluded.seq,
           open = excluded.open, updated_utc = excluded.updated_utc, payload = excluded.payload
         WHERE excluded.revision > ledger.revision",
    )?
    .execute(params![
        data.finding.as_bytes(),
        data.revision,
        seq,
        data.phase != FindingPhase::Closed,
        updated_utc,
        text
    ])?;
    Ok(())
}

fn remove(tx: &Transaction<'_>, totals: &mut Totals, seq: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM outbox WHERE seq = ?1 RETURNING bytes, parked IS NOT NULL";
    let row = tx
        .prepare_cached(sql)?
        .query_row([seq as i64], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    match row {
        Some((_, true)) => totals.parked -= 1,
        Some((bytes, false)) => {
            totals.records -= 1;
            totals.bytes -= bytes;
        }
        None => {}
    }
    Ok(())
}

fn bump(tx: &Transaction<'_>, key: &str) -> rusqlite::Result<i64> {
    tx.prepare_cached("UPDATE meta SET value = value + 1 WHERE key = ?1 RETURNING value")?
        .query_row([key], |row| row.get(0))
}

impl Totals {
    fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT count(*) FILTER (WHERE parked IS NULL),
                     coalesce(sum(bytes) FILTER (WHERE parked IS NULL), 0),
                     count(*) FILTER (WHERE parked IS NOT NULL),
                     (SELECT value FROM meta WHERE key = 'last_seq'),
                     (SELECT value FROM meta WHERE key = 'epoch')
                   FROM outbox";
        conn.query_row(sql, [], |row| {
            Ok(Self {
                records: row.get(0)?,
                bytes: row.get(1)?,
                parked: row.get(2)?,
                last_seq: row.get(3)?,
                epoch: row.get(4)?,
            })
        })
    }
}

/// Numbers below which the counters of a new file must not begin.
#[derive(Clone, Copy, Debug, Default)]
struct Floor {
    /// What we gave last; `None` if only the file knew.
    last_seq: Option<i64>,
    epoch: i64,
    /// What `seq` cannot have reached.
    reserved: i64,
}

impl Floor {
    /// A number above this comes from a page that is not what it was. Where the lock file could not be
    /// written for long, numbers may be somewhat above what it says.
    fn most(&self) -> i64 {
        match self.reserved {
            0 => 1 << 40,
            reserved => reserved + (1 << 20),
        }
    }
}

/// What the lock file holds in reserve; 0 if it says nothing.
fn reserved_in(lock: &File) -> i64 {
    let mut text = [0; 20];
    let read = lock.read_exact_at(&mut text, 0);
    let number = std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok());
    number.filter(|_| read.is_ok()).unwrap_or(0)
}

fn cannot_write(path: &Path, source: io::Error) -> StoreError {
    StoreError::Unwritable {
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

/// How a file keeps its transactions.
#[derive(Clone, Copy)]
enum Log {
    Wal,
    /// For a file that is to be moved: it has no second file when it is closed.
    Journal,
}

fn open_checked(
    path: &Path,
    clock: &dyn crate::base::time::Clock,
    log: Log,
) -> Result<Connection, StoreError> {
    let open = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            StoreError::Unwritable {
                path: path.to_owned(),
                source: Arc::new(io::Error::other(e)),
            }
        }
        _ => e.into(),
    };
    let mut conn = Connection::open(path).map_err(open)?;
    // A file that turns out to be damaged stays as it is, and so does its log.
    conn.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Whoever looks into the file by hand may hold it for a moment.
    conn.busy_timeout(Duration::from_secs(5))?;
    if let Log::Wal = log {
        conn.execute_batch("PRAGMA journal_mode = WAL;")
            .map_err(open)?;
    }
    conn.execute_batch("PRAGMA synchronous = FULL;")
        .map_err(open)?;
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > SCHEMA_VERSION {
        let path = path.to_owned();
        return Err(StoreError::NewerSchema {
            path,
            found,
            known: SCHEMA_VERSION,
        });
    }
    // Not `quick_check`, which does not hold indices against tables: a record that the index has not is never
    // sent, and nobody is told. For 0.5 GB of records the whole check takes 0.37 s, the quick one 0.26 s.
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(corrupt(verdict));
    }
    if found == 0 {
        let tx = conn.transaction()?;
        tx.execute_batch(SCHEMA).map_err(open)?;
        tx.execute_batch(SCHEMA_2).map_err(open)?;
        let epoch = (clock.utc().0 / 1_000_000).max(0);
        let sql = "INSERT INTO meta (key, value) VALUES ('last_seq', 0), ('epoch', ?1)";
        tx.execute(sql, [epoch])?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit().map_err(open)?;
    }
    if found == 1 {
        let tx = conn.transaction()?;
        tx.execute_batch(FROM_1_TO_2).map_err(open)?;
        tx.execute_batch(SCHEMA_2).map_err(open)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit().map_err(open)?;
    }
    // What SQLite takes for well formed need not be ours: a flipped bit in a column's name, in a type or in
    // the byte that makes a file read-only shows at the first commit otherwise, or at none.
    let is_ours = layout(&conn)? == layout_as_created()?;
    if !is_ours || conn.is_readonly("main")? {
        OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|e| cannot_write(path, e))?;
        return Err(corrupt(
            if is_ours {
                "its first page says that it is read-only"
            } else {
                "its tables are not those of its layout"
            }
            .to_owned(),
        ));
    }
    conn.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(conn)
}

fn corrupt(what: String) -> StoreError {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    StoreError::Corrupt(Arc::new(rusqlite::Error::SqliteFailure(code, Some(what))))
}

/// The tables with their columns and the indices, a line each. Not the statements that made them: a table that
/// was brought to this layout has another one.
fn layout(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "
        SELECT concat_ws(' ', 'table', t.name, t.type, t.wr, t.strict, c.name, c.type, c.\"notnull\", c.pk,
                         c.hidden, c.dflt_value) AS line
          FROM pragma_table_list AS t, pragma_table_xinfo(t.name) AS c
         WHERE t.schema = 'main' AND t.name NOT LIKE 'sqlite_%'
        UNION ALL
        SELECT concat_ws(' ', type, name, tbl_name, sql) FROM sqlite_schema
         WHERE type <> 'table' AND name NOT LIKE 'sqlite_autoindex_%'
        ORDER BY line";
    let mut statement = conn.prepare(sql)?;
    let lines = statement.query_map([], |row| row.get(0))?;
    lines.collect()
}

/// The [`layout`] of a new store.
fn layout_as_created() -> rusqlite::Result<Vec<String>> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(SCHEMA)?;
    conn.execute_batch(SCHEMA_2)?;
    layout(&conn)
}

/// Writes what can still be read of a damaged file into a new one, and puts that into its place.
fn renew(
    path: &Path,
    clock: &dyn crate::base::time::Clock,
    error: &StoreError,
    floor: Floor,
    damaged: &Counter,
) -> Result<Connection, StoreError> {
    let swap = Swap::new(path, clock.utc().0.div_euclid(1_000_000));
    let file_error = |e| cannot_write(swap.aside(), e);
    swap.discard().map_err(file_error)?;
    let saved = open_checked(&swap.draft(), clock, Log::Journal).and_then(|mut draft| {
        let saved = salvage(path, &swap, &mut draft, floor, error, clock.utc())?;
        draft.close().map_err(|(_, e)| e)?;
        Ok(saved)
    });
    let sealed = saved.and_then(|saved| {
        swap.seal().map_err(file_error)?;
        Ok(saved)
    });
    let saved = sealed.inspect_err(|_| {
        // A disk that is full has no room for half a file.
        if let Err(e) = swap.discard() {
            tracing::warn!(err = %e, "half-made store not removed");
        }
    })?;
    swap.finish().map_err(file_error)?;
    damaged.add(1);
    tracing::error!(
        err = %error.chain(), aside = %swap.aside().display(), saved = saved.records,
        again = saved.again, through = saved.through,
        "store was damaged and set aside; records that could not be read from it are lost"
    );
    open_checked(path, clock, Log::Wal)
}

/// What was saved of a damaged file.
#[derive(Clone, Copy, Debug, Default)]
struct Saved {
    /// Records of its outbox.
    records: u64,
    /// Findings that are sent again because nobody knows whether their records were delivered.
    again: u64,
    /// The highest number that may have been given.
    through: i64,
}

/// A damaged file, opened so that it stays as it is.
fn open_damaged(path: &Path) -> Option<Connection> {
    let old = Connection::open(path).ok()?;
    old.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .ok()?;
    let schema = "SELECT count(*) FROM sqlite_schema WHERE name = 'outbox'";
    let known = old.query_row(schema, [], |row| row.get::<_, i64>(0));
    known.is_ok_and(|n| n == 1).then_some(old)
}

/// The page that names the tables, and how large a page is.
const PAGE: usize = 4096;

/// A copy of the damaged file, with the first page of a new one: tables lie where they always do.
fn with_another_head(path: &Path, swap: &Swap, draft: &Path) -> Option<Connection> {
    let copy = swap.copy();
    let mut bytes = std::fs::read(path).ok()?;
    let head = std::fs::read(draft).ok()?;
    if bytes.len() < 2 * PAGE || head.len() < PAGE {
        return None;
    }
    bytes[..PAGE].copy_from_slice(&head[..PAGE]);
    // Pages in the file, then the list of free ones and their count: see SQLite's file format, 1.3.
    let pages = (bytes.len() / PAGE) as u32;
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    bytes[32..40].fill(0);
    std::fs::write(&copy, bytes).ok()?;
    let log = beside(path, "-wal");
    if log.exists() {
        std::fs::copy(&log, beside(&copy, "-wal")).ok()?;
    }
    open_damaged(&copy)
}

/// Copies what can be read of a damaged file. Only writing can fail.
fn salvage(
    path: &Path,
    swap: &Swap,
    to: &mut Connection,
    floor: Floor,
    error: &StoreError,
    now: UtcMicros,
) -> Result<Saved, StoreError> {
    let is_ours = |conn: &Connection| layout(conn).ok() == layout_as_created().ok();
    let old = open_damaged(path)
        .filter(is_ours)
        .or_else(|| with_another_head(path, swap, &swap.draft()))
        .or_else(|| open_damaged(path));
    let tx = to.transaction()?;
    let mut saved = Saved::default();
    let mut last_seq = floor.last_seq;
    if let Some(old) = &old {
        for key in ["last_seq", "epoch"] {
            let sql = "SELECT value FROM meta WHERE key = ?1";
            let most = if key == "epoch" {
                1 << 40
            } else {
                floor.most()
            };
            if let Ok(value) = old.query_row(sql, [key], |row| row.get::<_, i64>(0))
                && value <= most
            {
                raise(&tx, key, value)?;
                if key == "last_seq" {
                    last_seq = last_seq.max(Some(value));
                }
            }
        }
        copy_rows(old, &tx, floor.most(), &mut saved)?;
    }
    // Without the counter nobody knows the newest number; but it is below the one in reserve.
    saved.through = saved.through.max(last_seq.unwrap_or(floor.reserved));
    raise(&tx, "last_seq", saved.through)?;
    raise(&tx, "epoch", floor.epoch)?;
    let notice = RecordBody::Notice(Box::new(damage(swap, &saved, error, now)));
    let seq = bump(&tx, "last_seq")?;
    insert(&tx, seq, now.0, None, &notice)?;
    tx.commit()?;
    drop(old);
    swap.discard_copy();
    Ok(saved)
}

fn raise(tx: &Transaction<'_>, key: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE meta SET value = max(value, ?2) WHERE key = ?1";
    tx.execute(sql, params![key, value]).map(drop)
}

fn copy_rows(
    old: &Connection,
    tx: &Transaction<'_>,
    most: i64,
    saved: &mut Saved,
) -> rusqlite::Result<()> {
    let is_number = |seq: i64| (1..=most).contains(&seq);
    // A file of layout 1 knows no kinds.
    let columns = [
        "seq, created_utc, parked, payload, kind",
        "seq, created_utc, parked, payload, 'finding'",
    ];
    let holes = each_row(old, "outbox", "seq", &columns, |row| {
        let (seq, utc): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (parked, text, kind): (Option<String>, String, String) =
            (row.get(2)?, row.get(3)?, row.get(4)?);
        if let Ok(body) = body_of(&kind, text.as_bytes())
            && is_number(seq)
        {
            saved.through = saved.through.max(seq);
            saved.records += 1;
            insert(tx, seq, utc, parked.as_deref(), &body)?;
        }
        Ok(())
    })?;
    let columns = ["rowid, seq, updated_utc, payload"];
    each_row(old, "ledger", "rowid", &columns, |row| {
        let (seq, utc, text): (i64, i64, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let Ok(data) = serde_json::from_str::<FindingData>(&text) else {
            return Ok(());
        };
        if !is_number(seq) {
            return Ok(());
        }
        saved.through = saved.through.max(seq);
        note(tx, seq, utc, &data, &text)?;
        let is_lost = holes.iter().any(|(from, to)| (*from..=*to).contains(&seq));
        let known = "SELECT 1 FROM outbox WHERE seq = ?1";
        if is_lost && !tx.prepare_cached(known)?.exists([seq])? {
            saved.again += 1;
            insert(tx, seq, utc, None, &RecordBody::Finding(Box::new(data)))?;
        }
        Ok(())
    })?;
    // Its keys are texts: from both ends, up to what cannot be read.
    for order in ["", " DESC"] {
        let sql = format!(
            "SELECT shelf, key, updated_utc, body FROM shelf ORDER BY shelf{order}, key{order}"
        );
        let Ok(mut statement) = old.prepare(&sql) else {
            break;
        };
        let mut rows = statement.query([])?;
        while let Ok(Some(row)) = rows.next() {
            let entry = || -> rusqlite::Result<(String, String, i64, String)> {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            };
            if let Ok((shelf, key, utc, body)) = entry() {
                put(tx, &shelf, &key, utc, &body)?;
            }
        }
    }
    Ok(())
}

/// Rows around a page that cannot be read that are asked for one by one: the numbers that damage leaves
/// may be any.
const ONE_BY_ONE: usize = 200_000;

/// Hands on the rows of a table in the order of its number, those behind a page that cannot be read as
/// well; returns the ranges of numbers that cannot. `columns`, of which the first that the file
/// understands count, begin with the number. Only what `take` does with a row can fail.
fn each_row(
    old: &Connection,
    table: &str,
    number: &str,
    columns: &[&str],
    mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<Vec<(i64, i64)>> {
    let all = vec![(i64::MIN, i64::MAX)];
    let select = |columns: &&str, which: &str| {
        old.prepare(&format!(
            "SELECT {columns} FROM {table} WHERE {number} {which}"
        ))
    };
    let readable = |c: &&&str| select(c, "= ?1").is_ok();
    let Some(columns) = columns.iter().find(readable) else {
        return Ok(all);
    };
    let behind = format!("> ?1 ORDER BY {number}");
    let (Ok(mut behind), Ok(mut one)) = (select(columns, &behind), select(columns, "= ?1")) else {
        return Ok(all);
    };
    let next = format!("SELECT min({number}) FROM {table} WHERE {number} > ?1");
    let last = format!("SELECT max({number}) FROM {table}");
    let last = old.query_row(&last, [], |row| row.get::<_, Option<i64>>(0));
    let Ok(mut next) = old.prepare(&next) else {
        return Ok(all);
    };
    let mut holes = Vec::new();
    let mut at = i64::MIN;
    loop {
        // A row that is not as expected is left out.
        let mut keep = |row: &rusqlite::Row<'_>| match take(row) {
            Err(e) if e.sqlite_error_code().is_some() => Err(e),
            _ => Ok(()),
        };
        let ended = {
            let mut rows = behind.query([at])?;
            loop {
                match rows.next() {
                    Ok(None) => break true,
                    // What does not rise comes from a page that is not what it was.
                    Ok(Some(row)) if row.get(0).is_ok_and(|n: i64| n > at) => {
                        keep(row)?;
                        at = row.get(0)?;
                    }
                    _ => break false,
                }
            }
        };
        if ended {
            return Ok(holes);
        }
        let Ok(Some(last)) = last else {
            holes.push((at.saturating_add(1), i64::MAX));
            return Ok(holes);
        };
        // How far it cannot be read: twice as far each time.
        let (from, mut step) = (at.max(0), 1);
        let mut found = None;
        while found.is_none() && step <= last.saturating_sub(from) {
            let behind = next.query_row([from + step], |row| row.get::<_, Option<i64>>(0));
            found = behind.ok().flatten().filter(|n| *n > from + step);
            step = step.saturating_mul(2);
        }
        let to = found.map_or(last, |n| n - 1);
        for n in (from + 1..=to).take(ONE_BY_ONE) {
            if let Ok(mut rows) = one.query([n])
                && let Ok(Some(row)) = rows.next()
            {
                keep(row)?;
            }
        }
        holes.push((at.saturating_add(1), to));
        if found.is_none() {
            return Ok(holes);
        }
        at = to;
    }
}

/// What the centre is told of it.
fn damage(swap: &Swap, saved: &Saved, error: &StoreError, now: UtcMicros) -> Notice {
    let file = swap.aside().file_name().unwrap_or_default();
    let file = file.to_string_lossy().into_owned();
    let mut bits = [0; 10];
    let digest = sha256_hex(file.as_bytes());
    bits.copy_from_slice(&digest.as_bytes()[..10]);
    let ms = u64::try_from(now.0.div_euclid(1000)).unwrap_or(0);
    let text = words::notice::store_damaged(&file, saved.through);
    Notice {
        id: uuid::Builder::from_unix_timestamp_millis(ms, &bits).into_uuid(),
        kind: "store.damaged".to_owned(),
        at: now,
        text: text.en,
        text_zh: text.zh,
        data: serde_json::json!({
            "file": file,
            "error": error.chain(),
            "records": saved.records,
            "again": saved.again,
            "through": saved.through,
        }),
    }
}

#[cfg(test)]
mod tests;
