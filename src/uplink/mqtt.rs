//! One connection to the broker, in our own words: MQTT 5 over TCP or TLS.
//!
//! What must not be here: records, windows, what is sent again. The crate `rumqttc` (0.25.1) is named
//! in this file only. What its source says, and what follows:
//!
//! * `publish()` only queues, and a reconnect without a session forgets all that was queued or not
//!   acknowledged, silently. So a [`Link`] is one connection: it is dropped when that ends, and
//!   whoever owns the records connects anew.
//! * `poll()` is not safe to cancel: a packet whose write was cut off counts as sent. So a task of
//!   its own polls, and its events come through a channel; a slow reader stops the poll, not the feed.
//! * A flush has no time-out: with a broker that does not read, the task hangs. Whoever owns the
//!   records must look at their progress and drop the link.
//! * `Outgoing::Publish(packet_id)` comes once for each publish in the order they were fed, with
//!   packet id 0 for QoS 0. `AwaitAck` (the packet id is still in use) holds back all that follows
//!   until that publish goes out, so the order stays true; it cannot happen as long as no more
//!   publishes are open, counted from the oldest, than the in-flight limit, which is the smaller of
//!   ours and the broker's receive maximum.
//! * A refused `PubAck` does not resolve such a collision: another reason to avoid them.
//! * An error drops events read before it in the same go: acks and messages among them are saved
//!   here.
//! * An acknowledgement nobody asked for ends the connection. One that comes twice, the second time after
//!   its packet id was given to another publish, counts for that one: the protocol has no defence. With
//!   the ids in a circle, a second one must come late by as many publishes as may be open.
//! * A receive maximum of 0 makes it give packet ids beyond its table: such a broker is refused here.
//! * The table of what is in flight costs 14 MB unless the limit is set.
//! * A publish over the broker's maximum packet size ends the connection: it is refused here before.
//! * `set_keep_alive` panics below 5 s. A broker that sets the keep-alive to 0, for none, would be
//!   pinged without a pause and dropped at the second ping: ours is put back.
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, LastWill, Packet, PubAckReason, Publish,
    PublishProperties,
};
use rumqttc::v5::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError, TlsError,
};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::config::{TlsConfig, UplinkConfig};

/// From the name look-up to the broker's answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that may wait for a slow reader.
const EVENTS: usize = 64;
/// Requests that may wait beside the publishes within the in-flight limit.
const SPARE_REQUESTS: usize = 16;
/// rumqttc takes no less.
const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// What a publish adds to topic and payload at most: header, lengths, packet id, properties.
const PUBLISH_OVERHEAD: usize = 64;
/// Longest correlation data that is sent back.
pub const MOST_CORRELATION: usize = 256;
/// Of any packet, by the protocol.
const MOST_PACKET_BYTES: u32 = 268_435_455;

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A TLS file cannot be used. Nothing is sent in clear text instead.
    #[error("{}: {reason}; TLS to the broker needs it, and nothing is sent without", file.display())]
    TlsFile {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate or protocol not accepted, by either side.
    #[error(
        "TLS with {broker} failed: check ca_file, the name in the broker's certificate, its dates and this machine's clock"
    )]
    TlsRefused {
        /// Host and port.
        broker: String,
        /// The TLS library's word.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No TCP connection, or no such name.
    #[error("broker {broker} is not reachable: check the address, the cable and the firewall")]
    Unreachable {
        /// Host and port.
        broker: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing came back in time.
    #[error("broker {broker} does not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Host and port.
        broker: String,
    },
    /// Something else listens there, or the broker knows only MQTT 3.
    #[error("{broker} does not speak MQTT 5{}: check host, port and whether it wants TLS", if *tls { "" } else { " in clear text" })]
    NotMqtt {
        /// Host and port.
        broker: String,
        /// Whether TLS is configured.
        tls: bool,
    },
    /// Wrong user name or password.
    #[error("broker {broker} refuses the user name or password: check username and password_file")]
    BadLogin {
        /// Host and port.
        broker: String,
    },
    /// Wrong login, or a client that may not come in. Some brokers answer a wrong password so.
    #[error(
        "broker {broker} does not let this client in: check username and password_file, and that it may connect as client id {client_id:?}"
    )]
    NotAuthorised {
        /// Host and port.
        broker: String,
        /// As whom.
        client_id: String,
    },
    /// The client id is not accepted.
    #[error("broker {broker} refuses client id {client_id:?}: give another one")]
    BadClientId {
        /// Host and port.
        broker: String,
        /// Which.
        client_id: String,
    },
    /// For now.
    #[error("broker {broker} is busy or closing ({reason}); tried again later")]
    Unavailable {
        /// Host and port.
        broker: String,
        /// The broker's word.
        reason: String,
    },
    /// For any other reason.
    #[error("broker {broker} refuses the connection ({reason})")]
    Refused {
        /// Host and port.
        broker: String,
        /// The broker's word.
        reason: String,
    },
    /// Two clients with one id.
    #[error(
        "another client connected to {broker} as {client_id:?}: give every site its own client id"
    )]
    TakenOver {
        /// Host and port.
        broker: String,
        /// Which.
        client_id: String,
    },
    /// The broker ended it with a word.
    #[error("broker {broker} ended the connection ({reason})")]
    Ended {
        /// Host and port.
        broker: String,
        /// The broker's word.
        reason: String,
    },
    /// The connection broke.
    #[error("connection to {broker} lost ({reason})")]
    Lost {
        /// Host and port.
        broker: String,
        /// How.
        reason: String,
    },
    /// Connected, but a message stays unacknowledged.
    #[error("broker {broker} has left a message without acknowledgement for {} s", after.as_secs())]
    NoProgress {
        /// Host and port.
        broker: String,
        /// How long.
        after: Duration,
    },
}

impl LinkError {
    /// The message with its causes, for logs and status.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(e) = source {
            text = format!("{text}: {e}");
            source = e.source();
        }
        text
    }
}

/// Left with the broker, which publishes it if we vanish.
#[derive(Clone, Debug)]
pub struct Will {
    /// Where.
    pub topic: String,
    /// What. Retained, QoS 1.
    pub payload: Vec<u8>,
}

/// One message to send.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// QoS 1 and acknowledged, or QoS 0.
    pub acked: bool,
    /// Kept by the broker for whoever subscribes later.
    pub retain: bool,
    /// Media type; empty for none.
    pub content_type: &'static str,
}

/// A picture or clip to send, QoS 1, not retained.
#[derive(Clone, Debug)]
pub struct BinaryMessage {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Media type.
    pub content_type: String,
    /// MQTT 5 user properties.
    pub properties: Vec<(String, String)>,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too much waits; try later.
    #[error("too much waits to be sent")]
    Busy,
    /// It will never fit.
    #[error("{bytes} bytes, the broker takes {limit}")]
    TooLarge {
        /// What it may need.
        bytes: usize,
        /// The broker's maximum packet size.
        limit: u32,
    },
}

/// What comes with a message that wants an answer, MQTT 5 section 4.10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Where to answer.
    pub response_topic: Option<String>,
    /// What to send back with the answer.
    pub correlation: Option<Bytes>,
    /// How long the message still counts.
    pub expiry: Option<Duration>,
    /// What to acknowledge it by, where that is left to us; 0: nothing.
    pub packet_id: u16,
}

/// One message received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether the broker had kept it from before we subscribed.
    pub retain: bool,
    /// See [`Asked`].
    pub asked: Asked,
}

/// What the broker said when it let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Whether it had kept a session for us; false where every connection begins clean.
    pub session_present: bool,
    /// QoS 1 publishes it takes at once.
    pub receive_maximum: u16,
    /// Largest packet it takes; `None`: no limit.
    pub max_packet_bytes: Option<u32>,
}

/// What happens on a connection.
#[derive(Debug)]
pub enum LinkEvent {
    /// The oldest publish fed and not yet reported is on the wire, with this packet id; 0 for QoS 0.
    Sent(u16),
    /// The broker answered a publish.
    Acked {
        /// Which.
        packet_id: u16,
        /// 0 delivered, 0x10 nobody subscribes, from 0x80 on refused.
        reason: u8,
    },
    /// Something came.
    Message(Message),
    /// The broker answered a subscription; false: refused.
    Subscribed(bool),
    /// It is over. Nothing comes after it.
    Closed(LinkError),
}

/// What a connection needs to begin.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Address, login, TLS, keep-alive.
    pub config: UplinkConfig,
    /// Left with the broker.
    pub will: Option<Will>,
    /// QoS 1 publishes that may be open at once, counted from the oldest.
    pub inflight_limit: u16,
    /// Largest packet we take.
    pub max_incoming_bytes: u32,
    /// The broker keeps messages for us while we are away, and counts those as received that we have
    /// [acknowledged](Link::ack) ourselves. Else every connection begins clean.
    pub kept: Option<Kept>,
}

/// A session that outlives its connection.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// For how long without a connection.
    pub session: Duration,
    /// Messages that may wait for our acknowledgement.
    pub unacked: u16,
}

/// One connection, from the broker's welcome to its end. Dropping it cuts it.
#[derive(Debug)]
pub struct Link {
    client: AsyncClient,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
    max_packet_bytes: Option<u32>,
    broker: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Connects and waits for the broker's welcome, at most [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// What kept us out.
    pub async fn connect(options: LinkOptions) -> Result<(Self, Connected), LinkError> {
        let config = &options.config;
        let who = Who {
            broker: format!("{}:{}", config.host, config.port),
            client_id: config.client_id.clone(),
            tls: config.tls.is_some(),
        };
        let mut mqtt = MqttOptions::new(&config.client_id, &config.host, config.port);
        if let Some(tls) = &config.tls {
            let tls = TlsConfiguration::Rustls(load_tls(tls)?);
            mqtt.set_transport(Transport::tls_with_config(tls));
        }
        if let Some((user, password)) = &config.login {
            mqtt.set_credentials(user, password.expose());
        }
        if let Some(will) = options.will {
            let will = LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true, None);
            mqtt.set_last_will(will);
        }
        let keep_alive = config.keep_alive.max(LEAST_KEEP_ALIVE);
        if let Some(kept) = options.kept {
            let secs = u32::try_from(kept.session.as_secs()).unwrap_or(u32::MAX);
            mqtt.set_session_expiry_interval(Some(secs))
                .set_receive_maximum(Some(kept.unacked))
                .set_manual_acks(true);
        }
        mqtt.set_clean_start(options.kept.is_none())
            .set_keep_alive(keep_alive)
            .set_connection_timeout(CONNECT_TIMEOUT.as_secs())
            .set_max_packet_size(Some(options.max_incoming_bytes))
            .set_outgoing_inflight_upper_limit(options.inflight_limit);
        let queue = usize::from(options.inflight_limit) + SPARE_REQUESTS;
        let (client, event_loop) = AsyncClient::new(mqtt, queue);
        let (tx, mut events) = mpsc::channel(EVENTS);
        let (welcome_tx, welcome) = tokio::sync::oneshot::channel();
        let broker = who.broker.clone();
        let task = Poller {
            event_loop,
            who,
            keep_alive,
            events: tx,
            welcome: Some(welcome_tx),
        };
        let task = tokio::spawn(task.run());
        // Held from here on, so that the task ends if this future is dropped.
        let mut link = Self {
            client,
            events,
            task,
            max_packet_bytes: None,
            broker,
        };
        if let Ok(connected) = welcome.await {
            link.max_packet_bytes = connected.max_packet_bytes;
            return Ok((link, connected));
        }
        events = std::mem::replace(&mut link.events, mpsc::channel(1).1);
        match events.recv().await {
            Some(LinkEvent::Closed(error)) => Err(error),
            _ => Err(link.lost("the connection's task ended")),
        }
    }

    /// The next event; safe to cancel. After [`LinkEvent::Closed`] it says so again.
    pub async fn next(&mut self) -> LinkEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => LinkEvent::Closed(self.lost("the connection is closed")),
        }
    }

    /// Whether the broker takes messages as large as this one.
    pub fn fits(&self, message: &Outbound) -> bool {
        packet_bytes(message) <= self.max_packet_bytes.unwrap_or(MOST_PACKET_BYTES) as usize
    }

    /// Queues a message. Never waits.
    ///
    /// # Errors
    /// It was not taken, and no [`LinkEvent::Sent`] will come for it.
    pub fn publish(&self, message: Outbound) -> Result<(), PublishError> {
        if !self.fits(&message) {
            let limit = self.max_packet_bytes.unwrap_or(MOST_PACKET_BYTES);
            let bytes = packet_bytes(&message);
            return Err(PublishError::TooLarge { bytes, limit });
        }
        let qos = if message.acked {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let (topic, payload, retain) = (message.topic, message.payload, message.retain);
        if message.content_type.is_empty() {
            self.client.try_publish(topic, qos, retain, payload)
        } else {
            let properties = PublishProperties {
                // The payload is UTF-8 text.
                payload_format_indicator: Some(1),
                content_type: Some(message.content_type.to_owned()),
                ..PublishProperties::default()
            };
            self.client
                .try_publish_with_properties(topic, qos, retain, payload, properties)
        }
        // Topics are built from names, so only a full queue is left as a reason.
        .map_err(|_| PublishError::Busy)
    }

    /// Queues a picture or clip. Never waits.
    ///
    /// # Errors
    /// As [`Link::publish`].
    pub fn publish_binary(&self, message: BinaryMessage) -> Result<(), PublishError> {
        // Each property: its identifier and two lengths.
        let properties = message.properties.iter();
        let properties: usize = properties.map(|(k, v)| k.len() + v.len() + 5).sum();
        let bytes = message.topic.len()
            + message.payload.len()
            + message.content_type.len()
            + properties
            + PUBLISH_OVERHEAD;
        let limit = self.max_packet_bytes.unwrap_or(MOST_PACKET_BYTES);
        if bytes > limit as usize {
            return Err(PublishError::TooLarge { bytes, limit });
        }
        let properties = PublishProperties {
            content_type: Some(message.content_type),
            user_properties: message.properties,
            ..PublishProperties::default()
        };
        let qos = QoS::AtLeastOnce;
        self.client
            .try_publish_with_properties(message.topic, qos, false, message.payload, properties)
            .map_err(|_| PublishError::Busy)
    }

    /// Tells the broker that a message of a kept session is ours now. False: the queue is full, or the
    /// connection is over; it will come again.
    pub fn ack(&self, packet_id: u16) -> bool {
        let publish = Publish {
            pkid: packet_id,
            ..Publish::new("", QoS::AtLeastOnce, Bytes::new(), None)
        };
        self.client.try_ack(&publish).is_ok()
    }

    /// Queues an answer to a message, at QoS 1. False: it was not taken.
    pub fn answer(&self, topic: &str, correlation: Option<Bytes>, payload: Vec<u8>) -> bool {
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("application/json".to_owned()),
            correlation_data: correlation,
            ..PublishProperties::default()
        };
        let limit = self.max_packet_bytes.unwrap_or(MOST_PACKET_BYTES) as usize;
        let fits = topic.len() + payload.len() + MOST_CORRELATION + PUBLISH_OVERHEAD <= limit;
        let client = &self.client;
        fits && client
            .try_publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties)
            .is_ok()
    }

    /// Queues a subscription at QoS 1. To be called right after connecting: the packet id it takes
    /// shifts the others.
    ///
    /// # Errors
    /// The queue is full, or the filter is none.
    pub fn subscribe(&self, filter: &str) -> Result<(), PublishError> {
        self.client
            .try_subscribe(filter, QoS::AtLeastOnce)
            .map_err(|_| PublishError::Busy)
    }

    /// Says goodbye after all that was queued before; the broker then keeps the will to itself. The
    /// link closes when it is out.
    pub fn disconnect(&self) {
        // A queue that is full, or gone, ends in being dropped without goodbye: the will says it.
        let _not_said = self.client.try_disconnect().is_err();
    }

    /// The broker's address, for messages.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    fn lost(&self, reason: &str) -> LinkError {
        LinkError::Lost {
            broker: self.broker.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Who connects to whom, for error messages.
struct Who {
    broker: String,
    client_id: String,
    tls: bool,
}

/// Owns the event loop for one connection.
struct Poller {
    event_loop: EventLoop,
    who: Who,
    keep_alive: Duration,
    events: mpsc::Sender<LinkEvent>,
    welcome: Option<tokio::sync::oneshot::Sender<Connected>>,
}

impl Poller {
    async fn run(mut self) {
        let error = loop {
            match self.event_loop.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                    let (broker, reason) = (self.who.broker.clone(), "as asked".to_owned());
                    break LinkError::Ended { broker, reason };
                }
                Ok(Event::Incoming(Packet::ConnAck(ack))) if takes_nothing(&ack) => {
                    let broker = self.who.broker.clone();
                    let reason = "it takes 0 messages at once".to_owned();
                    break LinkError::Refused { broker, reason };
                }
                Ok(event) => {
                    if !self.pass_on(event).await {
                        return;
                    }
                }
                Err(e) => {
                    let error = self.who.explain(e, self.welcome.is_some());
                    let left: Vec<_> = self.event_loop.state.events.drain(..).collect();
                    for event in left {
                        let came = matches!(
                            &event,
                            Event::Incoming(Packet::PubAck(_) | Packet::Publish(_))
                        );
                        // What was not written must not count as sent.
                        if came && !self.pass_on(event).await {
                            return;
                        }
                    }
                    break error;
                }
            }
        };
        // Before the welcome, dropping its sender sends the owner here.
        self.welcome = None;
        let _owner_gone = self.events.send(LinkEvent::Closed(error)).await.is_err();
    }

    /// False when nobody listens any more.
    async fn pass_on(&mut self, event: Event) -> bool {
        let event = match event {
            Event::Outgoing(Outgoing::Publish(packet_id)) => LinkEvent::Sent(packet_id),
            Event::Incoming(Packet::ConnAck(ack)) => {
                let properties = ack.properties.as_ref();
                if properties.and_then(|p| p.server_keep_alive) == Some(0) {
                    self.event_loop.options.set_keep_alive(self.keep_alive);
                }
                return self
                    .welcome
                    .take()
                    .is_none_or(|tx| tx.send(connected(&ack)).is_ok());
            }
            Event::Incoming(Packet::PubAck(ack)) => LinkEvent::Acked {
                packet_id: ack.pkid,
                reason: reason_code(ack.reason),
            },
            Event::Incoming(Packet::Publish(publish)) => {
                let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else {
                    return true;
                };
                let properties = publish.properties.unwrap_or_default();
                let expiry = properties.message_expiry_interval;
                LinkEvent::Message(Message {
                    topic,
                    payload: publish.payload,
                    retain: publish.retain,
                    asked: Asked {
                        response_topic: properties.response_topic,
                        correlation: properties.correlation_data,
                        expiry: expiry.map(|s| Duration::from_secs(u64::from(s))),
                        packet_id: publish.pkid,
                    },
                })
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                use rumqttc::v5::mqttbytes::v5::SubscribeReasonCode::Success;
                LinkEvent::Subscribed(ack.return_codes.iter().all(|c| matches!(c, Success(_))))
            }
            _ => return true,
        };
        self.events.send(event).await.is_ok()
    }
}

/// Against the protocol; the library would give packet ids without end, beyond its table.
fn takes_nothing(ack: &ConnAck) -> bool {
    let properties = ack.properties.as_ref();
    properties.and_then(|p| p.receive_max) == Some(0)
}

fn connected(ack: &ConnAck) -> Connected {
    let properties = ack.properties.as_ref();
    Connected {
        session_present: ack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_packet_bytes: properties.and_then(|p| p.max_packet_size),
    }
}

/// As on the wire, MQTT 5 section 3.4.2.1.
fn reason_code(reason: PubAckReason) -> u8 {
    match reason {
        PubAckReason::Success => 0x00,
        PubAckReason::NoMatchingSubscribers => 0x10,
        PubAckReason::UnspecifiedError => 0x80,
        PubAckReason::ImplementationSpecificError => 0x83,
        PubAckReason::NotAuthorized => 0x87,
        PubAckReason::TopicNameInvalid => 0x90,
        PubAckReason::PacketIdentifierInUse => 0x91,
        PubAckReason::QuotaExceeded => 0x97,
        PubAckReason::PayloadFormatInvalid => 0x99,
    }
}

impl Who {
    fn explain(&self, error: ConnectionError, before_welcome: bool) -> LinkError {
        let broker = self.broker.clone();
        match error {
            ConnectionError::ConnectionRefused(code) => self.refused(code),
            ConnectionError::Timeout(_) => LinkError::TimedOut { broker },
            ConnectionError::Tls(TlsError::Io(e)) if !is_tls(&e) => LinkError::Lost {
                broker,
                reason: format!("during the TLS handshake: {e}"),
            },
            ConnectionError::Tls(e) => LinkError::TlsRefused {
                broker,
                source: Box::new(e),
            },
            ConnectionError::Io(source) if before_welcome => {
                LinkError::Unreachable { broker, source }
            }
            ConnectionError::NotConnAck(_) => LinkError::NotMqtt {
                broker,
                tls: self.tls,
            },
            ConnectionError::MqttState(e) => self.state(e, before_welcome),
            e => LinkError::Lost {
                broker,
                reason: e.to_string(),
            },
        }
    }

    fn state(&self, error: StateError, before_welcome: bool) -> LinkError {
        let broker = self.broker.clone();
        match error {
            StateError::ServerDisconnect {
                reason_code,
                reason_string,
            } => {
                let word = reason_string.unwrap_or_else(|| format!("{reason_code:?}"));
                match reason_code {
                    DisconnectReasonCode::SessionTakenOver => LinkError::TakenOver {
                        broker,
                        client_id: self.client_id.clone(),
                    },
                    _ => LinkError::Ended {
                        broker,
                        reason: word,
                    },
                }
            }
            StateError::AwaitPingResp => {
                let reason = "no answer to a ping".to_owned();
                LinkError::Lost { broker, reason }
            }
            // With TLS the handshake may end here: a broker that wants a client certificate says so
            // after we think that it is done.
            StateError::Deserialization(rumqttc::v5::mqttbytes::Error::Io(e)) if is_tls(&e) => {
                LinkError::TlsRefused {
                    broker,
                    source: Box::new(e),
                }
            }
            // The end of the stream in the middle of what the codec took for a packet.
            StateError::Deserialization(rumqttc::v5::mqttbytes::Error::Io(e))
                if before_welcome && e.kind() == io::ErrorKind::Other =>
            {
                LinkError::NotMqtt {
                    broker,
                    tls: self.tls,
                }
            }
            StateError::Deserialization(rumqttc::v5::mqttbytes::Error::Io(e)) => LinkError::Lost {
                broker,
                reason: e.to_string(),
            },
            StateError::Deserialization(_)
            | StateError::WrongPacket
            | StateError::ConnectionAborted
                if before_welcome =>
            {
                LinkError::NotMqtt {
                    broker,
                    tls: self.tls,
                }
            }
            StateError::ConnectionAborted => LinkError::Lost {
                broker,
                reason: "closed by the other side".to_owned(),
            },
            e => LinkError::Lost {
                broker,
                reason: e.to_string(),
            },
        }
    }

    fn refused(&self, code: ConnectReturnCode) -> LinkError {
        use ConnectReturnCode as Code;
        let (broker, client_id) = (self.broker.clone(), self.client_id.clone());
        let reason = format!("{code:?}");
        match code {
            Code::BadUserNamePassword | Code::BadAuthenticationMethod => {
                LinkError::BadLogin { broker }
            }
            Code::NotAuthorized | Code::Banned => LinkError::NotAuthorised { broker, client_id },
            Code::BadClientId | Code::ClientIdentifierNotValid => {
                LinkError::BadClientId { broker, client_id }
            }
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => LinkError::NotMqtt {
                broker,
                tls: self.tls,
            },
            Code::ServiceUnavailable
            | Code::ServerUnavailable
            | Code::ServerBusy
            | Code::QuotaExceeded
            | Code::ConnectionRateExceeded => LinkError::Unavailable { broker, reason },
            _ => LinkError::Refused { broker, reason },
        }
    }
}

/// Size of the packet that carries a message, at most.
fn packet_bytes(message: &Outbound) -> usize {
    message.topic.len() + message.payload.len() + message.content_type.len() + PUBLISH_OVERHEAD
}

/// Whether the TLS library is behind it.
fn is_tls(e: &io::Error) -> bool {
    let source = e.get_ref();
    source.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// Reads the certificates. Done for every connection, so that a renewed certificate is taken up.
///
/// # Errors
/// [`LinkError::TlsFile`] names the file.
pub fn load_tls(tls: &TlsConfig) -> Result<Arc<rustls::ClientConfig>, LinkError> {
    let bad = |file: &Path, reason: String| LinkError::TlsFile {
        file: file.to_owned(),
        reason,
    };
    let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>, LinkError> {
        let found = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| bad(file, pem_reason(&e)))?;
        if found.is_empty() {
            return Err(bad(file, "holds no certificate in PEM form".to_owned()));
        }
        Ok(found)
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca_file)? {
        roots
            .add(certificate)
            .map_err(|e| bad(&tls.ca_file, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((chain_file, key_file)) => {
            let chain = certificates(chain_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| bad(key_file, pem_reason(&e)))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                bad(
                    key_file,
                    format!("does not go with {}: {e}", chain_file.display()),
                )
            })?
        }
    };
    Ok(Arc::new(config))
}

fn pem_reason(e: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error;
    match e {
        Error::Io(e) => e.to_string(),
        Error::NoItemsFound => "holds no such item in PEM form".to_owned(),
        e => format!("is not PEM ({e})"),
    }
}
