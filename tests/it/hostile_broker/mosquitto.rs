//! The same oracle with mosquitto: killed at any moment, with and without a memory of its own, and behind a
//! bad line.
use std::collections::BTreeSet;
use std::time::Duration;

use mingchu::base::metrics::Metric;
use mingchu::uplink::AckBy;

use super::centre::Centre;
use super::proxy::{Line, Proxy};
use super::site::{FastClock, Kitchen, LOOK_AGAIN, Site, config, within};
use super::{FASTER, Seed, check_content, number};
use crate::support::Mosquitto;

/// Times the broker is killed.
const KILLS: u32 = 3;
/// Records before each.
const RECORDS: std::ops::Range<usize> = 15..40;

async fn listening(centre: &Centre) {
    let listening = async {
        while !centre.inbox().listens {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("the centre's subscription", listening).await;
}

/// All that was committed is with the centre, as it was committed. How many came twice.
async fn check(site: &Site, centre: &Centre) -> usize {
    let newest = *site.committed.last_key_value().unwrap().0;
    let arrived = async {
        while centre.inbox().seqs.len() < site.committed.len() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .is_err()
    {
        let inbox = centre.inbox();
        let lost: Vec<u64> = (1..=newest)
            .filter(|seq| !inbox.seqs.contains(seq))
            .collect();
        panic!("lost: {lost:?}");
    }
    assert_eq!(site.committed.len() as u64, newest, "a number was left out");
    assert_eq!(site.store.stats().parked, 0);
    let inbox = centre.inbox();
    assert_eq!(check_content(site, inbox.events.iter()), 0);
    inbox.events.len() - inbox.seqs.len()
}

/// Kills the broker again and again while records come, each time before it has answered for all of
/// them. A broker that is killed may take along what it has acknowledged, so the centre's word counts.
async fn killed(with_memory: bool) {
    let seed = number("MINGCHU_HOSTILE_SEED", 1);
    let _seed = Seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut broker = if with_memory {
        Mosquitto::with_memory()
    } else {
        Mosquitto::start()
    };
    let centre = Centre::start(broker.port, true);
    listening(&centre).await;
    let mut site = Site::new(config(broker.port, AckBy::Centre), FastClock::new(FASTER));
    let mut kitchen = Kitchen::new(seed);
    site.start();
    for _ in 0..KILLS {
        site.connected().await;
        for _ in 0..rng.usize(RECORDS) {
            site.commit(vec![kitchen.record()]).await;
        }
        broker.kill();
        site.commit(vec![kitchen.record()]).await;
        site.disconnected().await;
        assert!(site.store.stats().records > 0, "nothing was under way");
        broker.restart();
    }
    listening(&centre).await;
    site.commit(vec![kitchen.opened(Some(0))]).await;
    site.emptied().await;
    let twice = check(&site, &centre).await;
    let connections = site.total(Metric::UplinkConnections);
    let published = site.total(Metric::UplinkPublished);
    let records = site.committed.len() as u64;
    eprintln!(
        "{records} records, {connections} connections, {published} publishes, {twice} came twice"
    );
    assert!(connections > u64::from(KILLS));
    assert!(published > records, "nothing had to be sent again");
    assert!(centre.inbox().connections > KILLS);
    site.stop().await;
}

#[tokio::test]
async fn mosquitto_killed_again_and_again_without_a_memory_gets_every_record() {
    killed(false).await;
}

#[tokio::test]
async fn mosquitto_killed_again_and_again_with_a_memory_of_before_gets_every_record() {
    killed(true).await;
}

#[tokio::test]
async fn over_a_line_that_delays_throttles_drops_and_is_cut_every_record_arrives() {
    let seed = number("MINGCHU_HOSTILE_SEED", 1);
    let _seed = Seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let broker = Mosquitto::start();
    let centre = Centre::start(broker.port, false);
    listening(&centre).await;
    let proxy = Proxy::start(broker.port).await;
    let mut site = Site::new(config(proxy.port, AckBy::Broker), FastClock::new(FASTER));
    let mut kitchen = Kitchen::new(seed);
    site.start();
    let mut lines = vec![
        Line::Delays(Duration::from_millis(150)),
        Line::Throttles(40_000),
        Line::Cuts,
        Line::Drops,
        Line::Cuts,
    ];
    rng.shuffle(&mut lines);
    let mut seen = BTreeSet::new();
    for line in lines {
        site.connected().await;
        // Something is under way when it comes.
        for _ in 0..rng.usize(RECORDS) {
            site.commit(vec![kitchen.record()]).await;
        }
        proxy.becomes(line);
        for _ in 0..rng.usize(RECORDS) {
            site.commit(vec![kitchen.record()]).await;
        }
        match line {
            // Dead or cut, it is noticed; slow or thin, all gets through.
            Line::Cuts | Line::Drops => {
                site.disconnected().await;
                assert!(site.store.stats().records > 0, "nothing was under way");
            }
            Line::Good | Line::Delays(_) | Line::Throttles(_) => site.emptied().await,
        }
        seen.insert(line);
        proxy.becomes(Line::Good);
    }
    site.commit(vec![kitchen.opened(Some(0))]).await;
    site.emptied().await;
    let twice = check(&site, &centre).await;
    let connections = site.total(Metric::UplinkConnections);
    let published = site.total(Metric::UplinkPublished);
    let records = site.committed.len() as u64;
    eprintln!(
        "{records} records, {} connections, {} cut, {published} publishes, {twice} came twice",
        proxy.connections(),
        proxy.cut(),
    );
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(connections > 3 && proxy.cut() >= 2);
    assert!(published > records, "nothing had to be sent again");
    site.stop().await;
}
