//! The outbox's budget: what may wait to be sent, and what is not sent when it is more. On tokio.
//!
//! What must not be here: what is on the disk for its own sake (`evidence` has a budget for that), and
//! how anything is sent.
//!
//! # Constraints
//! * A record is never dropped, whatever its class: not even a revision that a later one replaces, for
//!   the centre is promised numbers without gaps, and text is small. When records alone are more than
//!   the budget, nothing is left to give up; the outbox goes on growing, and the site says so.
//! * Files go by class, the lowest first; within it clips before pictures, and the oldest first. What is
//!   being sent is left alone.
//! * What goes is told: a notice `outbox.shed` for each kind and class, with a number of its own, is
//!   committed together with the removal.
//!
//! # Failure
//! A store that refuses: the files wait again, and the next second tries again.
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::evidence::{EvidenceItem, EvidenceOutbox, delete, id_of};
use super::record::{Change, Notice, RecordBody};
use super::store::StoreHandle;
use crate::base::heartbeat::Heartbeat;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{SharedClock, UtcMicros};
use crate::base::words::{self, Texts};

/// How often it is looked at.
const TICK: Duration = Duration::from_secs(1);
/// The task promises to beat at least this often.
pub const OUTBOX_BEAT: Duration = Duration::from_secs(60);
/// Once something must go, so much more goes with it that the next file does not need another notice at
/// once: a twentieth.
const HEADROOM: u64 = 20;
/// Files that go in one commit; more wait a second.
const MOST_AT_ONCE: usize = 1000;
/// Findings that a notice names at most.
const MOST_NAMED: usize = 100;

/// Everything the task owns.
pub struct OutboxBudget {
    /// What may wait.
    pub max_bytes: u64,
    /// Records, and where the word on files is kept.
    pub store: StoreHandle,
    /// Files that wait.
    pub outbox: EvidenceOutbox,
    /// What the site's status should say; `None`: nothing.
    pub tell: Box<dyn Fn(Option<Texts>) + Send + Sync>,
    /// The site's metrics.
    pub metrics: Metrics,
    /// The site's clock.
    pub clock: SharedClock,
    /// Beaten at least every [`OUTBOX_BEAT`].
    pub heartbeat: Heartbeat,
    /// Told to stop.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for OutboxBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxBudget")
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

/// Which files go so that the rest fits beside `record_bytes`.
fn to_shed(waiting: &[&EvidenceItem], record_bytes: u64, max_bytes: u64) -> Vec<EvidenceItem> {
    let files: u64 = waiting.iter().map(|item| item.bytes).sum();
    if files + record_bytes <= max_bytes {
        return Vec::new();
    }
    let goal = max_bytes - max_bytes / HEADROOM;
    let mut order = waiting.to_vec();
    order.sort_by_key(|item| {
        let class = std::cmp::Reverse(item.class);
        (
            class,
            item.kind != "clip",
            item.queued_us,
            item.finding,
            item.n,
        )
    });
    let mut left = files + record_bytes;
    let mut gone = Vec::new();
    for item in order {
        if left <= goal || gone.len() == MOST_AT_ONCE {
            break;
        }
        left -= item.bytes;
        gone.push(item.clone());
    }
    gone
}

/// What the centre is told of files that go: one notice for each kind and class.
fn notices(gone: &[EvidenceItem], now: UtcMicros) -> Vec<Notice> {
    let mut groups: BTreeMap<(u8, &str), Vec<&EvidenceItem>> = BTreeMap::new();
    for item in gone {
        groups
            .entry((item.class, &item.kind))
            .or_default()
            .push(item);
    }
    let groups = groups.into_iter().rev();
    let notice = |((class, kind), items): ((u8, &str), Vec<&EvidenceItem>)| {
        let queued = items.iter().map(|item| item.queued_us);
        let from = UtcMicros(queued.clone().min().unwrap_or_default());
        let until = UtcMicros(queued.max().unwrap_or_default());
        let mut findings: Vec<_> = items.iter().map(|item| item.finding).collect();
        findings.sort_unstable();
        findings.dedup();
        findings.truncate(MOST_NAMED);
        let text = words::notice::outbox_shed(items.len(), kind, class, from, until);
        let ms = u64::try_from(now.0.div_euclid(1000)).unwrap_or(0);
        Notice {
            id: id_of(ms, &format!("outbox.shed/{class}/{kind}/{from}/{until}")),
            kind: "outbox.shed".to_owned(),
            at: now,
            text: text.en,
            text_zh: text.zh,
            data: serde_json::json!({
                "class": class,
                "kind": kind,
                "files": items.len(),
                "bytes": items.iter().map(|item| item.bytes).sum::<u64>(),
                "from": from.to_string(),
                "until": until.to_string(),
                "findings": findings,
            }),
        }
    };
    groups.map(notice).collect()
}

impl OutboxBudget {
    /// Runs until told to stop.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.heartbeat.beat();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    async fn look(&self) {
        let records = self.store.stats().bytes;
        let gone = self
            .outbox
            .take_out(|waiting| to_shed(&waiting, records, self.max_bytes));
        let gauge = self.metrics.counter(Metric::OutboxEvidenceBytes, &[]);
        gauge.set(self.outbox.bytes());
        let over = records > self.max_bytes;
        let mib = |bytes: u64| bytes >> 20;
        (self.tell)(over.then(|| words::problem::outbox_over(mib(records), mib(self.max_bytes))));
        if gone.is_empty() {
            return;
        }
        // Dropped while the store is asked, as at a stop, it goes back: the store knows best at the start.
        let mut back = Back(self, gone);
        let mut changes: Vec<Change> = back.1.iter().map(delete).collect();
        let told = notices(&back.1, self.clock.utc()).into_iter();
        changes.extend(told.map(|n| Change::Record(RecordBody::Notice(Box::new(n)))));
        match self.store.commit_soon(changes).await {
            Ok(_) => {
                for item in std::mem::take(&mut back.1) {
                    let class = item.class.to_string();
                    let labels = [("kind", item.kind.as_str()), ("class", class.as_str())];
                    self.metrics.counter(Metric::OutboxShed, &labels).add(1);
                    tracing::info!(finding = %item.finding, kind = item.kind, class, bytes = item.bytes, "not sent: the outbox is over its budget");
                }
                gauge.set(self.outbox.bytes());
            }
            Err(e) => {
                tracing::warn!(err = %e.chain(), files = back.1.len(), "store does not take what the outbox gives up");
            }
        }
    }
}

/// Files taken out that wait again unless they are taken from here.
struct Back<'a>(&'a OutboxBudget, Vec<EvidenceItem>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        for item in self.1.drain(..) {
            self.0.outbox.add(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::base::heartbeat::Heartbeats;
    use crate::base::time::{ManualClock, MonoMicros};
    use crate::uplink::payload::tests::T;
    use crate::uplink::{Cursor, Shelf, Store};

    fn item(n: u32, kind: &str, class: u8, queued_us: i64, bytes: u64) -> EvidenceItem {
        EvidenceItem {
            finding: Uuid::from_u128(0x0193_5c3a_0000_7000_8000_0000_0000_0000 + u128::from(n)),
            n,
            kind: kind.to_owned(),
            media: "image/jpeg".to_owned(),
            file: format!("2026/11/24/{n}/frame.jpg"),
            sha256: "ab".repeat(32),
            bytes,
            redacted: true,
            class,
            queued_us,
        }
    }

    #[test]
    fn the_lowest_class_goes_first_its_clips_before_its_pictures_and_the_oldest_of_each() {
        let all = [
            item(1, "frame", 1, 1, 100),
            item(2, "frame", 2, 2, 100),
            item(3, "clip", 2, 9, 100),
            item(4, "frame", 3, 8, 100),
            item(5, "frame", 3, 7, 100),
        ];
        let all: Vec<_> = all.iter().collect();
        let names = |gone: Vec<EvidenceItem>| gone.iter().map(|i| i.n).collect::<Vec<_>>();
        assert_eq!(names(to_shed(&all, 500, 1000)), [] as [u32; 0]);
        // One byte too much takes a twentieth with it.
        assert_eq!(names(to_shed(&all, 501, 1000)), [5]);
        assert_eq!(names(to_shed(&all, 700, 1000)), [5, 4, 3]);
        // Records alone are too much: all files go.
        assert_eq!(names(to_shed(&all, 5000, 1000)), [5, 4, 3, 2, 1]);
    }

    proptest! {
        /// What is left fits, unless records alone are too much; nothing goes without need; whatever is
        /// left of a class or age, nothing of a higher class or younger of its kind is gone.
        #[test]
        fn what_is_left_fits_and_is_worth_more_than_what_is_gone(
            files in prop::collection::vec((1u8..=3, any::<bool>(), 0i64..50, 1u64..1000), 0..60),
            records in 0u64..20_000,
            max in 1u64..30_000,
        ) {
            let all: Vec<EvidenceItem> = (0u32..).zip(&files).map(|(n, (class, clip, at, bytes))| {
                item(n, if *clip { "clip" } else { "frame" }, *class, *at, *bytes)
            }).collect();
            let all: Vec<&EvidenceItem> = all.iter().collect();
            let gone = to_shed(&all, records, max);
            let total: u64 = all.iter().map(|i| i.bytes).sum();
            let bytes: u64 = gone.iter().map(|i| i.bytes).sum();
            prop_assert!(total + records - bytes <= max || gone.len() == all.len());
            prop_assert!(total + records > max || gone.is_empty());
            if let Some(last) = gone.last() {
                // Without the last one it would not have been enough.
                prop_assert!(total + records - (bytes - last.bytes) > max - max / HEADROOM);
            }
            for kept in all.iter().filter(|i| !gone.contains(i)) {
                for gone in &gone {
                    let same = gone.class == kept.class && gone.kind == kept.kind;
                    prop_assert!(gone.class >= kept.class);
                    prop_assert!(!same || gone.queued_us <= kept.queued_us);
                }
            }
            let told: u64 = notices(&gone, T).iter().map(|n| n.data["files"].as_u64().unwrap()).sum();
            prop_assert_eq!(told, gone.len() as u64);
        }
    }

    /// A store with files that wait, and the budget over both.
    fn budget(files: &[EvidenceItem], max_bytes: u64) -> (tempfile::TempDir, OutboxBudget) {
        let dir = tempfile::tempdir().unwrap();
        let (clock, metrics) = (ManualClock::new(MonoMicros(0), T), Metrics::default());
        let heartbeats = Heartbeats::new(clock.clone());
        let path = dir.path().join("store.sqlite");
        let (store, _thread) = Store::open(&path, clock.clone(), &metrics, &heartbeats).unwrap();
        store
            .commit(files.iter().map(EvidenceItem::change).collect())
            .unwrap();
        let outbox = EvidenceOutbox::open(&store, dir.path(), false).unwrap();
        let budget = OutboxBudget {
            max_bytes,
            store,
            outbox,
            tell: Box::new(|problem| assert_eq!(problem, None)),
            metrics,
            heartbeat: heartbeats.register("outbox", OUTBOX_BEAT),
            clock,
            stop: CancellationToken::new(),
        };
        (dir, budget)
    }

    #[tokio::test]
    async fn what_goes_is_off_the_shelf_told_and_counted_and_stays_away_after_a_restart() {
        let files: Vec<_> = (1..=20)
            .map(|n| item(n, "frame", (n % 3 + 1) as u8, i64::from(n), 100_000))
            .collect();
        let (dir, budget) = budget(&files, 1 << 20);
        budget.look().await;
        let left = budget.outbox.bytes();
        assert!(left <= (1 << 20) && left > 800_000, "{left}");
        let gone = 20 - left / 100_000;
        assert_eq!(budget.metrics.total(Metric::OutboxShed), gone);
        assert_eq!(budget.metrics.total(Metric::OutboxEvidenceBytes), left);
        let shelf = budget.store.shelf(Shelf::Evidence).unwrap();
        assert_eq!(shelf.len() as u64, 20 - gone);
        let again = EvidenceOutbox::open(&budget.store, dir.path(), false).unwrap();
        assert_eq!(again.bytes(), left);
        let records = budget.store.read(Cursor::default(), 100).await.unwrap();
        let mut told = 0;
        for record in &records.records {
            let RecordBody::Notice(notice) = &record.body else {
                panic!("{record:?}");
            };
            assert_eq!(notice.kind, "outbox.shed");
            assert!(
                notice.text.contains("uplink.outbox_mb") && notice.text_zh.contains("不再发送")
            );
            told += notice.data["files"].as_u64().unwrap();
            // Classes 3 and 2 are enough.
            assert!(notice.data["class"].as_u64().unwrap() > 1, "{notice:?}");
        }
        assert_eq!(told, gone);
        // Once is enough.
        budget.look().await;
        assert_eq!(budget.metrics.total(Metric::OutboxShed), gone);
    }

    #[tokio::test]
    async fn records_alone_over_the_budget_are_a_problem_and_none_is_dropped() {
        let (_dir, mut budget) = budget(&[item(1, "frame", 1, 1, 10)], 1000);
        let notice = |n: u128| Notice {
            id: Uuid::from_u128(n),
            kind: "clock.step".to_owned(),
            at: T,
            text: "x".repeat(200),
            data: serde_json::Value::Null,
            text_zh: String::new(),
        };
        let changes = (0..20).map(|n| Change::Record(RecordBody::Notice(Box::new(notice(n)))));
        budget.store.commit_soon(changes.collect()).await.unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        budget.tell = Box::new(move |problem| said.send(problem).unwrap());
        budget.look().await;
        let problem = heard.recv().unwrap().expect("a problem");
        assert!(
            problem.en.contains("records are never dropped"),
            "{}",
            problem.en
        );
        assert!(problem.zh.contains("绝不丢弃"), "{}", problem.zh);
        assert_eq!(budget.outbox.bytes(), 0);
        // The 20, and the word on the picture.
        assert_eq!(budget.store.stats().records, 21);
    }

    #[tokio::test]
    async fn files_wait_again_when_the_store_does_not_take_it() {
        let (_dir, budget) = budget(&[item(1, "frame", 1, 1, 5000)], 1000);
        budget.store.close();
        budget.look().await;
        assert_eq!(budget.outbox.bytes(), 5000);
        assert_eq!(budget.metrics.total(Metric::OutboxShed), 0);
    }
}
