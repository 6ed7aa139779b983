//! Where the centre's commands come in: a connection of its own, on tokio.
//!
//! What must not be here: what a command says or does. Records leave by another connection
//! (`run.rs`), whose every packet id is accounted for.
//!
//! # Decisions
//! 1. **A session that outlives the connection**, unlike for records: what is published while the site
//!    is away waits at the broker, up to [`SESSION`] and its own message expiry. The client id is the
//!    site's with `-commands` behind it.
//! 2. **Acknowledged by hand**: a message is acknowledged when whoever takes it says so, that is, when
//!    it is on the disk. After a lost connection the broker sends it again.
//! 3. **At most [`UNACKED`] wait**; the broker holds back the rest.
//!
//! # Failure
//! Whatever ends the connection, the next is tried after 1 s to 60 s. A refused subscription is told
//! and the connection kept: records go their own way.
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::config::{SiteIdentity, UplinkConfig};
use super::mqtt::{
    Asked, Kept, Link, LinkError, LinkEvent, LinkOptions, MOST_CORRELATION, Message,
};
use super::topics::{PREFIX, TopicKind, Topics};
use crate::base::backoff::Backoff;
use crate::base::heartbeat::{Heartbeat, Heartbeats};
use crate::base::ids::Name;

/// How long the broker keeps commands for a site that is away.
pub const SESSION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Messages taken and not yet acknowledged.
pub const UNACKED: u16 = 8;
/// A config with room to spare.
const MAX_INCOMING_BYTES: u32 = 512 * 1024;
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_secs(60);
/// Longest topic that is answered to.
const MOST_TOPIC: usize = 256;

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatFor {
    /// The command of this name.
    Command(Name),
    /// The config that the centre wants.
    Config,
}

/// A message of the centre.
#[derive(Debug)]
pub struct Incoming {
    /// See [`WhatFor`].
    pub what: WhatFor,
    /// What it says.
    pub payload: Bytes,
    /// It was kept by the broker for whoever subscribes.
    pub retained: bool,
    /// How long it still counts, by the broker's word.
    pub expiry: Option<Duration>,
    /// Where else it wants to be answered.
    pub reply_to: Option<(String, Option<Bytes>)>,
    /// Told or dropped when it may be acknowledged.
    pub taken: oneshot::Sender<()>,
}

/// An answer to where the message asked for it, beside the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where.
    pub topic: String,
    /// To be sent back.
    pub correlation: Option<Bytes>,
    /// What.
    pub payload: Vec<u8>,
}

/// What whoever takes commands must know.
#[derive(Debug)]
pub enum InboxEvent {
    /// A message came.
    Message(Incoming),
    /// Whether the subscriptions of this connection were allowed so far; `false`: commands, or configs,
    /// cannot come.
    Subscribed(bool),
}

/// Everything the task owns.
#[derive(Debug)]
pub struct Inbox {
    /// Where the broker is.
    pub config: UplinkConfig,
    /// Who we are.
    pub site: SiteIdentity,
    /// Where messages go.
    pub events: mpsc::Sender<InboxEvent>,
    /// Answers to send; shared with the inbox that takes over when the broker changes.
    pub answers: Arc<Mutex<mpsc::Receiver<Answer>>>,
    /// Where the task beats, as `inbox`.
    pub heartbeats: Heartbeats,
    /// Told to stop.
    pub stop: CancellationToken,
}

type Acks = FuturesUnordered<Pin<Box<dyn Future<Output = Option<u16>> + Send>>>;

impl Inbox {
    /// Runs until told to stop.
    pub async fn run(self) {
        let heartbeat = self.heartbeats.register("inbox", BEAT);
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        let stop = self.stop.clone();
        let mut answers = self.answers.lock().await;
        loop {
            let ended = tokio::select! {
                ended = self.connection(&mut answers, &mut backoff, &heartbeat) => ended,
                () = stop.cancelled() => return,
            };
            let wait = backoff.next_wait();
            let (text, backoff_ms) = (ended.chain(), wait.as_millis() as u64);
            tracing::info!(err = %text, backoff_ms, "no commands for now");
            let pause = async {
                let mut beat = tokio::time::interval(BEAT / 12);
                loop {
                    beat.tick().await;
                    heartbeat.beat();
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = pause => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection, to its end.
    async fn connection(
        &self,
        answers: &mut mpsc::Receiver<Answer>,
        backoff: &mut Backoff,
        heartbeat: &Heartbeat,
    ) -> LinkError {
        let mut config = self.config.clone();
        config.client_id = format!("{}-commands", config.client_id);
        let options = LinkOptions {
            config,
            will: None,
            inflight_limit: 16,
            max_incoming_bytes: MAX_INCOMING_BYTES,
            kept: Some(Kept {
                session: SESSION,
                unacked: UNACKED,
            }),
        };
        let mut link = match Link::connect(options).await {
            Ok((link, _)) => link,
            Err(e) => return e,
        };
        let topics = Topics::new(&self.site);
        let filters = [topics.commands(), topics.config_desired()];
        let (mut asked, mut all_allowed) = (filters.len(), true);
        for filter in filters {
            if link.subscribe(&filter).is_err() {
                let (broker, reason) =
                    (link.broker().to_owned(), format!("{filter} not asked for"));
                return LinkError::Lost { broker, reason };
            }
        }
        let mut acks = Acks::new();
        let mut beat = tokio::time::interval(BEAT / 12);
        loop {
            tokio::select! {
                event = link.next() => match event {
                    LinkEvent::Closed(error) => return error,
                    LinkEvent::Subscribed(allowed) => {
                        backoff.reset();
                        asked = asked.saturating_sub(1);
                        all_allowed &= allowed;
                        if all_allowed && asked == 0 {
                            tracing::info!(broker = link.broker(), "commands can come");
                        }
                        if !allowed {
                            tracing::warn!(broker = link.broker(), "broker refuses a subscription to commands or config/desired");
                        }
                        if self.events.send(InboxEvent::Subscribed(all_allowed)).await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    }
                    LinkEvent::Message(message) => {
                        self.pass_on(message, &topics, &link, &mut acks, heartbeat).await;
                    }
                    LinkEvent::Sent(_) | LinkEvent::Acked { .. } => {}
                },
                Some(taken) = acks.next() => if let Some(packet_id) = taken {
                    // One that was not taken comes again.
                    let _full = !link.ack(packet_id);
                },
                Some(answer) = answers.recv() => {
                    let Answer { topic, correlation, payload } = answer;
                    if !link.answer(&topic, correlation, payload) {
                        tracing::warn!(topic, "answer not sent to the response topic; the result goes its own way");
                    }
                }
                _ = beat.tick() => heartbeat.beat(),
            }
        }
    }

    async fn pass_on(
        &self,
        message: Message,
        topics: &Topics,
        link: &Link,
        acks: &mut Acks,
        heartbeat: &Heartbeat,
    ) {
        let Asked {
            response_topic,
            correlation,
            expiry,
            packet_id,
        } = message.asked;
        let what = match Topics::parse(&message.topic) {
            Some((_, _, TopicKind::Command(name))) => WhatFor::Command(name),
            _ if message.topic == topics.config_desired() => WhatFor::Config,
            // Not a name we could answer to, or a filter of an earlier version still in the session.
            _ => {
                tracing::warn!(topic = message.topic, "message on no topic of ours");
                let _full = packet_id > 0 && !link.ack(packet_id);
                return;
            }
        };
        let correlation = correlation.filter(|c| c.len() <= MOST_CORRELATION);
        let reply_to = response_topic
            .filter(|topic| may_answer(topic))
            .map(|topic| (topic, correlation));
        let (taken, seen) = oneshot::channel();
        let incoming = Incoming {
            what,
            payload: message.payload,
            retained: message.retain,
            expiry,
            reply_to,
            taken,
        };
        if packet_id > 0 {
            let ack = async move { seen.await.is_ok().then_some(packet_id) };
            acks.push(Box::pin(ack));
        }
        // Whoever takes them may wait for a disk.
        let mut sent = std::pin::pin!(self.events.send(InboxEvent::Message(incoming)));
        let mut beat = tokio::time::interval(BEAT / 12);
        loop {
            tokio::select! {
                _done_or_stopping = &mut sent => return,
                _ = beat.tick() => heartbeat.beat(),
            }
        }
    }
}

/// Whether somebody else's topic may be answered to: a plain name outside the contract, for a command
/// must not make one site speak in the place of another.
fn may_answer(topic: &str) -> bool {
    let ours = PREFIX.split('/').next().unwrap_or(PREFIX);
    let first = topic.split('/').next().unwrap_or_default();
    !topic.is_empty()
        && topic.len() <= MOST_TOPIC
        && !topic.contains(['+', '#', '\0'])
        && !topic.starts_with('$')
        && first != ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_only_to_plain_topics_outside_the_contract() {
        for good in ["reply/7", "centre/410724/answers", "r"] {
            assert!(may_answer(good), "{good}");
        }
        let long = "x".repeat(300);
        for bad in [
            "",
            "a/+",
            "#",
            "$SYS/x",
            "mingchu/v1/410724/other/status",
            "mingchu",
            &long,
        ] {
            assert!(!may_answer(bad), "{bad}");
        }
    }
}
