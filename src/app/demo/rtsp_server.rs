//! The demo's camera: a small RTSP 1.0 server that plays one clip in a loop, in real time.
//!
//! It exists so that `mingchu demo` needs no camera and no second program, and still goes the whole
//! way: the daemon meets it over TCP as it would meet a camera. Tests use it too, where a camera must do
//! what no other server can be asked for: have a wrong clock ([`Reports`]). It is no general server: one video
//! stream under every path, RTP interleaved in the RTSP connection only (RFC 2326 section 10.12), no
//! authentication, no seeking, and each client sees the clip from its beginning.
//!
//! What must not be here: reading of clips, and anything the daemon itself depends on. The crate
//! `rtsp-types` is named in this file only.
//!
//! # Limits
//! A client is not trusted: at most `MAX_CLIENTS` at a time, a request has to fit into
//! `MAX_REQUEST_BYTES`, who neither plays nor asks for `IDLE` is disconnected, and so is who does
//! not take a picture within `SEND_LIMIT`. A connection holds one picture at most; there is no
//! queue behind it.
//!
//! # Formats
//! H.264 as in RFC 6184 (single NAL unit packets and FU-A), H.265 as in RFC 7798 (the same, FU),
//! sender reports as in RFC 3550 section 6.4.1.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rtsp_types::headers::{self, RtpLowerTransport, Transport, Transports};
use rtsp_types::{Message, Method, ParseError, Request, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::time::{SharedClock, SystemClock, UtcMicros};
use crate::capture::Codec;
use crate::capture::nal::annex_b_units;

/// More than a demo needs; keeps a port scan from using up the file descriptors.
const MAX_CLIENTS: usize = 64;
/// An interleaved packet has at most 64 KiB, and a request is far smaller.
const MAX_REQUEST_BYTES: usize = 68 * 1024;
/// How long a connection may stay without a request while nothing plays.
const IDLE: Duration = Duration::from_secs(60);
/// Longest wait for a client to take what it is sent.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Further behind than this we go on from now, instead of sending the past in one burst.
const MAX_BEHIND: Duration = Duration::from_secs(2);
/// RTP payload bytes per packet: what fits an Ethernet frame, as cameras do it, though TCP would
/// take more.
const MAX_PAYLOAD_BYTES: usize = 1400;
/// First dynamic RTP payload type.
const PAYLOAD_TYPE: u8 = 96;
/// What stands after the stream's base URL in its control URL.
const TRACK: &str = "trackID=0";

/// One encoded picture of the clip.
#[derive(Clone, Debug)]
pub struct ClipUnit {
    /// Annex B byte stream, parameter sets before each key unit.
    pub data: Bytes,
    /// When it is shown, in 1/90,000 s.
    pub pts_90k: i64,
    /// Decoding can begin here.
    pub is_key: bool,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Clip {
    /// How it is encoded.
    pub codec: Codec,
    /// In decode order.
    pub units: Vec<ClipUnit>,
    /// From the first picture of one round to that of the next, in 1/90,000 s.
    pub duration_90k: i64,
}

/// What the camera says of its wall clock, in sender reports. A test gives it a clock that is off.
#[derive(Clone, Debug)]
pub struct Reports {
    /// The camera's own clock.
    pub clock: SharedClock,
    /// Time between two reports; none comes but with a picture.
    pub every: Duration,
}

impl Default for Reports {
    /// The machine's clock, as often as cameras do.
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            every: Duration::from_secs(5),
        }
    }
}

/// Serves `clip` to whoever connects, until `stop`.
///
/// # Errors
/// The clip cannot be played: it holds no key unit with parameter sets, or has no duration. What a
/// client does is never an error of the server.
pub async fn serve(
    listener: TcpListener,
    clip: Arc<Clip>,
    reports: Reports,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let stream = Arc::new(Stream::new(clip, reports)?);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = clients.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) if clients.len() < MAX_CLIENTS => {
                    // A picture's last packet must not wait for the next picture.
                    if let Err(e) = socket.set_nodelay(true) {
                        tracing::debug!(err = %e, "rtsp client without nodelay");
                    }
                    let (stream, stop) = (stream.clone(), stop.clone());
                    clients.spawn(async move {
                        match converse(socket, &stream, stop).await {
                            Ok(()) => tracing::debug!(%peer, "rtsp client left"),
                            Err(e) => tracing::debug!(%peer, err = %e, "rtsp client dropped"),
                        }
                    });
                }
                Ok((_refused, peer)) => tracing::debug!(%peer, "too many rtsp clients"),
                Err(e) => {
                    tracing::debug!(err = %e, "rtsp client could not be accepted");
                    // Out of file descriptors, most likely: trying at once would only spin.
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

/// The clip and what is said of it.
struct Stream {
    clip: Arc<Clip>,
    reports: Reports,
    /// Index of the unit a round begins with: the first key unit.
    first: usize,
    /// Length of a round, above the time between any two of its pictures.
    round_90k: i64,
    /// Session description (RFC 8866).
    sdp: String,
}

impl Stream {
    fn new(clip: Arc<Clip>, reports: Reports) -> anyhow::Result<Self> {
        let first = clip.units.iter().position(|u| u.is_key);
        let first = first.context("the demo clip has no key picture")?;
        let sdp = describe(clip.codec, &clip.units[first].data)
            .context("the demo clip's first key picture comes without parameter sets")?;
        let begin = clip.units[first].pts_90k;
        let span = clip.units[first..]
            .iter()
            .try_fold(0, |span: i64, u| {
                Some(span.max(u.pts_90k.checked_sub(begin)?))
            })
            .context("the demo clip's timestamps are out of range")?;
        if clip.duration_90k <= 0 {
            bail!("the demo clip has no duration");
        }
        let round_90k = clip.duration_90k.max(span.saturating_add(1));
        Ok(Self {
            clip,
            reports,
            first,
            round_90k,
            sdp,
        })
    }
}

/// The session description, or `None` without parameter sets.
fn describe(codec: Codec, key_unit: &[u8]) -> Option<String> {
    let find = |nal_type: u8| {
        annex_b_units(key_unit).find(|u| match codec {
            Codec::H264 => u[0] & 0x1f == nal_type,
            Codec::H265 => u[0] >> 1 & 0x3f == nal_type,
        })
    };
    let (name, format) = match codec {
        Codec::H264 => {
            let (sps, pps) = (find(7)?, find(8)?);
            let profile = sps.get(1..4)?;
            let format = format!(
                "packetization-mode=1;profile-level-id={:02X}{:02X}{:02X};sprop-parameter-sets={},{}",
                profile[0],
                profile[1],
                profile[2],
                base64(sps),
                base64(pps)
            );
            ("H264", format)
        }
        Codec::H265 => {
            let (vps, sps, pps) = (find(32)?, find(33)?, find(34)?);
            let format = format!(
                "sprop-vps={};sprop-sps={};sprop-pps={}",
                base64(vps),
                base64(sps),
                base64(pps)
            );
            ("H265", format)
        }
    };
    Some(format!(
        "v=0\r\n\
         o=- 1 1 IN IP4 127.0.0.1\r\n\
         s=mingchu demo camera\r\n\
         c=IN IP4 0.0.0.0\r\n\
         t=0 0\r\n\
         a=tool:mingchu/{version}\r\n\
         a=control:*\r\n\
         m=video 0 RTP/AVP {PAYLOAD_TYPE}\r\n\
         a=rtpmap:{PAYLOAD_TYPE} {name}/90000\r\n\
         a=fmtp:{PAYLOAD_TYPE} {format}\r\n\
         a=control:{TRACK}\r\n",
        version = env!("CARGO_PKG_VERSION"),
    ))
}

/// RFC 4648 section 4, for the three parameter sets; no crate for that.
fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in data.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            if i <= group.len() {
                text.push(DIGITS[(bits >> (18 - 6 * i) & 63) as usize].into());
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// One client from its first request to its end.
async fn converse<S: AsyncRead + AsyncWrite>(
    socket: S,
    stream: &Stream,
    stop: CancellationToken,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut session = Session::new();
    let mut player: Option<Player<'_>> = None;
    let mut input = BytesMut::new();
    let mut output = Vec::new();
    let mut idle_until = Instant::now() + IDLE;
    loop {
        // While something plays the next picture wakes us, else the end of our patience.
        let wake = player.as_ref().map_or(idle_until, Player::due);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            read = reader.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(request) = take_request(&mut input, &mut output) {
                    idle_until = Instant::now() + IDLE;
                    session.answer(&request, stream).write(&mut output).map_err(io::Error::other)?;
                }
                match (session.playing, &player) {
                    (Some(channels), None) => {
                        player = Some(Player::new(stream, session.rtp_start, channels));
                    }
                    (None, Some(_)) => player = None,
                    _ => {}
                }
                send(&mut writer, &mut output).await?;
                if input.len() > MAX_REQUEST_BYTES {
                    return Err(io::Error::other("no request, or one that is too long"));
                }
            }
            () = sleep_until(wake) => match &mut player {
                None => return Ok(()),
                Some(player) => {
                    player.put_next(&mut output);
                    send(&mut writer, &mut output).await?;
                }
            },
        }
    }
}

/// Sends and empties `output`.
async fn send(writer: &mut (impl AsyncWrite + Unpin), output: &mut Vec<u8>) -> io::Result<()> {
    if !output.is_empty() {
        timeout(SEND_LIMIT, writer.write_all(output))
            .await
            .map_err(|_| io::Error::other("too slow"))??;
        output.clear();
    }
    Ok(())
}

/// The next whole request. What else a client may send (receiver reports, responses) is passed over.
/// After bytes that are no RTSP the input is spoilt: it is answered once, and grows until its limit
/// ends the connection.
fn take_request(input: &mut BytesMut, output: &mut Vec<u8>) -> Option<Request<Vec<u8>>> {
    loop {
        match Message::<Vec<u8>>::parse(&input[..]) {
            Ok((message, used)) => {
                input.advance(used.min(input.len()));
                if let Message::Request(request) = message {
                    return Some(request);
                }
            }
            Err(ParseError::Incomplete(_)) => return None,
            Err(ParseError::Error) => {
                let refused = Response::builder(Version::V1_0, StatusCode::BadRequest).empty();
                // Writing to memory does not fail.
                drop(refused.write(output));
                input.clear();
                input.resize(MAX_REQUEST_BYTES + 1, 0);
                return None;
            }
        }
    }
}

/// Interleaved channel numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channels {
    rtp: u8,
    rtcp: u8,
}

/// Where a client's RTP begins: random, as RFC 3550 section 5.1 asks.
#[derive(Clone, Copy, Debug)]
struct RtpStart {
    ssrc: u32,
    seq: u16,
    timestamp: u32,
}

/// What was agreed with one client.
struct Session {
    id: String,
    rtp_start: RtpStart,
    channels: Option<Channels>,
    playing: Option<Channels>,
}

impl Session {
    fn new() -> Self {
        Self {
            id: format!("{:016x}", fastrand::u64(..)),
            rtp_start: RtpStart {
                ssrc: fastrand::u32(..),
                seq: fastrand::u16(..),
                timestamp: fastrand::u32(..),
            },
            channels: None,
            playing: None,
        }
    }

    /// Acts on a request and answers it.
    fn answer(&mut self, request: &Request<Vec<u8>>, stream: &Stream) -> Response<Vec<u8>> {
        let mut answer = self.act(request, stream);
        if let Some(cseq) = request.header(&headers::CSEQ) {
            answer.insert_header(headers::CSEQ, cseq.as_str());
        }
        answer.insert_header(
            headers::SERVER,
            concat!("mingchu-demo/", env!("CARGO_PKG_VERSION")),
        );
        answer
    }

    fn act(&mut self, request: &Request<Vec<u8>>, stream: &Stream) -> Response<Vec<u8>> {
        let status = |code| Response::builder(Version::V1_0, code).build(Vec::new());
        // The base that `TRACK` is relative to.
        let base = request.request_uri().map(|url| {
            let url = url.as_str().trim_end_matches(TRACK);
            format!("{}/", url.trim_end_matches('/'))
        });
        if let Some(named) = request.header(&headers::SESSION)
            && named.as_str().split(';').next().map(str::trim) != Some(&self.id)
        {
            return status(StatusCode::SessionNotFound);
        }
        match (request.method(), base) {
            (Method::Options, _) => Response::builder(Version::V1_0, StatusCode::Ok)
                .header(
                    headers::PUBLIC,
                    "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN",
                )
                .build(Vec::new()),
            (Method::Describe, Some(base)) => Response::builder(Version::V1_0, StatusCode::Ok)
                .header(headers::CONTENT_BASE, base)
                .header(headers::CONTENT_TYPE, "application/sdp")
                .build(stream.sdp.clone().into_bytes()),
            (Method::Setup, Some(_)) if self.playing.is_some() => {
                status(StatusCode::MethodNotValidInThisState)
            }
            (Method::Setup, Some(_)) => match asked_channels(request) {
                None => status(StatusCode::UnsupportedTransport),
                Some(channels) => {
                    self.channels = Some(channels);
                    let transport = format!(
                        "RTP/AVP/TCP;unicast;interleaved={}-{};ssrc={:08X}",
                        channels.rtp, channels.rtcp, self.rtp_start.ssrc
                    );
                    Response::builder(Version::V1_0, StatusCode::Ok)
                        .header(headers::TRANSPORT, transport)
                        .header(
                            headers::SESSION,
                            format!("{};timeout={}", self.id, IDLE.as_secs()),
                        )
                        .build(Vec::new())
                }
            },
            (Method::Play, Some(base)) if self.channels.is_some() => {
                self.playing = self.channels;
                let RtpStart { seq, timestamp, .. } = self.rtp_start;
                let info = format!("url={base}{TRACK};seq={seq};rtptime={timestamp}");
                Response::builder(Version::V1_0, StatusCode::Ok)
                    .header(headers::SESSION, self.id.as_str())
                    .header(headers::RANGE, "npt=now-")
                    .header(headers::RTP_INFO, info)
                    .build(Vec::new())
            }
            (Method::Play, Some(_)) => status(StatusCode::MethodNotValidInThisState),
            (Method::GetParameter, _) => Response::builder(Version::V1_0, StatusCode::Ok)
                .header(headers::SESSION, self.id.as_str())
                .build(Vec::new()),
            (Method::Teardown, _) => {
                // Whoever sets up again is a new session.
                *self = Self::new();
                status(StatusCode::Ok)
            }
            (Method::Describe | Method::Setup | Method::Play, None) => {
                status(StatusCode::BadRequest)
            }
            _ => status(StatusCode::NotImplemented),
        }
    }
}

/// The channels of the first transport the client offers that we have: RTP over this connection.
fn asked_channels(request: &Request<Vec<u8>>) -> Option<Channels> {
    let offered = request.typed_header::<Transports>().ok()??;
    offered.iter().find_map(|transport| match transport {
        Transport::Rtp(rtp) if rtp.lower_transport == Some(RtpLowerTransport::Tcp) => {
            let (rtp, rtcp) = rtp.params.interleaved.unwrap_or((0, None));
            let rtcp = rtcp.or_else(|| rtp.checked_add(1))?;
            Some(Channels { rtp, rtcp })
        }
        _ => None,
    })
}

/// The clip as one client sees it: which unit is next and when.
struct Player<'a> {
    stream: &'a Stream,
    channels: Channels,
    packets: Packetiser,
    /// When media time 0 was or will be sent.
    start: Instant,
    /// RTP timestamp of media time 0.
    rtp_origin: u32,
    next: usize,
    /// Media time at which the current round began, in 1/90,000 s.
    round_began_90k: i64,
    /// Media time of the newest unit sent. With B pictures `pts` steps back; sending does not.
    sent_90k: i64,
    next_report: Instant,
}

impl<'a> Player<'a> {
    fn new(stream: &'a Stream, rtp: RtpStart, channels: Channels) -> Self {
        let now = Instant::now();
        Self {
            stream,
            channels,
            packets: Packetiser::new(stream.clip.codec, rtp.ssrc, rtp.seq),
            start: now,
            rtp_origin: rtp.timestamp,
            next: stream.first,
            round_began_90k: 0,
            sent_90k: 0,
            next_report: now,
        }
    }

    /// Media time of the next unit, in 1/90,000 s from the begin of playing.
    fn media_90k(&self) -> i64 {
        let units = &self.stream.clip.units;
        let in_round = units[self.next].pts_90k - units[self.stream.first].pts_90k;
        self.round_began_90k + in_round
    }

    fn due(&self) -> Instant {
        let media_90k = self.media_90k().max(self.sent_90k);
        self.start + Duration::from_micros(u64::try_from(media_90k).unwrap_or(0) * 100 / 9)
    }

    /// Appends the next unit to `output`, and a sender report when it is time for one.
    fn put_next(&mut self, output: &mut Vec<u8>) {
        let (now, due) = (Instant::now(), self.due());
        let behind = now.saturating_duration_since(due);
        if behind > MAX_BEHIND {
            self.start += behind;
        }
        let media_90k = self.media_90k();
        self.sent_90k = self.sent_90k.max(media_90k);
        // RTP timestamps wrap.
        let timestamp = self.rtp_origin.wrapping_add(media_90k as u32);
        if now >= self.next_report {
            let Reports { clock, every } = &self.stream.reports;
            self.next_report = now + *every;
            let report = self.packets.sender_report(clock.utc(), timestamp);
            put_interleaved(self.channels.rtcp, &[&report], output);
        }
        let unit = &self.stream.clip.units[self.next];
        self.packets
            .put_unit(&unit.data, timestamp, self.channels.rtp, output);
        self.next += 1;
        if self.next == self.stream.clip.units.len() {
            self.next = self.stream.first;
            self.round_began_90k += self.stream.round_90k;
        }
    }
}

/// RFC 2326 section 10.12: `$`, channel, length, packet. A packet is far below 64 KiB.
fn put_interleaved(channel: u8, parts: &[&[u8]], output: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    output.put_u8(b'$');
    output.put_u8(channel);
    output.put_u16(len as u16);
    for part in parts {
        output.put_slice(part);
    }
}

/// Access units → RTP packets.
struct Packetiser {
    codec: Codec,
    ssrc: u32,
    /// Of the next packet; wraps.
    seq: u16,
    /// Packets sent; wraps.
    packets: u32,
    /// Payload bytes sent; wraps.
    octets: u32,
}

impl Packetiser {
    fn new(codec: Codec, ssrc: u32, seq: u16) -> Self {
        Self {
            codec,
            ssrc,
            seq,
            packets: 0,
            octets: 0,
        }
    }

    /// Appends the packets of one access unit, interleaved on `channel`.
    fn put_unit(&mut self, annex_b: &[u8], timestamp: u32, channel: u8, output: &mut Vec<u8>) {
        let header_len = match self.codec {
            Codec::H264 => 1,
            Codec::H265 => 2,
        };
        let mut nals = annex_b_units(annex_b)
            .filter(|nal| nal.len() > header_len)
            .peekable();
        while let Some(nal) = nals.next() {
            let is_last = nals.peek().is_none();
            if nal.len() <= MAX_PAYLOAD_BYTES {
                self.put_packet(&[nal], is_last, timestamp, channel, output);
                continue;
            }
            let (header, payload) = nal.split_at(header_len);
            let mut pieces = payload
                .chunks(MAX_PAYLOAD_BYTES - header_len - 1)
                .peekable();
            let mut start = 0x80;
            while let Some(piece) = pieces.next() {
                let end = if pieces.peek().is_none() { 0x40 } else { 0 };
                let marker = is_last && end != 0;
                match self.codec {
                    // FU-A: type 28 in place of the unit's, which moves into the FU header.
                    Codec::H264 => {
                        let fu = [header[0] & 0xe0 | 0x1c, start | end | header[0] & 0x1f];
                        self.put_packet(&[&fu, piece], marker, timestamp, channel, output);
                    }
                    // FU: likewise with type 49.
                    Codec::H265 => {
                        let nal_type = header[0] >> 1 & 0x3f;
                        let fu = [
                            header[0] & 0x81 | 49 << 1,
                            header[1],
                            start | end | nal_type,
                        ];
                        self.put_packet(&[&fu, piece], marker, timestamp, channel, output);
                    }
                }
                start = 0;
            }
        }
    }

    fn put_packet(
        &mut self,
        payload: &[&[u8]],
        marker: bool,
        timestamp: u32,
        channel: u8,
        output: &mut Vec<u8>,
    ) {
        let mut header = [0; 12];
        let mut h = &mut header[..];
        h.put_u8(2 << 6);
        h.put_u8(u8::from(marker) << 7 | PAYLOAD_TYPE);
        h.put_u16(self.seq);
        h.put_u32(timestamp);
        h.put_u32(self.ssrc);
        let octets: usize = payload.iter().map(|p| p.len()).sum();
        self.seq = self.seq.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(octets as u32);
        match payload {
            [one] => put_interleaved(channel, &[&header, one], output),
            [fu, piece] => put_interleaved(channel, &[&header, fu, piece], output),
            _ => unreachable!("a payload is a unit, or a fragment behind its header"),
        }
    }

    /// Sender report with the source description that every compound packet needs (RFC 3550
    /// section 6.1). `timestamp` is media time at `now`.
    fn sender_report(&self, now: UtcMicros, timestamp: u32) -> Vec<u8> {
        /// From 1900, where NTP begins, to 1970, in seconds.
        const NTP_OF_1970_S: u64 = 2_208_988_800;
        let us = u64::try_from(now.0).unwrap_or(0);
        let (s, fraction_us) = (us / 1_000_000, us % 1_000_000);
        let cname = b"mingchu";
        let mut p = Vec::new();
        p.put_u8(2 << 6);
        p.put_u8(200); // SR
        p.put_u16(6); // words behind this one
        p.put_u32(self.ssrc);
        // NTP seconds wrap in 2036.
        p.put_u32((s + NTP_OF_1970_S) as u32);
        p.put_u32(((fraction_us << 32) / 1_000_000) as u32);
        p.put_u32(timestamp);
        p.put_u32(self.packets);
        p.put_u32(self.octets);
        p.put_u8(2 << 6 | 1); // one chunk
        p.put_u8(202); // SDES
        p.put_u16(4);
        p.put_u32(self.ssrc);
        p.put_u8(1); // CNAME
        p.put_u8(cname.len() as u8);
        p.put_slice(cname);
        p.put_bytes(0, 3); // end of items, filled up to a word
        p
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::DuplexStream;

    const START_CODE: [u8; 4] = [0, 0, 0, 1];

    fn annex_b(nals: &[Vec<u8>]) -> Bytes {
        let mut data = Vec::new();
        for nal in nals {
            data.extend_from_slice(&START_CODE);
            data.extend_from_slice(nal);
        }
        data.into()
    }

    /// One second of three pictures, the second too large for a packet.
    fn clip() -> Arc<Clip> {
        let sets = [vec![0x67, 0x64, 0, 0x1f, 9], vec![0x68, 8, 7]];
        let key = annex_b(&[&sets[..], &[vec![0x65; 300]]].concat());
        let unit = |data, pts_90k, is_key| ClipUnit {
            data,
            pts_90k,
            is_key,
        };
        let units = vec![
            unit(key, 900, true),
            unit(annex_b(&[vec![0x41; 5000]]), 30_900, false),
            unit(annex_b(&[vec![0x41; 20]]), 60_900, false),
        ];
        Arc::new(Clip {
            codec: Codec::H264,
            units,
            duration_90k: 90_000,
        })
    }

    /// A client's end of a connection to the server.
    struct Client {
        socket: DuplexStream,
        input: BytesMut,
        cseq: u32,
    }

    impl Client {
        /// Connected to a server of its own over a pipe of `buffer` bytes.
        fn connect(buffer: usize) -> (Self, tokio::task::JoinHandle<io::Result<()>>) {
            let (socket, server) = tokio::io::duplex(buffer);
            let task = tokio::spawn(async move {
                let stream = Stream::new(clip(), Reports::default()).unwrap();
                converse(server, &stream, CancellationToken::new()).await
            });
            let (input, cseq) = (BytesMut::new(), 0);
            (
                Self {
                    socket,
                    input,
                    cseq,
                },
                task,
            )
        }

        async fn message(&mut self) -> Message<Vec<u8>> {
            loop {
                match Message::parse(&self.input[..]) {
                    Ok((message, used)) => {
                        self.input.advance(used);
                        return message;
                    }
                    Err(ParseError::Incomplete(_)) => {
                        let read = self.socket.read_buf(&mut self.input).await.unwrap();
                        assert_ne!(read, 0, "the server hung up");
                    }
                    Err(ParseError::Error) => panic!("the server sent no RTSP"),
                }
            }
        }

        async fn ask(&mut self, line: &str, more: &str) -> Response<Vec<u8>> {
            self.cseq += 1;
            let request = format!("{line} RTSP/1.0\r\nCSeq: {}\r\n{more}\r\n", self.cseq);
            self.socket.write_all(request.as_bytes()).await.unwrap();
            loop {
                if let Message::Response(r) = self.message().await {
                    let cseq = r.header(&headers::CSEQ).map(|v| v.as_str().to_owned());
                    assert_eq!(cseq, Some(self.cseq.to_string()));
                    return r;
                }
            }
        }

        /// The next packet, with its channel.
        async fn packet(&mut self) -> (u8, Vec<u8>) {
            match self.message().await {
                Message::Data(data) => (data.channel_id(), data.into_body()),
                other => panic!("a packet was due, not {other:?}"),
            }
        }

        /// Sets up and plays; returns the answer to PLAY.
        async fn play(&mut self) -> Response<Vec<u8>> {
            let setup = "Transport: RTP/AVP/TCP;unicast;interleaved=4-5\r\n";
            let answer = self.ask("SETUP rtsp://demo/wok/trackID=0", setup).await;
            let session = answer.header(&headers::SESSION).unwrap().as_str();
            let id = session.split(';').next().unwrap();
            self.ask("PLAY rtsp://demo/wok/", &format!("Session: {id}\r\n"))
                .await
        }
    }

    fn rtp(packet: &[u8]) -> (bool, u16, u32, &[u8]) {
        let (seq, time) = (&packet[2..4], &packet[4..8]);
        (
            packet[1] & 0x80 != 0,
            u16::from_be_bytes(seq.try_into().unwrap()),
            u32::from_be_bytes(time.try_into().unwrap()),
            &packet[12..],
        )
    }

    #[test]
    fn base64_follows_the_standard() {
        // RFC 4648 section 10.
        for (data, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }

    #[test]
    fn the_description_carries_the_parameter_sets() {
        let sdp = Stream::new(clip(), Reports::default()).unwrap().sdp;
        assert!(sdp.contains("a=rtpmap:96 H264/90000\r\n"), "{sdp}");
        assert!(
            sdp.contains("profile-level-id=64001F;sprop-parameter-sets=Z2QAHwk=,aAgH\r\n"),
            "{sdp}"
        );
        let key = annex_b(&[
            vec![64, 1, 1],
            vec![66, 1, 2],
            vec![68, 1, 3],
            vec![38, 1, 4],
        ]);
        let sdp = describe(Codec::H265, &key).unwrap();
        assert!(
            sdp.contains("sprop-vps=QAEB;sprop-sps=QgEC;sprop-pps=RAED\r\n"),
            "{sdp}"
        );
    }

    #[test]
    fn a_clip_that_cannot_be_played_is_refused() {
        let refused = |change: fn(&mut Clip)| {
            let mut c = (*clip()).clone();
            change(&mut c);
            Stream::new(Arc::new(c), Reports::default()).is_err()
        };
        assert!(refused(|c| c.units.clear()));
        assert!(refused(|c| c.units[0].is_key = false));
        assert!(refused(|c| c.units[0].data = annex_b(&[vec![0x65; 9]])));
        assert!(refused(|c| c.duration_90k = 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_describes_sets_up_plays_and_tears_down() {
        let (mut c, _server) = Client::connect(1 << 16);
        let options = c.ask("OPTIONS *", "").await;
        let public = options.header(&headers::PUBLIC).unwrap().as_str();
        assert!(public.contains("GET_PARAMETER"), "{public}");

        let described = c.ask("DESCRIBE rtsp://demo/wok", "").await;
        let base = described.header(&headers::CONTENT_BASE).unwrap();
        assert_eq!(base.as_str(), "rtsp://demo/wok/");

        let early = c.ask("PLAY rtsp://demo/wok", "").await;
        assert_eq!(early.status(), StatusCode::MethodNotValidInThisState);
        let udp = "Transport: RTP/AVP;unicast;client_port=9000-9001\r\n";
        let udp = c.ask("SETUP rtsp://demo/wok/trackID=0", udp).await;
        assert_eq!(udp.status(), StatusCode::UnsupportedTransport);
        let other = c.ask("PLAY rtsp://demo/wok", "Session: 1\r\n").await;
        assert_eq!(other.status(), StatusCode::SessionNotFound);

        let played = c.play().await;
        assert_eq!(played.status(), StatusCode::Ok);
        let info = played
            .header(&headers::RTP_INFO)
            .unwrap()
            .as_str()
            .to_owned();
        let (channel, report) = c.packet().await;
        assert_eq!((channel, report[1], report.len() % 4), (5, 200, 0));
        let (channel, first) = c.packet().await;
        let (marker, seq, time, sps) = rtp(&first);
        assert_eq!((channel, marker, sps[0]), (4, false, 0x67));
        assert_eq!(
            info,
            format!("url=rtsp://demo/wok/trackID=0;seq={seq};rtptime={time}")
        );

        let beat = c.ask("GET_PARAMETER rtsp://demo/wok/", "").await;
        assert_eq!(beat.status(), StatusCode::Ok);
        let end = c.ask("TEARDOWN rtsp://demo/wok/", "").await;
        assert_eq!(end.status(), StatusCode::Ok);
        let unknown = c.ask("RECORD rtsp://demo/wok/", "").await;
        assert_eq!(unknown.status(), StatusCode::NotImplemented);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clip_runs_on_in_real_time_across_its_end() {
        let (mut c, _server) = Client::connect(1 << 16);
        c.play().await;
        let begun = Instant::now();
        let (mut first, mut last_seq, mut ends) = (None, None, Vec::new());
        while ends.len() < 7 {
            let (channel, packet) = c.packet().await;
            if channel == 5 {
                continue;
            }
            let (marker, seq, time, _) = rtp(&packet);
            let origin = *first.get_or_insert(time);
            assert!(last_seq.is_none_or(|s: u16| seq == s.wrapping_add(1)));
            last_seq = Some(seq);
            if marker {
                ends.push((time.wrapping_sub(origin), begun.elapsed().as_millis() / 100));
            }
        }
        let expected = [
            (0, 0),
            (30_000, 3),
            (60_000, 6),
            (90_000, 10),
            (120_000, 13),
            (150_000, 16),
            (180_000, 20),
        ];
        assert_eq!(ends, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_disconnected() {
        let (mut c, server) = Client::connect(1024);
        c.play().await;
        let ended = timeout(Duration::from_secs(60), server).await;
        let err = ended.unwrap().unwrap().unwrap_err();
        assert_eq!(err.to_string(), "too slow");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_disconnected() {
        let (_client, server) = Client::connect(1024);
        let ended = timeout(IDLE + Duration::from_secs(1), server).await;
        ended.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_request_is_not_kept() {
        let (mut c, server) = Client::connect(1 << 17);
        let request = "DESCRIBE rtsp://demo/ RTSP/1.0\r\nContent-Length: 99999999999\r\n\r\n";
        c.socket.write_all(request.as_bytes()).await.unwrap();
        let filler = vec![b'x'; MAX_REQUEST_BYTES];
        c.socket.write_all(&filler).await.unwrap();
        let ended = timeout(Duration::from_secs(1), server).await;
        ended.unwrap().unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn the_server_stops_when_told_with_clients_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, clip(), Reports::default(), stop.clone()));
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            .await
            .unwrap();
        let mut begin = [0; 12];
        client.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"RTSP/1.0 200");
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    /// Puts the NAL units of one access unit together again.
    fn depacketise(codec: Codec, mut stream: &[u8]) -> (Vec<Vec<u8>>, Vec<bool>, Vec<u16>) {
        let (mut nals, mut markers, mut seqs) = (Vec::<Vec<u8>>::new(), Vec::new(), Vec::new());
        while !stream.is_empty() {
            assert_eq!(stream[..2], [b'$', 7]);
            let len = usize::from(u16::from_be_bytes([stream[2], stream[3]]));
            let (packet, rest) = stream[4..].split_at(len);
            stream = rest;
            let (marker, seq, _, payload) = rtp(packet);
            assert!(payload.len() <= MAX_PAYLOAD_BYTES);
            markers.push(marker);
            seqs.push(seq);
            let (fu, header, piece) = match codec {
                Codec::H264 if payload[0] & 0x1f == 28 => {
                    let header = vec![payload[0] & 0xe0 | payload[1] & 0x1f];
                    (payload[1], header, &payload[2..])
                }
                Codec::H265 if payload[0] >> 1 & 0x3f == 49 => {
                    let first = payload[0] & 0x81 | (payload[2] & 0x3f) << 1;
                    (payload[2], vec![first, payload[1]], &payload[3..])
                }
                _ => {
                    nals.push(payload.to_vec());
                    continue;
                }
            };
            if fu & 0x80 != 0 {
                nals.push(header);
            }
            nals.last_mut().unwrap().extend_from_slice(piece);
        }
        (nals, markers, seqs)
    }

    proptest! {
        #[test]
        fn packets_hold_the_access_unit(
            sizes in prop::collection::vec(
                prop_oneof![3usize..40, 1390usize..1410, 2780usize..2810, 5000usize..9000], 1..6,
            ),
            h265 in any::<bool>(),
            seq in any::<u16>(),
        ) {
            let codec = if h265 { Codec::H265 } else { Codec::H264 };
            let nals: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, &size)| {
                let mut nal = vec![if h265 { 2 } else { 0x41 }, 1];
                nal.extend((2..size).map(|b| (b * 7 + i) as u8 | 1));
                nal
            }).collect();
            let mut out = Vec::new();
            let mut p = Packetiser::new(codec, 1, seq);
            p.put_unit(&annex_b(&nals), 99, 7, &mut out);
            let (found, markers, seqs) = depacketise(codec, &out);
            prop_assert_eq!(found, nals);
            prop_assert_eq!(markers.iter().filter(|m| **m).count(), 1);
            prop_assert!(markers.last().unwrap());
            for (i, s) in seqs.iter().enumerate() {
                prop_assert_eq!(*s, seq.wrapping_add(i as u16));
            }
            prop_assert_eq!(p.packets as usize, seqs.len());
        }

        #[test]
        fn no_request_makes_it_panic(
            pieces in prop::collection::vec(prop_oneof![
                Just(b"SETUP rtsp://demo/a RTSP/1.0\r\n".to_vec()),
                Just(b"PLAY rtsp://demo/a RTSP/1.0\r\n".to_vec()),
                Just(b"Transport: RTP/AVP/TCP;interleaved=255\r\n".to_vec()),
                Just(b"Session: ;\r\n".to_vec()),
                Just(b"Content-Length: 18446744073709551615\r\n".to_vec()),
                Just(b"$\x01\x00\x02ab".to_vec()),
                Just(b"\r\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..30),
            ], 0..12),
        ) {
            let stream = Stream::new(clip(), Reports::default()).unwrap();
            let (mut input, mut output) = (BytesMut::from(&pieces.concat()[..]), Vec::new());
            let mut session = Session::new();
            while let Some(request) = take_request(&mut input, &mut output) {
                session.answer(&request, &stream).write(&mut output).unwrap();
            }
        }
    }
}
