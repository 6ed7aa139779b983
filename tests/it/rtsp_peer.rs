//! A camera of our own that does what no other server can be asked for: it breaks RTSP, RTP and the rules
//! of the house, and changes its ways while it runs. Plain threads, no library: what it sends is written
//! here byte by byte.
//!
//! One video track under every path, RTP interleaved in the RTSP connection (RFC 2326 section 10.12), H.264
//! by RFC 6184 and H.265 by RFC 7798.
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use mingchu::app::demo::read_clip;
use mingchu::app::demo::rtsp_server::Clip;
use mingchu::capture::Codec;
use mingchu::capture::nal::annex_b_units;

/// What the camera does to whoever connects.
#[derive(Clone)]
pub enum Ways {
    /// Accepts and never answers.
    Mute,
    /// Answers what is no RTSP.
    Garbage,
    /// One header line without end.
    EndlessLine,
    /// Header lines without end.
    EndlessHeaders,
    /// A body of four gigabytes.
    EndlessBody,
    /// Plays, and sends one picture in fragments without end, with sender reports between them.
    EndlessPicture(Arc<Clip>),
    /// Plays, and sends sender reports and no picture.
    ReportsOnly(Arc<Clip>),
    /// Plays without any picture that stands alone.
    Keyless(Arc<Clip>),
    /// Plays the clip in a loop.
    Plays(Arc<Clip>),
    /// The same, each picture with the timestamp of the first.
    SameTimestamps(Arc<Clip>),
    /// The same, timestamps running backwards by ten seconds every second.
    BackwardTimestamps(Arc<Clip>),
    /// The same, but remembers a session for so long after its connection is gone, and has one only.
    OneSession(Arc<Clip>, Duration),
    /// Answers each request of a connection with the next of these, whatever was asked.
    Says(Arc<Vec<Vec<u8>>>),
    /// Refuses every request with this status.
    Refuses(u16),
}

struct State {
    ways: Ways,
    /// Connections of an earlier one are cut.
    power: u64,
    connections: u64,
    /// Until when the one session there is counts as taken.
    taken_until: Option<Instant>,
}

/// See the module docs. Connections end when it is dropped.
pub struct Peer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

pub fn clip(path: &Path) -> Arc<Clip> {
    Arc::new(read_clip(path).unwrap())
}

impl Peer {
    pub fn start(ways: Ways) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                ways,
                power: 0,
                connections: 0,
                taken_until: None,
            })),
        };
        peer.listen(listener);
        peer
    }

    fn listen(&self, listener: TcpListener) {
        let state = self.state.clone();
        let power = state.lock().unwrap().power;
        thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                {
                    let mut s = state.lock().unwrap();
                    if s.power != power {
                        return;
                    }
                    s.connections += 1;
                }
                let state = state.clone();
                thread::spawn(move || {
                    let cut = socket.try_clone();
                    // However it ends, the client sees the end of the connection.
                    drop(Conversation::new(socket, state, power).map(Conversation::hold));
                    drop(cut.map(|s| s.shutdown(Shutdown::Both)));
                });
            }
        });
    }

    pub fn url(&self) -> String {
        format!("rtsp://{}/stream", self.address)
    }

    /// From now on; what plays goes on in the new way.
    pub fn becomes(&self, ways: Ways) {
        self.state.lock().unwrap().ways = ways;
    }

    /// How many there were.
    pub fn connections(&self) -> u64 {
        self.state.lock().unwrap().connections
    }

    /// Without power: nobody listens, connections are cut.
    pub fn goes_off(&self) {
        self.state.lock().unwrap().power += 1;
        // Wakes the listening thread, which then ends and lets go of the port.
        drop(TcpStream::connect(self.address));
    }

    /// Again at the same address.
    pub fn comes_back(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => return self.listen(listener),
                Err(e) => assert!(Instant::now() < deadline, "{}: {e}", self.address),
            }
            thread::yield_now();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.goes_off();
    }
}

/// One connection.
struct Conversation {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    state: Arc<Mutex<State>>,
    power: u64,
    remembers: Option<Duration>,
    answered: usize,
}

struct Asked {
    method: String,
    url: String,
    cseq: String,
}

/// Why a connection ends; nobody asks which.
type Ended = std::io::Error;

impl Conversation {
    fn new(socket: TcpStream, state: Arc<Mutex<State>>, power: u64) -> Result<Self, Ended> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.set_write_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self {
            reader: BufReader::new(socket.try_clone()?),
            writer: socket,
            state,
            power,
            remembers: None,
            answered: 0,
        })
    }

    fn ways(&self) -> Result<Ways, Ended> {
        let s = self.state.lock().unwrap();
        if s.power == self.power {
            Ok(s.ways.clone())
        } else {
            Err(Ended::other("no power"))
        }
    }

    fn hold(mut self) -> Result<(), Ended> {
        let outcome = self.converse();
        if let Some(remembered) = self.remembers {
            self.state.lock().unwrap().taken_until = Some(Instant::now() + remembered);
        }
        outcome
    }

    fn converse(&mut self) -> Result<(), Ended> {
        loop {
            let asked = self.request()?;
            match self.ways()? {
                Ways::Mute => {}
                Ways::Garbage => {
                    let noise: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
                    self.writer.write_all(&noise)?;
                }
                Ways::EndlessLine => {
                    self.writer.write_all(b"RTSP/1.0 200 OK\r\nX-Long: ")?;
                    return self.flood(b"a");
                }
                Ways::EndlessHeaders => {
                    self.writer.write_all(b"RTSP/1.0 200 OK\r\n")?;
                    return self.flood(b"X-More: and more\r\n");
                }
                Ways::EndlessBody => {
                    let head = format!(
                        "RTSP/1.0 200 OK\r\nCSeq: {}\r\nContent-Length: 4000000000\r\n\r\n",
                        asked.cseq
                    );
                    self.writer.write_all(head.as_bytes())?;
                    return self.flood(b"body ");
                }
                Ways::Says(answers) => {
                    let next = answers.get(self.answered);
                    let next = next.ok_or_else(|| Ended::other("nothing more to say"))?;
                    self.writer.write_all(next)?;
                    self.answered += 1;
                }
                Ways::Refuses(status) => self.answer(&asked, status, "", "")?,
                Ways::OneSession(clip, remembered) => {
                    let taken = self.state.lock().unwrap().taken_until;
                    if asked.method == "SETUP" && taken.is_some_and(|t| Instant::now() < t) {
                        self.answer(&asked, 453, "", "")?;
                        continue;
                    }
                    if asked.method == "SETUP" {
                        self.remembers = Some(remembered);
                        let forever = Instant::now() + Duration::from_secs(3600);
                        self.state.lock().unwrap().taken_until = Some(forever);
                    }
                    // A teardown is answered, and the session kept all the same.
                    self.serve(&asked, &clip)?;
                }
                Ways::EndlessPicture(clip)
                | Ways::ReportsOnly(clip)
                | Ways::Keyless(clip)
                | Ways::Plays(clip)
                | Ways::SameTimestamps(clip)
                | Ways::BackwardTimestamps(clip) => self.serve(&asked, &clip)?,
            }
        }
    }

    /// The same bytes until the client has had enough.
    fn flood(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let block = bytes.repeat(65_536 / bytes.len());
        loop {
            self.ways()?;
            self.writer.write_all(&block)?;
        }
    }

    /// Waits for a whole request.
    fn request(&mut self) -> Result<Asked, Ended> {
        let mut head = Vec::new();
        loop {
            self.ways()?;
            match self.reader.read_until(b'\n', &mut head) {
                Ok(0) => return Err(Ended::other("gone")),
                Ok(_) if head.ends_with(b"\r\n\r\n") => break,
                Ok(_) => {}
                Err(e) if is_time_out(&e) => {}
                Err(e) => return Err(e),
            }
        }
        let text = String::from_utf8_lossy(&head);
        // What it sends between the pictures (receiver reports) is no request.
        let begin = [
            "DESCRIBE ",
            "SETUP ",
            "PLAY ",
            "TEARDOWN ",
            "OPTIONS ",
            "GET_PARAMETER ",
        ]
        .iter()
        .filter_map(|m| text.find(m))
        .min()
        .ok_or_else(|| Ended::other("no request"))?;
        let mut words = text[begin..].split(' ');
        let line = |name: &str| {
            let value = text.lines().find_map(|l| l.strip_prefix(name));
            value.unwrap_or_default().trim().to_owned()
        };
        Ok(Asked {
            method: words.next().unwrap_or_default().to_owned(),
            url: words.next().unwrap_or_default().to_owned(),
            cseq: line("CSeq:"),
        })
    }

    fn answer(&mut self, asked: &Asked, status: u16, more: &str, body: &str) -> Result<(), Ended> {
        let text = format!(
            "RTSP/1.0 {status} Whatever\r\nCSeq: {}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            asked.cseq,
            body.len()
        );
        self.writer.write_all(text.as_bytes())
    }

    /// As a camera should.
    fn serve(&mut self, asked: &Asked, clip: &Clip) -> Result<(), Ended> {
        let session = "Session: 12345678;timeout=60\r\n";
        match asked.method.as_str() {
            "DESCRIBE" => {
                let more = format!(
                    "Content-Base: {}/\r\nContent-Type: application/sdp\r\n",
                    asked.url
                );
                self.answer(asked, 200, &more, &describe(clip))
            }
            "SETUP" => {
                let more = format!(
                    "{session}Transport: RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=11223344\r\n"
                );
                self.answer(asked, 200, &more, "")
            }
            "PLAY" => {
                self.answer(asked, 200, session, "")?;
                self.play()
            }
            _ => self.answer(asked, 200, session, ""),
        }
    }

    /// Sends pictures until the client says something; then that is answered by the caller.
    fn play(&mut self) -> Result<(), Ended> {
        let (mut sequence, mut timestamp) = (1u16, 90_000u32);
        let began = Instant::now();
        let mut sent = 0u32;
        loop {
            let ways = self.ways()?;
            let of = match &ways {
                Ways::EndlessPicture(clip)
                | Ways::ReportsOnly(clip)
                | Ways::Keyless(clip)
                | Ways::Plays(clip)
                | Ways::OneSession(clip, _)
                | Ways::SameTimestamps(clip)
                | Ways::BackwardTimestamps(clip) => clip.clone(),
                _ => return Err(Ended::other("it does something else now")),
            };
            if matches!(ways, Ways::EndlessPicture(_)) {
                return self.endless_picture(&of);
            }
            let units = &of.units;
            let unit = &units[sent as usize % units.len()];
            let shown = match ways {
                Ways::ReportsOnly(_) => false,
                Ways::Keyless(_) => !unit.is_key,
                _ => true,
            };
            if shown {
                for packet in packets(of.codec, &unit.data, timestamp, &mut sequence) {
                    self.interleaved(0, &packet)?;
                }
            }
            if sent.is_multiple_of(4) {
                self.interleaved(1, &sender_report(timestamp))?;
            }
            sent += 1;
            timestamp = match ways {
                Ways::SameTimestamps(_) => timestamp,
                Ways::BackwardTimestamps(_) if sent.is_multiple_of(25) => {
                    timestamp.wrapping_sub(900_000)
                }
                _ => timestamp.wrapping_add(3600),
            };
            // In real time, as a camera: 25 pictures a second.
            let due = began + Duration::from_millis(40) * sent;
            while Instant::now() < due {
                self.reader
                    .get_ref()
                    .set_read_timeout(Some(Duration::from_millis(5)))?;
                if self.said_something()? {
                    return Ok(());
                }
            }
        }
    }

    /// Whether a request waits. The answer comes with the next round of the caller.
    fn said_something(&mut self) -> Result<bool, Ended> {
        match self.reader.fill_buf() {
            Ok([]) => Err(Ended::other("gone")),
            Ok([b'$', ..]) => {
                // A receiver report: passed over.
                let mut head = [0; 4];
                self.reader.read_exact(&mut head)?;
                let mut body = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
                self.reader.read_exact(&mut body)?;
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(e) if is_time_out(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn endless_picture(&mut self, clip: &Clip) -> Result<(), Ended> {
        let (indicator, header) = match clip.codec {
            Codec::H264 => (vec![0x7c], 5),
            Codec::H265 => (vec![0x62, 0x01], 19),
        };
        let mut sequence = 1u16;
        for n in 0u64.. {
            self.ways()?;
            let begins = if n == 0 { 0x80 } else { 0 };
            let mut payload = indicator.clone();
            payload.push(header | begins);
            payload.extend(std::iter::repeat_n(0x55, 60_000));
            let packet = rtp(false, sequence, 90_000, &payload);
            sequence = sequence.wrapping_add(1);
            self.interleaved(0, &packet)?;
            if n.is_multiple_of(100) {
                self.interleaved(1, &sender_report(90_000))?;
            }
        }
        Ok(())
    }

    fn interleaved(&mut self, channel: u8, packet: &[u8]) -> Result<(), Ended> {
        let length = (packet.len() as u16).to_be_bytes();
        let framed = [&[b'$', channel, length[0], length[1]], packet].concat();
        self.writer.write_all(&framed)
    }
}

fn is_time_out(e: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// RFC 3550 section 5.1.
fn rtp(last: bool, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 0x60 | if last { 0x80 } else { 0 }];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(0x1122_3344_u32.to_be_bytes());
    packet.extend(payload);
    packet
}

/// RFC 3550 section 6.4.1, of a camera without a wall clock.
fn sender_report(timestamp: u32) -> Vec<u8> {
    let mut report = vec![0x80, 200, 0, 6];
    report.extend(0x1122_3344_u32.to_be_bytes());
    report.extend(0u64.to_be_bytes());
    report.extend(timestamp.to_be_bytes());
    report.extend([0; 8]);
    report
}

/// A picture's packets: each NAL unit as it is, or in fragments.
fn packets(codec: Codec, annex_b: &[u8], timestamp: u32, sequence: &mut u16) -> Vec<Vec<u8>> {
    const MOST: usize = 1400;
    let units: Vec<&[u8]> = annex_b_units(annex_b).collect();
    let mut out = Vec::new();
    let mut push = |last: bool, payload: &[u8]| {
        out.push(rtp(last, *sequence, timestamp, payload));
        *sequence = sequence.wrapping_add(1);
    };
    for (n, unit) in units.iter().enumerate() {
        let is_last = n + 1 == units.len();
        if unit.len() <= MOST {
            push(is_last, unit);
            continue;
        }
        let (head, indicator, kind) = match codec {
            Codec::H264 => (1, vec![unit[0] & 0xe0 | 0x1c], unit[0] & 0x1f),
            Codec::H265 => (2, vec![unit[0] & 0x81 | 0x62, unit[1]], unit[0] >> 1 & 0x3f),
        };
        let pieces: Vec<&[u8]> = unit[head..].chunks(MOST).collect();
        for (i, piece) in pieces.iter().enumerate() {
            let ends = i + 1 == pieces.len();
            let marks = if i == 0 { 0x80 } else { 0 } | if ends { 0x40 } else { 0 };
            let payload = [&indicator[..], &[kind | marks], piece].concat();
            push(is_last && ends, &payload);
        }
    }
    out
}

/// Session description (RFC 8866) with the parameter sets of the clip's first key unit.
fn describe(clip: &Clip) -> String {
    let key = &clip.units.iter().find(|u| u.is_key).unwrap().data;
    let set = |kind: u8| {
        let found = annex_b_units(key).find(|u| match clip.codec {
            Codec::H264 => u[0] & 0x1f == kind,
            Codec::H265 => u[0] >> 1 & 0x3f == kind,
        });
        base64::engine::general_purpose::STANDARD.encode(found.unwrap())
    };
    let (name, format) = match clip.codec {
        Codec::H264 => (
            "H264",
            format!(
                "packetization-mode=1;sprop-parameter-sets={},{}",
                set(7),
                set(8)
            ),
        ),
        Codec::H265 => (
            "H265",
            format!(
                "sprop-vps={};sprop-sps={};sprop-pps={}",
                set(32),
                set(33),
                set(34)
            ),
        ),
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n\
         m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\na=fmtp:96 {format}\r\n\
         a=control:trackID=0\r\n"
    )
}
