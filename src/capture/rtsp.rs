//! RTSP cameras, by way of retina: the only file that names it.
//!
//! A camera is hostile until shown otherwise, and retina trusts it: it has no time-outs on connect,
//! describe, setup and play, its keep-alive succeeds with a camera that sends nothing, and it keeps
//! whatever it cannot make a message or a picture of, without a limit. So each session runs on a thread of
//! its own, on a small runtime that ends with it, and from there:
//! * every step has a limit in time, and so has the wait for a picture ([`RtspSource`], from outside: a
//!   thread that is stuck is given up like a camera that is silent; reports without pictures do not count);
//! * what the thread holds may not grow by more than [`MOST_HELD`] from one picture to the next,
//!   teardown included ([`Meter`]); beyond, the session is cut off without a word;
//! * whatever retina has started in the background ends with the runtime.
//!
//! Each session is in a session group of its own, known by the camera's host: old live555 servers keep
//! sending on a closed session, and a new one must wait for that to end.
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use retina::client::{
    Credentials, Demuxed, PlayOptions, Session, SessionGroup, SessionOptions, SetupOptions,
    TcpTransportOptions, UdpTransportOptions,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use url::Url;

use super::config::Transport;
use super::nal;
use super::source::{CaptureError, Source, SourceOpener, SourceUnit};
use super::unit::{Codec, StreamInfo};
use crate::base::geometry::SizePx;
use crate::base::heap::held_by_thread;
use crate::base::secret::Secret;
use crate::base::time::{Pts90k, SharedClock};

/// Longest wait for the answer to a teardown; after that the camera's own session time-out ends it.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(2);
/// How long a teardown may go on when nobody waits for it: RFC 2326's session time-out, after which
/// the camera has forgotten the session by itself.
const TEARDOWN_MOST: Duration = Duration::from_secs(60);
/// How often the teardown of a session is looked at, while somebody waits for it and afterwards.
const TEARDOWN_LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// What a session may take from one picture to the next. retina holds a picture up to three times while
/// it puts it together, and 4K key pictures have a few megabytes.
const MOST_HELD: i64 = 32 << 20;
/// Longest wait for what a host still sends on sessions that are over.
const STALE_LIMIT: Duration = Duration::from_secs(2);
/// Describe, setup and play, each of which may ask twice when a login is needed.
const STEPS: u32 = 4;
/// Reads from the socket until the meter is looked at; each may take what the socket holds.
const READS_AT_ONCE: u32 = 8;
/// Of tokio's cooperative budget, which each read costs one of.
const BUDGET: u32 = 128;
/// Pictures between a session's thread and the camera's task, which always takes them at once.
const PICTURES: usize = 8;

/// The session groups of each host. One per site; clones share it.
#[derive(Clone, Default)]
pub struct RtspHosts(Arc<Mutex<HashMap<String, Vec<Weak<SessionGroup>>>>>);

impl std::fmt::Debug for RtspHosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RtspHosts")
    }
}

impl RtspHosts {
    /// A group for a new session, and those of the host's other sessions, some of which are over.
    fn join(&self, url: &Url) -> (Arc<SessionGroup>, Vec<Weak<SessionGroup>>) {
        let host = format!(
            "{}:{}",
            url.host_str().unwrap_or_default(),
            url.port().unwrap_or(554)
        );
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = all.entry(host.clone()).or_default();
        groups.retain(|g| g.strong_count() > 0);
        let others = groups.clone();
        let group = Arc::new(SessionGroup::default().named(host));
        groups.push(Arc::downgrade(&group));
        (group, others)
    }
}

/// Opens sessions with one camera.
#[derive(Clone, Debug)]
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

/// A playing session, as the camera's task sees it. Dropping it ends the session.
struct RtspSource {
    pictures: mpsc::Receiver<Result<Heard, CaptureError>>,
    info: StreamInfo,
    clock_ahead_us: Option<i64>,
    silence: Duration,
    torn_down: oneshot::Receiver<()>,
}

/// A picture with what the camera has said beside it.
struct Heard {
    unit: SourceUnit,
    /// With key units only: parameter sets come with them.
    info: Option<StreamInfo>,
    clock_ahead_us: Option<i64>,
}

/// A playing session, on its thread.
struct Playing {
    demuxed: Demuxed,
    stream: usize,
    codec: Codec,
    clock: SharedClock,
    clock_ahead_us: Option<i64>,
}

/// What the session's thread holds, measured from the newest picture on.
struct Meter {
    mark: Cell<i64>,
}

impl Meter {
    fn new() -> Self {
        Self {
            mark: Cell::new(held_by_thread()),
        }
    }

    fn reset(&self) {
        self.mark.set(held_by_thread());
    }

    fn check(&self) -> Result<(), CaptureError> {
        if held_by_thread() - self.mark.get() > MOST_HELD {
            return Err(CaptureError::Flood(MOST_HELD as u64));
        }
        Ok(())
    }

    /// Does `work`, unless it comes to hold too much.
    async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, CaptureError>>,
    ) -> Result<T, CaptureError> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            spend_budget(context);
            match work.as_mut().poll(context) {
                Poll::Pending => match self.check() {
                    Ok(()) => Poll::Pending,
                    Err(flood) => Poll::Ready(Err(flood)),
                },
                done @ Poll::Ready(_) => done,
            }
        })
        .await
    }
}

/// Leaves the task few reads before it has to come back: without this one turn could read a hundred
/// times what the socket holds before anyone looks.
fn spend_budget(context: &mut Context<'_>) {
    for _ in READS_AT_ONCE..BUDGET {
        let mut one = std::pin::pin!(tokio::task::consume_budget());
        if !tokio::task::coop::has_budget_remaining() || one.as_mut().poll(context).is_pending() {
            return;
        }
    }
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
        Some(status @ (453 | 503)) => CaptureError::Busy { status },
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
    /// Waits for sessions of the host that are over and that it may still send on. Over UDP they are in
    /// nobody's way.
    async fn await_stale(&self, others: Vec<Weak<SessionGroup>>) {
        if self.transport == Transport::Udp {
            return;
        }
        let wait = async {
            for group in others.iter().filter_map(Weak::upgrade) {
                let stale = group.stale_sessions();
                if stale.num_sessions > 0 {
                    tracing::debug!(
                        sessions = stale.num_sessions,
                        "waiting for stale rtsp sessions to end"
                    );
                    group.await_stale_sessions(&stale).await;
                }
            }
        };
        // Past the limit we try all the same: the camera may have forgotten them already.
        let waited = timeout(STALE_LIMIT, wait).await;
        tracing::trace!(ended = waited.is_ok(), "waited for stale rtsp sessions");
    }

    async fn open_session(&self, group: &Arc<SessionGroup>) -> Result<Playing, CaptureError> {
        let options = || {
            let creds = self.login.as_ref().map(|(username, password)| Credentials {
                username: username.clone(),
                password: password.expose().to_owned(),
            });
            SessionOptions::default()
                .creds(creds)
                .user_agent(concat!("mingchu/", env!("CARGO_PKG_VERSION")).to_owned())
                .session_group(group.clone())
        };
        let limit = self.step_timeout;
        let describe = || Session::describe(self.url.clone(), options());
        // A camera that hangs and comes back has forgotten what it was asked: ask it anew at half-time,
        // and leave one that is only slow its whole time.
        let asked_anew = async {
            tokio::time::sleep(limit / 2).await;
            describe().await
        };
        let first_answer = async {
            tokio::select! {
                described = describe() => described,
                described = asked_anew => described,
            }
        };
        let mut session = step("describe", limit, first_answer).await?;

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
        Ok(Playing {
            demuxed,
            stream,
            codec,
            clock: self.clock.clone(),
            clock_ahead_us: None,
        })
    }

    /// A session from its first request to its teardown, on a thread of its own.
    async fn serve(self, mut opened: oneshot::Sender<Result<RtspSource, CaptureError>>) {
        let meter = Meter::new();
        let (group, others) = self.hosts.join(&self.url);
        let open = async {
            self.await_stale(others).await;
            // Boxed: it is large, and here once a session.
            meter.bound(Box::pin(self.open_session(&group))).await
        };
        let playing = tokio::select! {
            biased;
            () = opened.closed() => return,
            playing = open => playing,
        };
        let mut playing = match playing {
            Ok(playing) => playing,
            Err(e) => {
                // Whoever asked may have been told to stop meanwhile.
                drop(opened.send(Err(e)));
                return;
            }
        };
        let (out, pictures) = mpsc::channel(PICTURES);
        let (gone, torn_down) = oneshot::channel();
        let source = RtspSource {
            pictures,
            info: playing.info(),
            clock_ahead_us: None,
            silence: self.silence,
            torn_down,
        };
        let flooded = opened.send(Ok(source)).is_ok() && playing.tell(&out, &meter).await;
        drop(out);
        if !flooded {
            meter.reset();
            drop(playing);
            tear_down(&group, &meter, gone).await;
        }
    }
}

/// Waits until the camera has let go of the session, or sends what it should not.
async fn tear_down(group: &SessionGroup, meter: &Meter, gone: oneshot::Sender<()>) {
    let mut look = tokio::time::interval(TEARDOWN_LOOK.0);
    let mut answered = std::pin::pin!(timeout(TEARDOWN_LIMIT, group.await_teardown()));
    let first = loop {
        tokio::select! {
            biased;
            _ = look.tick() => if meter.check().is_err() { return },
            first = &mut answered => break first,
        }
    };
    match first {
        Ok(Ok(())) => tracing::debug!("rtsp session torn down"),
        Ok(Err(e)) => tracing::debug!(err = %first_line(&e), "teardown was not answered"),
        Err(_) => tracing::debug!("teardown took too long"),
    }
    // Nobody waits for more than that.
    drop(gone);
    let mut look = tokio::time::interval(TEARDOWN_LOOK.1);
    let stale = group.stale_sessions();
    let mut ended = std::pin::pin!(timeout(TEARDOWN_MOST, group.await_stale_sessions(&stale)));
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => if meter.check().is_err() { return },
            _ = &mut ended => return,
        }
    }
}

impl SourceOpener for RtspOpener {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Source>, CaptureError>> {
        Box::pin(async move {
            let (opened, session) = oneshot::channel();
            let opener = self.clone();
            let thread = std::thread::Builder::new().name("rtsp".to_owned());
            let started = thread.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        runtime.block_on(opener.serve(opened));
                        // A name that is still being looked up is waited for by nobody.
                        runtime.shutdown_background();
                    }
                    Err(e) => drop(opened.send(Err(no_thread(&e)))),
                }
            });
            started.map_err(|e| no_thread(&e))?;
            // The steps have limits of their own; this one is for a thread that is stuck.
            let limit = self.step_timeout * STEPS + STALE_LIMIT;
            match timeout(limit, session).await {
                Ok(Ok(session)) => Ok(Box::new(session?) as Box<dyn Source>),
                // It told where in the log.
                Ok(Err(_)) => Err(CaptureError::Panicked),
                Err(_) => Err(CaptureError::Timeout {
                    step: "the session's begin",
                    limit,
                }),
            }
        })
    }
}

fn no_thread(e: &std::io::Error) -> CaptureError {
    CaptureError::Unreachable(format!("no thread for its session: {e}"))
}

impl Playing {
    /// Hands pictures on until nobody wants them or there are no more. Whether that is because the
    /// camera sends too much.
    async fn tell(
        &mut self,
        out: &mpsc::Sender<Result<Heard, CaptureError>>,
        meter: &Meter,
    ) -> bool {
        loop {
            let heard = tokio::select! {
                biased;
                () = out.closed() => return false,
                heard = meter.bound(self.next_unit()) => heard,
            };
            meter.reset();
            let flooded = matches!(heard, Err(CaptureError::Flood(_)));
            let ended = heard.is_err();
            if out.send(heard).await.is_err() || ended {
                return flooded;
            }
        }
    }

    async fn next_unit(&mut self) -> Result<Heard, CaptureError> {
        loop {
            let item = match self.demuxed.next().await {
                None => return Err(CaptureError::Ended),
                Some(Err(e)) => return Err(capture_error(&e)),
                Some(Ok(item)) => item,
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
            let unit = SourceUnit {
                pts: Pts90k(pts.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64),
                received: self.clock.mono(),
                received_utc: self.clock.utc(),
                is_key: kind.is_key,
                is_disposable: kind.is_disposable,
                packets_lost,
                data,
            };
            return Ok(Heard {
                info: kind.is_key.then(|| self.info()),
                unit,
                clock_ahead_us: self.clock_ahead_us,
            });
        }
    }

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
}

impl Source for RtspSource {
    fn info(&self) -> StreamInfo {
        self.info.clone()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<SourceUnit>, CaptureError>> {
        Box::pin(async move {
            let heard = match timeout(self.silence, self.pictures.recv()).await {
                Err(_) => return Err(CaptureError::Silent(self.silence)),
                // The thread says why it ends, unless it could not.
                Ok(None) => return Err(CaptureError::Panicked),
                Ok(Some(heard)) => heard?,
            };
            if let Some(info) = heard.info {
                self.info = info;
            }
            self.clock_ahead_us = heard.clock_ahead_us;
            Ok(Some(heard.unit))
        })
    }

    fn clock_ahead_us(&self) -> Option<i64> {
        self.clock_ahead_us
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self {
            pictures,
            torn_down,
            ..
        } = *self;
        drop(pictures);
        Box::pin(async move {
            // A thread that is stuck is left behind.
            drop(timeout(TEARDOWN_LIMIT, torn_down).await);
        })
    }
}
