//! RTSP cameras, by way of retina: the only file that names it.
//!
//! retina has no time-outs on connect, describe, setup and play, and its keep-alive succeeds with a
//! camera that sends nothing; so every step and every wait for a picture has a limit here. Sessions
//! of one host share a session group, because old live555 servers keep sending on a closed session
//! and a new one must wait for that to end.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use retina::client::{
    Credentials, Demuxed, PlayOptions, Session, SessionGroup, SessionOptions, SetupOptions,
    TcpTransportOptions, UdpTransportOptions,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef};
use tokio::time::timeout;
use url::Url;

use super::config::Transport;
use super::nal;
use super::source::{CaptureError, Source, SourceOpener, SourceUnit};
use super::unit::{Codec, StreamInfo};
use crate::base::geometry::SizePx;
use crate::base::secret::Secret;
use crate::base::time::{Pts90k, SharedClock};

/// Longest wait for the answer to a teardown; after that the camera's own session time-out ends it.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Session groups by host. One per site; clones share it.
#[derive(Clone, Default)]
pub struct RtspHosts(Arc<Mutex<HashMap<String, Arc<SessionGroup>>>>);

impl std::fmt::Debug for RtspHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RtspHosts")
    }
}

impl RtspHosts {
    fn group(&self, url: &Url) -> Arc<SessionGroup> {
        let host = format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(554)
        );
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(host.clone())
            .or_insert_with(|| Arc::new(SessionGroup::default().named(host)))
            .clone()
    }
}

/// Opens sessions with one camera.
#[derive(Debug)]
pub struct RtspOpener {
    /// Without credentials.
    pub url: Url,
    /// User name and password, if the camera asks. Digest is used where it is offered.
    pub login: Option<(String, Secret)>,
    /// How RTP comes.
    pub transport: Transport,
    /// Limit for each of describe (with connecting), setup and play.
    pub step_timeout: Duration,
    /// Longest time without a picture.
    pub silence: Duration,
    /// The site's session groups.
    pub hosts: RtspHosts,
    /// The site's clock.
    pub clock: SharedClock,
}

/// A playing session.
struct RtspSource {
    demuxed: Demuxed,
    stream: usize,
    codec: Codec,
    group: Arc<SessionGroup>,
    silence: Duration,
    clock: SharedClock,
    clock_ahead_us: Option<i64>,
}

/// Microseconds since 1970 of an NTP timestamp: 32.32 fixed point since 1900 (RFC 5905 section 6).
fn ntp_to_utc_us(ntp: u64) -> i64 {
    const SECONDS_1900_TO_1970: i64 = 2_208_988_800;
    let seconds = (ntp >> 32) as i64 - SECONDS_1900_TO_1970;
    let micros = ((ntp & 0xffff_ffff) * 1_000_000) >> 32;
    seconds * 1_000_000 + micros as i64
}

/// First line of retina's message: the rest is packet positions, for its debug log only.
fn first_line(e: &retina::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

fn capture_error(e: &retina::Error) -> CaptureError {
    use std::error::Error as _;
    match e.status_code() {
        Some(status @ (401 | 403)) => CaptureError::Unauthorised { status },
        Some(404) => CaptureError::NoVideo(first_line(e)),
        // No response: the connection itself failed, which carries an I/O error.
        None if e.source().is_some() || first_line(e).contains("connect") => {
            CaptureError::Unreachable(first_line(e))
        }
        // retina answers a 401 without a usable login with a message of its own.
        _ if first_line(e).contains("uthenticat") => CaptureError::Unauthorised { status: 401 },
        _ => CaptureError::Protocol(first_line(e)),
    }
}

async fn step<T>(
    step: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, retina::Error>>,
) -> Result<T, CaptureError> {
    match timeout(limit, work).await {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) => Err(capture_error(&e)),
        Err(_) => Err(CaptureError::Timeout { step, limit }),
    }
}

impl RtspOpener {
    async fn open_session(&self) -> Result<Box<dyn Source>, CaptureError> {
        let group = self.hosts.group(&self.url);
        let stale = group.stale_sessions();
        if stale.num_sessions > 0 {
            tracing::info!(
                sessions = stale.num_sessions,
                "waiting for stale rtsp sessions to end"
            );
            // Past the limit we try all the same: the camera may have forgotten them already.
            let waited = timeout(self.step_timeout, group.await_stale_sessions(&stale)).await;
            tracing::debug!(ended = waited.is_ok(), "waited for stale rtsp sessions");
        }
        let creds = self.login.as_ref().map(|(username, password)| Credentials {
            username: username.clone(),
            password: password.expose().to_owned(),
        });
        let options = SessionOptions::default()
            .creds(creds)
            .user_agent(concat!("mingchu/", env!("CARGO_PKG_VERSION")).to_owned())
            .session_group(group.clone());
        let limit = self.step_timeout;
        let describe = Session::describe(self.url.clone(), options);
        let mut session = step("describe", limit, describe).await?;

        let codec_of = |name: &str| match name {
            "h264" => Some(Codec::H264),
            "h265" => Some(Codec::H265),
            _ => None,
        };
        let offered = session.streams().iter();
        let video = offered.enumerate().find_map(|(i, s)| {
            (s.media() == "video")
                .then(|| codec_of(s.encoding_name()))
                .flatten()
                .map(|c| (i, c))
        });
        let Some((stream, codec)) = video else {
            let names = session
                .streams()
                .iter()
                .map(|s| format!("{}/{}", s.media(), s.encoding_name()));
            let names: Vec<_> = names.collect();
            return Err(CaptureError::NoVideo(format!(
                "the camera offers {}",
                names.join(", ")
            )));
        };
        let transport = match self.transport {
            Transport::Tcp => retina::client::Transport::Tcp(TcpTransportOptions::default()),
            Transport::Udp => retina::client::Transport::Udp(UdpTransportOptions::default()),
        };
        let setup = SetupOptions::default()
            .transport(transport)
            .frame_format(FrameFormat::SIMPLE);
        step("setup", limit, session.setup(stream, setup)).await?;
        let playing = step("play", limit, session.play(PlayOptions::default())).await?;
        let demuxed = playing.demuxed().map_err(|e| capture_error(&e))?;
        let (silence, clock) = (self.silence, self.clock.clone());
        Ok(Box::new(RtspSource {
            demuxed,
            stream,
            codec,
            group,
            silence,
            clock,
            clock_ahead_us: None,
        }))
    }
}

impl SourceOpener for RtspOpener {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Source>, CaptureError>> {
        Box::pin(self.open_session())
    }
}

impl RtspSource {
    async fn next_unit(&mut self) -> Result<Option<SourceUnit>, CaptureError> {
        loop {
            let item = match timeout(self.silence, self.demuxed.next()).await {
                Err(_) => return Err(CaptureError::Silent(self.silence)),
                Ok(None) => return Err(CaptureError::Ended),
                Ok(Some(Err(e))) => return Err(capture_error(&e)),
                Ok(Some(Ok(item))) => item,
            };
            let frame = match item {
                CodecItem::VideoFrame(frame) => frame,
                CodecItem::Rtcp(packets) => {
                    let reports = packets
                        .pkts()
                        .filter_map(|p| p.as_sender_report().ok().flatten());
                    if let Some(report) = reports.last() {
                        let camera = ntp_to_utc_us(report.ntp_timestamp().0);
                        // RFC 3550 section 6.4.1: a sender without a wall clock sends 0, or the time
                        // since it began. Both are before 1970.
                        if camera >= 0 {
                            self.clock_ahead_us = Some(camera - self.clock.utc().0);
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            if frame.stream_id() != self.stream {
                continue;
            }
            let t = frame.timestamp();
            // Wide arithmetic: a camera may claim any RTP timestamp.
            let pts = i128::from(t.elapsed()) * 90_000 / i128::from(t.clock_rate().get());
            let packets_lost = frame.loss();
            let data = bytes::Bytes::from(frame.into_data());
            let kind = nal::classify(self.codec, &data);
            return Ok(Some(SourceUnit {
                pts: Pts90k(pts.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64),
                received: self.clock.mono(),
                received_utc: self.clock.utc(),
                is_key: kind.is_key,
                is_disposable: kind.is_disposable,
                packets_lost,
                data,
            }));
        }
    }
}

impl Source for RtspSource {
    fn info(&self) -> StreamInfo {
        let size = match self.demuxed.streams()[self.stream].parameters() {
            Some(ParametersRef::Video(v)) => {
                let (width_px, height_px) = v.pixel_dimensions();
                Some(SizePx {
                    width_px,
                    height_px,
                })
            }
            _ => None,
        };
        let tool = self.demuxed.tool().map(|t| (**t).to_owned());
        StreamInfo {
            codec: self.codec,
            size,
            tool,
        }
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<SourceUnit>, CaptureError>> {
        Box::pin(self.next_unit())
    }

    fn clock_ahead_us(&self) -> Option<i64> {
        self.clock_ahead_us
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self { demuxed, group, .. } = *self;
        drop(demuxed);
        Box::pin(async move {
            match timeout(TEARDOWN_LIMIT, group.await_teardown()).await {
                Ok(Ok(())) => tracing::debug!("rtsp session torn down"),
                Ok(Err(e)) => tracing::debug!(err = %first_line(&e), "teardown was not answered"),
                Err(_) => tracing::debug!("teardown took too long"),
            }
        })
    }
}
