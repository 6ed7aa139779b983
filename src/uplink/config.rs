//! What the uplink needs to be told.
use std::path::PathBuf;
use std::time::Duration;

use crate::base::ids::Name;
use crate::base::secret::Secret;

/// Who we are on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteIdentity {
    /// County code; a topic level.
    pub region: Name,
    /// Premises; a topic level.
    pub site: Name,
    /// Unified social credit code of the business, for people; goes into findings if given.
    pub uscc: Option<String>,
}

/// TLS to the broker. Anything unreadable refuses to start; there is no way back to clear text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the authorities that may have signed the broker's certificate.
    pub ca_file: PathBuf,
    /// PEM files of our own certificate chain and key, for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Whose word frees a record from the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckBy {
    /// The broker's `PubAck`.
    #[default]
    Broker,
    /// The centre's receipt on the `receipt` topic.
    Centre,
}

/// The line to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `None`: clear text (`mqtt://`).
    pub tls: Option<TlsConfig>,
    /// MQTT client id, unique at the broker.
    pub client_id: String,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// Whose word counts.
    pub ack: AckBy,
    /// Records in flight, from the oldest not acknowledged on.
    pub window: u16,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// The oldest message in flight is not acknowledged for this long: the connection is dropped.
    pub progress_timeout: Duration,
    /// How often telemetry is sent.
    pub telemetry_every: Duration,
    /// What pictures and clips may take of the line, kbit/s on average; 0: none are sent.
    pub evidence_kbps: u32,
    /// What may wait to be sent, records and files together; see `outbox_budget.rs`.
    pub outbox_bytes: u64,
}
