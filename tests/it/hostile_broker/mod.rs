//! Delivery against brokers that do wrong: one of ours that does every wrong we know of, and mosquitto
//! killed, restarted and cut off.
//!
//! The oracle is the same for all: every committed record is delivered or put aside for a reason and
//! reported; what is delivered was committed, with the same content; twice is once by (`source`, `id`); a
//! fresh finding passes after the faults; and the faults and duplicates were there.
//!
//! # The long form
//! Each run follows from its seed: its faults, its records, when the daemon crashes. Timing does not, so a
//! seed that failed is repeated a few times.
//!
//! ```sh
//! MINGCHU_HOSTILE_RUNS=500 MINGCHU_HOSTILE_SEED=1000 cargo nextest run --locked --profile long \
//!     -E 'test(/hostile_broker::whatever/)'
//! ```
//!
//! | variable | meaning | without it |
//! | --- | --- | --- |
//! | `MINGCHU_HOSTILE_SEED` | the first seed; the others follow one by one | 1 |
//! | `MINGCHU_HOSTILE_RUNS` | how many seeds | 8 |
mod broker;
mod centre;
mod mosquitto;
mod outage;
mod packets;
mod proxy;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mingchu::uplink::{AckBy, RecordBody};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::broker::{busy_site, seq_in};
use broker::{Broker, Fault};
use site::{
    FastClock, Kitchen, LOOK_AGAIN, PATIENCE, SOURCE, Site, config, content, expected, within,
};

/// The long waits of delivery pass so many times as fast.
const FASTER: u32 = 60;
/// Faults of a run.
const FAULTS: usize = 5;
/// Runs at once: most of their time they wait.
const AT_ONCE: usize = 8;
/// Refusals after which delivery puts a record aside.
const REFUSALS: u32 = 5;
/// One record of so many is larger than a broker with a low maximum takes, whatever is left out.
const LARGE_EVERY: usize = 12;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|e| panic!("{variable}: {e}"))
    })
}

/// Says how to repeat what failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "repeat with MINGCHU_HOSTILE_SEED={} MINGCHU_HOSTILE_RUNS=1",
                self.0
            );
        }
    }
}

/// What happened in a run.
#[derive(Debug, Default)]
struct Tally {
    connections: u32,
    committed: usize,
    received: usize,
    duplicates: usize,
    refusals: u32,
    unheard: u32,
    reduced: usize,
    parked: usize,
    /// At the worst time, and told in the status.
    most_parked: u64,
    faults: Vec<Fault>,
}

/// The faults of a seed. The first two go round, so that enough seeds in a row have them all.
fn plan(seed: u64, rng: &mut fastrand::Rng) -> Vec<Fault> {
    let all = Fault::ALL;
    let at = |n: u64| all[((2 * seed + n) % all.len() as u64) as usize];
    let drawn = (2..FAULTS).map(|_| rng.choice(all).unwrap());
    let mut plan: Vec<Fault> = [at(0), at(1)].into_iter().chain(drawn).collect();
    rng.shuffle(&mut plan);
    plan
}

/// A finding of which no part that may be left out makes it large.
fn large(kitchen: &mut Kitchen) -> RecordBody {
    let RecordBody::Finding(mut data) = kitchen.opened(None) else {
        unreachable!("a finding was asked for");
    };
    data.rule.id = "x".repeat(2000);
    RecordBody::Finding(data)
}

async fn run(seed: u64) -> Tally {
    let _seed = Seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let ack = if seed.is_multiple_of(2) {
        AckBy::Centre
    } else {
        AckBy::Broker
    };
    let faults = plan(seed, &mut rng);
    let broker = Broker::start(rng.u64(..), faults.clone(), ack).await;
    let mut site = Site::new(config(broker.port, ack), FastClock::new(FASTER));
    let mut kitchen = Kitchen::new(rng.u64(..));
    site.start();
    let crash_after = rng.usize(20..120);
    let working = async {
        let mut n = 0;
        while !broker.behaves() {
            n += 1;
            let record = if n % LARGE_EVERY == 0 {
                large(&mut kitchen)
            } else {
                kitchen.record()
            };
            site.commit(vec![record]).await;
            if n == crash_after {
                site.abort().await;
                site.start();
            }
            // As rules would: a record now and then.
            tokio::time::sleep(Duration::from_millis(rng.u64(10..40))).await;
        }
    };
    if tokio::time::timeout(PATIENCE, working).await.is_err() {
        let (books, stats, health) = (broker.books(), site.store.stats(), site.health.borrow());
        panic!(
            "of {faults:?} in {} connections only {:?} happened; {stats:?}, {health:?}",
            books.connections, books.happened
        );
    }
    let fresh = site.commit(vec![kitchen.opened(Some(0))]).await[0];
    site.emptied().await;
    let stats = site.store.stats();
    if stats.parked > 0 {
        let reported = async {
            while broker.books().status["outbox"]["parked"] != stats.parked
                || !broker.books().status["problems"]
                    .to_string()
                    .contains("could not be")
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("the word on what was put aside", reported).await;
    }
    site.stop().await;
    let parked: BTreeSet<u64> = site.take_parked().await.into_iter().collect();
    assert_eq!(parked.len() as u64, stats.parked);

    let lost = || -> Vec<u64> {
        let books = broker.books();
        let safe = |seq: &&u64| books.delivered.contains(seq) || parked.contains(seq);
        site.committed
            .keys()
            .filter(|seq| !safe(seq))
            .copied()
            .collect()
    };
    // The broker writes its books after it has answered.
    let written = async {
        while !lost().is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(5), written).await;
    assert!(written.is_ok(), "lost: {:?}", lost());
    let books = broker.books();
    let newest = *site.committed.last_key_value().unwrap().0;
    assert_eq!(site.committed.len() as u64, newest, "a number was left out");
    assert!(
        books.delivered.contains(&fresh),
        "the fresh finding did not pass"
    );
    // What was too large for one connection goes with the next that takes it.
    for seq in &parked {
        let refused = books.refusals.get(seq).copied().unwrap_or_default();
        assert!(
            refused >= REFUSALS,
            "record {seq} was put aside after {refused} refusals"
        );
    }
    let (active, open) = (books.active.iter(), kitchen.open());
    let astray: Vec<_> = active.filter(|(id, n)| open.get(*id) != Some(n)).collect();
    assert!(astray.is_empty(), "retained and not so: {astray:?}");
    assert_eq!(books.active.len(), open.len(), "open and not retained");
    let reduced = check_content(&site, books.received.iter().map(|r| &r.event));
    assert_eq!(
        books.too_large, 0,
        "packets over the broker's maximum were sent"
    );
    assert_eq!(books.over_receive_maximum, 0, "too many publishes at once");
    assert!(
        books.widest_window <= 16,
        "the window was {}",
        books.widest_window
    );
    let mut happened = books.happened.clone();
    happened.sort_unstable();
    let mut planned = faults;
    planned.sort_unstable();
    assert_eq!(happened, planned);
    let distinct: BTreeSet<u64> = books.received.iter().map(|r| r.seq).collect();
    Tally {
        connections: books.connections,
        committed: site.committed.len(),
        received: books.received.len(),
        duplicates: books.received.len() - distinct.len(),
        refusals: books.refusals.values().sum(),
        unheard: books.unheard,
        reduced,
        parked: parked.len(),
        most_parked: books.most_parked,
        faults: happened,
    }
}

/// What was received was committed, and says the same; what came twice is one thing. How many were
/// reduced.
fn check_content<'e>(site: &Site, events: impl Iterator<Item = &'e Value>) -> usize {
    let mut reduced = 0;
    let mut times: BTreeMap<String, Value> = BTreeMap::new();
    let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let seq = event["seq"].as_u64().unwrap();
        let body = site.committed.get(&seq);
        let body = body.unwrap_or_else(|| panic!("record {seq} was never issued: {event}"));
        let (mut got, mut wanted) = (content(event.clone()), expected(seq, body));
        if let Some(left_out) = event["data"].get("reduced") {
            reduced += 1;
            for name in left_out.as_array().unwrap() {
                for data in [&mut got["data"], &mut wanted["data"]] {
                    data.as_object_mut().unwrap().remove(name.as_str().unwrap());
                }
            }
            got["data"].as_object_mut().unwrap().remove("reduced");
        }
        assert_eq!(got, wanted);
        assert_eq!(event["source"], SOURCE);
        let id = event["id"].as_str().unwrap().to_owned();
        let time = times
            .entry(id.clone())
            .or_insert_with(|| event["time"].clone());
        assert_eq!(*time, event["time"], "{id} at two times");
        assert_eq!(
            *numbers.entry(id.clone()).or_insert(seq),
            seq,
            "{id} under two numbers"
        );
    }
    let distinct: BTreeSet<u64> = numbers.values().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "one number for two events");
    reduced
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_broker_does_every_record_arrives_or_is_put_aside_and_said_so() {
    let (first, runs) = (
        number("MINGCHU_HOSTILE_SEED", 1),
        number("MINGCHU_HOSTILE_RUNS", 8),
    );
    let mut seeds = first..first + runs;
    let mut running = JoinSet::new();
    let mut tallies = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(seed) = seeds.next()
        {
            running.spawn(async move { (seed, run(seed).await) });
        }
        let Some(ended) = running.join_next().await else {
            break;
        };
        let (seed, tally) = ended.unwrap();
        eprintln!("seed {seed}: {tally:?}");
        tallies.push(tally);
    }
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    let faults: BTreeSet<Fault> = tallies.iter().flat_map(|t| t.faults.clone()).collect();
    eprintln!(
        "{runs} runs: {} connections, {} records, {} publishes received, {} of them duplicates, {} refused, \
         {} unheard, {} reduced, {} put aside for a while, {} for good; {} kinds of fault",
        sum(|t| t.connections as usize),
        sum(|t| t.committed),
        sum(|t| t.received),
        sum(|t| t.duplicates),
        sum(|t| t.refusals as usize),
        sum(|t| t.unheard as usize),
        sum(|t| t.reduced),
        sum(|t| t.most_parked as usize),
        sum(|t| t.parked),
        faults.len(),
    );
    // It must have been hard.
    assert!(sum(|t| t.connections as usize) > runs as usize * FAULTS);
    if runs * 2 >= Fault::ALL.len() as u64 {
        assert_eq!(faults.len(), Fault::ALL.len());
        assert!(sum(|t| t.duplicates) > 0);
        assert!(sum(|t| t.refusals as usize) > 0 && sum(|t| t.unheard as usize) > 0);
        assert!(sum(|t| t.reduced) > 0 && sum(|t| t.most_parked as usize) > 0);
    }
}

/// One finding after the other until the broker has done its wrong.
async fn provoke(site: &mut Site, broker: &Broker, kitchen: &mut Kitchen) {
    let wrong = async {
        while broker.books().happened.is_empty() {
            site.commit(vec![kitchen.opened(None)]).await;
            site.emptied_or(|| !broker.books().happened.is_empty())
                .await;
        }
    };
    within("the fault", wrong).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_comes_is_no_progress_although_all_others_do() {
    let broker = Broker::start(1, vec![Fault::LosesOneAck], AckBy::Broker).await;
    let mut site = Site::new(config(broker.port, AckBy::Broker), FastClock::new(FASTER));
    let mut kitchen = Kitchen::new(1);
    site.start();
    provoke(&mut site, &broker, &mut kitchen).await;
    // Nothing is committed any more, and every second a status is acknowledged.
    site.disconnected().await;
    let error = site.health.borrow().error.clone().unwrap_or_default();
    assert!(
        error.contains("left a message without acknowledgement"),
        "{error}"
    );
    site.emptied().await;
    let books = broker.books();
    assert_eq!(books.delivered.len(), site.committed.len());
    assert_eq!(
        books.received.len(),
        site.committed.len() + 1,
        "one was sent again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_daemon_gets_its_findings_past_a_broker_that_does_wrong() {
    let plan = vec![Fault::LosesOneAck, Fault::ClosesMidPacket];
    let broker = Broker::start(1, plan.clone(), AckBy::Broker).await;
    let site = busy_site(&format!("mqtt://127.0.0.1:{}", broker.port));
    let mut daemon = site.daemon();
    let newest = || broker.books().delivered.last().copied().unwrap_or_default();
    let recovered = async {
        while !broker.behaves() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Beside what waited meanwhile something fresh.
        let known = newest();
        while newest() < known + 3 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("all faults and a fresh finding", recovered).await;
    assert!(tokio::task::block_in_place(|| daemon.terminate()).success());
    let stored: Vec<u64> = daemon.said().lines().filter_map(seq_in).collect();
    let last = *stored.iter().max().unwrap();
    let books = broker.books();
    let lost: Vec<u64> = (1..=last)
        .filter(|seq| !books.delivered.contains(seq))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(books.happened, plan);
    assert!(
        books.received.len() > books.delivered.len(),
        "nothing came twice"
    );
}
