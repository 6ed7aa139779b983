//! MQTT 5 on the wire, as little of it as a broker and a centre in a test need: both directions, packet by
//! packet, with nothing in between that would mend or refuse what is wrong.
//!
//! Packets are read from a buffer of our own, so that reading may be cut off at any moment.
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub const CONNECT: u8 = 0x10;
pub const CONNACK: u8 = 0x20;
pub const PUBLISH: u8 = 0x30;
pub const PUBACK: u8 = 0x40;
pub const SUBSCRIBE: u8 = 0x80;
pub const SUBACK: u8 = 0x90;
pub const PINGREQ: u8 = 0xc0;
pub const PINGRESP: u8 = 0xd0;
pub const DISCONNECT: u8 = 0xe0;

/// One packet as it came.
#[derive(Debug)]
pub struct Packet {
    /// Type and flags.
    pub head: u8,
    pub body: Vec<u8>,
    /// With head and length.
    pub bytes: usize,
}

impl Packet {
    /// The type alone.
    pub fn kind(&self) -> u8 {
        self.head & 0xf0
    }
}

/// What a PUBLISH says.
#[derive(Debug)]
pub struct Publish {
    pub topic: String,
    /// 0 at QoS 0.
    pub id: u16,
    pub payload: Vec<u8>,
}

impl Publish {
    pub fn of(packet: &Packet) -> Self {
        let mut rest = &packet.body[..];
        let topic = String::from_utf8(text(&mut rest).to_vec()).unwrap();
        let id = match packet.head & 0b110 {
            0 => 0,
            _ => u16::from_be_bytes(take(&mut rest, 2).try_into().unwrap()),
        };
        skip_properties(&mut rest);
        Self {
            topic,
            id,
            payload: rest.to_vec(),
        }
    }
}

fn take<'b>(rest: &mut &'b [u8], n: usize) -> &'b [u8] {
    let (taken, left) = rest.split_at(n);
    *rest = left;
    taken
}

fn text<'b>(rest: &mut &'b [u8]) -> &'b [u8] {
    let n = u16::from_be_bytes(take(rest, 2).try_into().unwrap());
    take(rest, n.into())
}

fn skip_properties(rest: &mut &[u8]) {
    let (n, used) = variable(rest).expect("a whole packet holds its lengths");
    take(rest, used + n);
}

/// A number of variable length and the bytes it takes; `None`: not all there yet.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut n = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        n |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((n, i + 1));
        }
    }
    None
}

/// A whole packet of a head and what follows the length.
pub fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut n = body.len();
    loop {
        let more = n > 0x7f;
        bytes.push((n & 0x7f) as u8 | if more { 0x80 } else { 0 });
        n >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Who a CONNECT is from.
pub fn client_id(connect: &Packet) -> String {
    let mut rest = &connect.body[..];
    text(&mut rest);
    // Version, flags, keep-alive.
    take(&mut rest, 4);
    skip_properties(&mut rest);
    String::from_utf8(text(&mut rest).to_vec()).unwrap()
}

/// The broker's welcome, or its refusal.
pub fn connack(
    session_present: bool,
    reason: u8,
    receive_maximum: Option<u16>,
    max_packet: Option<u32>,
) -> Vec<u8> {
    let mut properties = Vec::new();
    if let Some(n) = receive_maximum {
        properties.push(0x21);
        properties.extend(n.to_be_bytes());
    }
    if let Some(n) = max_packet {
        properties.push(0x27);
        properties.extend(n.to_be_bytes());
    }
    let mut body = vec![u8::from(session_present), reason, properties.len() as u8];
    body.extend(properties);
    packet(CONNACK, &body)
}

pub fn puback(id: u16, reason: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if reason != 0 {
        body.push(reason);
    }
    packet(PUBACK, &body)
}

/// Grants QoS 1 to each filter of a SUBSCRIBE.
pub fn suback(subscribe: &Packet) -> Vec<u8> {
    let mut rest = &subscribe.body[..];
    let mut body = take(&mut rest, 2).to_vec();
    skip_properties(&mut rest);
    body.push(0);
    while !rest.is_empty() {
        text(&mut rest);
        take(&mut rest, 1);
        body.push(1);
    }
    packet(SUBACK, &body)
}

/// At QoS 0 without an id, else at QoS 1.
pub fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    if id > 0 {
        body.extend(id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(PUBLISH | if id > 0 { 0b10 } else { 0 }, &body)
}

pub fn subscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    body.extend((filter.len() as u16).to_be_bytes());
    body.extend(filter.as_bytes());
    body.push(1);
    packet(SUBSCRIBE | 0b10, &body)
}

/// A client that keeps its session for an hour, without keep-alive.
pub fn connect(client_id: &str) -> Vec<u8> {
    let mut body = vec![0, 4];
    body.extend(b"MQTT\x05");
    // No clean start, no keep-alive; property 0x11, session expiry.
    body.extend([0, 0, 0, 5, 0x11]);
    body.extend(3600_u32.to_be_bytes());
    body.extend((client_id.len() as u16).to_be_bytes());
    body.extend(client_id.as_bytes());
    packet(CONNECT, &body)
}

/// A connection, packet by packet.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The next packet; `None` when the other side has closed or cut the connection. Safe to cancel.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.take() {
                return Some(packet);
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let (n, used) = variable(self.read.get(1..)?)?;
        let bytes = 1 + used + n;
        if self.read.len() < bytes {
            return None;
        }
        let packet: Vec<u8> = self.read.drain(..bytes).collect();
        Some(Packet {
            head: packet[0],
            body: packet[1 + used..].to_vec(),
            bytes,
        })
    }

    /// Writes all of it. False: the other side is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }
}
