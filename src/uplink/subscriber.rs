//! Listens to the broker, for an operator's view of the topics.
//!
//! What must not be here: anything that publishes.
use std::time::Duration;

use super::config::UplinkConfig;
use super::mqtt::{Link, LinkError, LinkEvent, LinkOptions, Message};
use crate::base::backoff::Backoff;

/// A still with room to spare.
const MAX_INCOMING_BYTES: u32 = 8 * 1024 * 1024;
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a listener hears.
#[derive(Debug)]
pub enum Heard {
    /// Connected and subscribed; retained messages come first.
    Connected,
    /// A message.
    Message(Message),
    /// No connection; the next one is tried by itself.
    Lost {
        /// Why.
        error: LinkError,
        /// When.
        retry_in: Duration,
    },
}

/// A listener that reconnects for as long as it is asked.
#[derive(Debug)]
pub struct Subscriber {
    config: UplinkConfig,
    filter: String,
    backoff: Backoff,
    wait_until: Option<tokio::time::Instant>,
    link: Option<Link>,
}

impl Subscriber {
    /// Nothing is connected before the first [`Subscriber::next`]. The client id must not be one that
    /// a daemon uses, or they throw each other out.
    pub fn new(config: UplinkConfig, filter: impl Into<String>) -> Self {
        Self {
            config,
            filter: filter.into(),
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX),
            wait_until: None,
            link: None,
        }
    }

    /// What happens next. Safe to cancel: a connection not yet made is begun anew.
    pub async fn next(&mut self) -> Heard {
        loop {
            let Some(link) = &mut self.link else {
                if let Some(until) = self.wait_until {
                    tokio::time::sleep_until(until).await;
                    self.wait_until = None;
                }
                let options = LinkOptions {
                    config: self.config.clone(),
                    will: None,
                    inflight_limit: 8,
                    max_incoming_bytes: MAX_INCOMING_BYTES,
                    kept: None,
                };
                match Link::connect(options).await {
                    Ok((link, _)) => {
                        // The queue of a new link is empty, so only a filter that is none fails, and
                        // then the broker's silence would be the only sign.
                        if link.subscribe(&self.filter).is_err() {
                            let broker = link.broker().to_owned();
                            let reason = format!("{:?} is no topic filter", self.filter);
                            return self.lost(LinkError::Refused { broker, reason });
                        }
                        self.link = Some(link);
                        continue;
                    }
                    Err(error) => return self.lost(error),
                }
            };
            match link.next().await {
                LinkEvent::Message(message) => return Heard::Message(message),
                LinkEvent::Subscribed(true) => {
                    self.backoff.reset();
                    return Heard::Connected;
                }
                LinkEvent::Subscribed(false) => {
                    let (broker, filter) = (link.broker().to_owned(), &self.filter);
                    let reason = format!("may not subscribe to {filter}");
                    return self.lost(LinkError::Refused { broker, reason });
                }
                LinkEvent::Closed(error) => return self.lost(error),
                LinkEvent::Sent(_) | LinkEvent::Acked { .. } => {}
            }
        }
    }

    fn lost(&mut self, error: LinkError) -> Heard {
        self.link = None;
        let retry_in = self.backoff.next_wait();
        self.wait_until = Some(tokio::time::Instant::now() + retry_in);
        Heard::Lost { error, retry_in }
    }
}
