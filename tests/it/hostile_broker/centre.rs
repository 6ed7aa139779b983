//! The centre behind a real broker: gets the records, and tells what it has.
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::packets::{
    CONNACK, PUBLISH, Publish, SUBACK, Wire, connect, puback, publish, subscribe,
};
use super::site::BASE;

const TICK: Duration = Duration::from_millis(50);

/// What it got.
#[derive(Debug, Default)]
pub struct Inbox {
    /// In order of arrival.
    pub events: Vec<Value>,
    pub seqs: BTreeSet<u64>,
    /// Whether it is subscribed at the moment.
    pub listens: bool,
    pub connections: u32,
}

/// Ends when dropped.
#[derive(Debug)]
pub struct Centre {
    inbox: Arc<Mutex<Inbox>>,
    task: JoinHandle<()>,
}

impl Drop for Centre {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Centre {
    /// Comes back whenever it loses the broker, and asks it to keep what it misses meanwhile. `receipts`:
    /// tells the site what it has.
    pub fn start(port: u16, receipts: bool) -> Self {
        let inbox = Arc::<Mutex<Inbox>>::default();
        let task = tokio::spawn({
            let inbox = inbox.clone();
            async move {
                loop {
                    if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                        connection(Wire::new(stream), &inbox, receipts).await;
                        inbox.lock().unwrap().listens = false;
                    }
                    // Until the next try.
                    tokio::time::sleep(TICK).await;
                }
            }
        });
        Self { inbox, task }
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap()
    }
}

/// Until it is over.
async fn connection(mut wire: Wire, inbox: &Mutex<Inbox>, receipts: bool) {
    if !wire.write(&connect("centre")).await {
        return;
    }
    let mut tick = tokio::time::interval(TICK);
    let mut told = Value::Null;
    let mut id = 0_u16;
    loop {
        tokio::select! {
            packet = wire.next() => {
                let Some(packet) = packet else { return };
                match packet.kind() {
                    CONNACK => {
                        inbox.lock().unwrap().connections += 1;
                        if !wire.write(&subscribe(1, "mingchu/v1/410724/#")).await {
                            return;
                        }
                    }
                    SUBACK => inbox.lock().unwrap().listens = true,
                    PUBLISH => {
                        let publish = Publish::of(&packet);
                        let tail = publish.topic.strip_prefix(BASE).unwrap_or_default();
                        let is_record =
                            tail.starts_with("/finding/") || ["/coverage", "/notice"].contains(&tail);
                        if is_record {
                            let event: Value = serde_json::from_slice(&publish.payload).unwrap();
                            let mut inbox = inbox.lock().unwrap();
                            inbox.seqs.insert(event["seq"].as_u64().unwrap());
                            inbox.events.push(event);
                        }
                        if publish.id > 0 && !wire.write(&puback(publish.id, 0)).await {
                            return;
                        }
                    }
                    _ => {}
                }
            }
            _ = tick.tick() => {
                let receipt = {
                    let inbox = inbox.lock().unwrap();
                    let newest = inbox.seqs.last().copied().unwrap_or_default();
                    let missing = (1..=newest).filter(|seq| !inbox.seqs.contains(seq));
                    let except: Vec<u64> = missing.collect();
                    (inbox.listens && receipts).then(|| json!({"through": newest, "except": except}))
                };
                if let Some(receipt) = receipt.filter(|r| *r != told) {
                    id = id % 1000 + 2;
                    let text = receipt.to_string();
                    if !wire.write(&publish(&format!("{BASE}/receipt"), id, text.as_bytes())).await {
                        return;
                    }
                    told = receipt;
                }
            }
        }
    }
}
