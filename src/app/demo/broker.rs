//! The demo's MQTT broker, inside the process, so that `mingchu demo` needs no other program.
//!
//! What must not be here: anything the daemon itself depends on. The crate `rumqttd` is named in
//! this file only.
//!
//! It speaks MQTT 5 and nothing else; an older client is not served. Where it falls short of
//! a real broker (version 0.20, tried with mosquitto's clients):
//! * a message without a subscriber is acknowledged with success, never with reason 0x10, so the
//!   demo cannot show what the daemon does about that;
//! * retained messages and wills work; an empty payload removes the retained message even without
//!   the retain flag;
//! * a new subscription gets 100 retained messages at most, in no order;
//! * a keep-alive of 0 is refused, and everything is forgotten when the process ends.
//!
//! It has no way to be stopped: its threads end with the process.
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// What to add to the log filter: the broker reports each client that leaves as an error.
pub const LOG_FILTER: &str = "rumqttd=off";

/// Largest packet taken: a still with room to spare.
const MAX_PACKET_BYTES: usize = 4 * 1024 * 1024;
/// Ports to try: another program may take a free port before the broker does.
const ATTEMPTS: usize = 5;
/// Time between looks whether the broker listens yet, and how often to look.
const POLL: Duration = Duration::from_millis(10);
const POLLS: usize = 500;

/// A running broker.
pub struct DemoBroker {
    port: u16,
    /// Ends only if the broker cannot go on.
    thread: JoinHandle<()>,
}

impl DemoBroker {
    /// Starts a broker on a free port of the loopback address and waits until it listens. Blocking,
    /// for some milliseconds.
    ///
    /// # Errors
    /// No port could be had.
    pub fn start() -> anyhow::Result<Self> {
        for _ in 0..ATTEMPTS {
            let port = free_port().context("no free port for the demo's broker")?;
            let mut broker = Broker::new(config(port));
            let thread = thread::Builder::new()
                .name("broker".to_owned())
                .spawn(move || {
                    if let Err(e) = broker.start() {
                        tracing::error!(err = %e, "the demo's broker ended");
                    }
                })
                .context("no thread for the demo's broker")?;
            if listens(port, &thread) {
                return Ok(Self { port, thread });
            }
        }
        bail!("the demo's broker found no port to listen on");
    }

    /// The port it listens on, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it still serves.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// A port nobody listens on now. rumqttd takes a port number, not a listener, so another program may
/// come between.
fn free_port() -> io::Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?.port())
}

/// Waits until the broker accepts connections. False if its thread ended, because the port was taken.
fn listens(port: u16, thread: &JoinHandle<()>) -> bool {
    for _ in 0..POLLS {
        if thread.is_finished() {
            return false;
        }
        // Whoever took the port meanwhile would answer too, but then the thread is about to end.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            thread::sleep(POLL);
            return !thread.is_finished();
        }
        thread::sleep(POLL);
    }
    false
}

fn config(port: u16) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: MAX_PACKET_BYTES,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        // Without it, publishing what nobody subscribed to ends the publisher's connection.
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "broker-v5".to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            // Kept per topic filter, so that a demo left running does not grow without end.
            max_segment_size: 1024 * 1024,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("v5".to_owned(), server)])),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// MQTT 5 CONNECT: clean start, keep-alive 10 s, no properties, client id `t`.
    const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x01t";

    #[test]
    fn an_mqtt_5_client_is_accepted() {
        let broker = DemoBroker::start().unwrap();
        let port = broker.port();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        client.write_all(CONNECT).unwrap();
        let mut begin = [0; 4];
        client.read_exact(&mut begin).unwrap();
        // CONNACK, its length, no session present, success.
        assert_eq!((begin[0], begin[2], begin[3]), (0x20, 0, 0));
        assert!(broker.is_running());
    }

    #[test]
    fn two_brokers_do_not_share_a_port() {
        let (a, b) = (DemoBroker::start().unwrap(), DemoBroker::start().unwrap());
        assert_ne!(a.port(), b.port());
    }
}
