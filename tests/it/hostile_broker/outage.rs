//! A day and a half without the broker, at a busy site's rate, in simulated time: nothing is lost, memory
//! stays flat, and what comes back comes by class.
//!
//! The store, the uplink and the wire are the real ones. The clock leaps from one five minutes to the next
//! while records are committed, and runs as it should while they are delivered. Meanwhile the broker's port
//! takes connections and nobody answers on it.
//!
//! # The rate
//! Eight cameras with three rules each, and every rule opens a finding as soon as its cool-down of five
//! minutes lets it: 288 findings an hour, which no kitchen keeps up for a day and a half. Each has four
//! revisions. A camera is lost and found again, and two notices come, every hour; and each hour's coverage.
//!
//! The long form tells its figures; those of one run are in `benches/README.md`:
//!
//! ```sh
//! cargo test --locked --test it -- --ignored --nocapture a_day_and_a_half
//! ```
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use mingchu::uplink::{AckBy, Change, RecordBody};
use tokio::net::TcpListener;

use super::broker::{Broker, Keeps, Received};
use super::site::{
    CAMERAS, FastClock, Kitchen, LOOK_AGAIN, Site, config, digest, expected, within,
};

const HOURS: usize = 36;
const STEPS_AN_HOUR: usize = 12;
const RULES: usize = 3;
/// Every rule of every camera, each time its cool-down is over.
const BUSIEST: usize = CAMERAS * RULES * STEPS_AN_HOUR;
/// The process may grow by no more while records pile up and go out. In memory, all records of the long
/// form are three times that.
const GROWTH_BYTES: u64 = 48 * 1024 * 1024;
/// Records in memory, in flight and beside them; see `Limits` in `uplink/delivery.rs`.
const NEAR: usize = 64 + 16 + 8;

/// What was committed: class and content by number.
#[derive(Default)]
struct Issued(BTreeMap<u64, (u8, u64)>);

impl Issued {
    /// As from many threads at once, each record by itself.
    async fn commit(&mut self, site: &Site, bodies: Vec<RecordBody>) -> Vec<u64> {
        let commits = bodies.iter().map(|body| {
            let change = Change::Record(body.clone());
            site.store.commit_soon(vec![change])
        });
        let seqs: Vec<u64> = join_all(commits)
            .await
            .into_iter()
            .map(|c| c.unwrap()[0])
            .collect();
        for (seq, body) in seqs.iter().zip(&bodies) {
            let content = digest(&expected(*seq, body));
            self.0.insert(*seq, (body.class(), content));
        }
        seqs
    }

    fn class(&self, seq: u64) -> u8 {
        self.0[&seq].0
    }
}

/// Bytes of this process in memory.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

async fn outage(findings_an_hour: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clock = FastClock::new(1);
    let mut site = Site::new(config(port, AckBy::Broker), clock.clone());
    let mut kitchen = Kitchen::new(1);
    let mut issued = Issued::default();
    site.start();

    let (mut first_hour, mut highest) = (0, 0);
    let began = Instant::now();
    for step in 0..HOURS * STEPS_AN_HOUR {
        clock.leap(Duration::from_secs(3600 / STEPS_AN_HOUR as u64));
        let mut bodies = Vec::new();
        for n in 0..findings_an_hour / STEPS_AN_HOUR {
            // One in ten is a rodent's, six a hat's, three a phone's.
            let code = [0, 1, 1, 1, 1, 1, 1, 2, 2, 2][(step + n) % 10];
            bodies.push(kitchen.opened(Some(code)));
            bodies.extend((0..3).map(|_| kitchen.revision()));
        }
        if step % STEPS_AN_HOUR == 0 {
            bodies.extend([kitchen.opened(Some(3)), kitchen.coverage()]);
            bodies.extend([kitchen.notice(), kitchen.notice()]);
        }
        issued.commit(&site, bodies).await;
        if step < STEPS_AN_HOUR {
            first_hour = resident_bytes();
        }
        highest = highest.max(resident_bytes());
    }
    let committing = began.elapsed();
    let late = issued.0.len();
    let stats = site.store.stats();
    assert_eq!(stats.records, late as u64);
    let a_day_and_more = 3600 * (HOURS as u64 - 1);
    assert!(stats.oldest_seconds >= a_day_and_more, "{stats:?}");

    let began = Instant::now();
    let broker = Broker::on(listener, 1, Vec::new(), AckBy::Broker, Keeps::Digests);
    let received = async |n: usize| {
        while broker.books().received.len() < n {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("the first tenth of them", received(late / 20)).await;
    // News, while the backlog goes out.
    let before = broker.books().received.len();
    let urgent = issued.commit(&site, vec![kitchen.opened(Some(0))]).await[0];
    let news = issued.commit(&site, vec![kitchen.opened(Some(1))]).await[0];
    let deadline = began + Duration::from_secs(300);
    while site.store.stats().records > 0 {
        highest = highest.max(resident_bytes());
        assert!(
            Instant::now() < deadline,
            "{:?} after 300 s",
            site.store.stats()
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let delivering = began.elapsed();
    site.stop().await;

    let books = broker.books();
    let lost: Vec<u64> = issued
        .0
        .keys()
        .copied()
        .filter(|seq| !books.delivered.contains(seq))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(
        books.delivered.len(),
        issued.0.len(),
        "what was never issued arrived"
    );
    for Received { seq, digest, .. } in &books.received {
        assert_eq!(*digest, issued.0[seq].1, "record {seq} arrived as another");
    }
    assert_eq!(books.active, kitchen.open());
    let mut seen = BTreeSet::new();
    let firsts: Vec<&Received> = books
        .received
        .iter()
        .filter(|r| seen.insert(r.seq))
        .collect();
    check_order(&issued, &firsts, late as u64);
    let at = |seq: u64| firsts.iter().position(|r| r.seq == seq).unwrap();
    assert!(
        at(urgent) < before + NEAR,
        "urgent news came {} later",
        at(urgent) - before
    );
    let of_its_class = |r: &&&Received| r.seq <= late as u64 && issued.class(r.seq) == 2;
    let overtaken = firsts.iter().skip(at(news)).filter(of_its_class).count();
    let in_class = firsts.iter().filter(of_its_class).count();
    assert!(
        overtaken > in_class / 2,
        "news overtook {overtaken} of {in_class}"
    );
    let late_by_clock = firsts.iter().filter(|r| r.replayed).count();
    let findings = |r: &&&Received| !matches!(issued.class(r.seq), 3);
    assert!(late_by_clock >= firsts.iter().filter(findings).count() - 2);

    let growth = highest.saturating_sub(first_hour);
    let rate = |n: usize, took: Duration| n as f64 / took.as_secs_f64();
    eprintln!(
        "{findings_an_hour} findings an hour for {HOURS} h: {late} records, {:.1} MB of payload; committed at \
         {:.0} a second, delivered at {:.0} a second in {:.1} s; memory {:.1} MB after the first hour, \
         {:.1} MB more at most",
        stats.bytes as f64 / 1e6,
        rate(late, committing),
        rate(issued.0.len(), delivering),
        delivering.as_secs_f64(),
        first_hour as f64 / 1e6,
        growth as f64 / 1e6,
    );
    assert!(growth < GROWTH_BYTES, "the process grew by {growth} bytes");
}

/// What is late goes by class but for the eighth that is the oldest of all, and in a class by number.
fn check_order(issued: &Issued, firsts: &[&Received], late: u64) {
    let mut last = BTreeMap::new();
    let mut left = [0_usize; 4];
    let backlog = || firsts.iter().map(|r| r.seq).filter(|seq| *seq <= late);
    for seq in backlog() {
        left[usize::from(issued.class(seq))] += 1;
    }
    assert!(
        left[1..].iter().all(|n| *n > 0),
        "all classes are there: {left:?}"
    );
    let mut before_their_turn = 0;
    for seq in backlog() {
        let class = issued.class(seq);
        let last = last.insert(class, seq).unwrap_or_default();
        assert!(seq > last, "record {seq} of class {class} after {last}");
        before_their_turn += usize::from(left[1..class.into()].iter().any(|n| *n > 0));
        left[usize::from(class)] -= 1;
    }
    let most = late as usize / 8 + 8;
    assert!(
        before_their_turn <= most,
        "{before_their_turn} of {late} went before a class that comes before theirs"
    );
    assert!(before_their_turn > 0, "the others were starved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_day_and_a_half_without_a_broker_all_of_it_arrives_by_class() {
    outage(BUSIEST / 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form of the test above, for its figures"]
async fn a_day_and_a_half_without_a_broker_at_the_busiest() {
    outage(BUSIEST).await;
}
